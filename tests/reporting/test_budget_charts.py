"""Charts with a slider for the budget, drawn without a browser and held against what the records say."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert

from tipslib.errors import InvalidInput
from tipslib.records import Record, Run
from tipslib.reporting.budget_charts import anatomy_chart, budget_chart, on_offer

FULL = 2_000_000


def record(strategy: str, lowest: float) -> Record:
    """A front of nine subnetworks from `lowest` of the full MACs up, in three dimensions."""
    shares = np.linspace(lowest, 1, 9)
    accuracies = 0.5 + 0.1 * shares
    arrays = {
        "macs": (FULL * shares).astype(np.int64),
        "held_out": accuracies,
        "test": accuracies + 0.005 * np.random.default_rng(len(strategy)).standard_normal(9),
        "widths": np.outer(np.arange(1, 10), [1, 2, 3]),
    }
    values = {"macs": [int(lowest * FULL), FULL], "largest": [9, 18, 27], "dimensions": ["stem", "first", "second"]}
    values |= {"important": [True, False, True] if strategy == "TIPS" else None}
    return Record(Run("fronts", {"strategy": strategy}, "laptop", 0, "v1"), values, arrays, {}, Path("made-up"))


def chosen(r: Record, budget: float) -> int | None:
    """Number of the subnetwork that is most accurate on the held-out images, of those at or under a budget in percent."""
    affordable = [k for k, macs in enumerate(r.arrays["macs"]) if macs <= budget / 100 * FULL]
    return max(affordable, key=lambda k: r.arrays["held_out"][k], default=None)


ONE = {"TIPS": record("TIPS", 0.2), "TIPS-released": record("TIPS-released", 0.5)}


@pytest.mark.parametrize("budget", [0, 19, 20, 33.3, 50, 99, 100])
def test_at_every_budget_one_row_of_each_strategy_is_on(budget: float) -> None:
    frame = on_offer(ONE)
    on = frame[(frame["share"] <= budget) & (budget < frame["until"])].set_index("strategy")
    assert sorted(on.index) == sorted(ONE)
    for name, r in ONE.items():
        k = chosen(r, budget)
        if k is None:
            assert math.isnan(on.loc[name, "accuracy"])
        else:
            assert on.loc[name, "accuracy"] == pytest.approx(100 * r.arrays["test"][k])
            assert on.loc[name, "widths"] == r.arrays["widths"][k].tolist()


@pytest.mark.parametrize("budget", [10, 30, 60, 100])
def test_the_chart_names_what_each_strategy_runs_at_the_budget(budget: float) -> None:
    chart, _ = budget_chart(ONE, start=budget)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    said = re.findall(r"<text[^>]*>((?:budget|TIPS)[^<]*)</text>", drawn)
    expected = [f"budget: {FULL * budget / 1e8:.4g} of 2.0 million MACs"]
    for name, r in ONE.items():
        k = chosen(r, budget)
        numbers = "none so small" if k is None else f"{r.arrays['macs'][k] / 1e6:.4g} M, {100 * r.arrays['test'][k]:.1f} %"
        expected.append(f"{name}: {numbers}")
    assert said == expected


def test_the_axis_has_numbers_only_where_accuracies_are() -> None:
    low = {"TIPS": replace(ONE["TIPS"], arrays=ONE["TIPS"].arrays | {"test": np.linspace(0.08, 0.55, 9)})}
    ticks = budget_chart(low, start=50)[0].to_dict()["layer"][0]["encoding"]["y"]["axis"]["values"]
    assert len(ticks) >= 4
    assert min(ticks) >= 7
    assert max(ticks) <= 56


@pytest.mark.parametrize("budget", [10, 30, 60, 100])
def test_the_anatomy_has_a_square_for_every_width_of_what_can_be_run(budget: float) -> None:
    chart, frame = anatomy_chart(ONE, start=budget)
    drawn = vl_convert.vegalite_to_svg(chart.to_dict())
    squares = re.findall(r'<path aria-label="from input to output: (\d); strategy: ([\w-]+); % of the channels: ([\d.]+)', drawn)
    expected = set()
    for name, r in ONE.items():
        if (at := chosen(r, budget)) is not None:
            parts = 100 * r.arrays["widths"][at] / r.values["largest"]
            expected |= {(k, name, round(part, 3)) for k, part in enumerate(parts, start=1)}
    assert {(int(k), name, round(float(part), 3)) for k, name, part in squares} == expected
    assert len(squares) == len(expected)
    marks = re.findall(r'<path aria-label="from input to output: (\d); strategy: important', drawn)
    assert marks == ["1", "3"]
    assert len(frame) == 3 * sum(len(r.arrays["macs"]) for r in ONE.values())
    assert set(frame["layer"]) == {"stem", "first", "second"}


@pytest.mark.parametrize("draw", [budget_chart, anatomy_chart])
def test_a_chart_of_nothing_is_refused(draw: Any) -> None:
    with pytest.raises(InvalidInput, match="at least one strategy"):
        draw({}, start=50)
