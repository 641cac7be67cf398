"""What do runs of `switching` and `latency` measure, on which subnetworks, and does a budget lead to what a search by hand would take?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tipslib import parameters
from tipslib.errors import InvalidInput
from tipslib.experiments import fronts, latency, offers, plan, plan_all, switching
from tipslib.experiments.offers import evenly, front_runs, rounded, searched, untrained
from tipslib.profiles import PROFILES
from tipslib.records import Outcome, Record, Run, Store

SMOKE = PROFILES["smoke"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def front(home: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Record]:
    """Fronts that nobody searched for, one a strategy: ten widths, ever more accurate."""
    made: dict[str, Record] = {}
    for strategy in ("TIPS", "Joslim"):
        (run,) = front_runs("mobilenet_v2", strategy, "digits", 0, SMOKE)
        net = parameters.parse(fronts.Parameters, run.parameters).build(10)
        widths = np.array([net.space.at(float(ratio)) for ratio in np.linspace(0.4, 1, 10)])
        arrays = {"widths": widths, "macs": net.macs_many(widths).astype(float), "held_out": np.linspace(0.5, 0.9, 10)}
        arrays["test"] = arrays["held_out"] - 0.01
        made[strategy] = Store(SMOKE).save(run, Outcome({}, arrays, {"digits train": "0" * 64}), {})

    def kept(run: Run, *rest: Any) -> Record:
        return made[run.parameters["strategy"]]

    monkeypatch.setattr(offers, "obtain", kept)
    return made


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The paper's network, but tiny."""
    for name, value in (("WIDTH", 0.25), ("SIDE", 32), ("CLASSES", 10)):
        monkeypatch.setattr(offers, name, value)


def test_a_run_of_switching_measures_what_it_says(front: dict[str, Record], small: None, home: Path) -> None:
    p = switching.Parameters(subnetworks=3, rounds=2, switches=4, data="digits", steps=50)
    threads = torch.get_num_threads()
    outcome = switching.run(p, seed=0, profile=SMOKE)
    assert torch.get_num_threads() == threads
    timing, storage = outcome.values["timing"], outcome.values["storage"]
    assert {name: np.array(values).shape for name, values in timing.items()} == {
        "switch_us": (2,),
        "reload_ms": (2,),
        "reload_fastest_ms": (2,),
        "cold_ms": (3, 10),
        "passes_ms": (4, 10),
    }
    assert min(np.min(values) for values in timing.values()) > 0
    assert list((home / "build" / "switching").iterdir()) == []
    # storage, counted another way
    net = untrained(3, 0).net
    widths = [tuple(s["widths"]) for s in outcome.values["subnetworks"]]
    plain = [net.export(w).state_dict() for w in widths]
    assert storage["statistics"] == sum(4 * v.numel() for state in plain for name, v in state.items() if "running_" in name)
    assert storage["supernet"] == sum(v.numel() * v.element_size() for v in net.state_dict().values())
    weights = [sum(v.numel() * v.element_size() for v in state.values()) for state in plain]
    assert all(w < stored < w + 40_000 for w, stored in zip(weights, storage["checkpoints"], strict=True))
    assert storage["configurations"] < 2000
    assert [s["macs"] for s in outcome.values["subnetworks"]] == sorted(net.macs(w) for w in widths)
    # all but durations is repeated
    again = switching.run(p, seed=0, profile=SMOKE)
    assert {**again.values, "timing": None} == {**outcome.values, "timing": None}
    np.testing.assert_array_equal(again.arrays["budget"], outcome.arrays["budget"])
    assert outcome.values["of"] == front["TIPS"].run.key
    assert outcome.data == {"digits train": "0" * 64}


def test_at_each_instant_the_most_accurate_that_fits_is_chosen(front: dict[str, Record], small: None) -> None:
    p = switching.Parameters(subnetworks=5, rounds=1, switches=1, data="digits", steps=200)
    outcome = switching.run(p, seed=1, profile=SMOKE)
    macs = np.array([s["macs"] for s in outcome.values["front"]])
    held_out = np.array([s["held_out"] for s in outcome.values["front"]])
    for budget, chosen in zip(outcome.arrays["budget"], outcome.arrays["chosen"], strict=True):
        assert macs[chosen] <= budget
        assert held_out[chosen] == held_out[macs <= budget].max()
    assert outcome.arrays["budget"].shape == (200,)
    assert len(set(outcome.arrays["chosen"].tolist())) > 2
    assert macs[0] <= outcome.arrays["budget"].min()
    assert outcome.arrays["budget"].max() <= macs[0] + 1.1 * (macs[-1] - macs[0])
    assert not np.array_equal(outcome.arrays["budget"], switching.run(p, seed=2, profile=SMOKE).arrays["budget"])


