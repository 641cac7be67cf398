"""Fig. 5: what agreement saves, by brute force over samples and modes, and what the exits of the MobileNet cost."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from tipslib.branched import branched_mobilenet, entropy_thresholds, inference_modes
from tipslib.branched.networks import MOBILENET_EXITS, mobilenet
from tipslib.errors import InvalidInput
from tipslib.experiments import agreement, plan_all
from tipslib.experiments.agreement import DROPPED, RULES, Parameters, accuracy_saving, released_macs, savings, threshold_saving
from tipslib.profiles import PROFILES

MACS = (10, 30, 70, 100)


def modes(seed: int, samples: int = 60, classes: int = 5) -> dict[str, np.ndarray]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(classes, (samples,), generator=generator)
    logits = 2 * torch.randn(4, samples, classes, generator=generator)
    logits[:, torch.arange(samples), labels] += torch.tensor([0.5, 1.0, 2.0, 3.0])[:, None]
    arrays: dict[str, np.ndarray] = {}
    for rule in RULES:
        found = inference_modes(logits, labels, MACS, rule, entropy_thresholds(classes, 25))
        arrays |= {rule: np.stack([found.macs, found.accuracy]), f"{rule} leaving": found.leaving}
    return arrays


@given(st.integers(0, 10_000))
@settings(max_examples=40)
def test_saving_at_equal_threshold_is_never_negative(seed: int) -> None:
    arrays = modes(seed)
    saving = threshold_saving(arrays, MACS)
    assert (saving >= -1e-12).all()
    assert saving[0] == 0
    np.testing.assert_allclose(saving, 1 - arrays["mutual-agreement"][0] / arrays["entropy"][0])
    assert savings(arrays)["equal threshold"] == pytest.approx(saving.max())


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_saving_at_equal_accuracy_is_that_of_the_cheapest_modes(seed: int) -> None:
    arrays = modes(seed)
    targets, saving = accuracy_saving(arrays)
    for target, found in zip(targets[::20], saving[::20], strict=True):
        cheapest = [min(m for m, a in arrays[rule].T if a >= target - 1e-12) for rule in RULES]
        assert found == pytest.approx(1 - cheapest[1] / cheapest[0])
    assert targets[-1] == min(arrays[rule][1].max() for rule in RULES)


def test_a_rule_that_reaches_the_same_for_more_saves_less_than_nothing() -> None:
    accuracy = np.array([0.5, 0.7, 0.9])
    arrays = {"entropy": np.array([[10.0, 20, 40], accuracy]), "mutual-agreement": np.array([[10.0, 30, 50], accuracy])}
    found = savings(arrays)
    assert found["equal accuracy"] < 0
    assert found["highest accuracy"] == pytest.approx(-0.25)
    assert found["peak"] == 0


def test_shares_of_the_mobilenets_exits_are_the_known_ones() -> None:
    right = branched_mobilenet(classes=100).macs()
    released = released_macs(right, classes=100, width=1.0)
    assert [round(m / right[-1], 3) for m in right[:-1]] == [0.219, 0.463, 0.799]
    assert [round(m / right[-1], 3) for m in released[:-1]] == [0.150, 0.374, 0.587]
    assert released[-1] == right[-1]


@pytest.mark.parametrize("width", [0.0625, 0.5])
def test_what_the_lists_leave_out_is_the_cost_of_those_blocks(width: float) -> None:
    net = mobilenet(10, width).eval()
    x, cost = torch.zeros(1, 3, 32, 32), []
    with torch.no_grad():
        for block in net.features:
            with FlopCounterMode(display=False) as counter:
                x = block(x)
            cost.append(counter.get_total_flops() // 2)
    right = branched_mobilenet(classes=10, width=width).macs()
    released = released_macs(right, classes=10, width=width)
    assert [a - b for a, b in zip(right, released, strict=True)] == [*(sum(cost[b] for b in blocks) for blocks in DROPPED), 0]
    assert all(at in blocks for at, blocks in zip(MOBILENET_EXITS, DROPPED, strict=True))


@pytest.mark.parametrize("network", ["resnet", "mobilenet"])
def test_a_run_counts_both_ways(network: str, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path_factory.mktemp("home")
    monkeypatch.setattr("tipslib.experiments.branches.project", SimpleNamespace(root=lambda: home))
    p = Parameters(data="digits", network=network, width=0.0625, epochs=1, batch_size=256, thresholds=9)
    outcome = agreement.run(p, seed=0, profile=PROFILES["smoke"])
    assert outcome.arrays["entropy leaving"].shape == (9, 4)
    np.testing.assert_allclose(outcome.arrays["entropy leaving"] @ outcome.values["macs"], outcome.arrays["entropy"][0])
    assert outcome.values["saving"] == savings(dict(outcome.arrays))
    assert ("released_macs" in outcome.values) == (network == "mobilenet")
    if network == "mobilenet":
        assert outcome.values["released_macs"] == list(released_macs(outcome.values["macs"], classes=10, width=0.0625))


def test_every_profile_plans_both_networks_and_the_paper_its_own_data() -> None:
    for name, profile in PROFILES.items():
        assert len(plan_all("agreement", name)) == 2 * len(profile.seeds)
    assert {run.parameters["data"] for run in plan_all("agreement", "paper")} == {"cifar100"}


@pytest.mark.parametrize("wrong", [{"thresholds": 1}, {"exits": 6, "network": "mobilenet"}])
def test_impossible_parameters_are_named(wrong: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Parameters(**wrong)
