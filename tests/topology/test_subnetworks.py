"""Subnetworks: valid, covering and uniform, against enumeration of all masks."""

from collections.abc import Callable
from itertools import product

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import chisquare

from tipslib.errors import InvalidInput
from tipslib.topology import NetworkGraph, count_subnetworks, is_valid, sample_subnetworks, subnetworks

RandomGraph = Callable[..., NetworkGraph]


def valid_by_definition(graph: NetworkGraph, mask: NDArray[np.bool_]) -> bool:
    """Every required operation is kept, and every kept one lies on an input-output path of kept ones; at least one path is kept."""
    kept = nx.MultiDiGraph()
    kept.add_nodes_from(range(len(graph)))
    kept.add_edges_from((o.source, o.target) for o, keep in zip(graph.operations, mask, strict=True) if keep)
    after, before = nx.descendants(kept, 0) | {0}, nx.ancestors(kept, len(graph) - 1) | {len(graph) - 1}
    on_path = all(source in after and target in before for source, target in kept.edges())
    return on_path and len(graph) - 1 in after and bool(mask[graph.required].all())


def all_valid(graph: NetworkGraph) -> list[tuple[bool, ...]]:
    return [mask for mask in product([False, True], repeat=len(graph.operations)) if valid_by_definition(graph, np.array(mask))]


@pytest.mark.parametrize("seed", range(40))
def test_counting_and_validity_agree_with_enumeration(random_graph: RandomGraph, seed: int) -> None:
    graph = random_graph(np.random.default_rng(seed), nodes=5, extra=4, required=seed % 3)
    masks = np.array(list(product([False, True], repeat=len(graph.operations))))
    expected = np.array([valid_by_definition(graph, mask) for mask in masks])
    assert np.array_equal(is_valid(graph, masks), expected)
    assert count_subnetworks(graph) == expected.sum()


@given(seed=st.integers(0, 2**32 - 1), nodes=st.integers(2, 12), extra=st.integers(0, 12), count=st.integers(1, 6))
@settings(max_examples=60)
def test_masks_are_valid_and_cover_every_operation(random_graph: RandomGraph, seed: int, nodes: int, extra: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, nodes=nodes, extra=extra, required=1)
    masks = sample_subnetworks(graph, count, rng)
    assert masks.shape == (count, len(graph.operations))
    assert masks.dtype == np.bool_
    assert is_valid(graph, masks).all()
    assert masks.any(axis=0).all()


CROSSED = [(0, 1), (0, 2), (1, 2), (1, 3), (2, 3), (0, 3)]
"""No node but the ends is on every path: one block with overlapping skips."""


