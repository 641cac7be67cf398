"""What does a step of each strategy train, and what does it cost? Without it, curves against epochs compare unequal amounts of work."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tipslib import parameters
from tipslib.anytime import Supernet, strategies
from tipslib.anytime.distillation import Phase, Strategy
from tipslib.anytime.joslim import Joslim
from tipslib.experiments.fronts import Parameters
from tipslib.records import Record, Run

LOOKED_AT = 200
"""Steps of a run whose subnetworks are drawn once more, if nothing else is asked for."""

CLASSES: Mapping[str, int] = MappingProxyType(
    {"digits": 10, "mnist": 10, "cifar10": 10, "cifar100": 100, "tiny-imagenet": 200, "imagenet-val-1300": 1000, "imagenet": 1000}
)
"""Logits of a network, which are part of its cost; so nothing needs to be read."""

IMAGES: Mapping[str, int] = MappingProxyType(
    {"digits": 1438, "mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000, "tiny-imagenet": 100_000, "imagenet": 1_281_167}
)
"""Training images, as each set is published (of the digits four fifths, see `tipslib.data`); so nothing needs to be read here, either."""

BACKWARD = 2
"""What going backward costs in forward passes: the gradients of the inputs, and those of the weights."""


@dataclass(frozen=True, eq=False)
class Passes:
    """The forward passes of some steps of a run, in their order.

    Attributes
    ----------
    share
        (P,) MACs over those of the full network.
    learns
        (P,) bool: with gradients; a pass without them makes a teacher's answer.
    phase
        (P,) number of the phase that its step belongs to, from 0.
    epochs
        Length of each phase.
    steps
        How many steps of each phase these are.
    """

    share: NDArray[np.float64]
    learns: NDArray[np.bool_]
    phase: NDArray[np.int64]
    epochs: tuple[int, ...]
    steps: tuple[int, ...]

    def per_step(self, *, learning: bool) -> NDArray[np.float64]:
        """(phases,) passes with gradients, or without, in a step of each phase."""
        found: NDArray[np.float64] = self._mean(self.learns == learning)
        return found

    def work(self) -> NDArray[np.float64]:
        """(epochs,) cost of each epoch: 1 is what it costs to train the full network alone, with one pass a step.

        Counted are the MACs of all passes, three times with gradients, once without.
        """
        weight = np.where(self.learns, 1 + BACKWARD, 1) / (1 + BACKWARD)
        return np.repeat(self._mean(self.share * weight), self.epochs)

    def _mean(self, values: NDArray[np.float64] | NDArray[np.bool_]) -> NDArray[np.float64]:
        return np.bincount(self.phase, weights=values, minlength=len(self.steps)) / self.steps


def passes_of(record: Record) -> Passes:
    """`passes` of a record of the experiment `fronts`."""
    size = parameters.parse(Parameters, record.run.parameters).size
    return passes(record.run, record.values["images"]["training"] // size)


def passes(run: Run, steps: int, looked_at: int = LOOKED_AT) -> Passes:
    """Draw once more what a run of the experiment `fronts` trains, from its seed, in steps spread evenly over the run.

    The strategy itself makes the steps, on a supernet whose layers compute nothing; so nothing is trained and no image is needed.
    Joslim's widths follow from losses as soon as Bayesian optimisation begins, and these are not there: its steps are those of its
    first proposals, one for each pair of them.

    Parameters
    ----------
    run
        Planned or done.
    steps
        Of an epoch.
    looked_at
        About how many steps of the run are drawn; each phase has at least one.
    """
    p = parameters.parse(Parameters, run.parameters)
    kind = strategies[p.strategy]
    net = copy.deepcopy(built(p.network, p.data, p.width, kind.floor))
    with torch.device("meta"):
        batch = torch.zeros(2, *net.input_shape), torch.zeros(2, dtype=torch.int64)
        strategy = kind(net, seed=run.seed, held_out=[batch])
    seen = _watched(net)
    phases = strategy.phases(p.recipe.epochs, steps)
    images, labels = torch.zeros(2, 1), torch.zeros(2, dtype=torch.int64)
    ends, counts = [], []
    for phase in phases:
        phase.begin()
        chosen = _chosen(strategy, phase, p.recipe.epochs, steps, looked_at)
        for step in chosen:
            strategy.step(net, images, labels, step=step, backward=lambda _: None)
        counts.append(len(chosen))
        ends.append(len(seen))
    return Passes(
        share=np.array([macs for macs, _ in seen]) / net.macs(net.space.largest),
        learns=np.array([learns for _, learns in seen]),
        phase=np.repeat(np.arange(len(phases)), np.diff(ends, prepend=0)),
        epochs=tuple(phase.epochs for phase in phases),
        steps=tuple(counts),
    )


@cache
def built(network: Literal["mobilenet_v2", "resnet34"], data: str, width: float | None, floor: bool, /) -> Supernet:
    """A supernet without weights, the same each time; `width` as in the parameters of `fronts`, `floor` as in `Strategy`."""
    some = next(name for name, kind in strategies.items() if kind.floor == floor)
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return Parameters(network, some, data, width).build(CLASSES[data])


def _chosen(strategy: Strategy, phase: Phase, epochs: int, steps: int, looked_at: int) -> list[int]:
    if isinstance(strategy, Joslim):
        return list(range(0, min(strategy.FIRST // strategy.AT_ONCE * strategy.tau, epochs * steps), strategy.tau))
    there = phase.epochs * steps
    spread = np.linspace(0, there - 1, max(1, round(looked_at * phase.epochs / epochs)))
    return [int(step) for step in np.unique(spread.astype(int))]


class _Nothing(nn.Module):
    """In the place of a network: two logits that depend on nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.logits.expand(len(x), -1)


def _watched(net: Supernet) -> list[tuple[int, bool]]:
    """Let a supernet, and what is copied from it, compute nothing and note MACs and gradients of every pass in the list returned."""
    seen: list[tuple[int, bool]] = []
    _ = net.batch_norms, net.macs()  # both remember the layers, which now go
    net.body = _Nothing()
    net.register_forward_pre_hook(lambda running, _: seen.append((running.macs(), torch.is_grad_enabled())))
    return seen
