"""The claim of the experiment `costs` on made-up records, both ways; hours, sums by artefact and the chart against sums by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import vl_convert

from tipslib.experiments import costs, fronts
from tipslib.experiments.branches import Branched
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.costs import CLAIMS, hours, rates, step_2
from tipslib.reporting.costs import ALL, by_artefact, by_network, cost_chart, overall_rate, tera

(CLAIM,) = CLAIMS


def training(recipe: Any, network: int, work: float, **seeds: list[int]) -> dict[str, Any]:
    return {"recipe": to_json(recipe), "network": network, "epochs": 1, "images": 100, "seeds": seeds, "work": work}


def record(seed: int = 0, *, step_1: float = 1.0, data: str = "imagenet", spread: float = 1.0, rounds: int = 8) -> Record:
    """Two networks of 10^9 and 2 x 10^9 MACs, of which 2 images take 1 s and 2 s: 6 x 10^9 MACs a second both."""
    network = {"width": 1.0, "side": 32, "precision": "32-true", "images": 2}
    values = {
        "networks": [network | {"name": "one", "macs": 10**9}, network | {"name": "other", "macs": 2 * 10**9}],
        "trainings": [
            training(fronts.Parameters(data=data), 0, 6e9 * 3600, fronts=[0, 1, 2], latency=[0, 1, 2]),
            training(fronts.Parameters(data=data, strategy="US-Nets"), 0, 3e9 * 3600, fronts=[0, 1, 2]),
            training(Branched(), 1, 12e9 * 3600, weights=[0, 1], backbones=[0, 1], similarity=[0, 1000]),
        ],
        "timing": {
            "step_1_s": [step_1 * (1 + 0.01 * i) for i in range(rounds)],
            "step_ms": [[1000 / spread, 1000, 1000 * spread], [2000, 2000, 2000]],
        },
    }
    return Record(Run("costs", to_json(costs.Parameters()), "laptop", seed, "v1"), values, {}, {}, Path("made-up.json"))


def judge(seeds: int = 2, **given: Any) -> Finding:
    return CLAIM.judge([record(seed, **given) for seed in range(seeds)])


def test_step_1_is_held_against_the_training_on_the_same_machine() -> None:
    finding = judge(step_1=1.0)
    assert finding.verdict is Verdict.HOLDS
    assert finding.effect == pytest.approx(100 * 1.035 / 3600)
    assert finding.seeds == 2
    assert "1 hours" in finding.reason
    assert judge(step_1=60.0).verdict is Verdict.FAILS
    assert judge(step_1=35.0).verdict is Verdict.UNDECIDED
    # a machine whose steps differ by a factor of four may be so slow or so fast
    assert judge(step_1=60.0, spread=2.0).verdict is Verdict.UNDECIDED
    assert judge(step_1=1.0, rounds=2, seeds=1).verdict is Verdict.UNDECIDED
    assert judge(data="cifar100").verdict is Verdict.NOT_RUN
    assert CLAIM.judge([]).verdict is Verdict.NOT_RUN


def test_hours_are_work_by_rate() -> None:
    both = [record(0), record(1, spread=3.0)]
    assert rates(both) == pytest.approx([6e9, 6e9])
    assert hours(both) == pytest.approx([1, 0.5, 2])
    assert overall_rate(both) == pytest.approx(6e9)
    assert tera(6e9) == pytest.approx(0.012)
    assert (step_2(record()), step_2(record(data="cifar100"))) == (0, None)


def test_what_artefacts_share_stands_with_each_and_once_with_everything() -> None:
    found = by_artefact([record()]).set_index("artefacts")
    fronts_row = found.loc["TIPS, Figures 1, 5(b, c); Tables 1, 2, 4, 5, 6; Algorithm 1"]
    assert (fronts_row["trainings"], fronts_row["hours"]) == (6, pytest.approx(4.5))
    assert found.loc["TIPS, Table 3", "hours"] == pytest.approx(3)
    # Figure 4 shows what `weights` and `backbones` train, which is the same here
    assert found.loc["Progressive intelligence, Figure 4", "hours"] == pytest.approx(4)
    assert found.loc["Progressive intelligence, Figure 3", "trainings"] == 2
    everything = found.loc[[ALL]]
    assert dict(zip(everything["data"], everything["hours"], strict=True)) == pytest.approx({"ImageNet": 4.5, "CIFAR10": 6})
    assert everything["trainings"].sum() == 9
    assert found.index[-1] == ALL


def test_the_table_of_networks_adds_up_to_everything() -> None:
    rows = by_network([record()])
    assert rows["hours"].sum() == pytest.approx(10.5)
    assert rows["trainings"].tolist() == [6, 3]
    assert rows["10¹⁵ MACs"].tolist() == pytest.approx([0.0972, 0.1296])


@pytest.mark.parametrize("rate", [6e9, 6e10])
def test_the_chart_says_the_hours_at_the_slider(rate: float) -> None:
    chart = cost_chart(by_artefact([record()]), rate)
    said = re.findall(r">([^<>]*(?:h:|days)[^<>]*)<", vl_convert.vegalite_to_svg(chart.to_dict()))
    speed = 10 ** chart.to_dict()["params"][0]["value"]
    assert speed == pytest.approx(tera(rate), rel=0.02)
    everything = 2 * 10.5 * 6e9 / 1e12 / speed  # hours, as 10.5 take here
    assert f"{everything:.3g} h: {ALL}" in said
    assert f"everything at {speed:.3g} TFLOP/s: {everything / 24:.3g} days" in said
    assert f"on 8 such devices: {everything / 24 / 8:.3g} days" in said
