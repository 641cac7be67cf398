import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from torch.nn import functional as F

from tipslib.branched.layers import probed_layers, recording
from tipslib.branched.networks import branched_resnet, resnet
from tipslib.branched.probes import area_under_curve, linear_probes
from tipslib.errors import InvalidInput


def data(samples=120, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(samples) % 3
    images = torch.randn(samples, 3, 8, 8, generator=generator)
    images[torch.arange(samples), labels] += 0.5
    return images, labels


def batches(images, labels, size=30):
    return [(images[i : i + size], labels[i : i + size]) for i in range(0, len(images), size)]


@pytest.fixture
def net():
    torch.manual_seed(0)
    return resnet(10, 3, 0.125)


def test_the_papers_eighteen_layers():
    for network in (resnet(18, 10, 0.125), branched_resnet(18, width=0.125)):
        names = probed_layers(network)
        assert len(names) == 18
        with recording(network, names) as outputs:
            network(torch.randn(2, 3, 32, 32))
        assert [tuple(outputs[n].shape[1:]) for n in names][::4] == [(8, 32, 32), (8, 32, 32), (16, 16, 16), (32, 8, 8), (64, 4, 4)]


def test_all_layers_at_once_equal_one_layer_at_a_time(net):
    (images, labels), names = data(), probed_layers(net)
    train = batches(images, labels)
    together = linear_probes(net, names, lambda e: train, batches(*data(seed=1)), classes=3, epochs=3, learning_rate=0.05)
    generator = torch.Generator().manual_seed(0)
    net.eval()
    for name, expected in zip(names, together, strict=True):
        with recording(net, [name]) as outputs, torch.no_grad():
            net(images)
            x = outputs[name].flatten(1)
            net(data(seed=1)[0])
            y = outputs[name].flatten(1)
        probe = nn.Linear(x.shape[1], 3)
        for p in probe.parameters():
            p.data.uniform_(-(x.shape[1] ** -0.5), x.shape[1] ** -0.5, generator=generator)
        optimiser = torch.optim.SGD(probe.parameters(), lr=0.05, momentum=0.9)
        for _ in range(3):
            for i in range(0, len(x), 30):
                optimiser.zero_grad()
                F.cross_entropy(probe(x[i : i + 30]), labels[i : i + 30]).backward()
                optimiser.step()
        assert float((probe(y).argmax(1) == data(seed=1)[1]).double().mean()) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("train_last", [False, True])
@pytest.mark.parametrize("test_last", [False, True])
def test_the_order_of_the_numbers_in_memory_does_not_matter(train_last, test_last):
    """Not even if test batches lie otherwise than training batches: `maps` puts them out as they come."""

    def laid(found, last):
        return [(x.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format), y) for x, y in found]

    maps = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(4), nn.Flatten())
    train, test = batches(*data()), batches(*data(seed=1))
    options = {"classes": 3, "epochs": 3, "learning_rate": 0.05}
    plain = linear_probes(maps, ["0", "1", "2"], lambda e: train, test, **options)
    assert plain.max() > 0.6
    laid_otherwise = linear_probes(maps, ["0", "1", "2"], lambda e: laid(train, train_last), laid(test, test_last), **options)
    np.testing.assert_allclose(laid_otherwise, plain, atol=0.009)  # one image of 120 may lie on the edge


def test_ridge_equals_scikit_learn(net):
    (images, labels), (held_out, answers) = data(), data(seed=1)
    found = linear_probes(net, ["avgpool"], lambda e: batches(images, labels), batches(held_out, answers), classes=3, protocol="ridge")
    net.eval()
    with recording(net, ["avgpool"]) as outputs, torch.no_grad():
        net(images)
        x = np.c_[outputs["avgpool"].flatten(1).double().numpy(), np.ones(120)]
        net(held_out)
        y = np.c_[outputs["avgpool"].flatten(1).double().numpy(), np.ones(120)]
    ridge = Ridge(alpha=1e-3 * (x**2).sum(0).mean(), fit_intercept=False).fit(x, np.eye(3)[labels])
    assert found[0] == pytest.approx((ridge.predict(y).argmax(1) == answers.numpy()).mean())


