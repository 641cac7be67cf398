"""How is a whole number of any size drawn uniformly? Exact counts of paths and subnetworks outgrow 64 bits."""

from __future__ import annotations

import numpy as np

from tipslib.errors import require


def check_generator(rng: np.random.Generator) -> None:
    """Refuse anything but an explicit generator."""
    require(isinstance(rng, np.random.Generator), f"rng must be a numpy.random.Generator such as numpy.random.default_rng(0), not {rng!r}")


def uniform_below(rng: np.random.Generator, bound: int) -> int:
    """Draw from 0, ..., bound - 1, each equally likely, for any positive whole `bound`."""
    bits = (bound - 1).bit_length()
    if bits < 64:
        return int(rng.integers(bound))
    while True:
        drawn = int.from_bytes(rng.bytes((bits + 7) // 8), "little") & ((1 << bits) - 1)
        if drawn < bound:
            return drawn
