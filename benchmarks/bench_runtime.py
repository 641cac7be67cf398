"""Switching a subnetwork against reloading one, and a few widths against a checkpoint for each (TIPS, B.8), at the paper's own size.

Run with `python -m pytest benchmarks/bench_runtime.py`. MobileNet-v2 x1.4 for ImageNet with random weights, which neither time nor size
depends on; twelve subnetworks. All ways are timed in turn in one process on one thread, and medians are compared. The opponent has a
network of the right shape ready and its file in the cache: it only reads the file and takes the weights.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tipslib.anytime import AnytimeNetwork, Statistics, Subnetwork, mobilenet_v2_supernet
from tipslib.anytime.latency import fixed_threads, measure, milliseconds

MANY, ROUNDS, SWITCHES, AT_ONCE, PASSES = 12, 60, 60, 100, 10
MICROSECONDS, FASTER, SMALLER = 40, 10_000, 10_000
SLOWER = 1.05
"""How much longer the first pass after a switch may take than the tenth: equal, up to what can be told here."""


@pytest.fixture(scope="module")
def anytime():
    """Twelve subnetworks, from the smallest to the whole, each with statistics of its own."""
    torch.manual_seed(0)
    net = mobilenet_v2_supernet(1.4, 224, 1000, floor="tips").to(memory_format=torch.channels_last)
    rows = []
    for i, ratio in enumerate(np.linspace(0.33, 1, MANY)):
        widths = net.space.at(float(ratio))
        norms = [m for m in net.export(widths).modules() if isinstance(m, nn.BatchNorm2d)]
        statistics = Statistics(tuple((m.running_mean.clone(), m.running_var.clone()) for m in norms))
        rows.append(Subnetwork(widths, round(0.65 + 0.01 * i, 4), statistics, 100.0 + i))
    return AnytimeNetwork(net, rows)


def test_switching(anytime, tmp_path, found):
    """At most 40 microseconds, and at least 10,000 times as fast as reloading."""
    networks = [anytime.net.export(s.widths, s.statistics) for s in anytime.subnetworks]
    for i, network in enumerate(networks):
        state = {name: value.contiguous() for name, value in network.state_dict().items()}
        torch.save(state, tmp_path / f"{i}.pt")
        save_file(state, tmp_path / f"{i}.safetensors")
    rng = np.random.default_rng(0)
    costs = anytime.costs()
    budgets = [costs[i] for i in rng.integers(MANY, size=AT_ONCE)]
    turns = {form: iter(rng.integers(MANY, size=2 * ROUNDS).tolist()) for form in ("pt", "safetensors")}

    def switch():
        for budget in budgets:
            anytime.select(budget)

    def torch_load():
        i = next(turns["pt"])
        networks[i].load_state_dict(torch.load(tmp_path / f"{i}.pt", weights_only=True))

    def safetensors_load():
        i = next(turns["safetensors"])
        networks[i].load_state_dict(load_file(tmp_path / f"{i}.safetensors"), assign=True)

    with fixed_threads(1):
        taken = np.median(measure([switch, torch_load, safetensors_load], rounds=ROUNDS, seed=0), axis=1)
    microseconds, reload_, fastest = 1e3 * taken[0] / AT_ONCE, taken[1], taken[2]
    ratio, least = 1e3 * reload_ / microseconds, 1e3 * fastest / microseconds
    found(
        "runtime-switching",
        f"a switch takes {microseconds:.2f} us; reloading a subnetwork's checkpoint takes {reload_:.1f} ms with torch.load, {ratio:,.0f} "
        f"times as long, and {fastest:.1f} ms with safetensors and no copy, {least:,.0f} times as long",
        microseconds=microseconds,
        reload_milliseconds=reload_,
        reload_safetensors_milliseconds=fastest,
        ratio=ratio,
        ratio_safetensors=least,
    )
    assert microseconds <= MICROSECONDS
    assert ratio >= FASTER
    assert least >= FASTER


def test_storage(anytime, tmp_path, found):
    """The widths are at least 10,000 times smaller than a checkpoint for each."""
    checkpoint = anytime.save(tmp_path / "subnetworks.json")
    sizes = []
    for s in anytime.subnetworks:
        state = {name: value.contiguous() for name, value in anytime.net.export(s.widths, s.statistics).state_dict().items()}
        save_file(state, tmp_path / "one.safetensors")
        sizes.append((tmp_path / "one.safetensors").stat().st_size)
    widths = (tmp_path / "subnetworks.json").stat().st_size
    statistics = sum(4 * value.numel() for s in anytime.subnetworks for pair in s.statistics.pairs for value in pair)
    ratio, counted, whole = sum(sizes) / widths, sum(sizes) / (widths + statistics), sum(sizes) / (widths + checkpoint.stat().st_size)
    found(
        "runtime-storage",
        f"{MANY} subnetworks by themselves take {sum(sizes) / 1e6:.1f} MB; their widths {widths / 1e3:.1f} KB, {ratio:,.0f} times less; "
        f"with their batch-norm statistics {(widths + statistics) / 1e6:.2f} MB, {counted:.0f} times less; with the supernet, too, "
        f"{whole:.1f} times less",
        checkpoints=sizes,
        widths=widths,
        statistics=statistics,
        supernet=checkpoint.stat().st_size - statistics,
        ratio=ratio,
        ratio_with_statistics=counted,
        ratio_with_supernet=whole,
    )
    assert ratio >= SMALLER
    assert widths < 10_000


def test_first_pass(anytime, found):
    """The first pass after a switch to a subnetwork that has run before is no slower than the tenth."""
    rng = np.random.default_rng(0)
    image = torch.randn(1, *anytime.net.input_shape).contiguous(memory_format=torch.channels_last)
    cold, passes = np.empty((MANY, PASSES)), np.empty((SWITCHES, PASSES))
    turns = (1 + rng.integers(MANY - 1, size=SWITCHES)).cumsum() % MANY
    with fixed_threads(1):
        for rows, numbers in ((cold, range(MANY)), (passes, turns)):
            for row, number in zip(rows, numbers, strict=True):
                anytime.select(anytime.costs()[number])
                row[:] = [milliseconds(lambda: anytime(image)) for _ in range(PASSES)]
    ratio = float(np.median(passes[:, 0] / passes[:, -1]))
    found(
        "runtime-first-pass",
        f"the first pass after a switch takes {ratio:.3f} times as long as the tenth (median over {SWITCHES} switches); where a subnetwork "
        f"runs for the first time in the process, {np.median(cold[:, 0] / cold[:, -1]):.2f} times",
        ratio=ratio,
        ratio_cold=float(np.median(cold[:, 0] / cold[:, -1])),
        first_milliseconds=float(np.median(passes[:, 0])),
        tenth_milliseconds=float(np.median(passes[:, -1])),
    )
    assert ratio <= SLOWER
