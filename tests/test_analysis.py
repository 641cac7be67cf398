"""The analysis of anyone's network: against enumeration, on bad input, and what it prints and draws."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from torch import nn
from torchvision.models import get_model

import tipslib
from tipslib import project
from tipslib.analysis import operation_importance
from tipslib.cli import main
from tipslib.errors import InvalidInput, TracingError
from tipslib.topology import NetworkGraph, best_paths, important_operations


class TwoBranches(nn.Module):
    """Somebody's own network: a stem, two branches that meet, a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2)
        self.short = nn.Conv2d(8, 8, 1)
        self.long = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1))
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head((self.short(x) + self.long(x)).mean(dim=(2, 3)))


class Undecided(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1 if x.sum() > 0 else x - 1


class HasUndecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.gate = Undecided()
        self.last = nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.gate(self.first(x)))


def operation_walks(graph: NetworkGraph) -> list[list[int]]:
    """Every input-output path as a list of operations."""
    found, stack = [], [(0, [])]
    while stack:
        node, walk = stack.pop()
        if node == len(graph) - 1:
            found.append(walk)
        stack += [(graph.operations[i].target, [*walk, i]) for i in graph.outgoing[node]]
    return found


@st.composite
def graphs_with_scores(draw: st.DrawFn) -> tuple[NetworkGraph, np.ndarray]:
    nodes = draw(st.integers(2, 8))
    spine = [(i, i + 1) for i in range(nodes - 1)]
    pairs = st.tuples(st.integers(0, nodes - 1), st.integers(0, nodes - 1)).filter(lambda p: p[0] < p[1])
    graph = NetworkGraph.from_edges(spine + draw(st.lists(pairs, max_size=8)))
    return graph, np.array(draw(st.lists(st.floats(0.01, 1), min_size=nodes, max_size=nodes)))


@given(graphs_with_scores())
def test_importance_equals_enumeration(case: tuple[NetworkGraph, np.ndarray]) -> None:
    graph, scores = case
    walks = operation_walks(graph)
    rates = [scores[[0, *graph.targets[walk]]].mean() for walk in walks]
    expected = [max(rate for rate, walk in zip(rates, walks, strict=True) if i in walk) for i in range(len(graph.operations))]
    importance = operation_importance(graph, scores)
    assert importance == pytest.approx(np.array(expected) / max(rates), rel=1e-12)
    assert importance[important_operations(graph, scores)] == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("scores", [[1.0, 1.0], [1.0, 0.0, 1.0], [1.0, np.nan, 1.0]])
def test_importance_refuses_impossible_scores(scores: list[float]) -> None:
    with pytest.raises(InvalidInput, match="scores"):
        operation_importance(NetworkGraph.from_edges([(0, 1), (1, 2)]), scores)


def test_own_network() -> None:
    analysis = tipslib.analyze(TwoBranches(), (1, 3, 32, 32), subnetworks=1)
    important = {o.name for o, chosen in zip(analysis.graph.operations, analysis.important, strict=True) if chosen}
    assert {"stem", "short", "head"} <= important
    assert not {"long.0", "long.3"} & important
    assert analysis.scores.sum() == pytest.approx(1)
    assert analysis.masks.any(axis=0).all()
    assert analysis.path.score / len(analysis.path.nodes) == max(p.score / d for d, p in analysis.paths.items())


def test_one_operation() -> None:
    analysis = tipslib.analyze(nn.Linear(3, 2), (1, 3))
    assert analysis.importance.tolist() == [1.0]
    assert len(analysis.path.nodes) == 2
    assert "*" in analysis.table()
    assert isinstance(analysis.draw(), Figure)


def test_settings_reach_the_chain_and_the_module_stays_as_it_was() -> None:
    module = TwoBranches().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    coupled = tipslib.analyze(module, torch.zeros(1, 3, 32, 32), subnetworks=4, coupling=1.0, restart=0.1, seed=3)
    alone = tipslib.analyze(module, torch.zeros(1, 3, 32, 32), subnetworks=4, coupling=0.0, restart=0.1, seed=3)
    assert coupled.masks.shape == (4, len(coupled.graph.operations))
    assert np.array_equal(coupled.masks, alone.masks)
    assert np.ptp(coupled.scores) < np.ptp(alone.scores)
    assert module.training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_same_seed_same_answer() -> None:
    first, second = (tipslib.analyze(TwoBranches(), (1, 3, 32, 32), seed=7).to_json() for _ in range(2))
    assert first == second


def test_table_has_a_line_for_each_operation_and_marks_without_colour() -> None:
    analysis = tipslib.analyze(TwoBranches(), (1, 3, 32, 32))
    lines = analysis.table().splitlines()
    for operation, important in zip(analysis.graph.operations, analysis.important, strict=True):
        (line,) = [line for line in lines if line[3:].startswith(f"{operation.name} ")]
        assert line.startswith("*") == important
    assert "\x1b" not in analysis.table()


