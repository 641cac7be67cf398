"""Are four or eight subnetworks enough for stable scores (TIPS, Fig. 6), and what makes them stable?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from tipslib.experiments.stability import run_scores, spread_percent
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.published import quoted

_PROFILES = ("smoke", "laptop", "gpu", "paper")
_RESAMPLES = 999
_RARE = 10.0
"""Percent of pairs of runs below which agreement counts as rare."""

Floats = NDArray[np.float64]


def pooled(records: Sequence[Record], coupling: float | None = None) -> Floats:
    """TPS (C, R, P) of the runs of all records, at `coupling` for every T, by default the record's own."""

    def one(record: Record) -> Floats:
        asked = record.run.parameters
        each = [asked["coupling"] if coupling is None else coupling] * len(asked["subnetworks"])
        return run_scores(record.values, record.arrays, asked["subnetworks"], each, asked["restart"])

    return np.concatenate([one(record) for record in records], axis=1)


def _bootstrap(statistic: Callable[[NDArray[np.int64]], float], runs: int) -> tuple[float, float]:
    """95 % percentile interval of `statistic(indices of runs)` under resampling of runs."""
    rng = np.random.default_rng(0)
    values = [statistic(rng.integers(runs, size=runs)) for _ in range(_RESAMPLES)]
    low, high = np.nanquantile(values, (0.025, 0.975))
    return float(low), float(high)


def _below(effect: float, interval: tuple[float, float], bar: float, seeds: int, reason: str) -> Finding:
    verdict = Verdict.HOLDS if interval[1] < bar else Verdict.FAILS if interval[0] >= bar else Verdict.UNDECIDED
    return Finding(verdict, effect, interval, seeds, reason)


def _lacking(records: Sequence[Record], *counts: int) -> Finding | None:
    there = records[0].run.parameters["subnetworks"]
    missing = [str(n) for n in counts if n not in there]
    return Finding(Verdict.UNDECIDED, None, None, len(records), f"no run with {' or '.join(missing)} subnetworks") if missing else None


def _spread_at_eight(records: Sequence[Record]) -> Finding:
    count, bar = int(quoted("tips-subnetworks").value), quoted("tips-fig6-spread").value
    if finding := _lacking(records, count):
        return finding
    scores = pooled(records)[records[0].run.parameters["subnetworks"].index(count)]

    def largest(runs: NDArray[np.int64]) -> float:
        return float(spread_percent(scores[None, runs]).max())

    effect = largest(np.arange(len(scores)))
    reason = (
        f"with {count} subnetworks the largest standard deviation among the paths followed is {effect:.2f} % of the mean, "
        f"over {len(scores)} runs; the bar is {bar:g} %"
    )
    return _below(effect, _bootstrap(largest, len(scores)), bar, len(records), reason)


def _negligible_above(records: Sequence[Record]) -> Finding:
    bound, bar = quoted("tips-fig6-negligible-above").value, quoted("tips-fig6-spread").value
    counts = np.array(records[0].run.parameters["subnetworks"])
    if not (counts > bound).any():
        return Finding(Verdict.UNDECIDED, None, None, len(records), f"no run with more than {bound:g} subnetworks")
    scores = pooled(records)[counts > bound]

    def largest(runs: NDArray[np.int64]) -> float:
        return float(spread_percent(scores[:, runs]).max())

    effect = largest(np.arange(scores.shape[1]))
    reason = (
        f"with more than {bound:g} subnetworks no path followed has a standard deviation above {effect:.2f} % of its mean; "
        f"the bar is the {bar:g} % of Sec. 4.5"
    )
    return _below(effect, _bootstrap(largest, scores.shape[1]), bar, len(records), reason)


def _four_enough(records: Sequence[Record]) -> Finding:
    few, many, bar = int(quoted("tips-fig6-enough").value), int(quoted("tips-fig6-subnetworks-max").value), quoted("tips-fig6-spread").value
    if finding := _lacking(records, few, many):
        return finding
    counts = records[0].run.parameters["subnetworks"]
    scores = pooled(records)[[counts.index(few), counts.index(many)]]

    def drifts(runs: NDArray[np.int64]) -> Floats:
        means = scores[:, runs].mean(axis=1)
        drift: Floats = 100 * np.abs(means[0] / means[1] - 1)
        return drift

    found = drifts(np.arange(scores.shape[1]))
    each = ", ".join(f"{drift:.1f} % ({path['nodes']} nodes)" for drift, path in zip(found, records[0].values["followed"], strict=True))
    reason = (
        f"from {few} to {many} subnetworks the mean TPS still moves by {each}; "
        f"converged would be less than {bar:g} %, the paper's own bar for a stable value"
    )
    return _below(float(found.max()), _bootstrap(lambda runs: float(drifts(runs).max()), scores.shape[1]), bar, len(records), reason)


