"""What does each step of the analysis give on a toy supernet, on the paper's blocks and on whole networks? (TIPS, Figs. 2, 9, 10, 11)"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import get_model
from torchvision.models.mobilenetv2 import InvertedResidual
from torchvision.models.resnet import BasicBlock

from tipslib.analysis import Analysis, analyze
from tipslib.errors import require
from tipslib.profiles import Profile
from tipslib.records import Outcome
from tipslib.topology import (
    BestPath,
    NetworkGraph,
    best_paths,
    count_paths,
    important_path,
    sample_subnetworks,
    stationary_distribution,
    tas,
)

VERSION = 1
TOLERANCE = 1e-9

ROUNDING = 1e-12
"""Differences between solvers below this are rounding, which may differ from machine to machine; they are recorded as this."""

STACK_SUBNETWORKS = 3

WIDTH_LAYERS = (("conv1", 32), ("conv2", 64), ("depthwise", 64), ("conv3", 96), ("conv4", 128))
"""Layers of our supernet for Fig. 11 (four convolutions and a depthwise one, as in its caption) with their most output channels."""


@dataclass(frozen=True)
class Parameters:
    """The paper's setting: 8 subnetworks, lambda = 1, kappa = 1e-5 (TIPS, Sec. 4.5, B.1, B.4).

    `width_samples` networks are drawn for each of the sampling rules of Fig. 11.
    """

    subnetworks: int = 8
    coupling: float = 1.0
    restart: float = 1e-5
    resolution: int = 224
    width_samples: int = 100

    def __post_init__(self) -> None:
        require(self.subnetworks >= 1, f"subnetworks = {self.subnetworks}; at least 1 is wanted")
        require(0 <= self.coupling <= 1, f"coupling = {self.coupling}; lambda lies in [0, 1]")
        require(0 <= self.restart < 1, f"restart = {self.restart}; kappa lies in [0, 1)")
        require(self.resolution >= 32, f"resolution = {self.resolution}; at least 32 pixels are wanted")
        require(self.width_samples >= 1, f"width_samples = {self.width_samples}; at least 1 is wanted")


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Go through the steps for every network.

    Arrays: `toy_masks` (T, M) and `toy_scores` (N,) of the toy; `toy_degrees` (T, N), row T-1: the degree of each feature map summed
    over a draw of T subnetworks; `stack_masks` (3, M) of three basic blocks; for each whole network `NAME_masks` (T, M), `NAME_scores`
    (N,) and `NAME_importance` (M,).
    """
    del profile
    p = parameters
    toy_rng, block_rng, stack_rng, width_rng = np.random.default_rng(seed).spawn(4)
    toy = toy_supernet()
    draws = [sample_subnetworks(toy, count, rng=toy_rng) for count in range(1, p.subnetworks + 1)]
    toy_scores = tas(toy, draws[-1], p.coupling, p.restart)
    stack, stack_shape = basic_block_stack()
    stack_graph = NetworkGraph.from_module(stack, stack_shape)
    arrays: dict[str, NDArray[Any]] = {
        "toy_masks": draws[-1],
        "toy_scores": toy_scores,
        "toy_degrees": np.array([degrees(toy, masks) for masks in draws]),
        "stack_masks": sample_subnetworks(stack_graph, STACK_SUBNETWORKS, rng=stack_rng),
    }
    solvers = {"toy": _disagreement(toy, draws[-1], p)}
    blocks = {}
    for name, (module, shape) in fig9_blocks().items():
        graph = NetworkGraph.from_module(module, shape)
        solvers[name] = _disagreement(graph, sample_subnetworks(graph, p.subnetworks, rng=block_rng), p)
        blocks[name] = {
            "feature_maps": [node.name for node in graph.nodes],
            "operations": [{"name": o.name, "kind": o.kind, "source": o.source, "target": o.target} for o in graph.operations],
        }
    networks, timing = {}, {}
    for name in ("mobilenet_v2", "resnet34"):
        module = get_model(name, weights=None)
        started = time.perf_counter()
        analysis = analyze(
            module,
            (1, 3, p.resolution, p.resolution),
            subnetworks=p.subnetworks,
            coupling=p.coupling,
            restart=p.restart,
            seed=seed,
        )
        timing[name] = time.perf_counter() - started
        networks[name] = _summary(module, analysis)
        solvers[name] = _disagreement(analysis.graph, analysis.masks, p)
        arrays |= {f"{name}_masks": analysis.masks, f"{name}_scores": analysis.scores, f"{name}_importance": analysis.importance}
    return Outcome(
        values={
            "toy": {"paths": _paths(toy, best_paths(toy, toy_scores)), "important_path": important_path(toy, toy_scores).nodes.tolist()},
            "blocks": blocks,
            "stack": {"feature_maps": len(stack_graph), "operations": len(stack_graph.operations)},
            "widths": _try_width_rules(p.width_samples, width_rng),
            "networks": networks,
            "solvers": solvers,
            "timing": timing,
        },
        arrays=arrays,
    )


