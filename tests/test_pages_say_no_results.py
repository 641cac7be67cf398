"""Can a page show a number that was not measured? None stands in its words or its code: all come from records or published files.

Numbers of the papers may be quoted. What else may stand there (the level of intervals, sizes of images, years) is listed here by page.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pandas as pd
import pytest

from tipslib import project

NOTEBOOKS = sorted((project.root() / "notebooks").glob("*.ipynb"), key=lambda path: path.stem)
PROSE = sorted((project.root() / "book").glob("*.md"))

PLACES = (
    r"Eqs?\.|[Ff]igs?\.|[Ff]igures?|[Tt]ables?|[Ss]teps?|[Ll]ines?|"
    r"Algorithms?|[Ss]ections?|Secs?\.|Appendix|Prop\.|Proposition|[Ss]eeds?"
)
PLACE = re.compile(rf"(?:{PLACES})[ \xa0][A-Z]?[\d.]+[a-e]?(?:\([a-e]\))?(?:(?:,| and| to|–)[ \xa0]?[A-Z]?[\d.]+(?:\([a-e]\))?)*")
FORMAL = re.compile(r"\$\$.*?\$\$|\$[^$]*\$|```.*?```|`[^`]*`|\]\([^)]*\)|^---\n.*?^---$|https?:\S+", re.DOTALL | re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.{}^-])\d[\d,]*(?:\.\d+)?(?![\w}-])")

SMALL = 12
"""Whole numbers up to here count things that stand on the page, or number them."""

EVERYWHERE = {95.0}
"""The level of all intervals, in percent."""

NO_RESULTS = {
    "agreement": {32},  # pixels a side
    "costs": {32, 3090},  # pixels a side, the name of a card
    "latency": {224},  # pixels a side
    "layers": {65536, 512, 536, 0.15},  # the longest features and the shortest; dropout of the released code
    "modes": {250, 6.25, 14, 0.0625, 0.25, 0.85},  # widths and their squares; blocks of a stage and weights, from the released code
    "proposition": {784, 80},  # pixels of a digit, neurons of a layer
    "pruning": {50000},  # images to validate on
    "resnet_front": {32},  # pixels a side
    "sampling_or_floor": {224},  # pixels a side
    "similarity": {2019, 2012, 128},  # years; the released batch
    "switching": {3090},  # the name of a card
    "training_curves": {163, 172},  # where a key stands
    "walkthrough": {0.35},  # how faint a mark is
    "what-can-go-wrong": {130},  # a status of the command
    "what-the-papers-leave-open": {6000},  # steps of the released solver
}


def words(path: Path) -> Iterator[str]:
    """Prose, and the constant text in code: what a page says whatever was measured."""
    if path.suffix == ".md":
        yield path.read_text()
        return
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            yield cell.source
        else:
            yield from (n.value for n in ast.walk(ast.parse(cell.source)) if isinstance(n, ast.Constant) and isinstance(n.value, str))


def numbers(text: str) -> set[float]:
    """The numbers in a text, but for places in the papers, formulas, code, links, and numbers that begin a line."""
    plain = re.sub(r"^\s*\**\d\.", "", PLACE.sub("", FORMAL.sub("", text)), flags=re.MULTILINE)
    return {float(number.replace(",", "")) for number in NUMBER.findall(plain)}


def printed() -> set[float]:
    """Every number in the published files."""
    frames = [pd.read_csv(path) for path in (project.root() / "data" / "published").glob("*.csv")]
    return {float(value) for frame in frames for value in frame.select_dtypes("number").stack()}


@pytest.mark.parametrize("page", [*NOTEBOOKS, *PROSE], ids=lambda path: path.stem)
def test_the_words_of_a_page_hold_no_number_that_could_be_a_result(page: Path) -> None:
    said = {number for text in words(page) for number in numbers(text)}
    unknown = {number for number in said if not (number == int(number) and number <= SMALL)} - EVERYWHERE - printed()
    assert unknown - NO_RESULTS.get(page.stem, set()) == set()


def literals(source: str) -> Iterator[float]:
    """Numbers of three digits or more in code, but for powers of ten and what is said to a named option, which lays out or configures."""
    tree = ast.parse(source)
    options = {id(n) for call in ast.walk(tree) if isinstance(call, ast.Call) for k in call.keywords for n in ast.walk(k.value)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and type(node.value) in (int, float) and id(node) not in options:
            digits = repr(node.value).partition("e")[0].replace(".", "").strip("0")
            if len(digits) >= 3:
                yield float(node.value)


IN_CODE: dict[str, set[float]] = {
    "beyond": {1.96, 1.06, 0.125},  # Fieller's interval of a rank correlation; the width of a network
    "costs": {365, 86400},  # days of a year, seconds of a day
    "coupling": {1.15},  # a margin
    "exit_weights": {14.5, 10.5},  # where lines part groups of rows
    "layers": {1.35},  # the end of a mark
    "own_supernet": {1024, 256},  # bytes of a kilobyte, images of a batch
    "sampling_or_floor": {224, 1.005},  # pixels a side, the end of a grid
}


@pytest.mark.parametrize("page", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_code_of_a_page_holds_no_number_that_could_be_a_result(page: Path) -> None:
    cells: list[Any] = [cell for cell in nbformat.read(page, as_version=4).cells if cell.cell_type == "code"]
    found = {number for cell in cells for number in literals(cell.source)}
    assert found - IN_CODE.get(page.stem, set()) == set()


def test_a_result_that_was_typed_in_is_found() -> None:
    assert numbers("It saves 43.7 % (Fig. 5, Table 2, lines 3 to 15; $x = 17.5$, `n=19`) in ResNet-18, on 1,234 images") == {43.7, 1234}
    assert list(literals("accuracy = 0.437\nfigure(width=0.437)\nunit = 1e6\nhalf = 0.5\nshown = {'a': [91.25]}")) == [0.437, 91.25]
