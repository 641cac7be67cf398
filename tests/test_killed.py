"""Does a batch, or a training run alone, that is killed again and again end with the same bytes as one that nobody stopped?

`TIPSLIB_KILLS` says how many times (`make kill`), and has the batch train longer and bind a book; by default it is a few times.
Compared is everything in `build`, but for what is in checkpoints (the weights lie in the records) and the time of day in provenance.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import toy_training
from batch_shell import CUSTOMIZE, Shell
from tipslib import project

Until = Callable[[Callable[[], object]], None]

KILLS = int(os.environ.get("TIPSLIB_KILLS", 0))
EPOCHS = 40 if KILLS else 10
STEPS = EPOCHS * toy_training.STEPS

TOY = '''
"""An experiment that trains; PyTorch is loaded by the runs only, which saves time."""

from dataclasses import dataclass

from tipslib import project
from tipslib.records import Outcome

VERSION = 1
TOLERANCE = 1e-9
VARIANTS = ({"width": 4}, {"width": 6})


@dataclass(frozen=True)
class Parameters:
    width: int = 4
    epochs: int = EPOCHS


def run(parameters, *, seed, profile):
    from toy_training import train

    name = f"{parameters.width}-{seed}"
    checkpoint, journal = project.root() / "build" / "weights" / f"{name}.ckpt", project.root() / "signs" / name
    losses, steps, weights = train(parameters.width, parameters.epochs, seed, checkpoint, journal)
    values = {"width": parameters.width, "steps": steps, "losses": list(losses)}
    return Outcome(values, {"weights": weights.numpy()}, {"noise": "0" * 64})
'''

# the toy is the only experiment, with a claim; and the clock stands still in what a record says of its making: all else is compared
LIKE_ANY_OTHER = """
    from tipslib.reporting import claims

    made_of = experiments._provenance
    experiments._provenance = lambda seconds: made_of(0.0) | {"finished": "then"}
    claims.__path__.append(os.path.join(os.environ["TOY_HOME"], "claims"))
    for name in set(experiments.EXPERIMENTS) - {"toy"}:
        del experiments.EXPERIMENTS[name]
"""
SHORTCUT = '    experiments._provenance = lambda seconds: {"seconds": seconds}\n'

CLAIM = """
from tipslib.reporting.claims import Claim, Finding, Verdict


def falls(records):
    losses = records[0].values["losses"]
    return Finding(Verdict.HOLDS if losses[-1] < losses[0] else Verdict.FAILS, losses[0] - losses[-1], None, 1, "it fell")


CLAIMS = (Claim("toy-falls", "tips", "Figure T", "The loss falls", "nats", "toy", ("smoke",), falls, "page"),)
"""

DRAWN = """
import matplotlib.pyplot as plt
import pandas as pd

from tipslib.experiments import compute
from tipslib.reporting.display import figure

losses = {width: compute("toy", profile=profile, width=width)[0].values["losses"] for width in (4, 6)}
drawing, axes = plt.subplots()
for width, curve in losses.items():
    axes.plot(curve, label=f"{width} channels")
