"""Each claim of the stability experiment, on made-up records that support it, refute it, or cannot decide."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tipslib.experiments.stability import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.stability import CLAIMS

BY_ID = {claim.id: claim for claim in CLAIMS}
COUNTS = (2, 4, 6, 8, 20)


def record(
    spreads: tuple[float, ...] = (4, 2, 1, 0.5, 0.1),
    drift: tuple[float, ...] = (1, 1, 1, 1, 1),
    *,
    counts: tuple[int, ...] = COUNTS,
    coupling: float = 0.0,
    runs: int = 200,
    choices: int = 100,
    seed: int = 0,
) -> Record:
    """One path of 10 of 20 nodes whose TPS, uncoupled, has the given relative spreads in percent and means in proportion to `drift`."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((len(counts), runs))
    noise = (noise - noise.mean(axis=1, keepdims=True)) / noise.std(axis=1, ddof=1, keepdims=True)
    totals = 1e6 * np.array(drift)[:, None] * (1 + noise * np.array(spreads)[:, None] / 100)
    arrays = {
        "path_degrees": totals[..., None],
        "all_degrees": np.full((len(counts), runs), 2e6),
        "best_of_length": rng.integers(choices, size=(len(counts), runs, 1)),
        "best_per_node": np.zeros((len(counts), runs), dtype=int),
    }
    values: dict[str, Any] = {"nodes": 20, "followed": [{"nodes": 10, "path": 0}], "lengths": [{"nodes": 10, "paths": 100}]}
    asked = to_json(Parameters(subnetworks=counts, coupling=coupling, repeats=runs, restart=0.0))
    return Record(Run("stability", asked, "smoke", seed, "v1"), values, arrays, {}, Path("made-up.json"))


def judge(name: str, *records: Record) -> Finding:
    return BY_ID[name].judge(records)


@pytest.mark.parametrize(("spread", "verdict"), [(0.5, Verdict.HOLDS), (4.0, Verdict.FAILS), (2.5, Verdict.UNDECIDED)])
def test_spread_at_eight(spread: float, verdict: Verdict) -> None:
    finding = judge("stability-spread-at-eight", record((4, 4, 4, spread, 4)))
    assert finding.verdict is verdict
    assert finding.effect == pytest.approx(spread)
    assert finding.interval is not None
    assert finding.interval[0] < spread < finding.interval[1]


@pytest.mark.parametrize(
    ("spreads", "verdict"),
    [((9, 9, 1, 0.5, 0.1), Verdict.HOLDS), ((9, 9, 4, 0.5, 0.1), Verdict.FAILS), ((9, 9, 2.5, 0.5, 0.1), Verdict.UNDECIDED)],
)
def test_negligible_above_four(spreads: tuple[float, ...], verdict: Verdict) -> None:
    finding = judge("stability-negligible-above-four", record(spreads))
    assert finding.verdict is verdict
    assert finding.effect == pytest.approx(max(spreads[2:]))


@pytest.mark.parametrize(
    ("drift", "verdict"),
    [((2, 1.001, 1, 1, 1), Verdict.HOLDS), ((2, 1.06, 1, 1, 1), Verdict.FAILS), ((2, 1.025, 1, 1, 1), Verdict.UNDECIDED)],
)
def test_four_enough(drift: tuple[float, ...], verdict: Verdict) -> None:
    finding = judge("stability-four-enough", record((1, 1, 1, 1, 1), drift))
    assert finding.verdict is verdict
    assert finding.effect == pytest.approx(100 * (drift[1] - 1), abs=1e-9)


def test_share_of_the_coupling() -> None:
    """Sums of a fixed relative spread vary as much for any T without the coupling, and ever less with it."""
    totals = record((3, 3, 3, 3, 3), coupling=1.0)
    weak = {name: array / 5e4 if name.endswith("degrees") else array for name, array in totals.arrays.items()}
    finding = judge("stability-coupling-share", Record(totals.run, totals.values, weak, {}, totals.path))
    assert finding.verdict is Verdict.HOLDS
    assert finding.effect == pytest.approx(1, abs=0.01)


def test_no_share_where_the_spread_falls_without_it() -> None:
    finding = judge("stability-coupling-share", record((4, 2, 1, 0.5, 0.1), coupling=1e-6))
    assert finding.verdict is Verdict.FAILS
    assert finding.effect == pytest.approx(0, abs=0.01)


def test_no_share_where_the_spread_does_not_fall() -> None:
    assert judge("stability-coupling-share", record((1, 1, 1, 1, 2))).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(("choices", "verdict"), [(100, Verdict.HOLDS), (2, Verdict.FAILS), (10, Verdict.UNDECIDED)])
def test_choice_is_a_lottery(choices: int, verdict: Verdict) -> None:
    finding = judge("stability-choice-is-a-lottery", record(choices=choices))
    assert finding.verdict is verdict
    assert "in 100 % of runs" in finding.reason


@pytest.mark.parametrize(
    ("name", "counts"),
    [
        ("stability-spread-at-eight", (2, 4, 6, 7, 20)),
        ("stability-negligible-above-four", (2, 4)),
        ("stability-four-enough", (2, 4, 6)),
        ("stability-coupling-share", (4,)),
        ("stability-choice-is-a-lottery", (2, 4)),
    ],
)
def test_missing_counts_decide_nothing(name: str, counts: tuple[int, ...]) -> None:
    finding = judge(name, record((1,) * len(counts), (1,) * len(counts), counts=counts))
    assert (finding.verdict, finding.effect) == (Verdict.UNDECIDED, None)


def test_more_seeds_narrow_the_interval() -> None:
    one, four = record(runs=50), [record(runs=50, seed=s) for s in range(4)]
    widths = []
    for records in ([one], four):
        interval = judge("stability-spread-at-eight", *records).interval
        assert interval is not None
        widths.append(interval[1] - interval[0])
    assert widths[1] < widths[0]


def test_no_record_is_not_run() -> None:
    assert {claim.judge([]).verdict for claim in CLAIMS} == {Verdict.NOT_RUN}
