"""Are the published numbers whole, typed, and what the papers print? Each inconsistency is recomputed from the numbers themselves."""

from __future__ import annotations

import csv
import hashlib
import itertools
import math
import shutil
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm
from torch.utils.flop_counter import FlopCounterMode

from tipslib import project
from tipslib.errors import CorruptFile, InvalidInput, MissingData
from tipslib.reporting.published import COLUMNS, MANIFEST, Quoted, inconsistencies, published, quoted, tables

FOLDER = project.root() / "data" / "published"
BASELINES = ["US-Nets", "Joslim", "DS-Net"]
DATASETS = ["CIFAR100", "Tiny-ImageNet", "ImageNet"]
COLUMN = ["dataset", "budget_macs"]


def cells(table: str, column: str) -> list[Decimal]:
    """The printed numbers of one column, exactly."""
    with (FOLDER / f"{table}.csv").open(newline="") as file:
        return [Decimal(row[column]) for row in csv.DictReader(file) if row[column]]


def methods(table: str) -> pd.DataFrame:
    """Accuracy by column of the paper (data set, budget), one column a method."""
    return published(table).pivot(index=COLUMN, columns="method", values="accuracy_percent")


def gains(table: str) -> pd.DataFrame:
    """TIPS less each baseline, rounded to the printed digit."""
    frame = methods(table)
    return frame[BASELINES].rsub(frame["TIPS"], axis=0).round(1)


# ---------------------------------------------------------------- the files


def test_every_file_is_a_table_and_stands_in_the_manifest() -> None:
    files = {path.name for path in FOLDER.glob("*.csv")}
    assert files == {f"{table}.csv" for table in tables()}
    listed = dict(reversed(line.split("  ")) for line in (FOLDER / MANIFEST).read_text().splitlines())
    assert listed == {name: hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() for name in files}


@pytest.mark.parametrize("table", tables())
def test_tables_have_their_columns_and_types(table: str) -> None:
    frame = published(table)
    assert list(frame.columns) == list(COLUMNS[table])
    for name, (dtype, _) in COLUMNS[table].items():
        assert pd.api.types.is_string_dtype(frame[name]) if dtype == "str" else frame[name].dtype == dtype
    assert not frame.duplicated().any()


@pytest.mark.parametrize(
    ("table", "rows", "column", "total"),
    [  # totals added up from the papers' text, not from these files
        ("tips-table1", 72, "accuracy_percent", "4505.9"),
        ("tips-table2", 72, "accuracy_percent", "4328.5"),
        ("tips-table3", 10, "accuracy_percent", "729.1"),
        ("tips-table3", 10, "latency_ms", "2968"),
        ("tips-table4", 72, "accuracy_percent", "4505.9"),
        ("tips-table4", 72, "spread_percent", "18.1"),
        ("tips-table5", 72, "accuracy_percent", "4328.5"),
        ("tips-table5", 72, "spread_percent", "16.5"),
        ("tips-table6", 12, "accuracy_percent", "875.9"),
        ("progressive-table1", 16, "auc", "11.3949"),
        ("progressive-table1", 16, "raw_percent", "39.01"),
        ("progressive-table1", 16, "fractional_percent", "56.71"),
    ],
)
def test_counts_and_totals(table: str, rows: int, column: str, total: str) -> None:
    assert len(published(table)) == rows
    assert sum(cells(table, column)) == Decimal(total)


@pytest.mark.parametrize("table", ["tips-table1", "tips-table2", "tips-table4", "tips-table5"])
def test_accuracy_tables_are_complete_rectangles(table: str) -> None:
    frame = published(table)
    assert list(dict.fromkeys(frame["dataset"])) == DATASETS
    assert frame.groupby("dataset")["budget_macs"].nunique().eq(6).all()
    assert methods(table).shape == (18, 4)
    assert not methods(table).isna().any(axis=None)
    assert frame["network"].nunique() == 1
    assert frame["spread_percent"].isna().all() == (table in ("tips-table1", "tips-table2"))


