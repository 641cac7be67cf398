"""Does Proposition 3.1 hold: do higher TPS and larger singular values go together, are they at most 1, and do the proof's steps apply?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tipslib.experiments.proposition import DEGREES, MEASURES
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.topology.degrees import singular_value_bounds

LEVEL = 0.05
"""Error level of the statistical claims, shared by Holm's correction between all depths and seeds."""

LINEAR = 0.999
"""Correlation from which a plot counts as a straight line."""

PROPORTIONAL = 1.01
"""Largest ratio of two quotients that still count as equal."""

_ALL = ("smoke", "laptop", "gpu", "paper")
_MNIST = ("laptop", "gpu", "paper")


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """Holm's adjusted p-values: below `LEVEL` is significant with all tests taken together."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(1, np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1)))
    return adjusted


def construction_order(records: Sequence[Record]) -> Finding:
    """Every pair of paths of the released construction is ordered alike by TPS and by E[sigma]."""
    worst, where = min((d["construction"]["concordant"], _place(r, d)) for r, d in _depths(records))
    pairs = sum(d["construction"]["pairs"] for _, d in _depths(records))
    verdict = Verdict.HOLDS if worst == 1 else Verdict.FAILS
    reason = (
        f"all {pairs} pairs of paths with different TPS are ordered alike by E[σ]"
        if worst == 1
        else f"in {where} only {worst:.2%} of the pairs of paths are ordered alike by TPS and E[σ]"
    )
    return Finding(verdict, worst, None, len(records), f"{reason} (T = 1, all operations kept, as in the released code)")


def construction_line(records: Sequence[Record]) -> Finding:
    """In the released construction TPS follows from the number of blocks passed through, and E[sigma] lies on a line over it."""
    worst, where = min((d["construction"]["pearson"], _place(r, d)) for r, d in _depths(records))
    error = max(d["construction"]["formula_error"] for _, d in _depths(records))
    verdict = Verdict.HOLDS if worst >= LINEAR and error <= 1e-9 else Verdict.FAILS
    return Finding(
        verdict,
        worst,
        None,
        len(records),
        f"TPS follows from c', the number of blocks a path passes through their layers, within {error:.0e}, and its correlation "
        f"with E[σ] is at least {worst:.6f} ({where}): the plot shows how one number, c', enters two definitions",
    )


def order(measure: str, records: Sequence[Record]) -> Finding:
    """TPS and E[sigma] rank paths alike at every depth.

    Holds if every bootstrap interval of Spearman's rank correlation lies above 0 (all must, so no correction is due). Does not hold if
    at some depth the correlation is significantly negative, after Holm. Undecided otherwise.
    """
    if (unmet := _premise(records)) is not None:
        return unmet
    found = []
    for record, depth in _depths(records):
        here = record.arrays["depth"] == depth["layers"]
        p = stats.spearmanr(record.arrays["tps"][here], record.arrays[measure][here], alternative="less").pvalue
        found.append((*depth["ranks"][measure]["spearman"], float(p), depth["ranks"][measure]["concordant"], _place(record, depth)))
    reversed_ = holm([row[3] for row in found]) < LEVEL
    estimate, low, high, _, concordant, where = min(found)
    if all(row[1] > 0 for row in found):
        verdict, words = Verdict.HOLDS, "is positive at every depth; weakest"
    elif reversed_.any():
        verdict, words = Verdict.FAILS, f"is significantly negative in {int(reversed_.sum())} of {len(found)} networks; lowest"
    else:
        verdict, words = Verdict.UNDECIDED, "has neither sign for certain; lowest"
    reason = f"the rank correlation {words} in {where}, where {concordant:.1%} of the pairs of paths are ordered alike"
    return Finding(verdict, estimate, (low, high), len(records), reason)


def always(records: Sequence[Record]) -> Finding:
    """No pair of paths, in its friendliest reading (the released construction), is ordered differently by TPS and E[sigma]."""
    worst, where = min((d["ranks"]["released"]["concordant"], _place(r, d)) for r, d in _depths(records))
    within = [d["ranks"]["released"]["concordant_within"] for _, d in _depths(records)]
    verdict = Verdict.HOLDS if worst == 1 else Verdict.FAILS
    return Finding(
        verdict,
        worst,
        None,
        len(records),
        f"in {where} {worst:.1%} of the pairs are ordered alike; between paths that pass equally many blocks through their layers it is "
        f"{min(within):.0%} to {max(within):.0%}, where guessing gives 50%",
    )


def at_most_one(measure: str, records: Sequence[Record]) -> Finding:
    """E[sigma] <= 1 for every path; one counterexample refutes it."""
    if (unmet := _premise(records)) is not None:
        return unmet
    values = np.concatenate([record.arrays[measure] for record in records])
    largest, above = float(values.max()), float((values > 1 + 1e-9).mean())
    verdict = Verdict.HOLDS if above == 0 else Verdict.FAILS
    reason = f"E[σ] runs from {values.min():.3g} to {largest:.4f}; {above:.1%} of the {len(values)} paths lie above 1"
    return Finding(verdict, largest, None, len(records), reason)


def bounds_at_home(records: Sequence[Record]) -> Finding:
    """Eq. 11 bounds E[sigma] of w_r x w_e matrices of independent Gaussian entries."""
    ratio, mean = (np.concatenate([record.arrays[name] for record in records]) for name in ("gaussian_ratio", "gaussian_mean"))
    low, high = singular_value_bounds(1.0, ratio, 1.0)
    inside = float(((low <= mean) & (mean <= high)).mean())
    gap = 1 - mean / np.sqrt(ratio)
    near, far = gap[ratio.argmin()], gap[ratio.argmax()]
    return Finding(
        Verdict.HOLDS if inside == 1 else Verdict.FAILS,
        inside,
        None,
        len(records),
        f"{inside:.0%} of the matrices lie inside; E[σ] falls short of √(q·w_e) (Eq. 15) by {near:.1%} where "
        f"w_e/w_r = {ratio.min():g} and by {far:.1%} where it is {ratio.max():g}",
    )


def bounds_on_paths(records: Sequence[Record]) -> Finding:
    """Eq. 11 bounds E[sigma] of paths, where Jacobian and w_e speak of the same network."""
    fitting = {"layers": "degree_layers", "network": "degree_network"}
    shares = {m: [d["inside_bounds"][m][w] for _, d in _depths(records)] for m, w in fitting.items()}
    worst = min(min(values) for values in shares.values())
    told = "; ".join(f"{MEASURES[m]}: {np.mean(values):.0%} inside" for m, values in shares.items())
    return Finding(Verdict.HOLDS if worst == 1 else Verdict.FAILS, worst, None, len(records), f"{told} (mean over the networks)")


def wide_enough(records: Sequence[Record]) -> Finding:
    """w_e >> w_r, at least so far that Eq. 12's intervals of the two most different paths are disjoint.

    sqrt(q w_L) - sqrt(q w_r) >= sqrt(q w_S) + sqrt(q w_r) asks for w_L >= (sqrt(w_S) + 2 sqrt(w_r))^2.
    """
    width = records[0].run.parameters["width"]
    told, shares = [], []
    for name, words in DEGREES.items():
        values = np.concatenate([record.arrays[name] for record in records])
        needed = (np.sqrt(values.min()) + 2 * np.sqrt(width)) ** 2
        shares.append(float(values.max() / needed))
        told.append(f"{words}: w_e from {values.min():.4g} to {values.max():.4g}, where at least {needed:.0f} is needed")
    verdict = Verdict.HOLDS if max(shares) >= 1 else Verdict.FAILS
    return Finding(verdict, max(shares), None, len(records), f"w_r = {width}. {'; '.join(told)}")


def degree_from_score(records: Sequence[Record]) -> Finding:
    """w_e = C * TPS / D with w_e as in Fig. 3: w_e / TPS is the same for all paths of a supernet (T = 1, as exact as it gets)."""
    spreads, ranks = {}, {}
    for name in DEGREES:
        columns = [(r.arrays["tps_supernet"][here], r.arrays[name][here]) for r, here in _each_network(records)]
        spreads[name] = max(float((w / s).max() / (w / s).min()) for s, w in columns)
        ranks[name] = [float(stats.spearmanr(s, w).statistic) for s, w in columns]
    best = min(spreads.values())
    told = "; ".join(
        f"{words}: rank correlation with TPS {np.mean(ranks[name]):+.2f}, w_e / TPS varies by a factor of {spreads[name]:.3g}"
        for name, words in DEGREES.items()
    )
    return Finding(Verdict.HOLDS if best <= PROPORTIONAL else Verdict.FAILS, best, None, len(records), told)


def _depths(records: Sequence[Record]) -> Iterator[tuple[Record, dict[str, Any]]]:
    return ((record, depth) for record in records for depth in record.values["depths"])


def _each_network(records: Sequence[Record]) -> Iterator[tuple[Record, NDArray[np.bool_]]]:
    return ((record, record.arrays["depth"] == depth["layers"]) for record, depth in _depths(records))


def _place(record: Record, depth: dict[str, Any]) -> str:
    return f"the {depth['layers']}-layer network of seed {record.run.seed}"


def _premise(records: Sequence[Record]) -> Finding | None:
    """The finding `undecided` where the weights' variance q exceeds the epsilon that Prop. 3.1 demands."""
    values = records[0].values
    if values["variance"] <= values["largest_variance"] * (1 + 1e-12):
        return None
    reason = f"q = {values['variance']:.3g} exceeds ε = {values['largest_variance']:.3g}, so Prop. 3.1 says nothing about these networks"
    return Finding(Verdict.UNDECIDED, None, None, len(records), reason)


