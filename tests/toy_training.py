"""A training run for the tests of what is killed: a small network, images drawn from a seed, a checkpoint at each step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tipslib import training
from tipslib.processes import make_fabric
from tipslib.training import Recipe, fit

STEPS = 10


@dataclass(frozen=True)
class Images:
    """Batches of eight images of noise, labelled by their mean."""

    seed: int

    def __len__(self) -> int:
        return STEPS

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        for step in range(first, STEPS):
            x = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed((self.seed * 1000 + epoch) * STEPS + step))
            yield x, (x.mean((1, 2, 3)) > 0).long()


class CrossEntropy:
    """Counts its steps: those that count, in its state, and all that were made, a byte each in the file `journal`."""

    def __init__(self, journal: Path) -> None:
        self.steps, self.journal = 0, journal

    def step(self, model: nn.Module, images: Tensor, labels: Tensor, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        self.steps += 1
        with self.journal.open("ab") as file:
            file.write(b".")
        loss = F.cross_entropy(model(images), labels)
        backward(loss)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.steps = state["steps"]


def train(width: int, epochs: int, seed: int, checkpoint: Path, journal: Path) -> tuple[tuple[float, ...], int, Tensor]:
    """Losses of the epochs, number of steps, and all weights and statistics in a row, of a network with `width` channels."""
    training.CHECK_EVERY = 1
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(), nn.Linear(36 * width, 2)
    model, objective, recipe = nn.Sequential(*layers), CrossEntropy(journal), Recipe(epochs, learning_rate=0.1, nesterov=True)
    fabric = make_fabric("cpu")
    losses = fit(model, objective, Images(seed), recipe, seed=seed, fabric=fabric, checkpoint=checkpoint, checkpoint_seconds=0)
    return losses, objective.steps, torch.cat([value.double().flatten() for value in model.state_dict().values()])


def train_in(folder: Path, epochs: int) -> None:
    """What comes out of the training lies in `folder/end`, beside its checkpoint."""
    folder.mkdir(exist_ok=True)
    torch.save(train(4, epochs, 0, folder / "run.ckpt", folder / "journal"), folder / "end")
