"""What does the area under the probe curve say about the weights of exits (progressive intelligence, Table 1)?

The tests of the claims on Table 1, which `weights.CLAIMS` names.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tipslib.experiments.weights import TABLE
from tipslib.records import Record
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.seeds import largest_below, smallest_above, within
from tipslib.reporting.published import published, quoted
from tipslib.reporting.weightings import EQUAL, MULTIPLE, SINGLE, auc, fractional_gain, name_of, per_seed, position_share, rank_agreement

PROBES = "sgd"
"""The protocol of probes that the paper's areas come from; ridge regressions on pooled activations measure another quantity."""


def of_the_papers_probes(records: Sequence[Record], finding: Finding) -> Finding:
    """The finding, undecided where the probes are not of the paper's kind."""
    others = sorted({str(r.run.parameters["probe"]) for r in records} - {PROBES})
    if not others:
        return finding
    reason = f"{finding.reason} (probes: {', '.join(others)}; the paper's are trained by gradient descent, and only those can decide)"
    return Finding(Verdict.UNDECIDED, finding.effect, finding.interval, finding.seeds, reason)


def equal_is_best(records: Sequence[Record]) -> Finding:
    """Does every other weighting of three early exits have a smaller area?"""
    others = [w for w in MULTIPLE if w != EQUAL]
    areas, equal = per_seed(records, others, auc), per_seed(records, [EQUAL], auc)
    each = ", ".join(f"{name_of(w)} {a.mean():.4f}" for w, a in zip(others, areas, strict=True))
    return smallest_above(100 * (equal - areas), 0.0, f"AUC {equal.mean():.4f} with equal weights; {each}")


def early_helps_more(records: Sequence[Record]) -> Finding:
    """Does one early exit raise the area the more, the earlier it is?"""
    gain = np.array([fractional_gain(records, rows).mean(axis=0) for rows in SINGLE])
    each = ", ".join(f"{g.mean():+.2f} %" for g in gain)
    return smallest_above(gain[:-1] - gain[1:], 0.0, f"mean gain of AUC with one early exit, first to third: {each}")


def position_over_weight(records: Sequence[Record]) -> Finding:
    """Does the position of a single exit explain more than half of the variance?"""
    share = position_share(np.stack([per_seed(records, rows, auc) for rows in SINGLE]))
    reason = f"the position explains {100 * share.mean():.0f} % of the variance of AUC over the twelve rows with one early exit"
    return smallest_above(share[None], 0.5, reason)


def all_raise(records: Sequence[Record]) -> Finding:
    """Is every branched network above the unbranched one?"""
    gain = fractional_gain(records, TABLE[1:])
    least = TABLE[1 + int(gain.mean(axis=1).argmin())]
    above = int((gain.mean(axis=1) > 0).sum())
    reason = (
        f"{above} of {len(gain)} branched networks are above the unbranched one; the least, {name_of(least)}, gains "
        f"{gain.mean(axis=1).min():+.2f} %"
    )
    return smallest_above(gain, 0.0, reason)


def first_gain(records: Sequence[Record]) -> Finding:
    """Is the largest gain with the first exit alone as large as printed, within a factor of two?"""
    printed = quoted("progressive-auc-gain-first").value
    gain = fractional_gain(records, SINGLE[0])
    best = int(gain.mean(axis=1).argmax())
    reason = (
        f"the largest gain with the first exit alone is {gain[best].mean():+.2f} %, at {name_of(SINGLE[0][best])}; the paper has "
        f"{printed:g} %, and 'as large' means within a factor of two"
    )
    return within(gain[best], printed / 2, printed * 2, reason)


def third_gain(records: Sequence[Record]) -> Finding:
    """Are all gains with the third exit alone below the printed bound?"""
    bar = quoted("progressive-auc-gain-third").value
    gain = fractional_gain(records, SINGLE[2])
    reason = f"gains with the third exit alone: {gain.mean(axis=1).min():+.2f} % to {gain.mean(axis=1).max():+.2f} %; the bar is {bar:g} %"
    return largest_below(gain, bar, reason)


def ranks(records: Sequence[Record]) -> Finding:
    """Do the sixteen areas come out in the printed order, better than by chance?"""
    measured = per_seed(records, TABLE, auc)
    rho, interval = rank_agreement(measured.mean(axis=1), published("progressive-table1")["auc"].to_numpy())
    verdict = Verdict.HOLDS if interval[0] > 0 else Verdict.FAILS if interval[1] <= 0 else Verdict.UNDECIDED
    reason = (
        f"Spearman's rank correlation of the {len(TABLE)} measured areas with those of Table 1 is {rho:.2f}; the interval resamples rows"
    )
    return Finding(verdict, rho, interval, measured.shape[1], reason)