def test_budgets_are_their_labels() -> None:
    unit = {"M": 10**6, "G": 10**9}
    for table in ("tips-table1", "tips-table2", "tips-table4", "tips-table5", "tips-table6"):
        frame = published(table)
        spelt = [int(Decimal(label[:-1]) * unit[label[-1]]) for label in frame["budget_label"]]
        assert frame["budget_macs"].tolist() == spelt


def test_ranges() -> None:
    for table in ("tips-table1", "tips-table2", "tips-table4", "tips-table5", "tips-table6"):
        frame = published(table)
        assert frame["accuracy_percent"].between(41, 75).all()
        assert frame["spread_percent"].dropna().between(0.1, 0.6).all()
        assert frame["budget_macs"].between(20e6, 3.6e9).all()
    latency = published("tips-table3")
    assert latency["latency_ms"].between(176, 413).all()
    assert latency["accuracy_percent"].between(70.8, 74.7).all()
    assert published("progressive-table1")["auc"].between(0.6878, 0.7345).all()


@pytest.mark.parametrize("table", ["tips-table1", "tips-table2", "tips-table6"])
def test_accuracy_never_falls_with_the_budget(table: str) -> None:
    for _, line in published(table).groupby(["dataset", "method"]):
        assert line["budget_macs"].is_monotonic_increasing
        assert line["accuracy_percent"].is_monotonic_increasing


def test_latency_and_accuracy_rise_together() -> None:
    for _, line in published("tips-table3").groupby("method"):
        assert line["latency_ms"].is_monotonic_increasing
        assert line["accuracy_percent"].is_monotonic_increasing


# ---------------------------------------------------------------- cross-sums


@pytest.mark.parametrize(("short", "long"), [("tips-table1", "tips-table4"), ("tips-table2", "tips-table5")])
def test_tables_with_spread_repeat_those_without(short: str, long: str) -> None:
    pd.testing.assert_frame_equal(methods(short), methods(long), check_exact=True)


def test_table6_repeats_tips_of_table1() -> None:
    pd.testing.assert_series_equal(methods("tips-table6").loc["ImageNet", "TIPS"], methods("tips-table1").loc["ImageNet", "TIPS"])


def test_table3_has_five_of_the_six_accuracies_of_table1() -> None:
    imagenet = methods("tips-table1").loc["ImageNet"].drop(450_000_000)
    for method, line in published("tips-table3").groupby("method"):
        assert line["accuracy_percent"].tolist() == imagenet[method].tolist()


def test_bold_marks_the_best_but_for_one_cell() -> None:
    for table, wrong in (("tips-table1", 0), ("tips-table2", 1), ("tips-table4", 0), ("tips-table5", 0), ("tips-table6", 0)):
        frame = published(table)
        best = frame.groupby(COLUMN)["accuracy_percent"].transform("max") == frame["accuracy_percent"]
        assert frame.groupby(COLUMN)["bold"].sum().eq(1).all()
        assert (best & ~frame["bold"]).sum() == wrong


def test_weights_of_progressive_table1_sum_to_one() -> None:
    weights = published("progressive-table1").filter(like="weight_")
    assert weights.sum(axis=1).to_numpy() == pytest.approx(1)
    assert len(weights.drop_duplicates()) == 16


def test_raw_improvement_is_the_difference_to_the_baseline() -> None:
    baseline, *auc = cells("progressive-table1", "auc")
    assert [100 * (a - baseline) for a in auc] == cells("progressive-table1", "raw_percent")


def test_fractional_improvement_is_the_quotient_to_printed_rounding() -> None:
    baseline, *auc = cells("progressive-table1", "auc")
    half = Decimal("0.00005")
    for a, fraction in zip(auc, cells("progressive-table1", "fractional_percent"), strict=True):
        low, high = (100 * ((a + s * half) / (baseline - s * half) - 1) for s in (-1, 1))
        assert low - Decimal("0.005") <= fraction <= high + Decimal("0.005")


# ---------------------------------------------------------------- the numbers in the text


