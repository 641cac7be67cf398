"""Do two layers represent the same samples alike? Linear CKA, biased and debiased, for all pairs of layers in one pass."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from tipslib.errors import require

LEAST = 4
"""Samples a batch: debiased HSIC divides by n (n - 3), and the biased one is near 1 for whatever two or three samples."""

CONSTANT, ALIKE, VARIED = range(3)
"""What a layer does over the samples of a batch, see `_centred_gram`; only the last has a similarity."""


COLUMNS = 2048
"""Activations that are centred at a time: in float64 they fit a processor's cache, which makes the Gram matrix twice as fast."""


class LayerSimilarity:
    """Accumulates CKA between every layer of one network and every layer of another over batches.

    Each Gram matrix is centred once and flattened; one matrix product then gives HSIC for all pairs of layers of a batch.
    HSIC is averaged over batches and divided at the end: a mean of ratios would be biased towards the batch size.
    Memory is O(layers * n^2) for batches of n samples, whatever the number of batches. All is computed in float64, in units of each
    layer's largest activation in the first batch, so that neither half precision nor large numbers overflow.

    Parameters
    ----------
    debiased
        False: the biased HSIC of progressive intelligence, Eq. 4. True: the unbiased estimator of Song et al. (2012), for which every
        batch needs at least 4 samples.
    """

    def __init__(self, *, debiased: bool = False) -> None:
        self.debiased = debiased
        self._cross: Tensor | None = None
        self._own: list[Tensor] = []
        self._kinds: list[Tensor] = []
        self._scales: list[list[float]] = []

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
        sides = [[_checked(layer, n) for layer in layers] for layers in (x, y)]
        if not self._scales:
            self._scales = [[_power_of_two(layer) for layer in layers] for layers in sides]
        now, before = (tuple(len(layers) for layers in both) for both in (sides, self._scales))
        require(now == before, f"{now} pairs of layers, earlier batches had {before}")
        grams, kinds = [], []
        for layers, scales in zip(sides, self._scales, strict=True):
            centred, found = zip(*(_centred_gram(a, s, self.debiased) for a, s in zip(layers, scales, strict=True)), strict=True)
            grams.append(torch.stack(centred))
            kinds.append(torch.stack(found))
        weight = n * (n - 3) if self.debiased else (n - 1) ** 2
        cross, own = grams[0] @ grams[1].T / weight, [g.square().sum(1) / weight for g in grams]
        if self._cross is None:
            self._cross, self._own, self._kinds = cross, own, kinds
        else:
            self._cross += cross
            self._own = [a + b for a, b in zip(self._own, own, strict=True)]
            self._kinds = [torch.maximum(a, b) for a, b in zip(self._kinds, kinds, strict=True)]

    def compute(self) -> Tensor:
        """CKA (layers of x, layers of y), float64; never NaN (progressive intelligence, Eq. 3).

        Raises
        ------
        InvalidInput
            No batch yet; a layer whose activations are the same for every sample; one of which debiasing leaves nothing, because all
            samples are equally unlike; one whose batches differ too much in size for float64.
        """
        require(self._cross is not None, "no batch yet; call update first")
        assert self._cross is not None
        for name, kinds in zip("xy", self._kinds, strict=True):
            constant, alike = ([i for i, kind in enumerate(kinds.tolist()) if kind == which] for which in (CONSTANT, ALIKE))
            require(not constant, f"layer {constant} of {name} is constant over the samples: its similarity is 0/0. Leave it out")
            reason = "all samples are equally unlike, so no similarity is left after debiasing (0/0). Leave it out or use the biased one"
            require(not alike, f"layer {alike} of {name}: {reason}")
        similarity = self._cross / self._own[0].sqrt()[:, None] / self._own[1].sqrt()
        require(bool(torch.isfinite(similarity).all()), "the sizes of activations differ too much between batches; scale them alike")
        return similarity.cpu()


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


def _checked(activations: Tensor, n: int) -> Tensor:
    """(n, d) floating-point activations of the samples that all layers have."""
    require(len(activations) == n, f"{len(activations)} samples in one layer, {n} in another; all layers need the same")
    features = activations.detach().flatten(1)
    return features if features.is_floating_point() else features.double()


def _range(features: Tensor) -> tuple[Tensor, Tensor]:
    """Largest absolute activation, and the widest range of one activation over the samples; float64, NaN where there is one."""
    low, high = features.amin(0).double(), features.amax(0).double()
    return torch.maximum(high.abs(), low.abs()).max(), (high - low).max()


def _power_of_two(features: Tensor) -> float:
    """A power of two close to the largest activation, 1 if all are 0: dividing by it costs no digit."""
    largest = float(_range(features)[0])
    # 2^-1000 is the smallest whose inverse still leaves room
    return math.ldexp(1.0, max(math.frexp(largest)[1] - 1, -1000)) if 0 < largest < math.inf else 1.0


def _centred_gram(features: Tensor, scale: float, debiased: bool) -> tuple[Tensor, Tensor]:
    """Flattened (n * n,) Gram matrix of (n, d) features: HKH (Eq. 4), or U-centred with a zero diagonal; and the kind of layer.

    Rounding would be compared as if it were signal, so what it alone can bring forth is put to 0. A layer is `CONSTANT` if no activation
    has a range of more than 8 units in the last place of the largest one, and `ALIKE` if debiasing leaves no more of the Gram matrix than
    that: all samples are equally unlike, as one-hot vectors of a class each are.
    """
    precision, (n, d) = torch.finfo(features.dtype).eps, features.shape
    largest, widest = _range(features)
    require(bool(torch.isfinite(largest)), "activations hold NaN or infinity; check the network before comparing it")
    gram = torch.zeros(n, n, dtype=torch.float64, device=features.device)
    for part in torch.split(features, COLUMNS, dim=1):
        centred = part.double() / scale
        centred -= centred.mean(0)
        gram.addmm_(centred, centred.T)
    moves = widest > 8 * precision * largest
    gram *= moves
    varied, alike, constant = (torch.tensor(kind, device=gram.device) for kind in (VARIED, ALIKE, CONSTANT))
    if not debiased:
        return gram.flatten(), torch.where(moves, varied, constant)
    norm = gram.norm()
    gram.fill_diagonal_(0)
    means = gram.sum(0) / (n - 2)
    gram = (gram - means - means[:, None] + means.sum() / (n - 1)).fill_diagonal_(0)
    # each entry sums d products, whose rounding is independent; the second term is what float64 itself adds
    left = gram.norm() > 8 * max(precision / d**0.5, n * torch.finfo(gram.dtype).eps) * norm
    return (gram * left).flatten(), torch.where(moves, torch.where(left, varied, alike), constant)
