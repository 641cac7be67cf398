"""How does a run in several processes give what one gives? They share each batch, its statistics and its gradients; the first writes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import FrameType
from typing import Any, Literal

import torch
from lightning_fabric import Fabric
from torch import Tensor
from torch import distributed as dist
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from tipslib.errors import TipslibError


class ProcessLost(TipslibError):
    """Of a run in several processes one has ended before the others, which cannot go on without it."""

    remedy = (
        "What the lost process itself said stands above, if it was not killed. Give the same command again, with as many processes as you "
        "like: the run goes on from its last checkpoint."
    )


LOST = (
    "another process of this run has ended, or whoever started this one ends it. What the last checkpoint holds is kept: give the same "
    "command again, with as many processes as you like"
)


def tell_of_loss() -> None:
    """From now on SIGTERM, by which `torchrun` ends the processes that are left when one is lost, is a ProcessLost."""

    def end(number: int, frame: FrameType | None) -> None:
        raise ProcessLost(LOST)

    signal.signal(signal.SIGTERM, end)


def make_fabric(device: str = "auto", precision: Literal["32-true", "bf16-mixed"] = "32-true") -> Fabric:
    """Device and precision; the processes are those that `torchrun` has started, or this one alone.

    "bf16-mixed" is bfloat16 where the device computes in it. Elsewhere it is single precision: bfloat16 would only be imitated there,
    in several times as long.
    """
    started = {name: int(os.environ.get(name, 1)) for name in ("LOCAL_WORLD_SIZE", "GROUP_WORLD_SIZE")}
    if precision == "bf16-mixed" and not computes_in_bfloat16(device):
        precision = "32-true"
    fabric = Fabric(accelerator=device, devices=started["LOCAL_WORLD_SIZE"], num_nodes=started["GROUP_WORLD_SIZE"], precision=precision)
    fabric.launch()
    return fabric


def computes_in_bfloat16(device: str = "auto") -> bool:
    """Whether the device that `make_fabric` would take has instructions for bfloat16, or a processor at least kernels for it."""
    if device != "cpu" and torch.cuda.is_available():
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device != "cpu" and torch.backends.mps.is_available():
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def several() -> bool:
    """Whether this run has more than one process."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(value: Tensor) -> Tensor:
    """The sum over all processes, a new tensor; each has the same bits.

    Raises
    ------
    ProcessLost
        A process is gone.
    """
    total = value.detach().clone()
    with _told_of_loss():
        dist.all_reduce(total)
    return total


def of_the_first(value: Tensor) -> Tensor:
    """The first process's tensor, in every process; ProcessLost as for `summed`."""
    if several():
        with _told_of_loss():
            dist.broadcast(value, 0)
    return value


def mean(value: Tensor) -> Tensor:
    """The mean over all processes of a run."""
    return summed(value / dist.get_world_size()) if several() else value


def anywhere(condition: bool) -> bool:
    """Whether it is so in any process; all wait for each other here."""
    if not several():
        return condition
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(summed(torch.tensor([float(condition)], device=device)).item())


def one_batch() -> AbstractContextManager[object]:
    """In this context batch norms in training mode normalise by the batch of all processes, as one process would."""
    return _OneBatch() if several() else nullcontext()


@contextmanager
def _told_of_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        raise ProcessLost(LOST) from error


class _Summed(torch.autograd.Function):
    """The sum over all processes; as each has a summand in it, so are gradients summed."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return summed(value)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        return summed(gradients[0])


class _OneBatch(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        return (batch_norm if func is F.batch_norm else func)(*args, **(kwargs or {}))


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, in training mode by the statistics of all processes' (N, C, ...) inputs, of whatever sizes."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x, channels = input.float(), input.shape[1]
    over, shape = [d for d in range(x.ndim) if d != 1], (1, channels, *[1] * (x.ndim - 2))
    first: Tensor = _Summed.apply(torch.cat([x.sum(over), x.new_tensor([x.numel() / channels])]))
    count = first[-1].detach()
    centre = first[:-1] / count
    centred = x - centre.view(shape)
    variance: Tensor = _Summed.apply(centred.square().sum(over)) / count
    with torch.no_grad():
        if running_mean is not None:
            running_mean.lerp_(centre, momentum)
        if running_var is not None:
            running_var.lerp_(variance * count / (count - 1), momentum)
    found = centred * (variance + eps).rsqrt().view(shape)
    found = found if weight is None else found * weight.view(shape)
    found = found if bias is None else found + bias.view(shape)
    return found.to(input.dtype)