def drawn_by(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if way == "rejection":
        monkeypatch.setattr(subnetworks, "LARGEST_TABLE", 0)
    if way == "one given the others":
        monkeypatch.setattr(subnetworks, "ATTEMPTS", 0)


@pytest.mark.parametrize(
    ("way", "required", "count"),
    [
        ("exact counting", (), 2),
        ("exact counting", (1,), 2),
        ("exact counting", (), 3),
        ("rejection", (), 2),
        ("rejection", (1,), 2),
        ("rejection", (), 3),
        ("one given the others", (), 2),
        ("one given the others", (1,), 2),
    ],
)
def test_tuples_of_masks_are_uniform(way: str, required: tuple[int, ...], count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """All tuples of valid masks that cover the graph are equally likely (chi-square on their frequencies)."""
    drawn_by(way, monkeypatch)
    graph = NetworkGraph.from_edges(CROSSED[:5], required=required)
    tuples = [t for t in product(all_valid(graph), repeat=count) if np.any(t, axis=0).all()]
    rng = np.random.default_rng(7)
    index = {t: i for i, t in enumerate(tuples)}
    found = np.zeros(len(tuples))
    for _ in range((40 if count == 2 else 12) * len(tuples)):
        found[index[tuple(tuple(row) for row in sample_subnetworks(graph, count, rng).tolist())]] += 1
    assert chisquare(found).pvalue > 1e-3


@pytest.mark.parametrize("way", ["exact counting", "rejection"])
def test_a_single_mask_of_a_block_is_uniform(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn_by(way, monkeypatch)
    graph = NetworkGraph.from_edges([*CROSSED, (3, 4), (3, 5), (4, 5), (0, 1)])
    block = next(iter(subnetworks._blocks(graph)))
    masks = sorted({tuple(np.array(mask)[block.operations].tolist()) for mask in all_valid(graph)})
    draw, rng = subnetworks._sampler(block, block.required), np.random.default_rng(3)
    found = np.zeros(len(masks))
    for _ in range(40 * len(masks)):
        found[masks.index(tuple(draw(rng).tolist()))] += 1
    assert chisquare(found).pvalue > 1e-3


def test_one_subnetwork_is_the_supernet(mobilenet: NetworkGraph) -> None:
    assert sample_subnetworks(mobilenet, 1, np.random.default_rng(0)).all()


def test_the_same_generator_gives_the_same_masks(mobilenet: NetworkGraph) -> None:
    one, other = (sample_subnetworks(mobilenet, 8, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one, other)
    assert not np.array_equal(one, sample_subnetworks(mobilenet, 8, np.random.default_rng(6)))


def test_a_residual_block_keeps_its_layers_together(mobilenet: NetworkGraph) -> None:
    """Given T = 20 the demand to see all operations hardly binds: layers, skip edge or both, one in three each."""
    masks = np.concatenate([sample_subnetworks(mobilenet, 20, np.random.default_rng(seed)) for seed in range(30)])
    names = [operation.name for operation in mobilenet.operations]
    layers = [names.index(name) for name in ("features.3.conv.0.0", "features.3.conv.1.0", "features.3.conv.2")]
    summand, skip = names.index("features.3.add(features.3.conv.2)"), names.index("features.3.add(features.2.conv.2)")
    assert (masks[:, layers] == masks[:, [summand]]).all()
    assert chisquare([(~masks[:, summand]).sum(), (~masks[:, skip]).sum(), (masks[:, summand] & masks[:, skip]).sum()]).pvalue > 1e-3


def test_overlapping_skips_over_many_layers_are_counted_exactly() -> None:
    """A chain with a skip over each two neighbours: proposals of whole masks would almost never be valid."""
    nodes = 120
    graph = NetworkGraph.from_edges([(i, i + 1) for i in range(nodes - 1)] + [(i, i + 2) for i in range(nodes - 2)])
    assert count_subnetworks(graph) > 2**60
    masks = sample_subnetworks(graph, 2, np.random.default_rng(0))
    assert is_valid(graph, masks).all()
    assert masks.any(axis=0).all()


def test_dense_blocks_are_drawn_by_rejection() -> None:
    """Every node feeds every later one, as in DenseNet: too many sets of live nodes for a table."""
    graph = NetworkGraph.from_edges([(i, j) for j in range(24) for i in range(j)])
    with pytest.raises(InvalidInput, match="too entangled to count"):
        count_subnetworks(graph)
    masks = sample_subnetworks(graph, 3, np.random.default_rng(0))
    assert is_valid(graph, masks).all()
    assert masks.any(axis=0).all()


def test_hopeless_blocks_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subnetworks, "LARGEST_TABLE", 0)
    monkeypatch.setattr(subnetworks, "PROPOSALS", 0)
    with pytest.raises(InvalidInput, match=r"too entangled.*masks of your own"):
        sample_subnetworks(NetworkGraph.from_edges(CROSSED), 2, np.random.default_rng(0))


@pytest.mark.parametrize("count", [0, -1, 2.0, None])
def test_a_wrong_number_of_subnetworks_is_refused(two_paths: NetworkGraph, count: int) -> None:
    with pytest.raises(InvalidInput, match="count \\(T\\)"):
        sample_subnetworks(two_paths, count, np.random.default_rng(0))


def test_a_seed_is_no_generator(two_paths: NetworkGraph) -> None:
    with pytest.raises(InvalidInput, match="default_rng"):
        sample_subnetworks(two_paths, 2, 0)  # type: ignore[arg-type]
