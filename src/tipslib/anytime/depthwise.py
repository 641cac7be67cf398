"""How is a depthwise convolution trained in bfloat16 on a processor? Around two gradients for which torch has only slow code there."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Pair = tuple[int, ...]


def has_slow_gradients(x: Tensor, weight: Tensor, stride: Pair, groups: int) -> bool:
    """Whether a convolution is depthwise, in bfloat16 on the CPU, strided or of a map smaller than its kernel, and is trained."""
    trained = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    kind = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
    there = trained and x.device.type == "cpu" and kind == torch.bfloat16
    return there and groups == x.shape[1] == len(weight) and (max(stride) > 1 or _is_small(x, weight))


def depthwise(x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
    """What `F.conv2d` computes in bfloat16, for (N, c, H, W) images and (c, 1, k, k) weights, with gradients that are quick.

    On a map smaller than the kernel the gradient by the weights takes several times what it takes in float32, and such a layer is
    cheap, so it runs in float32. Where the stride is above 1, the gradient by the input takes ten to a hundred times what it takes at
    stride 1, so it is computed as one of stride 1.
    """
    with torch.autocast("cpu", enabled=False):
        kind = torch.float32 if _is_small(x, weight) else torch.bfloat16
        tensors = x.to(kind), weight.to(kind), None if bias is None else bias.to(kind)
        if kind == torch.float32:
            return F.conv2d(*tensors, stride, padding, dilation, len(weight)).bfloat16()
        made: Tensor = _Strided.apply(*tensors, stride, padding, dilation)
        return made


def _is_small(x: Tensor, weight: Tensor) -> bool:
    return any(side < k for side, k in zip(x.shape[2:], weight.shape[2:], strict=True))


class _Strided(torch.autograd.Function):
    """A depthwise convolution that makes some of the outputs which one of stride 1 makes.

    So its gradient by the input is that of stride 1 where the other outputs' gradients are zero.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Pair, padding: Pair, dilation: Pair) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = stride, padding, dilation
        return F.conv2d(x, weight, bias, stride, padding, dilation, len(weight))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.settings
        by_x, by_weight, by_bias = ctx.needs_input_grad[:3]

        def gradients(of: Tensor, stride: Pair, wanted: list[bool]) -> tuple[Tensor | None, ...]:
            sizes = [len(weight)]
            found: tuple[Tensor | None, ...] = torch.ops.aten.convolution_backward(
                of, x, weight, sizes, stride, padding, dilation, False, (0, 0), len(weight), wanted
            )
            return found

        _, second, third = gradients(gradient, stride, [False, by_weight, by_bias])
        if not by_x:
            return None, second, third, None, None, None
        geometry = zip(x.shape[2:], padding, dilation, weight.shape[2:], strict=True)
        sides = [side + 2 * p - d * (k - 1) for side, p, d, k in geometry]
        dense = torch.empty((*x.shape[:2], *sides), dtype=x.dtype, memory_format=torch.channels_last).zero_()
        dense[:, :, :: stride[0], :: stride[1]] = gradient
        return gradients(dense, (1, 1), [True, False, False])[0], second, third, None, None, None
