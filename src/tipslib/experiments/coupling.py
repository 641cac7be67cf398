"""Does the coupling strength change which path scores highest? Every path of a network ranked at every lambda (TIPS, Fig. 7)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq
from scipy.sparse import csr_array, diags_array, eye_array
from scipy.sparse.linalg import spsolve
from torchvision.models import get_model

from tipslib.errors import require
from tipslib.profiles import Profile
from tipslib.records import Outcome
from tipslib.topology import NetworkGraph, all_paths, hyper_adjacency, sample_subnetworks, tas

VERSION = 1
TOLERANCE = 1e-9

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_TIE = 1e-11
"""Relative difference below which two scores are equal but for rounding."""


@dataclass(frozen=True)
class Parameters:
    """The paper's setting: MobileNet-v2, 8 subnetworks, lambda from 0.1 to 1, kappa = 1e-5 (TIPS, Sec. 4.5, B.1, B.4).

    `draws` sets of subnetworks are ranked. The first is looked at closely: `crossings` pairs of paths are followed to where they cross,
    and other chains take the place of the paper's: directed, damped by `damping`, or left after `products` steps of power iteration
    (6000 in the code released with the paper).
    """

    network: Literal["mobilenet_v2", "resnet18", "efficientnet_b0"] = "mobilenet_v2"
    resolution: int = 224
    subnetworks: int = 8
    couplings: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
    restart: float = 1e-5
    draws: int = 100
    crossings: int = 5
    damping: float = 0.85
    products: tuple[int, ...] = (60, 600, 6000)

    def __post_init__(self) -> None:
        require(self.resolution >= 32, f"resolution = {self.resolution}; at least 32 pixels are wanted")
        require(self.subnetworks >= 2, f"subnetworks = {self.subnetworks}; at least 2 are wanted, or nothing is coupled")
        ascending = list(self.couplings) == sorted(set(self.couplings))
        require(len(self.couplings) >= 2 and ascending, f"couplings = {self.couplings}; two or more increasing numbers are wanted")
        require(self.couplings[0] >= 0 and self.couplings[-1] <= 1, f"couplings = {self.couplings}; lambda lies in [0, 1]")
        require(0 <= self.restart < 1, f"restart = {self.restart}; kappa lies in [0, 1)")
        require(self.draws >= 1, f"draws = {self.draws}; at least 1 is wanted")
        require(self.crossings >= 0, f"crossings = {self.crossings}; 0 or more are wanted")
        require(0 < self.damping < 1, f"damping = {self.damping}; a number between 0 and 1 is wanted")
        require(all(n >= 1 for n in self.products), f"products = {self.products}; whole numbers from 1 are wanted")


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Rank all paths at every lambda, for many draws; follow crossings and try other chains on the first draw.

    Arrays: `lengths` (P,) and `totals` (P,), D and G of each path in the first draw. `reversals` (draws, 3), pairs of paths that change
    their order between two lambdas: equally long paths, paths of unequal length, and all paths by their TPS per node.
    `predicted` (draws,), pairs of unequal length whose crossing falls between the smallest and the largest lambda.
    `distinct` (draws,), how many different values TPS takes over all paths.
    """
    del profile
    p = parameters
    graph = NetworkGraph.from_module(get_model(p.network, weights=None).eval(), (1, 3, p.resolution, p.resolution))
    member = path_membership(all_paths(graph), len(graph.nodes))
    lengths = member.sum(axis=1)
    rng = np.random.default_rng(seed)
    draws = [sample_subnetworks(graph, p.subnetworks, rng=rng) for _ in range(p.draws)]
    reversals, predicted, distinct = [], [], []
    for masks in draws:
        totals = member @ node_degrees(graph, masks).sum(axis=0)
        kinds, first, sizes = np.unique(np.stack((lengths, totals), axis=1), axis=0, return_index=True, return_counts=True)
        scores = np.array([member[first] @ tas(graph, masks, coupling, p.restart) for coupling in p.couplings])
        equal = kinds[:, :1] == kinds[:, 0]
        reversed_pairs, per_node = reversed_order(scores), reversed_order(scores / kinds[:, 0])
        reversals.append([count_pairs(pairs, sizes) for pairs in (reversed_pairs & equal, reversed_pairs & ~equal, per_node)])
        at = crossing(kinds[:, :1], kinds[:, 1:], kinds[:, 0], kinds[:, 1], len(graph.nodes), p.subnetworks, p.restart)
        predicted.append(count_pairs((at > p.couplings[0]) & (at < p.couplings[-1]), sizes))
        distinct.append(len(kinds))

    whole = member @ node_degrees(graph, np.ones_like(draws[0])).sum(axis=0)
    degrees = node_degrees(graph, draws[0])
    totals = member @ degrees.sum(axis=0)
    told_apart = (lengths[:, None] == lengths) & (totals[:, None] != totals)
    equal_pairs = int(sum(n * (n - 1) // 2 for n in np.unique(lengths, return_counts=True)[1]))
    return Outcome(
        values={
            "nodes": len(graph.nodes),
            "operations": len(graph.operations),
            "paths": len(member),
            "pairs": {
                "equal": equal_pairs,
                "unequal": len(member) * (len(member) - 1) // 2 - equal_pairs,
                "told_apart": count_pairs(told_apart),
            },
            "all_degrees": int(degrees.sum()),
            "distinct_on_supernet": len(np.unique(np.stack((lengths, whole), axis=1), axis=0)),
            "crossings": list(_crossings(graph, draws[0], member, totals, p)),
            "chains": list(_chains(graph, draws[0], member, totals, p)),
        },
        arrays={
            "lengths": lengths,
            "totals": totals,
            "reversals": np.array(reversals, dtype=np.int64),
            "predicted": np.array(predicted, dtype=np.int64),
            "distinct": np.array(distinct, dtype=np.int64),
        },
    )


def path_membership(paths: Sequence[NDArray[np.integer[Any]]], nodes: int) -> Ints:
    """Which nodes does each path pass? 0/1 matrix (P, N), so that `membership @ scores` is the TPS of every path (TIPS, Eq. 9)."""
    member = np.zeros((len(paths), nodes), dtype=np.int64)
    for row, path in zip(member, paths, strict=True):
        row[path] = 1
    return member


def node_degrees(graph: NetworkGraph, masks: NDArray[np.bool_]) -> Ints:
    """Degree of every node in every subnetwork (T, N), the self-loops of input and output counted 1 each (TIPS, Eq. 2)."""
    ends = np.zeros((len(graph.operations), len(graph.nodes)), dtype=np.int64)
    np.add.at(ends, (np.arange(len(ends)), graph.sources), 1)
    np.add.at(ends, (np.arange(len(ends)), graph.targets), 1)
    degrees: Ints = masks.astype(np.int64) @ ends
    degrees[:, [0, -1]] += 1
    return degrees


def path_score(
    path_degrees: ArrayLike,
    all_degrees: ArrayLike,
    path_nodes: ArrayLike,
    nodes: int,
    subnetworks: int,
    coupling: float = 1.0,
    restart: float = 1e-5,
) -> Floats:
    """TPS by its closed form, from the sums G of degrees on the path and S of all degrees (TIPS, Eqs. 2 to 9 and 20).

    With c = T (T - 1), TPS = [(1 - kappa) (G + lambda c D) + kappa N T^2 D] / [(1 - kappa) (S + lambda N c) + kappa (N T)^2].

    Parameters
    ----------
    path_degrees, all_degrees, path_nodes
        G, S and D; they broadcast against each other.
    nodes, subnetworks
        N and T.
    coupling, restart
        lambda and kappa.
    """
    g, s, d = (np.asarray(a, dtype=np.float64) for a in (path_degrees, all_degrees, path_nodes))
    c = coupling * subnetworks * (subnetworks - 1)
    jumps = restart * nodes * subnetworks**2
    score: Floats = ((1 - restart) * (g + c * d) + jumps * d) / ((1 - restart) * (s + c * nodes) + jumps * nodes)
    return score


def crossing(
    length_a: ArrayLike, total_a: ArrayLike, length_b: ArrayLike, total_b: ArrayLike, nodes: int, subnetworks: int, restart: float = 1e-5
) -> Floats:
    """The lambda at which two paths have the same TPS, NaN for paths of equal length, which never cross.

    lambda* = [(G_a - G_b) / (D_b - D_a) - kappa N T^2 / (1 - kappa)] / (T (T - 1)), from setting both closed forms equal.

    Parameters
    ----------
    length_a, total_a, length_b, total_b
        D and G of the two paths; they broadcast against each other.
    nodes, subnetworks, restart
        N, T and kappa.
    """
    longer = np.asarray(length_b, dtype=np.float64) - np.asarray(length_a)
    richer = np.asarray(total_a, dtype=np.float64) - np.asarray(total_b)
    ratio = np.divide(richer, longer, out=np.full(np.broadcast(longer, richer).shape, np.nan), where=longer != 0)
    at: Floats = (ratio - restart / (1 - restart) * nodes * subnetworks**2) / (subnetworks * (subnetworks - 1))
    return at


def reversed_order(scores: Floats) -> NDArray[np.bool_]:
    """Which pairs stand one way round in one row and the other way round in another? Differences within rounding are ties.

    Parameters
    ----------
    scores : (L, P)
        One row per lambda.

    Returns
    -------
    (P, P), symmetric.
    """
    above = np.zeros((scores.shape[1],) * 2, dtype=bool)
    for row in scores:
        above |= row[:, None] - row > _TIE * np.abs(row).max()
    return above & above.T


def count_pairs(pairs: NDArray[np.bool_], sizes: Ints | None = None) -> int:
    """Number of unordered pairs marked in the symmetric (K, K) `pairs`, where entry k stands for `sizes[k]` paths (1 each by default)."""
    weights = np.ones(len(pairs), dtype=np.int64) if sizes is None else sizes
    return int(weights @ np.triu(pairs, 1) @ weights)


def first_row_of_power(chain: csr_array, restart: float, products: int) -> Floats:
    """First row of the transition matrix (TIPS, Eqs. 6 and 20) to the power `products`: where a walk from the first state is by then.

    The code released with the paper takes 6000 products for the stationary distribution.

    Parameters
    ----------
    chain : (n, n)
        Hyper-adjacency matrix of Eq. 4.
    restart
        kappa; its all-one matrix is never formed.
    products
        Number of multiplications.
    """
    n = chain.shape[0]
    rows = (1 - restart) * chain.sum(axis=1) + restart * n
    back = chain.T.tocsr()
    state: Floats = np.eye(1, n)[0]
    for _ in range(products):
        share = state / rows
        state = (1 - restart) * (back @ share) + restart * share.sum()
    return state


def damped_pagerank(chain: csr_array, damping: float) -> Floats:
    """PageRank as usual: a step of the row-normalised chain with probability `damping`, else a jump to any state (Berkhin, 2005)."""
    n = chain.shape[0]
    steps = diags_array(1 / chain.sum(axis=1)) @ chain
    solution: Floats = spsolve((eye_array(n) - damping * steps.T).tocsc(), np.full(n, (1 - damping) / n))
    return solution


def _crossings(graph: NetworkGraph, masks: NDArray[np.bool_], member: Ints, totals: Ints, p: Parameters) -> Iterator[dict[str, Any]]:
    """Pairs of paths of unequal length, evenly spread over the predicted crossings; where they do cross is found without the formula."""
    kinds, first = np.unique(np.stack((member.sum(axis=1), totals), axis=1), axis=0, return_index=True)
    at = np.triu(crossing(kinds[:, :1], kinds[:, 1:], kinds[:, 0], kinds[:, 1], len(graph.nodes), p.subnetworks, p.restart))
    inside = np.argwhere((at > p.couplings[0]) & (at < p.couplings[-1]))
    places = np.unique(at[tuple(inside.T)].round(9), return_index=True)[1]
    chosen = np.unique(np.linspace(0, len(places) - 1, min(p.crossings, len(places))).round().astype(int))
    for a, b in inside[places[chosen]]:

        def lead(coupling: float, pair: Ints = member[first[b]] - member[first[a]]) -> float:
            return float(pair @ tas(graph, masks, coupling, p.restart, method="sparse"))

        ends = {name: {"nodes": int(kinds[k, 0]), "degrees": int(kinds[k, 1])} for name, k in (("a", a), ("b", b))}
        yield ends | {"predicted": float(at[a, b]), "measured": brentq(lead, p.couplings[0], p.couplings[-1], xtol=1e-13, rtol=1e-13)}


def _chains(
    graph: NetworkGraph, masks: NDArray[np.bool_], member: Ints, totals: Ints, p: Parameters
) -> Iterator[dict[str, str | int | float]]:
    """How many equally long paths change their order with lambda, in the paper's chain and in others, and how far these are from it.

    Pairs that tie in the paper's chain are left out. At the largest lambda: `opposed`, pairs ordered the other way round than in the
    paper's chain; `distance`, total variation distance of the TAS to the paper's; `output`, TAS of the output node.
    """
    lengths = member.sum(axis=1)
    told_apart = (lengths[:, None] == lengths) & (totals[:, None] != totals)
    matrices = [hyper_adjacency(graph, masks, coupling).tocsr() for coupling in p.couplings]

    def accumulated(state: Floats) -> Floats:
        sums: Floats = state.reshape(p.subnetworks, -1).sum(axis=0)
        return sums

    solved = {
        "exact": [tas(graph, masks, coupling, p.restart) for coupling in p.couplings],
        "directed": [tas(graph, masks, coupling, p.restart, directed=True, method="gth") for coupling in p.couplings],
        "damped": [accumulated(damped_pagerank(matrix, p.damping)) for matrix in matrices],
    }
    for products in p.products:
        solved[f"{products} products"] = [accumulated(first_row_of_power(matrix, p.restart, products)) for matrix in matrices]
    exact = solved["exact"][-1]
    of_paths = member.T.astype(np.float64)
    for name, rows in solved.items():
        yield {
            "chain": name,
            "reversals": count_pairs(reversed_order(np.array(rows) @ of_paths) & told_apart),
            "opposed": count_pairs(reversed_order(np.array([rows[-1], exact]) @ of_paths) & told_apart),
            "distance": round(float(np.abs(rows[-1] - exact).sum() / 2), 12),
            "output": float(rows[-1][-1]),
        }
