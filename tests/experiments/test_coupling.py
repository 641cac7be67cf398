"""The ranking of paths against lambda: by brute force, by other solvers, by the algebra."""

from itertools import combinations

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tipslib.errors import InvalidInput
from tipslib.experiments import coupling
from tipslib.experiments.coupling import Parameters
from tipslib.profiles import PROFILES
from tipslib.reporting.published import quoted
from tipslib.topology import NetworkGraph, all_paths, hyper_adjacency, sample_subnetworks, tas, tps, transition_matrix

TOY = NetworkGraph.from_edges([(0, 1), (1, 2), (2, 3), (1, 3), (3, 4), (4, 5), (5, 6), (3, 6), (6, 7)])
QUICK = Parameters(network="resnet18", resolution=64, draws=3, couplings=(0.05, 0.5, 1.0), products=(50,))


def drawn(count: int, seed: int) -> np.ndarray:
    return sample_subnetworks(TOY, count, rng=np.random.default_rng(seed))


def test_defaults_are_the_papers() -> None:
    p = Parameters()
    assert p.subnetworks == quoted("tips-fig7-subnetworks").value
    assert (p.couplings[0], p.couplings[-1]) == (quoted("tips-fig7-coupling-min").value, quoted("tips-fig7-coupling-max").value)
    assert p.restart == quoted("tips-restart").value


