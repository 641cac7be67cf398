"""Which subnetworks are the most accurate at their cost? (TIPS, 3.4 and Algorithm 1)"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from tipslib.anytime.elastic import Supernet
from tipslib.anytime.examination import Examiner
from tipslib.anytime.widths import WidthSpace
from tipslib.errors import InvalidInput, require
from tipslib.progress import track

Widths = tuple[int, ...]
Values = NDArray[np.float64]
Sampler = Callable[[WidthSpace, torch.Generator], Widths]

DRAWS = 20
"""Draws a candidate at most, where a sampler repeats itself."""


def pareto_front(costs: ArrayLike, values: ArrayLike) -> NDArray[np.bool_]:
    """Which of K points no other dominates: is at most as costly and at least as good, and better in one of the two.

    Of equal cost only the best stay; of equal value only the cheapest; points equal in both do not dominate each other and all stay.

    Parameters
    ----------
    costs, values : (K,)
        Less cost is better, and more value.

    Returns
    -------
    (K,) bool

    Raises
    ------
    InvalidInput
        Shapes that differ, or numbers that are not finite.
    """
    cost, value = _points(costs, values)
    if not len(cost):
        return np.zeros(0, dtype=bool)
    order = np.lexsort((-value, cost))
    c, v = cost[order], value[order]
    first = np.searchsorted(c, c, side="left")
    best_cheaper = np.concatenate([[-math.inf], np.maximum.accumulate(v)])[first]
    kept = np.zeros(len(cost), dtype=bool)
    kept[order] = (v == v[first]) & (v > best_cheaper)
    return kept


def front_as_printed(costs: ArrayLike, values: ArrayLike) -> NDArray[np.bool_]:
    """What Algorithm 1 of TIPS keeps of K networks if it meets them in this order; its lines are followed to the letter.

    A newcomer i is compared with every j that is kept. If cost_j <= cost_i and value_j > value_i, then i is not added. If cost_j <=
    cost_i and value_j < value_i, then j is thrown out, *although it is cheaper*; the comparison wanted there is cost_j >= cost_i.
    So what it returns is no front in general:

    - A cheaper and less accurate network, which a small budget needs, goes when a costlier and more accurate one is met. The most
      accurate network, when met, throws out all that are cheaper and less accurate: met last, it remains alone, and only those
      met after it can stay beside it.
    - A newcomer that is not added throws others out nonetheless.
    - A kept network that is costlier and less accurate than a newcomer stays: nothing removes it, although it is dominated.
    - Ties: of equal value neither dominates, so both stay, also where one is costlier; of equal cost the less accurate goes, met
      before or after; equal in both, both stay.

    Parameters
    ----------
    costs, values : (K,)
        In the order in which networks are sampled; the result depends on it.

    Returns
    -------
    (K,) bool
    """
    cost, value = _points(costs, values)
    kept = np.zeros(len(cost), dtype=bool)
    for i in range(len(cost)):
        at_most_as_costly = kept & (cost <= cost[i])
        optimal = not (at_most_as_costly & (value > value[i])).any()
        kept &= ~(at_most_as_costly & (value < value[i]))
        kept[i] = optimal
    return kept


def _points(costs: ArrayLike, values: ArrayLike) -> tuple[Values, Values]:
    cost, value = np.asarray(costs, dtype=np.float64), np.asarray(values, dtype=np.float64)
    require(cost.ndim == 1 and cost.shape == value.shape, f"costs are {cost.shape} and values {value.shape}; (K,) each is wanted")
    finite = np.isfinite(cost) & np.isfinite(value)
    require(bool(finite.all()), f"{int((~finite).sum())} of {len(cost)} points have a cost or value that is not finite; leave them out")
    return cost, value


@dataclass(frozen=True, eq=False)
class Candidates:
    """Every subnetwork that a search looked at, in the order drawn.

    Attributes
    ----------
    widths : (M, D) int64
    costs : (M,)
    accuracies : (M,)
        Share of the held-out images, in [0, 1]; NaN for a candidate that was dropped before it had seen them all.
    images : (M,) int64
        Held-out images that each was shown.
    """

    widths: NDArray[np.int64]
    costs: Values
    accuracies: Values
    images: NDArray[np.int64]

    @property
    def stopped(self) -> NDArray[np.bool_]:
        """(M,) True where a candidate was dropped early: a cheaper one, or one as costly, is more accurate for certain."""
        return np.isnan(self.accuracies)


@dataclass(frozen=True, eq=False)
class Front:
    """The subnetworks that a search chose, ascending in cost.

    Attributes
    ----------
    widths : (K, D) int64
    costs : (K,)
        Multiply-accumulates of one image, or whatever the search was given as cost.
    accuracies : (K,)
        Share of the held-out images, in [0, 1]. They served to choose, so on other images expect a little less.
    candidates
        All that were looked at.
    """

    widths: NDArray[np.int64]
    costs: Values
    accuracies: Values
    candidates: Candidates

    def __len__(self) -> int:
        """K."""
        return len(self.costs)

    def best_under(self, budget: float) -> int:
        """Row of the most accurate subnetwork that costs at most `budget`; of equally accurate ones the cheapest.

        Raises
        ------
        InvalidInput
            The budget is below the cheapest subnetwork; the message says which that is.
        """
        if not budget >= self.costs[0]:
            widths = ", ".join(map(str, self.widths[0].tolist()))
            raise InvalidInput(
                f"a budget of {budget:,.10g} is below the smallest subnetwork, which costs {self.costs[0]:,.10g}: ({widths})"
            )
        return int(self.accuracies[self.costs <= budget].argmax())


def pareto_search(
    net: Supernet,
    calibration_images: Sequence[Tensor],
    held_out: Sequence[tuple[Tensor, Tensor]],
    *,
    candidates: int = 1000,
    seed: int = 0,
    cost: Callable[[Widths], float] | None = None,
    sampler: Sampler | None = None,
    as_printed: bool = False,
) -> Front:
    """Search a trained supernet for the subnetworks that are the most accurate at their cost (TIPS, 3.4).

    All candidates are drawn first. They are examined in the order of their cost, each until it has seen all held-out images, or until
    the images that remain cannot lift it to where no cheaper one is as accurate. The images that earlier candidates found hard are shown
    first, which lets one stop sooner: to stop it must get more of them wrong than the best cheaper one did. The front is exactly that of
    the accuracies as they would be if nobody stopped.

    One thing is approximated: each candidate's batch-norm statistics come from the first 256 calibration images, as one batch, the
    same for all. Statistics from more images move accuracies a little, so take them anew with `tipslib.anytime.calibration.calibrate`
    for the few that are chosen. Batch norm is folded into the convolutions, which changes logits by rounding alone. A search runs in
    the precision of the autocast it is called under.

    Parameters
    ----------
    net
        The supernet, which is left as it was; nothing is computed with its own batch-norm statistics.
    calibration_images
        Batches (B, C, H, W) of training images, not augmented.
    held_out
        Batches (images, labels) that were neither trained on nor are tested on. They are copied to the supernet's device once.
    candidates
        How many subnetworks are looked at: the smallest, the largest, and different ones drawn. Fewer where the space has fewer, or where
        the sampler does not give so many.
    seed
        Of the draws.
    cost
        Of a configuration: latency, memory, energy, whatever (TIPS, footnote 4). Default: multiply-accumulates.
    sampler
        As those in `tipslib.anytime.samplers`. Default: around one level for all dimensions, so that every cost is met.
    as_printed
        Let Algorithm 1 as it is printed choose: every candidate sees all images, and of them is kept what `front_as_printed` keeps, in the
        order drawn, the smallest and the largest first. That is no front in general: it drops cheap ones and keeps dominated ones.

    Raises
    ------
    InvalidInput
        Fewer than two candidates, no held-out or calibration images, or a cost that is not finite.
    """
    require(candidates >= 2, f"candidates = {candidates}; at least 2 are wanted, the smallest and the largest subnetwork")
    generator = torch.Generator().manual_seed(seed)
    widths = _drawn(net.space, candidates, sampler or _around_a_level, generator)
    costs = np.array(net.macs_many(widths) if cost is None else [cost(tuple(w)) for w in widths.tolist()], dtype=np.float64)
    require(bool(np.isfinite(costs).all()), "the cost of a configuration is not finite; give a function from widths to a finite number")
    examiner = Examiner(net, calibration_images, held_out)
    right = np.zeros(len(costs), dtype=np.int64)
    shown = np.zeros(len(costs), dtype=np.int64)
    if as_printed:
        for i in track(range(len(costs)), "candidates"):
            right[i], shown[i] = examiner.examine(tuple(widths[i].tolist()))
    else:
        below, same, level = -1, -1, -math.inf  # the most that cheaper ones, and those as costly, got right
        for i in track(np.argsort(costs, kind="stable").tolist(), "candidates"):
            if costs[i] > level:
                below, same, level = max(below, same), -1, costs[i]
            right[i], shown[i] = examiner.examine(tuple(widths[i].tolist()), at_least=max(below + 1, same))
            if shown[i] == examiner.count:
                same = max(same, int(right[i]))
    accuracies = np.where(shown == examiner.count, right / examiner.count, np.nan)
    looked_at = Candidates(widths, costs, accuracies, shown)
    finished = np.flatnonzero(~looked_at.stopped)
    kept = finished[(front_as_printed if as_printed else pareto_front)(costs[finished], accuracies[finished])]
    kept = kept[np.lexsort((accuracies[kept], costs[kept]))]
    return Front(widths[kept], costs[kept], accuracies[kept], looked_at)


def _around_a_level(space: WidthSpace, generator: torch.Generator) -> Widths:
    """Every dimension at its own place within half a range of one level, so that all costs are met and widths differ.

    Independent dimensions alone would nearly always cost the middle. The level is from U(-1/2, 3/2), places beyond the ends are the ends.
    """
    draws = torch.rand(len(space) + 1, generator=generator, dtype=torch.float64).tolist()
    level = 2 * draws.pop() - 0.5
    places = [min(max(level + u - 0.5, 0.0), 1.0) for u in draws]
    return tuple(d.choices[round(place * (len(d.choices) - 1))] for d, place in zip(space.dimensions, places, strict=True))


def _drawn(space: WidthSpace, count: int, sampler: Sampler, generator: torch.Generator) -> NDArray[np.int64]:
    """(M, D) configurations without repeats, smallest and largest first; all there are, if they are no more than wanted."""
    found = dict.fromkeys([space.smallest, space.largest])
    if space.size <= count:
        found |= dict.fromkeys(itertools.product(*(d.choices for d in space.dimensions)))
    else:
        for _ in range(DRAWS * count):
            if len(found) == count:
                break
            found[sampler(space, generator)] = None
    return space.check_many(list(found))
