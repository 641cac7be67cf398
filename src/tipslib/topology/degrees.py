"""What is the average degree of a fully connected network, and which singular values does it allow (TIPS, Fig. 3, Eqs. 11 and 13)?"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tipslib.errors import require


def average_degree(widths: Sequence[int], skips: Sequence[tuple[int, int]] = ()) -> float:
    """Average degree w_e of a fully connected network: links (weights and skip connections) per neuron, inputs excluded (TIPS, Fig. 3).

    Parameters
    ----------
    widths
        Neurons of each layer, the input first.
    skips
        Pairs (from layer, to layer), 0 being the input: one link from each neuron to the one with the same number.

    Raises
    ------
    InvalidInput
        Fewer than two layers, an empty layer, a skip that leads nowhere, backwards, or between different widths.

    Examples
    --------
    >>> average_degree((3, 3, 3)), average_degree((3, 3, 3), [(0, 2)])
    (3.0, 3.5)
    """
    require(
        len(widths) >= 2 and min(widths) >= 1, f"widths = {tuple(widths)}; an input and at least one layer, of 1 neuron or more, are wanted"
    )
    for source, target in skips:
        require(0 <= source < target < len(widths), f"skip ({source}, {target}); 0 <= from < to <= {len(widths) - 1} is wanted")
        require(
            widths[source] == widths[target],
            f"skip ({source}, {target}) joins {widths[source]} to {widths[target]} neurons; equal widths are wanted",
        )
    weights = sum(a * b for a, b in pairwise(widths))
    return (weights + sum(widths[target] for _, target in skips)) / sum(widths[1:])


def singular_value_bounds(
    variance: float, effective_width: ArrayLike, real_width: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Lower and upper bound sqrt(q w_e) -/+ sqrt(q w_r) of the mean singular value (TIPS, Eq. 11).

    Raises
    ------
    InvalidInput
        A variance or width that is not positive.
    """
    wide = np.asarray(effective_width, dtype=np.float64)
    require(variance > 0 and real_width > 0 and bool((wide > 0).all()), "variance, effective and real width must be positive")
    centre, half = np.sqrt(variance * wide), np.sqrt(variance * real_width)
    return centre - half, centre + half


def largest_variance(effective_width: float, real_width: float) -> float:
    """The largest initial variance q = epsilon that Prop. 3.1 allows, 1 / (w_e + w_r + 2 sqrt(w_e w_r)) (TIPS, Eq. 13).

    Parameters
    ----------
    effective_width
        The larger w_e of the two paths.
    real_width
        w_r.

    Raises
    ------
    InvalidInput
        A width that is not positive.
    """
    require(effective_width > 0 and real_width > 0, f"w_e = {effective_width}, w_r = {real_width}; both must be positive")
    return 1 / (effective_width + real_width + 2 * float(np.sqrt(effective_width * real_width)))
