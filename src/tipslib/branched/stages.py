"""How is a network cut in pieces? Traced in both modes, so that whatever it does in training only is still done in training only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from tipslib.errors import InvalidInput, TracingError, require

MISFIT = (RuntimeError, ValueError, TypeError, IndexError, AssertionError)
"""What a network raises when its input has the wrong shape."""


def misfit(shape: Sequence[int], error: Exception) -> InvalidInput:
    """The error for images of a shape that do not go through a network."""
    return InvalidInput(f"images of shape {tuple(shape)} do not go through the network: {error}. Give its own shape as (C, H, W)")


class ByMode(nn.Module):
    """One constant in training, another in evaluation: what a network's own code makes of `self.training`."""

    def __init__(self, training: Any, evaluation: Any) -> None:
        super().__init__()
        self.values = (evaluation, training)

    def forward(self) -> Any:
        """The constant of the mode that the network is in now."""
        return self.values[self.training]


@contextmanager
def mode(module: nn.Module, training: bool) -> Iterator[None]:
    """Within the context, training or evaluation mode; afterwards each submodule is in its own again."""
    own = {part: part.training for part in module.modules()}
    module.train(training)
    try:
        yield
    finally:
        for part, was in own.items():
            part.training = was


def cut(module: nn.Module, at: Sequence[str]) -> list[fx.GraphModule]:
    """The network as stages, one after the last call of each submodule in `at` and one to the end; they share its weights.

    A stage takes the values that are alive at its start and returns a tuple of those alive at its end, the one at the cut first; the last
    returns the network's output alone. Where the network's code depends on `self.training`, as in `F.dropout(x, 0.5, self.training)`, the
    stages follow their own `.train()` and `.eval()`.

    Raises
    ------
    TracingError
        The network cannot be traced, or computes something else in training than in evaluation.
    InvalidInput
        A position that does not exist or is out of order; more than one input or output.
    """
    traced, closed = _trace(module)
    nodes = list(traced.graph.nodes)
    inputs = [n for n in nodes if n.op == "placeholder"]
    require(len(inputs) == 1, f"the network takes {len(inputs)} inputs; exits need exactly one")
    result = nodes[-1].args[0]
    if not isinstance(result, fx.Node):
        raise InvalidInput(f"the network's output is a {type(result).__name__}, {result}; one tensor (N, C) is wanted: wrap it")
    cuts = [_position(nodes, name, module, closed) for name in at]
    require(cuts == sorted(set(cuts)), f"exits at {', '.join(at)} are not in the order of computation, or one is named twice")
    stages = _split(traced, nodes, cuts)
    for stage in stages:  # torch makes them in training mode; their submodules are the network's own and stay as they are
        for part in (stage, *(m for m in stage.modules() if isinstance(m, ByMode))):
            part.training = module.training
    return stages


class _Tracer(fx.Tracer):
    """Takes the modules named in `closed` as one operation each."""

    def __init__(self, closed: set[str]) -> None:
        super().__init__()
        self.closed = closed

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name in self.closed or super().is_leaf_module(m, module_qualified_name)


def _trace(module: nn.Module) -> tuple[fx.GraphModule, set[str]]:
    """The network's graph, and the submodules that had to stay whole because they do other things in training than in evaluation.

    Constants that differ between the modes become `ByMode`; a submodule whose operations differ stays one operation.
    """
    closed: set[str] = set()
    before = set(vars(module))
    try:
        while True:
            graphs = []
            for training in (True, False):
                with mode(module, training):
                    graphs.append(_Tracer(closed).trace(module))
            place = _difference(module, *graphs)
            if place is None:
                return _joined(module, *graphs), closed
            owners = {owner for node in place if (owner := _owner(node, closed))}
            if not owners:
                name = type(module).__name__
                raise TracingError(
                    f"{name} computes something else in training than in evaluation, first at {place[0].name!r} and {place[1].name!r}. "
                    "Move what differs to a submodule of its own"
                )
            closed |= owners
    except TracingError:
        raise
    except Exception as error:
        where = f"{type(module).__name__}: {type(error).__name__}: {error}"
        raise TracingError(
            f"cannot trace {where}. Take control flow that depends on data out, or into a function marked with torch.fx.wrap"
        ) from error
    finally:
        for name in set(vars(module)) - before:  # torch leaves the constants of a trace in the network
            delattr(module, name)


def _owner(node: fx.Node, closed: set[str]) -> str | None:
    """The innermost submodule whose code made the node; None for the network itself."""
    stack = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    if node.op == "call_module":
        stack = stack[:-1]
    return next((path for path in reversed(stack) if path and path not in closed), None)


def _leaves(node: fx.Node, order: dict[fx.Node, int]) -> tuple[list[Any], list[Any]]:
    """Arguments of a node, flattened, twice: nodes by number and constants blank, to be compared; and what the constants are."""
    shape: list[Any] = [node.op, *node.kwargs]
    constants: list[Any] = []

    def take(value: Any) -> Any:
        node = isinstance(value, fx.Node)
        shape.append(order[value] if node else "constant")
        constants.append(fx.Node if node else value)
        return value

    fx.node.map_aggregate((node.args, node.kwargs), take)
    return shape, constants


def _difference(module: nn.Module, one: fx.Graph, other: fx.Graph) -> tuple[fx.Node, fx.Node] | None:
    """The first pair of nodes that are not the same operation on the same values, whatever their constants."""
    orders = [{node: i for i, node in enumerate(graph.nodes)} for graph in (one, other)]
    for a, b in zip(one.nodes, other.nodes, strict=False):
        same = a.target == b.target or (a.op == b.op == "get_attr" and _equal(module, a, b))
        if not same or _leaves(a, orders[0])[0] != _leaves(b, orders[1])[0]:
            return a, b
    return None  # both end with their output, so neither is merely the beginning of the other


