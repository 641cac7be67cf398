"""How does a folder of photographs become one array? Decoded once, checked by name, memory-mapped ever after."""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tipslib.errors import CorruptFile, MissingData, StorageError, unreadable
from tipslib.progress import track
from tipslib.records import NO_ARRAY, beside, write_atomically

FORMAT = 1
"""Raised by hand when `decode` changes, so that arrays decoded before are not used."""

BLOCK = 512
"""Photographs decoded between two writes."""

UNREADABLE = (OSError, ValueError, SyntaxError, EOFError, TypeError, struct.error, zlib.error, Image.DecompressionBombError)
"""What Pillow raises for bytes that are no whole JPEG or PNG."""


@dataclass(frozen=True, eq=False)
class Listing:
    """The photographs of one split: `files` relative to `folder`, sorted; `labels` (N,) index `classes`."""

    folder: Path
    files: tuple[str, ...]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]

    def state(self) -> str:
        """Digest of names, lengths and times of change: equal while nobody touched the folder."""
        digest = hashlib.sha256(f"{FORMAT}\n".encode())
        for file in self.files:
            try:
                found = os.stat(self.folder / file)
            except FileNotFoundError as error:
                raise CorruptFile(f"{self.folder / file}: is listed, but not there. Prepare {self.folder} anew") from error
            digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\n".encode())
        return digest.hexdigest()


def list_photographs(folder: Path, split: str) -> Listing:
    """Find the photographs of a split in any of three arrangements.

    `labels.csv` with columns file, label beside `images/` and `synset_words.txt` (a test set only); else one folder per class under
    `train/` and `val/`; else `val/images/` with `val/val_annotations.txt`. Classes are sorted by folder name and called by
    `words.txt` or `synset_words.txt` where there is one. A list that `SHA256SUMS` in the folder names is held against it.

    Raises
    ------
    MissingData
        There is nothing for this split.
    CorruptFile
        A list names files or classes that do not exist, or is not the one its checksum belongs to.
    """
    words = _words(folder)
    if (folder / "labels.csv").is_file():
        pairs = _labelled(folder)
        names = list(words)
        source, classes = folder / "labels.csv", "synset_words.txt"
    else:
        part = {"train": "train", "test": "val"}[split]
        source, by_name = _in_class_folders(folder, part)
        names = _class_folders(folder / "train") or _class_folders(folder / part) or sorted({name for _, name in by_name})
        index = {name: i for i, name in enumerate(names)}
        pairs = [(file, index.get(name, -1)) for file, name in by_name]
        classes = "the folders"
    if not pairs:
        raise MissingData(f"{source}: holds no photographs. Wanted are <class>/*.JPEG in {folder}/train and {folder}/val, or a labels.csv")
    numbers = [label for _, label in pairs]
    if min(numbers) < 0 or max(numbers) >= len(names):
        wrong = next(file for file, label in pairs if not 0 <= label < len(names))
        raise CorruptFile(f"{source}: {wrong} belongs to none of the {len(names)} classes of {classes}. Prepare the folder anew")
    files, labels = zip(*sorted(pairs), strict=True)
    return Listing(folder, files, np.array(labels, dtype=np.int64), tuple(words.get(name, name) for name in names))


