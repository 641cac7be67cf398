"""What does a switch of subnetworks cost in time and storage, and what does following a budget bring? (TIPS, Algorithm 2 and B.8)"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import nn

from tipslib import project
from tipslib.anytime import AnytimeNetwork
from tipslib.anytime.latency import fixed_threads, measure, milliseconds
from tipslib.batches import PIXELS
from tipslib.errors import require
from tipslib.experiments.offers import Network, Offers, front_runs, offered, rounded, searched, untrained
from tipslib.processes import make_fabric
from tipslib.profiles import Profile
from tipslib.records import Outcome, Run

VERSION = 1
TOLERANCE = 1e-6

AT_ONCE = 100
"""Switches that are timed together: one is too short for the clock."""

ROOM = 1.1
"""The most that a budget leaves above the smallest subnetwork, as a share of what the largest needs above it."""

LAST = 10
"""The pass after a switch with which the first is compared."""


@dataclass(frozen=True)
class Parameters:
    """The paper's setting: twelve subnetworks of MobileNet-v2 x1.4 for ImageNet (TIPS, B.8), and a budget that changes.

    `rounds` times each way to change the subnetwork, `switches` times the passes after one, on `threads` threads. `steps` is the length
    of the trace of budgets, which `network`, trained on `data` by TIPS, follows; "small" is one that trains in seconds on small images.
    """

    subnetworks: int = 12
    rounds: int = 100
    switches: int = 60
    threads: int = 1
    network: Network = "mobilenet_v2"
    data: str = "imagenet"
    steps: int = 240

    def __post_init__(self) -> None:
        require(self.subnetworks >= 2, f"subnetworks = {self.subnetworks}; at least 2 are wanted")
        for name in ("rounds", "switches", "threads", "steps"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}; at least 1 is wanted")
        require(self.data in PIXELS, f"data = {self.data!r}; allowed are {', '.join(PIXELS)}")


def needs(parameters: Parameters, *, seed: int, profile: Profile) -> list[Run]:
    """The run whose front follows the budget."""
    return front_runs(parameters.network, "TIPS", parameters.data, seed, profile)


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Time and weigh at the paper's size, where weights do not matter; follow a budget on a front that was trained.

    `values`: `subnetworks` and `front` say what is offered of either, see `Offers.describe`; `storage` in bytes: `configurations`
    the JSON, `statistics` those of batch norm, `supernet` all its weights, `checkpoints` each subnetwork by itself; `timing`:
    `switch_us`, `reload_ms` and `reload_fastest_ms` (R,), `cold_ms` (K, 10) the passes after the first switch to each subnetwork at all,
    `passes_ms` (S, 10) after each of S later switches. Arrays: `budget` (T,) MACs,
    `chosen` (T,) the index in `front` of what `AnytimeNetwork.select` takes.
    """
    p = parameters
    trained = searched(p.network, "TIPS", p.data, p.subnetworks, seed=seed, profile=profile)
    torch.manual_seed(seed)
    here = untrained(p.subnetworks, seed)
    with fixed_threads(p.threads):
        storage, timing = _measured(p, here, seed)
    budget, chosen = follow(trained, p.steps, seed)
    return Outcome(
        values={"subnetworks": here.describe(), "front": trained.describe(), "storage": storage, "timing": timing, "of": trained.front},
        arrays={"budget": budget, "chosen": chosen},
        data=trained.data,
    )


