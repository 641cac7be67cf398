"""OFA: its phases, and channels sorted without changing what the full network computes."""

import pytest
import torch
from test_strategies import Recorder, Toy, batch, supernet
from torch import nn

from tipslib.anytime.elastic import make_elastic
from tipslib.anytime.ofa import OFA, inverted_residuals
from tipslib.anytime.strategies import train_supernet
from tipslib.anytime.supernets import mobilenet_v2_supernet, resnet18_supernet
from tipslib.errors import InvalidInput
from tipslib.processes import make_fabric
from tipslib.training import Recipe


def shaken(net, seed=0):
    """Norms as after training: no two channels alike."""
    generator = torch.Generator().manual_seed(seed)
    for norm in net.batch_norms:
        for tensor in (norm.weight.data, norm.bias.data, norm.running_mean, norm.running_var):
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return net


def test_blocks_of_mobilenet_v2_are_found_and_a_resnet_is_refused():
    net = mobilenet_v2_supernet(width=0.25)
    blocks = inverted_residuals(net)
    assert len(blocks) == 16  # 17, of which the first does not expand
    for block in blocks:
        assert block.projection.in_channels == net.space.largest[block.dimension]
    assert len({block.dimension for block in blocks}) == 16
    with pytest.raises(InvalidInput, match="no inverted residuals"):
        OFA(resnet18_supernet(width=0.125))


def test_sorting_keeps_the_function_of_the_full_network_and_puts_large_norms_first():
    net = shaken(mobilenet_v2_supernet(width=0.25)).eval()
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(images)
        ofa = OFA(net)
        ofa.begin(2)
        net.eval()
        torch.testing.assert_close(net(images), before, rtol=1e-4, atol=1e-5)
    for block in ofa.blocks:
        norms = block.projection.weight.abs().sum((0, 2, 3))
        assert (norms.diff() <= 0).all()


def test_sorting_before_the_last_phase_keeps_the_function_of_ratio_four_too():
    net = shaken(mobilenet_v2_supernet(width=0.25)).eval()
    ofa = OFA(net)
    images = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    ofa.begin(2)
    with torch.no_grad():
        for block in ofa.blocks:  # as if trained on
            block.projection.weight.add_(torch.randn(block.projection.weight.shape, generator=torch.Generator().manual_seed(1)))
        net.eval()
        four = ofa.widths([4] * len(ofa.blocks))
        before = []
        for widths in (net.space.largest, four):
            net.set_width(widths)
            before.append(net(images))
        ofa.begin(3)
        net.eval()
        for widths, expected in zip((net.space.largest, four), before, strict=True):
            net.set_width(widths)
            torch.testing.assert_close(net(images), expected, rtol=1e-3, atol=1e-4)


def test_each_block_draws_its_ratio_and_outputs_stay_full():
    net = mobilenet_v2_supernet(width=0.25)
    ofa = OFA(net)
    hidden = [block.dimension for block in ofa.blocks]
    widths = ofa.widths([6, 4, 3, *[6] * 13])
    for place, ratio in zip(hidden[:3], (6, 4, 3), strict=True):
        dimension = net.space.dimensions[place]
        target = dimension.high * ratio / 6
        assert abs(widths[place] - target) == min(abs(choice - target) for choice in dimension.choices)
    others = [i for i in range(len(net.space)) if i not in hidden]
    assert all(widths[i] == net.space.largest[i] for i in others)


def test_phases_train_the_full_network_then_two_ratios_then_three(monkeypatch):
    net = supernet("OFA", norms=True)
    seen = {1: set(), 2: set(), 3: set()}
    counts = {1: set(), 2: set(), 3: set()}
    recorder = Recorder(net)
    original = OFA._passes

    def passes(self, *arguments):
        recorder.passes, recorder.losses = [], []
        result = original(self, *arguments)
        seen[len(self._ratios)].update(recorder.passes)
        counts[len(self._ratios)].add(len(recorder.passes))
        return result

    monkeypatch.setattr(OFA, "_passes", passes)
    ofa = OFA(net)
    train_supernet(ofa, Toy(), Recipe(epochs=9, learning_rate=0.05, warmup_epochs=2), seed=0, fabric=make_fabric("cpu"))
    assert [phase.epochs for phase in ofa.phases(9, 3)] == [5, 1, 3]
    assert counts == {1: {1}, 2: {4}, 3: {4}}
    assert seen == {1: {(24, 4)}, 2: {(24, 4), (16, 4)}, 3: {(24, 4), (16, 4), (12, 4)}}


def test_the_teacher_is_the_full_network_as_the_first_phase_left_it():
    net, images = supernet("OFA"), batch()[0]
    ofa = OFA(net)
    ofa.begin(1)
    with torch.no_grad():
        for p in net.parameters():  # as if trained
            p.mul_(1.5)
        expected = net(images).softmax(1)
        for ratios in (2, 3):
            ofa.begin(ratios)
            for p in net.parameters():
                p.mul_(0.5)
    torch.testing.assert_close(ofa._teacher.probabilities(net.space.largest, images), expected)


def test_phases_out_of_order_and_of_another_checkpoint_are_refused():
    with pytest.raises(InvalidInput, match="in order"):
        OFA(supernet("OFA")).begin(3)
    ofa = OFA(supernet("OFA"))
    state = ofa.state_dict()
    ofa.begin(2)
    with pytest.raises(InvalidInput, match="phase with 1 ratios"):
        ofa.load_state_dict(state)


def test_what_mixes_channels_or_forks_is_no_inverted_residual():
    def blocks(*middle):
        layers = [nn.Conv2d(3, 8, 1), *middle, nn.Conv2d(8, 8, 3, groups=8, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)]
        net = make_elastic(nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)), (3, 6, 6))
        return inverted_residuals(net)

    assert len(blocks(nn.BatchNorm2d(8), nn.ReLU6())) == 1
    assert not blocks(nn.PReLU(1))
    assert not blocks(nn.AvgPool2d(2))
