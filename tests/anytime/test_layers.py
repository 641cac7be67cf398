"""Elastic layers against plain layers with weights cut by hand, bit for bit; gradients; what runs where, and what is refused."""

import copy
import pickle
import threading
from collections import OrderedDict

import pytest
import torch
from torch import nn

from tipslib.anytime.layers import Active, Configuration, Statistics, to_elastic, to_plain
from tipslib.errors import InvalidInput


def run(layer, x, outputs, full=False, statistics=None):
    """At a configuration whose only dimension has so many channels."""
    with layer.active.running(Configuration((outputs,), full, statistics)):
        return layer(x)


def images(channels, seed=0, side=7):
    return torch.randn(3, channels, side, side, generator=torch.Generator().manual_seed(seed))


CONVOLUTIONS = {
    "dense": {"kernel_size": 3, "padding": 1},
    "pointwise": {"kernel_size": 1, "bias": False},
    "strided": {"kernel_size": (3, 5), "stride": (2, 1), "padding": (1, 2)},
    "dilated": {"kernel_size": 3, "dilation": 2, "padding": "same"},
    "circular": {"kernel_size": 3, "padding": 1, "padding_mode": "circular"},
    "reflecting": {"kernel_size": 5, "padding": 2, "padding_mode": "reflect", "bias": False},
}


