"""The joint loss: against the sum written out, its gradients, and bad weights."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from tipslib.branched.joint import JointLoss, equal_weights
from tipslib.branched.networks import branched_resnet
from tipslib.errors import InvalidInput


def network(seed=0):
    torch.manual_seed(seed)
    return branched_resnet(10, classes=3, width=1 / 64)


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(6, 3, 32, 32, generator=generator), torch.arange(6) % 3


def step(net, weights):
    images, labels = batch()
    return JointLoss(weights).step(net, images, labels, step=0, backward=lambda loss: loss.backward())


def test_loss_is_the_weighted_sum_over_exits():
    net, (images, labels) = network(), batch()
    weights = (0.2, 0.3, 0.1, 0.4)
    with torch.no_grad():
        expected = sum(w * F.cross_entropy(z, labels) for w, z in zip(weights, net(images), strict=True))
    assert step(network(), weights).item() == pytest.approx(expected.item(), rel=1e-6)


def test_gradient_is_the_sum_of_the_exits_gradients():
    weights = (0.2, 0.0, 0.5, 0.3)
    together = network()
    step(together, weights)
    parts = []
    for e, w in enumerate(weights):
        if w:
            net = network()
            step(net, [w if i == e else 0 for i in range(4)])
            parts.append([torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()])
    for p, *grads in zip(together.parameters(), *parts, strict=True):
        own = torch.zeros_like(p) if p.grad is None else p.grad
        torch.testing.assert_close(own, sum(grads), rtol=1e-4, atol=1e-6)


def test_an_exit_of_weight_zero_learns_nothing():
    net = network()
    step(net, (0.0, 0.6, 0.0, 0.4))
    trained = [any(p.grad is not None and bool(p.grad.any()) for p in head.parameters()) for head in net.heads]
    assert trained == [False, True, False]


def test_the_plain_network_is_a_special_case():
    """Exits of weight 0 leave the backbone as it would be without them."""
    net = network()
    step(net, (0.0, 0.0, 0.0, 1.0))
    plain, (images, labels) = network(), batch()
    F.cross_entropy(plain(images)[-1], labels).backward()
    for own, expected in zip(net.parameters(), plain.parameters(), strict=True):
        assert (own.grad is None) == (expected.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, expected.grad)


def test_nothing_is_remembered():
    objective = JointLoss((1.0, 1.0))
    objective.load_state_dict(objective.state_dict())
    assert objective.state_dict() == {}


def test_equal_weights_of_the_paper():
    assert equal_weights(4) == (0.2, 0.2, 0.2, 0.4)


@given(st.integers(2, 16), st.floats(0, 1))
def test_equal_weights_share_what_the_last_leaves(exits, final):
    weights = equal_weights(exits, final)
    assert len(weights) == exits
    assert sum(weights) == pytest.approx(1)
    assert weights[-1] == final
    assert len(set(weights[:-1])) == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ((0.5, -0.1), "negative"),
        ((0.0, 0.0), "at least one"),
        ((), "at least one"),
        ((math.nan, 1.0), "negative or infinite"),
        ((math.inf,), "infinite"),
    ],
)
def test_impossible_weights_are_refused(weights, words):
    with pytest.raises(InvalidInput, match=words):
        JointLoss(weights)


def test_weights_have_to_match_the_exits():
    with pytest.raises(InvalidInput, match="2 weights for 4 exits"):
        step(network(), (0.5, 0.5))


@pytest.mark.parametrize("arguments", [(1,), (4, -0.1), (4, 1.5)])
def test_impossible_shares_are_refused(arguments):
    with pytest.raises(InvalidInput, match="at least 2 exits"):
        equal_weights(*arguments)


@pytest.mark.parametrize("at", [0, 7])
@pytest.mark.parametrize("wrong", [-1, 3])
def test_labels_out_of_range_are_refused(at, wrong):
    images, labels = batch()
    labels[2] = wrong
    with pytest.raises(InvalidInput, match=r"labels outside \[0, 2\]"):
        JointLoss((0.2, 0.2, 0.2, 0.4)).step(network(), images, labels, step=at, backward=lambda loss: pytest.fail("went backward"))
