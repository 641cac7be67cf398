"""How long would a profile train, artefact by artefact, here or on another device? Tables, and a chart with a slider for its speed."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from tipslib.records import Record
from tipslib.reporting.artefacts import ARTEFACTS, Artefact
from tipslib.reporting.budgets import DATA
from tipslib.reporting.claims.costs import hours, rates
from tipslib.reporting.style import INK, SERIES

FLOP = 2
"""Floating-point operations of one MAC, as the makers of devices count."""

ALL = "everything, each training once"

_PAPERS = {"tips": "TIPS", "progressive": "Progressive intelligence"}
_SEVERAL = 8  # devices, as in the paper's server
_SLOWEST, _FASTEST, _DETENT = -2, 3, 0.01  # powers of ten of TFLOP/s


def data_set(name: str) -> str:
    """A data set's name for people."""
    return {**DATA, "cifar10": "CIFAR10", "digits": "Digits", "mnist": "MNIST"}.get(name, name)


def tera(macs_a_second: float) -> float:
    """TFLOP/s, of which device makers speak: 10^12 floating-point operations a second."""
    return FLOP * macs_a_second / 1e12


def overall_rate(records: Sequence[Record]) -> float:
    """MACs a second over all trainings, one after another: all their work by all their time."""
    many = [len(_seeds(t, t["seeds"])) for t in records[0].values["trainings"]]
    work = [t["work"] for t in records[0].values["trainings"]]
    return float(np.dot(many, work) / np.dot(many, 3600 * hours(records)))


def by_network(records: Sequence[Record]) -> pd.DataFrame:
    """A row for each network and data set: how often it is trained, the work of all of that, the rate and the hours here."""
    values, taken, rate = records[0].values, hours(records), rates(records)
    groups: dict[tuple[int, str], list[int]] = {}
    for i, t in enumerate(values["trainings"]):
        groups.setdefault((t["network"], t["recipe"]["data"]), []).append(i)
    rows = []
    for (number, data), members in groups.items():
        network, trainings = values["networks"][number], [values["trainings"][i] for i in members]
        many = [len(_seeds(t, t["seeds"])) for t in trainings]
        rows.append(
            {
                "network": f"{network['name']} ×{network['width']:g}",
                "data": data_set(data),
                "px": network["side"],
                "million MACs": network["macs"] / 1e6,
                "trainings": sum(many),
                "10¹⁵ MACs": float(np.dot(many, [t["work"] for t in trainings])) / 1e15,
                "TFLOP/s": tera(rate[number]),
                "hours": float(np.dot(many, taken[members])),
            }
        )
    return pd.DataFrame(rows).set_index("network")


def by_artefact(records: Sequence[Record]) -> pd.DataFrame:
    """A row for the artefacts that want the same trainings and each data set, most work first; at last rows for everything.

    Columns `artefacts`, `data`, `trainings`, `work` (MACs) and `hours` on the machine of the records. What several artefacts want
    stands with each of them, and once with everything.
    """
    sharing: dict[tuple[str, ...], list[Artefact]] = {}
    for artefact in ARTEFACTS.values():
        sharing.setdefault(tuple(sorted(artefact.experiments)), []).append(artefact)
    found = [_rows(records, _label(group), experiments) for experiments, group in sharing.items()]
    found = sorted((rows for rows in found if rows), key=lambda rows: -math.fsum(row["work"] for row in rows))
    users = {name for t in records[0].values["trainings"] for name in t["seeds"]}
    return pd.DataFrame([row for rows in (*found, _rows(records, ALL, users)) for row in rows])