def small_convolution(conv, inputs, outputs, options):
    """A plain convolution with the first filters and, of each, the first channels."""
    groups = inputs * conv.groups // conv.in_channels if conv.groups > 1 else 1
    small = nn.Conv2d(inputs, outputs, groups=groups, **options)
    with torch.no_grad():
        small.weight.copy_(conv.weight[:outputs, : inputs // groups])
        if small.bias is not None:
            small.bias.copy_(conv.bias[:outputs])
    return small


@pytest.mark.parametrize("kind", CONVOLUTIONS)
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("inputs", "outputs"), [(8, 12), (5, 12), (8, 7), (3, 2), (1, 1)])
def test_a_convolution_equals_the_plain_one_with_fewer_channels(kind, last, inputs, outputs):
    torch.manual_seed(0)
    conv = nn.Conv2d(8, 12, **CONVOLUTIONS[kind])
    x = images(inputs)
    small = small_convolution(conv, inputs, outputs, CONVOLUTIONS[kind])
    if last:
        conv, small, x = (part.to(memory_format=torch.channels_last) for part in (conv, small, x))
    layer = to_elastic(conv, Active(), slot=0)
    assert torch.equal(run(layer, x, outputs), small(x))


@pytest.mark.parametrize(("channels", "per_group", "share"), [(12, 1, 1), (12, 1, 2), (12, 3, 3), (12, 4, 2)])
def test_depthwise_and_grouped_convolutions_drop_their_last_groups(channels, per_group, share):
    torch.manual_seed(0)
    options = {"kernel_size": 3, "padding": 1}
    groups = channels // per_group
    conv = nn.Conv2d(channels, groups * share, groups=groups, **options)
    layer = to_elastic(conv, Active(), slot=None)
    for inputs in range(per_group, channels + 1, per_group):
        left = inputs // per_group
        small = nn.Conv2d(inputs, left * share, groups=left, **options)
        with torch.no_grad():
            small.weight.copy_(conv.weight[: left * share])
            small.bias.copy_(conv.bias[: left * share])
        x = images(inputs)
        assert torch.equal(run(layer, x, 99), small(x))


@pytest.mark.parametrize(("inputs", "outputs"), [(8, 6), (5, 6), (8, 4), (1, 1)])
def test_a_linear_layer_equals_the_plain_one_with_fewer_features(inputs, outputs):
    torch.manual_seed(0)
    linear = nn.Linear(8, 6)
    layer = to_elastic(linear, Active(), slot=0)
    small = nn.Linear(inputs, outputs)
    with torch.no_grad():
        small.weight.copy_(linear.weight[:outputs, :inputs])
        small.bias.copy_(linear.bias[:outputs])
    x = torch.randn(4, inputs)
    assert torch.equal(run(layer, x, outputs), small(x))


def norm(channels=6, **options):
    torch.manual_seed(0)
    made = nn.BatchNorm2d(channels, **options)
    for tensor in (made.weight, made.bias, made.running_mean, made.running_var):
        if tensor is not None:
            tensor.data.copy_(torch.rand(channels) + 0.5)
    return made


def small_norm(made, channels):
    small = nn.BatchNorm2d(channels, made.eps, made.momentum, made.affine)
    for name, tensor in made.state_dict().items():
        small.state_dict()[name].copy_(tensor[:channels] if tensor.ndim else tensor)
    return small


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("channels", [6, 4, 1])
@pytest.mark.parametrize("training", [True, False])
def test_a_batch_norm_equals_the_plain_one_with_fewer_channels(affine, channels, training):
    plain = norm(affine=affine, eps=1e-3)
    small, layer = small_norm(plain, channels).train(training), to_elastic(plain, Active(), slot=0).train(training)
    x = images(channels)
    assert torch.equal(run(layer, x, channels, full=channels == 6), small(x))


def test_running_statistics_follow_the_batches_of_the_full_width_alone():
    layer = to_elastic(norm(), Active(), slot=0).train()
    reference = norm().train()
    for seed, channels in enumerate([6, 4, 6, 1, 2, 6]):
        x = images(channels, seed)
        run(layer, x, channels, full=channels == 6)
        if channels == 6:
            reference(x)
    assert all(torch.equal(value, reference.state_dict()[name]) for name, value in layer.state_dict().items())
    assert layer.num_batches_tracked == 3


@pytest.mark.parametrize("channels", [6, 4])
def test_statistics_of_a_configuration_take_the_place_of_the_layers_own_in_evaluation(channels):
    layer = to_elastic(norm(), Active(), slot=1).eval()
    mean, variance = torch.rand(channels), torch.rand(channels) + 1
    statistics = Statistics(((torch.zeros(9), torch.ones(9)), (mean, variance)))
    assert len(statistics) == 2
    x = images(channels)
    expected = (x - mean[:, None, None]) / (variance[:, None, None] + layer.eps).sqrt()
    expected = expected * layer.weight[:channels, None, None] + layer.bias[:channels, None, None]
    torch.testing.assert_close(run(layer, x, channels, full=channels == 6, statistics=statistics), expected)
    by_the_batch = run(layer.train(), x, channels, full=False, statistics=statistics)
    torch.testing.assert_close(by_the_batch, small_norm(norm(), channels).train()(x))


def test_a_batch_norm_without_running_statistics_uses_the_batch():
    plain = nn.BatchNorm2d(6, track_running_stats=False)
    layer = to_elastic(plain, Active(), slot=0).eval()
    x = images(4)
    assert torch.equal(run(layer, x, 4), nn.BatchNorm2d(4, track_running_stats=False)(x))


LAYERS = {
    "convolution": (lambda: nn.Conv2d(8, 12, 3), lambda: images(5), 7),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), lambda: images(5), 5),
    "linear": (lambda: nn.Linear(8, 12), lambda: torch.randn(4, 5), 7),
    "norm": (lambda: norm(8), lambda: images(5), 5),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_gradients_land_in_the_used_slice_alone_and_are_the_small_layers(kind):
    make, inputs, outputs = LAYERS[kind]
    torch.manual_seed(1)
    layer, x = to_elastic(make(), Active(), slot=0).train(), inputs()
    small = to_plain(layer, x.shape[1], Configuration((outputs,), full=False)).train()
    for each in (layer, small):
        (run(each, x, outputs) if each is layer else each(x)).square().sum().backward()
    for name, parameter in layer.named_parameters():
        expected = getattr(small, name).grad
        used = tuple(slice(0, size) for size in expected.shape)
        torch.testing.assert_close(parameter.grad[used], expected)
        rest = parameter.grad.clone()
        rest[used] = 0
        assert not rest.any()
        assert rest.numel() > expected.numel()


