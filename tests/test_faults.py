"""What does a batch do on a full disk, without permission, with a clock that was set back, and beside another batch?

Nothing is lost, nothing half-written or stale is believed, and the message says what to do.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from batch_shell import READS, Shell
from test_killed import KILLS
from test_records import can_mount
from tipslib.records import read

Until = Callable[[Callable[[], object]], None]

GOES_ON = "What was finished is kept: the same command goes on from there\n"
DAY = 86_400


def require_whole(shell: Shell) -> None:
    """Fail unless all records that are there can be believed, and nothing that was begun lies beside them."""
    assert [path for path in (shell.home / "build").rglob(".*") if path.name != ".batch.lock"] == []
    for path in shell.records().values():
        read(path)


# each batch finds another part of the disk free; the script runs in a mount namespace of its own, where nothing stays mounted
FULL_DISK = """
import os, subprocess, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from batch_shell import READS, Shell
from test_faults import GOES_ON, require_whole

home = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(home)], check=True)
shell = Shell(home)
shell.environment |= {"TMPDIR": str(home), "TOY_RUNS_PER_JOB": "3"}
shell.let_go(1, 2, 3)

def batch(left, code):
    "A batch that finds so many bytes free."
    shell.write_page(code)
    ballast = home / "ballast"
    ballast.unlink(missing_ok=True)
    disk = os.statvfs(home)
    ballast.write_bytes(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))
    kept = {path: path.read_bytes() for path in shell.records().values()}
    done = shell.run("reproduce", "page", "--jobs", "1")
    require_whole(shell)
    assert all(path.read_bytes() == content for path, content in kept.items())
    if done.returncode:
        assert "No space left on device" in done.stderr and done.stderr.endswith(GOES_ON), done.stderr
        assert "Free space or allow writing in" in done.stderr or "/.snakemake" in done.stderr, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


assert batch(12_288, READS) == 1
assert len(shell.records()) < 3 and not shell.page.exists()
assert batch(4_000_000, READS) == 0
assert shell.shown() == "[1, 2, 3]\\n"
changed = READS.replace("(1, 2, 3)", "(2, 3)")
assert batch(4096, changed) == 1
assert len(shell.records()) == 3 and not shell.page.exists()
assert batch(4_000_000, changed) == 0
assert shell.shown() == "[2, 3]\\n"
print("whole")
"""


FULL_DISK_FOR_A_BOOK = """
import os, subprocess, sys
from pathlib import Path

sys.path.insert(0, sys.argv[1])
from test_faults import GOES_ON
from test_killed import checkout

disk = Path(sys.argv[2])
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "tmpfs", str(disk)], check=True)
shell, ballast = checkout(disk / "home"), disk / "ballast"
html = shell.home / "build" / "html"
assert shell.run("reproduce", "page").returncode == 0
for left in (100_000, 1_500_000):
    ballast.unlink(missing_ok=True)
    free = os.statvfs(disk)
    ballast.write_bytes(bytes(free.f_bavail * free.f_frsize - left))
    done = shell.run("reproduce")
    assert done.returncode == 1
    assert "No space left on device" in done.stderr and "Free space or allow writing in" in done.stderr, done.stderr
    assert done.stderr.endswith(GOES_ON) and "Traceback" not in done.stderr, done.stderr
    assert [path for path in html.rglob("*") if path.is_file()] == []
ballast.unlink()
assert shell.run("reproduce").returncode == 0
assert (html / "smoke" / "index.html").exists()
print("whole")
"""


def on_a_small_disk(script: str, folder: Path) -> None:
    if not can_mount(folder):
        pytest.skip("a small disk cannot be mounted here; tests/test_records.py limits the size of files instead")
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*own, sys.executable, "-c", script, str(Path(__file__).parent), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == "whole\n"


def test_a_disk_that_is_full_stops_a_batch_and_one_with_room_goes_on(tmp_path: Path) -> None:
    on_a_small_disk(FULL_DISK, tmp_path)


@pytest.mark.skipif(not KILLS, reason="takes a minute; `make kill` runs it")
def test_a_disk_that_is_full_stops_the_binding_of_a_book_and_one_with_room_goes_on(tmp_path: Path) -> None:
    on_a_small_disk(FULL_DISK_FOR_A_BOOK, tmp_path)


@contextmanager
def mode(path: Path, bits: int) -> Iterator[None]:
    """Other permissions for a while."""
    before = path.stat().st_mode
    path.chmod(bits)
    yield
    path.chmod(before)


def test_where_permission_is_missing_is_said_and_all_else_is_kept(pages: Shell) -> None:
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("root may write everywhere, and there is no setpriv to give that up")
        pages.before = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-all"]
    pages.environment["TOY_RUNS_PER_JOB"] = "3"
    pages.let_go(1, 2, 3)
    build = pages.home / "build"
    build.mkdir()
    with mode(build, 0o555):
        done = pages.run("reproduce", "page")
        place = f"{build}/.batch.lock: cannot be written (Permission denied). Free space or allow writing in {build}, then repeat"
        assert (done.returncode, done.stderr) == (1, f"tipslib: {place}\n")
    with mode(pages.home, 0o555):
        done = pages.run("reproduce", "page")
        assert done.returncode == 1
        assert f"Permission denied: '{pages.home}/.snakemake" in done.stderr
        assert done.stderr.endswith(GOES_ON)
    assert pages.run("reproduce", "page").returncode == 0

    made = pages.records()
    lost = made.pop(2)
    lost.unlink()
    before = {path: path.read_bytes() for path in (*made.values(), pages.page)}
    with mode(lost.parent, 0o555):
        done = pages.run("reproduce", "page")
        assert f"(Permission denied). Free space or allow writing in {lost.parent}, then repeat\n" in done.stderr
        assert done.stderr.endswith(GOES_ON)
    with mode(made[1], 0):
        done = pages.run("reproduce", "page")
        assert f"\n{made[1]}: cannot be read (Permission denied). Allow reading it, then repeat\n" in done.stderr
        assert done.stderr.endswith(GOES_ON)
        assert "  File " not in done.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert pages.run("reproduce", "page").returncode == 0
    assert sorted(pages.records()) == [1, 2, 3]
    require_whole(pages)


# it changes its own notebook while it is executed, as a reader may do who does not wait for the batch
CHANGES_ITSELF = (
    READS
    + """
