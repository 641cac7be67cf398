"""Do exits move what the layers represent? CKA of plain and branched networks, layer by layer (progressive intelligence, Fig. 3)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.networks import BranchedNetwork
from tipslib.branched.similarity import LayerSimilarity
from tipslib.errors import require
from tipslib.experiments.branches import Branched, evaluation, train
from tipslib.profiles import Profile
from tipslib.records import Outcome

VERSION = 2
TOLERANCE = 1e-5

PLAIN = (0.0, 0.0, 0.0, 1.0)
SECOND = 1000
"""Added to the seed of the second plain network."""


@dataclass(frozen=True)
class Parameters(Branched):
    """Training; the branched network has the weights .2, .2, .2, .4. `samples` are those of one Gram matrix, as in the released code."""

    samples: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.samples >= 4, f"samples = {self.samples}; debiased similarity needs at least 4")

    def trainings(self, seed: int) -> tuple[tuple[Branched, int], ...]:
        """Two plain networks and the branched one, see `Branched.trainings`."""
        ((branched, _),) = super().trainings(seed)
        plain = replace(branched, weights=PLAIN)
        return (plain, seed), (plain, seed + SECOND), (branched, seed)


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Train two plain networks and a branched one; CKA of all pairs of layers on the test set, in evaluation mode."""
    trained = [train(p, seed=own, profile=profile) for p, own in parameters.trainings(seed)]
    one, two, branched = (net for net, _, _ in trained)
    data = trained[0][2]
    batches, held_out = evaluation(replace(parameters, batch_size=parameters.samples), profile, one)
    layers = probed_layers(one)
    arrays = compare(one, {"plain": two, "branched": branched}, layers, batches)
    values = {"layers": layers, "batch": parameters.samples, "samples": len(held_out.labels)}
    return Outcome(values, arrays, {f"{parameters.data} train": data.checksum, f"{parameters.data} test": held_out.checksum})


@torch.no_grad()
def compare(
    one: BranchedNetwork, others: Mapping[str, BranchedNetwork], layers: list[str], batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, np.ndarray]:
    """`<other> biased` and `<other> debiased`: (L, L) CKA, rows are the layers of `one`; a last batch that is too small is left out."""
    measures = {(name, kind): LayerSimilarity(debiased=kind == "debiased") for name in others for kind in ("biased", "debiased")}
    with ExitStack() as stack:
        x = stack.enter_context(recording(one, layers))
        ys = {name: stack.enter_context(recording(other, layers)) for name, other in others.items()}
        for images, _ in batches:
            if len(images) < 4:
                continue
            for network in (one, *others.values()):
                network(images)
            for (name, _kind), measure in measures.items():
                measure.update([x[layer] for layer in layers], [ys[name][layer] for layer in layers])
    return {f"{name} {kind}": np.asarray(measure.compute().numpy()) for (name, kind), measure in measures.items()}
