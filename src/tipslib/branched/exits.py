"""When may a sample leave? Exit policies, and the accuracy and MACs of all of them at all thresholds from one forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

from tipslib.errors import InvalidInput, require

Score = Callable[[Tensor, Tensor], Tensor]
"""(E, N, C) logits and (N,) labels to (E, N) scores; a sample leaves at the first exit whose score is at most the threshold."""


def entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Entropy in nats of the softmax at each exit (progressive intelligence, Eq. 5)."""
    z = logits.movedim(-1, 0).contiguous()  # reductions over a short last dimension are several times slower
    z = z - z.amax(0)
    weights = z.exp()
    total = weights.sum(0)
    return total.log() - (weights * z).sum(0) / total


def max_probability(logits: Tensor, labels: Tensor) -> Tensor:
    """One minus the largest class probability at each exit."""
    return 1 - logits.softmax(-1).amax(-1)


def mutual_agreement(logits: Tensor, labels: Tensor) -> Tensor:
    """Entropy, or leave at any threshold where this exit predicts what the previous one did (progressive intelligence, Eq. 6)."""
    scores, predicted = entropy(logits, labels), logits.argmax(-1)
    scores[1:][predicted[1:] == predicted[:-1]] = -math.inf
    return scores


def patience(k: int) -> Score:
    """Leave when the last k + 1 exits agree (k = 1: any two in a row), whatever the threshold; k from 1."""
    require(k >= 1, f"patience k = {k}; at least one agreement in a row is wanted")

    def scores(logits: Tensor, labels: Tensor) -> Tensor:
        predicted = logits.argmax(-1)
        run = torch.zeros_like(predicted)
        for e in range(1, len(predicted)):
            run[e] = torch.where(predicted[e] == predicted[e - 1], run[e - 1] + 1, 0)
        return torch.where(run >= k, -math.inf, math.inf).to(logits.dtype)

    return scores


def oracle(logits: Tensor, labels: Tensor) -> Tensor:
    """Leave at the first exit that is right: what no real policy can beat at these exits. It looks at the labels."""
    return torch.where(logits.argmax(-1) == labels, -math.inf, math.inf).to(logits.dtype)


POLICIES: Mapping[str, Score] = MappingProxyType(
    {
        "entropy": entropy,
        "max-probability": max_probability,
        "mutual-agreement": mutual_agreement,
        "patience": patience(1),
        "oracle": oracle,
    }
)


@dataclass(frozen=True)
class InferenceModes:
    """Operating points of one network under one policy, one per threshold.

    Attributes
    ----------
    thresholds
        (A,) in descending order: from everyone leaves at the first exit to as few as the policy allows.
    accuracy, macs
        (A,) share of right answers, and mean MACs a sample.
    leaving
        (A, E) share of the samples that leave at each exit; rows sum to 1.
    samples
        N.
    """

    thresholds: np.ndarray
    accuracy: np.ndarray
    macs: np.ndarray
    leaving: np.ndarray
    samples: int

    def band(self, sigmas: float = 3.0) -> np.ndarray:
        """(A,) half width sigma * sqrt(A (1 - A) / n) of the confidence band (progressive intelligence, section 4)."""
        return np.asarray(sigmas * np.sqrt(self.accuracy * (1 - self.accuracy) / self.samples))

    def hull(self) -> np.ndarray:
        """Indices of the modes that no other mode beats in both MACs and accuracy, by rising MACs."""
        order = np.lexsort((-self.accuracy, self.macs))
        best = np.maximum.accumulate(np.concatenate([[-np.inf], self.accuracy[order][:-1]]))
        return order[self.accuracy[order] > best]

    def progressiveness(self, full_macs: float) -> float:
        """Area under the best accuracy to be had for at most m MACs, m from 0 to `full_macs`, as a share of `full_macs`."""
        hull = self.hull()
        steps = np.append(np.clip(self.macs[hull], 0, full_macs), full_macs)
        return float((self.accuracy[hull] * np.diff(steps)).sum() / full_macs)


def entropy_thresholds(classes: int, count: int = 100) -> np.ndarray:
    """(count,) thresholds from log C, the largest entropy there is, down to 0."""
    require(classes >= 2 and count >= 2, f"classes = {classes}, count = {count}; both must be at least 2")
    return np.linspace(math.log(classes), 0, count)