from pathlib import Path

written = Path("page.ipynb").read_text()
Path("page.ipynb").write_text(written.replace("(1, 2, 3)", "(3, 2, 1)"))
"""
)

SETS_BACK = """
import os
import time
from pathlib import Path

if not Path("set").exists():
    Path("set").touch()
    os.utime(next(Path("../build/records/smoke/toy").glob("*.json")), (time.time() + 86_400,) * 2)
"""


def test_nothing_stale_is_believed_and_nothing_made_twice_whatever_the_clock_says(pages: Shell) -> None:
    notebook, records = pages.home / "notebooks" / "page.ipynb", pages.home / "build" / "records"

    def dated(days: float) -> None:
        for path in (notebook, pages.page, *records.rglob("*.*")):
            os.utime(path, (time.time() + days * DAY,) * 2)

    pages.environment["TOY_RUNS_PER_JOB"] = "3"
    pages.let_go(1, 2, 3)
    pages.write_page(CHANGES_ITSELF)
    assert pages.run("reproduce", "page").returncode == 0
    assert pages.shown() == "[1, 2, 3]\n"
    assert pages.run("reproduce", "page").stderr == "tipslib: notebook: page\n"
    assert pages.shown() == "[3, 2, 1]\n"

    made = pages.page.stat().st_ino
    dated(days=1)
    os.utime(notebook, (time.time() + 2 * DAY,) * 2)
    done = pages.run("reproduce", "page")
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"tipslib: \S+ and 4 more: newer than the clock says it is, which was set back; dated now\n", done.stderr)
    assert pages.page.stat().st_ino == made

    # the notebook is changed, and older than its page all the same; then the clock is set back while the page is made
    pages.write_page(READS.replace("(1, 2, 3)", "(2, 3)") + SETS_BACK)
    os.utime(notebook, (time.time() - DAY,) * 2)
    done = pages.run("reproduce", "page")
    assert done.returncode == 1
    assert "page.ipynb has older modification time" in done.stderr
    assert done.stderr.endswith(GOES_ON)
    assert not pages.page.exists()
    done = pages.run("reproduce", "page")
    assert done.returncode == 0, done.stderr
    assert pages.shown() == "[2, 3]\n"
    assert [pages.started(number) for number in (1, 2, 3)] == [1, 1, 1]


def test_a_batch_that_waits_for_one_that_is_killed_does_the_rest(pages: Shell, until: Until) -> None:
    first = pages.start("reproduce", "page", "--jobs", "1")
    until(lambda: sum(map(pages.started, (1, 2, 3))))
    (running,) = (number for number in (1, 2, 3) if pages.started(number))
    second = pages.start("reproduce", "page", "--jobs", "1")
    assert second.stderr is not None
    assert "waiting for it to end" in second.stderr.readline()
    pages.let_go(running)
    until(lambda: pages.records())
    os.killpg(first.pid, signal.SIGKILL)
    pages.let_go(1, 2, 3)
    _, err = second.communicate(timeout=120)
    first.communicate(timeout=60)
    assert second.returncode == 0, err
    assert pages.started(running) == 1
    assert pages.shown() == "[1, 2, 3]\n"
    require_whole(pages)


def test_a_batch_whose_messages_nobody_reads_any_more_does_its_work_and_ends(pages: Shell, until: Until) -> None:
    process = pages.start("reproduce", "page", "--jobs", "1")
    until(lambda: sum(map(pages.started, (1, 2, 3))))
    assert process.stderr is not None
    assert process.stdout is not None
    process.stderr.close()
    pages.let_go(1, 2, 3)
    try:
        assert process.wait(timeout=60) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    process.stdout.close()
    assert pages.shown() == "[1, 2, 3]\n"
