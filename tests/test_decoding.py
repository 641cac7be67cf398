"""Folders of photographs: against torchvision's transforms; three arrangements; every kind of damage."""

import contextlib
import hashlib
import io
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import functional as transforms

from tipslib import decoding
from tipslib.decoding import UNREADABLE, decode, decoded, list_photographs, read_npy
from tipslib.errors import CorruptFile, MissingData, StorageError
from tipslib.records import beside


def photograph(path, seed, width=20, height=16, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes, called by words.txt; three training photographs and two others; one is grey."""
    for i, name in enumerate(["n02/a", "n01/b", "n01/a"]):
        photograph(tmp_path / "set" / "train" / f"{name}.JPEG", i, mode="L" if i == 1 else "RGB")
    for i, name in enumerate(["n01/x", "n02/y"]):
        photograph(tmp_path / "set" / "val" / f"{name}.JPEG", 10 + i)
    (tmp_path / "set" / "words.txt").write_text("n01\tapple, fruit\nn02\tbee\nn03\tcat\n")
    return tmp_path / "set"


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


def everything(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("shape", [(20, 16), (16, 20), (33, 47), (50, 12), (64, 64), (8, 8), (9, 40)])
@pytest.mark.parametrize("size", [8, 16, 31])
def test_pixels_are_those_of_torchvision(tmp_path, shape, size):
    content = photograph(tmp_path / "a.png", 0, *shape).read_bytes()
    picture = Image.open(tmp_path / "a.png")
    expected = transforms.center_crop(transforms.resize(picture, size), size)
    np.testing.assert_array_equal(decode(content, size), np.asarray(expected))


def test_class_folders_are_sorted_and_called_by_words(folder, tmp_path):
    listing = list_photographs(folder, "train")
    assert listing.files == ("train/n01/a.JPEG", "train/n01/b.JPEG", "train/n02/a.JPEG")
    assert listing.labels.tolist() == [0, 0, 1]
    assert listing.classes == ("apple, fruit", "bee")
    images, digest, _ = decoded(listing, "set-train-16", 16, tmp_path / "cache")
    assert isinstance(images, np.memmap)
    for image, file in zip(images, listing.files, strict=True):
        np.testing.assert_array_equal(image, decode((folder / file).read_bytes(), 16))
    assert digest == hashlib.sha256(images.tobytes()).hexdigest()
    assert list_photographs(folder, "test").labels.tolist() == [0, 1]


def test_the_published_arrangement_of_tiny_imagenet(tmp_path):
    for i, name in enumerate(["n01", "n02"]):
        photograph(tmp_path / "train" / name / "images" / f"{name}_0.JPEG", i)
        photograph(tmp_path / "val" / "images" / f"val_{i}.JPEG", 5 + i)
    (tmp_path / "val" / "val_annotations.txt").write_text("val_1.JPEG\tn01\t0\t0\t9\t9\nval_0.JPEG\tn02\t0\t0\t9\t9\n")
    assert list_photographs(tmp_path, "train").files == ("train/n01/images/n01_0.JPEG", "train/n02/images/n02_0.JPEG")
    test = list_photographs(tmp_path, "test")
    assert test.files == ("val/images/val_0.JPEG", "val/images/val_1.JPEG")
    assert test.labels.tolist() == [1, 0]
    (tmp_path / "val" / "val_annotations.txt").write_text("val_0.JPEG\tn09\n")
    with pytest.raises(CorruptFile, match=r"val_0\.JPEG belongs to none of the 2 classes"):
        list_photographs(tmp_path, "test")


def labelled(folder, lines):
    for i in range(2):
        photograph(folder / "images" / f"{i}.JPEG", i)
    (folder / "synset_words.txt").write_text("n01 apple, fruit\nn02 bee\n")
    (folder / "labels.csv").write_text("\n".join(lines))
    return folder


def test_a_list_of_labels(tmp_path):
    listing = list_photographs(labelled(tmp_path, ["file,label", "1.JPEG,0", "0.JPEG,1"]), "test")
    assert listing.files == ("images/0.JPEG", "images/1.JPEG")
    assert listing.labels.tolist() == [1, 0]
    assert listing.classes == ("apple, fruit", "bee")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["file,label", "0.JPEG,2"], r"0\.JPEG belongs to none of the 2 classes"),
        (["file,label", "0.JPEG,-1"], "belongs to none"),
        (["file,label", "0.JPEG,one"], "columns file, label are wanted"),
        (["file,label", "0.JPEG"], "columns file, label are wanted"),
        (["name,label", "0.JPEG,0"], "columns file, label are wanted"),
        (["file,label", "../../secret.JPEG,0"], "is no file name"),
    ],
)
def test_a_wrong_list_of_labels_is_refused(tmp_path, lines, message):
    with pytest.raises(CorruptFile, match=rf"labels\.csv: .*{message}"):
        list_photographs(labelled(tmp_path, lines), "test")


def test_a_listed_photograph_that_is_not_there_is_named(tmp_path):
    listing = list_photographs(labelled(tmp_path, ["file,label", "7.JPEG,0"]), "test")
    with pytest.raises(CorruptFile, match=r"7\.JPEG: is listed, but not there"):
        decoded(listing, "set", 8, tmp_path / "cache")


def test_no_photographs_are_missing_data(tmp_path):
    (tmp_path / "train").mkdir()
    with pytest.raises(MissingData, match="train: holds no photographs"):
        list_photographs(tmp_path, "train")
    with pytest.raises(MissingData, match="val: holds no photographs"):
        list_photographs(tmp_path, "test")


def test_photographs_are_decoded_once(folder, tmp_path, monkeypatch):
    cache = tmp_path / "cache"
    first, digest, _ = decoded(list_photographs(folder, "train"), "set", 8, cache)
    monkeypatch.setattr(decoding, "decode", lambda content, size: pytest.fail("decoded twice"))
    second, again, _ = decoded(list_photographs(folder, "train"), "set", 8, cache)
    np.testing.assert_array_equal(first, second)
    assert digest == again
    assert len(files(cache)) == 3


def test_blocks_do_not_matter(folder, tmp_path, monkeypatch):
    whole, _, _ = decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "one")
    monkeypatch.setattr(decoding, "BLOCK", 2)
    parts, _, _ = decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "two")
    np.testing.assert_array_equal(whole, parts)


def test_new_photographs_are_taken_up_and_the_old_array_goes(folder, tmp_path):
    cache = tmp_path / "cache"
    decoded(list_photographs(folder, "train"), "set", 8, cache)
    photograph(folder / "train" / "n02" / "new.JPEG", 9)
    images, _, _ = decoded(list_photographs(folder, "train"), "set", 8, cache)
    assert len(images) == 4
    assert len(files(cache)) == 3


def test_a_photograph_changed_after_decoding_is_refused_by_name(folder, tmp_path):
    cache = tmp_path / "cache"
    decoded(list_photographs(folder, "train"), "set", 8, cache)
    before = everything(cache)
    altered = folder / "train" / "n01" / "b.JPEG"
    content = bytearray(altered.read_bytes())
    content[len(content) // 2] ^= 1
    altered.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"n01/b\.JPEG: its checksum .* is not"):
        decoded(list_photographs(folder, "train"), "set", 8, cache)
    assert everything(cache) == before


def test_checksums_beside_the_photographs_are_heeded(folder, tmp_path):
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(folder)}" for p in folder.rglob("*.JPEG")]
    (folder / "SHA256SUMS").write_text("\n".join(lines))
    decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "one")
    photograph(folder / "train" / "n01" / "a.JPEG", 77)
    with pytest.raises(CorruptFile, match=r"n01/a\.JPEG: its checksum"):
        decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "two")
    assert files(tmp_path / "two") == []


@pytest.mark.parametrize("content", [b"", b"no photograph", None])
def test_a_broken_photograph_is_named_and_nothing_is_kept(folder, tmp_path, content):
    broken = folder / "train" / "n01" / "b.JPEG"
    broken.write_bytes(broken.read_bytes()[:300] if content is None else content)
    with pytest.raises(CorruptFile, match=r"n01/b\.JPEG: not a whole photograph"):
        decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "cache")
    assert files(tmp_path / "cache") == []


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"null", b'{"state": 1}', b'{"state": "", "file": "../../secret", "sha256": ""}', None])
def test_with_a_broken_note_or_without_the_array_photographs_are_decoded_anew(folder, tmp_path, note):
    cache = tmp_path / "cache"
    listing = list_photographs(folder, "train")
    before, digest, array = decoded(listing, "set", 8, cache)
    before = np.array(before)
    if note is None:
        array.unlink()
    else:
        next(cache.rglob("*.json")).write_bytes(note)
    after, again, _ = decoded(listing, "set", 8, cache)
    np.testing.assert_array_equal(after, before)
    assert digest == again


def test_a_cache_that_cannot_be_written_says_what_to_do(folder, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match=r"cannot be written .*TIPSLIB_CACHE"):
        decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "file")


def test_an_interrupted_decoding_leaves_nothing(folder, tmp_path, monkeypatch):
    def interrupted(content, size):
        raise KeyboardInterrupt

    monkeypatch.setattr(decoding, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "cache")
    assert files(tmp_path / "cache") == []


def test_what_a_killed_decoding_left_goes_with_the_next(folder, tmp_path):
    place = tmp_path / "cache" / "decoded"
    _, _, array = decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "cache")
    whole = files(tmp_path / "cache")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    name = beside(place / array.stem.rpartition("-")[0]).name.replace(f".{os.getpid()}.", f".{dead.pid}.")
    (place / name).write_bytes(b"half")
    array.unlink()
    decoded(list_photographs(folder, "train"), "set", 8, tmp_path / "cache")
    assert files(tmp_path / "cache") == whole


def packed(kind):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 20, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


PHOTOGRAPHS = {kind: packed(kind) for kind in ("JPEG", "PNG")}


@given(st.data())
@settings(max_examples=150)
def test_damaged_bytes_give_a_photograph_or_a_known_error(data):
    content = bytearray(PHOTOGRAPHS[data.draw(st.sampled_from(sorted(PHOTOGRAPHS)))])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(len(content) // 2, len(content))) :]
    with contextlib.suppress(*UNREADABLE):
        assert decode(bytes(content), 8).shape == (8, 8, 3)


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def test_a_planted_pickle_is_refused_and_not_run(tmp_path):
    np.save(tmp_path / "evil.npy", np.array([Planted(str(tmp_path / "harm"))], dtype=object), allow_pickle=True)
    with pytest.raises(CorruptFile, match=r"evil\.npy: not a whole \.npy array"):
        read_npy(tmp_path / "evil.npy")
    assert not (tmp_path / "harm").exists()


def test_an_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", a=np.zeros(3))
    (tmp_path / "a.npz").rename(tmp_path / "a.npy")
    with pytest.raises(CorruptFile, match="archive of arrays"):
        read_npy(tmp_path / "a.npy")


def test_a_cut_archive_of_arrays_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.arange(9))
    (tmp_path / "a.npy").write_bytes((tmp_path / "a.npz").read_bytes()[:60])
    with pytest.raises(CorruptFile, match=r"a\.npy"):
        read_npy(tmp_path / "a.npy")
