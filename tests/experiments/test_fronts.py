"""Fronts of supernets: what is trained, chosen and tested on, and that the accuracies in a record are those of real networks."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch

from tipslib import experiments, project
from tipslib.anytime import strategies
from tipslib.anytime.calibration import calibrate
from tipslib.errors import InvalidInput
from tipslib.experiments import plan_all
from tipslib.experiments.fronts import Parameters, run, split
from tipslib.profiles import PROFILES

SMOKE = PROFILES["smoke"]
QUICK = Parameters(network="mobilenet_v2", data="digits", width=0.1, epochs=1, batch_size=256, candidates=6, calibration=100)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))


def test_nothing_is_trained_on_that_decides_or_tests():
    data = split(QUICK, SMOKE, torch.device("cpu"), seed=0)
    held_out = torch.cat([x for x, _ in data.held_out])
    test = torch.cat([x for x, _ in data.test])
    assert data.images == {"training": 720 - 72, "held out": len(held_out), "test": len(test)}
    rows = {row.numpy().tobytes() for row in held_out}
    assert not rows & {row.numpy().tobytes() for images in data.calibration for row in images}
    assert len(torch.cat(data.calibration)) == QUICK.calibration
    trained = data.train._rows
    assert len(trained) == len(set(trained.tolist())) == 720 - 72
    # every strategy of one seed has the same split, another seed has another one
    again = split(replace(QUICK, strategy="OFA"), SMOKE, torch.device("cpu"), seed=0)
    assert torch.equal(again.train._rows, trained)
    assert not torch.equal(split(QUICK, SMOKE, torch.device("cpu"), seed=1).train._rows, trained)


def test_the_accuracies_are_those_of_exported_networks():
    outcome = run(QUICK, seed=0, profile=SMOKE)
    arrays, values = outcome.arrays, outcome.values
    assert arrays["loss"].shape == arrays["objective"].shape == (1,)
    assert (np.diff(arrays["macs"]) >= 0).all()
    assert (np.diff(arrays["held_out"]) >= 0).all()
    assert arrays["searched"].shape == (2, QUICK.candidates)
    assert values["macs"] == [arrays["searched"][0].min(), arrays["searched"][0].max()]
    assert len(values["important"]) == len(values["dimensions"]) == arrays["widths"].shape[1]
    # the same network once more, from its checkpoint, its subnetworks cut out and run as plain networks
    data = split(QUICK, SMOKE, torch.device("cpu"), seed=0)
    torch.manual_seed(0)
    net = QUICK.build(10)
    (checkpoint,) = (project.root() / "build" / "weights").glob("*.ckpt")
    net.load_state_dict(torch.load(io.BytesIO(checkpoint.read_bytes()[32:]), weights_only=True)["model"])
    net.eval().to(memory_format=torch.channels_last)
    for widths, macs, accuracy in zip(arrays["widths"].tolist(), arrays["macs"], arrays["test"], strict=True):
        assert net.macs(widths) == macs
        plain = net.export(widths, calibrate(net, widths, data.calibration)).eval()
        with torch.no_grad():
            right = sum(int((plain(images).argmax(1) == labels).sum()) for images, labels in data.test)
        assert accuracy == pytest.approx(right / values["images"]["test"], abs=1.5 / values["images"]["test"])


def test_every_strategy_of_every_network_is_planned_once():
    for profile, cells in (("smoke", 2), ("laptop", 2), ("gpu", 4), ("paper", 6)):
        runs = plan_all("fronts", profile)
        chosen = [(r.parameters["network"], r.parameters["data"], r.parameters["strategy"], r.seed) for r in runs]
        assert len(set(chosen)) == len(chosen) == (cells * len(strategies) - cells // 2) * len(PROFILES[profile].seeds)


def test_the_papers_own_recipe_is_the_default():
    large = Parameters(data="imagenet")
    assert (large.recipe.epochs, large.recipe.learning_rate, large.size) == (150, 0.04, 512)
    assert Parameters(network="resnet34", data="imagenet").recipe.epochs == 90
    small = Parameters(data="tiny-imagenet")
    assert (small.recipe.epochs, small.recipe.learning_rate, small.size) == (200, 0.08, 256)
    assert small.recipe.momentum == 0.9
    assert small.build(200).input_shape == (3, 64, 64)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"strategy": "tips"}, "allowed are US-Nets, Joslim"),
        ({"strategy": "OFA", "network": "resnet34"}, "choose mobilenet_v2"),
        ({"data": "cifar11"}, "allowed are digits"),
        ({"width": 0.0}, "above 0"),
        ({"epochs": 0}, "at least 1"),
        ({"batch_size": 1}, "at least 2"),
        ({"candidates": 1}, "at least 2"),
        ({"calibration": 1}, "at least 2"),
        ({"learning_rate": -1.0}, "above 0"),
    ],
)
def test_what_is_not_allowed_is_refused_before_any_work(wrong, words):
    with pytest.raises(InvalidInput, match=words):
        experiments.plan("fronts", **wrong)


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(InvalidInput, match="take a smaller one"):
        split(replace(QUICK, batch_size=4096), SMOKE, torch.device("cpu"), seed=0)
