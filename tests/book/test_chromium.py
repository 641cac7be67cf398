"""Is there a browser to open the book with, and is it said how to get one? `make test` asks this before all that takes long."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

Find = Callable[[Any], str]


def test_there_is_a_chromium(find_chromium: Find) -> None:
    with sync_playwright() as playwright:
        assert os.access(find_chromium(playwright), os.X_OK)


def playwright_with(path: str) -> SimpleNamespace:
    return SimpleNamespace(chromium=SimpleNamespace(executable_path=path))


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without a browser."""
    monkeypatch.delenv("CHROMIUM", raising=False)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.platform", "linux")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("path", ["", "/no/such/chromium"])
def test_without_one_it_is_said_how_to_install_it(find_chromium: Find, path: str) -> None:
    with pytest.raises(pytest.fail.Exception) as failure:
        find_chromium(playwright_with(path))
    for words in ("apt-get install chromium", "brew install", "playwright install chromium", "set CHROMIUM"):
        assert words in str(failure.value)


@pytest.mark.usefixtures("nowhere")
def test_one_that_is_named_or_on_the_path_is_found(find_chromium: Find, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = tmp_path / "chromium"
    found.write_text("#!/bin/sh\n")
    found.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_chromium(playwright_with("")) == str(found)
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("CHROMIUM", str(found))
    assert find_chromium(playwright_with("")) == str(found)
