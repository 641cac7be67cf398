"""Each claim of the backbones experiment, on made-up records that support it and on some that do not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tipslib.experiments.backbones import VARIANTS, Parameters
from tipslib.parameters import parse, to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.backbones import CLAIMS
from tipslib.reporting.modes import bound, exit_saving, variant

BY_ID = {claim.id.removeprefix("backbones-"): claim for claim in CLAIMS}
EXACT = {"width-square", "width-thinning", "exits-range"}
SEEDS = (0, 1, 2)

Peak = Callable[[Parameters], float]


def standard_peak(p: Parameters) -> float:
    """Every sentence of section 4 is true of this one."""
    if p.weights is not None:
        return 0.953
    by_width = {0.25: 0.90, 0.5: 0.949, 1.0: 0.95, 2.5: 0.951}[p.relative_width]
    by_depth = {10: -0.03, 18: 0.0, 34: 0.004, 50: 0.005}[p.depth]
    return by_width + by_depth - (0.02 if p.exits == 8 else 0.0)


def record(p: Parameters, seed: int, profile: str, peak: Peak, cheap: float, area: float, macs: list[int], first: float) -> Record:
    """Three modes: the first exit, one within the bound at the share `cheap` of all MACs, and the peak at all of them."""
    top = peak(p) + 1e-4 * seed
    entropy = np.array([[0.1, cheap, 1.0], [first, top - 0.003, top]]) * np.array([[macs[-1]], [1.0]])
    values = {
        "macs": macs,
        "macs_at_full_size": macs,
        "samples": 10_000,
        "accuracy": [first + 1e-4 * seed] * p.exits,
        "progressiveness": {"entropy": area + 1e-4 * seed},
    }
    return Record(Run("backbones", to_json(p), profile, seed, "v1"), values, {"entropy": entropy}, {}, Path("made-up.json"))


def world(
    profile: str = "laptop",
    peak: Peak = standard_peak,
    cheap: Callable[[Parameters], float] = lambda p: 0.5 if p.relative_width > 0.3 else 0.9,
    area: Callable[[Parameters], float] = lambda p: 0.7 - (0.05 if p.exits == 3 or p.weights else 0.0),
    last: Callable[[Parameters], int] = lambda p: round(1e8 * p.relative_width**2),
    first: Callable[[Parameters], float] = lambda p: 0.8 - 0.05 * p.exits,
    share: Callable[[Parameters], float] = lambda p: 1 / p.exits,
    seeds: tuple[int, ...] = SEEDS,
) -> list[Record]:
    found = []
    for overrides in VARIANTS:
        p = parse(Parameters, overrides)
        macs = [round(share(p) * last(p)), last(p)]
        found += [record(p, seed, profile, peak, cheap(p), area(p), macs, first(p)) for seed in seeds]
    return found


def judge(name: str, records: list[Record]) -> Finding:
    return BY_ID[name].judge(records)


@pytest.mark.parametrize("name", BY_ID)
def test_where_the_paper_is_right_every_claim_holds(name: str) -> None:
    assert judge(name, world()).verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("weights-rising", world(peak=lambda p: standard_peak(p) - (0.01 if p.weights else 0.0))),
        ("weights-sharpest", world(area=lambda p: 0.75 if p.weights else 0.7)),
        ("weights-matched", world(peak=lambda p: standard_peak(p) + (0.03 if p.weights else 0.0))),
        ("width-square", world(last=lambda p: round(1e8 * p.relative_width))),
        ("width-thinning", world(last=lambda p: round(1e8 * (p.relative_width if p.relative_width > 1 else p.relative_width**2)))),
        ("width-half", world(peak=lambda p: standard_peak(p) - (0.03 if p.relative_width == 0.5 else 0.0))),
        ("width-quarter", world(peak=lambda p: 0.948 if p.relative_width == 0.25 else standard_peak(p))),
        ("width-larger", world(peak=lambda p: 0.99 if p.relative_width == 2.5 else standard_peak(p))),
        ("width-exiting", world(cheap=lambda p: 0.2)),
        ("width-benefit", world(cheap=lambda p: 0.3 if p.relative_width < 0.3 else 0.5)),
        ("depth-returns", world(peak=lambda p: {10: 0.9, 18: 0.91, 34: 0.95, 50: 0.955}[p.depth])),
        ("exits-range", world(share=lambda p: 0.1 * p.exits)),
        ("exits-reduced", world(first=lambda p: 0.1 * p.exits)),
        ("exits-peak", world(peak=lambda p: standard_peak(p) - (0.03 if p.exits == 7 else 0.0))),
        ("exits-eight", world(peak=lambda p: 0.95 if p.exits == 8 else standard_peak(p))),
        ("exits-fewer", world(area=lambda p: 0.8 if p.exits == 3 else 0.7)),
    ],
)
def test_where_it_is_wrong_the_claim_does_not_hold(name: str, wrong: list[Record]) -> None:
    assert judge(name, wrong).verdict is Verdict.FAILS


def test_smoke_decides_what_is_exact_and_nothing_else() -> None:
    records = world("smoke", seeds=(0,))
    for name in BY_ID:
        assert judge(name, records).verdict is (Verdict.HOLDS if name in EXACT else Verdict.UNDECIDED)


def test_one_seed_gives_no_interval() -> None:
    finding = judge("width-half", world(seeds=(0,)))
    assert finding.verdict is Verdict.UNDECIDED
    assert "one seed gives no interval" in finding.reason


def test_missing_backbones_are_named_and_decide_nothing() -> None:
    some = [r for r in world() if r.run.parameters["exits"] != 8 and r.run.parameters["depth"] != 50]
    assert "no run yet with exits = 8" in judge("exits-range", some).reason
    assert "no run yet with depth = 50" in judge("depth-returns", some).reason
    assert judge("depth-returns", some).verdict is Verdict.NOT_RUN
    assert judge("width-square", some).verdict is Verdict.HOLDS


def test_only_seeds_that_all_backbones_have_count() -> None:
    some = [r for r in world() if not (r.run.parameters["depth"] == 50 and r.run.seed == 2)]
    assert judge("depth-returns", some) == judge("depth-returns", [r for r in some if r.run.seed < 2])
    apart = [r for r in world() if (r.run.parameters["depth"] == 50) == (r.run.seed == 2)]
    finding = judge("depth-returns", apart)
    assert (finding.verdict, finding.seeds) == (Verdict.NOT_RUN, 0)
    assert "same seeds" in finding.reason


def test_no_record_is_not_run() -> None:
    assert {claim.judge([]).verdict for claim in CLAIMS} == {Verdict.NOT_RUN}


def test_measures_of_one_record() -> None:
    one = variant(world(), relative_width=2.5)[0]
    assert bound(one) == pytest.approx(300 * (0.951 * 0.049 / 10_000) ** 0.5)
    assert exit_saving(one) == pytest.approx(50)
    assert [r.run.seed for r in variant(world()[::-1])] == list(SEEDS)
