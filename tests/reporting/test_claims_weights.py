"""Each claim of the experiment `weights`, on made-up records that support it and on some that do not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tipslib.experiments.weights import TABLE, Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.seeds import largest_below, mean_interval, smallest_above, within
from tipslib.reporting.claims.weights import CLAIMS
from tipslib.reporting.published import published
from tipslib.reporting.weightings import (
    BASELINE,
    EQUAL,
    EXIT_LAYERS,
    MULTIPLE,
    SINGLE,
    by_weights,
    largest_fall,
    position_share,
    rank_agreement,
)

BY_ID = {claim.id: claim for claim in CLAIMS}
PRINTED = dict(zip(TABLE, published("progressive-table1")["auc"], strict=True))
Weights = tuple[float, ...]


def position(weights: Weights) -> int:
    """0 to 2 for one early exit, 3 for several, -1 for none."""
    early = [e for e in range(3) if weights[e] > 0]
    return -1 if not early else early[0] if len(early) == 1 else 3


def as_claimed(weights: Weights) -> dict[str, object]:
    """What the paper says, as the values of a record."""
    log_separation = np.linspace(-2, -0.5, 18)
    probes = np.linspace(0.5, 0.95, 18)
    for e, x in enumerate(EXIT_LAYERS):
        if weights[e] > 0:
            log_separation[x] += 0.2 * (e + 1)
            log_separation[x + 1] += 0.1 * (e + 1) - 0.15
            probes[x:] += 0.02
    area = {-1: 0.01, 0: 0.6, 1: 0.4, 2: 0.2, 3: 0.62}[position(weights)]
    return {
        "auc": PRINTED[weights],
        "separation": np.exp(log_separation),
        "probes": probes,
        "area": area,
        "modes": np.array([np.linspace(0.3, 1, 20), np.linspace(0.8, 0.93, 20)]),
        "samples": 10_000,
    }


def records(change: Callable[[Weights, dict], dict] = lambda w, v: {}, rows=TABLE, seeds=3, noise=1e-4) -> list[Record]:
    """Records of every weighting and seed; `change` gives what differs from the paper's sayings."""
    made = []
    for row in rows:
        for seed in range(seeds):
            v = as_claimed(row)
            v |= change(row, v)
            jitter = noise * np.random.default_rng([seed, TABLE.index(row)]).standard_normal()
            values = {
                "auc": {"paper": v["auc"] + jitter},
                "separation": (np.asarray(v["separation"]) * (1 + jitter)).tolist(),
                "probes": {"paper": (np.asarray(v["probes"]) + jitter).tolist()},
                "progressiveness": {"entropy": v["area"] + jitter},
                "samples": v["samples"],
            }
            run = Run("weights", to_json(Parameters(weights=row)), "gpu", seed, "v1")
            made.append(Record(run, values, {"entropy": v["modes"]}, {}, Path("made-up.json")))
    return made


def judge(name: str, found: list[Record]) -> Finding:
    return BY_ID[name].judge(found)


