"""Does a sentence of a paper hold? A claim is that sentence with a test on records that can answer both ways."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from tipslib.errors import InvalidInput
from tipslib.experiments import EXPERIMENTS
from tipslib.records import Record


class Verdict(StrEnum):
    """What a test on records can say."""

    HOLDS = "holds"
    FAILS = "does not hold"
    UNDECIDED = "undecided"
    NOT_RUN = "not run"


@dataclass(frozen=True)
class Finding:
    """A verdict with its evidence.

    `effect` is the quantity of the claim, `interval` its 95 % interval (None where the result is exact), `seeds` the number of
    independent runs, `reason` one sentence a reader understands, with the numbers in it.
    """

    verdict: Verdict
    effect: float | None
    interval: tuple[float, float] | None
    seeds: int
    reason: str

    @property
    def evidence(self) -> str:
        """Effect, interval and number of seeds in one line."""
        if self.effect is None:
            return "no number"
        if self.interval is None:
            spread = "exact"
        elif not all(map(math.isfinite, self.interval)):
            spread = "no interval"
        else:
            spread = f"95 % interval {self.interval[0]:.4g} to {self.interval[1]:.4g}"
        return f"{self.effect:.4g} ({spread}; {self.seeds} seed{'' if self.seeds == 1 else 's'})"


@dataclass(frozen=True)
class Claim:
    """One checkable sentence.

    `id` is kebab-case and unique; `where` names section, figure or table; `words` is the sentence in short; `quantity` says what
    `effect` measures, with its unit; `profiles` are those whose records can decide it; `test` turns the records of `experiment`
    (one per seed, or per variant and seed, never empty) into a finding; `page` is the notebook that shows it (default: the one named
    like the experiment).
    """

    id: str
    paper: Literal["tips", "progressive", "companion"]
    where: str
    words: str
    quantity: str
    experiment: str
    profiles: tuple[str, ...]
    test: Callable[[Sequence[Record]], Finding]
    page: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "page", self.page or self.experiment)

    def judge(self, records: Sequence[Record]) -> Finding:
        """The finding on `records`; `not run` without any, `undecided` from a profile that is too small to decide."""
        if not records:
            return Finding(Verdict.NOT_RUN, None, None, 0, "no run of this experiment at this profile yet")
        finding = self.test(records)
        small = records[0].run.profile
        if small not in self.profiles and finding.verdict in (Verdict.HOLDS, Verdict.FAILS):
            reason = f"{finding.reason} (seen at profile {small}, which is too small to decide; {', '.join(self.profiles)} can)"
            return Finding(Verdict.UNDECIDED, finding.effect, finding.interval, finding.seeds, reason)
        return finding


def claims() -> Mapping[str, Claim]:
    """Every claim by id, in the order of the experiments; each experiment's stand in `reporting.claims.<experiment>`.CLAIMS."""
    found: dict[str, Claim] = {}
    for experiment in EXPERIMENTS:
        for claim in importlib.import_module(f"{__name__}.{experiment}").CLAIMS:
            found[claim.id] = claim
    return found


def claims_of(experiment: str) -> list[Claim]:
    """The claims that records of `experiment` decide."""
    if experiment not in EXPERIMENTS:
        raise InvalidInput(f"no experiment {experiment!r}; there are {', '.join(EXPERIMENTS)}")
    return [claim for claim in claims().values() if claim.experiment == experiment]
