"""In which folder does a data set lie? Prepared, unpacked, downloaded before, or downloaded now; else what to put where."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from types import MappingProxyType
from urllib.error import URLError

import numpy as np

from tipslib.archives import SUFFIXES, aside, extract
from tipslib.errors import CorruptFile, MissingData

LAYOUT: Mapping[str, str] = MappingProxyType(
    {
        "mnist": "MNIST/raw/ with the four idx files",
        "cifar10": "{train,test}-images.npy, {train,test}-labels.npy and classes.json",
        "cifar100": "{train,test}-images.npy, {train,test}-labels.npy and classes.json",
        "tiny-imagenet": "train/<class>/*.JPEG and val/<class>/*.JPEG",
        "imagenet": "train/<class>/*.JPEG and val/<class>/*.JPEG",
        "imagenet-val-1300": "images/*.JPEG, labels.csv and synset_words.txt",
    }
)
"""What the folder of each data set holds."""

DOWNLOADED = ("mnist", "cifar10", "cifar100")
"""Sets that torchvision can fetch by itself."""


def cache_folder() -> Path:
    """Where downloads and decoded photographs are kept: `TIPSLIB_CACHE`, or `~/.cache/tipslib`."""
    return Path(os.environ.get("TIPSLIB_CACHE") or Path.home() / ".cache" / "tipslib")


def find_folder(name: str) -> Path:
    """The folder that holds `name`, laid out as `LAYOUT` says.

    Raises
    ------
    MissingData
        It is nowhere, and cannot be downloaded.
    CorruptFile
        An archive or a download is not what it should be.
    StorageError
        The cache cannot be written.
    """
    if prepared := os.environ.get("TIPSLIB_DATA"):
        home = Path(prepared)
        if not home.is_dir():
            raise MissingData(f"TIPSLIB_DATA names {home}, which is no folder. {_advice(name)}")
        if (home / name).is_dir():
            return home / name
        for archive in (home / f"{name}{suffix}" for suffix in SUFFIXES):
            if archive.is_file():
                return _unpacked(archive, name)
    kept = cache_folder() / "downloads" / name
    if not kept.is_dir():
        if name not in DOWNLOADED:
            raise MissingData(f"{name} is not here, and is not downloaded by itself. {_advice(name)}")
        _download(name, kept)
    return kept


def require_there(path: Path, name: str) -> None:
    """Raise `MissingData` unless `path` is a file of the data set `name`."""
    if not path.is_file():
        raise MissingData(f"{path} is missing. {_advice(name)}")


def _advice(name: str) -> str:
    return f"Let TIPSLIB_DATA name a folder that holds {name}/ with {LAYOUT[name]}"


def _unpacked(archive: Path, name: str) -> Path:
    """The folder inside an archive, unpacked into the cache unless it was before."""
    found = archive.stat()
    state = hashlib.sha256(f"{archive.resolve()}\0{found.st_size}\0{found.st_mtime_ns}".encode()).hexdigest()[:12]
    folder = cache_folder() / "unpacked" / f"{name}-{state}"
    if not folder.is_dir():
        extract(archive, folder)
    inside = list(folder.iterdir())
    return inside[0] if len(inside) == 1 and inside[0].is_dir() else folder


def _download(name: str, folder: Path) -> None:
    """Let torchvision fetch and check a set; the folder appears whole or not at all."""
    with aside(folder) as work:
        try:
            if name == "mnist":
                _fetch_mnist(work)
            else:
                _fetch_cifar(name, work)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            raise MissingData(f"{name} is not here, and its download failed ({error}). {_advice(name)}, or connect and repeat") from error


def _fetch_mnist(folder: Path) -> None:
    from torchvision.datasets import MNIST

    try:
        MNIST(folder, download=True)
    except RuntimeError as error:  # every mirror failed, or what came had the wrong checksum: torchvision's message says which
        raise MissingData(f"mnist is not here, and its download failed ({error}). {_advice('mnist')}, or connect and repeat") from error
    for packed in (folder / "MNIST" / "raw").glob("*.gz"):
        packed.unlink()


def _fetch_cifar(name: str, folder: Path) -> None:
    from torchvision import datasets
    from torchvision.datasets.utils import download_url

    source = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    raw = folder / "raw"
    try:
        download_url(source.url, raw, source.filename, source.tgz_md5)
    except RuntimeError as error:
        raise CorruptFile(f"{source.filename}: came with another checksum than the published one; nothing was kept. Repeat") from error
    extract(raw / source.filename, raw / "unpacked")
    sums = {}
    for split in ("train", "test"):
        try:
            part = source(raw / "unpacked", train=split == "train")
        except RuntimeError as error:
            raise CorruptFile(f"{source.filename}: a batch in it has not the published checksum; nothing was kept. Repeat") from error
        images, labels = np.ascontiguousarray(part.data), np.array(part.targets, dtype=np.int64)
        for piece, array in (("images", images), ("labels", labels)):
            np.save(folder / f"{split}-{piece}.npy", array, allow_pickle=False)
            sums[f"{split}-{piece}"] = hashlib.sha256(array.tobytes()).hexdigest()
        classes = json.dumps(list(part.classes))
    sums["classes"] = hashlib.sha256(classes.encode()).hexdigest()
    (folder / "classes.json").write_text(classes)
    (folder / "checksums.json").write_text(json.dumps(sums))
    shutil.rmtree(raw)
