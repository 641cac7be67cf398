"""Records of larger profiles beside those of this one."""

from __future__ import annotations

import logging
from types import ModuleType

import pytest

from tipslib.errors import InvalidInput
from tipslib.experiments import compute
from tipslib.reporting.evidence import kept


def test_the_largest_profile_that_has_records_is_shown(toy: ModuleType) -> None:
    assert kept("toy", "smoke") == []
    compute("toy", profile="smoke", seeds=[0])
    assert kept("toy", "smoke") == []
    compute("toy", profile="laptop", seeds=[0], number=2)
    assert [r.run.profile for r in kept("toy", "smoke")] == ["laptop"]
    compute("toy", profile="gpu", seeds=[0, 1], number=3)
    assert [(r.run.profile, r.run.seed) for r in kept("toy", "smoke")] == [("gpu", 0), ("gpu", 1)]
    assert [r.run.profile for r in kept("toy", "laptop")] == ["gpu", "gpu"]
    assert kept("toy", "gpu") == []


def test_records_that_are_no_run_of_the_profile_are_not_shown(toy: ModuleType) -> None:
    compute("toy", profile="laptop", seeds=[0], number=77)
    assert kept("toy", "smoke") == []


def test_a_damaged_record_is_left_out_and_named(toy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    (record,) = compute("toy", profile="laptop", seeds=[0], number=2)
    record.path.write_text(record.path.read_text().replace('"mean"', '"MEAN"'))
    with caplog.at_level(logging.WARNING):
        assert kept("toy", "smoke") == []
    assert record.path.name in caplog.text


def test_what_there_is_not_is_refused(toy: ModuleType) -> None:
    with pytest.raises(InvalidInput, match="no profile 'tiny'"):
        kept("toy", "tiny")
