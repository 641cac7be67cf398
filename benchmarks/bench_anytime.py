"""A training step of a supernet, a subnetwork of half the width, and the search, each against the plain way.

Run with `python -m pytest benchmarks/bench_anytime.py`. Both sides run in turn in one process on one thread, and medians are compared.
Weights are random where time does not depend on them. The search is of a network that was trained for a moment, since how soon it can
stop looking at a candidate depends on how candidates differ.
"""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import SGD
from torchvision.models import mobilenet_v2

from tipslib.anytime import make_elastic, mobilenet_v2_supernet, pareto_search, resnet18_supernet
from tipslib.anytime.latency import fixed_threads, measure
from tipslib.anytime.strategies import USNets
from tipslib.batches import Loader, resident
from tipslib.data import load
from tipslib.processes import make_fabric

STEP, HALF, SEARCH = 3, 0.35, 5
BATCH, SIDE, ROUNDS = 128, 32, 5
CALIBRATION, HELD_OUT, STEPS = 2000, 5000, 250
CANDIDATES, OPPONENTS = 120, 8


class PlainConv(nn.Conv2d):
    """A convolution that uses its first channels, written as in the released code of US-Nets: slice, convolve."""

    used: int

    def forward(self, x: Tensor) -> Tensor:
        groups = x.shape[1] if self.groups > 1 else 1
        weight = self.weight[: self.used, : x.shape[1] if groups == 1 else 1]
        return F.conv2d(x, weight, None, self.stride, self.padding, self.dilation, groups)


class PlainNorm(nn.BatchNorm2d):
    """Batch norm of the first channels, by the batch."""

    def forward(self, x: Tensor) -> Tensor:
        c = x.shape[1]
        return F.batch_norm(x, None, None, self.weight[:c], self.bias[:c], True, 0.0, self.eps)


def plain_supernet() -> nn.Module:
    """torchvision's MobileNet-v2 x1.4 with the stem for 32 pixels, its layers replaced by plain sliced ones."""
    net = mobilenet_v2(num_classes=100, width_mult=1.4, dropout=0.0)
    net.features[0][0].stride = (1, 1)
    for name, m in list(net.named_modules()):
        if isinstance(m, nn.Conv2d):
            new: nn.Module = PlainConv(m.in_channels, m.out_channels, m.kernel_size, m.stride, m.padding, m.dilation, m.groups, bias=False)
        elif isinstance(m, nn.BatchNorm2d):
            new = PlainNorm(m.num_features)
        else:
            continue
        net.set_submodule(name, new)
    return net


def narrow(net: nn.Module, outputs: dict[str, int]) -> None:
    """Let each convolution of a plain supernet make so many channels."""
    for name, used in outputs.items():
        net.get_submodule(name).used = used


def plain_step(net: nn.Module, optimiser: SGD, outputs: list[dict[str, int]], images: Tensor, labels: Tensor) -> None:
    """The full network, which comes first, on labels, and subnetworks on its answers, in single precision."""
    optimiser.zero_grad()
    target = labels
    for i, widths in enumerate(outputs):
        narrow(net, widths)
        logits = net(images)
        F.cross_entropy(logits, target).backward()
        if i == 0:
            target = logits.detach().softmax(1)
    optimiser.step()


def outputs_of(net, widths) -> dict[str, int]:
    """Output channels of each convolution of a subnetwork."""
    return {name: m.out_channels for name, m in net.export(widths).named_modules() if isinstance(m, nn.Conv2d)}


