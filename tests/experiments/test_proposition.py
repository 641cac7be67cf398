"""The experiment on Prop. 3.1: its paths, scores, degrees and statistics against brute force, scipy and algebra."""

import itertools
import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tipslib import experiments
from tipslib.errors import InvalidInput
from tipslib.experiments import proposition
from tipslib.experiments.proposition import MEASURES, Parameters
from tipslib.profiles import get_profile
from tipslib.topology import NetworkGraph, sample_subnetworks, tas, tps
from tipslib.topology.degrees import average_degree, singular_value_bounds
from tipslib.topology.isometry import Route

SMALL = Parameters(data="digits", layers=(16, 20), width=6, nodes=10, paths=40, images=3, resamples=100)


@pytest.fixture(scope="module")
def outcome():
    return proposition.run(SMALL, seed=0, profile=get_profile("smoke"))


@given(st.integers(3, 12), st.integers(4, 30))
def test_expansions_are_those_that_fit(blocks, nodes):
    fitting = [c for c in range(nodes + 1) if nodes - 3 * c >= 0 and nodes - 2 * c <= blocks - 1]
    assert list(proposition.expansions(blocks, nodes)) == fitting


@given(st.integers(0, 10_000))
@settings(max_examples=30)
def test_paths_are_paths_of_the_graph(seed):
    blocks, nodes = 7, 10
    graph = NetworkGraph.mlp(2 * blocks, 4)
    edges = set(zip(graph.sources.tolist(), graph.targets.tolist(), strict=True))
    routes = proposition.draw_routes(blocks, nodes, 8, np.random.default_rng(seed))
    paths = proposition.path_nodes(routes)
    assert paths.shape == (8, nodes)
    assert all((a, b) in edges for path in paths.tolist() for a, b in itertools.pairwise(path))
    assert paths.max() < len(graph) - 1
    assert (routes[:, -1] == Route.ABSENT).all()


def test_paths_are_drawn_evenly():
    blocks, nodes, count = 5, 6, 30_000
    routes = proposition.draw_routes(blocks, nodes, count, np.random.default_rng(0))
    seen = Counter(map(tuple, routes.tolist()))
    by_expanded = Counter(int((np.array(route) == Route.LAYERS).sum()) for route in seen)
    # c' = 1: 4 blocks, in 4 orders, at 1 place; c' = 2: 2 blocks at 3 places
    assert by_expanded == {1: 4, 2: 3}
    expected = [count / 2 / by_expanded[int((np.array(route) == Route.LAYERS).sum())] for route in seen]
    assert stats.chisquare(list(seen.values()), expected).pvalue > 1e-4


@pytest.mark.parametrize("restart", [0.0, 1e-5, 0.1])
def test_supernet_scores_follow_from_counting(restart):
    blocks, nodes = 9, 12
    graph = NetworkGraph.mlp(2 * blocks, 4)
    routes = proposition.draw_routes(blocks, nodes, 50, np.random.default_rng(1))
    scores = tas(graph, sample_subnetworks(graph, 1, rng=np.random.default_rng(0)), 1.0, restart)
    expanded = (routes == Route.LAYERS).sum(axis=1)
    np.testing.assert_allclose(
        tps(scores, proposition.path_nodes(routes)), proposition.supernet_tps(blocks, nodes, expanded, restart), rtol=1e-12
    )


def test_degrees_count_the_links_of_the_drawn_networks():
    width = 5
    routes = [Route.SKIP, Route.LAYERS, Route.LAYERS, Route.SKIP]
    expanded, nodes = 2, 3 * 2 + 2
    entering = {Route.SKIP: [width + 1], Route.LAYERS: [width, width + 1]}
    in_supernet = [links for route in routes for links in entering[route]]
    spanned = {Route.SKIP: [1], Route.LAYERS: [width, width + 1]}
    in_network = [links for route in routes for links in spanned[route]]
    layers, network = proposition.degrees(width, nodes, np.array([expanded]))
    assert layers[0] == pytest.approx(np.mean(in_supernet), rel=1e-14)
    assert network[0] == pytest.approx(np.mean(in_network), rel=1e-14)


def test_degrees_of_a_path_through_all_layers_follow_figure_3():
    layers, network = proposition.degrees(7, 9, np.array([3]))
    exact = average_degree((7,) * 7, [(0, 2), (2, 4), (4, 6)])
    assert layers[0] == pytest.approx(exact, rel=1e-14)
    assert network[0] == pytest.approx(exact, rel=1e-14)


@given(st.integers(0, 1000), st.booleans())
@settings(max_examples=25)
def test_rank_correlations_are_scipys(seed, tied):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(2, 4, 12))
    if tied:
        x, y = np.round(x), np.round(y)
    for row, (rho, tau) in enumerate(zip(proposition.spearman(x, y), proposition.kendall(x, y), strict=True)):
        assert rho == pytest.approx(stats.spearmanr(x[row], y[row]).statistic, abs=1e-12)
        assert tau == pytest.approx(stats.kendalltau(x[row], y[row]).statistic, abs=1e-12)