def test_quoted_numbers_are_unique_and_sourced() -> None:
    both = pd.concat([published("tips-text"), published("progressive-text")])
    assert len(published("tips-text")) == 98
    assert len(published("progressive-text")) == 35
    assert both["id"].is_unique
    assert published("tips-text")["id"].str.startswith("tips-").all()
    assert published("progressive-text")["id"].str.startswith("progressive-").all()
    assert both["source"].str.match(r"(Abstract|Secs?\.|Figs?\.|Tables|Prop\.|B\.|C\.)").all()
    assert both["spread"].isna().all()


@pytest.mark.parametrize(
    ("identifier", "value", "unit"),
    [
        ("tips-step1-seconds", 39, "s"),
        ("tips-step2-hours", 97, "h"),
        ("tips-fig3-we-skip", 3.5, "links per neuron"),
        ("tips-restart", 1e-5, "1"),
        ("tips-b8-storage-checkpoints", 117.8, "MB"),
        ("tips-b8-switch-reconfigure", 0.037, "ms"),
        ("tips-gain-imagenet-3g6-budget", 3.6e9, "MACs"),
        ("progressive-mobilenet-saving", 44, "percent"),
        ("progressive-cka-peak", 0.95, "CKA"),
    ],
)
def test_quoted(identifier: str, value: float, unit: str) -> None:
    number = quoted(identifier)
    assert isinstance(number, Quoted)
    assert (number.value, number.unit, number.spread) == (value, unit, None)


def value(identifier: str) -> float:
    return quoted(identifier).value


def test_text_agrees_with_the_tables_where_it_does() -> None:
    mobilenet, resnet = gains("tips-table1"), gains("tips-table2")
    tiny = mobilenet.loc[("Tiny-ImageNet", int(value("tips-gain-tiny-budget")))]
    assert (tiny.min(), tiny.max()) == (value("tips-gain-tiny-80m-low"), value("tips-gain-tiny-80m-high"))
    assert mobilenet.loc[("ImageNet", 500_000_000)].max() == value("tips-gain-imagenet-500m-high")
    assert resnet.loc[("ImageNet", 3_600_000_000), "DS-Net"] == value("tips-gain-imagenet-3g6-dsnet")
    assert resnet.loc[("CIFAR100", 120_000_000), "Joslim"] == value("tips-gain-cifar100-120m-joslim")
    ofa = methods("tips-table6").loc[("ImageNet", int(value("tips-ofa-budget")))]
    assert round(ofa["TIPS"] - ofa["OFA"], 1) == value("tips-ofa-gain")
    near = published("tips-table3").assign(off=lambda f: (f["latency_ms"] - value("tips-pi-latency")).abs()).sort_values("off").head(2)
    assert round(near.groupby("method")["accuracy_percent"].first().diff().iloc[-1], 1) == value("tips-pi-gain")


def test_arithmetic_inside_the_text() -> None:
    assert value("tips-fig3-links-plain") / value("tips-fig3-neurons") == value("tips-fig3-we-plain")
    assert value("tips-fig3-links-skip") / value("tips-fig3-neurons") == value("tips-fig3-we-skip")
    raised = value("tips-sampling-example-unimportant") * (1 + value("tips-sampling-raise") / 100)
    assert raised == value("tips-sampling-example-important")
    kept = value("tips-pruning-example-first") / value("tips-pruning-example-channels")
    assert 100 * (1 - kept) == value("tips-pruning-example-ratio")
    ratio = value("tips-b8-switch-reload") / value("tips-b8-switch-reconfigure")
    assert 0 <= ratio - value("tips-b8-switch-ratio") < 1  # 7756.8, cut off
    assert 100 * (2 * norm.cdf(value("progressive-sigma")) - 1) == pytest.approx(value("progressive-certainty"), abs=0.05)
    for network in ("mobilenet", "resnet18"):
        saved = 100 * (1 - 1 / value(f"progressive-{network}-improvement"))
        assert saved == pytest.approx(value(f"progressive-{network}-saving"), abs=0.5)
    third = published("progressive-table1").query("weight_exit3 > 0 and weight_exit1 == 0")
    assert third["fractional_percent"].max() < value("progressive-auc-gain-third")


