"""Which numbers of channels in a network are one and the same? Read off its trace, so that they can change together (TIPS, Fig. 11)."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.ops import stochastic_depth

from tipslib.anytime.shapes import MEETING_CALLS, SAME_ENDS, Trace, argument, shape_of, trace
from tipslib.errors import TracingError, require

_KEEPING = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Mish, nn.Sigmoid, nn.Tanh, nn.Softplus),
    *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Identity, nn.Dropout, nn.Dropout2d, nn.Upsample, nn.ZeroPad2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.AdaptiveMaxPool2d),
)
_KEEPING_CALLS: frozenset[Any] = frozenset(
    {
        *(F.relu, F.relu6, F.leaky_relu, F.elu, F.gelu, F.silu, F.mish, F.sigmoid, F.tanh, F.softplus, F.hardswish, F.hardsigmoid),
        *(F.hardtanh, F.dropout, F.dropout2d, F.interpolate, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d, F.adaptive_max_pool2d),
        *(torch.relu, torch.sigmoid, torch.tanh, torch.clone, operator.neg, stochastic_depth),
        *("relu", "relu_", "sigmoid", "sigmoid_", "tanh", "contiguous", "clone", "detach", "float", "half", "bfloat16"),
    }
)
"""What treats every channel alike and keeps their number."""


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
    """What a trace says.

    Attributes
    ----------
    layers
        In the order of computation.
    names, sizes, units
        Of each group: its first layer, the full number of channels, and what that number must be a multiple of.
    macs
        Multiply-accumulates of the full network for one image, everything counted.
    """

    layers: tuple[Layer, ...]
    names: tuple[str, ...]
    sizes: tuple[int, ...]
    units: tuple[int, ...]
    macs: int


def channel_groups(module: nn.Module, input_shape: Sequence[int], *, fixed: Sequence[str] = ()) -> ChannelGroups:
    """Follow the channels of every feature map through a network; nothing is computed but shapes.

    The network's input and output are fixed, and so is what the layers named in `fixed` make. The two ends of a residual connection
    are one group, and so are the two sides of a depthwise convolution. A grouped convolution with fewer outputs than inputs keeps
    the full number of both, where the ratio is no whole number.

    Raises
    ------
    TracingError
        `torch.fx` cannot trace it, or channels that are not fixed reach a place that cannot be sliced (concatenation, reshaping, a
        layer of another kind or one that is called twice); the message names the place, and the layers whose channels it reads.
    InvalidInput
        An input that does not fit, or a name in `fixed` that is no convolution or linear layer.
    """
    _check_fixed(module, fixed)
    traced = trace(module, input_shape)
    follower = _Follower(traced, frozenset(fixed))
    for node in traced.nodes:
        follower.read(node)
    return follower.result()


def _check_fixed(module: nn.Module, fixed: Sequence[str]) -> None:
    layers = [name for name, m in module.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    unknown = [name for name in fixed if name not in layers]
    require(not unknown, f"fixed: {', '.join(unknown)} is no convolution or linear layer of this network; there are {', '.join(layers)}")


class _Follower:
    """Union-find over the channels of feature maps."""

    def __init__(self, traced: Trace, fixed: frozenset[str]) -> None:
        self.traced, self.fixed = traced, fixed
        self.at: dict[fx.Node, Channels] = {}
        self.layers: list[Layer] = []
        self.parent: list[int] = []
        self.names: list[str] = []
        self.sizes: list[int] = []
        self.units: list[int] = []
        self.frozen: list[bool] = []
        self.obstacles: list[tuple[str, list[int]]] = []

    def read(self, node: fx.Node) -> None:
        """Find the channels of one value of the trace."""
        if node.op == "output":
            returned = self._sources(node)
            require(len(returned) == 1, f"the network returns {len(node.all_input_nodes)} values; a supernet returns one, its logits")
            self._freeze(self.at[returned[0]])
        elif not (shape := shape_of(node)):
            if sources := self._sources(node):
                self._shapeless(node, sources)
        elif node.op in ("placeholder", "get_attr") or not self._sources(node):
            self.at[node] = Channels(None, shape[1] if len(shape) > 1 else 1)
        elif node.op == "call_module":
            self.at[node] = self._module(node, self.traced.module.get_submodule(str(node.target)))
        else:
            self.at[node] = self._call(node)

    def _sources(self, node: fx.Node) -> list[fx.Node]:
        """The feature maps that a call reads."""
        return [source for source in node.all_input_nodes if source in self.at]

    def _shapeless(self, node: fx.Node, sources: Sequence[fx.Node]) -> None:
        """A size is asked for, which is no feature map; or several values are made at once."""
        if node.target not in ("size", "dim", getattr):
            self._obstacle(node, "makes several feature maps, or none")

    def _module(self, node: fx.Node, module: nn.Module) -> Channels:
        name, inputs, shape = str(node.target), self.at[self._sources(node)[0]], shape_of(node)
        if isinstance(module, _KEEPING) or (isinstance(module, nn.PReLU) and module.num_parameters == 1):
            return inputs
        if isinstance(module, nn.Flatten) and (module.start_dim, module.end_dim) == (1, -1):
            return self._flat(node, inputs)
        if any(layer.name == name for layer in self.layers):
            return self._obstacle(node, "is called twice, perhaps with different channels; give each call a layer of its own")
        if isinstance(module, nn.BatchNorm2d):
            return self._layer(node, inputs, inputs, chooses=False)
        if isinstance(module, nn.Conv2d) and module.groups > 1:
            return self._layer(node, inputs, self._grouped(name, module, inputs), chooses=False)
        if isinstance(module, nn.Conv2d) or (isinstance(module, nn.Linear) and len(shape) == 2):
            return self._layer(node, inputs, self._opened(name, shape[1]), chooses=True)
        return self._obstacle(node, "is of a kind of which it is not known what it does to channels")

    def _layer(self, node: fx.Node, inputs: Channels, outputs: Channels, chooses: bool) -> Channels:
        self.layers.append(Layer(str(node.target), inputs, outputs, math.prod(shape_of(node)[2:]), chooses))
        return outputs

    def _opened(self, name: str, size: int) -> Channels:
        """A new group for the outputs of a dense layer."""
        if name in self.fixed:
            return Channels(None, size)
        self.parent.append(len(self.parent))
        self.names.append(name)
        self.sizes.append(size)
        self.units.append(1)
        self.frozen.append(False)
        return Channels(self.parent[-1], 1)

    def _grouped(self, name: str, module: nn.Conv2d, inputs: Channels) -> Channels:
        per_group, share = module.in_channels // module.groups, module.out_channels // module.groups
        if name in self.fixed or (inputs.times * share) % per_group:
            self._freeze(inputs)
            return Channels(None, module.out_channels)
        if inputs.group is None:
            return Channels(None, module.out_channels)
        root = self._root(inputs.group)
        self.units[root] = math.lcm(self.units[root], per_group // math.gcd(per_group, inputs.times))
        return Channels(inputs.group, inputs.times * share // per_group)

    def _call(self, node: fx.Node) -> Channels:
        sources, target, shape = self._sources(node), node.target, shape_of(node)
        if target in MEETING_CALLS:
            return self._met(node, [source for source in sources if math.prod(shape_of(source)) > 1])
        first = self.at[sources[0]]
        if len(sources) == 1 and target in _KEEPING_CALLS:
            return first
        before = shape_of(sources[0])
        if target in (torch.mean, "mean") and len(before) == 4 and _spatial(argument(node, 1, "dim", ())):
            return first
        if len(sources) == 1 and _flattens(node) and shape[0] == before[0]:
            return self._flat(node, first)
        return self._obstacle(node, "does something to channels that cannot be sliced (concatenation, reshaping, an unknown function)")

    def _flat(self, node: fx.Node, inputs: Channels) -> Channels:
        before, after = shape_of(self._sources(node)[0]), shape_of(node)
        return Channels(inputs.group, inputs.times * (after[1] // before[1]))

    def _met(self, node: fx.Node, sources: Sequence[fx.Node]) -> Channels:
        """Feature maps that meet element by element have the same channels: fixed, as soon as those of one are."""
        shapes = {(len(shape_of(source)), *shape_of(source)[1:2]) for source in sources}
        channels = [self.at[source] for source in sources]
        if len(shapes) > 1:
            counts = " and ".join(str(shape_of(source)[1:]) for source in sources)
            return self._obstacle(node, f"joins feature maps of {counts}. {SAME_ENDS}")
        for other in channels[1:]:
            if channels[0].group is None or other.group is None:
                self._freeze(channels[0])
                self._freeze(other)
            elif channels[0].times != other.times:
                return self._obstacle(node, "joins channels that cannot change together")
            else:
                self._unite(channels[0].group, other.group)
        return next((c for c in channels if c.group is None), channels[0])

    def _unite(self, a: int, b: int) -> None:
        first, second = sorted((self._root(a), self._root(b)))
        self.parent[second] = first
        self.units[first] = math.lcm(self.units[first], self.units[second])
        self.frozen[first] |= self.frozen[second]

    def _root(self, group: int) -> int:
        while self.parent[group] != group:
            group = self.parent[group]
        return group

    def _freeze(self, channels: Channels) -> None:
        if channels.group is not None:
            self.frozen[self._root(channels.group)] = True

    def _obstacle(self, node: fx.Node, why: str) -> Channels:
        """Channels that reach this place must turn out to be fixed."""
        groups = [group for source in self._sources(node) if (group := self.at[source].group) is not None]
        self.obstacles.append((f"{self.traced.where(node)} {why}", groups))
        shape = shape_of(node)
        return Channels(None, shape[1] if len(shape) > 1 else 1)

    def result(self) -> ChannelGroups:
        """What was found: free groups numbered in the order of their first layers, all others fixed."""
        for what, groups in self.obstacles:
            free = {self._root(group) for group in groups if not self.frozen[self._root(group)]}
            if free:
                makers = [name for group, name in enumerate(self.names) if self._root(group) in free]
                raise TracingError(f"{what}. Give that part another form, or keep the channels that it reads: fixed={makers}")
        roots = [group for group in range(len(self.parent)) if self._root(group) == group and not self.frozen[group]]
        number = {root: i for i, root in enumerate(roots)}

        def settled(c: Channels) -> Channels:
            if c.group is None:
                return c
            root = self._root(c.group)
            return Channels(number[root], c.times) if root in number else Channels(None, c.times * self.sizes[root])

        return ChannelGroups(
            layers=tuple(Layer(x.name, settled(x.inputs), settled(x.outputs), x.pixels, x.chooses) for x in self.layers),
            names=tuple(self.names[root] for root in roots),
            sizes=tuple(self.sizes[root] for root in roots),
            units=tuple(self.units[root] for root in roots),
            macs=self.traced.macs,
        )


def _flattens(node: fx.Node) -> bool:
    """True for a call that makes one row of each image, however many channels it has."""
    if node.target in (torch.flatten, "flatten"):
        return bool((argument(node, 1, "start_dim", 0), argument(node, 2, "end_dim", -1)) == (1, -1))
    if node.target not in ("view", "reshape", torch.reshape):
        return False
    sizes = node.args[1] if len(node.args) == 2 else node.args[1:]
    return isinstance(sizes, tuple | list) and len(sizes) == 2 and bool(sizes[1] == -1)


def _spatial(over: Any) -> bool:
    """True for one or both of the last two of four dimensions."""
    each = [over] if isinstance(over, int) else list(over)
    return bool(each) and {int(d) % 4 for d in each} <= {2, 3}
