"""What does the book gather from records and claims? All variants, each claim under the notebook that shows it."""

from types import ModuleType

import pytest

from tipslib import experiments
from tipslib.errors import InvalidInput
from tipslib.profiles import get_profile
from tipslib.reporting import book
from tipslib.reporting.claims import Claim, Finding, Verdict


def test_records_of_all_variants_are_found(toy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    smoke = get_profile("smoke")
    assert book.records_of("toy", smoke) == []
    experiments.compute("toy", profile=smoke, number=2)
    assert [r.values["number"] for r in book.records_of("toy", smoke)] == [2]
    for overrides in toy.VARIANTS:
        experiments.compute("toy", profile=smoke, **overrides)
    records = book.records_of("toy", smoke)
    assert [r.values["number"] for r in records] == [1, 2, 3]
    assert caplog.text == ""

    records[1].path.write_bytes(records[1].path.read_bytes()[:100])
    assert [r.values["number"] for r in book.records_of("toy", smoke)] == [1, 3]
    assert f"{records[1].path}: not a whole record" in caplog.text


def test_pages_are_filled_with_the_profile_and_with_what_the_papers_print() -> None:
    smoke = get_profile("smoke")
    assert book._filled("{{ profile }}: {{ profile_summary }}", smoke) == f"smoke: {smoke.summary}"
    assert book._filled("Solved in {{ quoted tips-step1-seconds }} s.", smoke) == "Solved in 39 s."
    with pytest.raises(InvalidInput, match="no-such-number"):
        book._filled("{{ quoted no-such-number }}", smoke)


def test_claims_stand_under_their_page(monkeypatch) -> None:
    def claim(id_: str, page: str) -> Claim:
        return Claim(id_, "progressive", "Sec. 1", "One is two", "x", "weights", ("smoke",), lambda records: found, page)

    found = Finding(Verdict.HOLDS, 1.0, None, 1, "yes")
    known = {c.id: c for c in (claim("a", "layers"), claim("b", "exit_weights"), claim("c", "layers"))}
    monkeypatch.setattr(book, "claims", lambda: known)
    text = book._claims(dict.fromkeys(known, found), get_profile("smoke"))
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        "## [What exits do to layers](notebooks/layers.ipynb)",
        "## [Which weights](notebooks/exit_weights.ipynb)",
    ]
    assert 'href="notebooks/layers.html#c"' in text
    assert 'href="notebooks/exit_weights.html#b"' in text
