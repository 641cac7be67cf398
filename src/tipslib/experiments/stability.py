"""How many subnetworks make the scores settle? The sums behind TPS, for a few paths, over many draws (TIPS, Fig. 6)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torchvision.models import get_model

from tipslib.errors import require
from tipslib.experiments.coupling import Floats, Ints, node_degrees, path_membership, path_score
from tipslib.profiles import Profile
from tipslib.records import Outcome
from tipslib.topology import NetworkGraph, all_paths, sample_subnetworks, tas, tps

VERSION = 1
TOLERANCE = 1e-9


@dataclass(frozen=True)
class Parameters:
    """The paper's setting: MobileNet-v2, 2 to 20 subnetworks, 10 runs, lambda = 1, kappa = 1e-5 (TIPS, Sec. 4.5, B.1, B.4).

    `repeats` is the number of runs in all, for standard errors; the first `runs` are what a figure of the paper would show. `paths`
    is how many paths are followed, from the shortest to the longest. `moment_sample` single subnetworks feed `predicted_spread`.
    """

    network: Literal["mobilenet_v2", "resnet18", "efficientnet_b0"] = "mobilenet_v2"
    resolution: int = 224
    subnetworks: tuple[int, ...] = tuple(range(2, 21))
    runs: int = 10
    repeats: int = 200
    coupling: float = 1.0
    restart: float = 1e-5
    paths: int = 5
    moment_sample: int = 4096

    def __post_init__(self) -> None:
        counts = self.subnetworks
        require(self.resolution >= 32, f"resolution = {self.resolution}; at least 32 pixels are wanted")
        require(len(counts) > 0 and min(counts) >= 1, f"subnetworks = {counts}; whole numbers from 1 are wanted")
        require(list(counts) == sorted(set(counts)), f"subnetworks = {counts}; increasing numbers are wanted, each once")
        require(self.runs >= 2, f"runs = {self.runs}; at least 2 are wanted, to have a spread")
        require(self.repeats >= self.runs, f"repeats = {self.repeats}; at least runs = {self.runs} are wanted")
        require(0 <= self.coupling <= 1, f"coupling = {self.coupling}; lambda lies in [0, 1]")
        require(0 <= self.restart < 1, f"restart = {self.restart}; kappa lies in [0, 1)")
        require(self.paths >= 1, f"paths = {self.paths}; at least 1 is wanted")
        require(self.moment_sample >= 100, f"moment_sample = {self.moment_sample}; at least 100 are wanted")


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Draw `repeats` sets of T subnetworks for every T, and keep the sums that every TPS is made of.

    Arrays, with C counts T, R runs, P paths followed and L lengths of paths: `path_degrees` (C, R, P), G of each path;
    `all_degrees` (C, R), S; `best_of_length` (C, R, L), which of the equally long paths has the highest TPS, ties broken by lot;
    `best_per_node` (C, R), which of all paths has the highest TPS per node.
    """
    del profile
    p = parameters
    graph = NetworkGraph.from_module(get_model(p.network, weights=None).eval(), (1, 3, p.resolution, p.resolution))
    candidates = all_paths(graph)
    member = path_membership(candidates, len(graph.nodes))
    lengths = member.sum(axis=1)
    followed = representatives(member, node_degrees(graph, np.ones((1, len(graph.operations)), dtype=bool))[0], p.paths)

    rng = np.random.default_rng(seed)
    shape = (len(p.subnetworks), p.repeats)
    path_degrees, all_degrees = np.zeros((*shape, len(followed)), dtype=np.int32), np.zeros(shape, dtype=np.int32)
    best_of_length, best_per_node = np.zeros((*shape, len(np.unique(lengths))), dtype=np.int32), np.zeros(shape, dtype=np.int32)
    error = 0.0
    for i, count in enumerate(p.subnetworks):
        for j in range(p.repeats):
            masks = sample_subnetworks(graph, count, rng=rng)
            degrees = node_degrees(graph, masks).sum(axis=0)
            totals = member @ degrees
            path_degrees[i, j], all_degrees[i, j] = totals[followed], degrees.sum()
            best_of_length[i, j] = [best_by_lot(totals, np.flatnonzero(lengths == n), rng) for n in np.unique(lengths)]
            best_per_node[i, j] = best_by_lot(totals / lengths, np.arange(len(lengths)), rng)
            if j < p.runs:
                scores = tas(graph, masks, p.coupling, p.restart)
                direct = np.array([tps(scores, candidates[k]) for k in followed])
                formula = path_score(totals[followed], degrees.sum(), lengths[followed], len(graph.nodes), count, p.coupling, p.restart)
                error = max(error, float(np.abs(formula / direct - 1).max()))
    return Outcome(
        values={
            "nodes": len(graph.nodes),
            "operations": len(graph.operations),
            "followed": [{"nodes": int(lengths[k]), "path": int(k)} for k in followed],
            "lengths": [{"nodes": int(n), "paths": int((lengths == n).sum())} for n in np.unique(lengths)],
            "moments": _moments(graph, member[followed], sample_subnetworks(graph, p.moment_sample, rng=rng)),
            "formula_agrees": error < 1e-12,
        },
        arrays={
            "path_degrees": path_degrees,
            "all_degrees": all_degrees,
            "best_of_length": best_of_length,
            "best_per_node": best_per_node,
        },
    )


