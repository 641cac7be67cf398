import contextlib
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import resnet18

from tipslib.branched.exits import POLICIES, inference_modes, leave_when
from tipslib.branched.networks import RESNET_BLOCKS, add_exits, branched_mobilenet, branched_resnet, convolutions, mobilenet, resnet
from tipslib.errors import InvalidInput, TracingError


def counted(net, shape):
    """MACs of the whole forward pass by torch's own counter."""
    net.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.zeros(1, *shape))
    return counter.get_total_flops() // 2


def test_macs_of_the_authors_resnet18():
    assert [round(m / 1e6, 2) for m in branched_resnet(18).macs()] == [152.81, 287.04, 421.27, 555.49]
    assert round(counted(resnet(18, 10), (3, 32, 32)) / 1e6, 2) == 555.42


@pytest.mark.parametrize("depth", list(RESNET_BLOCKS))
@pytest.mark.parametrize("exits", [3, 4, 6])
def test_macs_to_the_last_exit_are_those_of_the_whole_pass(depth, exits):
    net = branched_resnet(depth, classes=7, width=0.25, exits=exits)
    macs = net.macs()
    assert len(macs) == exits
    assert macs[-1] == counted(net, (3, 32, 32))
    assert list(macs) == sorted(macs)


class Reached(Exception):
    """The forward pass has got to the place asked for."""


def counted_to(backbone, place, shape):
    """MACs of the backbone up to and with the module `place`, by torch's own counter: the forward pass is broken off there."""

    def stop(*_):
        raise Reached

    handle = dict(backbone.named_modules())[place].register_forward_hook(stop)
    backbone.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter, contextlib.suppress(Reached):
        backbone(torch.zeros(1, *shape))
    handle.remove()
    return counter.get_total_flops() // 2


INSIDE = ["layer1.0.relu1", "layer2.0.relu1", "layer3.0.conv2", "layer4.0.relu1"]
"""Before the convolution of a shortcut, which the exit does not need."""


@pytest.mark.parametrize(
    ("make", "places", "pool"),
    [
        (lambda: resnet(18, 7, 0.25), ["layer1", "layer2", "layer3"], (8, 4, 2)),
        (lambda: resnet(10, 7, 0.25), INSIDE, 1),
        (lambda: resnet(34, 7, 0.125), [f"layer3.{b}.relu1" for b in range(6)], 2),
        (lambda: mobilenet(7), ["features.3", "features.6", "features.10"], 8),
        (lambda: mobilenet(7, 0.5), ["features.1.block.0", "features.4.block.2.fc1", "features.9.block.1"], 1),
    ],
)
def test_macs_to_each_exit_are_those_of_a_pass_broken_off_there(make, places, pool):
    net = add_exits(make(), places, pool=pool)
    pools = (pool,) * len(places) if isinstance(pool, int) else pool
    heads = 0
    for place, size, macs in zip(places, pools, net.macs(), strict=False):
        backbone, channels = make(), []
        shapes = dict(backbone.named_modules())[place].register_forward_hook(lambda m, i, o, found=channels: found.append(o.shape[1]))
        expected = counted_to(backbone, place, (3, 32, 32))
        shapes.remove()
        heads += channels[0] * size**2 * 7
        assert macs == expected + heads
    assert net.macs()[-1] == counted(make(), (3, 32, 32)) + heads


def test_macs_of_mobilenet_and_at_another_resolution():
    net = branched_mobilenet()
    assert net.macs()[-1] == counted(net, (3, 32, 32))
    thin = branched_resnet(10, width=0.125)
    assert thin.macs((3, 64, 64))[-1] == counted(thin, (3, 64, 64))


@pytest.mark.parametrize("exits", [3, 4, 8])
def test_exits_leave_the_backbone_as_it_was(exits):
    torch.manual_seed(0)
    backbone = resnet(18, 10, 0.125)
    places = ["layer1", "layer2", "layer3"] if exits == 4 else [convolutions(backbone)[i] for i in range(0, 2 * exits - 2, 2)]
    net = add_exits(backbone, places)
    x = torch.randn(4, 3, 32, 32)
    backbone.eval()
    net.eval()
    assert torch.equal(net(x)[-1], backbone(x))
    assert {p.data_ptr() for p in backbone.parameters()} <= {p.data_ptr() for p in net.parameters()}


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "oracle"])
@pytest.mark.parametrize("exits", [4, 7])
def test_early_exit_answers_equal_the_offline_ones_and_stop_computing(policy, exits):
    torch.manual_seed(0)
    net = branched_resnet(18, classes=5, width=0.125, exits=exits).eval()
    for head in net.heads:
        head[-1].weight.data *= 40
    x = torch.randn(24, 3, 32, 32)
    with torch.no_grad():
        logits = torch.stack(net(x))
    threshold = float(torch.distributions.Categorical(logits=logits[0]).entropy().median())
    rows = [0]
    hook = net.stages[-1].register_forward_hook(lambda m, i, o: rows.append(len(i[0])))
    classes, left = net.predict(x, leave_when(policy, threshold))
    hook.remove()
    scores = POLICIES[policy](logits, torch.zeros(24, dtype=torch.long))
    scores[-1] = -torch.inf
    expected = (scores <= threshold).int().argmax(0)
    assert torch.equal(left, expected)
    assert torch.equal(classes, logits.argmax(-1)[expected, torch.arange(24)])
    assert rows[-1] == int((left == exits - 1).sum())
    assert (left < exits - 1).any()
    modes = inference_modes(logits, classes, net.macs(), policy, [threshold])
    assert modes.macs[0] == pytest.approx(sum(net.macs()[e] for e in left.tolist()) / 24)
    assert modes.accuracy[0] == 1


