"""Which operation, if any, is each call of a traced network, and which feature maps does it connect? (TIPS, 3.1.1 and Fig. 9)"""

from __future__ import annotations

import math
import operator
from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from tipslib.errors import TracingError
from tipslib.topology.graph import FeatureMap, NetworkGraph, Operation, reachable, unique, with_ends_required

Shapes = dict[str, tuple[int, ...] | None]
"""Shape of the value of each call by the call's name; None for what holds no tensor."""

_POOLINGS = {"max": "123", "avg": "123", "adaptive_max": "123", "adaptive_avg": "123", "lp": "123", "fractional_max": "23"}
_POOLING_FUNCTIONS = {getattr(F, f"{kind}_pool{d}d") for kind, dimensions in _POOLINGS.items() for d in dimensions}
_POOLING_FUNCTIONS |= {torch.max_pool1d, torch.max_pool2d, torch.max_pool3d}
_POOLING_MODULES = tuple(
    getattr(nn, f"{''.join(word.capitalize() if word != 'lp' else 'LP' for word in kind.split('_'))}Pool{d}d")
    for kind, dimensions in _POOLINGS.items()
    for d in dimensions
)
NORMALISATIONS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm, nn.PReLU)
_CONVOLUTIONS = {F.conv1d, F.conv2d, F.conv3d}
_TRANSPOSED = {F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d}
_REDUCTIONS = {torch.mean, torch.amax, torch.sum, "mean", "amax", "sum"}
_MATRIX_PRODUCTS = {torch.matmul, torch.mm, torch.bmm, torch.einsum, operator.matmul, "matmul", "mm", "bmm"}
_PRODUCTS = {operator.mul, operator.imul, torch.mul, "mul", "mul_"}
_MEETINGS = _PRODUCTS | {
    *(operator.add, operator.iadd, torch.add, "add", "add_", operator.sub, operator.isub, torch.sub, "sub", "sub_"),
    *(torch.cat, torch.concat, torch.stack, torch.maximum, torch.minimum, "maximum", "minimum"),
}


