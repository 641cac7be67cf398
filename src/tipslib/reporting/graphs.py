"""How is a network drawn as a graph, with a path on it, and a hyper-adjacency matrix as a picture?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Curve
from numpy.typing import ArrayLike, NDArray
from scipy import sparse

from tipslib.errors import require
from tipslib.reporting.layout import Geometry, across, free_direction, geometry_of, row_names, short
from tipslib.reporting.style import COLOURS, INK
from tipslib.topology import BestPath, NetworkGraph

_LEGEND = 4.4
_SIDES = {-1: "right", 0: "center", 1: "left"}


def draw_network(
    graph: NetworkGraph,
    *,
    path: BestPath | None = None,
    masks: NDArray[np.bool_] | None = None,
    scores: ArrayLike | None = None,
    positions: ArrayLike | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a network: feature maps as dots, operations as lines; left to right if it is short, else top to bottom, in up to three columns.

    Parameters
    ----------
    graph
        Any network; made for 1 to about 150 operations.
    path
        Drawn thick and in colour, its feature maps larger and (top to bottom) their names bold.
    masks
        (M,) or (T, M) bool: operations that few of the subnetworks keep are drawn fainter, those that none keeps dotted.
    scores
        (N,) TAS: the larger the dot, the higher.
    positions
        (N, 2), x and y of every feature map in steps; makes a short network look as wanted.
    legend
        Whether to explain the marks under the drawing.
    ax
        Where to draw; default: a new figure of the right size.

    Returns
    -------
    Axes
        `.figure` is the figure.

    Raises
    ------
    InvalidInput
        Masks, scores or positions of the wrong shape.
    """
    count, size = len(graph.operations), len(graph)
    kept = np.ones((1, count)) if masks is None else np.atleast_2d(np.asarray(masks, dtype=float))
    require(kept.shape[1:] == (count,) and len(kept) > 0, f"masks have shape {kept.shape}; (M,) or (T, M) is wanted, M = {count}")
    values = np.zeros(size) if scores is None else np.asarray(scores, dtype=float)
    require(values.shape == (size,), f"scores have shape {values.shape}; ({size},) is wanted")
    places = None if positions is None else np.asarray(positions, dtype=float)
    require(places is None or places.shape == (size, 2), f"positions have the wrong shape; ({size}, 2) is wanted")
    geometry = geometry_of(graph) if places is None else across(graph, places, lanes=False)
    left, right, bottom, top = geometry.box
    if ax is None:
        spare = max(0.0, _LEGEND * legend - (right - left)) / 2
        left, right = left - spare, right + spare
        ax = _page(right - left, top - bottom, 0.65 * legend)
    ax.set_xlim(left, right)
    ax.set_ylim(bottom, top)
    ax.axis("off")
    chosen = np.zeros(count, dtype=bool) if path is None else np.isin(np.arange(count), path.operations)
    on_path = np.zeros(size, dtype=bool) if path is None else np.isin(np.arange(size), path.nodes)
    _draw_lines(ax, geometry, chosen, kept.mean(axis=0))
    _draw_dots(ax, graph, geometry, on_path, _scaled(values))
    if legend:
        _explain(ax, graph, bool(chosen.any()), kept, scores is not None)
    return ax


def draw_hyper_adjacency(
    matrix: sparse.sparray | ArrayLike,
    subnetworks: int,
    *,
    names: Sequence[str] | None = None,
    legend: bool = True,
    ax: Axes | None = None,
) -> Axes:
    """Draw a hyper-adjacency matrix: squares where an operation connects two feature maps, rings where a coupling does (TIPS, Eq. 4).

    Parameters
    ----------
    matrix
        (NT, NT), as `topology.hyper_adjacency` returns it; with `subnetworks` = 1 an adjacency matrix A_k.
    subnetworks
        T; lines separate the blocks.
    names
        N names of feature maps, written along the axes of a small matrix.
    legend, ax
        As for `draw_network`.

    Raises
    ------
    InvalidInput
        The matrix is not square, T does not divide its size, or there are not N names.
    """
    entries = sparse.coo_array(matrix)
    entries.eliminate_zeros()
    states = entries.shape[0]
    require(entries.shape == (states, states), f"the matrix has shape {entries.shape}; a square one is wanted")
    require(subnetworks >= 1 and states % subnetworks == 0, f"{states} states do not split into {subnetworks} subnetworks")
    size = states // subnetworks
    require(names is None or len(names) == size, f"{len(names or ())} names were given for {size} feature maps")
    if ax is None:
        _, ax = plt.subplots(figsize=(5.2, 5.2 + 0.4 * legend))
    inside = entries.row // size == entries.col // size
    points = 72 * min(ax.get_window_extent().size) / ax.figure.dpi / states
    for selected, marker, colour, face, label in (
        (inside, "s", COLOURS["measured"], COLOURS["measured"], "1: an operation, or the self-loop of input and output"),
        (~inside, "o", COLOURS["important"], "none", r"$\lambda$: the same feature map in another subnetwork"),
    ):
        share = 0.9 if marker == "s" else 0.5
        style = {"s": (share * points) ** 2, "marker": marker, "facecolor": face, "edgecolor": colour, "linewidth": min(1.2, points / 6)}
        if selected.any():
            ax.scatter(entries.col[selected], entries.row[selected], label=label, **style)
    for block in range(1, subnetworks):
        for line in (ax.axhline, ax.axvline):
            line(block * size - 0.5, color=INK, linewidth=0.8)
    ax.set(xlim=(-0.5, states - 0.5), ylim=(states - 0.5, -0.5), aspect="equal")
    ax.spines[:].set_visible(True)
    ax.xaxis.tick_top()
    if names is not None and points >= 6:
        ax.set_xticks(range(states), list(names) * subnetworks, fontsize=7, rotation=90)
        ax.set_yticks(range(states), list(names) * subnetworks, fontsize=7)
    elif subnetworks > 1:
        centres = [block * size + (size - 1) / 2 for block in range(subnetworks)]
        ax.set_xticks(centres, [f"$G_{{{k + 1}}}$" for k in range(subnetworks)])
        ax.set_yticks(centres, [f"$G_{{{k + 1}}}$" for k in range(subnetworks)])
    ax.tick_params(length=0)
    if legend:
        ax.legend(loc="upper left", bbox_to_anchor=(0, 0), fontsize=9, frameon=False)
    return ax


