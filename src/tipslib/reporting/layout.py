"""Where does each part of a network stand in a drawing? Feature maps in rows by depth, lanes for branches, and a few columns."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile

import numpy as np
from numpy.typing import NDArray

from tipslib.topology import NetworkGraph

ROWS_PER_COLUMN = 36
MOST_COLUMNS = 3
_ROW, _STEP, _LANE = 0.2, 1.05, 0.4
_LETTER, _LONGEST_LABEL = 0.069, 30
_DEEPEST_ACROSS = 9


@dataclass(frozen=True, eq=False)
class Layout:
    """Rows, lanes and columns of a drawing.

    Attributes
    ----------
    depth
        (N,) number of operations on the longest way from the input: the row.
    lane
        (N,) 0 on the longest path of the network; 1, 2, ... for branches beside it. No two nodes of one row share a lane.
    breaks
        Depths at which columns begin, the first being 0, and the last depth at the end. The one node at an inner break closes a
        column and is repeated at the head of the next, so that no operation runs between columns.
    """

    depth: NDArray[np.int64]
    lane: NDArray[np.int64]
    breaks: tuple[int, ...]

    @property
    def columns(self) -> int:
        """Number of columns."""
        return len(self.breaks) - 1

    def column_of(self, target: int) -> int:
        """The column in which node `target`, and every operation that makes it, is drawn."""
        return max(0, int(np.searchsorted(self.breaks, self.depth[target])) - 1)


def arrange(graph: NetworkGraph) -> Layout:
    """Lay out any network: the longest path as a spine, every branch in a lane beside it."""
    depth = _depths(graph)
    lane = np.full(len(graph), -1, dtype=np.int64)
    taken: list[list[tuple[int, int]]] = []
    while (lane < 0).any():
        chain = _longest_free_chain(graph, lane < 0)
        first = min(int(depth[graph.operations[i].source]) for i in graph.incoming[chain[0]]) if graph.incoming[chain[0]] else 0
        last = (
            max(int(depth[graph.operations[i].target]) for i in graph.outgoing[chain[-1]])
            if graph.outgoing[chain[-1]]
            else int(depth.max())
        )
        number = next((k for k, used in enumerate(taken) if all(last <= a or b <= first for a, b in used)), len(taken))
        if number == len(taken):
            taken.append([])
        taken[number].append((first, last))
        lane[chain] = number
    return Layout(depth, lane, _breaks(graph, depth))


def _depths(graph: NetworkGraph) -> NDArray[np.int64]:
    depth = np.zeros(len(graph), dtype=np.int64)
    for node in range(1, len(graph)):
        depth[node] = 1 + max(depth[graph.operations[i].source] for i in graph.incoming[node])
    return depth


def _longest_free_chain(graph: NetworkGraph, free: NDArray[np.bool_]) -> list[int]:
    """The longest path over free nodes only."""
    length = free.astype(np.int64)
    before = np.full(len(graph), -1)
    for node in np.flatnonzero(free):
        for operation in graph.incoming[node]:
            source = graph.operations[operation].source
            if free[source] and length[source] + 1 > length[node]:
                length[node], before[node] = length[source] + 1, source
    chain = [int(np.argmax(length))]
    while before[chain[-1]] >= 0:
        chain.append(int(before[chain[-1]]))
    return chain[::-1]


def _breaks(graph: NetworkGraph, depth: NDArray[np.int64]) -> tuple[int, ...]:
    """Cut the rows into columns of about equal height, only at rows that hold one node which every path passes."""
    last = int(depth.max())
    columns = min(MOST_COLUMNS, math.ceil((last + 1) / ROWS_PER_COLUMN))
    passed_over = np.zeros(last + 2, dtype=np.int64)
    np.add.at(passed_over, depth[graph.sources] + 1, 1)
    np.add.at(passed_over, depth[graph.targets], -1)
    alone = (np.cumsum(passed_over)[: last + 1] == 0) & (np.bincount(depth) == 1)
    breaks = [0]
    for column in range(1, columns):
        wanted = column * last / columns
        near = [d for d in np.flatnonzero(alone) if breaks[-1] < d < last and abs(d - wanted) <= last / (2 * columns)]
        if near:
            breaks.append(int(min(near, key=lambda d: abs(d - wanted))))
    return (*breaks, last)


@dataclass(frozen=True, eq=False)
class Geometry:
    """In inches: `dots` (node, x, y), a node at a column break twice; `lines`, the (4, 2) control points of a Bezier curve per operation.

    `box` is (left, right, bottom, top); `labels` (x, y, nodes) where names are written beside a row, empty if they go under the dots.
    """

    dots: list[tuple[int, float, float]]
    lines: list[NDArray[np.float64]]
    box: tuple[float, float, float, float]
    labels: list[tuple[float, float, list[int]]]


def geometry_of(graph: NetworkGraph) -> Geometry:
    layout = arrange(graph)
    if layout.depth.max() <= _DEEPEST_ACROSS:
        return across(graph, np.stack([layout.depth, -layout.lane], axis=1).astype(float), lanes=True)
    return _in_columns(graph, layout)


def across(graph: NetworkGraph, steps: NDArray[np.float64], *, lanes: bool) -> Geometry:
    """Left to right, names under the dots."""
    places = steps * [_STEP, 0.75]
    dots = [(i, float(x), float(y)) for i, (x, y) in enumerate(places)]
    lines = _lines([(o.source, o.target) for o in graph.operations], places, lanes=1 if lanes else None)
    highest = max(_bent(line)[1] for line in lines)
    box = (places[:, 0].min() - 0.5, places[:, 0].max() + 0.5, places[:, 1].min() - 0.35, max(places[:, 1].max(), highest) + 0.3)
    return Geometry(dots, lines, box, [])


def _in_columns(graph: NetworkGraph, layout: Layout) -> Geometry:
    """Top to bottom, names beside the rows."""
    column_of = [layout.column_of(o.target) for o in graph.operations]
    dots: list[tuple[int, float, float]] = []
    labels: list[tuple[float, float, list[int]]] = []
    lines = [np.zeros((4, 2))] * len(graph.operations)
    edge, deepest = 0.0, 0
    for column, (top, bottom) in enumerate(pairwise(layout.breaks)):
        here = np.flatnonzero((layout.depth >= top) & (layout.depth <= bottom))
        drawn = [m for m, c in enumerate(column_of) if c == column]
        places = np.stack([-_LANE * layout.lane[here], -_ROW * (layout.depth[here] - top)], axis=1)
        index = {int(node): i for i, node in enumerate(here)}
        found = _lines([(index[graph.operations[m].source], index[graph.operations[m].target]) for m in drawn], places, lanes=0)
        shift = edge + 0.15 - min(places[:, 0].min(), *(_bent(line)[0] for line in found))
        for m, line in zip(drawn, found, strict=True):
            lines[m] = line + np.array([shift, 0])
        dots += [(int(node), float(x) + shift, float(y)) for node, (x, y) in zip(here, places, strict=True)]
        rows = [sorted(here[layout.depth[here] == row].tolist(), key=lambda node: layout.lane[node]) for row in range(top, bottom + 1)]
        labels += [(shift + 0.16, -_ROW * row, nodes) for row, nodes in enumerate(rows)]
        edge = shift + 0.22 + _LETTER * max(len("".join(row_names(graph, nodes))) for nodes in rows)
        deepest = max(deepest, bottom - top)
    return Geometry(dots, lines, (0.0, edge, -_ROW * deepest - 0.2, 0.2), labels)


def _lines(pairs: Sequence[tuple[int, int]], places: NDArray[np.float64], *, lanes: int | None) -> list[NDArray[np.float64]]:
    """A curve per operation: straight where the way is free, round the corner into another lane, bent where something is in the way.

    `lanes` is the axis along which lanes lie beside each other (0: x, 1: y), None if there are none.
    """
    used: Counter[tuple[int, int]] = Counter()
    lines = []
    for source, target in pairs:
        start, end = places[source], places[target]
        way, length = end - start, float(np.hypot(*(end - start)))
        others = np.delete(places, [source, target], axis=0) - start
        along, beside = others @ way / length, np.abs(others @ [-way[1], way[0]]) / length
        if lanes is not None and start[lanes] != end[lanes]:
            outer, inner = (start, end) if start[lanes] < end[lanes] else (end, start)
            corner = np.where(np.arange(2) == lanes, outer, inner)
            line = np.array([start, start + 0.75 * (corner - start), end + 0.75 * (corner - end), end])
        else:
            blocked = bool(np.any((along > 0) & (along < length) & (beside < 0.12)))
            bulge = 0.3 * used[source, target] + (min(0.15 + 0.2 * length, 0.7) if blocked else 0.0)
            aside = (-1 if lanes == 0 else 1) * bulge * np.array([-way[1], way[0]]) / length
            line = np.array([start, start + 0.15 * way + aside, end - 0.15 * way + aside, end])
        used[source, target] += 1
        lines.append(line)
    return lines


def _bent(line: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2,) half-way point of a curve: where a bent one is farthest aside."""
    half_way: NDArray[np.float64] = np.array([1, 3, 3, 1]) @ line / 8
    return half_way


