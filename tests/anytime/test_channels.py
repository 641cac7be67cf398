"""Which channels are tied: against connected components of random networks, against blocks done by hand, and what is refused."""

import pytest
import torch
import torchvision
from hypothesis import given, settings
from random_nets import SIDE, nets
from torch import nn
from torch.nn import functional as F

from tipslib.anytime.channels import Channels, channel_groups
from tipslib.errors import InvalidInput, TracingError


@given(nets())
@settings(max_examples=60)
def test_groups_of_random_networks_are_the_connected_components_of_their_sums(net):
    found = channel_groups(net, (4, SIDE, SIDE))
    dense = [layer for layer in found.layers if layer.chooses]
    groups = {frozenset(x.name for x in dense if x.outputs.group == i) for i in range(len(found.names))}
    assert groups == net.free()
    modules = dict(net.named_modules())
    assert [modules[name].out_channels for name in found.names] == list(found.sizes)
    order = [x.name for x in dense]
    assert [order.index(name) for name in found.names] == sorted(order.index(name) for name in found.names)


class Forward(nn.Module):
    """Named layers and a function of them and the input."""

    def __init__(self, function, **layers):
        super().__init__()
        self.function = function
        for name, layer in layers.items():
            setattr(self, name, layer)

    def forward(self, x):
        return self.function(self, x)


def finished(function, channels, **layers):
    """The network whose classifier reads the pooled outcome of `function`."""
    return Forward(lambda s, x: s.fc(s.pool(function(s, x)).flatten(1)), pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(channels, 3), **layers)


def groups(function, channels, fixed=(), **layers):
    return channel_groups(finished(function, channels, **layers), (3, 8, 8), fixed=fixed)


def conv(i, o, k=1, **options):
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


def test_the_basic_block_of_fig_11():
    """Both ends of the residual connection are one group, the channels between its convolutions another."""
    found = groups(
        lambda s, x: (lambda y: y + s.two(F.relu(s.norm(s.one(y)))))(s.stem(x)),
        8,
        stem=conv(3, 8),
        one=conv(8, 12, 3),
        norm=nn.BatchNorm2d(12),
        two=conv(12, 8, 3),
    )
    assert (found.names, found.sizes, found.units) == (("stem", "one"), (8, 12), (1, 1))
    at = {x.name: (x.inputs, x.outputs) for x in found.layers}
    assert at["two"] == (Channels(1, 1), Channels(0, 1))
    assert at["norm"] == (Channels(1, 1), Channels(1, 1))
    assert at["stem"] == (Channels(None, 3), Channels(0, 1))
    assert at["fc"] == (Channels(0, 1), Channels(None, 3))


def test_a_depthwise_convolution_follows_and_a_grouped_one_wants_whole_groups():
    found = groups(
        lambda s, x: s.grouped(s.depthwise(s.one(x))),
        12,
        one=conv(3, 12),
        depthwise=conv(12, 24, 3, groups=12),
        grouped=conv(24, 12, 3, groups=4),
    )
    assert (found.names, found.sizes, found.units) == (("one",), (12,), (3,))  # 2 x 3 channels a group
    assert [(x.outputs.group, x.outputs.times) for x in found.layers] == [(0, 1), (0, 2), (0, 1), (None, 3)]
    assert [x.chooses for x in found.layers] == [True, False, False, True]


def test_a_grouped_convolution_whose_ratio_is_no_whole_number_stays_full():
    found = groups(lambda s, x: s.two(s.grouped(s.one(x))), 6, one=conv(3, 12), grouped=conv(12, 8, groups=4), two=conv(8, 6))
    assert found.names == ("two",)


def test_flattening_gives_a_channel_as_many_features_as_it_has_pixels():
    net = Forward(lambda s, x: s.fc(F.relu(s.one(x)).flatten(1)), one=conv(3, 5), fc=nn.Linear(5 * 64, 3))
    assert channel_groups(net, (3, 8, 8)).layers[1].inputs == Channels(0, 64)


def test_squeeze_excitation_is_tied_to_what_it_scales():
    found = groups(
        lambda s, x: (lambda y: y * torch.sigmoid(s.up(F.relu(s.down(y.mean((2, 3), keepdim=True))))))(s.stem(x)),
        8,
        stem=conv(3, 8),
        down=conv(8, 2),
        up=conv(2, 8),
    )
    assert found.names == ("stem", "down")


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (torchvision.models.resnet18, 4 + 8),
        (torchvision.models.resnet50, 1 + 4 + 32),  # here the stem's channels are its own
        (torchvision.models.vgg11_bn, 8 + 2),
        (torchvision.models.mobilenet_v2, 1 + 7 + 16 + 1),
        (torchvision.models.efficientnet_b0, 1 + 7 + 15 + 16 + 1),  # squeezes, too
        (torchvision.models.regnet_x_400mf, 1 + 4 + 22),
    ],
)
def test_known_architectures_have_the_number_of_free_widths_that_their_blocks_say(build, count):
    assert len(channel_groups(build(weights=None), (3, 224, 224)).names) == count


def test_costs_are_those_of_the_full_network_and_the_module_is_left_alone():
    net = finished(lambda s, x: s.norm(s.one(x)), 8, one=conv(3, 8, 3), norm=nn.BatchNorm2d(8)).train()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    assert channel_groups(net, (3, 8, 8)).macs == 3 * 8 * 9 * 64 + 8 * 3
    assert net.training
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_what_is_named_stays_fixed_with_all_that_is_tied_to_it():
    layers = {"stem": conv(3, 8), "one": conv(8, 12), "two": conv(12, 8), "depthwise": conv(12, 12, groups=12)}

    def function(s, x):
        y = s.stem(x)
        return y + s.two(s.depthwise(s.one(y)))

    assert groups(function, 8, fixed=("two",), **layers).names == ("one",)
    assert groups(function, 8, fixed=("depthwise",), **layers).names == ("stem",)


