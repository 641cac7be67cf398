"""The chain: the matrices of the paper by loops, a dense eigen-solver, and the algebra that follows from Eq. 7."""

import tracemalloc
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tipslib.errors import InvalidInput
from tipslib.topology import (
    NetworkGraph,
    all_paths,
    hyper_adjacency,
    sample_subnetworks,
    stationary_distribution,
    tas,
    tps,
    transition_matrix,
)
from tipslib.topology.markov import METHODS, Method, gth

RandomGraph = Callable[..., NetworkGraph]


def by_loops(
    graph: NetworkGraph, masks: NDArray[np.bool_], coupling: float, restart: float, directed: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """H (Eqs. 2, 4, 5) and P (Eqs. 6, 20), entry by entry as the paper writes them."""
    count, size = len(masks), len(graph)
    h = np.zeros((count * size, count * size))
    for k in range(count):
        for mask, operation in zip(masks[k], graph.operations, strict=True):
            if mask:
                h[k * size + operation.source, k * size + operation.target] += 1
                if not directed:
                    h[k * size + operation.target, k * size + operation.source] += 1
        h[k * size, k * size] = h[k * size + size - 1, k * size + size - 1] = 1
        for j in range(count):
            if j != k:
                for r in range(size):
                    h[k * size + r, j * size + r] = coupling
    p = (1 - restart) * h + restart * np.ones_like(h)
    return h, p / p.sum(axis=1, keepdims=True)


def by_eigenvectors(p: NDArray[np.float64]) -> NDArray[np.float64]:
    values, vectors = np.linalg.eig(p.T)
    vector = np.abs(vectors[:, np.argmin(np.abs(values - 1))].real)
    return vector / vector.sum()


def random_case(random_graph: RandomGraph, seed: int, ways: str = "any") -> tuple[NetworkGraph, NDArray[np.bool_], float, float]:
    """A graph, masks, lambda and kappa; "valid": masks that are subnetworks, in a chain that kappa alone does not hold together."""
    rng = np.random.default_rng(seed)
    graph = random_graph(rng, nodes=int(rng.integers(2, 12)), extra=int(rng.integers(0, 12)))
    count = int(rng.integers(1, 7))
    valid = ways == "valid" or seed % 2
    masks = sample_subnetworks(graph, count, rng) if valid else rng.random((count, len(graph.operations))) < 0.7
    coupling, restart = float(rng.choice([0.0, 0.3, 1.0])), float(rng.choice([1e-5, 1e-3, 0.1, 0.6]))
    return graph, masks, coupling, restart if coupling > 0 or ways == "any" else max(restart, 1e-3)


@pytest.mark.parametrize("seed", range(200))
def test_closed_form_is_the_eigenvector_of_200_random_chains(random_graph: RandomGraph, seed: int) -> None:
    graph, masks, coupling, restart = random_case(random_graph, seed, "valid")
    _, p = by_loops(graph, masks, coupling, restart, directed=False)
    found = stationary_distribution(graph, masks, coupling, restart)
    assert np.abs(found.ravel() - by_eigenvectors(p)).max() < 1e-12


@pytest.mark.parametrize("seed", range(60))
def test_closed_form_is_exact_where_only_restarts_hold_the_chain_together(random_graph: RandomGraph, seed: int) -> None:
    """An eigen-solver loses digits there, as the second eigenvalue is almost 1; elimination does not."""
    graph, masks, coupling, restart = random_case(random_graph, seed)
    _, p = by_loops(graph, masks, coupling, restart, directed=False)
    found = stationary_distribution(graph, masks, coupling, restart)
    np.testing.assert_allclose(found.ravel() @ p, found.ravel(), atol=1e-15)
    np.testing.assert_allclose(found.ravel(), gth(p), rtol=1e-11, atol=1e-15)


@pytest.mark.parametrize("directed", [False, True])
@pytest.mark.parametrize("seed", range(12))
def test_every_method_finds_the_same_distribution(random_graph: RandomGraph, seed: int, directed: bool) -> None:
    graph, masks, coupling, restart = random_case(random_graph, seed + 1000, "valid")
    _, p = by_loops(graph, masks, coupling, restart, directed)
    expected = gth(p)
    assert np.abs(expected @ p - expected).max() < 1e-15
    methods = [method for method in METHODS if not (directed and method == "closed form")]
    for method in methods:
        found = stationary_distribution(graph, masks, coupling, restart, directed=directed, method=method)
        assert found.shape == (len(masks), len(graph))
        np.testing.assert_allclose(found.ravel(), expected, atol=1e-12, rtol=0, err_msg=method)


@given(seed=st.integers(0, 2**32 - 1), directed=st.booleans())
@settings(max_examples=40)
def test_matrices_are_those_of_the_paper(random_graph: RandomGraph, seed: int, directed: bool) -> None:
    graph, masks, coupling, restart = random_case(random_graph, seed)
    h, p = by_loops(graph, masks, coupling, restart, directed)
    np.testing.assert_array_equal(hyper_adjacency(graph, masks, coupling, directed=directed).toarray(), h)
    np.testing.assert_allclose(transition_matrix(graph, masks, coupling, restart, directed=directed), p, rtol=1e-14)


@given(seed=st.integers(0, 2**32 - 1), coupling=st.floats(0, 1), restart=st.floats(1e-8, 0.999))
@settings(max_examples=100)
def test_tas_is_the_formula_of_the_degrees(random_graph: RandomGraph, seed: int, coupling: float, restart: float) -> None:
    """mu_r = [(1-k)(g_r + lambda c) + k N T^2] / [(1-k)(S + lambda N c) + k (N T)^2], with c = T (T - 1)."""
    graph, masks, _, _ = random_case(random_graph, seed)
    count, size = len(masks), len(graph)
    g = np.zeros(size)
    for mask in masks:
        g[0] += 1
        g[-1] += 1
        for operation in np.flatnonzero(mask):
            g[graph.sources[operation]] += 1
            g[graph.targets[operation]] += 1
    c = count * (count - 1)
    numerator = (1 - restart) * (g + coupling * c) + restart * size * count**2
    expected = numerator / ((1 - restart) * (g.sum() + coupling * size * c) + restart * (size * count) ** 2)
    found = tas(graph, masks, coupling, restart)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.sum() == pytest.approx(1, abs=1e-12)


def test_two_node_chain_by_hand() -> None:
    graph = NetworkGraph.from_edges([(0, 1), (1, 2)])
    masks = np.array([[True, True], [True, False]])
    degrees = np.array([[2, 2, 2], [2, 1, 1]]) + 0.5
    np.testing.assert_allclose(stationary_distribution(graph, masks, 0.5, 0.0), degrees / degrees.sum(), rtol=1e-15)
    assert tas(graph, masks, 0.5, 0.0) == pytest.approx(degrees.sum(axis=0) / degrees.sum())


def test_ranking_of_equally_long_paths_depends_on_neither_parameter(random_graph: RandomGraph) -> None:
    """The sign of TPS_a - TPS_b is that of G_a - G_b; Fig. 7 is a theorem."""
    rng = np.random.default_rng(11)
    graph = random_graph(rng, nodes=9, extra=12)
    masks = sample_subnetworks(graph, 5, rng)
    paths = all_paths(graph)
    settings_ = [(0.0, 1e-5), (0.1, 0.0), (0.5, 0.2), (1.0, 1e-5), (1.0, 0.9)]
    scores = [tas(graph, masks, coupling, restart) for coupling, restart in settings_]
    pairs = [(a, b) for a, b in combinations(paths, 2) if len(a) == len(b)]
    assert len(pairs) > 20
    for a, b in pairs:
        differences = np.array([tps(mu, a) - tps(mu, b) for mu in scores])
        assert len(set(np.sign(np.where(np.abs(differences) < 1e-14, 0, differences)))) == 1


def test_unequal_paths_cross_where_the_algebra_says() -> None:
    """At lambda* = (G_a - G_b) / (c (D_b - D_a)) a short path over busy nodes and a longer one score the same."""
    graph = NetworkGraph.from_edges([(0, 1)] * 5 + [(1, 4), (0, 2), (2, 3), (3, 4)])
    short, long, count = np.array([0, 1, 4]), np.array([0, 2, 3, 4]), 5
    masks = np.ones((count, 9), dtype=bool)
    crossing = (6 * count - 4 * count) / (count * (count - 1))
    differences = [tps(mu, short) - tps(mu, long) for mu in (tas(graph, masks, x * crossing, 0.0) for x in (0.5, 1.0, 1.5))]
    assert differences[0] > 1e-3
    assert differences[1] == pytest.approx(0, abs=1e-15)
    assert differences[2] < -1e-3


def test_directed_chain_ends_on_the_output(mobilenet: NetworkGraph) -> None:
    """Without the way back most of the mass ends on the output node."""
    masks = sample_subnetworks(mobilenet, 2, np.random.default_rng(0))
    found = tas(mobilenet, masks, directed=True, method="gth")
    assert found[-1] > 0.9
    for method in ("power", "sparse"):
        np.testing.assert_allclose(tas(mobilenet, masks, directed=True, method=method), found, atol=1e-12)


@pytest.mark.parametrize("method", ["gth", "power", "sparse"])
def test_directed_chain_without_restart_has_one_closed_class(two_paths: NetworkGraph, method: Method) -> None:
    masks = np.array([[True, True, True], [False, True, False]])
    found = stationary_distribution(two_paths, masks, 1.0, 0.0, directed=True, method=method)
    np.testing.assert_allclose(found, [[0, 0, 0.5], [0, 0, 0.5]], atol=1e-12)


@pytest.mark.parametrize(
    ("masks", "coupling", "directed", "message"),
    [
        ([[True, True, True]] * 2, 0.0, False, "2 parts, so its stationary distribution is not unique"),
        ([[True, True, True]] * 2, 0.0, True, "2 parts"),
        ([[False, False, False]], 1.0, False, "no operation left"),
        ([[False, True, False]] * 2, 1.0, False, "2 parts"),
        ([[False, True, False]], 1.0, False, "no operation left"),
        ([[False, False, True]], 1.0, False, "2 parts"),
    ],
)
def test_disconnected_chains_have_no_unique_distribution(
    two_paths: NetworkGraph, masks: list[list[bool]], coupling: float, directed: bool, message: str
) -> None:
    method: Method = "power" if directed else "closed form"
    with pytest.raises(InvalidInput, match=f"disconnected.*{message}"):
        stationary_distribution(two_paths, np.array(masks), coupling, 0.0, directed=directed, method=method)
    assert np.isfinite(stationary_distribution(two_paths, np.array(masks), coupling, 1e-5, directed=directed, method=method)).all()


def test_transition_matrix_refuses_states_without_a_step(two_paths: NetworkGraph) -> None:
    with pytest.raises(InvalidInput, match="no operation left"):
        transition_matrix(two_paths, np.zeros((1, 3), dtype=bool), 1.0, 0.0)


@pytest.mark.parametrize("coupling", [-0.1, 1.1, np.nan, np.inf, "1", None])
def test_coupling_outside_0_to_1_is_refused(two_paths: NetworkGraph, coupling: float) -> None:
    with pytest.raises(InvalidInput, match=r"coupling \(lambda\) must be a number in \[0, 1\]"):
        tas(two_paths, np.ones((2, 3), dtype=bool), coupling)


@pytest.mark.parametrize("restart", [-1e-9, 1.0, 2, np.nan, "0", None])
def test_restart_outside_0_to_1_is_refused(two_paths: NetworkGraph, restart: float) -> None:
    with pytest.raises(InvalidInput, match=r"restart \(kappa\) must be a number in \[0, 1\)"):
        tas(two_paths, np.ones((2, 3), dtype=bool), 1.0, restart)


@pytest.mark.parametrize(
    ("masks", "message"),
    [
        (np.ones((0, 3), dtype=bool), "T = 0"),
        (np.ones((2, 4), dtype=bool), r"needs \(T, 3\)"),
        (np.ones(3, dtype=bool), r"needs \(T, 3\)"),
        (np.ones((2, 3)), r"booleans, not float64.*astype\(bool\)"),
        (np.ones((2, 3), dtype=int), "booleans, not int64"),
        ([[True, True, True]], "booleans, not list"),
    ],
)
def test_wrong_masks_are_refused(two_paths: NetworkGraph, masks: NDArray[np.bool_], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        tas(two_paths, masks)
    with pytest.raises(InvalidInput, match=message):
        hyper_adjacency(two_paths, masks)


def test_methods_are_checked(two_paths: NetworkGraph) -> None:
    masks = np.ones((2, 3), dtype=bool)
    with pytest.raises(InvalidInput, match="allowed: closed form, power, gth, sparse"):
        tas(two_paths, masks, method="guess")  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="symmetric"):
        tas(two_paths, masks, directed=True)


def long_chain(nodes: int) -> NetworkGraph:
    return NetworkGraph.from_edges([(i, i + 1) for i in range(nodes - 1)] + [(i, i + 2) for i in range(0, nodes - 2, 2)])


@pytest.mark.parametrize(("method", "directed"), [("closed form", False), ("power", True), ("sparse", True)])
def test_large_chains_never_build_a_dense_matrix(method: Method, directed: bool) -> None:
    """2000 nodes x 50 subnetworks: NT x NT would take 80 GB, the T (T - 1) couplings alone 60 MB."""
    graph = long_chain(2000)
    masks = np.random.default_rng(0).random((50, len(graph.operations))) < 0.6
    tracemalloc.start()
    found = stationary_distribution(graph, masks, 1.0, 1e-3, directed=directed, method=method)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.sum() == pytest.approx(1, abs=1e-9)
    assert peak < 50e6
    with pytest.raises(InvalidInput, match="100000 states are too many"):
        stationary_distribution(graph, masks, method="gth")
