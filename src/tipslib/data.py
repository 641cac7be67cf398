"""Where do the images come from, and are they what they should be? One `load` for every data set: checked, memory-mapped, never unpickled.

`digits` comes with scikit-learn. Every other set is looked for in this order:

1. in the folder named by the environment variable `TIPSLIB_DATA`, as a subfolder (or an archive of one, `<name>.tar`, `.tar.gz`, `.zip`);
2. among earlier downloads in the cache: `TIPSLIB_CACHE`, or `~/.cache/tipslib`;
3. for mnist, cifar10 and cifar100, through torchvision's download, checked by its checksum and kept in the cache.

What each subfolder of `TIPSLIB_DATA` holds:

    mnist/              MNIST/raw/ with the four idx files, as torchvision leaves them
    cifar10/, cifar100/ {train,test}-images.npy (N, 32, 32, 3) uint8, {train,test}-labels.npy (N,) int64, classes.json (a list of
                        names). Known arrangements are known by checksum; another order of the images needs a checksums.json
                        {"train-images": "<SHA-256 of the array's bytes>", "train-labels": ..., "classes": ...}
    tiny-imagenet/      train/<class>/*.JPEG and val/<class>/*.JPEG (or val/images/ with val_annotations.txt, as it is published)
    imagenet/           train/<class>/*.JPEG and val/<class>/*.JPEG
    imagenet-val-1300/  images/*.JPEG, labels.csv (file,label), synset_words.txt (a line per class); has a test split only

Folders of photographs may hold `SHA256SUMS` (paths relative to the folder). They are decoded once into an array in the cache and
memory-mapped from there: ImageNet's training set takes 250 GB. `val` is what both papers test on, so it is the split "test" here.

torchvision unpickles the CIFAR batches after it has checked each against its published MD5; nothing here unpickles anything.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tipslib.decoding import decoded, list_photographs, read_json, read_npy
from tipslib.errors import CorruptFile, InvalidInput, require
from tipslib.profiles import PROFILES, Profile, get_profile
from tipslib.sources import cache_folder, find_folder, require_there

SPLITS = ("train", "test")

KNOWN: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {
        "digits": {
            "train-images": "f076bc7f1fb6656cc6d78df07d11f24f4d8b8ec48d732eb8675ae056b2f680a5",
            "train-labels": "45113130dece8ede67e98767266a30948c587ed0c82497c97daaf30176507484",
            "test-images": "87b09ec896079bbbc4efdad48f4a0f1199a13273631c56d4d5b469b193e2744e",
            "test-labels": "026d68a87afb21d3f9181bde17733ff03ae53fbf8bf6a40bc0a782b9764047b8",
        },
        "mnist": {
            "train-images": "741c988805d008ac6e4c904b69001ba184c24b2c540a4ef403f4c71b676cf757",
            "train-labels": "e474323ac02fc156161b0bbb1f8c9cfeb327a74bcd9f9680a8385269a24f566c",
            "test-images": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
            "test-labels": "2fd8de6bdb8d11780b4b96dc57847bcfe6953f7c32aa48bfcd8237c3b7847243",
        },
        "cifar10": {
            "train-images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
            "train-labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
            "test-images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
            "test-labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
            "classes": "fcdc2e1a755ed3463be7e0a84987dac8d36a8636d40302c9b309ab53f8679071",
        },
        "cifar100": {
            "train-images": "2889317d8a656ef686c5d65ec13d71bc9fc6b61868584cabfe1c09941978cbff",
            "train-labels": "fd180f0f2f9d700b27eba5e71f590dd578755f3ad9d11893894cd0ac67a44fb3",
            "test-images": "f0f824d76481543746369abfd62aac4e2bb76df42b0167afb6578e92cc2f7d9a",
            "test-labels": "4b63b49894716d6f215f792784e51dc39f3d11b887de08682afb39508805c6c9",
            "classes": "407f97f9f231f1a980f2c9a1126dd31617d34115d3458d0b5b5955a578140369",
        },
        "imagenet-val-1300": {
            "test-labels": "1475aa7de27b43766c143ebc1cb6265ff025c81430d2f43ffe5f950281a5022a",
            "classes": "068ec3ff4e180984b52eb16630c1729db180aaf3c88f660b012c7f159191118f",
        },
    }
)
"""SHA-256 of the bytes of each array (pixels in order; labels as little-endian int64) and of the class names as JSON.