def toy_supernet() -> NetworkGraph:
    """Our toy in the spirit of Fig. 2: from r to d, three candidate paths of five feature maps, and two operations across.

    The layers into v1 and out of v5 are required. Path k of the figure is r, v1, v(k+1), v5, d.
    """
    names = ("r", "v1", "v2", "v3", "v4", "v5", "d")
    edges = ((0, 1), (1, 2), (1, 3), (1, 4), (2, 3), (3, 4), (2, 5), (3, 5), (4, 5), (5, 6))
    return NetworkGraph.from_edges(
        edges,
        nodes=names,
        names=[f"{names[s]}→{names[t]}" for s, t in edges],
        kinds=["convolution"] * len(edges),
        required=(0, len(edges) - 1),
    )


TOY_POSITIONS = ((0, 0), (1, 0), (2, 1), (2, 0), (2, -1), (3, 0), (4, 0))
"""Where the figures put the toy's feature maps: x, y."""


def fig9_blocks() -> dict[str, tuple[nn.Module, tuple[int, ...]]]:
    """The two blocks of Fig. 9, torchvision's own modules, with the shape of an input."""
    return {
        "inverted residual": (InvertedResidual(24, 24, stride=1, expand_ratio=6), (1, 24, 56, 56)),
        "basic block": (BasicBlock(64, 64), (1, 64, 56, 56)),
    }


def basic_block_stack() -> tuple[nn.Module, tuple[int, ...]]:
    """The supernet of Fig. 10, three basic blocks, with the shape of an input."""
    return nn.Sequential(*(BasicBlock(64, 64) for _ in range(3))), (1, 64, 56, 56)


