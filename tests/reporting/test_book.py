"""What does the book gather from records and claims? All variants, each claim under the notebook that shows it."""

import math
from types import ModuleType

import pytest

from tipslib import experiments
from tipslib.errors import InvalidInput
from tipslib.profiles import get_profile
from tipslib.reporting import book
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.evidence import records_of
from tipslib.reporting.ledger import Entry, ledger_table


def test_records_of_all_variants_are_found(toy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    smoke = get_profile("smoke")
    assert records_of("toy", smoke) == []
    experiments.compute("toy", profile=smoke, number=2)
    assert [r.values["number"] for r in records_of("toy", smoke)] == [2]
    for overrides in toy.VARIANTS:
        experiments.compute("toy", profile=smoke, **overrides)
    records = records_of("toy", smoke)
    assert [r.values["number"] for r in records] == [1, 2, 3]
    assert caplog.text == ""

    records[1].path.write_bytes(records[1].path.read_bytes()[:100])
    assert [r.values["number"] for r in records_of("toy", smoke)] == [1, 3]
    assert f"{records[1].path}: not a whole record" in caplog.text


def test_pages_are_filled_with_the_profile_and_with_what_the_papers_print() -> None:
    smoke = get_profile("smoke")
    assert book._filled("{{ profile }}: {{ profile_summary }}", smoke) == f"smoke: {smoke.summary}"
    assert book._filled("Solved in {{ quoted tips-step1-seconds }} s.", smoke) == "Solved in 39 s."
    with pytest.raises(InvalidInput, match="no-such-number"):
        book._filled("{{ quoted no-such-number }}", smoke)


def test_claims_stand_under_their_page() -> None:
    def claim(id_: str, page: str) -> Claim:
        return Claim(id_, "progressive", "Sec. 1", "One is two", "x", "weights", ("smoke",), lambda records: found, page)

    found = Finding(Verdict.HOLDS, 1.0, None, 1, "yes")
    known = (claim("a", "layers"), claim("b", "exit_weights"), claim("c", "layers"))
    text = book._claims([Entry(c, found, "laptop") for c in known])
    assert text.count("profile laptop") == 3
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## [What exits do to layers](notebooks/layers.ipynb)",
        "## [Which weights](notebooks/exit_weights.ipynb)",
    ]
    assert 'href="notebooks/layers.html#c"' in text
    assert 'href="notebooks/exit_weights.html#b"' in text


def test_the_ledger_links_every_sentence_and_says_at_which_size() -> None:
    claim = Claim("a-b", "tips", "Fig. 1", "One is *two* & three", "x", "weights", ("laptop",), lambda records: found, "layers")
    found = Finding(Verdict.FAILS, 0.5, (0.25, math.inf), 1, "no")
    text = ledger_table([Entry(claim, found, "laptop"), Entry(claim, Finding(Verdict.NOT_RUN, None, None, 0, "no run"), None)]).html
    assert text.count('href="notebooks/layers.html#a-b"') == 2
    assert "One is <em>two</em> &amp; three" in text
    for word in ("does not hold", "not run", "laptop", "2 claims"):
        assert word in text
    # an interval without an end is none
    assert "inf" not in text