# ---------------------------------------------------------------- inconsistencies, recomputed

CHECKS: dict[str, Callable[[str], None]] = {}


def check(identifier: str) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    """Register the test that recomputes one inconsistency; it gets the sentence and has to find its numbers in it."""

    def register(function: Callable[[str], None]) -> Callable[[str], None]:
        CHECKS[identifier] = function
        return function

    return register


@check("tips-bold-130m")
def _(what: str) -> None:
    where = "dataset == 'Tiny-ImageNet' and budget_label == '130M' and bold"
    two, five = (published(table).query(where) for table in ("tips-table2", "tips-table5"))
    assert two["method"].tolist() == ["TIPS"]
    assert five["method"].tolist() == ["Joslim"]
    assert str(two["accuracy_percent"].item()) in what
    assert str(five["accuracy_percent"].item()) in what


@check("tips-gain-resnet34-tiny")
def _(what: str) -> None:
    tiny = gains("tips-table2").loc["Tiny-ImageNet"]
    best, weakest = tiny.min(axis=1), tiny.max(axis=1)
    assert f"from {best.min()} to {best.max()} points" in what
    assert f"from {weakest.min()} to {weakest.max()}" in what
    assert best.max() < value("tips-abstract-gain-low")


@check("tips-gain-range")
def _(what: str) -> None:
    every = pd.concat([gains("tips-table1"), gains("tips-table2")])
    best, weakest = every.min(axis=1), every.max(axis=1)
    reached = best[best >= value("tips-abstract-gain-low")]
    assert f"between {best.min()} and {best.max()} points" in what
    assert f"reaches 2 in {len(reached)} of {len(best)} columns" in what
    assert "ImageNet" not in reached.index.get_level_values("dataset")
    assert f"between {weakest.min()} and {weakest.max()} points" in what
    assert best.xs("ImageNet").max() == 1.4


@check("tips-gain-imagenet-500m")
def _(what: str) -> None:
    gain = gains("tips-table1").loc[("ImageNet", 500_000_000)]
    assert f"{gain['US-Nets']} over US-Nets, {gain['Joslim']} over Joslim and {gain['DS-Net']} over DS-Net" in what
    assert gain.min() < value("tips-gain-imagenet-500m-low")


@check("tips-gain-imagenet-3g6")
def _(what: str) -> None:
    gain = gains("tips-table2").loc[("ImageNet", 3_600_000_000)]
    assert f"gives {gain['Joslim']}, {gain['US-Nets']} and {gain['DS-Net']}" in what
    assert gain["Joslim"] == value("tips-gain-imagenet-3g6-usnets")
    assert gain["US-Nets"] == value("tips-gain-imagenet-3g6-joslim")


@check("tips-gain-cifar100-120m")
def _(what: str) -> None:
    gain = gains("tips-table2").loc[("CIFAR100", 120_000_000)]
    assert f"gives {gain['Joslim']}, {gain['US-Nets']} and {gain['DS-Net']}" in what
    assert gain["US-Nets"] == value("tips-gain-cifar100-120m-dsnet")
    assert gain["DS-Net"] == value("tips-gain-cifar100-120m-usnets")


@check("tips-latency-pairs")
def _(what: str) -> None:
    by_method = {method: line["latency_ms"].to_numpy() for method, line in published("tips-table3").groupby("method")}
    late = by_method["TIPS"] - by_method["Joslim"]
    slower = late[late > 0]
    assert f"slower in {len(slower)} of {len(late)}, by {slower.min():.0f} to {slower.max():.0f} ms" in what


@check("tips-storage-ratio")
def _(what: str) -> None:
    ratio = value("tips-b8-storage-checkpoints") / value("tips-b8-storage-configurations")
    assert f"{1000 * ratio:,.0f} ({1024 * ratio:,.0f} with units of 1024)" in what
    assert f"{1000 * ratio / value('tips-b8-storage-ratio'):.0f}" == "10"