def _page(width: float, height: float, under: float) -> Axes:
    """Axes of exactly that size in inches, with room under them."""
    figure = plt.figure(figsize=(width, height + under), layout="none")
    return figure.add_axes((0, under / (height + under), 1, height / (height + under)))


def _draw_lines(ax: Axes, geometry: Geometry, chosen: NDArray[np.bool_], share: NDArray[np.float64]) -> None:
    for line, important, kept in zip(geometry.lines, chosen, share, strict=True):
        ax.add_patch(
            PathPatch(
                Curve(line, [Curve.MOVETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4]),
                facecolor="none",
                edgecolor=COLOURS["important" if important else "unimportant"],
                linewidth=3.2 if important else 1.3,
                linestyle="-" if kept > 0 else (0, (1, 2)),
                alpha=1.0 if important or kept == 0 else 0.35 + 0.65 * kept,
                zorder=2 if important else 1,
            )
        )


def _draw_dots(ax: Axes, graph: NetworkGraph, geometry: Geometry, on_path: NDArray[np.bool_], size: NDArray[np.float64]) -> None:
    sums = {o.target for o in graph.operations if o.kind == "addition"}
    widest = 7.0 if geometry.labels else 12.0
    for node, x, y in geometry.dots:
        colour = COLOURS["important" if on_path[node] else "unimportant"]
        diameter = widest * (0.45 + 0.55 * size[node])
        ax.plot(x, y, "o", markersize=diameter, color=colour, markeredgecolor=INK, markeredgewidth=0.9 if on_path[node] else 0.0, zorder=3)
        if node in sums:
            ax.plot(x, y, "+", markersize=0.7 * diameter, color="white", markeredgewidth=1.1, zorder=4)
        if not geometry.labels:
            toward = free_direction(graph, geometry, node)
            weight = "bold" if on_path[node] else "normal"
            place: dict[str, Any] = {"xytext": (8 * toward[0], 9 * toward[1]), "textcoords": "offset points", "ha": _SIDES[toward[0]]}
            ax.annotate(short(graph.nodes[node].name), (x, y), **place, va="top" if toward[1] < 0 else "bottom", fontsize=9, weight=weight)
    for x, y, nodes in geometry.labels:
        text: Any = None
        for node, name in zip(nodes, row_names(graph, nodes), strict=True):
            where = {"xy": (x, y), "xycoords": "data"} if text is None else {"xy": (1, 0.5), "xycoords": text}
            text = ax.annotate(name, **where, ha="left", va="center", fontsize=8, weight="bold" if on_path[node] else "normal")


def _explain(ax: Axes, graph: NetworkGraph, highlighted: bool, kept: NDArray[np.float64], scored: bool) -> None:
    grey, colour = COLOURS["unimportant"], COLOURS["important"]
    marks = [Line2D([], [], color=grey, linewidth=1.3, label="operation")]
    if highlighted:
        marks.append(Line2D([], [], color=colour, linewidth=3.2, label="on the path"))
    if (kept.max(axis=0) == 0).any():
        marks.append(Line2D([], [], color=grey, linestyle=(0, (1, 2)), label="left out"))
    if any(o.kind == "addition" for o in graph.operations):
        marks.append(Line2D([], [], color=grey, marker=r"$\oplus$", linestyle="", markersize=9, label="sum or concatenation"))
    if scored:
        marks.append(Line2D([], [], color=grey, marker="o", linestyle="", markersize=9, label="larger: higher TAS"))
    if ((kept.mean(axis=0) > 0) & (kept.mean(axis=0) < 1)).any():
        marks.append(Line2D([], [], color=grey, linewidth=1.3, alpha=0.45, label="faint: seldom kept"))
    fitting = max(1, int(ax.get_window_extent().width / ax.figure.dpi / 1.9))
    ax.legend(handles=marks, loc="upper center", bbox_to_anchor=(0.5, 0), ncol=fitting, fontsize=9, frameon=False, columnspacing=1.2)


def _scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    spread = scores.max() - scores.min()
    return (scores - scores.min()) / spread if spread > 0 else np.full(len(scores), 0.5)
