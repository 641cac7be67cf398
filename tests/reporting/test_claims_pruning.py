"""Each claim of the experiment `pruning`, on made-up networks that support it, on some that do not, and on some that cannot tell."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tipslib.errors import InvalidInput
from tipslib.experiments.pruning import Parameters
from tipslib.parameters import to_json
from tipslib.records import Record, Run
from tipslib.reporting.claims import Finding, Verdict
from tipslib.reporting.claims.pruning import CLAIMS, TITLES, command, compare, explanations, subject, subject_of

BY_ID = {claim.id: claim for claim in CLAIMS}
BLOCKS, EACH, SAMPLES = 16, 3, 1000
RATIOS = (0.1, 0.3, 0.5, 0.7, 0.9, 0.99)


def record(
    seed: int = 0,
    *,
    effect: float = 0.0,
    by_position: float = 0.0,
    early: bool = False,
    alike: bool = False,
    profile: str = "laptop",
    network: str = "mobilenet_v2",
    data: str = "imagenet-val-1300",
    zero: str = "layer",
) -> Record:
    """Blocks of three operations; every other block is important, or (`early`) the first half. Drops grow with the ratio.

    An important operation loses `effect` points more, and the first operation `by_position` points more than the last, at full pruning.
    `alike`: the channels tell importance, at every position.
    """
    rng = np.random.default_rng(7)
    block = np.repeat(np.arange(BLOCKS), EACH)
    position = np.arange(BLOCKS * EACH) / (BLOCKS * EACH - 1)
    important = (block < BLOCKS / 2) if early else block % 2 == 0
    channels = np.where(important, 64, 32) if alike else 2 ** rng.integers(4, 9, size=len(block))
    lost = 30 + effect * important + by_position * (1 - position) + rng.normal(0, 2, BLOCKS)[block] + rng.normal(0, 2, len(block))
    drop = np.clip(lost[:, None] * np.sqrt(RATIOS), 0, 70) + 0.1 * np.random.default_rng(seed).standard_normal((len(block), len(RATIOS)))
    operations = [
        {
            "name": f"{b}.{i}",
            "block": str(b),
            "role": ("depthwise", "widening 1x1", "narrowing 1x1")[i % 3],
            "channels": int(c),
            "stride": 1,
        }
        | {"position": float(x), "unavoidable": bool(m)}
        for i, (b, c, x, m) in enumerate(zip(block, channels, position, important, strict=True))
    ]
    values = {"operations": operations, "samples": SAMPLES, "unpruned": 720, "weights": "made-up", "without_channels": 3}
    arrays = {"correct": np.round(720 - drop * SAMPLES / 100).astype(np.int64), "important": important, "importance": important * 0.1 + 0.9}
    asked = to_json(Parameters(network=network, data=data, zero=zero, ratios=RATIOS))  # type: ignore[arg-type]
    return Record(Run("pruning", asked, profile, seed, "v1"), values, arrays, {}, Path("made-up.json"))


def judge(name: str, seeds: int = 3, **given: Any) -> Finding:
    return BY_ID[name].judge([record(seed, **given) for seed in range(seeds)])


def test_every_network_has_its_two_claims() -> None:
    assert len(CLAIMS) == len(BY_ID) == 2 * len(TITLES)
    assert {claim.page for claim in CLAIMS} == {"pruning"}
    assert {claim.where for claim in CLAIMS if claim.paper == "tips"} == {"Fig. 4, Sec. 4.3", "Fig. 8"}


def test_it_holds_where_important_operations_hurt_more() -> None:
    for name in ("pruning-mobilenet-v2", "pruning-mobilenet-v2-adjusted"):
        finding = judge(name, effect=20.0)
        assert finding.verdict is Verdict.HOLDS, finding.reason
        assert finding.seeds == 3
        assert finding.interval is not None
        assert finding.interval[0] > 0


def test_it_does_not_hold_where_they_hurt_less() -> None:
    for name in ("pruning-mobilenet-v2", "pruning-mobilenet-v2-adjusted"):
        assert judge(name, effect=-20.0).verdict is Verdict.FAILS


def test_it_is_open_where_they_hurt_alike() -> None:
    for name in ("pruning-mobilenet-v2", "pruning-mobilenet-v2-adjusted"):
        assert judge(name, effect=0.0).verdict is Verdict.UNDECIDED


def test_what_only_position_does_is_not_put_down_to_importance() -> None:
    raw = judge("pruning-mobilenet-v2", by_position=40.0, early=True)
    adjusted = judge("pruning-mobilenet-v2-adjusted", by_position=40.0, early=True)
    assert raw.verdict is Verdict.HOLDS, raw.reason
    assert adjusted.verdict is Verdict.UNDECIDED, adjusted.reason
    assert adjusted.effect is not None
    assert raw.effect is not None
    assert abs(adjusted.effect) < 6
    assert adjusted.interval is not None
    assert adjusted.interval[0] < 0 < adjusted.interval[1]


def test_importance_that_is_nothing_but_width_is_said_to_be() -> None:
    finding = judge("pruning-mobilenet-v2-adjusted", effect=20.0, alike=True)
    assert finding.verdict is Verdict.UNDECIDED
    assert finding.effect is None
    assert "nothing but position and width" in finding.reason


def test_one_range_that_goes_the_other_way_is_enough() -> None:
    one = record(effect=20.0)
    flipped = one.arrays["correct"].copy()
    flipped[:, -2:] += (300 * one.arrays["important"])[:, None]
    mixed = Record(one.run, one.values, {**one.arrays, "correct": flipped}, {}, one.path)
    finding = BY_ID["pruning-mobilenet-v2"].judge([mixed])
    assert finding.verdict is Verdict.FAILS, finding.reason


def test_other_networks_are_not_run_and_the_command_is_given() -> None:
    finding = judge("pruning-resnet34", effect=20.0)
    assert finding.verdict is Verdict.NOT_RUN
    assert "tipslib run pruning --profile laptop -p network=resnet34 -p data=imagenet-val-1300" in finding.reason
    assert judge("pruning-cifar10", effect=20.0).verdict is Verdict.NOT_RUN
    on_smoke = judge("pruning-cifar10", effect=20.0, network="trained", data="digits", profile="smoke")
    assert "tipslib run pruning --profile laptop -p network=trained -p data=cifar10" in on_smoke.reason
    assert "--profile smoke -p network=trained -p data=digits" in command("digits", "smoke")
    assert judge("pruning-cifar10", effect=20.0, network="trained", data="cifar10").verdict is Verdict.HOLDS
    assert BY_ID["pruning-digits"].judge([]).verdict is Verdict.NOT_RUN


def test_given_weights_count_once_however_many_seeds_draw_subnetworks() -> None:
    same = record(effect=20.0)
    finding = BY_ID["pruning-mobilenet-v2"].judge([same, same, same])
    assert (finding.verdict, finding.seeds) == (Verdict.HOLDS, 1)
    assert "no shortcut leads around" in BY_ID["pruning-mobilenet-v2-adjusted"].judge([same]).reason


def test_smoke_decides_nothing() -> None:
    assert judge("pruning-digits", effect=20.0, network="trained", data="digits", profile="smoke").verdict is Verdict.UNDECIDED


def test_places_of_the_zero_are_not_mixed() -> None:
    both = [record(effect=20.0), record(effect=-20.0, zero="feature map")]
    layer, feature_map = subject(both, "mobilenet_v2"), subject(both, "mobilenet_v2", "feature map")
    assert layer is not None
    assert feature_map is not None
    assert (layer.seeds, feature_map.seeds) == (1, 1)
    assert layer.spread is None
    assert layer.drop[layer.important > 0].mean() > feature_map.drop[feature_map.important > 0].mean()
    assert subject(both, "digits") is None
    assert {subject_of(r) for r in both} == {"mobilenet_v2"}
    assert layer.accuracy == pytest.approx(72.0)


def test_the_plain_comparison_is_the_difference_of_means_with_the_jackknife() -> None:
    rng = np.random.default_rng(0)
    important = np.array([1.0] * 4 + [0.0] * 6)
    drop = rng.normal(size=10) + important
    found = compare(drop, important, [str(i) for i in range(10)])
    assert found.difference == pytest.approx(drop[:4].mean() - drop[4:].mean())
    assert found.left == pytest.approx(1.0)
    means = [
        np.delete(drop, i)[np.delete(important, i) > 0].mean() - np.delete(drop, i)[np.delete(important, i) == 0].mean() for i in range(10)
    ]
    error = math.sqrt(0.9 * ((np.array(means) - found.difference) ** 2).sum())
    half = stats.t.ppf(0.975, 9) * error
    assert found.interval == pytest.approx((found.difference - half, found.difference + half))


def test_the_coefficient_is_that_of_ordinary_least_squares() -> None:
    rng = np.random.default_rng(1)
    others, important = rng.normal(size=(30, 3)), (rng.random(30) < 0.4).astype(float)
    drop = 2 * important + others @ [1, -2, 0.5] + rng.normal(size=30)
    design = np.column_stack([np.ones(30), others, important])
    expected = np.linalg.solve(design.T @ design, design.T @ drop)[-1]
    assert compare(drop, important, [str(i) for i in range(30)], others).difference == pytest.approx(expected)


def test_intervals_cover_where_blocks_share_a_fate() -> None:
    """400 made-up networks without an effect: the 95 % interval misses 0 in about 5 % of them, though operations of a block go together."""
    rng = np.random.default_rng(2)
    block = np.repeat(np.arange(18), 3)
    important = np.isin(block, rng.permutation(18)[:7]).astype(float)
    position = np.linspace(0, 1, len(block))
    others = np.stack([position, position**2, rng.integers(4, 10, len(block)).astype(float)], axis=1)
    missed = 0
    for _ in range(400):
        drop = 20 * position + rng.normal(0, 3, 18)[block] + rng.normal(0, 2, len(block))
        low, high = compare(drop, important, [str(b) for b in block], others).interval
        missed += not low <= 0 <= high
    assert 0.01 <= missed / 400 <= 0.08


def test_what_hangs_on_one_block_has_no_interval() -> None:
    found = compare(np.arange(4.0), np.array([1.0, 0, 0, 0]), ["a", "b", "c", "d"])
    assert found.difference == pytest.approx(-2.0)
    assert found.interval == (-math.inf, math.inf)
    with pytest.raises(InvalidInput, match="equally many"):
        compare(np.arange(4.0), np.ones(3), ["a"] * 4)


def test_explanations_hold_kinds_only_where_asked() -> None:
    operations = record().values["operations"]
    assert explanations(operations).shape == (BLOCKS * EACH, 3)
    assert explanations(operations, kinds=True).shape == (BLOCKS * EACH, 6)
