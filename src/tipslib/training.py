"""How is any network here trained? One loop for branched networks and supernets: resumable at every step, on one process or several."""

from __future__ import annotations

import hashlib
import io
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.distributed import get_world_size

from tipslib import processes
from tipslib.errors import CorruptFile, InvalidInput, TipslibError, require, unreadable
from tipslib.onednn import right_gradients
from tipslib.progress import track
from tipslib.records import write_atomically

CHECK_EVERY = 20
"""Steps between looks at the loss: each look waits for the device."""

watching: ContextVar[Callable[[int], None] | None] = ContextVar("watching", default=None)
"""Called by `fit` behind each step with the number of steps of an epoch. While it is set, checkpoints are left alone."""


class Diverged(TipslibError):
    """The loss became NaN or infinite; the last checkpoint from before is kept."""

    remedy = (
        "Lower the learning rate, or let it warm up for some epochs. A run with other settings starts anew; the same run goes on from its "
        "checkpoint and, unless the device was to blame, ends at the same step again."
    )


@dataclass(frozen=True)
class Recipe:
    """SGD with momentum and a schedule over the whole run; batch size is that of all processes together.

    `decay_everything=False` spares biases, batch norm and depthwise convolutions from weight decay.
    """

    epochs: int
    learning_rate: float
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    decay_everything: bool = True
    schedule: Literal["cosine", "linear"] = "cosine"
    warmup_epochs: int = 0

    def __post_init__(self) -> None:
        require(self.epochs >= 1, f"epochs = {self.epochs}; at least 1 is wanted")
        require(0 < self.learning_rate < math.inf, f"learning_rate = {self.learning_rate}; a finite number above 0 is wanted")
        require(0 <= self.momentum < 1, f"momentum = {self.momentum}; allowed is [0, 1)")
        require(self.momentum > 0 or not self.nesterov, "nesterov = True, momentum = 0; Nesterov's needs a momentum above 0")
        require(self.schedule in ("cosine", "linear"), f"schedule = {self.schedule!r}; allowed are 'cosine' and 'linear'")
        require(0 <= self.weight_decay < math.inf, f"weight_decay = {self.weight_decay}; a finite number from 0 is wanted")
        require(
            0 <= self.warmup_epochs < self.epochs, f"warmup_epochs = {self.warmup_epochs} of {self.epochs}; it must be shorter than the run"
        )

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step: a linear rise in the warm-up, then down to 0 along a cosine or a line."""
        warm, total = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        done = (step - warm) / (total - warm)
        return self.learning_rate * (0.5 * (1 + math.cos(math.pi * done)) if self.schedule == "cosine" else 1 - done)


class Objective(Protocol):
    """What one step minimises; whatever it must remember between steps goes through its state."""

    def step(self, model: nn.Module, images: Tensor, labels: Tensor, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """Make this step's passes, call `backward` on each loss, return the summed detached loss. Random choices depend on `step` alone."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class Loader(Protocol):
    """Batches whose order and augmentation depend on seed, epoch and step alone, so that any step can be the first."""

    def __len__(self) -> int: ...

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


