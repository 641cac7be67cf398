"""Are bars seen on a terminal only, and never in the way?"""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios

import pytest

from tipslib.progress import track

CODE = "from tipslib.progress import track; print(sum(track(range(4), 'adding')))"


def on_a_terminal(**environment: str) -> str:
    """What a process writes on stderr when that is a terminal."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    done = subprocess.run([sys.executable, "-c", CODE], stdout=subprocess.PIPE, stderr=theirs, env=os.environ | environment)
    os.write(theirs, b"\n")
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    os.close(ours)
    assert done.stdout == b"6\n"
    return said.strip()


def test_nothing_is_shown_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    assert capsys.readouterr() == ("", "")


def test_a_terminal_shows_a_bar_unless_it_is_turned_off() -> None:
    assert "adding" in on_a_terminal()
    assert on_a_terminal(TIPSLIB_PROGRESS="0") == ""
