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
from torch import nn
from torch.nn import functional as F

from tipslib.branched import (
    POLICIES,
    branched_resnet,
    class_separation,
    entropy_thresholds,
    inference_modes,
    linear_probes,
    probed_layers,
    resnet,
)
from tipslib.branched.similarity import LayerSimilarity


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Best of a few: the machine is shared, and only slows things down."""
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.fixture
def report(benchmark, found):
    """Measures work and opponent, keeps the ratio, and fails below the target."""

    def measure(name: str, what: str, work: Callable[[], object], opponent: Callable[[], object], target: float, repeats: int = 3, **more):
        ours, theirs = seconds(work, repeats), seconds(opponent, repeats)
        ratio = theirs / ours
        benchmark.extra_info.update(ratio=round(ratio, 2), target=target, **more)
        benchmark.pedantic(work, rounds=3)
        sentence = f"{what}: {1e3 * ours:,.1f} ms, the opponent takes {ratio:.3g} times as long (target {target:g})"
        found(f"branched-{name}", sentence, seconds=ours, opponent_seconds=theirs, ratio=ratio, target=target, **more)
        assert ratio >= target

    return measure


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


def test_exit_modes_at_100_thresholds(report):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 10_000, 10, generator=generator) * torch.tensor([1.0, 2, 3, 4])[:, None, None]
    labels, macs, alphas = torch.arange(10_000) % 10, (1.0, 2.0, 3.0, 4.0), entropy_thresholds(10, 100)
    modes = inference_modes(logits, labels, macs, thresholds=alphas)
    accuracy, cost = modes_one_threshold_at_a_time(logits, labels, macs, alphas)
    np.testing.assert_allclose(modes.accuracy, accuracy, atol=1e-4)
    np.testing.assert_allclose(modes.macs, cost, rtol=1e-4)
    report(
        "modes",
        "100 thresholds of 4 exits and 10,000 samples",
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


def test_cka_of_18_by_18_layers(report):
    generator = torch.Generator().manual_seed(0)
    widths = [65536] * 5 + [32768] * 4 + [16384] * 4 + [8192] * 4 + [512]
    x, y = ([torch.randn(128, d, generator=generator) for d in widths] for _ in range(2))

    def ours():
        similarity = LayerSimilarity()
        similarity.update(x, y)
        return similarity.compute()

    torch.testing.assert_close(ours().float(), cka_pair_by_pair(x, y), atol=1e-5, rtol=1e-5)
    report("cka", "CKA of 18 x 18 layers", ours, lambda: cka_pair_by_pair(x, y), 10, repeats=1)


def double_sum(features, labels, classes):
    """Eq. 1: every pair of samples, class by class."""
    unit = F.normalize(features.double(), dim=1)
    distance = 1 - unit @ unit.T
    groups = [torch.where(labels == k)[0] for k in range(classes)]
    means = torch.tensor([[distance[g][:, h].mean() for h in groups] for g in groups])
    return float(1 - means.diagonal().mean() / means.mean())


def test_class_separation_at_10000_samples(report):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(10_000) % 10
    features = torch.randn(10_000, 512, generator=generator) + labels[:, None] * 0.01
    assert class_separation(features, labels) == pytest.approx(double_sum(features, labels, 10), abs=1e-10)
    report(
        "separation",
        "R^2 of 10,000 samples",
        lambda: class_separation(features, labels),
        lambda: double_sum(features, labels, 10),
        100,
        repeats=2,
    )


def probes_one_layer_at_a_time(net, names, train, test, classes, generator):
    """For each layer a pass of the backbone over all batches, and a probe of its own, trained by SGD."""
    accuracy = []
    for name in names:
        kept = {}
        handle = dict(net.named_modules())[name].register_forward_hook(lambda m, i, o, kept=kept: kept.update(out=o.flatten(1)))

        def features(images, kept=kept):
            with torch.no_grad():
                net(images)
            return kept["out"]

        width = features(train[0][0]).shape[1]
        probe = nn.Linear(width, classes)
        for p in probe.parameters():
            p.data.uniform_(-(width**-0.5), width**-0.5, generator=generator)
        optimiser = torch.optim.SGD(probe.parameters(), lr=0.01, momentum=0.9)
        for images, labels in train:
            optimiser.zero_grad()
            F.cross_entropy(probe(features(images)), labels).backward()
            optimiser.step()
        with torch.no_grad():
            right = sum(int((probe(features(images)).argmax(1) == labels).sum()) for images, labels in test)
        accuracy.append(right / sum(len(labels) for _, labels in test))
        handle.remove()
    return np.array(accuracy)


def test_probing_18_layers(report):
    """Both draw the probes' first weights in the order of the layers from one seed, so each layer must come out the same."""
    torch.manual_seed(0)
    net = resnet(18, 10, 0.25).eval()
    names = probed_layers(net)
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(512) % 10
    images = torch.randn(512, 3, 32, 32, generator=generator)
    images[:, 0] += labels[:, None, None] * 0.3
    batches = [(images[i : i + 128].contiguous(memory_format=torch.channels_last), labels[i : i + 128]) for i in range(0, 512, 128)]

    def together():
        return linear_probes(net, names, lambda e: batches, batches, classes=10, epochs=1, seed=0)

    def one_layer_at_a_time():
        return probes_one_layer_at_a_time(net, names, batches, batches, 10, torch.Generator().manual_seed(0))

    ours, theirs = together(), one_layer_at_a_time()
    furthest = float(np.abs(ours - theirs).max())
    assert furthest <= 1 / 512, "a sample that lies between two classes may fall either way"
    assert np.ptp(ours) > 0.1, "accuracies that tell layers apart"
    what = f"Probes of 18 layers, accuracies of all within {furthest:.4f} of the opponent's"
    report("probes", what, together, one_layer_at_a_time, 8, repeats=1, largest_difference=furthest)


def test_leaving_early_saves_time(report):
    """Wall time of `predict` against all exits, where three quarters of those still there leave at each exit."""
    torch.manual_seed(0)
    net = branched_resnet(18, classes=10, width=0.25).eval()
    images = torch.randn(256, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    net.to(memory_format=torch.channels_last)

    def most_leave(seen):
        scores = POLICIES["entropy"](torch.stack(seen), torch.zeros(len(seen[-1]), dtype=torch.long))[-1]
        return scores <= scores.quantile(0.75)

    @torch.no_grad()
    def all_exits():
        return torch.stack(net(images)).argmax(-1)

    def early():
        return net.predict(images, most_leave)

    classes, left = early()
    assert torch.equal(classes, all_exits()[left, torch.arange(len(images))])
    macs = net.macs()
    counted = macs[-1] * len(images) / sum(macs[e] for e in left.tolist())
    what = f"256 images, {counted:.2f} times fewer MACs by leaving early"
    report("predict", what, early, all_exits, 1.4, repeats=9, macs_ratio=counted, leaving=left.bincount(minlength=4).tolist())