def fit(
    model: nn.Module,
    objective: Objective,
    loader: Loader,
    recipe: Recipe,
    *,
    seed: int,
    fabric: Fabric,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 60.0,
) -> tuple[float, ...]:
    """Train in place; returns the mean loss of each epoch.

    A killed run resumes from `checkpoint` by the same call and ends with the same bits as one that was not killed (on one machine with
    one number of threads). The last epoch is what stays; nothing is selected. With several processes each takes its share of every
    batch, batch norms normalise by the whole of it, gradients and losses are averaged, and only the first writes: the run is that of
    one process to rounding, and any number of processes goes on from its checkpoint.

    Raises
    ------
    Diverged
        The loss is no finite number; the message names step and learning rate.
    CorruptFile
        The checkpoint was cut or altered, or is no checkpoint.
    StorageError
        The checkpoint may not be read, or cannot be written.
    InvalidInput
        The checkpoint belongs to another run, and the message says in what that differs; or there is nothing to train on.
    ProcessLost
        Of several processes another one has ended.
    """
    model.to(fabric.device)
    model.to(memory_format=torch.channels_last)
    optimiser = torch.optim.SGD(
        _parameter_groups(model, recipe), lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=recipe.nesterov
    )
    watch = watching.get()
    checkpoint = checkpoint if watch is None else None
    steps = len(loader)
    require(steps >= 1, "the loader has no batches; give it at least one batch of images")
    losses = torch.zeros(recipe.epochs * steps, dtype=torch.float64, device=fabric.device)
    identity = _identity(model, recipe, seed, steps)
    done = _resume(checkpoint, identity, model, optimiser, objective, losses, fabric)

    def backward(loss: Tensor) -> None:
        (loss / fabric.world_size).backward()  # type: ignore[no-untyped-call]

    model.train()
    saved = time.monotonic()
    for epoch in track(range(done // steps, recipe.epochs), "epochs"):
        first = max(0, done - epoch * steps)
        for i, (images, labels) in enumerate(loader.batches(epoch, first), start=first):
            step = epoch * steps + i
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate(step, steps)
            torch.manual_seed(((seed << 32) + step) % 2**63)  # dropout draws from the global generator
            optimiser.zero_grad(set_to_none=True)
            with fabric.autocast(), processes.one_batch(), right_gradients():
                loss = objective.step(model, images, labels, step=step, backward=backward)
            losses[step] = _averaged(model, loss)
            optimiser.step()
            if watch is not None:
                watch(steps)
            if (step + 1) % CHECK_EVERY == 0 or i + 1 == steps:
                _refuse_divergence(losses, step, recipe, steps, checkpoint)
                if checkpoint is not None and (time.monotonic() - saved >= checkpoint_seconds or step + 1 == len(losses)):
                    _save(checkpoint, identity, step + 1, model, optimiser, objective, losses, fabric)
                    saved = time.monotonic()
    model.eval()
    return tuple(losses.reshape(recipe.epochs, steps).mean(1).tolist())


def _parameter_groups(model: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    if recipe.decay_everything:
        return [{"params": list(model.parameters()), "weight_decay": recipe.weight_decay}]
    depthwise = {id(m.weight) for m in model.modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1}
    spared = [p for p in model.parameters() if p.ndim <= 1 or id(p) in depthwise]
    others = [p for p in model.parameters() if p.ndim > 1 and id(p) not in depthwise]
    return [{"params": others, "weight_decay": recipe.weight_decay}, {"params": spared, "weight_decay": 0.0}]


def _averaged(model: nn.Module, loss: Tensor) -> Tensor:
    """Sum gradients over processes (each loss was already divided by their number); returns the mean loss. One flat message for all.

    A weight without a gradient stays so, and the optimiser leaves it alone, as in a run of one process; which weights these are
    follows from the step alone, so all processes agree. As all have the same losses, all stop where one's is not finite.
    """
    if not processes.several():
        return loss
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    flat = torch.cat([*(gradient.flatten() for gradient in gradients), loss.reshape(1) / get_world_size()])
    *totals, mean = torch.split(processes.summed(flat), [*(g.numel() for g in gradients), 1])
    for own, total in zip(gradients, totals, strict=True):
        own.copy_(total.view_as(own))
    return mean.squeeze(0)


def _refuse_divergence(losses: Tensor, step: int, recipe: Recipe, steps: int, checkpoint: Path | None) -> None:
    bad = (~torch.isfinite(losses[: step + 1])).nonzero()
    if len(bad):
        first = int(bad[0])
        kept = f"; the checkpoint {checkpoint} is from before" if checkpoint is not None and checkpoint.exists() else ""
        raise Diverged(
            f"the loss is not finite at step {first} (learning rate {recipe.rate(first, steps):.3g}){kept}. Lower the learning rate"
        )


def _identity(model: nn.Module, recipe: Recipe, seed: int, steps: int) -> dict[str, Any]:
    """What a checkpoint must have been made with to be resumed here."""
    network = {f"the shape of {name}": tuple(value.shape) for name, value in model.state_dict().items()}
    return network | asdict(recipe) | {"seed": seed, "steps of an epoch": steps}


def _refuse_another_run(path: Path, found: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    differ = [name for name in {**here, **found} if found.get(name) != here.get(name)]
    if differ:
        first = differ[0]
        more = f", and {len(differ) - 1} more differ" if len(differ) > 1 else ""
        raise InvalidInput(
            f"{path}: the checkpoint of another run: {first} is {found.get(first)} there and {here.get(first)} here{more}. "
            "Name another file or delete it"
        )


def _save(
    path: Path,
    identity: Mapping[str, Any],
    step: int,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    losses: Tensor,
    fabric: Fabric,
) -> None:
    if not fabric.is_global_zero:
        return
    buffer = io.BytesIO()
    state = {"identity": identity, "step": step, "model": model.state_dict(), "optimiser": optimiser.state_dict()}
    torch.save(state | {"objective": objective.state_dict(), "losses": losses}, buffer)
    content = buffer.getvalue()
    write_atomically(path, hashlib.sha256(content).digest() + content)


def _resume(
    path: Path | None,
    identity: Mapping[str, Any],
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    objective: Objective,
    losses: Tensor,
    fabric: Fabric,
) -> int:
    """Load what a killed run left; returns the number of steps already done."""
    if path is None or not path.exists():
        return 0
    state = _read(path, fabric.device)
    _refuse_another_run(path, state["identity"], identity)
    with _believing(path):
        objective.load_state_dict(state["objective"])
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        losses.copy_(state["losses"])
        return int(state["step"])


def _read(path: Path, device: torch.device) -> dict[str, Any]:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    with _believing(path):
        if hashlib.sha256(raw[32:]).digest() != raw[:32]:
            raise ValueError("the checksum does not fit the content")
        state = torch.load(io.BytesIO(raw[32:]), map_location=device, weights_only=True)
        if not isinstance(state["identity"], dict):
            raise ValueError("no identity")
        return dict(state)


@contextmanager
def _believing(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the content of a checkpoint, the checkpoint is to blame, but for a device that is full."""
    try:
        yield
    except (torch.OutOfMemoryError, InvalidInput):  # of another strategy, which says so itself
        raise
    except Exception as error:
        raise CorruptFile(
            f"{path}: the checkpoint was cut or altered, or is none of a training run. Delete it to start this run anew"
        ) from error
