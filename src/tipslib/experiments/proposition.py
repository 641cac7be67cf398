"""Do paths with a higher TPS have larger singular values? Residual MLPs, paths of equal length, four Jacobians (TIPS, Fig. 5a)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from tipslib.data import load
from tipslib.errors import require
from tipslib.profiles import Profile
from tipslib.records import Outcome
from tipslib.topology import NetworkGraph, sample_subnetworks, tas, tps
from tipslib.topology.degrees import average_degree, largest_variance, singular_value_bounds
from tipslib.topology.isometry import (
    Route,
    block_means,
    end_to_end_path_means,
    layer_means,
    layerwise_path_means,
    mean_singular_value,
    released_path_means,
    residual_states,
)

VERSION = 1
TOLERANCE = 1e-9

MEASURES: Mapping[str, str] = MappingProxyType(
    {
        "released": "released construction",
        "layers": "each layer, all its inputs",
        "path": "end to end, the path alone",
        "network": "end to end, with the skips it spans",
    }
)
"""The Jacobians whose mean singular values are compared with TPS, by array name."""

DEGREES: Mapping[str, str] = MappingProxyType(
    {
        "degree_layers": "layers visited, as in the supernet",
        "degree_network": "network spanned by the path",
    }
)
"""Two readings of a path's average degree w_e, by array name."""

RATIOS = (1.0, 1.0125, 1.25, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 16.0, 32.0)
"""w_e / w_r of the plain Gaussian matrices on which Eq. 11 is tried at home."""


