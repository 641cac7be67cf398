"""Which gradient does oneDNN, PyTorch's library for processors, get wrong? One, and a training here goes round it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

BLOCK = 8
"""Channels that AVX2 works on at a time, in single precision."""


def right_gradients() -> AbstractContextManager[object]:
    """In this context strided 1 x 1 convolutions of few channels have the right gradients on a processor without AVX-512, too.

    There the gradient by the weights of one with less than `BLOCK` input channels, with channels last, crashes, never ends or is wrong:
    oneDNN writes beyond the end of a buffer (uxlfoundation/oneDNN, issue 6035).
    """
    return nullcontext() if torch.backends.cpu.get_cpu_capability() == "AVX512" else _Thinned()


class _Thinned(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (conv2d if func is F.conv2d else func)(*args, **(kwargs or {}))


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Tensor:
    """`torch.nn.functional.conv2d`; of few channels and 1 x 1 it looks at every s-th pixel only, as one of stride 1 of those pixels."""
    few = input.device.type == "cpu" and input.shape[1] < BLOCK and weight.shape[2:] == (1, 1)
    if few and _pair(padding) in ((0, 0), ("valid", "valid")) and (steps := _pair(stride)) != (1, 1):
        return F.conv2d(input[..., :: steps[0], :: steps[1]], weight, bias, 1, 0, dilation, groups)
    return F.conv2d(input, weight, bias, stride, padding, dilation, groups)


def _pair(value: Any) -> tuple[Any, ...]:
    return (value, value) if isinstance(value, int | str) else tuple(value)
