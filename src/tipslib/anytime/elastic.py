"""How does a network become a supernet? Its layers are made elastic, and the channels that must agree become one dimension each."""

from __future__ import annotations

import copy
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType

import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from tipslib.anytime.channels import ChannelGroups, Channels, Layer, channel_groups
from tipslib.anytime.layers import (
    ELASTIC_KINDS,
    Active,
    Configuration,
    Elastic,
    ElasticBatchNorm2d,
    ElasticConv2d,
    Statistics,
    to_elastic,
    to_plain,
)
from tipslib.anytime.widths import STEPS, Dimension, WidthSpace, spread
from tipslib.errors import require
from tipslib.topology import NetworkGraph, important_operations, sample_subnetworks, tas


class Supernet(nn.Module):
    """A network whose widths change at run time; `make_elastic` makes one.

    A forward pass runs at the configuration that was active when it began, whatever other threads choose meanwhile.

    Attributes
    ----------
    body
        The network with elastic layers, whose weights are those of the full width.
    space
        The widths it may take.
    input_shape
        (C, H, W) of one input.
    """

    def __init__(self, body: nn.Module, space: WidthSpace, groups: ChannelGroups, active: Active, input_shape: Sequence[int]) -> None:
        super().__init__()
        self.body, self.space, self.input_shape = body, space, tuple(input_shape)
        self._layers, self._full_macs, self._active = groups.layers, groups.macs, active
        self._configuration = Configuration(space.largest, full=True)

    @property
    def widths(self) -> tuple[int, ...]:
        """The active configuration."""
        return self._configuration.widths

    @property
    def statistics(self) -> Statistics | None:
        """Batch-norm statistics of the active configuration; None: the full network's own, sliced."""
        return self._configuration.statistics

    def set_width(self, widths: Sequence[int], statistics: Statistics | None = None) -> None:
        """Run at `widths` from the next forward pass on; touches no weights and copies nothing.

        Parameters
        ----------
        widths
            One number of channels for each dimension of `space`.
        statistics
            Of the batch norms in evaluation mode, as `tipslib.anytime.calibration.calibrate` finds them for these widths.

        Raises
        ------
        InvalidInput
            Widths outside the space, or statistics of other batch norms than those at these widths.
        """
        self.switch(self.configure(widths, statistics))

    def configure(self, widths: Sequence[int], statistics: Statistics | None = None) -> Configuration:
        """What `switch` takes: checked once, here. Parameters and errors are those of `set_width`."""
        checked = self.space.check(widths)
        if statistics is not None:
            require(
                len(statistics) == len(self.batch_norms),
                f"statistics of {len(statistics)} batch norms for a supernet with {len(self.batch_norms)}; calibrate it anew",
            )
            for layer, (mean, variance) in zip(filter(self._is_norm, self._layers), statistics.pairs, strict=True):
                channels = (self._channels(layer.outputs, checked),)
                require(
                    mean.shape == variance.shape == channels,
                    f"statistics of {layer.name}: shapes {tuple(mean.shape)} and {tuple(variance.shape)}, but it has {channels} at these "
                    "widths; calibrate it anew",
                )
        return Configuration(checked, checked == self.space.largest, statistics)

    def switch(self, configuration: Configuration) -> None:
        """Run at what `configure` made, from the next forward pass on: a single assignment."""
        self.__dict__["_configuration"] = configuration  # past nn.Module, which would look for it among its parameters first

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, classes) logits."""
        with self._active.running(self._configuration):
            logits: Tensor = self.body(x)
        return logits

    @cached_property
    def batch_norms(self) -> list[ElasticBatchNorm2d]:
        """In the order of computation, as `Statistics` has them."""
        found = [self.body.get_submodule(layer.name) for layer in self._layers]
        return [module for module in found if isinstance(module, ElasticBatchNorm2d)]

    @cached_property
    def operation_dimensions(self) -> Mapping[str, int]:
        """Name of an operation, as the network's graph has it, to the dimension of its output channels; fixed ones are left out."""
        return MappingProxyType({x.name: x.outputs.group for x in self._layers if x.outputs.group is not None and not self._is_norm(x)})

    def macs(self, widths: Sequence[int] | None = None) -> int:
        """Multiply-accumulates of one image at a configuration (default: the active one).

        Counted is what `torch.utils.flop_counter` counts: convolutions and linear layers, and other matrix products, whose channels are
        fixed.
        """
        w = (*(self._configuration.widths if widths is None else self.space.check(widths)), 1)
        return sum(a * w[i] * w[j] for i, j, a in self._macs)

    def macs_many(self, widths: ArrayLike) -> NDArray[np.int64]:
        """(K,) multiply-accumulates of (K, D) configurations."""
        many = self.space.check_many(widths)
        extended = np.concatenate([many, np.ones((len(many), 1), dtype=np.int64)], axis=1)
        found: NDArray[np.int64] = ((extended @ self._form) * extended).sum(axis=1)
        return found

    def parameter_count(self, widths: Sequence[int] | None = None) -> int:
        """Weights of the network that `export` makes at a configuration (default: the active one)."""
        w = (*(self._configuration.widths if widths is None else self.space.check(widths)), 1)
        return sum(a * w[i] * w[j] for i, j, a in self._weights)

    def export(self, widths: Sequence[int] | None = None, statistics: Statistics | None = None) -> nn.Module:
        """The subnetwork as a plain network with small weights of its own, which computes the same.

        Parameters
        ----------
        widths, statistics
            As for `set_width`; by default both are the active ones.
        """
        active = self._configuration
        if widths is not None or statistics is not None:
            active = self.configure(self.widths if widths is None else widths, statistics)
        plain = {x.name: to_plain(self._elastic(x), self._channels(x.inputs, active.widths), active) for x in self._layers}
        memo = {id(self.body.get_submodule(name)): module for name, module in plain.items()}
        return copy.deepcopy(self.body, memo)

    def graph(self) -> NetworkGraph:
        """The full network's feature maps and operations."""
        full = Configuration(self.space.largest, full=True)
        plain = copy.deepcopy(self.body, {id(self._elastic(x)): self._shape_of(x, full) for x in self._layers})
        return NetworkGraph.from_module(plain, (1, *self.input_shape))

    def _shape_of(self, layer: Layer, full: Configuration) -> nn.Module:
        return to_plain(self._elastic(layer), self._channels(layer.inputs, full.widths), full)

    def _elastic(self, layer: Layer) -> Elastic:
        found = self.body.get_submodule(layer.name)
        assert isinstance(found, Elastic)
        return found

    def _is_norm(self, layer: Layer) -> bool:
        return isinstance(self.body.get_submodule(layer.name), ElasticBatchNorm2d)

    @staticmethod
    def _channels(channels: Channels, widths: Sequence[int]) -> int:
        return channels.times * (1 if channels.group is None else widths[channels.group])

    @cached_property
    def _macs(self) -> tuple[tuple[int, int, int], ...]:
        """(i, j, a): a * width_i * width_j, summed, is the cost; the last width stands for 1."""
        layers = [(i, j, a * x.pixels) for x in self._layers for i, j, a in self._kernel(x)]
        return self._with_the_rest(layers, self._full_macs)

    @cached_property
    def _weights(self) -> tuple[tuple[int, int, int], ...]:
        """The same for the number of weights."""
        layers = [term for x in self._layers for term in (*self._kernel(x), *self._affine(x))]
        return self._with_the_rest(layers, sum(p.numel() for p in self.parameters()))

    def _kernel(self, layer: Layer) -> Iterator[tuple[int, int, int]]:
        """Weights of a convolution or linear layer, as terms of a polynomial in the widths."""
        module, one = self._elastic(layer), len(self.space)
        if isinstance(module, ElasticBatchNorm2d):
            return
        out = one if layer.outputs.group is None else layer.outputs.group
        window = math.prod(module.kernel_size) if isinstance(module, ElasticConv2d) else 1
        if isinstance(module, ElasticConv2d) and module.groups > 1:
            yield out, one, layer.outputs.times * window * (module.in_channels // module.groups)
        else:
            into = one if layer.inputs.group is None else layer.inputs.group
            yield into, out, layer.inputs.times * layer.outputs.times * window

    def _affine(self, layer: Layer) -> Iterator[tuple[int, int, int]]:
        """Biases, and the weights of a batch norm."""
        module, one = self._elastic(layer), len(self.space)
        out = one if layer.outputs.group is None else layer.outputs.group
        vectors = sum(p is not None and p.ndim == 1 for p in module._parameters.values())
        if vectors:
            yield out, one, vectors * layer.outputs.times

    def _with_the_rest(self, terms: Iterable[tuple[int, int, int]], full: int) -> tuple[tuple[int, int, int], ...]:
        """Terms collected; what they lack to the full network's total does not depend on the widths."""
        total: Counter[tuple[int, int]] = Counter()
        for i, j, a in terms:
            total[min(i, j), max(i, j)] += a
        w, one = (*self.space.largest, 1), len(self.space)
        total[one, one] += full - sum(a * w[i] * w[j] for (i, j), a in total.items())
        return tuple((i, j, a) for (i, j), a in sorted(total.items()) if a)

    @cached_property
    def _form(self) -> NDArray[np.int64]:
        """(D + 1, D + 1) upper triangular: the cost as a quadratic form."""
        form = np.zeros((len(self.space) + 1,) * 2, dtype=np.int64)
        for i, j, a in self._macs:
            form[i, j] = a
        return form


def make_elastic(
    module: nn.Module,
    input_shape: Sequence[int],
    *,
    lowest: float = 0.25,
    choices: Mapping[str, Sequence[int]] | None = None,
    fixed: Sequence[str] = (),
) -> Supernet:
    """Make a supernet of a network of convolutions, batch norms and linear layers; the module itself is left as it was.

    Parameters
    ----------
    module
        Any `torch.fx`-traceable network with one input (N, C, H, W) and one output (N, classes).
    input_shape
        (C, H, W) of one input.
    lowest
        The smallest width of a dimension as a share of the full one; up to 14 widths are spread evenly from there.
    choices
        Widths of single dimensions, by the name of the first layer that sets them, in the place of these.
    fixed
        Layers whose number of outputs never changes.

    Raises
    ------
    TracingError
        The network cannot be traced, or does something to channels that cannot be sliced; the message names the place.
    InvalidInput
        `lowest` outside (0, 1], a name that is no dimension's, widths beyond the full one or that do not divide into whole groups, or
        a network in which no width is free.
    """
    require(0 < lowest <= 1, f"lowest = {lowest}; allowed is (0, 1]")
    body = copy.deepcopy(module)
    groups = channel_groups(body, input_shape, fixed=fixed)
    require(bool(groups.names), "no width of this network is free to change; it needs a layer between its input and its output")
    space = WidthSpace(tuple(_dimensions(groups, lowest, choices or {})))
    active, norms = Active(), 0
    for layer in groups.layers:
        plain = body.get_submodule(layer.name)
        slot = layer.outputs.group if layer.chooses else None
        if type(plain) is nn.BatchNorm2d:
            slot, norms = norms, norms + 1
        require(
            type(plain) in ELASTIC_KINDS,
            f"{layer.name} is a {type(plain).__name__}; elastic are {', '.join(k.__name__ for k in ELASTIC_KINDS)}",
        )
        parent, _, child = layer.name.rpartition(".")
        setattr(body.get_submodule(parent), child, to_elastic(plain, active, slot))
    return Supernet(body, space, groups, active, input_shape)


def _dimensions(groups: ChannelGroups, lowest: float, choices: Mapping[str, Sequence[int]]) -> Iterator[Dimension]:
    unknown = [name for name in choices if name not in groups.names]
    require(not unknown, f"choices: no dimension {', '.join(unknown)}; there are {', '.join(groups.names)}")
    for name, size, unit in zip(groups.names, groups.sizes, groups.units, strict=True):
        if name in choices:
            widths = tuple(sorted(choices[name]))
            require(bool(widths) and widths[-1] == size, f"choices of {name!r} are {widths}; the largest must be the full width, {size}")
        else:
            widths = spread(max(unit, -(-math.ceil(lowest * size) // unit) * unit), size, count=STEPS, unit=unit)
        split = [w for w in widths if w % unit]
        require(not split, f"choices of {name!r}: {split} do not divide into the groups of a convolution; take multiples of {unit}")
        yield Dimension(name, widths)


def important_dimensions(net: Supernet, *, subnetworks: int = 8, seed: int = 0) -> tuple[bool, ...]:
    """Which dimensions belong to important operations, one bool each (TIPS, 3.2, 3.3 and B.4).

    The supernet's own graph is analysed: TAS over sampled subnetworks, the path with the highest TPS per node. A dimension is important
    if an operation on that path sets its channels. In MobileNet-v2 that makes the blocks important that begin a stage (stride 2 or
    a change of channels, as the paper observes) with their hidden channels, and in a ResNet the stages themselves.
    """
    graph = net.graph()
    scores = tas(graph, sample_subnetworks(graph, subnetworks, rng=np.random.default_rng(seed)))
    chosen = zip(graph.operations, important_operations(graph, scores), strict=True)
    important = {net.operation_dimensions.get(operation.name) for operation, on_path in chosen if on_path}
    return tuple(i in important for i in range(len(net.space)))
