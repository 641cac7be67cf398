"""What can go wrong, as classes: each message says what was wrong, what is allowed and what to do.

The page *What can go wrong* of the book is made of these classes: the docstring says what an error means, `remedy` what to do.
"""

from pathlib import Path
from typing import ClassVar


class TipslibError(Exception):
    """Base of every error this package raises on purpose."""

    remedy: ClassVar[str] = ""
    """What to do, in words for the book."""

    status: ClassVar[int] = 1
    """With which the command `tipslib` ends: 1 where something failed, 2 where something else has to be asked for or given."""


class InvalidInput(TipslibError, ValueError):
    """A parameter, profile, name or value that is not allowed; nothing was computed."""

    remedy = "The message says what was given and, behind the semicolon, what is allowed. Correct that and repeat."
    status = 2


class CorruptFile(TipslibError):
    """A file whose checksum or structure is wrong; it is named, and never believed."""

    remedy = (
        "Do what the end of the message says. A file that was computed or downloaded here (record, checkpoint, decoded array, anything in "
        "the cache) may be deleted and is made again; one that came with the project is restored with `git checkout`; one of yours "
        "is to be copied or prepared anew."
    )


class MissingData(TipslibError):
    """A data set, weights or files of the project that are not here and cannot be fetched now."""

    remedy = (
        "Put what the message names where it says, or let a variable of the environment name the folder that has it: `TIPSLIB_DATA` for "
        "data sets, `TORCH_HOME` for published weights, `TIPSLIB_HOME` for a checkout of the project. Or connect to a network and repeat."
    )
    status = 2


class StorageError(TipslibError):
    """A folder that cannot be written (read-only, full, or lost) or a file that may not be read; nothing half-written stays behind."""

    remedy = (
        "Free space, or change the rights of the path in the message; for the cache, `TIPSLIB_CACHE` may name another folder. Then repeat: "
        "what was finished is kept."
    )


class TracingError(TipslibError):
    """A network whose graph cannot be read; the message names the place and the way out."""

    remedy = (
        "Declare the part that the message names a leaf (`--leaf NAME`, in Python `leaves=`): it then counts as one operation. Or rewrite "
        "the line that the message gives, so that what is computed does not depend on values."
    )
    status = 2


def require(condition: bool, message: str) -> None:
    """Raise `InvalidInput(message)` unless `condition` holds."""
    if not condition:
        raise InvalidInput(message)


def unreadable(path: Path, error: OSError) -> StorageError:
    """What to raise for a file that is there, but may not be read."""
    return StorageError(f"{error.filename or path}: cannot be read ({error.strerror or error}). Allow reading it, then repeat")
