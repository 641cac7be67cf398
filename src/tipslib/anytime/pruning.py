"""Which operations matter, proved by damage: how accurate is a network when one operation loses its last channels? (TIPS, section 4.3)"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import floor
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils._pytree import tree_leaves

from tipslib.errors import InvalidInput, TracingError, require
from tipslib.progress import track
from tipslib.topology.graph import NetworkGraph, Operation
from tipslib.topology.reader import Reader

Zero = Literal["layer", "feature map"]
ZEROS = ("layer", "feature map")

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

Values = dict[fx.Node, Any]


@dataclass(frozen=True, eq=False)
class Damage:
    """What pruning each operation by itself does to a network.

    Attributes
    ----------
    kept : (O, R) int64
        Output channels left of each operation at each ratio.
    correct : (O, R) int64
        Images the pruned network still classifies rightly.
    unpruned
        Images the whole network classifies rightly.
    samples
        Images in all.
    """

    kept: NDArray[np.int64]
    correct: NDArray[np.int64]
    unpruned: int
    samples: int

    @property
    def drop(self) -> NDArray[np.float64]:
        """(O, R) accuracy lost, in percentage points."""
        lost: NDArray[np.float64] = 100 * (self.unpruned - self.correct) / self.samples
        return lost

    def __add__(self, other: Damage) -> Damage:
        """The damage on both sets of images together."""
        return Damage(self.kept, self.correct + other.correct, self.unpruned + other.unpruned, self.samples + other.samples)


@dataclass(frozen=True)
class _Cut:
    """Where an operation is pruned: the call that computes it, and what has to be kept to go on from there."""

    operation: Operation
    call: int
    axis: int
    fill: Tensor
    inside: frozenset[fx.Node]
    alive: tuple[fx.Node, ...]


class Pruner:
    """A network of which every convolution and linear layer can be pruned by itself.

    The network runs once per batch. Behind each operation it stops, takes the values that later calls still need, one copy for each
    ratio with the operation's last channels at zero, and runs only the rest of the network on them, all ratios in one batch. Batch norm
    is folded into the convolution before it, which leaves the outputs the same up to rounding.

    Parameters
    ----------
    module
        Any network that `torch.fx` traces, from one batch of images to logits. It is read as in evaluation mode, and left as it was.
    input_shape
        Shape of one image, (C, H, W).
    fold
        Whether to fold batch norm.

    Attributes
    ----------
    graph
        The network's graph (TIPS, 3.1.1).
    operations
        Those of its O operations that own output channels, in their order of computation. Additions and pooling own none.

    Raises
    ------
    InvalidInput
        No operation owns channels.
    TracingError
        The network cannot be read as a graph.
    """

    def __init__(self, module: nn.Module, input_shape: Sequence[int], *, fold: bool = True) -> None:
        own = copy.deepcopy(module).eval().requires_grad_(False).to(memory_format=torch.channels_last)
        try:
            self._traced = fx.symbolic_trace(own)
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise TracingError(
                f"{type(module).__name__} cannot be traced: {error}. torch.fx follows no control flow that depends on data; "
                "rewrite that part"
            ) from error
        first = next(iter(module.parameters()), torch.empty(0))
        self._example = torch.zeros(1, *input_shape, dtype=first.dtype, device=first.device)
        self._traced.graph.eliminate_dead_code()
        for call in self._traced.graph.nodes:
            if call.op == "call_method" and call.target == "view" and all(isinstance(size, (int, fx.Node)) for size in call.args):
                call.target = "reshape"  # a view would not fit the other order of memory
        self._traced.recompile()
        shapes = self._shapes()
        reader = Reader(self._traced, frozenset(), shapes)
        self.graph: NetworkGraph = reader.read(self._traced.graph)
        fills = self._fold() if fold else {}
        self._calls: list[fx.Node] = list(self._traced.graph.nodes)
        self._carried = self._downstream()
        self._interpreter = fx.Interpreter(self._traced, garbage_collect_values=False)
        self._loose = [call for call in self._calls if call in self._carried and call.op != "output" and shapes[call.name] is None]
        self._sizes: dict[int, Values] = {}
        self._cuts = self._find_cuts(reader, shapes, fills)
        require(bool(self._cuts), f"no operation of {type(module).__name__} owns output channels, so none can be pruned")
        self.operations: tuple[Operation, ...] = tuple(cut.operation for cut in self._cuts)

    def kept(self, ratios: Sequence[float]) -> NDArray[np.int64]:
        """(O, R) channels left of each operation; see `channels_left`."""
        require(len(ratios) > 0, "ratios: at least one is wanted")
        return np.array([[channels_left(int(o.out_channels or 0), ratio) for ratio in ratios] for o in self.operations])

    @torch.inference_mode()
    def logits(self, images: Tensor, kept: NDArray[np.int64], zero: Zero = "layer") -> Iterator[tuple[int, int, Tensor]]:
        """Yield (operation, channels left, logits (B, K)) for every number of channels in `kept`, last (-1, 0, ...) of the whole network.

        Parameters
        ----------
        images : (B, C, H, W)
        kept : (O, R)
            Channels left of each operation; where that is all of them, nothing is computed.
        zero
            "layer": the output of the layer itself is set to zero, as section 4.3 says; a batch norm behind it then makes a constant of
            it. "feature map": what the operation hands on is zero, behind batch norm and activation, as if the channels were gone.
        """
        require(zero in ZEROS, f"zero = {zero!r}; allowed are {', '.join(map(repr, ZEROS))}")
        require(len(kept) == len(self._cuts), f"kept has {len(kept)} rows; one for each of {len(self._cuts)} operations is wanted")
        images = images.to(self._example.device, self._example.dtype)
        if images.ndim == 4:
            images = images.contiguous(memory_format=torch.channels_last)
        values: Values = {}
        cuts = {cut.call: i for i, cut in enumerate(self._cuts)}
        for i, call in enumerate(self._calls):
            values[call] = self._value(call, values, images)
            if i in cuts:
                cut = self._cuts[cuts[i]]
                left = sorted({int(k) for k in kept[cuts[i]]} - {cut.operation.out_channels or 0})
                if left:
                    pruned = self._suffix(cut, values, left, len(images), zero)
                    for k, answer in zip(left, pruned.view(len(left), len(images), *pruned.shape[1:]), strict=True):
                        yield cuts[i], k, answer
            for done in self._ends[i]:
                del values[done]
        yield -1, 0, values[self._calls[-1]]

    def measure(self, images: Tensor, labels: Tensor, ratios: Sequence[float], zero: Zero = "layer") -> Damage:
        """The damage on one batch, images (B, C, H, W) and labels (B,); see `prune_each`."""
        kept = self.kept(ratios)
        correct = np.full(kept.shape, -1, dtype=np.int64)
        right = 0
        for operation, left, logits in self.logits(images, kept, zero):
            right = int((logits.argmax(-1) == labels.to(logits.device)).sum())
            if operation >= 0:
                correct[operation, kept[operation] == left] = right
        # the last answer is that of the whole network: what lost no channel is as right as it
        return Damage(kept, np.where(correct < 0, right, correct), right, len(labels))

    def _suffix(self, cut: _Cut, values: Values, left: list[int], batch: int, zero: Zero) -> Tensor:
        """Logits (len(left) * batch, K) of the rest of the network, the operation cut to each of `left` channels."""
        times = len(left)

        def copies(value: Any) -> Any:
            return value.repeat(times, *[1] * (value.ndim - 1)) if isinstance(value, Tensor) else value

        sizes = self._sizes_at(times * batch)
        now: Values = {
            call: sizes[call] if call in sizes else map_aggregate(values[call], copies) if call in self._carried else values[call]
            for call in cut.alive
        }
        channels = int(cut.operation.out_channels or 0)

        def clear(value: Tensor, fill: Tensor) -> None:
            for part, k in zip(torch.tensor_split(value, times), left, strict=True):
                part.movedim(cut.axis, -1)[..., k:] = fill[k:]

        clear(now[self._calls[cut.call]], torch.zeros_like(cut.fill) if zero == "feature map" else cut.fill)
        for i in range(cut.call + 1, len(self._calls)):
            call = self._calls[i]
            now[call] = sizes[call] if call in sizes else self._value(call, now, None)
            if zero == "feature map" and call in cut.inside and now[call].shape[cut.axis] == channels:
                clear(now[call], torch.zeros_like(cut.fill))
            for done in self._ends[i]:
                del now[done]
        answer: Tensor = now[self._calls[-1]]
        return answer

    def _value(self, call: fx.Node, values: Values, images: Tensor | None) -> Any:
        if call.op == "placeholder":
            return images if call is self._calls[0] else call.args[0]
        self._interpreter.env = values
        return self._interpreter.run_node(call)

    def _downstream(self) -> frozenset[fx.Node]:
        """The calls whose value depends on the images, and so on how many there are."""
        found = {self._calls[0]}
        for call in self._calls:
            if found & set(call.all_input_nodes):
                found.add(call)
        return frozenset(found)

    def _sizes_at(self, batch: int) -> Values:
        """Values that are no tensors but depend on the images, such as their number, for a batch of that many."""
        if batch not in self._sizes:
            values: Values = {}
            if self._loose:
                images = self._example.expand(batch, *self._example.shape[1:])
                for call in self._calls:
                    values[call] = self._value(call, values, images)
            self._sizes[batch] = {call: values[call] for call in self._loose}
        return self._sizes[batch]

    def _shapes(self) -> dict[str, tuple[int, ...] | None]:
        """Shape of the value of each call, by name; None for what is no tensor."""
        interpreter = fx.Interpreter(self._traced, garbage_collect_values=False)
        try:
            with torch.no_grad():
                interpreter.run(self._example)
        except (RuntimeError, ValueError, TypeError, IndexError) as error:
            raise TracingError(f"an input of shape {tuple(self._example.shape)} does not pass: {error}; give a shape that fits") from error
        found: dict[str, tuple[int, ...] | None] = {}
        for call, value in interpreter.env.items():
            found[call.name] = next((tuple(part.shape) for part in tree_leaves(value) if isinstance(part, Tensor)), None)
        return found

    def _fold(self) -> dict[fx.Node, Tensor]:
        """Fold batch norm into the convolution before it; what a channel that is zero before its batch norm becomes, for each such call."""
        modules = dict(self._traced.named_modules())
        times = Counter(str(call.target) for call in self._traced.graph.nodes if call.op == "call_module")
        fills: dict[fx.Node, Tensor] = {}
        for norm in list(self._traced.graph.nodes):
            before = norm.args[0] if norm.op == "call_module" and norm.args else None
            if not isinstance(before, fx.Node) or before.op != "call_module" or len(before.users) > 1:
                continue
            convolution, layer = modules[str(before.target)], modules[str(norm.target)]
            once = times[str(before.target)] == times[str(norm.target)] == 1
            if not (once and isinstance(convolution, _CONVOLUTIONS) and isinstance(layer, _NORMS) and layer.running_mean is not None):
                continue
            zeros = torch.zeros_like(convolution.weight[:, :1].movedim(0, 1))
            with torch.no_grad():
                fills[before] = layer(zeros).flatten(2)[0, :, 0]
            self._replace(str(before.target), fuse_conv_bn_eval(convolution, layer))
            norm.replace_all_uses_with(before)
            self._traced.graph.erase_node(norm)
        self._traced.recompile()
        return fills

    def _replace(self, name: str, module: nn.Module) -> None:
        parent, _, child = name.rpartition(".")
        setattr(self._traced.get_submodule(parent), child, module)

    def _find_cuts(self, reader: Reader, shapes: dict[str, tuple[int, ...] | None], fills: dict[fx.Node, Tensor]) -> list[_Cut]:
        position = {call: i for i, call in enumerate(self._calls)}
        last = {call: max((position[user] for user in call.users), default=i) for i, call in enumerate(self._calls)}
        self._ends: list[list[fx.Node]] = [[] for _ in self._calls]
        for call, end in last.items():
            if call.op != "output":
                self._ends[end].append(call)
        members: dict[int, list[fx.Node]] = {}
        for call in self._calls:
            if call in reader.map_of:
                members.setdefault(reader.map_of[call], []).append(call)
        made = {operation.name: operation.target for operation in reader.operations}
        cuts = []
        for operation in self.graph.operations:
            if operation.kind not in ("convolution", "linear") or operation.out_channels is None:
                continue
            inside = members[made[operation.name]]
            start = position[inside[0]]
            shape = shapes[inside[0].name] or ()
            fill = fills.get(inside[0])
            if fill is None:
                fill = torch.zeros(operation.out_channels, dtype=self._example.dtype, device=self._example.device)
            alive = tuple(call for call in self._calls[: start + 1] if last[call] > start)
            axis = 1 if operation.kind == "convolution" else len(shape) - 1
            cuts.append(_Cut(operation, start, axis, fill, frozenset(inside), alive))
        return cuts


def channels_left(channels: int, ratio: float) -> int:
    """Output channels left when the last `ratio` of them are pruned: the nearest whole number, halves up, and never none (TIPS, 4.3).

    75 % of 64 channels leave channels 0 to 15.
    """
    require(0 < ratio < 1, f"ratio = {ratio}; pruning ratios lie between 0 and 1, both excluded")
    require(channels >= 1, f"channels = {channels}; at least 1 is wanted")
    return max(1, floor(round((1 - ratio) * channels, 9) + 0.5))


def prune_each(pruner: Pruner, batches: Iterable[tuple[Tensor, Tensor]], ratios: Sequence[float], zero: Zero = "layer") -> Damage:
    """Prune every operation by itself at every ratio, all others intact, and count what is still classified rightly (TIPS, 4.3).

    Parameters
    ----------
    pruner
        The network.
    batches
        Images (B, C, H, W) and labels (B,). On a CPU a few photographs at a time are fastest: what one step leaves still lies in the cache.
    ratios
        R shares of the output channels that are pruned, the last channels first.
    zero
        See `Pruner.logits`.

    Raises
    ------
    InvalidInput
        No ratios, or one outside (0, 1); no images.
    """
    found: Damage | None = None
    for images, labels in track(batches, "pruning"):
        part = pruner.measure(images, labels, ratios, zero)
        found = part if found is None else found + part
    if found is None:
        raise InvalidInput("batches: no images")
    return found
