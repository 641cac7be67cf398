"""Does a batch make what is missing, no more, and go on where it was stopped, however it was stopped?"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import pytest

from tipslib import batch
from tipslib.experiments import EXPERIMENTS, plan_all
from tipslib.profiles import get_profile
from tipslib.records import Run, read
from tipslib.reporting.artefacts import ARTEFACTS

if TYPE_CHECKING:
    from batch_shell import Shell

    Until = Callable[[Callable[[], object]], None]

CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def threads(record: Path) -> int:
    """How many a run was given."""
    return int(read(record).values["timing"]["threads"])


def identity(path: Path) -> tuple[int, int]:
    return path.stat().st_ino, path.stat().st_mtime_ns


def test_every_notebook_of_an_artefact_is_there_with_its_runs() -> None:
    runs = {name: batch.runs_of(name, "smoke") for name in batch.notebooks()}
    assert {a.notebook for a in ARTEFACTS.values()} <= set(runs)
    made = {experiment for artefact in ARTEFACTS.values() for experiment in artefact.experiments}
    assert {run.experiment for of_one in runs.values() for run in of_one} == made <= set(EXPERIMENTS)


def test_a_batch_makes_records_then_the_page_and_nothing_twice(pages: Shell) -> None:
    pages.let_go(1, 2, 3)
    first = pages.run("reproduce", "toy-fig1")
    assert first.returncode == 0, first.stderr
    assert first.stdout == f"open {pages.page}\n"
    assert re.search(r"run: toy, seed 0.*notebook: page\n", first.stderr, re.DOTALL)
    assert pages.shown() == "[1, 2, 3]\n"
    before = {path: identity(path) for path in (pages.page, *pages.records().values())}
    assert len(before) == 4

    second = pages.run("reproduce", "page")
    assert (second.returncode, second.stdout, second.stderr) == (0, first.stdout, "")
    assert {path: identity(path) for path in before} == before
    assert [pages.started(number) for number in (1, 2, 3)] == [1, 1, 1]

    # a record that was cut is made again, and what reads it too; the others stay
    lost = pages.records()[2]
    lost.write_bytes(lost.read_bytes()[:100])
    third = pages.run("reproduce", "page")
    assert third.returncode == 0, third.stderr
    assert third.stderr.startswith(f"tipslib: {lost}: not a whole record")
    assert [pages.started(number) for number in (1, 2, 3)] == [1, 2, 1]
    assert {path for path in before if identity(path) != before[path]} == {lost, pages.page}

    # changed code makes other records, and leaves the old ones
    code = pages.home / "code" / "toy.py"
    code.write_text(code.read_text().replace(".random(4)", ".random(5)"))
    fourth = pages.run("reproduce", "page")
    assert fourth.returncode == 0, fourth.stderr
    assert [pages.started(number) for number in (1, 2, 3)] == [2, 3, 2]
    assert len(list((pages.home / "build" / "records").rglob("*.json"))) == 6


def test_runs_that_share_a_process_are_kept_one_by_one(pages: Shell, until: Until) -> None:
    pages.environment["TOY_RUNS_PER_JOB"] = "3"
    process = pages.start("reproduce", "page", "--jobs", "1")
    until(lambda: sum(map(pages.started, (1, 2, 3))))
    (running,) = (number for number in (1, 2, 3) if pages.started(number))
    pages.let_go(running)
    until(lambda: pages.records() and sum(map(pages.started, (1, 2, 3))) == 2)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert list(pages.records()) == [running]

    pages.let_go(1, 2, 3)
    again = pages.run("reproduce", "page", "--jobs", "1")
    assert again.returncode == 0, again.stderr
    assert sorted(pages.records()) == [1, 2, 3]
    assert pages.started(running) == 1
    processes = {sign.name.rpartition("-")[2] for sign in pages.signs.glob("started-*")}
    assert len(processes) == 2, "one that was killed, one that went on"
    assert re.search(r"^tipslib: run: toy, seed 0, [0-9a-f]{16}(; toy, seed 0, [0-9a-f]{16}){2}$", again.stderr, re.MULTILINE)


NEEDS = """

def needs(parameters, *, seed, profile):
    from tipslib.experiments import plan

    return [] if parameters.number == 3 else [plan("toy", profile=profile, seed=seed, number=3)]
