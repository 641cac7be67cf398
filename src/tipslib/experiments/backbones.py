"""How do width, depth and number of exits move the operating range? (Progressive intelligence, Fig. 4.)"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from tipslib.branched.exits import POLICIES
from tipslib.errors import require
from tipslib.experiments.branches import Branched, answers, as_arrays, evaluation, modes_of, summary, train
from tipslib.profiles import Profile
from tipslib.records import Outcome

VERSION = 1
TOLERANCE = 1e-6

WIDTHS = (0.25, 0.5, 1.0, 2.5)
"""Shares of the standard width; the paper names the first three, and its 84 % saving implies the last."""

DEPTHS = (10, 18, 34, 50)
EXITS = (3, 4, 5, 6, 7, 8)

RISING = (0.1, 0.2, 0.3, 0.4)
"""Weights that rise from exit to exit: the paper names such a model in section 4, and gives its weights nowhere."""

VARIANTS = (
    *({"relative_width": w} for w in WIDTHS),
    *({"depth": d} for d in DEPTHS if d != 18),
    *({"exits": e} for e in EXITS if e != 4),
    {"weights": RISING},
)


@dataclass(frozen=True)
class Parameters(Branched):
    """`width` is what counts as standard here, `relative_width` the share of it that this run has."""

    relative_width: float = 1.0
    thresholds: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.relative_width > 0, f"relative_width = {self.relative_width}; it must be above 0")
        require(self.thresholds >= 2, f"thresholds = {self.thresholds}; at least 2 are wanted")

    def trainings(self, seed: int) -> tuple[tuple[Branched, int], ...]:
        """The backbone at its width, see `Branched.trainings`."""
        ((standard, seed),) = super().trainings(seed)
        return ((replace(standard, width=self.width * self.relative_width), seed),)


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Train one backbone; its exits and its inference modes under every policy."""
    p = parameters
    ((scaled, _),) = p.trainings(seed)
    net, losses, data = train(scaled, seed=seed, profile=profile)
    test, held_out = evaluation(scaled, profile, net)
    logits, labels = answers(net, test)
    modes = modes_of(logits, labels, net.macs(), POLICIES, p.thresholds)
    values = summary(net, losses, logits, labels, modes) | {"macs_at_full_size": list(full_size_macs(p))}
    return Outcome(values, as_arrays(modes), {f"{p.data} train": data.checksum, f"{p.data} test": held_out.checksum})


def full_size_macs(parameters: Parameters) -> tuple[int, ...]:
    """Cumulative MACs of the same backbone at the paper's own size (a standard width of 1, ten classes), whatever size was trained."""
    with torch.device("meta"):  # shapes are all that counts: no weights are made
        return replace(parameters, width=parameters.relative_width).build(10).macs()
