"""Do exits make a network different, and do they push what it represents to earlier layers (progressive intelligence, Fig. 3)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding
from tipslib.reporting.claims.seeds import smallest_above, within
from tipslib.reporting.published import quoted

_PROFILES = ("laptop", "gpu", "paper")

ABOUT = 0.025
"""How far from the printed peak still counts as "~": half a step of the colour scale's 0.05."""

BEHIND_FIRST_EXIT = slice(5, None)
"""The layers that are not early."""

Floats = NDArray[np.float64]


def shifts(similarity: Floats) -> NDArray[np.int64]:
    """(L,) for each layer of the second network, how many layers later its most similar layer of the first network comes."""
    shift: NDArray[np.int64] = similarity.argmax(axis=0) - np.arange(similarity.shape[1])
    return shift


def best_match(similarity: Floats) -> Floats:
    """(L,) largest similarity of each layer of the second network with any layer of the first."""
    best: Floats = similarity.max(axis=0)
    return best


def lean(similarity: Floats) -> float:
    """Mean similarity of later layers of the first with earlier ones of the second network, less the other way round."""
    below = np.tril_indices(len(similarity), -1)
    return float((similarity - similarity.T)[below].mean())


def per_seed(records: Sequence[Record], value: Callable[[Record], float]) -> Floats:
    """(1, S) values, by seed."""
    return np.array([[value(record) for record in sorted(records, key=lambda r: r.run.seed)]])


def _own_counterpart(records: Sequence[Record]) -> Finding:
    share = {
        kind: per_seed(records, lambda r, kind=kind: (shifts(r.arrays[f"plain {kind}"]) == 0).mean())  # type: ignore[misc]
        for kind in ("biased", "debiased")
    }
    reason = (
        f"of the layers of a plain network {100 * share['biased'].mean():.0f} % are most similar to the same layer of the other one "
        f"(debiased: {100 * share['debiased'].mean():.0f} %)"
    )
    return smallest_above(share["biased"], 0.5, reason)


def _below_plain(records: Sequence[Record]) -> Finding:
    plain, branched = (per_seed(records, lambda r, n=name: float(r.arrays[n].max())) for name in ("plain biased", "branched biased"))  # type: ignore[misc]
    reason = f"the largest similarity of the branched pair is {branched.mean():.3f}, of the plain pair {plain.mean():.3f}"
    return smallest_above(plain - branched, 0.0, reason)


def _peak(records: Sequence[Record]) -> Finding:
    printed = quoted("progressive-cka-peak").value
    peak = per_seed(records, lambda r: float(r.arrays["branched biased"].max()))[0]
    at = per_seed(records, lambda r: float(best_match(r.arrays["branched biased"]).argmax() + 1))[0]
    reason = (
        f"it peaks at {peak.mean():.3f}, at layer {', '.join(f'{x:.0f}' for x in at)} of the branched network; the paper has ~{printed:g}, "
        f"read as {printed - ABOUT:g} to {printed + ABOUT:g}"
    )
    return within(peak, printed - ABOUT, printed + ABOUT, reason)


def _rest(records: Sequence[Record]) -> Finding:
    low, high = quoted("progressive-cka-rest-low").value, quoted("progressive-cka-rest-high").value
    smallest = per_seed(records, lambda r: float(best_match(r.arrays["branched biased"])[BEHIND_FIRST_EXIT].min()))
    largest = per_seed(records, lambda r: float(best_match(r.arrays["branched biased"])[BEHIND_FIRST_EXIT].max()))
    reason = (
        f"behind the first exit the largest similarity of a layer lies between {smallest.mean():.3f} and {largest.mean():.3f}; "
        f"the paper has {low:g} to {high:g}"
    )
    return smallest_above(np.concatenate([smallest - low, high - largest]), 0.0, reason)


def _earlier(records: Sequence[Record]) -> Finding:
    def excess(kind: str) -> Floats:
        return per_seed(records, lambda r: shifts(r.arrays[f"branched {kind}"]).mean() - shifts(r.arrays[f"plain {kind}"]).mean())

    biased, debiased = excess("biased"), excess("debiased")
    reason = (
        f"averaged over the layers of the branched network, the most similar layer of the unbranched one comes {biased.mean():+.2f} layers "
        f"later than it does in the plain pair (debiased: {debiased.mean():+.2f})"
    )
    return smallest_above(biased, 0.0, reason)


def _bias(records: Sequence[Record]) -> Finding:
    gap = per_seed(records, lambda r: float(np.mean(r.arrays["branched biased"] - r.arrays["branched debiased"])))
    reason = (
        f"over all pairs of layers the biased estimate is {gap.mean():+.3f} away from the debiased one, "
        f"with batches of {records[0].values['batch']} samples"
    )
    return smallest_above(gap, 0.0, reason)


def _claim(
    id: str,
    where: str,
    words: str,
    quantity: str,
    test: Callable[[Sequence[Record]], Finding],
    paper: Literal["progressive", "companion"] = "progressive",
) -> Claim:
    return Claim(f"similarity-{id}", paper, where, words, quantity, "similarity", _PROFILES, test)


CLAIMS = (
    _claim(
        "own-counterpart",
        "Sec. 3",
        "CKA is largest between the same layers of two identical networks.",
        "share of layers that are most similar to their counterpart",
        _own_counterpart,
    ),
    _claim(
        "below-plain-pair",
        "Sec. 3, Fig. 3",
        "The similarity between branched and unbranched networks never reaches the maximum values.",
        "largest CKA of the plain pair, less that of the branched pair",
        _below_plain,
    ),
    _claim("peak", "Sec. 3, Fig. 3", "It peaks at about 0.95.", "largest CKA of the branched pair", _peak),
    _claim(
        "rest",
        "Sec. 3, Fig. 3",
        "Behind the early layers, the maximum similarity at a layer lies between 0.8 and 0.9.",
        "distance to the nearer end of that range, negative outside",
        _rest,
    ),
    _claim(
        "moves-earlier",
        "Sec. 3, Fig. 3",
        "Branches push representations to earlier layers.",
        "shift of the most similar layer against the plain pair, in layers",
        _earlier,
    ),
    _claim(
        "biased-overstates",
        "Sec. 3, Eq. 4",
        "With batches of this size, the biased estimator of Eq. 4 overstates similarity.",
        "mean difference of CKA, biased less debiased",
        _bias,
        "companion",
    ),
)
