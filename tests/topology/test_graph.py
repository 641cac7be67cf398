"""Graphs: what is refused, and what the MLPs of Figs. 3 and 5a look like."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tipslib.errors import InvalidInput
from tipslib.topology import FeatureMap, NetworkGraph, Operation, count_paths, sample_subnetworks, tas


def test_arrays_repeat_the_operations(two_paths: NetworkGraph) -> None:
    assert len(two_paths) == 3
    assert two_paths.sources.tolist() == [0, 0, 1]
    assert two_paths.targets.tolist() == [1, 2, 2]
    assert two_paths.sources.dtype == two_paths.targets.dtype == np.int64
    assert two_paths.required.tolist() == [False, False, False]
    assert two_paths.outgoing == ((0, 1), (2,), ())
    assert two_paths.incoming == ((), (0,), (1, 2))
    assert [node.name for node in two_paths.nodes] == ["x", "F(x)", "y"]


def test_a_graph_cannot_be_changed(two_paths: NetworkGraph) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        two_paths.nodes = ()  # type: ignore[misc]
    with pytest.raises(ValueError, match="read-only"):
        two_paths.sources[0] = 5


def test_equal_graphs_are_equal_and_hash_alike() -> None:
    one, other = (NetworkGraph.from_edges([(0, 1), (1, 2)]) for _ in range(2))
    assert one == other
    assert hash(one) == hash(other)
    assert one != NetworkGraph.from_edges([(0, 1), (1, 2)], required=[0])


def test_parallel_operations_get_names_of_their_own() -> None:
    graph = NetworkGraph.from_edges([(0, 1), (0, 1), (0, 1)])
    assert [operation.name for operation in graph.operations] == ["0-1", "0-1:2", "0-1:3"]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "at least one edge"),
        ([(0, 2), (1, 2)], "disconnected.*node 1"),
        ([(0, 1), (0, 2)], "disconnected.*node 1"),
        ([(0, 3), (1, 2)], "disconnected.*node 1.*2"),
        ([(0, 1), (2, 3)], "no path"),
        ([(1, 2)], "no path"),
        ([(0, 1), (2, 1)], "lower number to a higher"),
        ([(0, 0), (0, 1)], "lower number to a higher"),
        ([(-1, 1)], "lower number to a higher"),
    ],
)
def test_edges_that_make_no_network_are_refused(edges: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        NetworkGraph.from_edges(edges)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"names": ["a", "a"]}, "unique"),
        ({"names": ["a"]}, "as many names"),
        ({"kinds": ["linear", "magic"]}, "allowed: convolution, linear, pooling, addition, leaf"),
        ({"required": [2]}, "positions of edges, 0 to 1"),
        ({"nodes": ["x", "y"]}, "use 3 nodes"),
    ],
)
def test_wrong_descriptions_of_edges_are_refused(arguments: dict[str, list[object]], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        NetworkGraph.from_edges([(0, 1), (1, 2)], **arguments)  # type: ignore[arg-type]


def test_a_graph_needs_nodes_and_operations() -> None:
    with pytest.raises(InvalidInput, match="at least two feature maps"):
        NetworkGraph((FeatureMap("x"),), ())
    with pytest.raises(InvalidInput, match="numbered 0 to 1"):
        NetworkGraph((FeatureMap("x"), FeatureMap("y")), (Operation("f", "linear", 0, 2),))


def test_mlp_of_figure_3() -> None:
    plain, skipping = NetworkGraph.mlp(2, 3, skips=()), NetworkGraph.mlp(2, 3, skips=[(0, 2)])
    assert [operation.name for operation in plain.operations] == ["linear1", "linear2"]
    assert all(operation.required for operation in plain.operations)
    assert [(o.name, o.kind, o.source, o.target) for o in skipping.operations] == [
        ("linear1", "linear", 0, 1),
        ("linear2", "linear", 1, 2),
        ("sum2(input)", "addition", 0, 3),
        ("sum2(linear2)", "addition", 2, 3),
    ]
    assert skipping == NetworkGraph.mlp(2, 3)
    assert {node.shape for node in skipping.nodes} == {(1, 3)}


@pytest.mark.parametrize("layers", [80, 100, 120, 140])
def test_mlps_of_figure_5a_count_three_nodes_a_block_and_one_a_skip(layers: int) -> None:
    graph = NetworkGraph.mlp(layers, 80)
    blocks = layers // 2
    assert len(graph) == 1 + 3 * blocks
    assert len(graph.operations) == 4 * blocks
    assert min(count_paths(graph)) == 1 + blocks
    assert max(count_paths(graph)) == 1 + 3 * blocks
    assert sum(count_paths(graph).values()) == 2**blocks


def test_tps_on_the_full_mlp_is_affine_in_the_expanded_blocks() -> None:
    """With T = 1 and kappa = 0, TPS = 4 (D - c') / S, counted from the end of one block to the end of another."""
    graph = NetworkGraph.mlp(20, 80)
    scores = tas(graph, sample_subnetworks(graph, 1, np.random.default_rng(0)), restart=0.0)
    total = 2 * len(graph.operations) + 2
    names = [node.name for node in graph.nodes]
    inner = [(names.index(f"linear{i + 1}"), names.index(f"linear{i + 2}"), names.index(f"sum{i + 2}")) for i in range(2, 18, 2)]
    for expanded in range(len(inner) + 1):
        path = [node for i, block in enumerate(inner) for node in (block if i < expanded else block[-1:])]
        assert scores[path].sum() == pytest.approx(4 * (len(path) - expanded) / total, rel=1e-12)


def test_odd_mlps_end_with_a_plain_layer_and_skips_may_overlap() -> None:
    assert [node.name for node in NetworkGraph.mlp(3, 2).nodes] == ["input", "linear1", "linear2", "sum2", "linear3"]
    overlapping = NetworkGraph.mlp(3, 2, skips=[(0, 2), (1, 3), (0, 3)])
    assert {operation.name for operation in overlapping.operations} >= {"sum3(input)", "sum3(linear1)", "sum3(linear3)", "sum2(input)"}


@pytest.mark.parametrize(
    "arguments", [(0, 3), (2, 0), (2.0, 3), (2, 3, "none"), (2, 3, [(0, 3)]), (2, 3, [(1, 1)]), (2, 3, [(0, 2), (0, 2)])]
)
def test_impossible_mlps_are_refused(arguments: tuple[int, int]) -> None:
    with pytest.raises(InvalidInput):
        NetworkGraph.mlp(*arguments)


@given(layers=st.integers(1, 8), data=st.data())
@settings(max_examples=60)
def test_any_skips_make_a_graph_whose_sums_have_an_edge_per_summand(layers: int, data: st.DataObject) -> None:
    pairs = [(s, t) for t in range(1, layers + 1) for s in range(t)]
    skips = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    graph = NetworkGraph.mlp(layers, 4, skips=skips)
    sums = {t for _, t in skips}
    assert len(graph) == 1 + layers + len(sums)
    assert len(graph.operations) == layers + len(skips) + len(sums)
