"""Are the sentences of the claims the papers'? At least the numbers in them are."""

import re

import pytest

from tipslib.reporting.claims import Claim, claims
from tipslib.reporting.published import published

SPELLED = {"three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8}
PLACE = re.compile(r"(?:Eq\.|Figs?\.|Table|Step) [\d.]+")
NUMBER = re.compile(r"(?<![\w.-])\d+(?:\.\d+)?(?![\w-])")


def numbers(sentence: str) -> set[float]:
    """The numbers in a sentence, but for those of equations, figures, tables and steps, and those in the names of networks."""
    text = PLACE.sub("", sentence)
    return {float(n) for n in NUMBER.findall(text)} | {SPELLED[w] for w in re.findall(r"[a-z]+", text.lower()) if w in SPELLED}


@pytest.mark.parametrize("claim", claims().values(), ids=lambda claim: claim.id)
def test_every_number_in_the_sentence_is_one_that_the_papers_print(claim: Claim) -> None:
    papers = ["tips", "progressive"] if claim.paper == "companion" else [claim.paper]
    printed = {value for paper in papers for value in published(f"{paper}-text")["value"]}
    assert numbers(claim.words) - printed == set()


def test_numbers_are_told_from_names() -> None:
    assert numbers("With 8 subnetworks of ResNet-18, EfficientNet-B0 or ResNet18 (Eq. 4, Table 1), less than 2.5 % in six.") == {8, 2.5, 6}
