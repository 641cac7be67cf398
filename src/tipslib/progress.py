"""How far has the work come? Bars on a terminal or in a notebook that somebody watches, silence elsewhere."""

import os
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")


def watched() -> bool:
    """Whether bars are shown: on a terminal or in a notebook, by the first of several processes, unless `TIPSLIB_PROGRESS=0`."""
    if os.environ.get("TIPSLIB_PROGRESS") == "0" or os.environ.get("RANK", "0") != "0":
        return False
    return "ipykernel.kernelapp" in sys.modules or sys.stderr.isatty()


def track(items: Iterable[T], description: str, total: int | None = None) -> Iterator[T]:
    """Yield `items` unchanged, with a progress bar where somebody watches (`TIPSLIB_PROGRESS=0` turns it off)."""
    yield from tqdm(items, desc=description, total=total, leave=False, disable=not watched())
