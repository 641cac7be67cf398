import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tipslib.branched.separation import ClassSeparation, class_separation
from tipslib.errors import InvalidInput


def double_sum(features, labels):
    """Eq. 1 as it stands, with K^2 in the denominator's mean over pairs of classes."""
    classes = int(labels.max()) + 1
    unit = torch.nn.functional.normalize(features.double(), dim=1)
    distance = 1 - unit @ unit.T
    groups = [labels == k for k in range(classes)]
    within = sum(distance[g][:, g].sum() / (classes * g.sum() ** 2) for g in groups)
    overall = sum(distance[g][:, h].sum() / (classes**2 * g.sum() * h.sum()) for g in groups for h in groups)
    return float(1 - within / overall)


@settings(max_examples=50)
@given(st.integers(2, 6), st.integers(1, 8), st.integers(0, 10**6))
def test_equals_the_double_sum_with_unbalanced_classes(classes, dimensions, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (30,), generator=generator)])
    features = torch.randn(len(labels), dimensions + 1, generator=generator) + labels[:, None] * 0.3
    assert class_separation(features, labels) == pytest.approx(double_sum(features, labels), abs=1e-10)


def test_streaming_in_any_batches_equals_one_batch():
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(101, 4, 3, 3, generator=generator), torch.arange(101) % 5
    streamed = ClassSeparation(5)
    for start, stop in ((0, 1), (1, 40), (40, 40), (40, 101)):
        streamed.update(features[start:stop], labels[start:stop])
    assert streamed.compute() == pytest.approx(class_separation(features, labels), abs=1e-12)


def test_separated_classes_give_one_and_classes_with_one_mean_give_zero():
    labels = torch.tensor([0, 0, 1, 1])
    assert class_separation(torch.tensor([[1.0, 0], [2, 0], [0, 1], [0, 5]]), labels) == pytest.approx(1)
    assert class_separation(torch.tensor([[1.0, 0], [0, 1], [1, 0], [0, 1]]), labels) == pytest.approx(0)


@pytest.mark.parametrize(
    ("features", "labels", "message"),
    [
        (torch.randn(4, 2), torch.tensor([0, 0, 2, 2]), "no samples of class 1"),
        (torch.randn(4, 2), torch.tensor([0, 1, -1, 1]), "labels lie in"),
        (torch.randn(4, 2), torch.tensor([0, 1]), "4 features but labels"),
        (torch.randn(2, 2), torch.tensor([0.0, 1.0]), "integers"),
        (torch.tensor([[1.0, float("nan")], [0, 1]]), torch.tensor([0, 1]), "NaN"),
        (torch.ones(4, 3), torch.tensor([0, 0, 1, 1]), "same way"),
        (torch.ones(0, 3), torch.tensor([], dtype=torch.long), "no samples"),
    ],
)
def test_bad_input_is_refused(features, labels, message):
    with pytest.raises(InvalidInput, match=message):
        class_separation(features, labels)


def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(InvalidInput, match=r"allowed is \[0, 2\]"):
        ClassSeparation(3).update(torch.randn(2, 2), torch.tensor([0, 3]))
