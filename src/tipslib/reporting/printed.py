"""How is a table of published numbers laid out for readers?"""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from tipslib.reporting.published import TEXTS, published


def as_printed(table: str) -> dict[str, pd.DataFrame]:
    """The table as text with inline Markdown; caption -> frame.

    Accuracies are laid out as in the paper: a frame for each data set, methods down, budgets across, the paper's bold as bold. Numbers
    of the text and inconsistencies get two columns each, which a narrow window has room for.

    Raises
    ------
    InvalidInput, MissingData, CorruptFile
        As for `published`.
    """
    frame = published(table)
    if table == "inconsistencies":
        return _inconsistencies(frame)
    if table in TEXTS:
        return {"Numbers in the text": _quoted(frame)}
    if "budget_label" in frame:
        return _accuracies(frame)
    return {frame["source"].iloc[0]: _varying(frame)}


def _accuracies(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    spread = frame["spread_percent"].map(lambda value: "" if math.isnan(value) else f" ± {value:.1f}")
    star = frame["bold"].map({True: "**", False: ""})
    cells = frame.assign(cell=star + frame["accuracy_percent"].map("{:.1f}".format) + spread + star)
    laid_out = {}
    for dataset, part in cells.groupby("dataset", sort=False):
        wide = part.pivot(index="method", columns="budget_label", values="cell")
        wide = wide.loc[part["method"].unique(), part["budget_label"].unique()]
        laid_out[f"{dataset}: accuracy in % at each budget"] = wide.rename_axis(index="Method", columns=None)
    return laid_out


def _quoted(frame: pd.DataFrame) -> pd.DataFrame:
    number = frame["value"].map(_plain) + frame["unit"].map(lambda unit: "" if unit == "1" else f" {unit}")
    note = frame["note"].map(lambda note: f" ({note})" if note else "")
    return pd.DataFrame({"Number": number, "Where it stands": frame["source"] + note + " `" + frame["id"] + "`"})


def _inconsistencies(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    where = "**" + frame["where"] + "** (" + frame["kind"] + ")"
    shown = pd.DataFrame({"Where": where, "What, and what follows": frame["what"] + " *" + frame["consequence"] + "*"})
    names = {"tips": "Inconsistencies in TIPS", "progressive": "Inconsistencies in progressive intelligence"}
    return {name: shown[frame["paper"] == paper] for paper, name in names.items()}


def _varying(frame: pd.DataFrame) -> pd.DataFrame:
    """The columns that do not say the same on every line."""
    return frame.loc[:, frame.nunique() > 1].map(_plain).rename(columns=lambda name: name.replace("_", " "))


def _plain(cell: Any) -> str:
    if isinstance(cell, str):
        return cell
    if math.isnan(cell):
        return "–"
    return f"{cell:,.0f}" if cell == int(cell) else f"{cell:.4g}"
