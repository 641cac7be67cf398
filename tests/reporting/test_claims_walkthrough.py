"""Each claim of the walkthrough, on made-up records that support it and on some that do not."""

from pathlib import Path
from typing import Any

import pytest

from tipslib.experiments.walkthrough import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.walkthrough import CLAIMS, NETWORKS, agreement, first_against_others

BY_ID = {claim.id: claim for claim in CLAIMS}


def block(important: list[bool], *, stride: int = 1, vital: bool = False, **scores: list[float]) -> dict[str, Any]:
    return {"stride": stride, "vital": vital, "important": important, "importance": [1.0, 1.0], "ends": [0.3, 0.2]} | scores


DOWN = block([True, True], stride=2, vital=True)
KEEPS = block([False, False])


def record(
    blocks: list[dict[str, Any]] | None = None,
    *,
    first: float = 1.0,
    seconds: float = 0.1,
    difference: float = 1e-12,
    run: dict[str, int] | None = None,
    choices: tuple[float, ...] = (1.0, 1.0),
) -> Record:
    network = {
        "blocks": [DOWN, KEEPS, KEEPS] if blocks is None else blocks,
        "first_convolution_importance": first,
        "choices": [{"stride2": share} for share in choices],
    }
    values = {
        "networks": dict.fromkeys(NETWORKS, network),
        "timing": {"mobilenet_v2": seconds},
        "solvers": {"toy": {"power": 1e-12, "gth": difference}},
        "widths": {"samples": 10, "run": run or {"both rules": 10, "without rule 1": 0, "without rule 2": 3}},
    }
    return Record(Run("walkthrough", to_json(Parameters()), "smoke", 0, "v1"), values, {}, {}, Path("made-up.json"))


def judge(name: str, *records: Record) -> Finding:
    return BY_ID[name].judge(records)


def test_ids_are_unique_and_every_claim_says_not_run_without_records() -> None:
    assert len(BY_ID) == len(CLAIMS)
    assert {claim.judge([]).verdict for claim in CLAIMS} == {Verdict.NOT_RUN}


@pytest.mark.parametrize(
    ("blocks", "verdict", "percent"),
    [
        ([DOWN, KEEPS], Verdict.HOLDS, 100),
        ([DOWN, block([True, False], stride=2, vital=True), KEEPS], Verdict.FAILS, 75),
        ([DOWN, block([True, True])], Verdict.FAILS, 100),
    ],
    ids=["all of them and no others", "one layer is missing", "so are all others"],
)
def test_stride_two(blocks: list[dict[str, Any]], verdict: Verdict, percent: float) -> None:
    finding = judge("important-stride-2", record(blocks))
    assert (finding.verdict, finding.effect, finding.interval) == (verdict, percent, None)
    assert judge("important-stride-2", record(), record(blocks)).verdict is verdict


def test_stride_two_says_when_no_path_avoids_the_layers() -> None:
    assert "whatever the scores" in judge("important-stride-2", record()).reason
    assert "whatever the scores" not in judge("important-stride-2", record(choices=(1.0, 0.5))).reason


def test_released_rule() -> None:
    assert judge("important-released-rule", record()).verdict is Verdict.HOLDS
    finding = judge("important-released-rule", record([DOWN, block([True, False])]))
    assert (finding.verdict, finding.effect) == (Verdict.FAILS, 75)
    assert agreement([DOWN, block([True, False]), block([False, False], vital=True)]) == {
        "both": 2,
        "path only": 1,
        "rule only": 2,
        "neither": 1,
    }


def test_first_layer_of_the_network() -> None:
    assert judge("important-first-layer", record()).verdict is Verdict.HOLDS
    finding = judge("important-first-layer", record(), record(first=0.97))
    assert (finding.verdict, finding.effect) == (Verdict.FAILS, 0.97)


@pytest.mark.parametrize(
    ("name", "scores"), [("important-first-in-block-by-path", "importance"), ("important-first-in-block-by-ends", "ends")]
)
def test_first_layer_of_each_block(name: str, scores: str) -> None:
    ahead, tied, behind = (block([True, True], **{scores: values}) for values in ([0.9, 0.8], [0.8, 0.8 * (1 + 1e-13)], [0.7, 0.8]))
    assert first_against_others([ahead, tied, behind, behind], scores) == {"higher": 1, "equal": 1, "lower": 2}
    holds, fails = judge(name, record([ahead, ahead, behind])), judge(name, record([ahead, tied]))
    assert (holds.verdict, fails.verdict, fails.effect) == (Verdict.HOLDS, Verdict.FAILS, 50)


def test_seconds() -> None:
    assert judge("step-1-seconds", record(seconds=38.9)).verdict is Verdict.HOLDS
    finding = judge("step-1-seconds", record(), record(seconds=39.5))
    assert (finding.verdict, finding.effect, finding.seeds) == (Verdict.FAILS, 39.5, 2)


def test_closed_form() -> None:
    assert judge("stationary-closed-form", record()).verdict is Verdict.HOLDS
    finding = judge("stationary-closed-form", record(), record(difference=1e-9))
    assert (finding.verdict, finding.effect) == (Verdict.FAILS, 1e-9)


@pytest.mark.parametrize(
    ("run", "verdict"),
    [
        ({"both rules": 10, "without rule 1": 9}, Verdict.HOLDS),
        ({"both rules": 9, "without rule 1": 0}, Verdict.FAILS),
        ({"both rules": 10, "without rule 1": 10}, Verdict.FAILS),
    ],
    ids=["only the rules always work", "the rules fail once", "the rules are not needed"],
)
def test_width_rules(run: dict[str, int], verdict: Verdict) -> None:
    assert judge("width-rules-valid", record(run=run)).verdict is verdict
