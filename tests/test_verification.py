"""Is every difference between a record and a repeated run named, and nothing else?"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tipslib.records import Outcome, Record, Run
from tipslib.verification import compare

VALUES: dict[str, Any] = {
    "mean": 0.5,
    "count": 3,
    "name": "a",
    "rows": [{"x": 1.0, "y": None}, {"x": 2.0, "y": True}],
    "timing": {"all": 1.5},
}
ARRAYS = {"curve": np.array([1e-20, 1.0, np.nan]), "mask": np.array([True, False]), "one": np.array(2.0)}
DATA = {"digits": "ab"}


def found(values: Any = VALUES, arrays: Any = ARRAYS, data: Any = DATA, tolerance: float = 1e-9) -> list[str]:
    run = Run("toy", {}, "smoke", 0, "v1")
    record = Record(run, copy.deepcopy(VALUES), ARRAYS, {"data": DATA}, Path("record.json"))
    return list(compare(record, Outcome(values, arrays, data), tolerance))


def changed(place: list[Any], value: Any) -> dict[str, Any]:
    values = copy.deepcopy(VALUES)
    inside = values
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = value
    return values


def test_the_same_is_the_same_whatever_it_took() -> None:
    assert found() == []
    assert found(changed(["timing"], {"all": 99.0, "more": 1})) == []
    assert found({key: value for key, value in VALUES.items() if key != "timing"}) == []
    assert found(changed(["rows"], tuple(VALUES["rows"]))) == [], "JSON has no tuples"


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (["mean"], 0.6, "values.mean: 0.5 in the record, 0.6 now"),
        (["mean"], None, "values.mean: 0.5 in the record, null now"),
        (["mean"], "0.5", 'values.mean: 0.5 in the record, "0.5" now'),
        (["count"], 4, "values.count: 3 in the record, 4 now"),
        (["name"], "b", 'values.name: "a" in the record, "b" now'),
        (["rows", 1, "x"], 2.1, "values.rows[1].x: 2.0 in the record, 2.1 now"),
        (["rows", 1, "y"], 1, "values.rows[1].y: true in the record, 1 now"),
        (["rows", 0, "y"], 0, "values.rows[0].y: null in the record, 0 now"),
        (["rows"], [], 'values.rows: [{"x": 1.0, "y": null}, {"x": 2.0, "y": true}] in the record, [] now'),
        (["rows", 0, "z"], 1, "values.rows[0].z: only in the repeated run"),
        (["new"], 1, "values.new: only in the repeated run"),
    ],
)
def test_a_value_that_differs_is_named_with_both_values(place: list[Any], value: Any, said: str) -> None:
    assert found(changed(place, value)) == [said]


def test_every_difference_is_named() -> None:
    values = {key: value for key, value in VALUES.items() if key != "name"} | {"mean": 1.0}
    arrays = {"curve": np.array([1e-20, 2.0, np.nan]), "mask": ARRAYS["mask"], "other": np.zeros(1)}
    assert found(values, arrays, {"digits": "cd"}) == [
        "values.mean: 0.5 in the record, 1.0 now",
        "values.name: only in the record",
        "arrays.curve: 1 of 3 numbers differ, the first at 1: 1.0 in the record, 2.0 now",
        "arrays.one: only in the record",
        "arrays.other: only in the repeated run",
        'data.digits: "ab" in the record, "cd" now',
    ]


@pytest.mark.parametrize(
    ("name", "array", "said"),
    [
        ("curve", np.array([2e-20, 1.0, np.nan]), "1 of 3 numbers differ, the first at 0: 1e-20 in the record, 2e-20 now"),
        ("curve", np.array([1e-20, 1.0, 1.0]), "1 of 3 numbers differ, the first at 2: nan in the record, 1.0 now"),
        ("curve", np.zeros(4), "float64 (3,) in the record, float64 (4,) now"),
        ("mask", np.array([True, True]), "1 of 2 numbers differ, the first at 1: False in the record, True now"),
        ("mask", np.array([1, 0]), "bool (2,) in the record, int64 (2,) now"),
        ("one", np.array(3.0), "1 of 1 numbers differ, the first: 2.0 in the record, 3.0 now"),
    ],
)
def test_an_array_that_differs_is_named(name: str, array: np.ndarray, said: str) -> None:
    assert found(arrays=ARRAYS | {name: array}) == [f"arrays.{name}: {said}"]


@given(value=st.floats(-1e300, 1e300).filter(lambda x: abs(x) > 1e-290), tolerance=st.floats(1e-12, 1e-2))
def test_floats_agree_within_the_relative_tolerance(value: float, tolerance: float) -> None:
    run = Run("toy", {}, "smoke", 0, "v1")

    def agrees(other: float) -> bool:
        record = Record(run, {"x": value}, {"x": np.array([value])}, {"data": {}}, Path("record.json"))
        said = list(compare(record, Outcome({"x": other}, {"x": np.array([other])}), tolerance))
        assert len(said) in (0, 2), "value and array are judged alike"
        return not said

    assert agrees(value)
    assert agrees(value * (1 + 0.9 * tolerance))
    assert not agrees(value * (1 + 1.1 * tolerance))
    assert not agrees(-value)
