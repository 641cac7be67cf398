"""Is a legal set of parameters taken as it is, and any other refused with what is allowed?"""

from __future__ import annotations

import json
import math
from dataclasses import FrozenInstanceError, dataclass
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tipslib.errors import InvalidInput, require
from tipslib.parameters import parse, parse_text, to_json


@dataclass(frozen=True)
class Legal:
    count: int = 3
    ratio: float = 0.5
    fast: bool = False
    name: str = "plain"
    network: Literal["small", "large"] = "small"
    level: Literal[1, 2] = 1
    sizes: tuple[int, ...] = (2, 4)
    ratios: tuple[float, ...] = ()
    limit: int | None = None
    pairs: tuple[tuple[str, ...], ...] = ()

    def __post_init__(self) -> None:
        require(self.count >= 1, f"count = {self.count}; at least 1 is wanted")


LEGAL = st.builds(
    Legal,
    count=st.integers(1, 10**30),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
    fast=st.booleans(),
    name=st.text(),
    network=st.sampled_from(["small", "large"]),
    level=st.sampled_from([1, 2]),
    sizes=st.lists(st.integers()).map(tuple),
    ratios=st.lists(st.floats(allow_nan=False, allow_infinity=False)).map(tuple),
    limit=st.none() | st.integers(),
    pairs=st.lists(st.lists(st.text()).map(tuple)).map(tuple),
)


@given(LEGAL)
def test_parameters_survive_json(parameters: Legal) -> None:
    assert parse(Legal, json.loads(json.dumps(to_json(parameters)))) == parameters


@given(LEGAL)
def test_parameters_survive_the_command_line(parameters: Legal) -> None:
    given_ = dict(parse_text(f"{name}={json.dumps(value)}") for name, value in to_json(parameters).items())
    assert parse(Legal, given_) == parameters


def test_what_is_not_given_keeps_its_default() -> None:
    assert parse(Legal, {}) == Legal()
    assert parse(Legal, {"count": 7}) == Legal(count=7)
    assert parse(Legal, {"sizes": [1], "limit": 5}) == Legal(sizes=(1,), limit=5)
    with pytest.raises(FrozenInstanceError):
        parse(Legal, {}).count = 4  # type: ignore[misc]


def test_whole_numbers_pass_for_floats_and_nothing_else_is_converted() -> None:
    assert type(parse(Legal, {"ratio": 2}).ratio) is float
    assert parse(Legal, {"ratios": [1, 2.5]}).ratios == (1.0, 2.5)


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"cuont": 3}, "no parameter 'cuont'; there are count, ratio, fast, name, network, level, sizes, ratios, limit, pairs"),
        ({"count": 0}, "count = 0; at least 1 is wanted"),
        ({"count": 1.0}, "count = 1.0 is of type float; int is wanted"),
        ({"count": "1"}, "count = '1' is of type str; int is wanted"),
        ({"count": True}, "count = True is of type bool; int is wanted"),
        ({"count": None}, "count = None is of type NoneType; int is wanted"),
        ({"count": np.int64(3)}, "is of type int64; int is wanted"),
        ({"fast": 1}, "fast = 1 is of type int; bool is wanted"),
        ({"name": 3}, "name = 3 is of type int; str is wanted"),
        ({"ratio": True}, "ratio = True is of type bool; float is wanted"),
        ({"ratio": math.nan}, "ratio = nan; a finite number is wanted"),
        ({"ratio": -math.inf}, "ratio = -inf; a finite number is wanted"),
        ({"ratio": 10**400}, "ratio = inf; a finite number is wanted"),
        ({"network": "medium"}, "network = 'medium'; allowed are 'small', 'large'"),
        ({"network": ["small"]}, "allowed are 'small', 'large'"),
        ({"level": True}, "level = True; allowed are 1, 2"),
        ({"level": 1.0}, "level = 1.0; allowed are 1, 2"),
        ({"sizes": 3}, "sizes = 3; a list is wanted, such as sizes=[1, 2]"),
        ({"sizes": "12"}, "sizes = '12'; a list is wanted"),
        ({"sizes": [1, 2.5]}, "sizes = 2.5 is of type float; int is wanted"),
        ({"limit": "none"}, "limit = 'none' is of type str; int is wanted"),
        ({"pairs": [[1]]}, "pairs = 1 is of type int; str is wanted"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(given_: dict[str, object], message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        parse(Legal, given_)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", ("a", 1)),
        ("a=0.5", ("a", 0.5)),
        ("a=[2, 4]", ("a", [2, 4])),
        ("a=true", ("a", True)),
        ("a=null", ("a", None)),
        ("a=resnet18", ("a", "resnet18")),
        ('a="1"', ("a", "1")),
        ("a=b=c", ("a", "b=c")),
        ("a=", ("a", "")),
        ("a=[", ("a", "[")),
        ("a=" + "[" * 100_000, ("a", "[" * 100_000)),
        ("a=" + "9" * 5000, ("a", "9" * 5000)),
    ],
)
def test_key_and_value_are_split(text: str, expected: tuple[str, object]) -> None:
    assert parse_text(text) == expected


@pytest.mark.parametrize("text", ["", "a", "=1", "a b=1", "1a=2", "a-b=1"])
def test_what_is_no_key_and_value_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="is not of the form key=value"):
        parse_text(text)


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999"])
def test_numbers_without_a_value_do_not_get_in_through_json(value: str) -> None:
    with pytest.raises(InvalidInput, match="a finite number is wanted"):
        parse(Legal, dict([parse_text(f"ratio={value}")]))
