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
@settings(max_examples=40)
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


@pytest.mark.parametrize("debiased", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.half() * 1000,
        lambda x: x.bfloat16() * 1e30,
        lambda x: x.float() * 1e30,
        lambda x: x.float() * 1e-37,
        lambda x: x * 1e200,
        lambda x: x * 1e-200,
    ],
)
def test_size_and_precision_of_the_numbers_do_not_matter(change, debiased):
    generator = torch.Generator().manual_seed(3)
    # eighths, so that half precision rounds nothing
    x, y = ((8 * torch.randn(16, d, generator=generator, dtype=torch.float64)).round() / 8 for d in (6, 4))
    y[:, 0] += x[:, 0]
    scaled = change(x)
    assert cka(scaled, y, debiased) == pytest.approx(cka(x, y, debiased), rel=0.02 if scaled.dtype.itemsize == 2 else 1e-6)
    assert cka(scaled, scaled, debiased) == pytest.approx(1, abs=1e-12)


def test_batches_count_by_their_size():
    """One scale for all batches: HSIC of a batch that is ten times as large counts a hundred times in the sum, not once."""
    generator = torch.Generator().manual_seed(4)
    batches = [(k * torch.randn(8, 3, generator=generator), torch.randn(8, 2, generator=generator)) for k in (1e-12, 1e-11, 1e-12)]
    similarity = LayerSimilarity()
    for x, y in batches:
        similarity.update([x], [y])
    hsic = [[hsic_biased(a.double().numpy(), b.double().numpy()) for a, b in ((x, y), (x, x), (y, y))] for x, y in batches]
    cross, own, other = np.sum(hsic, axis=0)
    assert float(similarity.compute()) == pytest.approx(cross / (own * other) ** 0.5, rel=1e-9)


def test_float32_features_far_from_zero_lose_nothing():
    generator = torch.Generator().manual_seed(5)
    x = (torch.randn(12, 5, generator=generator) + 1000).float()
    y = torch.randn(12, 3, generator=generator)
    exact = hsic_biased(x.double().numpy(), y.double().numpy())
    own = hsic_biased(x.double().numpy(), x.double().numpy()) * hsic_biased(y.double().numpy(), y.double().numpy())
    assert cka(x, y) == pytest.approx(exact / own**0.5, rel=1e-8)


def test_one_hot_features_are_not_constant():
    labels = torch.arange(12) % 3
    one_hot, random = torch.nn.functional.one_hot(labels, 3), torch.randn(12, 4, generator=torch.Generator().manual_seed(6))
    for debiased, hsic in ((False, hsic_biased), (True, hsic_unbiased)):
        x, y = one_hot.double().numpy(), random.double().numpy()
        assert cka(one_hot, random, debiased) == pytest.approx(hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5, abs=1e-9)
        assert cka(one_hot, one_hot, debiased) == pytest.approx(1)
    assert 0 < cka(torch.eye(8), random[:8]) < 1


def equally_unlike(n=8):
    """A class of its own for each sample, turned about and rounded: the distances are equal up to rounding."""
    rotation = torch.linalg.qr(torch.randn(n, n, generator=torch.Generator().manual_seed(7), dtype=torch.float64))[0]
    plain = torch.eye(n)
    return [plain, plain * 0.3 + 0.1, plain.half() * 0.3 + 0.1, rotation, 3 * rotation + 5, rotation.float(), (3 * rotation + 5).float()]


@pytest.mark.parametrize("x", equally_unlike())
def test_where_debiasing_leaves_nothing_it_says_so(x):
    y = torch.randn(8, 3, generator=torch.Generator().manual_seed(8))
    for pair, name in (((x, y), "x"), ((y, x), "y")):
        with pytest.raises(InvalidInput, match=rf"layer \[0\] of {name}: all samples are equally unlike, .* after debiasing"):
            cka(*pair, debiased=True)
    assert 0 < cka(x, y) < 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_weak_similarity_in_many_dimensions_is_not_taken_for_rounding(dtype):
    generator = torch.Generator().manual_seed(9)
    x, y = (torch.randn(8, 20_000, generator=generator).to(dtype) for _ in range(2))
    assert abs(cka(x, y, debiased=True)) < 1


def test_batches_of_very_different_size_are_refused_not_nan():
    x = torch.randn(8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(10))
    similarity = LayerSimilarity()
    similarity.update([x], [x])
    similarity.update([x * 1e200], [x])
    with pytest.raises(InvalidInput, match="differ too much between batches"):
        similarity.compute()


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


def test_another_number_of_layers_is_refused():
    x = torch.randn(8, 3)
    similarity = LayerSimilarity()
    similarity.update([x], [x, x])
    with pytest.raises(InvalidInput, match=r"\(2, 2\) pairs of layers, earlier batches had \(1, 2\)"):
        similarity.update([x, x], [x, x])


def test_no_batch_and_no_layers_are_refused():
    with pytest.raises(InvalidInput, match="no batch"):
        LayerSimilarity().compute()
    with pytest.raises(InvalidInput, match="no layers"):
        LayerSimilarity().update([], [])