def test_a_layer_that_is_called_twice_on_fixed_channels_is_fixed():
    found = groups(lambda s, x: s.two(s.one(x) + s.one(x)), 5, one=conv(3, 8), two=conv(8, 5))
    assert found.names == ("two",)
    assert found.macs == 2 * 3 * 8 * 64 + 8 * 5 * 64 + 5 * 3


CONCATENATION = {"one": conv(3, 4), "two": conv(3, 6), "three": conv(10, 5)}


def test_what_cannot_be_sliced_passes_where_its_channels_are_fixed():
    def function(s, x):
        return s.three(torch.cat([s.one(x), s.two(x)], 1))

    assert groups(function, 5, fixed=("one", "two"), **CONCATENATION).names == ("three",)
    with pytest.raises(TracingError, match=r"cat in the network itself \(Forward\).*fixed=\['one', 'two'\]"):
        groups(function, 5, **CONCATENATION)
    with pytest.raises(TracingError, match=r"cannot be sliced.*fixed=\['two'\]"):
        groups(function, 5, fixed=("one",), **CONCATENATION)


ONE = {"one": conv(3, 8)}


@pytest.mark.parametrize(
    ("function", "channels", "layers", "message"),
    [
        (lambda s, x: s.one(x).chunk(2, 1)[0], 4, ONE, "chunk in the network itself.*makes several feature maps"),
        (lambda s, x: s.one(x).view(-1, 512).view(2, 8, 8, 8), 8, ONE, "view in the network itself"),
        (lambda s, x: s.one(x).permute(0, 2, 1, 3), 8, ONE, "permute in the network itself"),
        (lambda s, x: s.one(x).mean((1, 2), keepdim=True), 1, ONE, "mean in the network itself"),
        (lambda s, x: s.one(x).mean(1, keepdim=True), 1, ONE, "mean in the network itself"),
        (lambda s, x: s.one(x).softmax(1), 8, ONE, "softmax in the network itself"),
        (lambda s, x: s.one(x) + s.two(x), 8, ONE | {"two": conv(3, 1)}, r"joins feature maps of \(8, 8, 8\) and \(1, 8, 8\)"),
        (lambda s, x: s.two(s.two(s.one(x))), 8, ONE | {"two": conv(8, 8)}, "module 'two'.*is called twice"),
        (lambda s, x: s.two(s.one(x)), 8, ONE | {"two": nn.PReLU(8)}, r"module 'two' \(PReLU\) is of a kind"),
        (lambda s, x: s.two(s.one(x)), 8, ONE | {"two": nn.ConvTranspose2d(8, 8, 1)}, r"module 'two' \(ConvTranspose2d\)"),
        (lambda s, x: s.two(s.one(x)), 8, ONE | {"two": nn.GroupNorm(2, 8)}, r"module 'two' \(GroupNorm\)"),
        (lambda s, x: s.two(s.one(x)), 8, ONE | {"two": nn.Linear(8, 8)}, r"module 'two' \(Linear\)"),  # of the last axis, not of channels
        (lambda s, x: s.one(x) + s.two(s.three(x)), 8, ONE | {"three": conv(3, 4), "two": conv(4, 8, groups=4)}, "cannot change together"),
    ],
)
def test_what_cannot_be_sliced_is_refused_by_name(function, channels, layers, message):
    with pytest.raises(TracingError, match=message):
        groups(function, channels, **layers)


def test_a_classifier_of_pooled_features_written_with_their_number_is_refused():
    """`view(-1, 8)` says that there are 8 channels, which at other widths is wrong."""
    net = Forward(lambda s, x: s.fc(s.pool(s.one(x)).view(-1, 8)), one=conv(3, 8), pool=nn.AdaptiveAvgPool2d(1), fc=nn.Linear(8, 3))
    with pytest.raises(TracingError, match="view in the network itself"):
        channel_groups(net, (3, 8, 8))
    net.function = lambda s, x: s.fc(s.pool(s.one(x)).view(x.size(0), -1))
    assert channel_groups(net, (3, 8, 8)).names == ("one",)


def test_a_residual_whose_ends_disagree_is_refused_with_its_place():
    block = Forward(lambda s, x: x + s.two(s.one(x)), one=conv(8, 4), two=conv(4, 6))
    with pytest.raises(InvalidInput, match=r"add in module 'block' \(Forward\).*two ends of a residual connection have the same number"):
        groups(lambda s, x: s.block(s.stem(x)), 8, stem=conv(3, 8), block=block)


def test_bad_input_is_refused_with_what_is_allowed():
    net = finished(lambda s, x: s.norm(s.one(x)), 8, one=conv(3, 8), norm=nn.BatchNorm2d(8))
    with pytest.raises(InvalidInput, match="fixed: two is no convolution or linear layer of this network; there are fc, one"):
        channel_groups(net, (3, 8, 8), fixed=("two",))
    with pytest.raises(InvalidInput, match="fixed: norm"):
        channel_groups(net, (3, 8, 8), fixed=("norm",))
    with pytest.raises(InvalidInput, match=r"input of shape \(2, 4, 8, 8\) does not pass module 'one'"):
        channel_groups(net, (4, 8, 8))
    with pytest.raises(InvalidInput, match="returns 2 values"):
        channel_groups(Forward(lambda s, x: (s.one(x), x), one=conv(3, 8)), (3, 8, 8))
    with pytest.raises(TracingError, match=r"cannot trace Forward.*control flow"):
        channel_groups(Forward(lambda s, x: x if x.sum() > 0 else -x), (3, 8, 8))
