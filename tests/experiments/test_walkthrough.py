"""The walkthrough: its toy by hand and by enumeration, its numbers against the library's slow methods, its rules on real layers."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from torch import nn
from torchvision.models import get_model

from tipslib import experiments
from tipslib.errors import InvalidInput
from tipslib.experiments.walkthrough import (
    ROUNDING,
    TOY_POSITIONS,
    WIDTH_LAYERS,
    Parameters,
    basic_block_stack,
    degrees,
    draw_widths,
    fig9_blocks,
    output_channels,
    run,
    toy_supernet,
)
from tipslib.profiles import get_profile
from tipslib.records import Outcome, Store
from tipslib.reporting.claims import Verdict
from tipslib.reporting.claims.walkthrough import CLAIMS
from tipslib.topology import NetworkGraph, all_paths, important_operations, important_path, is_valid, sample_subnetworks, tas, tps


@pytest.fixture(scope="module")
def outcome() -> Outcome:
    return run(Parameters(), seed=0, profile=get_profile("smoke"))


def test_toy_on_the_whole_supernet_by_hand() -> None:
    toy = toy_supernet()
    whole = np.ones((1, len(toy.operations)), dtype=bool)
    by_hand = np.array([2, 4, 3, 4, 3, 4, 2])
    assert degrees(toy, whole).tolist() == by_hand.tolist()
    scores = tas(toy, whole, restart=0.0)
    assert scores == pytest.approx(by_hand / 22)
    assert [toy.nodes[i].name for i in important_path(toy, scores).nodes] == ["r", "v1", "v3", "v5", "d"]
    assert len(TOY_POSITIONS) == len(toy)


def test_degrees_give_tas_by_the_formula_that_the_interactive_figure_uses() -> None:
    toy, coupling, restart = toy_supernet(), 0.3, 1e-3
    for count in (1, 3, 8):
        masks = sample_subnetworks(toy, count, rng=np.random.default_rng(count))
        g, n, c = degrees(toy, masks), len(toy), count * (count - 1)
        formula = ((1 - restart) * (g + coupling * c) + restart * n * count**2) / (
            (1 - restart) * (g.sum() + coupling * n * c) + restart * (n * count) ** 2
        )
        assert formula == pytest.approx(tas(toy, masks, coupling, restart), rel=1e-12)


def test_toy_record_equals_enumeration(outcome: Outcome) -> None:
    toy, scores = toy_supernet(), outcome.arrays["toy_scores"]
    for entry in outcome.values["toy"]["paths"]:
        found = [tps(scores, path) for path in all_paths(toy) if len(path) == entry["nodes"]]
        assert (entry["paths"], entry["tps"]) == (len(found), pytest.approx(max(found)))
        assert entry["ties"] == sum(np.isclose(found, max(found), rtol=1e-12, atol=0))
    rates = [tps(scores, path) / len(path) for path in all_paths(toy)]
    assert tps(scores, np.array(outcome.values["toy"]["important_path"])) / len(outcome.values["toy"]["important_path"]) == max(rates)


def test_all_recorded_subnetworks_are_valid(outcome: Outcome) -> None:
    stack, shape = basic_block_stack()
    graphs = {"toy": toy_supernet(), "stack": NetworkGraph.from_module(stack, shape)}
    graphs |= {name: NetworkGraph.from_module(get_model(name, weights=None), (1, 3, 224, 224)) for name in ("mobilenet_v2", "resnet34")}
    for name, graph in graphs.items():
        masks = outcome.arrays[f"{name}_masks"]
        assert is_valid(graph, masks).all()
        assert masks.any(axis=0).all()


def test_blocks_have_the_feature_maps_of_fig_9(outcome: Outcome) -> None:
    kinds = {name: [o["kind"] for o in block["operations"]] for name, block in outcome.values["blocks"].items()}
    assert kinds["inverted residual"].count("convolution") == 3
    assert kinds["basic block"].count("convolution") == 2
    for name, (module, _) in fig9_blocks().items():
        assert kinds[name].count("convolution") == sum(isinstance(part, nn.Conv2d) for part in module.modules())
        assert kinds[name].count("addition") == 2


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet34"])
def test_networks_against_the_library_and_the_modules(outcome: Outcome, name: str) -> None:
    graph = NetworkGraph.from_module(get_model(name, weights=None), (1, 3, 224, 224))
    found, scores = outcome.values["networks"][name], outcome.arrays[f"{name}_scores"]
    assert scores == pytest.approx(tas(graph, outcome.arrays[f"{name}_masks"], method="gth"), abs=1e-13)
    important = important_operations(graph, scores)
    assert outcome.arrays[f"{name}_importance"][important] == pytest.approx(1)
    by_name = {o.name: bool(chosen) for o, chosen in zip(graph.operations, important, strict=True)}
    for block in found["blocks"]:
        assert block["important"] == [by_name[layer] for layer in block["convolutions"]]
    assert sum(len(block["convolutions"]) for block in found["blocks"]) == sum(
        o.kind == "convolution" and "." in o.name and o.name not in ("features.0.0", "features.18.0") for o in graph.operations
    )
    assert sum(path["paths"] for path in found["paths"]) == {"mobilenet_v2": 2**10, "resnet34": 2**16}[name]
    longest = found["choices"][-1]
    assert (longest["nodes"], longest["other"]) == (max(path["nodes"] for path in found["paths"]), 1)


def test_mobilenet_blocks_against_torchvisions_own_attributes(outcome: Outcome) -> None:
    model = get_model("mobilenet_v2", weights=None)
    blocks = outcome.values["networks"]["mobilenet_v2"]["blocks"]
    assert len(blocks) == 17
    for block in blocks:
        part = model.get_submodule(block["name"])
        assert block["vital"] == (not part.use_res_connect)
        assert block["channels"][1] == part.out_channels
        assert block["stride"] == part.stride


def test_solvers_agree(outcome: Outcome) -> None:
    assert set(outcome.values["solvers"]) == {"toy", "inverted residual", "basic block", "mobilenet_v2", "resnet34"}
    assert {d for methods in outcome.values["solvers"].values() for d in methods.values()} == {ROUNDING}


def test_width_rules_on_real_layers(outcome: Outcome) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        widths = draw_widths(rng)
        assert all(after[0] == before[1] for before, after in pairwise(widths))
        assert widths[2][0] == widths[2][1]
        assert output_channels(widths) == widths[-1][1]
        assert all(1 <= out <= most for (_, out), (_, most) in zip(widths, WIDTH_LAYERS, strict=True))
    broken = [*widths[:3], (widths[3][0] + 1, widths[3][1]), widths[4]]
    assert output_channels(broken) is None
    assert output_channels([(3, 8), (8, 8), (8, 9), (9, 9), (9, 9)]) is None
    counts = outcome.values["widths"]["run"]
    assert counts["both rules"] == outcome.values["widths"]["samples"] > max(counts["without rule 1"], counts["without rule 2"])


def test_deterministic_but_for_the_timing(outcome: Outcome) -> None:
    again = run(Parameters(), seed=0, profile=get_profile("smoke"))
    assert {**again.values, "timing": 0} == {**outcome.values, "timing": 0}
    assert all(np.array_equal(again.arrays[name], array) for name, array in outcome.arrays.items())
    other = run(Parameters(width_samples=1), seed=1, profile=get_profile("smoke"))
    assert not np.array_equal(other.arrays["mobilenet_v2_masks"], outcome.arrays["mobilenet_v2_masks"])


def test_the_record_is_stored_and_judged(tmp_path: Path) -> None:
    store = Store(get_profile("smoke"), root=tmp_path)
    records = experiments.compute("walkthrough", store=store, width_samples=20)
    verdicts = {claim.id: claim.judge(records).verdict for claim in CLAIMS}
    assert verdicts.pop("important-first-in-block-by-path") is Verdict.FAILS
    assert set(verdicts.values()) == {Verdict.HOLDS}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subnetworks": 0}, "subnetworks"),
        ({"coupling": -0.1}, "lambda"),
        ({"restart": 1.0}, "kappa"),
        ({"resolution": 8}, "resolution"),
        ({"width_samples": 0}, "width_samples"),
        ({"depth": 3}, "no parameter"),
    ],
)
def test_impossible_parameters(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        experiments.plan("walkthrough", **wrong)
