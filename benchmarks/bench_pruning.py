"""Pruning every operation by itself: the unchanged prefix run once, against masking and running the whole network each time.

Run with `python -m pytest benchmarks/bench_pruning.py`. Both prune the same network on the same images in one process and on one
thread; the opponent runs in full. They must name the same class for every image, operation and ratio.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models import mobilenet_v2

from tipslib.anytime.pruning import Pruner

RATIOS = (0.1, 0.5, 0.9)
IMAGES, SIDE, TARGET = 8, 224, 2.5


def plain_loop(module: nn.Module, names: list[str], kept: np.ndarray, images: Tensor) -> np.ndarray:
    """(O, R, B) classes: for each operation and ratio a hook sets the last channels to zero, and the whole network runs."""
    answers = np.empty((*kept.shape, len(images)), dtype=np.int64)
    with torch.inference_mode():
        for o, name in enumerate(names):
            for r, left in enumerate(kept[o]):

                def clear(of: nn.Module, given: object, made: Tensor, left: int = int(left)) -> None:
                    made[:, left:] = 0

                hook = module.get_submodule(name).register_forward_hook(clear)
                answers[o, r] = module(images).argmax(1).numpy()
                hook.remove()
    return answers


def stepped(pruner: Pruner, kept: np.ndarray, images: Tensor, at_once: int) -> np.ndarray:
    """The same by `Pruner`, a few images at a time."""
    answers = np.empty((*kept.shape, len(images)), dtype=np.int64)
    for start in range(0, len(images), at_once):
        part = slice(start, start + at_once)
        for o, left, logits in pruner.logits(images[part], kept):
            found = logits.argmax(1).numpy()
            if o >= 0:
                answers[o, kept[o] == left, part] = found
        # the whole network's answer, which comes last, is that of every operation that loses no channel
        whole = kept == np.array([operation.out_channels for operation in pruner.operations])[:, None]
        answers[whole, part] = found
    return answers


def untied(module: nn.Module) -> nn.Module:
    """Random weights and statistics under which images get different answers: a network as it is initialised names one class for all."""
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0, 0.1)
            part.running_var.uniform_(0.05, 0.3)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, 0, 0.2)
    nn.init.normal_(module.get_submodule("classifier.1").weight, 0, 1.0)  # type: ignore[arg-type]
    return module.eval()


def test_pruning_mobilenet(found):
    """At least 2.5 times as fast as the plain loop, with equal predictions."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        torch.manual_seed(0)
        module = untied(mobilenet_v2(weights=None))
        images = torch.randn(IMAGES, 3, SIDE, SIDE)
        started = time.perf_counter()
        pruner = Pruner(module, (3, SIDE, SIDE))
        kept = pruner.kept(RATIOS)
        ours = stepped(pruner, kept, images, at_once=4)
        taken = time.perf_counter() - started
        names = [operation.name for operation in pruner.operations]
        plain_loop(module, names[:1], kept[:1], images)
        started = time.perf_counter()
        theirs = plain_loop(module, names, kept, images)
        plain = time.perf_counter() - started
        rest = module.to(memory_format=torch.channels_last)
        started = time.perf_counter()
        plain_loop(rest, names, kept, images.contiguous(memory_format=torch.channels_last))
        ordered = time.perf_counter() - started
    finally:
        torch.set_num_threads(threads)
    different = len(np.unique(theirs))
    found(
        "pruning-mobilenet",
        f"MobileNet-v2, {SIDE} px, {len(names)} operations, {len(RATIOS)} ratios, {IMAGES} images: {taken:.1f} s; the plain loop "
        f"{plain:.1f} s, {plain / taken:.1f} times as long ({ordered / taken:.1f} times with channels last); equal predictions: "
        f"{(ours == theirs).mean():.2%}",
        operations=len(names),
        ratios=RATIOS,
        images=IMAGES,
        seconds=taken,
        plain_seconds=plain,
        plain_channels_last_seconds=ordered,
        ratio=plain / taken,
        ratio_channels_last=ordered / taken,
        classes_named=different,
    )
    assert different >= 5
    np.testing.assert_array_equal(ours, theirs)
    assert plain / taken >= TARGET
