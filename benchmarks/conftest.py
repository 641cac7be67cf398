"""Collects `bench_*.py`, and shows and keeps what each benchmark found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FOUND = Path(__file__).parent.parent / "build" / "benchmarks"
SENTENCES = pytest.StashKey[list[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SENTENCES] = []


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Module | None:
    """Take `bench_*.py` when the folder is named; a file that is named itself pytest takes anyway."""
    if file_path.match("bench_*.py") and not parent.session.isinitpath(file_path):
        return pytest.Module.from_parent(parent, path=file_path)
    return None


@pytest.fixture
def found(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Keep a finding as `build/benchmarks/<name>.json` and show its sentence at the end."""

    def keep(name: str, sentence: str, **values: Any) -> None:
        FOUND.mkdir(parents=True, exist_ok=True)
        (FOUND / f"{name}.json").write_text(json.dumps(values, indent=1) + "\n")
        request.config.stash[SENTENCES].append(sentence)

    return keep


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if config.stash[SENTENCES]:
        terminalreporter.section("what was found")
        for sentence in config.stash[SENTENCES]:
            terminalreporter.write_line(sentence)
