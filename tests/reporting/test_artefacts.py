"""Is every figure and table of both papers listed once, in order, and its state read from records?"""

from __future__ import annotations

from pathlib import Path

import pytest

from tipslib import project
from tipslib.errors import InvalidInput
from tipslib.experiments import EXPERIMENTS
from tipslib.profiles import get_profile
from tipslib.records import Outcome, Run, Store
from tipslib.reporting import artefacts
from tipslib.reporting.artefacts import ARTEFACTS, Artefact, get_artefact, state
from tipslib.reporting.published import published, tables


def planned(name: str, profile: object, variants: int = 1) -> list[Run]:
    """What `experiments.plan_all` answers, without importing an experiment."""
    size = get_profile(profile)  # type: ignore[arg-type]
    return [Run(name, {"variant": i}, size.name, seed, "v1") for i in range(variants) for seed in size.seeds]


def test_every_figure_and_table_is_there_in_order() -> None:
    tips = [f"tips-fig{name}" for name in ("1", "2", "3", "4", "5a", "5bc", *range(6, 12))]
    tips += [f"tips-table{i}" for i in range(1, 7)] + ["tips-algorithm1", "tips-algorithm2", "tips-time", "tips-switching"]
    progressive = [f"progressive-fig{i}" for i in range(1, 6)] + ["progressive-table1"]
    assert list(ARTEFACTS) == tips + progressive
    assert all(key == artefact.id and key.startswith(artefact.paper) for key, artefact in ARTEFACTS.items())
    assert len({(a.paper, a.label) for a in ARTEFACTS.values()}) == len(ARTEFACTS)


def test_every_published_table_is_an_artefact() -> None:
    of_tables = {key for key in ARTEFACTS if "-table" in key}
    assert of_tables == {name for name in tables() if "-table" in name}
    for key in of_tables:
        assert published(key)["source"].str.endswith(ARTEFACTS[key].label).all()


def test_notebooks_and_experiments_exist() -> None:
    for artefact in ARTEFACTS.values():
        assert artefact.experiments
        assert set(artefact.experiments) <= set(EXPERIMENTS)
        assert (project.root() / "notebooks" / f"{artefact.notebook}.ipynb").is_file()
    assert {name for artefact in ARTEFACTS.values() for name in artefact.experiments} == set(EXPERIMENTS)


def test_unknown_artefact_lists_the_ids() -> None:
    assert get_artefact("tips-fig6").notebook == "stability"
    with pytest.raises(InvalidInput, match=r"no artefact 'tips-fig12'; there are tips-fig1, .*progressive-table1"):
        get_artefact("tips-fig12")


def test_unknown_profile_is_refused() -> None:
    with pytest.raises(InvalidInput, match="there are smoke, laptop, gpu, paper"):
        state(get_artefact("tips-fig1"), "huge")


def test_without_records_nothing_is_recomputed(tmp_path: Path) -> None:
    assert state(get_artefact("tips-table1"), "smoke", Store(get_profile("smoke"), tmp_path)) == "not run"


def test_reproduced_needs_a_record_of_every_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "plan_all", planned)
    profile = get_profile("laptop")
    store = Store(profile, tmp_path)
    figure = get_artefact("tips-fig6")
    assert state(figure, profile, store) == "not run"
    for run in planned("stability", profile):
        assert state(figure, profile, store) == "not run"
        store.save(run, Outcome({}), {})
    assert state(figure, profile, store) == "recomputed"
    assert state(get_artefact("tips-fig7"), profile, store) == "not run"


def test_reproduced_needs_every_experiment_at_that_version_and_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "plan_all", planned)
    both = Artefact("x", "tips", "Figure x", "two experiments", "stability", ("stability", "coupling"))
    smoke = get_profile("smoke")
    store = Store(smoke, tmp_path)
    store.save(planned("stability", smoke)[0], Outcome({}), {})
    store.save(Run("coupling", {}, "smoke", 0, "v0"), Outcome({}), {})
    assert state(both, "smoke", store) == "not run"
    store.save(planned("coupling", smoke)[0], Outcome({}), {})
    assert state(both, "smoke", store) == "recomputed"
    assert state(both, "paper", Store(get_profile("paper"), tmp_path)) == "not run"


def test_reproduced_needs_every_variant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "plan_all", lambda name, profile: planned(name, profile, variants=2))
    smoke = get_profile("smoke")
    store = Store(smoke, tmp_path)
    one, other = planned("weights", smoke, variants=2)
    store.save(one, Outcome({}), {})
    assert state(get_artefact("progressive-table1"), smoke, store) == "not run"
    store.save(other, Outcome({}), {})
    assert state(get_artefact("progressive-table1"), smoke, store) == "recomputed"


def test_a_record_that_was_cut_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artefacts, "plan_all", planned)
    smoke = get_profile("smoke")
    store = Store(smoke, tmp_path)
    record = store.save(planned("stability", smoke)[0], Outcome({"a": 1}), {})
    assert state(get_artefact("tips-fig6"), smoke, store) == "recomputed"
    record.path.write_bytes(record.path.read_bytes()[:-20])
    assert state(get_artefact("tips-fig6"), smoke, store) == "not run"
