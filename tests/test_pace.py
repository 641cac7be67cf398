"""Do so many epochs fit a budget, and does the profile train for them then?"""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import pytest

from tipslib import cli, pace
from tipslib.errors import CorruptFile, InvalidInput
from tipslib.experiments import plan, plan_all
from tipslib.pace import TIMED, WARM, Pace, epoch_seconds, epochs_within, hours, keep_epochs, paces
from tipslib.profiles import PROFILES, epochs_file, get_profile
from tipslib.training import watching

SMALL = {"network": "resnet34", "strategy": "US-Nets", "data": "digits", "width": 0.0625, "batch_size": 8}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    return tmp_path


def test_an_epoch_is_the_median_step_times_its_steps(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # 648 images in steps of 8; the first steps are slow, and one on the way
    lengths = itertools.chain([50.0] * WARM, [3.0] * (TIMED // 2), [90.0], itertools.repeat(3.0))
    monkeypatch.setattr(pace.time, "perf_counter", itertools.accumulate(lengths).__next__)
    run = plan("fronts", profile="smoke", epochs=1, **SMALL)
    assert epoch_seconds(run, get_profile("smoke")) == 3.0 * 81
    assert watching.get() is None
    assert list(home.rglob("*.*")) == []


def test_a_training_of_few_steps_cannot_be_timed(home: Path) -> None:
    run = plan("fronts", profile="smoke", epochs=1, candidates=2, calibration=8, **SMALL | {"batch_size": 81})
    with pytest.raises(InvalidInput, match="trains for 8 steps only"):
        epoch_seconds(run, get_profile("smoke"))


def found(*seconds: float) -> list[Pace]:
    run = plan("fronts", profile="laptop")
    return [Pace(run, each, 1, 3, 8) for each in seconds]


def test_the_most_epochs_that_fit_are_taken() -> None:
    # 3 seeds of 10 s and of 20 s: 90 s for one epoch of all
    assert epochs_within(found(10, 20), 1) == 40
    assert epochs_within(found(10, 20), 0.025) == 1
    assert hours(found(10, 20)) == pytest.approx(8 * 90 / 3600)
    # a run that trains three networks takes as long as three
    assert hours([replace(pace, trainings=3) for pace in found(10)]) == hours(found(10, 20))
    with pytest.raises(InvalidInput, match=r"takes 0\.025 hours here, more than 0\.024"):
        epochs_within(found(10, 20), 0.024)
    for budget in (0, -1, float("nan"), float("inf")):
        with pytest.raises(InvalidInput, match="a finite time above 0"):
            epochs_within(found(10), budget)


def test_a_profile_trains_for_the_epochs_that_were_kept(home: Path) -> None:
    assert plan("fronts", profile="gpu").parameters["epochs"] == PROFILES["gpu"].settings["fronts"]["epochs"]
    keep_epochs(get_profile("gpu"), {"fronts": 77})
    keep_epochs(get_profile("gpu"), {"weights": 5})
    assert {run.parameters["epochs"] for run in plan_all("fronts", "gpu")} == {77}
    assert {run.parameters["epochs"] for run in plan_all("weights", "gpu")} == {5}
    assert plan("weights", profile="gpu").parameters["precision"] == "bf16-mixed"  # the other settings stay
    assert get_profile("laptop") is PROFILES["laptop"]
    keep_epochs(get_profile("laptop"), {"agreement": 3})  # whose two networks have epochs of their own
    assert len({run.parameters["epochs"] for run in plan_all("agreement", PROFILES["laptop"])}) == 2
    assert {run.parameters["epochs"] for run in plan_all("agreement", "laptop")} == {3}
    assert {run.parameters["width"] for run in plan_all("fronts", "laptop")} == {0.5, 0.25}
    with pytest.raises(InvalidInput, match="profile smoke keeps no records"):
        keep_epochs(get_profile("smoke"), {"fronts": 2})


@pytest.mark.parametrize(
    "content", ["", "[]", '{"fronts": 0}', '{"fronts": 2.5}', '{"fronts": true}', '{"fronts": "9"}', '{"fronts": 9', "\xff"]
)
def test_epochs_that_cannot_be_are_named_with_their_file(home: Path, content: str) -> None:
    path = epochs_file("gpu")
    path.parent.mkdir(parents=True)
    path.write_text(content, encoding="latin-1")
    with pytest.raises(CorruptFile, match=r"epochs\.json: wanted is"):
        get_profile("gpu")


def test_the_command_says_what_fits_and_keeps_it_when_asked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    timed = []
    monkeypatch.setattr(pace, "epoch_seconds", lambda run, profile: timed.append(run) or 2.0)
    runs = len(plan_all("agreement", "gpu")) + len(plan_all("similarity", "gpu"))
    trainings = len(plan_all("agreement", "gpu")) + 3 * len(plan_all("similarity", "gpu"))  # two plain networks and a branched one
    assert cli.main(["epochs", "agreement", "similarity", "--hours", "0.1"]) == 0
    assert len(timed) == runs / 3
    said = capsys.readouterr().out
    assert f"{int(360 / (2 * trainings))} epochs fit 0.1 hours, for each of {runs} runs" in said
    assert f"{2 * trainings * 20 / 3600:.3g} hours for the 20 epochs that profile gpu plans" in said
    assert not epochs_file("gpu").exists()
    assert cli.main(["epochs", "similarity", "--hours", "0.1", "--keep"]) == 0
    assert json.loads(epochs_file("gpu").read_text()) == {"similarity": 20}
    assert plan("similarity", profile="gpu").parameters["epochs"] == 20


def test_what_trains_nothing_is_refused() -> None:
    with pytest.raises(InvalidInput, match="coupling trains no network in epochs"):
        list(paces(["fronts", "coupling"], "gpu"))
    with pytest.raises(InvalidInput, match="no experiment 'front'"):
        list(paces(["front"], "gpu"))