def decoded(listing: Listing, name: str, size: int, cache: Path) -> tuple[NDArray[np.uint8], str, Path]:
    """The photographs as one memory-mapped array (N, size, size, 3), decoded when that was not done before under this `name`.

    The shorter side is scaled to `size` (bilinear, antialiased), the middle square is kept. Each file is held against `SHA256SUMS` in
    the folder (as `sha256sum` writes it), or, when it was decoded before and has changed since, against what it was then.

    Returns
    -------
    images, sha256, file
        `sha256` is what the array's bytes must have; the caller compares.

    Raises
    ------
    CorruptFile
        A photograph is no whole JPEG or PNG, or not the one its checksum belongs to; it is named.
    StorageError
        The cache cannot be written.
    """
    place = hashlib.sha256(str(listing.folder.resolve()).encode()).hexdigest()[:8]
    base = cache / "decoded" / f"{name}-{place}"
    note, sums = base.with_name(f"{base.name}.json"), base.with_name(f"{base.name}.SHA256SUMS")
    state, known = listing.state(), _read_note(note)
    if known.get("state") != state or not (note.parent / known["file"]).is_file():
        expected = _read_sums(listing.folder / "SHA256SUMS") or _read_sums(sums)
        array, digest, found = _write(listing, size, base, expected)
        write_atomically(sums, "".join(f"{found[file]}  {file}\n" for file in listing.files).encode())
        write_atomically(note, json.dumps({"state": state, "file": array.name, "sha256": digest}).encode())
        if known.get("file", array.name) != array.name:
            with contextlib.suppress(OSError):
                (note.parent / known["file"]).unlink()
        known = _read_note(note)
    array = note.parent / known["file"]
    return read_npy(array), known["sha256"], array


def read_npy(path: Path) -> NDArray[Any]:
    """Memory-map an array; never unpickles.

    Raises
    ------
    CorruptFile
        It is no whole .npy file.
    StorageError
        It may not be read.
    """
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except NO_ARRAY as error:
        raise CorruptFile(f"{path}: not a whole .npy array ({type(error).__name__}: {error}). Prepare it anew") from error
    except OSError as error:
        raise unreadable(path, error) from error
    if not isinstance(array, np.ndarray):
        raise CorruptFile(f"{path}: a .npy array is wanted, this is an archive of arrays. Prepare it anew")
    return array


def read_json(path: Path) -> Any:
    """Parse a JSON file; `CorruptFile` names it when it is none, `StorageError` when it may not be read."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CorruptFile(f"{path}: not JSON ({error}). Prepare it anew, or delete it if it lies in the cache") from error
    except OSError as error:
        raise unreadable(path, error) from error


def decode(content: bytes, size: int) -> NDArray[np.uint8]:
    """One JPEG or PNG as (size, size, 3): shorter side scaled to `size`, middle square. As torchvision's Resize and CenterCrop."""
    with Image.open(io.BytesIO(content), formats=("JPEG", "PNG")) as picture:
        rgb = picture.convert("RGB")
    short = min(rgb.size)
    if short != size:
        width, height = (size if side == short else int(size * side / short) for side in rgb.size)
        rgb = rgb.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (round((side - size) / 2.0) for side in rgb.size)
    return np.asarray(rgb.crop((left, top, left + size, top + size)))


def _write(listing: Listing, size: int, base: Path, expected: dict[str, str]) -> tuple[Path, str, dict[str, str]]:
    """Decode everything into a file that takes its name at the end; returns it, its pixels' SHA-256 and that of every photograph."""

    def one(file: str) -> tuple[str, NDArray[np.uint8]]:
        path = listing.folder / file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise MissingData(f"{path}: cannot be read ({error.strerror}). Allow reading it, or prepare the folder anew") from error
        digest = hashlib.sha256(content).hexdigest()
        if expected.get(file, digest) != digest:
            raise CorruptFile(
                f"{path}: its checksum {digest} is not {expected[file]}: it was altered. "
                f"Restore it, or, if the change is meant, correct SHA256SUMS and delete {base}.SHA256SUMS"
            )
        try:
            return digest, decode(content, size)
        except UNREADABLE as error:
            raise CorruptFile(f"{path}: not a whole photograph ({type(error).__name__}: {error}). Restore it") from error

    found: dict[str, str] = {}
    running = hashlib.sha256()
    work = beside(base)
    # written block by block: a full disk is an error here, but kills the process that writes through a memory map
    try:
        work.parent.mkdir(parents=True, exist_ok=True)
        with open(work, "xb") as output, ThreadPoolExecutor() as pool:
            shape = (len(listing.files), size, size, 3)
            np.lib.format.write_array_header_1_0(output, {"descr": "|u1", "fortran_order": False, "shape": shape})
            for start in track(range(0, len(listing.files), BLOCK), f"decoding {base.name}"):
                part = listing.files[start : start + BLOCK]
                for file, (digest, pixels) in zip(part, pool.map(one, part), strict=True):
                    found[file] = digest
                    content = pixels.tobytes()
                    running.update(content)
                    output.write(content)
            output.flush()
            os.fsync(output.fileno())
        array = base.with_name(f"{base.name}-{running.hexdigest()[:12]}.npy")
        os.replace(work, array)
    except OSError as error:
        raise StorageError(
            f"{base.parent}: cannot be written ({error.strerror or error}). "
            f"Free {len(listing.files) * size * size * 3 / 1e9:.1f} GB, or let TIPSLIB_CACHE name a folder that may be written"
        ) from error
    finally:
        with contextlib.suppress(OSError):
            work.unlink(missing_ok=True)
    return array, running.hexdigest(), found


