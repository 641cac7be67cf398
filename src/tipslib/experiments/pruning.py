"""How much accuracy goes when one operation at a time loses channels, important or not? (TIPS, section 4.3, Figs. 4 and 8)"""

from __future__ import annotations

import hashlib
import io
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import reduce
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal
from urllib.error import URLError

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torchvision.models import get_model, get_model_weights

from tipslib import project
from tipslib.analysis import analyze
from tipslib.anytime.pruning import Damage, Pruner
from tipslib.batches import PIXELS, batches
from tipslib.branched.networks import resnet
from tipslib.data import Dataset, load
from tipslib.errors import CorruptFile, MissingData, require, unreadable
from tipslib.experiments import code_version
from tipslib.experiments.branches import SIDE, Branched, train
from tipslib.processes import make_fabric
from tipslib.profiles import Profile
from tipslib.progress import track
from tipslib.records import Outcome, arrays_in, canonical, write_atomically
from tipslib.topology import NetworkGraph

VERSION = 1
TOLERANCE = 1e-6

FIG4 = ("efficientnet_b0", "resnet18", "mobilenet_v2")
FIG8 = ("resnet34", "wide_resnet50_2", "resnext50_32x4d")
"""The further networks of our Fig. 8: the paper's text does not name those of its own."""

PHOTOGRAPHS = ("imagenet", "imagenet-val-1300")

VARIANTS = (
    *({"network": "trained", "data": data, "zero": zero} for data in ("digits", "cifar10") for zero in ("layer", "feature map")),
    *({"network": "mobilenet_v2", "data": "imagenet-val-1300", "zero": zero} for zero in ("layer", "feature map")),
    *({"network": network, "data": "imagenet", "zero": "layer"} for network in (*FIG4, *FIG8)),
)
"""A profile makes those whose data set it reads."""

CROP = 224
"""Pixels a side of the middle of each photograph, on which torchvision tests these networks."""

FEW, MANY = 4, 64
"""Photographs and small images that are pruned at a time: what a step leaves should still lie in the cache."""

KEEP_EVERY = 10.0
"""Seconds between two savings of what was counted so far."""


