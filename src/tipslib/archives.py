"""How does an archive become a folder, whole or not at all, and never outside its place?"""

from __future__ import annotations

import contextlib
import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from tipslib.errors import CorruptFile, InvalidInput, StorageError, require
from tipslib.records import beside

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, UnicodeDecodeError)
"""What the standard library raises for archives that were cut, altered, encrypted or packed in a way it does not know."""


@contextlib.contextmanager
def aside(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its name when the block ends well, and is removed when it does not.

    Of two who make the same folder at once the first stays.

    Raises
    ------
    StorageError
        The place is read-only or full.
    """
    work = beside(target)
    try:
        work.mkdir(parents=True)
        yield work
        try:
            work.rename(target)
        except OSError:
            if not target.is_dir():
                raise
    except OSError as error:
        raise StorageError(
            f"{target}: cannot be written ({error.strerror or error}). Free space, or let TIPSLIB_CACHE name a folder that may be written"
        ) from error
    finally:
        shutil.rmtree(work, ignore_errors=True)


def extract(archive: Path, folder: Path) -> None:
    """Unpack a tar (plain or compressed) or zip archive into the new folder `folder`; nothing stays behind if it fails.

    Raises
    ------
    CorruptFile
        The archive was cut or altered, or a member would lie outside `folder`, be a device, or link to a place outside.
    InvalidInput
        It is neither tar nor zip, or this Python cannot filter members.
    StorageError
        `folder` cannot be written.
    """
    require(archive.name.endswith(SUFFIXES), f"{archive}: no archive that can be read; allowed are {', '.join(SUFFIXES)}")
    require(not folder.exists(), f"{folder}: is there already; remove it to unpack {archive.name} anew")
    with aside(folder) as work:
        try:
            if archive.suffix == ".zip":
                _extract_zip(archive, work)
            else:
                _extract_tar(archive, work)
        except BROKEN as error:
            raise CorruptFile(f"{archive}: refused ({type(error).__name__}: {error}); nothing was unpacked. Fetch it anew") from error


def _extract_tar(archive: Path, folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise InvalidInput(f"{archive}: Python 3.11.4 or newer is wanted to unpack a tar archive safely; or unpack it yourself")
    with tarfile.open(archive) as opened:
        for member in opened:
            _require_inside(member.name, archive)
            opened.extract(member, folder, filter="data")


def _extract_zip(archive: Path, folder: Path) -> None:
    with zipfile.ZipFile(archive) as opened:
        for member in opened.infolist():
            _require_inside(member.filename, archive)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise CorruptFile(f"{archive}: the member {member.filename!r} is a link or device; nothing was unpacked")
            opened.extract(member, folder)


def _require_inside(name: str, archive: Path) -> None:
    """Refuse names that leave the folder; the standard library would quietly change them instead."""
    if any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))):
        raise CorruptFile(f"{archive}: the member {name!r} would lie outside the folder; nothing was unpacked")
