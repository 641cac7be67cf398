"""What do the trainings of a profile cost, and what Step 1 beside them? Work is counted, speed is measured (TIPS, Sec. 3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.models import get_model

from tipslib import experiments
from tipslib import parameters as typed
from tipslib.analysis import analyze
from tipslib.anytime.latency import measure
from tipslib.branched.joint import JointLoss
from tipslib.errors import require
from tipslib.experiments import agreement, backbones, fronts, latency, plan_all, pruning, similarity, switching, weights
from tipslib.experiments.branches import SIDE, Branched
from tipslib.experiments.offers import rounded
from tipslib.experiments.passes import BACKWARD, CLASSES, IMAGES, built, passes
from tipslib.onednn import right_gradients
from tipslib.processes import make_fabric
from tipslib.profiles import PROFILES, Profile
from tipslib.progress import track
from tipslib.records import Outcome, Run

VERSION = 1
TOLERANCE = 1e-6

USERS: tuple[ModuleType, ...] = (fronts, latency, switching, pruning, weights, similarity, backbones, agreement)
"""The experiments whose runs want networks that are trained in epochs, by themselves or by the runs they need."""

LOOKED_AT = 32
"""Steps of a supernet's training whose subnetworks are drawn: the mean of their MACs is what counts."""

_NAMES = {"mobilenet_v2": "MobileNet-v2", "resnet34": "ResNet-34"}

Recipe = fronts.Parameters | Branched


@dataclass(frozen=True)
class Parameters:
    """`planned` is the profile whose trainings are counted, as it stands in `tipslib.profiles`, whatever epochs were kept for it.

    Step 1 is timed `rounds` times, a step of each network `steps` times, on `images` images, or as many as the training takes at a time
    if these are fewer.
    """

    planned: str = "paper"
    rounds: int = 20
    steps: int = 10
    images: int = 128

    def __post_init__(self) -> None:
        require(self.planned in PROFILES, f"planned = {self.planned!r}; allowed are {', '.join(PROFILES)}")
        for name in ("rounds", "steps"):
            require(getattr(self, name) >= 1, f"{name} = {getattr(self, name)}; at least 1 is wanted")
        require(self.images >= 2, f"images = {self.images}; batch norm needs at least 2")


@dataclass(frozen=True)
class Training:
    """One recipe, trained with several seeds for the runs of several experiments.

    Attributes
    ----------
    recipe
        What is trained and how.
    run
        The first run that wants it.
    seeds
        Experiment to the seeds with which its runs want it; a seed that several want is trained once.
    """

    recipe: Recipe
    run: Run
    seeds: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Network:
    """What the speed of a step is measured for; that numbers of exits and classes hardly matter for it is taken for granted.

    `width` multiplies the channels, `side` is the images' edge in pixels; `recipe` is one of those that train it.
    """

    name: str
    width: float
    side: int
    precision: str
    recipe: Recipe = field(compare=False)


def run(parameters: Parameters, *, seed: int, profile: Profile) -> Outcome:
    """Count the work of every training that `planned` plans, and time Step 1 and a step of every network on this machine.

    `values`: `networks`, of each its name, width, side, precision, `macs` of the full network for one image, and `images` of the step
    that was timed; `trainings`, of each its recipe, the index of its network, epochs, images of an epoch, `seeds` by experiment, and
    `work`, the MACs of one training, forward and backward. `timing`: `step_1_s` (rounds,) seconds; `step_ms` (networks, steps).
    """
    del profile
    p = parameters
    planned = PROFILES[p.planned]
    trainings = trainings_of(planned)
    networks = list(dict.fromkeys(network_of(training.recipe) for training in trainings))
    images = [min(p.images, batch_size(network.recipe)) for network in networks]
    measured = [step_times(n.recipe, many, p.steps, seed) for n, many in zip(track(networks, "networks"), images, strict=True)]
    return Outcome(
        values={
            "networks": [
                {"name": n.name, "width": n.width, "side": n.side, "precision": n.precision, "macs": full_macs(n.recipe), "images": many}
                for n, many in zip(networks, images, strict=True)
            ],
            "trainings": [
                {
                    "recipe": typed.to_json(t.recipe),
                    "network": networks.index(network_of(t.recipe)),
                    "epochs": t.recipe.recipe.epochs,
                    "images": steps_of_an_epoch(t.recipe, planned) * batch_size(t.recipe),
                    "seeds": {name: list(wanted) for name, wanted in t.seeds.items()},
                    "work": work(t, planned),
                }
                for t in trainings
            ],
            "timing": {"step_1_s": step_1_times(p.rounds, seed), "step_ms": measured},
        }
    )


