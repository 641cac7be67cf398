"""What does one training step of a supernet do? The full network learns from labels, then three subnetworks learn from it or with it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import get_ema_multi_avg_fn

from tipslib import processes
from tipslib.anytime.elastic import Supernet
from tipslib.batches import epoch_generator
from tipslib.errors import InvalidInput, require

Widths = tuple[int, ...]
Batch = tuple[Tensor, Tensor]

_STREAM = 2
"""Of `epoch_generator`; 0 and 1 are the loader's."""


@dataclass(frozen=True)
class Phase:
    """One `fit` of a strategy's run.

    Attributes
    ----------
    name
        What its checkpoint is called after.
    epochs
        At least 1.
    begin
        Called before it, also before it is resumed; changes the supernet only where nothing was trained in this phase yet.
    """

    name: str
    epochs: int
    begin: Callable[[], None]


class Strategy(ABC):
    """How a supernet is trained: an objective of `tipslib.training.fit` that belongs to one supernet.

    A step makes at most four passes forward and backward, each freed before the next, and leaves the supernet at its full width.
    The widths of step k are drawn from (seed, k) alone. Nothing in a step waits for the device.

    Parameters
    ----------
    net
        The supernet; for a strategy with `floor` one whose widths have TIPS's raised minimum.
    seed
        Of the widths.
    held_out
        Batches (images, labels) that are neither trained on nor tested on; only Joslim looks at them.

    Attributes
    ----------
    name
        As in `strategies`.
    floor
        Whether the supernet should have the raised minimum widths of the released code of TIPS.
    label_smoothing
        Of every cross-entropy with labels.
    curve
        (steps,) the full network's plain cross-entropy of each step, which strategies can be compared by although their losses differ;
        set to a tensor of zeros by whoever wants it filled.
    """

    name: ClassVar[str]
    floor: ClassVar[bool] = False
    label_smoothing: ClassVar[float] = 0.0

    def __init__(self, net: Supernet, *, seed: int = 0, held_out: Sequence[Batch] = ()) -> None:
        require(seed >= 0, f"seed = {seed}; a whole number from 0 is wanted")
        self.net, self.seed, self.held_out = net, seed, tuple(held_out)
        self.curve: Tensor | None = None

    def phases(self, epochs: int, steps: int) -> tuple[Phase, ...]:
        """The phases of a run of so many epochs of so many steps; for most strategies one."""
        return (Phase("whole", epochs, lambda: None),)

    def step(self, model: nn.Module, images: Tensor, labels: Tensor, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """The passes of one step; returns the sum of their losses.

        Raises
        ------
        InvalidInput
            `model` is not this strategy's supernet.
        """
        require(model is self.net, f"{self.name} was made for another supernet; make one strategy for each")
        try:
            return self._passes(images, labels, step, backward)
        finally:
            self.net.set_width(self.net.space.largest)

    def state_dict(self) -> dict[str, Any]:
        """Whatever a resumed run needs."""
        return {"strategy": self.name, "seed": self.seed, "space": self._space(), "curve": self.curve}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue where `state` was taken.

        Raises
        ------
        InvalidInput
            The state of another strategy, or of one with another seed or other widths to draw from.
        """
        for what, here in (("strategy", self.name), ("seed", self.seed)):
            there = state.get(what)
            require(there == here, f"the checkpoint's {what} is {there}, and here it is {here}; name another file or delete it")
        widths = state.get("space") == self._space()
        require(widths, "the checkpoint is of a supernet that draws from other widths; name another file or delete it")
        self.curve = state["curve"]

    def _space(self) -> list[tuple[str, list[int]]]:
        return [(d.name, list(d.choices)) for d in self.net.space.dimensions]

    @abstractmethod
    def _passes(self, images: Tensor, labels: Tensor, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """All passes of one step; the summed detached loss."""

    def _generator(self, step: int, stream: int = 0) -> torch.Generator:
        return epoch_generator(self.seed, step, _STREAM + stream)

    def _logits(self, widths: Widths, images: Tensor) -> Tensor:
        self.net.set_width(widths)
        logits: Tensor = self.net(images)
        return logits.float()

    def _hard(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, label_smoothing=self.label_smoothing)

    def _full_pass(self, images: Tensor, labels: Tensor, step: int, backward: Callable[[Tensor], None]) -> tuple[Tensor, Tensor]:
        """Train the full network on the labels; its logits and loss, both detached."""
        logits = self._logits(self.net.space.largest, images)
        loss = self._hard(logits, labels)
        backward(loss)
        logits = logits.detach()
        self._note(logits, labels, step)
        return logits, loss.detach()

    def _note(self, logits: Tensor, labels: Tensor, step: int) -> None:
        if self.curve is not None:
            self.curve[step] = processes.mean(F.cross_entropy(logits, labels))


class Sandwich(Strategy):
    """The full network on labels, then three subnetworks, each on soft targets: what all strategies but OFA share."""

    def _passes(self, images: Tensor, labels: Tensor, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        chosen = self._subnetworks(step)
        full, total = self._full_pass(images, labels, step, backward)
        for widths, target in zip(chosen, self._targets(images, full, chosen), strict=True):
            logits = self._logits(widths, images)
            loss = self._subnetwork_loss(logits, target, labels)
            backward(loss)
            total = total + loss.detach()
        return total

    @abstractmethod
    def _subnetworks(self, step: int) -> tuple[Widths, Widths, Widths]:
        """The three subnetworks of a step, in the order of their passes."""

    def _targets(self, images: Tensor, full: Tensor, chosen: Sequence[Widths]) -> Iterator[Tensor]:
        """(N, classes) probabilities for each subnetwork; here the full network's own, of this very step."""
        target = full.softmax(1)
        for _ in chosen:
            yield target

    def _subnetwork_loss(self, logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """Here the soft cross-entropy alone."""
        return F.cross_entropy(logits, target)


class Teacher:
    """A second supernet that is never trained by gradients and gives soft targets.

    Its batch norms use each batch's own statistics, at every width, and its dropout is off.
    """

    def __init__(self, net: Supernet) -> None:
        self.net = deepcopy(net).requires_grad_(False).eval()
        for norm in self.net.batch_norms:
            by_the_batch(norm)

    @torch.no_grad()
    def probabilities(self, widths: Widths, images: Tensor) -> Tensor:
        """(N, classes)."""
        self.net.set_width(widths)
        logits: Tensor = self.net(images)
        return logits.float().softmax(1)

    @torch.no_grad()
    def follow(self, net: Supernet, decay: float) -> None:
        """Every weight becomes decay times itself plus (1 - decay) times that of `net`."""
        average = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
        average(list(self.net.parameters()), list(net.parameters()), 0)


def by_the_batch(norm: nn.BatchNorm2d) -> None:
    """Normalise by the batch without touching the running statistics."""
    norm.training, norm.track_running_stats = True, False


def spread_epochs(epochs: int, parts: Sequence[float]) -> tuple[int, ...]:
    """Whole epochs in proportion to `parts`, at least one each, `epochs` in all.

    Raises
    ------
    InvalidInput
        Fewer epochs than parts.
    """
    if epochs < len(parts):
        raise InvalidInput(f"epochs = {epochs}; at least {len(parts)} are wanted, one for each phase")
    ends = [round(epochs * sum(parts[: i + 1]) / sum(parts)) for i in range(len(parts))]
    starts = [0]
    for i, end in enumerate(ends):
        starts.append(min(max(end, starts[-1] + 1), epochs - (len(parts) - 1 - i)))
    return tuple(b - a for a, b in pairwise(starts))
