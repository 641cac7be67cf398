"""What do exits do to the layers, and which exit weights are best? (Progressive intelligence, Table 1, Figs. 1, 2 and 4 top left.)"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch

from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.networks import BranchedNetwork
from tipslib.branched.probes import area_under_curve, linear_probes
from tipslib.branched.separation import ClassSeparation
from tipslib.errors import require
from tipslib.experiments.branches import Branched, answers, as_arrays, evaluation, modes_of, summary, train, trained_exits, training_batches
from tipslib.profiles import Profile
from tipslib.records import Outcome

VERSION = 1
TOLERANCE = 1e-6

TABLE = (
    (0.0, 0.0, 0.0, 1.0),
    *((w, 0.0, 0.0, round(1 - w, 1)) for w in (0.2, 0.4, 0.6, 0.8)),
    *((0.0, w, 0.0, round(1 - w, 1)) for w in (0.2, 0.4, 0.6, 0.8)),
    *((0.0, 0.0, w, round(1 - w, 1)) for w in (0.2, 0.4, 0.6, 0.8)),
    (0.2, 0.3, 0.1, 0.4),
    (0.2, 0.2, 0.2, 0.4),
    (0.2, 0.1, 0.3, 0.4),
)
"""The sixteen weightings of Table 1, the unbranched network first."""

VARIANTS = tuple({"weights": row} for row in TABLE)


@dataclass(frozen=True)
class Parameters(Branched):
    """Training, and the probes: the authors' protocol by default; `released_probes` adds theirs with dropout at evaluation."""

    probe: Literal["sgd", "ridge"] = "sgd"
    probe_epochs: int = 10
    released_probes: bool = True
    thresholds: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.exits == 4 and self.network == "resnet", "Table 1 is about a ResNet with 4 exits")
        require(self.probe_epochs >= 1, f"probe_epochs = {self.probe_epochs}; at least 1 is wanted")
        require(self.thresholds >= 2, f"thresholds = {self.thresholds}; at least 2 are wanted")


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Train with one weighting; measure exits, inference modes, class separation and probes of all layers on the test set."""
    p = parameters
    net, losses, data = train(p, seed=seed, profile=profile)
    test, held_out = evaluation(p, profile, net)
    logits, labels = answers(net, test)
    trained, macs = trained_exits(p, net)
    modes = modes_of(logits[trained], labels, macs, ("entropy", "mutual-agreement"), p.thresholds)
    layers = probed_layers(net)
    loader = training_batches(p, data, next(net.parameters()).device, seed=seed)

    def probe(authors_mode: bool) -> list[float]:
        found = linear_probes(
            net,
            layers,
            loader.batches,
            test,
            classes=len(data.classes),
            protocol=p.probe,
            epochs=p.probe_epochs,
            authors_mode=authors_mode,
            seed=seed,
        )
        return [float(a) for a in found]

    probes = {"paper": probe(False)} | ({"released": probe(True)} if p.released_probes and p.probe == "sgd" else {})
    values = summary(net, losses, logits, labels, modes) | {
        "trained": {"exits": trained, "macs": list(macs)},
        "layers": layers,
        "probes": probes,
        "auc": {name: area_under_curve(torch.tensor(a).numpy()) for name, a in probes.items()},
        "auc_without_origin": {name: area_under_curve(torch.tensor(a).numpy(), origin=False) for name, a in probes.items()},
        "separation": separation(net, layers, test, len(data.classes)),
    }
    return Outcome(values, as_arrays(modes), {f"{p.data} train": data.checksum, f"{p.data} test": held_out.checksum})


@torch.no_grad()
def separation(net: BranchedNetwork, layers: list[str], batches: Iterable[tuple[torch.Tensor, torch.Tensor]], classes: int) -> list[float]:
    """R^2 of each layer on the test set, streamed over batches."""
    measures = {name: ClassSeparation(classes) for name in layers}
    with recording(net, layers) as outputs:
        for images, labels in batches:
            net(images)
            for name in layers:
                measures[name].update(outputs[name], labels)
    return [measures[name].compute() for name in layers]