def row_names(graph: NetworkGraph, nodes: Sequence[int]) -> list[str]:
    """Names of one row's feature maps; from the second on without the module that they share with the first."""
    first, *others = [graph.nodes[node].name for node in nodes]
    names = [short(first)]
    for name in others:
        shared = sum(1 for _ in takewhile(lambda parts: parts[0] == parts[1], zip(first.split("."), name.split("."), strict=False)))
        names.append("  |  " + short(".".join(name.split(".")[shared:]) or name))
    return names


def free_direction(graph: NetworkGraph, geometry: Geometry, node: int) -> tuple[int, int]:
    """Where a name fits beside a dot: below if no operation leaves or enters there, else above, else at the widest of its corners."""
    lines = [geometry.lines[i] for i in graph.outgoing[node]] + [geometry.lines[i][::-1] for i in graph.incoming[node]]
    used = np.array([np.arctan2(*(0.9 * line[1] + 0.1 * line[3] - line[0])[::-1]) for line in lines])

    def room(direction: tuple[int, int]) -> float:
        apart = np.abs(used - np.arctan2(direction[1], direction[0])) % (2 * np.pi)
        return float(np.minimum(apart, 2 * np.pi - apart).min())

    roomy = [direction for direction in ((0, -1), (0, 1)) if room(direction) > np.pi / 4]
    return roomy[0] if roomy else max(((-1, 1), (1, 1), (-1, -1), (1, -1)), key=room)


def short(name: str) -> str:
    return name if len(name) <= _LONGEST_LABEL else "…" + name[1 - _LONGEST_LABEL :]
