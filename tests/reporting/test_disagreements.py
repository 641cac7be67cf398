"""Is every sentence that does not hold explained, and is it said how the runs differ from the paper's?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tipslib.experiments import EXPERIMENTS, get_experiment, plan, plan_all
from tipslib.profiles import PROFILES
from tipslib.records import Record
from tipslib.reporting.claims import Verdict, claims
from tipslib.reporting.disagreements import ANYWHERE, TRAINED, departures, why
from tipslib.reporting.ledger import kept_ledger


def records(experiment: str, profile: str, **overrides: Any) -> list[Record]:
    return [Record(plan(experiment, profile=profile, **overrides), {}, {}, {}, Path("made-up.json"))]


def test_whatever_does_not_hold_on_the_records_that_are_kept_is_explained() -> None:
    failing = {(e.claim.id, e.profile) for e in kept_ledger() if e.finding.verdict is Verdict.FAILS}
    assert failing, "the ledger has sentences that do not hold"
    assert {(claim, profile) for claim, profile in failing if not why(claim, profile)} == set()


def test_only_claims_are_explained_and_at_profiles_there_are() -> None:
    known = claims()
    assert {profile for claim in ANYWHERE for profile in known[claim].profiles} == set(PROFILES)
    assert all("smoke" in known[claim].profiles for claim in ANYWHERE)
    for profile, explained in TRAINED.items():
        assert profile in PROFILES
        assert all(profile in known[claim].profiles and claim not in ANYWHERE for claim in explained)


def test_what_a_profile_trains_explains_nothing_at_another() -> None:
    assert why("similarity-rest", "laptop")
    assert [why("similarity-rest", profile) for profile in ("smoke", "gpu", None)] == ["", "", ""]
    assert why("stability-four-enough", "gpu") == why("stability-four-enough", None) != ""


def test_a_run_with_the_defaults_on_all_images_is_the_papers() -> None:
    assert departures(records("weights", "paper")) == ""
    assert departures([]) == ""


def test_what_is_not_the_papers_is_named_beside_what_is() -> None:
    said = departures(records("similarity", "laptop"))
    for phrase in ("width 0.25 (paper: 1)", "epochs 8 (paper: 200)", "10,000 of the training images of cifar10"):
        assert phrase in said


def test_values_that_differ_among_the_runs_all_stand_there() -> None:
    assert departures(records("similarity", "paper") + records("similarity", "paper", epochs=3)) == "epochs 200 or 3 (paper: 200)"


def test_what_tells_the_runs_apart_on_purpose_is_left_out() -> None:
    both = records("agreement", "paper", network="resnet") + records("agreement", "paper", network="mobilenet")
    assert departures(both) == ""


def test_images_are_not_counted_where_nothing_is_trained() -> None:
    assert departures(records("proposition", "laptop")) == ""


@pytest.mark.parametrize("experiment", EXPERIMENTS)
@pytest.mark.parametrize("profile", PROFILES)
def test_departures_of_all_experiments_can_be_said(experiment: str, profile: str) -> None:
    runs = plan_all(experiment, profile)
    said = departures([Record(run, {}, {}, {}, Path("made-up.json")) for run in runs])
    own = get_experiment(experiment).Parameters()  # type: ignore[attr-defined]
    if runs[0].parameters.get("epochs") not in (None, getattr(own, "epochs", None)):
        assert "epochs" in said