def _coupling_share(records: Sequence[Record]) -> Finding:
    counts = records[0].run.parameters["subnetworks"]
    if len(counts) < 2:
        return Finding(Verdict.UNDECIDED, None, None, len(records), "one number of subnetworks shows no trend")
    ends = [0, -1]
    coupled, free = pooled(records)[ends], pooled(records, coupling=0.0)[ends]
    path = int(spread_percent(free)[0].argmax())

    def falls(runs: NDArray[np.int64]) -> Floats:
        spreads = np.stack([spread_percent(scores[:, runs])[:, path] for scores in (coupled, free)])
        fall: Floats = spreads[:, 0] / spreads[:, 1]
        return fall

    def share(runs: NDArray[np.int64]) -> float:
        with_it, without = np.log(falls(runs))
        return float(1 - without / with_it) if with_it > 0 else np.nan

    everything = np.arange(coupled.shape[1])
    effect, (with_it, without) = share(everything), falls(everything)
    if np.isnan(effect):
        return Finding(Verdict.UNDECIDED, None, None, len(records), "with the coupling the spread does not fall at all")
    interval = _bootstrap(share, coupled.shape[1])
    verdict = Verdict.HOLDS if interval[0] > 0.5 else Verdict.FAILS if interval[1] <= 0.5 else Verdict.UNDECIDED
    reason = (
        f"from {counts[0]} to {counts[-1]} subnetworks the spread falls {with_it:.1f}-fold with the coupling, {without:.1f}-fold without; "
        f"on a logarithmic scale the coupling makes {100 * effect:.0f} % of the fall"
    )
    return Finding(verdict, effect, interval, len(records), reason)


def _lottery(records: Sequence[Record]) -> Finding:
    count = int(quoted("tips-subnetworks").value)
    if finding := _lacking(records, count):
        return finding
    row = records[0].run.parameters["subnetworks"].index(count)
    choice = np.array([length["paths"] for length in records[0].values["lengths"]])
    if not (choice > 1).any():
        return Finding(Verdict.UNDECIDED, None, None, len(records), "no two paths are equally long")
    agree = []
    for record in records:
        best = record.arrays["best_of_length"][row][:, choice > 1]
        pairs = len(best) // 2
        agree.append((best[:pairs] == best[pairs : 2 * pairs]).mean(axis=1))
    agreement = np.concatenate(agree)
    effect, chance = float(100 * agreement.mean()), float(100 * np.mean(1 / choice[choice > 1]))
    interval = _bootstrap(lambda runs: float(100 * agreement[runs].mean()), len(agreement))
    best = np.concatenate([record.arrays["best_per_node"][row] for record in records])
    same = 100 * np.bincount(best).max() / len(best)
    reason = (
        f"two runs with {count} subnetworks name the same best path among equally long ones in {effect:.1f} % of cases "
        f"(drawing lots: {chance:.1f} %); the path with the highest TPS per node is the same in {same:.0f} % of runs"
    )
    return _below(effect, interval, _RARE, len(records), reason)


def _claim(id: str, paper: str, where: str, words: str, quantity: str, test: Callable[[Sequence[Record]], Finding]) -> Claim:
    return Claim(id, "tips" if paper == "tips" else "companion", where, words, quantity, "stability", _PROFILES, test)


CLAIMS = (
    _claim(
        "stability-spread-at-eight",
        "tips",
        "Sec. 4.5",
        "With 8 subnetworks the standard deviation of TPS is less than 2.5 % of the mean.",
        "largest standard deviation in percent of the mean, T = 8",
        _spread_at_eight,
    ),
    _claim(
        "stability-negligible-above-four",
        "tips",
        "Fig. 6, caption",
        "The variation is negligible when the number of subnetworks is larger than 4.",
        "largest standard deviation in percent of the mean, T > 4",
        _negligible_above,
    ),
    _claim(
        "stability-four-enough",
        "tips",
        "Sec. 4.5",
        "Four subnetworks are typically enough to make the TPS value converge.",
        "largest change of the mean TPS from T = 4 to T = 20, in percent",
        _four_enough,
    ),
    _claim(
        "stability-coupling-share",
        "companion",
        "Fig. 6",
        "The fast convergence is largely the growing coupling's doing: it makes more than half of the fall of the spread.",
        "share of the fall of the logarithm of the spread",
        _coupling_share,
    ),
    _claim(
        "stability-choice-is-a-lottery",
        "companion",
        "Fig. 6, Sec. 3.3",
        "A stable score is not a stable choice: two runs agree on the best of equally long paths less than one time in ten.",
        "pairs of runs that agree, in percent, T = 8",
        _lottery,
    ),
)