class Reader:
    """Turns the calls of a traced network, in their order, into feature maps and operations.

    Parameters
    ----------
    module
        The network.
    opaque
        Qualified names of the submodules that count as one operation.
    shapes
        Shape of every value.
    """

    def __init__(self, module: nn.Module, opaque: frozenset[str], shapes: Shapes) -> None:
        self.module, self.opaque, self.shapes = module, opaque, shapes
        self.nodes: list[FeatureMap] = []
        self.operations: list[Operation] = []
        self.entering: list[list[Operation]] = []
        self.used: Counter[str] = Counter()
        self.map_of: dict[fx.Node, int] = {}

    def read(self, graph: fx.Graph) -> NetworkGraph:
        """The graph of the network; `map_of` tells which feature map each value is or belongs to, constants and sizes have none."""
        output = 0
        for call in graph.nodes:
            if call.op == "placeholder" and not self.nodes:
                self.nodes.append(FeatureMap("input", self.shapes[call.name]))
                self.entering.append([])
                self.map_of[call] = 0
            elif call.op == "output":
                output = self._output(call)
            elif self.shapes[call.name] is not None and (maps := self._maps(call)):
                self.map_of[call] = self._module(call, maps) if call.op == "call_module" else self._function(call, maps)
        if output == 0:
            raise TracingError(f"no operation leads from the input of {type(self.module).__name__} to what it returns")
        return self._pruned(output)

    def _maps(self, call: fx.Node) -> list[int]:
        """The different feature maps a call reads, in the order of its arguments."""
        return list(dict.fromkeys(self.map_of[argument] for argument in call.all_input_nodes if argument in self.map_of))

    def _output(self, call: fx.Node) -> int:
        maps = self._maps(call)
        if len(maps) > 1:
            made = ", ".join(repr(self.nodes[i].name) for i in maps)
            raise TracingError(f"{type(self.module).__name__} returns several feature maps ({made}); wrap it in a module that returns one")
        return maps[0] if maps else 0

    def _module(self, call: fx.Node, maps: list[int]) -> int:
        """The feature map that a layer makes, or the one it is counted to."""
        name = str(call.target)
        layer = self.module.get_submodule(name)
        if name in self.opaque:
            return self._operation(call, name, "leaf", maps, required=_area(self.shapes[call.name]) < _area(self.nodes[maps[0]].shape))
        if isinstance(layer, _ConvNd):
            strided = max(layer.stride) > 1 and not isinstance(layer, _ConvTransposeNd)
            return self._operation(call, name, "convolution", maps, required=strided, channels=layer.out_channels)
        if isinstance(layer, nn.Linear):
            return self._operation(call, name, "linear", maps, channels=layer.out_features)
        if isinstance(layer, _POOLING_MODULES):
            return self._operation(call, name, "pooling", maps, required=True)
        if len(maps) == 1 and (isinstance(layer, NORMALISATIONS) or next(layer.parameters(), None) is None):
            return maps[0]
        raise TracingError(
            f"{place(self.module, name)} is neither a convolution, a linear layer, pooling, nor a layer that can be counted to the "
            f"operation before it. Pass leaves=[{name!r}], or leaves=[{type(layer).__name__}], to count it as one operation."
        )

    def _function(self, call: fx.Node, maps: list[int]) -> int:
        """The feature map that a function makes, or the one it is counted to."""
        target = call.target
        called = str(getattr(target, "__name__", target))
        owner = owner_of(call)
        name = f"{owner}.{called}" if owner else called
        weights = [argument for argument in call.all_input_nodes if argument.op == "get_attr"]
        channels = next((shape[0] for weight in weights if (shape := self.shapes[weight.name])), None)
        if target in _CONVOLUTIONS or target in _TRANSPOSED:
            stride = _argument(call, 3, "stride", 1)
            strided = target in _CONVOLUTIONS and max(stride if isinstance(stride, Sequence) else [stride]) > 1
            return self._operation(call, name, "convolution", maps, required=strided, channels=channels)
        if target is F.linear:
            return self._operation(call, name, "linear", maps, channels=channels)
        if target in _POOLING_FUNCTIONS or (target in _REDUCTIONS and self._reduces_space(call)):
            return self._operation(call, name, "pooling", maps, required=True)
        if len(maps) == 1 and weights and target in _MATRIX_PRODUCTS:
            return self._operation(call, name, "linear", maps)
        if len(maps) == 1 and not (weights and _foreign(target)):
            return maps[0]
        if len(maps) == 2 and target in _PRODUCTS and (scaled := self._scaled(maps)) is not None:
            return scaled
        if target in _MEETINGS:
            plain = {"iadd": "add", "isub": "sub", "imul": "mul"}.get(called, called)
            return self._operation(call, name.removesuffix(called) + plain, "addition", maps)
        reason = f"combines {len(maps)} feature maps otherwise than by a sum, a concatenation or an elementwise product"
        if len(maps) == 1:
            reason = "has weights of its own and is no layer known here"
        raise TracingError(
            f"{called} in {place(self.module, owner)} {reason}, so it is no operation between two feature maps (nor is attention). "
            f"{way_out(owner)}"
        )

    def _operation(
        self, call: fx.Node, name: str, kind: str, maps: list[int], *, required: bool = False, channels: int | None = None
    ) -> int:
        """Add the feature map an operation makes, and its edge: one from each feature map it reads."""
        name = unique(name, self.used)
        self.nodes.append(FeatureMap(name, self.shapes[call.name]))
        made = len(self.nodes) - 1
        labels = [name] if len(maps) == 1 else [f"{name}({self.nodes[source].name})" for source in maps]
        self.entering.append([Operation(label, kind, source, made, required, channels) for label, source in zip(labels, maps, strict=True)])
        self.operations.extend(self.entering[-1])
        return made

    def _scaled(self, maps: list[int]) -> int | None:
        """The factor that squeeze-excitation scales: the other factor is computed from it alone, through pooling."""
        for scaled, gate in (maps, maps[::-1]):
            pending, seen, pooled = [gate], {scaled}, False
            while pending and pending[-1] != 0:
                entering = self.entering[pending.pop()]
                pooled |= any(operation.kind == "pooling" for operation in entering)
                fresh = {operation.source for operation in entering} - seen
                seen |= fresh
                pending.extend(fresh)
            if pooled and not pending:
                return scaled
        return None

    def _reduces_space(self, call: fx.Node) -> bool:
        """True if a mean, maximum or sum runs over all dimensions after the channels."""
        shape = self.shapes[call.all_input_nodes[0].name]
        dims = _argument(call, 1, "dim", ())
        over = [dims] if isinstance(dims, int) else dims
        rank = len(shape or ())
        return rank > 2 and {int(dim) % rank for dim in over} == set(range(2, rank))

    def _pruned(self, output: int) -> NetworkGraph:
        """What lies on paths from input to output, numbered anew."""
        operations = [operation for operation in self.operations if operation.target <= output]
        from_input, to_output = reachable(output + 1, operations)
        kept = [i for i in range(output + 1) if from_input[i] and to_output[i]]
        number = {old: new for new, old in enumerate(kept)}
        inside = [
            Operation(o.name, o.kind, number[o.source], number[o.target], o.required, o.out_channels)
            for o in operations
            if o.source in number and o.target in number
        ]
        return NetworkGraph(tuple(self.nodes[i] for i in kept), with_ends_required(inside, len(kept)))


def place(module: nn.Module, name: str) -> str:
    """The words for a submodule, or for the network itself if the name is empty."""
    return f"module {name!r} ({type(module.get_submodule(name)).__name__})" if name else f"the network itself ({type(module).__name__})"


def way_out(name: str) -> str:
    """What the caller can do about a submodule (or the network itself) that has no graph."""
    if name:
        return f"Pass leaves=[{name!r}] to count this module as one operation, or rewrite it."
    return "Move that part into a submodule and name it in `leaves`, or describe the graph with NetworkGraph.from_edges."


def owner_of(call: fx.Node) -> str:
    """Qualified name of the module a call belongs to; empty for the network itself."""
    if call.op == "call_module":
        return str(call.target)
    stack = call.meta.get("nn_module_stack") or {"": ("", None)}
    return str(list(stack.values())[-1][0])


def _argument(call: fx.Node, position: int, name: str, default: Any) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(name, default)


def _foreign(target: Any) -> bool:
    """True for a function that is not PyTorch's own, so that its weights may do anything."""
    return callable(target) and str(getattr(target, "__module__", None) or "torch").split(".")[0] not in ("torch", "_operator", "builtins")


def _area(shape: tuple[int, ...] | None) -> int:
    """Positions of a feature map, batch and channels aside."""
    return math.prod((shape or ())[2:])
