"""Are the gradients right that a training goes by, where those of PyTorch's library for processors may not be? Against sums by hand."""

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from tipslib.onednn import _Thinned, right_gradients

COMPARE = """
import torch
from torch import nn

from tipslib.onednn import right_gradients

torch.manual_seed(0)
for channels in (*range(1, 10), 12, 16, 20):
    for outputs, stride in ((4, 2), (8, 2), (16, (2, 1)), (33, 3)):
        x = torch.randn(8, channels, 16, 16).to(memory_format=torch.channels_last).requires_grad_()
        layer = nn.Conv2d(channels, outputs, 1, stride).to(memory_format=torch.channels_last)
        with right_gradients():
            y = layer(x)
        weights = torch.randn_like(y)
        y.backward(weights)
        s, t = layer.stride
        pixels = x.detach()[:, :, ::s, ::t].double()
        by_hand = torch.einsum("nohw,nihw->oi", weights.double(), pixels)
        torch.testing.assert_close(layer.weight.grad[:, :, 0, 0].double(), by_hand, rtol=1e-4, atol=1e-4)
        by_input = torch.einsum("nohw,oi->nihw", weights.double(), layer.weight.detach()[:, :, 0, 0].double())
        torch.testing.assert_close(x.grad[:, :, ::s, ::t].double(), by_input, rtol=1e-4, atol=1e-4)
        assert x.grad.count_nonzero() <= by_input.numel()
"""


@pytest.mark.parametrize("capability", [None, "avx2", "default"])
def test_strided_convolutions_of_single_pixels_have_the_gradients_that_follow_from_their_sums(capability: str | None) -> None:
    """In a process of its own, which might otherwise take this one with it."""
    others = {} if capability is None else {"ATEN_CPU_CAPABILITY": capability, "ONEDNN_MAX_CPU_ISA": "AVX2"}
    command, env = [sys.executable, "-c", COMPARE], os.environ | others
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 1, 2),
        nn.Conv2d(4, 6, 1, (1, 3), bias=False),
        nn.Conv2d(4, 6, 1, 2, padding=1),
        nn.Conv2d(4, 6, 1, padding="same"),
        nn.Conv2d(4, 6, 1, 2, padding="valid"),
        nn.Conv2d(4, 6, 3, 2),
        nn.Conv2d(4, 6, 1),
        nn.Conv2d(4, 6, 1, 2, groups=2),
        nn.Conv2d(16, 6, 1, 2),
    ],
)
def test_no_output_changes(layer: nn.Conv2d) -> None:
    x = torch.randn(2, layer.in_channels, 9, 8)
    with _Thinned():
        thinned = layer(x)
    torch.testing.assert_close(thinned, layer(x))


def test_nothing_is_done_where_nothing_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    assert not isinstance(right_gradients(), _Thinned)
