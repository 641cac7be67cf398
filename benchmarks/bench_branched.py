"""Branched networks: each measure against the obvious way to compute it, in one process, as a ratio.

Run with `python -m pytest benchmarks/bench_branched.py`. The opponents are written here, plainly; every comparison first checks that
both give the same numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from tipslib.branched import class_separation, entropy_thresholds, inference_modes, linear_probes, probed_layers, resnet
from tipslib.branched.similarity import LayerSimilarity


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Best of a few: the machine is shared, and only slows things down."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def report(benchmark, work: Callable[[], object], opponent: Callable[[], object], target: float, repeats: int = 3) -> None:
    ratio = seconds(opponent, repeats) / seconds(work, repeats)
    benchmark.extra_info["ratio"] = round(ratio, 1)
    benchmark.extra_info["target"] = target
    benchmark.pedantic(work, rounds=3)
    print(f"\n{ratio:.0f} times the opponent's speed (target {target:g})")
    assert ratio >= target


def modes_one_threshold_at_a_time(logits, labels, macs, thresholds):
    """For each threshold, each batch, each exit: who is confident enough leaves (the released code's loop, without its forward passes)."""
    exits, samples, _ = logits.shape
    accuracy, cost = [], []
    for alpha in thresholds:
        right, spent = 0, 0.0
        for start in range(0, samples, 128):
            batch, target = logits[:, start : start + 128], labels[start : start + 128]
            waiting = torch.ones(len(target), dtype=torch.bool)
            for e in range(exits):
                p = batch[e].softmax(-1)
                h = -(p * batch[e].log_softmax(-1)).sum(-1)
                leave = waiting & (h <= alpha) if e < exits - 1 else waiting.clone()
                right += int((batch[e].argmax(-1)[leave] == target[leave]).sum())
                spent += macs[e] * int(leave.sum())
                waiting &= ~leave
        accuracy.append(right / samples)
        cost.append(spent / samples)
    return np.array(accuracy), np.array(cost)


def modes_with_forward_passes(net_like, labels, macs, thresholds):
    """The same with what the released code also repeats for each threshold: the forward pass of the exits."""
    inputs, heads = net_like
    return [
        modes_one_threshold_at_a_time(torch.stack([x @ h for x, h in zip(inputs, heads, strict=True)]), labels, macs, [a])
        for a in thresholds
    ]


def test_exit_modes_at_100_thresholds(benchmark):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 10_000, 10, generator=generator) * torch.tensor([1.0, 2, 3, 4])[:, None, None]
    labels, macs, alphas = torch.arange(10_000) % 10, (1.0, 2.0, 3.0, 4.0), entropy_thresholds(10, 100)
    modes = inference_modes(logits, labels, macs, thresholds=alphas)
    accuracy, cost = modes_one_threshold_at_a_time(logits, labels, macs, alphas)
    np.testing.assert_allclose(modes.accuracy, accuracy, atol=1e-4)
    np.testing.assert_allclose(modes.macs, cost, rtol=1e-4)
    report(
        benchmark,
        lambda: inference_modes(logits, labels, macs, thresholds=alphas),
        lambda: modes_one_threshold_at_a_time(logits, labels, macs, alphas),
        300,
    )


def cka_pair_by_pair(x, y):
    """Eqs. 3 and 4 for each pair: both Gram matrices, the centring matrix and the trace anew."""
    n = len(x[0])
    h = torch.eye(n) - 1 / n

    def hsic(a, b):
        return torch.trace(a @ a.T @ h @ b @ b.T @ h) / (n - 1) ** 2

    return torch.tensor([[hsic(a, b) / (hsic(a, a).sqrt() * hsic(b, b).sqrt()) for b in y] for a in x])


def test_cka_of_18_by_18_layers(benchmark):
    generator = torch.Generator().manual_seed(0)
    widths = [65536] * 5 + [32768] * 4 + [16384] * 4 + [8192] * 4 + [512]
    x, y = ([torch.randn(128, d, generator=generator) for d in widths] for _ in range(2))

    def ours():
        similarity = LayerSimilarity()
        similarity.update(x, y)
        return similarity.compute()

    torch.testing.assert_close(ours().float(), cka_pair_by_pair(x, y), atol=1e-5, rtol=1e-5)
    report(benchmark, ours, lambda: cka_pair_by_pair(x, y), 10, repeats=1)


def double_sum(features, labels, classes):
    """Eq. 1: every pair of samples, class by class."""
    unit = F.normalize(features.double(), dim=1)
    distance = 1 - unit @ unit.T
    groups = [torch.where(labels == k)[0] for k in range(classes)]
    means = torch.tensor([[distance[g][:, h].mean() for h in groups] for g in groups])
    return float(1 - means.diagonal().mean() / means.mean())


def test_class_separation_at_10000_samples(benchmark):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10_000) % 10
    features = torch.randn(10_000, 512, generator=generator) + labels[:, None] * 0.01
    assert class_separation(features, labels) == pytest.approx(double_sum(features, labels, 10), abs=1e-10)
    report(benchmark, lambda: class_separation(features, labels), lambda: double_sum(features, labels, 10), 100, repeats=2)


def test_probing_18_layers(benchmark):
    torch.manual_seed(0)
    net = resnet(18, 10, 0.25)
    names = probed_layers(net)
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(512) % 10
    images = torch.randn(512, 3, 32, 32, generator=generator)
    images[:, 0] += labels[:, None, None] * 0.3
    batches = [(images[i : i + 128].contiguous(memory_format=torch.channels_last), labels[i : i + 128]) for i in range(0, 512, 128)]

    def together():
        return linear_probes(net, names, lambda e: batches, batches, classes=10, epochs=1)

    def one_layer_at_a_time():
        return np.concatenate([linear_probes(net, [name], lambda e: batches, batches, classes=10, epochs=1) for name in names])

    assert np.abs(together() - one_layer_at_a_time()).mean() < 0.02
    report(benchmark, together, one_layer_at_a_time, 8, repeats=1)
