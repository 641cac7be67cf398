"""Is a run planned before any work, computed once, and found again only by the code that made it?"""

from __future__ import annotations

import ast
import importlib.util
import logging
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from tipslib import experiments
from tipslib.errors import InvalidInput
from tipslib.experiments import EXPERIMENTS, compute, get_experiment, needs, plan, plan_all, recompute
from tipslib.profiles import Cell, Profile, get_profile
from tipslib.records import Run, Store, read


@pytest.fixture
def calls(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """(number, seed) of every run that is really made."""
    made: list[tuple[int, int]] = []
    run = toy.run

    def counted(parameters: Any, *, seed: int, profile: Profile) -> Any:
        made.append((parameters.number, seed))
        return run(parameters, seed=seed, profile=profile)

    monkeypatch.setattr(toy, "run", counted)
    return made


def test_every_experiment_keeps_the_contract() -> None:
    for name in experiments.EXPERIMENTS:
        module = get_experiment(name)
        assert type(module.VERSION) is int
        assert 0 < module.TOLERANCE < 1e-3
        assert plan(name).parameters
        with pytest.raises(AttributeError):
            module.Parameters().new = 1


@pytest.mark.parametrize(
    ("name", "asked", "message"),
    [
        ("nothing", {}, "no experiment 'nothing'; there are walkthrough, proposition, stability, coupling"),
        ("toy", {"profile": "huge"}, "no profile 'huge'; there are smoke, laptop, gpu, paper"),
        ("toy", {"nubmer": 1}, "no parameter 'nubmer'; there are number, share"),
        ("toy", {"number": "1"}, "number = '1' is of type str; int is wanted"),
        ("toy", {"number": -1}, "number = -1; 0 or more is wanted"),
        ("toy", {"seed": -1}, "seed = -1; a whole number from 0 is wanted"),
        ("toy", {"seed": True}, "seed = True; a whole number from 0 is wanted"),
        ("toy", {"seed": 0.0}, "seed = 0.0; a whole number from 0 is wanted"),
    ],
)
def test_what_is_not_allowed_is_refused_before_any_work(
    calls: list[tuple[int, int]], name: str, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidInput) as refusal:
        plan(name, **asked)
    assert str(refusal.value).startswith(message)
    if "seed" in asked:
        asked = {**asked, "seeds": [asked["seed"]]}
        del asked["seed"]
    with pytest.raises(InvalidInput) as refusal:
        compute(name, **asked)
    assert str(refusal.value).startswith(message)
    assert calls == []


def test_one_wrong_seed_stops_the_right_ones_too(calls: list[tuple[int, int]]) -> None:
    with pytest.raises(InvalidInput):
        compute("toy", seeds=[0, 1, -1])
    assert calls == []


def test_overrides_go_before_the_profile_and_the_profile_before_defaults(toy: ModuleType) -> None:
    own = Profile("own", "for a test", {}, (4, 5), False, {"toy": {"number": 7}})
    assert plan("toy", profile=own).parameters == {"number": 7, "share": 0.5}
    assert plan("toy", profile=own, number=8).parameters == {"number": 8, "share": 0.5}
    assert plan("toy").parameters == {"number": 1, "share": 0.5}
    assert plan("toy", profile=own).seed == 4
    assert plan("toy", profile=own, seed=9).seed == 9


def test_a_default_written_out_is_the_same_run(toy: ModuleType) -> None:
    assert plan("toy").key == plan("toy", number=1).key == plan("toy", share=0.5, seed=0).key
    assert len({plan("toy", profile=name, seed=seed).key for name in ("smoke", "gpu") for seed in (0, 1)}) == 4


def test_all_runs_are_variants_times_seeds(toy: ModuleType) -> None:
    runs = plan_all("toy", "laptop")
    assert [(run.parameters["number"], run.seed) for run in runs] == [(n, seed) for n in (1, 2, 3) for seed in (0, 1, 2)]


def test_each_cell_is_combined_with_the_variants_that_are_meant_for_it(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toy, "VARIANTS", ({"number": 1}, {"number": 2}, {"number": 3}))
    cells = (Cell({"number": 1}, {"share": 0.25}), Cell({"number": 3}, {"share": 0.75}))
    small = replace(get_profile("laptop"), seeds=(0,), cells={"toy": cells})

    def chosen(run: Run) -> tuple[int, float]:
        return run.parameters["number"], run.parameters["share"]

    assert [chosen(run) for run in plan_all("toy", small)] == [(1, 0.25), (3, 0.75)]
    # by hand the cell is found by what is asked, and what is asked goes before it
    assert chosen(plan("toy", profile=small, number=3)) == (3, 0.75)
    assert chosen(plan("toy", profile=small, number=3, share=0.1)) == (3, 0.1)
    assert chosen(plan("toy", profile=small)) == (1, 0.25)
    assert chosen(plan("toy", profile=small, number=2)) == (2, 0.5)


def test_a_record_that_is_there_is_not_computed_again(calls: list[tuple[int, int]], tmp_path: Path) -> None:
    first = compute("toy", profile="laptop", number=2)
    assert calls == [(2, 0), (2, 1), (2, 2)]
    again = compute("toy", profile="laptop", number=2, seeds=[2, 0])
    assert len(calls) == 3
    assert [record.run.seed for record in again] == [2, 0]
    assert again[1].path == first[0].path == Store(get_profile("laptop"), tmp_path).path(first[0].run)
    np.testing.assert_array_equal(again[1].arrays["draws"], first[0].arrays["draws"])
    assert again[1].provenance == {"seconds": first[0].provenance["seconds"], "data": {"toys": "0" * 64}}


def test_other_stores_are_asked_instead(calls: list[tuple[int, int]], tmp_path: Path) -> None:
    compute("toy")
    (record,) = compute("toy", store=Store(get_profile("smoke"), tmp_path / "elsewhere"))
    assert len(calls) == 2
    assert tmp_path / "elsewhere" in record.path.parents


def test_recomputing_asks_no_store_and_agrees(calls: list[tuple[int, int]]) -> None:
    (record,) = compute("toy")
    outcome, provenance = recompute(record.run, get_profile("smoke"))
    assert len(calls) == 2
    assert outcome.values["mean"] == record.values["mean"]
    assert provenance["seconds"] >= 0


@pytest.mark.parametrize("suffix", ["json", "npz"])
def test_a_corrupt_record_is_named_and_computed_again(calls: list[tuple[int, int]], suffix: str, caplog: pytest.LogCaptureFixture) -> None:
    (record,) = compute("toy")
    (file,) = record.path.parent.glob(f"*.{suffix}")
    file.write_bytes(file.read_bytes()[:-10])
    with caplog.at_level(logging.WARNING):
        (again,) = compute("toy")
    assert len(calls) == 2
    assert str(file) in caplog.text
    assert "recomputing it now" in caplog.text
    np.testing.assert_array_equal(again.arrays["draws"], record.arrays["draws"])
    assert read(record.path).values["mean"] == record.values["mean"]
    compute("toy")
    assert len(calls) == 2


# code: at smoke a record is as old as its experiment's source


def forget_sources() -> None:
    experiments.source_digest.cache_clear()
    experiments._source.cache_clear()


def rewritten(toy: ModuleType, change: str, to: str) -> None:
    path = Path(str(toy.__file__))
    text = path.read_text()
    assert text.count(change) == 1
    path.write_text(text.replace(change, to))
    forget_sources()


def test_changed_code_is_another_run_at_smoke_and_comments_are_no_code(toy: ModuleType) -> None:
    before = plan("toy").key
    rewritten(toy, "VERSION = 1\n", "VERSION = 1  # a comment\n\n\n")
    assert plan("toy").key == before
    rewritten(toy, ".random(4)", ".random(5)")
    assert plan("toy").key != before


def test_changed_code_is_the_same_run_at_other_profiles_until_its_version_is_raised(
    toy: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = plan("toy", profile="laptop")
    rewritten(toy, ".random(4)", ".random(5)")
    assert plan("toy", profile="laptop").key == before.key
    assert before.code == "v1"
    monkeypatch.setattr(toy, "VERSION", 2)
    assert plan("toy", profile="laptop").key != before.key


def test_code_that_is_imported_counts(toy: ModuleType, tmp_path: Path) -> None:
    helper = tmp_path / "code" / "toy_helper.py"
    helper.write_text("NUMBER = 1\n")
    rewritten(toy, "import numpy as np\n", "import numpy as np\n\nfrom tipslib.experiments import toy_helper\n")
    before = plan("toy").key
    helper.write_text("NUMBER = 2\n")
    forget_sources()
    assert plan("toy").key != before
    sys.modules.pop("tipslib.experiments.toy_helper", None)


def test_code_that_only_draws_does_not_count(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    rewritten(toy, "import numpy as np\n", "import numpy as np\n\nimport tipslib.reporting\nfrom tipslib.reporting import graphs, style\n")
    asked: list[str] = []
    source = experiments._source
    with monkeypatch.context() as patch:
        patch.setattr(experiments, "_source", lambda module: (asked.append(module), source(module))[1])
        plan("toy")
    assert "tipslib.records" in asked
    assert [module for module in asked if module.startswith("tipslib.reporting")] == []


@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_no_experiment_asks_the_drawing_code_for_more_than_drawings(name: str) -> None:
    """What `source_digest` leaves out must not be able to change a result: it is imported to draw, and nowhere else."""
    drawing = "tipslib.analysis"
    waiting, seen = [f"tipslib.experiments.{name}"], set[str]()
    while waiting:
        module = waiting.pop()
        if module not in seen and (found := experiments._source(module)) is not None:
            seen.add(module)
            waiting += found[1]
            tree = ast.parse(Path(str(importlib.util.find_spec(module).origin)).read_text())  # type: ignore[union-attr]
            assert module == drawing or not any(n.startswith("tipslib.reporting") for n in experiments._imports(tree)), module


def test_where_git_hangs_or_is_missing_the_revision_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (subprocess.TimeoutExpired("git", 10), FileNotFoundError("git")):

        def refuses(*arguments: object, error: Exception = error, **options: object) -> None:
            raise error

        monkeypatch.setattr(subprocess, "run", refuses)
        provenance = experiments._provenance(1.5)
        assert provenance["revision"] is None
        assert provenance["seconds"] == 1.5


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_what_a_run_needs_can_be_asked_of_every_experiment(name: str) -> None:
    smoke = get_profile("smoke")
    assert all(one.experiment in EXPERIMENTS for run in plan_all(name, smoke)[:1] for one in needs(run, smoke))
