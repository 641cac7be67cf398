"""Each claim of the coupling experiment, on made-up records that support it and on some that do not."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tipslib.experiments.coupling import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.coupling import CLAIMS

BY_ID = {claim.id: claim for claim in CLAIMS}
NO_CHANGE = ((0, 0, 0), (0, 0, 0))


def record(
    reversals: tuple[tuple[int, int, int], ...] = NO_CHANGE,
    predicted: tuple[int, ...] = (0, 0),
    crossings: tuple[tuple[float, float], ...] = (),
    chains: dict[str, int] | None = None,
) -> Record:
    chains = {"exact": 0, "directed": 4, "damped": 9} if chains is None else chains
    values: dict[str, Any] = {
        "pairs": {"equal": 10, "unequal": 50},
        "crossings": [{"predicted": p, "measured": m} for p, m in crossings],
        "chains": [{"chain": name, "reversals": n} for name, n in chains.items()],
    }
    arrays = {"reversals": np.array(reversals), "predicted": np.array(predicted)}
    return Record(Run("coupling", to_json(Parameters()), "smoke", 0, "v1"), values, arrays, {}, Path("made-up.json"))


def judge(name: str, *records: Record) -> Finding:
    return BY_ID[name].judge(records)


@pytest.mark.parametrize("name", ["coupling-ranking-equal-length", "coupling-ranking-any-length", "coupling-ranking-per-node"])
def test_no_change_of_order_holds(name: str) -> None:
    finding = judge(name, record())
    assert (finding.verdict, finding.effect, finding.interval) == (Verdict.HOLDS, 0.0, None)


@pytest.mark.parametrize(
    ("name", "column"),
    [("coupling-ranking-equal-length", 0), ("coupling-ranking-any-length", 1), ("coupling-ranking-per-node", 2)],
)
def test_one_change_in_one_draw_of_one_record_refutes(name: str, column: int) -> None:
    changed = record(reversals=((0, 0, 0), tuple(int(i == column) for i in range(3))))
    assert judge(name, record(), changed).verdict is Verdict.FAILS
    for other in {"coupling-ranking-equal-length", "coupling-ranking-any-length", "coupling-ranking-per-node"} - {name}:
        assert judge(other, record(), changed).verdict is Verdict.HOLDS


def test_share_of_unequal_pairs_is_in_percent() -> None:
    finding = judge("coupling-ranking-any-length", record(reversals=((0, 3, 0), (0, 0, 0))))
    assert finding.effect == pytest.approx(100 * 3 / 100)
    assert "in 1 of 2 draws" in finding.reason


def test_crossing_where_predicted_holds() -> None:
    finding = judge("coupling-crossing-predicted", record(((0, 3, 0), (0, 0, 0)), (3, 0), ((0.25, 0.25 + 1e-13),)))
    assert finding.verdict is Verdict.HOLDS
    assert finding.effect == pytest.approx(1e-13, rel=0.01)


@pytest.mark.parametrize(
    "wrong",
    [
        record(((0, 3, 0), (0, 0, 0)), (3, 0), ((0.25, 0.26),)),
        record(((0, 3, 0), (0, 0, 0)), (2, 0), ((0.25, 0.25),)),
    ],
    ids=["elsewhere", "another number of pairs"],
)
def test_crossing_elsewhere_does_not_hold(wrong: Record) -> None:
    assert judge("coupling-crossing-predicted", wrong).verdict is Verdict.FAILS


def test_nothing_that_crosses_decides_nothing() -> None:
    assert judge("coupling-crossing-predicted", record()).verdict is Verdict.UNDECIDED


@pytest.mark.parametrize(
    ("chains", "verdict"),
    [
        ({"exact": 0, "directed": 4, "damped": 9}, Verdict.HOLDS),
        ({"exact": 0, "directed": 0, "damped": 9}, Verdict.FAILS),
        ({"exact": 0, "directed": 4, "damped": 0}, Verdict.FAILS),
        ({"exact": 1, "directed": 4, "damped": 9}, Verdict.FAILS),
    ],
)
def test_other_chains(chains: dict[str, int], verdict: Verdict) -> None:
    assert judge("coupling-other-chains", record(chains=chains)).verdict is verdict


def test_no_record_is_not_run() -> None:
    assert {claim.judge([]).verdict for claim in CLAIMS} == {Verdict.NOT_RUN}
