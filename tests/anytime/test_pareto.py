"""Fronts against brute force; Algorithm 1 against its printed lines; the search against every candidate examined in full."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tipslib.anytime import examination, pareto
from tipslib.anytime.calibration import accuracy_at, calibrate
from tipslib.anytime.elastic import make_elastic
from tipslib.anytime.examination import CALIBRATION
from tipslib.anytime.pareto import front_as_printed, pareto_front, pareto_search
from tipslib.anytime.samplers import shared_index, uniform
from tipslib.anytime.supernets import mobilenet_v2_supernet
from tipslib.errors import InvalidInput

# few different numbers, so that ties are common
POINTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=12)


def columns(points):
    return [c for c, _ in points], [v for _, v in points]


def by_brute_force(costs, values):
    """No other is at most as costly and at least as good, and better in one."""
    points = list(zip(costs, values, strict=True))
    return [not any(c <= cost and v >= value and (c < cost or v > value) for c, v in points) for cost, value in points]


def to_the_letter(costs, values):
    """Algorithm 1 with sets, line by line."""
    kept = set()
    for i in range(len(costs)):
        optimal, out = True, set()
        for j in kept:
            if costs[j] <= costs[i] and values[j] > values[i]:
                optimal = False
            elif costs[j] <= costs[i] and values[j] < values[i]:
                out.add(j)
        if optimal:
            kept.add(i)
        kept -= out
    return [i in kept for i in range(len(costs))]


@given(POINTS)
def test_front_is_what_brute_force_finds(points):
    costs, values = columns(points)
    assert pareto_front(costs, values).tolist() == by_brute_force(costs, values)


@given(POINTS, st.randoms())
def test_front_does_not_hang_on_the_order_and_is_its_own_front(points, random):
    costs, values = (np.array(column, dtype=float) for column in columns(points))
    kept = pareto_front(costs, values)
    order = np.array(random.sample(range(len(points)), len(points)), dtype=int)
    np.testing.assert_array_equal(pareto_front(costs[order], values[order]), kept[order])
    assert pareto_front(costs[kept], values[kept]).all()
    # along the front more cost buys more value; and every point is matched by one on the front
    along = np.unique(np.stack([costs[kept], values[kept]]), axis=1)
    assert (np.diff(along, axis=1) > 0).all()
    assert all(((costs[kept] <= c) & (values[kept] >= v)).any() for c, v in points)


def test_ties_of_a_front_are_as_said():
    costs = [1, 1, 2, 2, 3, 3, 0.5]
    values = [5, 4, 5, 5, 6, 6, -1]
    assert pareto_front(costs, values).tolist() == [True, False, False, False, True, True, True]


@pytest.mark.parametrize("function", [pareto_front, front_as_printed])
def test_points_that_cannot_be_compared_are_refused(function):
    assert function([], []).tolist() == []
    with pytest.raises(InvalidInput, match=r"costs are \(2,\) and values \(3,\)"):
        function([1, 2], [1, 2, 3])
    with pytest.raises(InvalidInput, match="wanted"):
        function([[1, 2]], [[1, 2]])
    with pytest.raises(InvalidInput, match="1 of 2 points"):
        function([1, float("nan")], [1, 2])


@given(POINTS)
def test_algorithm_1_is_followed_to_the_letter(points):
    costs, values = columns(points)
    assert front_as_printed(costs, values).tolist() == to_the_letter(costs, values)


@pytest.mark.parametrize(
    ("costs", "values", "kept", "wanted"),
    [
        # a front met from the cheap end: only the last remains
        ([1, 2, 3], [1, 2, 3], [0, 0, 1], [1, 1, 1]),
        # the same front from the costly end: all stay
        ([3, 2, 1], [3, 2, 1], [1, 1, 1], [1, 1, 1]),
        # dominated and met first: it stays
        ([2, 1], [1, 2], [1, 1], [0, 1]),
        # dominated and met last: it is not added
        ([1, 2], [2, 1], [1, 0], [1, 0]),
        # the third is not added, because of the second, and throws out the first nonetheless
        ([1, 2, 3], [1, 3, 2], [0, 1, 0], [1, 1, 0]),
        ([2, 1, 3], [3, 1, 2], [1, 0, 0], [1, 1, 0]),
        # of equal value both stay
        ([1, 2], [1, 1], [1, 1], [1, 0]),
        # of equal cost the less accurate goes, met before or after
        ([1, 1], [1, 2], [0, 1], [0, 1]),
        ([1, 1], [2, 1], [1, 0], [1, 0]),
        # equal in both
        ([1, 1], [2, 2], [1, 1], [1, 1]),
    ],
)
def test_algorithm_1_on_cases_by_hand(costs, values, kept, wanted):
    assert front_as_printed(costs, values).tolist() == [bool(k) for k in kept]
    assert pareto_front(costs, values).tolist() == [bool(w) for w in wanted]


@given(POINTS)
def test_algorithm_1_keeps_the_most_accurate_alone_if_it_is_costliest_and_met_last(points):
    costs, values = columns([*points, (6, 6)])
    assert front_as_printed(costs, values).tolist() == [False] * len(points) + [True]


CLASSES = 4


def supernet(seed=0):
    """Two dimensions of four widths; in double precision, so that rounding decides nothing."""
    torch.manual_seed(seed)
    body = nn.Sequential(
        *(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
    )
    nn.init.normal_(body[8].weight)
    return make_elastic(body, (3, 6, 6), choices={"0": (2, 4, 6, 8), "3": (2, 4, 6, 8)}).double().eval()


def images(count, seed):
    return torch.randn(count, 3, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


CALIBRATING = [images(80, 1)]


def named_by(net, widths, batches=4, size=25):
    """Held-out images whose labels are what one subnetwork says: that one is always right."""
    statistics = calibrate(net, widths, CALIBRATING)
    plain = net.export(widths, statistics).eval()
    with torch.no_grad():
        return [(x, plain(x).argmax(1)) for x in (images(size, 10 + i) for i in range(batches))]


def in_full(net, widths, held_out):
    """Accuracy of each row, calibrated and tested without anything clever."""
    return np.array([accuracy_at(net, held_out, row, calibrate(net, row, CALIBRATING)) for row in widths.tolist()])


@pytest.mark.parametrize("teacher", [(2, 2), (4, 6), (8, 8)])
def test_the_search_finds_the_front_of_all_that_it_looked_at(teacher):
    net = supernet()
    held_out = named_by(net, teacher)
    front = pareto_search(net, CALIBRATING, held_out, candidates=16)
    looked_at = front.candidates
    expected = in_full(net, looked_at.widths, held_out)
    kept = np.flatnonzero(by_brute_force(looked_at.costs, expected))
    kept = kept[np.lexsort((expected[kept], looked_at.costs[kept]))]
    np.testing.assert_array_equal(front.widths, looked_at.widths[kept])
    np.testing.assert_array_equal(front.costs, [net.macs(row) for row in front.widths.tolist()])
    np.testing.assert_array_equal(front.accuracies, expected[kept])
    assert front.accuracies[-1] == 1
    # whoever finished has its true accuracy; whoever stopped is worse than a cheaper one
    np.testing.assert_array_equal(looked_at.accuracies[~looked_at.stopped], expected[~looked_at.stopped])
    assert (looked_at.images[~looked_at.stopped] == 100).all()
    assert (looked_at.images[looked_at.stopped] < 100).all()
    for i in np.flatnonzero(looked_at.stopped):
        cheaper = looked_at.costs <= looked_at.costs[i]
        assert expected[cheaper].max() > expected[i] or (expected[looked_at.costs < looked_at.costs[i]] == expected[i]).any()
    costlier = looked_at.costs > net.macs(teacher)
    assert looked_at.stopped[costlier].all()
    assert front.widths.dtype == looked_at.widths.dtype == np.int64


@settings(max_examples=60)
@given(st.data())
def test_stopping_early_never_changes_the_front(data):
    """Tables of who is right about what take the place of networks; costs and counts tie often."""
    net = supernet()
    rows = list(itertools.product((2, 4, 6, 8), repeat=2))
    total = data.draw(st.integers(1, 24))
    hits = {row: data.draw(st.lists(st.booleans(), min_size=total, max_size=total)) for row in rows}
    costs = {row: data.draw(st.integers(1, 4)) for row in rows}
    size = data.draw(st.integers(1, total))
    held_out = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in images(total, 3).split(size)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination.Examiner, "_subnetwork", lambda self, widths: widths)
        patch.setattr(examination.Examiner, "_outcome", lambda self, widths, which: certain(torch.tensor(hits[widths])[which]))
        patch.setattr(examination, "FEWEST", data.draw(st.integers(1, 4)))
        front = pareto_search(net, CALIBRATING, held_out, candidates=16, cost=lambda w: costs[w])
    looked_at = [tuple(row) for row in front.candidates.widths.tolist()]
    assert sorted(looked_at) == rows
    kept = by_brute_force([costs[row] for row in looked_at], [sum(hits[row]) for row in looked_at])
    assert {tuple(row) for row in front.widths.tolist()} == {row for row, is_in in zip(looked_at, kept, strict=True) if is_in}
    np.testing.assert_array_equal(front.accuracies, [sum(hits[tuple(row)]) / total for row in front.widths.tolist()])
    assert (np.diff(front.costs) >= 0).all()


def certain(hits):
    return hits, hits.float()


def test_images_that_were_hard_come_first():
    """The cheapest is wrong about two images, every other about the last eight, and soon has to be shown few."""
    net, total = supernet(), 40
    held_out = [(x, torch.zeros(len(x), dtype=torch.int64)) for x in images(total, 3).split(4)]
    shown = []

    def outcome(self, widths, which):
        shown.append((widths, which.tolist()))
        return certain(which >= 2 if widths == (2, 2) else which < total - 8)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(examination.Examiner, "_subnetwork", lambda self, widths: widths)
        patch.setattr(examination.Examiner, "_outcome", outcome)
        patch.setattr(examination, "FEWEST", 4)
        front = pareto_search(net, CALIBRATING, held_out, candidates=16)
    assert front.widths.tolist() == [[2, 2]]
    order = np.argsort(front.candidates.costs, kind="stable")
    # nobody knows yet what the second is wrong about; those after it are asked about that at once
    assert front.candidates.images[order].tolist() == [40, 36, *[4] * 14]
    assert set(shown[-1][1]) <= {0, 1, *range(total - 8, total)}


def test_beside_one_that_is_always_right_nobody_costlier_is_shown_anything():
    net = supernet()
    front = pareto_search(net, CALIBRATING, named_by(net, (2, 2)), candidates=16)
    assert front.widths.tolist() == [[2, 2]]
    assert sorted(front.candidates.images.tolist()) == [0] * 15 + [100]


def test_algorithm_1_as_printed_stands_behind_the_same_call():
    net = supernet()
    held_out = named_by(net, (4, 6))
    printed = pareto_search(net, CALIBRATING, held_out, candidates=12, as_printed=True)
    right = pareto_search(net, CALIBRATING, held_out, candidates=12)
    looked_at = printed.candidates
    np.testing.assert_array_equal(looked_at.widths, right.candidates.widths)
    assert (looked_at.images == 100).all()
    expected = in_full(net, looked_at.widths, held_out)
    np.testing.assert_array_equal(looked_at.accuracies, expected)
    kept = np.flatnonzero(to_the_letter(looked_at.costs, expected))
    assert {tuple(row) for row in printed.widths.tolist()} == {tuple(row) for row in looked_at.widths[kept].tolist()}
    assert (np.diff(printed.costs) >= 0).all()
    assert printed.widths.tolist() != right.widths.tolist()


@pytest.mark.parametrize("as_printed", [True, False])
def test_the_supernet_is_left_as_it_was_and_the_seed_decides(as_printed):
    net = supernet()
    net.train()
    net.set_width((4, 4))
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    held_out = named_by(net, (8, 8))
    fronts = [pareto_search(net, CALIBRATING, held_out, candidates=6, seed=seed, as_printed=as_printed) for seed in (0, 0, 1)]
    assert net.widths == (4, 4)
    assert all(m.training for m in net.modules())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    first, again, other = (front.candidates for front in fronts)
    np.testing.assert_array_equal(first.widths, again.widths)
    np.testing.assert_array_equal(first.accuracies, again.accuracies)
    assert first.widths.tolist() != other.widths.tolist()


def test_candidates_are_different_and_begin_with_the_smallest_and_the_largest():
    net = supernet()
    held_out = named_by(net, (8, 8), batches=1)
    for count, drawn in ((2, 2), (9, 9), (16, 16), (500, 16)):
        widths = pareto_search(net, CALIBRATING, held_out, candidates=count).candidates.widths.tolist()
        assert widths[:2] == [[2, 2], [8, 8]]
        assert len(widths) == len({tuple(row) for row in widths}) == drawn
    few = pareto_search(net, CALIBRATING, held_out, candidates=15, sampler=shared_index)
    assert sorted(few.candidates.widths.tolist()) == [[2, 2], [4, 4], [6, 6], [8, 8]]
    asked = []

    def sampler(space, generator):
        asked.append(space)
        return uniform(space, generator)

    pareto_search(net, CALIBRATING, held_out, candidates=4, sampler=sampler)
    assert len(asked) >= 2
    assert set(asked) == {net.space}


def test_candidates_meet_every_cost():
    """Of a space where independent widths alone would all cost about the middle."""
    space = (net := mobilenet_v2_supernet(width=0.25)).space
    generator = torch.Generator().manual_seed(0)
    drawn = pareto._drawn(space, 400, pareto._around_a_level, generator)
    low, high = net.macs(space.smallest), net.macs(space.largest)

    def met(widths):
        return np.histogram(net.macs_many(widths), bins=10, range=(low, high))[0]

    assert (met(drawn) >= 10).all()
    alone = np.array([uniform(space, generator) for _ in range(400)])
    assert met(alone)[0] == met(alone)[-1] == 0
    assert all(len(np.unique(column)) == len(d.choices) for column, d in zip(drawn.T, space.dimensions, strict=True))


def test_any_cost_may_be_given():
    net = supernet()
    held_out = named_by(net, (6, 4))
    asked = []

    def latency(widths):
        asked.append(widths)
        return 100.0 - widths[0]

    front = pareto_search(net, CALIBRATING, held_out, candidates=16, cost=latency)
    assert all(isinstance(w, tuple) and net.space.contains(w) for w in asked)
    assert len(asked) == 16
    expected = in_full(net, front.candidates.widths, held_out)
    kept = by_brute_force(100.0 - front.candidates.widths[:, 0], expected)
    assert sorted(front.widths.tolist()) == sorted(front.candidates.widths[kept].tolist())
    np.testing.assert_array_equal(front.costs, 100.0 - front.widths[:, 0])


def test_the_best_under_a_budget():
    net = supernet()
    front = pareto_search(net, CALIBRATING, named_by(net, (8, 8)), candidates=16)
    assert len(front) >= 3
    for budget in np.linspace(front.costs[0], front.costs[-1] * 1.1, 30):
        row = front.best_under(budget)
        affordable = front.candidates.costs <= budget
        assert front.costs[row] <= budget
        assert front.accuracies[row] == np.nanmax(front.candidates.accuracies[affordable])
    assert front.best_under(front.costs[1]) == 1
    for budget in (front.costs[0] - 1, float("nan")):
        with pytest.raises(InvalidInput, match=rf"costs {net.macs((2, 2)):,}: \(2, 2\)"):
            front.best_under(budget)


def test_what_the_printed_algorithm_left_is_searched_for_the_best_too():
    front = pareto.Front(np.array([[2, 2], [2, 4]]), np.array([1.0, 2.0]), np.array([0.9, 0.5]), candidates=None)
    assert front.best_under(5) == 0


def test_statistics_come_from_the_first_256_calibration_images():
    net = supernet()
    held_out = named_by(net, (8, 8))
    batches = [images(100, 30 + i) for i in range(3)]
    beyond = torch.full((10, 3, 6, 6), float("nan"), dtype=torch.float64)
    assert 200 < CALIBRATION <= 300
    front, other = (pareto_search(net, x, held_out, candidates=5) for x in (batches, [*batches, beyond]))
    np.testing.assert_array_equal(front.candidates.accuracies, other.candidates.accuracies)
    row = front.widths[-1].tolist()
    assert front.accuracies[-1] == accuracy_at(net, held_out, row, calibrate(net, row, [torch.cat(batches)[:CALIBRATION]]))


def test_what_cannot_be_searched_is_refused():
    net = supernet()
    held_out = named_by(net, (8, 8), batches=1)
    with pytest.raises(InvalidInput, match="at least 2 are wanted"):
        pareto_search(net, CALIBRATING, held_out, candidates=1)
    with pytest.raises(InvalidInput, match="held_out is empty"):
        pareto_search(net, CALIBRATING, [])
    with pytest.raises(InvalidInput, match="calibration_images is empty"):
        pareto_search(net, [], held_out)
    with pytest.raises(InvalidInput, match="25 held-out images with 24 labels"):
        pareto_search(net, CALIBRATING, [(held_out[0][0], held_out[0][1][:-1])])
    with pytest.raises(InvalidInput, match="labels go from 0 to 4; the network has the classes 0 to 3"):
        pareto_search(net, CALIBRATING, [(images(2, 1), torch.tensor([4, 0]))])
    with pytest.raises(InvalidInput, match="cost of a configuration is not finite"):
        pareto_search(net, CALIBRATING, held_out, cost=lambda w: float("nan"))
    with pytest.raises(InvalidInput, match="cannot have"):
        pareto_search(net, CALIBRATING, held_out, candidates=3, sampler=lambda space, generator: (3, 3))