def test_sandwich_step(found):
    """At least 3 times as fast as plain layers in single precision, with equal answers where both have single precision."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIDE, SIDE, generator=generator)
    labels = torch.randint(100, (BATCH,), generator=generator)
    torch.manual_seed(0)
    net = mobilenet_v2_supernet(1.4, SIDE, 100)
    strategy = USNets(net, seed=0)
    plain = plain_supernet()
    plain.load_state_dict(net.body.state_dict(), strict=False)
    with torch.no_grad():
        net.train()
        for widths in (net.space.largest, *strategy._subnetworks(0)):
            narrow(plain, outputs_of(net, widths))
            net.set_width(widths)
            torch.testing.assert_close(net(images), plain(images), rtol=1e-3, atol=1e-3)
    net.to(memory_format=torch.channels_last)
    last = images.contiguous(memory_format=torch.channels_last)
    fabric = make_fabric("cpu", "bf16-mixed")
    ours, theirs = SGD(net.parameters(), 1e-4, momentum=0.9), SGD(plain.parameters(), 1e-4, momentum=0.9)
    shapes = [[outputs_of(net, w) for w in (net.space.largest, *strategy._subnetworks(k))] for k in range(ROUNDS + 2)]
    steps, turns = itertools.count(), iter(shapes)

    def fast() -> None:
        ours.zero_grad()
        with fabric.autocast():
            strategy.step(net, last, labels, step=next(steps), backward=lambda loss: loss.backward())
        ours.step()

    def slow() -> None:
        plain_step(plain, theirs, next(turns), images, labels)

    with fixed_threads(1):
        fast_time, slow_time = np.median(measure([fast, slow], rounds=ROUNDS, seed=0), axis=1)
    ratio = slow_time / fast_time
    found(
        "anytime-step",
        f"a step of four passes (MobileNet-v2 x1.4, {BATCH} images of {SIDE} pixels) takes {fast_time / 1e3:.2f} s, {ratio:.1f} times less "
        f"than with plain layers in single precision ({slow_time / 1e3:.2f} s)",
        seconds=fast_time / 1e3,
        opponent_seconds=slow_time / 1e3,
        ratio=ratio,
    )
    assert ratio >= STEP


def test_share_of_the_peak(found):
    """Images a second of that step on the device there is, and its share of what bfloat16 products of large matrices reach there.

    On a GPU the steps are made with host synchronisation forbidden.
    """
    fabric = make_fabric(precision="bf16-mixed")
    gpu = fabric.device.type == "cuda"
    torch.manual_seed(0)
    net = mobilenet_v2_supernet(1.4, SIDE, 100).to(fabric.device, memory_format=torch.channels_last)
    strategy, optimiser = USNets(net, seed=0), SGD(net.parameters(), 1e-4, momentum=0.9)
    images = torch.randn(BATCH, 3, SIDE, SIDE, device=fabric.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(100, (BATCH,), device=fabric.device)
    operations = []

    def step(number: int) -> None:
        optimiser.zero_grad()
        with fabric.autocast():
            strategy.step(net, images, labels, step=number, backward=lambda loss: loss.backward())
        optimiser.step()
        passes = [net.space.largest, *strategy._subnetworks(number)]
        operations.append(6 * BATCH * sum(net.macs(widths) for widths in passes))  # forwards, and twice as many backwards; two for a MAC

    def now() -> float:
        if gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    rounds = 50 if gpu else ROUNDS
    for number in range(3):
        step(number)
    operations.clear()
    start = now()
    if gpu:
        torch.cuda.set_sync_debug_mode("error")
    for number in range(rounds):
        step(number)
    if gpu:
        torch.cuda.set_sync_debug_mode("default")
    seconds = now() - start
    side = 8192 if gpu else 2048
    a, b = torch.randn(2, side, side, device=fabric.device, dtype=torch.bfloat16)
    a @ b
    start = now()
    for _ in range(rounds):
        a @ b
    peak = rounds * 2 * side**3 / (now() - start)
    share = sum(operations) / seconds / peak
    found(
        "anytime-peak",
        f"a step of four passes on {torch.cuda.get_device_name() if gpu else 'the CPU'}: {rounds * BATCH / seconds:,.0f} images a second, "
        f"{share:.1%} of the {peak / 1e12:.2f} TFLOP/s of bfloat16 products of large matrices there",
        images_per_second=rounds * BATCH / seconds,
        share=share,
    )
    assert 0 < share < 1


def test_half_width(found):
    """A subnetwork of half the width takes at most .35 of the full network's time."""
    net = make_elastic(mobilenet_v2(width_mult=1.4, weights=None), (3, 224, 224), lowest=0.25).eval()
    net.to(memory_format=torch.channels_last)
    half, full = net.space.at(0.5), net.space.largest
    x = torch.randn(8, 3, 224, 224).contiguous(memory_format=torch.channels_last)

    def at(widths):
        def call() -> None:
            with torch.inference_mode():
                net.set_width(widths)
                net(x)

        return call

    with fixed_threads(1):
        half_time, full_time = np.median(measure([at(half), at(full)], rounds=20, seed=0), axis=1)
    share, macs = half_time / full_time, net.macs(half) / net.macs(full)
    found(
        "anytime-half-width",
        f"MobileNet-v2 x1.4 at half of its width takes {share:.2f} of the full network's time, with {macs:.2f} of its MACs",
        share=share,
        macs_share=macs,
    )
    assert share <= HALF


