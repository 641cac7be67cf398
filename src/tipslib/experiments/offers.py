"""Which subnetworks of a supernet are offered at run time? Some of a front that was searched, evenly spread along it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tipslib import parameters
from tipslib.anytime import AnytimeNetwork, Subnetwork, Supernet, mobilenet_v2_supernet
from tipslib.anytime.calibration import norms_of
from tipslib.anytime.layers import Statistics
from tipslib.anytime.widths import WidthSpace
from tipslib.data import load
from tipslib.experiments import fronts, obtain, plan, small
from tipslib.profiles import Profile
from tipslib.records import Run, Store

WIDTH, SIDE, CLASSES = 1.4, 224, 1000
"""The paper's MobileNet-v2 on ImageNet."""

SCATTER = 0.2
"""Standard deviation of the places of dimensions between their smallest and full widths, in subnetworks that no search has found."""


Network = Literal["mobilenet_v2", "small"]


@dataclass(frozen=True, eq=False)
class Offers:
    """K subnetworks in the order of their MACs.

    `net` is a supernet whose costs and times are the right ones; that of "mobilenet_v2" is untrained, since `fronts` keeps no weights.
    `widths` (K, D); `statistics` of each; `held_out` and `test` (K,) accuracies as shares, NaN where nothing was trained; `front` the
    key of the record of `fronts` that they come from, and `data` the checksums of the data sets behind it.
    """

    net: Supernet
    widths: NDArray[np.int64]
    statistics: tuple[Statistics, ...]
    held_out: NDArray[np.float64]
    test: NDArray[np.float64]
    front: str | None
    data: dict[str, str]

    def describe(self) -> list[dict[str, Any]]:
        """Of each subnetwork widths, MACs, bytes of its weights, and accuracies or None."""
        rows = zip(self.widths.tolist(), self.held_out.tolist(), self.test.tolist(), strict=True)
        return [
            {
                "widths": widths,
                "macs": self.net.macs(widths),
                "bytes": 4 * self.net.parameter_count(widths),
                "held_out": None if np.isnan(held_out) else held_out,
                "test": None if np.isnan(test) else test,
            }
            for widths, held_out, test in rows
        ]


def front_runs(network: Network, strategy: str, data: str, seed: int, profile: Profile) -> list[Run]:
    """The run of `fronts` that trains a network with a strategy and searches it; none for "small", which is trained on the spot."""
    if network == "small":
        return []
    return [plan("fronts", profile=profile, seed=seed, network=network, strategy=strategy, data=data)]


def searched(network: Network, strategy: str, data: str, many: int, *, seed: int, profile: Profile) -> Offers:
    """At most `many` of the front, evenly spread along it; what is not trained yet is trained now."""
    if network == "small":
        found = small.searched(strategy, data, seed=seed, profile=profile)
        rows = evenly(len(found.widths), many)
        statistics = tuple(found.statistics[i] for i in rows)
        return Offers(found.net, found.widths[rows], statistics, found.held_out[rows], found.test[rows], None, found.data)
    (run,) = front_runs(network, strategy, data, seed, profile)
    record = obtain(run, profile, Store(profile))
    net = parameters.parse(fronts.Parameters, run.parameters).build(len(load(data, "test", profile).classes)).eval()
    rows = evenly(len(record.arrays["macs"]), many)
    widths, held_out, test = (record.arrays[name][rows] for name in ("widths", "held_out", "test"))
    return Offers(net, widths, sliced_statistics(net, widths), held_out, test, run.key, dict(record.provenance["data"]))


def untrained(many: int, seed: int) -> Offers:
    """`many` of the paper's own network with random widths, the smallest and the whole among them; weights as they are initialised."""
    net = mobilenet_v2_supernet(WIDTH, SIDE, CLASSES, floor="tips").eval()
    widths = np.array(scattered(net.space, many, np.random.default_rng(seed)))
    widths = widths[np.argsort(net.macs_many(widths))]
    unknown = np.full(len(widths), np.nan)
    return Offers(net, widths, sliced_statistics(net, widths), unknown, unknown, None, {})


def scattered(space: WidthSpace, many: int, rng: np.random.Generator) -> list[tuple[int, ...]]:
    """Different configurations, the smallest and the whole among them: evenly spread in size, each dimension about that at random."""
    lows = np.array([d.low / d.high for d in space.dimensions])
    found = {space.smallest: None, space.largest: None}
    while len(found) < many:
        size = (len(found) - 1) / (many - 1)
        parts = np.clip(size + rng.normal(0, SCATTER, len(space)), 0, 1)
        found[space.at((lows + parts * (1 - lows)).tolist())] = None
    return list(found)


def evenly(front: int, many: int) -> NDArray[np.int64]:
    """Indices of `many` of a front, evenly spread along it, the ends among them; all where it has no more."""
    return np.unique(np.linspace(0, front - 1, min(front, many)).round().astype(np.int64))


def offered(offers: Offers, device: torch.device) -> AnytimeNetwork:
    """The subnetworks as they would be deployed; where nothing was trained, accuracy only says which is larger."""
    net = offers.net.to(device).to(memory_format=torch.channels_last)
    many = len(offers.widths)
    accuracies = np.where(np.isnan(offers.held_out), (1 + np.arange(many)) / many, offers.held_out)
    each = zip(offers.widths.tolist(), accuracies.tolist(), offers.statistics, strict=True)
    return AnytimeNetwork(net, [Subnetwork(tuple(widths), accuracy, statistics) for widths, accuracy, statistics in each])


def sliced_statistics(net: Supernet, widths: NDArray[np.int64]) -> tuple[Statistics, ...]:
    """The full network's own at each of (K, D) widths: of the sizes that a calibration gives."""

    def cut(tensor: Tensor | None) -> Tensor:
        assert tensor is not None
        return tensor.clone()

    found = []
    for row in widths.tolist():
        norms = norms_of(net, net.export(row))
        found.append(Statistics(tuple((cut(norm.running_mean), cut(norm.running_var)) for norm in norms)))
    return tuple(found)


def rounded(durations: NDArray[np.float64]) -> list[Any]:
    """The same as lists, with four digits, which is more than any clock here can tell."""
    return np.vectorize(lambda x: float(f"{x:.4g}"), otypes=[float])(durations).tolist()  # type: ignore[no-any-return]
