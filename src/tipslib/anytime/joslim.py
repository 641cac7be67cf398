"""Which widths does Joslim train next? Those that Bayesian optimisation expects on the front of loss against cost."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from tipslib import processes
from tipslib.anytime.distillation import Batch, Phase, Sandwich, Widths, by_the_batch
from tipslib.anytime.elastic import Supernet
from tipslib.anytime.samplers import shared_ratio
from tipslib.errors import require

if TYPE_CHECKING:
    from sklearn.gaussian_process import GaussianProcessRegressor

Values = NDArray[np.float64]

MOST, STEPS = 1000, 300 * 391
"""Proposals in a run, and steps of their run on CIFAR-100."""

BETA = 0.1
BASELINE = -3.0
AUGMENTATION = 1e-6
LEVELS = 50
BISECTIONS = 10
TOLERANCE = 0.02
SAMPLES, RESTARTS, ITERATIONS = 1000, 5, 30
"""Random points the optimisation of the acquisition starts from, how many of the best it follows, and how far."""


class Joslim(Sandwich):
    """Full network, two widths from Bayesian optimisation, narrowest; the full network teaches the others, which see no labels.

    Source: Chin, Morcos & Marculescu, "Joslim: Joint Widths and Weights Optimization for Slimmable Neural Networks", ECML-PKDD 2021;
    released code enyac-group/Joslim, with the settings its instructions give for MobileNet-v2. The full network learns from labels
    smoothed by 0.1. The two widths are held for tau steps, so that a run makes about 1000 proposals. The first 20 proposals have one
    ratio each, uniform between the narrowest and the full; the next is the full network; then two Gaussian processes (Matern 5/2) are
    fitted to the standardised losses and costs of all earlier proposals. A target cost is drawn from 50 levels between that of the
    narrowest and that of the full network, and the scalar that weighs cost against loss is bisected, at most 10 times, until the best
    widths cost the target to within 0.02 of the full network. Their recipe: SGD, momentum 0.9, learning rate 0.5 at batch 1024, down
    to 0 along a line after 5 epochs of warm-up, 250 epochs, weight decay 4e-5 except on batch norm and biases, narrowest ratio 0.42.

    Text and code differ: the released code takes the losses for the optimisation from the **test** loader; here they come from
    `held_out`. The code minimises *upper* confidence bounds of loss and cost, which shun whatever is unknown; here they are the lower
    ones, which an upper bound becomes where less is better. As in the code, every earlier proposal's loss is measured anew, on another
    batch, whenever proposals are due. Where this differs from the code besides: the Gaussian process of the cost has the same kernel
    as that of the loss (theirs adds one kernel a dimension), hyperparameters maximise the likelihood alone (theirs have priors), and
    the search for the best widths takes numerical derivatives.

    A proposal waits for the device: once in tau steps the losses come to the host. With several processes all take the first one's
    proposals.

    Parameters
    ----------
    held_out
        At least one batch (images, labels).
    proposals
        In a whole run; tau follows from it. Each looks at all earlier ones, so the time they take grows with their square. None: at
        most 1000, and in shorter runs than theirs as many as take the same part of the run's time.

    Raises
    ------
    InvalidInput
        No batch is held out.
    """

    name = "Joslim"
    label_smoothing = 0.1
    FIRST: ClassVar[int] = 20
    AT_ONCE: ClassVar[int] = 2

    def __init__(self, net: Supernet, *, seed: int = 0, held_out: Sequence[Batch] = (), proposals: int | None = None) -> None:
        super().__init__(net, seed=seed, held_out=held_out)
        require(len(held_out) >= 1, f"{self.name} measures its proposals on held-out batches and was given none; pass held_out=")
        require(proposals is None or proposals >= self.AT_ONCE, f"proposals = {proposals}; at least {self.AT_ONCE} are wanted")
        self.held_out, self.proposals = tuple(held_out), proposals
        self.tau = 1
        self.proposed: list[Widths] = []

    def phases(self, epochs: int, steps: int) -> tuple[Phase, ...]:
        """One phase; the length of the run sets tau."""
        total = epochs * steps
        proposals = self.proposals or max(self.AT_ONCE, min(MOST, round(MOST * (total / STEPS) ** 0.5)))
        self.tau = -(-total * self.AT_ONCE // proposals)
        return super().phases(epochs, steps)

    def _passes(self, images: Tensor, labels: Tensor, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        if step % self.tau == 0 or not self.proposed:
            self._propose(step)
        return super()._passes(images, labels, step, backward)

    def _subnetworks(self, step: int) -> tuple[Widths, Widths, Widths]:
        first, second = self.proposed[-self.AT_ONCE :]
        return first, second, self.net.space.smallest

    def _propose(self, step: int) -> None:
        """Add two proposals, both made from what is known now."""
        generator, space, known = self._generator(step), self.net.space, len(self.proposed)
        acquisition = self._acquisition(step, generator) if known + self.AT_ONCE > self.FIRST + 1 else None
        low = min(self._smallest_ratios())
        made: list[Widths] = []
        for place in range(known, known + self.AT_ONCE):
            if place == self.FIRST:
                made.append(space.largest)
            elif place < self.FIRST or acquisition is None:
                made.append(shared_ratio(space, generator, low=low))
            else:
                levels = np.linspace(self._cost(space.smallest), 1, LEVELS)
                target = float(levels[int(torch.randint(LEVELS, (), generator=generator))])
                made.append(acquisition.at_cost(target, space.at, self._cost))
        self.proposed += _agreed(made, next(self.net.parameters()).device)

    def _acquisition(self, step: int, generator: torch.Generator) -> Acquisition | None:
        """None where a loss is not finite: the training loop stops such a run and says so."""
        losses = self._losses(step)
        if not np.isfinite(losses).all():
            return None
        tried = np.array(self.proposed)
        costs = self.net.macs_many(tried) / self.net.macs(self.net.space.largest)
        return Acquisition(tried / np.array(self.net.space.largest), losses, costs, self._smallest_ratios(), generator)

    def _cost(self, widths: Widths) -> float:
        """MACs over those of the full network."""
        return self.net.macs(widths) / self.net.macs(self.net.space.largest)

    def _smallest_ratios(self) -> Values:
        ratios: Values = np.array(self.net.space.smallest) / np.array(self.net.space.largest)
        return ratios

    @torch.no_grad()
    def _losses(self, step: int) -> Values:
        """(K,) losses of all proposals so far, with the weights of now, on the held-out batch whose turn it is."""
        images, labels = self.held_out[step // self.tau % len(self.held_out)]
        device = next(self.net.parameters()).device
        images, labels = images.to(device), labels.to(device)
        with _measuring(self.net):
            losses = torch.stack([self._hard(self._logits(widths, images), labels) for widths in self.proposed])
        return losses.double().cpu().numpy()

    def state_dict(self) -> dict[str, Any]:
        """All proposals, too."""
        return super().state_dict() | {"proposed": torch.tensor(self.proposed, dtype=torch.int64)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.proposed = [self.net.space.check(widths) for widths in state["proposed"].tolist()]


class Acquisition:
    """What two Gaussian processes expect of widths that were not tried.

    Parameters
    ----------
    ratios : (K, D)
        Of full width, of each proposal so far.
    losses, costs : (K,)
        What they lost and cost; standardised here.
    low : (D,)
        Smallest ratio of each dimension; the largest is 1.
    generator
        Of the points the search starts from: half have one ratio for all dimensions, half one each.
    """

    def __init__(self, ratios: Values, losses: ArrayLike, costs: ArrayLike, low: Values, generator: torch.Generator) -> None:
        self._low = low
        self._models = [gaussian_process(ratios, values) for values in (losses, costs)]
        each = torch.rand(SAMPLES, len(low), generator=generator, dtype=torch.float64).numpy()
        each[::2] = each[::2, :1]
        self._starts = low + (1 - low) * each
        self._bounds_at_starts = self._bounds(self._starts)

    def at_cost(self, target: float, nearest: Callable[[Sequence[float]], Widths], cost: Callable[[Widths], float]) -> Widths:
        """The best widths for a scalar that makes them cost about `target`.

        Parameters
        ----------
        target
            Cost over that of the full network.
        nearest
            From ratios to widths.
        cost
            Of widths, over that of the full network.
        """
        low, high, scalar = 0.0, 1.0, 0.5
        widths: Widths = ()
        for _ in range(BISECTIONS):
            widths = nearest(self.best(scalar).tolist())
            found = cost(widths)
            if abs(found - target) <= TOLERANCE:
                break
            # the scalar is the weight of the cost: too cheap, and it must fall
            low, high = (low, scalar) if found < target else (scalar, high)
            scalar = (low + high) / 2
        return widths

    def best(self, scalar: float) -> Values:
        """(D,) ratios that minimise the scalarised bounds: the best of several local searches at once."""
        start = self._starts[np.argsort(chebyshev(*self._bounds_at_starts, scalar), kind="stable")[:RESTARTS]]
        shape = start.shape

        def function(flat: Values) -> tuple[float, Values]:
            values, slopes = self._slopes(flat.reshape(shape), scalar)
            return float(values.sum()), slopes.ravel()

        limits = list(zip(np.tile(self._low, len(start)), np.ones(start.size), strict=True))
        found = minimize(function, start.ravel(), jac=True, method="L-BFGS-B", bounds=limits, options={"maxiter": ITERATIONS})
        ends = np.clip(found.x.reshape(shape), self._low, 1)
        best: Values = ends[np.argmin(chebyshev(*self._bounds(ends), scalar))]
        return best

    def _bounds(self, ratios: Values) -> tuple[Values, Values]:
        """Lower confidence bounds of loss and of cost at (N, D) ratios, each (N,)."""
        loss, cost = (model.predict(ratios, return_std=True) for model in self._models)
        return loss[0] - BETA**0.5 * loss[1], cost[0] - BETA**0.5 * cost[1]

    def _slopes(self, ratios: Values, scalar: float, step: float = 1e-5) -> tuple[Values, Values]:
        """Values (N,) and forward differences (N, D)."""
        count, dimensions = ratios.shape
        moved = ratios[:, None] + step * np.eye(dimensions)
        points = np.concatenate([ratios[:, None], moved], axis=1).reshape(-1, dimensions)
        values = chebyshev(*self._bounds(points), scalar).reshape(count, 1 + dimensions)
        return values[:, 0], (values[:, 1:] - values[:, :1]) / step


def chebyshev(loss: Values, cost: Values, scalar: float) -> Values:
    """Augmented Chebyshev scalarisation: the larger of the weighted distances from the baseline -3, plus 1e-6 times their sum."""
    weighted_loss, weighted_cost = (1 - scalar) * (loss - BASELINE), scalar * (cost - BASELINE)
    combined: Values = np.maximum(weighted_loss, weighted_cost) + AUGMENTATION * (weighted_loss + weighted_cost)
    return combined


def gaussian_process(ratios: Values, values: ArrayLike) -> GaussianProcessRegressor:
    """Fitted to (K, D) ratios and (K,) values, standardised first; its predictions are standardised too."""
    # a second to load, and only Joslim wants it
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    observed = np.asarray(values, dtype=np.float64)
    spread = observed.std(ddof=1)
    observed = (observed - observed.mean()) / (spread if spread > 0 else 1.0)
    kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(0.5, (5e-2, 2e1), nu=2.5) + WhiteKernel(1e-2, (1e-4, 1.0))
    model = GaussianProcessRegressor(kernel, alpha=1e-8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a hyperparameter at the end of its range is an answer
        return model.fit(ratios, observed)


@contextmanager
def _measuring(net: Supernet) -> Iterator[None]:
    """No dropout, batch norms by the batch, running statistics left alone; afterwards all is as before."""
    norms, training = net.batch_norms, net.training
    tracked = [norm.track_running_stats for norm in norms]
    net.eval()
    for norm in norms:
        by_the_batch(norm)
    try:
        yield
    finally:
        net.train(training)
        for norm, before in zip(norms, tracked, strict=True):
            norm.track_running_stats = before


def _agreed(made: list[Widths], device: torch.device) -> list[Widths]:
    """The first process's proposals, in every process."""
    sent = processes.of_the_first(torch.tensor(made, dtype=torch.int64, device=device))
    return [tuple(widths) for widths in sent.tolist()]
