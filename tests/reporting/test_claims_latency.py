"""Each claim of the experiment `latency`, on made-up records that support it, that do not, and that cannot tell."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tipslib.experiments.latency import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.latency import CLAIMS, LATENCIES, accuracy_at, common_latencies, gains, medians, rank_correlation

BY_ID = {claim.id: claim for claim in CLAIMS}
MACS = np.array([10, 20, 30, 40, 50, 60])


def record(
    strategy: str,
    seed: int = 0,
    *,
    gain: float = 0.0,
    slower: float = 1.0,
    in_place: float = 1.0,
    order: tuple[int, ...] = (0, 1, 2, 3, 4, 5),
    noise: float = 0.005,
    profile: str = "laptop",
) -> Record:
    """Six subnetworks; their accuracy grows with the logarithm of MACs, `gain` points more of it, their time with MACs in that order."""
    rng = np.random.default_rng([seed, len(strategy)])
    ms = slower * MACS[list(order)][:, None] * np.exp(noise * rng.standard_normal((6, 40)))
    accuracy = [None] * 6 if strategy == "none" else (0.5 + 0.1 * np.log2(MACS / 10) + gain / 100 + 1e-4 * rng.standard_normal(6)).tolist()
    rows = [{"macs": int(m), "held_out": a, "test": a, "widths": [1], "bytes": 4} for m, a in zip(MACS, accuracy, strict=True)]
    timing = {"in_place": (in_place * ms).tolist(), "alone": ms.tolist(), "onnxruntime": []}
    values = {"subnetworks": rows, "exported": [], "of": None, "timing": timing}
    asked = to_json(Parameters(strategy=strategy))  # type: ignore[arg-type]
    return Record(Run("latency", asked, profile, seed, "v1"), values, {}, {}, Path("made-up.json"))


def both(seeds: int = 3, gain: float = 0.0, **given: Any) -> list[Record]:
    return [record("TIPS", s, gain=gain, **given) for s in range(seeds)] + [record("Joslim", s, **given) for s in range(seeds)]


def judge(name: str, records: list[Record]) -> Finding:
    return BY_ID[name].judge(records)


@pytest.mark.parametrize(("gain", "verdict"), [(2.0, Verdict.HOLDS), (-2.0, Verdict.FAILS), (0.0, Verdict.UNDECIDED)])
def test_accuracy_at_equal_latency_decides_either_way(gain: float, verdict: Verdict) -> None:
    finding = judge("latency-tips-joslim", both(gain=gain))
    assert finding.verdict is verdict, finding.reason
    assert finding.seeds == 3
    assert judge("latency-tips-joslim", both(gain=gain, profile="smoke")).verdict is Verdict.UNDECIDED


def test_latency_counts_and_not_macs() -> None:
    """Half as fast at equal accuracy and MACs is less accurate at equal latency."""
    slow = [record("TIPS", s, slower=2.0) for s in range(3)] + [record("Joslim", s) for s in range(3)]
    assert judge("latency-tips-joslim", slow).verdict is Verdict.FAILS


def test_what_is_missing_is_said() -> None:
    assert judge("latency-tips-joslim", [record("TIPS")]).verdict is Verdict.NOT_RUN
    assert judge("latency-tips-joslim", [record("TIPS", 0), record("Joslim", 1)]).verdict is Verdict.NOT_RUN
    apart = [record("TIPS"), record("Joslim", slower=100.0)]
    assert judge("latency-tips-joslim", apart).verdict is Verdict.UNDECIDED
    assert gains(apart).shape == (0, 1)
    for name in ("latency-macs", "latency-in-place"):
        assert judge(name, both()).verdict is Verdict.NOT_RUN
        assert judge(name, []).verdict is Verdict.NOT_RUN


def test_what_is_chosen_within_a_latency_is_best_on_held_out_images() -> None:
    one = record("TIPS", noise=0.0)
    rows = one.values["subnetworks"]
    rows[1] |= {"held_out": 0.99, "test": 0.3}
    np.testing.assert_allclose(accuracy_at(one, np.array([10.0, 15.0, 20.0, 60.0])), [50.0, 40.0, 30.0, 30.0], atol=0.1)
    assert len(common_latencies([one, record("Joslim", slower=2.0)])) == LATENCIES
    np.testing.assert_allclose(common_latencies([one, record("Joslim", slower=2.0, noise=0.0)])[[0, -1]], [20.0, 60.0])
    np.testing.assert_allclose(medians(one), MACS)


@pytest.mark.parametrize(
    ("order", "verdict"),
    [((0, 1, 2, 3, 4, 5), Verdict.HOLDS), ((1, 2, 0, 4, 5, 3), Verdict.FAILS)],
)
def test_macs_order_as_latency_does_or_not(order: tuple[int, ...], verdict: Verdict) -> None:
    finding = judge("latency-macs", [record("none", s, order=order) for s in range(3)])
    assert finding.verdict is verdict, finding.reason
    assert judge("latency-macs", [record("none", 0, order=order)]).verdict is Verdict.UNDECIDED
    assert rank_correlation(record("none", order=(5, 4, 3, 2, 1, 0))) == pytest.approx(-1)


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({"in_place": 1.0}, Verdict.HOLDS),
        ({"in_place": 1.2}, Verdict.FAILS),
    ],
)
def test_running_in_place_is_free_or_not(given: dict[str, Any], verdict: Verdict) -> None:
    finding = judge("latency-in-place", [record("none", s, **given) for s in range(3)])
    assert finding.verdict is verdict, finding.reason
    assert finding.effect == pytest.approx(given["in_place"])


def test_ratios_on_both_sides_of_the_bar_leave_it_open() -> None:
    mixed = [record("none", 0, in_place=1.0), record("none", 1, in_place=1.1)]
    assert judge("latency-in-place", mixed).verdict is Verdict.UNDECIDED
