"""Which records does a page show beside those that it has just computed?"""

from __future__ import annotations

import logging

from tipslib.errors import CorruptFile
from tipslib.experiments import plan_all
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import Record, Run, Store

log = logging.getLogger(__name__)


def kept(experiment: str, profile: str | Profile) -> list[Record]:
    """The stored records of an experiment at the largest profile above `profile` that has any; none if no profile has.

    They may be some of the runs that their profile plans. A record that was cut or altered is left out with a warning.

    Raises
    ------
    InvalidInput
        There is no such experiment or profile.
    """
    names = list(PROFILES)
    above = names[names.index(get_profile(profile).name) + 1 :]
    for name in reversed(above):
        larger = get_profile(name)
        store = Store(larger)
        if found := [record for run in plan_all(experiment, larger) if (record := _whole(store, run)) is not None]:
            return found
    return []


def _whole(store: Store, run: Run) -> Record | None:
    try:
        return store.find(run)
    except CorruptFile as error:
        log.warning("%s; it is not shown", error)
        return None
