"""Is the ranking of paths the same for every coupling strength (TIPS, Fig. 7), and where it is not, does the algebra say so?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict

EQUAL, UNEQUAL, PER_NODE = range(3)
_PROFILES = ("smoke", "laptop", "gpu", "paper")


def _total(records: Sequence[Record], column: int) -> tuple[int, int, int]:
    """Pairs that change their order, draws in which any does, and draws, over all records."""
    counts = np.concatenate([record.arrays["reversals"][:, column] for record in records])
    return int(counts.sum()), int((counts > 0).sum()), len(counts)


def _grid(records: Sequence[Record]) -> str:
    values = records[0].run.parameters["couplings"]
    return f"lambda from {values[0]:g} to {values[-1]:g}"


def _equal_length(records: Sequence[Record]) -> Finding:
    changed, _, draws = _total(records, EQUAL)
    pairs = records[0].values["pairs"]["equal"]
    verdict = Verdict.HOLDS if changed == 0 else Verdict.FAILS
    reason = (
        f"of {pairs:,} pairs of equally long paths, {changed} change their order for {_grid(records)}, over {draws} draws of subnetworks"
    )
    return Finding(verdict, float(changed), None, len(records), reason)


def _any_length(records: Sequence[Record]) -> Finding:
    changed, affected, draws = _total(records, UNEQUAL)
    pairs = records[0].values["pairs"]["unequal"] * draws
    verdict = Verdict.HOLDS if changed == 0 else Verdict.FAILS
    reason = (
        f"paths of unequal length change their order for {_grid(records)} in {affected} of {draws} draws of subnetworks; "
        f"such pairs are few: {changed:,} of {pairs:,}"
    )
    return Finding(verdict, 100 * changed / pairs, None, len(records), reason)


def _crossing(records: Sequence[Record]) -> Finding:
    counted = np.concatenate([record.arrays["reversals"][:, UNEQUAL] for record in records])
    predicted = np.concatenate([record.arrays["predicted"] for record in records])
    followed = [pair for record in records for pair in record.values["crossings"]]
    if not followed:
        return Finding(Verdict.UNDECIDED, None, None, len(records), f"no two paths of the first draw cross for {_grid(records)}")
    error = max(abs(pair["measured"] - pair["predicted"]) for pair in followed)
    wrong = int(np.abs(counted - predicted).sum())
    verdict = Verdict.HOLDS if error < 1e-8 and wrong == 0 else Verdict.FAILS
    reason = (
        f"{len(followed)} crossings were located with a solver that does not use the formula: largest difference {error:.1e}; "
        f"the number of pairs that change their order differs from the predicted number by {wrong} over {len(counted)} draws"
    )
    return Finding(verdict, error, None, len(records), reason)


def _per_node(records: Sequence[Record]) -> Finding:
    changed, _, draws = _total(records, PER_NODE)
    verdict = Verdict.HOLDS if changed == 0 else Verdict.FAILS
    reason = (
        f"ranked by TPS divided by the number of nodes, {changed} pairs of paths of any length change their order for {_grid(records)}, "
        f"counted over {draws} draws"
    )
    return Finding(verdict, float(changed), None, len(records), reason)


def _other_chains(records: Sequence[Record]) -> Finding:
    found = {
        chain["chain"]: min(c["reversals"] for r in records for c in r.values["chains"] if c["chain"] == chain["chain"])
        for chain in records[0].values["chains"]
    }
    exact, directed, damped = (found[name] for name in ("exact", "directed", "damped"))
    verdict = Verdict.HOLDS if exact == 0 and min(directed, damped) > 0 else Verdict.FAILS
    reason = (
        f"of equally long paths that the paper's chain tells apart, pairs that change their order: {exact} in that chain, "
        f"{directed} with directed operations, {damped} with damped PageRank"
    )
    return Finding(verdict, float(min(directed, damped)), None, len(records), reason)


CLAIMS = (
    Claim(
        id="coupling-ranking-equal-length",
        paper="tips",
        where="Sec. 4.5, Fig. 7, for paths with the same number of nodes (Sec. 3.3)",
        words="The ranking among equally long paths remains the same for lambda from 0.1 to 1.",
        quantity="pairs of equally long paths that change their order",
        experiment="coupling",
        profiles=_PROFILES,
        test=_equal_length,
    ),
    Claim(
        id="coupling-ranking-any-length",
        paper="tips",
        where="Sec. 4.5, Fig. 7, as worded: among different paths",
        words="The ranking among different paths remains the same for lambda from 0.1 to 1.",
        quantity="pairs of unequal length that change their order, in percent",
        experiment="coupling",
        profiles=_PROFILES,
        test=_any_length,
    ),
    Claim(
        id="coupling-crossing-predicted",
        paper="companion",
        where="Fig. 7",
        words="Paths of unequal length cross exactly where the closed form says.",
        quantity="largest difference between measured and predicted lambda",
        experiment="coupling",
        profiles=_PROFILES,
        test=_crossing,
    ),
    Claim(
        id="coupling-ranking-per-node",
        paper="companion",
        where="Fig. 7",
        words="By TPS per node, the ranking of all paths of all lengths is the same for every lambda.",
        quantity="pairs of paths that change their order",
        experiment="coupling",
        profiles=_PROFILES,
        test=_per_node,
    ),
    Claim(
        id="coupling-other-chains",
        paper="companion",
        where="Fig. 7",
        words="Only the undirected, undamped chain keeps the order: in a directed or a damped one even equally long paths change it.",
        quantity="pairs that change their order, the smaller of both counts",
        experiment="coupling",
        profiles=_PROFILES,
        test=_other_chains,
    ),
)
