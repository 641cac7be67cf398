"""Does the book's page of errors have all of them, each with its meaning, its remedy, its status and its places?"""

from __future__ import annotations

import ast
import inspect
import re

import pytest

from tipslib import cli, project
from tipslib.errors import InvalidInput, MissingData, TipslibError, TracingError
from tipslib.profiles import get_profile
from tipslib.reporting import book
from tipslib.reporting.failures import failures, failures_list, occasions

SOURCES = sorted((project.root() / "src").rglob("*.py"))


def defined() -> set[str]:
    """Names of the errors, from the source itself."""
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    classes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    bases = {each.name: {ast.unparse(base).rpartition(".")[2] for base in each.bases} for each in classes}
    found, before = {"TipslibError"}, set[str]()
    while found != before:
        before = set(found)
        found |= {name for name, own in bases.items() if own & found}
    return found - {"TipslibError"}


def test_every_error_of_the_source_is_known() -> None:
    names = [error.__name__ for error in failures()]
    assert set(names) == defined()
    assert len(names) == len(set(names)) >= 9
    assert names[:5] == ["InvalidInput", "CorruptFile", "MissingData", "StorageError", "TracingError"]


@pytest.mark.parametrize("error", failures(), ids=lambda error: error.__name__)
def test_every_error_has_a_meaning_and_a_remedy_of_its_own_and_a_status(error: type[TipslibError]) -> None:
    own = vars(error)
    for text in (inspect.cleandoc(own.get("__doc__") or ""), own.get("remedy", "")):
        assert len(text) > 30
        assert text.endswith(".")
    assert error.status == (2 if issubclass(error, InvalidInput | MissingData | TracingError) else 1)


@pytest.mark.parametrize("error", failures(), ids=lambda error: error.__name__)
def test_the_command_ends_with_the_status_that_the_page_gives(error: type[TipslibError], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*given: object) -> None:
        raise error("what was wrong")

    monkeypatch.setattr(cli, "_list", fails)
    assert cli.main(["list"]) == error.status
    assert f"`{error.__module__}.{error.__name__}`; the command ends with status {error.status}.\n" in failures_list()


def test_the_page_has_every_error_with_both_texts() -> None:
    generated = next(text for path, text in book._generated(get_profile("smoke")) if path == "generated/failures.md")
    assert re.findall(r"^### (\w+)$", generated, re.MULTILINE) == [error.__name__ for error in failures()]
    for error in failures():
        assert inspect.cleandoc(error.__doc__ or "") in generated
        assert f"**What to do.** {error.remedy}\n" in generated
    page = (project.root() / "book" / "what-can-go-wrong.md").read_text()
    assert "```{include} generated/failures.md\n```" in page
    assert "  - file: what-can-go-wrong\n" in (project.root() / "book" / "_toc.yml").read_text()
    for status in {error.status for error in failures()} | {0, 130}:
        assert re.search(rf"^\| {status} \| \S", page, re.MULTILINE)
        assert f"{status} " in cli.EPILOG


def test_places_are_those_that_the_docstrings_name() -> None:
    found = occasions()
    assert ("tipslib.records.read", "The file is there, but may not be read.") in found["StorageError"]
    when = dict(found["CorruptFile"])
    assert when["tipslib.records.Store.find"] == "There is one, but it was cut or altered; the message names the file."
    assert when["tipslib.archives.extract"].endswith("link to a place outside.")
    # what a package offers is called as the pages of the library call it
    assert "tipslib.anytime.make_elastic" in dict(found["InvalidInput"])
    # two errors of one entry
    place = "tipslib.reporting.book.build_book"
    assert dict(found["MissingData"])[place] == dict(found["InvalidInput"])[place]
    for name, places in found.items():
        assert name in {error.__name__ for error in failures()}, f"{name} is raised, and not on the page: {places}"
        assert f"Where it comes from ({len(places)})" in failures_list()