@check("tips-budget-unit")
def _(what: str) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        torchvision.models.mobilenet_v2(width_mult=value("tips-width-multiplier")).eval()(torch.empty(1, 3, 224, 224))
    operations = counter.get_total_flops() / 1e6
    assert f"{operations / 2:.0f} million multiply-accumulates, that is {operations:,.0f} million" in what


@check("tips-algorithm1")
def _(what: str) -> None:
    def search(found: list[tuple[int, int]], *, mended: bool) -> set[tuple[int, int]]:
        front: set[tuple[int, int]] = set()
        for macs, accuracy in found:
            beaten = any(m <= macs and a > accuracy for m, a in front)
            costs_right = (lambda m, new=macs: m >= new) if mended else (lambda m, new=macs: m <= new)
            out = {(m, a) for m, a in front if costs_right(m) and a < accuracy}
            front = (front | (set() if beaten else {(macs, accuracy)})) - out
        return front

    assert "(1 MAC, 50 %) is thrown out by (2 MACs, 60 %)" in what
    assert search([(1, 50), (2, 60)], mended=False) == {(2, 60)}
    assert search([(2, 40), (1, 50)], mended=False) == {(2, 40), (1, 50)}
    points = [(1, 50), (2, 60), (2, 40), (3, 55)]
    for order in itertools.permutations(points):
        assert search(list(order), mended=True) == {(1, 50), (2, 60)}


@check("tips-prop31-assumption")
def _(what: str) -> None:
    width = int(value("tips-mlp-neurons"))
    effective = (width * width + width) / width
    assert f"w_e = {effective:.0f} against w_r = {width}" in what
    bound = 1 / (math.sqrt(effective) + math.sqrt(width)) ** 2
    assert math.sqrt(bound * effective) - math.sqrt(bound * width) < 0.01


def _scores(coupling: float, restart: float) -> tuple[np.ndarray, np.ndarray]:
    """TAS and summed degree for a path of 4 nodes in two subnetworks, one of them with a skip edge (Eqs. 2, 4, 5, 20, 6, 7, 8)."""
    plain = np.diag(np.ones(3), 1) + np.diag(np.ones(3), -1)
    plain[0, 0] = plain[3, 3] = 1
    skipped = plain.copy()
    skipped[1, 3] = skipped[3, 1] = 1
    eye = coupling * np.eye(4)
    hyper = (1 - restart) * np.block([[plain, eye], [eye, skipped]]) + restart
    rows = hyper.sum(axis=1)
    stationary = rows / rows.sum()
    assert stationary @ (hyper / rows[:, None]) == pytest.approx(stationary)
    return stationary.reshape(2, 4).sum(axis=0), (plain + skipped).sum(axis=1)


@check("tips-eq16-affine")
def _(what: str) -> None:
    assert "lambda = kappa = 0" in what
    scores, degrees = _scores(coupling=0.0, restart=0.0)
    assert scores == pytest.approx(degrees / degrees.sum())
    for coupling, restart in ((1.0, 0.0), (0.0, 1e-2), (1.0, 1e-5)):
        scores, degrees = _scores(coupling, restart)
        slope, constant = np.polyfit(degrees, scores, 1)
        assert scores == pytest.approx(slope * degrees + constant)
        assert constant > 1e-3


@check("tips-eq18-degree")
def _(what: str) -> None:
    links, neurons = int(value("tips-fig3-links-plain")), int(value("tips-fig3-neurons"))
    nodes = neurons + int(value("tips-fig3-neurons-per-layer"))
    assert f"{links} links by {neurons} neurons, {links // neurons};" in what
    assert f"{2 * links} by {nodes} nodes, {2 * links // nodes}." in what


@check("tips-eq20-probability")
def _(what: str) -> None:
    kappa = value("tips-restart")
    hyper = (1 - kappa) * np.array([[1.0, 1, 0], [1, 0, 1], [0, 1, 1]]) + kappa
    assert (hyper.sum(axis=1) > 1).all()
    assert (hyper / hyper.sum(axis=1, keepdims=True)).min() < kappa / 1.9


