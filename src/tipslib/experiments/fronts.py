"""How accurate is a supernet at each cost, by how it was trained? (TIPS, Figs. 1, 5b, 5c; Tables 1, 2, 4-6.)"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from tipslib import project
from tipslib.anytime import Supernet, important_dimensions, mobilenet_v2_supernet, resnet34_supernet, strategies
from tipslib.anytime.calibration import accuracy_at, calibrate
from tipslib.anytime.pareto import pareto_search
from tipslib.anytime.strategies import train_supernet
from tipslib.batches import PIXELS, Loader, Plain, Resident, epoch_generator, resident
from tipslib.data import Dataset, load
from tipslib.errors import require
from tipslib.experiments import code_version
from tipslib.processes import make_fabric
from tipslib.profiles import Profile
from tipslib.progress import track
from tipslib.records import Outcome, canonical
from tipslib.training import Recipe

VERSION = 1
TOLERANCE = 1e-5

VARIANTS = tuple({"strategy": name} | ({"network": "mobilenet_v2"} if name == "OFA" else {}) for name in strategies)
"""Every strategy on every network and data set of the profile; OFA shrinks inverted residuals, which a ResNet has not."""

SIDE: Mapping[str, int] = {"tiny-imagenet": 64, "imagenet": 224}
"""Pixels a side, where it is not 32; ImageNet's are a window of larger photographs, which stay on the host."""

WIDTH: Mapping[str, float] = {"mobilenet_v2": 1.4, "resnet34": 1.0}
"""The paper's own width multiples."""

EPOCHS: Mapping[tuple[str, str], int] = {("imagenet", "mobilenet_v2"): 150, ("imagenet", "resnet34"): 90}
"""TIPS, B.2; 200 for all other pairs of data set and network."""

HELD_OUT, MOST_HELD_OUT = 0.1, 10_000
"""The share of the training images, and the most of them, that nothing is trained on: subnetworks are chosen by their accuracy there."""

AT_ONCE = 500
"""Images of one step in calibration and evaluation."""

_STREAM = 9
"""Of `epoch_generator`, for the split; smaller ones are the loader's and the strategies'."""


@dataclass(frozen=True)
class Parameters:
    """Training and search; None is the paper's own (TIPS, B.2), which depends on network and data.

    `width` multiplies the channels; `candidates` are the subnetworks that the search looks at, `calibration` the images from which
    the batch norms of a tested subnetwork take their statistics.
    """

    network: Literal["mobilenet_v2", "resnet34"] = "mobilenet_v2"
    strategy: str = "TIPS"
    data: str = "cifar100"
    width: float | None = None
    epochs: int | None = None
    batch_size: int | None = None
    learning_rate: float | None = None
    weight_decay: float = 1e-4
    candidates: int = 1000
    calibration: int = 2000
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        require(self.strategy in strategies, f"strategy = {self.strategy!r}; allowed are {', '.join(strategies)}")
        require(self.data in PIXELS, f"data = {self.data!r}; allowed are {', '.join(PIXELS)}")
        sorts = self.strategy != "OFA" or self.network == "mobilenet_v2"
        require(sorts, "OFA shrinks the expansions of inverted residuals, and a ResNet has none; choose mobilenet_v2")
        require(self.width is None or self.width > 0, f"width = {self.width}; it must be above 0")
        require(self.candidates >= 2, f"candidates = {self.candidates}; at least 2 are wanted")
        require(self.calibration >= 2, f"calibration = {self.calibration}; at least 2 images are wanted")
        require(self.batch_size is None or self.batch_size >= 2, f"batch_size = {self.batch_size}; batch norm needs at least 2")
        _ = self.recipe

    @property
    def size(self) -> int:
        """Images of one step."""
        return (512 if self.data == "imagenet" else 256) if self.batch_size is None else self.batch_size

    @property
    def recipe(self) -> Recipe:
        """The same for every strategy, as the paper has it: SGD with momentum .9 and a cosine."""
        epochs = EPOCHS.get((self.data, self.network), 200) if self.epochs is None else self.epochs
        rate = (0.04 if self.data == "imagenet" else 0.08) if self.learning_rate is None else self.learning_rate
        return Recipe(epochs, rate, weight_decay=self.weight_decay)

    def trainings(self, seed: int) -> tuple[tuple[Parameters, int], ...]:
        """The one that a run with this seed makes; how its supernet is searched afterwards is set back to the defaults."""
        return ((replace(self, candidates=Parameters.candidates, calibration=Parameters.calibration), seed),)

    def build(self, classes: int) -> Supernet:
        """The untrained supernet, drawn from torch's global generator, with the floor if the strategy is said to have it."""
        make = {"mobilenet_v2": mobilenet_v2_supernet, "resnet34": resnet34_supernet}[self.network]
        width = WIDTH[self.network] if self.width is None else self.width
        floor: Literal["tips"] | None = "tips" if strategies[self.strategy].floor else None
        return make(width=width, resolution=SIDE.get(self.data, 32), classes=classes, floor=floor)


