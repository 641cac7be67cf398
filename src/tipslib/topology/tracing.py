"""What does a PyTorch network compute? Traced without running it; a failure names the place and the way out."""

from __future__ import annotations

import copy
import inspect
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import fx, nn
from torch.nn.parameter import is_lazy

from tipslib.errors import TracingError, require
from tipslib.topology.graph import NetworkGraph
from tipslib.topology.reader import NORMALISATIONS, Reader, Shapes, owner_of, place, way_out

_FAILURES = (TypeError, ValueError, RuntimeError, AttributeError, LookupError, AssertionError)
"""What a network's own code raises when it meets a symbolic value, or an input that does not fit."""

_KEEPING_SHAPES = (*NORMALISATIONS, nn.ReLU, nn.ReLU6, nn.SiLU, nn.GELU, nn.Hardswish, nn.Sigmoid, nn.Dropout)


def trace(module: nn.Module, example_input: torch.Tensor | Sequence[int], *, leaves: Iterable[str | type[nn.Module]] = ()) -> NetworkGraph:
    """Read the graph of a network: one node a feature map, one edge an operation (TIPS, 3.1.1, Fig. 9, C.1).

    Operations are convolutions, linear layers, pooling and additions. Elementwise layers, normalisation, dropout, reshaping and
    squeeze-excitation belong to the operation they follow. Where several feature maps meet (sum, concatenation, elementwise
    product), the result is a feature map of its own, which an edge of kind "addition" enters from each. Convolutions with a
    stride and pooling of any kind are marked required, and so is the only operation that leaves the input or enters the output.
    What does not lead from the input to the output (an auxiliary head that is not returned) is left out.

    Parameters
    ----------
    module
        Any network that `torch.fx` traces symbolically. It is read as in evaluation mode, and left as it was.
    example_input
        A tensor, or the shape of one, batch dimension included. Only shapes are computed, on the meta device.
    leaves
        Submodules, by qualified name or by class, that count as one operation of kind "leaf", whatever they compute.

    Returns
    -------
    NetworkGraph
        Operations are named after their modules (functions after the module that calls them), feature maps after the operation
        that makes them; "a(b)" is the edge by which b enters the sum a.

    Raises
    ------
    InvalidInput
        An example input that is neither a tensor nor a shape, names in `leaves` that the network does not have, lazy parameters.
    TracingError
        What has no such graph: control flow that depends on data, matrix products of feature maps (attention), layers with
        parameters of an unknown kind, several inputs or outputs, an input that does not fit. The message names the place and the
        way out.

    Notes
    -----
    A function of one feature map without weights (softmax, a shift, attention over the parts of one joint projection) counts as
    elementwise. An in-place call is read as if it returned a new value, so the old name must not be used after it.
    """
    example = _example(example_input)
    opaque = _opaque(module, leaves)
    inert = _on_meta(module).eval()
    graph = _symbolic(inert, opaque)
    constants = {name: value for name, value in vars(inert).items() if isinstance(value, torch.Tensor) and not value.is_meta}
    for name, value in constants.items():
        setattr(inert, name, value.to("meta"))
    try:
        shapes = _shapes(inert, graph, example.to("meta"))
    except TracingError:
        shapes = _real_shapes(module, constants, graph, example)
    return Reader(inert, opaque, shapes).read(graph)


def _example(example_input: torch.Tensor | Sequence[int]) -> torch.Tensor:
    if isinstance(example_input, torch.Tensor):
        return example_input.detach()
    shape = tuple(example_input) if isinstance(example_input, Sequence) and not isinstance(example_input, str) else ()
    require(
        bool(shape) and all(isinstance(size, int) and size > 0 for size in shape),
        f"example_input must be a tensor or a shape such as (1, 3, 224, 224), not {example_input!r}",
    )
    return torch.empty(shape, device="meta")


def _opaque(module: nn.Module, leaves: Iterable[str | type[nn.Module]]) -> frozenset[str]:
    """Qualified names of the submodules declared leaves."""
    plain = isinstance(module, nn.Module) and not isinstance(module, torch.jit.ScriptModule) and not hasattr(module, "_orig_mod")
    require(plain, f"only a torch.nn.Module that is not compiled can be traced, not {type(module).__name__}; give the original module")
    chosen: set[str] = set()
    for leaf in [leaves] if isinstance(leaves, (str, type)) else leaves:
        found = [
            name for name, part in module.named_modules() if name and (name == leaf if isinstance(leaf, str) else isinstance(part, leaf))
        ]
        require(bool(found), f"leaves: {leaf!r} is no submodule of {type(module).__name__}; names are those of named_modules()")
        chosen.update(found)
    return frozenset(chosen)


