"""The command in processes of its own, in a project folder of its own, with a toy for an experiment."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tipslib import project

# started in the background, a shell has its children ignore Ctrl-C, which the tests of Ctrl-C need
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

TOY = '''
"""An experiment that says when it starts, and ends when it is allowed to."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tipslib.errors import require
from tipslib.records import Outcome

VERSION = 1
TOLERANCE = 1e-9
VARIANTS = ({}, {"number": 2}, {"number": 3})


@dataclass(frozen=True)
class Parameters:
    number: int = 1
    share: float = 0.5

    def __post_init__(self) -> None:
        require(self.number >= 0, f"number = {self.number}; 0 or more is wanted")


def run(parameters, *, seed, profile):
    if folder := os.environ.get("TOY_FOLDER"):
        (Path(folder) / f"started-{parameters.number}-{os.getpid()}").touch()
        deadline = time.monotonic() + 120
        while not (Path(folder) / f"go-{parameters.number}").exists():
            require(time.monotonic() < deadline, "nobody let the toy go on")
            time.sleep(0.02)
    threads = int(os.environ.get("OMP_NUM_THREADS", 0))
    draws = np.random.default_rng(seed).random(4) * parameters.share
    values = {"number": parameters.number, "mean": float(draws.mean()), "timing": {"threads": threads, "at": time.time()}}
    return Outcome(values, {"draws": draws, "counts": np.arange(parameters.number)}, {"toys": "0" * 64})
'''

# every Python that starts with this on its path knows the toy, and takes no time over provenance
CUSTOMIZE = """
import os
import sys

if "TOY_HOME" in os.environ:
    from tipslib import experiments

    experiments.EXPERIMENTS["toy"] = "an experiment for tests"
    experiments.__path__.append(os.environ["TOY_HOME"])
    experiments._provenance = lambda seconds: {"seconds": seconds}

    from dataclasses import replace

    from tipslib import profiles

    share = int(os.environ.get("TOY_RUNS_PER_JOB", 1))
    profiles.PROFILES = {name: replace(profile, runs_per_job=share) for name, profile in profiles.PROFILES.items()}

    from tipslib.reporting import artefacts

    made = artefacts.Artefact("toy-fig1", "tips", "Figure T", "A toy", "page", ("toy",))
    artefacts.ARTEFACTS = {"toy-fig1": made}
"""


class Shell:
    """The command `tipslib` in processes of its own, in a project folder of its own, where the toy is the only experiment with a page."""

    def __init__(self, home: Path) -> None:
        self.home, self.signs = home, home / "signs"
        self.before: list[str] = []  # a command that starts the command
        for folder in ("code", "signs", "notebooks"):
            (home / folder).mkdir()
        (home / "code" / "toy.py").write_text(TOY)
        (home / "code" / "sitecustomize.py").write_text(CUSTOMIZE)
        shutil.copytree(project.root() / "workflow", home / "workflow")
        self.environment = os.environ | {
            "PYTHONPATH": str(home / "code"),
            "TIPSLIB_HOME": str(home),
            "TOY_HOME": str(home / "code"),
            "TOY_FOLDER": str(self.signs),
        }

    def start(self, *arguments: str, **options: object) -> subprocess.Popen[str]:
        command = [*self.before, sys.executable, "-m", "tipslib.cli", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": self.environment, "cwd": self.home}
        return subprocess.Popen(command, start_new_session=True, **(pipes | options))  # type: ignore[call-overload, no-any-return]

    def run(self, *arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
        process = self.start(*arguments, **options)
        out, err = process.communicate(timeout=180)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def write_page(self, code: str) -> None:
        """Write the notebook `page`: a title, the profile, and one cell more."""
        cells = [new_markdown_cell("# A page"), new_code_cell('profile = "smoke"', metadata={"tags": ["parameters"]}), new_code_cell(code)]
        for number, cell in enumerate(cells):
            cell.id = f"cell-{number}"
        nbformat.write(new_notebook(cells=cells), self.home / "notebooks" / "page.ipynb")

    @property
    def page(self) -> Path:
        """What the notebook `page` becomes."""
        return self.home / "build" / "notebooks" / "smoke" / "page.ipynb"

    def shown(self) -> str:
        """What the last cell of the page printed."""
        return str(nbformat.read(self.page, as_version=4).cells[-1].outputs[0].text)

    def let_go(self, *numbers: int) -> None:
        """Allow the runs of these numbers to end."""
        for number in numbers:
            (self.signs / f"go-{number}").touch()

    def started(self, number: int) -> int:
        """How many times the run of this number was begun."""
        return len(list(self.signs.glob(f"started-{number}-*")))

    def records(self) -> dict[int, Path]:
        """The stored records, by the toy's number."""
        from tipslib.records import read

        found = [read(path) for path in (self.home / "build" / "records" / "smoke" / "toy").glob("*.json")]
        return {record.run.parameters["number"]: record.path for record in found}

    def files(self) -> list[Path]:
        """Everything in the folder of records, temporary files included."""
        return sorted(path for path in (self.home / "build" / "records").rglob("*") if path.is_file())


READS = """
from tipslib.experiments import compute

print([compute('toy', profile=profile, number=number)[0].values['number'] for number in (1, 2, 3)])
"""