CIFAR-10's pixels are in the official order; MNIST's are those of the idx files with the published MD5 (6bbc9ace..., 2646ac64...).
"""

DECODED_SIZE: Mapping[str, int] = MappingProxyType({"tiny-imagenet": 64, "imagenet": 256, "imagenet-val-1300": 256})
"""Edge of the square each photograph becomes. A 224 px window of 256 px is what torchvision's ImageNet networks are tested on."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """One split of a data set.

    Attributes
    ----------
    name, split
        As they were asked for.
    images : (N, H, W, C) uint8
        Read-only; memory-mapped where the split is taken whole.
    labels : (N,) int64
        Read-only; indices of `classes`.
    classes
        Names, in the order of the labels.
    checksum
        SHA-256 of two hexadecimal SHA-256 one after the other: that of the pixels taken and that of their labels.
    """

    name: str
    split: str
    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    checksum: str

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        require(images.ndim == 4 and images.dtype == np.uint8, f"images are {images.dtype} {images.shape}; (N, H, W, C) uint8 is wanted")
        require(labels.ndim == 1 and labels.dtype == np.int64, f"labels are {labels.dtype} {labels.shape}; (N,) int64 is wanted")
        require(len(images) == len(labels), f"{len(images)} images and {len(labels)} labels; one label an image is wanted")
        require(len(images) > 0, "no images")
        inside = labels.min() >= 0 and labels.max() < len(self.classes)
        require(bool(inside), f"labels from {labels.min()} to {labels.max()}; allowed are 0 to {len(self.classes) - 1}")
        for field, array in (("images", images), ("labels", labels)):
            view = array.view()
            view.flags.writeable = False
            object.__setattr__(self, field, view)


@dataclass(frozen=True, eq=False)
class _Found:
    """What a reader hands over, not yet believed: `expected` holds the checksum of each piece, `files` its place, `sums` who says so."""

    images: NDArray[Any]
    labels: NDArray[Any]
    classes: tuple[str, ...]
    expected: Mapping[str, str]
    files: Mapping[str, Path]
    sums: Mapping[str, str] | None = None


def load(name: str, split: str, profile: str | Profile, *, size: int | None = None) -> Dataset:
    """Read one split of a data set, as large as the profile allows.

    Where the profile takes only n training images, it takes the first n of `balanced_order`: as many of each class as there can be,
    chosen by the SHA-256 of their pixels, so that the choice depends neither on chance nor on how the files are ordered, and a smaller
    choice is part of a larger one. The test split is always whole.

    Parameters
    ----------
    name
        digits, mnist, cifar10, cifar100, tiny-imagenet, imagenet or imagenet-val-1300.
    split
        "train" or "test".
    profile
        The profile or its name; says which sets may be read.
    size
        Edge of the squares that photographs are decoded to; default `DECODED_SIZE`.

    Raises
    ------
    InvalidInput
        Unknown name, split or profile, or a set that the profile does not read.
    MissingData
        The set is nowhere and cannot be downloaded; the message says what to put where.
    CorruptFile
        A file is not what its checksum says; it is named.
    StorageError
        The cache cannot be written.
    """
    profile = get_profile(profile)
    _require_allowed(name, split, profile, size)
    found = _READERS[name](name, split, size)
    try:
        whole = Dataset(name, split, found.images, found.labels, found.classes, checksum="")
    except InvalidInput as error:
        names = dict.fromkeys([str(found.files["images"]), found.files["labels"].name, found.files["classes"].name])
        raise CorruptFile(f"{', '.join(names)}: {error}. Prepare them anew") from error
    checksum = _check(whole, found)
    wanted = profile.datasets[name] if split == "train" else None
    if wanted is None or wanted >= len(whole.labels):
        return replace(whole, checksum=checksum)
    chosen = balanced_order(whole.images, whole.labels)[:wanted]
    images, labels = np.asarray(whole.images[chosen]), whole.labels[chosen]
    return replace(whole, images=images, labels=labels, checksum=_joined(_digest(images), _digest(labels)))


def balanced_order(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order (N,) whose every beginning holds as many of each class as there can be.

    Within a class images are ordered by the SHA-256 of their pixels; then come the first of each class, the second of each, and so on.
    """
    digests = np.frombuffer(b"".join(hashlib.sha256(np.ascontiguousarray(image).data).digest()[:8] for image in images), ">u8")
    by_class = np.lexsort((digests, labels))
    counts = np.bincount(labels)
    place = np.empty(len(labels), dtype=np.int64)
    place[by_class] = np.arange(len(labels)) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.lexsort((digests, place))


