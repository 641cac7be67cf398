"""How well does a layer separate the classes? The R^2 of class separation, streamed in O(N d)."""

from __future__ import annotations

import torch
from torch import Tensor

from tipslib.errors import require


class ClassSeparation:
    """Accumulates R^2 (progressive intelligence, Eq. 1) over batches; memory is (K, d), whatever the number of samples.

    With unit-normalised features and class means c_k, the double sums of Eq. 1 collapse:
    the mean cosine distance within classes is 1 - mean_k |c_k|^2, that over all pairs of classes is 1 - |mean_k c_k|^2, and

        R^2 = 1 - (1 - mean_k |c_k|^2) / (1 - |mean_k c_k|^2).

    Eq. 1 prints K where the second sum needs K^2 to be a mean over pairs of classes; K^2 is used here, as in Kornblith et al. (2020),
    where the measure comes from. A zero feature vector has cosine similarity 0 with everything.

    Parameters
    ----------
    classes
        K, the number of classes; each must occur before `compute`.
    """

    def __init__(self, classes: int) -> None:
        require(classes >= 2, f"classes = {classes}; separation needs at least 2 classes")
        self.classes = classes
        self._counts = torch.zeros(classes, dtype=torch.float64)
        self._sums: Tensor | None = None

    def update(self, features: Tensor, labels: Tensor) -> None:
        """Add a batch.

        Parameters
        ----------
        features
            (N, ...) activations, flattened to (N, d).
        labels
            (N,) integers in [0, K).

        Raises
        ------
        InvalidInput
            Shapes that do not fit, labels out of range, or features that are not finite.
        """
        features = features.detach().flatten(1)
        require(labels.ndim == 1 and len(labels) == len(features), f"{len(features)} features but labels of shape {tuple(labels.shape)}")
        require(not labels.is_floating_point(), f"labels are {labels.dtype}; integers are wanted")
        if len(labels) == 0:
            return
        low, high = int(labels.min()), int(labels.max())
        require(low >= 0 and high < self.classes, f"labels lie in [{low}, {high}]; allowed is [0, {self.classes - 1}]")
        require(bool(torch.isfinite(features).all()), "features hold NaN or infinity; check the network before measuring it")
        features = features.double()
        require(
            self._sums is None or features.shape[1] == self._sums.shape[1],
            f"features have {features.shape[1]} dimensions, earlier batches had another number",
        )
        norms = features.norm(dim=1)
        weights = torch.zeros(len(labels), self.classes, dtype=torch.float64, device=features.device)
        weights[torch.arange(len(labels)), labels.to(features.device, torch.long)] = 1 / norms.where(norms > 0, 1.0)
        sums = weights.T @ features  # unit vectors summed by class
        self._sums = sums if self._sums is None else self._sums + sums
        self._counts += torch.bincount(labels.cpu().long(), minlength=self.classes)

    def compute(self) -> float:
        """R^2 of all batches so far, at most 1.

        Raises
        ------
        InvalidInput
            A class without samples, or features that all point the same way (the ratio is 0/0).
        """
        empty = [k for k in range(self.classes) if self._counts[k] == 0]
        require(self._sums is not None and not empty, f"no samples of class {', '.join(map(str, empty))}; every class must occur")
        assert self._sums is not None
        means = self._sums.cpu() / self._counts[:, None]
        within = 1 - means.square().sum(1).mean()
        overall = 1 - means.mean(0).square().sum()
        require(float(overall) > 1e-12, "all features point the same way: class separation is 0/0. Is the layer constant?")
        return float(1 - within / overall)


def class_separation(features: Tensor, labels: Tensor) -> float:
    """R^2 of one batch (progressive intelligence, Eq. 1, with K^2); `ClassSeparation` streams the same over many.

    Parameters
    ----------
    features
        (N, ...) activations, flattened to (N, d).
    labels
        (N,) integers; classes are 0 .. max, and each must occur.
    """
    require(labels.numel() > 0, "no samples; class separation needs at least one of each class")
    separation = ClassSeparation(max(int(labels.max()) + 1, 2))
    separation.update(features, labels)
    return separation.compute()
