"""Do two layers represent the same samples alike? Linear CKA, biased and debiased, for all pairs of layers in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tipslib.errors import require

LEAST = 4
"""Samples a batch: debiased HSIC divides by n (n - 3), and the biased one is near 1 for whatever two or three samples."""


class LayerSimilarity:
    """Accumulates CKA between every layer of one network and every layer of another over batches.

    Each Gram matrix is centred once and flattened; one matrix product then gives HSIC for all pairs of layers of a batch.
    HSIC is averaged over batches and divided at the end: a mean of ratios would be biased towards the batch size.
    Memory is O(layers * n^2) for batches of n samples, whatever the number of batches.

    Parameters
    ----------
    debiased
        False: the biased HSIC of progressive intelligence, Eq. 4. True: the unbiased estimator of Song et al. (2012), for which every
        batch needs at least 4 samples.
    """

    def __init__(self, *, debiased: bool = False) -> None:
        self.debiased = debiased
        self._cross: Tensor | None = None
        self._own: tuple[Tensor, Tensor] | None = None
        self._batches = 0

    def update(self, x: Sequence[Tensor], y: Sequence[Tensor], x_ids: Tensor | None = None, y_ids: Tensor | None = None) -> None:
        """Add the activations of one batch.

        Parameters
        ----------
        x, y
            Per layer, (n, ...) activations of the same n samples in the same order.
        x_ids, y_ids
            What identifies the samples (indices, labels or the inputs themselves); where given, both must agree.

        Raises
        ------
        InvalidInput
            Different samples, too few of them, or activations that are not finite.
        """
        require(len(x) > 0 and len(y) > 0, "no layers; give at least one activation of each network")
        if x_ids is not None or y_ids is not None:
            same = x_ids is not None and y_ids is not None and torch.equal(x_ids, y_ids)
            require(same, "the two networks saw different samples (a shuffled loader?); CKA needs the same ones in the same order")
        n = len(x[0])
        require(n >= LEAST, f"a batch of {n}; HSIC needs at least {LEAST} samples a batch (drop the last, short one)")
        a, b = (torch.stack([_centred_gram(layer, n, self.debiased) for layer in layers]) for layers in (x, y))
        cross, own = a @ b.T, (a.square().sum(1), b.square().sum(1))
        if self._cross is None or self._own is None:
            self._cross, self._own = torch.zeros_like(cross), (torch.zeros_like(own[0]), torch.zeros_like(own[1]))
        require(cross.shape == self._cross.shape, f"{tuple(cross.shape)} pairs of layers, earlier batches had {tuple(self._cross.shape)}")
        scale = n * (n - 3) if self.debiased else (n - 1) ** 2
        self._cross += cross / scale
        self._own = (self._own[0] + own[0] / scale, self._own[1] + own[1] / scale)
        self._batches += 1

    def compute(self) -> Tensor:
        """CKA (layers of x, layers of y), float64; never NaN (progressive intelligence, Eq. 3).

        Raises
        ------
        InvalidInput
            No batch yet, or a layer whose activations are the same for every sample.
        """
        require(self._cross is not None, "no batch yet; call update first")
        assert self._cross is not None
        assert self._own is not None
        for name, own in zip("xy", self._own, strict=True):
            constant = [i for i, value in enumerate(own.tolist()) if not value > 0]
            require(not constant, f"layer {constant} of {name} is constant over the samples: its similarity is 0/0. Leave it out")
        return (self._cross / self._own[0].sqrt()[:, None] / self._own[1].sqrt()).cpu()


def cka(x: Tensor, y: Tensor, debiased: bool = False) -> float:
    """Linear CKA of two activations of the same samples (progressive intelligence, Eqs. 3 and 4).

    Parameters
    ----------
    x, y
        (n, ...) activations, flattened to (n, d1) and (n, d2).
    debiased
        Use the unbiased HSIC (Song et al., 2012), needs n >= 4; it may fall below 0 for unrelated layers.
    """
    similarity = LayerSimilarity(debiased=debiased)
    similarity.update([x], [y])
    return float(similarity.compute())


def _centred_gram(activations: Tensor, n: int, debiased: bool) -> Tensor:
    """Flattened (n * n,) Gram matrix: HKH (Eq. 4), or U-centred with a zero diagonal."""
    require(len(activations) == n, f"{len(activations)} samples in one layer, {n} in another; all layers need the same")
    features = activations.detach().flatten(1)
    require(bool(torch.isfinite(features).all()), "activations hold NaN or infinity; check the network before comparing it")
    features = features - features.mean(0)
    # a constant layer leaves rounding noise after centring, which would otherwise be compared as if it were signal
    scale = features.abs().max()
    negligible = scale <= 8 * torch.finfo(features.dtype).eps * activations.abs().max()
    gram = (features @ features.T).double() * (~negligible)
    if not debiased:
        return gram.flatten()
    gram.fill_diagonal_(0)
    means = gram.sum(0) / (n - 2)
    gram = gram - means - means[:, None] + means.sum() / (n - 1)
    return gram.fill_diagonal_(0).flatten()