def test_the_network_is_left_as_it_was_even_in_authors_mode(net):
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.train()
    linear_probes(net, ["layer1"], lambda e: batches(*data()), batches(*data()), classes=3, epochs=1, authors_mode=True)
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    assert not any(m._forward_hooks for m in net.modules())


def test_dropout_on_the_logits_at_evaluation_costs_accuracy(net):
    images, labels = data(600)
    images[torch.arange(600), labels] += 3
    plain, dropped = (
        linear_probes(net, ["stem"], lambda e: batches(images, labels), batches(images, labels), classes=3, epochs=3, authors_mode=mode)[0]
        for mode in (False, True)
    )
    assert plain > 0.95
    assert dropped < plain


def test_area_under_curve_as_the_authors_compute_it():
    accuracy = np.linspace(0.3, 0.9, 18)
    grid, curve = np.linspace(0, 1, 19), np.r_[0, accuracy]
    by_hand = sum((curve[i] + curve[i + 1]) / 2 * (grid[i + 1] - grid[i]) for i in range(18))
    assert area_under_curve(accuracy) == pytest.approx(by_hand)
    assert area_under_curve(np.full(5, 0.7), origin=False) == pytest.approx(0.7)


def spoilt(value):
    """The test data with one pixel that is no number."""
    images, labels = data()
    images[50, 1, 2, 3] = value
    return batches(images, labels)


@pytest.mark.parametrize("protocol", ["sgd", "ridge"])
@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_activations_that_are_not_finite_are_refused(net, protocol, part, value):
    parts = {"train": batches(*data()), "test": batches(*data())} | {part: spoilt(value)}
    with pytest.raises(InvalidInput, match="activations of stem hold NaN or infinity"):
        linear_probes(net, ["stem"], lambda e: parts["train"], parts["test"], classes=3, protocol=protocol, epochs=1)


@pytest.mark.parametrize("protocol", ["sgd", "ridge"])
@pytest.mark.parametrize("part", ["train", "test"])
def test_labels_out_of_range_are_refused(net, protocol, part):
    images, labels = data()
    parts = {"train": batches(*data()), "test": batches(*data())} | {part: batches(images, labels + 5)}
    with pytest.raises(InvalidInput, match=r"labels outside \[0, 2\]"):
        linear_probes(net, ["stem"], lambda e: parts["train"], parts["test"], classes=3, protocol=protocol, epochs=1)


def test_a_layer_that_is_never_called_is_named():
    torch.manual_seed(0)
    net = branched_resnet(10, classes=3, width=0.125)
    net.unused = nn.ReLU()
    for name in ("heads", "unused"):
        for protocol in ("sgd", "ridge"):
            with pytest.raises(InvalidInput, match=f"layer '{name}' has put out nothing"):
                linear_probes(net, [name], lambda e: batches(*data()), batches(*data()), classes=3, protocol=protocol)


def test_a_layer_that_puts_out_no_tensor_is_named():
    net = branched_resnet(10, classes=3, width=0.125)
    with pytest.raises(InvalidInput, match=r"layer 'stages.0' puts out a tuple"), recording(net, ["stages.0"]):
        net(data()[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"layers": ["nowhere"]}, "no layer 'nowhere'"),
        ({"layers": []}, "no layers named"),
        ({"protocol": "svm"}, "no probe protocol"),
        ({"protocol": "ridge", "authors_mode": True}, "authors_mode"),
        ({"classes": 2}, "labels outside"),
        ({"epochs": 0}, "at least 1"),
        ({"epochs": 3, "learning_rate": 1e38}, "probes diverged"),
        ({"train": lambda e: []}, "no training batches"),
        ({"test": []}, "no test batches"),
    ],
)
def test_bad_input_is_refused(net, changes, message):
    arguments = {"layers": ["layer1"], "train": lambda e: batches(*data()), "test": batches(*data()), "classes": 3, "epochs": 1} | changes
    with pytest.raises(InvalidInput, match=message):
        linear_probes(net, arguments.pop("layers"), arguments.pop("train"), arguments.pop("test"), **arguments)