"""


def test_a_run_waits_for_those_whose_records_it_reads(pages: Shell, until: Until) -> None:
    code = pages.home / "code" / "toy.py"
    code.write_text(code.read_text() + NEEDS)
    pages.let_go(1, 2)
    process = pages.start("reproduce", "page", "--jobs", "2")
    until(lambda: pages.started(3))
    assert (pages.started(1), pages.started(2)) == (0, 0)
    pages.let_go(3)
    assert process.wait(timeout=120) == 0
    made = {number: path.stat().st_mtime_ns for number, path in pages.records().items()}
    assert made[3] <= min(made.values())
    # a record that is newer than one that read it is no reason to make that again
    os.utime(pages.records()[3])
    assert pages.run("reproduce", "page").returncode == 0
    assert [pages.started(number) for number in (1, 2, 3)] == [1, 1, 1]


def test_runs_come_after_those_they_need_and_once(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second, third = plan_all("toy")
    assert batch.with_needs([first, second], get_profile("smoke")) == [first, second]

    def needs(parameters: Any, **asked: Any) -> list[Run]:
        return [third] if parameters.number < 3 else []

    monkeypatch.setattr(toy, "needs", needs, raising=False)
    assert batch.with_needs([first, second], get_profile("smoke")) == [third, first, second]
    assert batch.with_needs([first, third], get_profile("smoke")) == [third, first]


def test_jobs_hold_runs_of_one_experiment() -> None:
    runs = [Run(name, {"i": i}, "smoke", 0, "v1") for name, count in (("a", 7), ("b", 2)) for i in range(count)]
    profile = replace(get_profile("smoke"), runs_per_job=3)
    assert [[run.experiment for run in job] for job in batch.jobs_of(runs, profile)] == [["a"] * 3, ["a"] * 3, ["a"], ["b"] * 2]
    assert [run for job in batch.jobs_of(runs, profile) for run in job] == runs


@pytest.mark.parametrize("everything", [True, False], ids=["all of it", "its head only"])
def test_a_batch_that_was_killed_goes_on_without_repeating_what_was_finished(pages: Shell, until: Until, everything: bool) -> None:
    process = pages.start("reproduce", "page", "--jobs", "1")
    until(lambda: sum(map(pages.started, (1, 2, 3))))
    (running,) = (number for number in (1, 2, 3) if pages.started(number))
    pages.let_go(running)
    until(lambda: pages.records() and sum(map(pages.started, (1, 2, 3))) == 2)
    finished = pages.records()[running]
    before = identity(finished)
    assert threads(finished) == CORES, "one job has all cores"
    if everything:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL
    assert pages.records() == {running: finished}

    pages.let_go(1, 2, 3)
    again = pages.run("reproduce", "page", "--jobs", "1")
    assert again.returncode == 0, again.stderr
    assert identity(finished) == before
    assert pages.started(running) == 1
    assert sorted(pages.records()) == [1, 2, 3]
    assert pages.shown() == "[1, 2, 3]\n"
    assert [path for path in pages.files() if path.name.startswith(".")] == []


def test_ctrl_c_stops_a_batch_and_leaves_nothing_half_written(pages: Shell, until: Until) -> None:
    process = pages.start("reproduce", "page", "--jobs", "2")
    until(lambda: sum(map(pages.started, (1, 2, 3))) == 2)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("tipslib: interrupted; what was finished is kept\n")
    assert pages.records() == {}
    assert not (pages.home / "build" / "records").exists() or pages.files() == []
    assert not pages.page.exists()


def test_two_jobs_run_at_once_with_the_cores_divided_and_a_second_batch_waits(pages: Shell, until: Until) -> None:
    first = pages.start("reproduce", "page", "--jobs", "2")
    until(lambda: sum(map(pages.started, (1, 2, 3))) == 2)
    second = pages.start("reproduce", "page", "--jobs", "2")
    assert second.stderr is not None
    assert second.stderr.readline() == f"tipslib: another batch is at work in {pages.home / 'build'}; waiting for it to end\n"
    pages.let_go(1, 2, 3)
    for process in (first, second):
        _, err = process.communicate(timeout=120)
        assert process.returncode == 0, err
    assert [pages.started(number) for number in (1, 2, 3)] == [1, 1, 1]
    assert {threads(path) for path in pages.records().values()} == {max(1, CORES // 2)}


def test_a_run_that_fails_is_named_and_the_finished_ones_are_kept(pages: Shell) -> None:
    code = pages.home / "code" / "toy.py"
    whole = code.read_text()
    code.write_text(whole.replace('{"number": 3}', '{"number": -3}'))
    done = pages.run("reproduce", "page")
    assert done.returncode == 1
    assert "number = -3; 0 or more is wanted" in done.stderr

    code.write_text(whole.replace("    threads =", '    require(parameters.number != 3, "three is not possible")\n    threads ='))
    pages.let_go(1, 2, 3)
    done = pages.run("reproduce", "page", "--jobs", "1")
    assert done.returncode == 1
    assert "tipslib: three is not possible\n" in done.stderr
    assert re.search(r"^tipslib: failed: run: toy, seed 0, [0-9a-f]{16} \(returned non-zero exit status 2\)$", done.stderr, re.MULTILINE)
    assert "Traceback" not in done.stderr
    assert done.stderr.endswith("What was finished is kept: the same command goes on from there\n")
    assert not pages.page.exists()
    assert 3 not in pages.records()


def test_a_notebook_that_fails_is_named_and_its_old_page_is_not_passed_for_the_new_one(pages: Shell) -> None:
    pages.let_go(1, 2, 3)
    assert pages.run("reproduce", "page").returncode == 0
    source = pages.home / "notebooks" / "page.ipynb"
    source.write_text(source.read_text().replace("print(", "prnit("))
    for _ in range(2):
        done = pages.run("reproduce", "page")
        assert done.returncode == 1
        assert "notebook page at profile smoke: cell " in done.stderr
        assert "NameError: name 'prnit' is not defined" in done.stderr
        assert "tipslib: failed: notebook: page (returned non-zero exit status 1)\n" in done.stderr
        assert not pages.page.exists()


def test_a_folder_that_is_no_checkout_is_refused(shell: Shell) -> None:
    (shell.home / "workflow" / "Snakefile").unlink()
    done = shell.run("reproduce")
    assert done.returncode == 2
    assert done.stderr.endswith("workflow/Snakefile: not there. The batch needs the project's files: set TIPSLIB_HOME to a checkout\n")