def _read_note(path: Path) -> dict[str, str]:
    """What was decoded before: state of the folder, name and SHA-256 of the array; nothing if the note is broken or missing."""
    try:
        note = read_json(path) if path.is_file() else {}
    except CorruptFile:
        return {}
    whole = isinstance(note, dict) and all(isinstance(note.get(key), str) for key in ("state", "file", "sha256"))
    return note if whole and note["file"] == f"{path.stem}-{note['sha256'][:12]}.npy" else {}


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _in_class_folders(folder: Path, part: str) -> tuple[Path, list[tuple[str, str]]]:
    """(file, class) for every photograph under `part`, and where that stands."""
    annotations = folder / part / "val_annotations.txt"
    if annotations.is_file():
        lines = [line.split("\t") for line in _listed(folder, f"{part}/{annotations.name}")]
        return annotations, [(f"{part}/images/{_plain(line[0], annotations)}", line[1] if len(line) > 1 else "") for line in lines]
    pairs = []
    for name in _class_folders(folder / part):
        for place, _, files in os.walk(folder / part / name):
            relative = Path(place).relative_to(folder).as_posix()
            pairs += [(f"{relative}/{file}", name) for file in files if file.lower().endswith((".jpeg", ".jpg", ".png"))]
    return folder / part, pairs


def _labelled(folder: Path) -> list[tuple[str, int]]:
    """(file, label) for every line of `labels.csv`."""
    path = folder / "labels.csv"
    try:
        return [(f"images/{_plain(row['file'], path)}", int(row["label"])) for row in csv.DictReader(_listed(folder, path.name))]
    except (KeyError, ValueError, TypeError, csv.Error) as error:
        raise CorruptFile(f"{path}: columns file, label are wanted ({type(error).__name__}: {error}). Prepare it anew") from error


def _words(folder: Path) -> dict[str, str]:
    """Class folder -> its name in words."""
    for file in ("words.txt", "synset_words.txt"):
        if (folder / file).is_file():
            return {parts[0]: parts[1].strip() for line in _listed(folder, file) if len(parts := line.split(maxsplit=1)) == 2}
    return {}


def _read_sums(path: Path) -> dict[str, str]:
    if not path.is_file():
        return {}
    pairs = [line.split(maxsplit=1) for line in _lines(path)]
    return {pair[1].removeprefix("*").removeprefix("./"): pair[0].lower() for pair in pairs if len(pair) == 2}


def _listed(folder: Path, name: str) -> list[str]:
    """The lines of a list in the folder, if it is the one that `SHA256SUMS` names."""
    path = folder / name
    lines = _lines(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    wanted = _read_sums(folder / "SHA256SUMS").get(name, digest)
    if wanted != digest:
        raise CorruptFile(
            f"{path}: its checksum {digest} is not {wanted}, which SHA256SUMS gives: it was altered. "
            "Restore it, or, if the change is meant, correct SHA256SUMS"
        )
    return lines


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise CorruptFile(f"{path}: not text ({error}). Prepare it anew") from error
    except OSError as error:
        raise unreadable(path, error) from error


def _plain(name: str, path: Path) -> str:
    """A file name without folders: a list must not reach outside."""
    if not name or Path(name).name != name:
        raise CorruptFile(f"{path}: {name!r} is no file name. Prepare it anew")
    return name
