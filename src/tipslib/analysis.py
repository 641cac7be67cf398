"""Which operations of my own network matter? One call: module in; scores, paths and importance of every operation out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tipslib.errors import require
from tipslib.topology import BestPath, NetworkGraph, best_paths, important_path, sample_subnetworks, tas

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import nn

EQUAL = 1e-9
"""Operations whose importance is this close to 1 are as important as those on the path that was chosen."""


@dataclass(frozen=True, eq=False)
class Analysis:
    """What the Markov-chain analysis says about one network (TIPS, 3.1 to 3.3).

    Attributes
    ----------
    network
        Name of the module's class.
    graph
        N feature maps and M operations.
    masks
        (T, M) bool, the subnetworks that were drawn.
    coupling, restart, seed
        lambda, kappa, and the seed of the draw.
    scores
        (N,) TAS of every feature map (Eq. 8); they add up to 1.
    paths
        Number of nodes D -> the input-output path of D nodes with the highest TPS (Eq. 9), with its ties.
    path
        Of these, the one with the highest TPS per node; its operations are the important ones.
    importance
        (M,) in (0, 1], see `operation_importance`.
    """

    network: str
    graph: NetworkGraph
    masks: NDArray[np.bool_]
    coupling: float
    restart: float
    seed: int
    scores: NDArray[np.float64]
    paths: Mapping[int, BestPath]
    path: BestPath
    importance: NDArray[np.float64]

    @property
    def important(self) -> NDArray[np.bool_]:
        """(M,) True for the operations on `path`."""
        return np.isin(np.arange(len(self.graph.operations)), self.path.operations)

    def table(self) -> str:
        """One line per operation, in the order of the network; `*` marks the important ones, `=` those that tie with them."""
        marks = np.where(self.important, "*", np.where(self.importance >= 1 - EQUAL, "=", " "))
        rows = [("", "operation", "kind", "output", "TAS of output", "kept in", "importance")]
        for i, operation in enumerate(self.graph.operations):
            shape = self.graph.nodes[operation.target].shape
            rows.append(
                (
                    str(marks[i]),
                    operation.name,
                    operation.kind,
                    "-" if shape is None else "x".join(map(str, shape[1:])),
                    f"{self.scores[operation.target]:.6f}",
                    f"{self.masks[:, i].sum()}/{len(self.masks)}",
                    f"{self.importance[i]:.4f}",
                )
            )
        nodes, ties = len(self.path.nodes), self.path.ties
        others = "the only best one of that length" if ties == 1 else f"one of {ties} of that length that tie"
        return "\n".join(
            [
                f"{self.network}: {len(self.graph)} feature maps, {len(self.graph.operations)} operations",
                f"{len(self.masks)} subnetworks (seed {self.seed}), lambda = {self.coupling:g}, kappa = {self.restart:g}",
                f"highest TPS per node: {self.path.score / nodes:.6f}, on a path of {nodes} feature maps ({others})",
                "",
                *_aligned(rows, left=4),
                "",
                "* important: on the path with the highest TPS per node      = ties with it, on another path",
                "importance: the highest TPS per node of any path through the operation, relative to the highest of all",
            ]
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as plain JSON values.

        Returns
        -------
        dict
            `format`: 1. `network`: name of the class. `settings`: `subnetworks`, `coupling`, `restart`, `seed`.
            `feature_maps`: list of `index`, `name`, `shape` (list or null), `tas`.
            `operations`: list of `index`, `name`, `kind`, `source` and `target` (indices of feature maps), `required`, `out_channels`
            (or null), `kept` (in how many subnetworks), `importance`, `important`.
            `paths`: list of `nodes` (D), `tps`, `tps_per_node`, `ties`, `feature_maps` and `operations` (indices).
            `important_path`: the D of the path whose operations are important.
        """
        graph, important = self.graph, self.important
        return {
            "format": 1,
            "network": self.network,
            "settings": {"subnetworks": len(self.masks), "coupling": self.coupling, "restart": self.restart, "seed": self.seed},
            "feature_maps": [
                {"index": i, "name": node.name, "shape": None if node.shape is None else list(node.shape), "tas": float(self.scores[i])}
                for i, node in enumerate(graph.nodes)
            ],
            "operations": [
                {
                    "index": i,
                    "name": operation.name,
                    "kind": operation.kind,
                    "source": operation.source,
                    "target": operation.target,
                    "required": operation.required,
                    "out_channels": operation.out_channels,
                    "kept": int(self.masks[:, i].sum()),
                    "importance": float(self.importance[i]),
                    "important": bool(important[i]),
                }
                for i, operation in enumerate(graph.operations)
            ],
            "paths": [
                {
                    "nodes": nodes,
                    "tps": path.score,
                    "tps_per_node": path.score / nodes,
                    "ties": path.ties,
                    "feature_maps": path.nodes.tolist(),
                    "operations": path.operations.tolist(),
                }
                for nodes, path in self.paths.items()
            ],
            "important_path": len(self.path.nodes),
        }

    def draw(self) -> Figure:
        """The network as a matplotlib figure, the important path thick and in colour; the larger a dot, the higher its TAS.

        The figure is not known to `pyplot`, so that a notebook shows it once: `draw().savefig("network.svg")` writes it.
        """
        import matplotlib.pyplot as plt
        from matplotlib.figure import Figure

        from tipslib.reporting.graphs import draw_network

        figure = draw_network(self.graph, path=self.path, masks=self.masks, scores=self.scores).figure
        assert isinstance(figure, Figure)
        plt.close(figure)
        return figure