def _require_allowed(name: str, split: str, profile: Profile, size: int | None) -> None:
    require(name in _READERS, f"no data set {name!r}; there are {', '.join(_READERS)}")
    require(split in SPLITS, f"split = {split!r}; allowed are {', '.join(SPLITS)}")
    others = [p.name for p in PROFILES.values() if name in p.datasets]
    require(
        name in profile.datasets,
        f"profile {profile.name!r} does not read {name!r}; it reads {', '.join(profile.datasets)}. "
        + (f"Profiles that read {name!r}: {', '.join(others)}" if others else f"No profile reads {name!r}"),
    )
    require(name != "imagenet-val-1300" or split == "test", "imagenet-val-1300 has a test split only")
    require(size is None or name in DECODED_SIZE, f"size = {size}; {name} has its own size, and only {', '.join(DECODED_SIZE)} are decoded")
    require(size is None or size >= 1, f"size = {size}; at least 1 pixel is wanted")


def _check(whole: Dataset, found: _Found) -> str:
    """Compare each piece with its checksum; returns the SHA-256 of pixels and labels together."""
    got = {"images": _digest(whole.images), "labels": _digest(whole.labels), "classes": _joined(json.dumps(list(whole.classes)))}
    for piece, digest in got.items():
        wanted = found.expected.get(piece, digest)
        if wanted != digest:
            said = f"{wanted} of {found.sums[piece]}" if found.sums and piece in found.sums else wanted
            raise CorruptFile(
                f"{found.files[piece]}: the checksum of its content, {digest}, is not {said}: it was cut or altered. "
                "Prepare it anew, or delete it if it lies in the cache"
            )
    return _joined(got["images"], got["labels"])


def _digest(array: NDArray[Any]) -> str:
    together = hashlib.sha256()
    for start in range(0, len(array), 4096):
        together.update(np.ascontiguousarray(array[start : start + 4096]).data)
    return together.hexdigest()


def _joined(*digests: str) -> str:
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _known(name: str, split: str) -> dict[str, str]:
    return _of_split(KNOWN.get(name, {}), split)


def _of_split(sums: Mapping[str, str], split: str) -> dict[str, str]:
    keys = {"images": f"{split}-images", "labels": f"{split}-labels", "classes": "classes"}
    return {piece: sums[key] for piece, key in keys.items() if key in sums}


