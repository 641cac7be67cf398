"""What is the graph of a network: which feature maps (nodes) does which operation (edge) connect?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tipslib.errors import require

if TYPE_CHECKING:
    import torch
    from torch import nn

Scalar = TypeVar("Scalar", bound=np.generic)

KINDS = ("convolution", "linear", "pooling", "addition", "leaf")


@dataclass(frozen=True)
class FeatureMap:
    """A node: the output of an operation.

    Attributes
    ----------
    name
        Name of the operation that makes it; `input` for the network's input.
    shape
        Its shape, batch dimension included, as the operation leaves it; None where unknown.
    """

    name: str
    shape: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Operation:
    """An edge: what turns one feature map into another (TIPS, Fig. 2).

    Attributes
    ----------
    name
        Unique in its graph.
    kind
        One of `KINDS`. A depthwise convolution is a convolution. Where several feature maps meet (a sum, a concatenation, an
        elementwise product), each comes in by an edge of its own, of kind "addition". "leaf" is a module declared opaque.
    source, target
        Indices of the feature map it reads and of the one it makes; source < target.
    required
        True if every subnetwork keeps it: the input layer, the output layer, and what samples down (TIPS, 3.1.1).
    out_channels
        Channels (features) of its output where the operation sets them, else None.
    """

    name: str
    kind: str
    source: int
    target: int
    required: bool = False
    out_channels: int | None = None


@dataclass(frozen=True)
class NetworkGraph:
    """A network as a directed acyclic graph (TIPS, 3.1.1 and Fig. 9).

    Nodes stand in topological order: node 0 is the input, node N-1 the output. Several operations may connect the same two nodes.
    Every node and every operation lies on a path from input to output; anything else is refused.

    A residual addition y = F(x) + x makes a feature map of its own, y, which two edges of kind "addition" enter: the skip edge
    from x and the one from F(x). A path through a block whose F has two layers thus has 3 nodes more than the block's start, the
    path over its skip edge 1: the count `#skip + 3 * #conv` that the paper's own experiment uses (Fig. 5a).

    Raises
    ------
    InvalidInput
        No operation, an edge against the topological order, a name used twice, an unknown kind, no path from input to output, or
        a node or operation off all such paths.
    """

    nodes: tuple[FeatureMap, ...]
    operations: tuple[Operation, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "nodes", tuple(self.nodes))
        object.__setattr__(self, "operations", tuple(self.operations))
        require(len(self.nodes) >= 2 and len(self.operations) >= 1, "a graph needs at least two feature maps and one operation")
        for operation in self.operations:
            require(operation.kind in KINDS, f"operation {operation.name!r} is of kind {operation.kind!r}; allowed: {', '.join(KINDS)}")
            require(
                0 <= operation.source < operation.target < len(self.nodes),
                f"operation {operation.name!r} leads from node {operation.source} to node {operation.target}; nodes are numbered 0 to "
                f"{len(self.nodes) - 1} in topological order, so an operation leads from a lower number to a higher one",
            )
        repeated = [name for name, times in Counter(operation.name for operation in self.operations).items() if times > 1]
        require(not repeated, f"names of operations must be unique; used twice: {', '.join(repeated)}")
        self._refuse_what_is_off_the_paths()

    def _refuse_what_is_off_the_paths(self) -> None:
        from_input, to_output = reachable(len(self.nodes), self.operations)
        require(bool(from_input[-1]), "no path of operations leads from the input (node 0) to the output (the last node); connect them")
        stray = [f"{i} ({self.nodes[i].name!r})" for i in np.flatnonzero(~(from_input & to_output))]
        shown = ", ".join(stray[:5]) + (", ..." if len(stray) > 5 else "")
        require(not stray, f"the graph is disconnected: no path from input to output runs through node {shown}; remove or connect it")

    def __len__(self) -> int:
        """N, the number of feature maps."""
        return len(self.nodes)

    def __repr__(self) -> str:
        return f"NetworkGraph({len(self.nodes)} feature maps, {len(self.operations)} operations)"

    @cached_property
    def sources(self) -> NDArray[np.int64]:
        """(M,) index of the feature map each operation reads."""
        return _frozen(np.array([operation.source for operation in self.operations], dtype=np.int64))

    @cached_property
    def targets(self) -> NDArray[np.int64]:
        """(M,) index of the feature map each operation makes."""
        return _frozen(np.array([operation.target for operation in self.operations], dtype=np.int64))

    @cached_property
    def required(self) -> NDArray[np.bool_]:
        """(M,) True where every subnetwork keeps the operation."""
        return _frozen(np.array([operation.required for operation in self.operations], dtype=bool))

    @cached_property
    def outgoing(self) -> tuple[tuple[int, ...], ...]:
        """For each node the indices of the operations that read it, in ascending order."""
        return _grouped(len(self.nodes), [operation.source for operation in self.operations])

    @cached_property
    def incoming(self) -> tuple[tuple[int, ...], ...]:
        """For each node the indices of the operations that make it, in ascending order."""
        return _grouped(len(self.nodes), [operation.target for operation in self.operations])

    @classmethod
    def from_module(
        cls, module: nn.Module, example_input: torch.Tensor | Sequence[int], *, leaves: Iterable[str | type[nn.Module]] = ()
    ) -> NetworkGraph:
        """Read the graph of any network that `torch.fx` can trace; see `tipslib.topology.tracing.trace`."""
        from tipslib.topology.tracing import trace

        return trace(module, example_input, leaves=leaves)

    @classmethod
    def from_edges(
        cls,
        edges: Iterable[tuple[int, int]],
        *,
        names: Sequence[str] | None = None,
        kinds: Sequence[str] | None = None,
        required: Iterable[int] = (),
        nodes: Sequence[str] | None = None,
    ) -> NetworkGraph:
        """Make a graph from pairs of node numbers, for illustrations and tests.

        Parameters
        ----------
        edges
            (source, target) of each operation, source < target; the highest number is the output.
        names, kinds
            One per operation; by default `0-1` (then `0-1:2`, ... for parallel ones) and "linear".
        required
            Indices (positions in `edges`) of the operations that every subnetwork keeps.
        nodes
            One name per feature map; by default its number.
        """
        pairs = [(int(source), int(target)) for source, target in edges]
        require(bool(pairs), "a graph needs at least one edge")
        used: Counter[str] = Counter()
        names = names if names is not None else [unique(f"{source}-{target}", used) for source, target in pairs]
        kinds = kinds if kinds is not None else ["linear"] * len(pairs)
        count = 1 + max(target for _, target in pairs)
        nodes = nodes if nodes is not None else [str(i) for i in range(count)]
        require(
            len(names) == len(pairs) == len(kinds), f"{len(pairs)} edges need as many names and kinds, not {len(names)} and {len(kinds)}"
        )
        require(len(nodes) == count, f"the edges use {count} nodes, but {len(nodes)} names of nodes were given")
        kept = set(required)
        require(kept <= set(range(len(pairs))), f"`required` holds positions of edges, 0 to {len(pairs) - 1}, not {sorted(kept)}")
        operations = tuple(
            Operation(name, kind, source, target, required=i in kept)
            for i, (name, kind, (source, target)) in enumerate(zip(names, kinds, pairs, strict=True))
        )
        return cls(tuple(FeatureMap(name) for name in nodes), operations)

    @classmethod
    def mlp(cls, layers: int, width: int, skips: Literal["all"] | Iterable[tuple[int, int]] = "all") -> NetworkGraph:
        """A stack of linear layers with skip connections (TIPS, Figs. 3 and 5a).

        Parameters
        ----------
        layers
            Number of linear layers.
        width
            Neurons of every layer, the input included.
        skips
            (s, t) adds the output of layer s to the output of layer t, s < t; layer 0 is the input. The sum is a feature map of its
            own, and what follows layer t reads the sum. "all": a residual connection over each two consecutive layers, (0, 2),
            (2, 4), ... as in the paper's experiment; `()`: none.

        Returns
        -------
        NetworkGraph
            Nodes `input`, `linear1`, ..., and `sum2`, ... where skips arrive; with "all" and an even number of layers
            N = 1 + 3 * layers / 2.
        """
        require(isinstance(layers, int) and layers >= 1, f"layers must be a whole number of at least 1, not {layers!r}")
        require(isinstance(width, int) and width >= 1, f"width must be a whole number of at least 1, not {width!r}")
        if isinstance(skips, str):
            require(skips == "all", f"skips must be 'all' or pairs (source layer, target layer), not {skips!r}")
            skips = [(layer, layer + 2) for layer in range(0, layers - 1, 2)]
        arriving: dict[int, list[int]] = {}
        for start, end in sorted(skips):
            require(0 <= start < end <= layers, f"skip ({start}, {end}) must lead from a layer to a later one within 0 to {layers}")
            require(start not in arriving.get(end, []), f"skip ({start}, {end}) is given twice")
            arriving.setdefault(end, []).append(start)
        nodes = [FeatureMap("input", (1, width))]
        operations: list[Operation] = []
        output_of = [0]
        for layer in range(1, layers + 1):
            nodes.append(FeatureMap(f"linear{layer}", (1, width)))
            operations.append(Operation(f"linear{layer}", "linear", output_of[-1], len(nodes) - 1, out_channels=width))
            if layer in arriving:
                name = f"sum{layer}"
                nodes.append(FeatureMap(name, (1, width)))
                for source in (*(output_of[start] for start in arriving[layer]), len(nodes) - 2):
                    operations.append(Operation(f"{name}({nodes[source].name})", "addition", source, len(nodes) - 1))
            output_of.append(len(nodes) - 1)
        return cls(tuple(nodes), with_ends_required(operations, len(nodes)))


def reachable(count: int, operations: Iterable[Operation]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which of `count` nodes the input reaches, and which reach the output, both (N,) bool."""
    ordered = sorted(operations, key=lambda operation: operation.source)
    from_input, to_output = np.zeros((2, count), dtype=bool)
    from_input[0] = to_output[-1] = True
    for operation in ordered:
        from_input[operation.target] |= from_input[operation.source]
    for operation in reversed(ordered):
        to_output[operation.source] |= to_output[operation.target]
    return from_input, to_output


def with_ends_required(operations: Sequence[Operation], count: int) -> tuple[Operation, ...]:
    """Mark the input layer and the output layer required: the only operation that leaves the input, or enters the output.

    Where a choice exists (a block whose skip edge starts at the input) nothing is forced: a path is kept anyway.
    """
    leaving = [i for i, operation in enumerate(operations) if operation.source == 0]
    entering = [i for i, operation in enumerate(operations) if operation.target == count - 1]
    ends = {group[0] for group in (leaving, entering) if len(group) == 1}
    return tuple(Operation(o.name, o.kind, o.source, o.target, o.required or i in ends, o.out_channels) for i, o in enumerate(operations))


def unique(name: str, used: Counter[str]) -> str:
    """`name` the first time, then `name:2`, `name:3`, ..."""
    used[name] += 1
    return name if used[name] == 1 else f"{name}:{used[name]}"


def _grouped(count: int, keys: Sequence[int]) -> tuple[tuple[int, ...], ...]:
    groups: list[list[int]] = [[] for _ in range(count)]
    for position, key in enumerate(keys):
        groups[key].append(position)
    return tuple(tuple(group) for group in groups)


def _frozen(array: NDArray[Scalar]) -> NDArray[Scalar]:
    array.setflags(write=False)
    return array
