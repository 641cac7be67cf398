"""Each claim of the experiment `similarity`, on made-up records that support it and on some that do not."""

from pathlib import Path

import numpy as np
import pytest

from tipslib.experiments.similarity import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.similarity import CLAIMS, best_match, lean, shifts

BY_ID = {claim.id: claim for claim in CLAIMS}
LAYERS = 18


def moved(by: int, peak: float = 1.0, floor: float = 0.3) -> np.ndarray:
    """Similarity that falls with the distance from the diagonal moved up by `by`: layer j of the second is like j + by of the first."""
    i, j = np.indices((LAYERS, LAYERS))
    return floor + (peak - floor) * np.exp(-np.abs(i - np.minimum(j + by, LAYERS - 1)) / 4)


def branched(by: int, early: float = 0.95, rest: float = 0.85) -> np.ndarray:
    """As `moved`, with a peak for the early layers and one for the rest."""
    return np.where(np.arange(LAYERS) < 5, moved(by, early), moved(by, rest))


def record(
    seed: int = 0, plain: np.ndarray | None = None, other: np.ndarray | None = None, bias: float = 0.02, profile: str = "gpu"
) -> Record:
    plain = moved(0, 0.99) if plain is None else plain
    other = branched(2) if other is None else other
    noise = 1e-4 * np.random.default_rng(seed).standard_normal()
    arrays = {}
    for name, found in (("plain", plain), ("branched", other)):
        arrays |= {f"{name} biased": found + noise, f"{name} debiased": found + noise - bias}
    return Record(Run("similarity", to_json(Parameters()), profile, seed, "v1"), {"batch": 128}, arrays, {}, Path("made-up.json"))


def judge(name: str, **given: object) -> Finding:
    return BY_ID[name].judge([record(seed, **given) for seed in range(3)])  # type: ignore[arg-type]


REFUTED = {
    "similarity-own-counterpart": {"plain": moved(3)},
    "similarity-below-plain-pair": {"plain": moved(0, 0.8)},
    "similarity-peak": {"other": branched(2, early=0.8)},
    "similarity-rest": {"other": branched(2, rest=0.7)},
    "similarity-moves-earlier": {"other": branched(0), "plain": moved(1, 0.99)},
    "similarity-biased-overstates": {"bias": -0.05},
}


def test_every_claim_is_tested_here() -> None:
    assert set(REFUTED) == set(BY_ID)
    assert {claim.page for claim in CLAIMS} == {"similarity"}


@pytest.mark.parametrize("name", REFUTED)
def test_what_the_paper_says_holds_on_records_that_say_so(name: str) -> None:
    finding = judge(name)
    assert finding.verdict is Verdict.HOLDS, finding.reason
    assert finding.seeds == 3


@pytest.mark.parametrize("name", REFUTED)
def test_and_does_not_on_records_that_say_otherwise(name: str) -> None:
    assert judge(name, **REFUTED[name]).verdict is Verdict.FAILS


@pytest.mark.parametrize("name", REFUTED)
def test_one_seed_decides_nothing_and_smoke_neither(name: str) -> None:
    assert BY_ID[name].judge([record()]).verdict is Verdict.UNDECIDED
    assert BY_ID[name].judge([record(seed, profile="smoke") for seed in range(3)]).verdict is Verdict.UNDECIDED


def test_rest_may_be_too_similar_as_well() -> None:
    assert judge("similarity-rest", other=branched(2, rest=0.93)).verdict is Verdict.FAILS


def test_shift_is_what_the_diagonal_was_moved_by() -> None:
    assert (shifts(moved(0)) == 0).all()
    assert (shifts(moved(3))[: LAYERS - 3] == 3).all()
    assert shifts(moved(3))[-1] == 0


def test_lean_has_the_sign_of_the_shift() -> None:
    assert lean(moved(0)) == pytest.approx(0)
    assert lean(moved(2)) > 0
    assert lean(moved(2).T) == pytest.approx(-lean(moved(2)))


def test_best_match_is_that_of_the_second_network() -> None:
    found = moved(0)
    found[:, 4] = 0.1
    found[7, 4] = 0.2
    assert best_match(found)[4] == pytest.approx(0.2)
