"""The spread of TPS against the number of subnetworks: by recomputation, by Monte Carlo, by the algebra."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torchvision.models import get_model

from tipslib.errors import InvalidInput
from tipslib.experiments import stability
from tipslib.experiments.coupling import node_degrees
from tipslib.experiments.stability import Parameters
from tipslib.profiles import PROFILES
from tipslib.records import Outcome
from tipslib.reporting.published import quoted
from tipslib.topology import NetworkGraph, all_paths, best_paths, count_paths, sample_subnetworks, tas, tps

QUICK = Parameters(network="resnet18", resolution=64, subnetworks=(2, 8, 16), runs=3, repeats=60, paths=3, moment_sample=2000)


@pytest.fixture(scope="module")
def graph() -> NetworkGraph:
    return NetworkGraph.from_module(get_model("resnet18", weights=None).eval(), (1, 3, 64, 64))


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return stability.run(QUICK, seed=3, profile=PROFILES["smoke"])


def test_defaults_are_the_papers() -> None:
    p = Parameters()
    assert p.subnetworks[0] == quoted("tips-fig6-subnetworks-min").value
    assert p.subnetworks[-1] == quoted("tips-fig6-subnetworks-max").value
    assert (p.runs, p.coupling, p.restart) == tuple(quoted(i).value for i in ("tips-fig6-runs", "tips-coupling", "tips-restart"))


@pytest.mark.parametrize(
    "wrong",
    [
        {"subnetworks": ()},
        {"subnetworks": (0, 2)},
        {"subnetworks": (4, 2)},
        {"runs": 1},
        {"repeats": 5},
        {"coupling": 1.1},
        {"coupling": -0.1},
        {"restart": 1.0},
        {"paths": 0},
        {"moment_sample": 1},
        {"resolution": 8},
    ],
)
def test_impossible_parameters_are_named(wrong: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Parameters(**wrong)


def test_first_run_is_that_of_the_chain(graph: NetworkGraph, outcome: Outcome) -> None:
    masks = sample_subnetworks(graph, 2, rng=np.random.default_rng(3))
    paths = [all_paths(graph)[path["path"]] for path in outcome.values["followed"]]
    for strength in (0.0, 0.3, 1.0):
        expected = [tps(tas(graph, masks, strength, 1e-5), path) for path in paths]
        found = stability.run_scores(outcome.values, outcome.arrays, QUICK.subnetworks, [strength] * 3, 1e-5)[0, 0]
        np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert outcome.values["formula_agrees"]


def test_paths_followed_go_from_shortest_to_longest(graph: NetworkGraph, outcome: Outcome) -> None:
    lengths = count_paths(graph)
    assert {entry["nodes"]: entry["paths"] for entry in outcome.values["lengths"]} == lengths
    followed = [path["nodes"] for path in outcome.values["followed"]]
    assert followed == sorted(followed)
    assert (followed[0], followed[-1], len(followed)) == (min(lengths), max(lengths), 3)
    best = best_paths(graph, tas(graph, np.ones((1, len(graph.operations)), dtype=bool)))
    scores = tas(graph, np.ones((1, len(graph.operations)), dtype=bool))
    for path in outcome.values["followed"]:
        assert tps(scores, all_paths(graph)[path["path"]]) == pytest.approx(best[path["nodes"]].score, rel=1e-12)


def test_winners_have_the_highest_score_of_their_length(graph: NetworkGraph, outcome: Outcome) -> None:
    masks = sample_subnetworks(graph, 2, rng=np.random.default_rng(3))
    scores, paths = tas(graph, masks), all_paths(graph)
    best = best_paths(graph, scores)
    for winner, length in zip(outcome.arrays["best_of_length"][0, 0], best, strict=True):
        assert len(paths[winner]) == length
        assert tps(scores, paths[winner]) == pytest.approx(best[length].score, rel=1e-12)
    chosen = paths[outcome.arrays["best_per_node"][0, 0]]
    assert tps(scores, chosen) / len(chosen) == pytest.approx(max(path.score / len(path.nodes) for path in best.values()), rel=1e-12)


def test_prediction_is_what_independent_draws_give(graph: NetworkGraph, outcome: Outcome) -> None:
    singles = node_degrees(graph, sample_subnetworks(graph, 4000, rng=np.random.default_rng(0)))
    member = np.zeros((3, len(graph)))
    for row, path in zip(member, outcome.values["followed"], strict=True):
        row[all_paths(graph)[path["path"]]] = 1
    degrees = singles.reshape(500, 8, -1).sum(axis=1)
    arrays = {"path_degrees": (degrees @ member.T)[None], "all_degrees": degrees.sum(axis=1)[None]}
    for strength in (0.0, 0.2, 1.0):
        measured = stability.spread_percent(stability.run_scores(outcome.values, arrays, [8], [strength], 1e-5))[0]
        predicted = stability.predicted_spread(outcome.values, [8], [strength], 1e-5)[0]
        np.testing.assert_allclose(predicted, measured, rtol=0.12, atol=1e-9)


def test_prediction_falls_as_the_algebra_says(outcome: Outcome) -> None:
    counts = np.array([400, 800])
    for strengths, power in (([0.0, 0.0], -0.5), ([1.0, 1.0], -1.5), (1 / (counts - 1), -0.5)):
        spread = stability.predicted_spread(outcome.values, counts.tolist(), list(strengths), 0.0)
        np.testing.assert_allclose(np.log2(spread[1, :2] / spread[0, :2]), power, atol=0.01)


def test_path_through_every_node_always_scores_one() -> None:
    small = Parameters(subnetworks=(2, 4), runs=2, repeats=4, moment_sample=100)
    found = stability.run(small, seed=0, profile=PROFILES["smoke"])
    assert found.values["followed"][-1]["nodes"] == found.values["nodes"] == 65
    np.testing.assert_allclose(stability.run_scores(found.values, found.arrays, (2, 4), (0.0, 1.0), 1e-5)[..., -1], 1, rtol=1e-12)


@given(st.floats(0.1, 10), st.integers(2, 30))
def test_spread_does_not_depend_on_the_unit(factor: float, runs: int) -> None:
    scores = np.random.default_rng(runs).uniform(1, 2, (2, runs, 3))
    np.testing.assert_allclose(stability.spread_percent(factor * scores), stability.spread_percent(scores), rtol=1e-9)


def test_spread_of_known_numbers() -> None:
    assert stability.spread_percent(np.array([[[9.0], [11.0]]]))[0, 0] == pytest.approx(10 * np.sqrt(2))


def test_ties_are_broken_evenly() -> None:
    rng = np.random.default_rng(0)
    drawn = [stability.best_by_lot(np.array([9.0, 1.0, 2.0, 2.0]), np.array([1, 2, 3]), rng) for _ in range(400)]
    assert set(drawn) == {2, 3}
    assert 150 < drawn.count(2) < 250


def test_run_repeats_itself(outcome: Outcome) -> None:
    again = stability.run(QUICK, seed=3, profile=PROFILES["smoke"])
    assert again.values == outcome.values
    assert all(np.array_equal(again.arrays[k], outcome.arrays[k]) for k in outcome.arrays)
