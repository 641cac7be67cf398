"""Which operations are important, is that what the paper says, and is each step computed exactly (TIPS, Secs. 3.1-3.5, B.2, B.5, C)?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.published import quoted

NETWORKS = {"mobilenet_v2": "MobileNet-v2", "resnet34": "ResNet-34"}
EXACT = 1e-10
_EQUAL = 1e-9
_PROFILES = ("smoke", "laptop", "gpu", "paper")


def agreement(blocks: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    """Convolutions inside blocks that are important by the path, by the released code's rule, by both, by neither."""
    pairs = [(important, block["vital"]) for block in blocks for important in block["important"]]
    return {
        "both": pairs.count((True, True)),
        "path only": pairs.count((True, False)),
        "rule only": pairs.count((False, True)),
        "neither": pairs.count((False, False)),
    }


def first_against_others(blocks: Sequence[Mapping[str, Any]], by: Literal["importance", "ends"]) -> dict[str, int]:
    """In how many blocks does the first convolution score higher than every other one of the block, as high as the best, lower?"""
    outcome = {"higher": 0, "equal": 0, "lower": 0}
    for block in blocks:
        first, other = block[by][0], max(block[by][1:])
        equal = abs(first - other) <= _EQUAL * abs(other)
        outcome["equal" if equal else "higher" if first > other else "lower"] += 1
    return outcome


def _verdict(holds: bool) -> Verdict:
    return Verdict.HOLDS if holds else Verdict.FAILS


def _blocks(record: Record, network: str) -> Sequence[Mapping[str, Any]]:
    found: Sequence[Mapping[str, Any]] = record.values["networks"][network]["blocks"]
    return found


def _stride_two(records: Sequence[Record]) -> Finding:
    inside = [[i for b in _blocks(r, "mobilenet_v2") if b["stride"] == 2 for i in b["important"]] for r in records]
    outside = [[i for b in _blocks(r, "mobilenet_v2") if not b["vital"] for i in b["important"]] for r in records]
    fixed = all(choice["stride2"] == 1 for record in records for choice in record.values["networks"]["mobilenet_v2"]["choices"])
    reason = (
        f"{sum(map(sum, inside))} of {sum(map(len, inside))} layers in blocks with stride 2 lie on the path with the highest TPS per node, "
        f"and {sum(map(sum, outside))} of {sum(map(len, outside))} in blocks that keep size and channels"
        + (
            "; paths of every length pass all layers of the blocks with stride 2, which have no skip edge, whatever the scores"
            if fixed
            else ""
        )
    )
    holds = all(all(layers) for layers in inside) and not any(all(layers) for layers in outside)
    return Finding(_verdict(holds), 100 * min(float(np.mean(layers)) for layers in inside), None, len(records), reason)


def _released_rule(records: Sequence[Record]) -> Finding:
    counts = agreement([block for record in records for block in _blocks(record, "mobilenet_v2")])
    agreed, total = counts["both"] + counts["neither"], sum(counts.values())
    reason = (
        f"of {total} layers in blocks, {counts['both']} are important by both, {counts['neither']} by neither, "
        f"{counts['path only']} only by the path and {counts['rule only']} only by the rule"
    )
    return Finding(_verdict(agreed == total), 100 * agreed / total, None, len(records), reason)


def _first_of_network(records: Sequence[Record]) -> Finding:
    found = {name: min(r.values["networks"][key]["first_convolution_importance"] for r in records) for key, name in NETWORKS.items()}
    said = " and ".join(f"{value:.4f} in {name}" for name, value in found.items())
    reason = f"relative importance of the first convolution: {said}; every path from input to output passes it, whatever the scores"
    return Finding(_verdict(min(found.values()) >= 1 - _EQUAL), min(found.values()), None, len(records), reason)


def _first_of_block(records: Sequence[Record], by: Literal["importance", "ends"]) -> Finding:
    shares, said = [], []
    for key, name in NETWORKS.items():
        counts = first_against_others([block for record in records for block in _blocks(record, key)], by)
        total = sum(counts.values())
        shares.append(counts["higher"] / total)
        said.append(f"{name}: higher than all others in {counts['higher']} of {total} blocks, equal to the best in {counts['equal']}")
    return Finding(_verdict(min(shares) > 0.5), 100 * min(shares), None, len(records), "; ".join(said))


