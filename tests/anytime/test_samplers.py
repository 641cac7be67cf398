"""What is drawn and how often, against probabilities computed exactly."""

from collections import Counter
from itertools import product

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from tipslib.anytime.samplers import importance, shared_index, shared_ratio, uniform
from tipslib.anytime.widths import STEPS, Dimension, WidthSpace
from tipslib.errors import InvalidInput

DRAWS = 6000
SPACE = WidthSpace((Dimension("a", (3, 5, 10)), Dimension("b", (8, 9, 14, 20))))


def drawn(sampler, *arguments, **options):
    generator = torch.Generator().manual_seed(0)
    return [sampler(SPACE, *arguments, generator, **options) for _ in range(DRAWS)]


def check(found, probability):
    """Draws fit their probabilities, of which none is missing."""
    assert sum(probability.values()) == pytest.approx(1)
    counts = Counter(found)
    assert set(counts) <= {outcome for outcome, p in probability.items() if p}
    possible = [outcome for outcome, p in probability.items() if p]
    assert chisquare([counts[o] for o in possible], [DRAWS * probability[o] for o in possible]).pvalue > 0.001


def evenly(low):
    """Ratios that stand for U(low, 1): midpoints of a fine grid."""
    return low + (1 - low) * (np.arange(400_000) + 0.5) / 400_000


def nearest(dimension, ratios):
    """Choice of each ratio, without the library."""
    choices = np.array(dimension.choices)
    distances = np.abs(ratios[:, None] * choices[-1] - choices)
    return choices[distances.shape[1] - 1 - distances[:, ::-1].argmin(1)]


def test_uniform_draws_every_configuration_as_often():
    every = list(product(*(d.choices for d in SPACE.dimensions)))
    check(drawn(uniform), {widths: 1 / len(every) for widths in every})


@pytest.mark.parametrize("low", [0.35, 0.42, 0.7])
def test_one_ratio_for_all_is_uniform_from_its_lowest(low):
    ratios = evenly(low)
    outcomes = Counter(zip(*(nearest(d, ratios).tolist() for d in SPACE.dimensions), strict=True))
    check(drawn(shared_ratio, low=low), {widths: count / len(ratios) for widths, count in outcomes.items()})


def test_one_of_fourteen_indices_for_all():
    """As DS-Net: the ends are the smallest and the largest, and a dimension with as many choices takes the very index."""
    places = np.arange(STEPS) / (STEPS - 1)
    outcomes = Counter(
        zip(*([d.choices[int(np.rint(place * (len(d.choices) - 1)))] for place in places] for d in SPACE.dimensions), strict=True)
    )
    found = drawn(shared_index)
    check(found, {widths: count / STEPS for widths, count in outcomes.items()})
    assert {SPACE.smallest, SPACE.largest} <= set(found)
    whole = WidthSpace((Dimension("c", tuple(range(1, STEPS + 1))), Dimension("d", tuple(range(21, 21 + STEPS)))))
    generator = torch.Generator().manual_seed(0)
    assert {shared_index(whole, generator) for _ in range(400)} == {(i, 20 + i) for i in range(1, STEPS + 1)}


@pytest.mark.parametrize("important", [(False, False), (True, False), (True, True)])
def test_importance_draws_a_ratio_for_each_dimension_and_boosts_the_important(important):
    probabilities = []
    for d, chosen in zip(SPACE.dimensions, important, strict=True):
        ratios = evenly(d.low / d.high)
        counts = Counter(nearest(d, np.minimum(1, 1.5 * ratios) if chosen else ratios).tolist())
        probabilities.append({choice: count / len(ratios) for choice, count in counts.items()})
    joint = {(a, b): p * q for (a, p), (b, q) in product(*(each.items() for each in probabilities))}
    check(drawn(importance, important), joint)


def test_where_40_percent_are_sampled_60_percent_of_the_important_are(monkeypatch):
    """The paper's own example (TIPS, 4.3); beyond two thirds, all."""
    space = WidthSpace((Dimension("a", tuple(range(1, 101))), Dimension("b", tuple(range(1, 101)))))
    for share, important, other in ((0.4, 60, 40), (0.2, 30, 20), (0.66, 99, 66), (0.7, 100, 70), (1.0, 100, 100)):
        u = (share - 0.01) / 0.99
        monkeypatch.setattr(torch, "rand", lambda *size, generator, u=u: torch.full(size, u, dtype=torch.float64))
        assert importance(space, (True, False), torch.Generator()) == (important, other)


@pytest.mark.parametrize(("sampler", "arguments"), [(uniform, ()), (shared_ratio, ()), (shared_index, ()), (importance, ((True, False),))])
def test_draws_follow_the_generator_alone(sampler, arguments):
    def draws(seed):
        generator = torch.Generator().manual_seed(seed)
        return [sampler(SPACE, *arguments, generator) for _ in range(20)]

    torch.manual_seed(1)
    first = draws(5)
    torch.manual_seed(2)
    assert draws(5) == first != draws(6)
    assert all(SPACE.contains(widths) for widths in first)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda g: shared_ratio(SPACE, g, low=0.0), r"low = 0.0; allowed is \(0, 1\]"),
        (lambda g: shared_ratio(SPACE, g, low=1.1), "low = 1.1"),
        (lambda g: importance(SPACE, (True,), g), "1 bools for 2 dimensions; give one each"),
        (lambda g: importance(SPACE, (True, False), g, boost=0.9), "boost = 0.9; at least 1 is wanted"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(InvalidInput, match=message):
        call(torch.Generator())
