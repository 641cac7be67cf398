"""How are fronts of accuracy and cost drawn and set beside the printed ones?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.stats import t

from tipslib import experiments
from tipslib.experiments.fronts import WIDTH, Parameters
from tipslib.experiments.passes import CLASSES
from tipslib.profiles import PROFILES, get_profile
from tipslib.records import Record, Store
from tipslib.reporting.budgets import DATA, NETWORKS, Cell, accuracy_under, at_budgets, budgets, cell, cells, paired
from tipslib.reporting.claims.seeds import mean_interval
from tipslib.reporting.evidence import records_of
from tipslib.reporting.markup import Html
from tipslib.reporting.published import published, quoted
from tipslib.reporting.style import INK, of_strategy

Size = tuple[str, str]
"""A profile and a data set."""

Network = Literal["mobilenet_v2", "resnet34"]


def measured(profile: str, **asked: Any) -> list[Record]:
    """Records of all runs of a profile, computed where there are none; `asked` goes before the profile's own parameters."""
    there = get_profile(profile)
    planned = experiments.plan_all("fronts", there)
    runs = [experiments.plan("fronts", profile=there, seed=run.seed, **{**run.parameters, **asked}) for run in planned]
    return [experiments.obtain(run, there, Store(there)) for run in runs]


def by_size(network: str, names: Sequence[str], *sizes: Sequence[Record]) -> dict[Size, Cell]:
    """(profile, data set) to strategy to its records on one network; numbers of different profiles stay apart.

    Only these strategies, and only where there is a record of one of them.
    """
    wanted = [[r for r in records if r.run.parameters["strategy"] in names] for records in sizes]
    return {
        (records[0].run.profile, data): cell(records, network, data)
        for records in wanted
        for other, data in cells(records)
        if other == network
    }


def one_seed(found: Cell) -> tuple[int, dict[str, Record]]:
    """The lowest seed that most strategies have, and their records with it."""
    seeds = [r.run.seed for records in found.values() for r in records]
    seed = min(sorted(set(seeds)), key=lambda seed: -seeds.count(seed))
    return seed, {name: r for name, records in found.items() for r in records if r.run.seed == seed}


def title(size: Size) -> str:
    """What a panel or a table of that size is headed with."""
    return f"{DATA.get(size[1], size[1])}, profile {size[0]}"


def coverage(network: str, names: Sequence[str], artefact: str) -> pd.DataFrame:
    """How many of the runs that a page wants are there, by profile and data set, and what would make the rest; nothing is computed."""
    rows = []
    for profile in map(get_profile, PROFILES):
        there = {record.run.key for record in records_of("fronts", profile)}
        planned = [(run.parameters, run.key in there) for run in experiments.plan_all("fronts", profile)]
        wanted = [(p["data"], is_there) for p, is_there in planned if p["network"] == network and p["strategy"] in names]
        for data in dict.fromkeys(data for data, _ in wanted):
            found = [is_there for other, is_there in wanted if other == data]
            state = "complete" if all(found) else "in part" if any(found) else "not run"
            command = None if all(found) else f"`tipslib reproduce {artefact} --profile {profile.name}`"
            rows.append((profile.name, DATA.get(data, data), f"{sum(found)} of {len(found)}", state, command))
    return pd.DataFrame(rows, columns=["profile", "data", "runs", "state", "command"]).set_index("profile")


def printed(network: str, data: str, names: Sequence[str]) -> pd.DataFrame:
    """The paper's rows for these strategies on a data set, those of CIFAR-100 for one that it has not; Table 6 is where OFA stands.

    Columns `method`, `budget_label`, `budget_macs`, `accuracy_percent`, `spread_percent` (NaN where none is printed).
    """
    name, _, spreads = NETWORKS[network]
    frame = pd.concat([published(spreads), published("tips-table6").query("method == 'OFA'")])
    shown = (frame["network"] == name) & (frame["dataset"] == DATA.get(data, DATA["cifar100"])) & frame["method"].isin(names)
    return frame[shown].reset_index(drop=True)


