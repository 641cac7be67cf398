"""Which subnetworks does a supernet have, and how is one drawn so that each is equally likely?"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tipslib.errors import require
from tipslib.topology.draws import check_generator, uniform_below
from tipslib.topology.graph import NetworkGraph

LARGEST_TABLE = 20_000
"""States of a block beyond which its subnetworks are drawn by rejection instead of exact counting."""
PROPOSALS = 1 << 18
"""Subnetworks of a block proposed before rejection gives up."""
ATTEMPTS = 200
"""Whole draws of a block's T masks before they are drawn one given the others."""
SWEEPS = 50
"""Passes over a block's T masks when they are drawn one given the others."""


def sample_subnetworks(graph: NetworkGraph, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """Draw T subnetworks of a supernet (TIPS, 3.1.1 and Eq. 1).

    A subnetwork is valid if it keeps every required operation and if every operation it keeps lies on a path of kept operations from
    input to output: an operation whose input is gone cannot be executed. The T masks are uniform over all T-tuples of valid
    subnetworks in which every operation is kept at least once; with T = 1 that is the supernet itself.

    Parameters
    ----------
    graph
        The supernet.
    count
        T >= 1, how many subnetworks.
    rng
        Source of randomness; the same state gives the same masks.

    Returns
    -------
    (T, M) bool
        True where a subnetwork keeps the operation.

    Raises
    ------
    InvalidInput
        T < 1, no generator, or a part of the graph so entangled that no exact way of drawing is known here.

    Notes
    -----
    A node that every path passes cuts the graph into blocks that are independent of each other, the demand to be seen included. In
    a block subnetworks are counted and drawn exactly by a table over the set of live nodes; where that table would pass
    `LARGEST_TABLE` states (dense blocks) they are drawn by rejection, uniform as well. The T masks of a block are drawn again until
    together they keep all its operations. Only where `ATTEMPTS` draws did not (few subnetworks of a block with many free
    operations) the masks are drawn one at a time given the others, exactly, in `SWEEPS` passes from the full block (Gibbs
    sampling), which approaches the same uniform distribution.
    """
    check_generator(rng)
    require(isinstance(count, (int, np.integer)) and count >= 1, f"count (T) must be a whole number of at least 1, not {count!r}")
    masks = np.ones((int(count), len(graph.operations)), dtype=bool)
    if count > 1:
        for block in _blocks(graph):
            masks[:, block.operations] = _covering(block, int(count), rng)
    return masks


def count_subnetworks(graph: NetworkGraph) -> int:
    """Exact number of valid subnetworks, see `sample_subnetworks`.

    Raises
    ------
    InvalidInput
        A block too entangled to be counted.
    """
    total = 1
    for block in _blocks(graph):
        table = _Table.of(block, block.required)
        require(table is not None, f"a block of {len(block.operations)} operations is too entangled to count its subnetworks")
        assert table is not None
        total *= table.ways[0][table.start]
    return total


def is_valid(graph: NetworkGraph, masks: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """(T,) True where a mask of (T, M) is a valid subnetwork, see `sample_subnetworks`."""
    fed, used = np.zeros((2, len(masks), len(graph)), dtype=bool)
    for operation, (source, target) in enumerate(zip(graph.sources, graph.targets, strict=True)):
        used[:, source] |= masks[:, operation]
        fed[:, target] |= masks[:, operation]
    consistent = (fed[:, 1:-1] == used[:, 1:-1]).all(axis=1) & used[:, 0] & fed[:, -1]
    valid: NDArray[np.bool_] = consistent & masks[:, graph.required].all(axis=1)
    return valid


@dataclass(frozen=True)
class _Block:
    """The operations between two neighbouring nodes that every path passes, sorted by source; nodes counted from the first one."""

    operations: NDArray[np.int64]
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    required: tuple[bool, ...]


def _blocks(graph: NetworkGraph) -> Iterator[_Block]:
    """Blocks with a choice; a block of one operation keeps it, so it is left out."""
    order = np.argsort(graph.sources, kind="stable")
    farthest = np.maximum.accumulate(graph.targets[order])
    after = np.append(graph.sources[order][1:], len(graph) - 1)
    for chosen in np.split(order, np.flatnonzero(farthest == after)[:-1] + 1):
        first = graph.sources[chosen[0]]
        if len(chosen) > 1:
            yield _Block(
                chosen,
                tuple((graph.sources[chosen] - first).tolist()),
                tuple((graph.targets[chosen] - first).tolist()),
                tuple(graph.required[chosen].tolist()),
            )


def _covering(block: _Block, count: int, rng: np.random.Generator) -> NDArray[np.bool_]:
    """(T, m) masks of a block, uniform over those tuples that together keep all its operations."""
    draw = _sampler(block, block.required)
    for _ in range(ATTEMPTS):
        masks = np.array([draw(rng) for _ in range(count)])
        if masks.any(axis=0).all():
            return masks
    sampler = _Rejection if isinstance(draw, _Rejection) else _sampler
    masks = np.ones((count, len(block.operations)), dtype=bool)
    for _ in range(SWEEPS):
        for row in range(count):
            lacking = ~np.delete(masks, row, axis=0).any(axis=0)
            needed = tuple((lacking | np.array(block.required)).tolist())
            masks[row] = sampler(block, needed)(rng)
    return masks


def _sampler(block: _Block, needed: tuple[bool, ...]) -> Callable[[np.random.Generator], NDArray[np.bool_]]:
    """What draws one valid mask (m,) of the block that keeps the `needed` operations."""
    table = _Table.of(block, needed)
    return _Rejection(block, needed) if table is None else table.draw


@dataclass(frozen=True)
class _Table:
    """All valid masks of a block as a decision diagram: one layer an operation, in the order of their sources.

    A state is (live, left): `live` has bit v set if node v, not yet passed, has a kept operation into it; `left` says whether the node
    being passed has a kept operation out of it. A node is passed rightly if it is left exactly when it is live.

    `steps[i][state]` holds the states after dropping and after keeping operation i (None where not allowed); `ways[i][state]` the
    exact number of valid completions.
    """

    steps: list[dict[tuple[int, bool], list[tuple[int, bool] | None]]]
    ways: list[dict[tuple[int, bool], int]]
    start: tuple[int, bool] = (1, False)

    @classmethod
    def of(cls, block: _Block, needed: tuple[bool, ...]) -> _Table | None:
        """The table, or None if it would hold more than `LARGEST_TABLE` states."""
        steps: list[dict[tuple[int, bool], list[tuple[int, bool] | None]]] = []
        layer, states = {cls.start}, 0
        for i, (source, target) in enumerate(zip(block.sources, block.targets, strict=True)):
            passed = i + 1 == len(block.sources) or block.sources[i + 1] != source
            step: dict[tuple[int, bool], list[tuple[int, bool] | None]] = {}
            for live, left in layer:
                is_live = bool(live >> source & 1)
                after: list[tuple[int, bool] | None] = [None, None]
                if not needed[i]:
                    after[0] = (live, left)
                if is_live:
                    after[1] = (live | 1 << target, True)
                if passed:
                    after = [(s[0] & ~(1 << source), False) if s is not None and s[1] == is_live else None for s in after]
                step[live, left] = after
            layer = {state for after in step.values() for state in after if state is not None}
            steps.append(step)
            states += len(step)
            if states + len(layer) > LARGEST_TABLE:
                return None
        ways: list[dict[tuple[int, bool], int]] = [dict.fromkeys(layer, 1)]
        for step in reversed(steps):
            onward = ways[-1]
            ways.append({state: sum(onward[s] for s in after if s is not None) for state, after in step.items()})
        return cls(steps, ways[::-1])

    def draw(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """One mask (m,), each valid one equally likely."""
        mask = np.zeros(len(self.steps), dtype=bool)
        state, number = self.start, uniform_below(rng, self.ways[0][self.start])
        for i, step in enumerate(self.steps):
            dropped, kept = step[state]
            without = 0 if dropped is None else self.ways[i + 1][dropped]
            mask[i] = number >= without
            number -= without if mask[i] else 0
            following = kept if mask[i] else dropped
            assert following is not None
            state = following
        return mask


class _Rejection:
    """Uniform valid masks of a dense block: free operations by fair coins, the rest follows, what is not valid is thrown away.

    The only operation that leaves a node is kept exactly when the node is live, so it is not free.
    """

    def __init__(self, block: _Block, needed: tuple[bool, ...]) -> None:
        self.block, self.needed = block, np.array(needed)
        last = max(block.targets)
        self.outgoing = [[i for i, source in enumerate(block.sources) if source == node] for node in range(last)]
        self.pool: list[NDArray[np.bool_]] = []

    def __call__(self, rng: np.random.Generator) -> NDArray[np.bool_]:
        """One mask (m,)."""
        proposed = 0
        while not self.pool:
            require(
                proposed < PROPOSALS,
                f"a block of {len(self.needed)} operations is too entangled for drawing subnetworks uniformly ({proposed} proposals, none "
                "valid); give masks of your own, any (T, M) array of booleans",
            )
            self.pool.extend(self._proposals(rng, 1024))
            proposed += 1024
        return self.pool.pop()

    def _proposals(self, rng: np.random.Generator, count: int) -> NDArray[np.bool_]:
        masks = rng.integers(0, 2, (count, len(self.needed)), dtype=np.int8).astype(bool) | self.needed
        live = np.zeros((count, len(self.outgoing) + 1), dtype=bool)
        live[:, 0] = valid = np.ones(count, dtype=bool)
        for node, leaving in enumerate(self.outgoing):
            if len(leaving) == 1:
                masks[:, leaving[0]] = live[:, node]
            valid = valid & (masks[:, leaving].any(axis=1) == live[:, node])
            for operation in leaving:
                live[:, self.block.targets[operation]] |= masks[:, operation]
        found: NDArray[np.bool_] = masks[valid & masks[:, self.needed].all(axis=1)]
        return found