@pytest.fixture(scope="module")
def trained():
    """A thin ResNet-18, trained for a moment with US-Nets on digits; calibration and held-out images, as many as of CIFAR-100."""
    torch.manual_seed(0)
    train = load("digits", "train", "laptop")
    halves = torch.arange(len(train.labels)).split(1000)

    def shifted(rows: Tensor, count: int) -> list[tuple[Tensor, Tensor]]:
        """Batches of `count` images, the same ones moved by some pixels again and again."""
        loader = Loader(
            resident(train, torch.device("cpu")), 500, seed=0, rows=rows.repeat(-(-count // len(rows)))[:count], size=SIDE, channels=3
        )
        return list(loader.batches(0))

    net = resnet18_supernet(0.25, SIDE, 10).to(memory_format=torch.channels_last)
    strategy, optimiser = USNets(net, seed=0), SGD(net.parameters(), 0.02, momentum=0.9, nesterov=True)
    images, labels = (torch.cat(each) for each in zip(*shifted(halves[0], 64 * STEPS), strict=True))
    net.train()
    for step, rows in enumerate(torch.arange(len(labels)).split(64)):
        optimiser.zero_grad()
        strategy.step(net, images[rows], labels[rows], step=step, backward=lambda loss: loss.backward())
        optimiser.step()
    net.eval()
    return net, list(images[:CALIBRATION].split(500)), shifted(halves[1], HELD_OUT)


def test_search(trained, found):
    """At least 5 times as many candidates a minute as by calibrating and testing each in full, with accuracies as good as equal."""
    net, calibration, held_out = trained
    fabric = make_fabric("cpu", "bf16-mixed")

    def plain(widths: tuple[int, ...]) -> float:
        network = net.export(widths).to(memory_format=torch.contiguous_format)
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.reset_running_stats()
                norm.momentum = None
        with torch.no_grad():
            network.train()
            for images in calibration:
                network(images)
            network.eval()
            return sum(int((network(images).argmax(1) == labels).sum()) for images, labels in held_out) / HELD_OUT

    with fixed_threads(1):
        times = [time.perf_counter()]
        with fabric.autocast():
            pareto_search(net, calibration, held_out, candidates=CANDIDATES, seed=0)
        times.append(time.perf_counter())
        looked_at = pareto_search(net, calibration, held_out, candidates=CANDIDATES, seed=0).candidates
        times.append(time.perf_counter())
        some = np.flatnonzero(~looked_at.stopped)[:: -(-int((~looked_at.stopped).sum()) // OPPONENTS)]
        answers = [plain(tuple(looked_at.widths[i].tolist())) for i in some]
        times.append(time.perf_counter())
    fast, single, slow = np.diff(times) / [CANDIDATES, CANDIDATES, len(some)]
    np.testing.assert_allclose(looked_at.accuracies[some], answers, atol=0.01)
    found(
        "anytime-search",
        f"the search looks at {60 / fast:,.0f} candidates a minute, {slow / fast:.1f} times as many as by calibrating and testing each in "
        f"full ({60 / slow:,.0f}); in single precision {slow / single:.1f} times as many. It shows {looked_at.images.mean():,.0f} of "
        f"{HELD_OUT:,} images on average, where the best is right on {np.nanmax(looked_at.accuracies):.1%}",
        ratio=slow / fast,
        ratio_single_precision=slow / single,
        candidates_per_minute=60 / fast,
    )
    assert slow / fast >= SEARCH
