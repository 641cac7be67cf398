"""A toy experiment for the tests of everything that handles experiments: quick, and told by files when to go on."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

from batch_shell import READS, TOY, Shell
from tipslib import experiments

# how long an example takes says something of the machine, nothing of the code
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


def forget_sources() -> None:
    """Read the modules again when they are asked for next, as a new process would."""
    experiments.source_digest.cache_clear()
    experiments._source.cache_clear()


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The toy experiment, known in this process, with the project's folder at `tmp_path`; its file is `tmp_path/code/toy.py`."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "toy.py").write_text(TOY)
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    monkeypatch.setitem(experiments.EXPERIMENTS, "toy", "an experiment for tests")  # type: ignore[misc]
    monkeypatch.setattr(experiments, "__path__", [*experiments.__path__, str(tmp_path / "code")])
    monkeypatch.setattr(experiments, "_provenance", lambda seconds: {"seconds": seconds})
    forget_sources()
    yield experiments.get_experiment("toy")  # type: ignore[misc]
    sys.modules.pop("tipslib.experiments.toy")
    forget_sources()
    if hasattr(experiments, "toy"):
        del experiments.toy


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


@pytest.fixture
def pages(shell: Shell) -> Shell:
    """A project with the notebook `page`, which reads the three runs of the toy."""
    shell.write_page(READS)
    return shell


@pytest.fixture
def until() -> Callable[[Callable[[], object]], None]:
    """Wait until something is true, and fail if that takes more than five minutes."""

    def wait(true: Callable[[], object]) -> None:
        deadline = time.monotonic() + 300
        while not true():
            assert time.monotonic() < deadline, "waited for five minutes in vain"
            time.sleep(0.02)

    return wait
