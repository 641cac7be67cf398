"""What does leaving by agreement save, and at what price (progressive intelligence, section 5 and Fig. 5)?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tipslib.experiments.agreement import threshold_saving
from tipslib.records import Record
from tipslib.reporting.claims import Claim, Finding, Verdict
from tipslib.reporting.claims.seeds import largest_below, smallest_above
from tipslib.reporting.modes import best_accuracy, bound
from tipslib.reporting.published import quoted

_TRAINED = ("laptop", "gpu", "paper")
_ALL = ("smoke", *_TRAINED)
NETWORKS = {"resnet": "ResNet-18", "mobilenet": "MobileNet"}

Floats = NDArray[np.float64]

ROUNDING = 0.05
"""A ratio printed with one decimal may have been as much smaller; "over" a ratio allows nothing."""


def of_network(records: Sequence[Record], network: str) -> list[Record]:
    """The records of one network, by seed."""
    return sorted((r for r in records if r.run.parameters["network"] == network), key=lambda r: r.run.seed)


def improvement(record: Record, macs: Sequence[float]) -> float:
    """Largest ratio, over the thresholds, of the MACs of the entropy rule to those of agreement, with the exits' cost as given."""
    return float(1 / (1 - threshold_saving(dict(record.arrays), macs).max()))


def _lacking(records: Sequence[Record], *networks: str) -> Finding | None:
    """Undecided where a network is missing, or the networks do not have the same seeds."""
    seeds = [[r.run.seed for r in of_network(records, network)] for network in networks]
    for network, found in zip(networks, seeds, strict=True):
        if not found:
            return Finding(Verdict.UNDECIDED, None, None, 0, f"no run of the {NETWORKS[network]} yet")
    if any(found != seeds[0] for found in seeds):
        return Finding(Verdict.UNDECIDED, None, None, min(map(len, seeds)), "the two networks have not been run with the same seeds yet")
    return None


def _saving_words(ratios: Floats) -> str:
    return f"the improvement peaks at {ratios.mean():.2f} times ({100 * (1 - 1 / ratios).mean():.0f} % saved)"


def _resnet(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, "resnet"):
        return finding
    ratios = np.array([[improvement(r, r.values["macs"]) for r in of_network(records, "resnet")]])
    return smallest_above(ratios, quoted("progressive-resnet18-improvement").value - ROUNDING, _saving_words(ratios))


def _mobilenet(records: Sequence[Record], count: str, words: str) -> Finding:
    if finding := _lacking(records, "mobilenet"):
        return finding
    ratios = np.array([[improvement(r, r.values[count]) for r in of_network(records, "mobilenet")]])
    return smallest_above(ratios, quoted("progressive-mobilenet-improvement").value, f"{_saving_words(ratios)}, {words}")


def _mobilenet_released(records: Sequence[Record]) -> Finding:
    return _mobilenet(records, "released_macs", "with the exits' cost added up as in the released analysis")


def _mobilenet_corrected(records: Sequence[Record]) -> Finding:
    return _mobilenet(records, "macs", "with all blocks counted")


def _shares(macs: Sequence[float]) -> str:
    return " / ".join(f"{m / macs[-1]:.3f}" for m in macs[:-1])


def _overstated(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, "mobilenet"):
        return finding
    found = of_network(records, "mobilenet")
    right, released = (found[0].values[name] for name in ("macs_at_full_size", "released_macs_at_full_size"))
    missing = 100 * max(1 - b / a for a, b in zip(right, released, strict=True))
    verdict = Verdict.HOLDS if missing > 1 else Verdict.FAILS
    reason = (
        f"cost of the first three exits as shares of the whole, at the paper's size: {_shares(released)} by the released lists, "
        f"{_shares(right)} with all blocks"
    )
    return Finding(verdict, missing, None, len(found), reason)


def _never_later(records: Sequence[Record]) -> Finding:
    savings = [threshold_saving(dict(r.arrays), r.values["macs"]) for r in records]
    least = 100 * min(float(s.min()) for s in savings)
    equal = np.mean([s <= 0 for s in savings])
    verdict = Verdict.HOLDS if least >= -1e-9 else Verdict.FAILS
    reason = f"no threshold costs more, and {100 * equal:.0f} % of them cost the same; this is certain by construction"
    return Finding(verdict, least, None, len({r.run.seed for r in records}), reason)


def _both(records: Sequence[Record], name: str, scale: float = 1.0) -> Floats:
    """(2, seeds) of `saving`, one row a network."""
    return scale * np.array([[r.values["saving"][name] for r in of_network(records, network)] for network in NETWORKS])


def _each(values: Floats, form: str) -> str:
    return ", ".join(f"{value:{form}} ({words})" for value, words in zip(values.mean(1), NETWORKS.values(), strict=True))


def _peak(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, *NETWORKS):
        return finding
    loss = _both(records, "peak", -100.0)
    limits = np.array([[bound(r) for r in of_network(records, network)] for network in NETWORKS])
    reason = f"points of peak accuracy lost by agreement: {_each(loss, '.2f')}; the paper's bound: {_each(limits, '.2f')}"
    return largest_below(loss - limits, 0.0, reason)


def _sooner(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, *NETWORKS):
        return finding
    most = [
        [[100 * r.arrays[rule][0].max() / r.values["macs"][-1] for r in of_network(records, network)] for network in NETWORKS]
        for rule in ("entropy", "mutual-agreement")
    ]
    entropy, agreement = np.array(most[0]), np.array(most[1])
    reason = f"the dearest mode costs, in percent of all MACs: {_each(entropy, '.1f')} by entropy, {_each(agreement, '.1f')} by agreement"
    return smallest_above(entropy - agreement, 0.0, reason)