def cost_chart(frame: pd.DataFrame, rate: float) -> alt.LayerChart:
    """Hours by artefact as bars, with a slider for the speed of a device.

    Parameters
    ----------
    frame
        Of `by_artefact`.
    rate
        MACs a second at which the slider stands at first.
    """
    start = min(max(math.log10(tera(rate)), _SLOWEST), _FASTEST)
    bind = alt.binding_range(min=_SLOWEST, max=_FASTEST, step=_DETENT, name="speed of your device, 10^x TFLOP/s, x = ")
    speed = alt.param(name="speed", value=round(start, 2), bind=bind)
    parts, totals = frame.drop(columns="hours"), frame.groupby("artefacts", sort=False, as_index=False)[["trainings", "work"]].sum()
    order, data = totals["artefacts"].tolist(), frame.groupby("data")["work"].sum().sort_values(ascending=False).index.tolist()
    took = f"{FLOP} * datum.work / (3600 * 1e12 * pow(10, speed))"
    bars = alt.Chart(parts).transform_calculate(hours=took)
    words = "format(datum.hours, ',.3~r') + ' h: ' + datum.artefacts"
    whole = alt.Chart(totals).transform_calculate(hours=took).transform_calculate(words=words)
    y = alt.Y("artefacts:N", sort=order, title=None, axis=None)
    x = alt.X("hours:Q", title="hours on one device", axis=alt.Axis(format=",.3~r", tickCount=4))
    tips = [
        alt.Tooltip("artefacts:N"),
        alt.Tooltip("data:N", title="trained on"),
        alt.Tooltip("trainings:Q"),
        alt.Tooltip("work:Q", title="MACs", format=".3~e"),
        alt.Tooltip("hours:Q", title="hours on one device", format=",.3~r"),
    ]
    colours = alt.Scale(domain=data, range=list(SERIES[: len(data)]))
    colour = alt.Color("data:N", title="trained on", scale=colours, legend=alt.Legend(orient="bottom", columns=3))
    layers = [
        bars.mark_bar(height=14, yOffset=8).encode(x=x, y=y, color=colour, order=alt.Order("work:Q", sort="descending"), tooltip=tips),
        whole.mark_text(align="left", dy=-8, color=INK, limit=alt.expr("width")).encode(x=alt.value(2), y=y, text="words:N"),
    ]
    title = alt.Title(alt.expr(_in_days(float(totals["work"].iloc[-1]))), anchor="start")
    return alt.LayerChart(layer=layers, width=560, height=44 * len(order), title=title).add_params(speed)


def _in_days(work: float) -> str:
    """An expression for two lines of text: how long so many MACs take at the slider's speed."""
    days = FLOP * work / 1e12 / 86400
    one, several = (f"format({each} / pow(10, speed), ',.3~r') + ' days'" for each in (days, days / _SEVERAL))
    return f"['everything at ' + format(pow(10, speed), '.3~r') + ' TFLOP/s: ' + {one}, 'on {_SEVERAL} such devices: ' + {several}]"


def _seeds(training: Mapping[str, Any], experiments: Iterable[str]) -> set[int]:
    return {seed for name in experiments for seed in training["seeds"].get(name, ())}


def _rows(records: Sequence[Record], label: str, experiments: Iterable[str]) -> list[dict[str, Any]]:
    """What these experiments want together, by data set, most work first."""
    wanted, found = list(experiments), dict[str, dict[str, Any]]()
    for training, taken in zip(records[0].values["trainings"], hours(records), strict=True):
        if many := len(_seeds(training, wanted)):
            data = data_set(training["recipe"]["data"])
            row = found.setdefault(data, {"artefacts": label, "data": data, "trainings": 0, "work": 0.0, "hours": 0.0})
            row |= {"trainings": row["trainings"] + many, "work": row["work"] + many * training["work"]}
            row["hours"] += many * float(taken)
    return sorted(found.values(), key=lambda row: -row["work"])


def _label(artefacts: Sequence[Artefact]) -> str:
    """`TIPS, Figures 1, 2; Table 1`: names that begin alike stand together."""
    kinds: dict[str, list[str]] = {}
    for artefact in artefacts:
        kind, _, number = artefact.label.partition(" ")
        kinds.setdefault(kind, []).append(number)
    names = [f"{kind}{'s' if numbers[1:] else ''} {', '.join(numbers)}" for kind, numbers in kinds.items()]
    return f"{_PAPERS[artefacts[0].paper]}, {'; '.join(names)}"
