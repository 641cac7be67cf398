"""Does a stored record repeat? The run is made again, and every value and array is compared."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from tipslib.errors import InvalidInput
from tipslib.experiments import get_experiment, plan, recompute
from tipslib.profiles import Profile
from tipslib.records import Outcome, Record


def is_current(record: Record, profile: Profile) -> bool:
    """Whether the record was made by the version of its experiment that is installed; another one cannot repeat it."""
    run = record.run
    try:
        return plan(run.experiment, profile=profile, seed=run.seed, **run.parameters).key == run.key
    except InvalidInput:
        return False


def differences(record: Record, profile: Profile) -> list[str]:
    """Make the run again, and name every place where it differs from the record; an empty list means that it repeats."""
    outcome, _ = recompute(record.run, profile)
    return list(compare(record, outcome, get_experiment(record.run.experiment).TOLERANCE))


def compare(record: Record, outcome: Outcome, tolerance: float) -> Iterator[str]:
    """Every place where record and outcome differ, with both values.

    Floats agree within `tolerance`, relative; all else must be equal. `values["timing"]` holds durations and is left out.
    """
    repeated = json.loads(json.dumps(dict(outcome.values)))
    stored, again = ({key: value for key, value in values.items() if key != "timing"} for values in (record.values, repeated))
    yield from _values(stored, again, tolerance, "values")
    for name in sorted(record.arrays.keys() | outcome.arrays.keys()):
        yield from _arrays(record.arrays.get(name), outcome.arrays.get(name), tolerance, f"arrays.{name}")
    yield from _values(record.provenance["data"], dict(outcome.data), tolerance, "data")


def _values(stored: Any, repeated: Any, tolerance: float, place: str) -> Iterator[str]:
    if isinstance(stored, Mapping) and isinstance(repeated, Mapping):
        for key in sorted(stored.keys() | repeated.keys()):
            if key not in stored or key not in repeated:
                yield f"{place}.{key}: only in the {'repeated run' if key in repeated else 'record'}"
            else:
                yield from _values(stored[key], repeated[key], tolerance, f"{place}.{key}")
    elif isinstance(stored, list) and isinstance(repeated, list) and len(stored) == len(repeated):
        for i, (one, other) in enumerate(zip(stored, repeated, strict=True)):
            yield from _values(one, other, tolerance, f"{place}[{i}]")
    elif not _equal(stored, repeated, tolerance):
        yield f"{place}: {_short(stored)} in the record, {_short(repeated)} now"


def _equal(stored: Any, repeated: Any, tolerance: float) -> bool:
    if isinstance(stored, float) or isinstance(repeated, float):
        numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (stored, repeated))
        return numbers and math.isclose(stored, repeated, rel_tol=tolerance)
    return type(stored) is type(repeated) and bool(stored == repeated)


def _arrays(stored: np.ndarray | None, repeated: np.ndarray | None, tolerance: float, place: str) -> Iterator[str]:
    if stored is None or repeated is None:
        yield f"{place}: only in the {'repeated run' if stored is None else 'record'}"
        return
    if (stored.shape, stored.dtype) != (repeated.shape, repeated.dtype):
        yield f"{place}: {stored.dtype} {stored.shape} in the record, {repeated.dtype} {repeated.shape} now"
        return
    differs = stored != repeated
    if np.issubdtype(stored.dtype, np.inexact):
        differs = ~np.isclose(stored, repeated, rtol=tolerance, atol=0, equal_nan=True)
    if np.any(differs):
        first = np.unravel_index(np.argmax(differs), stored.shape)
        at = f" at {', '.join(map(str, first))}" if first else ""
        yield (
            f"{place}: {np.count_nonzero(differs)} of {stored.size} numbers differ, the first{at}: "
            f"{stored[first]} in the record, {repeated[first]} now"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
