"""Records of larger profiles beside those of this one."""

from __future__ import annotations

import logging
from types import ModuleType

import pytest

from tipslib.errors import InvalidInput
from tipslib.experiments import compute
from tipslib.reporting.evidence import best, in_words, kept


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


def test_a_page_shows_its_runs_at_the_largest_profile_that_has_all_of_them(toy: ModuleType) -> None:
    made = [r for number in (2, 3) for r in compute("toy", profile="smoke", number=number)]
    assert best(made) == made
    assert in_words(made, made) == ""
    compute("toy", profile="laptop", seeds=[0, 1], number=2)
    compute("toy", profile="gpu", number=2)
    assert best(made) == made  # the other run is missing at both
    compute("toy", profile="laptop", seeds=[1, 2], number=3)
    compute("toy", profile="laptop", seeds=[1], number=1)
    shown = best(made)
    # seed 1 alone has both; the third variant was not asked for
    assert [(r.run.profile, r.run.seed, r.run.parameters["number"]) for r in shown] == [("laptop", 1, 2), ("laptop", 1, 3)]
    assert "`laptop`, seed 1; the same runs were made anew at `smoke`" in in_words(shown, made)
    compute("toy", profile="gpu", number=3)
    shown = best(made)
    assert [(r.run.seed, r.run.parameters["number"]) for r in shown] == [(0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3)]
    assert {r.run.profile for r in shown} == {"gpu"}
    assert "seeds 0, 1, 2;" in in_words(shown, made)


def test_who_asks_for_other_parameters_sees_what_they_give(toy: ModuleType) -> None:
    compute("toy", profile="laptop", number=2)
    made = [*compute("toy", profile="smoke", number=2), *compute("toy", profile="smoke", number=77)]
    assert best(made) == made


def test_what_there_is_not_is_refused(toy: ModuleType) -> None:
    with pytest.raises(InvalidInput, match="no profile 'tiny'"):
        kept("toy", "tiny")
