"""How are all exits trained at once? One pass, the weighted sum of the exits' losses."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tipslib.errors import require


class JointLoss:
    """Objective of `tipslib.training.fit`: sum over exits of w_n times cross-entropy (progressive intelligence, Eq. 2).

    Parameters
    ----------
    weights
        One weight an exit, the last exit included; none negative, not all zero. They are used as they are, not normalised.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        require(all(math.isfinite(w) and w >= 0 for w in weights), f"weights = {tuple(weights)}; none may be negative or infinite")
        require(any(w > 0 for w in weights), f"weights = {tuple(weights)}; at least one must be above 0")
        self.weights = tuple(weights)

    def step(self, model: nn.Module, images: Tensor, labels: Tensor, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        """One pass through all exits; exits of weight 0 learn nothing.

        Raises
        ------
        InvalidInput
            Another number of exits, or labels outside [0, C); on a GPU, which would have to be waited for, only the first step looks.
        """
        logits = model(images)
        require(len(logits) == len(self.weights), f"{len(self.weights)} weights for {len(logits)} exits; one weight an exit is wanted")
        if step == 0 or labels.device.type == "cpu":
            classes = logits[0].shape[1]
            require(bool(((labels >= 0) & (labels < classes)).all()), f"labels outside [0, {classes - 1}]")
        terms = [w * F.cross_entropy(z.float(), labels) for w, z in zip(self.weights, logits, strict=True) if w > 0]
        loss = torch.stack(terms).sum()
        backward(loss)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        """Nothing is remembered between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Nothing is remembered between steps."""


def equal_weights(exits: int, final: float = 0.4) -> tuple[float, ...]:
    """`final` for the last exit, the rest shared equally: (0.2, 0.2, 0.2, 0.4) for four (section 4; the paper's rule 0.6 / n misses 1)."""
    require(exits >= 2 and 0 <= final <= 1, f"exits = {exits}, final = {final}; at least 2 exits and a final weight in [0, 1] are wanted")
    share = round((1 - final) / (exits - 1), 12)  # the same number as 0.2 typed in: a run is known by its weights
    return (*([share] * (exits - 1)), final)
