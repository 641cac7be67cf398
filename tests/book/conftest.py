"""The built book and a browser to read it with."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Playwright, sync_playwright

from tipslib import project

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MAC = tuple(f"/Applications/{name}.app/Contents/MacOS/{name}" for name in ("Chromium", "Google Chrome"))
HOW = (
    "no Chromium to open the book with. Install it (`apt-get install chromium` on Debian or Ubuntu, `brew install chromium` on macOS, "
    "or `playwright install chromium`), or set CHROMIUM to its executable"
)


def book_folder() -> Path:
    """`TIPSLIB_BOOK`, or where `make book` puts the smoke book."""
    return Path(os.environ.get("TIPSLIB_BOOK") or project.root() / "build" / "html" / "smoke").resolve()


def book_pages() -> list[str]:
    folder = book_folder()
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.html") if "_static" not in p.relative_to(folder).parts)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "page_name" in metafunc.fixturenames:
        metafunc.parametrize("page_name", book_pages() or ["index.html"])
    if "page_with_chart" in metafunc.fixturenames:
        drawn = [page for page in book_pages() if 'class="vega-chart"' in (book_folder() / page).read_text(encoding="utf-8")]
        metafunc.parametrize("page_with_chart", drawn or ["index.html"])


def executable(playwright: Playwright) -> str:
    candidates = [os.environ.get("CHROMIUM"), playwright.chromium.executable_path, *map(shutil.which, NAMES)]
    if sys.platform == "darwin":
        candidates += MAC
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    pytest.fail(HOW, pytrace=False)


@pytest.fixture
def find_chromium() -> Callable[[Playwright], str]:
    """`executable`, for the tests of it."""
    return executable


@pytest.fixture(scope="session")
def book() -> Path:
    folder = book_folder()
    if not (folder / "index.html").is_file():
        pytest.fail(f"{folder} holds no book. `make book` builds it; TIPSLIB_BOOK names another folder", pytrace=False)
    return folder


@pytest.fixture(scope="session")
def browser(book: Path) -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=executable(playwright), args=FLAGS)
        yield chromium
        chromium.close()
