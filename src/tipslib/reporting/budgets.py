"""What do the fronts of supernets say at the paper's budgets, and how fast did their training go?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from tipslib.records import Record
from tipslib.reporting.published import published

NETWORKS: Mapping[str, tuple[str, str, str]] = MappingProxyType(
    {"mobilenet_v2": ("MobileNet-v2", "tips-table1", "tips-table4"), "resnet34": ("ResNet34", "tips-table2", "tips-table5")}
)
"""Network to its name in the paper, the table of its accuracies, and that of their spreads."""

DATA: Mapping[str, str] = MappingProxyType({"cifar100": "CIFAR100", "tiny-imagenet": "Tiny-ImageNet", "imagenet": "ImageNet"})
"""The paper's data sets, as it writes them."""

BASELINES = ("US-Nets", "Joslim", "DS-Net")
"""What Tables 1 and 2 compare TIPS with; each also has a control with the raised minimum widths, `<name>+floor`."""

Floats = NDArray[np.float64]
Cell = Mapping[str, Sequence[Record]]


def cells(records: Sequence[Record]) -> list[tuple[str, str]]:
    """(network, data) that there are records of, in their order."""
    return list(dict.fromkeys((r.run.parameters["network"], r.run.parameters["data"]) for r in records))


def cell(records: Sequence[Record], network: str, data: str) -> dict[str, list[Record]]:
    """Strategy to its records on one network and data set, by seed."""
    found: dict[str, list[Record]] = {}
    for r in sorted(records, key=lambda r: r.run.seed):
        if (r.run.parameters["network"], r.run.parameters["data"]) == (network, data):
            found.setdefault(r.run.parameters["strategy"], []).append(r)
    return found


def budgets(network: str, data: str) -> tuple[list[str], Floats]:
    """The paper's budgets, as printed and as shares of the largest; those of CIFAR-100 for a data set that the paper has not."""
    name, accuracies, _ = NETWORKS[network]
    printed = published(accuracies)
    rows = printed[(printed["network"] == name) & (printed["dataset"] == DATA.get(data, DATA["cifar100"])) & (printed["method"] == "TIPS")]
    macs = rows["budget_macs"].to_numpy(dtype=np.float64)
    return list(rows["budget_label"]), macs / macs.max()


def accuracy_under(record: Record, budget: float) -> float:
    """Test accuracy in percent of the subnetwork that is most accurate on the held-out images at or under a budget in MACs.

    Nothing is interpolated; NaN where no subnetwork of this supernet is cheap enough.
    """
    held_out = record.arrays["held_out"][record.arrays["macs"] <= budget]  # ascending in cost
    return 100 * float(record.arrays["test"][held_out.argmax()]) if len(held_out) else np.nan


def at_budgets(records: Sequence[Record], network: str, data: str) -> Floats:
    """(B, S) test accuracies in percent at the paper's budgets, as shares of the MACs of the largest subnetwork, over seeds."""
    shares = budgets(network, data)[1]
    return np.array([[accuracy_under(r, share * r.values["macs"][1]) for r in records] for share in shares])


def paired(cell: Cell, first: str, second: str, network: str, data: str) -> Floats:
    """(B, S) by how many percentage points `first` is more accurate than `second` at each budget, seed by seed; NaN where one has none."""
    seeds = sorted({r.run.seed for r in cell[first]} & {r.run.seed for r in cell[second]})
    found = [at_budgets([r for r in cell[name] if r.run.seed in seeds], network, data) for name in (first, second)]
    difference: Floats = found[0] - found[1]
    return difference


def epochs_to(record: Record, target: float) -> float:
    """Epochs until the mean training loss of the full network in an epoch was first at or below `target`; NaN if it never was."""
    reached = np.flatnonzero(record.arrays["loss"] <= target)
    return float(reached[0] + 1) if len(reached) else np.nan