def _rises_earlier(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, *NETWORKS):
        return finding
    areas = [
        np.array([[r.values["progressiveness"][rule] for r in of_network(records, network)] for network in NETWORKS])
        for rule in ("entropy", "mutual-agreement")
    ]
    reason = f"area under the mode curve: {_each(areas[0], '.4f')} by entropy, {_each(areas[1], '.4f')} by agreement"
    return smallest_above(areas[1] - areas[0], 0.0, reason)


def _equal_accuracy(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, *NETWORKS):
        return finding
    saved, top = _both(records, "equal accuracy", 100.0), _both(records, "highest accuracy", 100.0)
    reason = (
        f"percent of MACs saved at equal accuracy, the mean over all accuracies that both rules reach: {_each(saved, '.1f')}; "
        f"at the highest of them: {_each(top, '.1f')}"
    )
    return smallest_above(saved, 0.0, reason)


def _backbones(records: Sequence[Record]) -> Finding:
    if finding := _lacking(records, *NETWORKS):
        return finding
    resnet, mobilenet = (of_network(records, network) for network in NETWORKS)
    lead = np.array([[best_accuracy(a) - best_accuracy(b) for a, b in zip(resnet, mobilenet, strict=True)]])
    dear, cheap = resnet[0].values["macs"][0], mobilenet[0].values["macs"][-1]
    reason = (
        f"the ResNet-18 is ahead by {lead.mean():.2f} points; the MobileNet's last exit costs {cheap / 1e6:.2f} M MACs, "
        f"the ResNet-18's first {dear / 1e6:.2f} M"
    )
    finding = smallest_above(lead, 0.0, reason)
    if cheap < dear:
        return finding
    return Finding(Verdict.FAILS, finding.effect, finding.interval, finding.seeds, f"{finding.reason}, so the ranges overlap")


CLAIMS = (
    Claim(
        id="agreement-mobilenet-saving",
        paper="progressive",
        where="Abstract, Sec. 5, Fig. 5 (bottom left)",
        words="The improvement of the new rule peaks at over 1.8 times (44 % saving) in the MobileNet.",
        quantity="largest ratio of MACs at equal threshold, counted as released",
        experiment="agreement",
        profiles=_TRAINED,
        test=_mobilenet_released,
    ),
    Claim(
        id="agreement-mobilenet-corrected",
        paper="companion",
        where="Sec. 5, Fig. 5 (bottom left)",
        words="With all blocks counted, the improvement in the MobileNet still peaks at over 1.8 times.",
        quantity="largest ratio of MACs at equal threshold, all blocks counted",
        experiment="agreement",
        profiles=_TRAINED,
        test=_mobilenet_corrected,
    ),
    Claim(
        id="agreement-mobilenet-count",
        paper="companion",
        where="released analysis behind Fig. 5",
        words="The released lists leave blocks out of the cost of the MobileNet's early exits.",
        quantity="percent of an exit's MACs that are not counted, at most",
        experiment="agreement",
        profiles=_ALL,
        test=_overstated,
    ),
    Claim(
        id="agreement-resnet-saving",
        paper="progressive",
        where="Sec. 5, Fig. 5 (bottom left)",
        words="The improvement of the new rule peaks at 1.6 times (38 % saving) in the ResNet18.",
        quantity="largest ratio of MACs at equal threshold",
        experiment="agreement",
        profiles=_TRAINED,
        test=_resnet,
    ),
    Claim(
        id="agreement-all-thresholds",
        paper="progressive",
        where="Sec. 5",
        words="The new rule is more resource efficient at all confidence thresholds (read: never less).",
        quantity="smallest saving at any threshold, in percent",
        experiment="agreement",
        profiles=_ALL,
        test=_never_later,
    ),
    Claim(
        id="agreement-peak",
        paper="progressive",
        where="Sec. 5",
        words="The new rule does not lose the peak performance of the network.",
        quantity="percentage points of peak accuracy lost beyond the paper's bound, the worse network",
        experiment="agreement",
        profiles=_TRAINED,
        test=_peak,
    ),
    Claim(
        id="agreement-stops-sooner",
        paper="progressive",
        where="Sec. 5",
        words="The new rule stops sooner.",
        quantity="percent of all MACs by which its dearest mode is cheaper, the smaller of both networks",
        experiment="agreement",
        profiles=_TRAINED,
        test=_sooner,
    ),
    Claim(
        id="agreement-rises-earlier",
        paper="progressive",
        where="Sec. 5",
        words="The new rule rises earlier, which makes the network more progressive.",
        quantity="area under the mode curve, agreement minus entropy, the smaller of both networks",
        experiment="agreement",
        profiles=_TRAINED,
        test=_rises_earlier,
    ),
    Claim(
        id="agreement-equal-accuracy",
        paper="companion",
        where="Sec. 5",
        words="At equal accuracy, too, leaving by agreement saves MACs.",
        quantity="percent of MACs saved, mean over accuracies, the smaller of both networks",
        experiment="agreement",
        profiles=_TRAINED,
        test=_equal_accuracy,
    ),
    Claim(
        id="agreement-backbones",
        paper="progressive",
        where="Sec. 4, Fig. 5 (top left)",
        words="The MobileNet is outperformed by the ResNet18, but operates in a lower power range.",
        quantity="percentage points of peak accuracy, ResNet18 minus MobileNet",
        experiment="agreement",
        profiles=_TRAINED,
        test=_backbones,
    ),
)
