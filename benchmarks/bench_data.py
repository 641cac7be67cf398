"""Batches of images against the obvious way to make them, in one process, as a ratio.

Run with `python -m pytest benchmarks/bench_data.py`. The opponent takes the images one by one through torchvision's transforms in a
`DataLoader` without worker processes, so that both have the same threads.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset
from torchvision import transforms

from tipslib.batches import PIXELS, batches
from tipslib.data import Dataset

COUNT, BATCH, TARGET = 2000, 128, 10.0
PARTS = PIXELS["cifar10"]


class OneByOne(TorchDataset):
    """Images as torchvision's CIFAR classes give them."""

    def __init__(self, data: Dataset, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.data, self.transform = data, transform

    def __len__(self) -> int:
        return len(self.data.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.transform(Image.fromarray(self.data.images[index])), int(self.data.labels[index])


def small_cifar() -> Dataset:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (COUNT, 32, 32, 3), dtype=np.uint8)
    return Dataset("cifar10", "train", images, rng.integers(0, 10, COUNT), tuple("0123456789"), "")


def seconds(work: Callable[[], object], repeats: int = 5) -> float:
    """Best of a few: the machine is shared, and only slows things down."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def test_whole_tensors_against_one_image_at_a_time(benchmark):
    data = small_cifar()
    generator = torch.Generator().manual_seed(0)
    normal = [transforms.ToTensor(), transforms.Normalize(PARTS.mean, PARTS.std)]
    plain = DataLoader(OneByOne(data, transforms.Compose(normal)), BATCH)
    for (x, y), (a, b) in zip(plain, batches(data, BATCH, generator=generator, augment=False), strict=True):
        torch.testing.assert_close(x, a, rtol=1e-4, atol=1e-5)
        assert torch.equal(y, b)

    augmented = transforms.Compose([transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), *normal])
    loader = DataLoader(OneByOne(data, augmented), BATCH, shuffle=True)

    def whole() -> int:
        return sum(len(labels) for _, labels in batches(data, BATCH, generator=generator))

    def one_by_one() -> int:
        return sum(len(labels) for _, labels in loader)

    assert whole() == one_by_one() == COUNT
    ours = seconds(whole)
    ratio = seconds(one_by_one, repeats=3) / ours
    benchmark.extra_info |= {"ratio": round(ratio, 1), "target": TARGET, "images_per_second": round(COUNT / ours)}
    benchmark.pedantic(whole, rounds=5)
    print(f"\n{ratio:.0f} times the opponent's speed (target {TARGET:g}), {COUNT / ours:.0f} images a second")
    assert ratio >= TARGET
