"""Is the work of trainings counted as a hand and as PyTorch count it, is every planned training there once, and what does a run measure?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tipslib import parameters
from tipslib.anytime.samplers import shared_index, shared_ratio
from tipslib.batches import epoch_generator
from tipslib.branched.joint import JointLoss
from tipslib.data import load
from tipslib.errors import InvalidInput
from tipslib.experiments import EXPERIMENTS, backbones, costs, fronts, get_experiment, needs, plan, plan_all, pruning, similarity
from tipslib.experiments.branches import Branched
from tipslib.experiments.costs import Parameters, Training, full_macs, network_of, steps_of_an_epoch, trained_by, trainings_of, work
from tipslib.experiments.passes import CLASSES, IMAGES
from tipslib.experiments.similarity import PLAIN, SECOND
from tipslib.profiles import PROFILES
from tipslib.records import Outcome

SMOKE, PAPER = PROFILES["smoke"], PROFILES["paper"]
BRANCHED = Branched(data="digits", depth=10, width=1 / 16, weights=(0.1, 0.2, 0.3, 0.4), batch_size=32, epochs=2)
SUPERNET = fronts.Parameters("resnet34", "US-Nets", "digits", width=1 / 16, epochs=1, batch_size=48)


def counted(net: Any, step: Callable[[Any, Tensor, Tensor], object], images: int = 4) -> float:
    """MACs of an image in whatever `step` computes, as PyTorch counts them."""
    with FlopCounterMode(display=False) as counter:
        step(net.train(), torch.randn(images, *net.input_shape), torch.zeros(images, dtype=torch.int64))
    return counter.get_total_flops() / 2 / images


def first_convolution(net: nn.Module, shape: tuple[int, ...]) -> int:
    """MACs of the layer that sees the images, whose gradients nobody asks for."""
    layer = next(m for m in net.modules() if isinstance(m, nn.Conv2d))
    return layer.weight.numel() * layer(torch.zeros(1, *shape))[0, 0].numel()


def test_three_passes_are_what_pytorch_counts_but_for_the_gradients_of_the_images() -> None:
    exits = BRANCHED.build(10)

    def joint(net: nn.Module, x: Tensor, y: Tensor) -> None:
        JointLoss(BRANCHED.exit_weights).step(net, x, y, step=0, backward=Tensor.backward)

    assert counted(exits, joint) == 3 * full_macs(BRANCHED) - first_convolution(exits, exits.input_shape)
    supernet = SUPERNET.build(10)
    spared = first_convolution(supernet.export(), supernet.input_shape)
    assert counted(supernet, lambda net, x, y: F.cross_entropy(net(x), y).backward()) == 3 * full_macs(SUPERNET) - spared


@pytest.mark.parametrize("recipe", [fronts.Parameters(network, "TIPS", "imagenet") for network in ("mobilenet_v2", "resnet34")])
def test_at_the_papers_sizes_what_is_not_taken_off_is_one_per_cent(recipe: fronts.Parameters) -> None:
    with torch.device("meta"):
        net = recipe.build(CLASSES[recipe.data])
        spared = first_convolution(net.export(), net.input_shape)
    assert spared / (3 * full_macs(recipe)) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("strategy", ["US-Nets", "DS-Net"])
def test_the_work_of_a_supernet_is_the_sum_over_its_passes(strategy: str) -> None:
    chosen = replace(SUPERNET, strategy=strategy)
    run = plan("fronts", profile=SMOKE, **parameters.to_json(chosen))
    net, images = chosen.build(10), 720
    steps = (images - images // 10) // 48
    assert steps == steps_of_an_epoch(chosen, SMOKE) <= costs.LOOKED_AT
    largest, by_hand = net.macs(net.space.largest), 0
    for step in range(steps):
        generator = epoch_generator(run.seed, step, 2)
        draw = shared_ratio if strategy == "US-Nets" else shared_index
        learn = [largest, net.macs(net.space.smallest), *(net.macs(draw(net.space, generator)) for _ in range(2))]  # type: ignore[operator]
        by_hand += 48 * (3 * sum(learn) + (largest if strategy == "DS-Net" else 0))
    assert work(Training(chosen, run, {"fronts": (0,)}), SMOKE) == pytest.approx(by_hand, rel=1e-12)


def test_the_work_of_a_network_with_exits_is_that_of_one_pass_a_step() -> None:
    run = plan("weights", profile=SMOKE)
    macs = BRANCHED.build(10).macs()[-1]
    assert work(Training(BRANCHED, run, {}), SMOKE) == 2 * (720 // 32) * 32 * 3 * macs


@pytest.mark.parametrize("profile", PROFILES)
def test_every_training_of_every_planned_run_is_there_once(profile: str) -> None:
    there = PROFILES[profile]
    found = trainings_of(there)
    assert len({training.recipe for training in found}) == len(found)
    wanted = {(t.recipe, seed, name) for t in found for name, seeds in t.seeds.items() for seed in seeds}
    runs = {
        (name, one.key): one
        for name in EXPERIMENTS
        if name != "costs"
        for run in plan_all(name, there)
        for one in (run, *needs(run, there))
        if hasattr(get_experiment(one.experiment).Parameters, "trainings")
    }
    assert wanted == {(recipe, seed, name) for (name, _), run in runs.items() for recipe, seed in trained_by(run)}
    supernets = [t for t in found if isinstance(t.recipe, fronts.Parameters)]
    assert sum(len(t.seeds["fronts"]) for t in supernets) == len(plan_all("fronts", there))
    assert {network_of(t.recipe).side for t in supernets} <= {32, 64, 224}


def test_networks_that_several_experiments_want_are_trained_for_all_of_them() -> None:
    found = {t.recipe: t for t in trainings_of(PAPER)}
    plain = found[Branched(weights=PLAIN)]
    assert plain.seeds["weights"] == plain.seeds["pruning"] == (0, 1, 2)
    assert set(plain.seeds["similarity"]) == {0, 1, 2, SECOND, SECOND + 1, SECOND + 2}
    assert set(found[Branched(weights=(0.2, 0.2, 0.2, 0.4))].seeds) == {"weights", "similarity", "backbones"}
    table_3 = [t.recipe for t in found.values() if "latency" in t.seeds]
    assert {(r.strategy, r.network, r.data) for r in table_3 if isinstance(r, fronts.Parameters)} == {
        (strategy, "mobilenet_v2", "imagenet") for strategy in ("TIPS", "Joslim")
    }


def test_what_an_experiment_says_it_trains() -> None:
    assert backbones.Parameters(relative_width=0.5, width=0.5).trainings(3) == ((Branched(width=0.25, weights=(0.2, 0.2, 0.2, 0.4)), 3),)
    assert [(p.weights, seed) for p, seed in similarity.Parameters().trainings(1)] == [
        (PLAIN, 1), (PLAIN, 1 + SECOND), ((0.2, 0.2, 0.2, 0.4), 1)
    ]  # fmt: skip
    assert pruning.Parameters().trainings(0) == ()
    assert pruning.Parameters("trained", "cifar10").trainings(0) == ((Branched(weights=PLAIN), 0),)
    assert fronts.Parameters(candidates=7).trainings(2) == ((fronts.Parameters(), 2),)


def test_numbers_of_images_are_those_of_the_data_sets() -> None:
    assert len(load("digits", "train", replace(SMOKE, datasets={"digits": None})).labels) == IMAGES["digits"]
    assert set(IMAGES) == set(CLASSES) - {"imagenet-val-1300"}  # which has nothing to train on
    recipe = fronts.Parameters("mobilenet_v2", "TIPS", "imagenet")
    assert steps_of_an_epoch(recipe, PAPER) == (1_281_167 - 10_000) // 512
    assert steps_of_an_epoch(Branched(), PROFILES["laptop"]) == 10_000 // 128


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return costs.run(Parameters(planned="smoke", rounds=2, steps=3, images=2), seed=0, profile=SMOKE)


def test_a_run_measures_what_it_says(outcome: Outcome) -> None:
    networks, trainings, timing = (outcome.values[name] for name in ("networks", "trainings", "timing"))
    assert np.array(timing["step_1_s"]).shape == (2,)
    assert np.array(timing["step_ms"]).shape == (len(networks), 3)
    assert min(np.min(times) for times in timing.values()) > 0
    assert {training["network"] for training in trainings} == set(range(len(networks)))
    assert all(network["images"] == 2 for network in networks)
    assert [training["work"] for training in trainings] == [work(t, SMOKE) for t in trainings_of(SMOKE)]
    tips = next(t for t in trainings if t["recipe"].get("strategy") == "TIPS" and t["recipe"]["network"] == "resnet34")
    assert (tips["epochs"], tips["images"], tips["seeds"]) == (2, 648 // 32 * 32, {"fronts": [0]})


def test_a_step_is_no_larger_than_that_of_the_training() -> None:
    values = costs.run(Parameters(planned="smoke", rounds=1, steps=1, images=40), seed=0, profile=SMOKE).values
    assert {network["images"] for network in values["networks"]} == {32, 40}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"planned": "huge"}, "planned = 'huge'; allowed are smoke, laptop, gpu, paper"),
        ({"rounds": 0}, "rounds = 0; at least 1"),
        ({"steps": 0}, "steps = 0; at least 1"),
        ({"images": 1}, "images = 1; batch norm needs at least 2"),
    ],
)
def test_bad_parameters_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Parameters(**given)
