import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tipslib.branched.exits import POLICIES, entropy_thresholds, inference_modes, patience
from tipslib.errors import InvalidInput

MACS = (1.0, 2.0, 3.5, 7.0)


def one_sample(policy, logits, label, alpha):
    """The exit (E, C) logits of one sample leave at, told in words, not in scores."""
    predicted = logits.argmax(-1)
    for e in range(len(logits) - 1):
        p = logits[e].softmax(-1)
        h = float(-(p * p.log()).sum())
        agrees = e > 0 and predicted[e] == predicted[e - 1]
        if {
            "entropy": h <= alpha,
            "max-probability": 1 - float(p.max()) <= alpha,
            "mutual-agreement": h <= alpha or agrees,
            "patience": agrees,
            "oracle": bool(predicted[e] == label),
        }[policy]:
            return e
    return len(logits) - 1


@pytest.mark.parametrize("policy", list(POLICIES))
@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), samples=st.integers(1, 12))
def test_all_thresholds_at_once_equal_one_sample_at_a_time(policy, seed, samples):
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(4, samples, 3, generator=generator)
    labels = torch.randint(3, (samples,), generator=generator)
    alphas = np.array([0, 0.2, 0.5, 0.9, math.log(3)])
    modes = inference_modes(logits, labels, MACS, policy, alphas)
    assert modes.thresholds.tolist() == alphas[::-1].tolist()
    for i, alpha in enumerate(modes.thresholds):
        left = [one_sample(policy, logits[:, n], labels[n], alpha) for n in range(samples)]
        right = [int(logits[e, n].argmax() == labels[n]) for n, e in enumerate(left)]
        assert modes.accuracy[i] == pytest.approx(np.mean(right))
        assert modes.macs[i] == pytest.approx(np.mean([MACS[e] for e in left]))
        assert modes.leaving[i] == pytest.approx(np.bincount(left, minlength=4) / samples)


def example(samples=200):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, samples, 5, generator=generator) * torch.tensor([1.0, 2, 3, 4])[:, None, None], torch.arange(samples) % 5


def test_the_ends_of_the_range_and_monotone_cost():
    logits, labels = example()
    modes = inference_modes(logits, labels, MACS)
    assert modes.macs[0] == MACS[0]
    assert modes.macs[-1] == MACS[-1]
    assert (np.diff(modes.macs) >= 0).all()
    assert modes.accuracy[-1] == pytest.approx(float((logits[-1].argmax(-1) == labels).double().mean()))


def test_agreement_never_costs_more_than_entropy_at_the_same_threshold():
    logits, labels = example()
    agree, plain = (inference_modes(logits, labels, MACS, p) for p in ("mutual-agreement", "entropy"))
    assert (agree.macs <= plain.macs + 1e-12).all()
    assert agree.macs[-1] < plain.macs[-1]


def test_patience_counts_agreements_in_a_row():
    logits = torch.nn.functional.one_hot(torch.tensor([[0], [1], [1], [1]]), 3).float()
    for k, expected in ((1, 2), (2, 3), (3, 3)):
        modes = inference_modes(logits, torch.tensor([1]), MACS, patience(k), np.array([0.0]))
        assert modes.leaving.argmax() == expected
    with pytest.raises(InvalidInput, match="patience"):
        patience(0)


@settings(max_examples=50)
@given(st.integers(0, 10**6))
def test_hull_is_what_brute_force_leaves(seed):
    rng = np.random.default_rng(seed)
    logits, labels = torch.tensor(rng.normal(size=(4, 30, 3)) * 2), torch.tensor(rng.integers(3, size=30))
    modes = inference_modes(logits, labels, MACS)
    points = set(zip(modes.macs, modes.accuracy, strict=True))
    front = {(m, a) for m, a in points if not any(n <= m and b >= a and (n, b) != (m, a) for n, b in points)}
    assert {(modes.macs[i], modes.accuracy[i]) for i in modes.hull()} == front


def test_progressiveness_of_a_known_staircase():
    logits = torch.tensor([[[0.0, 9.0], [9.0, 0.0]], [[9.0, 0.0], [9.0, 0.0]]])
    modes = inference_modes(logits, torch.tensor([0, 0]), (1.0, 4.0), "oracle")
    assert modes.progressiveness(4.0) == pytest.approx((4 - 2.5) / 4)


def test_band_is_the_papers_formula():
    logits, labels = example()
    modes = inference_modes(logits, labels, MACS)
    assert modes.band()[0] == pytest.approx(3 * math.sqrt(modes.accuracy[0] * (1 - modes.accuracy[0]) / 200))


def replaced(**changes):
    logits, labels = example(10)
    return {"logits": logits, "labels": labels, "macs": MACS} | changes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"logits": torch.full((4, 10, 5), float("nan"))}, "NaN"),
        ({"logits": torch.zeros(10, 5)}, "exits, samples, classes"),
        ({"labels": torch.full((10,), 5)}, "labels outside"),
        ({"labels": torch.zeros(9, dtype=torch.long)}, "labels of shape"),
        ({"macs": (1.0, 2.0)}, "2 MACs for 4 exits"),
        ({"macs": (4.0, 3.0, 2.0, 1.0)}, "must rise"),
        ({"thresholds": np.array([-0.1])}, "thresholds must lie"),
        ({"thresholds": np.array([1.7])}, r"\[0, log C\]"),
        ({"policy": "coin"}, "there are entropy"),
    ],
)
def test_bad_input_is_refused(changes, message):
    with pytest.raises(InvalidInput, match=message):
        inference_modes(**replaced(**changes))


def test_thresholds_span_the_entropy():
    assert entropy_thresholds(10, 3) == pytest.approx([math.log(10), math.log(10) / 2, 0])
