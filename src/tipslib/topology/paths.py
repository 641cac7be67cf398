"""Which path through the network scores best, how many paths are there, and what does a random one look like?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tipslib.errors import require
from tipslib.topology.draws import check_generator, uniform_below
from tipslib.topology.graph import NetworkGraph

TIE = 1e-12
"""Two scores within this relative distance count as equal: sums of the same degrees in another order differ by rounding only."""


@dataclass(frozen=True, eq=False)
class BestPath:
    """The best of all input-output paths with as many nodes.

    Attributes
    ----------
    nodes
        (D,) int64, from input to output.
    operations
        (D-1,) int64, the operations between them.
    score
        Its TPS.
    ties
        Number of paths with D nodes whose TPS equals it, itself included.
    """

    nodes: NDArray[np.int64]
    operations: NDArray[np.int64]
    score: float
    ties: int


def tps(scores: ArrayLike, path: ArrayLike) -> float | NDArray[np.float64]:
    """Topological path score: the sum of the scores of all nodes of a path (TIPS, Definition 2, Eq. 9).

    Parameters
    ----------
    scores
        (N,) TAS of each feature map.
    path
        (D,) indices of nodes, or (P, D) for P paths.

    Returns
    -------
    float, or (P,) float64
    """
    values = _checked(scores, None)
    nodes = np.asarray(path)
    require(
        nodes.ndim in (1, 2) and nodes.size > 0 and np.issubdtype(nodes.dtype, np.integer),
        f"a path is a (D,) array of node indices, several paths a (P, D) array; got shape {nodes.shape} of {nodes.dtype}",
    )
    off = nodes[(nodes < 0) | (nodes >= len(values))]
    require(off.size == 0, f"the path names node {off[:1]}; nodes are numbered 0 to {len(values) - 1}")
    totals: NDArray[np.float64] = values[nodes].sum(axis=-1)
    return float(totals) if nodes.ndim == 1 else totals


def best_paths(graph: NetworkGraph, scores: ArrayLike) -> dict[int, BestPath]:
    """The input-output path with the highest TPS for every number of nodes D (TIPS, 3.3: paths of equal D are compared).

    Dynamic programming over (node, number of nodes), O(D * M) time and O(D * N) memory. Scores within 1e-12 (relative) are equal;
    of equal paths the one over the operations with the lowest indices, compared from the output backwards, is returned.

    Parameters
    ----------
    graph
    scores
        (N,) TAS of each feature map.

    Returns
    -------
    dict
        Ascending number of nodes D -> BestPath; only lengths that exist.

    Raises
    ------
    InvalidInput
        Scores of the wrong shape, or not finite.
    """
    values = _checked(scores, len(graph))
    paths = count_paths(graph)
    longest = max(paths)
    best = np.full((len(graph), longest + 1), -np.inf)
    ties = np.zeros((len(graph), longest + 1), dtype=np.int64 if sum(paths.values()) < 2**62 else object)
    arrival = np.full((len(graph), longest + 1), -1, dtype=np.int64)
    best[0, 1], ties[0, 1] = values[0], 1
    for node in range(1, len(graph)):
        for operation in graph.incoming[node]:
            source = graph.operations[operation].source
            candidate = best[source, :-1] + values[node]
            exists = np.isfinite(candidate)
            slack = TIE * np.abs(candidate, where=exists, out=np.zeros(longest))
            better = candidate > best[node, 1:] + slack
            equal = exists & ~better & (candidate >= best[node, 1:] - slack)
            ties[node, 1:] = np.where(better, ties[source, :-1], ties[node, 1:] + np.where(equal, ties[source, :-1], 0))
            best[node, 1:][better] = candidate[better]
            arrival[node, 1:][better] = operation
    return {
        int(length): _walked_back(graph, arrival, int(length), float(best[-1, length]), int(ties[-1, length]))
        for length in np.flatnonzero(np.isfinite(best[-1]))
    }


def _walked_back(graph: NetworkGraph, arrival: NDArray[np.int64], length: int, score: float, ties: int) -> BestPath:
    nodes, operations = [len(graph) - 1], []
    for remaining in range(length, 1, -1):
        operations.append(int(arrival[nodes[-1], remaining]))
        nodes.append(graph.operations[operations[-1]].source)
    return BestPath(np.array(nodes[::-1], dtype=np.int64), np.array(operations[::-1], dtype=np.int64), score, ties)


def important_operations(graph: NetworkGraph, scores: ArrayLike) -> NDArray[np.bool_]:
    """The operations on the path with the highest TPS per node, TPS / D.

    The paper compares paths of equal D only (3.3) and takes "the path with the highest TPS" (4.3); without a fixed D that is simply
    the longest path. TPS / D compares all. If paths are equal within 1e-12, the shortest one counts, then as in `best_paths`.

    Returns
    -------
    (M,) bool
    """
    important = np.zeros(len(graph.operations), dtype=bool)
    important[important_path(graph, scores).operations] = True
    return important


def important_path(graph: NetworkGraph, scores: ArrayLike) -> BestPath:
    """The input-output path with the highest TPS per node; see `important_operations`."""
    candidates = list(best_paths(graph, scores).values())
    chosen = candidates[0]
    for path in candidates[1:]:
        rate, highest = path.score / len(path.nodes), chosen.score / len(chosen.nodes)
        if rate > highest + TIE * abs(rate):
            chosen = path
    return chosen


def count_paths(graph: NetworkGraph) -> dict[int, int]:
    """Exact number of input-output paths for every number of nodes D, ascending; parallel operations make different paths."""
    return dict(sorted(_to_output(graph)[0].items()))


def sample_paths(
    graph: NetworkGraph, length: int, count: int, rng: np.random.Generator, *, start: Literal["input", "anywhere"] = "input"
) -> NDArray[np.int64]:
    """Draw paths with `length` nodes, each equally likely, by exact counting (nothing is rejected).

    Parameters
    ----------
    graph
    length
        D, number of nodes of every path.
    count
        P, number of paths, drawn independently.
    rng
        Source of randomness.
    start
        "input": paths from input to output. "anywhere": paths between any two nodes.

    Returns
    -------
    (P, D) int64
        Indices of nodes along each path.

    Raises
    ------
    InvalidInput
        No such path exists; the message lists the lengths that do.
    """
    check_generator(rng)
    require(start in ("input", "anywhere"), f"start must be 'input' or 'anywhere', not {start!r}")
    whole = isinstance(count, (int, np.integer)) and isinstance(length, (int, np.integer))
    require(whole and count >= 0, f"count and length must be whole numbers, count not negative; got {count!r} and {length!r}")
    onward = _to_output(graph) if start == "input" else _to_anywhere(graph, length)
    starts = [0] if start == "input" else list(range(len(graph)))
    possible = sorted(set().union(*(onward[node] for node in starts)))
    described = _ranges(possible)
    require(length in possible, f"no path of {length!r} nodes exists ({start=}); possible numbers of nodes: {described}")
    paths = np.empty((count, length), dtype=np.int64)
    for row in paths:
        row[0] = starts[_weighted(rng, [onward[node].get(length, 0) for node in starts])]
        for position in range(1, length):
            choices = [graph.operations[operation].target for operation in graph.outgoing[row[position - 1]]]
            row[position] = choices[_weighted(rng, [onward[node].get(length - position, 0) for node in choices])]
    return paths


def all_paths(graph: NetworkGraph, limit: int = 100_000) -> list[NDArray[np.int64]]:
    """Every input-output path as a (D,) array of nodes, one per sequence of operations.

    Raises
    ------
    InvalidInput
        More than `limit` paths; use `sample_paths` or `best_paths`.
    """
    total = sum(count_paths(graph).values())
    require(total <= limit, f"the graph has {total} paths, more than the limit of {limit}; sample them or raise the limit")
    return [np.array(path, dtype=np.int64) for path in _walks(graph)]


def _walks(graph: NetworkGraph) -> Iterator[list[int]]:
    stack = [[0]]
    while stack:
        path = stack.pop()
        if path[-1] == len(graph) - 1:
            yield path
        else:
            stack.extend([*path, graph.operations[operation].target] for operation in reversed(graph.outgoing[path[-1]]))


def _to_output(graph: NetworkGraph) -> list[dict[int, int]]:
    """For each node the number of paths from it to the output by number of nodes."""
    onward: list[dict[int, int]] = [{} for _ in range(len(graph))]
    onward[-1][1] = 1
    for node in range(len(graph) - 2, -1, -1):
        for operation in graph.outgoing[node]:
            for length, paths in onward[graph.operations[operation].target].items():
                onward[node][length + 1] = onward[node].get(length + 1, 0) + paths
    return onward


def _to_anywhere(graph: NetworkGraph, longest: int) -> list[dict[int, int]]:
    """For each node the number of paths from it to any node by number of nodes, up to `longest`."""
    onward: list[dict[int, int]] = [{1: 1} for _ in range(len(graph))]
    for node in range(len(graph) - 2, -1, -1):
        for operation in graph.outgoing[node]:
            for length, paths in onward[graph.operations[operation].target].items():
                onward[node][length + 1] = onward[node].get(length + 1, 0) + paths
    return onward


def _weighted(rng: np.random.Generator, weights: Sequence[int]) -> int:
    """Index drawn with probability exactly proportional to whole-number weights."""
    drawn = uniform_below(rng, sum(weights))
    for index, weight in enumerate(weights):
        drawn -= weight
        if drawn < 0:
            return index
    raise AssertionError("unreachable: the weights add up to more than what was drawn")


def _ranges(numbers: Sequence[int]) -> str:
    """'2, 4-7' for [2, 4, 5, 6, 7]."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], number]
        else:
            runs.append([number])
    return ", ".join("-".join(map(str, run)) for run in runs)


def _checked(scores: ArrayLike, size: int | None) -> NDArray[np.float64]:
    values = np.asarray(scores, dtype=np.float64)
    require(
        values.ndim == 1 and size in (None, len(values)),
        f"scores have shape {values.shape}; one per feature map is needed, ({size or 'N'},)",
    )
    require(bool(np.all(np.isfinite(values))), "scores must be finite; some are NaN or infinite")
    return values
