"""Statistics and accuracies at a width, against torch's own and against sums by hand; folding changes nothing."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from tipslib.anytime.calibration import accuracy_at, calibrate, fold, followed_by_norm, norms_of, recalibrate
from tipslib.anytime.elastic import make_elastic
from tipslib.anytime.layers import Statistics
from tipslib.anytime.supernets import mobilenet_v2_supernet, resnet18_supernet
from tipslib.errors import InvalidInput


class Residual(nn.Module):
    """Two convolutions with norms and a residual connection, dropout between them."""

    def __init__(self, dropout=0.0, **norm):
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, **norm)
        self.dropout = nn.Dropout(dropout)
        self.second, self.norm2 = nn.Conv2d(8, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8, **norm)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.norm1(self.first(x)))
        x = x + self.norm2(self.second(self.dropout(x)))
        return self.head(x.mean((2, 3)))


def supernet(**options):
    torch.manual_seed(0)
    net = make_elastic(Residual(**options), (3, 6, 6)).eval()
    for norm in net.batch_norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    return net


def images(count=3, size=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(size + i, 3, 6, 6, generator=generator) * (1 + i) for i in range(count)]


def labelled(count=3):
    return [(x, torch.arange(len(x)) % 4) for x in images(count)]


def inputs_of_norms(net, widths, batch):
    """What each batch norm of the supernet sees when all normalise by the batch."""
    seen = []
    handles = [norm.register_forward_pre_hook(lambda m, args: seen.append(args[0].detach())) for norm in net.batch_norms]
    net.set_width(widths)
    net.train()
    net(batch)
    net.eval()
    for handle in handles:
        handle.remove()
    return seen


@pytest.mark.parametrize("share", [0.25, 0.6, 1.0])
def test_statistics_are_the_mean_over_batches_of_mean_and_unbiased_variance(share):
    net, batches = supernet(), images()
    widths = net.space.at(share)
    found = calibrate(net, widths, batches)
    each = [inputs_of_norms(net, widths, batch) for batch in batches]
    assert len(found) == 2
    for i, (mean, variance) in enumerate(found.pairs):
        torch.testing.assert_close(mean, torch.stack([x[i].mean((0, 2, 3)) for x in each]).mean(0))
        torch.testing.assert_close(variance, torch.stack([x[i].var((0, 2, 3), unbiased=True) for x in each]).mean(0))


@pytest.mark.parametrize("make", [mobilenet_v2_supernet, resnet18_supernet])
def test_published_supernets_get_what_torch_gives_their_subnetworks(make):
    torch.manual_seed(0)
    net = make(width=0.25, classes=4)
    widths = net.space.at(0.5)
    batches = [torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(i)) for i in range(2)]
    plain = net.export(widths)
    update_bn(batches, plain)
    expected = norms_of(net, plain)
    found = calibrate(net, widths, iter(batches))
    assert len(found) == len(net.batch_norms) == sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    for (mean, variance), norm in zip(found.pairs, expected, strict=True):
        torch.testing.assert_close(mean, norm.running_mean)
        torch.testing.assert_close(variance, norm.running_var)


def test_the_supernet_runs_with_them_as_the_calibrated_subnetwork_does():
    net = supernet()
    widths = net.space.at(0.5)
    plain = net.export(widths)
    recalibrate(plain, norms_of(net, plain), images())
    x = images(1, 9, seed=5)[0]
    net.set_width(widths, calibrate(net, widths, images()))
    torch.testing.assert_close(net(x), plain(x))
    net.set_width(widths)
    assert not torch.allclose(net(x), plain(x), atol=1e-2)


@pytest.mark.parametrize("training", [True, False])
def test_the_supernet_is_left_as_it_was(training):
    net = supernet(dropout=0.5).train(training)
    statistics = calibrate(net, net.space.largest, images())
    net.set_width(net.space.smallest)
    before, modes, random = copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], torch.get_rng_state()
    widths = net.space.at(0.5)
    accuracy_at(net, labelled(), widths, calibrate(net, widths, images()))
    assert net.widths == net.space.smallest
    assert net.statistics is None
    assert [m.training for m in net.modules()] == modes
    assert torch.equal(torch.get_rng_state(), random)
    for name, tensor in net.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(p.grad is None for p in net.parameters())
    assert not any(t.requires_grad for pair in statistics.pairs for t in pair)


def test_dropout_is_off_while_calibrating():
    plain, dropping = (supernet(dropout=p) for p in (0.0, 0.9))
    dropping.load_state_dict(plain.state_dict())
    widths = plain.space.at(0.5)
    first, second = (calibrate(net.train(), widths, images()) for net in (plain, dropping))
    for (mean, variance), (other_mean, other_variance) in zip(first.pairs, second.pairs, strict=True):
        assert torch.equal(mean, other_mean)
        assert torch.equal(variance, other_variance)


def test_norms_that_keep_no_statistics_are_calibrated_too():
    net, other = supernet(), supernet(track_running_stats=False)
    other.load_state_dict(net.state_dict(), strict=False)
    widths = net.space.at(0.5)
    for pair, expected in zip(calibrate(other, widths, images()).pairs, calibrate(net, widths, images()).pairs, strict=True):
        torch.testing.assert_close(pair, expected)


def test_double_precision_stays():
    net = supernet().double()
    found = calibrate(net, net.space.smallest, [x.double() for x in images()])
    assert all(t.dtype == torch.float64 for pair in found.pairs for t in pair)


@pytest.mark.parametrize(
    ("batches", "match"),
    [
        ([], "without images"),
        ([torch.randn(1, 3, 6, 6)], "batch of 1"),
        ([torch.full((2, 3, 6, 6), float("nan"))], "not finite"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(batches, match):
    net = supernet()
    with pytest.raises(InvalidInput, match=match):
        calibrate(net, net.space.smallest, batches)


def test_widths_outside_the_space_are_refused():
    net = supernet()
    with pytest.raises(InvalidInput, match="cannot have"):
        calibrate(net, (1, *net.space.largest[1:]), images())
    with pytest.raises(InvalidInput, match="cannot have"):
        accuracy_at(net, labelled(), (1, *net.space.largest[1:]))


@pytest.mark.parametrize("calibrated", [True, False])
def test_accuracy_is_the_share_of_images_named_rightly(calibrated):
    net = supernet()
    widths = net.space.at(0.5)
    statistics = calibrate(net, widths, images()) if calibrated else None
    found = accuracy_at(net, iter(labelled()), widths, statistics)
    net.set_width(widths, statistics)
    hits = [int(net(x[None])[0].argmax()) == int(y) for batch, labels in labelled() for x, y in zip(batch, labels, strict=True)]
    assert found == sum(hits) / len(hits)
    assert 0 < found < 1


def test_accuracy_needs_images_and_fitting_statistics():
    net = supernet()
    with pytest.raises(InvalidInput, match="at least one image"):
        accuracy_at(net, [], net.space.largest)
    with pytest.raises(InvalidInput, match="statistics of 1 batch norms for a supernet with 2"):
        accuracy_at(net, labelled(), net.space.largest, Statistics(((torch.zeros(8), torch.ones(8)),)))


@pytest.mark.parametrize(("make", "norms"), [(mobilenet_v2_supernet, 52), (resnet18_supernet, 20)])
@pytest.mark.parametrize("share", [0.5, 1.0])
def test_folding_leaves_the_function_and_no_norm(make, norms, share):
    torch.manual_seed(0)
    net = make(width=0.25, classes=4)
    for norm in net.batch_norms:
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias)
    plain = net.export(net.space.at(share))
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    recalibrate(plain, norms_of(net, plain), [x])
    pairs = followed_by_norm(plain)
    assert len(pairs) == norms
    expected = plain(x)
    fold(plain, pairs)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    torch.testing.assert_close(plain(x), expected, atol=1e-4, rtol=1e-4)


class Unfoldable(nn.Module):
    """A norm before its convolution, a convolution whose outputs go elsewhere too, a convolution and a norm that run twice."""

    def __init__(self):
        super().__init__()
        self.norm0, self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(3) for _ in range(4))
        self.read, self.twice, self.once = (nn.Conv2d(3, 3, 1) for _ in range(3))
        self.good, self.norm4 = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, affine=False)

    def forward(self, x):
        x = self.read(self.norm0(x))
        x = x + self.norm1(x)
        x = self.norm2(self.twice(x)) + self.twice(x)
        x = self.norm3(self.once(x)) + self.norm3(x)
        return self.norm4(self.good(x))


def test_only_what_may_be_folded_is():
    torch.manual_seed(0)
    net = Unfoldable().eval()
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
        norm.running_var.uniform_(0.5, 2)
    pairs = followed_by_norm(net)
    assert pairs == (("good", "norm4"),)
    x = torch.randn(2, 3, 4, 4)
    expected = net(x)
    fold(net, pairs)
    torch.testing.assert_close(net(x), expected)
