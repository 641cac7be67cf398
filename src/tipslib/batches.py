"""How do images reach a network? As whole tensors, cropped, flipped and normalised on the device, from explicit seeds."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from tipslib.data import Dataset
from tipslib.errors import InvalidInput, require


@dataclass(frozen=True)
class Pixels:
    """What the pixels of a data set are like: mean and standard deviation of each channel on [0, 1], and whether a mirror image is one."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool


_IMAGENET = Pixels((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), flip=True)

PIXELS: Mapping[str, Pixels] = MappingProxyType(
    {
        "digits": Pixels((0.3062,), (0.3763,), flip=False),
        "mnist": Pixels((0.1307,), (0.3081,), flip=False),
        "cifar10": Pixels((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010), flip=True),
        "cifar100": Pixels((0.5071, 0.4865, 0.4409), (0.2009, 0.1984, 0.2023), flip=True),
        "tiny-imagenet": _IMAGENET,
        "imagenet": _IMAGENET,
        "imagenet-val-1300": _IMAGENET,
    }
)
"""Means and deviations of the training splits. CIFAR's deviations are the mean of those within each image, as the released code of
progressive intelligence has them; ImageNet's constants are torchvision's, and serve for its smaller relatives too."""


@dataclass(frozen=True, eq=False)
class Resident:
    """A data set that lies on a device: images (N, H, W, C) uint8, labels (N,) int64."""

    name: str
    images: Tensor
    labels: Tensor


def resident(dataset: Dataset, device: torch.device | str) -> Resident:
    """Copy a data set to a device once, so that its batches never wait for the host (CIFAR: 154 MB)."""
    images, labels = (torch.from_numpy(np.array(array)).to(device) for array in (dataset.images, dataset.labels))
    return Resident(dataset.name, images, labels)


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> torch.Generator:
    """A CPU generator that depends on seed, epoch and stream alone, so that a killed run finds the same numbers again."""
    require(seed >= 0 and epoch >= 0, f"seed = {seed}, epoch = {epoch}; whole numbers from 0 are wanted")
    state = np.random.SeedSequence([seed, epoch, stream]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(state))


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """The order (n,) int64 in which epoch `epoch` of a run visits n images: a permutation that depends on nothing else."""
    require(n >= 1, f"n = {n}; at least 1 image is wanted")
    return torch.randperm(n, generator=epoch_generator(seed, epoch, stream=1))


