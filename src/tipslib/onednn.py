"""Which gradient does oneDNN, PyTorch's library for processors, get wrong? One, and a training here goes round it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
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
    """A 1 x 1 convolution looks at every s-th pixel only, so it is one of stride 1 of those pixels."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and not kwargs and len(args) >= 4:
            x, weight, bias, stride, padding = (*args, 0)[:5]
            few = x.device.type == "cpu" and x.shape[1] < BLOCK and weight.shape[2:] == (1, 1)
            if few and _pair(padding) in ((0, 0), ("valid", "valid")) and (steps := _pair(stride)) != (1, 1):
                return func(x[..., :: steps[0], :: steps[1]], weight, bias, 1, 0, *args[5:])
        return func(*args, **(kwargs or {}))


def _pair(value: Any) -> tuple[Any, ...]:
    return (value, value) if isinstance(value, int | str) else tuple(value)
