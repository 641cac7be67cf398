"""What came out of every claim? One table, each claim at the largest profile that says anything about it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd

from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict, claims
from tipslib.reporting.display import badge, table
from tipslib.reporting.evidence import records_of
from tipslib.reporting.markup import Html, inline

_PAPERS = {"tips": "TIPS", "progressive": "Progressive intelligence", "companion": "this companion"}


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


def ledger_table(entries: Sequence[Entry]) -> Html:
    """The ledger for the book, each sentence linked to its place on its page; the page's script lets a reader sort and filter it."""
    rows = []
    for entry in entries:
        claim, finding = entry.claim, entry.finding
        known = finding.interval is not None and all(map(math.isfinite, finding.interval))
        link = f'<a href="notebooks/{claim.page}.html#{claim.id}">{inline(claim.words)}</a>'
        rows.append(
            {
                "Verdict": badge(finding.verdict),
                "Claim": Html(link, claim.words),
                "Paper": _PAPERS[claim.paper],
                "Where": claim.where,
                "Effect": "–" if finding.effect is None else f"{finding.effect:.4g}",
                "95 % interval": f"{finding.interval[0]:.4g} to {finding.interval[1]:.4g}" if known and finding.interval else "–",
                "Seeds": finding.seeds,
                "Profile": entry.profile or "–",
            }
        )
    caption = f"{len(entries)} claims with their verdicts. What the effect measures stands with each claim on its page."
    return table(pd.DataFrame(rows), name="ledger", caption=caption)
