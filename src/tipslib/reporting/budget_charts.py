"""What would each supernet run at a budget? Charts with a slider, which need no kernel."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from tipslib.errors import require
from tipslib.records import Record
from tipslib.reporting.style import INK, of_strategy

_SHAPES = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down"}
_ROW = 19  # pixels of a line of text in the chart of budgets


def on_offer(found: Mapping[str, Record]) -> pd.DataFrame:
    """The subnetworks that each supernet can switch to, a row each, with the budgets at which each is the best to be had.

    Columns `strategy`, `mmacs` (millions), `share` (percent of the full network's MACs; the subnetwork runs from there) and `until`,
    `accuracy` and `held_out` (percent), `widths` (channels). Before the cheapest one stands a row without a subnetwork.
    """
    require(len(found) > 0, "there is no supernet to choose from; give the record of at least one strategy")
    rows: list[dict[str, Any]] = []
    for name, r in found.items():
        shares = 100 * r.arrays["macs"] / r.values["macs"][1]
        ends = [*shares[1:], math.inf]
        if shares[0] > 0:
            rows.append({"strategy": name, "mmacs": math.nan, "share": 0.0, "until": shares[0], "accuracy": math.nan, "held_out": math.nan})
        for k, (share, end) in enumerate(zip(shares, ends, strict=True)):
            accuracies = {key: 100 * float(r.arrays[array][k]) for key, array in (("accuracy", "test"), ("held_out", "held_out"))}
            where = {"strategy": name, "mmacs": r.arrays["macs"][k] / 1e6, "share": float(share), "until": float(min(end, 1e6))}
            rows.append(where | accuracies | {"widths": r.arrays["widths"][k].tolist()})
    return pd.DataFrame(rows)


def _budget(found: Mapping[str, Record], start: float) -> tuple[alt.Parameter, Any]:
    """The slider, and a line of text that says what its budget is in MACs."""
    full = max(r.values["macs"][1] for r in found.values()) / 1e6
    bind = alt.binding_range(min=0, max=100, step=1, name="budget, % of the full network's MACs ")
    words = f"'budget: ' + format(budget / 100 * {full}, ',.4~r') + ' of {full:,.1f} million MACs'"
    line = alt.Chart(pd.DataFrame({"at": [0]})).transform_calculate(words=words, budget="budget")
    return alt.param(name="budget", value=round(start), bind=bind), line


_ACTIVE = "datum.share <= budget && budget < datum.until"


def budget_chart(found: Mapping[str, Record], *, start: float) -> tuple[alt.LayerChart, pd.DataFrame]:
    """Fronts of one training each with a slider for the budget, which shows the subnetwork each would run, and its numbers.

    Parameters
    ----------
    found
        Strategy to the record of one of its trainings.
    start
        Budget at first, in percent of the MACs of the full network.
    """
    frame = on_offer(found).drop(columns="widths").round(4)
    budget, line = _budget(found, start)
    lowest, highest = frame["accuracy"].min(), frame["accuracy"].max()
    height, under = 360, _ROW * (len(found) + 1) + 8
    room = (highest - lowest + 1) * height / (height - under - 20)
    ends = frame.dropna().groupby("strategy", sort=False).tail(1).assign(share=100.0)
    looks = [of_strategy(name) for name in found]
    colours = alt.Scale(domain=list(found), range=[look["color"] for look in looks])
    shapes = alt.Scale(domain=list(found), range=[_SHAPES[look["marker"]] for look in looks])
    dashed = ["markerfacecolor" in look for look in looks]
    dashes = alt.Scale(domain=list(found), range=[[4, 2] if one else [1, 0] for one in dashed])
    filled = alt.Scale(domain=list(found), range=["transparent" if one else look["color"] for one, look in zip(dashed, looks, strict=True)])
    mark: dict[str, Any] = {
        "stroke": alt.Stroke("strategy:N", legend=None, scale=colours),
        "fill": alt.Fill("strategy:N", legend=None, scale=filled),
        "shape": alt.Shape("strategy:N", legend=None, scale=shapes),
    }
    x = alt.X("share:Q", title="MACs, % of the full network", scale=alt.Scale(domain=[0, 100]), axis=alt.Axis(values=[*range(0, 101, 20)]))
    # the lines of text stand where no accuracy does, so there are no numbers at the axis either
    ticks = [tick for tick in map(float, MaxNLocator(6).tick_values(lowest, highest)) if lowest - 1 <= tick <= highest + 1]
    scale = alt.Scale(domain=[highest + 1 - room, highest + 1], zero=False, nice=False)
    y = alt.Y("accuracy:Q", title="test accuracy, %", scale=scale, axis=alt.Axis(values=ticks))
    steps = alt.Chart(pd.concat([frame.dropna(), ends])).mark_line(interpolate="step-after", strokeWidth=1.4)
    tips = [
        alt.Tooltip("strategy:N"),
        alt.Tooltip("mmacs:Q", title="MACs, millions", format=".3f"),
        alt.Tooltip("accuracy:Q", title="test accuracy, %", format=".1f"),
        alt.Tooltip("held_out:Q", title="on held-out images, %", format=".1f"),
    ]
    chosen = alt.Chart(frame.dropna()).transform_filter(_ACTIVE).mark_point(size=130, opacity=1)
    parts = [
        steps.encode(x=x, y=y, stroke=mark["stroke"], strokeDash=alt.StrokeDash("strategy:N", legend=None, scale=dashes)),
        line.mark_rule(strokeDash=[4, 3]).encode(x=alt.X("budget:Q"), y=alt.value(0), y2=alt.value(height - under - 10)),
        chosen.encode(x=x, y=y, tooltip=tips, **mark),
        line.mark_text(align="left").encode(text="words:N", **_place(height - under, 12)),
    ]
    for k, name in enumerate(found):
        words = f"isValid(datum.accuracy) ? '{name}: ' + format(datum.mmacs, ',.4~r') + ' M, ' + format(datum.accuracy, '.1f') + ' %' "
        of_one = alt.Chart(frame[frame["strategy"] == name]).transform_filter(_ACTIVE)
        place = height - under + _ROW * (k + 1)
        text = of_one.transform_calculate(words=words + f": '{name}: none so small'").mark_text(align="left")
        parts.append(of_one.mark_point(size=70, opacity=1).encode(**mark, **_place(place, 4)))
        parts.append(text.encode(text="words:N", **_place(place, 12)))
    return alt.LayerChart(layer=parts, width=560, height=height).add_params(budget), frame


def _place(y: float, x: float) -> dict[str, Any]:
    """A place in the lower right of the chart, where no front is."""
    return {"x": alt.value(alt.expr(f"width - 225 + {x}")), "y": alt.value(y)}


def anatomy_chart(found: Mapping[str, Record], *, start: float) -> tuple[alt.LayerChart, pd.DataFrame]:
    """How wide the subnetwork of each strategy is at a budget, one square for each number of channels; parameters as `budget_chart`.

    Where a strategy asks which numbers of channels are important, a row of marks says what it was told.
    """
    offered = on_offer(found).dropna()
    first = next(iter(found.values()))
    dimensions = pd.DataFrame({"position": range(1, len(first.values["largest"]) + 1), "layer": first.values["dimensions"]})
    dimensions["full"] = first.values["largest"]
    frame = offered[["strategy", "share", "until", "widths"]].round(4)
    frame = frame.rename(columns={"widths": "channels"}).assign(position=[dimensions["position"].tolist()] * len(frame))
    budget, line = _budget(found, start)
    important = [r.values["important"] for r in found.values() if r.values["important"] is not None]
    rows = [*found, *(["important"] if important else []), ""]
    y = alt.Y("strategy:N", title=None, sort=rows, scale=alt.Scale(domain=rows), axis=alt.Axis(ticks=False, domain=False))
    x = alt.X("position:O", title="from input to output", axis=alt.Axis(labels=False, ticks=False))
    scale = alt.Scale(scheme="cividis", domain=[0, 100])
    shade = alt.Color("part:Q", title="% of the channels", scale=scale, legend=alt.Legend(orient="bottom"))
    squares = (
        alt.Chart(frame)
        .transform_filter(_ACTIVE)
        .transform_flatten(["channels", "position"])
        .transform_lookup("position", alt.LookupData(dimensions, "position", ["layer", "full"]))
        .transform_calculate(part="100 * datum.channels / datum.full")
        .mark_rect()
        .encode(
            x=x,
            y=y,
            color=shade,
            tooltip=["strategy:N", alt.Tooltip("layer:N", title="set by"), "channels:Q", alt.Tooltip("full:Q", title="of")],
        )
    )
    parts = [squares, line.mark_text(align="left").encode(text="words:N", x=alt.value(4), y=alt.value(30 * len(rows) - 15))]
    if important:
        marked = dimensions[important[0]].assign(strategy="important")
        parts.append(
            alt.Chart(marked)
            .mark_point(shape="triangle-up", filled=True, size=60, color=INK, opacity=1)
            .encode(x=x, y=y, tooltip="layer:N")
        )
    long = offered.explode("widths").rename(columns={"widths": "channels"}).assign(layer=first.values["dimensions"] * len(offered))
    return alt.LayerChart(layer=parts, width=560, height=30 * len(rows)).add_params(budget), long