def degrees(graph: NetworkGraph, masks: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) g_r, the degree of every feature map summed over the subnetworks; the self-loops of Eq. 2 count 1."""
    kept = masks.sum(axis=0)
    total: NDArray[np.int64] = np.zeros(len(graph), dtype=np.int64)
    np.add.at(total, graph.sources, kept)
    np.add.at(total, graph.targets, kept)
    total[[0, -1]] += len(masks)
    return total


def _disagreement(graph: NetworkGraph, masks: NDArray[np.bool_], p: Parameters) -> dict[str, float]:
    """Largest difference of pi between the closed form and each other solver (Eq. 7), from `ROUNDING` up."""
    exact = stationary_distribution(graph, masks, p.coupling, p.restart)
    methods: tuple[Literal["power", "gth", "sparse"], ...] = ("power", "gth", "sparse")
    found = {m: np.abs(stationary_distribution(graph, masks, p.coupling, p.restart, method=m) - exact).max() for m in methods}
    return {method: max(ROUNDING, float(difference)) for method, difference in found.items()}


def _paths(graph: NetworkGraph, best: dict[int, BestPath]) -> list[dict[str, Any]]:
    counts = count_paths(graph)
    return [
        {"nodes": d, "paths": counts[d], "tps": path.score, "tps_per_node": path.score / d, "ties": path.ties} for d, path in best.items()
    ]


def _summary(module: nn.Module, analysis: Analysis) -> dict[str, Any]:
    """Which operations are important, where they lie, and what other choices of the path would have said."""
    graph = analysis.graph
    whole = best_paths(graph, tas(graph, np.ones_like(analysis.masks[:1]), analysis.coupling, analysis.restart))
    paths = _paths(graph, dict(analysis.paths))
    for path in paths:
        path["ties_on_supernet"] = whole[path["nodes"]].ties
    blocks = [_block(name, part, analysis) for name, part in module.named_modules() if isinstance(part, (InvertedResidual, BasicBlock))]
    position = {operation.name: i for i, operation in enumerate(graph.operations)}
    first = next(i for i, operation in enumerate(graph.operations) if operation.kind == "convolution")
    return {
        "feature_maps": len(graph),
        "operations": len(graph.operations),
        "paths": paths,
        "important_nodes": len(analysis.path.nodes),
        "important_ties": analysis.path.ties,
        "first_convolution_importance": float(analysis.importance[first]),
        "blocks": blocks,
        "choices": [
            {"choice": name, "nodes": len(path.nodes)} | _shares(blocks, path, position)
            for name, path in [("per node", analysis.path), *((f"D = {d}", path) for d, path in analysis.paths.items())]
        ],
    }


def _block(name: str, block: nn.Module, analysis: Analysis) -> dict[str, Any]:
    """One block: does the released rule call it vital, which of its convolutions are important, and how does the first one compare?

    `vital` is the rule of the released code: input and output channels differ, or the stride is 2. `ends` is, for each convolution, the
    TAS of the feature map it reads plus that of the one it makes.
    """
    graph, scores = analysis.graph, analysis.scores
    convolutions = [part for part in block.modules() if isinstance(part, nn.Conv2d)]
    channels = convolutions[0].in_channels, convolutions[-1].out_channels
    stride = max(convolution.stride[0] for convolution in convolutions)
    inside = [i for i, o in enumerate(graph.operations) if o.kind == "convolution" and o.name.startswith(f"{name}.")]
    return {
        "name": name,
        "channels": list(channels),
        "stride": stride,
        "vital": channels[0] != channels[1] or stride == 2,
        "convolutions": [graph.operations[i].name for i in inside],
        "important": [bool(analysis.important[i]) for i in inside],
        "importance": [float(analysis.importance[i]) for i in inside],
        "ends": [float(scores[graph.sources[i]] + scores[graph.targets[i]]) for i in inside],
    }


def _shares(blocks: Sequence[dict[str, Any]], path: BestPath, position: dict[str, int]) -> dict[str, float]:
    """Share of the convolutions that lie on `path`: in blocks of stride 2, and in those that keep size and channels."""
    on_path = set(path.operations.tolist())

    def share(chosen: Callable[[dict[str, Any]], bool]) -> float:
        inside = [position[name] in on_path for block in blocks if chosen(block) for name in block["convolutions"]]
        return float(np.mean(inside))

    return {"stride2": share(lambda b: b["stride"] == 2), "other": share(lambda b: not b["vital"])}


def draw_widths(rng: np.random.Generator, *, chained: bool = True, depthwise: bool = True) -> list[tuple[int, int]]:
    """Draw (C_in, C_out) of every layer of `WIDTH_LAYERS`, from input to output (TIPS, C.3).

    Parameters
    ----------
    rng
        Every number of channels from 1 to the layer's most is equally likely.
    chained
        Rule 1: C_in is the C_out of the layer before. False: drawn by itself.
    depthwise
        Rule 2: a depthwise layer's C_out is its C_in. False: drawn by itself.
    """
    drawn: list[tuple[int, int]] = []
    before, most = 3, 3
    for name, widest in WIDTH_LAYERS:
        inputs = before if chained or not drawn else int(rng.integers(1, most + 1))
        outputs = inputs if depthwise and name == "depthwise" else int(rng.integers(1, widest + 1))
        drawn.append((inputs, outputs))
        before, most = outputs, widest
    return drawn


def output_channels(widths: Sequence[tuple[int, int]]) -> int | None:
    """Build the network of these widths in PyTorch and run it on an image; its output channels, None if it cannot be built or run."""
    try:
        layers = [
            nn.Conv2d(c_in, c_out, 3, padding=1, groups=c_in if name == "depthwise" else 1, device="meta")
            for (name, _), (c_in, c_out) in zip(WIDTH_LAYERS, widths, strict=True)
        ]
        return int(nn.Sequential(*layers)(torch.empty(1, 3, 8, 8, device="meta")).shape[1])
    except (ValueError, RuntimeError):
        return None


def _try_width_rules(samples: int, rng: np.random.Generator) -> dict[str, Any]:
    """How many of the networks drawn by each set of rules can be run?"""
    rules = {"both rules": (True, True), "without rule 1": (False, True), "without rule 2": (True, False)}
    drawn = {
        name: [draw_widths(rng, chained=chained, depthwise=depthwise) for _ in range(samples)]
        for name, (chained, depthwise) in rules.items()
    }
    return {
        "samples": samples,
        "run": {name: sum(output_channels(w) == w[-1][1] for w in widths) for name, widths in drawn.items()},
        "examples": [[list(layer) for layer in widths] for widths in drawn["both rules"][:3]],
    }
