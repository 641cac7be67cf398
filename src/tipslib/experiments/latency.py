"""How accurate is a subnetwork at each latency on this machine, in place, by itself, and as an ONNX file? (TIPS, Table 3)"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np
import onnxruntime
import torch

from tipslib import project
from tipslib.anytime import AnytimeNetwork
from tipslib.anytime.latency import fixed_threads, measure
from tipslib.anytime.portable import export_onnx
from tipslib.batches import PIXELS
from tipslib.errors import require
from tipslib.experiments.offers import Network, Offers, front_runs, offered, rounded, searched, untrained
from tipslib.processes import make_fabric
from tipslib.profiles import Profile
from tipslib.records import Outcome, Run

VERSION = 1
TOLERANCE = 1e-6

VARIANTS = ({"strategy": "TIPS"}, {"strategy": "Joslim"}, {"strategy": "none"})
"""Table 3's two, and the paper's own network, untrained: what its latencies are here."""


@dataclass(frozen=True)
class Parameters:
    """Subnetworks of the front that `strategy` reached on `data` with `network`, timed for `batch` images at a time (TIPS, Table 3).

    `network` "small" is one that trains in seconds, for small images. `strategy` "none" takes subnetworks of the paper's MobileNet-v2
    x1.4 for ImageNet, untrained, since times do not depend on weights, and one image at a time. `exported` of the subnetworks are also
    timed as ONNX files in onnxruntime. Every one is timed `rounds` times, on `threads` threads.
    """

    strategy: Literal["TIPS", "Joslim", "none"] = "TIPS"
    network: Network = "mobilenet_v2"
    data: str = "imagenet"
    subnetworks: int = 8
    exported: int = 8
    rounds: int = 50
    batch: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        require(self.subnetworks >= 2, f"subnetworks = {self.subnetworks}; at least 2 are wanted")
        require(0 <= self.exported <= self.subnetworks, f"exported = {self.exported}; allowed are 0 to {self.subnetworks}")
        for name in ("rounds", "threads", "batch"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}; at least 1 is wanted")
        if self.strategy == "none":
            object.__setattr__(self, "batch", 1)
        require(self.data in PIXELS, f"data = {self.data!r}; allowed are {', '.join(PIXELS)}")


def needs(parameters: Parameters, *, seed: int, profile: Profile) -> list[Run]:
    """The run whose front is timed."""
    p = parameters
    return [] if p.strategy == "none" else front_runs(p.network, p.strategy, p.data, seed, profile)


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Time every subnetwork each way in turn, round after round.

    `values`: `subnetworks`, see `Offers.describe`; `of`, the key of the record of `fronts`, or None; `exported`, the indices of those
    that were exported; `timing`, milliseconds of each round: `in_place` (K, R) as the supernet runs at these widths, `alone` (K, R) as
    a plain network with small weights of its own, `onnxruntime` (E, R) as an ONNX file.
    """
    p = parameters
    torch.manual_seed(seed)
    if p.strategy == "none":
        offers = untrained(p.subnetworks, seed)
    else:
        offers = searched(p.network, p.strategy, p.data, p.subnetworks, seed=seed, profile=profile)
    many = len(offers.widths)
    exported = np.unique(np.linspace(0, many - 1, p.exported).round().astype(int)).tolist() if p.exported else []
    with fixed_threads(p.threads):
        timing = _timed(p, offers, exported, seed)
    return Outcome(values={"subnetworks": offers.describe(), "of": offers.front, "exported": exported, "timing": timing}, data=offers.data)


def _timed(p: Parameters, offers: Offers, exported: list[int], seed: int) -> dict[str, list[list[float]]]:
    device = make_fabric().device
    anytime = offered(offers, device)
    images = torch.randn(p.batch, *offers.net.input_shape, device=device).contiguous(memory_format=torch.channels_last)
    home = project.root() / "build" / "latency"
    home.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=home) as name:
        calls = [_in_place(anytime, cost, images) for cost in anytime.costs()]
        calls += [_alone(anytime, i, images) for i in range(len(calls))]
        calls += [_onnx(anytime, i, images, Path(name) / f"{i}.onnx", p.threads) for i in exported]
        with torch.inference_mode():
            found = measure(calls, rounds=p.rounds, seed=seed, device=device)
    many = len(offers.widths)
    parts = {"in_place": found[:many], "alone": found[many : 2 * many], "onnxruntime": found[2 * many :]}
    return {name: rounded(values) for name, values in parts.items()}


def _in_place(anytime: AnytimeNetwork, budget: float, images: torch.Tensor) -> Callable[[], object]:
    def call() -> None:
        anytime.select(budget)
        anytime(images)

    return call


def _alone(anytime: AnytimeNetwork, number: int, images: torch.Tensor) -> Callable[[], object]:
    one = anytime.subnetworks[number]
    plain = anytime.net.export(one.widths, one.statistics).eval()
    return lambda: plain(images)


def _onnx(anytime: AnytimeNetwork, number: int, images: torch.Tensor, path: Path, threads: int) -> Callable[[], object]:
    one = anytime.subnetworks[number]
    export_onnx(anytime.net, one.widths, path, one.statistics)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {"images": images.cpu().contiguous().numpy()}
    return lambda: session.run(None, given)
