"""Which records are there, of one profile and of the largest that has any?"""

from __future__ import annotations

import logging

from tipslib.errors import CorruptFile
from tipslib.experiments import plan_all
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import Record, Store

log = logging.getLogger(__name__)


def records_of(experiment: str, profile: Profile) -> list[Record]:
    """The records there are of an experiment, all its variants, with the profile's own parameters; nothing is computed.

    One that was cut or altered is named in a warning and left out.
    """
    found = []
    for run in plan_all(experiment, profile):
        try:
            found.append(Store(profile).find(run))
        except CorruptFile as error:
            log.warning("%s; it is left out here", error)
    return [record for record in found if record is not None]


def kept(experiment: str, profile: str | Profile) -> list[Record]:
    """The stored records of an experiment at the largest profile above `profile` that has any; none if no profile has.

    They may be some of the runs that their profile plans.

    Raises
    ------
    InvalidInput
        There is no such experiment or profile.
    """
    names = list(PROFILES)
    above = names[names.index(get_profile(profile).name) + 1 :]
    return next((found for name in reversed(above) if (found := records_of(experiment, get_profile(name)))), [])
