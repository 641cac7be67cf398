"""What do a few seeds say? Means over them with t intervals, and the verdicts these allow."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from tipslib.reporting.claims import Finding, Verdict

Interval = tuple[float, float]

NO_INTERVAL: Interval = (-math.inf, math.inf)
"""What one seed says about the spread over seeds."""


def mean_interval(values: Sequence[float] | NDArray[np.float64], level: float = 0.95) -> tuple[float, Interval]:
    """Mean over seeds and its t interval; from one seed, `NO_INTERVAL`."""
    v = np.asarray(values, dtype=np.float64)
    mean = float(v.mean())
    if len(v) < 2:
        return mean, NO_INTERVAL
    half = float(t.ppf((1 + level) / 2, len(v) - 1) * v.std(ddof=1) / math.sqrt(len(v)))
    return mean, (mean - half, mean + half)


def smallest_above(values: NDArray[np.float64], bar: float, reason: str) -> Finding:
    """Are all K quantities above `bar`? (K, S) values over S seeds.

    It holds if every 95 % interval lies above. It does not if one lies at or below, with intervals so wide (Bonferroni) that all K cover
    their means with 95 %: else one row out of many would soon do so by chance. The effect is the smallest mean.
    """
    found = [mean_interval(row) for row in values]
    wide = [mean_interval(row, 1 - 0.05 / len(values))[1] for row in values]
    effect, interval = min(found, key=lambda f: f[0])
    if all(low > bar for _, (low, _) in found):
        verdict = Verdict.HOLDS
    elif any(high <= bar for _, high in wide):
        verdict = Verdict.FAILS
    else:
        verdict = Verdict.UNDECIDED
    return Finding(verdict, effect, interval, values.shape[1], reason + _alone(values.shape[1]))


def largest_below(values: NDArray[np.float64], bar: float, reason: str) -> Finding:
    """Are all K quantities below `bar`? The mirror image of `smallest_above`; the effect is the largest mean."""
    f = smallest_above(-values, -bar, reason)
    assert f.effect is not None
    assert f.interval is not None
    return Finding(f.verdict, -f.effect, (-f.interval[1], -f.interval[0]), f.seeds, f.reason)


def within(values: NDArray[np.float64], low: float, high: float, reason: str) -> Finding:
    """Does the mean of (S,) values lie in [low, high]? Undecided while its interval straddles an end."""
    effect, interval = mean_interval(values)
    inside = low <= interval[0] and interval[1] <= high
    verdict = Verdict.HOLDS if inside else Verdict.FAILS if interval[1] < low or interval[0] > high else Verdict.UNDECIDED
    return Finding(verdict, effect, interval, len(values), reason + _alone(len(values)))


def _alone(seeds: int) -> str:
    return "; one seed gives no interval" if seeds == 1 else ""
