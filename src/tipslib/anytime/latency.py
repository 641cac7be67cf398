"""How long does a forward pass take? Every candidate in turn, over and over, on a fixed number of threads."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray

from tipslib.errors import require


@contextmanager
def fixed_threads(threads: int) -> Iterator[None]:
    """Within the context PyTorch computes on so many threads."""
    require(threads >= 1, f"threads = {threads}; at least 1 is wanted")
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def measure(
    calls: Sequence[Callable[[], object]], *, rounds: int, seed: int, warm_up: int = 2, device: torch.device | str = "cpu"
) -> NDArray[np.float64]:
    """Time every call once a round, in an order that is drawn anew for each round, so that a slow moment of the machine hits all alike.

    Parameters
    ----------
    calls
        K functions without arguments, such as one forward pass each.
    rounds
        R, that count.
    seed
        Of the orders.
    warm_up
        Rounds before these, that do not count: memory is laid out, caches are filled.
    device
        What the calls compute on; a call ends when this has nothing more to do.

    Returns
    -------
    (K, R) float64
        Milliseconds.

    Raises
    ------
    InvalidInput
        No calls, no rounds, or a negative `warm_up`.
    """
    require(len(calls) > 0, "calls: at least one is wanted")
    require(rounds >= 1, f"rounds = {rounds}; at least 1 is wanted")
    require(warm_up >= 0, f"warm_up = {warm_up}; it must not be negative")
    generator = np.random.default_rng(seed)
    taken = np.empty((len(calls), rounds))
    for turn in range(-warm_up, rounds):
        for i in generator.permutation(len(calls)):
            elapsed = milliseconds(calls[i], device)
            if turn >= 0:
                taken[i, turn] = elapsed
    return taken


def milliseconds(call: Callable[[], object], device: torch.device | str = "cpu") -> float:
    """How long one call takes on a device that has nothing else to do, until it has nothing more to do."""
    wait: Callable[[], object] = torch.cuda.synchronize if torch.device(device).type == "cuda" else lambda: None
    wait()
    started = time.perf_counter()
    call()
    wait()
    return 1e3 * (time.perf_counter() - started)
