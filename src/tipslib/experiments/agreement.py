"""What does leaving by agreement save? (Progressive intelligence, Fig. 5, on CIFAR-100.)"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from tipslib.branched.exits import POLICIES
from tipslib.branched.networks import branched_mobilenet, mobilenet
from tipslib.errors import require
from tipslib.experiments.branches import SIDE, Branched, answers, as_arrays, evaluation, modes_of, summary, train
from tipslib.profiles import Profile
from tipslib.records import Outcome

VERSION = 1
TOLERANCE = 1e-6

RULES = ("entropy", "mutual-agreement")

DROPPED = ((3,), (6,), (2, 10))
"""Feature blocks of the MobileNet that the released index lists leave out of the cost of its first, second and third exit."""

VARIANTS = ({"network": "resnet"}, {"network": "mobilenet"})

TARGETS = 200
"""Accuracies at which the two rules are compared."""


@dataclass(frozen=True)
class Parameters(Branched):
    """Training; thresholds as in the released code."""

    data: str = "cifar100"
    thresholds: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.thresholds >= 2, f"thresholds = {self.thresholds}; at least 2 are wanted")


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Train one network; inference modes under every policy, who leaves where under the two rules, and what agreement saves.

    `macs_at_full_size` and `released_macs` count the paper's own network, whatever size was trained.
    """
    p = parameters
    net, losses, data = train(p, seed=seed, profile=profile)
    test, held_out = evaluation(p, profile, net)
    logits, labels = answers(net, test)
    modes = modes_of(logits, labels, net.macs(), POLICIES, p.thresholds)
    arrays = as_arrays(modes) | {f"{rule} leaving": modes[rule].leaving for rule in RULES}
    values = summary(net, losses, logits, labels, modes) | {"saving": savings(arrays)}
    if p.network == "mobilenet":
        full = branched_mobilenet(classes=100)
        values["macs_at_full_size"] = list(full.macs())
        values["released_macs_at_full_size"] = list(released_macs(full.macs(), classes=100, width=1.0))
        values["released_macs"] = list(released_macs(net.macs(), classes=len(data.classes), width=p.width))
    return Outcome(values, arrays, {f"{p.data} train": data.checksum, f"{p.data} test": held_out.checksum})


def released_macs(macs: Sequence[int], *, classes: int, width: float) -> tuple[int, ...]:
    """Cumulative MACs of the branched MobileNet as the released index lists add them up: without the blocks they forget (`DROPPED`)."""
    backbone = mobilenet(classes, width).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, SIDE, SIDE))
    flops = counter.get_flop_counts()
    block = {b: sum(flops[f"{type(backbone).__name__}.features.{b}"].values()) // 2 for b in range(len(backbone.features))}
    return (*(m - sum(block[b] for b in forgotten) for m, forgotten in zip(macs, DROPPED, strict=False)), macs[-1])


def threshold_saving(arrays: dict[str, np.ndarray], macs: Sequence[float]) -> np.ndarray:
    """(A,) share of MACs that agreement saves over the entropy rule at each threshold (the paper's Fig. 5, bottom left).

    It cannot be negative: at one threshold, whoever leaves by entropy leaves by entropy or agreement too, and no later.
    """
    entropy, agreement = (arrays[f"{rule} leaving"] @ np.asarray(macs, dtype=np.float64) for rule in RULES)
    return np.asarray(1 - agreement / entropy)


def accuracy_saving(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """(`TARGETS`,) accuracies that both rules reach, and the share of MACs that the cheapest mode of agreement saves there.

    Each rule is charged its cheapest mode that is at least as accurate. Negative where agreement costs more.
    """
    low = max(arrays[rule][1].min() for rule in RULES)
    high = min(arrays[rule][1].max() for rule in RULES)
    targets = np.linspace(low, high, TARGETS)
    entropy, agreement = (np.where(arrays[rule][1] >= targets[:, None] - 1e-12, arrays[rule][0], np.inf).min(1) for rule in RULES)
    return targets, 1 - agreement / entropy


def savings(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """What agreement saves over the entropy rule, as shares of MACs, and what it costs in peak accuracy.

    `equal threshold` is the largest saving at one threshold, whatever the accuracies are; `equal accuracy` the mean over all accuracies
    that both rules reach; `highest accuracy` that at the highest of those; `peak` the best accuracy of agreement minus that of entropy.
    """
    (entropy_macs, entropy_accuracy), (agreement_macs, agreement_accuracy) = (arrays[rule] for rule in RULES)
    _, saved = accuracy_saving(arrays)
    return {
        "equal threshold": float((1 - agreement_macs / entropy_macs).max()),
        "equal accuracy": float(saved.mean()),
        "highest accuracy": float(saved[-1]),
        "peak": float(agreement_accuracy.max() - entropy_accuracy.max()),
    }