def _measured(p: Parameters, offers: Offers, seed: int) -> tuple[dict[str, Any], dict[str, Any]]:
    device = make_fabric().device
    anytime = offered(offers, device)
    rng = np.random.default_rng(seed)
    home = project.root() / "build" / "switching"
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home) as name:
        folder = Path(name)
        anytime.save(folder / "subnetworks.json")
        plain = [anytime.net.export(s.widths, s.statistics) for s in anytime.subnetworks]
        sizes = [_store(module, folder, i) for i, module in enumerate(plain)]
        calls = [
            _switches(anytime, rng),
            _reload(
                plain, cycle(rng.permutation(len(plain)).tolist()), lambda i: torch.load(folder / f"{i}.pt", device, weights_only=True)
            ),
            _reload(
                plain, cycle(rng.permutation(len(plain)).tolist()), lambda i: load_file(folder / f"{i}.safetensors", str(device)), True
            ),
        ]
        switch, reload_, fastest = measure(calls, rounds=p.rounds, seed=seed, device=device)
        statistics = [s.statistics for s in anytime.subnetworks if s.statistics is not None]
        storage = {
            "configurations": (folder / "subnetworks.json").stat().st_size,
            "statistics": sum(value.numel() * value.element_size() for s in statistics for pair in s.pairs for value in pair),
            "supernet": sum(value.numel() * value.element_size() for value in anytime.net.state_dict().values()),
            "checkpoints": sizes,
        }
    del plain, calls
    many = len(anytime.costs())
    cold = [_passes(anytime, int(number), device) for number in rng.permutation(many)]
    to_another = 1 + rng.integers(many - 1, size=p.switches)
    warm = [_passes(anytime, int(number), device) for number in to_another.cumsum() % many]
    timing = {"switch_us": 1e3 / AT_ONCE * switch, "reload_ms": reload_, "reload_fastest_ms": fastest}
    timing |= {"cold_ms": np.array(cold), "passes_ms": np.array(warm)}
    return storage, {name: rounded(values) for name, values in timing.items()}


def _store(module: nn.Module, folder: Path, number: int) -> int:
    """Write a subnetwork's own checkpoint in both forms; bytes of the smaller."""
    state = {name: value.contiguous() for name, value in module.state_dict().items()}
    torch.save(state, folder / f"{number}.pt")
    save_file(state, folder / f"{number}.safetensors")
    return min((folder / f"{number}.{form}").stat().st_size for form in ("pt", "safetensors"))


def _switches(anytime: AnytimeNetwork, rng: np.random.Generator) -> Callable[[], None]:
    """One after the other to subnetworks drawn beforehand."""
    select, costs = anytime.select, anytime.costs()
    budgets = [costs[i] for i in rng.integers(len(costs), size=AT_ONCE)]

    def call() -> None:
        for budget in budgets:
            select(budget)

    return call


def _reload(plain: list[nn.Module], turns: Iterator[int], read: Callable[[int], Any], assign: bool = False) -> Callable[[], None]:
    """Read one checkpoint after the other into a network of its shape that is there already."""

    def call() -> None:
        i = next(turns)
        plain[i].load_state_dict(read(i), assign=assign)

    return call


def _passes(anytime: AnytimeNetwork, number: int, device: torch.device) -> list[float]:
    """Milliseconds of the first passes after a switch to a subnetwork."""
    image = torch.randn(1, *anytime.net.input_shape, device=device).contiguous(memory_format=torch.channels_last)
    anytime.select(anytime.costs()[number])
    return [milliseconds(lambda: anytime(image), device) for _ in range(LAST)]


def follow(offers: Offers, steps: int, seed: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(T,) budgets in MACs, and what an anytime network chooses at each instant."""
    anytime = offered(offers, torch.device("cpu"))
    costs = anytime.costs()
    budget = costs[0] + ROOM * trace(steps, seed) * (costs[-1] - costs[0])
    index = {s.widths: i for i, s in enumerate(anytime.subnetworks)}
    return budget, np.array([index[anytime.select(float(b)).widths] for b in budget])


def trace(steps: int, seed: int) -> NDArray[np.float64]:
    """(T,) shares in [0, 1] of what can be free: a random walk between two walls, and now and then another program takes its part."""
    rng = np.random.default_rng([seed, 1])
    walk = rng.uniform(0, 2) + rng.normal(0, 0.08, steps).cumsum()
    share = 1 - np.abs(walk % 2 - 1)
    for start in rng.integers(steps, size=max(1, steps // 60)):
        share[start : start + rng.integers(8, 24)] *= rng.uniform(0, 0.5)
    return np.asarray(share)
