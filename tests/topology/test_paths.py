"""Paths: against enumeration by networkx, exact counts, uniform draws, and MobileNet-v2's important path."""

from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from math import comb

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from tipslib.errors import InvalidInput
from tipslib.topology import (
    NetworkGraph,
    all_paths,
    best_paths,
    count_paths,
    important_operations,
    important_path,
    sample_paths,
    sample_subnetworks,
    tas,
    tps,
)
from tipslib.topology.draws import uniform_below

RandomGraph = Callable[..., NetworkGraph]
THREE_SKIPS = NetworkGraph.mlp(6, 2)


def by_networkx(graph: NetworkGraph) -> list[tuple[int, ...]]:
    """Paths as sequences of operations, so that parallel operations make different ones."""
    network = nx.MultiDiGraph()
    network.add_edges_from((o.source, o.target, i) for i, o in enumerate(graph.operations))
    return [tuple(key for _, _, key in path) for path in nx.all_simple_edge_paths(network, 0, len(graph) - 1)]


def nodes_of(graph: NetworkGraph, operations: tuple[int, ...]) -> list[int]:
    return [0, *(graph.operations[i].target for i in operations)]


@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(2, 8), extra=st.integers(0, 8), integers=st.booleans())
@settings(max_examples=120)
def test_best_paths_counts_and_ties_agree_with_enumeration(
    random_graph: RandomGraph, seed: int, nodes: int, extra: int, integers: bool
) -> None:
    """Whole scores make ties; they must be found although sums differ by rounding once divided by 7."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, nodes=nodes, extra=extra)
    scores = rng.integers(1, 4, nodes) / 7 if integers else rng.random(nodes)
    expected: dict[int, list[float]] = {}
    for operations in by_networkx(graph):
        path = nodes_of(graph, operations)
        expected.setdefault(len(path), []).append(scores[path].sum())
    assert count_paths(graph) == {length: len(found) for length, found in sorted(expected.items())}
    best = best_paths(graph, scores)
    assert list(best) == sorted(expected)
    for length, path in best.items():
        highest = max(expected[length])
        assert path.nodes.shape == (length,)
        assert path.score == pytest.approx(highest, rel=1e-12)
        assert tps(scores, path.nodes) == pytest.approx(highest, rel=1e-12)
        assert path.ties == sum(score > highest * (1 - 1e-11) for score in expected[length])
        assert nodes_of(graph, tuple(path.operations.tolist())) == path.nodes.tolist()
        assert [graph.operations[i].source for i in path.operations] == path.nodes[:-1].tolist()


@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(2, 8), extra=st.integers(0, 8))
@settings(max_examples=50)
def test_all_paths_are_all(random_graph: RandomGraph, seed: int, nodes: int, extra: int) -> None:
    graph = random_graph(np.random.default_rng(seed), nodes=nodes, extra=extra)
    expected = Counter(tuple(nodes_of(graph, operations)) for operations in by_networkx(graph))
    assert Counter(tuple(path.tolist()) for path in all_paths(graph)) == expected


@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(2, 8), extra=st.integers(0, 8))
@settings(max_examples=80)
def test_important_operations_have_the_highest_score_per_node(random_graph: RandomGraph, seed: int, nodes: int, extra: int) -> None:
    rng = np.random.default_rng(seed)
    graph, scores = random_graph(rng, nodes=nodes, extra=extra), rng.random(nodes)
    important = important_operations(graph, scores)
    assert important.dtype == np.bool_
    assert important.shape == (len(graph.operations),)
    path = nodes_of(graph, tuple(np.flatnonzero(important)[np.argsort(graph.targets[important])].tolist()))
    assert scores[path].mean() == pytest.approx(max(scores[nodes_of(graph, p)].mean() for p in by_networkx(graph)), rel=1e-12)


def test_mobilenet_paths_collapse_to_one_value_per_length(mobilenet: NetworkGraph) -> None:
    """On the full supernet 1024 paths have 11 values, one per D, and TPS / D is highest over all skip edges."""
    scores = tas(mobilenet, sample_subnetworks(mobilenet, 1, np.random.default_rng(0)))
    expected = {35 + 3 * expanded: comb(10, expanded) for expanded in range(11)}
    assert count_paths(mobilenet) == expected
    best = best_paths(mobilenet, scores)
    assert {length: path.ties for length, path in best.items()} == expected
    assert len({round(tps(scores, path), 12) for path in all_paths(mobilenet)}) == 11
    longest = max(best.values(), key=lambda path: path.score)
    assert len(longest.nodes) == 65
    names = [operation.name for operation in mobilenet.operations]
    important = {name for name, chosen in zip(names, important_operations(mobilenet, scores), strict=True) if chosen}
    residual = {name.partition(".add")[0] for name in names if ".add(" in name}
    assert len(important_path(mobilenet, scores).nodes) == 35
    assert important == {name for name in names if not any(name.startswith(f"{block}.") for block in residual)} | {
        name for name in names if ".add(" in name and not name.endswith(f"({name.partition('.add')[0]}.conv.2)")
    }


def test_equal_rates_take_the_shortest_path(two_paths: NetworkGraph) -> None:
    assert important_path(two_paths, [0.1, 0.1, 0.1]).nodes.tolist() == [0, 2]
    assert important_operations(two_paths, [0.1, 0.1, 0.1]).tolist() == [False, True, False]
    assert important_operations(two_paths, [0.1, 0.2, 0.1]).tolist() == [True, False, True]


def test_equal_paths_take_the_lowest_operations() -> None:
    graph = NetworkGraph.from_edges([(0, 2), (0, 1), (0, 1), (1, 3), (2, 3)])
    path = best_paths(graph, [1.0, 1.0, 1.0, 1.0])[3]
    assert path.ties == 3
    assert path.operations.tolist() == [1, 3]


def test_counts_beyond_64_bits_are_exact() -> None:
    graph = NetworkGraph.mlp(400, 2)
    assert count_paths(graph) == {201 + 2 * expanded: comb(200, expanded) for expanded in range(201)}
    best = best_paths(graph, np.ones(len(graph)))
    assert best[401].ties == comb(200, 100)
    path = sample_paths(graph, 401, 3, np.random.default_rng(0))
    assert path.shape == (3, 401)


@pytest.mark.parametrize("length", [4, 6, 8, 10])
def test_drawn_paths_are_uniform(length: int) -> None:
    every = [tuple(path.tolist()) for path in all_paths(THREE_SKIPS) if len(path) == length]
    drawn = sample_paths(THREE_SKIPS, length, 60 * len(every), np.random.default_rng(1))
    assert drawn.dtype == np.int64
    found = Counter(map(tuple, drawn.tolist()))
    assert set(found) == set(every)
    assert len(every) == 1 or chisquare([found[path] for path in every]).pvalue > 1e-3


def test_paths_drawn_anywhere_are_uniform_over_all_paths_of_that_length() -> None:
    successors = [[THREE_SKIPS.operations[i].target for i in group] for group in THREE_SKIPS.outgoing]
    every = [(node,) for node in range(len(THREE_SKIPS))]
    for _ in range(3):
        every = [(*path, following) for path in every for following in successors[path[-1]]]
    found = Counter(map(tuple, sample_paths(THREE_SKIPS, 4, 60 * len(every), np.random.default_rng(2), start="anywhere").tolist()))
    assert set(found) == set(every)
    assert chisquare([found[path] for path in every]).pvalue > 1e-3


def test_parallel_operations_make_a_path_more_likely() -> None:
    graph = NetworkGraph.from_edges([(0, 1), (0, 1), (0, 1), (0, 2), (1, 3), (2, 3)])
    drawn = sample_paths(graph, 3, 4000, np.random.default_rng(0))
    assert chisquare(np.bincount(drawn[:, 1])[1:], [3000, 1000]).pvalue > 1e-3


def test_interior_paths_of_the_deep_mlp_have_50_nodes() -> None:
    graph = NetworkGraph.mlp(140, 80)
    with pytest.raises(InvalidInput, match=r"no path of 50 nodes .*71, 73, 75"):
        sample_paths(graph, 50, 10, np.random.default_rng(0))
    drawn = sample_paths(graph, 50, 10, np.random.default_rng(0), start="anywhere")
    edges = {(o.source, o.target) for o in graph.operations}
    assert drawn.shape == (10, 50)
    assert all(pair in edges for path in drawn.tolist() for pair in pairwise(path))


def test_impossible_lengths_list_the_possible_ones() -> None:
    graph = NetworkGraph.from_edges([(0, 1), (1, 2), (2, 3), (0, 3), (3, 4), (4, 5), (0, 5)])
    with pytest.raises(InvalidInput, match="possible numbers of nodes: 2, 4, 6"):
        sample_paths(graph, 3, 1, np.random.default_rng(0))
    with pytest.raises(InvalidInput, match="possible numbers of nodes: 1-6"):
        sample_paths(graph, 7, 1, np.random.default_rng(0), start="anywhere")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"length": 0}, "no path of 0 nodes"),
        ({"length": 4.0}, "whole"),
        ({"count": -1}, "count"),
        ({"count": 1.5}, "count"),
        ({"start": "middle"}, "'input' or 'anywhere'"),
        ({"rng": 3}, "default_rng"),
    ],
)
def test_wrong_requests_for_paths_are_refused(arguments: dict[str, object], message: str) -> None:
    request = {"length": 4, "count": 1, "rng": np.random.default_rng(0)} | arguments
    with pytest.raises(InvalidInput, match=message):
        sample_paths(THREE_SKIPS, **request)  # type: ignore[arg-type]


def test_too_many_paths_to_list_are_refused(mobilenet: NetworkGraph) -> None:
    assert len(all_paths(mobilenet, limit=1024)) == 1024
    with pytest.raises(InvalidInput, match="1024 paths, more than the limit of 1023"):
        all_paths(mobilenet, limit=1023)


def test_tps_of_one_path_and_of_several() -> None:
    scores = np.array([0.1, 0.2, 0.3, 0.4])
    assert tps(scores, [0, 1, 3]) == pytest.approx(0.7)
    assert isinstance(tps(scores, np.array([0, 1, 3])), float)
    np.testing.assert_allclose(tps(scores, np.array([[0, 1, 3], [0, 2, 3]])), [0.7, 0.8])


@pytest.mark.parametrize("path", [[], [[[0]]], [0.0, 1.0], [0, 3], [-1, 0]])
def test_tps_refuses_what_is_no_path(path: list[int]) -> None:
    with pytest.raises(InvalidInput, match="path"):
        tps([0.5, 0.25, 0.25], path)


@pytest.mark.parametrize("scores", [[1.0, 2.0], [[1.0], [2.0], [3.0]], [1.0, np.nan, 2.0], [1.0, np.inf, 2.0]])
def test_wrong_scores_are_refused(two_paths: NetworkGraph, scores: list[float]) -> None:
    for use in (best_paths, important_operations, important_path):
        with pytest.raises(InvalidInput, match="scores"):
            use(two_paths, scores)  # type: ignore[operator]


@pytest.mark.parametrize("bound", [1, 5, 2**63 - 1, 2**63, 2**64, 3**50])
def test_whole_numbers_of_any_size_are_drawn_below_the_bound(bound: int) -> None:
    rng = np.random.default_rng(0)
    drawn = [uniform_below(rng, bound) for _ in range(200)]
    assert all(0 <= number < bound for number in drawn)
    halves: NDArray[np.int64] = np.bincount([2 * number >= bound for number in drawn], minlength=2)
    assert bound == 1 or chisquare(halves, [200 * (bound // 2 + bound % 2) / bound, 200 * (bound // 2) / bound]).pvalue > 1e-3