def _on_meta(module: nn.Module) -> nn.Module:
    """A copy whose tensors have shapes only: nothing is computed, and the caller's module is not touched."""
    tensors = [*module.parameters(), *module.buffers()]
    tensors += [value for part in module.modules() for value in vars(part).values() if isinstance(value, torch.Tensor)]
    require(not any(map(is_lazy, tensors)), "the module has lazy parameters without a shape; run it on one input first")
    memo: dict[int, Any] = {}
    for tensor in tensors:
        empty = torch.empty_like(tensor, device="meta", requires_grad=False)
        memo[id(tensor)] = nn.Parameter(empty, requires_grad=False) if isinstance(tensor, nn.Parameter) else empty
    return copy.deepcopy(module, memo)


class _Tracer(fx.Tracer):
    """Traces into everything but PyTorch's own layers and the modules declared opaque; remembers where it failed."""

    def __init__(self, opaque: frozenset[str]) -> None:
        super().__init__()
        self.opaque = opaque
        self.failed_in = ""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.opaque or super().is_leaf_module(m, module_qualified_name)

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except _FAILURES:
            self.failed_in = self.failed_in or self.path_of_module(m)
            raise


def _symbolic(module: nn.Module, opaque: frozenset[str]) -> fx.Graph:
    """The calls of the network's forward pass, of its first argument alone; constants it makes become attributes of `module`."""
    others = list(inspect.signature(module.forward).parameters.values())[1:]
    needed = [p.name for p in others if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    if needed:
        raise TracingError(f"{type(module).__name__} takes further inputs ({', '.join(needed)}); wrap it in a module that takes one")
    tracer = _Tracer(opaque)
    try:
        return tracer.trace(module, concrete_args={p.name: p.default for p in others if p.default is not p.empty} or None)
    except _FAILURES as error:
        raise TracingError(
            f"{place(module, tracer.failed_in)} cannot be traced{_line(error)}: {error}. torch.fx follows no control flow that depends "
            f"on data. {way_out(tracer.failed_in)}"
        ) from error


def _line(error: BaseException) -> str:
    """Where in the network's code it happened: the innermost frame outside PyTorch and this package."""
    inside = (str(Path(torch.__file__).parent), str(Path(__file__).parent), "<")
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith(inside)]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno}: `{frames[-1].line}`)" if frames else ""


class _Observer(fx.Interpreter):
    """Runs a traced network and notes the shape of every value."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.shapes: Shapes = {}
        self.at = ""

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Skips layers that keep every shape: on the meta device they would take most of the time."""
        if args and isinstance(args[0], torch.Tensor) and args[0].is_meta and isinstance(self.fetch_attr(target), _KEEPING_SHAPES):
            return args[0]
        return super().call_module(target, args, kwargs)

    def run_node(self, n: fx.Node) -> Any:
        self.at = owner_of(n)
        value = super().run_node(n)
        self.shapes[n.name] = next((tuple(part.shape) for part in _parts(value) if isinstance(part, torch.Tensor)), None)
        return value


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (tuple, list)):
        for part in value:
            yield from _parts(part)
    else:
        yield value


def _real_shapes(module: nn.Module, constants: dict[str, torch.Tensor], graph: fx.Graph, example: torch.Tensor) -> Shapes:
    """As `_shapes`, by running the network in earnest: a leaf may look at values, which the meta device does not have."""
    copied = copy.deepcopy(module).eval()
    for name, value in constants.items():
        setattr(copied, name, value)
    if example.is_meta:
        device = next((tensor.device for tensor in module.parameters()), torch.device("cpu"))
        example = torch.zeros(example.shape, device=device)
    return _shapes(copied, graph, example)


def _shapes(module: nn.Module, graph: fx.Graph, example: torch.Tensor) -> Shapes:
    """Shape of the value of every call."""
    observer = _Observer(fx.GraphModule(module, graph))
    try:
        with torch.no_grad():
            observer.run(example)
    except _FAILURES as error:
        reason = str(error).split("\n", maxsplit=1)[0]
        raise TracingError(
            f"an input of shape {tuple(example.shape)} does not pass {place(module, observer.at)}: {reason}; give an example that fits"
        ) from error
    return observer.shapes
