"""Fronts, comparisons and charts of the pages on supernets, from made-up records whose answers are known by hand."""

from __future__ import annotations

from tipslib.anytime import strategies
from tipslib.reporting.style import of_strategy


def test_every_strategy_is_told_from_every_other() -> None:
    looks = [(s["color"], s["marker"], str(s["linestyle"]), s.get("markerfacecolor")) for s in map(of_strategy, strategies)]
    assert len(set(looks)) == len(strategies)
    assert of_strategy("Joslim+floor")["color"] == of_strategy("Joslim")["color"]
