"""Each claim of the experiment `fronts`, on made-up fronts that support it, on some that do not, and on some that cannot tell."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from tipslib.anytime import strategies
from tipslib.experiments.fronts import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.budgets import accuracy_under, at_budgets, budgets, cell, epochs_to, paired
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.fronts import CLAIMS
from tipslib.reporting.published import published

BY_ID = {claim.id: claim for claim in CLAIMS}
FULL = 1_000_000
NOISE = 0.1


def record(
    strategy: str,
    seed: int = 0,
    *,
    gain: float = 0.0,
    pace: float = 1.0,
    smallest: float = 0.2,
    network: str = "mobilenet_v2",
    data: str = "cifar100",
    profile: str = "laptop",
) -> Record:
    """A front whose accuracy rises with its MACs, `gain` points above the others; a loss that falls `pace` times as fast."""
    rng = np.random.default_rng([seed, *strategy.encode()])
    macs = FULL * np.linspace(smallest, max(1.0, smallest), 9)
    test = 0.5 + 0.1 * macs / FULL + (gain + NOISE * rng.standard_normal(len(macs))) / 100
    arrays = {"macs": macs, "test": test, "held_out": test, "loss": 4 * np.exp(-pace * np.arange(1, 41) / 20)}
    run = Run("fronts", to_json(Parameters(network, strategy, data)), profile, seed, "v1")  # type: ignore[arg-type]
    return Record(run, {"macs": [int(smallest * FULL), FULL]}, arrays, {}, Path("made-up"))


def records(gains: dict[str, float], seeds: int = 3, **options: object) -> list[Record]:
    """Every strategy named, over seeds."""
    return [record(name, seed, gain=gain, **options) for name, gain in gains.items() for seed in range(seeds)]  # type: ignore[arg-type]


def judged(claim: str, found: list[Record]) -> Finding:
    return BY_ID[claim].judge(found)


BASELINES = {"US-Nets": 0.0, "Joslim": 0.0, "DS-Net": 0.0}
CONTROLS = {f"{name}+floor": 0.0 for name in BASELINES}


@pytest.mark.parametrize(
    ("claim", "others"),
    [("fronts-mobilenet-v2-cifar100", BASELINES), ("floor-mobilenet-v2-cifar100", CONTROLS), ("ofa-cifar100", {"OFA": 0.0})],
)
@pytest.mark.parametrize(("gain", "verdict"), [(3.0, Verdict.HOLDS), (-3.0, Verdict.FAILS), (0.02, Verdict.UNDECIDED)])
def test_more_accurate_at_every_budget_is_told_both_ways(claim: str, others: dict[str, float], gain: float, verdict: Verdict) -> None:
    found = judged(claim, records(others | {"TIPS": gain}))
    assert found.verdict == verdict
    assert found.effect == pytest.approx(gain, abs=4 * NOISE)
    assert found.seeds == 3


def test_one_baseline_that_is_better_is_enough_to_refute() -> None:
    found = judged("fronts-mobilenet-v2-cifar100", records(BASELINES | {"TIPS": 3.0, "Joslim": 6.0}))
    assert found.verdict == Verdict.FAILS
    assert "Joslim" in found.reason


def test_what_was_not_run_says_so() -> None:
    assert judged("fronts-mobilenet-v2-cifar100", records({"TIPS": 1.0, "Joslim": 0.0})).verdict == Verdict.NOT_RUN
    assert "US-Nets" in judged("fronts-mobilenet-v2-cifar100", records({"TIPS": 1.0, "Joslim": 0.0})).reason
    assert judged("fronts-resnet34-cifar100", records(BASELINES | {"TIPS": 1.0})).verdict == Verdict.NOT_RUN
    apart = [record(name, seed) for seed, name in enumerate(BASELINES | {"TIPS": 1.0})]
    assert judged("fronts-mobilenet-v2-cifar100", apart).verdict == Verdict.NOT_RUN
    assert judged("fronts-gain", records({"TIPS": 1.0})).verdict == Verdict.NOT_RUN


def test_one_seed_decides_nothing_and_smoke_never_does() -> None:
    assert judged("fronts-mobilenet-v2-cifar100", records(BASELINES | {"TIPS": 3.0}, seeds=1)).verdict == Verdict.UNDECIDED
    assert judged("fronts-mobilenet-v2-cifar100", records(BASELINES | {"TIPS": 3.0}, profile="smoke")).verdict == Verdict.UNDECIDED


def test_budgets_below_the_smallest_subnetwork_are_left_out_and_said() -> None:
    some = records(BASELINES) + records({"TIPS": 3.0}, smallest=0.65)
    found = judged("fronts-mobilenet-v2-cifar100", some)
    assert found.verdict == Verdict.HOLDS
    below = int((budgets("mobilenet_v2", "cifar100")[1] < 0.65).sum())
    assert f"{3 * below} of 18 comparisons are left out" in found.reason
    none = records(BASELINES, smallest=1.5) + records({"TIPS": 3.0}, smallest=1.5)
    assert judged("fronts-mobilenet-v2-cifar100", none).verdict == Verdict.UNDECIDED


@pytest.mark.parametrize(("pace", "verdict"), [(1.6, Verdict.HOLDS), (0.985, Verdict.FAILS), (0.5, Verdict.FAILS)])
def test_fewer_epochs_are_told_both_ways(pace: float, verdict: Verdict) -> None:
    found = [r for seed in range(3) for r in (record("TIPS", seed, pace=pace), record("US-Nets", seed))]
    finding = judged("epochs-mobilenet-v2-cifar100", found)
    assert finding.verdict == verdict
    if pace > 1:
        assert finding.effect == pytest.approx(1 / pace, abs=0.03)  # whole epochs
    if pace == 0.5:
        assert finding.effect is None
        assert "does not get to the loss" in finding.reason


@pytest.mark.parametrize(("gain", "verdict"), [(4.0, Verdict.HOLDS), (0.5, Verdict.FAILS), (9.0, Verdict.FAILS), (2.0, Verdict.UNDECIDED)])
def test_the_gain_of_the_abstract_is_told_both_ways(gain: float, verdict: Verdict) -> None:
    found = judged("fronts-gain", records(BASELINES | {"TIPS": gain}))
    assert found.verdict == verdict
    both = records(BASELINES | {"TIPS": 4.0}) + records(BASELINES | {"TIPS": gain}, data="tiny-imagenet", network="resnet34")
    assert judged("fronts-gain", both).verdict == verdict


def test_a_budget_takes_the_best_on_held_out_images_at_or_under_it() -> None:
    r = record("TIPS")
    assert accuracy_under(r, float(r.arrays["macs"][3])) == pytest.approx(100 * r.arrays["test"][3])
    assert accuracy_under(r, float(r.arrays["macs"][3]) - 1) == pytest.approx(100 * r.arrays["test"][2])
    assert accuracy_under(r, math.inf) == pytest.approx(100 * r.arrays["test"][-1])
    assert math.isnan(accuracy_under(r, 1.0))


def test_budgets_are_the_papers_as_shares_of_its_largest() -> None:
    printed = published("tips-table1")
    for data, name in (("imagenet", "ImageNet"), ("digits", "CIFAR100")):
        labels, shares = budgets("mobilenet_v2", data)
        macs = printed[(printed["dataset"] == name) & (printed["method"] == "Joslim")]["budget_macs"].to_numpy()
        np.testing.assert_allclose(shares, macs / macs[-1])
        assert len(labels) == 6


def test_differences_are_paired_by_seed() -> None:
    found = cell([record("TIPS", s, gain=s) for s in (0, 1, 2)] + [record("OFA", s) for s in (2, 1)], "mobilenet_v2", "cifar100")
    gap = paired(found, "TIPS", "OFA", "mobilenet_v2", "cifar100")
    assert gap.shape == (6, 2)
    by_hand = at_budgets([record("TIPS", 1, gain=1)], "mobilenet_v2", "cifar100") - at_budgets(
        [record("OFA", 1)], "mobilenet_v2", "cifar100"
    )
    np.testing.assert_allclose(gap[:, 0], by_hand[:, 0])


def test_epochs_are_counted_from_one_and_may_never_come() -> None:
    r = record("TIPS")
    assert epochs_to(r, 4.0) == 1
    assert epochs_to(r, float(r.arrays["loss"][9])) == 10
    assert math.isnan(epochs_to(r, 0.0))


def test_claims_name_every_cell_of_the_paper_and_strategies_that_there_are() -> None:
    assert len(CLAIMS) == len(BY_ID)
    assert {claim.page for claim in CLAIMS} == {"mobilenet_front", "resnet_front", "one_shot_nas", "training_curves", "sampling_or_floor"}
    assert set(BASELINES | CONTROLS) | {"TIPS", "TIPS-released", "OFA"} == set(strategies)
