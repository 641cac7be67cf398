"""How does a layer run at fewer channels? Full-size weights, sliced to the input's channels and to the active configuration."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tipslib.anytime.depthwise import depthwise, has_slow_gradients
from tipslib.errors import require


@dataclass(frozen=True, eq=False)
class Statistics:
    """Batch-norm statistics of one width configuration.

    Attributes
    ----------
    pairs
        (mean, variance) of every batch norm in the order of `Supernet.batch_norms`, each (C,) with C its channels at that width.
    """

    pairs: tuple[tuple[Tensor, Tensor], ...]

    def __len__(self) -> int:
        """Number of batch norms."""
        return len(self.pairs)


@dataclass(frozen=True, eq=False)
class Configuration:
    """What a forward pass runs at.

    Attributes
    ----------
    widths
        Channels of every dimension.
    full
        True if every dimension is at its full width.
    statistics
        Of the batch norms; None: each uses its own, sliced.
    """

    widths: tuple[int, ...]
    full: bool
    statistics: Statistics | None = None


class Active:
    """The configuration of the forward pass that runs, one per thread; shared by all layers of one supernet.

    A copy or a pickle of a supernet gets a fresh one, in which nothing runs.
    """

    def __init__(self) -> None:
        self._running = threading.local()

    def __reduce__(self) -> tuple[type[Active], tuple[()]]:
        return Active, ()

    @property
    def configuration(self) -> Configuration | None:
        """None outside a supernet's forward pass: layers then run at their full width."""
        return getattr(self._running, "configuration", None)

    @contextmanager
    def running(self, configuration: Configuration) -> Iterator[None]:
        """Within the context, layers called by this thread run at `configuration`."""
        before = self.configuration
        self._running.configuration = configuration
        try:
            yield
        finally:
            self._running.configuration = before


class Elastic(nn.Module):
    """What elastic layers share: where the active configuration is found, and which of its dimensions is theirs.

    Attributes
    ----------
    active
        Of the supernet.
    slot
        A dense layer: index of the dimension that sets its outputs. A batch norm: its place among the supernet's batch norms.
        None: outputs stay full, or follow the input.
    """

    active: Active
    slot: int | None

    def _outputs(self, full: int) -> int:
        configuration = self.active.configuration
        return full if configuration is None or self.slot is None else configuration.widths[self.slot]