@pytest.mark.parametrize(("strategy", "exported"), [("TIPS", [0, 3]), ("none", [0])])
def test_a_run_of_latency_times_every_subnetwork_each_way(
    front: dict[str, Record], small: None, home: Path, strategy: Any, exported: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    if strategy == "TIPS":  # one that is really exported is enough
        monkeypatch.setattr(latency, "_onnx", lambda anytime, number, *rest: lambda: None)
    p = latency.Parameters(strategy, data="digits", subnetworks=4, exported=len(exported), rounds=3)
    outcome = latency.run(p, seed=0, profile=SMOKE)
    timing = {name: np.array(values).shape for name, values in outcome.values["timing"].items()}
    assert timing == {"in_place": (4, 3), "alone": (4, 3), "onnxruntime": (len(exported), 3)}
    assert outcome.values["exported"] == exported
    rows = outcome.values["subnetworks"]
    assert [r["macs"] for r in rows] == sorted(r["macs"] for r in rows)
    assert (outcome.values["of"], rows[0]["test"] is None) == ((None, True) if strategy == "none" else (front[strategy].run.key, False))
    assert list((home / "build" / "latency").iterdir()) == []


def test_offers_of_a_front_are_spread_evenly_along_it(front: dict[str, Record]) -> None:
    found = searched("mobilenet_v2", "TIPS", "digits", 4, seed=0, profile=SMOKE)
    macs = front["TIPS"].arrays["macs"]
    assert [s["macs"] for s in found.describe()] == [macs[i] for i in (0, 3, 6, 9)]
    assert [s["bytes"] for s in found.describe()] == [
        sum(4 * w.numel() for w in found.net.export(tuple(widths)).parameters()) for widths in found.widths.tolist()
    ]
    assert len(searched("mobilenet_v2", "TIPS", "digits", 100, seed=0, profile=SMOKE).widths) == 10
    assert evenly(10, 3).tolist() == [0, 4, 9]
    assert evenly(2, 3).tolist() == [0, 1]
    assert evenly(1, 3).tolist() == [0]
    assert evenly(5, 1).tolist() == [0]


def test_untrained_subnetworks_are_scattered_and_follow_from_the_seed(small: None) -> None:
    found = untrained(6, 0)
    space = found.net.space
    assert tuple(found.widths[0]) == space.smallest
    assert tuple(found.widths[-1]) == space.largest
    assert len(np.unique(found.widths, axis=0)) == 6
    np.testing.assert_array_equal(untrained(6, 0).widths, found.widths)
    assert not np.array_equal(untrained(6, 1).widths, found.widths)
    assert all(s["test"] is None and s["held_out"] is None for s in found.describe())
    assert len(untrained(2, 0).widths) == 2


def test_the_opponents_read_whole_checkpoints_of_the_right_network(small: None, tmp_path: Path) -> None:
    made = switching.offered(untrained(3, 0), torch.device("cpu"))
    one = made.subnetworks[1]
    plain = made.net.export(one.widths, one.statistics)
    switching._store(plain, tmp_path, 1)
    for state in (torch.load(tmp_path / "1.pt", weights_only=True), load_file(tmp_path / "1.safetensors")):
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in state.items())
        assert state.keys() == plain.state_dict().keys()
    taken: list[int] = []

    def read(number: int) -> Any:
        taken.append(number)
        return torch.load(tmp_path / f"{number}.pt", weights_only=True)

    call = switching._reload([None, plain], iter([1, 1]), read)  # type: ignore[list-item]
    with torch.no_grad():
        next(plain.parameters()).zero_()
    call()
    assert taken == [1]
    assert torch.equal(next(plain.parameters()), made.net.export(one.widths).state_dict()[next(iter(plain.state_dict()))])


def test_durations_keep_four_digits() -> None:
    assert rounded(np.array([[1.23456, 123456.0], [0.000123456, 2.0]])) == [[1.235, 123500.0], [0.0001235, 2.0]]
    assert rounded(np.empty((0, 3))) == []


@pytest.mark.parametrize(
    ("cls", "given", "message"),
    [
        (switching.Parameters, {"subnetworks": 1}, "subnetworks = 1"),
        (switching.Parameters, {"rounds": 0}, "rounds = 0"),
        (switching.Parameters, {"steps": 0}, "steps = 0"),
        (switching.Parameters, {"data": "letters"}, "data = 'letters'"),
        (latency.Parameters, {"subnetworks": 1, "exported": 0}, "subnetworks = 1"),
        (latency.Parameters, {"exported": 9}, "exported = 9; allowed are 0 to 8"),
        (latency.Parameters, {"threads": 0}, "threads = 0"),
        (latency.Parameters, {"data": "letters"}, "data = 'letters'"),
    ],
)
def test_bad_parameters_are_refused(cls: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        cls(**given)


@pytest.mark.parametrize("profile", PROFILES)
def test_what_a_run_needs_is_planned_at_every_profile(profile: str) -> None:
    there = PROFILES[profile]
    planned = {run.key for run in plan_all("fronts", there)} if profile != "smoke" else set()
    for name, module in (("switching", switching), ("latency", latency)):
        for run in plan_all(name, there):
            needed = module.needs(parameters.parse(module.Parameters, run.parameters), seed=run.seed, profile=there)
            assert {one.key for one in needed} <= planned
            assert len(needed) == (profile != "smoke" and run.parameters.get("strategy") != "none")
            assert run.parameters["data"] in there.datasets
    strategies = [run.parameters["strategy"] for run in plan_all("latency", there) if run.seed == there.seeds[0]]
    assert strategies == ["TIPS", "Joslim", "none"]
    assert plan("switching", profile="paper").parameters["subnetworks"] == 12
