"""Which numbers of channels in a network are one and the same? Read off its trace, so that they can change together."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.nn import functional as F

from tipslib.errors import TracingError, require

KEEPING = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh),
    *(nn.Identity, nn.Dropout, nn.Dropout2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d, nn.Upsample),
)
"""Modules that treat every channel alike and keep their number."""

KEEPING_CALLS: frozenset[Any] = frozenset(
    {
        *(F.relu, F.relu6, F.silu, F.gelu, F.hardswish, F.hardsigmoid, F.sigmoid, F.dropout, F.dropout2d, F.max_pool2d, F.avg_pool2d),
        *(F.adaptive_avg_pool2d, F.adaptive_max_pool2d, F.interpolate, torch.relu, torch.sigmoid, torch.tanh),
        *("relu", "sigmoid", "tanh", "contiguous", "clone", "detach"),
    }
)
MEETING_CALLS: frozenset[Any] = frozenset(
    {operator.add, operator.iadd, operator.sub, operator.mul, operator.imul, torch.add, torch.mul, torch.sub, "add", "add_", "mul", "mul_"}
)
"""Where feature maps meet element by element: their channels are the same."""


@dataclass(frozen=True)
class Channels:
    """A number of channels: `times` times that of group `group`; group None is a fixed number, `times` itself."""

    group: int | None
    times: int


@dataclass(frozen=True)
class Layer:
    """A convolution, linear layer or batch norm, with the channels it reads and makes.

    `name` is that of the module; `pixels` the positions of its output; `chooses` whether it sets its output's number of channels
    (a depthwise convolution, a grouped one and a batch norm follow their input).
    """

    name: str
    inputs: Channels
    outputs: Channels
    pixels: int
    chooses: bool


@dataclass(frozen=True)
class ChannelGroups:
    """What a trace says: the layers in order; of each group its name, full number of channels, and what that must be a multiple of."""

    layers: tuple[Layer, ...]
    sizes: tuple[int, ...]
    units: tuple[int, ...]
    names: tuple[str, ...]


def channel_groups(module: nn.Module, input_shape: Sequence[int], *, fixed: Sequence[str] = ()) -> ChannelGroups:
    """Follow the channels of every feature map through a network.

    The network's input and output are fixed, and so is what the layers named in `fixed` make. The two ends of a residual connection
    are one group, and so are the two sides of a depthwise convolution (TIPS, Fig. 11).

    Raises
    ------
    TracingError
        `torch.fx` cannot trace it, or the network does something to channels that cannot be sliced (concatenation, reshaping, a shift
        of channels, a layer of an unknown kind); the message names the place.
    """
    try:
        traced = fx.symbolic_trace(module)
    except Exception as error:
        where = f"{type(module).__name__}: {type(error).__name__}: {error}"
        raise TracingError(f"cannot trace {where}. Replace control flow that depends on data, or wrap it in a module of its own") from error
    with torch.no_grad():
        ShapeProp(traced).propagate(torch.zeros(2, *input_shape))
    return _Follower(traced, fixed).follow()


class _Follower:
    """Union-find over the channels of feature maps."""

    def __init__(self, traced: fx.GraphModule, fixed: Sequence[str]) -> None:
        self.traced = traced
        self.modules = dict(traced.named_modules())
        missing = [name for name in fixed if name not in self.modules]
        require(not missing, f"fixed: no layer {', '.join(missing)}; names are those of named_modules()")
        self.fixed = set(fixed)
        self.parent: list[int] = []
        self.sizes: list[int] = []
        self.names: list[str] = []
        self.units: list[int] = []
        self.frozen: list[bool] = []
        self.at: dict[fx.Node, Channels] = {}
        self.layers: list[Layer] = []

    def follow(self) -> ChannelGroups:
        for node in self.traced.graph.nodes:
            if node.op == "placeholder":
                self.at[node] = Channels(None, _shape(node)[1])
            elif node.op == "output":
                last = node.all_input_nodes
                require(len(last) == 1, f"the network has {len(last)} outputs; a supernet has exactly one")
                self._freeze(self.at[last[0]])
            elif node.op == "call_module":
                self.at[node] = self._module(node, self.modules[str(node.target)])
            elif node.op in ("call_function", "call_method"):
                self.at[node] = self._call(node)
            else:
                raise self._refuse(node, "reads a tensor that is no layer's")
        return self._result()

    def _module(self, node: fx.Node, module: nn.Module) -> Channels:
        inputs, name = self.at[node.all_input_nodes[0]], str(node.target)
        if any(layer.name == name for layer in self.layers):
            raise self._refuse(node, "is called twice, perhaps with different channels; give each call a layer of its own")
        if isinstance(module, nn.Flatten) and module.start_dim == 1:
            return self._flat(node, inputs)
        if isinstance(module, KEEPING) or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            return inputs
        pixels = math.prod(_shape(node)[2:])
        if isinstance(module, nn.BatchNorm2d):
            self.layers.append(Layer(name, inputs, inputs, pixels, False))
            return inputs
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            per_group, share = module.in_channels // module.groups, module.out_channels // module.groups
            if inputs.group is not None:
                unit = per_group // math.gcd(per_group, inputs.times)
                root = self._root(inputs.group)
                self.units[root] = math.lcm(self.units[root], unit)
            if (inputs.times * share) % per_group:
                self._freeze(inputs)
                outputs = Channels(None, module.out_channels)
            else:
                outputs = Channels(inputs.group, inputs.times * share // per_group)
            self.layers.append(Layer(name, inputs, outputs, pixels, False))
            return outputs
        if isinstance(module, nn.Conv2d | nn.Linear):
            full = module.out_channels if isinstance(module, nn.Conv2d) else module.out_features
            outputs = Channels(None, full) if name in self.fixed else Channels(self._group(name, full), 1)
            self.layers.append(Layer(name, inputs, outputs, pixels, True))
            return outputs
        raise self._refuse(node, f"is a {type(module).__name__}, of which it is not known what it does to channels")

    def _call(self, node: fx.Node) -> Channels:
        if "tensor_meta" not in node.meta or node.target in ("size", getattr):
            return Channels(None, 0)  # no feature map: a shape that a reshaping reads
        sources = [self.at[n] for n in node.all_input_nodes if "tensor_meta" in n.meta]
        if node.target in MEETING_CALLS:
            for other in sources[1:]:
                self._join(node, sources[0], other)
            return sources[0]
        if node.target in KEEPING_CALLS and len(sources) == 1:
            return sources[0]
        if node.target in (torch.flatten, "flatten", "view", "reshape", torch.reshape) and _shape(node)[0] == 2 and len(_shape(node)) == 2:
            return self._flat(node, sources[0])
        if node.target in (torch.mean, "mean") and len(_shape(node)) in (2, 4) and _shape(node)[1] == _shape(node.all_input_nodes[0])[1]:
            return sources[0]
        raise self._refuse(node, "does something to channels that cannot be sliced (concatenation, reshaping, an unknown function)")

    def _flat(self, node: fx.Node, inputs: Channels) -> Channels:
        before, after = _shape(node.all_input_nodes[0]), _shape(node)
        return Channels(inputs.group, inputs.times * (after[1] // before[1]))

    def _group(self, name: str, size: int) -> int:
        self.parent.append(len(self.parent))
        self.sizes.append(size)
        self.names.append(name)
        self.units.append(1)
        self.frozen.append(False)
        return len(self.parent) - 1

    def _root(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def _freeze(self, channels: Channels) -> None:
        if channels.group is not None:
            self.frozen[self._root(channels.group)] = True

    def _join(self, node: fx.Node, a: Channels, b: Channels) -> None:
        full = [c.times if c.group is None else c.times * self.sizes[self._root(c.group)] for c in (a, b)]
        if full[0] != full[1]:
            raise self._refuse(node, f"joins {full[0]} and {full[1]} channels")
        if a.group is None or b.group is None:
            self._freeze(a)
            self._freeze(b)
            return
        if a.times != b.times:
            raise self._refuse(node, "joins channels that cannot change together")
        first, second = sorted((self._root(a.group), self._root(b.group)))
        if first != second:
            self.parent[second] = first
            self.units[first] = math.lcm(self.units[first], self.units[second])
            self.frozen[first] |= self.frozen[second]

    def _refuse(self, node: fx.Node, why: str) -> TracingError:
        stack = node.meta.get("nn_module_stack") or {}
        inside = next((path for path, _ in reversed(list(stack.values())) if path), "the network itself")
        return TracingError(f"{node.target} in {inside} {why}. Give that part a form that keeps channels apart, or leave it out")

    def _result(self) -> ChannelGroups:
        roots = [g for g in range(len(self.parent)) if self._root(g) == g and not self.frozen[g]]
        number = {root: i for i, root in enumerate(roots)}

        def settled(c: Channels) -> Channels:
            if c.group is None:
                return c
            root = self._root(c.group)
            return Channels(number[root], c.times) if root in number else Channels(None, c.times * self.sizes[root])

        layers = tuple(Layer(x.name, settled(x.inputs), settled(x.outputs), x.pixels, x.chooses) for x in self.layers)
        pick: Callable[[Sequence[Any]], tuple[Any, ...]] = lambda values: tuple(values[root] for root in roots)  # noqa: E731
        return ChannelGroups(layers, pick(self.sizes), pick(self.units), pick(self.names))


def _shape(node: fx.Node) -> tuple[int, ...]:
    meta: Mapping[str, Any] = node.meta
    return tuple(meta["tensor_meta"].shape)
