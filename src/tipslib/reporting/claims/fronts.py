"""Is TIPS more accurate at equal MACs, does it train faster (TIPS, section 4, Tables 1, 2, 6, Fig. 5), and does its sampling do it?"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from tipslib.records import Record
from tipslib.reporting.budgets import BASELINES, DATA, NETWORKS, Cell, Floats, budgets, cell, epochs_to, paired
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import largest_below, mean_interval, smallest_above
from tipslib.reporting.published import quoted

_SMALL, _LARGE = ("laptop", "gpu", "paper"), ("paper",)

TITLES = {"mobilenet_v2": "MobileNet-v2", "resnet34": "ResNet-34"}


def missing(found: Cell, wanted: Sequence[str], what: str) -> Finding | None:
    """The verdict where a strategy has no record, or strategies share no seed; None if all is there."""
    absent = [name for name in wanted if name not in found]
    if absent:
        return Finding(Verdict.NOT_RUN, None, None, 0, f"no run of {', '.join(absent)} on {what} at this profile yet")
    if not set.intersection(*({r.run.seed for r in found[name]} for name in wanted)):
        return Finding(Verdict.NOT_RUN, None, None, 0, f"no seed of which all of {', '.join(wanted)} were run on {what}")
    return None


def _what(network: str, data: str) -> str:
    return f"{TITLES[network]}, {DATA.get(data, data)}"


def more_accurate(first: str, others: Sequence[str], network: str, data: str, records: Sequence[Record]) -> Finding:
    """Is `first` above each of `others` at each of the paper's budgets that both can keep?"""
    found = cell(records, network, data)
    if (absent := missing(found, (first, *others), _what(network, data))) is not None:
        return absent
    seeds = set.intersection(*({r.run.seed for r in found[name]} for name in (first, *others)))
    found = {name: [r for r in rows if r.run.seed in seeds] for name, rows in found.items()}
    gaps = {other: paired(found, first, other, network, data) for other in others}
    return _above(gaps, first, budgets(network, data)[0])


def _above(gaps: dict[str, Floats], first: str, labels: Sequence[str]) -> Finding:
    rows = np.concatenate(list(gaps.values()))
    kept = np.isfinite(rows).all(axis=1)
    if not kept.any():
        return Finding(Verdict.UNDECIDED, None, None, rows.shape[1], "no budget that all of these supernets can keep")
    each = "; ".join(f"{np.nanmean(gap):+.1f} over {other} ({np.nanmin(gap.mean(1)):+.1f} to {np.nanmax(gap.mean(1)):+.1f})"
                     for other, gap in gaps.items() if np.isfinite(gap).any())  # fmt: skip
    left = (~kept).sum()
    reason = f"points of {first}, mean over budgets and, in brackets, at the budgets with the least and the most: {each}" + (
        f"; {left} of {len(kept)} comparisons are left out, as a budget lies below the smallest subnetwork" if left else ""
    )
    return smallest_above(rows[kept], 0.0, reason)


def fewer_epochs(network: str, data: str, records: Sequence[Record]) -> Finding:
    """Does TIPS need fewer epochs to the training loss that US-Nets has shortly before its end, at the same share of the run as printed?"""
    found = cell(records, network, data)
    if (absent := missing(found, ("TIPS", "US-Nets"), _what(network, data))) is not None:
        return absent
    share = quoted("tips-fig5b-epochs-usnets").value / quoted("tips-imagenet-epochs-mobilenet").value
    ratios = []
    for other in found["US-Nets"]:
        own = [r for r in found["TIPS"] if r.run.seed == other.run.seed]
        losses = other.arrays["loss"]
        target = float(losses[: max(1, round(share * len(losses)))].min())
        ratios += [epochs_to(r, target) / epochs_to(other, target) for r in own]
    reached = np.isfinite(ratios)
    if not reached.all():
        count = int((~reached).sum())
        return Finding(
            Verdict.FAILS, None, None, len(ratios), f"TIPS does not get to the loss of US-Nets at all in {count} of {len(ratios)} runs"
        )
    reason = f"TIPS needs {np.mean(ratios):.2f} of the epochs of US-Nets to the same training loss of the full network"
    return largest_below(np.array([ratios]), 1.0, reason)


