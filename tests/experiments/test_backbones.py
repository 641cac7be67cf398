"""The backbones of Fig. 4: what is varied, what it costs, and that a run is what the library says."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tipslib.branched import POLICIES, branched_resnet
from tipslib.errors import InvalidInput
from tipslib.experiments import backbones, get_experiment, plan_all
from tipslib.experiments.backbones import EXITS, RISING, VARIANTS, WIDTHS, Parameters, full_size_macs
from tipslib.experiments.branches import Branched
from tipslib.profiles import PROFILES
from tipslib.records import Outcome
from tipslib.reporting.published import quoted

QUICK = Parameters(data="digits", width=0.0625, epochs=1, batch_size=256, learning_rate=0.1, thresholds=12)


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Checkpoints go into a folder of their own."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setattr("tipslib.experiments.branches.project", SimpleNamespace(root=lambda: home))
        yield home


@pytest.fixture(scope="module")
def outcome(elsewhere: object) -> Outcome:
    return backbones.run(QUICK, seed=1, profile=PROFILES["smoke"])


def test_variants_are_those_of_the_paper() -> None:
    assert {v["exits"] for v in VARIANTS if "exits" in v} | {4} == set(EXITS)
    assert (EXITS[0], EXITS[-1]) == (quoted("progressive-branches-min").value, quoted("progressive-branches-max").value)
    thinnest = quoted("progressive-width-dropoff-low").value, quoted("progressive-width-dropoff-high").value
    assert tuple(100 * w for w in WIDTHS[:2]) == thinnest
    assert sum(RISING) == pytest.approx(1)
    assert list(RISING) == sorted(set(RISING))
    assert RISING[-1] == quoted("progressive-final-weight").value


@pytest.mark.parametrize("profile", ["smoke", "laptop", "gpu", "paper"])
def test_every_profile_plans_every_variant_once_a_seed(profile: str) -> None:
    runs = plan_all("backbones", profile)
    assert len({run.key for run in runs}) == len(VARIANTS) * len(PROFILES[profile].seeds)
    assert get_experiment("backbones") is backbones


def test_macs_at_full_size_are_those_of_a_network_with_weights() -> None:
    assert full_size_macs(Parameters(width=0.25, exits=6)) == branched_resnet(18, exits=6).macs()
    assert full_size_macs(Parameters(relative_width=0.5)) == branched_resnet(18, width=0.5).macs()
    assert [round(m / 1e6, 2) for m in full_size_macs(QUICK)] == [152.81, 287.04, 421.27, 555.49]


def test_a_run_holds_modes_of_every_policy_on_the_whole_test_set(outcome: Outcome) -> None:
    values, arrays = outcome.values, outcome.arrays
    assert values["samples"] == 359
    assert len(values["losses"]) == 1
    assert set(arrays) == {"thresholds", *POLICIES}
    for policy in POLICIES:
        assert arrays[policy].shape == (2, 12)
        assert (values["macs"][0] <= arrays[policy][0]).all()
        assert (arrays[policy][0] <= values["macs"][-1]).all()
    macs, accuracy = arrays["entropy"]
    assert macs[0] == values["macs"][0]
    assert accuracy[0] == pytest.approx(values["accuracy"][0])
    assert arrays["oracle"][1].max() >= max(values["accuracy"]) - 1e-12


def test_a_run_is_repeatable_and_its_seed_matters(outcome: Outcome) -> None:
    again = backbones.run(QUICK, seed=1, profile=PROFILES["smoke"])
    other = backbones.run(QUICK, seed=2, profile=PROFILES["smoke"])
    np.testing.assert_array_equal(outcome.arrays["entropy"], again.arrays["entropy"])
    assert outcome.values["losses"] != other.values["losses"]


def test_relative_width_is_a_share_of_the_profiles_width(outcome: Outcome) -> None:
    thin = backbones.run(replace(QUICK, relative_width=0.5), seed=1, profile=PROFILES["smoke"])
    assert thin.values["macs"] == list(branched_resnet(18, width=0.03125).macs())
    assert outcome.values["macs"] == list(branched_resnet(18, width=0.0625).macs())


@pytest.mark.parametrize(
    "wrong",
    [{"relative_width": 0.0}, {"thresholds": 1}, {"exits": 1}, {"epochs": 0}, {"width": -1.0}, {"weights": (1.0,)}, {"data": "faces"}],
)
def test_impossible_parameters_are_named(wrong: dict) -> None:
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        Parameters(**wrong)


def test_the_mobilenet_follows_width_too() -> None:
    torch.manual_seed(0)
    full, thin = (Branched(network="mobilenet", width=w).build(10).macs()[-1] for w in (1.0, 0.25))
    assert thin < full / 4
