"""Where do exits help, and how much weight do they want (progressive intelligence, Table 1, Figs. 1 and 2)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tipslib.experiments.weights import TABLE
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import largest_below, smallest_above, within
from tipslib.reporting.published import published, quoted
from tipslib.reporting.weightings import (
    BASELINE,
    EQUAL,
    EXIT_LAYERS,
    MULTIPLE,
    SINGLE,
    Weights,
    auc,
    by_weights,
    fractional_gain,
    largest_fall,
    log_separation,
    mode_area,
    name_of,
    own_exits,
    per_seed,
    position_share,
    rank_agreement,
    steps_after,
)

_PROFILES = ("laptop", "gpu", "paper")


def _fixed_point(records: Sequence[Record]) -> Finding:
    areas, base = per_seed(records, TABLE[1:], mode_area), per_seed(records, [BASELINE], mode_area)
    least = TABLE[1 + int(areas.mean(axis=1).argmin())]
    reason = (
        f"the unbranched network covers {base.mean():.3f} of the area, the branched ones {areas.mean(axis=1).min():.3f} {name_of(least)} "
        f"to {areas.mean(axis=1).max():.3f}"
    )
    return smallest_above(areas - base, 0.0, reason)


def _early_is_progressive(records: Sequence[Record]) -> Finding:
    first, third = (per_seed(records, SINGLE[e], mode_area).mean(axis=0) for e in (0, 2))
    reason = f"mean area under the mode curve: {first.mean():.3f} with the first exit alone, {third.mean():.3f} with the third"
    return smallest_above((first - third)[None], 0.0, reason)


def _monotone(records: Sequence[Record]) -> Finding:
    falls = per_seed(records, [EQUAL], largest_fall)[0]
    sigmas = quoted("progressive-sigma").value
    best = per_seed(records, [EQUAL], lambda r: float(r.arrays["entropy"][1].max()))[0].mean()
    band = 100 * sigmas * np.sqrt(best * (1 - best) / by_weights(records)[EQUAL][0].values["samples"])
    reason = (
        f"with equal weights accuracy falls by at most {falls.mean():.2f} points where more MACs are spent; the paper's own band of "
        f"{sigmas:g} sigma is {band:.2f} points"
    )
    return largest_below(falls[None], float(band), reason)


def _exit_separates(records: Sequence[Record]) -> Finding:
    rises = [per_seed(records, [w], log_separation(x))[0] - per_seed(records, [BASELINE], log_separation(x))[0] for w, x in own_exits()]
    mean = np.mean(rises, axis=0)
    higher = sum(r.mean() > 0 for r in rises)
    reason = (
        f"at the layer of a trained exit log R^2 is {mean.mean():+.3f} against the unbranched network on average, higher in {higher} of "
        f"{len(rises)} cases"
    )
    return smallest_above(mean[None], 0.0, reason)


def _drops_after(records: Sequence[Record]) -> Finding:
    own, plain = steps_after(records)
    reason = (
        f"from an exit to the next layer log R^2 changes by {own.mean():+.3f}; in the unbranched network, there, by {plain.mean():+.3f}"
    )
    return largest_below(own[None], 0.0, reason)


def _drop_is_the_exits(records: Sequence[Record]) -> Finding:
    own, plain = steps_after(records)
    reason = f"log R^2 changes by {own.mean():+.3f} behind a trained exit, by {plain.mean():+.3f} at the same place without exits"
    return largest_below((own - plain)[None], 0.0, reason)


def _later_separate_more(records: Sequence[Record]) -> Finding:
    rise = [
        (per_seed(records, SINGLE[e], log_separation(x)) - per_seed(records, [BASELINE], log_separation(x))).mean(axis=0)
        for e, x in enumerate(EXIT_LAYERS)
    ]
    each = ", ".join(f"{r.mean():+.3f}" for r in rise)
    reason = f"with one early exit, log R^2 at that exit against the unbranched network, first to third exit: {each}"
    return smallest_above(np.array([rise[1] - rise[0], rise[2] - rise[1]]), 0.0, reason)


def _probes_at_first(records: Sequence[Record]) -> Finding:
    x = EXIT_LAYERS[0]
    rows = [w for w in TABLE if w[0] > 0]
    gain = 100 * (
        per_seed(records, rows, lambda r: r.values["probes"]["paper"][x])
        - per_seed(records, [BASELINE], lambda r: r.values["probes"]["paper"][x])
    )
    reason = (
        f"at the first exit's layer, networks trained with that exit are {gain.mean(axis=1).min():+.1f} to {gain.mean(axis=1).max():+.1f} "
        "points of probe accuracy from the unbranched one"
    )
    return smallest_above(gain, 0.0, reason)


def _equal_is_best(records: Sequence[Record]) -> Finding:
    others = [w for w in MULTIPLE if w != EQUAL]
    areas, equal = per_seed(records, others, auc), per_seed(records, [EQUAL], auc)
    each = ", ".join(f"{name_of(w)} {a.mean():.4f}" for w, a in zip(others, areas, strict=True))
    return smallest_above(100 * (equal - areas), 0.0, f"AUC {equal.mean():.4f} with equal weights; {each}")


def _early_helps_more(records: Sequence[Record]) -> Finding:
    gain = np.array([fractional_gain(records, rows).mean(axis=0) for rows in SINGLE])
    each = ", ".join(f"{g.mean():+.2f} %" for g in gain)
    return smallest_above(gain[:-1] - gain[1:], 0.0, f"mean gain of AUC with one early exit, first to third: {each}")


def _position_over_weight(records: Sequence[Record]) -> Finding:
    share = position_share(np.stack([per_seed(records, rows, auc) for rows in SINGLE]))
    reason = f"the position explains {100 * share.mean():.0f} % of the variance of AUC over the twelve rows with one early exit"
    return smallest_above(share[None], 0.5, reason)


def _all_raise(records: Sequence[Record]) -> Finding:
    gain = fractional_gain(records, TABLE[1:])
    least = TABLE[1 + int(gain.mean(axis=1).argmin())]
    above = int((gain.mean(axis=1) > 0).sum())
    reason = (
        f"{above} of {len(gain)} branched networks are above the unbranched one; the least, {name_of(least)}, gains "
        f"{gain.mean(axis=1).min():+.2f} %"
    )
    return smallest_above(gain, 0.0, reason)


def _first_gain(records: Sequence[Record]) -> Finding:
    printed = quoted("progressive-auc-gain-first").value
    gain = fractional_gain(records, SINGLE[0])
    best = int(gain.mean(axis=1).argmax())
    reason = (
        f"the largest gain with the first exit alone is {gain[best].mean():+.2f} %, at {name_of(SINGLE[0][best])}; the paper has "
        f"{printed:g} %, and 'as large' means within a factor of two"
    )
    return within(gain[best], printed / 2, printed * 2, reason)


def _third_gain(records: Sequence[Record]) -> Finding:
    bar = quoted("progressive-auc-gain-third").value
    gain = fractional_gain(records, SINGLE[2])
    reason = f"gains with the third exit alone: {gain.mean(axis=1).min():+.2f} % to {gain.mean(axis=1).max():+.2f} %; the bar is {bar:g} %"
    return largest_below(gain, bar, reason)


def _ranks(records: Sequence[Record]) -> Finding:
    measured = per_seed(records, TABLE, auc)
    rho, interval = rank_agreement(measured.mean(axis=1), published("progressive-table1")["auc"].to_numpy())
    verdict = Verdict.HOLDS if interval[0] > 0 else Verdict.FAILS if interval[1] <= 0 else Verdict.UNDECIDED
    reason = (
        f"Spearman's rank correlation of the {len(TABLE)} measured areas with those of Table 1 is {rho:.2f}; the interval resamples rows"
    )
    return Finding(verdict, rho, interval, measured.shape[1], reason)


def _needs(rows: Sequence[Weights], test: Callable[[Sequence[Record]], Finding]) -> Callable[[Sequence[Record]], Finding]:
    """The test, where there are records of all weightings it compares."""

    def guarded(records: Sequence[Record]) -> Finding:
        grouped = by_weights(records)
        missing = [name_of(w) for w in rows if not grouped.get(w)]
        if missing:
            return Finding(Verdict.UNDECIDED, None, None, 0, f"no runs with the weights {', '.join(missing)} yet")
        return test(records)

    return guarded


def _claim(
    page: str,
    id: str,
    where: str,
    words: str,
    quantity: str,
    test: Callable[[Sequence[Record]], Finding],
    rows: Sequence[Weights] = TABLE,
    paper: Literal["progressive", "companion"] = "progressive",
) -> Claim:
    return Claim(f"{page.replace('_', '-')}-{id}", paper, where, words, quantity, "weights", _PROFILES, _needs(rows, test), page)


CLAIMS = (
    _claim(
        "progressive",
        "fixed-point-is-least",
        "Fig. 1, caption",
        "A conventional network, with its fixed operating point, is the least progressive.",
        "smallest lead in area under the mode curve",
        _fixed_point,
    ),
    _claim(
        "progressive",
        "early-is-more",
        "Fig. 1, caption",
        "Networks that improve early are more progressive than those that gain late: the first exit covers more area than the third.",
        "lead in area under the mode curve",
        _early_is_progressive,
    ),
    _claim(
        "progressive",
        "monotone",
        "Fig. 1, caption",
        "With equal weights, accuracy builds up monotonically with cost.",
        "largest fall of accuracy at rising cost, in percentage points",
        _monotone,
        (EQUAL,),
    ),
    _claim(
        "layers",
        "separation-rises-at-exits",
        "Sec. 3, Fig. 2 left",
        "Each exit increases the class separation at its point of connection.",
        "mean rise of log R^2 at trained exits, against the unbranched network",
        _exit_separates,
    ),
    _claim(
        "layers",
        "separation-drops-after",
        "Sec. 3, Fig. 2 left",
        "The increase at an exit is followed by a small drop.",
        "mean change of log R^2 from an exit to the next layer",
        _drops_after,
    ),
    _claim(
        "layers",
        "drop-is-the-exits-doing",
        "Sec. 3, Fig. 2 left",
        "The drop behind an exit is the exit's doing: without exits there is less of it at the same layers.",
        "change of log R^2 behind an exit, less that of the unbranched network",
        _drop_is_the_exits,
        paper="companion",
    ),
    _claim(
        "layers",
        "later-exits-separate-more",
        "Sec. 3",
        "Exits positioned later have a greater impact on class separation.",
        "rise of log R^2 at an exit, less that at the exit before",
        _later_separate_more,
    ),
    _claim(
        "layers",
        "probes-gain-early",
        "Sec. 3, Fig. 2 right",
        "The first exit makes linear probes more accurate early in the network.",
        "smallest gain of probe accuracy at the first exit, in percentage points",
        _probes_at_first,
    ),
    _claim(
        "exit_weights",
        "equal-is-best",
        "Sec. 3, Table 1; abstract",
        "Among networks with several early exits, weighting them equally maximises the area under the probe curve.",
        "smallest lead in AUC, in percentage points",
        _equal_is_best,
        MULTIPLE,
    ),
    _claim(
        "exit_weights",
        "early-exits-help-most",
        "Sec. 3, Table 1",
        "With a single early exit, an earlier one is more effective.",
        "gain of AUC, less that of the exit behind, in percentage points (the smaller of two)",
        _early_helps_more,
    ),
    _claim(
        "exit_weights",
        "position-over-weight",
        "Sec. 3, Table 1",
        "The position of an exit has a greater effect than its weight.",
        "share of the variance of AUC that the position explains",
        _position_over_weight,
    ),
    _claim(
        "exit_weights",
        "every-exit-helps",
        "Table 1",
        "Every branched network has a larger area under the probe curve than the unbranched one.",
        "smallest gain of AUC, in percent of the unbranched network's",
        _all_raise,
    ),
    _claim(
        "exit_weights",
        "first-exit-gain",
        "Sec. 3",
        "A single first exit improves the area by up to 5.7 %.",
        "largest gain of AUC, in percent of the unbranched network's",
        _first_gain,
    ),
    _claim(
        "exit_weights",
        "third-exit-gain",
        "Sec. 3",
        "A single third exit improves the area by less than 1 %.",
        "largest gain of AUC, in percent of the unbranched network's",
        _third_gain,
    ),
    _claim(
        "exit_weights",
        "same-order-as-printed",
        "Table 1",
        "The sixteen weightings come out in the order of Table 1, better than by chance.",
        "Spearman's rank correlation with the published areas",
        _ranks,
        paper="companion",
    ),
)