@dataclass(frozen=True)
class Parameters:
    """The paper's setting: MLPs of 80 to 140 layers of 80 neurons on MNIST, 8 subnetworks, paths of 50 nodes (TIPS, Sec. 4.1, 4.2).

    `variance` is the variance q of the Gaussian weights: "proposition" the largest that Prop. 3.1 allows (Eq. 13), "lecun" 1/width,
    "he" 2/width. `paths` is drawn for each depth, `images` is over how many inputs singular values are averaged, `resamples` how many
    the bootstrap takes. The paper names neither; they are ours.
    """

    data: Literal["digits", "mnist"] = "mnist"
    layers: tuple[int, ...] = (80, 100, 120, 140)
    width: int = 80
    nodes: int = 50
    subnetworks: int = 8
    coupling: float = 1.0
    restart: float = 1e-5
    variance: Literal["proposition", "lecun", "he"] = "proposition"
    paths: int = 200
    images: int = 16
    resamples: int = 2000

    def __post_init__(self) -> None:
        require(
            len(self.layers) > 0 and len(set(self.layers)) == len(self.layers), f"layers = {self.layers}; depths, each once, are wanted"
        )
        require(self.width >= 2, f"width = {self.width}; at least 2 neurons are wanted")
        require(self.nodes >= 4, f"nodes = {self.nodes}; at least 4 are wanted, so that a path can pass a block in two ways")
        for depth in self.layers:
            require(depth >= 4 and depth % 2 == 0, f"layers = {depth}; an even number from 4 is wanted: blocks have two layers each")
            require(
                len(expansions(depth // 2, self.nodes)) >= 2,
                f"nodes = {self.nodes} with {depth} layers: all paths of that many nodes are alike; take fewer nodes or more layers",
            )
        require(
            self.subnetworks >= 2, f"subnetworks = {self.subnetworks}; at least 2 are wanted (1 is the released construction, always run)"
        )
        require(0 <= self.coupling <= 1, f"coupling = {self.coupling}; lambda lies in [0, 1]")
        require(0 <= self.restart < 1, f"restart = {self.restart}; kappa lies in [0, 1)")
        require(self.paths >= 20, f"paths = {self.paths}; at least 20 are wanted, to rank them")
        require(self.images >= 1, f"images = {self.images}; at least 1 is wanted")
        require(self.resamples >= 100, f"resamples = {self.resamples}; at least 100 are wanted")


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Draw networks, subnetworks and paths for every depth; measure TPS and the mean singular values of each path.

    Arrays, one entry a path, depths one after the other: `depth`, `expanded` (blocks it passes through their layers, c'),
    `tps_supernet` (T = 1, all operations kept), `tps` (T random subnetworks), one E[sigma] for each of `MEASURES`, `jacobian` (the
    released construction in the order of a Jacobian), and two readings of w_e: `degree_layers`, `degree_network`. Then
    `gaussian_ratio` and `gaussian_mean`: w_e / w_r and E[sigma] / sqrt(q w_r) of Gaussian matrices.
    """
    p = parameters
    data = load(p.data, "train", profile)
    pixels = np.asarray(data.images).reshape(len(data.images), -1)
    require(p.images <= len(pixels), f"images = {p.images}; {p.data} holds {len(pixels)} at profile {profile.name}")
    variance = initial_variance(p.variance, p.width)
    measured = [_measure_depth(p, depth, variance, pixels, np.random.default_rng([seed, depth])) for depth in p.layers]
    ratio, mean = gaussian_means(p.width, np.random.default_rng([seed, 0]))
    columns = {name: np.concatenate([one[name] for one in measured]) for name in measured[0]}
    return Outcome(
        values={
            "variance": variance,
            "largest_variance": initial_variance("proposition", p.width),
            "pixels": pixels.shape[1],
            "depths": [
                _summary(p, depth, one, np.random.default_rng([seed, depth, 1])) for depth, one in zip(p.layers, measured, strict=True)
            ],
        },
        arrays=columns | {"gaussian_ratio": ratio, "gaussian_mean": mean},
        data={p.data: data.checksum},
    )


def initial_variance(name: str, width: int) -> float:
    """Variance q of the weights; "proposition" takes Eq. 13 with the largest w_e that a layer can have, width + 1 (one skip link)."""
    return {"proposition": largest_variance(width + 1, width), "lecun": 1 / width, "he": 2 / width}[name]


def expansions(blocks: int, nodes: int) -> range:
    """Every c' for which a path of `nodes` nodes over whole blocks fits: c' blocks of 3 nodes and nodes - 3 c' skips of 1.

    The last block is left out: its end is the network's output, whose self-loop (Eq. 2) would count as a fifth neighbour.
    """
    return range(max(0, -((blocks - 1 - nodes) // 2)), nodes // 3 + 1)


def draw_routes(blocks: int, nodes: int, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw paths of `nodes` nodes: the number c' of blocks passed through their layers uniformly, then which ones, then where.

    Returns
    -------
    (count, blocks)
        `Route` of each path through each block. The path's nodes are those its blocks end with or contain; the node it comes from is
        not counted, as in the released code (#skip + 3 * #conv = D).
    """
    routes = np.full((count, blocks), int(Route.ABSENT))
    for row, expanded in zip(routes, rng.choice(expansions(blocks, nodes), size=count), strict=True):
        crossed = nodes - 2 * expanded
        first = rng.integers(blocks - crossed)
        row[first : first + crossed] = rng.permutation(np.repeat([Route.LAYERS, Route.SKIP], [expanded, crossed - expanded]))
    return routes


def path_nodes(routes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices (P, D) of the nodes on each path in `NetworkGraph.mlp`, where block b has nodes 3b + 1, 3b + 2 (layers), 3b + 3 (sum)."""
    layers, present = routes == Route.LAYERS, routes != Route.ABSENT
    visited = np.stack((layers, layers, present), axis=2).reshape(len(routes), -1)
    nodes: NDArray[np.int64] = np.nonzero(visited)[1].reshape(len(routes), -1) + 1
    return nodes


def supernet_tps(blocks: int, nodes: int, expanded: NDArray[np.int64], restart: float) -> NDArray[np.float64]:
    """TPS of a path on the whole supernet (T = 1) by counting: a sum node has 4 neighbours and a layer 2, so 4 (D - c') in all.

    With kappa = 0 it is 4 (D - c') / S, S = 8 * blocks + 2 the sum of all degrees; the exact solution of Eqs. 7 and 20 otherwise.
    """
    everything = 3 * blocks + 1
    numerator = np.asarray((1 - restart) * 4 * (nodes - expanded) + restart * everything * nodes, dtype=np.float64)
    return numerator / ((1 - restart) * (8 * blocks + 2) + restart * everything**2)


def degrees(width: int, nodes: int, expanded: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two readings of a path's average degree w_e, in the sense of Fig. 3 (links per neuron).

    Returns
    -------
    layers, network : (P,)
        `layers`: mean over the layers whose outputs the path visits of the links that enter a neuron in the supernet, width or width + 1.
        `network`: Fig. 3's rule on the network that the path's nodes span, where a skipped block leaves a skip link only.
    """
    blocks = np.asarray(nodes - 2 * expanded, dtype=np.float64)
    visited = blocks + expanded
    return width + blocks / visited, (2 * width * expanded + blocks) / visited


def gaussian_means(width: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """w_e / w_r and E[sigma] / sqrt(q w_r) of w_r x w_e matrices of independent Gaussian entries, for which Eq. 11 was derived."""
    wide = [round(ratio * width) for ratio in RATIOS]
    drawn = [torch.from_numpy(rng.normal(0, width**-0.5, (width, columns))) for columns in wide]
    return np.array(wide) / width, np.array([float(mean_singular_value(matrix)) for matrix in drawn])


def concordance(scores: NDArray[np.float64], values: NDArray[np.float64], groups: NDArray[np.int64] | None = None) -> tuple[float, int]:
    """Share of the pairs with different scores (of one group, if given) whose values are ordered the same way, and how many pairs."""
    upper = np.triu_indices(len(scores), 1)
    ordered, follow = (np.sign(np.subtract.outer(v, v))[upper] for v in (scores, values))
    counted = ordered != 0 if groups is None else (ordered != 0) & np.equal.outer(groups, groups)[upper]
    pairs = int(counted.sum())
    return (float((ordered == follow)[counted].mean()) if pairs else 1.0), pairs


def spearman(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Spearman's rank correlation along `axis`, for many samples at once."""
    a, b = (stats.rankdata(v, axis=axis) for v in (x, y))
    a, b = (v - v.mean(axis=axis, keepdims=True) for v in (a, b))
    correlation: NDArray[np.float64] = (a * b).sum(axis) / np.sqrt((a * a).sum(axis) * (b * b).sum(axis))
    return correlation


def kendall(x: NDArray[np.float64], y: NDArray[np.float64], axis: int = -1) -> NDArray[np.float64]:
    """Kendall's tau-b along the last axis, for many samples at once."""
    require(axis in (-1, x.ndim - 1), f"axis = {axis}; samples lie along the last axis")
    a, b = (np.sign(v[..., :, None] - v[..., None, :]).astype(np.float32) for v in (x, y))
    pairs = (-2, -1)
    both, left, right = (np.sum(v, axis=pairs, dtype=np.float64) for v in (a * b, a * a, b * b))
    tau: NDArray[np.float64] = both / np.sqrt(left * right)
    return tau


def _measure_depth(
    p: Parameters, depth: int, variance: float, pixels: NDArray[np.uint8], rng: np.random.Generator
) -> dict[str, NDArray[Any]]:
    graph = NetworkGraph.mlp(depth, p.width)
    blocks = depth // 2
    routes = draw_routes(blocks, p.nodes, p.paths, rng)
    nodes = path_nodes(routes)
    scores = [tas(graph, sample_subnetworks(graph, count, rng=rng), p.coupling, p.restart) for count in (1, p.subnetworks)]
    # sums of equal terms in another order differ in the last bits; paths of equal score must tie
    tps_supernet, tps_random = (np.round(tps(score, nodes), 14) for score in scores)

    chosen = pixels[rng.choice(len(pixels), size=p.images, replace=False)] / 255
    stem = rng.normal(0, pixels.shape[1] ** -0.5, (p.width, pixels.shape[1]))
    inputs = torch.from_numpy(np.maximum(chosen @ stem.T, 0))
    weights = torch.from_numpy(rng.normal(0, variance**0.5, (blocks, 2, p.width, p.width)))
    states, masks = residual_states(weights, inputs)
    taken = torch.from_numpy(routes)
    expanded = (routes == Route.LAYERS).sum(axis=1)
    degree_layers, degree_network = degrees(p.width, p.nodes, expanded)
    sigma = {
        "released": released_path_means(block_means(weights, masks, released_order=True), taken),
        "jacobian": released_path_means(block_means(weights, masks), taken),
        "layers": layerwise_path_means(layer_means(weights, masks), taken),
        "path": end_to_end_path_means(weights, states, taken, shortcuts=False),
        "network": end_to_end_path_means(weights, states, taken, shortcuts=True),
    }
    return {
        "depth": np.full(p.paths, depth),
        "expanded": expanded,
        "tps_supernet": tps_supernet,
        "tps": tps_random,
        **{name: values.numpy() for name, values in sigma.items()},
        "degree_layers": degree_layers,
        "degree_network": degree_network,
    }


def _summary(p: Parameters, depth: int, columns: Mapping[str, NDArray[Any]], rng: np.random.Generator) -> dict[str, Any]:
    expanded = columns["expanded"]
    formula = supernet_tps(depth // 2, p.nodes, expanded, p.restart)
    order, pairs = concordance(columns["tps_supernet"], columns["released"])
    bounds = {name: singular_value_bounds(initial_variance(p.variance, p.width), columns[name], p.width) for name in DEGREES}
    return {
        "layers": depth,
        "supernet_degree": average_degree((p.width,) * (depth + 1), [(i, i + 2) for i in range(0, depth, 2)]),
        "expanded": [int(expanded.min()), int(expanded.max())],
        "construction": {
            "pearson": float(np.corrcoef(columns["tps_supernet"], columns["released"])[0, 1]),
            "pearson_jacobian": float(np.corrcoef(columns["tps_supernet"], columns["jacobian"])[0, 1]),
            "formula_error": float(np.abs(columns["tps_supernet"] / formula - 1).max()),
            "concordant": order,
            "pairs": pairs,
        },
        "ranks": {name: _ranks(columns["tps"], columns[name], expanded, p.resamples, rng) for name in MEASURES},
        "inside_bounds": {
            name: {degree: float(((low <= columns[name]) & (columns[name] <= high)).mean()) for degree, (low, high) in bounds.items()}
            for name in MEASURES
        },
    }


def _ranks(
    scores: NDArray[np.float64], values: NDArray[np.float64], expanded: NDArray[np.int64], resamples: int, rng: np.random.Generator
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, statistic in (("spearman", spearman), ("kendall", kendall)):
        interval = stats.bootstrap(
            (scores, values),
            statistic,
            paired=True,
            vectorized=True,
            n_resamples=resamples,
            batch=50,
            confidence_level=0.95,
            method="percentile",
            rng=rng,
        ).confidence_interval
        found[name] = [float(statistic(scores, values)), float(interval.low), float(interval.high)]
    found["concordant"], found["pairs"] = concordance(scores, values)
    found["concordant_within"], found["pairs_within"] = concordance(scores, values, groups=expanded)
    return found
