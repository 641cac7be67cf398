"""How are supernets trained, by TIPS and by those it is compared with? One class each, under the papers' names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch.nn import functional as F

from tipslib.anytime.distillation import Batch, Sandwich, Strategy, Teacher, Widths
from tipslib.anytime.elastic import Supernet, important_dimensions
from tipslib.anytime.joslim import Joslim
from tipslib.anytime.ofa import OFA
from tipslib.anytime.samplers import importance, shared_index, shared_ratio
from tipslib.errors import require
from tipslib.training import Loader, Recipe, fit


class USNets(Sandwich):
    """Widest, narrowest, and two of one ratio each; the widest teaches the others, which see no labels.

    Source: Yu & Huang, "Universally Slimmable Networks and Improved Training Techniques", ICCV 2019 (sandwich rule, in-place
    distillation); released code JiahuiYu/slimmable_networks. Ratios are drawn from U(0.35, 1), one for all layers. Their recipe: SGD,
    Nesterov momentum 0.9, learning rate 0.5 at batch 1024, down to 0 along a line, 250 epochs, weight decay 1e-4 except on depthwise
    convolutions, batch norm and biases; widths are multiples of 8; statistics are recalibrated for each width that is evaluated.

    Text and code differ: the shipped configuration sets a key that the code does not read, so that distillation is silently off and
    every width learns from labels. Here distillation is on, as in the text.
    """

    name = "US-Nets"
    LOWEST: ClassVar[float] = 0.35

    def _subnetworks(self, step: int) -> tuple[Widths, Widths, Widths]:
        generator, space = self._generator(step), self.net.space
        first, second = (shared_ratio(space, generator, low=self.LOWEST) for _ in range(2))
        return space.smallest, first, second


class DSNet(Sandwich):
    """Largest, two of one shared index each, smallest; a moving average of the supernet teaches the three, which see no labels.

    Source: Li et al., "Dynamic Slimmable Network", CVPR 2021 (in-place bootstrapping, and in-place *ensemble* bootstrapping as an
    option); released code changlin31/DS-Net. One of 14 width indices is shared by all layers. The largest learns from labels smoothed
    by 0.1; the teacher is an exponential moving average of decay 0.997, at the largest width. Their recipe: SGD, momentum 0.9, learning
    rate 0.08, cosine, 150 epochs of which 5 warm up, weight decay 1e-4, dropout 0.2. Their gate is dynamic routing and left out.

    Where this differs from the released code: the decay of step k is at most (1 + k) / (10 + k), which is 0.997 from step 2990 on,
    since in a run of some hundred steps the average would otherwise teach the random weights it began with; the average's batch norms
    take each batch's statistics, like the student's (theirs keep one set of running statistics a width); in the ensemble the average
    runs at the widths of the step's own subnetworks (theirs draws others).

    Parameters
    ----------
    decay
        Of the moving average, once the run is long enough for it: it remembers about 1 / (1 - decay) steps.
    ensemble
        The smallest learns from the mean of the average's probabilities at the largest width and at the two others.
    """

    name = "DS-Net"
    label_smoothing = 0.1

    def __init__(
        self, net: Supernet, *, seed: int = 0, held_out: Sequence[Batch] = (), decay: float = 0.997, ensemble: bool = False
    ) -> None:
        super().__init__(net, seed=seed, held_out=held_out)
        require(0 <= decay < 1, f"decay = {decay}; allowed is [0, 1)")
        self.decay, self.ensemble = decay, ensemble
        self._average: Teacher | None = None

    def _passes(self, images: Tensor, labels: Tensor, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        # copied here and not when the strategy is made: only now is the supernet where it is trained
        if self._average is None:
            self._average = Teacher(self.net)
        self._average.follow(self.net, min(self.decay, (1 + step) / (10 + step)))
        return super()._passes(images, labels, step, backward)

    def _subnetworks(self, step: int) -> tuple[Widths, Widths, Widths]:
        generator, space = self._generator(step), self.net.space
        first, second = (shared_index(space, generator) for _ in range(2))
        return first, second, space.smallest

    def _targets(self, images: Tensor, full: Tensor, chosen: Sequence[Widths]) -> Iterator[Tensor]:
        assert self._average is not None
        largest = self._average.probabilities(self.net.space.largest, images)
        yield largest
        yield largest
        if self.ensemble:
            others = [self._average.probabilities(widths, images) for widths in chosen[:2]]
            largest = torch.stack([largest, *others]).mean(0)
        yield largest

    def state_dict(self) -> dict[str, Any]:
        """The moving average, too."""
        return super().state_dict() | {"average": None if self._average is None else self._average.net.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        if state["average"] is not None:
            self._average = Teacher(self.net)
            self._average.net.load_state_dict(state["average"])


class TIPS(Sandwich):
    """Full network and three random subnetworks, in which important operations keep 1.5 times the channels; all four see the labels.

    Source: TIPS, ICML 2023, sections 3.3, 4.3 and B.2: Eq. 21 is the cross-entropy of all four plus the soft cross-entropy of the three
    subnetworks to the full network ("the same as the one used in Joslim"). What is important is found by the topological analysis of
    this very supernet, once, when the strategy is made. The paper's recipe: SGD, momentum 0.9, cosine; ImageNet: batch 512, learning
    rate 0.04, 150 epochs (MobileNet-v2) or 90 (ResNet-34); CIFAR-100 and Tiny-ImageNet: batch 256, learning rate 0.08, 200 epochs.

    Text and released code differ: the code trains otherwise, see `TIPSReleased`.

    Attributes
    ----------
    important
        One bool a dimension of the supernet's space.
    """

    name = "TIPS"
    BOOST: ClassVar[float] = 1.5

    def __init__(self, net: Supernet, *, seed: int = 0, held_out: Sequence[Batch] = ()) -> None:
        super().__init__(net, seed=seed, held_out=held_out)
        self.important = important_dimensions(net)

    def _subnetworks(self, step: int) -> tuple[Widths, Widths, Widths]:
        generator = self._generator(step)
        first, second, third = (importance(self.net.space, self.important, generator, boost=self.BOOST) for _ in range(3))
        return first, second, third

    def _subnetwork_loss(self, logits: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return self._hard(logits, labels) + F.cross_entropy(logits, target)


class TIPSReleased(DSNet):
    """What the released code of TIPS does: DS-Net's step with the ensemble, on a supernet whose minimum widths are raised.

    Source: released code LiGuihong/TIPS. Importance is no sampling probability there (`extra_sample_prob` is passed and never
    used); it acts as a raised minimum width of the important stages, which is a property of the supernet. Their recipe: SGD, learning
    rate 0.04 at batch 512, weight decay 1e-4, 140 epochs after 10 of warm-up (MobileNet-v2) or 80 after 10 (ResNet-34), moving
    average 0.997, dropout 0.2, label smoothing 0.1.
    """

    name = "TIPS-released"
    floor = True

    def __init__(
        self, net: Supernet, *, seed: int = 0, held_out: Sequence[Batch] = (), decay: float = 0.997, ensemble: bool = True
    ) -> None:
        super().__init__(net, seed=seed, held_out=held_out, decay=decay, ensemble=ensemble)


class USNetsFloor(USNets):
    """Control that the paper lacks: US-Nets with the raised minimum widths of TIPS."""

    name = "US-Nets+floor"
    floor = True


class JoslimFloor(Joslim):
    """Control that the paper lacks: Joslim with the raised minimum widths of TIPS."""

    name = "Joslim+floor"
    floor = True


class DSNetFloor(DSNet):
    """Control that the paper lacks: DS-Net with the raised minimum widths of TIPS."""

    name = "DS-Net+floor"
    floor = True


strategies: Mapping[str, type[Strategy]] = MappingProxyType(
    {kind.name: kind for kind in (USNets, Joslim, DSNet, OFA, TIPS, TIPSReleased, USNetsFloor, JoslimFloor, DSNetFloor)}
)
"""Name in the papers to class: `strategies[name](net, seed=0, held_out=batches)`."""


@dataclass(frozen=True)
class Curves:
    """Losses of each epoch of a run.

    Attributes
    ----------
    losses
        Mean of what the strategy minimises, summed over its passes; strategies minimise different things.
    full
        Mean plain cross-entropy of the full network, the same for every strategy. An OFA epoch after the first phase has that of
        its four subnetworks instead.
    """

    losses: tuple[float, ...]
    full: tuple[float, ...]


@dataclass(frozen=True)
class _From:
    """A loader whose first epoch is another's `first`, so that a later phase does not see the batches of an earlier one again."""

    loader: Loader
    first: int

    def __len__(self) -> int:
        return len(self.loader)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        return self.loader.batches(self.first + epoch, first)


