"""How is everything made in one go? Snakemake runs what is missing: runs, records, executed notebooks, the book."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import FrameType

from tqdm import tqdm

from tipslib import project
from tipslib.errors import CorruptFile, InvalidInput, MissingData, StorageError, TipslibError, require
from tipslib.experiments import needs, plan_all
from tipslib.locks import alone
from tipslib.profiles import Profile, get_profile
from tipslib.progress import watched
from tipslib.records import Run, Store
from tipslib.reporting.artefacts import ARTEFACTS

log = logging.getLogger(__name__)


class BatchFailed(TipslibError):
    """A job of the batch failed; what was finished is kept, and the same command goes on from there."""

    remedy = "The lines above the message hold what the job itself said, which is an error of this page. Mend that, and repeat the command."


def notebooks() -> list[str]:
    """The names of the notebooks there are, without `.ipynb`."""
    return sorted(path.stem for path in (project.root() / "notebooks").glob("*.ipynb"))


def runs_of(notebook: str, profile: str | Profile) -> list[Run]:
    """The runs whose records a notebook reads at a profile, as the list of artefacts tells."""
    wanted = {experiment for artefact in ARTEFACTS.values() if artefact.notebook == notebook for experiment in artefact.experiments}
    return [run for experiment in sorted(wanted) for run in plan_all(experiment, profile)]


def with_needs(runs: Iterable[Run], profile: Profile) -> list[Run]:
    """The runs and all whose records they read, those first, each once."""
    found: dict[str, Run] = {}
    for run in runs:
        for one in (*with_needs(needs(run, profile), profile), run):
            found.setdefault(one.key, one)
    return list(found.values())


def jobs_of(runs: Iterable[Run], profile: Profile) -> list[list[Run]]:
    """The runs in jobs: at most `profile.runs_per_job` runs of one experiment share a process."""
    by_experiment: dict[str, list[Run]] = {}
    for run in runs:
        by_experiment.setdefault(run.experiment, []).append(run)
    size = profile.runs_per_job
    return [of_one[i : i + size] for of_one in by_experiment.values() for i in range(0, len(of_one), size)]


def drop_corrupt(runs: Iterable[Run], store: Store) -> None:
    """Delete the records that were cut or altered, with a warning that names each: what is missing is computed again."""
    for run in runs:
        try:
            store.find(run)
        except CorruptFile as error:
            log.warning("%s; it is computed again now", error)
            store.path(run).unlink(missing_ok=True)


def digest_of(files: Iterable[str]) -> str:
    """Digest of the names and contents of files: what something is made of, whatever their times say. One that cannot be read is empty."""
    digest = hashlib.sha256()
    for file in sorted(set(files)):
        content = b""
        with contextlib.suppress(OSError):  # whoever reads it next says so
            content = (project.root() / file).read_bytes()
        digest.update(f"{file}\0".encode() + hashlib.sha256(content).digest())
    return digest.hexdigest()


def date_back(files: Iterable[str]) -> None:
    """Date those files now that are from the future, with a warning: Snakemake refuses what it makes of them, which looks older.

    Raises
    ------
    StorageError
        The time of one cannot be changed.
    """
    now = time.time()
    ahead = [path for path in sorted(project.root() / file for file in files) if path.is_file() and path.stat().st_mtime > now]
    if ahead:
        more = f" and {len(ahead) - 1} more" if ahead[1:] else ""
        log.warning("%s%s: newer than the clock says it is, which was set back; dated now", ahead[0], more)
    for path in ahead:
        try:
            os.utime(path)
        except OSError as error:
            raise StorageError(
                f"{path}: newer than the clock says it is, and not to be dated now ({error.strerror}). Set the clock, or `touch` the file"
            ) from error


def reproduce(names: Sequence[str] = (), *, profile: str = "smoke", jobs: int | None = None) -> list[Path]:
    """Make the pages of the notebooks `names`, or of all and the book if none is named, running only what is missing.

    Of two batches in one checkout the second waits for the first.

    Parameters
    ----------
    names
        Notebooks, without `.ipynb`.
    profile
        Size of the runs.
    jobs
        How many at once; the cores are divided among them. Default: as many as there are cores.

    Returns
    -------
    list of Path
        What to open: the book's first page, or the executed notebooks.

    Raises
    ------
    InvalidInput
        Unknown notebook or profile, or no jobs.
    MissingData
        This is no checkout: there is no workflow.
    BatchFailed
        A job failed; its own message went to stderr.
    """
    root, size = project.root(), get_profile(profile)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    jobs = cores if jobs is None else jobs
    require(jobs >= 1, f"jobs = {jobs}; at least 1 is wanted")
    for name in names:
        if name not in notebooks():
            raise InvalidInput(f"no notebook {name!r}; there are {', '.join(notebooks())}")
    snakefile = root / "workflow" / "Snakefile"
    if not snakefile.is_file():
        raise MissingData(f"{snakefile}: not there. The batch needs the project's files: set TIPSLIB_HOME to a checkout")
    threads = max(1, cores // jobs)
    command = ["--snakefile", str(snakefile), "--directory", str(root), "--cores", str(jobs * threads), "--scheduler", "greedy"]
    command += ["--nolock", "--rerun-incomplete", "--rerun-triggers", "mtime", "input", "params", "--quiet", "all"]
    command += ["--config", f"profile={size.name}", f"threads={threads}", f"bars={jobs == 1}"]
    command += [f"notebooks={','.join(names)}"] if names else []
    with alone(root / "build" / ".batch.lock", "another batch"):
        if _snakemake(command):
            raise BatchFailed("the batch failed; the reason is above. What was finished is kept: the same command goes on from there")
    if names:
        return [root / "build" / "notebooks" / size.name / f"{name}.ipynb" for name in names]
    return [root / "build" / "html" / size.name / "index.html"]


def _snakemake(command: list[str]) -> int:
    """Run Snakemake in this process, so that it cannot outlive it; returns its exit status.

    Raises
    ------
    KeyboardInterrupt
        Ctrl-C, which Snakemake itself does not tell from a failed job.
    """
    from snakemake.cli import main

    interrupted: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        interrupted.append(number)
        signal.default_int_handler(number, frame)

    before = signal.signal(signal.SIGINT, note)
    logger, report = logging.getLogger("snakemake"), _Report()
    logger.propagate = False
    logger.addHandler(report)
    try:
        main(command)
    except SystemExit as end:
        if interrupted:
            raise KeyboardInterrupt from end
        return int(end.code or 0)
    finally:
        logger.removeHandler(report)
        report.close()
        signal.signal(signal.SIGINT, before)
    return 0


class _Report(logging.Handler):
    """Says on stderr what Snakemake starts and what failed; a bar on a terminal, lines elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self._bar = tqdm(total=None, disable=not watched(), unit="step", leave=False)
        self._jobs: dict[int, str] = {}
        self._failed, self._ending = False, ""

    def emit(self, record: logging.LogRecord) -> None:
        event, known = str(getattr(record, "event", "")), vars(record)
        if event == "job_info" and known["rule_msg"]:
            self._jobs[known["jobid"]] = known["rule_msg"]
            self._bar.set_description(known["rule_msg"])
            if self._bar.disable:
                self._say(known["rule_msg"])
        elif event == "progress":
            self._bar.total, self._bar.n = known["total"], known["done"]
            self._bar.refresh()
        elif event == "job_error":
            self._failed = True
            self._say(f"failed: {self._jobs.get(known['jobid'], known['rule_name'])} ({self._ending})")
        elif known.get("exception") == "RuleException":
            self._ending = record.getMessage().strip().rpartition("' ")[2].rstrip(".")
        elif record.levelno >= logging.ERROR and not self._failed:
            lines = record.getMessage().splitlines()
            self._say("\n".join(line for line in lines if not line.startswith('  File "')))

    def close(self) -> None:
        self._bar.close()
        super().close()

    @staticmethod
    def _say(text: str) -> None:
        with contextlib.suppress(OSError):  # whoever read it is gone; an error here would have Snakemake wait for ever
            tqdm.write(f"tipslib: {text}", file=sys.stderr)