REFUTED = {
    "progressive-fixed-point-is-least": lambda w, v: {"area": 0.7} if position(w) == -1 else {},
    "progressive-early-is-more": lambda w, v: {"area": 0.1} if position(w) == 0 else {},
    "progressive-monotone": lambda w, v: {"modes": v["modes"] * [[1], [-1]] + [[0], [1.7]]},
    "layers-separation-rises-at-exits": lambda w, v: {"separation": as_claimed(BASELINE)["separation"] * (1 if position(w) == -1 else 0.8)},
    "layers-separation-drops-after": lambda w, v: {"separation": np.linspace(0.1, 0.9, 18)},
    "layers-drop-is-the-exits-doing": lambda w, v: {"separation": np.linspace(0.9, 0.1, 18) ** (3 if position(w) == -1 else 1)},
    "layers-later-exits-separate-more": lambda w, v: {
        "separation": as_claimed(BASELINE)["separation"] * np.exp([0.5 - 0.01 * x if position(w) >= 0 else 0 for x in range(18)])
    },
    "layers-probes-gain-early": lambda w, v: {"probes": as_claimed(BASELINE)["probes"] - (0.1 if position(w) >= 0 else 0)},
    "exit-weights-equal-is-best": lambda w, v: {"auc": 0.7} if w == EQUAL else {},
    "exit-weights-early-exits-help-most": lambda w, v: {"auc": 0.69} if position(w) == 0 else {},
    "exit-weights-position-over-weight": lambda w, v: {"auc": 0.7 + 0.05 * w[3]},
    "exit-weights-every-exit-helps": lambda w, v: {"auc": 0.68} if w == TABLE[7] else {},
    "exit-weights-first-exit-gain": lambda w, v: {"auc": 0.695} if position(w) == 0 else {},
    "exit-weights-third-exit-gain": lambda w, v: {"auc": 0.72} if w == SINGLE[2][1] else {},
    "exit-weights-same-order-as-printed": lambda w, v: {"auc": -v["auc"]},
}


def test_every_claim_is_tested_here() -> None:
    assert set(REFUTED) == set(BY_ID)
    assert {claim.page for claim in CLAIMS} == {"progressive", "layers", "exit_weights"}


@pytest.mark.parametrize("name", REFUTED)
def test_what_the_paper_says_holds_on_records_that_say_so(name: str) -> None:
    finding = judge(name, records())
    assert finding.verdict is Verdict.HOLDS
    assert finding.seeds == 3


@pytest.mark.parametrize("name", REFUTED)
def test_and_does_not_on_records_that_say_otherwise(name: str) -> None:
    assert judge(name, records(REFUTED[name])).verdict is Verdict.FAILS


@pytest.mark.parametrize("name", [name for name in REFUTED if name != "exit-weights-same-order-as-printed"])
def test_one_seed_decides_nothing(name: str) -> None:
    for change in (lambda w, v: {}, REFUTED[name]):
        finding = judge(name, records(change, seeds=1))
        assert finding.verdict is Verdict.UNDECIDED
        assert "one seed" in finding.reason


@pytest.mark.parametrize("name", ["exit-weights-equal-is-best", "exit-weights-early-exits-help-most", "exit-weights-every-exit-helps"])
def test_noise_as_large_as_the_effect_leaves_it_open(name: str) -> None:
    assert judge(name, records(noise=0.05)).verdict is Verdict.UNDECIDED


def test_smoke_is_too_small_to_decide() -> None:
    small = [Record(Run("weights", r.run.parameters, "smoke", r.run.seed, "v1"), r.values, r.arrays, {}, r.path) for r in records()]
    assert {claim.judge(small).verdict for claim in CLAIMS} == {Verdict.UNDECIDED}


OF_PROBES = {"layers-probes-gain-early", *(name for name in REFUTED if name.startswith("exit-weights-"))}


@pytest.mark.parametrize("name", REFUTED)
def test_ridge_probes_do_not_decide_what_the_paper_says_of_its_probes(name: str) -> None:
    for change in (lambda w, v: {}, REFUTED[name]):
        found = records(change)
        ridge = [
            Record(Run("weights", {**r.run.parameters, "probe": "ridge"}, "gpu", r.run.seed, "v1"), r.values, r.arrays, {}, r.path)
            for r in found
        ]
        finding = judge(name, ridge)
        if name in OF_PROBES:
            assert finding.verdict is Verdict.UNDECIDED
            assert "ridge" in finding.reason
            assert finding.effect == judge(name, found).effect
        else:
            assert finding == judge(name, found)


def test_missing_weightings_are_named() -> None:
    finding = judge("exit-weights-equal-is-best", records(rows=MULTIPLE[:2]))
    assert finding.verdict is Verdict.NOT_RUN
    assert "0.2:0.1:0.3:0.4" in finding.reason
    assert judge("progressive-monotone", records(rows=[EQUAL])).verdict is Verdict.HOLDS