def test_table_marks_ties() -> None:
    class Twins(TwoBranches):
        def __init__(self) -> None:
            super().__init__()
            self.long = nn.Conv2d(8, 8, 3, padding=1)

    analysis = tipslib.analyze(Twins(), (1, 3, 32, 32), subnetworks=1)
    assert analysis.path.ties == 2
    assert "one of 2 of that length that tie" in analysis.table()
    assert sum(line.startswith("=") for line in analysis.table().splitlines()) == 2


def test_json_is_plain_and_consistent() -> None:
    analysis = tipslib.analyze(TwoBranches(), (1, 3, 32, 32))
    found = json.loads(json.dumps(analysis.to_json(), allow_nan=False))
    assert found["format"] == 1
    assert found["settings"] == {"subnetworks": 8, "coupling": 1.0, "restart": 1e-5, "seed": 0}
    assert sum(node["tas"] for node in found["feature_maps"]) == pytest.approx(1)
    (chosen,) = [path for path in found["paths"] if path["nodes"] == found["important_path"]]
    assert [o["index"] for o in found["operations"] if o["important"]] == sorted(chosen["operations"])
    assert sum(found["feature_maps"][i]["tas"] for i in chosen["feature_maps"]) == pytest.approx(chosen["tps"])
    assert all(0 < o["importance"] <= 1 and 1 <= o["kept"] <= 8 for o in found["operations"])


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "efficientnet_b0", "googlenet"])
def test_torchvision_networks(name: str) -> None:
    extra = {"init_weights": False} if name == "googlenet" else {}
    analysis = tipslib.analyze(get_model(name, weights=None, **extra), (1, 3, 224, 224))
    assert set(best_paths(analysis.graph, analysis.scores)) == set(analysis.paths)
    assert analysis.importance[analysis.important] == pytest.approx(1)
    assert analysis.importance.min() > 0
    assert isinstance(analysis.draw(), Figure)
    assert not plt.get_fignums()


def test_what_cannot_be_traced_is_named_with_the_way_out() -> None:
    with pytest.raises(TracingError, match=r"gate.*leaves"):
        tipslib.analyze(HasUndecided(), (1, 4))
    by_name = tipslib.analyze(HasUndecided(), (1, 4), leaves=["gate"])
    by_class = tipslib.analyze(HasUndecided(), (1, 4), leaves=[Undecided])
    assert [o.kind for o in by_name.graph.operations] == ["linear", "leaf", "linear"]
    assert by_class.to_json() == by_name.to_json()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"subnetworks": 0}, "at least 1"),
        ({"coupling": 1.5}, r"\[0, 1\]"),
        ({"restart": 1.0}, r"\[0, 1\)"),
        ({"seed": -1}, "whole number"),
        ({"seed": True}, "whole number"),
        ({"leaves": ["nothing"]}, "nothing"),
    ],
)
def test_impossible_settings(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(InvalidInput, match=said):
        tipslib.analyze(TwoBranches(), (1, 3, 32, 32), **wrong)


def test_import_is_quick_and_unknown_names_are_refused() -> None:
    code = "import sys, tipslib; assert 'torch' not in sys.modules; assert callable(tipslib.analyze)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError, match="analyse"):
        tipslib.analyse  # noqa: B018


def test_the_page_about_it_does_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    page = (project.root() / "book" / "analyse-your-own.md").read_text(encoding="utf-8")
    (file,) = re.findall(r"```\{code-block\} python\n:caption: mynet\.py\n\n(.*?)```", page, flags=re.DOTALL)
    (tmp_path / "mynet.py").write_text(file, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mynet", raising=False)  # of another test
    commands = re.findall(r"```bash\n(.*?)\n```", page, flags=re.DOTALL)
    for command in commands:
        program, *arguments = shlex.split(command.replace("\\\n", " "))
        assert program == "tipslib"
        capsys.readouterr()
        assert main(arguments) == 0
    (shown,) = re.findall(r"```text\n(.*?)```", page, flags=re.DOTALL)
    assert shown == capsys.readouterr().out, "the page does not show what the last command prints"
    assert json.loads((tmp_path / "importance.json").read_text(encoding="utf-8"))["network"] == "TwoBranches"
    assert (tmp_path / "importance.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    names: dict[str, object] = {"__name__": "page"}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        exec(compile(block, "analyse-your-own.md", "exec"), names)
    said = capsys.readouterr().out
    assert "leaves=['1']" in said
    assert "attention" in said
    assert "['stem', 'skip', 'head']" in said
    assert (tmp_path / "importance.png").stat().st_size > 0
