"""Each claim of the agreement experiment, on made-up records that support it and on some that do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tipslib.experiments.agreement import Parameters, savings
from tipslib.parameters import parse, to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.agreement import CLAIMS, improvement

BY_ID = {claim.id.removeprefix("agreement-"): claim for claim in CLAIMS}
EXACT = {"mobilenet-count", "all-thresholds"}
RESNET, MOBILENET = [100, 200, 300, 400], [10, 25, 40, 50]
FIRST, LAST = [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]


def record(network: str, seed: int = 0, profile: str = "laptop", **changes: Any) -> Record:
    """Two modes of each rule: all leave at the first exit; or all stay by entropy, and by agreement `early` of them leave at the second."""
    c = {"early": 0.8, "peak": 0.8, "lost": 0.0, "areas": (0.6, 0.62), "macs": RESNET if network == "resnet" else MOBILENET} | changes
    macs, early = c["macs"], c["early"] + 1e-4 * seed
    leaving = {"entropy leaving": np.array([FIRST, LAST]), "mutual-agreement leaving": np.array([FIRST, [0.0, early, 0.0, 1 - early]])}
    accuracy = {"entropy": [0.5, c["peak"]], "mutual-agreement": [0.5, c["peak"] - c["lost"]]}
    arrays = leaving | {rule: np.array([leaving[f"{rule} leaving"] @ np.array(macs), accuracy[rule]]) for rule in accuracy}
    values = {
        "macs": macs,
        "samples": 10_000,
        "saving": savings(arrays) | c.get("saving", {}),
        "progressiveness": {"entropy": c["areas"][0], "mutual-agreement": c["areas"][1] + 1e-5 * seed},
    }
    if network == "mobilenet":
        released = c.get("released", [7, 10, 30, 50])
        values |= {"released_macs": released, "macs_at_full_size": macs, "released_macs_at_full_size": released}
    p = parse(Parameters, {"network": network})
    return Record(Run("agreement", to_json(p), profile, seed, "v1"), values, arrays, {}, Path("made-up.json"))


def world(
    profile: str = "laptop", seeds: tuple[int, ...] = (0, 1, 2), resnet: dict[str, Any] | None = None, **mobilenet: Any
) -> list[Record]:
    resnet = {"peak": 0.85} | (resnet or {})
    # early = 0.95 of the samples at half the cost: 1 / (1 - 0.95 * 0.5) = 1.9 times
    found = [record("mobilenet", seed, profile, **({"early": 0.95} | mobilenet)) for seed in seeds]
    return found + [record("resnet", seed, profile, **resnet) for seed in seeds]


def judge(name: str, records: list[Record]) -> Finding:
    return BY_ID[name].judge(records)


@pytest.mark.parametrize("name", BY_ID)
def test_where_the_sentences_are_right_every_claim_holds(name: str) -> None:
    assert judge(name, world()).verdict is Verdict.HOLDS


LATER = {"mutual-agreement leaving": np.array([FIRST, LAST]), "entropy leaving": np.array([FIRST, [0.0, 0.5, 0.0, 0.5]])}


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("mobilenet-saving", world(early=0.2)),
        ("mobilenet-corrected", world(early=0.8)),
        ("mobilenet-count", world(released=MOBILENET)),
        ("resnet-saving", world(resnet={"early": 0.2})),
        ("peak", world(lost=0.05)),
        ("peak", world(resnet={"lost": 0.05})),
        ("stops-sooner", world(resnet={"early": -0.01})),
        ("rises-earlier", world(areas=(0.6, 0.59))),
        ("equal-accuracy", world(saving={"equal accuracy": -0.01})),
        ("backbones", world(peak=0.9)),
        ("backbones", world(macs=[100, 200, 300, 400])),
    ],
)
def test_where_they_are_wrong_the_claim_does_not_hold(name: str, wrong: list[Record]) -> None:
    assert judge(name, wrong).verdict is Verdict.FAILS


def test_a_rule_that_leaves_later_somewhere_refutes_the_certain_one() -> None:
    good = record("resnet")
    bad = Record(good.run, good.values, dict(good.arrays) | LATER, {}, good.path)
    assert judge("all-thresholds", [good]).verdict is Verdict.HOLDS
    assert judge("all-thresholds", [good, bad]).verdict is Verdict.FAILS


def test_the_count_matters() -> None:
    one = record("mobilenet", early=0.95)
    assert improvement(one, one.values["macs"]) == pytest.approx(1 / (1 - 0.95 * 0.5))
    assert improvement(one, one.values["released_macs"]) == pytest.approx(1 / (1 - 0.95 * 0.8))
    between = world(early=0.8)
    assert judge("mobilenet-saving", between).verdict is Verdict.HOLDS
    assert judge("mobilenet-corrected", between).verdict is Verdict.FAILS


def test_smoke_decides_what_is_exact_and_nothing_else() -> None:
    records = world("smoke", seeds=(0,))
    for name in BY_ID:
        assert judge(name, records).verdict is (Verdict.HOLDS if name in EXACT else Verdict.UNDECIDED)


def test_a_missing_network_is_named_and_unequal_seeds_decide_nothing() -> None:
    resnet = [r for r in world() if r.run.parameters["network"] == "resnet"]
    for name in set(BY_ID) - {"resnet-saving", "all-thresholds"}:
        finding = judge(name, resnet)
        assert finding.verdict is Verdict.UNDECIDED
        assert "no run of the MobileNet yet" in finding.reason
    assert judge("resnet-saving", resnet).verdict is Verdict.HOLDS
    assert judge("equal-accuracy", world()[1:]).verdict is Verdict.UNDECIDED


def test_no_record_is_not_run() -> None:
    assert {claim.judge([]).verdict for claim in CLAIMS} == {Verdict.NOT_RUN}
