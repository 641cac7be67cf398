"""How many epochs fit a time budget on this machine? Some steps of every training are timed; the rest is arithmetic."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from tipslib import parameters
from tipslib.errors import require
from tipslib.experiments import get_experiment, plan_all
from tipslib.profiles import Profile, epochs_file, get_profile, kept_epochs
from tipslib.records import Run, write_atomically
from tipslib.training import watching

WARM, TIMED = 2, 8
"""Steps that are not timed, in which memory is laid out and kernels are chosen, and those that are."""


class _Enough(Exception):
    """Ends a training that has been timed."""


@dataclass(frozen=True)
class Pace:
    """How fast a run trains here.

    Attributes
    ----------
    run
        With the first seed of its profile.
    seconds
        Of one epoch of its first training.
    trainings
        How many networks it trains; all are taken to be as slow as the first.
    seeds
        How many runs differ from it in nothing but the seed, itself included.
    epochs
        That its profile plans.
    """

    run: Run
    seconds: float
    trainings: int
    seeds: int
    epochs: int


def paces(experiments: Sequence[str], profile: str | Profile) -> Iterator[Pace]:
    """Time every run that the artefacts of these experiments need, one seed of each.

    Raises
    ------
    InvalidInput
        There is no such experiment or profile, or one that trains nothing in epochs.
    """
    profile = get_profile(profile)
    planned = [run for name in experiments for run in plan_all(name, profile)]
    recipes = [getattr(_parameters(run), "recipe", None) for run in planned]
    for run, recipe in zip(planned, recipes, strict=True):
        require(recipe is not None, f"{run.experiment} trains no network in epochs; leave it out")
    for run, recipe in zip(planned, recipes, strict=True):
        if recipe is not None and run.seed == profile.seeds[0]:
            trainings = len(_parameters(run).trainings(run.seed))
            yield Pace(run, epoch_seconds(run, profile), trainings, len(profile.seeds), recipe.epochs)


def epoch_seconds(run: Run, profile: Profile) -> float:
    """Seconds of an epoch: the median time of some steps of the run's first training, batches included, by their number.

    The run is ended there. It neither reads nor writes a checkpoint, and leaves no record.
    """
    moments: list[float] = []
    steps = 0

    def look(steps_of_an_epoch: int) -> None:
        nonlocal steps
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        moments.append(time.perf_counter())
        steps = steps_of_an_epoch
        if len(moments) > WARM + TIMED:
            raise _Enough

    experiment, token = get_experiment(run.experiment), watching.set(look)
    try:
        experiment.run(_parameters(run), seed=run.seed, profile=profile)
    except _Enough:
        pass
    finally:
        watching.reset(token)
    require(len(moments) > WARM + TIMED, f"{run.experiment} trains for {len(moments)} steps only; {WARM + TIMED + 1} are wanted to time it")
    return float(np.median(np.diff(moments[WARM:]))) * steps


def hours(found: Sequence[Pace]) -> float:
    """Hours that all runs train for, one after another, with the epochs their profile plans.

    The sum of seconds x trainings x epochs x seeds / 3600.
    """
    return math.fsum(p.seconds * p.trainings * p.epochs * p.seeds for p in found) / 3600


def epochs_within(found: Sequence[Pace], budget: float) -> int:
    """The largest number of epochs with which all runs, trained one after another, end within a budget in hours.

    Raises
    ------
    InvalidInput
        Not even one epoch fits; the message says how much it takes. Or the budget is no time.
    """
    require(0 < budget < math.inf, f"{budget} hours; a finite time above 0 is wanted")
    one = hours([replace(pace, epochs=1) for pace in found])
    require(one <= budget, f"one epoch of every run takes {one:.3g} hours here, more than {budget:g}; give more time")
    return math.floor(budget / one)


def keep_epochs(profile: Profile, epochs: Mapping[str, int]) -> None:
    """From now on the profile trains these experiments for so many epochs: its runs, its pages, its claims.

    It is written beside the profile's records, which it belongs to. What was kept of other experiments stays.
    """
    require(profile.committed, f"profile {profile.name} keeps no records; its epochs are its own")
    together = kept_epochs(profile.name) | dict(epochs)
    write_atomically(epochs_file(profile.name), (json.dumps(together, indent=1, sort_keys=True) + "\n").encode())


def _parameters(run: Run) -> Any:
    return parameters.parse(get_experiment(run.experiment).Parameters, run.parameters)