def _by_path(records: Sequence[Record]) -> Finding:
    finding = _first_of_block(records, "importance")
    why = "a path takes all layers of a block's body or none, so layers of one body cannot differ"
    return Finding(finding.verdict, finding.effect, None, finding.seeds, f"{finding.reason}; {why}")


def _by_ends(records: Sequence[Record]) -> Finding:
    return _first_of_block(records, "ends")


def _seconds(records: Sequence[Record]) -> Finding:
    slowest, printed = max(record.values["timing"]["mobilenet_v2"] for record in records), quoted("tips-step1-seconds").value
    reason = (
        f"graph, subnetworks, TAS and best paths of MobileNet-v2 took at most {slowest:.2f} s on this machine; {printed:g} s are printed"
    )
    return Finding(_verdict(slowest <= printed), slowest, None, len(records), reason)


def _closed_form(records: Sequence[Record]) -> Finding:
    found = [(method, d) for record in records for solvers in record.values["solvers"].values() for method, d in solvers.items()]
    worst = max(difference for _, difference in found)
    others = ", ".join(sorted({method for method, _ in found}))
    reason = f"no probability differs by more than {worst:.0e} between the closed form and {others}, in {len(found)} comparisons"
    return Finding(_verdict(worst < EXACT), worst, None, len(records), reason)


def _width_rules(records: Sequence[Record]) -> Finding:
    tried = sum(record.values["widths"]["samples"] for record in records)
    run = {rules: sum(record.values["widths"]["run"][rules] for record in records) for rules in records[0].values["widths"]["run"]}
    reason = f"of {tried} networks drawn each way, so many could be built and run: " + ", ".join(f"{n} {rules}" for rules, n in run.items())
    holds = run["both rules"] == tried and all(n < tried for rules, n in run.items() if rules != "both rules")
    return Finding(_verdict(holds), 100 * run["both rules"] / tried, None, len(records), reason)


CLAIMS = (
    Claim(
        id="important-stride-2",
        paper="tips",
        where="B.2",
        words="In MobileNet-v2 the layers within the blocks with stride 2 are important operations.",
        quantity="layers in blocks with stride 2 that are important, in percent",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_stride_two,
    ),
    Claim(
        id="important-released-rule",
        paper="companion",
        where="B.2",
        words="In MobileNet-v2 the path with the highest TPS per node marks the same layers as the released code's rule "
        "(stride 2, or input and output channels differ).",
        quantity="layers in blocks on which both agree, in percent",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_released_rule,
    ),
    Claim(
        id="important-first-layer",
        paper="tips",
        where="B.5, read as: the first layer of the network",
        words="The first convolution layer is among the most important operations.",
        quantity="relative importance, the lower of both networks",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_first_of_network,
    ),
    Claim(
        id="important-first-in-block-by-path",
        paper="tips",
        where="B.5, read as: the first layer of each block, importance as in Sec. 3.3",
        words="The first convolution layer of a block is more important than the others, by the best path through it.",
        quantity="blocks in which it is, in percent, the lower of both networks",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_by_path,
    ),
    Claim(
        id="important-first-in-block-by-ends",
        paper="tips",
        where="B.5, read as: the first layer of each block, by the TAS of its two feature maps",
        words="The first convolution layer of a block is more important than the others, by the TAS of what it reads and makes.",
        quantity="blocks in which it is, in percent, the lower of both networks",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_by_ends,
    ),
    Claim(
        id="step-1-seconds",
        paper="tips",
        where="Sec. 3.5",
        words="Step 1, the analysis of MobileNet-v2, takes only 39 seconds on a CPU.",
        quantity="seconds on this machine, the slowest run",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_seconds,
    ),
    Claim(
        id="stationary-closed-form",
        paper="companion",
        where="Eq. 7",
        words="The stationary distribution of Eq. 7 is exactly the share of each state in all weights, so no solver is needed.",
        quantity="largest difference of a probability from three solvers",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_closed_form,
    ),
    Claim(
        id="width-rules-valid",
        paper="tips",
        where="C.3, Fig. 11",
        words="Sampling channels from input to output by the two rules always gives a network that works.",
        quantity="networks drawn by both rules that can be built and run, in percent",
        experiment="walkthrough",
        profiles=_PROFILES,
        test=_width_rules,
    ),
)
