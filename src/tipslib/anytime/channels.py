"""Which layers of a network must have the same number of channels? Read off its trace (TIPS, Fig. 11 and C.3)."""

from __future__ import annotations

import copy
import math
import operator
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils.flop_counter import FlopCounterMode

from tipslib.errors import InvalidInput, TracingError, require
from tipslib.topology.graph import unique
from tipslib.topology.reader import owner_of, place

_KEEPING_LAYERS = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU, nn.GELU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Upsample, nn.ZeroPad2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_KEEPING_FUNCTIONS = {
    *(F.relu, F.relu6, F.leaky_relu, F.elu, F.silu, F.gelu, F.mish, F.sigmoid, F.tanh, F.softplus, F.hardswish, F.hardsigmoid),
    *(F.hardtanh, F.dropout, F.dropout2d, F.interpolate, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
    *(torch.relu, torch.sigmoid, torch.tanh, torch.clone, operator.neg),
    *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "clone", "contiguous", "float", "half", "bfloat16", "detach"),
}
_ELEMENTWISE = {
    *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv),
    *(torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum),
    *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
}
_MEANS = {torch.mean, torch.sum, torch.amax, "mean", "sum", "amax"}


@dataclass(frozen=True)
class Axis:
    """How many channels an input or output has: `ratio` times the width of a dimension, or `ratio` itself where that is None."""

    dimension: int | None
    ratio: Fraction

    def at(self, widths: tuple[int, ...]) -> int:
        """Number of channels at a width configuration."""
        return int(self.ratio if self.dimension is None else self.ratio * widths[self.dimension])


@dataclass(frozen=True)
class Layer:
    """A convolution, linear layer or batch norm that can be sliced.

    Attributes
    ----------
    inputs, outputs
        Its channels (or features).
    positions
        Output positions that it computes per image, over all its calls.
    """

    inputs: Axis
    outputs: Axis
    positions: int


