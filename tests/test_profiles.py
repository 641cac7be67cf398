"""Are the four profiles frozen data that every experiment accepts?"""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from tipslib.errors import InvalidInput
from tipslib.experiments import EXPERIMENTS, plan_all
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.sources import LAYOUT


def test_there_are_four_from_small_to_large() -> None:
    assert list(PROFILES) == ["smoke", "laptop", "gpu", "paper"]
    assert all(name == profile.name and profile.summary for name, profile in PROFILES.items())


@pytest.mark.parametrize("name", ["huge", "Smoke", "", None, 3, ["smoke"]])
def test_an_unknown_profile_is_refused_with_those_there_are(name: object) -> None:
    with pytest.raises(InvalidInput, match="there are smoke, laptop, gpu, paper"):
        get_profile(name)  # type: ignore[arg-type]


def test_a_profile_is_found_by_name_or_is_itself() -> None:
    assert get_profile("gpu") is PROFILES["gpu"]
    assert get_profile(PROFILES["gpu"]) is PROFILES["gpu"]


def test_profiles_cannot_be_changed() -> None:
    settings = {"toy": {"number": 1}}
    profile = Profile("own", "for a test", {"digits": None}, (0,), False, settings)
    settings["toy"]["number"] = 2
    assert profile.settings["toy"]["number"] == 1
    with pytest.raises(FrozenInstanceError):
        profile.name = "other"  # type: ignore[misc]
    for frozen in (profile.settings, profile.settings["toy"], profile.datasets, PROFILES):
        with pytest.raises(TypeError, match="does not support item assignment"):
            frozen["new"] = 1  # type: ignore[index]


def test_smoke_reads_embedded_data_only_and_is_not_committed() -> None:
    assert set(PROFILES["smoke"].datasets) == {"digits"}
    assert [profile.name for profile in PROFILES.values() if not profile.committed] == ["smoke"]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
def test_data_sets_and_seeds_are_possible(profile: Profile) -> None:
    assert set(profile.datasets) <= {"digits", *LAYOUT}
    assert all(count is None or count > 0 for count in profile.datasets.values())
    assert len(set(profile.seeds)) == len(profile.seeds) > 0
    assert all(type(seed) is int and seed >= 0 for seed in profile.seeds)


@pytest.mark.parametrize("name", PROFILES)
def test_settings_are_of_experiments_that_accept_them(name: str) -> None:
    assert set(PROFILES[name].settings) <= set(EXPERIMENTS)
    for experiment in EXPERIMENTS:
        runs = plan_all(experiment, name)
        assert len({run.key for run in runs}) == len(runs) >= len(PROFILES[name].seeds)