def train_supernet(
    strategy: Strategy,
    loader: Loader,
    recipe: Recipe,
    *,
    seed: int,
    fabric: Fabric,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> Curves:
    """Train the strategy's supernet in place; the epochs of the recipe are those of all phases together.

    Every phase has the recipe's learning rate and schedule, from its start to its end; only the first warms up. A killed run resumes
    by the same call. With several phases their names are added to the name of the checkpoint.

    Raises
    ------
    Diverged, CorruptFile, InvalidInput
        As `tipslib.training.fit`; InvalidInput also where there are fewer epochs than phases.
    """
    phases = strategy.phases(recipe.epochs, len(loader))
    losses: tuple[float, ...] = ()
    full: tuple[float, ...] = ()
    for phase in phases:
        phase.begin()
        first, steps = len(losses), phase.epochs * len(loader)
        warm = min(recipe.warmup_epochs, phase.epochs - 1) if first == 0 else 0
        part = replace(recipe, epochs=phase.epochs, warmup_epochs=warm)
        path = checkpoint
        if checkpoint is not None and len(phases) > 1:
            path = checkpoint.with_name(f"{checkpoint.stem}-{phase.name}{checkpoint.suffix}")
        strategy.curve = torch.zeros(steps, device=fabric.device)
        batches = _From(loader, first)
        options = {"seed": seed, "fabric": fabric, "checkpoint": path, "checkpoint_seconds": checkpoint_seconds}
        losses += fit(strategy.net, strategy, batches, part, **options)  # type: ignore[arg-type]
        full += tuple(strategy.curve.double().reshape(phase.epochs, -1).mean(1).tolist())
    return Curves(losses, full)