def gain(records: Sequence[Record]) -> Finding:
    """Does the mean gain on each data set lie between the two numbers of the abstract?"""
    low, high = (quoted(f"tips-abstract-gain-{end}").value for end in ("low", "high"))
    each: dict[str, Floats] = {}
    for data in DATA:
        gaps = []
        for network in NETWORKS:
            found = cell(records, network, data)
            gaps += [paired(found, "TIPS", other, network, data) for other in BASELINES if missing(found, ("TIPS", other), "") is None]
        if gaps:
            seeds = min(gap.shape[1] for gap in gaps)
            each[data] = np.nanmean(np.concatenate([gap[:, :seeds] for gap in gaps]), axis=0)
    if not each:
        return Finding(Verdict.NOT_RUN, None, None, 0, "no run of TIPS and a baseline on one of the paper's data sets at this profile yet")
    found_ = {data: mean_interval(values) for data, values in each.items()}
    outside = [data for data, (_, (a, b)) in found_.items() if b < low or a > high]
    inside = all(low <= a and b <= high for _, (a, b) in found_.values())
    verdict = Verdict.FAILS if outside else Verdict.HOLDS if inside else Verdict.UNDECIDED
    effect, interval = min(found_.values(), key=lambda f: f[0])
    words = "; ".join(f"{DATA[data]} {mean:+.1f}" for data, (mean, _) in found_.items())
    return Finding(
        verdict, effect, interval, min(len(v) for v in each.values()), f"mean gain over baselines, budgets and networks: {words}"
    )


def _claims(network: str, data: str) -> tuple[Claim, ...]:
    title, profiles = TITLES[network], _LARGE if data == "imagenet" else _SMALL
    what, own = f"{title} on {DATA[data]}", f"{network.replace('_', '-')}-{data}"
    page = "mobilenet_front" if network == "mobilenet_v2" else "resnet_front"
    where = f"{'Tables 1 and 4' if network == 'mobilenet_v2' else 'Tables 2 and 5'}, Sec. 4.4"
    quantity = "difference of test accuracy in percentage points, for the baseline and the budget where it is least"
    controls = tuple(f"{name}+floor" for name in BASELINES)
    return (
        Claim(
            f"fronts-{own}",
            "tips",
            where,
            f"{what}: TIPS is more accurate than {', '.join(BASELINES[:-1])} and {BASELINES[-1]} at every budget.",
            quantity,
            "fronts",
            profiles,
            partial(more_accurate, "TIPS", BASELINES, network, data),
            page,
        ),
        Claim(
            f"floor-{own}",
            "companion",
            "Sec. 4.3, B.2",
            f"{what}: TIPS is still more accurate at every budget when the baselines have its raised minimum widths.",
            quantity,
            "fronts",
            profiles,
            partial(more_accurate, "TIPS", controls, network, data),
            "sampling_or_floor",
        ),
    )


def _speed(network: str, data: str) -> Claim:
    printed = data in ("imagenet", "tiny-imagenet")
    return Claim(
        f"epochs-{network.replace('_', '-')}-{data}",
        "tips" if printed else "companion",
        "Fig. 5(b)" if data == "imagenet" else "Fig. 5(c)" if printed else "Fig. 5, on a third data set",
        f"{TITLES[network]} on {DATA[data]}: TIPS needs fewer epochs than US-Nets to the same training loss.",
        "epochs of TIPS as a share of those of US-Nets",
        "fronts",
        _LARGE if data == "imagenet" else _SMALL,
        partial(fewer_epochs, network, data),
        "training_curves",
    )


def _ofa(data: str) -> Claim:
    return Claim(
        f"ofa-{data}",
        "tips" if data == "imagenet" else "companion",
        "Table 6, B.7" if data == "imagenet" else "Table 6, on another data set",
        f"MobileNet-v2 on {DATA[data]}: TIPS is more accurate than Once-For-All at every budget.",
        "difference of test accuracy in percentage points, at the budget where it is least",
        "fronts",
        _LARGE if data == "imagenet" else _SMALL,
        partial(more_accurate, "TIPS", ("OFA",), "mobilenet_v2", data),
        "one_shot_nas",
    )


CLAIMS = (
    *(claim for network in NETWORKS for data in DATA for claim in _claims(network, data)),
    Claim(
        "fronts-gain",
        "tips",
        "Abstract, Sec. 5",
        f"TIPS gains {quoted('tips-abstract-gain-low').value:g} to {quoted('tips-abstract-gain-high').value:g} % over earlier methods.",
        "mean gain in percentage points on the data set where it is least",
        "fronts",
        _SMALL,
        gain,
        "mobilenet_front",
    ),
    *(_speed("mobilenet_v2", data) for data in DATA),
    *(_ofa(data) for data in DATA),
)
