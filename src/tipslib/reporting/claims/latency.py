"""Is TIPS more accurate at equal latency (TIPS, Table 3), are MACs a fair stand-in for it, and is running in place free?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import smallest_above
from tipslib.reporting.claims.timing import at_most, finite, median_interval

_EVERY, _TRAINED = ("smoke", "laptop", "gpu", "paper"), ("laptop", "gpu", "paper")

LATENCIES = 5
"""Latencies at which accuracies are compared, as many as Table 3 has."""

RANKED = 0.9
"""The rank correlation from which on MACs order subnetworks as latency does."""

FREE = 1.05
"""How much longer a pass in place may take than one by itself to count as no longer."""

Floats = NDArray[np.float64]


def of(records: Sequence[Record], strategy: str) -> list[Record]:
    """Those of one strategy; "none" is the paper's network, untrained."""
    return [r for r in records if r.run.parameters["strategy"] == strategy]


def medians(record: Record, way: str = "in_place") -> Floats:
    """(K,) milliseconds of each subnetwork; for "onnxruntime" of each that was exported."""
    found: Floats = np.median(np.array(record.values["timing"][way]), axis=1)
    return found


def column(record: Record, name: str) -> Floats:
    """(K,) of what a record says of each subnetwork."""
    return np.array([one[name] for one in record.values["subnetworks"]], dtype=np.float64)


def accuracy_at(record: Record, latencies: Floats) -> Floats:
    """(B,) test accuracy in percent at given milliseconds, along a line between subnetworks.

    Of those that are no slower, the one is taken that is best on held-out images, as `AnytimeNetwork.select` does.
    """
    order = np.argsort(medians(record))
    held_out = column(record, "held_out")[order]
    best = [int(np.argmax(held_out[: i + 1])) for i in range(len(order))]
    found: Floats = np.interp(latencies, medians(record)[order], 100 * column(record, "test")[order][best])
    return found


def common_latencies(records: Sequence[Record]) -> Floats:
    """(B,) milliseconds evenly spaced over what all records reach, from the slowest of their fastest; empty if they share nothing."""
    low, high = max(medians(r).min() for r in records), min(medians(r).max() for r in records)
    return np.linspace(low, high, LATENCIES) if low < high else np.array([])


def gains(records: Sequence[Record], first: str = "TIPS", other: str = "Joslim") -> Floats:
    """(B, S) percentage points that `first` is above `other` at equal latency, for every seed that both have."""
    pairs = [(a, b) for a in of(records, first) for b in of(records, other) if a.run.seed == b.run.seed]
    if not pairs:
        return np.empty((0, 0))
    columns = []
    for a, b in pairs:
        latencies = common_latencies((a, b))
        if len(latencies) == 0:
            return np.empty((0, len(pairs)))
        columns.append(accuracy_at(a, latencies) - accuracy_at(b, latencies))
    return np.stack(columns, axis=1)


def _more_accurate(records: Sequence[Record]) -> Finding:
    found = gains(records)
    if found.shape[1] == 0:
        return Finding(Verdict.NOT_RUN, None, None, 0, "no seed at which both TIPS and Joslim were timed")
    if found.shape[0] == 0:
        return Finding(Verdict.UNDECIDED, None, None, found.shape[1], "there is no latency that both fronts reach")
    each = ", ".join(f"{gain:+.1f}" for gain in found.mean(axis=1))
    return smallest_above(found, 0.0, f"points of TIPS over Joslim at {LATENCIES} latencies from fast to slow: {each}")


def rank_correlation(record: Record) -> float:
    """Of MACs and milliseconds over the subnetworks of a record."""
    return float(spearmanr(column(record, "macs"), medians(record)).statistic)


def _proxy(records: Sequence[Record]) -> Finding:
    chosen = of(records, "none")
    if not chosen:
        return Finding(Verdict.NOT_RUN, None, None, 0, "the paper's network was not timed at this profile yet")
    found = np.array([[rank_correlation(r) for r in chosen]])
    slow, cheap = (np.mean([f(r).max() / f(r).min() for r in chosen]) for f in (medians, lambda r: column(r, "macs")))
    reason = (
        f"rank correlation {found.mean():.2f}; the largest subnetwork has {cheap:.2f} times the MACs of the smallest, and takes {slow:.2f} "
        "times as long"
    )
    return smallest_above(found, RANKED, reason)


def overhead(records: Sequence[Record]) -> list[Floats]:
    """Of each subnetwork (R,) milliseconds in place by milliseconds by itself, round by round."""
    ratios = [np.array(r.values["timing"]["in_place"]) / np.array(r.values["timing"]["alone"]) for r in records]
    return [row for ratio in ratios for row in ratio]


def _free(records: Sequence[Record]) -> Finding:
    chosen = of(records, "none")
    if not chosen:
        return Finding(Verdict.NOT_RUN, None, None, 0, "the paper's network was not timed at this profile yet")
    found, interval = median_interval(np.concatenate(overhead(chosen)))
    each = [float(np.median(row)) for row in overhead(chosen)]
    reason = (
        f"in place a pass takes {found:.3f} times as long as by itself (median); {min(each):.2f} to {max(each):.2f} times by subnetwork"
    )
    return Finding(at_most(interval, FREE), found, finite(interval), len(chosen), reason)


CLAIMS = (
    Claim(
        "latency-tips-joslim",
        "tips",
        "Table 3, Sec. 4.4",
        "TIPS achieves higher accuracy than Joslim, given a similar latency.",
        "test accuracy of TIPS minus that of Joslim, in percentage points, at the latency where it is least",
        "latency",
        _TRAINED,
        _more_accurate,
    ),
    Claim(
        "latency-macs",
        "tips",
        "Sec. 3.4",
        "The number of FLOPs is a proxy for hardware resource constraints.",
        "rank correlation of MACs and milliseconds over random subnetworks, above 0.9",
        "latency",
        _EVERY,
        _proxy,
    ),
    Claim(
        "latency-in-place",
        "companion",
        "Algorithm 2",
        "A subnetwork runs inside its supernet as fast as by itself.",
        "time of a pass of a subnetwork in place by that of the same subnetwork alone, at most 1.05",
        "latency",
        _EVERY,
        _free,
    ),
)
