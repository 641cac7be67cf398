"""Does pruning important operations hurt more (TIPS, Figs. 4 and 8), and is it their importance that does it?"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from tipslib.errors import require
from tipslib.experiments.pruning import FIG4, FIG8
from tipslib.profiles import get_profile
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import NO_INTERVAL, Interval

_PROFILES = ("laptop", "gpu", "paper")

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "efficientnet_b0": "EfficientNet-B0",
        "resnet18": "ResNet-18",
        "mobilenet_v2": "MobileNet-v2",
        "resnet34": "ResNet-34",
        "wide_resnet50_2": "WideResNet-50-2",
        "resnext50_32x4d": "ResNeXt-50",
        "cifar10": "our ResNet on CIFAR-10",
        "digits": "our ResNet on digits",
    }
)
"""Subjects: torchvision's networks, and networks trained here, by their data."""

RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"up to 30 %": (0.0, 0.3), "above 30 up to 70 %": (0.3, 0.7), "above 70 %": (0.7, 1.0)}
)
"""Lower end excluded, upper end included."""

COLLINEAR = 1e-6
"""Share of the variance of importance that must be left, once the rest is allowed for, for its effect to be told."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Subject:
    """One network over all its seeds.

    Attributes
    ----------
    operations
        What `tipslib.experiments.pruning.describe` says of each of O operations.
    ratios : (R,)
    drop : (O, R)
        Accuracy lost in percentage points, mean over seeds.
    spread : (O, R) or None
        Standard deviation over seeds; None if there is one seed.
    important : (O,)
        Share of the seeds in which the operation was important.
    accuracy
        Of the whole network, in percent, mean over seeds.
    samples, seeds
    runs
        Independent ones: with given weights every seed does the same damage, which then counts once.
    """

    operations: Sequence[Mapping[str, Any]]
    ratios: Floats
    drop: Floats
    spread: Floats | None
    important: Floats
    accuracy: float
    samples: int
    seeds: int

    @property
    def runs(self) -> int:
        return 1 if self.spread is not None and self.spread.max() < 1e-9 else self.seeds


@dataclass(frozen=True)
class Comparison:
    """How much more accuracy an important operation costs than an unimportant one.

    `difference` in percentage points (NaN if it cannot be told) with its 95 % `interval`; `left` is the share of the variance of
    importance that the other explanations leave over: 0 where importance and they are the same thing.
    """

    difference: float
    interval: Interval
    left: float


def subject_of(record: Record) -> str:
    """The key of `TITLES` for a record."""
    asked = record.run.parameters
    return str(asked["data"] if asked["network"] == "trained" else asked["network"])


def subject(records: Sequence[Record], name: str, zero: str = "layer") -> Subject | None:
    """The records of one network with the zero in one place, over seeds; None if there are none. The largest data set goes first."""
    chosen = [r for r in records if subject_of(r) == name and r.run.parameters["zero"] == zero]
    if not chosen:
        return None
    most = max(r.values["samples"] for r in chosen)
    chosen = [r for r in chosen if r.values["samples"] == most]
    first = chosen[0]
    drops = np.array([100 * (r.values["unpruned"] - r.arrays["correct"]) / r.values["samples"] for r in chosen])
    return Subject(
        operations=first.values["operations"],
        ratios=np.array(first.run.parameters["ratios"]),
        drop=drops.mean(axis=0),
        spread=drops.std(axis=0, ddof=1) if len(chosen) > 1 else None,
        important=np.mean([r.arrays["important"] for r in chosen], axis=0),
        accuracy=float(np.mean([100 * r.values["unpruned"] / most for r in chosen])),
        samples=most,
        seeds=len(chosen),
    )


def explanations(operations: Sequence[Mapping[str, Any]], kinds: bool = False) -> Floats:
    """(O, K) what the damage may come from besides importance.

    Position and its square, and the binary logarithm of the number of channels; with `kinds` also what the operation is (depthwise,
    widening, ...) and whether it samples down.
    """
    position = np.array([o["position"] for o in operations])
    columns = [position, position**2, np.log2([o["channels"] for o in operations])]
    if kinds:
        roles = sorted({o["role"] for o in operations})
        columns += [np.array([float(o["role"] == role) for o in operations]) for role in roles[1:]]
        columns.append(np.array([float(o["stride"] > 1) for o in operations]))
    return np.stack(columns, axis=1)


def compare(drop: Floats, important: Floats, blocks: Sequence[str], others: Floats | None = None, level: float = 0.95) -> Comparison:
    """Difference of drop between important and unimportant operations, by least squares with the other explanations beside it.

    Operations of one block share a fate, so the interval comes from leaving out one block at a time (the jackknife over clusters):
    with G blocks, coefficient b and b_g without block g, its variance is (G - 1) / G * sum (b_g - b)^2, and t has G - 1 degrees.

    Parameters
    ----------
    drop, important : (O,)
    blocks
        The block of each operation.
    others : (O, K)
        Other explanations; None: the plain difference of means.
    level

    Returns
    -------
    Comparison
        With an infinite interval where everything hangs on a single block.
    """
    require(
        len(drop) == len(important) == len(blocks),
        f"{len(drop)} drops, {len(important)} marks, {len(blocks)} blocks; equally many are wanted",
    )
    fixed = np.ones((len(drop), 1)) if others is None else np.column_stack([np.ones(len(drop)), others])
    found, left = _coefficient(drop, important, fixed)
    names = sorted(set(blocks))
    groups = np.array([names.index(block) for block in blocks])
    without = np.array([_coefficient(drop[groups != g], important[groups != g], fixed[groups != g])[0] for g in range(len(names))])
    if len(names) < 2 or not np.isfinite([found, *without]).all():
        return Comparison(found, NO_INTERVAL, left)
    error = math.sqrt((len(names) - 1) / len(names) * ((without - found) ** 2).sum())
    half = float(t.ppf((1 + level) / 2, len(names) - 1)) * error
    return Comparison(found, (found - half, found + half), left)


def _coefficient(drop: Floats, important: Floats, fixed: Floats) -> tuple[float, float]:
    """The coefficient of importance beside `fixed`, NaN where these say it all; and the share of its variance that they leave."""
    rest = important - fixed @ np.linalg.lstsq(fixed, important, rcond=None)[0]
    variance = float(((important - important.mean()) ** 2).sum())
    left = float(rest @ rest) / variance if variance > 0 else 0.0
    return (float(rest @ drop / (rest @ rest)) if left > COLLINEAR else math.nan), left


def in_range(s: Subject, name: str) -> Floats | None:
    """(O,) drop, mean over the ratios of a range; None if there are none in it."""
    low, high = RANGES[name]
    inside = (s.ratios > low) & (s.ratios <= high)
    return s.drop[:, inside].mean(axis=1) if inside.any() else None


def blocks_of(s: Subject) -> list[str]:
    """The block of each operation."""
    return [o["block"] for o in s.operations]


def _not_run(records: Sequence[Record], name: str) -> Finding:
    return Finding(Verdict.NOT_RUN, None, None, 0, f"not run at this profile; `{command(name, records[0].run.profile)}` runs it")


def command(name: str, profile: str) -> str:
    """What to type to run a network, at the next larger profile where this one does not read its images."""
    photographs = "imagenet" if profile == "paper" else "imagenet-val-1300"
    network, data = (name, photographs) if name in (*FIG4, *FIG8) else ("trained", name)
    size = profile if data in get_profile(profile).datasets else "laptop"
    return f"tipslib run pruning --profile {size} -p network={network} -p data={data}"


def _hurts_more(name: str, records: Sequence[Record]) -> Finding:
    s = subject(records, name)
    if s is None:
        return _not_run(records, name)
    drops = {words: drop for words in RANGES if (drop := in_range(s, words)) is not None}
    found = {words: compare(drop, s.important, blocks_of(s)) for words, drop in drops.items()}
    wide = [compare(drop, s.important, blocks_of(s), level=1 - 0.05 / len(drops)) for drop in drops.values()]
    least = min(found.values(), key=lambda c: c.difference if math.isfinite(c.difference) else -math.inf)
    if all(c.interval[0] > 0 for c in found.values()):
        verdict = Verdict.HOLDS
    elif any(c.interval[1] <= 0 for c in wide):
        verdict = Verdict.FAILS
    else:
        verdict = Verdict.UNDECIDED
    each = "; ".join(f"{words}: {c.difference:+.1f} ({c.interval[0]:+.1f} to {c.interval[1]:+.1f})" for words, c in found.items())
    reason = (
        f"percentage points that an important operation costs more than an unimportant one, by pruning ratio: {each}; "
        f"{int((s.important > 0.5).sum())} of {len(s.operations)} operations are important"
    )
    return Finding(verdict, least.difference if math.isfinite(least.difference) else None, least.interval, s.runs, reason)


def _hurts_more_adjusted(name: str, records: Sequence[Record]) -> Finding:
    s = subject(records, name)
    if s is None:
        return _not_run(records, name)
    drop = s.drop.mean(axis=1)
    plain = compare(drop, s.important, blocks_of(s))
    adjusted = compare(drop, s.important, blocks_of(s), explanations(s.operations))
    if not math.isfinite(adjusted.difference):
        return Finding(
            Verdict.UNDECIDED, None, None, s.seeds, "importance is nothing but position and width here; no data can tell them apart"
        )
    one_thing = all(o["unavoidable"] == (m > 0.5) for o, m in zip(s.operations, s.important, strict=True))
    low, high = adjusted.interval
    verdict = Verdict.HOLDS if low > 0 else Verdict.FAILS if high <= 0 else Verdict.UNDECIDED
    reason = (
        f"over all ratios an important operation costs {plain.difference:+.1f} points more than an unimportant one, "
        f"{adjusted.difference:+.1f} at equal position and width; these two leave {100 * adjusted.left:.0f} % of the variance of importance"
        + ("; important here means that no shortcut leads around the operation, and nothing else" if one_thing else "")
    )
    return Finding(verdict, adjusted.difference, adjusted.interval, s.runs, reason)


def _claims(name: str) -> tuple[Claim, Claim]:
    where = "Fig. 4, Sec. 4.3" if name in FIG4 else "Fig. 8" if name in FIG8 else "Figs. 4 and 8, on a network of our own"
    paper = "tips" if name in (*FIG4, *FIG8) else "companion"
    id_ = f"pruning-{name.replace('_', '-')}"
    test: Callable[[Sequence[Record]], Finding] = partial(_hurts_more, name)
    return (
        Claim(
            id_,
            paper,  # type: ignore[arg-type]
            where,
            f"{TITLES[name]}: for various pruning ratios, pruning important operations costs more accuracy than unimportant ones.",
            "difference of the accuracy lost, in percentage points, in the range of ratios where it is least",
            "pruning",
            _PROFILES,
            test,
        ),
        Claim(
            f"{id_}-adjusted",
            "companion",
            where.partition(",")[0],
            f"{TITLES[name]}: it does so after allowing for position in the network and number of channels.",
            "difference of the accuracy lost at equal position and width, in percentage points, mean over all ratios",
            "pruning",
            _PROFILES,
            partial(_hurts_more_adjusted, name),
        ),
    )


CLAIMS = tuple(claim for name in TITLES for claim in _claims(name))