@check("tips-sampling-above-one")
def _(what: str) -> None:
    assert "above 2/3" in what
    assert 2 / 3 * (1 + value("tips-sampling-raise") / 100) == pytest.approx(1)


@check("progressive-eq1-classes")
def _(what: str) -> None:
    classes, size = 10, 3
    rows = np.tile(np.random.default_rng(0).normal(size=(size, 4)), (classes, 1))  # every class holds the same points
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    apart = (1 - rows @ rows.T).reshape(classes, size, classes, size).sum(axis=(1, 3)) / size**2
    within, between = np.trace(apart) / classes, apart.sum()
    assert 1 - within / (between / classes**2) == pytest.approx(0)
    assert f"({1 - within / (between / classes):.1f} with ten classes)" in what


@check("progressive-early-weights")
def _(what: str) -> None:
    exits, early, final = (value(f"progressive-{name}") for name in ("branches", "early-weight-sum", "final-weight"))
    assert f"this is {early / exits:.2f} and the weights sum to {final + (exits - 1) * early / exits:.2f}" in what
    assert early / (exits - 1) == pytest.approx(value("progressive-fig3-weight-exit1"))


@check("progressive-fig4-weights")
def _(what: str) -> None:
    weights = published("progressive-table1").filter(like="weight_").to_numpy()
    assert "no line of Table 1" in what
    assert not (np.diff(weights, axis=1) > 0).all(axis=1).any()


@check("progressive-gain-truncated")
def _(what: str) -> None:
    single = published("progressive-table1").query("weight_exit2 == 0 and weight_exit3 == 0")["fractional_percent"].max()
    printed = value("progressive-auc-gain-first")
    assert f"Up to {printed}% in the text is {single} in the table." == what
    assert math.floor(10 * single) / 10 == printed != round(single, 1)


@check("progressive-fraction-rounding")
def _(what: str) -> None:
    baseline, *auc = cells("progressive-table1", "auc")
    fractions = cells("progressive-table1", "fractional_percent")
    off = [abs(round(100 * (a / baseline - 1), 2) - f) for a, f in zip(auc, fractions, strict=True)]
    assert set(off) == {Decimal("0.00"), Decimal("0.01")}
    assert f"{sum(x > 0 for x in off)} of {len(off)} fractional" in what
    for base in (0.68779, 0.68780, 0.68782):  # some unrounded AUC gives all three printed numbers
        for a, fraction in zip(map(float, auc), map(float, fractions), strict=True):
            raw = round(100 * (a - 0.6878), 2)
            low = max(a - 5e-5, base + raw / 100 - 5e-5, base * (1 + fraction / 100 - 5e-5))
            assert low <= min(a + 5e-5, base + raw / 100 + 5e-5, base * (1 + fraction / 100 + 5e-5)) + 1e-12


@check("progressive-table1-spread")
def _(what: str) -> None:
    frame = published("progressive-table1")
    single = frame.filter(like="weight_exit").gt(0).sum(axis=1) == 1
    best, runner_up = frame[~single]["auc"].nlargest(2)
    assert f"ahead of the next by {best - runner_up:.4f} of AUC" in what
    best, runner_up = frame[single]["auc"].nlargest(2)
    assert f"the best single branch by {best - runner_up:.3f}" in what


@check("progressive-equal-weights")
def _(what: str) -> None:
    best = published("progressive-table1").set_index("auc").filter(like="weight_").loc[0.7345]
    assert best.tolist() == [0.2, 0.2, 0.2, 0.4]
    assert "early exits 0.2 each and the final exit 0.4" in what


@check("progressive-width-widest")
def _(what: str) -> None:
    kept = 1 - value("progressive-thinning-saving") / 100
    assert f"{100 * kept ** (-1 / value('progressive-width-exponent')):.0f} %" in what


@check("progressive-all-thresholds")
@given(
    entropy=st.lists(st.floats(0, 2), min_size=4, max_size=4),
    classes=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    alpha=st.floats(0, 2),
)
def _(what: str, entropy: list[float], classes: list[int], alpha: float) -> None:
    old = [e <= alpha for e in entropy[:-1]] + [True]
    new = [sure or (i > 0 and classes[i] == classes[i - 1]) for i, sure in enumerate(old)]
    assert new.index(True) <= old.index(True)