def representatives(member: Ints, degrees: Ints, count: int) -> Ints:
    """One path each of `count` lengths, evenly spread: the one with the highest TPS on the whole supernet, and the first of those that tie.

    Parameters
    ----------
    member : (P, N)
        From `path_membership`.
    degrees : (N,)
        Of the supernet.

    Returns
    -------
    (<= count,) indices of paths, the shortest first.
    """
    lengths, totals = member.sum(axis=1), member @ degrees
    available = np.unique(lengths)
    wanted = available[np.unique(np.linspace(0, len(available) - 1, min(count, len(available))).round().astype(int))]
    return np.array([np.flatnonzero(lengths == n)[totals[lengths == n].argmax()] for n in wanted], dtype=np.int64)


def best_by_lot(scores: NDArray[np.integer[Any]] | Floats, among: Ints, rng: np.random.Generator) -> int:
    """Index of the highest of `scores[among]`; of several equal ones each is as likely."""
    values = scores[among]
    return int(rng.choice(among[values == values.max()]))


def spread_percent(scores: Floats) -> Floats:
    """Standard deviation over the runs in percent of their mean: (C, R, P) scores to (C, P)."""
    spread: Floats = 100 * scores.std(axis=1, ddof=1) / scores.mean(axis=1)
    return spread


def run_scores(
    values: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]], subnetworks: Sequence[int], couplings: Sequence[float], restart: float
) -> Floats:
    """TPS of every followed path in every run, (C, R, P), with lambda = `couplings[i]` where there are `subnetworks[i]` subnetworks.

    Parameters
    ----------
    values, arrays
        Of a record of this experiment.
    subnetworks, couplings
        (C,) each.
    restart
        kappa.
    """
    lengths = np.array([path["nodes"] for path in values["followed"]])
    return np.stack(
        [
            path_score(degrees, total[:, None], lengths, values["nodes"], count, coupling, restart)
            for degrees, total, count, coupling in zip(arrays["path_degrees"], arrays["all_degrees"], subnetworks, couplings, strict=True)
        ]
    )


def predicted_spread(values: Mapping[str, Any], subnetworks: Sequence[int], couplings: Sequence[float], restart: float) -> Floats:
    """Spread of TPS to first order, in percent, (C, P): what T independent subnetworks add up to.

    One subnetwork has degrees G1 on the path (mean g) and S1 in all (mean s). Over T of them dTPS / TPS = dG / E[G] - dS / E[S], so the
    relative variance is Var(G1 / a - S1 / b) / T with a = g + lambda (T - 1) D + k T N D and b = s + lambda (T - 1) N + k T N^2,
    k = kappa / (1 - kappa). Without coupling it falls as 1 / T; with it as 1 / T^3 once T is large.
    """
    one = {name: np.array(value) for name, value in values["moments"].items()}
    lengths, nodes, k = np.array([path["nodes"] for path in values["followed"]]), values["nodes"], restart / (1 - restart)
    rows = []
    for count, coupling in zip(subnetworks, couplings, strict=True):
        on_path = one["path_mean"] + (coupling * (count - 1) + k * count * nodes) * lengths
        in_all = one["all_mean"] + (coupling * (count - 1) + k * count * nodes) * nodes
        variance = one["path_variance"] / on_path**2 - 2 * one["covariance"] / (on_path * in_all) + one["all_variance"] / in_all**2
        rows.append(100 * np.sqrt(np.maximum(variance, 0) / count))
    return np.array(rows)


def _moments(graph: NetworkGraph, member: Ints, masks: NDArray[np.bool_]) -> dict[str, Any]:
    """Means, variances and covariances of the sums of one subnetwork, from many (the rows of `masks`)."""
    degrees = node_degrees(graph, masks)
    on_path, in_all = degrees @ member.T, degrees.sum(axis=1)
    return {
        "path_mean": on_path.mean(axis=0).tolist(),
        "all_mean": float(in_all.mean()),
        "path_variance": on_path.var(axis=0, ddof=1).tolist(),
        "all_variance": float(in_all.var(ddof=1)),
        "covariance": [float(np.cov(column, in_all)[0, 1]) for column in on_path.T],
    }
