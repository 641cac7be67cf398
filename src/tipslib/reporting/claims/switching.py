"""Does a switch cost next to nothing (TIPS, B.8), and does following a budget beat any single network?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import smallest_above
from tipslib.reporting.claims.timing import at_least, at_most, finite, median_interval
from tipslib.reporting.published import quoted

_EVERY, _TRAINED = ("smoke", "laptop", "gpu", "paper"), ("laptop", "gpu", "paper")

SLOWER = 1.05
"""How much longer the first pass may take than the tenth to count as no slower."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Storage:
    """How many times the checkpoints of all subnetworks are larger than what is stored instead.

    `widths` is the widths alone, as the paper counts; `statistics` those and the batch-norm statistics of each; `all` these and the
    supernet's weights, which are needed in any case.
    """

    widths: float
    statistics: float
    all: float


@dataclass(frozen=True)
class Delivered:
    """Mean share of right answers over a trace of budgets.

    `following` by whatever `select` chose; `static` (K,) by each subnetwork alone, which gives no answer while the budget is too small
    for it; `served` (K,) the share of the trace in which it fits.
    """

    following: float
    static: Floats
    served: Floats


def rounds(records: Sequence[Record], name: str) -> Floats:
    """The durations of that name, all seeds together: (R,), or (R, 10) for `passes_ms`."""
    return np.concatenate([np.array(r.values["timing"][name]) for r in records])


def storage(record: Record) -> Storage:
    """Storage as the paper counts it, and as it is."""
    s = record.values["storage"]
    apart, widths = sum(s["checkpoints"]), s["configurations"]
    return Storage(apart / widths, apart / (widths + s["statistics"]), apart / (widths + s["statistics"] + s["supernet"]))


def delivered(record: Record) -> Delivered:
    """What a trace of budgets lets through."""
    front = record.values["front"]
    test, macs = (np.array([one[name] for one in front]) for name in ("test", "macs"))
    fits = record.arrays["budget"][None, :] >= macs[:, None]
    return Delivered(float(test[record.arrays["chosen"]].mean()), (fits * test[:, None]).mean(axis=1), fits.mean(axis=1))


def _switch_time(records: Sequence[Record]) -> Finding:
    found, interval = median_interval(rounds(records, "switch_us"))
    bar = 1e3 * quoted("tips-b8-switch-reconfigure").value
    reason = f"a switch takes {found:.2g} microseconds here (median), and {bar:g} in the paper, on a GPU"
    return Finding(at_most(interval, bar), found, finite(interval), len(records), reason)


def _faster(records: Sequence[Record]) -> Finding:
    switch = rounds(records, "switch_us")
    found, interval = median_interval(1e3 * rounds(records, "reload_ms") / switch)
    fastest, _ = median_interval(1e3 * rounds(records, "reload_fastest_ms") / switch)
    reason = (
        f"reloading takes {np.median(rounds(records, 'reload_ms')):.1f} ms, {found:,.0f} times as long as a switch; {fastest:,.0f} times "
        "where checkpoints are read without a copy, from safetensors"
    )
    return Finding(at_least(interval, quoted("tips-b8-switch-ratio").value), found, finite(interval), len(records), reason)


def _exact(found: float, bar: float, records: Sequence[Record], reason: str) -> Finding:
    return Finding(Verdict.HOLDS if found >= bar else Verdict.FAILS, found, None, len(records), reason)


def _smaller(records: Sequence[Record]) -> Finding:
    s = records[0].values["storage"]
    reason = (
        f"{len(s['checkpoints'])} checkpoints take {sum(s['checkpoints']) / 1e6:.1f} MB, their widths {s['configurations'] / 1e3:.1f} KB"
    )
    return _exact(storage(records[0]).widths, quoted("tips-b8-storage-ratio").value, records, reason)


def _smaller_with_statistics(records: Sequence[Record]) -> Finding:
    s, found = records[0].values["storage"], storage(records[0])
    reason = (
        f"statistics of batch norm, without which a subnetwork cannot run, take {s['statistics'] / 1e6:.2f} MB: with them "
        f"{found.statistics:,.0f} times less than the checkpoints, and {found.all:.1f} times with the supernet itself"
    )
    return _exact(found.statistics, quoted("tips-b8-storage-ratio").value, records, reason)


def _first_pass(records: Sequence[Record]) -> Finding:
    passes, cold = rounds(records, "passes_ms"), rounds(records, "cold_ms")
    found, interval = median_interval(passes[:, 0] / passes[:, -1])
    reason = (
        f"the first pass after a switch takes {found:.3f} times as long as the tenth (median of {len(passes)} switches); where a "
        f"subnetwork runs for the first time at all, {np.median(cold[:, 0] / cold[:, -1]):.2f} times"
    )
    return Finding(at_most(interval, SLOWER), found, finite(interval), len(records), reason)


def _following(records: Sequence[Record]) -> Finding:
    each = [delivered(r) for r in records]
    gains = np.array([[100 * (d.following - d.static.max()) for d in each]])
    best = [int(d.static.argmax()) for d in each]
    served = np.mean([d.served[i] for d, i in zip(each, best, strict=True)])
    reason = (
        f"following the budget, {100 * np.mean([d.following for d in each]):.1f} % of the answers are right; by the best single subnetwork "
        f"{100 * np.mean([d.static.max() for d in each]):.1f} %, which fits into the budget {100 * served:.0f} % of the time"
    )
    return smallest_above(gains, 0.0, reason)


CLAIMS = (
    Claim(
        "switching-time",
        "tips",
        "B.8",
        "It takes only a negligible 0.037 ms, on average, to switch the subnetwork.",
        "time of a switch in microseconds, at most 37",
        "switching",
        _EVERY,
        _switch_time,
    ),
    Claim(
        "switching-faster",
        "tips",
        "B.8",
        "Switching is 7756x faster than reloading the subnetwork's checkpoint.",
        "time to reload by time to switch, at least 7756",
        "switching",
        _EVERY,
        _faster,
    ),
    Claim(
        "switching-smaller",
        "tips",
        "B.8",
        "The configurations of twelve subnetworks are 6176x smaller than the subnetworks stored separately.",
        "bytes of the checkpoints by bytes of the widths, at least 6176",
        "switching",
        _EVERY,
        _smaller,
    ),
    Claim(
        "switching-smaller-with-statistics",
        "companion",
        "B.8",
        "They are 6176x smaller, too, when the batch-norm statistics of each are counted.",
        "bytes of the checkpoints by bytes of widths and statistics, at least 6176",
        "switching",
        _EVERY,
        _smaller_with_statistics,
    ),
    Claim(
        "switching-first-pass",
        "companion",
        "Algorithm 2",
        "The first inference after a switch to a subnetwork that has run before is no slower than the tenth.",
        "time of the first pass by time of the tenth, at most 1.05",
        "switching",
        _EVERY,
        _first_pass,
    ),
    Claim(
        "switching-following",
        "companion",
        "Algorithm 2",
        "Following a budget that changes gives more right answers than any single subnetwork.",
        "right answers more than by the best single subnetwork, in percentage points",
        "switching",
        _TRAINED,
        _following,
    ),
)