def batches(
    data: Dataset | Resident,
    batch_size: int,
    *,
    generator: torch.Generator,
    order: Tensor | None = None,
    first: int = 0,
    share: tuple[int, int] = (0, 1),
    device: torch.device | str = "cpu",
    augment: bool = True,
    size: int | None = None,
    crop: int | None = None,
    crop_padding: int = 4,
    flip: bool | None = None,
    channels: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    channels_last: bool = True,
    drop_last: bool = False,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield (images (B, C, H, W) float32, labels (B,) int64) on the device, once through the data.

    Every image is scaled to `size` (bilinear), cut to `crop`, made `channels` deep and normalised. With `augment` the cut is a random
    window of the image with a black border of `crop_padding`, every other image is mirrored, and the order is random; without, the cut
    is the middle and the order is the stored one. All random numbers of the epoch are drawn at the start, on the generator's device,
    so that skipping to a later batch changes nothing.

    Parameters
    ----------
    data
        On the host, or `resident` on a device.
    generator
        Where every random choice comes from; it is left advanced.
    order
        Indices to visit, such as `epoch_order` gives; default: drawn from the generator if `augment`, else 0, 1, 2, ...
    first
        Batches to skip.
    share
        (i, k): of every batch only each k-th image from the i-th, for process i of k. Training wants `drop_last` with it.
    device
        Where batches of a `Dataset` go; a `Resident` one stays where it is.
    size, crop
        Edges in pixels; default: the image's own, and `size`.
    flip
        Mirror half of the images; default: as `PIXELS` has it (digits are not mirrored).
    channels
        3 repeats a grey image; default: as many as there are.
    mean, std
        One number per channel on [0, 1]; default: those of `PIXELS`.
    channels_last
        Memory order of the images; either way their shape is (B, C, H, W).
    drop_last
        Leave out a last batch that is not full.

    Raises
    ------
    InvalidInput
        An impossible option, at the call and not at the first batch.
    """
    count, height, width, depth = data.images.shape
    known = PIXELS.get(data.name)
    flip = (known is not None and known.flip) if flip is None else flip
    mean = mean if mean is not None or known is None else known.mean
    std = std if std is not None or known is None else known.std
    channels = depth if channels is None else channels
    if mean is None or std is None:
        raise InvalidInput(f"mean, std: there are none for {data.name!r}; give them, or use one of {', '.join(PIXELS)}")
    require(batch_size >= 1, f"batch_size = {batch_size}; at least 1 is wanted")
    require(first >= 0, f"first = {first}; it must not be negative")
    require(
        0 <= share[0] < share[1] and batch_size % share[1] == 0,
        f"share = {share}; (i, k) with 0 <= i < k is wanted, and k must divide the batch size, {batch_size}",
    )
    require(channels in (depth, 3) and depth in (1, channels), f"channels = {channels}; images have {depth}, and only 1 can become 3")
    for option, values in (("mean", mean), ("std", std)):
        require(len(values) in (1, channels), f"{option} has {len(values)} values for {channels} channels")
    require(all(0 < value < math.inf for value in std), f"std = {tuple(std)}; every value must be above 0")
    require(size is None or size >= 1, f"size = {size}; at least 1 pixel is wanted")
    scaled = (height, width) if size is None else (size, size)
    edges = scaled if crop is None else (crop, crop)
    padding = crop_padding if augment else 0
    require(padding >= 0, f"crop_padding = {crop_padding}; it must not be negative")
    spans = [side + 2 * padding - edge for side, edge in zip(scaled, edges, strict=True)]
    require(min(edges) >= 1 and min(spans) >= 0, f"crop = {crop}; allowed are 1 to {min(scaled) + 2 * padding}")

    device = data.images.device if isinstance(data, Resident) else torch.device(device)
    if order is None:
        order = torch.randperm(count, generator=generator, device=generator.device) if augment else torch.arange(count)
    order = order.cpu()
    require(order.ndim == 1 and order.dtype == torch.int64, f"order is {order.dtype} {tuple(order.shape)}; (N,) int64 is wanted")
    visited = len(order)
    require(visited >= 1 and int(order.min()) >= 0 and int(order.max()) < count, f"order: indices from 0 to {count - 1} are wanted")
    if augment:
        drawn = [torch.randint(span + 1, (visited,), generator=generator, device=generator.device) for span in spans]
        mirrored = torch.randint(2, (visited,), generator=generator, device=generator.device).bool() & flip
    else:
        drawn, mirrored = [torch.full((visited,), round(span / 2)) for span in spans], torch.zeros(visited, dtype=torch.bool)
    # to the device once an epoch: a step must not wait for the host
    tops, lefts, mirrored = (values.to(device) for values in (*drawn, mirrored))
    order = order.to(device) if isinstance(data, Resident) else order
    deviation = torch.tensor(std, dtype=torch.float64).expand(channels) * 255
    centre = torch.tensor(mean, dtype=torch.float64).expand(channels) * 255
    scale, shift = ((1 / deviation).float().to(device), (-centre / deviation).float().to(device))

    def run() -> Iterator[tuple[Tensor, Tensor]]:
        for start in range(first * batch_size, visited, batch_size):
            if drop_last and start + batch_size > visited:
                return
            part = slice(start + share[0], min(start + batch_size, visited), share[1])
            images, labels = _take(data, order[part], device)
            if scaled != (height, width):
                images = resize(images, scaled)
            if augment or edges != scaled:
                images = cut(images, tops[part], lefts[part], mirrored[part], edges, padding)
            images = normalise(images.expand(-1, -1, -1, channels), scale, shift).permute(0, 3, 1, 2)
            yield images if channels_last else images.contiguous(), labels

    return run()


class Loader:
    """Batches for `tipslib.training.fit`: what an epoch holds depends on seed and epoch alone, so any step can be the first.

    `rows` (n,) int64 are the images it draws from, by default all; `options` are those of `batches`.
    """

    def __init__(self, data: Dataset | Resident, batch_size: int, *, seed: int, rows: Tensor | None = None, **options: Any) -> None:
        self._data, self._batch_size, self._seed, self._options = data, batch_size, seed, options
        self._rows = torch.arange(len(data.labels)) if rows is None else rows
        self.batches(0)  # options that cannot be are refused here, not when training starts

    def __len__(self) -> int:
        full = len(self._rows) / self._batch_size
        return math.floor(full) if self._options.get("drop_last") else math.ceil(full)

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of an epoch from number `first` on."""
        order = self._rows[epoch_order(len(self._rows), self._seed, epoch)]
        generator = epoch_generator(self._seed, epoch)
        return batches(self._data, self._batch_size, generator=generator, order=order, first=first, **self._options)


@dataclass(frozen=True, eq=False)
class Plain:
    """Unaugmented batches in a fixed order, made anew at each pass: nothing but the bytes of the data set stays in memory.

    `rows` (n,) int64 are the images and their order, by default all; `options` are those of `batches`.
    """

    data: Dataset | Resident
    batch_size: int
    rows: Tensor | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return batches(self.data, self.batch_size, generator=torch.Generator(), order=self.rows, augment=False, **self.options)


def resize(images: Tensor, edges: tuple[int, int]) -> Tensor:
    """Scale (B, H, W, C) images to (height, width), bilinear, antialiased where they shrink; float32, the range of values is kept."""
    planes = images.permute(0, 3, 1, 2).float()
    scaled = F.interpolate(planes, size=edges, mode="bilinear", antialias=edges[0] < images.shape[1] or edges[1] < images.shape[2])
    return scaled.permute(0, 2, 3, 1).contiguous()


def cut(images: Tensor, tops: Tensor, lefts: Tensor, mirrored: Tensor, edges: tuple[int, int], padding: int) -> Tensor:
    """A window of each image, mirrored or not, without a loop over images: first its rows are gathered, then its columns.

    Parameters
    ----------
    images : (B, H, W, C)
    tops, lefts, mirrored : (B,)
        Upper left corner of each window in the image with its border.
    edges
        Height and width of the windows.
    padding
        Width of the black border.

    Returns
    -------
    (B, *edges, C)
    """
    batch, height, width, depth = images.shape
    padded = F.pad(images, (0, 0, padding, padding, padding, padding))
    height, width = height + 2 * padding, width + 2 * padding
    device = images.device
    rows = (torch.arange(batch, device=device) * height + tops)[:, None] + torch.arange(edges[0], device=device)
    strips = padded.reshape(batch * height, width * depth).index_select(0, rows.flatten()).view(batch, edges[0], width * depth)
    steps = torch.arange(edges[1], device=device)
    columns = lefts[:, None] + torch.where(mirrored[:, None], steps.flip(0), steps)
    places = (columns[:, :, None] * depth + torch.arange(depth, device=device)).view(batch, 1, edges[1] * depth)
    return strips.gather(2, places.expand(-1, edges[0], -1)).view(batch, *edges, depth)


def normalise(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """scale * x + shift for (B, H, W, C) images, scale and shift (C,); a new float32 tensor in the same order of memory."""
    batch, height, width, depth = images.shape
    # one long row per image: a broadcast over the three channels alone would be several times slower
    flat = images.reshape(batch, height * width * depth).to(torch.float32, copy=True)
    return flat.mul_(scale.repeat(height * width)).add_(shift.repeat(height * width)).view(batch, height, width, depth)


def _take(data: Dataset | Resident, indices: Tensor, device: torch.device) -> tuple[Tensor, Tensor]:
    if isinstance(data, Resident):
        return data.images.index_select(0, indices), data.labels.index_select(0, indices)
    chosen = indices.numpy()
    return torch.from_numpy(data.images[chosen]).to(device), torch.from_numpy(data.labels[chosen]).to(device)
