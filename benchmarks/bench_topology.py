"""Topology: the closed form against the released method's repeated products, a million states, and how the cost grows.

Run with `python -m pytest benchmarks/bench_topology.py`. Work and opponent run in one process, on one thread each,
on the same graph and masks; the opponent runs in full, nothing is extrapolated.
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable

import matplotlib.pyplot as plt
import numpy as np
import pytest
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torchvision.models import mobilenet_v2

from conftest import FOUND
from tipslib.topology import NetworkGraph, best_paths, hyper_adjacency, sample_subnetworks, tas

PRODUCTS = 6000
"""Of the transition matrix with itself, in the released code."""


def seconds(work: Callable[[], object], repeats: int) -> float:
    """The best of some runs after a first one that is not counted: others on the machine only slow things down."""
    work()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


@pytest.fixture(scope="module")
def mobilenet() -> NetworkGraph:
    return NetworkGraph.from_module(mobilenet_v2(weights=None), (1, 3, 224, 224))


def ladder(nodes: int) -> NetworkGraph:
    """A chain with a skip edge over each two operations, like a deep residual network."""
    return NetworkGraph.from_edges([(i, i + 1) for i in range(nodes - 1)] + [(i, i + 2) for i in range(0, nodes - 2, 2)])


def released_method(graph: NetworkGraph, masks: NDArray[np.bool_], starts: int | None = None) -> NDArray[np.float64]:
    """TAS as released: columns normalised, then 6000 dense products; one column of TAS (N,) for every state the walk may start in.

    The released code multiplies matrices (`starts` None). With `starts` = 1 only the walk from the first state is followed, by products
    with a vector: a kinder opponent than the released one.
    """
    weights = hyper_adjacency(graph, masks).toarray()
    steps = weights / weights.sum(axis=0)
    state = steps[:, :starts]
    for _ in range(PRODUCTS - 1):
        state = steps @ state
    return state.reshape(len(masks), len(graph), -1).sum(axis=0)


def test_tas_and_best_paths_of_mobilenet(benchmark, mobilenet, found):
    """At most 10 ms, and at least 1000 times as fast as the released method."""
    masks = sample_subnetworks(mobilenet, 8, np.random.default_rng(0))

    def work() -> NDArray[np.float64]:
        scores = tas(mobilenet, masks)
        best_paths(mobilenet, scores)
        return scores

    ours = seconds(work, 50)
    with threadpool_limits(1):
        started = time.perf_counter()
        theirs = released_method(mobilenet, masks)
        taken = time.perf_counter() - started
        by_vector = seconds(lambda: released_method(mobilenet, masks, starts=1), 3)
    distance = float(0.5 * np.abs(theirs - work()[:, None]).sum(axis=0).max())
    benchmark.extra_info.update(ratio=taken / ours, ratio_by_vector=by_vector / ours)
    benchmark.pedantic(work, rounds=20, warmup_rounds=2)
    found(
        "topology-mobilenet",
        f"MobileNet-v2, T = 8: TAS and best paths {1e3 * ours:.2f} ms. {PRODUCTS} dense products {taken:.1f} s, {taken / ours:,.0f} "
        f"times as long; with a vector in place of one matrix {by_vector:.2f} s, {by_vector / ours:,.0f} times. They end up to "
        f"{distance:.3f} (total variation, worst start) from the solution",
        nodes=len(mobilenet),
        operations=len(mobilenet.operations),
        subnetworks=len(masks),
        products=PRODUCTS,
        seconds=ours,
        released_seconds=taken,
        released_seconds_by_vector=by_vector,
        ratio=taken / ours,
        ratio_by_vector=by_vector / ours,
        total_variation_of_released=distance,
    )
    assert ours <= 0.010
    assert taken / ours >= 1000


def test_a_million_states(benchmark, found):
    """N = 10,000, T = 100: at most 1 s, and memory for a few numbers a state."""
    graph = ladder(10_000)
    masks = np.random.default_rng(0).random((100, len(graph.operations))) < 0.7
    taken = seconds(lambda: tas(graph, masks), 5)
    tracemalloc.start()
    tas(graph, masks)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    states = len(graph) * len(masks)
    benchmark.pedantic(lambda: tas(graph, masks), rounds=5)
    found(
        "topology-million",
        f"{states:,} states: {taken:.2f} s, {peak / 1e6:.0f} MB at most, {peak / states:.0f} bytes a state",
        states=states,
        operations=len(graph.operations),
        seconds=taken,
        peak_bytes=peak,
    )
    assert taken <= 1.0
    assert peak < 100 * states


def test_cost_grows_linearly_in_edges(found):
    """The slope of log time over log operations is about 1; it is a little more where the arrays outgrow the caches."""
    sizes = [4000 * 2**i for i in range(6)]
    operations, times = [], []
    for size in sizes:
        graph = ladder(size)
        masks = np.random.default_rng(0).random((8, len(graph.operations))) < 0.7
        operations.append(len(graph.operations))
        times.append(seconds(lambda graph=graph, masks=masks: tas(graph, masks), 7))
    slope = float(np.polyfit(np.log(operations), np.log(times), 1)[0])
    found(
        "topology-growth",
        f"TAS, T = 8, {operations[0]:,} to {operations[-1]:,} operations: {1e3 * times[0]:.1f} to {1e3 * times[-1]:.0f} ms, "
        f"slope {slope:.2f} in log-log; see {(FOUND / 'topology-growth.svg').relative_to(FOUND.parent.parent)}",
        operations=operations,
        seconds=times,
        slope=slope,
    )
    figure, axes = plt.subplots(figsize=(5, 3.5), layout="constrained")
    axes.loglog(operations, times, "o-", color="#0072B2", label="measured")
    axes.loglog(operations, times[-1] * np.array(operations) / operations[-1], "--", color="#D55E00", label="linear")
    axes.set(xlabel="operations M", ylabel="seconds", title="TAS of T = 8 subnetworks")
    axes.legend()
    figure.savefig(FOUND / "topology-growth.svg")
    plt.close(figure)
    assert slope < 1.3


def test_tracing_takes_milliseconds(benchmark, found):
    """The graph of MobileNet-v2 from its module, shapes included."""
    module = mobilenet_v2(weights=None)
    taken = seconds(lambda: NetworkGraph.from_module(module, (1, 3, 224, 224)), 10)
    benchmark.pedantic(lambda: NetworkGraph.from_module(module, (1, 3, 224, 224)), rounds=10)
    found("topology-tracing", f"tracing MobileNet-v2 with all shapes: {1e3 * taken:.0f} ms", seconds=taken)
    assert taken < 0.5
