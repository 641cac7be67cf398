"""Where do exits help, and how much weight do they want (progressive intelligence, Table 1, Figs. 1 and 2)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from tipslib.experiments.weights import TABLE
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict, probe_areas
from tipslib.reporting.claims.seeds import largest_below, smallest_above
from tipslib.reporting.published import quoted
from tipslib.reporting.weightings import (
    BASELINE,
    EQUAL,
    EXIT_LAYERS,
    MULTIPLE,
    SINGLE,
    Weights,
    by_weights,
    largest_fall,
    log_separation,
    mode_area,
    name_of,
    own_exits,
    per_seed,
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


def _needs(rows: Sequence[Weights], test: Callable[[Sequence[Record]], Finding], probes: bool) -> Callable[[Sequence[Record]], Finding]:
    """The test, where there are records of all weightings it compares, with the paper's probes if it asks for `probes`."""

    def guarded(records: Sequence[Record]) -> Finding:
        grouped = by_weights(records)
        missing = [name_of(w) for w in rows if w not in grouped]
        if missing:
            return Finding(Verdict.NOT_RUN, None, None, 0, f"no runs with the weights {', '.join(missing)} yet")
        if not any(grouped.values()):
            return Finding(Verdict.NOT_RUN, None, None, 0, "no seed with which all of the weightings were run yet")
        finding = test(records)
        return probe_areas.of_the_papers_probes(records, finding) if probes else finding

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
    probes: bool = False,
) -> Claim:
    tested = _needs(rows, test, probes)
    return Claim(f"{page.replace('_', '-')}-{id}", paper, where, words, quantity, "weights", _PROFILES, tested, page)


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
        probes=True,
    ),
    _claim(
        "exit_weights",
        "equal-is-best",
        "Sec. 3, Table 1; abstract",
        "Among networks with several early exits, weighting them equally maximises the area under the probe curve.",
        "smallest lead in AUC, in percentage points",
        probe_areas.equal_is_best,
        MULTIPLE,
        probes=True,
    ),
    _claim(
        "exit_weights",
        "early-exits-help-most",
        "Sec. 3, Table 1",
        "With a single early exit, an earlier one is more effective.",
        "gain of AUC, less that of the exit behind, in percentage points (the smaller of two)",
        probe_areas.early_helps_more,
        probes=True,
    ),
    _claim(
        "exit_weights",
        "position-over-weight",
        "Sec. 3, Table 1",
        "The position of an exit has a greater effect than its weight.",
        "share of the variance of AUC that the position explains",
        probe_areas.position_over_weight,
        probes=True,
    ),
    _claim(
        "exit_weights",
        "every-exit-helps",
        "Table 1",
        "Every branched network has a larger area under the probe curve than the unbranched one.",
        "smallest gain of AUC, in percent of the unbranched network's",
        probe_areas.all_raise,
        probes=True,
    ),
    _claim(
        "exit_weights",
        "first-exit-gain",
        "Sec. 3",
        "A single first exit improves the area by up to 5.7 %.",
        "largest gain of AUC, in percent of the unbranched network's",
        probe_areas.first_gain,
        probes=True,
    ),
    _claim(
        "exit_weights",
        "third-exit-gain",
        "Sec. 3",
        "A single third exit improves the area by less than 1 %.",
        "largest gain of AUC, in percent of the unbranched network's",
        probe_areas.third_gain,
        probes=True,
    ),
    _claim(
        "exit_weights",
        "same-order-as-printed",
        "Table 1",
        "The sixteen weightings come out in the order of Table 1, better than by chance.",
        "Spearman's rank correlation with the published areas",
        probe_areas.ranks,
        paper="companion",
        probes=True,
    ),
)
