"""Widths and spaces against brute force, and everything that is no width."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tipslib.anytime.widths import STEPS, Dimension, WidthSpace, spread
from tipslib.errors import InvalidInput

choices = st.sets(st.integers(1, 60), min_size=1, max_size=9).map(lambda found: tuple(sorted(found)))
spaces = st.lists(choices, min_size=1, max_size=4).map(lambda many: WidthSpace(tuple(Dimension(f"d{i}", c) for i, c in enumerate(many))))


@given(choices, st.floats(0, 80))
def test_the_nearest_choice_is_that_of_brute_force_and_of_two_the_larger(allowed, wanted):
    distances = [abs(choice - wanted) for choice in allowed]
    assert Dimension("d", allowed).nearest(wanted) == max(c for c, d in zip(allowed, distances, strict=True) if d == min(distances))


@given(spaces)
def test_a_space_is_the_product_of_its_dimensions(space):
    every = list(itertools.product(*(d.choices for d in space.dimensions)))
    assert space.size == len(every)
    assert (space.smallest, space.largest) == (every[0], every[-1])
    assert all(space.contains(widths) for widths in every[:50])
    assert space.check_many(every[:50]).tolist() == [list(widths) for widths in every[:50]]
    assert len(space) == len(space.dimensions)
    assert repr(space) == f"WidthSpace({len(space)} dimensions, {len(every):.3g} configurations)"


@given(spaces, st.data())
def test_what_is_contained_passes_every_check_and_nothing_else_does(space, data):
    widths = [data.draw(st.integers(-1, 61)) for _ in space.dimensions]
    if all(w in d.choices for w, d in zip(widths, space.dimensions, strict=True)):
        assert space.check(np.array(widths)) == tuple(widths)
        assert all(type(w) is int for w in space.check(np.array(widths)))
        return
    assert not space.contains(widths)
    bad = next(d for w, d in zip(widths, space.dimensions, strict=True) if w not in d.choices)
    for call in (space.check, lambda w: space.check_many([list(space.largest), w])):
        with pytest.raises(InvalidInput, match=f"dimension '{bad.name}' cannot have .* allowed are {bad.choices[0]}"):
            call(widths)


@given(spaces, st.data())
def test_ratios_give_the_nearest_choice_of_each_dimension(space, data):
    ratios = [data.draw(st.floats(0, 1.5)) for _ in space.dimensions]
    assert space.at(ratios) == tuple(d.nearest(r * d.high) for d, r in zip(space.dimensions, ratios, strict=True))
    assert space.at(ratios[0]) == space.at([ratios[0]] * len(space))
    assert space.at(1) == space.at(7.5) == space.largest
    assert space.at(0) == space.smallest


@given(st.integers(1, 300), st.integers(0, 300), st.integers(2, 20), st.integers(1, 12))
def test_spread_widths_are_even_whole_units_between_the_ends(low, more, count, unit):
    high = low + more
    found = spread(low, high, count=count, unit=unit)
    available = list(range(high, low - 1, -unit))[::-1]
    assert set(found) <= set(available)
    assert (found[0], found[-1]) == (available[0], high)
    assert list(found) == sorted(set(found))
    assert len(found) == min(count, len(available))
    gaps = np.diff(found)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= unit


def test_the_released_widths_of_a_stage_are_spread():
    """84 to 136 by 4 and 266 to 448 by 14, as the released code lists them."""
    assert STEPS == 14
    assert spread(84, 136) == tuple(range(84, 137, 4))
    assert spread(266, 448) == tuple(range(266, 449, 14))


def test_the_size_of_a_large_space_is_exact():
    space = WidthSpace(tuple(Dimension(str(i), tuple(range(1, 15))) for i in range(40)))
    assert space.size == 14**40
    assert math.log10(space.size) > 45


def test_numbers_of_numpy_are_numbers():
    assert Dimension("d", np.arange(2, 5)).choices == (2, 3, 4)


SPACE = WidthSpace((Dimension("a", (2, 4)), Dimension("b", (3, 6, 9))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Dimension("d", ()), "'d' has no choices"),
        (lambda: Dimension("d", (0, 4)), r"choices are \(0, 4\); whole numbers of at least one channel"),
        (lambda: Dimension("d", (-2, 4)), "at least one channel"),
        (lambda: Dimension("d", (1.5, 4)), "whole numbers"),
        (lambda: Dimension("d", (4, 2)), "must ascend"),
        (lambda: Dimension("d", (2, 2)), "must ascend"),
        (lambda: WidthSpace(()), "at least one dimension"),
        (lambda: WidthSpace((Dimension("a", (1,)), Dimension("a", (2,)))), "unique, not a, a"),
        (lambda: SPACE.check((2,)), "1 widths for 2 dimensions; give one each: a, b"),
        (lambda: SPACE.check((2, 4)), "dimension 'b' cannot have 4 channels; allowed are 3, 6, 9"),
        (lambda: SPACE.check((0, 3)), "dimension 'a' cannot have 0 channels"),
        (lambda: SPACE.check((2.0, 3.0)), "whole numbers"),
        (lambda: SPACE.check("23"), "whole numbers"),
        (lambda: SPACE.check_many([2, 3]), r"shape \(2,\)"),
        (lambda: SPACE.check_many([[2, 3, 4]]), r"\(K, 2\) are wanted"),
        (lambda: SPACE.check_many([[2.0, 3.0]]), "float64"),
        (lambda: SPACE.check_many([[2, 10**9]]), "cannot have 1000000000 channels"),
        (lambda: SPACE.at(float("nan")), "ratios must be finite"),
        (lambda: SPACE.at(-0.1), "ratios must be finite numbers from 0"),
        (lambda: SPACE.at([0.5, math.inf]), "ratios must be finite"),
        (lambda: SPACE.at([0.5]), "1 ratios for 2 dimensions"),
        (lambda: spread(0, 4), "1 <= low <= high"),
        (lambda: spread(5, 4), "1 <= low <= high"),
        (lambda: spread(1, 4, count=1), "count = 1"),
        (lambda: spread(1, 4, unit=0), "unit = 0"),
    ],
)
def test_bad_input_is_refused_with_what_is_allowed(call, message):
    with pytest.raises(InvalidInput, match=message):
        call()