@dataclass(frozen=True)
class Parameters:
    """The paper's setting: an ImageNet network, ratios from 1 % to 99 %, 8 subnetworks, lambda = 1, kappa = 1e-5 (TIPS, 4.3, B.1, B.4).

    `network` is one of torchvision's with its own weights, or "trained": the plain ResNet that the branched networks are compared
    with, trained here as the fields from `depth` on say; for the others these are set back to their defaults, as they say nothing.
    `images` test images are used, by default all.
    """

    network: Literal["efficientnet_b0", "resnet18", "mobilenet_v2", "resnet34", "wide_resnet50_2", "resnext50_32x4d", "trained"] = (
        "mobilenet_v2"
    )
    data: str = "imagenet"
    zero: Literal["layer", "feature map"] = "layer"
    images: int | None = None
    ratios: tuple[float, ...] = (0.01, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.99)
    subnetworks: int = 8
    coupling: float = 1.0
    restart: float = 1e-5
    depth: int = 18
    width: float = 1.0
    epochs: int = 200
    batch_size: int = 128
    learning_rate: float = 0.01
    weight_decay: float = 5e-4
    precision: Literal["32-true", "bf16-mixed"] = "32-true"

    def __post_init__(self) -> None:
        own = self.network == "trained"
        allowed = [name for name in PIXELS if name not in PHOTOGRAPHS] if own else PHOTOGRAPHS
        require(self.data in allowed, f"data = {self.data!r}; for network {self.network!r} allowed are {', '.join(allowed)}")
        require(self.images is None or self.images >= 1, f"images = {self.images}; at least 1 is wanted")
        require(len(self.ratios) > 0 and all(0 < r < 1 for r in self.ratios), f"ratios = {self.ratios}; numbers between 0 and 1 are wanted")
        require(list(self.ratios) == sorted(set(self.ratios)), f"ratios = {self.ratios}; increasing numbers are wanted, each once")
        require(self.subnetworks >= 1, f"subnetworks = {self.subnetworks}; at least 1 is wanted")
        require(0 <= self.coupling <= 1, f"coupling = {self.coupling}; lambda lies in [0, 1]")
        require(0 <= self.restart < 1, f"restart = {self.restart}; kappa lies in [0, 1)")
        for field in fields(self)[-7:]:
            if not own:
                object.__setattr__(self, field.name, field.default)
        _ = self.training

    @property
    def training(self) -> Branched:
        """How the network of our own is trained: all weight on the last exit, so that the others do nothing."""
        return Branched(
            data=self.data,
            depth=self.depth,
            width=self.width,
            weights=(0.0, 0.0, 0.0, 1.0),
            epochs=self.epochs,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            precision=self.precision,
        )

    def trainings(self, seed: int) -> tuple[tuple[Branched, int], ...]:
        """See `Branched.trainings`; none for a network that comes trained."""
        return self.training.trainings(seed) if self.network == "trained" else ()


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Find the important operations, prune each operation by itself, and count what is still classified rightly.

    The seed draws the subnetworks, and for "trained" the training too. `values["operations"]` says of each of O operations with
    channels of its own what may explain its damage, see `describe`. Arrays: `kept` and `correct` (O, R), see `Damage`;
    `important` (O,) and `importance` (O,), see `tipslib.analysis`.
    """
    p = parameters
    checksums = {}
    if p.network == "trained":
        module, checksums[f"{p.data} train"] = trained(p, seed=seed, profile=profile)
        weights = "trained here"
    else:
        module, weights = official(p.network)
    module = module.to(make_fabric().device)
    test = load(p.data, "test", profile)
    checksums[f"{p.data} test"] = test.checksum
    side = CROP if p.data in PHOTOGRAPHS else SIDE
    found = analyze(module, (1, 3, side, side), subnetworks=p.subnetworks, coupling=p.coupling, restart=p.restart, seed=seed)
    pruner = Pruner(module, (3, side, side))
    damage = _measured(pruner, module, test, p, code_version(VERSION, __name__, profile))
    position = {operation.name: i for i, operation in enumerate(found.graph.operations)}
    rows = [position[operation.name] for operation in pruner.operations]
    return Outcome(
        values={
            "weights": weights,
            "operations": describe(module, pruner),
            "without_channels": len(found.graph.operations) - len(rows),
            "samples": damage.samples,
            "unpruned": damage.unpruned,
        },
        arrays={
            "kept": damage.kept,
            "correct": damage.correct,
            "important": found.important[rows],
            "importance": found.importance[rows],
        },
        data=checksums,
    )


def official(network: str) -> tuple[nn.Module, str]:
    """A network of torchvision with the first weights published for ImageNet, and the name of their file.

    The file is looked for where torchvision keeps it (under `TORCH_HOME`), else downloaded. Its name ends with the beginning of its
    SHA-256, which is checked; it is read with `weights_only`.

    Raises
    ------
    MissingData
        It is not there and cannot be downloaded.
    CorruptFile
        It has another checksum.
    """
    url = get_model_weights(network)["IMAGENET1K_V1"].url
    name = url.rpartition("/")[2]
    path = Path(torch.hub.get_dir()) / "checkpoints" / name
    wanted = path.stem.rpartition("-")[2]
    advice = f"Download {url} on a machine with a network, put it into {path.parent} (or another TORCH_HOME), and repeat"
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(url, str(path), hash_prefix=wanted, progress=False)
        except (URLError, HTTPException, OSError) as error:
            raise MissingData(f"the weights {name} are not here, and their download failed ({error}). {advice}") from error
        except RuntimeError as error:
            raise CorruptFile(f"{name} came with another checksum than its name says; nothing was kept. {advice}") from error
    content = path.read_bytes()
    if not hashlib.sha256(content).hexdigest().startswith(wanted):
        raise CorruptFile(f"{path}: its SHA-256 does not begin with {wanted}: it was cut or altered. Delete it. {advice}")
    module = get_model(network, weights=None)
    module.load_state_dict(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))
    return module.eval(), name


def trained(p: Parameters, *, seed: int, profile: Profile) -> tuple[nn.Module, str]:
    """The plain ResNet of the branched wing without its exits, from its checkpoint or trained now; and the checksum of its data."""
    branched, _, data = train(p.training, seed=seed, profile=profile)
    module = resnet(p.depth, len(data.classes), p.width)
    module.load_state_dict({name.partition(".")[2]: value for name, value in branched.stages.state_dict().items()})
    return module.eval(), data.checksum


def _measured(pruner: Pruner, module: nn.Module, test: Dataset, p: Parameters, code: str) -> Damage:
    """Prune each operation, batch by batch.

    Counts are kept under `build/pruning`, by everything that shapes them: a killed run goes on, and seeds with equal weights count once.
    """
    photographs, device = p.data in PHOTOGRAPHS, next(module.parameters()).device
    size = (FEW if photographs else MANY) * (1 if device.type == "cpu" else 16)
    state = hashlib.sha256(b"".join(value.cpu().numpy().tobytes() for value in module.state_dict().values())).hexdigest()
    shaping = {"network": p.network, "state": state, "data": test.checksum, "ratios": p.ratios, "zero": p.zero, "size": size, "code": code}
    path = project.root() / "build" / "pruning" / f"{hashlib.sha256(canonical(shaping)).hexdigest()[:16]}.npz"
    many = min(p.images or len(test.labels), len(test.labels))
    sizes = [min(size, many - start) for start in range(0, many, size)]
    # a run with more or fewer images ended its last batch elsewhere
    parts = [part for part, wanted in zip(_kept(path, pruner.kept(p.ratios)), sizes, strict=False) if part.samples == wanted]
    window: dict[str, Any] = {"crop": CROP} if photographs else {"size": SIDE}
    window |= {"order": torch.arange(many), "first": len(parts), "device": device}
    plain = batches(test, size, generator=torch.Generator(), augment=False, channels=3, **window)
    saved = time.monotonic()
    for images, labels in track(plain, f"pruning {p.network}", len(sizes) - len(parts)):
        parts.append(pruner.measure(images, labels, p.ratios, p.zero))
        if time.monotonic() - saved > KEEP_EVERY:
            _keep(path, parts)
            saved = time.monotonic()
    _keep(path, parts)
    return reduce(Damage.__add__, parts)


def _keep(path: Path, parts: Sequence[Damage]) -> None:
    buffer = io.BytesIO()
    columns = {"correct": [d.correct for d in parts], "unpruned": [d.unpruned for d in parts], "samples": [d.samples for d in parts]}
    np.savez_compressed(buffer, **{name: np.array(column) for name, column in columns.items()})  # type: ignore[arg-type]
    write_atomically(path, buffer.getvalue())


def _kept(path: Path, kept: NDArray[np.int64]) -> list[Damage]:
    """What was counted before, batch by batch; nothing if there is no such file."""
    if not path.exists():
        return []
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    found = arrays_in(content, path, "Delete it to count anew")
    columns = [found.get(name, np.empty(0)) for name in ("correct", "unpruned", "samples")]
    many = columns[0].shape[:1]
    if [column.shape for column in columns] != [(*many, *kept.shape), many, many] or any(column.dtype.kind != "i" for column in columns):
        raise CorruptFile(f"{path}: no counts of the right shape. Delete it to count anew")
    return [Damage(kept, correct, int(unpruned), int(samples)) for correct, unpruned, samples in zip(*columns, strict=True)]


def describe(module: nn.Module, pruner: Pruner) -> list[dict[str, Any]]:
    """What may explain the damage of each operation besides its importance.

    `position` from 0 (first) to 1 (last) of the operations with channels; `channels` it puts out; `role`; `stride`; `block`, the
    innermost part of the network around it that is more than a sequence, or itself; `unavoidable`, whether every path passes it.
    """
    on_every_path = unavoidable(pruner.graph)
    place = {operation.name: i for i, operation in enumerate(pruner.graph.operations)}
    many = len(pruner.operations)
    rows = []
    for i, operation in enumerate(pruner.operations):
        layer = module.get_submodule(operation.name)
        rows.append(
            {
                "name": operation.name,
                "block": block_of(module, operation.name),
                "role": role_of(layer),
                "channels": operation.out_channels,
                "stride": max(getattr(layer, "stride", (1,))),
                "position": i / max(many - 1, 1),
                "unavoidable": bool(on_every_path[place[operation.name]]),
            }
        )
    return rows


def role_of(layer: nn.Module) -> str:
    """Linear, depthwise, grouped, widening or narrowing 1x1, or dense convolution."""
    if not isinstance(layer, nn.Conv2d):
        return "linear"
    if layer.groups > 1:
        return "depthwise" if layer.groups == layer.in_channels else "grouped"
    if max(layer.kernel_size) > 1:
        return "dense"
    return "widening 1x1" if layer.out_channels > layer.in_channels else "narrowing 1x1"


def block_of(module: nn.Module, name: str) -> str:
    """Name of the innermost module around `name` that is no sequence and not the network itself; `name` if there is none."""
    parent = name.rpartition(".")[0]
    while parent and isinstance(module.get_submodule(parent), nn.Sequential):
        parent = parent.rpartition(".")[0]
    return parent or name


def unavoidable(graph: NetworkGraph) -> NDArray[np.bool_]:
    """(M,) whether every path from input to output passes the operation: paths through it, counted exactly, are all there are."""
    before, after = [1, *[0] * (len(graph) - 1)], [*[0] * (len(graph) - 1), 1]
    for operation in sorted(graph.operations, key=lambda o: o.source):
        before[operation.target] += before[operation.source]
    for operation in sorted(graph.operations, key=lambda o: -o.target):
        after[operation.source] += after[operation.target]
    return np.array([before[o.source] * after[o.target] == before[-1] for o in graph.operations])
