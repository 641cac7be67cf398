import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tipslib.branched.similarity import LayerSimilarity, cka
from tipslib.errors import InvalidInput


def hsic_biased(x, y):
    """Eq. 4 with the centring matrix written out."""
    n = len(x)
    h = np.eye(n) - np.ones((n, n)) / n
    return np.trace(x @ x.T @ h @ y @ y.T @ h) / (n - 1) ** 2


def hsic_unbiased(x, y):
    """Song et al. (2012), Eq. 5: the unbiased estimator in its original form."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    np.fill_diagonal(k, 0)
    np.fill_diagonal(m, 0)
    one = np.ones(n)
    last = 2 / (n - 2) * one @ k @ m @ one
    return (np.trace(k @ m) + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2)) - last) / (n * (n - 3))


@pytest.mark.parametrize(("debiased", "hsic"), [(False, hsic_biased), (True, hsic_unbiased)])
@settings(max_examples=40, deadline=None)
@given(n=st.integers(4, 12), d=st.integers(1, 6), seed=st.integers(0, 10**6))
def test_equals_the_textbook_formula(debiased, hsic, n, d, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) + 1
    y = rng.normal(size=(n, d + 2)) + x[:, :1]
    own = hsic(x, x) * hsic(y, y)
    if hsic(x, x) < 1e-6 or hsic(y, y) < 1e-6:
        return
    assert cka(torch.tensor(x), torch.tensor(y), debiased) == pytest.approx(hsic(x, y) / own**0.5, abs=1e-9)


def test_all_pairs_over_batches_divide_the_accumulated_hsic():
    rng = np.random.default_rng(0)
    batches = [([rng.normal(size=(8, 3)) for _ in range(3)], [rng.normal(size=(8, 5)) for _ in range(2)]) for _ in range(4)]
    similarity = LayerSimilarity(debiased=True)
    for x, y in batches:
        similarity.update([torch.tensor(a) for a in x], [torch.tensor(b) for b in y])
    for i in range(3):
        for j in range(2):
            cross = sum(hsic_unbiased(x[i], y[j]) for x, y in batches)
            own = sum(hsic_unbiased(x[i], x[i]) for x, _ in batches) * sum(hsic_unbiased(y[j], y[j]) for _, y in batches)
            assert float(similarity.compute()[i, j]) == pytest.approx(cross / own**0.5, abs=1e-9)


@pytest.mark.parametrize("debiased", [False, True])
def test_invariant_to_rotation_scale_and_shift_and_one_with_itself(debiased):
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 6, generator=generator), torch.randn(16, 4, generator=generator)
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=generator))[0]
    assert cka(x, x, debiased) == pytest.approx(1, abs=1e-6)
    assert cka(3 * x @ rotation + 2, y, debiased) == pytest.approx(cka(x, y, debiased), abs=1e-5)


def test_independent_features_look_alike_only_to_the_biased_estimator():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(20, 500, generator=generator), torch.randn(20, 500, generator=generator)
    assert cka(x, y) > 0.9
    assert abs(cka(x, y, debiased=True)) < 0.1


@pytest.mark.parametrize(
    ("x", "y", "debiased", "message"),
    [
        *((torch.randn(n, 3), torch.randn(n, 3), False, f"a batch of {n}; HSIC needs at least 4") for n in (1, 2, 3)),
        (torch.randn(3, 3), torch.randn(3, 3), True, "at least 4"),
        (torch.full((8, 3), 0.1), torch.randn(8, 3), False, r"layer \[0\] of x is constant"),
        (torch.randn(8, 3), torch.full((8, 3), 0.1), True, r"layer \[0\] of y is constant"),
        (torch.randn(8, 3), torch.randn(7, 3), False, "7 samples"),
        (torch.full((8, 3), float("inf")), torch.randn(8, 3), False, "infinity"),
    ],
)
def test_bad_input_is_refused_with_the_reason(x, y, debiased, message):
    with pytest.raises(InvalidInput, match=message):
        cka(x, y, debiased)


def test_shuffled_loaders_are_noticed():
    x, order = torch.randn(8, 3), torch.randperm(8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(InvalidInput, match="different samples"):
        LayerSimilarity().update([x], [x[order]], torch.arange(8), order)


def test_no_batch_and_no_layers_are_refused():
    with pytest.raises(InvalidInput, match="no batch"):
        LayerSimilarity().compute()
    with pytest.raises(InvalidInput, match="no layers"):
        LayerSimilarity().update([], [])
