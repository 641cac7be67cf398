"""Who may work here now? A lock that goes with its process, so that a killed one leaves none behind."""

from __future__ import annotations

import fcntl
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tipslib.errors import StorageError

log = logging.getLogger(__name__)


@contextmanager
def alone(lock: Path, what: str) -> Iterator[None]:
    """Hold the lock file `lock`; while another process holds it, say that `what` is at work, and wait.

    Raises
    ------
    StorageError
        The lock's folder cannot be written.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    except OSError as error:
        raise StorageError(
            f"{lock}: cannot be written ({error.strerror}). Free space or allow writing in {lock.parent}, then repeat"
        ) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s is at work in %s; waiting for it to end", what, lock.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
