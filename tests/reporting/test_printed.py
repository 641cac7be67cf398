"""Do readers see the published numbers as the papers print them?"""

from __future__ import annotations

import pytest

from tipslib.errors import InvalidInput
from tipslib.reporting.printed import as_printed
from tipslib.reporting.published import published, tables

ACCURACY = "{}: accuracy in % at each budget"


def test_accuracies_are_laid_out_as_in_the_paper() -> None:
    shown = as_printed("tips-table5")
    assert list(shown) == [ACCURACY.format(dataset) for dataset in ("CIFAR100", "Tiny-ImageNet", "ImageNet")]
    tiny = shown[ACCURACY.format("Tiny-ImageNet")]
    assert tiny.index.tolist() == ["US-Nets", "Joslim", "DS-Net", "TIPS"]
    assert tiny.columns.tolist() == ["130M", "190M", "220M", "250M", "270M", "300M"]
    assert tiny.loc["Joslim", "130M"] == "**44.9 ± 0.2**"
    assert tiny.loc["TIPS", "130M"] == "44.1 ± 0.4"
    (ofa,) = as_printed("tips-table6").values()
    assert ofa.loc["TIPS", "600M"] == "**74.7**"


def test_columns_that_say_the_same_everywhere_are_left_out() -> None:
    shown = as_printed("tips-table3")
    assert list(shown) == ["TIPS, Table 3"]
    assert shown["TIPS, Table 3"].columns.tolist() == ["method", "latency ms", "accuracy percent"]
    assert shown["TIPS, Table 3"].iloc[0].tolist() == ["Joslim", "176", "70.8"]
    (weights,) = as_printed("progressive-table1").values()
    assert weights.iloc[0].tolist() == ["0", "0", "0", "1", "0.6878", "–", "–"]


def test_quoted_numbers_come_with_unit_and_name() -> None:
    (text,) = as_printed("tips-text").values()
    numbers = dict(zip(published("tips-text")["id"], text["Number"], strict=True))
    assert numbers["tips-restart"] == "1e-05"
    assert numbers["tips-ofa-budget"] == "320,000,000 MACs"
    assert numbers["tips-b8-switch-reconfigure"] == "0.037 ms"
    assert text["Where it stands"].str.endswith("`").all()


def test_inconsistencies_are_parted_by_paper() -> None:
    tips, progressive = as_printed("inconsistencies").values()
    assert len(tips) + len(progressive) == len(published("inconsistencies"))
    assert tips["Where"].iloc[0].startswith("**Table 2")


@pytest.mark.parametrize("table", tables())
def test_every_cell_is_text(table: str) -> None:
    for frame in as_printed(table).values():
        assert frame.size > 0
        assert all(isinstance(cell, str) for cell in frame.to_numpy().ravel())


def test_unknown_table() -> None:
    with pytest.raises(InvalidInput, match="no published table"):
        as_printed("tips-table7")