def _digits(name: str, split: str, size: int | None) -> _Found:
    """Scikit-learn's 1797 digits, 8 x 8, 0 to 16 scaled to 0 to 255. The first fifth of their `balanced_order` is the test split."""
    import sklearn.datasets

    bundled = sklearn.datasets.load_digits()
    images = np.rint(bundled.images[..., None] * (255 / 16)).astype(np.uint8)
    labels = bundled.target.astype(np.int64)
    order = balanced_order(images, labels)
    fifth = len(order) // 5
    chosen = np.sort(order[:fifth] if split == "test" else order[fifth:])
    files = dict.fromkeys(("images", "labels", "classes"), Path(sklearn.datasets.__file__).parent / "data" / "digits.csv.gz")
    return _Found(images[chosen], labels[chosen], tuple("0123456789"), _known(name, split), files)


def _idx(name: str, split: str, size: int | None) -> _Found:
    """MNIST's own files: a big-endian header, then bytes."""
    folder = find_folder(name) / "MNIST" / "raw"
    part = {"train": "train", "test": "t10k"}[split]
    images, labels = folder / f"{part}-images-idx3-ubyte", folder / f"{part}-labels-idx1-ubyte"
    files = {"images": images, "labels": labels, "classes": labels}
    pixels = _read_idx(images, 3)[..., None]
    return _Found(pixels, _read_idx(labels, 1).astype(np.int64), tuple("0123456789"), _known(name, split), files)


def _read_idx(path: Path, dimensions: int) -> NDArray[np.uint8]:
    require_there(path, "mnist")
    header = 4 + 4 * dimensions
    content = np.memmap(path, np.uint8, "r") if path.stat().st_size else np.zeros(0, np.uint8)
    start = bytes(content[:header])
    shape = tuple(int.from_bytes(start[i : i + 4], "big") for i in range(4, header, 4))
    if start[:4] != bytes([0, 0, 8, dimensions]) or len(content) != header + math.prod(shape):
        raise CorruptFile(f"{path}: no whole idx file of {dimensions}-dimensional bytes: it was cut or altered. Prepare it anew")
    return content[header:].reshape(shape)


def _arrays(name: str, split: str, size: int | None) -> _Found:
    """A folder of .npy arrays with class names, as prepared or as downloaded here before."""
    folder = find_folder(name)
    files = {"images": folder / f"{split}-images.npy", "labels": folder / f"{split}-labels.npy", "classes": folder / "classes.json"}
    for file in files.values():
        require_there(file, name)
    own = folder / "checksums.json"
    sums = read_json(own) if own.is_file() else KNOWN[name]
    expected = _of_split(sums, split) if isinstance(sums, Mapping) else {}
    if len(expected) != len(files) or not all(isinstance(value, str) for value in expected.values()):
        raise CorruptFile(f"{own}: {split}-images, {split}-labels and classes with their SHA-256 are wanted. Write it anew, or delete it")
    names = read_json(files["classes"])
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise CorruptFile(f"{files['classes']}: a JSON list of class names is wanted. Prepare it anew")
    found = _Found(read_npy(files["images"]), np.array(read_npy(files["labels"])), tuple(names), expected, files)
    return replace(found, sums=dict.fromkeys(files, own.name)) if own.is_file() else found


def _photographs(name: str, split: str, size: int | None) -> _Found:
    """A folder of photographs, decoded into the cache."""
    folder = find_folder(name)
    listing = list_photographs(folder, split)
    size = size or DECODED_SIZE[name]
    images, digest, file = decoded(listing, f"{name}-{split}-{size}", size, cache_folder())
    files = {"images": file, "labels": folder / "labels.csv", "classes": folder / "synset_words.txt"}
    expected, note = _known(name, split) | {"images": digest}, f"{file.stem.rpartition('-')[0]}.json"
    return _Found(images, listing.labels, listing.classes, expected, files, {"images": note})


_READERS: Mapping[str, Callable[[str, str, int | None], _Found]] = MappingProxyType(
    {
        "digits": _digits,
        "mnist": _idx,
        "cifar10": _arrays,
        "cifar100": _arrays,
        "tiny-imagenet": _photographs,
        "imagenet": _photographs,
        "imagenet-val-1300": _photographs,
    }
)