@dataclass(frozen=True)
class Channels:
    """All channel dimensions of a network.

    Attributes
    ----------
    names, sizes, units
        Of every dimension: its first operation, its full width, and what its widths must be multiples of (groups).
    operations
        Operation, named as by `NetworkGraph.from_module`, -> dimension of its output channels; absent where these are fixed.
    layers
        Module name -> its channels, in the order of computation.
    total
        Multiply-accumulates of the full network per image, everything counted.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    units: tuple[int, ...]
    operations: Mapping[str, int]
    layers: Mapping[str, Layer]
    total: int


def read_channels(module: nn.Module, input_shape: tuple[int, ...], fixed: Collection[str] = ()) -> Channels:
    """Find the dimensions of a network that `torch.fx` can trace.

    Every dense convolution and linear layer opens a dimension with its outputs. Sums and products of feature maps, and batch norms,
    make dimensions one; depthwise and grouped convolutions, pooling, activations and flattening hand them on. The network's input and
    output are fixed.

    Raises
    ------
    TracingError
        The network cannot be traced, or a dimension reaches a place that cannot be sliced (concatenation, reshaping, layers of another
        kind); the message names it and the operations to name in `fixed`.
    InvalidInput
        A name in `fixed` that is no convolution or linear layer, or an input that does not fit.
    """
    inert = copy.deepcopy(module).to("meta").eval()
    try:
        traced = fx.symbolic_trace(inert)
    except Exception as error:
        raise TracingError(
            f"cannot trace {type(module).__name__}: {type(error).__name__}: {error}. Replace control flow that depends on data"
        ) from error
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            ShapeProp(traced).propagate(torch.empty(1, *input_shape, device="meta"))
    except RuntimeError as error:
        reason = str(error.__cause__ or error).split("\n", maxsplit=1)[0]
        raise InvalidInput(f"an input of shape (1, {', '.join(map(str, input_shape))}) does not pass the network: {reason}") from error
    reader = _Reader(inert, frozenset(fixed))
    for call in traced.graph.nodes:
        reader.read(call)
    unknown = sorted(set(fixed) - reader.named)
    require(not unknown, f"`fixed` names {', '.join(unknown)}; allowed are {', '.join(sorted(reader.named))}")
    return reader.channels(counter.get_total_flops() // 2)


@dataclass
class _Reader:
    """Follows the channel axis of every value through the trace; dimensions that meet become one (union-find)."""

    module: nn.Module
    fixed: frozenset[str]
    parent: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    units: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    made: list[tuple[str, int]] = field(default_factory=list)
    axes: dict[fx.Node, Axis] = field(default_factory=dict)
    layers: dict[str, Layer] = field(default_factory=dict)
    obstacles: list[tuple[str, list[int]]] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    used: Counter[str] = field(default_factory=Counter)

    def read(self, call: fx.Node) -> None:
        """Give the call's value its channel axis, or note that it cannot be followed."""
        if call.op == "output":
            self._fix(call)
        elif (shape := _shape(call)) is None or len(shape) < 2:
            if not (call.op == "call_method" and call.target in ("size", "dim")) and call.target is not getattr:
                self._obstacle(call)
        elif call.op in ("placeholder", "get_attr") or not self._inputs(call):
            self.axes[call] = Axis(None, Fraction(shape[1]))
        else:
            axis = self._layer(call) if call.op == "call_module" else self._function(call)
            if axis is None:
                self._obstacle(call)
                axis = Axis(None, Fraction(shape[1]))
            self.axes[call] = axis

    def _layer(self, call: fx.Node) -> Axis | None:
        name = str(call.target)
        layer = self.module.get_submodule(name)
        source, shape = call.all_input_nodes[0], _shape(call)
        inputs = self.axes[source]
        assert shape is not None
        if type(layer) is nn.Conv2d and len(shape) == 4:
            return self._sliceable(name, inputs, self._convolved(name, layer, inputs), math.prod(shape[2:]))
        if type(layer) is nn.Linear and len(shape) == 2:
            return self._sliceable(name, inputs, self._opened(name, layer.out_features), 1)
        if type(layer) is nn.BatchNorm2d:
            return self._sliceable(name, inputs, inputs, 0)
        if isinstance(layer, _KEEPING_LAYERS):
            return inputs
        if isinstance(layer, nn.Flatten) and layer.start_dim == 1 and layer.end_dim == -1:
            return self._flattened(source, inputs)
        return None

    def _function(self, call: fx.Node) -> Axis | None:
        inputs, shape, target = self._inputs(call), _shape(call), call.target
        first = call.all_input_nodes[0]
        assert shape is not None
        if target in _ELEMENTWISE:
            tensors = [node for node in inputs if (_shape(node) or (1, 1))[1] == shape[1] and len(_shape(node) or ()) == len(shape)]
            if len(tensors) < len(inputs) and any(math.prod(_shape(node) or (2,)) > 1 for node in inputs if node not in tensors):
                if not all(
                    (_shape(node) or ())[1:2] == (1,) and len(_shape(node) or ()) == len(shape) for node in inputs if node not in tensors
                ):
                    return None
            return self._joined([self.axes[node] for node in tensors])
        if len(inputs) != 1 or first not in self.axes:
            return None
        if target in _KEEPING_FUNCTIONS:
            return self.axes[first]
        before = _shape(first) or ()
        if target in _MEANS and len(before) == 4:
            over = _argument(call, 1, "dim", ())
            return self.axes[first] if {int(d) % 4 for d in ([over] if isinstance(over, int) else over)} in ({2, 3}, {2}, {3}) else None
        flattens = (
            target in (torch.flatten, "flatten") and _argument(call, 1, "start_dim", 0) == 1 and _argument(call, 2, "end_dim", -1) == -1
        )
        flattens |= target in ("view", "reshape", torch.reshape) and call.args[-1] in (-1, [-1], (-1,))
        if flattens and len(shape) == 2 and shape[0] == before[0]:
            return self._flattened(first, self.axes[first])
        return None

    def _inputs(self, call: fx.Node) -> list[fx.Node]:
        """The values with channels that a call reads."""
        return [node for node in call.all_input_nodes if node in self.axes]

    def _flattened(self, source: fx.Node, axis: Axis) -> Axis:
        return Axis(axis.dimension, axis.ratio * math.prod((_shape(source) or ())[2:]))

    def _sliceable(self, name: str, inputs: Axis, outputs: Axis, positions: int) -> Axis:
        """Note a layer's channels; a layer that is called again has the same ones."""
        if name in self.layers:
            before = self.layers[name]
            inputs, outputs = self._joined([before.inputs, inputs]) or inputs, self._joined([before.outputs, outputs]) or outputs
            positions += before.positions
        self.layers[name] = Layer(inputs, outputs, positions)
        return outputs

    def _opened(self, name: str, size: int) -> Axis:
        """A new dimension, for the outputs of a dense layer."""
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        self.units.append(1)
        self._sets(name, self.parent[-1])
        if name in self.fixed:
            self.pinned.add(self.parent[-1])
        return Axis(self.parent[-1], Fraction(1))

    def _convolved(self, name: str, layer: nn.Conv2d, inputs: Axis) -> Axis:
        if layer.groups == 1:
            return self._opened(name, layer.out_channels)
        if inputs.dimension is None:
            return Axis(None, Fraction(layer.out_channels))
        group, root = layer.in_channels // layer.groups, self._root(inputs.dimension)
        whole = group * inputs.ratio.denominator
        self.units[root] = math.lcm(self.units[root], whole // math.gcd(inputs.ratio.numerator, whole))
        self._sets(name, root)
        if name in self.fixed:
            self.pinned.add(root)
        return Axis(inputs.dimension, inputs.ratio * layer.out_channels / layer.in_channels)

    def _sets(self, name: str, dimension: int) -> None:
        self.named.add(name)
        self.made.append((unique(name, self.used), dimension))

    def _joined(self, axes: list[Axis]) -> Axis | None:
        """The axis of values that must agree: one dimension, or fixed as soon as one of them is."""
        if any(axis.dimension is None for axis in axes):
            for axis in axes:
                self._pin(axis)
            return Axis(None, _size(self, axes[0]))
        roots = sorted({self._root(axis.dimension) for axis in axes if axis.dimension is not None})
        if len({axis.ratio for axis in axes}) > 1:
            return None
        for root in roots[1:]:
            self.parent[root] = roots[0]
            self.units[roots[0]] = math.lcm(self.units[roots[0]], self.units[root])
        if self.pinned.intersection(roots):
            self.pinned.add(roots[0])
        return Axis(roots[0], axes[0].ratio)

    def _root(self, dimension: int) -> int:
        while self.parent[dimension] != dimension:
            self.parent[dimension] = self.parent[self.parent[dimension]]
            dimension = self.parent[dimension]
        return dimension

    def _pin(self, axis: Axis) -> None:
        if axis.dimension is not None:
            self.pinned.add(self._root(axis.dimension))

    def _fix(self, call: fx.Node) -> None:
        for node in self._inputs(call):
            self._pin(self.axes[node])

    def _obstacle(self, call: fx.Node) -> None:
        dimensions = [d for node in self._inputs(call) if (d := self.axes[node].dimension) is not None]
        if dimensions:
            where, called = owner_of(call), str(getattr(call.target, "__name__", call.target))
            what = place(self.module, where) if call.op == "call_module" else f"{called} in {place(self.module, where)}"
            self.obstacles.append((what, dimensions))

    def channels(self, total: int) -> Channels:
        """What was found, dimensions numbered in the order of their first operation, fixed ones resolved."""
        pinned = {self._root(dimension) for dimension in self.pinned}
        for what, dimensions in self.obstacles:
            if roots := {self._root(dimension) for dimension in dimensions} - pinned:
                setters = sorted({name for name, dimension in self.made if self._root(dimension) in roots})
                raise TracingError(f"{what} cannot be sliced; keep the channels it reads: fixed={setters}")
        free = list(dict.fromkeys(root for _, dimension in self.made if (root := self._root(dimension)) not in pinned))
        number = {root: i for i, root in enumerate(free)}
        first = {root: next(name for name, d in self.made if self._root(d) == root) for root in free}

        def resolved(axis: Axis) -> Axis:
            if axis.dimension is not None and (root := self._root(axis.dimension)) in number:
                return Axis(number[root], axis.ratio)
            return Axis(None, _size(self, axis))

        return Channels(
            names=tuple(first.values()),
            sizes=tuple(self.sizes[root] for root in free),
            units=tuple(self.units[root] for root in free),
            operations={name: number[self._root(d)] for name, d in self.made if self._root(d) in number},
            layers={name: Layer(resolved(layer.inputs), resolved(layer.outputs), layer.positions) for name, layer in self.layers.items()},
            total=total,
        )


def _size(reader: _Reader, axis: Axis) -> Fraction:
    return axis.ratio if axis.dimension is None else axis.ratio * reader.sizes[axis.dimension]


def _shape(call: fx.Node) -> tuple[int, ...] | None:
    meta = call.meta.get("tensor_meta")
    return tuple(meta.shape) if hasattr(meta, "shape") else None


def _argument(call: fx.Node, position: int, name: str, default: Any) -> Any:
    return call.args[position] if len(call.args) > position else call.kwargs.get(name, default)
