"""Every claim on Prop. 3.1 on made-up records, for which the answer is known: it must be able to say both."""

from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tipslib.experiments.proposition import DEGREES, MEASURES
from tipslib.records import Record, Run
from tipslib.reporting.claims import Verdict
from tipslib.reporting.claims.proposition import CLAIMS, holm

BY_ID = {claim.id: claim for claim in CLAIMS}
PATHS = 40
RATIOS = np.array([1.0, 4.0, 16.0])


def record(profile: str = "laptop", seed: int = 0, variance: float = 1 / 320, networks: tuple[int, ...] = (80, 100), **changes) -> Record:
    """A record in which every claim holds, but for `changes`: `arrays` entries by name, or entries of each depth's summary."""
    score = np.linspace(0.2, 0.3, PATHS)
    arrays = dict.fromkeys(("tps", "tps_supernet", "jacobian", *MEASURES), score * 3) | dict.fromkeys(DEGREES, score * 300)
    arrays["degree_network"] = score * np.linspace(1, 9000, PATHS)
    arrays |= {name: values for name, values in changes.items() if name in arrays}
    depths = []
    for depth in networks:
        summary = {
            "layers": depth,
            "construction": {"pearson": 1.0, "formula_error": 0.0, "concordant": 1.0, "pairs": 780},
            "ranks": {name: {"spearman": [0.9, 0.8, 0.95], "concordant": 1.0, "pairs": 780, "concordant_within": 0.5} for name in MEASURES},
            "inside_bounds": {name: dict.fromkeys(DEGREES, 1.0) for name in MEASURES},
        }
        for name, values in changes.items():
            if isinstance(values, dict):
                summary[name] |= values
        depths.append(summary)
    columns = {name: np.tile(values, len(networks)) for name, values in arrays.items()} | {"depth": np.repeat(networks, PATHS)}
    columns |= {"gaussian_ratio": RATIOS, "gaussian_mean": changes.get("gaussian_mean", np.sqrt(RATIOS) - 0.1)}
    values = {"variance": variance, "largest_variance": 1 / 320, "depths": depths}
    run = Run("proposition", {"width": 80}, profile, seed, "v1")
    return Record(run, values, columns, {}, Path("none.json"))


def ranks(measure: str, **values) -> dict:
    return {measure: {"spearman": [0.9, 0.8, 0.95], "concordant": 0.9, "pairs": 780, "concordant_within": 0.5} | values}


FALLING = np.linspace(0.9, 0.6, PATHS)
BROKEN = {
    "tips-fig5a-order": {"construction": {"concordant": 0.99}},
    "companion-fig5a-line": {"construction": {"pearson": 0.9}},
    "tips-prop31-always": {"ranks": ranks("released", concordant=0.93)},
    **{f"tips-prop31-order-{m}": {"ranks": ranks(m, spearman=[-0.9, -0.95, -0.8]), m: FALLING} for m in MEASURES},
    **{f"tips-prop31-one-{m}": {m: np.linspace(0.5, 1.01, PATHS)} for m in MEASURES},
    "tips-eq11-gaussian": {"gaussian_mean": np.sqrt(RATIOS) + 2},
    "tips-eq11-paths": {"inside_bounds": {"network": dict.fromkeys(DEGREES, 0.4)}},
    "tips-prop31-wide": {name: np.linspace(80, 81, PATHS) for name in DEGREES},
    "tips-eq18-degree": {name: np.linspace(80, 81, PATHS) for name in DEGREES},
}


def test_every_claim_is_tried_both_ways():
    assert set(BROKEN) == set(BY_ID)


@pytest.mark.parametrize("name", BY_ID)
def test_the_claim_holds_where_it_should(name):
    finding = BY_ID[name].judge([record(), record(seed=1)])
    assert finding.verdict is Verdict.HOLDS, finding
    assert finding.seeds == 2
    assert finding.effect is not None


@pytest.mark.parametrize("name", BY_ID)
def test_the_claim_fails_where_it_should(name):
    first = record(**BROKEN[name]) if name == "tips-prop31-wide" else record()  # that claim asks whether any path is wide enough
    finding = BY_ID[name].judge([first, record(seed=1, **BROKEN[name])])
    assert finding.verdict is Verdict.FAILS, finding
    assert finding.reason


@pytest.mark.parametrize("name", BY_ID)
def test_without_records_nothing_is_said(name):
    assert BY_ID[name].judge([]).verdict is Verdict.NOT_RUN


def test_a_formula_that_errs_breaks_the_line():
    finding = BY_ID["companion-fig5a-line"].judge([record(construction={"formula_error": 1e-6})])
    assert finding.verdict is Verdict.FAILS


@pytest.mark.parametrize("measure", MEASURES)
def test_an_ordering_without_a_sign_is_undecided(measure):
    noise = np.random.default_rng(0).normal(size=PATHS)
    finding = BY_ID[f"tips-prop31-order-{measure}"].judge([record(ranks=ranks(measure, spearman=[0.1, -0.2, 0.4]), **{measure: noise})])
    assert finding.verdict is Verdict.UNDECIDED
    assert finding.interval == (-0.2, 0.4)


def test_one_reversed_depth_of_many_must_survive_the_correction():
    """A correlation that is negative at p = .03 on its own is not, among four networks."""
    rng = np.random.default_rng(3)
    score = record().arrays["tps"][:PATHS]
    while not 0.02 < stats.spearmanr(score, values := rng.normal(size=PATHS), alternative="less").pvalue < 0.04:
        pass
    claim = BY_ID["tips-prop31-order-layers"]
    weak = {"ranks": ranks("layers", spearman=[-0.3, -0.6, 0.01]), "layers": values}
    assert claim.judge([record(networks=(80,), **weak)]).verdict is Verdict.FAILS
    assert (
        claim.judge([record(networks=(80, 100)), record(networks=(80,), seed=1), record(networks=(80,), seed=2, **weak)]).verdict
        is Verdict.UNDECIDED
    )


@pytest.mark.parametrize("name", [f"tips-prop31-{kind}-{m}" for kind in ("order", "one") for m in MEASURES])
def test_too_large_a_variance_leaves_the_premise_unmet(name):
    finding = BY_ID[name].judge([record(variance=1 / 80, **BROKEN[name])])
    assert finding.verdict is Verdict.UNDECIDED
    assert "exceeds" in finding.reason


def test_figure_5a_is_about_mnist():
    finding = BY_ID["tips-fig5a-order"].judge([record(profile="smoke")])
    assert finding.verdict is Verdict.UNDECIDED
    assert "too small" in finding.reason


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9]).tolist() == [0.9]
    assert holm([0.5, 0.6]).tolist() == [1.0, 1.0]


def test_identifiers_are_unique_and_belong_here():
    assert len(BY_ID) == len(CLAIMS)
    assert all(claim.experiment == "proposition" for claim in CLAIMS)