def _ordering(measure: str, words: str) -> Claim:
    sentence = f"Paths with a higher TPS have larger mean singular values ({words})"
    quantity = "Spearman's rank correlation of TPS and E[σ], weakest of all depths and seeds"
    return Claim(
        f"tips-prop31-order-{measure}", "tips", "Prop. 3.1, Eq. 10", sentence, quantity, "proposition", _ALL, partial(order, measure)
    )


def _bounded(measure: str, words: str) -> Claim:
    sentence = f"The mean singular value of a path's Jacobian is at most 1 ({words})"
    return Claim(
        f"tips-prop31-one-{measure}",
        "tips",
        "Prop. 3.1, Eq. 14",
        sentence,
        "largest E[σ] of all paths",
        "proposition",
        _ALL,
        partial(at_most_one, measure),
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "tips-fig5a-order",
        "tips",
        "Fig. 5a",
        "Paths with higher TPS values have higher E[σ] for a specific supernet, as drawn by the released code",
        "smallest share of pairs of paths that TPS and E[σ] order alike",
        "proposition",
        _MNIST,
        construction_order,
    ),
    Claim(
        "companion-fig5a-line",
        "companion",
        "on Fig. 5a",
        "The plot of the released construction is a straight line by construction",
        "smallest correlation of TPS and E[σ]",
        "proposition",
        _ALL,
        construction_line,
    ),
    Claim(
        "tips-prop31-always",
        "tips",
        "Sec. 4.2",
        "Higher TPS values always lead to higher mean singular values, with 8 randomly sampled subnetworks",
        "smallest share of pairs of paths that TPS and E[σ] order alike",
        "proposition",
        _ALL,
        always,
    ),
    *(_ordering(measure, words) for measure, words in MEASURES.items()),
    *(_bounded(measure, words) for measure, words in MEASURES.items()),
    Claim(
        "tips-eq11-gaussian",
        "tips",
        "Eq. 11",
        "The mean singular value lies within √(q·w_e) ± √(q·w_r), for the random matrices the bound is about",
        "share of matrices inside",
        "proposition",
        _ALL,
        bounds_at_home,
    ),
    Claim(
        "tips-eq11-paths",
        "tips",
        "Eq. 12",
        "The mean singular value of a path lies within √(q·w_e) ± √(q·w_r), with w_e counted as in Fig. 3",
        "smallest share of paths inside",
        "proposition",
        _ALL,
        bounds_on_paths,
    ),
    Claim(
        "tips-prop31-wide",
        "tips",
        "Prop. 3.1",
        "The average degree w_e of a path can be much larger than its width w_r, so that the bounds order two paths",
        "largest w_e of a path, as a share of the smallest that Eq. 12 could order",
        "proposition",
        _ALL,
        wide_enough,
    ),
    Claim(
        "tips-eq18-degree",
        "tips",
        "Eq. 18",
        "The average degree w_e of Fig. 3 is proportional to TPS among paths of equal length",
        "largest factor by which w_e / TPS varies, in the friendlier reading of w_e",
        "proposition",
        _ALL,
        degree_from_score,
    ),
)
