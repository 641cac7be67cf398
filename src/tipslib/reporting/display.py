"""How does a notebook show a result: figure, chart, table, verdicts, and where the numbers came from?

What these functions return is the last expression of a cell, or goes to `IPython.display.display`. Everything is HTML that
stands on its own: it needs no style sheet, no kernel and no network, and takes its text colour from the page around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure

from tipslib.errors import require
from tipslib.records import Record
from tipslib.reporting import VEGA_LITE
from tipslib.reporting.claims import Claim, Finding, Verdict, claims_of
from tipslib.reporting.disagreements import departures, why
from tipslib.reporting.markup import Html, csv_link, inked, inline, svg
from tipslib.reporting.style import INK

SYMBOLS: Mapping[Verdict, tuple[str, str]] = {
    Verdict.HOLDS: ("✔", "#009E73"),
    Verdict.FAILS: ("✘", "#D55E00"),
    Verdict.UNDECIDED: ("?", "#E69F00"),
    Verdict.NOT_RUN: ("○", "#8a8a8a"),
}

_SHORT, _LONG = 18, 40  # characters: a cell that stays on one line, and one that gets room
_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")


@dataclass(frozen=True)
class Markdown:
    """A piece of Markdown (with `$`-formulas) that a notebook shows."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite specification with what a reader needs beside it; `publish` turns it into HTML for the book."""

    spec: Mapping[str, Any]
    name: str
    alt: str
    caption: str

    def _ipython_display_(self) -> None:
        from IPython.display import HTML, display

        about = {"name": self.name, "alt": self.alt, "caption": self.caption}
        display({VEGA_LITE: dict(self.spec), "text/plain": self.alt}, raw=True, metadata={"tipslib": about})
        display(HTML(self.caption), metadata={"tipslib": "caption"})


def say(text: str) -> Markdown:
    """Show a sentence whose numbers were computed; `text` is Markdown."""
    return Markdown(text)


def figure(fig: Figure, *, name: str, caption: str, alt: str, data: pd.DataFrame) -> Html:
    """Show a matplotlib figure as an inline drawing that follows the colours of the page, and close it.

    Parameters
    ----------
    fig
        The figure, drawn after `style.use_style()`.
    name
        Its anchor and file name, kebab-case, unique in its page.
    caption
        What the figure shows; inline Markdown (`*`, `**`, code, links, `$`-formulas).
    alt
        What a reader who cannot see it needs to know.
    data
        The numbers behind it, offered as CSV.

    Raises
    ------
    InvalidInput
        `name` is not kebab-case, or `caption` or `alt` is empty.
    """
    _check(name, caption, alt)
    drawing = svg(fig, name, alt)
    plt.close(fig)
    body = f'<div style="overflow-x:auto">{drawing}</div>{_caption(caption, name, data)}'
    return Html(f'<figure id="{name}" class="tips-figure" style="margin:1.5em 0">{body}</figure>', f"[figure {name}: {alt}]")


def interactive(chart: Any, *, name: str, caption: str, alt: str, data: pd.DataFrame) -> Chart:
    """Show an Altair chart that a reader can play with, in JupyterLab and in the published book, where no kernel runs.

    Parameters are those of `figure`; `chart` is an Altair chart whose bound parameters (sliders, menus) have a `name=` for people.

    Raises
    ------
    InvalidInput
        `name` is not kebab-case, or `caption` or `alt` is empty.
    """
    _check(name, caption, alt)
    spec: dict[str, Any] = chart.to_dict()
    spec["$schema"] = spec["$schema"].replace("/v6", "/v5")
    spec["description"] = alt
    spec["background"] = "transparent"
    spec["usermeta"] = {"embedOptions": {"actions": False}}
    own = spec.get("config", {}) | {"view": {}}
    ours = _vega_config()
    spec["config"] = own | {part: values | own.get(part, {}) for part, values in ours.items()}
    return Chart(inked(spec), name, alt, _caption(caption, name, data))


