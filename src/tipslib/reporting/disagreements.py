"""Why may a sentence of a paper not hold here? What the evidence says of it, and how the runs differ from the paper's in size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from tipslib import parameters
from tipslib.experiments import get_experiment
from tipslib.profiles import get_profile
from tipslib.records import Record

ANYWHERE: Mapping[str, str] = MappingProxyType(
    {
        "important-first-in-block-by-path": (
            "Scores belong to whole paths, and a path takes all layers of a block's body or none of them. The paper does not say "
            "how a single layer was scored; scored by its two ends, the first layer does lead."
        ),
        "tips-prop31-always": (
            "All paths compared have equally many nodes, so TPS mostly counts the blocks that a path skips. Between paths that skip"
            " equally many it is left with the luck of the draw of subnetworks, and orders them hardly better than a guess."
        ),
        "tips-prop31-order-network": (
            "A block that is passed through its layers multiplies by the identity plus something, which stretches a little on "
            "average. More layers mean larger singular values, and a lower TPS. What decides is which Jacobian is meant, and of the"
            " four on this page this is the one of a network that exists."
        ),
        "tips-prop31-one-layers": (
            "The second layer of a block also receives the skip connection, so its Jacobian holds an identity and has no singular "
            "value below 1. The proof has no such layer."
        ),
        "tips-prop31-one-network": (
            "With its skip connection each block multiplies by the identity plus something, which stretches a little on average. "
            "The proof has no skip connections."
        ),
        "tips-eq11-paths": (
            "The bound is about matrices of independent entries, and Eq. 13 makes the variance so small that it ends at 1. With "
            "skip connections, which are identities, hardly anything lies below 1."
        ),
        "tips-prop31-wide": (
            "A skip connection adds one link to a neuron that has as many as its layer is wide, so the degree stays near the width "
            "whatever path is taken."
        ),
        "tips-eq18-degree": (
            "Two degrees go by one name: TPS knows that of feature maps in the graph, Fig. 3 counts the links of neurons. They rise"
            " together or against each other, depending on the reading, but in no fixed proportion."
        ),
        "stability-four-enough": (
            "The *spread* over samples is small at four; the *mean* goes on moving, because the coupling grows with the number of "
            "subnetworks and pulls every score towards the share of feature maps on the path. The paper's figure shows the spread."
        ),
        "coupling-ranking-any-length": (
            "Among equally long paths no order can change; between paths of unequal length it can, since the coupling rewards nodes"
            " and not operations. Such pairs are few: a figure with a handful of paths is unlikely to show one."
        ),
    }
)
"""Claim -> what may explain that it does not hold, for what wiring and algebra decide at any size."""

_LAPTOP = MappingProxyType(
    {
        "similarity-rest": (
            "The layers are more alike than in the paper. With few epochs and few images two networks stay nearer to what any "
            "network computes at first, and a narrow one has fewer ways to differ; the released code, which leaves batch norm in "
            "training mode and averages small batches, measures another quantity. Which of these it is, these runs cannot tell."
        ),
        "backbones-width-half": (
            "The paper's full width is where accuracy has levelled off. Here the full size is the stated share of it, and accuracy "
            "still climbs with every step of width on the page's table, beyond the full size as well. Half of a network that is too"
            " small for its data is not what the sentence is about; a larger profile has to tell."
        ),
        "backbones-exits-peak": (
            "With four exits the heads keep some of the map's places, with any other number they pool all of it, as in the released code. "
            "Here eight exits lose less than six and seven do, and three lose as well: it is the heads and the short training that are "
            "compared, more than the number of exits."
        ),
        "agreement-backbones": (
            "The MobileNet's last exit learns so late that this profile trains it for more epochs than the ResNet-18, so this compares two "
            "trainings, of which the ResNet-18 has the shorter. The ranges of cost are as the sentence says."
        ),
        "agreement-resnet-saving": (
            "The ratio is largest where the threshold lets nobody leave by entropy, and there it only says how often exits agree. "
            "Exits that are right more often agree more often: on the page of inference modes, networks on CIFAR-10 that are right "
            "more often reach the paper's ratio. These, on CIFAR-100 after a short training, are right too seldom."
        ),
        "agreement-mobilenet-saving": (
            "As for the ResNet-18, the ratio says how often exits agree, and these exits are right too seldom to agree often. The "
            "thin network's heads also weigh more beside its layers, which lowers the ceiling given above."
        ),
        "agreement-mobilenet-corrected": (
            "All that is said of the sentence as published, and the count: an exit that costs what it costs leaves less to be saved."
        ),
    }
)

TRAINED: Mapping[str, Mapping[str, str]] = MappingProxyType({"laptop": _LAPTOP})
"""Profile -> claim -> the same, for what depends on the networks that this profile trains."""


def why(claim: str, profile: str | None) -> str:
    """What may explain that the claim does not hold on records of that profile; empty where nothing is known."""
    return ANYWHERE.get(claim) or TRAINED.get(profile or "", {}).get(claim, "")


def departures(records: Sequence[Record]) -> str:
    """In what runs of one experiment differ from the paper's, which are its defaults, as a phrase; empty where in nothing.

    Parameters that tell the runs apart on purpose (the experiment's variants) are left out.
    """
    if not records:
        return ""
    experiment: Any = get_experiment(records[0].run.experiment)
    varied = {name for overrides in getattr(experiment, "VARIANTS", ()) for name in overrides}
    paper = parameters.to_json(experiment.Parameters())
    found = []
    for name in records[0].run.parameters:
        usual = paper[name]
        values = list(dict.fromkeys(_word(record.run.parameters[name]) for record in records))
        if name not in varied and values != [_word(usual)]:
            instead = "" if usual is None else f" (paper: {_word(usual)})"
            found.append(f"{name.replace('_', ' ')} {' or '.join(values)}{instead}")
    return ", ".join([*found, *_subsets(records, trained=hasattr(experiment.Parameters, "recipe"))])


def _subsets(records: Sequence[Record], *, trained: bool) -> list[str]:
    """The training images that the profile takes of each data set, where it does not take all."""
    counts = get_profile(records[0].run.profile).datasets
    names = dict.fromkeys(record.run.parameters["data"] for record in records) if trained else ()
    return [f"{count:,} of the training images of {name}" for name in names if (count := counts.get(name)) is not None]


def _word(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(map(_word, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
