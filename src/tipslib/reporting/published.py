"""Which numbers do the papers print? The CSV files of `data/published`, checked against their checksums, as typed tables."""

from __future__ import annotations

import csv
import difflib
import hashlib
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd

from tipslib import project
from tipslib.errors import CorruptFile, InvalidInput, MissingData, unreadable

MANIFEST = "SHA256SUMS"
TEXTS = ("tips-text", "progressive-text")
_REFRESH = f"if the change is meant, run `sha256sum *.csv > {MANIFEST}` in that folder"


@dataclass(frozen=True)
class Quoted:
    """One number out of a paper's text. `spread` is None where none is printed; `source` is the place and the sentence in short."""

    value: float
    unit: str
    spread: float | None
    source: str


def _number(cell: str) -> float:
    value = float(cell)
    if not math.isfinite(value):
        raise ValueError("a finite number is wanted")
    return value


def _number_or_nothing(cell: str) -> float:
    return _number(cell) if cell else math.nan


def _truth(cell: str) -> bool:
    if cell not in ("true", "false"):
        raise ValueError("true or false is wanted")
    return cell == "true"


def _words(cell: str) -> str:
    if not cell:
        raise ValueError("a text is wanted")
    return cell


Column = tuple[str, Callable[[str], Any]]  # pandas dtype, reader of one cell
_TEXT: Column = ("str", _words)
_NOTE: Column = ("str", str)
_WHOLE: Column = ("int64", int)
_REAL: Column = ("float64", _number)
_OPTIONAL: Column = ("float64", _number_or_nothing)
_FLAG: Column = ("bool", _truth)

_ACCURACY: Mapping[str, Column] = {
    "dataset": _TEXT,
    "network": _TEXT,
    "method": _TEXT,
    "budget_macs": _WHOLE,
    "budget_label": _TEXT,
    "accuracy_percent": _REAL,
    "spread_percent": _OPTIONAL,
    "bold": _FLAG,
    "source": _TEXT,
}
_LATENCY: Mapping[str, Column] = {
    "dataset": _TEXT,
    "network": _TEXT,
    "method": _TEXT,
    "device": _TEXT,
    "latency_ms": _REAL,
    "accuracy_percent": _REAL,
    "source": _TEXT,
}
_WEIGHTS: Mapping[str, Column] = {
    **{f"weight_{exit_}": _REAL for exit_ in ("exit1", "exit2", "exit3", "final")},
    "auc": _REAL,
    "raw_percent": _OPTIONAL,
    "fractional_percent": _OPTIONAL,
    "source": _TEXT,
}
_QUOTED: Mapping[str, Column] = {
    "id": _TEXT,
    "value": _REAL,
    "unit": _TEXT,
    "spread": _OPTIONAL,
    "source": _TEXT,
    "note": _NOTE,
}
_INCONSISTENCY: Mapping[str, Column] = dict.fromkeys(("id", "paper", "where", "kind", "what", "consequence"), _TEXT)

COLUMNS: Mapping[str, Mapping[str, Column]] = MappingProxyType(
    {
        "tips-table1": _ACCURACY,
        "tips-table2": _ACCURACY,
        "tips-table3": _LATENCY,
        "tips-table4": _ACCURACY,
        "tips-table5": _ACCURACY,
        "tips-table6": _ACCURACY,
        "tips-text": _QUOTED,
        "progressive-table1": _WEIGHTS,
        "progressive-text": _QUOTED,
        "inconsistencies": _INCONSISTENCY,
    }
)


def tables() -> tuple[str, ...]:
    """Names of all tables, in the order of the papers."""
    return tuple(COLUMNS)


def published(table: str) -> pd.DataFrame:
    """One table of published numbers; its columns are explained in `data/published/README.md`.

    Parameters
    ----------
    table
        One of `tables()`, such as "tips-table1" or "progressive-text".

    Returns
    -------
    DataFrame
        A row per printed number (per line for "progressive-table1"); numbers as int64 or float64 with NaN where nothing is printed.

    Raises
    ------
    InvalidInput
        There is no such table; the message lists those there are.
    MissingData
        `data/published` is not where the project is looked for.
    CorruptFile
        The file does not fit its checksum, or a line of it cannot be read; the message names file and line.
    StorageError
        The file may not be read.
    """
    if table not in COLUMNS:
        raise InvalidInput(f"no published table {table!r}; there are {', '.join(COLUMNS)}")
    columns = COLUMNS[table]
    rows = _rows(project.root() / "data" / "published" / f"{table}.csv", columns)
    frame = pd.DataFrame(rows, columns=list(columns))
    return frame.astype({name: dtype for name, (dtype, _) in columns.items()})


def quoted(identifier: str) -> Quoted:
    """One number out of the text of either paper, such as `quoted("tips-step1-seconds")`.

    Raises
    ------
    InvalidInput
        There is no such number; the message names the nearest ones.
    """
    known: list[str] = []
    for table in TEXTS:
        frame = published(table).set_index("id")
        if identifier in frame.index:
            row = frame.loc[identifier]
            return Quoted(float(row["value"]), row["unit"], None if math.isnan(row["spread"]) else float(row["spread"]), row["source"])
        known += frame.index.tolist()
    near = ", ".join(difflib.get_close_matches(identifier, known, n=3, cutoff=0.4)) or "none"
    files = " and ".join(f"data/published/{table}.csv" for table in TEXTS)
    raise InvalidInput(f"no quoted number {identifier!r}; near it: {near}; all ids stand in {files}")


def inconsistencies() -> pd.DataFrame:
    """Where a paper contradicts itself, its own tables or its own mathematics: `published("inconsistencies")`."""
    return published("inconsistencies")


def _rows(path: Path, columns: Mapping[str, Column]) -> list[list[Any]]:
    reader = csv.reader(io.StringIO(_verified(path), newline=""), strict=True)
    rows: list[list[Any]] = []
    try:
        if next(reader, None) != list(columns):
            raise ValueError(f"the columns have to be {', '.join(columns)}")
        for cells in reader:
            if len(cells) != len(columns):
                raise ValueError(f"{len(cells)} cells; there have to be {len(columns)}")
            rows.append([_cell(name, read, cell) for (name, (_, read)), cell in zip(columns.items(), cells, strict=True)])
    except (ValueError, csv.Error) as error:
        raise CorruptFile(f"{path}, line {max(reader.line_num, 1)}: {error}. Restore the file from the repository") from error
    return rows


def _cell(name: str, read: Callable[[str], Any], cell: str) -> Any:
    try:
        return read(cell)
    except ValueError as error:
        raise ValueError(f"{name} = {cell!r}: {error}") from error


def _verified(path: Path) -> str:
    """Content of the file, if the manifest beside it knows exactly that content."""
    try:
        content = path.read_bytes()
        manifest = path.with_name(MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise MissingData(f"{error.filename}: no such file. Set TIPSLIB_HOME to a checkout of the project, which holds it") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if f"{hashlib.sha256(content).hexdigest()}  {path.name}".encode() not in manifest.splitlines():
        raise CorruptFile(f"{path}: the content does not fit its checksum in {MANIFEST}. Restore the file; {_REFRESH}")
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise CorruptFile(f"{path}, line {line}: not UTF-8. Restore the file from the repository") from error