def table(
    frame: pd.DataFrame, *, name: str, caption: str, formats: Mapping[str, str | Callable[[Any], str]] | None = None, data: bool = True
) -> Html:
    """Show a table with its caption and a link to its numbers as CSV.

    Parameters
    ----------
    frame
        One row a row; the index becomes row headers if it has a name. Text may hold inline Markdown and
        `$`-formulas, and is escaped; `Html` cells are taken as they are.
    name, caption
        As for `figure`.
    formats
        Column -> format specification (`".2f"`) or function to text; missing values show as a dash.
    data
        Whether to offer the CSV.

    Raises
    ------
    InvalidInput
        `name` is not kebab-case, `caption` is empty, or `formats` names a column that is not there.
    """
    _check(name, caption, name)
    formats = formats or {}
    for column in formats:
        require(column in frame.columns, f"formats names the column {column!r}; there are {', '.join(map(str, frame.columns))}")
    headed = frame.index.name is not None
    right = [pd.api.types.is_numeric_dtype(frame[c]) for c in frame.columns]
    names = ([frame.index.name] if headed else []) + list(frame.columns)
    aligned = zip(names, [False] * headed + right, strict=True)
    head = "".join(f'<th scope="col" style="text-align:{"right" if r else "left"}">{inline(str(n))}</th>' for n, r in aligned)
    rows = []
    for label, values in zip(frame.index, frame.itertuples(index=False), strict=True):
        row = [_cell("th", label, None, False)] if headed else []
        row += [_cell("td", v, formats.get(c), r) for c, v, r in zip(frame.columns, values, right, strict=True)]
        rows.append(f"<tr>{''.join(row)}</tr>")
    top = f'<p id="{name}-caption" class="tips-caption" style="margin-bottom:0.5em">{inline(caption)}</p>'
    body = f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    cells = f'<table aria-labelledby="{name}-caption" style="margin-left:0">{body}</table>'
    box = f'<div style="overflow-x:auto" tabindex="0" role="region" aria-labelledby="{name}-caption">{cells}</div>'
    link = f"<p>{csv_link(name, frame)}</p>" if data else ""
    html = f'<div id="{name}" class="tips-table">{top}{box}{link}</div>'
    return Html(html, frame.to_string())


def badge(verdict: Verdict) -> Html:
    """A verdict as a symbol, a word and a colour: no reader needs all three."""
    symbol, colour = SYMBOLS[verdict]
    style = f"border:0.13em solid {colour};border-radius:0.4em;padding:0 0.4em;white-space:nowrap;font-weight:600"
    words = f'<span aria-hidden="true">{symbol}</span> {verdict.value}'
    return Html(f'<span class="verdict" style="{style}">{words}</span>', f"{symbol} {verdict.value}")


def verdicts(experiment: str, records: Sequence[Record], page: str | None = None) -> Html:
    """Judge every claim that `experiment` decides on `records`, and show verdict, sentence, effect, interval, seeds and profile.

    With `page`, only the claims that belong to that notebook. Where one does not hold, it is said how the runs differ from the
    paper's.

    Raises
    ------
    InvalidInput
        There is no such experiment.
    """
    profile = records[0].run.profile if records else "none"
    shown = [claim for claim in claims_of(experiment) if page in (None, claim.page)]
    found = [(claim, claim.judge(records), profile) for claim in shown]
    listed = findings_list(found)
    smaller = departures(records) if any(finding.verdict is Verdict.FAILS for _, finding, _ in found) else ""
    if not smaller:
        return listed
    size = f"Where these runs differ from the paper's: {smaller}."
    return Html(f"{listed.html}<p>{inline(size)}</p>", f"{listed.text}\n{size}")


def findings_list(found: Sequence[tuple[Claim, Finding, str | None]], page: str | None = None) -> Html:
    """Claims with what their tests said, and the profile of the records; each sentence links to its place on `page`, if that is given."""
    items, plain = [], []
    for claim, finding, profile in found:
        source = {"tips": "TIPS", "progressive": "Progressive intelligence", "companion": "this companion"}[claim.paper]
        words = inline(claim.words) if page is None else f'<a href="{page}#{claim.id}">{inline(claim.words)}</a>'
        known = why(claim.id, profile) if finding.verdict is Verdict.FAILS else ""
        explained = f"<em>What may explain it:</em> {inline(known)}<br>" if known else ""
        items.append(
            f'<li id="{claim.id}" style="margin:0 0 1em 0;list-style:none">{badge(finding.verdict).html} '
            f"<strong>{words}</strong> <em>({source}, {inline(claim.where)})</em><br>{inline(finding.reason)}<br>"
            f"{explained}<small>{inline(claim.quantity)}: {finding.evidence} · profile {escape(profile or 'none')}</small></li>"
        )
        plain.append(f"{finding.verdict.value}: {claim.words}")
    return Html(f'<ul class="tips-verdicts" style="padding-left:0">{"".join(items)}</ul>', "\n".join(plain))


