"""What do the experiments on branched networks share? A trained network, from its checkpoint or trained now, and what it answers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from tipslib import project
from tipslib.batches import PIXELS, Loader, Plain, resident
from tipslib.branched.exits import InferenceModes, entropy_thresholds, inference_modes
from tipslib.branched.joint import JointLoss, equal_weights
from tipslib.branched.networks import BranchedNetwork, branched_mobilenet, branched_resnet
from tipslib.data import Dataset, load
from tipslib.errors import require
from tipslib.experiments import code_version
from tipslib.processes import make_fabric
from tipslib.profiles import Profile
from tipslib.records import canonical
from tipslib.training import Recipe, fit

VERSION = 1
"""Raised by hand whenever a change of the code changes what a trained network is: its checkpoint is not used again."""

SIDE = 32
"""Pixels a side: the papers' CIFAR; other sets are resized."""


@dataclass(frozen=True)
class Branched:
    """What is trained, and how; the defaults are the authors' recipe (progressive intelligence, section 3 and released code)."""

    data: str = "cifar10"
    network: Literal["resnet", "mobilenet"] = "resnet"
    depth: int = 18
    width: float = 1.0
    exits: int = 4
    weights: tuple[float, ...] | None = None
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        require(self.data in PIXELS, f"data = {self.data!r}; allowed are {', '.join(PIXELS)}")
        require(self.network == "resnet" or self.exits == 4, f"exits = {self.exits}; the MobileNet here has 4")
        require(2 <= self.exits <= 16, f"exits = {self.exits}; allowed are 2 to 16")
        given = self.weights is None or len(self.weights) == self.exits
        require(given, f"{len(self.weights or ())} weights for {self.exits} exits; one weight an exit is wanted")
        JointLoss(self.exit_weights)
        require(self.width > 0, f"width = {self.width}; it must be above 0")
        require(self.batch_size >= 2, f"batch_size = {self.batch_size}; batch norm needs at least 2")
        _ = self.recipe

    @property
    def recipe(self) -> Recipe:
        """SGD with momentum .9 and a cosine."""
        return Recipe(self.epochs, self.learning_rate, weight_decay=self.weight_decay)

    @property
    def exit_weights(self) -> tuple[float, ...]:
        """The weights given, else .4 for the last exit and the rest shared."""
        return equal_weights(self.exits) if self.weights is None else self.weights

    def trainings(self, seed: int) -> tuple[tuple[Branched, int], ...]:
        """What a run with this seed trains, or finds trained: the recipe and the seed of each, equal ones where the network is the same."""
        own = {field.name: getattr(self, field.name) for field in fields(Branched)}
        return ((Branched(**own | {"weights": self.exit_weights}), seed),)

    def build(self, classes: int) -> BranchedNetwork:
        """The untrained network, drawn from torch's global generator."""
        if self.network == "mobilenet":
            return branched_mobilenet(classes=classes, width=self.width)
        return branched_resnet(self.depth, classes=classes, width=self.width, exits=self.exits)


def train(p: Branched, *, seed: int, profile: Profile) -> tuple[BranchedNetwork, tuple[float, ...], Dataset]:
    """The trained network in evaluation mode, the loss of each epoch, and its training data.

    The checkpoint under `build/weights` is found by everything that shapes the network, so experiments that need the same one train once,
    and a killed run resumes.
    """
    data = load(p.data, "train", profile)
    fabric = make_fabric(precision=p.precision)
    loader = training_batches(p, data, fabric.device, seed=seed, share=(fabric.global_rank, fabric.world_size))
    torch.manual_seed(seed)
    net = p.build(len(data.classes))
    shaping = {f.name: getattr(p, f.name) for f in fields(Branched)} | {"weights": p.exit_weights, "seed": seed, "data": data.checksum}
    shaping["code"] = code_version(VERSION, __name__, profile)
    key = hashlib.sha256(canonical(shaping)).hexdigest()[:16]
    checkpoint = project.root() / "build" / "weights" / f"{key}.ckpt"
    losses = fit(net, JointLoss(p.exit_weights), loader, p.recipe, seed=seed, fabric=fabric, checkpoint=checkpoint)
    return net, losses, data


def training_batches(p: Branched, data: Dataset, device: torch.device, *, seed: int, share: tuple[int, int] = (0, 1)) -> Loader:
    """Augmented batches of 32 px RGB images."""
    return Loader(resident(data, device), p.batch_size, seed=seed, size=SIDE, channels=3, drop_last=True, share=share)


def evaluation(p: Branched, profile: Profile, net: nn.Module) -> tuple[Plain, Dataset]:
    """The test set in batches on the network's device, and as it was loaded."""
    data = load(p.data, "test", profile)
    images = resident(data, next(net.parameters()).device)
    return Plain(images, p.batch_size, options={"size": SIDE, "channels": 3}), data


@torch.no_grad()
def answers(net: BranchedNetwork, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Logits (E, N, C) of every exit and labels (N,), on the CPU."""
    logits, labels = zip(*((torch.stack(net(images)).float().cpu(), target.cpu()) for images, target in batches), strict=True)
    return torch.cat(logits, 1), torch.cat(labels)


def trained_exits(p: Branched, net: BranchedNetwork) -> tuple[list[int], tuple[int, ...]]:
    """Indices of the exits with a weight above 0 and the MACs to each, without the heads that learnt nothing: nobody would leave there."""
    trained = [e for e, weight in enumerate(p.exit_weights) if weight > 0]
    idle = [sum(m.weight.numel() for m in head.modules() if isinstance(m, nn.Linear)) for head in net.heads]
    macs = net.macs()
    return trained, tuple(macs[e] - sum(idle[i] for i in range(e) if i not in trained) for e in trained)


def modes_of(logits: Tensor, labels: Tensor, macs: tuple[int, ...], policies: Iterable[str], thresholds: int) -> dict[str, InferenceModes]:
    """The inference modes under each policy."""
    alphas = entropy_thresholds(logits.shape[-1], thresholds)
    return {policy: inference_modes(logits, labels, macs, policy, alphas) for policy in policies}


def as_arrays(modes: dict[str, InferenceModes]) -> dict[str, np.ndarray]:
    """(A,) thresholds, and for each policy (2, A) MACs and accuracies, ready for a record."""
    arrays: dict[str, np.ndarray] = {"thresholds": next(iter(modes.values())).thresholds}
    return arrays | {policy: np.stack([m.macs, m.accuracy]) for policy, m in modes.items()}


def summary(
    net: BranchedNetwork, losses: tuple[float, ...], logits: Tensor, labels: Tensor, modes: dict[str, InferenceModes]
) -> dict[str, Any]:
    """What every record of a trained branched network holds."""
    macs = net.macs()
    return {
        "macs": list(macs),
        "losses": list(losses),
        "accuracy": (logits.argmax(-1) == labels).double().mean(1).tolist(),
        "samples": len(labels),
        "progressiveness": {policy: m.progressiveness(macs[-1]) for policy, m in modes.items()},
    }
