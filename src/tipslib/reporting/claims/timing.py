"""What do repeated timings say? Medians, with intervals that assume nothing about how a machine errs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from tipslib.reporting.claims import Verdict
from tipslib.reporting.claims.seeds import NO_INTERVAL, Interval


def median_interval(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> tuple[float, Interval]:
    """Median of (R,) rounds and an interval for it: two of the values in order, such that the median lies between them.

    How many of R values lie below the median is binomial with 1/2, whatever their distribution; `NO_INTERVAL` where R is too small.
    """
    v = np.sort(np.asarray(values, dtype=np.float64))
    beyond = int(binom.ppf((1 - level) / 2, len(v), 0.5))
    if beyond < 1:
        return float(np.median(v)), NO_INTERVAL
    return float(np.median(v)), (float(v[beyond - 1]), float(v[len(v) - beyond]))


def at_most(interval: Interval, bar: float) -> Verdict:
    """Is a quantity with this interval `bar` or less?"""
    if interval[1] <= bar:
        return Verdict.HOLDS
    return Verdict.FAILS if interval[0] > bar else Verdict.UNDECIDED


def at_least(interval: Interval, bar: float) -> Verdict:
    """Is it `bar` or more?"""
    return at_most((-interval[1], -interval[0]), -bar)


def finite(interval: Interval) -> Interval | None:
    """None where one end is open."""
    return interval if all(map(math.isfinite, interval)) else None