def provenance(*records: Record, page: str | None = None) -> Html:
    """Where the numbers of a page came from: profile, seeds, records, versions, time, and links to notebook and source.

    A record that is given twice counts once. `page` is the notebook's name, if it is not that of the experiment.
    """
    require(len(records) > 0, "provenance() wants the records that the page shows")
    records = tuple({record.run.key: record for record in records}.values())
    experiments = list(dict.fromkeys(r.run.experiment for r in records))
    versions = {n: v for r in records for n, v in r.provenance["versions"].items()}
    links = [f'<a class="tips-notebook" href="{n}.ipynb">notebook {n}</a>' for n in ([page] if page else experiments)]
    links += [f'<a class="tips-source" href="../src/tipslib/experiments/{e}.py">source of the experiment {e}</a>' for e in experiments]
    facts = {
        "profile": ", ".join(dict.fromkeys(r.run.profile for r in records)),
        "seeds": ", ".join(map(str, dict.fromkeys(r.run.seed for r in records))),
        "records": ", ".join(dict.fromkeys(r.run.key for r in records)),
        "computed in": f"{sum(r.provenance['seconds'] for r in records):.1f} s",
        "on": ", ".join(dict.fromkeys(f"{r.provenance['device']}, {_count(r.provenance['threads'], 'thread')}" for r in records)),
        "with": ", ".join(f"{n} {v}" for n, v in versions.items()),
    }
    shown = " · ".join(f"{escape(k)} {escape(v)}" for k, v in facts.items())
    plain = "; ".join(f"{k} {v}" for k, v in facts.items())
    return Html(f'<p class="tips-provenance"><small>{shown}<br>{"; ".join(links)}</small></p>', plain)


def _check(name: str, caption: str, alt: str) -> None:
    require(bool(_NAME.fullmatch(name)), f"name = {name!r}; kebab-case is wanted, such as 'tas-by-depth'")
    require(bool(caption.strip()), f"{name}: the caption is empty; it says what is to be seen")
    require(bool(alt.strip()), f"{name}: the alternative text is empty; it says what a reader who cannot see the figure needs")


def _vega_config() -> dict[str, Any]:
    text = {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "axis": text | {"domainColor": INK, "tickColor": INK, "gridColor": "#8a8a8a", "gridOpacity": 0.25},
        "legend": text,
        "header": {"labelColor": INK, "titleColor": INK, "labelFontSize": 12, "titleFontSize": 12},
        "title": {"color": INK, "subtitleColor": INK, "fontSize": 13, "anchor": "start", "fontWeight": "normal"},
        "text": {"color": INK},
        "rule": {"color": INK},
        "view": {"stroke": None, "continuousWidth": 560, "continuousHeight": 300},
    }


def _caption(caption: str, name: str, data: pd.DataFrame) -> str:
    return f'<figcaption style="margin-top:0.5em;text-align:left">{inline(caption)} {csv_link(name, data)}</figcaption>'


def _cell(tag: str, value: Any, how: str | Callable[[Any], str] | None, right: bool) -> str:
    if isinstance(value, Html):
        html = value.html
    else:
        missing = value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
        html = inline(how(value) if callable(how) else "–" if missing else format(value, how or ""))
    length = len(re.sub(r"<[^>]*>", "", html))
    if length > _LONG:
        html = f'<div style="min-width:min(14em, 40vw)">{html}</div>'
    width = ";white-space:nowrap" if length <= _SHORT else ""
    scope = ' scope="row"' if tag == "th" else ""
    return f'<{tag}{scope} style="text-align:{"right" if right else "left"}{width}">{html}</{tag}>'


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
