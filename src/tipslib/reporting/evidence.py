"""Which records are there, of one profile and of the largest that has any?"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from tipslib.errors import CorruptFile
from tipslib.experiments import get_experiment, plan, plan_all
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import Record, Run, Store

log = logging.getLogger(__name__)


def above(profile: str | Profile) -> list[Profile]:
    """Larger profiles, the largest first."""
    names = list(PROFILES)
    return [get_profile(name) for name in reversed(names[names.index(get_profile(profile).name) + 1 :])]


def records_of(experiment: str, profile: Profile) -> list[Record]:
    """The records there are of an experiment, all its variants, with the profile's own parameters; nothing is computed.

    One that was cut or altered is named in a warning and left out.
    """
    found = [_stored(run, profile) for run in plan_all(experiment, profile)]
    return [record for record in found if record is not None]


def kept(experiment: str, profile: str | Profile) -> list[Record]:
    """The stored records of an experiment at the largest profile above `profile` that has any; none if no profile has.

    They may be some of the runs that their profile plans.

    Raises
    ------
    InvalidInput
        There is no such experiment or profile.
    """
    return next((found for larger in above(profile) if (found := records_of(experiment, larger))), [])


def best(made: Sequence[Record]) -> list[Record]:
    """What a page shows: the runs `made` for it, at the largest profile above theirs that keeps all of them for some seed.

    Parameters
    ----------
    made
        Records of one profile, of one experiment or several.

    Returns
    -------
    list of Record
        In the order of `made`, with all seeds for which no run is missing. `made` itself where no larger profile has such a seed, and
        where a run is not one of the artefacts': somebody asked for other parameters.
    """
    own = get_profile(made[0].run.profile)
    found = [_variant(record.run, own) for record in made]
    wanted = {repr(variant): variant for variant in found if variant is not None}
    if None in found:
        return list(made)
    for larger in above(own):
        runs = [[plan(name, profile=larger, seed=seed, **overrides) for seed in larger.seeds] for name, overrides in wanted.values()]
        columns = zip(*([_stored(run, larger) for run in row] for row in runs), strict=True)
        if whole := [column for column in columns if None not in column]:
            return [record for row in zip(*whole, strict=True) for record in row if record is not None]
    return list(made)


def in_words(shown: Sequence[Record], made: Sequence[Record]) -> str:
    """A paragraph on which records a page shows in place of those that were `made` for it; empty where they are the same."""
    if shown[0].run.profile == made[0].run.profile:
        return ""
    seeds = list(dict.fromkeys(record.run.seed for record in shown))
    return (
        f"This page shows the kept records of profile `{shown[0].run.profile}`, seed{'s' if len(seeds) > 1 else ''} "
        f"{', '.join(map(str, seeds))}; the same runs were made anew at `{made[0].run.profile}` with it.\n\n"
    )


def _stored(run: Run, profile: Profile) -> Record | None:
    """None where there is no record, or one that was cut or altered, which a warning names."""
    try:
        return Store(profile).find(run)
    except CorruptFile as error:
        log.warning("%s; it is left out here", error)
        return None


def _variant(run: Run, profile: Profile) -> tuple[str, Mapping[str, Any]] | None:
    """Experiment and overrides of the run, if it is one that the artefacts need."""
    variants: Sequence[Mapping[str, Any]] = getattr(get_experiment(run.experiment), "VARIANTS", ({},))
    same = (v for v in variants if plan(run.experiment, profile=profile, seed=run.seed, **v).key == run.key)
    return next(((run.experiment, overrides) for overrides in same), None)
