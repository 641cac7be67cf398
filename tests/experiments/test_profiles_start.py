"""Does every experiment start at every profile, with the profile's own network, batch and precision, on data of the right shape?"""

import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from tipslib import parameters
from tipslib.experiments import get_experiment, plan_all
from tipslib.profiles import PROFILES

BRANCHED = ("weights", "backbones", "similarity", "agreement")


@pytest.fixture
def few_images(tmp_path, monkeypatch):
    """A folder of data sets with some images of random pixels, where any are wanted."""
    rng = np.random.default_rng(0)
    for name, classes in (("cifar10", 10), ("cifar100", 100)):
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        names = [str(c) for c in range(classes)]
        (folder / "classes.json").write_text(json.dumps(names))
        sums = {"classes": hashlib.sha256(json.dumps(names).encode()).hexdigest()}
        for split in ("train", "test"):
            images = rng.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
            labels = np.arange(12) % classes
            np.save(folder / f"{split}-images.npy", images)
            np.save(folder / f"{split}-labels.npy", labels)
            sums |= {
                f"{split}-{part}": hashlib.sha256(array.tobytes()).hexdigest() for part, array in (("images", images), ("labels", labels))
            }
        (folder / "checksums.json").write_text(json.dumps(sums))
    monkeypatch.setenv("TIPSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))


@pytest.mark.parametrize("profile", ["laptop", "gpu", "paper"])
@pytest.mark.parametrize("experiment", BRANCHED)
def test_a_branched_run_starts_and_ends(experiment, profile, few_images):
    # what is left of the run is its length alone: one epoch of one batch
    module, run = get_experiment(experiment), plan_all(experiment, profile)[-1]
    short = {"epochs": 1, "batch_size": 6} | ({"probe_epochs": 1} if experiment == "weights" else {})
    short |= {"samples": 6} if experiment == "similarity" else {}
    chosen = parameters.parse(module.Parameters, dict(run.parameters) | short)
    outcome = module.run(chosen, seed=run.seed, profile=PROFILES[profile])
    assert chosen.width == {"laptop": 0.25}.get(profile, 1.0)
    assert set(outcome.data) == {f"{chosen.data} train", f"{chosen.data} test"}
    assert all(np.isfinite(array).all() for array in outcome.arrays.values())


@pytest.fixture
def few_photographs(few_images, tmp_path):
    """And of those data sets that are folders of photographs, large enough for a window of 224 pixels."""
    rng = np.random.default_rng(0)
    for name, side in (("tiny-imagenet", 64), ("imagenet", 240)):
        for split in ("train", "val"):
            for i in range(20):
                path = tmp_path / "data" / name / split / f"n0{i % 2}" / f"{i}.JPEG"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 256, (side, side + 5, 3), dtype=np.uint8)).save(path)
        (tmp_path / "data" / name / "words.txt").write_text("n00\tapple\nn01\tbee\n")


SUPERNETS = {
    (profile, run.parameters["network"], run.parameters["data"]): run
    for profile in ("laptop", "gpu", "paper")
    for run in plan_all("fronts", profile)
    # on the smaller images `paper` differs from `gpu` in its length and precision alone
    if run.seed == 0 and run.parameters["strategy"] == "TIPS" and (profile != "paper" or run.parameters["data"] == "imagenet")
}


@pytest.mark.parametrize("cell", SUPERNETS, ids="-".join)
def test_a_supernet_is_trained_searched_and_tested(cell, few_photographs):
    # what is left of the run is its length alone: one epoch of one batch, and the smallest and the largest subnetwork
    module, run = get_experiment("fronts"), SUPERNETS[cell]
    short = {"epochs": 1, "batch_size": 6, "candidates": 2, "calibration": 6}
    outcome = module.run(parameters.parse(module.Parameters, dict(run.parameters) | short), seed=0, profile=PROFILES[cell[0]])
    data = cell[2]
    assert set(outcome.data) == {f"{data} train", f"{data} test"}
    assert np.isfinite(outcome.arrays["loss"]).all()
    assert len(outcome.arrays["test"]) >= 1
