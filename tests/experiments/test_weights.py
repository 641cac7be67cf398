"""The sixteen weightings: the rows of Table 1, and a record that agrees with each measure taken by itself."""

import numpy as np
import pytest
import torch

from tipslib import experiments
from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.separation import class_separation
from tipslib.errors import InvalidInput
from tipslib.experiments import weights
from tipslib.experiments.branches import evaluation, train
from tipslib.experiments.weights import TABLE, VARIANTS, Parameters
from tipslib.profiles import PROFILES
from tipslib.reporting.published import published

SMOKE = PROFILES["smoke"]
SHARED = {"data": "digits", "width": 1 / 64, "epochs": 1, "batch_size": 128, "learning_rate": 0.05, "probe_epochs": 1, "thresholds": 20}
LATE = Parameters(**SHARED, weights=(0.0, 0.0, 0.6, 0.4))


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIPSLIB_HOME", str(tmp_path_factory.mktemp("home")))
        yield


@pytest.fixture(scope="module")
def outcome(home):
    return weights.run(LATE, seed=0, profile=SMOKE)


def test_rows_are_those_of_table_1():
    columns = [f"weight_{e}" for e in ("exit1", "exit2", "exit3", "final")]
    assert np.array(TABLE) == pytest.approx(published("progressive-table1")[columns].to_numpy())


@pytest.mark.parametrize("profile", PROFILES)
def test_every_row_is_a_run_of_every_profile(profile):
    runs = experiments.plan_all("weights", profile)
    assert len(runs) == len({run.key for run in runs}) == len(TABLE) * len(PROFILES[profile].seeds)
    assert [tuple(run.parameters["weights"]) for run in runs[:: len(PROFILES[profile].seeds)]] == [v["weights"] for v in VARIANTS]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"exits": 3, "weights": (0.3, 0.3, 0.4)}, "ResNet with 4 exits"),
        ({"network": "mobilenet"}, "ResNet with 4 exits"),
        ({"probe_epochs": 0}, "at least 1"),
        ({"thresholds": 1}, "at least 2"),
    ],
)
def test_impossible_parameters_are_refused(wrong, words):
    with pytest.raises(InvalidInput, match=words):
        Parameters(**SHARED | wrong)


def test_modes_offer_trained_exits_only(outcome):
    assert outcome.values["trained"]["exits"] == [2, 3]
    macs, accuracy = outcome.arrays["entropy"]
    first, last = outcome.values["trained"]["macs"]
    assert macs[0] == pytest.approx(first)
    assert first <= macs.min()
    assert macs.max() <= last
    assert accuracy[0] == pytest.approx(outcome.values["accuracy"][2])
    assert len(outcome.arrays["thresholds"]) == LATE.thresholds


def test_areas_belong_to_the_probes(outcome):
    values = outcome.values
    assert set(values["probes"]) == {"paper", "released"}
    for name, found in values["probes"].items():
        assert len(found) == len(values["layers"]) == 18
        padded = np.array([0.0, *found])
        assert values["auc"][name] == pytest.approx((padded[1:] + padded[:-1]).sum() / 36)
        assert values["auc"][name] == pytest.approx(found[0] / 36 + 17 / 18 * values["auc_without_origin"][name])


def test_separation_is_that_of_the_whole_test_set(outcome):
    net, _, _ = train(LATE, seed=0, profile=SMOKE)
    batches, data = evaluation(LATE, SMOKE, net)
    layers = probed_layers(net)
    with recording(net, layers) as outputs, torch.no_grad():
        net(torch.cat([images for images, _ in batches]))
    labels = torch.as_tensor(np.array(data.labels))
    assert outcome.values["separation"] == pytest.approx([class_separation(outputs[name], labels) for name in layers], rel=1e-4)
    assert outcome.values["layers"] == layers


def test_a_run_repeats_itself(outcome, home):
    again = weights.run(LATE, seed=0, profile=SMOKE)
    assert again.values == outcome.values
    for name, array in outcome.arrays.items():
        np.testing.assert_array_equal(again.arrays[name], array)


def test_ridge_probes_have_no_released_protocol(home):
    found = weights.run(Parameters(**SHARED | {"probe": "ridge"}, weights=LATE.weights), seed=0, profile=SMOKE)
    assert set(found.values["probes"]) == set(found.values["auc"]) == {"paper"}


def test_the_network_without_exits_has_a_single_mode(home):
    found = weights.run(Parameters(**SHARED | {"probe": "ridge"}, weights=TABLE[0]), seed=0, profile=SMOKE)
    macs, accuracy = found.arrays["entropy"]
    assert set(macs) == {float(found.values["trained"]["macs"][0])}
    assert set(accuracy) == {found.values["accuracy"][-1]}