def test_exits_on_somebody_elses_network():
    net = add_exits(resnet18(num_classes=6), ["layer1", "layer3.0"], input_shape=(3, 64, 64), pool=(2, 1)).eval()
    assert [tuple(z.shape) for z in net(torch.randn(2, 3, 64, 64))] == [(2, 6)] * 3
    assert len(net.macs()) == 3


def test_heads_are_where_the_network_is_and_as_precise():
    backbone = resnet(10, 5, 0.125).to("meta")
    assert {p.device.type for p in add_exits(backbone, ["layer1"]).parameters()} == {"meta"}
    double = add_exits(resnet(10, 5, 0.125).double(), ["layer1"])
    assert [z.dtype for z in double(torch.randn(2, 3, 32, 32, dtype=torch.float64))] == [torch.float64] * 2
    assert double.macs() == add_exits(resnet(10, 5, 0.125), ["layer1"]).macs()


class Branching(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x).mean((2, 3)) if x.sum() > 0 else x.mean((2, 3))


class NoClasses(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return F.relu(self.conv(x))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer9"]), InvalidInput, "no exit position 'layer9'; there are stem"),
        (lambda: add_exits(resnet(10, 10, 0.125), []), InvalidInput, "no exit positions"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer2", "layer1"]), InvalidInput, "order of computation"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1", "layer1"]), InvalidInput, "named twice"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["flatten"]), InvalidInput, "needs a feature map"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1"], pool=(1, 2)), InvalidInput, "2 pool sizes for 1 exits"),
        (lambda: add_exits(NoClasses(), ["conv"]), InvalidInput, r"\(N, C\) is wanted"),
        (lambda: add_exits(Branching(), ["conv"]), TracingError, "control flow"),
        (lambda: branched_resnet(12), InvalidInput, "there are 10, 18, 34, 50"),
        (lambda: branched_resnet(18, exits=1), InvalidInput, "allowed are 2 to 16"),
        (lambda: branched_resnet(18, width=0.0), InvalidInput, "at least one channel"),
        (lambda: branched_resnet(18, width=math.nan), InvalidInput, "at least one channel"),
        (lambda: branched_mobilenet(width=math.nan), InvalidInput, "above 0 and finite"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1"], pool=0), InvalidInput, "pool = 0; whole numbers from 1"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1"], pool=(1.5,)), InvalidInput, "whole numbers from 1"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1"], input_shape=(1, 32, 32)), InvalidInput, r"shape \(1, 32, 32\) do not go"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1"], input_shape=(32, 32)), InvalidInput, r"shape \(32, 32\) do not go"),
        (lambda: add_exits(resnet(10, 10, 0.125), ["layer1"], input_shape=(3, -1, 32)), InvalidInput, "do not go"),
        (lambda: branched_resnet(10, width=0.125).macs((1, 32, 32)), InvalidInput, r"shape \(1, 32, 32\) do not go"),
        (lambda: leave_when("oracle", 0.1), InvalidInput, "oracle"),
        (lambda: leave_when("coin", 0.1), InvalidInput, "no exit policy 'coin'; there are entropy"),
        *((lambda t=t: leave_when("entropy", t), InvalidInput, f"threshold = {t}; it must lie") for t in (-0.1, math.nan, math.inf)),
    ],
)
def test_bad_input_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_predict_refuses_training_mode():
    net = branched_resnet(10, width=0.125)
    with pytest.raises(InvalidInput, match="evaluation mode"):
        net.predict(torch.randn(2, 3, 32, 32), leave_when("entropy", 1.0))


def test_a_threshold_above_the_largest_entropy_is_refused_when_that_is_known():
    net = branched_resnet(10, classes=5, width=0.125).eval()
    images = torch.randn(2, 3, 32, 32)
    net.predict(images, leave_when("entropy", math.log(5)))
    with pytest.raises(InvalidInput, match=r"threshold = 99; it must lie in \[0, log C\] = \[0, 1.6094\]"):
        net.predict(images, leave_when("entropy", 99))


@pytest.mark.parametrize("exit_", [0, 2, 3])
def test_logits_that_are_not_finite_get_no_class(exit_):
    net = branched_resnet(10, classes=5, width=0.125).eval()
    broken = net.heads[exit_] if exit_ < 3 else net.stages[-1].classifier
    next(broken.parameters()).data[0] = math.nan
    with pytest.raises(InvalidInput, match=f"logits of exit {exit_} hold NaN"):
        net.predict(torch.randn(4, 3, 32, 32), leave_when("entropy", 0.0))


def test_images_that_are_not_finite_get_no_class():
    images = torch.randn(4, 3, 32, 32)
    images[2, 0, 5, 5] = math.nan
    with pytest.raises(InvalidInput, match="are all images finite"):
        branched_resnet(10, width=0.125).eval().predict(images, leave_when("entropy", 1.0))


@pytest.mark.parametrize("said", [torch.ones(4, dtype=torch.long), torch.ones(3, dtype=torch.bool)])
def test_predict_wants_one_boolean_a_sample(said):
    with pytest.raises(InvalidInput, match="one boolean for each of 4 samples"):
        branched_resnet(10, width=0.125).eval().predict(torch.randn(4, 3, 32, 32), lambda seen: said)
