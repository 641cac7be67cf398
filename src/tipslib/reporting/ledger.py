"""What came out of every claim? One table, each claim at the largest profile that says anything about it."""

from __future__ import annotations

import hashlib
import io
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.records import Record, canonical
from tipslib.reporting.claims import Claim, Finding, Verdict, claims
from tipslib.reporting.display import SYMBOLS, badge, table
from tipslib.reporting.evidence import above, records_of
from tipslib.reporting.markup import Html, inline
from tipslib.reporting.style import use_style

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
    return _at(list(PROFILES)[::-1] if profile is None else [get_profile(profile).name])


def kept_ledger() -> list[Entry]:
    """Every claim with its verdict at the largest profile whose records are kept with the project: what is only recomputed is left out."""
    return _at([larger.name for larger in above("smoke")])


def _at(names: list[str]) -> list[Entry]:
    """Every claim at the first of these profiles that says anything about it."""
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


def draw_ledger(entries: Sequence[Entry], titles: Mapping[str, str]) -> Figure:
    """A square for each claim, a row for each page under its title: large where records of real data decide, small at `smoke`."""
    pages = list(dict.fromkeys(entry.claim.page for entry in entries))
    rows = {page: [entry for entry in entries if entry.claim.page == page] for page in pages}
    longest = max(map(len, rows.values()))
    figure, axes = plt.subplots(figsize=(4.1 + 0.27 * longest, 0.5 + 0.27 * len(pages)), layout="compressed")
    for y, page in enumerate(pages):
        for x, entry in enumerate(rows[page]):
            symbol, colour = SYMBOLS[entry.finding.verdict]
            side = 0.8 if entry.profile not in (None, "smoke") else 0.5
            filled = entry.finding.verdict is not Verdict.NOT_RUN
            corner = x - side / 2, y - side / 2
            axes.add_patch(Rectangle(corner, side, side, facecolor=colour if filled else "none", edgecolor=colour, linewidth=1))
            if filled:
                axes.text(x, y, symbol, ha="center", va="center_baseline", color="white", fontsize=11 * side, fontweight="bold")
    counts = Counter(entry.finding.verdict for entry in entries)
    handles = [Patch(facecolor=SYMBOLS[v][1] if v is not Verdict.NOT_RUN else "none", edgecolor=SYMBOLS[v][1]) for v in Verdict]
    names = [f"{SYMBOLS[v][0]} {v.value}: {counts[v]}" for v in Verdict]
    figure.legend(handles, names, loc="outside upper left", ncols=len(Verdict), fontsize=10, handlelength=1, handleheight=1, borderpad=0)
    axes.set(xlim=(-0.7, longest - 0.3), ylim=(len(pages) - 0.4, -0.6), xticks=[], yticks=range(len(pages)), aspect="equal")
    axes.set_yticklabels([titles[page].partition(":")[0] for page in pages])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def picture(entries: Sequence[Entry], titles: Mapping[str, str]) -> bytes:
    """`draw_ledger` as a PNG on white, which knows what it shows (`digest`)."""
    buffer = io.BytesIO()
    with plt.rc_context():
        use_style()
        figure = draw_ledger(entries, titles)
        figure.savefig(buffer, dpi=120, facecolor="white", metadata={"Description": digest(entries), "Software": None})
    plt.close(figure)
    return buffer.getvalue()


def digest(entries: Sequence[Entry]) -> str:
    """What a picture of these entries shows, in short: it is another one as soon as one verdict or profile is."""
    said = [(entry.claim.id, entry.claim.page, entry.finding.verdict.value, entry.profile) for entry in entries]
    return hashlib.sha256(canonical(said)).hexdigest()[:16]
