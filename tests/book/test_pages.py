"""Every page of the built book, opened from the disk as a reader does."""

from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.browser

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 900}

DRAWN = """async () => {
  if (window.MathJax && MathJax.startup) await MathJax.startup.promise;
  const charts = [...document.querySelectorAll(".vega-chart")];
  for (let i = 0; i < 100 && charts.some((c) => !c.querySelector("svg")); i++) await new Promise((r) => setTimeout(r, 50));
}"""

CONTRASTS = """(selector) => {
  const probe = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const rgba = (colour) => {
    probe.clearRect(0, 0, 1, 1);
    probe.fillStyle = colour;
    probe.fillRect(0, 0, 1, 1);
    return [...probe.getImageData(0, 0, 1, 1).data];
  };
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = rgba(getComputedStyle(e).backgroundColor);
      if (colour[3] === 255) return colour;
    }
    return [255, 255, 255, 255];
  };
  const luminance = (c) => {
    const [r, g, b] = c.map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  return [...document.querySelectorAll(selector)].map((e) => {
    const style = getComputedStyle(e);
    if (e.tagName === "text" && style.fill !== style.color) return ["", 21]; // written on a mark, not on the page
    const ink = style.color;
    const [low, high] = [luminance(rgba(ink)), luminance(behind(e))].sort((a, b) => a - b);
    return [e.tagName + " " + (e.getAttribute("aria-label") || e.textContent).trim().slice(0, 40), (high + 0.05) / (low + 0.05)];
  });
}"""

TEXTS = ".tips-figure > div > svg, .tips-figure figcaption, .vega-chart text, .vega-chart label, .tips-table td, .verdict, article p"


