"""How do a drawing, a line of Markdown and a table of numbers become HTML that needs nothing beside itself?"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from tipslib.reporting.style import INK


@dataclass(frozen=True)
class Html:
    """A piece of HTML that a notebook shows; `text` is what a reader without HTML gets."""

    html: str
    text: str

    def _repr_html_(self) -> str:
        return self.html

    def __repr__(self) -> str:
        return self.text


def inline(text: str) -> str:
    """Inline Markdown (`**`, `*`, code, relative links, `$`-formulas) as HTML; everything else is escaped."""
    kept: list[str] = []
    text = text.replace("\x00", "")

    def keep(html: str) -> str:
        kept.append(html)
        return f"\x00{len(kept) - 1}\x00"

    text = re.sub(r"`([^`]+)`", lambda m: keep(f"<code>{escape(m[1])}</code>"), text)
    text = re.sub(
        r"(?<!\\)\$([^$\s](?:[^$]*[^$\s])?)\$", lambda m: keep(f'<span class="math notranslate">\\({escape(m[1])}\\)</span>'), text
    )
    text = escape(text.replace(r"\$", "$"))
    text = re.sub(r"\[([^\]]+)\]\(([^)\s:]+)\)", r'<a href="\2">\1</a>', text)
    text = re.sub(r"\*\*(\S(?:.*?\S)??)\*\*", r"<strong>\1</strong>", text)
    text = re.sub(r"(?<![\w*])\*(\S(?:.*?\S)??)\*(?![\w*])", r"<em>\1</em>", text)
    return re.sub("\x00(\\d+)\x00", lambda m: kept[int(m[1])], text)


def csv_link(name: str, data: pd.DataFrame) -> str:
    """A link that saves `data` as `name`.csv, the file inside the page."""
    plain = data.map(lambda v: v.text if isinstance(v, Html) else v)
    content = base64.b64encode(plain.to_csv(index=data.index.name is not None, lineterminator="\n").encode()).decode()
    return f'<a class="tips-csv" download="{name}.csv" href="data:text/csv;charset=utf-8;base64,{content}">Data (CSV)</a>'


def svg(fig: Figure, name: str, alt: str) -> str:
    """The figure as one `<svg>` with `alt` as its label: the same bytes each time, ids that start with `name`, ink in `currentColor`."""
    width = float(fig.get_size_inches()[0]) * 96
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        fig.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawn = buffer.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(\bid="|xlink:href="#|url\(#)', rf"\g<1>{name}-", drawn)
    box = re.search(r'viewBox="[^"]+"', drawn)
    assert box is not None, "matplotlib always writes a viewBox"
    style = f"display:block;width:100%;height:auto;min-width:{0.52 * width:.0f}px;max-width:{width:.0f}px;margin:0 auto"
    lines = 'stroke-linejoin="round" stroke-linecap="butt"'
    tag = f'<svg role="img" aria-label="{escape(alt)}" {box[0]} style="{style}" {lines} xmlns:xlink="http://www.w3.org/1999/xlink">'
    return _inked_text(re.sub(r"<svg[^>]*>", lambda _: tag, drawn, count=1))


def _inked_text(text: str) -> str:
    return re.sub(INK, "currentColor", text, flags=re.IGNORECASE)


def inked(value: Any) -> Any:
    """`value` (JSON) with the ink of `style` as `currentColor`."""
    if isinstance(value, dict):
        return {k: inked(v) for k, v in value.items()}
    if isinstance(value, list):
        return [inked(v) for v in value]
    return "currentColor" if isinstance(value, str) and value.lower() == INK else value
