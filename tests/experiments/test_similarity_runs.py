"""CKA of trained networks: against each pair of layers by itself, and what must come out for a network and itself."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.similarity import cka
from tipslib.errors import InvalidInput
from tipslib.experiments import similarity
from tipslib.experiments.branches import evaluation, train
from tipslib.experiments.similarity import PLAIN, SECOND, Parameters, compare
from tipslib.profiles import PROFILES

SMOKE = PROFILES["smoke"]
QUICK = Parameters(data="digits", width=1 / 64, depth=10, epochs=1, batch_size=128, learning_rate=0.05, samples=400)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIPSLIB_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def outcome(home):
    return similarity.run(QUICK, seed=0, profile=SMOKE)


@pytest.fixture(scope="module")
def networks(home, outcome):
    plain = replace(QUICK, weights=PLAIN)
    one, two, branched = (train(p, seed=seed, profile=SMOKE)[0] for p, seed in ((plain, 0), (plain, SECOND), (QUICK, 0)))
    return {"one": one, "plain": two, "branched": branched}


def images(net):
    batches, _ = evaluation(QUICK, SMOKE, net)
    return torch.cat([batch for batch, _ in batches])


@pytest.mark.parametrize("pair", ["plain", "branched"])
@pytest.mark.parametrize("kind", ["biased", "debiased"])
def test_every_pair_of_layers_by_itself(outcome, networks, pair, kind):
    one, other = networks["one"], networks[pair]
    layers = probed_layers(one)
    with recording(one, layers) as x, recording(other, layers) as y, torch.no_grad():
        one(images(one))
        other(images(one))
    found = outcome.arrays[f"{pair} {kind}"]
    for i, j in ((0, 0), (2, 7), (9, 1), (5, 5)):
        assert found[i, j] == pytest.approx(cka(x[layers[i]], y[layers[j]], debiased=kind == "debiased"), abs=1e-5)
    assert outcome.values["layers"] == layers


def test_the_two_plain_networks_differ(outcome):
    assert outcome.arrays["plain biased"].max() < 1
    assert not np.allclose(outcome.arrays["plain biased"], outcome.arrays["branched biased"])


def test_a_network_is_like_itself(networks):
    one = networks["one"]
    layers = probed_layers(one)
    batches, _ = evaluation(QUICK, SMOKE, one)
    both = compare(one, {"itself": one}, layers, batches)
    assert list(both) == ["itself biased", "itself debiased"]
    for found in both.values():
        np.testing.assert_allclose(np.diag(found), 1, atol=1e-9)
        np.testing.assert_allclose(found, found.T, atol=1e-9)


def test_a_last_batch_that_is_too_small_is_left_out(networks):
    one = networks["one"]
    layers = probed_layers(one)
    ((batch, labels),) = evaluation(replace(QUICK, batch_size=400), SMOKE, one)[0]
    rest = (batch[:3], labels[:3])
    others = {"plain": networks["plain"]}
    whole = compare(one, others, layers, [(batch, labels)])
    again = compare(one, others, layers, [(batch, labels), rest])
    assert whole.keys() == again.keys()
    for name, found in whole.items():
        np.testing.assert_array_equal(again[name], found)


def test_the_branched_network_has_equal_weights():
    assert Parameters().exit_weights == pytest.approx((0.2, 0.2, 0.2, 0.4))
    assert Parameters().samples == 128


def test_too_few_samples_are_refused():
    with pytest.raises(InvalidInput, match="at least 4"):
        Parameters(samples=3)