class Watched:
    """A page of the book, with everything that went wrong while it was opened."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.wrong: list[str] = []
        page.on("console", lambda m: self.wrong.append(f"console {m.type}: {m.text}") if m.type in ("error", "warning") else None)
        page.on("pageerror", lambda e: self.wrong.append(f"script error: {e}"))
        page.on("requestfailed", lambda r: self.wrong.append(f"request failed: {r.url}"))
        page.on("request", lambda r: None if r.url.startswith(("file:", "data:", "blob:")) else self.wrong.append(f"request: {r.url}"))

    def open(self, path: Path, query: str = "") -> Page:
        self.wrong.clear()
        self.page.goto(path.as_uri() + query, wait_until="load")
        self.page.evaluate(DRAWN)
        return self.page


def none_of(problems: list[str]) -> None:
    if problems:
        pytest.fail("\n".join(problems), pytrace=False)


@pytest.fixture(scope="module")
def light(browser: Browser) -> Iterator[Watched]:
    with browser.new_context(viewport=DESK, color_scheme="light") as context:
        yield Watched(context.new_page())


@pytest.fixture(scope="module")
def dark(browser: Browser) -> Iterator[Watched]:
    with browser.new_context(viewport=DESK, color_scheme="dark") as context:
        yield Watched(context.new_page())


@pytest.fixture(scope="module")
def phone(browser: Browser) -> Iterator[Watched]:
    with browser.new_context(viewport=PHONE, has_touch=True, is_mobile=True, device_scale_factor=2) as context:
        yield Watched(context.new_page())


def formulas(page: Page) -> list[str]:
    """Formulas that MathJax did not draw, or could not read."""
    undrawn = "[...document.querySelectorAll('article .math')].filter(e => !e.querySelector('mjx-container')).map(e => e.textContent)"
    failed = "mjx-merror, [data-mjx-error], mjx-mtext[style*=red]"
    wrong = f"[...document.querySelectorAll('{failed}')].map(e => e.closest('mjx-container').parentElement.outerHTML.slice(0, 200))"
    return [f"formula: {text}" for text in page.evaluate(undrawn) + page.evaluate(wrong)]


def wordless(page: Page) -> list[str]:
    """Images and drawings without words for those who cannot see them, and figures without a caption."""
    named = "[aria-label], [aria-labelledby], [aria-hidden=true], mjx-container, summary"
    found = f"""[
      ...[...document.querySelectorAll("img")].filter((e) => !e.getAttribute("alt")),
      ...[...document.querySelectorAll("svg")].filter((e) => !e.closest("{named}")),
      ...[...document.querySelectorAll("figure")].filter((e) => !e.innerText.trim()),
    ].map((e) => e.outerHTML.slice(0, 120))"""
    return [f"no words: {text}" for text in page.evaluate(found)]


def illegible(page: Page, mode: str) -> list[str]:
    """Text that does not stand out from what is behind it (WCAG's 4.5 for text)."""
    theme = page.evaluate("document.documentElement.dataset.theme")
    found = [] if theme == mode else [f"the theme is {theme}, not {mode}"]
    return found + [f"{text}: contrast {contrast:.1f}" for text, contrast in page.evaluate(CONTRASTS, TEXTS) if contrast < 4.5]


def test_page_is_whole_and_asks_no_other_host(light: Watched, book: Path, page_name: str) -> None:
    page = light.open(book / page_name)
    headings = page.locator("h1:visible").count()
    one = [] if headings == 1 else [f"{headings} headings of the first rank"]
    none_of(light.wrong + one + formulas(page) + wordless(page) + illegible(page, "light"))
    assert page.title().strip()
    assert page.evaluate("document.documentElement.lang") == "en"


def test_page_can_be_read_in_the_dark(dark: Watched, book: Path, page_name: str) -> None:
    page = dark.open(book / page_name)
    none_of(dark.wrong + illegible(page, "dark"))


def test_page_is_no_wider_than_a_phone(phone: Watched, book: Path, page_name: str) -> None:
    page = phone.open(book / page_name)
    wide = """() => [...document.querySelectorAll("article *")].filter((e) => {
      const box = e.getBoundingClientRect();
      if (!box.width || box.right <= screen.width + 1) return false;
      for (let p = e.parentElement; p; p = p.parentElement)
        if (["auto", "scroll", "hidden", "clip"].includes(getComputedStyle(p).overflowX) && p.tagName !== "BODY") return false;
      return true;
    }).map((e) => e.outerHTML.slice(0, 120))"""
    none_of([f"too wide: {text}" for text in page.evaluate(wide)])
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def drawing(page: Page, chart: int) -> str:
    return page.locator(".vega-chart").nth(chart).locator("svg.marks").inner_html()


def changed_by(key: str, page: Page, chart: int, before: str) -> bool:
    page.keyboard.press(key)
    page.wait_for_timeout(200)
    return drawing(page, chart) != before


def test_charts_answer_to_every_control(light: Watched, book: Path, page_with_chart: str) -> None:
    page = light.open(book / page_with_chart)
    controls = [chart.locator("input, select").count() for chart in page.locator(".vega-chart").all()]
    assert all(controls), f"controls of each chart: {controls}"
    for chart, each in ((chart, each) for chart, count in enumerate(controls) for each in range(count)):
        page = light.open(book / page_with_chart)
        control = page.locator(".vega-chart").nth(chart).locator("input, select").nth(each)
        assert control.evaluate("e => [...e.labels].some(l => l.textContent.trim())"), "a control without a label"
        before, kind = drawing(page, chart), control.evaluate("e => e.type")
        if kind == "radio" and control.is_checked():
            continue  # it is let go by checking another one of its group
        control.focus()
        # at one end or the other: a larger budget need not buy more
        keys = ["Space"] if kind in ("radio", "checkbox") else ["End", "Home"]
        assert any(changed_by(key, page, chart, before) for key in keys), f"control {each} of chart {chart} changes nothing"
        assert light.wrong == []


def test_a_mark_under_the_mouse_says_its_values(light: Watched, book: Path, page_with_chart: str) -> None:
    """Some mark of every chart; texts and rules, and marks that another one covers, may be silent."""
    page = light.open(book / page_with_chart)
    for chart in range(page.locator(".vega-chart").count()):
        marks = page.locator(".vega-chart").nth(chart).locator("g.mark-symbol path, g.mark-rect path").all()
        tips = page.locator("#vg-tooltip-element.visible")
        for mark in marks[:: max(1, len(marks) // 20)]:
            box = mark.bounding_box()
            if not box or not box["width"] or not box["height"]:
                continue
            mark.scroll_into_view_if_needed()
            mark.hover(force=True)
            page.wait_for_timeout(50)
            if tips.count() and tips.inner_text().strip():
                break
        else:
            pytest.fail(f"{page_with_chart}: no mark of chart {chart} shows its values", pytrace=False)
        page.mouse.move(0, 0)
    assert light.wrong == []


def test_charts_answer_to_a_finger(phone: Watched, book: Path, page_with_chart: str) -> None:
    page = phone.open(book / page_with_chart)
    for chart in range(page.locator(".vega-chart").count()):
        slider = page.locator(".vega-chart").nth(chart).locator("input[type=range]")
        for each in range(slider.count()):
            box = slider.nth(each).bounding_box()
            assert box is not None
            assert box["height"] >= 24
            before = drawing(page, chart)
            slider.nth(each).tap(position={"x": box["width"] * 0.9, "y": box["height"] / 2})
            page.wait_for_timeout(100)
            first = drawing(page, chart)
            slider.nth(each).tap(position={"x": box["width"] * 0.1, "y": box["height"] / 2})
            page.wait_for_timeout(100)
            assert len({before, first, drawing(page, chart)}) > 1


def test_every_notebook_page_has_something_to_play_with(book: Path) -> None:
    pages = list((book / "notebooks").glob("*.html"))
    assert [p.name for p in pages if 'class="vega-chart"' not in p.read_text(encoding="utf-8")] == []
    assert len(pages) >= 4


def test_search_finds_a_word_of_the_book(light: Watched, book: Path) -> None:
    page = light.open(book / "search.html", "?q=supernet")
    page.wait_for_selector("#search-results li a")
    assert page.locator("#search-results li a[href*='notebooks/']").count() > 0
    assert light.wrong == []


def test_theme_button_changes_the_page(light: Watched, book: Path) -> None:
    page = light.open(book / "index.html")
    seen = set()
    for _ in range(3):
        page.locator("button.theme-switch-button:visible").first.click()
        seen.add(page.evaluate("document.documentElement.dataset.theme"))
    assert seen == {"light", "dark"}
    page.evaluate("localStorage.clear()")


class Links(HTMLParser):
    """What a page refers to, and what in it can be referred to."""

    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []
        self.anchors = {"", "top"}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if value and name in ("id", "name"):
                self.anchors.add(value)
            if value and name in ("href", "src") and not value.startswith("data:"):
                self.targets.append(value)


@cache
def links(path: Path) -> Links:
    parser = Links()
    parser.feed(path.read_text(encoding="utf-8"))
    return parser


def test_no_link_is_broken_and_none_leaves_the_book(book: Path, page_name: str) -> None:
    broken = []
    for target in links(book / page_name).targets:
        parts = urlsplit(target)
        if parts.scheme or parts.netloc:
            broken.append(f"{target} leaves the book")
            continue
        file = (book / page_name).parent / unquote(parts.path) if parts.path else book / page_name
        file = file / "index.html" if file.is_dir() else file
        if not file.is_file():
            broken.append(f"{target}: no such file")
        elif parts.fragment and file.suffix == ".html" and unquote(parts.fragment) not in links(file.resolve()).anchors:
            broken.append(f"{target}: no such place in the page")
    none_of(broken)


def test_no_notebook_takes_more_than_two_gigabytes(book: Path) -> None:
    executed = book.parents[1] / "notebooks" / book.name
    peaks = {path.stem: int(path.read_text()) for path in executed.glob("*.peak")}
    assert set(peaks) == {path.stem for path in (book / "notebooks").glob("*.html")}
    assert max(peaks.values()) < 2e9, peaks


@pytest.mark.parametrize("part", ["claims", "computed", "figure", "against", "Verdict", "leave open"])
def test_every_notebook_page_has_its_six_parts(book: Path, part: str) -> None:
    for path in (book / "notebooks").glob("*.html"):
        headings = path.read_text(encoding="utf-8").split("<h2>")[1:]
        assert any(part in heading.split("</h2>")[0] for heading in headings), f"{path.name} lacks the part about {part!r}"


def test_every_notebook_page_links_to_notebook_and_source(book: Path) -> None:
    for path in (book / "notebooks").glob("*.html"):
        text = path.read_text(encoding="utf-8")
        for link in ("tips-notebook", "tips-source"):
            assert f'class="{link}"' in text, f"{path.name} has no link {link}"


def test_every_figure_and_chart_offers_its_numbers(book: Path) -> None:
    silent = []
    for path in (book / "notebooks").glob("*.html"):
        for part in path.read_text(encoding="utf-8").split('class="tips-figure"')[1:]:
            if 'class="tips-csv"' not in part.split("</figure>")[0]:
                silent.append(f"{path.relative_to(book)}: {part[:80]}")
    none_of(silent)