def trainings_of(profile: Profile) -> list[Training]:
    """Every training that the profile's artefacts want, each once: a network that several runs share is trained for the first of them.

    What a run trains in seconds on the spot (`tipslib.experiments.small`) is left out.
    """
    found: dict[Recipe, tuple[Run, dict[str, dict[int, None]]]] = {}
    for module in USERS:
        name = module.__name__.rpartition(".")[2]
        for wanting in plan_all(name, profile):
            for one in (wanting, *experiments.needs(wanting, profile)):
                for recipe, seed in trained_by(one):
                    _, seeds = found.setdefault(recipe, (one, {}))
                    seeds.setdefault(name, {})[seed] = None
    return [Training(recipe, first, {name: tuple(wanted) for name, wanted in seeds.items()}) for recipe, (first, seeds) in found.items()]


def trained_by(of: Run) -> tuple[tuple[Recipe, int], ...]:
    """The recipes and seeds that a run trains with, or finds trained; none where it only reads the records of others."""
    module: Any = experiments.get_experiment(of.experiment)
    chosen = typed.parse(module.Parameters, of.parameters)
    found: tuple[tuple[Recipe, int], ...] = chosen.trainings(of.seed) if hasattr(chosen, "trainings") else ()
    return found


def network_of(recipe: Recipe) -> Network:
    """What is trained."""
    if isinstance(recipe, fronts.Parameters):
        width = fronts.WIDTH[recipe.network] if recipe.width is None else recipe.width
        return Network(f"{_NAMES[recipe.network]} supernet", width, fronts.SIDE.get(recipe.data, 32), recipe.precision, recipe)
    name = "MobileNet" if recipe.network == "mobilenet" else f"ResNet-{recipe.depth}"
    return Network(f"{name} with exits", recipe.width, SIDE, recipe.precision, recipe)


def batch_size(recipe: Recipe) -> int:
    """Images of one step."""
    return recipe.size if isinstance(recipe, fronts.Parameters) else recipe.batch_size


def steps_of_an_epoch(recipe: Recipe, profile: Profile) -> int:
    """Whole batches in the images that are trained on; what is left over waits for the next epoch."""
    allowed = profile.datasets[recipe.data]
    images = IMAGES[recipe.data] if allowed is None else min(allowed, IMAGES[recipe.data])
    if isinstance(recipe, fronts.Parameters):
        images -= fronts.held_out(images)
    return images // batch_size(recipe)


def full_macs(recipe: Recipe) -> int:
    """MACs of one image through the whole network, all exits included."""
    if isinstance(recipe, fronts.Parameters):
        net = built(recipe.network, recipe.data, recipe.width, False)
        return net.macs(net.space.largest)
    plain = replace(recipe, weights=None, epochs=Branched.epochs, batch_size=Branched.batch_size)
    return _branched_macs(plain)


@cache
def _branched_macs(recipe: Branched) -> int:
    with torch.random.fork_rng(devices=[]), torch.device("meta"):
        return recipe.build(CLASSES[recipe.data]).macs()[-1]


def work(training: Training, profile: Profile) -> float:
    """MACs of one training: images seen x MACs of the full network x (1 + `BACKWARD`) x mean passes of a step, see `Passes.work`.

    With branched networks a step is one pass. That the images need no gradients is not taken off, nor that exits of weight 0 learn
    nothing.
    """
    recipe, steps = training.recipe, steps_of_an_epoch(training.recipe, profile)
    epochs = float(recipe.recipe.epochs)
    if isinstance(recipe, fronts.Parameters):
        epochs = float(passes(training.run, steps, LOOKED_AT).work().sum())
    return epochs * steps * batch_size(recipe) * (1 + BACKWARD) * full_macs(recipe)


def step_1_times(rounds: int, seed: int) -> list[float]:
    """(rounds,) seconds of the analysis of MobileNet-v2 for ImageNet: graph, subnetworks, TAS and best paths, as the paper sets them."""
    module = get_model("mobilenet_v2", weights=None)
    call = partial(analyze, module, (1, 3, fronts.SIDE["imagenet"], fronts.SIDE["imagenet"]), seed=seed)
    found: list[float] = rounded(measure([call], rounds=rounds, seed=seed, warm_up=0)[0] / 1e3)
    return found


def step_times(recipe: Recipe, images: int, steps: int, seed: int) -> list[float]:
    """(steps,) milliseconds of the full network's forward and backward pass on random images, after one step that does not count.

    Weights are not updated: on few images that would weigh more than it does in a training.
    """
    fabric = make_fabric(precision=recipe.precision)
    torch.manual_seed(seed)
    net = recipe.build(CLASSES[recipe.data]).to(fabric.device).to(memory_format=torch.channels_last).train()
    x = torch.randn(images, *net.input_shape, device=fabric.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(CLASSES[recipe.data], (images,), device=fabric.device)

    def step() -> None:
        net.zero_grad(set_to_none=True)
        with fabric.autocast(), right_gradients():
            if isinstance(recipe, Branched):
                JointLoss(recipe.exit_weights).step(net, x, labels, step=1, backward=Tensor.backward)
            else:
                F.cross_entropy(net(x).float(), labels).backward()  # type: ignore[no-untyped-call]

    found: list[float] = rounded(measure([step], rounds=steps, seed=seed, warm_up=1, device=fabric.device)[0])
    return found