@pytest.mark.parametrize("kind", LAYERS)
def test_an_elastic_layer_shares_its_weights_with_the_plain_one_it_came_from(kind):
    plain = LAYERS[kind][0]().eval()
    plain.weight.requires_grad_(False)
    layer = to_elastic(plain, Active(), slot=0)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert isinstance(layer, type(plain))
    assert not layer.training
    assert repr(layer).removeprefix("Elastic") == repr(plain)
    plain.register_forward_hook(lambda *_: None)
    assert layer._forward_hooks == OrderedDict()


@pytest.mark.parametrize("kind", LAYERS)
def test_a_plain_copy_owns_small_weights_and_settings_and_computes_the_same(kind):
    make, inputs, outputs = LAYERS[kind]
    layer, x = to_elastic(make(), Active(), slot=0).eval(), inputs()
    layer.bias.requires_grad_(False)
    small = to_plain(layer, x.shape[1], Configuration((outputs,), full=False))
    assert type(small) is type(make())
    assert torch.equal(small(x), run(layer, x, outputs))
    assert small.weight.requires_grad
    assert not small.bias.requires_grad
    before = layer.weight.clone()
    small.weight.data.fill_(0)
    assert torch.equal(layer.weight, before)
    assert all(p.is_contiguous() and p.untyped_storage().nbytes() == 4 * p.numel() for p in small.parameters())
    assert eval(repr(small), {"Conv2d": nn.Conv2d, "Linear": nn.Linear, "BatchNorm2d": nn.BatchNorm2d}).weight.shape == small.weight.shape


def test_a_plain_copy_keeps_channels_last():
    conv = nn.Conv2d(8, 12, 3).to(memory_format=torch.channels_last)
    small = to_plain(to_elastic(conv, Active(), slot=0), 5, Configuration((7,), full=False))
    assert small.weight.is_contiguous(memory_format=torch.channels_last)


def test_outside_a_forward_pass_layers_are_full():
    conv = nn.Conv2d(8, 12, 3)
    x = images(8)
    assert torch.equal(to_elastic(conv, Active(), slot=0)(x), conv(x))


def test_the_configuration_belongs_to_the_thread_and_comes_back_even_after_an_error():
    active, seen = Active(), []
    outer, inner = Configuration((1,), False), Configuration((2,), False)

    @active.running(inner)
    def fails():
        seen.append(active.configuration)
        thread = threading.Thread(target=lambda: seen.append(active.configuration))
        thread.start()
        thread.join()
        raise KeyError

    with active.running(outer):
        with pytest.raises(KeyError):
            fails()
        assert seen == [inner, None]
        assert active.configuration is outer
        assert copy.deepcopy(active).configuration is None
        assert pickle.loads(pickle.dumps(active)).configuration is None
    assert active.configuration is None


@pytest.mark.parametrize(
    ("layer", "x", "message"),
    [
        (nn.Conv2d(8, 12, 3), images(9), "an input of 9 channels; this convolution takes 1 to 8"),
        (nn.Conv2d(8, 12, 3), images(0), "an input of 0 channels"),
        (nn.Conv2d(8, 8, 3, groups=2), images(6), "6 channels are no whole number of groups.*2 groups of 4: take a multiple of 4"),
        (nn.Linear(8, 6), torch.zeros(2, 9), "an input of 9 features; this linear layer takes 1 to 8"),
        (nn.BatchNorm2d(6), images(7), "an input of 7 channels; this batch norm takes 1 to 6"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_does(layer, x, message):
    with pytest.raises(InvalidInput, match=message):
        run(to_elastic(layer, Active(), slot=0), x, 6)
