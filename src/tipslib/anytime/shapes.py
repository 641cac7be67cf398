"""What shapes do the values of a network have, call by call? Traced without computing anything."""

from __future__ import annotations

import copy
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.utils.flop_counter import FlopCounterMode

from tipslib.errors import InvalidInput, TracingError
from tipslib.topology.reader import owner_of, place

MEETING_CALLS: frozenset[Any] = frozenset(
    {
        *(operator.add, operator.iadd, operator.sub, operator.isub, operator.mul, operator.imul, operator.truediv),
        *(torch.add, torch.sub, torch.mul, torch.div, torch.maximum, torch.minimum),
        *("add", "add_", "sub", "sub_", "mul", "mul_", "div", "div_"),
    }
)
"""Where feature maps meet element by element: their channels are the same."""

SAME_ENDS = "The two ends of a residual connection have the same number of channels"


@dataclass(frozen=True, eq=False)
class Trace:
    """The calls of a network, in their order.

    Attributes
    ----------
    module
        A copy of the network whose tensors have shapes only.
    nodes
        Its calls; `shape_of` has the shape of what each makes, for two images.
    macs
        Multiply-accumulates for one image.
    """

    module: nn.Module
    nodes: Sequence[fx.Node]
    macs: int

    def where(self, node: fx.Node) -> str:
        """The words for the place of a call."""
        return _where(self.module, node)


def trace(module: nn.Module, input_shape: Sequence[int]) -> Trace:
    """Follow one input of shape (C, H, W) through a network, as in evaluation mode; the network is left as it was.

    Raises
    ------
    TracingError
        `torch.fx` cannot trace it.
    InvalidInput
        The input does not fit; the message names the place.
    """
    inert = copy.deepcopy(module).to("meta").eval()
    try:
        traced = fx.symbolic_trace(inert)
    except Exception as error:
        where = f"{type(module).__name__}: {type(error).__name__}: {error}"
        raise TracingError(f"cannot trace {where}. Replace control flow that depends on data, or wrap it in a module of its own") from error
    images, run = torch.empty(2, *input_shape, device="meta"), _Shapes(traced)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            run.run(images)
    except (RuntimeError, ValueError, TypeError, LookupError) as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        ends = f". {SAME_ENDS}" if run.at.target in MEETING_CALLS else ""
        raise InvalidInput(f"an input of shape {tuple(images.shape)} does not pass {_where(inert, run.at)}: {reason}{ends}") from error
    return Trace(inert, tuple(traced.graph.nodes), int(counter.get_total_flops()) // (2 * len(images)))


class _Shapes(fx.Interpreter):
    """Notes the shape of every tensor, and where a run stops."""

    at: fx.Node

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.extra_traceback = False

    def run_node(self, n: fx.Node) -> Any:
        self.at = n
        value = super().run_node(n)
        n.meta["shape"] = tuple(value.shape) if isinstance(value, torch.Tensor) else ()
        return value


def shape_of(node: fx.Node) -> tuple[int, ...]:
    """Of the tensor that a call makes; empty where it makes none, or several."""
    shape: tuple[int, ...] = node.meta.get("shape", ())
    return shape


def argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    """What a call was given, by place or by name."""
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)


def _where(module: nn.Module, node: fx.Node) -> str:
    called = str(getattr(node.target, "__name__", node.target))
    return place(module, owner_of(node)) if node.op == "call_module" else f"{called} in {place(module, owner_of(node))}"
