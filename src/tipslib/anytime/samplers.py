"""How is the next subnetwork drawn?"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from tipslib.anytime.widths import STEPS, WidthSpace
from tipslib.errors import require


def uniform(space: WidthSpace, generator: torch.Generator) -> tuple[int, ...]:
    """Every dimension uniformly among its choices, each independent of the others: every configuration is as likely as any other."""
    draws = torch.rand(len(space), generator=generator).tolist()
    return tuple(d.choices[int(u * len(d.choices))] for d, u in zip(space.dimensions, draws, strict=True))


def shared_ratio(space: WidthSpace, generator: torch.Generator, low: float = 0.35) -> tuple[int, ...]:
    """One ratio from U(low, 1) for all dimensions, as US-Nets draws its widths."""
    require(0 < low <= 1, f"low = {low}; allowed is (0, 1]")
    return space.at(low + (1 - low) * float(torch.rand((), generator=generator)))


def shared_index(space: WidthSpace, generator: torch.Generator) -> tuple[int, ...]:
    """One of 14 indices for all dimensions, as DS-Net draws its widths; a dimension with fewer choices takes the one at the same place."""
    index = int(torch.randint(STEPS, (), generator=generator))
    return tuple(d.choices[round(index * (len(d.choices) - 1) / (STEPS - 1))] for d in space.dimensions)


def importance(space: WidthSpace, important: Sequence[bool], generator: torch.Generator, boost: float = 1.5) -> tuple[int, ...]:
    """Important dimensions keep `boost` times the share of channels, at most all of them (TIPS, 4.3 and B.2).

    The paper: "if 40% of the output channels of unimportant operations are sampled, then 60% of the output channels of important
    operations are sampled". It does not say how the 40 % is drawn. Here each dimension has a ratio of its own, from U(low / high, 1),
    so that the configurations which the search will look at are trained.

    Raises
    ------
    InvalidInput
        Another number of bools than dimensions, or a boost below 1.
    """
    require(len(important) == len(space), f"{len(important)} bools for {len(space)} dimensions; give one each")
    require(boost >= 1, f"boost = {boost}; at least 1 is wanted")
    draws = torch.rand(len(space), generator=generator).tolist()
    lows = [d.low / d.high for d in space.dimensions]
    ratios = [low + (1 - low) * u for low, u in zip(lows, draws, strict=True)]
    return space.at([min(1.0, boost * r) if chosen else r for r, chosen in zip(ratios, important, strict=True)])
