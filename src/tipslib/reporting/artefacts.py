"""Which figures and tables do the papers have, where is each recomputed, and has that been done at a given profile?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from tipslib.errors import CorruptFile, InvalidInput
from tipslib.experiments import plan_all
from tipslib.profiles import Profile, get_profile
from tipslib.records import Run, Store
from tipslib.reporting.evidence import above

State = Literal["recomputed", "not run"]


@dataclass(frozen=True)
class Artefact:
    """One figure, table, algorithm or measurement of a paper.

    `label` is its name in the paper; `title` says in our words what it shows; `notebook` is the file name without `.ipynb` of the
    notebook that recomputes it, `experiments` those whose records the notebook reads.
    """

    id: str
    paper: Literal["tips", "progressive"]
    label: str
    title: str
    notebook: str
    experiments: tuple[str, ...]


def _tips(id_: str, label: str, title: str, notebook: str, *experiments: str) -> Artefact:
    return Artefact(f"tips-{id_}", "tips", label, title, notebook, experiments or (notebook,))


def _progressive(id_: str, label: str, title: str, notebook: str, *experiments: str) -> Artefact:
    return Artefact(f"progressive-{id_}", "progressive", label, title, notebook, experiments)


ARTEFACTS: Mapping[str, Artefact] = MappingProxyType(
    {
        artefact.id: artefact
        for artefact in (
            _tips("fig1", "Figure 1", "Accuracy against MACs on ImageNet: TIPS, Joslim and US-Nets", "mobilenet_front", "fronts"),
            _tips("fig2", "Figure 2", "From supernet to important path, step by step", "walkthrough"),
            _tips("fig3", "Figure 3", "Average degree of two small networks, without and with skip connections", "proposition"),
            _tips("fig4", "Figure 4", "Accuracy when important and unimportant operations are pruned", "pruning"),
            _tips("fig5a", "Figure 5(a)", "Path score against mean singular value on deep MLPs", "proposition"),
            _tips(
                "fig5bc",
                "Figure 5(b, c)",
                "Training loss of TIPS and its rivals on ImageNet and Tiny-ImageNet",
                "training_curves",
                "fronts",
            ),
            _tips("fig6", "Figure 6", "Spread of path scores against the number of sampled subnetworks", "stability"),
            _tips("fig7", "Figure 7", "Path scores against the coupling strength", "coupling"),
            _tips("fig8", "Figure 8", "The same for further networks: ours are trained here, torchvision's are run by command", "pruning"),
            _tips("fig9", "Figure 9", "An inverted residual block and a basic block as graphs", "walkthrough"),
            _tips("fig10", "Figure 10", "Subnetworks of three basic blocks as graphs", "walkthrough"),
            _tips("fig11", "Figure 11", "Sampling a valid subnetwork, layer by layer", "walkthrough"),
            _tips("table1", "Table 1", "Accuracy at six budgets, MobileNet-v2, three data sets", "mobilenet_front", "fronts"),
            _tips("table2", "Table 2", "Accuracy at six budgets, ResNet-34, three data sets", "resnet_front", "fronts"),
            _tips("table3", "Table 3", "Accuracy against latency on a Raspberry Pi; ours is on the machine at hand", "latency"),
            _tips("table4", "Table 4", "Table 1 with its spread over three runs", "mobilenet_front", "fronts"),
            _tips("table5", "Table 5", "Table 2 with its spread over three runs", "resnet_front", "fronts"),
            _tips("table6", "Table 6", "Accuracy at six budgets against Once-For-All", "one_shot_nas", "fronts"),
            _tips("algorithm1", "Algorithm 1", "Search for Pareto-optimal subnetworks", "mobilenet_front", "fronts"),
            _tips("algorithm2", "Algorithm 2", "Inference that switches subnetworks at run time", "switching"),
            _tips("time", "Section 3.5", "Time of analysis, training and search", "costs"),
            _tips("switching", "Appendix B.8", "Storage and switching time of twelve subnetworks", "switching"),
            _progressive("fig1", "Figure 1", "Conventional and progressive networks: performance against cost", "progressive", "weights"),
            _progressive(
                "fig2", "Figure 2", "Class separation and linear-probe accuracy by layer, for different exit weights", "layers", "weights"
            ),
            _progressive(
                "fig3", "Figure 3", "Similarity of layers: two plain networks, a plain and a branched one", "similarity", "similarity"
            ),
            _progressive(
                "fig4",
                "Figure 4",
                "Inference modes for different weights, widths, depths and numbers of exits",
                "modes",
                "backbones",
                "weights",
            ),
            _progressive("fig5", "Figure 5", "Entropic mutual agreement against the entropy rule", "agreement", "agreement"),
            _progressive("table1", "Table 1", "Area under the probe curve for sixteen exit weightings", "exit_weights", "weights"),
        )
    }
)


def get_artefact(identifier: str) -> Artefact:
    """The artefact of that id; `InvalidInput` lists the ids there are."""
    if identifier not in ARTEFACTS:
        raise InvalidInput(f"no artefact {identifier!r}; there are {', '.join(ARTEFACTS)}")
    return ARTEFACTS[identifier]


def state(artefact: Artefact, profile: str | Profile, store: Store | None = None) -> State:
    """Whether the artefact's experiments have a record of the present version for every variant and seed.

    A record that was cut or altered counts as none. `tipslib verify` says whether records are repeatable.

    Raises
    ------
    InvalidInput
        There is no such profile.
    """
    profile = get_profile(profile)
    store = store or Store(profile)
    runs = [run for name in artefact.experiments for run in plan_all(name, profile)]
    return "recomputed" if all(_whole(store, run) for run in runs) else "not run"


def kept_runs(artefact: Artefact) -> tuple[str, int, int] | None:
    """The largest profile that keeps records of an artefact, how many of its runs are there, and how many it plans; None if none does."""
    for profile in above("smoke"):
        runs = [run for name in artefact.experiments for run in plan_all(name, profile)]
        if there := sum(_whole(Store(profile), run) for run in runs):
            return profile.name, there, len(runs)
    return None


def _whole(store: Store, run: Run) -> bool:
    try:
        return store.find(run) is not None
    except CorruptFile:
        return False
