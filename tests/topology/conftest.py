"""Graphs that several tests draw on."""

from collections.abc import Callable

import numpy as np
import pytest

from tipslib.topology import NetworkGraph


@pytest.fixture(scope="session")
def random_graph() -> Callable[..., NetworkGraph]:
    """Make a random graph: a chain from input to output, with `extra` more operations over it, some of them parallel to others."""

    def make(rng: np.random.Generator, nodes: int = 6, extra: int = 5, required: int = 0) -> NetworkGraph:
        edges = [(i, i + 1) for i in range(nodes - 1)]
        for _ in range(extra):
            source, target = sorted(rng.choice(nodes, size=2, replace=False).tolist())
            edges.append((source, target))
        order = rng.permutation(len(edges))
        return NetworkGraph.from_edges([edges[i] for i in order], required=rng.choice(len(edges), size=required, replace=False).tolist())

    return make


@pytest.fixture(scope="session")
def mobilenet() -> NetworkGraph:
    """The graph of torchvision's MobileNet-v2 for ImageNet."""
    from torchvision.models import mobilenet_v2

    return NetworkGraph.from_module(mobilenet_v2(weights=None), (1, 3, 224, 224))


@pytest.fixture(scope="session")
def two_paths() -> NetworkGraph:
    """The smallest residual block: one layer, or the skip edge around it."""
    return NetworkGraph.from_edges(
        [(0, 1), (0, 2), (1, 2)], kinds=["linear", "addition", "addition"], names=["F", "skip", "sum"], nodes=["x", "F(x)", "y"]
    )
