"""Networks cut in pieces: the same answers as uncut, in both modes, whatever their code does with `self.training`."""

import operator

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F
from torchvision.models import efficientnet_b0

from tipslib.branched.exits import leave_when
from tipslib.branched.networks import add_exits
from tipslib.errors import InvalidInput, TracingError


class Net(nn.Module):
    """Two convolutions; subclasses say what happens between, and what comes out."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)
        self.scale = nn.Parameter(torch.full((4, 1, 1), 2.0))
        self.last = nn.Linear(4, 5)

    def between(self, x):
        return x

    def result(self, x):
        return x

    def forward(self, x):
        return self.result(self.last(self.second(self.between(self.first(x))).mean((2, 3))))


class FunctionalDropout(Net):
    def between(self, x):
        return F.dropout(x, 0.5, self.training)


class DropoutByRate(Net):
    def between(self, x):
        return F.dropout(x, p=0.5 if self.training else 0.0)


class DropoutInversely(Net):
    def between(self, x):
        frozen = not self.training
        return F.dropout(x, 0.5, training=operator.not_(frozen))


class Noisy(nn.Module):
    """Noise in training only, so the two modes have other operations."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Identity()

    def forward(self, x):
        x = self.inner(x)
        return x + torch.randn_like(x) if self.training else x


class NoisyPart(Net):
    def __init__(self):
        super().__init__()
        self.noisy = Noisy()

    def between(self, x):
        return self.noisy(x)


class NormPart(Net):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(4)

    def between(self, x):
        return self.norm(x)


RANDOM = [FunctionalDropout, DropoutByRate, DropoutInversely, NoisyPart]


def images():
    return torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def both(module, net, seed=3):
    """What the network and its branched form answer to the same random numbers."""
    torch.manual_seed(seed)
    plain = module(images())
    torch.manual_seed(seed)
    return plain, net(images())[-1]


@pytest.mark.parametrize("made_in_training", [True, False])
@pytest.mark.parametrize("kind", [*RANDOM, NormPart])
def test_training_and_evaluation_are_the_networks_own(kind, made_in_training):
    module = kind().train(made_in_training)
    net = add_exits(module, ["first"], input_shape=(3, 8, 8))
    assert net.training is made_in_training
    for training in (made_in_training, not made_in_training, made_in_training):
        net.train(training)
        module.training = training  # the only part that is not in the branched network
        plain, branched = both(module, net)
        torch.testing.assert_close(branched, plain)
        if kind in RANDOM:
            assert torch.equal(net(images())[-1], net(images())[-1]) is not training


@pytest.mark.parametrize("made_in_training", [True, False])
def test_stochastic_depth_of_torchvision(made_in_training):
    torch.manual_seed(0)
    module = efficientnet_b0(num_classes=5, stochastic_depth_prob=0.9).train(made_in_training)
    net = add_exits(module, ["features.2"])
    x = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        net.eval()
        torch.testing.assert_close(net(x)[-1], module(x))
        torch.testing.assert_close(net(x)[-1], net(x)[-1], rtol=0, atol=0)
        net.train()
        for part in module.modules():
            part.eval() if isinstance(part, nn.BatchNorm2d | nn.Dropout) else None
        assert not torch.equal(net(x)[-1], net(x)[-1]), "depth is random in training"


def test_each_submodule_keeps_its_own_mode_and_nothing_is_left_in_the_network():
    module = NormPart().train()
    module.norm.eval()
    module.register_buffer("seen", torch.zeros(1))
    before, names = {k: v.clone() for k, v in module.state_dict().items()}, set(vars(module))
    net = add_exits(module, ["first"], input_shape=(3, 8, 8))
    net.macs()
    assert module.training
    assert not module.norm.training
    assert set(vars(module)) == names
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())


class Constants(Net):
    """A tensor made while tracing, a weight on both sides of the exit, and a size read before it."""

    def forward(self, x):
        n = x.size(0)
        x = self.first(x) * self.scale + torch.arange(4.0)[:, None, None]
        x = self.second(x) * self.scale
        return self.last(x.mean((2, 3)).view(n, 4))


def test_constants_weights_and_sizes_are_not_taken_for_samples():
    module = Constants().eval()
    names = set(vars(module))
    net = add_exits(module, ["first"], input_shape=(3, 8, 8)).eval()
    assert set(vars(module)) == names
    x = images()
    first, last = net(x)
    torch.testing.assert_close(last, module(x))
    entropies = torch.distributions.Categorical(logits=first).entropy()
    classes, left = net.predict(x, leave_when("entropy", float(entropies.detach().median())))
    assert set(left.tolist()) == {0, 1}
    assert torch.equal(classes, torch.where(left == 0, first.argmax(1), last.argmax(1)))


class OtherOutput(Net):
    def result(self, x):
        return x.exp() if self.training else x


class Pair(Net):
    def result(self, x):
        return x, 2 * x


class Named(Net):
    def result(self, x):
        return {"out": x}


@fx.wrap
def hidden(x):
    return x, x


class HiddenPair(Net):
    def result(self, x):
        return hidden(x)


class Summed(Net):
    """Something is needed behind the exit that has no row a sample."""

    def forward(self, x):
        total = x.sum()
        return self.last(self.second(self.first(x)).mean((2, 3)) + total)


@pytest.mark.parametrize(
    ("module", "at", "error", "message"),
    [
        (OtherOutput(), "first", TracingError, "OtherOutput computes something else in training than in evaluation, first at 'exp'"),
        (Pair(), "first", InvalidInput, r"output is a tuple, .*one tensor \(N, C\) is wanted"),
        (Named(), "first", InvalidInput, r"output is a .*dict, .*one tensor \(N, C\) is wanted"),
        (HiddenPair(), "first", InvalidInput, r"\('tuple',\); \(N, C\) is wanted"),
        (Summed(), "first", InvalidInput, r"shape \[\(\)\] for a batch of 2 is needed behind the exit 'first'"),
        (NoisyPart(), "noisy.inner", InvalidInput, "'noisy' works differently in training and cannot be cut inside"),
    ],
)
def test_what_cannot_be_cut_is_refused_with_the_reason(module, at, error, message):
    with pytest.raises(error, match=message):
        add_exits(module, [at], input_shape=(3, 8, 8))