@dataclass(frozen=True, eq=False)
class Split:
    """What a supernet is trained on, calibrated on, chosen on and tested on, as batches on the device."""

    train: Loader
    calibration: list[Tensor]
    held_out: list[tuple[Tensor, Tensor]]
    test: Plain
    images: Mapping[str, int]
    classes: int
    checksums: Mapping[str, str]


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Train one supernet with one strategy, search it on the held-out images, and test every subnetwork on the front that was found.

    `values`: names and full widths of the D dimensions, whether each is important (None where the strategy does not ask), MACs of the
    smallest and the largest subnetwork, numbers of images. Arrays: `loss` (epochs,) mean plain cross-entropy of the full network in
    training, `objective` (epochs,) what the strategy minimised; `widths` (K, D), `macs`, `held_out` and `test` (K,) of the front, in
    the order of rising cost, accuracies as shares; `searched` (2, C) MACs and held-out accuracy of every candidate, NaN where the
    search dropped it early.
    """
    p = parameters
    fabric = make_fabric(precision=p.precision)
    data = split(p, profile, fabric.device, seed=seed, share=(fabric.global_rank, fabric.world_size))
    torch.manual_seed(seed)
    net = p.build(data.classes)
    strategy = strategies[p.strategy](net, seed=seed, held_out=data.held_out)
    shaping = asdict(p) | {"seed": seed, "data": dict(data.checksums), "code": code_version(VERSION, __name__, profile)}
    shaping |= {"candidates": None, "calibration": None}
    checkpoint = project.root() / "build" / "weights" / f"{hashlib.sha256(canonical(shaping)).hexdigest()[:16]}.ckpt"
    curves = train_supernet(strategy, data.train, p.recipe, seed=seed, fabric=fabric, checkpoint=checkpoint)
    with fabric.autocast():
        front = pareto_search(net, data.calibration, data.held_out, candidates=p.candidates, seed=seed)
        tested = [
            accuracy_at(net, data.test, widths, calibrate(net, widths, data.calibration))
            for widths in track([tuple(w.tolist()) for w in front.widths], f"testing {p.strategy}")
        ]
    sampled = important_dimensions(net) if p.strategy == "TIPS" else None
    return Outcome(
        values={
            "dimensions": [d.name for d in net.space.dimensions],
            "largest": list(net.space.largest),
            "smallest": list(net.space.smallest),
            "important": None if sampled is None else list(sampled),
            "macs": [net.macs(net.space.smallest), net.macs(net.space.largest)],
            "images": dict(data.images),
        },
        arrays={
            "loss": np.array(curves.full),
            "objective": np.array(curves.losses),
            "widths": front.widths,
            "macs": front.costs,
            "held_out": front.accuracies,
            "test": np.array(tested),
            "searched": np.stack([front.candidates.costs, front.candidates.accuracies]),
        },
        data=dict(data.checksums),
    )


def held_out(images: int) -> int:
    """How many of so many training images nothing is trained on."""
    return min(round(HELD_OUT * images), MOST_HELD_OUT)


def split(p: Parameters, profile: Profile, device: torch.device, *, seed: int, share: tuple[int, int] = (0, 1)) -> Split:
    """The images of a run. Which of the training images are held out depends on the seed, and not on the strategy."""
    train, test = load(p.data, "train", profile), load(p.data, "test", profile)
    order = torch.randperm(len(train.labels), generator=epoch_generator(seed, 0, _STREAM))
    many = held_out(len(order))
    large = p.data == "imagenet"
    options: dict[str, Any] = {"channels": 3} | ({"crop": SIDE[p.data], "device": device} if large else {"size": SIDE.get(p.data, 32)})
    images: Dataset | Resident = train if large else resident(train, device)
    border = {"crop_padding": 0} if large else {}
    loader = Loader(images, p.size, seed=seed, rows=order[many:], drop_last=True, share=share, **border, **options)
    require(len(loader) > 0, f"batch_size = {p.size}, and there are {len(order) - many} images to train on; take a smaller one")
    return Split(
        train=loader,
        calibration=[x for x, _ in Plain(images, AT_ONCE, order[many : many + p.calibration], options)],
        held_out=list(Plain(images, AT_ONCE, order[:many], options)),
        test=Plain(test if large else resident(test, device), AT_ONCE, options=options),
        images={"training": len(order) - many, "held out": many, "test": len(test.labels)},
        classes=len(train.classes),
        checksums={f"{p.data} train": train.checksum, f"{p.data} test": test.checksum},
    )
