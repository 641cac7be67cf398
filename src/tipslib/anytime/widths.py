"""Which widths may a supernet take?"""

from __future__ import annotations

import math
import operator
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tipslib.errors import InvalidInput, require

STEPS = 14
"""Widths per dimension, both ends included, as many as the released code of TIPS (and of DS-Net) has per stage."""


@dataclass(frozen=True)
class Dimension:
    """One number of channels that a supernet may choose.

    Attributes
    ----------
    name
        Of the first operation that sets it.
    choices
        Allowed numbers of channels, ascending; the last is the full one.

    Raises
    ------
    InvalidInput
        No choice, a choice below 1, or choices that do not ascend.
    """

    name: str
    choices: tuple[int, ...]

    def __post_init__(self) -> None:
        given = tuple(self.choices)
        require(bool(given), f"dimension {self.name!r} has no choices; at least one is wanted")
        whole = _whole(given)
        require(
            whole is not None and min(whole) >= 1,
            f"dimension {self.name!r}: choices are {given}; whole numbers of at least one channel are wanted",
        )
        object.__setattr__(self, "choices", whole)
        ascending = all(a < b for a, b in zip(self.choices, self.choices[1:], strict=False))
        require(ascending, f"dimension {self.name!r}: choices {self.choices} must ascend, without repeats")

    @property
    def low(self) -> int:
        """The smallest choice."""
        return self.choices[0]

    @property
    def high(self) -> int:
        """The largest choice: the full width."""
        return self.choices[-1]

    def nearest(self, channels: float) -> int:
        """The choice closest to `channels`; of two as close, the larger."""
        i = bisect_left(self.choices, channels)
        below, above = self.choices[max(i - 1, 0)], self.choices[min(i, len(self.choices) - 1)]
        return below if channels - below < above - channels else above


@dataclass(frozen=True)
class WidthSpace:
    """All width configurations of a supernet: one choice per dimension, each independent of the others.

    A configuration is a tuple of ints in the order of `dimensions`. What must agree (the ends of a residual connection, the two
    sides of a depthwise convolution; TIPS, Fig. 11) is one dimension, so every configuration is valid.
    """

    dimensions: tuple[Dimension, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "dimensions", tuple(self.dimensions))
        require(bool(self.dimensions), "a width space needs at least one dimension")
        names = [dimension.name for dimension in self.dimensions]
        require(len(set(names)) == len(names), f"names of dimensions must be unique, not {', '.join(names)}")

    def __len__(self) -> int:
        """Number of dimensions."""
        return len(self.dimensions)

    def __repr__(self) -> str:
        return f"WidthSpace({len(self)} dimensions, {float(self.size):.3g} configurations)"

    @cached_property
    def smallest(self) -> tuple[int, ...]:
        """The lowest choice of every dimension."""
        return tuple(dimension.low for dimension in self.dimensions)

    @cached_property
    def largest(self) -> tuple[int, ...]:
        """The full network."""
        return tuple(dimension.high for dimension in self.dimensions)

    @cached_property
    def size(self) -> int:
        """Exact number of configurations."""
        return math.prod(len(dimension.choices) for dimension in self.dimensions)

    def contains(self, widths: Sequence[int]) -> bool:
        """True if `widths` is a configuration of this space."""
        return len(widths) == len(self._allowed) and all(w in allowed for w, allowed in zip(widths, self._allowed, strict=True))

    def check(self, widths: Sequence[int]) -> tuple[int, ...]:
        """The configuration as a tuple of Python ints.

        Raises
        ------
        InvalidInput
            Another number of widths than dimensions, or a width that is not allowed; the message names dimension and choices.
        """
        whole = _whole(widths)
        if whole is None:
            raise InvalidInput(f"widths must be whole numbers of channels, one per dimension, not {widths!r}")
        if self.contains(whole):
            return whole
        require(len(whole) == len(self), f"{len(whole)} widths for {len(self)} dimensions; give one each: {self._names()}")
        dimension, width = next((d, w) for d, w in zip(self.dimensions, whole, strict=True) if w not in d.choices)
        raise InvalidInput(f"dimension {dimension.name!r} cannot have {width} channels; allowed are {_listed(dimension.choices)}")

    def check_many(self, widths: ArrayLike) -> NDArray[np.int64]:
        """(K, D) int64 of K configurations, each checked as by `check`."""
        many = np.asarray(widths)
        fits = many.ndim == 2 and many.shape[1] == len(self) and np.issubdtype(many.dtype, np.integer)
        require(fits, f"configurations are of shape {many.shape} and type {many.dtype}; whole numbers (K, {len(self)}) are wanted")
        inside = (many >= 0) & (many < self._table.shape[1])
        inside &= self._table[np.arange(len(self)), np.where(inside, many, 0)]
        if not inside.all():
            self.check(many[np.flatnonzero(~inside.all(axis=1))[0]].tolist())
        return many.astype(np.int64, copy=False)

    def at(self, ratios: float | Sequence[float]) -> tuple[int, ...]:
        """The configuration nearest to given ratios of the full widths.

        Parameters
        ----------
        ratios
            One for all dimensions, or one each. Each dimension takes its choice nearest to ratio * high (of two as near the
            larger); a ratio beyond the choices gives the last of them.

        Raises
        ------
        InvalidInput
            A ratio that is not finite or negative, or another number of ratios than dimensions.
        """
        each = [float(ratios)] * len(self) if isinstance(ratios, (int, float)) else [float(ratio) for ratio in ratios]
        require(len(each) == len(self), f"{len(each)} ratios for {len(self)} dimensions; give one for all or one each: {self._names()}")
        require(all(0 <= r < math.inf for r in each), f"ratios must be finite numbers from 0, not {ratios!r}")
        return tuple(d.nearest(r * d.high) for d, r in zip(self.dimensions, each, strict=True))

    @cached_property
    def _allowed(self) -> tuple[frozenset[int], ...]:
        return tuple(frozenset(dimension.choices) for dimension in self.dimensions)

    @cached_property
    def _table(self) -> NDArray[np.bool_]:
        """(D, widest + 1), True where a dimension may have so many channels."""
        table = np.zeros((len(self), max(self.largest) + 1), dtype=bool)
        for row, dimension in zip(table, self.dimensions, strict=True):
            row[list(dimension.choices)] = True
        return table

    def _names(self) -> str:
        return ", ".join(dimension.name for dimension in self.dimensions)


def spread(low: int, high: int, *, count: int = STEPS, unit: int = 1) -> tuple[int, ...]:
    """Up to `count` evenly spaced widths from `low` to `high`, rounded to multiples of `unit` from `high` down, without repeats."""
    require(1 <= low <= high, f"widths from {low} to {high}; 1 <= low <= high is wanted")
    require(count >= 2 and unit >= 1, f"count = {count}, unit = {unit}; at least 2 and 1 are wanted")
    units = (high - low) // unit
    return tuple(sorted({high - unit * round(i * units / (count - 1)) for i in range(count)}))


def _whole(numbers: Sequence[int]) -> tuple[int, ...] | None:
    """As Python ints; None if one is no whole number, or these are no numbers at all."""
    try:
        return tuple(map(operator.index, numbers))
    except TypeError:
        return None


def _listed(choices: Iterable[int]) -> str:
    return ", ".join(map(str, choices))
