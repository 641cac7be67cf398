"""Which subnetwork runs now? One set of weights, a few widths, and a budget that may change between any two images (TIPS, Algorithm 2)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from tipslib.anytime.elastic import Supernet
from tipslib.anytime.layers import Statistics
from tipslib.anytime.storage import Stored, read, write
from tipslib.errors import CorruptFile, InvalidInput, require

Unit = Literal["MACs", "ms", "bytes"]
UNITS = ("MACs", "ms", "bytes")


@dataclass(frozen=True, eq=False)
class Subnetwork:
    """One width configuration that is on offer at run time.

    Attributes
    ----------
    widths
        Channels of every dimension of the supernet's space.
    accuracy
        In [0, 1], on images that were held out: what `select` goes by.
    statistics
        Of the batch norms at these widths, as `tipslib.anytime.calibration.calibrate` finds them; None: the full network's, sliced.
    milliseconds
        Of one forward pass on the device that this is meant for; None: not measured.

    Raises
    ------
    InvalidInput
        An accuracy outside [0, 1], or a time that is not above 0.
    """

    widths: tuple[int, ...]
    accuracy: float
    statistics: Statistics | None = None
    milliseconds: float | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        require(0 <= self.accuracy <= 1, f"accuracy = {self.accuracy}; a share from 0 to 1 is wanted")
        timed = self.milliseconds is None or 0 < self.milliseconds < math.inf
        require(timed, f"milliseconds = {self.milliseconds}; a finite time above 0 is wanted, or None")


class AnytimeNetwork:
    """A supernet with the subnetworks it is to switch between.

    Any number of threads may call it while another one selects: every forward pass runs from end to end at the subnetwork that was
    active when it began.

    Parameters
    ----------
    net
        The supernet; it is put into evaluation mode.
    subnetworks
        In any order; the most accurate one is active at first.

    Attributes
    ----------
    net
    subnetworks
        In the order of their MACs.

    Raises
    ------
    InvalidInput
        No subnetworks, two with the same widths, widths outside the space, or statistics of other batch norms.
    """

    def __init__(self, net: Supernet, subnetworks: Sequence[Subnetwork]) -> None:
        require(len(subnetworks) > 0, "subnetworks: at least one is wanted")
        device = next(net.parameters()).device
        there = [replace(s, widths=net.space.check(s.widths), statistics=_moved(s.statistics, device)) for s in subnetworks]
        twice = len({s.widths for s in there}) < len(there)
        require(not twice, "subnetworks: two have the same widths; keep the statistics and accuracy of one")
        self.net = net.eval()
        self.subnetworks = tuple(sorted(there, key=lambda s: (net.macs(s.widths), s.widths)))
        self._configurations = [net.configure(s.widths, s.statistics) for s in self.subnetworks]
        self._costs: dict[str, tuple[float, ...]] = {
            "MACs": tuple(net.macs(s.widths) for s in self.subnetworks),
            "bytes": tuple(net.parameter_count(s.widths) * next(net.parameters()).element_size() for s in self.subnetworks),
        }
        times = tuple(s.milliseconds for s in self.subnetworks if s.milliseconds is not None)
        if len(times) == len(there):
            self._costs["ms"] = times
        self._tables = {unit: _table(costs, self.subnetworks) for unit, costs in self._costs.items()}
        self.net.switch(self._configurations[_table(self._costs["MACs"], self.subnetworks)[1][-1]])

    @property
    def active(self) -> Subnetwork | None:
        """What the next forward pass runs at; None where the supernet was set to widths that are not on offer."""
        return next((s for s in self.subnetworks if s.widths == self.net.widths), None)

    def costs(self, unit: Unit = "MACs") -> tuple[float, ...]:
        """Of every subnetwork: multiply-accumulates of one image, milliseconds of one pass, or bytes of the weights that it reads.

        Raises
        ------
        InvalidInput
            Another unit, or milliseconds where some were not measured.
        """
        self._require(unit)
        return self._costs[unit]

    def select(self, budget: float, unit: Unit = "MACs") -> Subnetwork:
        """Switch to the most accurate subnetwork within a budget (TIPS, Algorithm 2, lines 6 to 11).

        From the next forward pass on, whichever thread makes it. No weight is read, written or copied; of two subnetworks that are
        equally accurate the cheaper is taken.

        Parameters
        ----------
        budget
            The most that a forward pass may cost.
        unit
            What it is counted in, see `costs`.

        Returns
        -------
        Subnetwork
            The one that is active now.

        Raises
        ------
        InvalidInput
            No subnetwork is as cheap as that, or the unit is unknown or was not measured; the active one stays.
        """
        if unit not in self._tables:
            self._require(unit)
        costs, best = self._tables[unit]
        if not budget >= costs[0]:
            raise InvalidInput(f"budget = {budget} {unit}; the smallest subnetwork costs {costs[0]}. Allow more, or offer a smaller one")
        chosen = best[bisect_right(costs, budget) - 1]
        self.net.switch(self._configurations[chosen])
        return self.subnetworks[chosen]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """(N, C, H, W) images to (N, classes) logits, without gradients."""
        logits: Tensor = self.net(images)
        return logits

    def save(self, path: Path) -> Path:
        """Write the subnetworks to `path` as JSON, and weights and statistics beside it as safetensors; returns the latter's path.

        The weights' file is called after its content and written first, so that a save that is cut short leaves an older pair whole.

        Raises
        ------
        StorageError
            The folder cannot be written.
        """
        described = zip(self.subnetworks, self.costs(), strict=True)
        rows = [{"widths": s.widths, "accuracy": s.accuracy, "MACs": macs, "ms": s.milliseconds} for s, macs in described]
        statistics = [s.statistics for s in self.subnetworks]
        return write(path, self.net, Stored(rows, statistics))

    @classmethod
    def load(cls, path: Path, net: Supernet) -> AnytimeNetwork:
        """Read what `save` wrote into a supernet that was built as the saved one was; nothing is unpickled or executed.

        Parameters
        ----------
        path
            Of the JSON; the weights are looked for beside it.
        net
            Its weights are overwritten. If the files are refused, it stays as it was.

        Raises
        ------
        CorruptFile
            A file was cut or altered, or is missing, or the two do not belong together.
        InvalidInput
            They are whole, but of another supernet (other layers, shapes, input or widths; the message says which), or of an untrained one.
        StorageError
            A file is there, but may not be read.
        """
        stored, weights = read(path, net)
        try:
            offered = [
                Subnetwork(tuple(row["widths"]), row["accuracy"], statistics, row["ms"])
                for row, statistics in zip(stored.subnetworks, stored.statistics, strict=True)
            ]
            for one in offered:
                net.configure(one.widths, one.statistics)
            macs = [row["MACs"] for row in stored.subnetworks]
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptFile(f"{path}: no subnetworks of this supernet ({error}). Save it anew") from error
        ours = [net.macs(one.widths) for one in offered]
        require(macs == ours, f"{path}: of another supernet: its subnetworks have {macs} MACs, and {ours} in this one. Build it as it was")
        try:
            made = cls(net, offered)
        except InvalidInput as error:
            raise CorruptFile(f"{path}: {error}. Save it anew") from error
        net.load_state_dict(weights)
        return made

    def _require(self, unit: str) -> None:
        require(unit in UNITS, f"unit = {unit!r}; allowed are {', '.join(UNITS)}")
        require(unit in self._costs, "not every subnetwork was timed; measure them on this device, and give each its milliseconds")


def _table(costs: Sequence[float], subnetworks: Sequence[Subnetwork]) -> tuple[list[float], list[int]]:
    """Costs in ascending order, and for each the index of the most accurate subnetwork that costs no more."""
    order = sorted(range(len(costs)), key=lambda i: (costs[i], -subnetworks[i].accuracy))
    best: list[int] = []
    for i in order:
        best.append(i if not best or subnetworks[i].accuracy > subnetworks[best[-1]].accuracy else best[-1])
    return [costs[i] for i in order], best


def _moved(statistics: Statistics | None, device: torch.device) -> Statistics | None:
    if statistics is None:
        return None
    return Statistics(tuple((mean.to(device), variance.to(device)) for mean, variance in statistics.pairs))