def test_a_seed_that_is_not_complete_waits() -> None:
    begun = [r for r in records() if r.run.seed < 2 or tuple(r.run.parameters["weights"]) == BASELINE]
    for name in REFUTED:
        assert judge(name, begun) == judge(name, records(seeds=2))
    apart = [r for r in records() if (r.run.seed == 0) == (tuple(r.run.parameters["weights"]) == BASELINE)]
    finding = judge("exit-weights-equal-is-best", apart)
    assert (finding.verdict, finding.reason) == (Verdict.NOT_RUN, "no seed with which all of the weightings were run yet")


def test_records_are_grouped_by_weights_and_only_shared_seeds_count() -> None:
    found = [r for r in records() if (tuple(r.run.parameters["weights"]), r.run.seed) != (EQUAL, 1)]
    grouped = by_weights(found[::-1])
    assert list(grouped) == list(TABLE)
    assert {tuple(r.run.seed for r in rs) for rs in grouped.values()} == {(0, 2)}


def test_rows_of_the_table() -> None:
    assert [len(rows) for rows in SINGLE] == [4, 4, 4]
    assert len(MULTIPLE) == 3
    assert EQUAL in MULTIPLE
    assert {BASELINE, *MULTIPLE, *(w for rows in SINGLE for w in rows)} == set(TABLE)


def test_share_of_the_position() -> None:
    by_position = np.arange(3.0)[:, None, None] * np.ones((3, 4, 2))
    by_weight = np.arange(4.0)[None, :, None] * np.ones((3, 4, 2))
    assert position_share(by_position) == pytest.approx([1, 1])
    assert position_share(by_weight) == pytest.approx([0, 0])
    assert position_share(by_position + by_weight) == pytest.approx([(2 / 3) / (2 / 3 + 5 / 4)] * 2)


def test_rank_agreement_of_the_same_and_the_opposite_order() -> None:
    values = np.arange(16.0)
    for other, expected in ((values**3, 1), (-values, -1)):
        rho, interval = rank_agreement(values, other)
        assert (rho, *interval) == pytest.approx([expected] * 3)
    rho, (low, high) = rank_agreement(values, np.random.default_rng(1).permutation(16).astype(float))
    assert low < rho < high


def test_largest_fall_sorts_by_cost() -> None:
    found = records()[0]
    macs, accuracy = np.array([3.0, 1.0, 2.0]), np.array([0.8, 0.7, 0.9])
    assert largest_fall(Record(found.run, {}, {"entropy": np.stack([macs, accuracy])}, {}, found.path)) == pytest.approx(10)


def test_intervals_of_a_few_seeds() -> None:
    from scipy.stats import t

    mean, (low, high) = mean_interval([1.0, 2.0, 3.0])
    expected = t.interval(0.95, 2, loc=2, scale=1 / np.sqrt(3))
    assert (mean, low, high) == pytest.approx((2, *expected))
    rows = np.array([[1.0, 1.1, 0.9], [2.0, 2.1, 1.9]])
    assert smallest_above(rows, 0.5, "").verdict is Verdict.HOLDS
    assert smallest_above(rows, 1.0, "").verdict is Verdict.UNDECIDED
    assert smallest_above(rows, 1.5, "").verdict is Verdict.FAILS
    assert smallest_above(rows[:1], 1.3, "").verdict is Verdict.FAILS
    assert smallest_above(np.repeat(rows, 20, axis=0), 1.3, "").verdict is Verdict.UNDECIDED  # forty intervals are wider than one
    below = largest_below(rows, 2.5, "")
    assert below.verdict is Verdict.HOLDS
    assert below.effect == pytest.approx(2)
    assert below.interval is not None
    assert below.interval[0] < 2 < below.interval[1]
    for ends, verdict in (((0.5, 1.5), Verdict.HOLDS), ((1, 2), Verdict.UNDECIDED), ((3, 4), Verdict.FAILS)):
        assert within(rows[0], *ends, "").verdict is verdict