figure(drawing, name="losses", caption="Losses of two networks.", alt="Two curves that fall.", data=pd.DataFrame(losses))
"""

CONTENTS = "format: jb-book\nroot: index\nchapters:\n  - file: notebooks/page\n"
INDEX = "# A book\n\nWith one claim:\n\n```{include} generated/ledger.md\n```\n"


def checkout(home: Path) -> Shell:
    """A project with one experiment, which trains, the page that shows it, and a book of two pages."""
    home.mkdir()
    shell, here = Shell(home), project.root()
    (home / "code" / "toy.py").write_text(TOY.replace("EPOCHS", str(EPOCHS)))
    shutil.copy(toy_training.__file__, home / "code")
    assert SHORTCUT in CUSTOMIZE
    (home / "code" / "sitecustomize.py").write_text(CUSTOMIZE.replace(SHORTCUT, LIKE_ANY_OTHER))
    (home / "code" / "claims").mkdir()
    (home / "code" / "claims" / "toy.py").write_text(CLAIM)
    shell.write_page(DRAWN)
    shutil.copytree(here / "book", home / "book", ignore=shutil.ignore_patterns("*.md", "_toc.yml", "__pycache__"))
    (home / "book" / "_toc.yml").write_text(CONTENTS)
    (home / "book" / "index.md").write_text(INDEX)
    shutil.copytree(here / "data" / "published", home / "data" / "published")
    (home / "temporary").mkdir()
    temporary = {name: str(home / "temporary") for name in ("TMPDIR", "JUPYTER_RUNTIME_DIR")}
    shell.environment |= temporary | {"TOY_RUNS_PER_JOB": "1" if KILLS else "2"}
    return shell


def begin(shell: Shell) -> subprocess.Popen[str]:
    with (shell.home / "said").open("w") as file:
        return shell.start("reproduce", *([] if KILLS else ["page"]), "--jobs", "2", stdout=file, stderr=file)


def kill(batch: subprocess.Popen[str]) -> None:
    """Kill a batch and all that it has started."""
    os.killpg(batch.pid, signal.SIGKILL)
    assert batch.wait() == -signal.SIGKILL


def ends(shell: Shell, seconds: float | None = None) -> bool:
    """Whether a batch ends within so many seconds; one that does not is killed."""
    batch = begin(shell)
    try:
        assert batch.wait(seconds) == 0, (shell.home / "said").read_text()
    except subprocess.TimeoutExpired:
        kill(batch)
        return False
    return True


def contents(folder: Path) -> dict[str, bytes]:
    """Everything in a folder, hidden or not, by name; of some the name only.

    These are folders, checkpoints (equal states are packed in other ways), and the memory that a notebook took.
    """
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {name: path.read_bytes() if path.is_file() and path.suffix not in (".ckpt", ".peak") else b"" for name, path in paths.items()}


def require_same(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    """Fail with the names of the files that are missing, too many, or different."""
    differ = [name for name in sorted(found.keys() | expected.keys()) if found.get(name) != expected.get(name)]
    assert not differ


def stage(shell: Shell) -> str:
    """How far a batch has come."""
    build = shell.home / "build"
    if (build / "html" / "smoke" / "fingerprint.txt").exists():
        return "book"
    if shell.page.exists():
        return "page"
    return f"{len(list(build.glob('records/smoke/toy/*.json')))} records, {len(list(build.glob('weights/*.ckpt')))} checkpoints"


def test_a_batch_that_is_killed_anywhere_ends_with_the_same_records_pages_and_book(tmp_path: Path, until: Until) -> None:
    whole = checkout(tmp_path / "whole")
    started = time.monotonic()
    assert ends(whole)
    duration = time.monotonic() - started
    expected = contents(whole.home / "build")
    assert len([name for name in expected if name.startswith("records/") and name.endswith(".json")]) == 2
    assert {"notebooks/smoke/page.ipynb", *(["html/smoke/index.html"] if KILLS else [])} <= expected.keys()

    draw, kills, homes, stages = random.Random(KILLS), 0, 0, Counter[str]()
    latest = duration if KILLS else duration / 2  # so that one batch is killed every time
    while kills < (KILLS or 2):
        homes += 1
        shell = checkout(tmp_path / f"killed-{homes}")
        batch = begin(shell)
        until(lambda checkpoints=shell.home / "build" / "weights": list(checkpoints.glob("*.ckpt")))
        kill(batch)
        killed_here = 1
        while not ends(shell, draw.uniform(0, latest) if kills < (KILLS or 2) else None):
            kills, killed_here = kills + 1, killed_here + 1
            stages[stage(shell)] += 1
        require_same(contents(shell.home / "build"), expected)
        for journal in (shell.home / "signs").iterdir():
            assert STEPS <= journal.stat().st_size <= STEPS + killed_here, "a kill costs one step of a training run"
    print(f"{homes} batches of {duration:.0f} s, killed in training and {kills} times anywhere, when there was {sorted(stages.items())}")


def test_a_training_run_that_is_killed_anywhere_ends_with_the_same_bits(tmp_path: Path) -> None:
    # where it is safe, processes are copies of one that has PyTorch loaded already
    context = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
    context.set_forkserver_preload(["tipslib.training"])

    def ends(folder: Path, seconds: float | None = None) -> bool:
        process = context.Process(target=toy_training.train_in, args=(folder, 10))
        process.start()
        process.join(seconds)
        process.kill()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        return process.exitcode == 0

    assert ends(tmp_path / "warm-up")
    started = time.monotonic()
    assert ends(tmp_path / "whole")
    duration = time.monotonic() - started
    expected = contents(tmp_path / "whole")
    steps = len(expected.pop("journal"))
    assert steps == 10 * toy_training.STEPS

    draw, kills, resumed, folders = random.Random(KILLS), 0, 0, 0
    while kills < (KILLS or 10):
        killed_here, folders = 0, folders + 1
        folder, started = tmp_path / f"killed-{folders}", time.monotonic()
        while not ends(folder, draw.uniform(0, duration) if kills < (KILLS or 10) else None):
            kills, killed_here = kills + 1, killed_here + 1
            resumed += (folder / "run.ckpt").exists()
        duration = duration if killed_here else time.monotonic() - started  # a busy machine has its moods
        found = contents(folder)
        assert steps <= len(found.pop("journal")) <= steps + killed_here, "a kill costs one step"
        require_same(found, expected)
    assert resumed
    print(f"{kills} kills of {folders} training runs of {duration:.1f} s; {resumed} left a checkpoint to go on from")