@pytest.mark.parametrize("identifier", CHECKS)
def test_inconsistency(identifier: str) -> None:
    CHECKS[identifier](what=inconsistencies().set_index("id").loc[identifier, "what"])


def test_every_inconsistency_that_can_be_computed_is() -> None:
    frame = inconsistencies()
    assert frame["id"].is_unique
    assert set(frame["kind"]) == {"arithmetic", "formula", "wording"}
    assert set(frame["paper"]) == {"tips", "progressive"}
    assert all(row.id.startswith(row.paper) for row in frame.itertuples())
    assert set(CHECKS) == set(frame.query("kind != 'wording'")["id"])


# ---------------------------------------------------------------- bad input


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the published numbers that may be damaged."""
    folder = tmp_path / "data" / "published"
    shutil.copytree(FOLDER, folder)
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    return folder


def replace(folder: Path, table: str, old: str, new: str) -> None:
    """Edit a table and refresh the manifest, as somebody would on purpose."""
    path = folder / f"{table}.csv"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))
    digests = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}" for p in sorted(folder.glob("*.csv"))]
    (folder / MANIFEST).write_text("\n".join(digests) + "\n")


def test_unknown_table_lists_the_tables() -> None:
    with pytest.raises(InvalidInput, match=r"no published table 'tips-table7'; there are tips-table1, .*inconsistencies"):
        published("tips-table7")


def test_unknown_number_names_near_ones() -> None:
    with pytest.raises(InvalidInput, match=r"near it: .*tips-step1-seconds"):
        quoted("tips-step1")
    with pytest.raises(InvalidInput, match="near it: none"):
        quoted("")


def test_an_edited_number_is_refused(home: Path) -> None:
    path = home / "tips-table1.csv"
    path.write_text(path.read_text().replace("66.4", "66.5"))
    with pytest.raises(CorruptFile, match=r"tips-table1\.csv: the content does not fit its checksum"):
        published("tips-table1")
    assert published("tips-table2").shape == (72, 9)


def test_a_file_the_manifest_does_not_know_is_refused(home: Path) -> None:
    (home / MANIFEST).write_text("")
    with pytest.raises(CorruptFile, match="sha256sum"):
        quoted("tips-restart")


@pytest.mark.parametrize(
    ("table", "old", "new", "message"),
    [
        ("tips-table1", "61.5", "many", r"line 2: accuracy_percent = 'many'"),
        ("tips-table1", "62.9", "nan", r"line 3: accuracy_percent = 'nan': a finite number"),
        ("tips-table1", "false", "no", r"line 2: bold = 'no': true or false"),
        ("tips-table1", "20000000", "2e7", r"line 2: budget_macs = '2e7'"),
        ("tips-table1", "US-Nets,30000000", "US-Nets,,30000000", r"line 3: 10 cells; there have to be 9"),
        ("tips-table1", "accuracy_percent", "accuracy", r"line 1: the columns have to be dataset, network"),
        ("tips-table3", "Joslim", "", r"line 2: method = '': a text"),
        ("progressive-table1", '"Progressive', 'x"Progressive', r"line 2: 9 cells"),
    ],
)
def test_a_malformed_file_is_refused_by_name_and_line(home: Path, table: str, old: str, new: str, message: str) -> None:
    replace(home, table, old, new)
    with pytest.raises(CorruptFile, match=message) as caught:
        published(table)
    assert str(home / f"{table}.csv") in str(caught.value)


def test_a_file_that_is_no_text_is_refused(home: Path) -> None:
    path = home / "tips-table3.csv"
    path.write_bytes(path.read_bytes() + b"\xff\n")
    (home / MANIFEST).write_text(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n")
    with pytest.raises(CorruptFile, match="line 12: not UTF-8"):
        published("tips-table3")


def test_a_missing_folder_says_where_to_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    with pytest.raises(MissingData, match="TIPSLIB_HOME"):
        published("tips-table1")