@pytest.mark.parametrize(
    "wrong",
    [
        {"subnetworks": 0},
        {"subnetworks": 1},
        {"couplings": (0.5,)},
        {"couplings": (0.5, 0.1)},
        {"couplings": (0.5, 1.5)},
        {"couplings": (-0.1, 1.0)},
        {"restart": 1.0},
        {"draws": 0},
        {"damping": 1.0},
        {"products": (0,)},
        {"crossings": -1},
        {"resolution": 8},
    ],
)
def test_impossible_parameters_are_named(wrong: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Parameters(**wrong)


def test_degrees_are_those_of_networkx() -> None:
    masks = drawn(4, seed=1)
    for mask, found in zip(masks, coupling.node_degrees(TOY, masks), strict=True):
        graph = nx.MultiGraph()
        graph.add_nodes_from(range(8))
        graph.add_edges_from((o.source, o.target) for o, kept in zip(TOY.operations, mask, strict=True) if kept)
        assert found.tolist() == [graph.degree(n) + (n in (0, 7)) for n in range(8)]


@settings(max_examples=40)
@given(st.integers(2, 6), st.floats(0, 1), st.sampled_from([0.0, 1e-5, 0.1, 0.7]), st.integers(0, 10**6))
def test_score_from_sums_is_the_score_of_the_chain(count: int, strength: float, restart: float, seed: int) -> None:
    masks = drawn(count, seed)
    if restart == 0:
        strength = max(strength, 0.01)
    degrees = coupling.node_degrees(TOY, masks).sum(axis=0)
    scores = tas(TOY, masks, strength, restart)
    for path in all_paths(TOY):
        found = coupling.path_score(degrees[path].sum(), degrees.sum(), len(path), 8, count, strength, restart)
        assert found == pytest.approx(tps(scores, path), rel=1e-12)


@settings(max_examples=30)
@given(st.integers(2, 8), st.sampled_from([0.0, 1e-5, 0.01]), st.integers(0, 10**6))
def test_scores_are_equal_at_the_crossing(count: int, restart: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    lengths, totals = rng.permutation(np.arange(3, 20))[:2], rng.integers(10, 400, 2)
    at = coupling.crossing(lengths[0], totals[0], lengths[1], totals[1], 30, count, restart)
    a, b = (coupling.path_score(totals[i], 2000, lengths[i], 30, count, float(at), restart) for i in (0, 1))
    assert a == pytest.approx(b, rel=1e-9, abs=1e-9)


def test_paths_of_equal_length_have_no_crossing() -> None:
    assert np.isnan(coupling.crossing(5, 40, 5, 30, nodes=10, subnetworks=4))


@settings(max_examples=50)
@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(2, 7))
def test_reversed_pairs_by_brute_force(seed: int, rows: int, columns: int) -> None:
    scores = np.random.default_rng(seed).integers(0, 4, (rows, columns)).astype(float)
    found = coupling.reversed_order(scores)
    for a, b in combinations(range(columns), 2):
        both = any(row[a] > row[b] for row in scores) and any(row[a] < row[b] for row in scores)
        assert found[a, b] == found[b, a] == both


def test_rounding_is_no_reversal() -> None:
    assert not coupling.reversed_order(np.array([[1.0, 1.0 + 1e-14], [1.0 + 1e-14, 1.0]])).any()


def test_pairs_of_kinds_count_as_pairs_of_paths() -> None:
    sizes, pairs = np.array([2, 1, 3]), np.array([[0, 1, 0], [1, 0, 1], [0, 1, 0]], dtype=bool)
    members = np.repeat(np.arange(3), sizes)
    assert coupling.count_pairs(pairs, sizes) == sum(pairs[a, b] for a, b in combinations(members, 2))
    assert coupling.count_pairs(pairs) == 2


@pytest.mark.parametrize("products", [1, 7, 300])
def test_power_of_the_chain_is_that_of_the_dense_matrix(products: int) -> None:
    masks = drawn(3, seed=2)
    dense = np.linalg.matrix_power(transition_matrix(TOY, masks, 0.4, 1e-3), products)[0]
    found = coupling.first_row_of_power(hyper_adjacency(TOY, masks, 0.4), 1e-3, products)
    np.testing.assert_allclose(found, dense, rtol=1e-10)


def test_damped_chain_is_pagerank() -> None:
    chain = hyper_adjacency(TOY, drawn(3, seed=3), 0.4)
    expected = nx.pagerank(nx.from_scipy_sparse_array(chain, create_using=nx.DiGraph), alpha=0.85, tol=1e-14, max_iter=1000)
    np.testing.assert_allclose(coupling.damped_pagerank(chain, 0.85), list(expected.values()), rtol=1e-9)


def test_run_counts_what_a_plain_loop_counts() -> None:
    outcome = coupling.run(QUICK, seed=5, profile=PROFILES["smoke"])
    d, g = outcome.arrays["lengths"], outcome.arrays["totals"]
    n, all_degrees = outcome.values["nodes"], outcome.values["all_degrees"]
    changed = {"equal": 0, "unequal": 0}
    for a, b in combinations(range(len(d)), 2):
        leads = [
            float(coupling.path_score(g[a], all_degrees, d[a], n, 8, s) - coupling.path_score(g[b], all_degrees, d[b], n, 8, s))
            for s in QUICK.couplings
        ]
        changed["equal" if d[a] == d[b] else "unequal"] += max(leads) > 1e-12 and min(leads) < -1e-12
    assert outcome.arrays["reversals"][0, :2].tolist() == [changed["equal"], changed["unequal"]]
    assert outcome.arrays["predicted"][0] == changed["unequal"]
    assert sum(outcome.values["pairs"][kind] for kind in ("equal", "unequal")) == len(d) * (len(d) - 1) // 2


def test_run_finds_the_theorem_and_its_exceptions() -> None:
    outcome = coupling.run(QUICK, seed=5, profile=PROFILES["smoke"])
    assert not outcome.arrays["reversals"][:, [0, 2]].any()
    by_name = {chain["chain"]: chain for chain in outcome.values["chains"]}
    assert by_name["exact"]["reversals"] == by_name["exact"]["opposed"] == by_name["exact"]["distance"] == 0
    assert by_name["directed"]["output"] > 0.5
    assert by_name["50 products"]["distance"] > 1e-3
    for pair in outcome.values["crossings"]:
        assert pair["measured"] == pytest.approx(pair["predicted"], abs=1e-9)


def test_run_repeats_itself() -> None:
    first, second = (coupling.run(QUICK, seed=7, profile=PROFILES["smoke"]) for _ in range(2))
    assert first.values == second.values
    assert all(np.array_equal(first.arrays[k], second.arrays[k]) for k in first.arrays)
    other = coupling.run(QUICK, seed=8, profile=PROFILES["smoke"])
    assert not np.array_equal(first.arrays["totals"], other.arrays["totals"])
