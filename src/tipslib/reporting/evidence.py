"""Which records are there, of one profile and of the largest that has any?"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

from tipslib.errors import CorruptFile
from tipslib.experiments import plan_all
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import Record, Store
from tipslib.reporting.claims import Claim, Finding, Verdict, claims

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


@dataclass(frozen=True)
class Entry:
    """A claim, what its test says, and the profile of the records that were tested (None: there are none)."""

    claim: Claim
    finding: Finding
    profile: str | None


def ledger(profile: str | Profile | None = None) -> list[Entry]:
    """Every claim with its verdict, at one profile, or each at the largest profile whose records say anything about it.

    Raises
    ------
    InvalidInput
        There is no such profile.
    """
    names = list(PROFILES)[::-1] if profile is None else [get_profile(profile).name]
    records: dict[tuple[str, str], list[Record]] = {}
    return [_judged(claim, names, records) for claim in claims().values()]


def _judged(claim: Claim, names: list[str], records: dict[tuple[str, str], list[Record]]) -> Entry:
    """At the first of the profiles that says more than "not run"; `records` keeps what was read before."""
    entry = None
    for entry in _tested(claim, names, records):
        if entry.finding.verdict is not Verdict.NOT_RUN:
            return entry
    assert entry is not None
    return Entry(claim, entry.finding, None)


def _tested(claim: Claim, names: list[str], records: dict[tuple[str, str], list[Record]]) -> Iterator[Entry]:
    for name in names:
        where = claim.experiment, name
        if where not in records:
            records[where] = records_of(claim.experiment, get_profile(name))
        yield Entry(claim, claim.judge(records[where]), name)
