"""What do the records of a branched network say about its operating range (progressive intelligence, section 4)?"""

from __future__ import annotations

import math
from collections.abc import Sequence

from tipslib.records import Record
from tipslib.reporting.published import quoted


def variant(
    records: Sequence[Record],
    *,
    relative_width: float = 1.0,
    depth: int = 18,
    exits: int = 4,
    weights: Sequence[float] | None = None,
) -> list[Record]:
    """The records of one backbone, by seed."""
    wanted = {"relative_width": relative_width, "depth": depth, "exits": exits, "weights": None if weights is None else list(weights)}
    return sorted((r for r in records if all(r.run.parameters[k] == v for k, v in wanted.items())), key=lambda r: r.run.seed)


def best_accuracy(record: Record) -> float:
    """Highest accuracy of the modes of the entropy rule, in percent."""
    return 100 * float(record.arrays["entropy"][1].max())


def bound(record: Record) -> float:
    """The paper's confidence bound at that accuracy, 3 sqrt(A (1 - A) / n), in percentage points (section 4)."""
    a = best_accuracy(record) / 100
    return 100 * quoted("progressive-sigma").value * math.sqrt(a * (1 - a) / int(record.values["samples"]))


def exit_saving(record: Record) -> float:
    """Percent of MACs that the cheapest mode within the bound of the best accuracy saves against running every layer."""
    macs, accuracy = record.arrays["entropy"]
    enough = 100 * accuracy >= best_accuracy(record) - bound(record)
    return 100 * float(1 - macs[enough].min() / record.values["macs"][-1])


def mode_area(record: Record) -> float:
    """Area under the best accuracy to be had for at most m MACs, as a share of the MACs of all layers."""
    return float(record.values["progressiveness"]["entropy"])


def full_macs(records: Sequence[Record]) -> list[int]:
    """Cumulative MACs of the backbone at the paper's own size."""
    return list(records[0].values["macs_at_full_size"])
