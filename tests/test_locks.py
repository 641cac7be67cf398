"""Does a lock keep others out, let them in when its holder ends in any way, and say who is waited for?"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tipslib.errors import StorageError
from tipslib.locks import alone

HOLD = """
import sys, time
from pathlib import Path
from tipslib.locks import alone
with alone(Path(sys.argv[1]), "a test"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_the_second_says_what_it_waits_for_and_a_killed_holder_holds_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, until: Callable[[Callable[[], object]], None]
) -> None:
    lock = tmp_path / "folder" / ".lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    entered: list[float] = []

    def enter() -> None:
        with alone(lock, "another batch"):
            entered.append(time.monotonic())

    with caplog.at_level(logging.WARNING):
        waiting = threading.Thread(target=enter)
        waiting.start()
        until(lambda: f"another batch is at work in {lock.parent}; waiting for it to end" in caplog.text)
    assert not entered
    holder.kill()
    waiting.join(timeout=60)
    assert entered
    holder.wait()
    holder.stdout.close()


def test_one_after_the_other_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(2):
        with alone(tmp_path / ".lock", "nobody"):
            pass
    with pytest.raises(ZeroDivisionError), alone(tmp_path / ".lock", "nobody"):
        raise ZeroDivisionError
    with alone(tmp_path / ".lock", "nobody"):
        assert caplog.text == ""


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("in the way")
    with pytest.raises(StorageError, match=r"build/\.lock: cannot be written"), alone(tmp_path / "build" / ".lock", "nobody"):
        pass