def inference_modes(
    logits: Tensor, labels: Tensor, macs: Sequence[float], policy: str | Score = "entropy", thresholds: np.ndarray | None = None
) -> InferenceModes:
    """Accuracy and mean MACs at every threshold, from the logits of one forward pass, in O(E N log A).

    A sample leaves at exit e for the thresholds between its score there and the smallest score before, so each pair of sample and exit
    adds to one run of thresholds; the last exit takes all who are left.

    Parameters
    ----------
    logits
        (E, N, C), E exits in order of cost.
    labels
        (N,) integers in [0, C).
    macs
        E cumulative MACs, one an exit, rising.
    policy
        A name of `POLICIES` or a function like those.
    thresholds
        (A,) within [0, log C]; default `entropy_thresholds(C)`.

    Raises
    ------
    InvalidInput
        Shapes that do not fit, NaN logits, labels out of range, MACs that do not rise, thresholds outside [0, log C].
    """
    require(logits.ndim == 3, f"logits of shape {tuple(logits.shape)}; (exits, samples, classes) is wanted")
    exits, samples, classes = logits.shape
    require(exits >= 1 and samples >= 1 and classes >= 2, f"logits of shape {tuple(logits.shape)}; 1 exit, 1 sample, 2 classes at least")
    require(
        bool(torch.isfinite(logits.sum(dtype=torch.float64))), "logits hold NaN or infinity; the network diverged or its inputs are wrong"
    )
    require(labels.shape == (samples,), f"labels of shape {tuple(labels.shape)} for {samples} samples")
    require(bool(((labels >= 0) & (labels < classes)).all()), f"labels outside [0, {classes - 1}]")
    cost = np.asarray(macs, dtype=np.float64)
    require(cost.shape == (exits,), f"{len(cost)} MACs for {exits} exits; one cumulative value an exit is wanted")
    require(bool((np.diff(cost) >= 0).all() and cost[0] >= 0), f"MACs {list(macs)} must rise from exit to exit")
    alphas = entropy_thresholds(classes) if thresholds is None else np.sort(np.asarray(thresholds, dtype=np.float64))[::-1]
    top = math.log(classes)
    inside = alphas.ndim == 1 and len(alphas) > 0 and bool(((alphas >= 0) & (alphas <= top * (1 + 1e-12))).all())
    require(inside, f"thresholds must lie in [0, log C] = [0, {top:.4f}]")

    scores = _scores(policy, logits.float(), labels)
    right = (logits.argmax(-1) == labels).double()
    return InferenceModes(alphas, *_accumulate(scores, right.cpu().numpy(), alphas, cost), samples)


def leave_when(policy: str | Score, threshold: float) -> Callable[[list[Tensor]], Tensor]:
    """For `BranchedNetwork.predict`: which samples leave at the newest of the exits they have seen, by a policy that needs no labels.

    Raises
    ------
    InvalidInput
        An unknown policy, or the oracle; a threshold outside [0, log C], where above log C is noticed when C is known: at the first exit.
    """
    require(policy != "oracle", "the oracle looks at the labels; it can only be measured, not used")
    score = _policy(policy)
    require(0 <= threshold < math.inf, f"threshold = {threshold}; it must lie in [0, log C] for C classes")

    def leaves(seen: list[Tensor]) -> Tensor:
        logits = torch.stack(seen).float()
        top = math.log(logits.shape[-1])
        require(threshold <= top * (1 + 1e-12), f"threshold = {threshold}; it must lie in [0, log C] = [0, {top:.4f}]")
        return score(logits, torch.zeros(logits.shape[1], dtype=torch.long, device=logits.device))[-1].double() <= threshold

    return leaves


def _policy(policy: str | Score) -> Score:
    if isinstance(policy, str):
        if policy not in POLICIES:
            raise InvalidInput(f"no exit policy {policy!r}; there are {', '.join(POLICIES)}")
        return POLICIES[policy]
    return policy


def _scores(policy: str | Score, logits: Tensor, labels: Tensor) -> np.ndarray:
    scores = _policy(policy)(logits, labels).double()
    require(scores.shape == logits.shape[:2], f"the policy gave scores of shape {tuple(scores.shape)}; {tuple(logits.shape[:2])} is wanted")
    scores[-1] = -math.inf
    return np.asarray(scores.cpu().numpy())


def _accumulate(scores: np.ndarray, right: np.ndarray, alphas: np.ndarray, cost: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Accuracy (A,), MACs (A,) and share of leavers (A, E) for thresholds in descending order."""
    exits, samples = scores.shape
    slots = len(alphas) + 1
    # one past the last threshold that is at least the smallest score so far: where a sample leaves this exit or an earlier one
    gone = np.searchsorted(-alphas, -np.minimum.accumulate(scores, axis=0), side="right")
    start = np.concatenate([np.zeros((1, samples), dtype=gone.dtype), gone[:-1]])
    rows = (np.arange(exits) * slots)[:, None]

    def histogram(places: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
        flat = None if weights is None else weights.ravel()
        return np.bincount((places + rows).ravel(), weights=flat, minlength=exits * slots).reshape(exits, slots)

    leaving = (histogram(start) - histogram(gone)).cumsum(1)[:, :-1] / samples
    hits = (histogram(start, right) - histogram(gone, right)).cumsum(1)[:, :-1]
    return hits.sum(0) / samples, cost @ leaving, leaving.T
