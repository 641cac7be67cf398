"""Depthwise convolutions in bfloat16: outputs bit for bit torch's, gradients those of float64."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tipslib.anytime.depthwise import depthwise, has_slow_gradients
from tipslib.anytime.elastic import make_elastic
from tipslib.processes import computes_in_bfloat16

CASES = [
    # side, kernel, stride, padding, dilation
    ((8, 8), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((7, 10), (3, 3), (2, 2), (1, 1), (1, 1)),
    ((9, 8), (5, 3), (2, 1), (0, 1), (1, 1)),
    ((11, 12), (3, 3), (3, 2), (2, 0), (2, 2)),
    ((8, 8), (4, 4), (4, 4), (0, 0), (1, 1)),
    ((6, 6), (1, 1), (2, 2), (0, 0), (1, 1)),
    ((2, 2), (3, 3), (1, 1), (1, 1), (1, 1)),
    ((2, 4), (3, 3), (2, 2), (1, 1), (1, 1)),
]


def tensors(side, kernel, bias, channels=6):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(4, channels, *side, generator=generator).bfloat16().float().contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, 1, *kernel, generator=generator).bfloat16().float()
    return [t.requires_grad_() for t in (x, weight, *([torch.randn(channels, generator=generator).bfloat16().float()] if bias else []))]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("side", "kernel", "stride", "padding", "dilation"), CASES)
def test_gradients_are_those_of_double_precision(side, kernel, stride, padding, dilation, bias):
    given = tensors(side, kernel, bias)
    exact = [t.detach().double().requires_grad_() for t in given]
    made = depthwise(given[0], given[1], given[2] if bias else None, stride, padding, dilation)
    expected = F.conv2d(exact[0], exact[1], exact[2] if bias else None, stride, padding, dilation, 6)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = F.conv2d(given[0], given[1], given[2] if bias else None, stride, padding, dilation, 6)
    assert made.dtype == torch.bfloat16
    torch.testing.assert_close(made, plain, atol=0.02, rtol=0.01)
    gradient = torch.randn(made.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    found = torch.autograd.grad(made, given, gradient)
    for ours, theirs in zip(found, torch.autograd.grad(expected, exact, gradient.double()), strict=True):
        assert ours.dtype == torch.float32
        # without instructions for bfloat16 partial sums are rounded, too: by up to one step of 2**-8 at the size they reach
        atol = 0.04 if computes_in_bfloat16("cpu") else float(2**-8 * theirs.abs().max())
        torch.testing.assert_close(ours.double(), theirs, atol=atol, rtol=0.02)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_a_gradient_alone_is_that_of_all(wanted):
    given = tensors((8, 8), (3, 3), bias=True)
    geometry = ((2, 2), (1, 1), (1, 1))
    expected = torch.autograd.grad(depthwise(*given, *geometry).float().pow(2).sum(), given)[wanted]
    alone = [t.detach().requires_grad_(i == wanted) for i, t in enumerate(given)]
    torch.testing.assert_close(torch.autograd.grad(depthwise(*alone, *geometry).float().pow(2).sum(), alone[wanted])[0], expected)


def test_only_slow_gradients_are_gone_around():
    x, weight = tensors((8, 8), (3, 3), bias=False)
    small = tensors((2, 2), (3, 3), bias=False)[0]
    with torch.autocast("cpu", torch.bfloat16):
        assert has_slow_gradients(x, weight, (2, 2), 6)
        assert has_slow_gradients(small, weight, (1, 1), 6)
        assert not has_slow_gradients(x, weight, (1, 1), 6), "a stride of 1 is quick"
        assert not has_slow_gradients(x.detach(), torch.randn(6, 6, 3, 3, requires_grad=True), (2, 2), 1), "dense"
        assert not has_slow_gradients(x, torch.randn(12, 1, 3, 3), (2, 2), 6), "two outputs an input"
        assert not has_slow_gradients(x.to("meta"), weight, (2, 2), 6)
        with torch.no_grad():
            assert not has_slow_gradients(x, weight, (2, 2), 6), "not trained"
    assert not has_slow_gradients(x, weight, (2, 2), 6), "float32"
    assert has_slow_gradients(x.bfloat16(), weight.bfloat16(), (2, 2), 6)


@pytest.mark.parametrize("mode", ["zeros", "reflect"])
def test_a_supernet_in_bfloat16_learns_what_it_learns_in_float32(mode):
    """Widths sliced, a stride of 2, and a map smaller than the kernel."""
    torch.manual_seed(0)
    net = make_elastic(
        nn.Sequential(
            *(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, 2, 1, groups=8, padding_mode=mode), nn.Conv2d(8, 8, 1)),
            *(nn.Conv2d(8, 8, 3, 2, 1, groups=8), nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            nn.Linear(8, 4),
        ),
        (3, 8, 8),
    )
    net.set_width(net.space.at(0.6))
    x = torch.randn(16, 3, 8, 8)
    gradients = []
    for enabled in (True, False):
        net.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            F.cross_entropy(net(x).float(), torch.arange(16) % 4).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters()})
    for name, gradient in gradients[1].items():
        torch.testing.assert_close(gradients[0][name], gradient, atol=0.02 * float(gradient.abs().max()) + 1e-4, rtol=0.1)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0].values())
