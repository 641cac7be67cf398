"""How large is a run? The four profiles, as data: an experiment never asks which one it runs under."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tipslib import project
from tipslib.errors import CorruptFile, InvalidInput, unreadable


@dataclass(frozen=True)
class Cell:
    """What a profile sets for the runs of an experiment in which the parameters `of` have these values."""

    of: Mapping[str, Any]
    settings: Mapping[str, Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "of", MappingProxyType(dict(self.of)))
        object.__setattr__(self, "settings", MappingProxyType(dict(self.settings)))

    def allows(self, overrides: Mapping[str, Any]) -> bool:
        """Whether `overrides` give none of the parameters `of` another value."""
        return all(overrides.get(name, value) == value for name, value in self.of.items())


@dataclass(frozen=True)
class Profile:
    """One size of the whole project.

    Attributes
    ----------
    name, summary
        What it is called, and one line for people.
    datasets
        Data sets the profile may read, with the number of training images it takes of each (None: all).
        Only embedded sets are listed where nothing may be downloaded.
    seeds
        One run per seed.
    committed
        True: records live in `data/records` and stay valid until their experiment's `VERSION` changes.
        False: records live in `build/records` and are recomputed whenever the experiment's source changes.
    settings
        Experiment name -> parameters that differ from the experiment's defaults, which are the papers' own.
    cells
        Experiment name -> the networks and data sets it is run on, where each has settings of its own.
    runs_per_job
        How many runs of one experiment share a process of the batch: more than one where starting a process takes as long as a run.
    """

    name: str
    summary: str
    datasets: Mapping[str, int | None]
    seeds: tuple[int, ...]
    committed: bool
    settings: Mapping[str, Mapping[str, Any]]
    cells: Mapping[str, tuple[Cell, ...]] = field(default_factory=dict)
    runs_per_job: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "datasets", MappingProxyType(dict(self.datasets)))
        frozen = {name: MappingProxyType(dict(values)) for name, values in self.settings.items()}
        object.__setattr__(self, "settings", MappingProxyType(frozen))
        object.__setattr__(self, "cells", MappingProxyType(dict(self.cells)))


_REAL_DATA = {"digits": None, "mnist": None, "cifar10": None, "cifar100": None, "tiny-imagenet": None, "imagenet-val-1300": None}

_BRANCHED = ("weights", "backbones", "similarity", "agreement", "pruning")


def _branched(**training: Any) -> dict[str, dict[str, Any]]:
    """The same training for every experiment on branched networks."""
    return {name: dict(training) for name in _BRANCHED}


_SMOKE_BRANCHED = _branched(data="digits", width=0.0625, epochs=3, batch_size=32, learning_rate=0.1)
_LAPTOP_BRANCHED = _branched(width=0.25, epochs=8, learning_rate=0.05, precision="bf16-mixed")
_GPU_BRANCHED = _branched(epochs=20, learning_rate=0.05, precision="bf16-mixed")


def _fronts(*cells: tuple[str, str, dict[str, Any]]) -> dict[str, tuple[Cell, ...]]:
    """Networks and data sets on which supernets are compared."""
    return {"fronts": tuple(Cell({"network": network, "data": data}, settings) for network, data, settings in cells)}


def _agreement(resnet: int, mobilenet: int) -> dict[str, tuple[Cell, ...]]:
    """Epochs of the two networks: the MobileNet's last exit starts from very small weights and learns later than all others."""
    return {"agreement": tuple(Cell({"network": n}, {"epochs": e}) for n, e in (("resnet", resnet), ("mobilenet", mobilenet)))}


_RATIOS = (0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99)
_PHOTOGRAPHS = {"network": "mobilenet_v2", "data": "imagenet-val-1300"}

PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        p.name: p
        for p in (
            Profile(
                name="smoke",
                summary="embedded data only, nothing downloaded; minutes on two CPU cores",
                datasets={"digits": 720},
                seeds=(0,),
                committed=False,
                settings=_SMOKE_BRANCHED
                | {
                    "proposition": {"data": "digits", "paths": 120, "images": 3, "resamples": 1000},
                    "pruning": _SMOKE_BRANCHED["pruning"] | {"network": "trained", "ratios": _RATIOS},
                    "weights": _SMOKE_BRANCHED["weights"] | {"probe_epochs": 2},
                    "fronts": {"epochs": 3, "batch_size": 48, "learning_rate": 0.015, "candidates": 12, "calibration": 128},
                    "latency": {"network": "small", "data": "digits", "subnetworks": 6, "exported": 1, "rounds": 6, "batch": 64},
                    "switching": {"network": "small", "data": "digits", "rounds": 20, "switches": 20},
                    "costs": {"rounds": 8, "steps": 1, "images": 2},
                },
                cells=_fronts(
                    ("mobilenet_v2", "digits", {"width": 0.25}),
                    ("resnet34", "digits", {"width": 0.125, "epochs": 2, "batch_size": 32}),
                )
                | _agreement(resnet=4, mobilenet=16),
                runs_per_job=6,
            ),
            Profile(
                name="laptop",
                summary="real data, subsets stated; hours on a few CPU cores",
                datasets=_REAL_DATA | dict.fromkeys(("mnist", "cifar10", "cifar100", "tiny-imagenet"), 10_000),
                seeds=(0, 1, 2),
                committed=True,
                settings=_LAPTOP_BRANCHED
                | {
                    "pruning": _LAPTOP_BRANCHED["pruning"] | _PHOTOGRAPHS | {"images": 2000, "ratios": _RATIOS},
                    "weights": _LAPTOP_BRANCHED["weights"] | {"probe_epochs": 2},
                    "fronts": {"epochs": 8, "batch_size": 32, "learning_rate": 0.03, "candidates": 200, "calibration": 1000},
                    "latency": {"data": "cifar100"},
                    "switching": {"data": "cifar100"},
                    "costs": {"steps": 5, "images": 8},
                },
                cells=_fronts(("mobilenet_v2", "cifar100", {"width": 0.5}), ("resnet34", "cifar100", {"width": 0.25}))
                | _agreement(resnet=8, mobilenet=32),
            ),
            Profile(
                name="gpu",
                summary="full CIFAR-10/100 and Tiny-ImageNet; hours on one GPU",
                datasets=_REAL_DATA,
                seeds=(0, 1, 2),
                committed=True,
                settings=_GPU_BRANCHED
                | {"pruning": _GPU_BRANCHED["pruning"] | _PHOTOGRAPHS, "fronts": {"epochs": 30, "precision": "bf16-mixed"}}
                | {"latency": {"data": "cifar100"}, "switching": {"data": "cifar100"}},
                cells=_fronts(*((network, data, {}) for network in ("mobilenet_v2", "resnet34") for data in ("cifar100", "tiny-imagenet"))),
            ),
            Profile(
                name="paper",
                summary="everything, ImageNet included, as the papers did it",
                datasets=_REAL_DATA | {"imagenet": None},
                seeds=(0, 1, 2),
                committed=True,
                settings={},
                cells=_fronts(
                    *((network, data, {}) for network in ("mobilenet_v2", "resnet34") for data in ("cifar100", "tiny-imagenet", "imagenet"))
                ),
            ),
        )
    }
)


def get_profile(name: str | Profile) -> Profile:
    """The profile of that name (a `Profile` is returned as it is), with the epochs that were kept for it (`tipslib.pace`).

    Raises
    ------
    InvalidInput
        There is no such profile; the message lists those there are.
    CorruptFile
        The file of its epochs is not what `tipslib epochs --keep` writes.
    """
    if isinstance(name, Profile):
        return name
    if not isinstance(name, str) or name not in PROFILES:
        raise InvalidInput(f"no profile {name!r}; there are {', '.join(PROFILES)}")
    profile = PROFILES[name]
    epochs = kept_epochs(name) if profile.committed else {}
    return _with_epochs(profile, epochs) if epochs else profile


def epochs_file(name: str) -> Path:
    """Where the epochs of a profile lie that follow from somebody's time budget: experiment -> epochs, as JSON."""
    return project.root() / "data" / "records" / name / "epochs.json"


def kept_epochs(name: str) -> dict[str, int]:
    """What stands in `epochs_file`, checked; empty where there is none."""
    path = epochs_file(name)
    if not path.exists():
        return {}
    try:
        epochs = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        epochs = None
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(epochs, dict) or not all(type(n) is int and n >= 1 for n in epochs.values()):
        raise CorruptFile(f'{path}: wanted is {{"experiment": epochs, ...}} with whole numbers from 1. Mend it or delete it')
    return epochs


def _with_epochs(profile: Profile, epochs: Mapping[str, int]) -> Profile:
    """All networks of an experiment train for as many, whatever its cells say."""
    settings = {name: dict(profile.settings.get(name, {})) | {"epochs": each} for name, each in epochs.items()}
    cells = {
        name: tuple(replace(cell, settings=dict(cell.settings) | {"epochs": each}) for cell in profile.cells.get(name, ()))
        for name, each in epochs.items()
        if name in profile.cells
    }
    return replace(profile, settings=dict(profile.settings) | settings, cells=dict(profile.cells) | cells)