class ElasticConv2d(nn.Conv2d, Elastic):
    """A convolution whose inputs are as many as `x` has channels and whose outputs are those of the active configuration.

    Depthwise: as many outputs as inputs. Grouped: whole groups are dropped, those of the last channels first.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, c, H, W) to (N, o, H', W') with the first o filters and, of each, the first c input channels.

        Raises
        ------
        InvalidInput
            More channels than the layer has, or channels that are no whole number of groups.
        """
        weight, bias, groups = self.sliced(x.shape[1])
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            x, padding = F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode), (0, 0)
        if not isinstance(padding, str) and has_slow_gradients(x, weight, self.stride, groups):
            return depthwise(x, weight, bias, self.stride, padding, self.dilation)
        return F.conv2d(x, weight, bias, self.stride, padding, self.dilation, groups)

    def sliced(self, inputs: int) -> tuple[Tensor, Tensor | None, int]:
        """Weight, bias and number of groups for so many input channels at the active configuration."""
        require(1 <= inputs <= self.in_channels, f"an input of {inputs} channels; this convolution takes 1 to {self.in_channels}")
        if self.groups == 1:
            outputs, groups, per_group = self._outputs(self.out_channels), 1, inputs
        else:
            per_group = self.in_channels // self.groups
            require(
                inputs % per_group == 0,
                f"{inputs} channels are no whole number of groups; this convolution has {self.groups} groups of {per_group}: "
                f"take a multiple of {per_group}",
            )
            groups = inputs // per_group
            outputs = groups * (self.out_channels // self.groups)
        weight = _first(_first(self.weight, outputs, 0), per_group, 1)
        return weight, None if self.bias is None else _first(self.bias, outputs, 0), groups


class ElasticLinear(nn.Linear, Elastic):
    """A linear layer whose inputs are as many as `x` has features and whose outputs are those of the active configuration."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, f) to (N, o) with the first o rows and f columns of the weight.

        Raises
        ------
        InvalidInput
            More features than the layer has.
        """
        weight, bias = self.sliced(x.shape[-1])
        return F.linear(x, weight, bias)

    def sliced(self, inputs: int) -> tuple[Tensor, Tensor | None]:
        """Weight and bias for so many input features at the active configuration."""
        require(1 <= inputs <= self.in_features, f"an input of {inputs} features; this linear layer takes 1 to {self.in_features}")
        outputs = self._outputs(self.out_features)
        return _first(_first(self.weight, outputs, 0), inputs, 1), None if self.bias is None else _first(self.bias, outputs, 0)


class ElasticBatchNorm2d(nn.BatchNorm2d, Elastic):
    """A batch norm over as many channels as `x` has.

    In training mode it normalises by the batch; its running statistics follow the batches of the full width alone, so they are the
    full network's. In evaluation mode it uses the statistics of the active configuration, and without these its own, sliced.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, c, H, W) to the same, with the first c weights and biases.

        Raises
        ------
        InvalidInput
            More channels than the layer has.
        """
        channels = x.shape[1]
        require(1 <= channels <= self.num_features, f"an input of {channels} channels; this batch norm takes 1 to {self.num_features}")
        configuration = self.active.configuration
        statistics = None if configuration is None else configuration.statistics
        if (configuration is None or configuration.full) and (self.training or statistics is None):
            return super().forward(x)
        weight = None if self.weight is None else _first(self.weight, channels, 0)
        bias = None if self.bias is None else _first(self.bias, channels, 0)
        if self.training or (statistics is None and self.running_mean is None):
            return F.batch_norm(x, None, None, weight, bias, training=True, momentum=0.0, eps=self.eps)
        mean, variance = self.sliced(channels, statistics)
        return F.batch_norm(x, mean, variance, weight, bias, training=False, momentum=0.0, eps=self.eps)

    def sliced(self, channels: int, statistics: Statistics | None) -> tuple[Tensor | None, Tensor | None]:
        """Mean and variance for evaluation: those of a configuration, or the layer's own."""
        if statistics is not None and self.slot is not None:
            return statistics.pairs[self.slot]
        if self.running_mean is None or self.running_var is None:
            return None, None
        return _first(self.running_mean, channels, 0), _first(self.running_var, channels, 0)


def to_elastic(layer: nn.Module, active: Active, slot: int | None) -> Elastic:
    """The elastic layer with the very weights, settings and mode of a plain `Conv2d`, `Linear` or `BatchNorm2d`."""
    elastic: Elastic = _COUNTERPARTS[type(layer)].__new__(_COUNTERPARTS[type(layer)])
    elastic.__dict__.update({name: copy.copy(value) if isinstance(value, dict) else value for name, value in vars(layer).items()})
    elastic.active, elastic.slot = active, slot
    return elastic


def to_plain(layer: Elastic, inputs: int, configuration: Configuration) -> nn.Module:
    """The plain layer with its own small weights that computes what `layer` computes at a configuration for so many inputs."""
    with layer.active.running(configuration):
        if isinstance(layer, ElasticConv2d):
            weight, bias, groups = layer.sliced(inputs)
            settings: dict[str, Any] = {"in_channels": inputs, "out_channels": len(weight), "groups": groups}
            settings |= {"_reversed_padding_repeated_twice": layer._reversed_padding_repeated_twice}
            return _plain(nn.Conv2d, layer, settings, {"weight": weight, "bias": bias})
        if isinstance(layer, ElasticLinear):
            weight, bias = layer.sliced(inputs)
            return _plain(nn.Linear, layer, {"in_features": inputs, "out_features": len(weight)}, {"weight": weight, "bias": bias})
        assert isinstance(layer, ElasticBatchNorm2d)
        mean, variance = layer.sliced(inputs, configuration.statistics)
        tensors = {name: None if p is None else _first(p, inputs, 0) for name, p in layer._parameters.items()}
        tensors |= {"running_mean": mean, "running_var": variance, "num_batches_tracked": layer.num_batches_tracked}
        settings = {"num_features": inputs, "track_running_stats": mean is not None or layer.track_running_stats}
        return _plain(nn.BatchNorm2d, layer, settings, tensors)


_COUNTERPARTS: dict[type[nn.Module], Any] = {
    nn.Conv2d: ElasticConv2d,
    nn.Linear: ElasticLinear,
    nn.BatchNorm2d: ElasticBatchNorm2d,
}
ELASTIC_KINDS: Sequence[type[nn.Module]] = tuple(_COUNTERPARTS)
"""The layers that have an elastic counterpart."""


def _plain(kind: type[nn.Module], layer: Elastic, settings: Mapping[str, Any], tensors: Mapping[str, Tensor | None]) -> nn.Module:
    """A module of the plain class with the settings of `layer`, but for those given, and copies of the tensors."""
    plain = kind.__new__(kind)
    nn.Module.__init__(plain)
    own_settings = {n: v for n, v in vars(layer).items() if not n.startswith("_") and n not in ("active", "slot")}
    plain.__dict__.update(own_settings | dict(settings))
    for name, tensor in tensors.items():
        own = None if tensor is None else _owned(tensor)
        if name in layer._parameters:
            source = layer._parameters[name]
            trained = source is not None and source.requires_grad
            plain.register_parameter(name, None if own is None else nn.Parameter(own, requires_grad=trained))
        else:
            plain.register_buffer(name, own)
    return plain


def _first(tensor: Tensor, count: int, axis: int) -> Tensor:
    """The first `count` entries along an axis: the tensor itself where that is all of them."""
    return tensor if tensor.shape[axis] == count else tensor.narrow(axis, 0, count)


def _owned(tensor: Tensor) -> Tensor:
    """A dense copy, channels last where the tensor it was cut from is."""
    last = tensor.ndim == 4 and tensor.stride(1) == 1 and tensor.shape[1] > 1 and tensor.shape[2:].numel() > 1
    return tensor.detach().clone(memory_format=torch.channels_last if last else torch.contiguous_format)
