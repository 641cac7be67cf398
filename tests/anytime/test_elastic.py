"""Supernets against what they export, PyTorch's counter and networks cut by hand; threads; what is refused."""

import copy
import pickle
import threading

import pytest
import torch
import torchvision
from hypothesis import given, settings
from hypothesis import strategies as st
from random_nets import SIDE, nets
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from tipslib.anytime.elastic import important_dimensions, make_elastic
from tipslib.anytime.layers import Statistics
from tipslib.anytime.samplers import uniform
from tipslib.anytime.supernets import mobilenet_v2_supernet, resnet18_supernet, resnet34_supernet
from tipslib.errors import InvalidInput, TracingError
from tipslib.topology import NetworkGraph


def flops(net, x):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(x)
    return counter.get_total_flops() // (2 * len(x))


class Grouped(nn.Module):
    """A stem, a grouped residual block, squeeze-excitation, two linear layers: two activations with weights and a fixed product beside."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 12, 3, 2, 1, bias=False), nn.BatchNorm2d(12), nn.PReLU())
        self.one, self.norm, self.grouped = nn.Conv2d(12, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3, 1, 1, groups=4)
        self.two = nn.Conv2d(32, 12, 1)
        self.down, self.up = nn.Conv2d(12, 4, 1), nn.Conv2d(4, 12, 1)
        self.hidden, self.last = nn.Linear(48, 10), nn.Linear(10, 5)
        self.mix = nn.Parameter(torch.randn(5, 5))

    def forward(self, x):
        x = self.stem(x)
        x = x + self.two(self.grouped(F.relu(self.norm(self.one(x)))))
        x = x * torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
        x = F.relu(self.hidden(F.adaptive_avg_pool2d(x, 2).flatten(1)))
        return self.last(x) @ self.mix


def grouped(**options):
    torch.manual_seed(0)
    net = Grouped()
    for norm in (net.stem[1], net.norm):
        norm.running_mean.uniform_(-1, 1)
        norm.running_var.uniform_(0.5, 2)
    return make_elastic(net, (3, 8, 8), fixed=("last",), **options).eval()


@given(nets(), st.data())
@settings(max_examples=50)
def test_random_networks_run_at_any_widths_as_what_they_export(net, data):
    """What must agree agrees, or these would not run; the costs are the counter's; nothing is computed that is not needed."""
    supernet = make_elastic(net, (4, SIDE, SIDE), lowest=0.3).eval()
    widths = [data.draw(st.sampled_from(d.choices)) for d in supernet.space.dimensions]
    supernet.set_width(widths)
    exported, x = supernet.export(), torch.randn(2, 4, SIDE, SIDE)
    assert not [m for m in exported.modules() if type(m).__name__.startswith("Elastic")]
    with torch.no_grad():
        torch.testing.assert_close(supernet(x), exported(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(supernet.train()(x), exported.train()(x), rtol=1e-4, atol=1e-5)
    assert supernet.macs() == flops(exported, x) == flops(supernet, x)
    assert supernet.parameter_count() == sum(p.numel() for p in exported.parameters())


@given(nets())
@settings(max_examples=20)
def test_at_full_width_a_supernet_is_the_network_it_was_made_of_bit_for_bit(net):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    supernet, x = make_elastic(net, (4, SIDE, SIDE)).eval(), torch.randn(2, 4, SIDE, SIDE)
    assert net.training
    with torch.no_grad():
        assert torch.equal(supernet(x), net.eval()(x))
        net.train()
        assert torch.equal(supernet.train()(x), net(x))
    assert set(supernet.state_dict()) == {f"body.{name}" for name in before}
    assert all(torch.equal(supernet.state_dict()[f"body.{name}"], value) for name, value in net.state_dict().items())


NETS = {
    "MobileNet-v2": (lambda: mobilenet_v2_supernet(1.4, 32, 10), 32),
    "ResNet-34": (lambda: resnet34_supernet(0.25, 32, 10), 32),
    "grouped": (grouped, 8),
}


@pytest.mark.parametrize("name", NETS)
def test_macs_are_pytorchs_at_200_random_widths(name):
    make, side = NETS[name]
    net, generator, x = make().eval(), torch.Generator().manual_seed(0), torch.zeros(1, 3, side, side)
    drawn = [uniform(net.space, generator) for _ in range(200)]
    counted = []
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        for widths in drawn:
            net.set_width(widths)
            before = counter.get_total_flops()
            net(x)
            counted.append((counter.get_total_flops() - before) // 2)
    assert len(set(drawn)) > 150
    assert [net.macs(widths) for widths in drawn] == counted
    assert net.macs_many(drawn).tolist() == counted


@pytest.mark.parametrize("name", NETS)
def test_parameters_are_those_of_the_exported_network(name):
    net, generator = NETS[name][0](), torch.Generator().manual_seed(1)
    for widths in [net.space.smallest, net.space.largest, *(uniform(net.space, generator) for _ in range(8))]:
        assert net.parameter_count(widths) == sum(p.numel() for p in net.export(widths).parameters())
    assert net.parameter_count(net.space.largest) == sum(p.numel() for p in net.parameters())


def test_a_block_by_hand():
    """Plain functions of sliced weights."""
    net = grouped()
    assert [d.name for d in net.space.dimensions] == ["stem.0", "one", "down", "hidden"]
    widths, x, b = (7, 8, 2, 6), torch.randn(2, 3, 8, 8), net.body
    net = make_elastic(
        net.export(), (3, 8, 8), fixed=("last",), choices={"stem.0": (7, 12), "one": (8, 16), "down": (2, 4), "hidden": (6, 10)}
    )
    net.eval().set_width(widths)

    def normed(y, norm):
        c = y.shape[1]
        return F.batch_norm(y, norm.running_mean[:c], norm.running_var[:c], norm.weight[:c], norm.bias[:c])

    y = F.prelu(normed(F.conv2d(x, b.stem[0].weight[:7], stride=2, padding=1), b.stem[1]), b.stem[2].weight)
    z = F.relu(normed(F.conv2d(y, b.one.weight[:8, :7], b.one.bias[:8]), b.norm))
    z = F.conv2d(z, b.grouped.weight[:16], b.grouped.bias[:16], padding=1, groups=2)
    y = y + F.conv2d(z, b.two.weight[:7, :16], b.two.bias[:7])
    s = F.relu(F.conv2d(y.mean((2, 3), keepdim=True), b.down.weight[:2, :7], b.down.bias[:2]))
    y = y * torch.sigmoid(F.conv2d(s, b.up.weight[:7, :2], b.up.bias[:7]))
    y = F.relu(F.linear(F.adaptive_avg_pool2d(y, 2).flatten(1), b.hidden.weight[:6, :28], b.hidden.bias[:6]))
    with torch.no_grad():
        torch.testing.assert_close(net(x), F.linear(y, b.last.weight[:, :6], b.last.bias) @ b.mix)


def test_export_at_other_widths_takes_statistics_and_leaves_the_supernet_where_it_was():
    net, x = grouped(), torch.randn(4, 3, 8, 8)
    widths = net.space.smallest
    generator = torch.Generator().manual_seed(3)
    counts = [len(norm.weight) for norm in net.export(widths).modules() if isinstance(norm, nn.BatchNorm2d)]
    pairs = tuple((torch.randn(c, generator=generator), torch.rand(c, generator=generator) + 0.5) for c in counts)
    exported = net.export(widths, Statistics(pairs))
    assert net.widths == net.space.largest
    assert net.statistics is None
    plain = net.export(widths)
    with torch.no_grad():
        assert not torch.equal(plain(x), exported(x))
        net.set_width(widths)
        torch.testing.assert_close(net(x), plain(x))
        net.set_width(widths, Statistics(pairs))
        torch.testing.assert_close(net(x), exported(x))
        torch.testing.assert_close(net.export()(x), exported(x))
        net.set_width(widths)
        torch.testing.assert_close(net.export(statistics=Statistics(pairs))(x), exported(x))
    exported.stem[0].weight.data.zero_()
    assert net.body.stem[0].weight.any()


def test_setting_widths_copies_no_weight():
    net = grouped()
    before = {name: p.data_ptr() for name, p in net.named_parameters()}
    for widths in (net.space.smallest, net.space.largest, net.space.smallest):
        net.set_width(list(widths))
        assert net.widths == widths
        assert {name: p.data_ptr() for name, p in net.named_parameters()} == before


def test_a_forward_pass_runs_at_one_configuration_while_other_threads_change_it():
    net, x = grouped(), torch.randn(2, 3, 8, 8)
    ends, expected, wrong, done = (net.space.smallest, net.space.largest), [], [], threading.Event()
    with torch.no_grad():
        for widths in ends:
            net.set_width(widths)
            expected.append(net(x))

    def switches():
        while not done.is_set():
            for widths in ends:
                net.set_width(widths)

    def runs():
        with torch.no_grad():
            for _ in range(60):
                found = net(x)
                if not any(torch.equal(found, each) for each in expected):
                    wrong.append(found)

    switcher, runners = threading.Thread(target=switches), [threading.Thread(target=runs) for _ in range(3)]
    switcher.start()
    for thread in runners:
        thread.start()
    for thread in runners:
        thread.join()
    done.set()
    switcher.join()
    assert not torch.equal(*expected)
    assert not wrong


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
def test_a_copy_is_another_supernet(copied):
    net, x = grouped(), torch.randn(2, 3, 8, 8)
    net.set_width(net.space.smallest)
    other = copied(net)
    assert other.widths == net.widths
    with torch.no_grad():
        assert torch.equal(other(x), net(x))
        other.set_width(net.space.largest)
        assert not torch.equal(other(x), net(x))
    assert net.widths == net.space.smallest
    assert other.macs() > net.macs()


def test_the_graph_is_that_of_the_plain_network_and_its_operations_know_their_dimensions():
    plain = torchvision.models.resnet18(num_classes=10)
    net = make_elastic(plain, (3, 32, 32))
    net.set_width(net.space.smallest)
    assert net.graph().operations == NetworkGraph.from_module(plain, (1, 3, 32, 32)).operations
    names = [d.name for d in net.space.dimensions]
    setting = {name: names[i] for name, i in net.operation_dimensions.items()}
    assert setting["conv1"] == setting["layer1.0.conv2"] == setting["layer1.1.conv2"] == "conv1"
    assert setting["layer2.0.downsample.0"] == setting["layer2.0.conv2"] == "layer2.0.conv2"
    assert setting["layer3.1.conv1"] == "layer3.1.conv1"
    assert "fc" not in setting
    assert set(setting) <= {operation.name for operation in net.graph().operations}


def test_important_dimensions_are_those_that_the_papers_name():
    """Blocks with stride 2 or a change of channels, in MobileNet-v2 with their hidden channels, which lie on the path, too."""
    net = mobilenet_v2_supernet(0.5)
    found = {d.name for d, important in zip(net.space.dimensions, important_dimensions(net), strict=True) if important}
    begin = [i for i, block in enumerate(net.body.features[1:-1], start=1) if not block.use_res_connect]
    outputs = {f"features.{i}.conv.{1 if i == 1 else 2}" for i in begin}
    assert begin == [1, 2, 4, 7, 11, 14, 17]
    assert found == {"features.0.0"} | outputs | {f"features.{i}.conv.0.0" for i in begin[1:]}
    net = resnet18_supernet(0.125)
    found = {d.name for d, important in zip(net.space.dimensions, important_dimensions(net), strict=True) if important}
    assert found == {"conv1", "layer2.0.conv2", "layer3.0.conv2", "layer4.0.conv2"}
    assert important_dimensions(net) == important_dimensions(net, seed=0)


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        ((12, 16, 4), "3 widths for 4 dimensions; give one each: stem.0, one, down, hidden"),
        ((0, 16, 4, 10), "'stem.0' cannot have 0 channels; allowed are 3, 4,"),
        ((-3, 16, 4, 10), "'stem.0' cannot have -3 channels"),
        ((12, 10, 4, 10), "'one' cannot have 10 channels; allowed are 4, 8, 12, 16"),  # no whole group
        ((12, 16, 4, 11), "'hidden' cannot have 11 channels"),
        ((12.0, 16, 4, 10), "whole numbers of channels"),
        (None, "whole numbers of channels"),
    ],
)
def test_widths_outside_the_space_are_refused_and_change_nothing(widths, message):
    net = grouped()
    for call in (net.set_width, *([net.macs, net.parameter_count, net.export] if widths is not None else [])):
        with pytest.raises(InvalidInput, match=message):
            call(widths)
    assert net.widths == net.space.largest


def test_statistics_of_another_network_or_other_widths_are_refused():
    net = grouped()
    pair = (torch.zeros(12), torch.ones(12))
    with pytest.raises(InvalidInput, match="statistics of 1 batch norms for a supernet with 2; calibrate it anew"):
        net.set_width(net.space.largest, Statistics((pair,)))
    with pytest.raises(InvalidInput, match=r"statistics of norm: shapes \(12,\) and \(12,\), but it has \(16,\) at these widths"):
        net.set_width(net.space.largest, Statistics((pair, pair)))
    with pytest.raises(InvalidInput, match="statistics of 1 batch norms"):
        net.export(net.space.largest, Statistics((pair,)))
    assert net.statistics is None


def stack(*layers):
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


@pytest.mark.parametrize(
    ("module", "options", "error", "message"),
    [
        (stack(nn.Conv2d(3, 8, 1)), {"lowest": 0}, InvalidInput, r"lowest = 0; allowed is \(0, 1\]"),
        (stack(nn.Conv2d(3, 8, 1)), {"lowest": 1.5}, InvalidInput, r"lowest = 1.5"),
        (stack(nn.Conv2d(3, 8, 1)), {"choices": {"1": (4, 8)}}, InvalidInput, "choices: no dimension 1; there are 0"),
        (stack(nn.Conv2d(3, 8, 1)), {"choices": {"0": ()}}, InvalidInput, "the largest must be the full width, 8"),
        (stack(nn.Conv2d(3, 8, 1)), {"choices": {"0": (4, 6)}}, InvalidInput, "the largest must be the full width, 8"),
        (stack(nn.Conv2d(3, 8, 1)), {"choices": {"0": (4, 16)}}, InvalidInput, "the largest must be the full width, 8"),
        (stack(nn.Conv2d(3, 8, 1)), {"choices": {"0": (0, 8)}}, InvalidInput, "at least one channel"),
        (
            stack(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2)),
            {"choices": {"0": (4, 6, 8)}},
            InvalidInput,
            r"\[6\] do not divide into the groups of a convolution; take multiples of 4",
        ),
        (stack(nn.Conv2d(3, 8, 1)), {"fixed": ("0",)}, InvalidInput, "no width of this network is free to change"),
        (stack(nn.Conv2d(3, 8, 1)), {"fixed": ("7",)}, InvalidInput, "fixed: 7 is no convolution or linear layer"),
        (
            nn.Sequential(*stack(nn.Conv2d(3, 8, 1)), nn.modules.linear.NonDynamicallyQuantizableLinear(3, 3)),
            {},
            InvalidInput,
            "4 is a NonDynamicallyQuantizableLinear; elastic are Conv2d, Linear, BatchNorm2d",
        ),
        (stack(nn.Conv2d(3, 8, 1), nn.GroupNorm(2, 8)), {}, TracingError, "GroupNorm"),
    ],
)
def test_networks_and_spaces_that_cannot_be_are_refused(module, options, error, message):
    with pytest.raises(error, match=message):
        make_elastic(module, (3, 8, 8), **options)


def test_widths_lie_evenly_from_the_lowest_in_whole_groups():
    net = make_elastic(stack(nn.Conv2d(3, 40, 1), nn.Conv2d(40, 40, 1, groups=10), nn.Conv2d(40, 8, 1)), (3, 4, 4), lowest=0.3)
    assert [d.choices for d in net.space.dimensions] == [tuple(range(12, 41, 4)), tuple(range(3, 9))]
