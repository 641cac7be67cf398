"""How do width, depth and number of exits move the operating range (progressive intelligence, section 4 and Fig. 4)?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tipslib.experiments.backbones import DEPTHS, EXITS, RISING, WIDTHS
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import largest_below, smallest_above, within
from tipslib.reporting.modes import best_accuracy, bound, exit_saving, full_macs, mode_area, variant
from tipslib.reporting.published import quoted

_TRAINED = ("laptop", "gpu", "paper")
_ALL = ("smoke", *_TRAINED)
_SQUARE_TOLERANCE = 5.0
"""Percent: input and last layer grow with the width, not with its square, so the law can only be nearly right."""

ABOUT = 10.0
"""Percentage points to either side that "about 50 %" is taken to allow; for 84 %, which is printed to the percent, it is 1."""

Floats = NDArray[np.float64]
Test = Callable[[Sequence[Record]], Finding]
Backbone = Mapping[str, Any]


def _needing(test: Test, *variants: Backbone) -> Test:
    """`test` of the seeds that all of these backbones were run with, or not run where there is none."""

    def checked(records: Sequence[Record]) -> Finding:
        found = [variant(records, **v) for v in variants]
        if not all(found):
            missing = next(v for v, group in zip(variants, found, strict=True) if not group)
            words = ", ".join(f"{name} = {value}" for name, value in missing.items()) or "the standard backbone"
            return Finding(Verdict.NOT_RUN, None, None, 0, f"no run yet with {words}")
        shared = set.intersection(*({r.run.seed for r in group} for group in found))
        if not shared:
            return Finding(Verdict.NOT_RUN, None, None, 0, "the backbones have not been run with the same seeds yet")
        return test([record for record in records if record.run.seed in shared])

    return checked


def _gains(records: Sequence[Record], measure: Callable[[Record], float], *pairs: tuple[Backbone, Backbone]) -> Floats:
    """(pairs, seeds) `measure` of the second backbone minus that of the first."""
    one = [[measure(r) for r in variant(records, **a)] for a, _ in pairs]
    other = [[measure(r) for r in variant(records, **b)] for _, b in pairs]
    gains: Floats = np.array(other) - np.array(one)
    return gains


def _bound(records: Sequence[Record]) -> float:
    return float(np.mean([bound(r) for r in variant(records)]))


def _square_law(records: Sequence[Record]) -> Finding:
    base = full_macs(variant(records))[-1]
    ratios = {w: full_macs(variant(records, relative_width=w))[-1] / base for w in WIDTHS}
    off = max(abs(100 * (ratio / w**2 - 1)) for w, ratio in ratios.items())
    each = ", ".join(f"{ratio:.4f} at {w:.0%} (square: {w**2:.4f})" for w, ratio in ratios.items() if w != 1)
    verdict = Verdict.HOLDS if off <= _SQUARE_TOLERANCE else Verdict.FAILS
    return Finding(verdict, off, None, len(variant(records)), f"MACs at the paper's size, as a share of the standard width: {each}")


def _thinning(records: Sequence[Record]) -> Finding:
    wide, standard = full_macs(variant(records, relative_width=WIDTHS[-1]))[-1], full_macs(variant(records))[-1]
    saving, printed = 100 * (1 - standard / wide), quoted("progressive-thinning-saving").value
    verdict = Verdict.HOLDS if abs(saving - printed) <= 1 else Verdict.FAILS
    reason = f"from {WIDTHS[-1]:.0%} of the width to the standard one, MACs fall from {wide / 1e6:,.1f} M to {standard / 1e6:,.1f} M"
    return Finding(verdict, saving, None, len(variant(records)), reason)


def _exiting(records: Sequence[Record]) -> Finding:
    savings, printed = [exit_saving(r) for r in variant(records, relative_width=WIDTHS[-1])], quoted("progressive-exit-saving").value
    reason = f"the cheapest mode within the bound of the best accuracy saves {np.mean(savings):.1f} % of the widest network's MACs"
    return within(np.array(savings), printed - ABOUT, printed + ABOUT, reason)


def _half_width(records: Sequence[Record]) -> Finding:
    loss, limit = _gains(records, best_accuracy, ({"relative_width": 0.5}, {})), _bound(records)
    reason = f"half the width loses {loss.mean():.2f} points of peak accuracy; the bound is {limit:.2f}"
    return largest_below(loss, limit, reason)


def _quarter_width(records: Sequence[Record]) -> Finding:
    loss, limit = _gains(records, best_accuracy, ({"relative_width": 0.25}, {})), _bound(records)
    reason = f"a quarter of the width loses {loss.mean():.2f} points of peak accuracy; the bound is {limit:.2f}"
    return smallest_above(loss, limit, reason)


def _wider(records: Sequence[Record]) -> Finding:
    gain, limit = _gains(records, best_accuracy, ({}, {"relative_width": WIDTHS[-1]})), _bound(records)
    reason = f"{WIDTHS[-1]:.0%} of the width gains {gain.mean():.2f} points of peak accuracy; the bound is {limit:.2f}"
    return largest_below(gain, limit, reason)


def _thin_exits(records: Sequence[Record]) -> Finding:
    gain = _gains(records, exit_saving, ({"relative_width": 0.25}, {"relative_width": WIDTHS[-1]}))
    means = {w: np.mean([exit_saving(r) for r in variant(records, relative_width=w)]) for w in WIDTHS}
    each = ", ".join(f"{saving:.1f} % at {w:.0%}" for w, saving in means.items())
    return smallest_above(gain, 0.0, f"saving of early exits within the bound, by width: {each}")


def _deeper(records: Sequence[Record]) -> Finding:
    steps = _gains(records, best_accuracy, *(({"depth": a}, {"depth": b}) for a, b in pairwise(DEPTHS)))
    each = ", ".join(f"{g:+.2f} from {a} to {b}" for g, (a, b) in zip(steps.mean(1), pairwise(DEPTHS), strict=True))
    return smallest_above(steps[:1] - steps[1:], 0.0, f"peak accuracy in points by depth: {each}")


def _range(records: Sequence[Record]) -> Finding:
    shares = [100 * full_macs(found)[0] / full_macs(found)[-1] for found in (variant(records, exits=n) for n in EXITS)]
    rise = float(np.diff(shares).max())
    each = ", ".join(f"{share:.1f} % with {n}" for n, share in zip(EXITS, shares, strict=True))
    verdict = Verdict.HOLDS if rise <= 1e-2 and shares[-1] < shares[0] else Verdict.FAILS
    return Finding(verdict, rise, None, len(variant(records)), f"cost of the first exit as a share of the whole: {each}")


def _first_exit(record: Record) -> float:
    return 100 * float(record.values["accuracy"][0])


def _reduced(records: Sequence[Record]) -> Finding:
    loss = _gains(records, _first_exit, ({"exits": EXITS[-1]}, {"exits": EXITS[0]}))
    firsts = ", ".join(f"{np.mean([_first_exit(r) for r in variant(records, exits=n)]):.1f} % with {n}" for n in EXITS)
    return smallest_above(loss, 0.0, f"accuracy of the first exit: {firsts}")


def _fewer(records: Sequence[Record]) -> Finding:
    gain = _gains(records, mode_area, ({"exits": EXITS[0]}, {}))
    areas = ", ".join(f"{np.mean([mode_area(r) for r in variant(records, exits=n)]):.3f} with {n}" for n in EXITS)
    return smallest_above(gain, 0.0, f"area under the mode curve: {areas}")


def _peak_losses(records: Sequence[Record], exits: Sequence[float]) -> tuple[Floats, float, str]:
    losses = _gains(records, best_accuracy, *(({"exits": int(n)}, {}) for n in exits))
    each = ", ".join(f"{loss:.2f} with {n:g}" for n, loss in zip(exits, losses.mean(1), strict=True))
    limit = _bound(records)
    return losses, limit, f"points of peak accuracy lost against four exits: {each}; the bound is {limit:.2f}"


def _six_and_seven(records: Sequence[Record]) -> Finding:
    return largest_below(*_peak_losses(records, [quoted(f"progressive-branches-good-{end}").value for end in ("low", "high")]))


def _eight(records: Sequence[Record]) -> Finding:
    return smallest_above(*_peak_losses(records, [quoted("progressive-branches-bad").value]))


def _rising(records: Sequence[Record]) -> Floats:
    rising = np.array([best_accuracy(r) for r in variant(records, weights=RISING)])
    gain: Floats = (rising - [best_accuracy(r) for r in variant(records)])[None]
    return gain


def _rising_reason(gain: Floats) -> str:
    return f"weights that rise ({' : '.join(map(str, RISING))}) gain {gain.mean():+.2f} points of peak accuracy over equal ones"


def _rising_best(records: Sequence[Record]) -> Finding:
    gain = _rising(records)
    return smallest_above(gain, 0.0, _rising_reason(gain))


def _equal_matches(records: Sequence[Record]) -> Finding:
    gain, limit = _rising(records), _bound(records)
    return largest_below(gain, limit, f"{_rising_reason(gain)}; the bound is {limit:.2f}")


def _equal_sharpest(records: Sequence[Record]) -> Finding:
    areas = [np.array([mode_area(r) for r in variant(records, weights=w)]) for w in (None, RISING)]
    reason = f"area under the mode curve: {areas[0].mean():.3f} with equal weights, {areas[1].mean():.3f} with rising ones"
    return smallest_above((areas[0] - areas[1])[None], 0.0, reason)


_WIDE: tuple[Backbone, ...] = tuple({"relative_width": w} for w in WIDTHS)
_DEEP: tuple[Backbone, ...] = tuple({"depth": d} for d in DEPTHS)
_MANY: tuple[Backbone, ...] = tuple({"exits": n} for n in EXITS)
_RISING: tuple[Backbone, ...] = ({}, {"weights": RISING})


def _claim(id_: str, where: str, words: str, quantity: str, test: Test, needed: Sequence[Backbone], exact: bool = False) -> Claim:
    profiles = _ALL if exact else _TRAINED
    return Claim(f"backbones-{id_}", "progressive", where, words, quantity, "backbones", profiles, _needing(test, *needed), page="modes")


_WIDTH, _DEPTH, _EXITS = (f"Sec. 4, Fig. 4 ({place})" for place in ("top right", "bottom left", "bottom right"))
_POINTS = "percentage points of peak accuracy"

CLAIMS = (
    _claim(
        "weights-rising",
        "Sec. 4, Fig. 4 (top left)",
        "The highest performing model is that with progressively higher weighted branches.",
        f"{_POINTS}, rising weights minus equal ones",
        _rising_best,
        _RISING,
    ),
    _claim(
        "weights-sharpest",
        "Sec. 4, Fig. 4 (top left)",
        "The sharpest rise in accuracy is that of the model with equally weighted branches.",
        "area under the mode curve, equal weights minus rising ones",
        _equal_sharpest,
        _RISING,
    ),
    _claim(
        "weights-matched",
        "Sec. 4, Fig. 4 (top left)",
        "The peak accuracy with equal weights matches the others within the error bounds.",
        f"{_POINTS}, rising weights minus equal ones",
        _equal_matches,
        _RISING,
    ),
    _claim(
        "width-square",
        _WIDTH,
        "The MACs of two models scale with the square of the ratio of their widths.",
        "largest deviation from the square, in percent",
        _square_law,
        _WIDE,
        exact=True,
    ),
    _claim(
        "width-half",
        _WIDTH,
        "The 50 % width model matches the full-size model within the confidence bound.",
        f"{_POINTS}, full size minus half",
        _half_width,
        _WIDE,
    ),
    _claim(
        "width-quarter",
        _WIDTH,
        "The performance drop-off starts between a width of 50 % and 25 %.",
        f"{_POINTS}, full size minus a quarter",
        _quarter_width,
        _WIDE,
    ),
    _claim(
        "width-larger",
        _WIDTH,
        "The larger widths do not increase the accuracy outside of the confidence intervals.",
        f"{_POINTS}, widest minus full size",
        _wider,
        _WIDE,
    ),
    _claim(
        "width-exiting",
        _WIDTH,
        "Early exiting can at most save about 50 % of the inference cost of the widest model, with minimal loss in accuracy.",
        "percent of MACs saved by the cheapest mode within the bound",
        _exiting,
        _WIDE,
    ),
    _claim(
        "width-thinning",
        _WIDTH,
        "Thinning the widest model to the standard width has the potential to save about 84 %.",
        "percent of MACs saved",
        _thinning,
        _WIDE,
        exact=True,
    ),
    _claim(
        "width-benefit",
        _WIDTH,
        "As the model is compressed in width, the benefit of the branching is reduced.",
        "percentage points of MACs saved by exiting, widest minus narrowest",
        _thin_exits,
        _WIDE,
    ),
    _claim(
        "depth-returns",
        _DEPTH,
        "There are diminishing returns when using deeper networks.",
        "percentage points by which the first step of depth gains more than a later one, the smaller of both",
        _deeper,
        _DEEP,
    ),
    _claim(
        "exits-range",
        _EXITS,
        "Increasing the number of branches extends the operating range of the network.",
        "largest rise of the first exit's share of MACs from one number of exits to the next, in percentage points",
        _range,
        _MANY,
        exact=True,
    ),
    _claim(
        "exits-reduced",
        _EXITS,
        "The extended range comes at reduced accuracy.",
        "percentage points at the first exit, three exits minus eight",
        _reduced,
        _MANY,
    ),
    _claim(
        "exits-peak",
        _EXITS,
        "Six and seven branches do not significantly compromise the performance at the greater confidence ranges.",
        f"{_POINTS} lost against four exits, the larger loss",
        _six_and_seven,
        _MANY,
    ),
    _claim(
        "exits-eight",
        _EXITS,
        "Eight branches do compromise it.",
        f"{_POINTS} lost against four exits",
        _eight,
        _MANY,
    ),
    _claim(
        "exits-fewer",
        _EXITS,
        "There seems to be no computational benefit of using any less than four branches.",
        "area under the mode curve, four exits minus three",
        _fewer,
        _MANY,
    ),
)