def test_concordance_by_hand():
    scores, values = np.array([1.0, 2, 2, 3]), np.array([0.0, 5, 1, 2])
    assert proposition.concordance(scores, values) == (4 / 5, 5)
    assert proposition.concordance(scores, values, groups=np.array([0, 0, 1, 1])) == (1.0, 2)
    assert proposition.concordance(scores, -values)[0] == pytest.approx(1 / 5)
    assert proposition.concordance(np.ones(3), np.arange(3.0)) == (1.0, 0)


def test_gaussian_matrices_lie_within_the_bounds():
    ratio, mean = proposition.gaussian_means(40, np.random.default_rng(0))
    low, high = singular_value_bounds(1.0, ratio, 1.0)
    assert ((low < mean) & (mean < high)).all()
    assert mean[0] == pytest.approx(8 / (3 * np.pi), abs=0.03)


@pytest.mark.parametrize(("name", "value"), [("lecun", 1 / 80), ("he", 2 / 80), ("proposition", 1 / (np.sqrt(81) + np.sqrt(80)) ** 2)])
def test_initial_variances(name, value):
    assert proposition.initial_variance(name, 80) == pytest.approx(value, rel=1e-12)


def test_the_outcome_is_whole(outcome):
    json.dumps(outcome.values, allow_nan=False)
    count = len(SMALL.layers) * SMALL.paths
    for name in ("depth", "expanded", "tps", "tps_supernet", "jacobian", "degree_layers", "degree_network", *MEASURES):
        assert outcome.arrays[name].shape == (count,)
        assert np.isfinite(outcome.arrays[name]).all()
    assert list(outcome.data) == ["digits"]
    assert outcome.values["pixels"] == 64
    assert [depth["supernet_degree"] for depth in outcome.values["depths"]] == [6.5, 6.5]


def test_the_released_construction_is_what_the_algebra_says(outcome):
    """E[sigma] = 1 - c' (3 - sigma_bar) / D with 0 < sigma_bar, and TPS falls with c': FACTS of the construction."""
    arrays = outcome.arrays
    implied = 3 - (1 - arrays["released"]) * SMALL.nodes / np.maximum(arrays["expanded"], 1)
    crossed = arrays["expanded"] > 0
    assert ((implied[crossed] > 0) & (implied[crossed] < 1)).all()
    for depth in outcome.values["depths"]:
        assert depth["construction"]["formula_error"] < 1e-11
        assert depth["construction"]["pearson"] > 0.99


def test_paths_with_equal_counts_tie_on_the_supernet(outcome):
    for layers in SMALL.layers:
        here = outcome.arrays["depth"] == layers
        assert len(set(outcome.arrays["tps_supernet"][here])) == len(set(outcome.arrays["expanded"][here]))


def test_intervals_hold_their_estimates(outcome):
    for depth in outcome.values["depths"]:
        for found in depth["ranks"].values():
            for name in ("spearman", "kendall"):
                estimate, low, high = found[name]
                assert -1 <= low <= estimate <= high <= 1


def test_every_depth_is_measured_on_its_own(outcome):
    alone = proposition.run(Parameters(**{**vars(SMALL), "layers": (20,)}), seed=0, profile=get_profile("smoke"))
    assert alone.values["depths"] == [outcome.values["depths"][1]]
    np.testing.assert_array_equal(alone.arrays["network"], outcome.arrays["network"][SMALL.paths :])


def test_seeds_differ(outcome):
    other = proposition.run(SMALL, seed=1, profile=get_profile("smoke"))
    assert not np.array_equal(other.arrays["tps"], outcome.arrays["tps"])


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"layers": []}, "layers"),
        ({"layers": [80, 80]}, "layers"),
        ({"layers": [81]}, "even number"),
        ({"layers": [10]}, "fewer nodes or more layers"),
        ({"nodes": 3}, "nodes"),
        ({"width": 1}, "width"),
        ({"subnetworks": 1}, "subnetworks"),
        ({"coupling": 1.5}, "lambda"),
        ({"coupling": -0.1}, "lambda"),
        ({"restart": 1.0}, "kappa"),
        ({"paths": 5}, "paths"),
        ({"images": 0}, "images"),
        ({"resamples": 10}, "resamples"),
        ({"variance": "xavier"}, "variance"),
        ({"data": "cifar10"}, "data"),
        ({"depth": 3}, "no parameter"),
    ],
)
def test_impossible_parameters_are_refused_before_any_work(values, words):
    with pytest.raises(InvalidInput, match=words):
        experiments.plan("proposition", profile="smoke", **values)


def test_more_images_than_there_are_are_refused():
    with pytest.raises(InvalidInput, match="images"):
        proposition.run(Parameters(**{**vars(SMALL), "images": 10_000}), seed=0, profile=get_profile("smoke"))
