"""What does a run of `pruning` count, does a killed one go on, and are weights that are missing or altered refused with the way out?"""

from __future__ import annotations

import hashlib
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import nn
from torchvision.models import mobilenet_v2, resnet18, resnext50_32x4d

from tipslib.anytime.pruning import Pruner
from tipslib.batches import batches
from tipslib.data import load
from tipslib.errors import CorruptFile, InvalidInput, MissingData
from tipslib.experiments import plan, plan_all, pruning
from tipslib.experiments.pruning import FIG4, FIG8, SIDE, Parameters, block_of, describe, official, role_of, trained, unavoidable
from tipslib.profiles import PROFILES
from tipslib.topology import NetworkGraph, all_paths

SMOKE = PROFILES["smoke"]
RATIOS = (0.1, 0.6)
QUICK = Parameters(
    network="trained",
    data="digits",
    images=150,
    ratios=RATIOS,
    depth=10,
    width=1 / 16,
    epochs=1,
    batch_size=128,
    learning_rate=0.05,
    subnetworks=4,
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    return tmp_path


def test_a_run_counts_what_pruning_by_hand_counts(home: Path) -> None:
    outcome = pruning.run(QUICK, seed=0, profile=SMOKE)
    module, _ = trained(QUICK, seed=0, profile=SMOKE)
    test = load("digits", "test", SMOKE)
    plain = batches(test, 150, generator=torch.Generator(), order=torch.arange(150), augment=False, size=SIDE, channels=3)
    images, labels = next(iter(plain))
    assert outcome.values["samples"] == 150
    with torch.no_grad():
        assert outcome.values["unpruned"] == int((module(images).argmax(1) == labels).sum())
    for o in (0, 3, 7):
        layer = module.get_submodule(outcome.values["operations"][o]["name"])
        for r in range(len(RATIOS)):
            left = int(outcome.arrays["kept"][o, r])
            hook = layer.register_forward_hook(lambda of, given, made, left=left: made.index_fill(1, torch.arange(left, made.shape[1]), 0))
            with torch.no_grad():
                right = int((module(images).argmax(1) == labels).sum())
            hook.remove()
            assert outcome.arrays["correct"][o, r] == right
    assert outcome.arrays["important"].dtype == np.bool_
    assert outcome.arrays["important"].sum() >= 2
    assert set(outcome.data) == {"digits train", "digits test"}
    again = pruning.run(QUICK, seed=0, profile=SMOKE)
    np.testing.assert_array_equal(again.arrays["correct"], outcome.arrays["correct"])


def test_a_killed_run_goes_on_and_counts_the_same(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure, seen = Pruner.measure, []

    def dies(self: Pruner, images: torch.Tensor, *rest: Any) -> Any:
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(len(images))
        return measure(self, images, *rest)

    monkeypatch.setattr(pruning, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(Pruner, "measure", dies)
    with pytest.raises(KeyboardInterrupt):
        pruning.run(QUICK, seed=0, profile=SMOKE)
    assert seen == [64, 64]
    (kept,) = (home / "build" / "pruning").glob("*.npz")

    more: list[int] = []
    monkeypatch.setattr(Pruner, "measure", lambda self, images, *rest: more.append(len(images)) or measure(self, images, *rest))
    resumed = pruning.run(QUICK, seed=0, profile=SMOKE)
    assert more == [22]
    # fewer images: what was counted serves, but for the last batch, which ends elsewhere
    fewer = Parameters(**{name: getattr(QUICK, name) for name in Parameters.__dataclass_fields__} | {"images": 140})
    assert pruning.run(fewer, seed=0, profile=SMOKE).values["samples"] == 140
    assert more == [22, 12]
    kept.unlink()
    whole = pruning.run(QUICK, seed=0, profile=SMOKE)
    np.testing.assert_array_equal(resumed.arrays["correct"], whole.arrays["correct"])

    kept.write_bytes(kept.read_bytes()[:100])
    with pytest.raises(CorruptFile, match="Delete it to count anew"):
        pruning.run(QUICK, seed=0, profile=SMOKE)


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """torchvision's folder of weights, empty, and no way to fill it."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def refused(*given: Any, **options: Any) -> None:
        raise URLError("no network here")

    monkeypatch.setattr(torch.hub, "download_url_to_file", refused)
    (tmp_path / "checkpoints").mkdir()
    return tmp_path / "checkpoints"


def test_weights_that_cannot_be_had_are_missing_data_with_the_way_out(shelf: Path) -> None:
    with pytest.raises(MissingData, match=r"resnet34-b627a593.pth are not here.*Download https://\S+ .*TORCH_HOME"):
        official("resnet34")


def test_weights_are_checked_against_the_hash_in_their_name(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (shelf / "mobilenet_v2-b0353104.pth").write_bytes(b"altered")
    with pytest.raises(CorruptFile, match="does not begin with b0353104"):
        official("mobilenet_v2")

    made = mobilenet_v2()
    torch.save(made.state_dict(), shelf / "new.pth")
    name = f"mobilenet_v2-{hashlib.sha256((shelf / 'new.pth').read_bytes()).hexdigest()[:8]}.pth"
    (shelf / "new.pth").rename(shelf / name)
    monkeypatch.setattr(pruning, "get_model_weights", lambda _: {"IMAGENET1K_V1": SimpleNamespace(url=f"https://example.org/{name}")})
    found, file = official("mobilenet_v2")
    assert file == name
    assert not found.training
    assert all(torch.equal(value, found.state_dict()[key]) for key, value in made.state_dict().items())


def test_what_is_said_of_operations() -> None:
    module = mobilenet_v2()
    rows = describe(module, Pruner(module, (3, 64, 64)))
    by_name = {row["name"]: row for row in rows}
    assert [rows[0]["position"], rows[-1]["position"]] == [0.0, 1.0]
    narrowing = by_name["features.4.conv.2"]
    assert {k: narrowing[k] for k in ("block", "role", "channels", "stride", "unavoidable")} == {
        "block": "features.4",
        "role": "narrowing 1x1",
        "channels": 32,
        "stride": 1,
        "unavoidable": True,
    }
    assert by_name["features.4.conv.1.0"]["stride"] == 2
    assert by_name["features.5.conv.0.0"]["role"] == "widening 1x1"
    assert by_name["features.5.conv.1.0"]["role"] == "depthwise"
    assert not by_name["features.5.conv.1.0"]["unavoidable"]
    assert by_name["features.0.0"]["block"] == "features.0.0"
    assert by_name["classifier.1"]["role"] == "linear"
    assert role_of(resnext50_32x4d().get_submodule("layer1.0.conv2")) == "grouped"
    assert role_of(nn.Conv2d(3, 3, 3)) == "dense"
    assert block_of(resnet18(), "layer2.0.downsample.0") == "layer2.0"


def test_unavoidable_is_on_each_path_there_is() -> None:
    graph = NetworkGraph.from_module(resnet18(), (1, 3, 64, 64))
    ends = [{(int(a), int(b)) for a, b in pairwise(path)} for path in all_paths(graph)]
    expected = [all((o.source, o.target) in path for path in ends) for o in graph.operations]
    assert unavoidable(graph).tolist() == expected
    assert 2 <= sum(expected) < len(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": "mobilenet_v2", "data": "cifar10"}, "allowed are imagenet, imagenet-val-1300"),
        ({"network": "trained", "data": "imagenet"}, "allowed are digits"),
        ({"ratios": ()}, "between 0 and 1"),
        ({"ratios": (0.5, 1.0)}, "between 0 and 1"),
        ({"ratios": (0.5, 0.1)}, "increasing"),
        ({"images": 0}, "at least 1"),
        ({"subnetworks": 0}, "at least 1"),
        ({"coupling": 2.0}, "lambda"),
        ({"restart": 1.0}, "kappa"),
    ],
)
def test_bad_parameters_are_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Parameters(**given)


def test_how_other_networks_are_trained_changes_nothing_for_official_weights() -> None:
    assert Parameters(epochs=3, width=0.5) == Parameters()
    assert Parameters(network="trained", data="digits", epochs=3) != Parameters(network="trained", data="digits")
    assert Parameters(network="trained", data="digits").training.exit_weights == (0.0, 0.0, 0.0, 1.0)


def test_each_profile_plans_the_networks_whose_data_it_reads() -> None:
    planned = {name: plan_all("pruning", name) for name in PROFILES}
    subjects = {name: {(run.parameters["network"], run.parameters["data"]) for run in runs} for name, runs in planned.items()}
    assert subjects["smoke"] == {("trained", "digits")}
    assert subjects["laptop"] == {("trained", "digits"), ("trained", "cifar10"), ("mobilenet_v2", "imagenet-val-1300")}
    assert {network for network, data in subjects["paper"] if data == "imagenet"} == {*FIG4, *FIG8}
    assert all(len({run.key for run in runs}) == len(runs) for runs in planned.values())
    for name in PROFILES:
        assert plan("pruning", profile=name).parameters["data"] in PROFILES[name].datasets
