"""Is Step 1 cheap beside training (TIPS, Sec. 3.5)? From the work of a training and the speed of the machine follows how long it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tipslib.experiments.passes import BACKWARD
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.timing import at_most, finite, median_interval

NEGLIGIBLE = 0.01
"""Of the time of training: from there on Step 1 would no longer be negligible. The paper names no number."""

STEP_2: Mapping[str, str] = {"network": "mobilenet_v2", "data": "imagenet", "strategy": "TIPS"}
"""The training whose hours the paper prints."""

Floats = NDArray[np.float64]


def step_1(records: Sequence[Record]) -> Floats:
    """(R,) seconds of the analysis, all rounds of all seeds."""
    return np.concatenate([np.array(r.values["timing"]["step_1_s"]) for r in records])


def step_seconds(records: Sequence[Record]) -> Floats:
    """(networks, R) seconds an image of a step, all seeds together."""
    images = np.array([network["images"] for network in records[0].values["networks"]])
    found: Floats = np.concatenate([np.array(r.values["timing"]["step_ms"]) for r in records], axis=1) / 1e3 / images[:, None]
    return found


def rates(records: Sequence[Record]) -> Floats:
    """(networks,) MACs a second in training, forward and backward, at the median step."""
    macs = np.array([network["macs"] for network in records[0].values["networks"]])
    found: Floats = (1 + BACKWARD) * macs / np.median(step_seconds(records), axis=1)
    return found


def hours(records: Sequence[Record]) -> Floats:
    """(trainings,) hours of each training on the machine of the records, one seed: work by rate."""
    trainings = records[0].values["trainings"]
    rate = rates(records)[[training["network"] for training in trainings]]
    return np.array([training["work"] for training in trainings]) / rate / 3600


def step_2(record: Record) -> int | None:
    """The index of the training of `STEP_2`; None where the profile does not plan it."""
    trainings: Sequence[Mapping[str, Any]] = record.values["trainings"]
    return next((i for i, t in enumerate(trainings) if STEP_2.items() <= t["recipe"].items()), None)


def _negligible(records: Sequence[Record]) -> Finding:
    which = step_2(records[0])
    if which is None:
        planned = records[0].run.parameters["planned"]
        return Finding(Verdict.NOT_RUN, None, None, 0, f"profile {planned} trains no MobileNet-v2 on ImageNet")
    training = 3600 * hours(records)[which]
    each = step_seconds(records)[records[0].values["trainings"][which]["network"]]
    # between the fastest and the slowest step that was seen: a training lasts long enough to meet both
    slowest, fastest = training * each.max() / np.median(each), training * each.min() / np.median(each)
    found, (low, high) = median_interval(step_1(records))
    interval = float(100 * low / slowest), float(100 * high / fastest)
    reason = (
        f"Step 1 takes {found:.2g} s (median of {len(step_1(records))}), and the training of MobileNet-v2 on ImageNet at the speed of this "
        f"machine {training / 3600:,.0f} hours"
    )
    return Finding(at_most(interval, 100 * NEGLIGIBLE), float(100 * found / training), finite(interval), len(records), reason)


CLAIMS = (
    Claim(
        "step-1-negligible",
        "tips",
        "Sec. 3.5",
        "Step 1 only has negligible time costs compared to AnytimeNN training.",
        "time of Step 1 by that of training MobileNet-v2 on ImageNet, both on one machine, in percent, at most 1",
        "costs",
        ("smoke", "laptop", "gpu", "paper"),
        _negligible,
    ),
)
