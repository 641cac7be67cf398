"""Fronts, comparisons and charts of the pages on supernets, from made-up records whose answers are known by hand."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
import torchvision
from scipy import stats
from torch.utils.flop_counter import FlopCounterMode

from tipslib import experiments
from tipslib.anytime import strategies
from tipslib.records import Record, Run
from tipslib.reporting import fronts
from tipslib.reporting.budgets import BASELINES, accuracy_under, at_budgets
from tipslib.reporting.published import published
from tipslib.reporting.style import of_strategy

FULL = 2_000_000
NAMES = (*BASELINES, "TIPS")


def record(
    strategy: str = "TIPS", seed: int = 0, *, gain: float = 0.0, lowest: float = 0.2, data: str = "cifar100", count: int = 9
) -> Record:
    """A front of `count` subnetworks from `lowest` of the full MACs up, in three dimensions; test accuracy wobbles with the seed."""
    rng = np.random.default_rng([seed, *strategy.encode()])
    shares = np.linspace(lowest, 1, count)
    held_out = 0.5 + 0.1 * shares + gain / 100
    arrays = {
        "macs": (FULL * shares).astype(np.int64),
        "held_out": held_out,
        "test": held_out + 0.005 * rng.standard_normal(count),
        "widths": np.outer(np.arange(1, count + 1), [1, 2, 3]),
    }
    values = {"macs": [int(lowest * FULL), FULL], "largest": [count, 2 * count, 3 * count], "dimensions": ["stem", "first", "second"]}
    values |= {
        "important": [True, False, True] if strategy == "TIPS" else None,
        "images": {"training": 9000, "held out": 1000, "test": 5000},
    }
    run = Run(
        "fronts",
        {"network": "mobilenet_v2", "strategy": strategy, "data": data, "width": 0.5, "epochs": 8, "candidates": 200},
        "laptop",
        seed,
        "v1",
    )
    return Record(run, values, arrays, {}, Path("made-up"))


def cell(seeds: int = 3, **gains: float) -> dict[str, list[Record]]:
    found = {"US-Nets": 0.0, "Joslim": 0.2, "DS-Net": 0.1} | gains
    return {name: [record(name, seed, gain=gain) for seed in range(seeds)] for name, gain in found.items()}


@pytest.fixture
def ax() -> Any:
    figure, axes = plt.subplots()
    yield axes
    plt.close(figure)


def test_every_strategy_is_told_from_every_other() -> None:
    looks = [(s["color"], s["marker"], str(s["linestyle"]), s.get("markerfacecolor")) for s in map(of_strategy, strategies)]
    assert len(set(looks)) == len(strategies)
    assert of_strategy("Joslim+floor")["color"] == of_strategy("Joslim")["color"]


def test_what_is_asked_goes_before_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run("fronts", {"network": "resnet34", "strategy": "OFA", "epochs": 8}, "smoke", 4, "v1")
    asked: list[Any] = []
    monkeypatch.setattr(experiments, "plan_all", lambda *_: [run])
    monkeypatch.setattr(experiments, "plan", lambda name, **given: asked.append((name, given)) or run)
    monkeypatch.setattr(experiments, "obtain", lambda run, profile, store: (run, profile.name, store.folder.name))
    assert fronts.measured("smoke", epochs=1) == [(run, "smoke", "smoke")]
    ((name, given),) = asked
    assert (name, given["seed"], given["epochs"], given["strategy"], given["profile"].name) == ("fronts", 4, 1, "OFA", "smoke")


def test_coverage_counts_what_a_page_wants_and_says_how_to_make_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def planned(_: str, profile: Any) -> list[Run]:
        names = {"smoke": ("digits",), "laptop": ("cifar100",), "gpu": ("cifar100", "tiny-imagenet")}.get(profile.name, ())
        cells = [(n, s, d) for n in ("mobilenet_v2", "resnet34") for s in ("TIPS", "Joslim", "OFA") for d in names]
        return [Run("fronts", {"network": n, "strategy": s, "data": d}, profile.name, 0, "v1") for n, s, d in cells]

    def there(name: str, profile: Any) -> list[Any]:
        runs = planned(name, profile)
        kept = {"smoke": runs, "laptop": [r for r in runs if r.parameters["strategy"] == "TIPS"]}.get(profile.name, [])
        return [SimpleNamespace(run=run) for run in kept]

    monkeypatch.setattr(experiments, "plan_all", planned)
    monkeypatch.setattr(fronts, "records_of", there)
    shown = fronts.coverage("mobilenet_v2", ("TIPS", "Joslim"), "tips-table1").reset_index()
    assert shown[["profile", "data", "runs", "state"]].to_numpy().tolist() == [
        ["smoke", "digits", "2 of 2", "complete"],
        ["laptop", "CIFAR100", "1 of 2", "in part"],
        ["gpu", "CIFAR100", "0 of 2", "not run"],
        ["gpu", "Tiny-ImageNet", "0 of 2", "not run"],
    ]
    assert shown["command"].isna().tolist() == [True, False, False, False]
    assert shown["command"][2] == "`tipslib reproduce tips-table1 --profile gpu`"


def test_printed_rows_are_those_of_the_tables() -> None:
    table = published("tips-table4").query("dataset == 'CIFAR100'")
    for data in ("cifar100", "digits"):
        found = fronts.printed("mobilenet_v2", data, NAMES)
        assert found["accuracy_percent"].tolist() == table["accuracy_percent"].tolist()
        assert found["spread_percent"].tolist() == table["spread_percent"].tolist()
    ofa = fronts.printed("mobilenet_v2", "imagenet", ("OFA", "TIPS"))
    assert sorted(set(ofa["method"])) == ["OFA", "TIPS"]
    assert (
        ofa.query("method == 'OFA'")["accuracy_percent"].tolist()
        == published("tips-table6").query("method == 'OFA'")["accuracy_percent"].tolist()
    )
    assert set(fronts.printed("mobilenet_v2", "cifar100", ("OFA", "TIPS"))["method"]) == {"TIPS"}
    assert set(fronts.printed("resnet34", "imagenet", NAMES)["source"]) == {"TIPS, Table 5"}


def test_full_sizes_are_those_of_the_architectures() -> None:
    sizes = fronts.full_size("mobilenet_v2")
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        torchvision.models.mobilenet_v2(width_mult=1.4).eval()(torch.empty(1, 3, 224, 224))
    assert sizes.loc["ImageNet", "full"] == pytest.approx(counter.get_total_flops() / 2e6)
    assert (sizes["smallest"] < sizes["smallest_with_floor"]).all()
    assert sizes[["least", "most"]].to_numpy().tolist() == [[20, 50], [80, 200], [260, 600]]


def test_printed_points_are_drawn_where_they_are(ax: Any) -> None:
    frame = fronts.draw_printed(ax, "resnet34", "imagenet", NAMES)
    lines = {bars.get_label(): bars.lines[0].get_xydata() for bars in ax.containers}
    assert set(lines) == set(NAMES)
    for name, points in lines.items():
        rows = frame[frame["method"] == name]
        np.testing.assert_allclose(points, np.column_stack([rows["budget_macs"] / 1e6, rows["accuracy_percent"]]))


def test_a_front_is_drawn_as_steps_of_the_mean_and_nothing_is_interpolated(ax: Any) -> None:
    records = [record(seed=0), record(seed=1, lowest=0.25, count=7), record(seed=2)]
    frame = fronts.draw_front(ax, records)
    steps = ax.lines[0]
    assert steps.get_drawstyle() == "steps-post"
    x, y = steps.get_xdata() * 1e6, steps.get_ydata()
    assert x[0] == pytest.approx(0.25 * FULL)  # below, one of the supernets has no subnetwork
    assert x[-1] == pytest.approx(FULL)
    for budget in np.random.default_rng(0).uniform(0.25, 1, 200) * FULL:
        each = [accuracy_under(r, budget) for r in records]
        at = np.searchsorted(x, budget, side="right") - 1
        assert y[at] == pytest.approx(np.mean(each))
        assert frame["least"][at] == pytest.approx(min(each))
        assert frame["most"][at] == pytest.approx(max(each))
    np.testing.assert_allclose(ax.lines[1].get_ydata(), at_budgets(records, "mobilenet_v2", "cifar100").mean(1))


def test_every_size_has_a_panel_of_its_own() -> None:
    small = [record(name, data="digits") for name in NAMES]
    large = [r for found in cell(TIPS=3.0).values() for r in found] + [record("TIPS", data="tiny-imagenet")]
    shown = fronts.by_size("mobilenet_v2", NAMES, small, large, [])
    assert list(shown) == [("laptop", "digits"), ("laptop", "cifar100"), ("laptop", "tiny-imagenet")]
    assert {name: len(found) for name, found in shown["laptop", "cifar100"].items()} == dict.fromkeys(NAMES, 3)
    assert fronts.by_size("resnet34", NAMES, small, large) == {}
    assert list(fronts.by_size("mobilenet_v2", ("US-Nets",), small, large)) == [("laptop", "digits"), ("laptop", "cifar100")]
    figure, rows = fronts.draw_fronts(shown, NAMES)
    assert [ax.get_title(plt.rcParams["axes.titlelocation"]) for ax in figure.axes] == [
        "digits, profile laptop",
        "CIFAR100, profile laptop",
        "Tiny-ImageNet, profile laptop",
    ]
    assert [len(ax.get_legend().get_texts()) for ax in figure.axes] == [4, 4, 1]
    assert rows.groupby("data")["strategy"].nunique().to_dict() == {"cifar100": 4, "digits": 4, "tiny-imagenet": 1}
    plt.close(figure)


def test_one_seed_is_the_lowest_that_most_strategies_have() -> None:
    found = {"TIPS": [record(seed=s) for s in (1, 2)], "Joslim": [record("Joslim", s) for s in (0, 1, 2)], "DS-Net": [record("DS-Net")]}
    seed, chosen = fronts.one_seed(found)
    assert seed == 0
    assert list(chosen) == ["Joslim", "DS-Net"]
    seed, chosen = fronts.one_seed(found | {"DS-Net": []})
    assert seed == 1
    assert {name: r.run.seed for name, r in chosen.items()} == {"TIPS": 1, "Joslim": 1}


def test_leaders_are_counted_over_the_budgets_that_someone_keeps() -> None:
    found = {"TIPS": [record(lowest=0.75, gain=5)], "Joslim": [record("Joslim", gain=2)], "US-Nets": [record("US-Nets", lowest=0.55)]}
    assert fronts.leaders(found, "mobilenet_v2", "cifar100", NAMES) == "Joslim at 3, TIPS at 3"
    assert fronts.leaders({}, "mobilenet_v2", "cifar100", NAMES) == "none"


def test_the_setting_is_said_as_it_was() -> None:
    found = cell(TIPS=0.0) | {"TIPS-released": [record("TIPS-released", lowest=0.45)]}
    words = fronts.setting(found, (*NAMES, "TIPS-released"))
    assert words == (
        "width 0.5 (the paper's is 1.4), 2.0 M MACs, the smallest subnetwork 20 or 45 % of them; 3 numbers of channels to choose; "
        "8 epochs on 9,000 images, 1,000 held out, 5,000 to test on; a search looks at 200 subnetworks; 1 seed or 3 seeds"
    )


def test_comparison_sets_measured_over_printed_and_marks_the_best() -> None:
    found = cell(TIPS=3.0)
    shown = fronts.comparison(found, "mobilenet_v2", "cifar100", NAMES)
    assert list(shown.index) == [row for name in NAMES for row in (name, f"{name}, paper")]
    assert shown.columns[0] == "40 % (20M)"
    values = at_budgets(found["TIPS"], "mobilenet_v2", "cifar100")[0]
    assert shown.loc["TIPS", "40 % (20M)"].text == f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
    assert shown.loc["TIPS, paper", "40 % (20M)"].text == "66.4 ± 0.5"
    bold = shown.map(lambda entry: "<strong>" in entry.html)
    assert bold.sum().tolist() == [1] * 6
    assert bold.loc["TIPS"].all()


def test_comparison_says_what_is_missing() -> None:
    found = {"TIPS": [record(lowest=0.5)], "Joslim": [record("Joslim")]}
    shown = fronts.comparison(found, "mobilenet_v2", "digits", NAMES).map(lambda entry: entry.html)
    assert set(shown.loc["US-Nets"]) == {"not run"}
    assert shown.loc["TIPS", "40 % (20M)"] == "too small"
    assert shown.loc["Joslim", "40 % (20M)"].startswith("<strong>")
    assert "±" not in shown.loc["TIPS", "100 % (50M)"]  # one seed has no spread
    assert list(fronts.comparison({}, "mobilenet_v2", "cifar100", ("OFA",)).index) == ["OFA"]


def test_gains_are_paired_and_their_interval_is_that_of_a_paired_test() -> None:
    found = cell(TIPS=3.0)
    shown = fronts.gains(found, "mobilenet_v2", "cifar100", "TIPS", BASELINES)
    assert shown["baseline"].tolist() == [name for name in BASELINES for _ in range(6)]
    for name in BASELINES:
        ours, theirs = (at_budgets(found[n], "mobilenet_v2", "cifar100") for n in ("TIPS", name))
        for k, row in enumerate(shown[shown["baseline"] == name].itertuples()):
            interval = stats.ttest_rel(ours[k], theirs[k]).confidence_interval()
            assert row.gain == pytest.approx(np.mean(ours[k] - theirs[k]))
            assert (row.low, row.high, row.seeds) == pytest.approx((interval.low, interval.high, 3))


def test_printed_gains_have_welchs_interval() -> None:
    row = fronts.gains(cell(TIPS=3.0), "mobilenet_v2", "cifar100", "TIPS", ("US-Nets",)).iloc[0]
    three = np.array([-1, 0, 1])  # of standard deviation 1
    interval = stats.ttest_ind(66.4 + 0.5 * three, 61.5 + 0.4 * three, equal_var=False).confidence_interval()
    assert row["paper"] == pytest.approx(66.4 - 61.5)
    assert (row["paper_low"], row["paper_high"]) == pytest.approx((interval.low, interval.high))


def test_gains_of_what_was_not_run_or_cannot_be_compared_are_missing() -> None:
    found = cell(seeds=1) | {"TIPS": [record(lowest=0.5)]}
    shown = fronts.gains(found, "mobilenet_v2", "cifar100", "TIPS", ("Joslim", "OFA"))
    joslim, ofa = (shown[shown["baseline"] == name] for name in ("Joslim", "OFA"))
    assert joslim["gain"].isna().tolist() == [True] + 5 * [False]
    assert np.isinf(joslim["low"][1:]).all()
    assert ofa[["gain", "paper"]].isna().all(axis=None)
    text = fronts.gains_table(shown).map(lambda entry: entry.text)
    assert list(text.index) == ["over Joslim", "over Joslim, paper", "over OFA"]
    assert text.loc["over Joslim"].iloc[0] == "–"
    assert re.fullmatch(r"[+-]\d\.\d", text.loc["over Joslim"].iloc[2])
    assert re.fullmatch(r"\+3\.9 \(\+3\.\d to \+4\.\d\)", text.loc["over Joslim, paper"].iloc[2])
    assert set(text.loc["over OFA"]) == {"–"}


def test_the_lead_is_put_into_words() -> None:
    shown = fronts.gains(cell(TIPS=3.0), "mobilenet_v2", "cifar100", "TIPS", BASELINES)
    gain = shown["gain"]
    start = f"{gain.mean():+.1f} points on average, from {gain.min():+.1f} to {gain.max():+.1f} over baselines and budgets; "
    above, below = (shown["low"] > 0).sum(), (shown["high"] < 0).sum()
    assert fronts.lead(shown) == f"{start}of 18 intervals {above} lie above zero and {below} below"
    assert fronts.lead(shown, paper=True).endswith("of 18 intervals 18 lie above zero and 0 below")
    alone = fronts.gains(cell(seeds=1, TIPS=3.0), "mobilenet_v2", "cifar100", "TIPS", BASELINES)
    assert fronts.lead(alone).endswith("one seed gives no interval")
    assert fronts.lead(fronts.gains({}, "mobilenet_v2", "cifar100", "TIPS", BASELINES)) == "not run, or no budget that both can keep"


def test_gains_are_drawn_above_or_below_the_line_with_their_intervals(ax: Any) -> None:
    shown = fronts.gains(cell(TIPS=-3.0), "mobilenet_v2", "cifar100", "TIPS", BASELINES)
    fronts.draw_gains(ax, shown)
    for name, bars in zip(BASELINES, ax.containers, strict=True):
        rows = shown[shown["baseline"] == name]
        points, _, (reach,) = bars
        np.testing.assert_allclose(points.get_ydata(), rows["gain"])
        np.testing.assert_allclose([line[:, 1] for line in reach.get_segments()], rows[["low", "high"]])
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["40", "60", "70", "80", "90", "100"]
    fronts.draw_gains(ax, shown, paper=True)
    np.testing.assert_allclose(ax.containers[3].lines[0].get_ydata(), shown[shown["baseline"] == "US-Nets"]["paper"])


def test_measured_and_printed_gains_stand_side_by_side() -> None:
    frame = fronts.gains(cell(TIPS=3.0), "mobilenet_v2", "digits", "TIPS", BASELINES)
    figure = fronts.draw_both_gains(frame, ("smoke", "digits"))
    left, right = figure.axes
    side = plt.rcParams["axes.titlelocation"]
    assert (left.get_title(side), right.get_title(side)) == ("digits, profile smoke", "CIFAR100, as printed")
    assert left.get_ylim() == right.get_ylim()
    for ax, column in ((left, "gain"), (right, "paper")):
        drawn = np.concatenate([bars.lines[0].get_ydata() for bars in ax.containers])
        np.testing.assert_allclose(drawn, frame[column])
    plt.close(figure)
