"""What the experiments on branched networks share: one training for all of them, answers in order, exits that learnt something."""

import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from tipslib.batches import PIXELS
from tipslib.branched.exits import entropy_thresholds
from tipslib.branched.networks import add_exits, resnet
from tipslib.data import load
from tipslib.errors import InvalidInput
from tipslib.experiments import backbones, branches, similarity, weights
from tipslib.experiments.branches import Branched, answers, as_arrays, evaluation, modes_of, summary, train, trained_exits
from tipslib.profiles import PROFILES

SMOKE = PROFILES["smoke"]
TINY = Branched(data="digits", width=1 / 64, depth=10, epochs=1, batch_size=128, learning_rate=0.05)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    return tmp_path


def checkpoints(home):
    return sorted((home / "build" / "weights").glob("*.ckpt"))


@pytest.mark.parametrize("experiment", [weights, similarity, backbones])
def test_defaults_are_the_authors_recipe(experiment):
    p = experiment.Parameters()
    assert (p.data, p.network, p.depth, p.width, p.epochs) == ("cifar10", "resnet", 18, 1.0, 200)
    assert (p.batch_size, p.learning_rate, p.weight_decay) == (128, 0.01, 5e-4)
    assert p.exit_weights == (0.2, 0.2, 0.2, 0.4)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"data": "svhn"}, "allowed are digits"),
        ({"network": "mobilenet", "exits": 5}, "MobileNet here has 4"),
        ({"exits": 1}, "allowed are 2 to 16"),
        ({"weights": (0.5, 0.5)}, "2 weights for 4 exits"),
        ({"weights": (0.5, 0.5, -0.5, 0.5)}, "negative"),
        ({"weights": (0.0, 0.0, 0.0, 0.0)}, "at least one"),
        ({"width": 0.0}, "above 0"),
        ({"batch_size": 1}, "at least 2"),
        ({"epochs": 0}, "at least 1"),
        ({"learning_rate": 0.0}, "above 0"),
    ],
)
def test_impossible_training_is_refused(wrong, words):
    with pytest.raises(InvalidInput, match=words):
        replace(TINY, **wrong)


def test_a_network_is_trained_once_for_all_experiments(home, monkeypatch):
    net, losses, data = train(TINY, seed=3, profile=SMOKE)
    assert len(checkpoints(home)) == 1
    assert len(losses) == TINY.epochs
    assert not net.training
    monkeypatch.setattr(branches.JointLoss, "step", lambda *args, **more: pytest.fail("trained again"))
    shared = {"data": "digits", "width": 1 / 64, "depth": 10, "epochs": 1, "batch_size": 128, "learning_rate": 0.05}
    again, same, _ = train(weights.Parameters(**shared, weights=(0.2, 0.2, 0.2, 0.4)), seed=3, profile=SMOKE)
    assert same == losses
    for name, value in again.state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[name], rtol=0, atol=0)
    assert len(data.labels) == len(load("digits", "train", SMOKE).labels)


@pytest.mark.parametrize("change", [{"weights": (0.0, 0.0, 0.0, 1.0)}, {"learning_rate": 0.02}, {"exits": 3}, {"batch_size": 100}])
def test_another_training_has_a_checkpoint_of_its_own(home, change):
    train(TINY, seed=0, profile=SMOKE)
    train(replace(TINY, **change), seed=0, profile=SMOKE)
    train(TINY, seed=1, profile=SMOKE)
    assert len(checkpoints(home)) == 3


def test_evaluation_shows_the_test_set_in_its_order():
    net = TINY.build(10).eval()
    batches, data = evaluation(TINY, SMOKE, net)
    assert torch.cat([labels for _, labels in batches]).tolist() == np.asarray(data.labels).tolist()
    logits, labels = answers(net, batches)
    assert logits.shape == (4, len(data.labels), 10)
    with torch.no_grad():
        images, found = next(iter(batches))
        first = torch.stack(net(images))
    torch.testing.assert_close(logits[:, : len(found)], first, rtol=1e-5, atol=1e-6)
    assert labels.tolist() == np.asarray(data.labels).tolist()
    assert PIXELS["digits"].flip is False


def test_the_test_set_is_made_anew_at_each_pass_and_not_kept():
    """Memory: bytes of the images and one batch of floats, whatever the size of the test set."""
    batches, data = evaluation(replace(TINY, batch_size=32), SMOKE, TINY.build(10))
    first = [(images.clone(), labels.clone()) for images, labels in batches]
    assert len(first) == -(-len(data.labels) // 32) > 3
    for (x, a), (y, b) in zip(first, batches, strict=True):
        assert torch.equal(x, y)
        assert torch.equal(a, b)
    made = [weakref.ref(images) for images, _ in batches]
    assert sum(ref() is not None for ref in made) == 0


@pytest.mark.parametrize(
    ("given", "places", "pools"),
    [
        ((0.0, 0.0, 0.6, 0.4), ["layer3"], [2]),
        ((0.2, 0.0, 0.0, 0.8), ["layer1"], [8]),
        ((0.2, 0.3, 0.0, 0.5), ["layer1", "layer2"], [8, 4]),
    ],
)
def test_exits_without_weight_are_not_offered_and_cost_nothing(given, places, pools):
    p = replace(TINY, weights=given)
    exits, macs = trained_exits(p, p.build(10))
    assert exits == [e for e, w in enumerate(given) if w > 0]
    assert macs == add_exits(resnet(10, 10, 1 / 64), places, pool=pools).macs()


def test_all_exits_and_none():
    net = TINY.build(10)
    assert trained_exits(TINY, net) == ([0, 1, 2, 3], net.macs())
    alone = replace(TINY, weights=(0.0, 0.0, 0.0, 1.0))
    exits, (macs,) = trained_exits(alone, net)
    assert exits == [3]
    assert macs < net.macs()[-1]


def test_summary_and_arrays_of_a_record():
    net = TINY.build(10).eval()
    batches, _ = evaluation(TINY, SMOKE, net)
    logits, labels = answers(net, batches)
    modes = modes_of(logits, labels, net.macs(), ("entropy", "oracle"), 7)
    arrays = as_arrays(modes)
    assert arrays["thresholds"] == pytest.approx(entropy_thresholds(10, 7))
    assert {name: a.shape for name, a in arrays.items()} == {"thresholds": (7,), "entropy": (2, 7), "oracle": (2, 7)}
    values = summary(net, (1.0,), logits, labels, modes)
    assert values["accuracy"] == pytest.approx([(z.argmax(1) == labels).double().mean().item() for z in logits])
    assert values["macs"] == list(net.macs())
    assert values["samples"] == len(labels)
    assert values["progressiveness"] == {name: m.progressiveness(net.macs()[-1]) for name, m in modes.items()}
