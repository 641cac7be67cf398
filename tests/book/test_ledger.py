"""The ledger on the book's first page, sorted and filtered as a reader does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tipslib.reporting.claims import claims

pytestmark = pytest.mark.browser

ROWS = "#ledger tbody tr:visible"


@pytest.fixture
def page(browser: Browser, book: Path) -> Iterator[Page]:
    with browser.new_context(viewport={"width": 1280, "height": 900}) as context:
        page = context.new_page()
        page.goto((book / "index.html").as_uri(), wait_until="load")
        yield page


def column(page: Page, name: str) -> list[str]:
    number = [head.strip() for head in page.locator("#ledger thead th").all_inner_texts()].index(name)
    return [row.locator("td").nth(number).inner_text().strip() for row in page.locator(ROWS).all()]


def test_every_claim_stands_in_it(page: Page) -> None:
    assert page.locator(ROWS).count() == len(claims())
    assert page.locator(".tips-filter output").inner_text() == f"{len(claims())} of {len(claims())} claims"


def test_a_reader_filters_by_verdict_paper_and_word(page: Page) -> None:
    undecided = column(page, "Verdict")[0]
    page.get_by_role("combobox", name="Verdict").select_option(value=undecided)
    shown = column(page, "Verdict")
    assert 0 < len(shown) <= len(claims())
    assert set(shown) == {undecided}
    page.get_by_role("combobox", name="Verdict").select_option(value="")
    page.get_by_role("combobox", name="Paper").select_option(value="TIPS")
    assert set(column(page, "Paper")) == {"TIPS"}
    assert len(column(page, "Paper")) == sum(claim.paper == "tips" for claim in claims().values())
    page.get_by_role("searchbox", name="Word").fill("no sentence has these words")
    assert page.locator(ROWS).count() == 0


def test_a_reader_sorts_by_words_and_by_numbers(page: Page) -> None:
    page.locator("#ledger th button", has_text="Where").click()
    page.locator("#ledger th button", has_text="Seeds").click()
    seeds = [int(value) for value in column(page, "Seeds")]
    assert seeds == sorted(seeds)
    page.locator("#ledger th button", has_text="Seeds").click()
    seeds = [int(value) for value in column(page, "Seeds")]
    assert seeds == sorted(seeds, reverse=True)
    page.locator("#ledger th button", has_text="Effect").click()
    effects = column(page, "Effect")
    numbers = [float(value) for value in effects if value != "–"]
    assert numbers == sorted(numbers)
    assert "–" not in effects[: len(numbers)]
    assert page.locator("#ledger th[aria-sort]").count() == 1
