"""What did a run leave? One checked JSON (arrays beside it), keyed by what was asked, written aside and renamed."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import lzma
import os
import platform
import re
import secrets
import shutil
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tipslib import project
from tipslib.errors import CorruptFile, StorageError, unreadable
from tipslib.profiles import Profile

FORMAT = 1

NO_ARRAY = (
    *(ValueError, TypeError, KeyError, IndexError, EOFError, OverflowError, MemoryError, SyntaxError, RuntimeError),
    *(tokenize.TokenError, struct.error, zipfile.BadZipFile, zlib.error, lzma.LZMAError),
)
"""What NumPy raises for bytes that are no whole array or archive of arrays."""


@dataclass(frozen=True)
class Run:
    """One training or measurement with one seed: the unit that is cached, resumed and scheduled.

    `code` is the experiment's version, and for profiles that are recomputed also the digest of its source.
    """

    experiment: str
    parameters: Mapping[str, Any]
    profile: str
    seed: int
    code: str

    @property
    def key(self) -> str:
        """16 hexadecimal digits that change when anything that was asked changes."""
        asked = {"experiment": self.experiment, "parameters": dict(self.parameters), "profile": self.profile}
        return _digest(canonical(asked | {"seed": self.seed, "code": self.code}))[:16]


@dataclass(frozen=True)
class Outcome:
    """What an experiment returns: plain JSON `values`, numeric `arrays`, and the SHA-256 of each data set it read.

    `values["timing"]`, if there is one, holds measured durations: it is kept, and left out when runs are compared.
    """

    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """A run, its outcome and where it came from. `path` is the JSON file."""

    run: Run
    values: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray]
    provenance: Mapping[str, Any]
    path: Path


class Store:
    """The records of one profile, in one folder: `<folder>/<experiment>/<key>.json` with `<key>-<digest>.npz` beside it."""

    def __init__(self, profile: Profile, root: Path | None = None) -> None:
        parent = "data" if profile.committed else "build"
        self.folder = (root or project.root()) / parent / "records" / profile.name

    def path(self, run: Run) -> Path:
        """Where the record of `run` lies or will lie."""
        return self.folder / run.experiment / f"{run.key}.json"

    def find(self, run: Run) -> Record | None:
        """The record of `run`, or None if there is none.

        Raises
        ------
        CorruptFile
            There is one, but it was cut or altered; the message names the file.
        StorageError
            The folder may not be read.
        """
        path = self.path(run)
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise unreadable(path, error) from error
        return read(path, run)

    def save(self, run: Run, outcome: Outcome, provenance: Mapping[str, Any]) -> Record:
        """Write the record aside and rename it. Of two writers of one run the later stays, whole.

        Raises
        ------
        StorageError
            The folder cannot be written, or the disk is full; nothing half-written stays behind.
        """
        path = self.path(run)
        body: dict[str, Any] = {
            "format": FORMAT,
            "key": run.key,
            "experiment": run.experiment,
            "parameters": dict(run.parameters),
            "profile": run.profile,
            "seed": run.seed,
            "code": run.code,
            "values": dict(outcome.values),
            "arrays": None,
            "provenance": dict(provenance) | {"data": dict(outcome.data)},
        }
        if outcome.arrays:
            packed = _pack(outcome.arrays)
            digest = _digest(packed)
            body["arrays"] = {"file": f"{run.key}-{digest[:12]}.npz", "sha256": digest}
        body["sha256"] = _digest(canonical(body))
        if outcome.arrays:
            write_atomically(path.with_name(body["arrays"]["file"]), packed)
        write_atomically(path, (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())
        return read(path, run)

    def paths(self) -> list[Path]:
        """Every record file of this profile, in a stable order."""
        return sorted(self.folder.glob("*/*.json"))


def read(path: Path, run: Run | None = None) -> Record:
    """Read and check one record file.

    Raises
    ------
    CorruptFile
        Not JSON, a wrong checksum, missing or altered arrays, or the record of another run than `run`.
    StorageError
        The file is there, but may not be read.
    """
    try:
        body = json.loads(path.read_bytes())
        claimed = body.pop("sha256")
        if body["format"] != FORMAT:
            raise CorruptFile(f"{path}: record format {body['format']!r}; this version reads {FORMAT}. Delete the file to recompute it")
        if claimed != _digest(canonical(body)):
            raise CorruptFile(
                f"{path}: the checksum does not fit the content: the record was cut or edited. Delete the file to recompute it"
            )
        if not all(isinstance(body[name], dict) for name in ("parameters", "values", "provenance")):
            raise ValueError("parameters, values and provenance have to have names")
        found = Run(body["experiment"], body["parameters"], body["profile"], body["seed"], body["code"])
        if found.key != body["key"] or path.stem != body["key"] or (run is not None and found.key != run.key):
            raise CorruptFile(f"{path}: holds the record of another run (key {body['key']}). Delete the file to recompute it")
        arrays = _unpack(path, body["arrays"]) if body["arrays"] else {}
        return Record(found, body["values"], arrays, body["provenance"], path)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise CorruptFile(f"{path}: not a whole record ({type(error).__name__}: {error}). Delete the file to recompute it") from error
    except OSError as error:
        raise unreadable(path, error) from error


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal content, equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def write_atomically(path: Path, content: bytes) -> None:
    """Write under a temporary name in the same folder, flush to disk, rename.

    Raises
    ------
    StorageError
        The folder or disk refuses; the temporary file is removed.
    """
    temporary = beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"{path}: cannot be written ({error.strerror}). Free space or allow writing in {path.parent}, then repeat"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def beside(path: Path) -> Path:
    """A hidden name in the folder of `path`, for what will take its place; what killed processes left under such names is removed.

    The name holds machine and process, since a folder may be shared: only the processes of this machine can be asked whether they live.
    """
    machine = _digest(platform.node().encode())[:8]
    ours = re.compile(rf"\.{re.escape(path.name)}\.{machine}\.(\d+)\.[0-9a-f]{{8}}")
    # a folder that is missing or may not be read is for the caller to report, who wants to write there
    with contextlib.suppress(OSError):
        for left in list(path.parent.iterdir()):
            if (named := ours.fullmatch(left.name)) and not _lives(int(named[1])):
                if left.is_dir():
                    shutil.rmtree(left, ignore_errors=True)
                else:
                    left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{machine}.{os.getpid()}.{secrets.token_hex(4)}")


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it is there, and somebody else's
    return True


def _pack(arrays: Mapping[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **dict(arrays))
    return buffer.getvalue()


def _unpack(record: Path, entry: Mapping[str, str]) -> dict[str, np.ndarray]:
    path, remedy = record.with_name(Path(entry["file"]).name), f"Delete {record.name} to recompute it"
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise CorruptFile(f"{path}: the arrays of a record are missing. {remedy}") from error
    if _digest(content) != entry["sha256"]:
        raise CorruptFile(f"{path}: the checksum does not fit the content. {remedy}")
    return arrays_in(content, path, remedy)


def arrays_in(content: bytes, path: Path, remedy: str) -> dict[str, np.ndarray]:
    """The arrays of an .npz file by their names; never unpickles. `path` is where the content was read, `remedy` what to do if it is bad.

    Raises
    ------
    CorruptFile
        It is no whole archive of arrays.
    """
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
        if not all(isinstance(array, np.ndarray) for array in found.values()):
            raise ValueError("it holds something else than arrays")
    except (*NO_ARRAY, OSError) as error:
        raise CorruptFile(f"{path}: not a whole archive of arrays ({type(error).__name__}: {error}). {remedy}") from error
    return found


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
