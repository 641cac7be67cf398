"""Is a subnetwork more accurate than the best cheaper one? It is shown no more held-out images than it takes to know."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from tipslib.anytime.calibration import fold, followed_by_norm, norms_of, recalibrate
from tipslib.anytime.elastic import Supernet
from tipslib.errors import require

CALIBRATION = 256
"""Images, as one batch, from which a search takes the batch-norm statistics of each candidate."""

FEWEST = 64
"""Held-out images that are shown at once, at least."""

FORGETTING = 0.2
"""What the latest candidate counts in how hard an image is."""


class Examiner:
    """Counts how many held-out images a subnetwork names rightly, and no more of them than it takes.

    Parameters
    ----------
    net, calibration_images, held_out
        As for `pareto_search`.

    Attributes
    ----------
    count
        Held-out images.
    """

    def __init__(self, net: Supernet, calibration_images: Sequence[Tensor], held_out: Sequence[tuple[Tensor, Tensor]]) -> None:
        require(len(held_out) >= 1, "held_out is empty; a search needs images that nothing was trained on, with their labels")
        require(len(calibration_images) >= 1, "calibration_images is empty; give some batches of training images")
        device = next(net.parameters()).device
        to_device = partial(torch.Tensor.to, device=device, memory_format=torch.channels_last)
        ends = np.cumsum([len(images) for images in calibration_images])
        wanted = int(np.searchsorted(ends, CALIBRATION)) + 1
        first = torch.cat([to_device(images) for images in calibration_images[:wanted]])
        self._net, self._calibration = net, [first[:CALIBRATION]]
        self._images = torch.cat([to_device(images) for images, _ in held_out])
        self._labels = torch.cat([labels.to(device) for _, labels in held_out])
        require(len(self._images) == len(self._labels), f"{len(self._images)} held-out images with {len(self._labels)} labels; one each")
        self.count, self._batch = len(self._labels), max(len(labels) for _, labels in held_out)
        self._easy = torch.full((self.count,), 0.5, device=device)  # moving mean of the probability of the right class
        smallest = net.export(net.space.smallest).requires_grad_(False).eval()
        self._pairs = followed_by_norm(smallest)
        with torch.no_grad():
            classes = smallest(self._images[:1]).shape[1]
        low, high = int(self._labels.min()), int(self._labels.max())
        require(low >= 0 and high < classes, f"held-out labels go from {low} to {high}; the network has the classes 0 to {classes - 1}")

    @torch.no_grad()
    def examine(self, widths: tuple[int, ...], at_least: int = 0) -> tuple[int, int]:
        """(right, shown): how many images were named rightly of how many that were shown.

        It ends with fewer than all only if `at_least` can no longer be reached. The device is asked only where that may be so: while
        `slack` images more may still be named wrongly, at least one more than these is shown.
        """
        if at_least > self.count:
            return 0, 0
        subnetwork = self._subnetwork(widths)
        order = self._easy.argsort(stable=True)
        right = shown = 0
        while shown < self.count and (slack := right + self.count - shown - at_least) >= 0:
            part = order[shown : shown + max(slack + 1, FEWEST)]
            outcomes = [self._outcome(subnetwork, rows) for rows in torch.split(part, self._batch)]
            hits, probabilities = (torch.cat(each) for each in zip(*outcomes, strict=True))
            self._easy[part] = self._easy[part].lerp(probabilities, FORGETTING)
            right, shown = right + int(hits.sum()), shown + len(part)
        return right, shown

    def _outcome(self, subnetwork: nn.Module, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Which images are named rightly, and the probability of each one's class."""
        logits, labels = subnetwork(self._images[rows]), self._labels[rows]
        return logits.argmax(1) == labels, logits.float().softmax(1).gather(1, labels[:, None])[:, 0]

    def _subnetwork(self, widths: tuple[int, ...]) -> nn.Module:
        """Exported, calibrated and folded."""
        # without gradients autocast does not keep the weights of every candidate
        subnetwork = self._net.export(widths).requires_grad_(False).to(memory_format=torch.channels_last)
        recalibrate(subnetwork, norms_of(self._net, subnetwork), self._calibration)
        fold(subnetwork, self._pairs)
        return subnetwork