def _equal(module: nn.Module, a: fx.Node, b: fx.Node) -> bool:
    """Whether two constants that torch found while tracing are the same numbers; it names each anew."""
    x, y = getattr(module, str(a.target), None), getattr(module, str(b.target), None)
    return isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape == y.shape and x.dtype == y.dtype and bool((x == y).all())


def _joined(module: nn.Module, training: fx.Graph, evaluation: fx.Graph) -> fx.GraphModule:
    """The graph of evaluation, with constants that follow the mode where training has others."""
    traced = fx.GraphModule(module, evaluation)
    orders = [{node: i for i, node in enumerate(graph.nodes)} for graph in (training, traced.graph)]
    for a, b in zip(training.nodes, traced.graph.nodes, strict=True):
        constants = iter(zip(_leaves(a, orders[0])[1], _leaves(b, orders[1])[1], strict=True))

        def follow(value: Any, constants: Any = constants, here: fx.Node = b) -> Any:
            there, own = next(constants)
            if type(there) is type(own) and there == own:
                return value
            name = f"by_mode_{sum(isinstance(m, ByMode) for m in traced.modules())}"
            traced.add_submodule(name, ByMode(there, own))
            with traced.graph.inserting_before(here):
                return traced.graph.call_module(name)

        if b.op != "placeholder":
            b.args, b.kwargs = fx.node.map_aggregate((b.args, b.kwargs), follow)
    traced.recompile()
    return traced


def _position(nodes: Sequence[fx.Node], name: str, module: nn.Module, closed: set[str]) -> int:
    """Index of the last node computed inside the submodule `name`."""
    inside = [
        i
        for i, node in enumerate(nodes)
        if node.op != "output" and any(name == path for path, _ in node.meta.get("nn_module_stack", {}).values())
    ]
    if not inside:
        around = [path for path in closed if name.startswith(f"{path}.")]
        require(not around, f"no exit at {name!r}: {around and min(around)!r} works differently in training and cannot be cut inside")
        named = [n for n, _ in module.named_modules() if n and n.count(".") <= 1]
        raise InvalidInput(f"no exit position {name!r}; there are {', '.join(named[:40])}{' ...' if len(named) > 40 else ''}")
    return inside[-1]


def _split(traced: fx.GraphModule, nodes: Sequence[fx.Node], cuts: Sequence[int]) -> list[fx.GraphModule]:
    """One module per stretch between cuts: live values in, live values out, the value at the cut first."""
    order = {node: i for i, node in enumerate(nodes)}
    local = _local(traced, nodes)
    last: dict[fx.Node, int] = {}
    for node in reversed(nodes):
        last[node] = max((last[user] if user in local else order[user] for user in node.users), default=-1)
    bounds = [*cuts, order[nodes[-1]] - 1]
    stages, entering, start = [], [n for n in nodes if n.op == "placeholder"], 0
    for e, bound in enumerate(bounds):
        if e < len(cuts):
            live = [n for n in nodes[: bound + 1] if n not in local and last[n] > bound]
            leaving = [nodes[bound], *(n for n in live if n is not nodes[bound])]
        else:
            leaving = list(nodes[-1].all_input_nodes)
        graph = fx.Graph()
        copies = {n: graph.placeholder(n.name) for n in entering}

        def copied(node: fx.Node, graph: fx.Graph = graph, copies: dict[fx.Node, fx.Node] = copies) -> fx.Node:
            if node not in copies:
                copies[node] = graph.node_copy(node, copied)
            return copies[node]

        for node in nodes[start : bound + 1]:
            if node.op != "placeholder" and node not in local:
                copied(node)
        graph.output(tuple(copied(n) for n in leaving))
        graph.lint()
        stages.append(fx.GraphModule(traced, graph))
        entering, start = leaving, bound + 1
    return stages


def _local(traced: fx.GraphModule, nodes: Sequence[fx.Node]) -> set[fx.Node]:
    """Values that belong to no sample (weights, constants, sizes and arithmetic on those): each stage makes its own."""
    local: set[fx.Node] = set()
    for n in nodes:
        size = (n.op == "call_method" and n.target in ("size", "dim")) or (n.target is getattr and n.args[1] in ("shape", "ndim"))
        constant = n.op == "get_attr" or (n.op == "call_module" and isinstance(traced.get_submodule(str(n.target)), ByMode))
        arithmetic = getattr(n.target, "__module__", None) == "_operator" and all(source in local for source in n.all_input_nodes)
        if size or constant or arithmetic:
            local.add(n)
    return local


def probe(stages: Sequence[nn.Module], at: Sequence[str], shape: Sequence[int], like: Tensor) -> list[tuple[int, ...]]:
    """Shapes that two images of `shape` (C, H, W) have at each cut and at the end; device and type are those of `like`.

    Raises
    ------
    InvalidInput
        An input shape that does not fit; a value alive at a cut that is not one tensor with one row a sample.
    """
    shapes: list[list[tuple[Any, ...]]] = []
    try:
        alive: tuple[Any, ...] = (torch.zeros(2, *shape, device=like.device, dtype=like.dtype),)
        with torch.no_grad():
            for stage in stages:
                alive = stage(*alive)
                shapes.append([tuple(v.shape) if isinstance(v, Tensor) else (type(v).__name__,) for v in alive])
    except MISFIT as error:
        raise misfit(shape, error) from error
    for name, found in zip(at, shapes, strict=False):
        odd = [s for s in found if not s or s[0] != 2]
        require(
            not odd, f"a value of shape {odd} for a batch of 2 is needed behind the exit {name!r}; all need one row a sample to leave by"
        )
    return [found[0] for found in shapes]
