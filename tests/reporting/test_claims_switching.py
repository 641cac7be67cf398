"""Each claim of the experiment `switching`, on made-up records that support it, that do not, and that cannot tell."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tipslib.experiments.switching import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.switching import CLAIMS, delivered, storage
from tipslib.reporting.claims.timing import at_least, at_most, median_interval

BY_ID = {claim.id: claim for claim in CLAIMS}


def record(
    seed: int = 0,
    *,
    switch_us: float = 1.0,
    reload_ms: float = 100.0,
    first: float = 1.0,
    configurations: int = 2000,
    statistics: int = 1_500_000,
    noise: float = 0.01,
    test: tuple[float, ...] = (0.6, 0.7, 0.8),
    budget: tuple[float, ...] = (1.0, 2.0, 3.0, 2.5),
    chosen: tuple[int, ...] = (0, 1, 2, 1),
    profile: str = "laptop",
) -> Record:
    rng = np.random.default_rng(seed)

    def durations(mean: float, many: int) -> list[float]:
        return (mean * np.exp(noise * rng.standard_normal(many))).tolist()

    passes = np.array([durations(50.0, 10) for _ in range(40)])
    passes[:, 0] *= first
    values = {
        "front": [{"macs": macs, "test": t, "held_out": t} for macs, t in zip((1, 2, 3), test, strict=True)],
        "storage": {
            "configurations": configurations,
            "statistics": statistics,
            "supernet": 20_000_000,
            "checkpoints": [10_000_000] * 12,
        },
        "timing": {
            "switch_us": durations(switch_us, 60),
            "reload_ms": durations(reload_ms, 60),
            "reload_fastest_ms": durations(reload_ms / 3, 60),
            "passes_ms": passes.tolist(),
            "cold_ms": (passes * 1.5).tolist(),
        },
    }
    arrays = {"budget": np.array(budget), "chosen": np.array(chosen)}
    return Record(Run("switching", to_json(Parameters()), profile, seed, "v1"), values, arrays, {}, Path("made-up.json"))


def judge(name: str, seeds: int = 3, **given: Any) -> Finding:
    return BY_ID[name].judge([record(seed, **given) for seed in range(seeds)])


@pytest.mark.parametrize(
    ("name", "holds", "fails", "open_"),
    [
        ("switching-time", {"switch_us": 1.0}, {"switch_us": 60.0}, {"switch_us": 37.0, "noise": 0.5}),
        ("switching-faster", {"reload_ms": 100.0}, {"reload_ms": 1.0}, {"reload_ms": 7.756, "noise": 0.5}),
        ("switching-first-pass", {"first": 1.0}, {"first": 1.2}, {"first": 1.05, "noise": 0.5}),
    ],
)
def test_timings_decide_either_way_or_not(name: str, holds: dict[str, Any], fails: dict[str, Any], open_: dict[str, Any]) -> None:
    for given, verdict in ((holds, Verdict.HOLDS), (fails, Verdict.FAILS), (open_, Verdict.UNDECIDED)):
        finding = judge(name, **given)
        assert finding.verdict is verdict, finding.reason
        assert finding.seeds == 3
        assert finding.interval is not None
        assert judge(name, seeds=1, profile="smoke", **given).verdict is verdict


def test_storage_is_exact_and_counted_both_ways() -> None:
    finding = judge("switching-smaller")
    assert (finding.verdict, finding.effect, finding.interval) == (Verdict.HOLDS, 60_000.0, None)
    assert judge("switching-smaller", configurations=30_000).verdict is Verdict.FAILS
    assert judge("switching-smaller-with-statistics").verdict is Verdict.FAILS
    assert judge("switching-smaller-with-statistics", statistics=0).verdict is Verdict.HOLDS
    found = storage(record())
    assert found.statistics == pytest.approx(120e6 / 1.502e6)
    assert found.all == pytest.approx(120e6 / 21.502e6)


def test_following_is_held_against_the_best_single_subnetwork() -> None:
    found = delivered(record())
    assert found.following == pytest.approx((0.6 + 0.7 + 0.8 + 0.7) / 4)
    np.testing.assert_allclose(found.static, [0.6, 0.7 * 3 / 4, 0.8 / 4])
    np.testing.assert_allclose(found.served, [1, 3 / 4, 1 / 4])
    assert judge("switching-following").verdict is Verdict.HOLDS
    # on a flat front, on which the chosen ones test worse than the smallest, nothing is won
    assert judge("switching-following", test=(0.8, 0.7, 0.7)).verdict is Verdict.FAILS
    assert judge("switching-following", seeds=1).verdict is Verdict.UNDECIDED
    assert judge("switching-following", profile="smoke").verdict is Verdict.UNDECIDED


def test_without_records_nothing_is_run() -> None:
    assert all(claim.judge([]).verdict is Verdict.NOT_RUN for claim in CLAIMS)
    assert {claim.page for claim in CLAIMS} == {"switching"}


# what timings say


def test_the_interval_of_a_median_is_that_of_the_sign_test() -> None:
    values = np.random.default_rng(0).exponential(size=30)
    median, (low, high) = median_interval(values)
    assert median == np.median(values)
    # the values at the ends are the last that a two-sided sign test does not refuse
    below, above = np.sort(values)[[9, 20]]
    assert (low, high) == (below, above)
    inside, outside = low + 1e-9, low - 1e-9
    assert stats.binomtest(int((values > inside).sum()), 30).pvalue > 0.05 > stats.binomtest(int((values > outside).sum()), 30).pvalue


def test_the_interval_covers_the_median_as_often_as_it_says_and_few_values_have_none() -> None:
    rng = np.random.default_rng(1)
    covered = [low <= math.log(2) <= high for low, high in (median_interval(rng.exponential(size=25))[1] for _ in range(2000))]
    assert 0.94 <= np.mean(covered) <= 0.99
    assert median_interval([1.0, 2.0, 3.0]) == (2.0, (-math.inf, math.inf))
    assert median_interval(range(6)) == (2.5, (0.0, 5.0))


def test_bars() -> None:
    assert [at_most((1.0, 2.0), bar) for bar in (0.5, 1.5, 2.0)] == [Verdict.FAILS, Verdict.UNDECIDED, Verdict.HOLDS]
    assert [at_least((1.0, 2.0), bar) for bar in (1.0, 1.5, 2.5)] == [Verdict.HOLDS, Verdict.UNDECIDED, Verdict.FAILS]
