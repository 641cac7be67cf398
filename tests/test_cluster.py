"""Does the batch run where each of its jobs is handed to a scheduler? Here that is a script which starts it in the background."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from batch_shell import Shell

SUBMIT = """#!/bin/sh
# what a scheduler's submit command does: take a script, answer with a number, run it later and elsewhere
echo "$1" >> "$TOY_HOME/submitted"
nohup sh "$1" > "$1.log" 2>&1 &
echo $!
"""

SCHEDULER = ("--executor", "cluster-generic", "--cluster-generic-submit-cmd", "./submit.sh", "--seconds-between-status-checks", "1")


def snakemake(shell: Shell, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Snakemake by itself, as the documentation says, with the settings for Slurm and another scheduler."""
    command = [sys.executable, "-m", "snakemake", "--workflow-profile", "workflow/profiles/slurm", *SCHEDULER, *arguments]
    options = {"capture_output": True, "text": True, "timeout": 300}
    return subprocess.run(command, env=shell.environment, cwd=shell.home, check=False, **options)  # type: ignore[call-overload, no-any-return]


def test_runs_and_page_are_jobs_of_a_scheduler_and_nothing_is_submitted_twice(pages: Shell) -> None:
    pages.let_go(1, 2, 3)
    submit = pages.home / "submit.sh"
    submit.write_text(SUBMIT)
    submit.chmod(0o755)
    done = snakemake(pages, "--config", "profile=smoke", "notebooks=page")
    assert done.returncode == 0, done.stderr
    assert pages.shown() == "[1, 2, 3]\n"
    submitted = pages.home / "code" / "submitted"
    assert len(submitted.read_text().splitlines()) == 4, "three runs and a page"

    again = pages.run("reproduce", "page")
    assert (again.returncode, again.stderr) == (0, ""), "what a cluster began one machine goes on with, and finds it finished"
    lost = pages.records()[2]
    lost.unlink()
    assert snakemake(pages, "--config", "profile=smoke", "notebooks=page").returncode == 0
    assert len(submitted.read_text().splitlines()) == 6, "the lost run, and the page that reads it"
    assert pages.records()[2] == lost
