import base64
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import altair
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tipslib.errors import InvalidInput
from tipslib.records import Record, Run
from tipslib.reporting import display
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.markup import Html, inline
from tipslib.reporting.style import COLOURS, INK, SERIES, use_style

VOID = {"br", "path", "use", "rect", "image"}


class Tree(HTMLParser):
    """Fails on tags that do not nest; keeps tags, attributes and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attributes for name, attributes in self.found if name == tag]


def lines(colour=SERIES[0]):
    use_style()
    fig, ax = plt.subplots(figsize=(6, 4))
    ax.plot([0, 1, 2], [1, 0, 2], color=colour, marker="o", label="wave")
    ax.set_xlabel("coupling $\\lambda$")
    ax.legend()
    return fig


NUMBERS = pd.DataFrame({"x": [0, 1]})


def shown(**changes):
    chosen = {"name": "two-waves", "caption": "A *wave*.", "alt": 'Up & down, "twice"', "data": NUMBERS} | changes
    return display.figure(lines(), **chosen)


def record(value=1.0, profile="smoke", seed=0):
    provenance = {"versions": {"torch": "2.0"}, "seconds": 1.25, "device": "x86_64 CPU", "threads": 2}
    return Record(Run("stability", {}, profile, seed, "v1"), {"value": value}, {}, provenance, Path("x.json"))


def csv_of(tree):
    (link,) = [a for a in tree.all("a") if a.get("class") == "tips-csv"]
    return link["download"], base64.b64decode(link["href"].split("base64,")[1]).decode()


def test_figure_is_labelled_captioned_and_offers_its_numbers():
    tree = Tree(shown(data=pd.DataFrame({"x": [1, 2], "y": [0.1, 1 / 3]})).html)
    assert tree.all("figure")[0]["id"] == "two-waves"
    assert tree.all("svg")[0]["role"] == "img"
    assert tree.all("svg")[0]["aria-label"] == 'Up & down, "twice"'
    assert "A wave." in tree.text
    name, content = csv_of(tree)
    assert name == "two-waves.csv"
    assert content == f"x,y\n1,0.1\n2,{1 / 3}\n"


def test_figure_draws_the_same_bytes_again():
    assert shown().html == shown().html


def test_figure_ink_follows_the_page_and_nothing_else_changes_colour():
    html = shown().html
    assert INK not in html
    assert "currentColor" in html
    assert SERIES[0].lower() in html
    assert "<style" not in html


def test_ids_of_two_figures_differ_and_every_reference_has_its_target():
    html = shown().html + shown(name="other").html
    ids = re.findall(r'\bid="([^"]+)"', html)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'xlink:href="#([^"]+)"|url\(#([^)]+)\)', html)) <= {(i, "") for i in ids} | {("", i) for i in ids}


def test_figure_is_closed():
    before = plt.get_fignums()
    shown()
    assert plt.get_fignums() == before


@pytest.mark.parametrize("wrong", [{"name": "Two Waves"}, {"name": ""}, {"caption": " "}, {"alt": ""}])
def test_figure_without_name_caption_or_alternative_is_refused(wrong):
    with pytest.raises(InvalidInput):
        shown(**wrong)
    plt.close("all")


def chart():
    slider = altair.param(name="level", value=1, bind=altair.binding_range(min=0, max=2, step=1, name="level "))
    mark = altair.Chart(pd.DataFrame({"x": [0, 1], "y": [1, 2]})).mark_line(color=INK)
    return mark.encode(x="x:Q", y="y:Q").add_params(slider).configure_axis(labelFontSize=20)


def test_interactive_keeps_the_chart_and_adds_what_a_reader_needs():
    shown = display.interactive(chart(), name="play", caption="Play.", alt="A line", data=NUMBERS)
    assert csv_of(Tree(shown.caption)) == ("play.csv", "x\n0\n1\n")
    spec = shown.spec
    assert spec["description"] == "A line"
    assert spec["params"][0]["bind"]["name"] == "level "
    assert spec["mark"]["color"] == "currentColor"
    assert spec["config"]["axis"]["labelFontSize"] == 20
    assert spec["config"]["axis"]["labelColor"] == "currentColor"
    assert "/v5" in spec["$schema"]


@pytest.mark.parametrize(("show", "drawn"), [(display.figure, lines), (display.interactive, chart)])
def test_nothing_is_shown_without_its_numbers(show, drawn):
    with pytest.raises(TypeError, match="data"):
        show(drawn(), name="bare", caption="Bare.", alt="Bare")
    plt.close("all")


def test_table_escapes_aligns_and_formats():
    frame = pd.DataFrame({"name": ["<b>", "$\\mu$"], "value": [1.25, np.nan], "state": [display.badge(Verdict.HOLDS), None]})
    tree = Tree(display.table(frame, name="numbers", caption="All *numbers*", formats={"value": ".1f"}).html)
    assert "All numbers" in tree.text
    assert "<b>" in tree.text
    assert "1.2" in tree.text
    assert tree.text.count("–") == 2
    assert "\\(\\mu\\)" in tree.text
    assert [a["scope"] for a in tree.all("th")] == ["col"] * 3
    assert csv_of(tree)[1].splitlines()[0] == "name,value,state"
    assert csv_of(tree)[1].splitlines()[1] == "<b>,1.25,✔ holds"


def test_table_with_a_named_index_has_row_headers():
    frame = pd.DataFrame({"value": [1, 2]}, index=pd.Index(["a", "b"], name="case"))
    tree = Tree(display.table(frame, name="numbers", caption="Two").html)
    assert [a["scope"] for a in tree.all("th")] == ["col", "col", "row", "row"]
    assert csv_of(tree)[1] == "case,value\na,1\nb,2\n"


def test_table_refuses_a_format_for_no_column():
    with pytest.raises(InvalidInput, match="there are value"):
        display.table(pd.DataFrame({"value": [1]}), name="numbers", caption="One", formats={"other": ".1f"})


@given(st.text())
def test_inline_never_lets_a_tag_of_the_text_through(text):
    tree = Tree(inline(text))
    assert {name for name, _ in tree.found} <= {"code", "span", "a", "strong", "em"}


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("a < b & c", "a &lt; b &amp; c"),
        ("**two** *words*", "<strong>two</strong> <em>words</em>"),
        ("**3** and **3.5**, *a* or *b*", "<strong>3</strong> and <strong>3.5</strong>, <em>a</em> or <em>b</em>"),
        ("`a*b*c`", "<code>a*b*c</code>"),
        ("$a < b$", '<span class="math notranslate">\\(a &lt; b\\)</span>'),
        (r"\$5 and \$6", "$5 and $6"),
        ("2 * 3 * 4", "2 * 3 * 4"),
        ("[page](method.html#a)", '<a href="method.html#a">page</a>'),
        ("[x](javascript:alert)", "[x](javascript:alert)"),
    ],
)
def test_inline(text, html):
    assert inline(text) == html


def test_every_badge_has_a_word_and_a_symbol_of_its_own():
    texts = [Tree(display.badge(v).html).text for v in Verdict]
    assert [t.split(" ", 1)[1] for t in texts] == [v.value for v in Verdict]
    assert len({t[0] for t in texts}) == len(Verdict)


def claim(test, profiles=("smoke",)):
    return Claim("one-two", "tips", "Sec. 1", "One is $< 2$", "difference", "stability", profiles, test)


@pytest.mark.parametrize(
    ("finding", "words"),
    [
        (Finding(Verdict.HOLDS, 0.5, None, 1, "all & sundry"), ["✔ holds", "all & sundry", "0.5 (exact; 1 seed)", "profile smoke"]),
        (Finding(Verdict.FAILS, 0.5, (0.25, 0.75), 3, "no"), ["✘ does not hold", "95 % interval 0.25 to 0.75; 3 seeds"]),
        (Finding(Verdict.UNDECIDED, None, None, 3, "who knows"), ["? undecided", "no number"]),
    ],
)
def test_verdicts_show_sentence_evidence_and_profile(monkeypatch, finding, words):
    monkeypatch.setattr(display, "claims_of", lambda experiment: [claim(lambda records: finding)])
    tree = Tree(display.verdicts("stability", [record()]).html)
    assert tree.all("li")[0]["id"] == "one-two"
    for word in words:
        assert word in tree.text


@pytest.mark.parametrize(("verdict", "explained"), [(Verdict.FAILS, True), (Verdict.HOLDS, False), (Verdict.UNDECIDED, False)])
def test_what_does_not_hold_is_explained_with_where_the_runs_differ(monkeypatch, verdict, explained):
    finding = Finding(verdict, 0.5, (0.25, 0.75), 1, "as it is")
    monkeypatch.setattr(display, "claims_of", lambda experiment: [claim(lambda records: finding)])
    monkeypatch.setattr(display, "why", lambda name, profile: f"{name} at {profile} is *odd*")
    monkeypatch.setattr(display, "departures", lambda records: f"{len(records)} run of < 2")
    shown = display.verdicts("stability", [record()])
    text = Tree(shown.html).text
    assert ("What may explain it: one-two at smoke is odd" in text) == explained
    assert ("Where these runs differ from the paper's: 1 run of < 2." in text) == explained
    assert ("1 run of < 2" in shown.text) == explained


def test_what_is_the_papers_in_all_respects_has_no_word_on_its_size(monkeypatch):
    finding = Finding(Verdict.FAILS, 0.5, None, 1, "no")
    monkeypatch.setattr(display, "claims_of", lambda experiment: [claim(lambda records: finding)])
    monkeypatch.setattr(display, "departures", lambda records: "")
    assert "runs differ" not in display.verdicts("stability", [record()]).html


def test_findings_of_a_ledger_link_to_their_page():
    found = [(claim(lambda records: None), Finding(Verdict.HOLDS, 1.0, None, 1, "yes"), "smoke")]
    tree = Tree(display.findings_list(found, page="notebooks/stability.html").html)
    assert [a["href"] for a in tree.all("a")] == ["notebooks/stability.html#one-two"]


def test_verdicts_without_records_are_not_run(monkeypatch):
    monkeypatch.setattr(display, "claims_of", lambda experiment: [claim(lambda records: pytest.fail("no record to test"))])
    assert "○ not run" in Tree(display.verdicts("stability", []).html).text


def test_provenance_names_what_made_the_page():
    records = [record(seed=0), record(seed=1)]
    tree = Tree(display.provenance(*records).html)
    for word in ("smoke", "seeds 0, 1", "2.5 s", "torch 2.0", "2 threads", *(r.run.key for r in records)):
        assert word in tree.text
    assert [a["href"] for a in tree.all("a")] == ["stability.ipynb", "../src/tipslib/experiments/stability.py"]


def test_provenance_of_a_page_with_a_name_of_its_own():
    hrefs = [a["href"] for a in Tree(display.provenance(record(), page="layers").html).all("a")]
    assert hrefs == ["layers.ipynb", "../src/tipslib/experiments/stability.py"]


def test_verdicts_of_one_page(monkeypatch):
    finding = Finding(Verdict.UNDECIDED, 0.5, (-math.inf, math.inf), 1, "who knows")
    both = [
        Claim(i, "tips", "Sec. 1", f"Claim {i}", "x", "stability", ("smoke",), lambda r: finding, page)
        for i, page in (("a", ""), ("b", "p"))
    ]
    monkeypatch.setattr(display, "claims_of", lambda experiment: both)
    assert [li["id"] for li in Tree(display.verdicts("stability", [record()]).html).all("li")] == ["a", "b"]
    tree = Tree(display.verdicts("stability", [record()], page="p").html)
    assert [li["id"] for li in tree.all("li")] == ["b"]
    assert "0.5 (no interval; 1 seed)" in tree.text


def test_provenance_wants_a_record():
    with pytest.raises(InvalidInput):
        display.provenance()


def test_html_and_markdown_show_themselves_to_a_notebook():
    assert Html("<b>x</b>", "x")._repr_html_() == "<b>x</b>"
    assert repr(Html("<b>x</b>", "x")) == "x"
    assert display.say("**1**")._repr_markdown_() == "**1**"


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("colour", [*SERIES[:3], COLOURS["important"], COLOURS["measured"], COLOURS["unimportant"]])
@pytest.mark.parametrize("page", ["#ffffff", "#121212"])
def test_main_colours_stand_out_on_light_and_dark_pages(colour, page):
    low, high = sorted([luminance(colour), luminance(page)])
    assert (high + 0.05) / (low + 0.05) >= 3
