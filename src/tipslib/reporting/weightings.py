"""How do the records of the sixteen weightings become numbers to compare (progressive intelligence, Table 1, Figs. 1 and 2)?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr

from tipslib.experiments.weights import TABLE
from tipslib.records import Record

Weights = tuple[float, ...]
Floats = NDArray[np.float64]
Value = Callable[[Record], float]

BASELINE: Weights = TABLE[0]
EQUAL: Weights = (0.2, 0.2, 0.2, 0.4)
SINGLE: tuple[tuple[Weights, ...], ...] = tuple(
    tuple(w for w in TABLE[1:] if w[e] > 0 and sum(x > 0 for x in w[:3]) == 1) for e in range(3)
)
"""The rows of Table 1 with one early exit, by the position of that exit."""
MULTIPLE: tuple[Weights, ...] = tuple(w for w in TABLE if all(w))

EXIT_LAYERS = (4, 8, 12)
"""Where the early exits sit among the 18 probed layers, counted from 0; the paper's figure counts from 1."""


def name_of(weights: Sequence[float]) -> str:
    """Much as the paper writes it: 0.2:0.2:0.2:0.4, the last exit last."""
    return ":".join(f"{w:.1f}" for w in weights)


def by_weights(records: Sequence[Record]) -> dict[Weights, list[Record]]:
    """Records of each weighting in the order of Table 1, ordered by seed; only the seeds that every weighting has."""
    grouped: dict[Weights, dict[int, Record]] = {}
    for record in records:
        grouped.setdefault(tuple(record.run.parameters["weights"]), {})[record.run.seed] = record
    shared = sorted(set.intersection(*(set(seeds) for seeds in grouped.values())))
    order = sorted(grouped, key=lambda w: TABLE.index(w) if w in TABLE else len(TABLE))
    return {weights: [grouped[weights][seed] for seed in shared] for weights in order}


def per_seed(records: Sequence[Record], rows: Sequence[Weights], value: Value) -> Floats:
    """(rows, seeds) values."""
    grouped = by_weights(records)
    return np.array([[value(record) for record in grouped[weights]] for weights in rows], dtype=np.float64)


def auc(record: Record) -> float:
    """Area under the probe curve as the authors compute it, probes evaluated without dropout."""
    return float(record.values["auc"]["paper"])


def log_separation(layer: int) -> Value:
    """Natural logarithm of R^2 at a layer."""
    return lambda record: float(np.log(record.values["separation"][layer]))


def fractional_gain(records: Sequence[Record], rows: Sequence[Weights]) -> Floats:
    """(rows, seeds) gain of AUC over the unbranched network of the same seed, in percent of that network's."""
    base = per_seed(records, [BASELINE], auc)
    return np.asarray(100 * (per_seed(records, rows, auc) / base - 1))


def position_share(values: Floats) -> Floats:
    """(S,) share of the variance over (position, weight, seed) values that the position explains, 0 to 1, for each seed."""
    means = values.mean(axis=1)
    between = values.shape[1] * np.square(means - means.mean(axis=0)).sum(axis=0)
    return np.asarray(between / np.square(values - values.mean(axis=(0, 1))).sum(axis=(0, 1)))


def rank_agreement(measured: Floats, printed: Floats) -> tuple[float, tuple[float, float]]:
    """Spearman's rank correlation of two (K,) lists of rows and its 95 % interval, by resampling rows."""

    def rho(a: Floats, b: Floats) -> float:
        return float(spearmanr(a, b).statistic)

    found = bootstrap(
        (measured, printed), rho, paired=True, vectorized=False, method="percentile", n_resamples=999, rng=np.random.default_rng(0)
    )
    return rho(measured, printed), (float(found.confidence_interval.low), float(found.confidence_interval.high))


def own_exits() -> list[tuple[Weights, int]]:
    """Each weighting with each early exit that it trains, by the exit's layer."""
    return [(w, EXIT_LAYERS[e]) for w in TABLE for e in range(3) if w[e] > 0]


def steps_after(records: Sequence[Record]) -> tuple[Floats, Floats]:
    """(S,) mean change of log R^2 from each trained exit to the next layer, and the unbranched network's at the same places."""
    own, plain = [], []
    for weights, layer in own_exits():
        here, after = log_separation(layer), log_separation(layer + 1)
        own.append(per_seed(records, [weights], after)[0] - per_seed(records, [weights], here)[0])
        plain.append(per_seed(records, [BASELINE], after)[0] - per_seed(records, [BASELINE], here)[0])
    return np.mean(own, axis=0), np.mean(plain, axis=0)


def mode_area(record: Record) -> float:
    """Area under the curve of inference modes with the entropy rule, as a share of the MACs of the whole network."""
    return float(record.values["progressiveness"]["entropy"])


def largest_fall(record: Record) -> float:
    """How far accuracy falls, in percentage points, where the entropy rule spends more MACs."""
    macs, accuracy = record.arrays["entropy"]
    sorted_ = accuracy[np.argsort(macs, kind="stable")]
    return float(100 * (np.maximum.accumulate(sorted_) - sorted_).max())
