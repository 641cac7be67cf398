"""How does an archive become a folder, whole or not at all, and never outside its place?"""

from __future__ import annotations

import contextlib
import errno
import lzma
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

from tipslib.errors import CorruptFile, InvalidInput, StorageError, TipslibError, require, unreadable
from tipslib.records import beside

SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".zip")

BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, IndexError, struct.error)
"""What the standard library raises for archives that were cut, altered, encrypted or packed in a way it does not know."""

OF_CONTENT = (None, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EILSEQ)
"""Numbers of the `OSError` that bad data, offsets and names in an archive lead to; all others come from the disk."""


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
        `archive` cannot be read, or `folder` cannot be written.
    """
    require(archive.name.endswith(SUFFIXES), f"{archive}: no archive that can be read; allowed are {', '.join(SUFFIXES)}")
    require(not folder.exists(), f"{folder}: is there already; remove it to unpack {archive.name} anew")
    try:
        file = archive.open("rb")
    except OSError as error:
        raise unreadable(archive, error) from error
    with file, aside(folder) as work:
        try:
            if archive.suffix == ".zip":
                _extract_zip(archive, file, work)
            else:
                _extract_tar(archive, file, work)
        except TipslibError:
            raise
        except (*BROKEN, OSError) as error:
            if isinstance(error, OSError) and error.errno not in OF_CONTENT:
                raise
            raise CorruptFile(f"{archive}: refused ({type(error).__name__}: {error}); nothing was unpacked. Fetch it anew") from error


class _Header(tarfile.TarInfo):
    """The head of a member. The standard library takes a broken one for the end of the archive, and leaves out what follows."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        try:
            return super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if len(buf) == tarfile.BLOCKSIZE and not any(buf):
                raise  # the end
            raise tarfile.ReadError(str(error)) from error


def _extract_tar(archive: Path, file: IO[bytes], folder: Path) -> None:
    if not hasattr(tarfile, "data_filter"):
        raise InvalidInput(f"{archive}: Python 3.11.4 or newer is wanted to unpack a tar archive safely; or unpack it yourself")
    mode: Any = "r:" + {".tar": "", ".tgz": "gz"}.get(archive.suffix, archive.suffix.removeprefix("."))
    with tarfile.open(fileobj=file, mode=mode, tarinfo=_Header) as opened:
        for member in opened:
            _require_inside(member.name, archive)
            opened.extract(member, folder, filter="data")
        # the checksum of a compressed stream stands behind its end
        while opened.fileobj is not None and opened.fileobj.read(1 << 20):
            pass


def _extract_zip(archive: Path, file: IO[bytes], folder: Path) -> None:
    with zipfile.ZipFile(file) as opened:
        members = opened.infolist()
        file.seek(opened.start_dir)
        if not members or file.read().count(b"PK\1\2") != len(members):
            raise CorruptFile(f"{archive}: its list of members is not whole; nothing was unpacked. Fetch it anew")
        for member in members:
            _require_inside(member.filename, archive)
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise CorruptFile(f"{archive}: the member {member.filename!r} is a link or device; nothing was unpacked")
            file.seek(member.header_offset)
            flags, checksum = struct.unpack("<6xH6xI", file.read(18))
            if not flags & _AFTERWARDS and checksum != member.CRC:
                raise CorruptFile(f"{archive}: the member {member.filename!r} has two checksums; nothing was unpacked. Fetch it anew")
            opened.extract(member, folder)


_AFTERWARDS = 8
"""The flag of a member of a zip archive whose checksum was not known yet when its head was written."""


def _require_inside(name: str, archive: Path) -> None:
    """Refuse names that leave the folder; the standard library would quietly change them instead."""
    if any(path.anchor or ".." in path.parts for path in (PurePosixPath(name), PureWindowsPath(name))):
        raise CorruptFile(f"{archive}: the member {name!r} would lie outside the folder; nothing was unpacked")