def full_size(network: Network) -> pd.DataFrame:
    """MACs of the paper's own supernets as they are built here, in millions, beside the smallest and the largest of its budgets.

    A row for each of the paper's data sets: `full`, `smallest`, `smallest_with_floor`; `least` and `most` of the budgets.
    """
    rows = {}
    for data, name in DATA.items():
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            free, raised = (Parameters(network, strategy, data).build(CLASSES[data]) for strategy in ("TIPS", "TIPS-released"))
        paper = printed(network, data, ("TIPS",))["budget_macs"]
        macs = [free.macs(free.space.largest), free.macs(free.space.smallest), raised.macs(raised.space.smallest), paper.min(), paper.max()]
        rows[name] = [value / 1e6 for value in macs]
    columns = ["full", "smallest", "smallest_with_floor", "least", "most"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("data")


def draw_printed(ax: Axes, network: str, data: str, names: Sequence[str]) -> pd.DataFrame:
    """Draw accuracy against MACs as printed, one standard deviation as a bar where there is one; returns what was drawn."""
    frame = printed(network, data, names)
    for name in names:
        rows = frame[frame["method"] == name]
        if len(rows):
            spread = rows["spread_percent"].fillna(0)
            ax.errorbar(rows["budget_macs"] / 1e6, rows["accuracy_percent"], spread, **of_strategy(name), markersize=5, label=name)
    ax.set(xlabel="MACs, millions", title=f"{DATA.get(data, DATA['cifar100'])}, as printed")
    return frame


def draw_front(ax: Axes, records: Sequence[Record]) -> pd.DataFrame:
    """Draw what one strategy's supernets reach at every budget: the mean over seeds as steps, the range of the seeds shaded.

    At a budget stands the test accuracy of the subnetwork that is best on the held-out images at or under it; nothing is interpolated.
    Marks stand at the paper's budgets. Returns the steps: `strategy`, `macs`, `mean`, `least`, `most`.
    """
    p = records[0].run.parameters
    largest = records[0].values["macs"][1]
    costs = np.unique(np.concatenate([r.arrays["macs"] for r in records] + [[largest]]))
    costs = costs[costs >= max(r.arrays["macs"].min() for r in records)]
    found = np.array([[accuracy_under(r, cost) for r in records] for cost in costs])
    look = of_strategy(p["strategy"])
    ax.step(costs / 1e6, found.mean(1), where="post", color=look["color"], linestyle=look["linestyle"], linewidth=1.3)
    ax.fill_between(costs / 1e6, found.min(1), found.max(1), step="post", color=look["color"], alpha=0.18, linewidth=0)
    marked = budgets(p["network"], p["data"])[1] * largest / 1e6
    ax.plot(marked, at_budgets(records, p["network"], p["data"]).mean(1), **look | {"linestyle": ""}, markersize=5)
    ax.plot([], [], **look, markersize=5, label=p["strategy"])
    ends = {"mean": found.mean(1), "least": found.min(1), "most": found.max(1)}
    return pd.DataFrame({"strategy": p["strategy"], "macs": costs.astype(np.int64)} | ends)


def draw_fronts(shown: Mapping[Size, Cell], names: Sequence[str]) -> tuple[Figure, pd.DataFrame]:
    """A panel of fronts for each size, and the steps that were drawn, as `draw_front` returns them."""
    columns = min(3, len(shown))
    lines = -(-len(shown) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(max(5.4, 4.8 * columns), 4.2 * lines), squeeze=False)
    rows = []
    for ax, (size, found) in zip(axes.flat, shown.items(), strict=False):
        rows += [draw_front(ax, found[name]).assign(profile=size[0], data=size[1]) for name in names if name in found]
        ax.set(title=title(size), xlabel="MACs, millions")
        ax.grid(True)
        ax.legend(fontsize=9, loc="best")
    for ax in list(axes.flat)[len(shown) :]:
        ax.remove()
    axes[0, 0].set_ylabel("test accuracy, %")
    return figure, pd.concat(rows)


def leaders(found: Cell, network: str, data: str, names: Sequence[str]) -> str:
    """Which strategies have the highest mean, at how many of the paper's budgets?"""
    means = pd.DataFrame({name: at_budgets(found[name], network, data).mean(1) for name in names if name in found})
    best = list(means.dropna(how="all").idxmax(axis=1))
    return ", ".join(f"{name} at {best.count(name)}" for name in sorted(set(best), key=lambda name: (-best.count(name), name))) or "none"


def setting(found: Cell, names: Sequence[str]) -> str:
    """On how much were these strategies trained, and how large is the network? One sentence."""
    there = [found[name] for name in names if name in found]
    p, values = there[0][0].run.parameters, there[0][0].values
    width = "the paper's width" if p["width"] is None else f"width {p['width']:g} (the paper's is {WIDTH[p['network']]:g})"
    epochs = "the paper's number of epochs" if p["epochs"] is None else _count(p["epochs"], "epoch")
    lowest = sorted({f"{100 * records[0].values['macs'][0] / values['macs'][1]:.0f}" for records in there})
    images, seeds = values["images"], sorted({len(records) for records in there})
    return (
        f"{width}, {values['macs'][1] / 1e6:,.1f} M MACs, the smallest subnetwork {' or '.join(lowest)} % of them; "
        f"{len(values['largest'])} numbers of channels to choose; {epochs} on {images['training']:,} images, "
        f"{images['held out']:,} held out, {images['test']:,} to test on; a search looks at {p['candidates']:,} subnetworks; "
        f"{' or '.join(_count(number, 'seed') for number in seeds)}"
    )


def comparison(found: Cell, network: str, data: str, names: Sequence[str]) -> pd.DataFrame:
    """Strategies down, the paper's budgets across: accuracy in percent, mean and spread over seeds, and the paper's under it."""
    labels, shares = budgets(network, data)
    means = {name: at_budgets(found[name], network, data) for name in names if name in found}
    best = np.fmax.reduce([v.mean(1) for v in means.values()]) if means else np.full(len(labels), np.nan)
    paper = printed(network, data, names).set_index(["method", "budget_label"])
    rows: dict[str, list[Html]] = {}
    for name in names:
        rows[name] = [Html("not run", "not run")] * len(labels)
        if name in means:
            rows[name] = [_spread(values, bool(values.mean() == top)) for values, top in zip(means[name], best, strict=True)]
        if name in paper.index:
            rows[f"{name}, paper"] = [_small(_printed_spread(paper.loc[(name, label)])) for label in labels]
    columns = [_header(share, label) for share, label in zip(shares, labels, strict=True)]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("strategy")


def _spread(values: Any, best: bool) -> Html:
    if np.isnan(values.mean()):
        return Html("too small", "too small")
    text = f"{values.mean():.1f}" + (f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else "")
    return Html(f"<strong>{text}</strong>" if best else text, text)


def _printed_spread(row: Any) -> str:
    return f"{row['accuracy_percent']:.1f}" + ("" if math.isnan(row["spread_percent"]) else f" ± {row['spread_percent']:.1f}")


def _small(text: str) -> Html:
    return Html(f"<small>{text}</small>", text)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _header(share: float, label: str) -> str:
    return f"{100 * share:.0f} % ({label})"


def gains(found: Cell, network: str, data: str, first: str, others: Sequence[str]) -> pd.DataFrame:
    """By how many points `first` is ahead of each of `others` at each budget, paired by seed, and by how many it is in the paper.

    Columns `baseline`, `budget`, `share`; `gain`, `low`, `high` (95 % t interval, infinite from one seed), `seeds`; `paper`, and
    `paper_low`, `paper_high`: Welch's 95 % interval from the printed spreads and number of runs. NaN where there is nothing.
    """
    labels, shares = budgets(network, data)
    paper = printed(network, data, (first, *others)).set_index(["method", "budget_label"])
    rows = []
    for other in others:
        both = first in found and other in found
        gaps = paired(found, first, other, network, data) if both else np.full((len(labels), 0), np.nan)
        for label, share, gap in zip(labels, shares, gaps, strict=True):
            known = len(gap) > 0 and not np.isnan(gap).any()
            gain, (low, high) = mean_interval(gap) if known else (math.nan, (math.nan, math.nan))
            ours = {"baseline": other, "budget": label, "share": share, "gain": gain, "low": low, "high": high, "seeds": len(gap)}
            rows.append(ours | _printed_gain(paper, first, other, label))
    return pd.DataFrame(rows)


def _printed_gain(paper: pd.DataFrame, first: str, other: str, label: str) -> dict[str, float]:
    if (first, label) not in paper.index or (other, label) not in paper.index:
        return dict.fromkeys(("paper", "paper_low", "paper_high"), math.nan)
    a, b = paper.loc[(first, label)], paper.loc[(other, label)]
    gain = float(a["accuracy_percent"] - b["accuracy_percent"])
    runs = quoted("tips-runs").value
    squares = np.array([a["spread_percent"], b["spread_percent"]]) ** 2 / runs
    half = math.nan
    if squares.sum() > 0:
        degrees = squares.sum() ** 2 * (runs - 1) / (squares**2).sum()
        half = float(t.ppf(0.975, degrees) * math.sqrt(squares.sum()))
    return {"paper": gain, "paper_low": gain - half, "paper_high": gain + half}


def draw_both_gains(frame: pd.DataFrame, size: Size) -> Figure:
    """`gains` as measured and as printed, side by side with one scale."""
    figure, axes = plt.subplots(1, 2, figsize=(9.2, 4.0), sharey=True)
    for ax, paper, heading in zip(axes, (False, True), (title(size), f"{DATA.get(size[1], DATA['cifar100'])}, as printed"), strict=True):
        draw_gains(ax, frame, paper=paper)
        ax.set_title(heading)
    axes[0].set_ylabel("points by which TIPS is ahead")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper left", ncols=4, fontsize=9)
    return figure


def draw_gains(ax: Axes, frame: pd.DataFrame, *, paper: bool = False) -> None:
    """Draw `gains` at each budget, measured or as printed, with the intervals that there are; above the line the first is ahead."""
    value, low, high = ("paper", "paper_low", "paper_high") if paper else ("gain", "low", "high")
    others = list(dict.fromkeys(frame["baseline"]))
    for k, other in enumerate(others):
        rows = frame[frame["baseline"] == other]
        x = np.arange(len(rows)) + 0.16 * (k - (len(others) - 1) / 2)
        y, *ends = rows[[value, low, high]].to_numpy(dtype=np.float64).T
        reach = np.abs(np.array(ends) - y)
        reach[~np.isfinite(reach)] = 0
        ax.errorbar(x, y, reach, **of_strategy(other) | {"linestyle": ""}, markersize=5, elinewidth=1.3, label=f"over {other}")
    rows = frame[frame["baseline"] == others[0]]
    ax.axhline(0, color=INK, linewidth=0.9)
    ax.set_xticks(range(len(rows)), [f"{100 * share:.0f}" for share in rows["share"]])
    ax.set_xlabel("budget, % of the full network's MACs")


def gains_table(frame: pd.DataFrame) -> pd.DataFrame:
    """`gains` for readers: baselines down, budgets across, each with its interval; under the measured row the printed one."""

    def words(value: float, low: float, high: float) -> Html:
        if math.isnan(value):
            return Html("–", "–")
        interval = f"{low:+.1f} to {high:+.1f}" if math.isfinite(low) else ""
        nowrap = f'<br><small style="white-space:nowrap">{interval}</small>' if interval else ""
        return Html(f"{value:+.1f}{nowrap}", f"{value:+.1f}" + (f" ({interval})" if interval else ""))

    rows: dict[str, dict[str, Html]] = {}
    for r in frame.itertuples(index=False):
        column = _header(r.share, r.budget)
        rows.setdefault(f"over {r.baseline}", {})[column] = words(r.gain, r.low, r.high)
        if not math.isnan(r.paper):
            rows.setdefault(f"over {r.baseline}, paper", {})[column] = words(r.paper, r.paper_low, r.paper_high)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("TIPS")


def lead(frame: pd.DataFrame, *, paper: bool = False) -> str:
    """What `gains` come to, in one sentence: mean, extremes, and how many intervals lie on either side of zero."""
    value, low, high = ("paper", "paper_low", "paper_high") if paper else ("gain", "low", "high")
    known = frame.dropna(subset=[value])
    if not len(known):
        return "not run, or no budget that both can keep"
    bounded = known[np.isfinite(known[low].to_numpy(dtype=np.float64))]
    intervals = f"of {len(bounded)} intervals {(bounded[low] > 0).sum()} lie above zero and {(bounded[high] < 0).sum()} below"
    mean, least, most = known[value].mean(), known[value].min(), known[value].max()
    return f"{mean:+.1f} points on average, from {least:+.1f} to {most:+.1f} over baselines and budgets; " + (
        intervals if len(bounded) else "one seed gives no interval"
    )
