"""How much can a linear classifier read from each layer? Probes of all layers from one backbone pass."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NoReturn

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tipslib.branched.layers import recording
from tipslib.errors import InvalidInput, require

Batches = Callable[[int], Iterable[tuple[Tensor, Tensor]]]
"""Epoch to the (images, labels) batches of that epoch."""


def linear_probes(
    net: nn.Module,
    layers: Sequence[str],
    train: Batches,
    test: Iterable[tuple[Tensor, Tensor]],
    *,
    classes: int,
    protocol: Literal["sgd", "ridge"] = "sgd",
    epochs: int = 10,
    learning_rate: float = 0.01,
    authors_mode: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """Test accuracy of a linear probe on each layer, (L,) in [0, 1].

    The backbone runs once per batch for all layers, and no activation outlives its batch.

    Parameters
    ----------
    net, layers
        The frozen network and the names of its probed modules (`probed_layers`).
    train, test
        Training batches by epoch, and the test batches.
    protocol
        "sgd": the authors' (flattened features, SGD with momentum .9). "ridge": closed-form least squares on features pooled to at most
        512 numbers, in a single epoch: far cheaper, and a different quantity.
    authors_mode
        With "sgd", as the released code does it: dropout .15 on the logits also at evaluation, and batch norm by batch statistics.

    Raises
    ------
    InvalidInput
        Unknown layer or protocol, a layer that is never called, labels outside [0, classes), activations that are not finite, probes
        that diverged.
    """
    require(protocol in ("sgd", "ridge"), f"no probe protocol {protocol!r}; there are 'sgd' and 'ridge'")
    require(not (authors_mode and protocol == "ridge"), "authors_mode belongs to the protocol 'sgd'")
    require(epochs >= 1 and classes >= 2, f"epochs = {epochs}, classes = {classes}; at least 1 and 2 are wanted")
    modes = {module: module.training for module in net.modules()}
    statistics = {name: value.clone() for name, value in net.named_buffers()}
    net.train(authors_mode)
    try:
        with recording(net, layers) as outputs:
            if protocol == "ridge":
                return _ridge(net, outputs, layers, train(0), test, classes)
            return _sgd(net, outputs, layers, train, test, classes, epochs, learning_rate, 0.15 if authors_mode else 0.0, seed)
    finally:
        for module, mode in modes.items():
            module.training = mode
        with torch.no_grad():
            for name, buffer in net.named_buffers():
                buffer.copy_(statistics[name])


def area_under_curve(accuracy: np.ndarray, *, origin: bool = True) -> float:
    """Area under probe accuracy over relative depth (progressive intelligence, Table 1).

    As the authors compute it, a point (0, 0) is put before the first layer and the layers are spread evenly up to 1; `origin=False`
    leaves that point out.
    """
    require(accuracy.ndim == 1 and len(accuracy) >= 2, f"accuracy of shape {accuracy.shape}; one value a layer, two layers at least")
    curve = np.concatenate([[0.0], accuracy]) if origin else accuracy
    return float(np.trapezoid(curve, np.linspace(0, 1, len(curve))))


@torch.no_grad()
def _run(net: nn.Module, images: Tensor) -> None:
    net(images)


def _checked(labels: Tensor, classes: int) -> Tensor:
    require(bool(((labels >= 0) & (labels < classes)).all()), f"labels outside [0, {classes - 1}]")
    return labels


def _refuse(outputs: dict[str, Tensor], layers: Sequence[str]) -> NoReturn:
    """Say whether the network or the probes brought forth what is not finite; looking at activations only then costs nothing else."""
    bad = [name for name in layers if not bool(torch.isfinite(outputs[name]).all())]
    if bad:
        raise InvalidInput(f"activations of {', '.join(bad)} hold NaN or infinity; check network and images before probing")
    raise InvalidInput("the probes diverged; lower their learning rate")


def _sgd(
    net: nn.Module,
    outputs: dict[str, Tensor],
    layers: Sequence[str],
    train: Batches,
    test: Iterable[tuple[Tensor, Tensor]],
    classes: int,
    epochs: int,
    learning_rate: float,
    dropout: float,
    seed: int,
) -> np.ndarray:
    generator = torch.Generator().manual_seed(seed)
    probes: dict[str, _Probe] = {}
    optimiser: torch.optim.Optimizer | None = None
    for epoch in range(epochs):
        for images, labels in train(epoch):
            _run(net, images)
            if optimiser is None:
                probes = {name: _Probe(outputs[name], classes, generator) for name in layers}
                parameters = [p for probe in probes.values() for p in probe.parameters()]
                optimiser = torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9)
            target = _checked(labels, classes)
            logits = [probes[name](outputs[name]) for name in layers]
            loss = sum((F.cross_entropy(_drop(z, dropout, generator), target) for z in logits), start=torch.zeros((), device=target.device))
            if not bool(torch.isfinite(loss)):
                _refuse(outputs, layers)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    require(optimiser is not None, "no training batches")
    hits, seen = torch.zeros(len(layers)), 0
    with torch.no_grad():
        for images, labels in test:
            _run(net, images)
            target = _checked(labels, classes)
            finite = torch.ones((), dtype=torch.bool, device=target.device)
            for i, name in enumerate(layers):
                z = probes[name](outputs[name])
                finite &= torch.isfinite(z).all()
                hits[i] += (_drop(z, dropout, generator).argmax(1) == target).sum().cpu()
            if not bool(finite):
                _refuse(outputs, layers)
            seen += len(target)
    require(seen > 0, "no test batches")
    return np.asarray(hits.double().numpy() / seen)


class _Probe(nn.Linear):
    """A linear layer on flattened activations, in the order in which those of the first batch lie in memory: nothing is copied.

    The first weights are the same in either order.
    """

    def __init__(self, activations: Tensor, classes: int, generator: torch.Generator) -> None:
        shape = activations.shape[1:]
        super().__init__(shape.numel(), classes, device="cpu")
        self.channels_last = activations.ndim == 4 and activations.is_contiguous(memory_format=torch.channels_last)
        bound = shape.numel() ** -0.5
        with torch.no_grad():
            for p in self.parameters():
                p.uniform_(-bound, bound, generator=generator)
            self.weight.copy_(self._flattened(self.weight.view(classes, *shape)))
        self.to(activations.device)

    def forward(self, activations: Tensor) -> Tensor:
        return super().forward(self._flattened(activations))

    def _flattened(self, activations: Tensor) -> Tensor:
        return (activations.permute(0, 2, 3, 1) if self.channels_last else activations).flatten(1).float()


def _drop(logits: Tensor, share: float, generator: torch.Generator) -> Tensor:
    if share == 0:
        return logits
    keep = (torch.rand(logits.shape, generator=generator) >= share).to(logits.device)
    return logits * keep / (1 - share)


def _ridge(
    net: nn.Module,
    outputs: dict[str, Tensor],
    layers: Sequence[str],
    train: Iterable[tuple[Tensor, Tensor]],
    test: Iterable[tuple[Tensor, Tensor]],
    classes: int,
) -> np.ndarray:
    """Least squares on one-hot labels; the normal equations are summed over batches, the penalty is 1e-3 of the mean feature power."""
    gram: dict[str, Tensor] = {}
    cross: dict[str, Tensor] = {}
    for images, labels in train:
        _run(net, images)
        wanted = F.one_hot(_checked(labels, classes).long(), classes).double()
        for name in layers:
            x = _pooled(outputs[name])
            if not bool(torch.isfinite(x).all()):
                _refuse(outputs, layers)
            gram[name] = gram.get(name, 0) + x.T @ x
            cross[name] = cross.get(name, 0) + x.T @ wanted
    require(len(gram) > 0, "no training batches")
    weights = {}
    for name in layers:
        penalty = 1e-3 * gram[name].diagonal().mean()
        weights[name] = torch.linalg.solve(gram[name] + penalty * torch.eye(len(gram[name]), device=gram[name].device), cross[name])
    hits, seen = torch.zeros(len(layers)), 0
    for images, labels in test:
        _run(net, images)
        target = _checked(labels, classes)
        for i, name in enumerate(layers):
            scores = _pooled(outputs[name]) @ weights[name]
            if not bool(torch.isfinite(scores).all()):
                _refuse(outputs, layers)
            hits[i] += (scores.argmax(1) == target).sum().cpu()
        seen += len(labels)
    require(seen > 0, "no test batches")
    return np.asarray(hits.double().numpy() / seen)


def _pooled(activations: Tensor) -> Tensor:
    """(n, d + 1) float64 features with a constant one; maps are pooled to the largest k x k that leaves at most 512 numbers."""
    if activations.ndim == 4:
        size = max(1, min(activations.shape[-1], int((512 / activations.shape[1]) ** 0.5)))
        activations = F.adaptive_avg_pool2d(activations.float(), size)
    features = activations.flatten(1).double()
    return torch.cat([features, features.new_ones(len(features), 1)], 1)
