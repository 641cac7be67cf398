"""Which supernet trains in seconds? A small residual network on small images, for what wants any trained one and not the papers' own."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tipslib import project
from tipslib.anytime import Statistics, Supernet, make_elastic, strategies
from tipslib.anytime.calibration import accuracy_at, calibrate
from tipslib.anytime.pareto import pareto_search
from tipslib.anytime.strategies import train_supernet
from tipslib.batches import Loader, Plain, epoch_generator, resident
from tipslib.data import load
from tipslib.experiments import code_version
from tipslib.processes import make_fabric
from tipslib.profiles import Profile
from tipslib.records import canonical
from tipslib.training import Recipe

VERSION = 1
"""Raised by hand whenever a change of the code changes what a trained network is: its checkpoint is not used again."""

SIDE, CHANNELS, LOWEST = 16, (16, 32), 1 / 4
BATCH, RECIPE = 64, Recipe(epochs=10, learning_rate=0.1, weight_decay=5e-4)
HELD_OUT, CANDIDATES, CALIBRATION, AT_ONCE = 0.2, 80, 512, 256

_STREAM = 11
"""Of `epoch_generator`, for the split."""


@dataclass(frozen=True, eq=False)
class Searched:
    """A trained supernet and its front: widths (K, D), statistics, and accuracies (K,) as shares; `data` are checksums."""

    net: Supernet
    widths: NDArray[np.int64]
    statistics: tuple[Statistics, ...]
    held_out: NDArray[np.float64]
    test: NDArray[np.float64]
    data: dict[str, str]


class Block(nn.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(*_convolution(channels, channels), *_convolution(channels, channels)[:-1])
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        out: Tensor = self.relu(x + self.inner(x))
        return out


def _convolution(inputs: int, outputs: int, stride: int = 1) -> tuple[nn.Module, ...]:
    return nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def supernet(classes: int) -> Supernet:
    """Untrained, drawn from torch's global generator."""
    first, second = CHANNELS
    body = nn.Sequential(
        *(*_convolution(3, first, 2), Block(first), *_convolution(first, second, 2), Block(second)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(second, classes)),
    )
    return make_elastic(body, (3, SIDE, SIDE), lowest=LOWEST)


def searched(strategy: str, data: str, *, seed: int, profile: Profile) -> Searched:
    """Train by a strategy, search on held-out images, and test what was found; a checkpoint that is there is used."""
    train, test = load(data, "train", profile), load(data, "test", profile)
    fabric = make_fabric()
    images, options = resident(train, fabric.device), {"size": SIDE, "channels": 3}
    order = torch.randperm(len(train.labels), generator=epoch_generator(seed, 0, _STREAM))
    many = round(HELD_OUT * len(order))
    held_out = list(Plain(images, AT_ONCE, order[:many], options))
    calibration = [x for x, _ in Plain(images, AT_ONCE, order[many : many + CALIBRATION], options)]
    loader = Loader(images, BATCH, seed=seed, rows=order[many:], drop_last=True, crop_padding=1, **options)
    torch.manual_seed(seed)
    net = supernet(len(train.classes))
    made = strategies[strategy](net, seed=seed, held_out=held_out)
    shaping = {"strategy": strategy, "seed": seed, "data": train.checksum, "code": code_version(VERSION, __name__, profile)}
    key = hashlib.sha256(canonical(shaping)).hexdigest()[:16]
    checkpoint = project.root() / "build" / "weights" / f"{key}.ckpt"
    train_supernet(made, loader, RECIPE, seed=seed, fabric=fabric, checkpoint=checkpoint)
    front = pareto_search(net, calibration, held_out, candidates=CANDIDATES, seed=seed)
    widths = [tuple(w) for w in front.widths.tolist()]
    statistics = tuple(calibrate(net, w, calibration) for w in widths)
    batches = list(Plain(resident(test, fabric.device), AT_ONCE, options=options))
    tested = np.array([accuracy_at(net, batches, w, s) for w, s in zip(widths, statistics, strict=True)])
    return Searched(
        net, front.widths, statistics, front.accuracies, tested, {f"{data} train": train.checksum, f"{data} test": test.checksum}
    )