def analyze(
    module: nn.Module,
    example_input: torch.Tensor | Sequence[int],
    *,
    subnetworks: int = 8,
    coupling: float = 1.0,
    restart: float = 1e-5,
    seed: int = 0,
    leaves: Iterable[str | type[nn.Module]] = (),
) -> Analysis:
    """Find the important operations of any network that `torch.fx` can trace (TIPS, step 1 of 3.5, and B.4).

    Parameters
    ----------
    module
        The network; it is neither run nor changed.
    example_input
        A tensor, or the shape of one, batch dimension included.
    subnetworks
        T, how many subnetworks are drawn; 8 in the paper.
    coupling, restart
        lambda in [0, 1] and kappa in [0, 1); 1 and 1e-5 in the paper.
    seed
        The same seed gives the same answer.
    leaves
        Submodules, by qualified name or by class, to count as one operation each, whatever they compute.

    Returns
    -------
    Analysis

    Raises
    ------
    TracingError
        The network cannot be read as a graph; the message names the place and the way out.
    InvalidInput
        An impossible setting.
    """
    require(type(seed) is int and seed >= 0, f"seed = {seed!r}; a whole number from 0 is wanted")
    graph = NetworkGraph.from_module(module, example_input, leaves=leaves)
    masks = sample_subnetworks(graph, subnetworks, rng=np.random.default_rng(seed))
    scores = tas(graph, masks, coupling, restart)
    return Analysis(
        network=type(module).__name__,
        graph=graph,
        masks=masks,
        coupling=coupling,
        restart=restart,
        seed=seed,
        scores=scores,
        paths=best_paths(graph, scores),
        path=important_path(graph, scores),
        importance=operation_importance(graph, scores),
    )


def operation_importance(graph: NetworkGraph, scores: ArrayLike) -> NDArray[np.float64]:
    """Relative importance of every operation, whether or not it lies on the best path.

    For each operation the highest TPS per node of all input-output paths through it, divided by the highest of all paths:

        importance(s -> t) = max over i, j of (F[s, i] + B[t, j]) / (i + j)  /  max over D of F[output, D] / D

    where F[s, i] is the highest sum of scores over paths of i nodes from the input to s, B[t, j] over paths of j nodes from t to the
    output, both by dynamic programming in O(D * M). The ratio is maximised by Dinkelbach's iteration, which is exact and takes a few
    passes of O(D * M): for a guess q take the i and j that maximise F - q i and B - q j; their ratio is the next guess.

    Parameters
    ----------
    graph
    scores
        (N,) TAS of every feature map.

    Returns
    -------
    (M,) float64
        In (0, 1] for positive scores; 1 on the path with the highest TPS per node.

    Raises
    ------
    InvalidInput
        Not one finite positive score per feature map.
    """
    values = np.asarray(scores, dtype=np.float64)
    require(values.shape == (len(graph),), f"scores have shape {values.shape}; ({len(graph)},) is wanted")
    require(bool(np.all(np.isfinite(values) & (values > 0))), "scores must be finite and positive, as TAS are")
    before = _best_sums(values, graph.incoming, graph.sources, range(len(graph)))[graph.sources]
    after = _best_sums(values, graph.outgoing, graph.targets, range(len(graph) - 1, -1, -1))[graph.targets]
    nodes = np.arange(before.shape[1])
    rows = np.arange(len(graph.operations))
    rate = np.full(len(rows), -1.0)
    while True:
        i = np.argmax(before - rate[:, None] * nodes, axis=1)
        j = np.argmax(after - rate[:, None] * nodes, axis=1)
        higher = (before[rows, i] + after[rows, j]) / (i + j)
        if np.all(higher <= rate):
            return np.asarray(np.minimum(1.0, rate / rate.max()))
        rate = np.maximum(rate, higher)


def _best_sums(
    values: NDArray[np.float64], arriving: Sequence[Sequence[int]], origins: NDArray[np.int64], order: Iterable[int]
) -> NDArray[np.float64]:
    """(N, N + 1): the highest sum of scores over paths of so many nodes from the first node of `order`; -inf where there is none."""
    best = np.full((len(values), len(values) + 1), -np.inf)
    for node in order:
        if not arriving[node]:
            best[node, 1] = values[node]
        for operation in arriving[node]:
            np.maximum(best[node, 1:], best[origins[operation], :-1] + values[node], out=best[node, 1:])
    return best


def _aligned(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns as wide as their widest cell, the first `left` of them to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
