"""`load`: against scikit-learn's pixels and what was written; every kind of file changed or cut; which images a subset takes."""

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.datasets import load_digits

from tipslib import data
from tipslib.data import Dataset, balanced_order, load
from tipslib.errors import CorruptFile, InvalidInput, MissingData, StorageError
from tipslib.profiles import PROFILES

GPU = PROFILES["gpu"]
KINDS = ("train-images.npy", "train-labels.npy", "classes.json", "checksums.json")


def taking(count, *names):
    """The `gpu` profile, with `count` training images of each of `names`."""
    return replace(GPU, name="small", datasets=GPU.datasets | dict.fromkeys(names, count))


def sha256(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder for prepared data; the cache lies beside it."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("TIPSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TIPSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path / "data"


def arrays(folder, sums=True, **changed):
    """A prepared CIFAR-like folder with 12 training and 6 test images of 3 classes, its checksums beside it."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    content = {"classes": ["apple", "bee", "cat"]}
    for split, count in (("train", 12), ("test", 6)):
        content[f"{split}-images"] = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        content[f"{split}-labels"] = np.arange(count, dtype=np.int64) % 3
    content |= changed
    for name, value in content.items():
        if name != "classes":
            np.save(folder / f"{name}.npy", value, allow_pickle=True)
    (folder / "classes.json").write_text(json.dumps(content["classes"]))
    known = {name: sha256(value) for name, value in content.items() if name != "classes"}
    known["classes"] = hashlib.sha256(json.dumps(content["classes"]).encode()).hexdigest()
    if sums:
        (folder / "checksums.json").write_text(json.dumps(known))
    return content, known


def idx(folder, count=12, edge=4):
    """MNIST's four files with a few small images."""
    raw = folder / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(1)
    content = {}
    for split, part in (("train", "train"), ("test", "t10k")):
        content[f"{split}-images"] = images = rng.integers(0, 256, (count, edge, edge), dtype=np.uint8)
        content[f"{split}-labels"] = labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
            (raw / f"{part}-{name}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    known = {name: sha256(a if a.ndim > 1 else a.astype(np.int64)) for name, a in content.items()}
    return raw, content, known


def photograph(path, colour):
    """One colour, so that JPEG keeps it to within a few steps."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (20, 16), colour).save(path, "JPEG")


RED, GREEN, BLUE = (200, 20, 20), (20, 200, 20), (20, 20, 200)


def class_folders(folder):
    for i, (name, colour) in enumerate([("n01", RED), ("n02", GREEN), ("n03", BLUE)]):
        for j in range(2):
            photograph(folder / "train" / name / f"{j}.JPEG", colour)
        photograph(folder / "val" / name / f"{7 - i}.JPEG", colour)
    (folder / "words.txt").write_text("n01\tapple, fruit\nn02\tbee\nn03\tcat\n")


def as_published(folder):
    """The arrangement of the official tiny-imagenet-200.zip."""
    for name, colour in (("n01", RED), ("n02", GREEN), ("n03", BLUE)):
        for j in range(2):
            photograph(folder / "train" / name / "images" / f"{name}_{j}.JPEG", colour)
        (folder / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t9\t9\n")
    for i, colour in enumerate([BLUE, RED, GREEN]):
        photograph(folder / "val" / "images" / f"val_{i}.JPEG", colour)
        photograph(folder / "test" / "images" / f"test_{i}.JPEG", colour)
    lines = [f"val_{i}.JPEG\t{name}\t0\t0\t9\t9" for i, name in enumerate(["n03", "n01", "n02"])]
    (folder / "val" / "val_annotations.txt").write_text("\n".join(lines) + "\n")
    (folder / "words.txt").write_text("n01\tapple, fruit\nn02\tbee\nn03\tcat\nn04\tdog\n")
    (folder / "wnids.txt").write_text("n03\nn01\nn02\n")


def flip(path, place, bit=0):
    """Change one bit; the file is replaced, because an array read before may still be mapped."""
    content = bytearray(path.read_bytes())
    content[place % len(content)] ^= 1 << bit
    path.unlink()
    path.write_bytes(content)


def shorten(path, length):
    content = path.read_bytes()[:length]
    path.unlink()
    path.write_bytes(content)


def test_digits_are_those_of_scikit_learn_in_two_disjoint_stratified_splits():
    train, test = (load("digits", split, "laptop") for split in ("train", "test"))
    bundled = load_digits()
    assert (len(train.labels), len(test.labels)) == (1438, 359)
    assert train.images.shape[1:] == (8, 8, 1)
    expected = sorted(
        (int(y), np.rint(x * 255 / 16).astype(np.uint8).tobytes()) for x, y in zip(bundled.images, bundled.target, strict=True)
    )
    found = [(int(y), x.tobytes()) for part in (train, test) for x, y in zip(part.images, part.labels, strict=True)]
    assert sorted(found) == expected
    assert not {x.tobytes() for x in train.images} & {x.tobytes() for x in test.images}
    counts = np.bincount(test.labels, minlength=10)
    assert counts.max() - counts.min() <= 1
    assert train.classes == tuple("0123456789")
    assert sha256(train.images) == data.KNOWN["digits"]["train-images"]
    assert load("digits", "train", "laptop").checksum == train.checksum != test.checksum


def test_digits_that_are_not_those_known_are_refused(monkeypatch):
    monkeypatch.setattr(data, "KNOWN", {"digits": dict(data.KNOWN["digits"], **{"test-labels": "0" * 64})})
    with pytest.raises(CorruptFile, match=r"digits\.csv\.gz: the checksum"):
        load("digits", "test", "smoke")
    load("digits", "train", "smoke")


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_prepared_folder_is_read_as_it_was_written(home, name, split):
    content, known = arrays(home / name)
    found = load(name, split, GPU)
    np.testing.assert_array_equal(found.images, content[f"{split}-images"])
    np.testing.assert_array_equal(found.labels, content[f"{split}-labels"])
    assert found.classes == ("apple", "bee", "cat")
    assert isinstance(found.images.base, np.memmap)
    assert found.checksum == hashlib.sha256((known[f"{split}-images"] + known[f"{split}-labels"]).encode()).hexdigest()
    assert (found.name, found.split) == (name, split)


def test_a_prepared_folder_without_checksums_must_be_the_known_one(home, monkeypatch):
    _, known = arrays(home / "cifar10", sums=False)
    with pytest.raises(CorruptFile, match=r"cifar10/train-images\.npy: the checksum"):
        load("cifar10", "train", GPU)
    monkeypatch.setattr(data, "KNOWN", {"cifar10": known})
    assert len(load("cifar10", "train", GPU).labels) == 12


def test_what_was_loaded_cannot_be_changed(home):
    arrays(home / "cifar10")
    for found in (load("cifar10", "train", GPU), load("cifar10", "train", taking(6, "cifar10")), load("digits", "test", "smoke")):
        for array in (found.images, found.labels):
            with pytest.raises(ValueError, match="read-only"):
                array[0] = 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_idx_files_are_read_as_they_were_written(home, monkeypatch, split):
    _, content, known = idx(home / "mnist")
    with pytest.raises(CorruptFile, match=r"-images-idx3-ubyte: the checksum"):
        load("mnist", split, GPU)
    monkeypatch.setattr(data, "KNOWN", {"mnist": known})
    found = load("mnist", split, GPU)
    np.testing.assert_array_equal(found.images[..., 0], content[f"{split}-images"])
    np.testing.assert_array_equal(found.labels, content[f"{split}-labels"])


@pytest.mark.parametrize("arrange", [class_folders, as_published])
def test_both_arrangements_of_tiny_imagenet_are_read(home, arrange):
    arrange(home / "tiny-imagenet")
    for split, each in (("train", 2), ("test", 1)):
        found = load("tiny-imagenet", split, GPU, size=8)
        assert found.images.shape == (3 * each, 8, 8, 3)
        assert found.classes == ("apple, fruit", "bee", "cat")
        assert np.bincount(found.labels).tolist() == [each] * 3
        colours = np.array([RED, GREEN, BLUE])[found.labels][:, None, None]
        assert np.abs(found.images.astype(int) - colours).max() < 12
    assert load("tiny-imagenet", "test", GPU).images.shape[1:] == (64, 64, 3)


def test_imagenet_is_read_by_the_paper_profile(home):
    class_folders(home / "imagenet")
    assert load("imagenet", "test", "paper", size=16).images.shape == (3, 16, 16, 3)


def listed(folder):
    for i, colour in enumerate([RED, GREEN]):
        photograph(folder / "images" / f"{i}.JPEG", colour)
    (folder / "labels.csv").write_text("file,label\n1.JPEG,1\n0.JPEG,0\n")
    (folder / "synset_words.txt").write_text("n01 apple, fruit\nn02 bee\n")
    known = {"test-labels": sha256(np.array([0, 1])), "classes": hashlib.sha256(b'["apple, fruit", "bee"]').hexdigest()}
    return {"imagenet-val-1300": known}


def test_a_list_of_labels_is_held_against_what_is_known(home, monkeypatch):
    monkeypatch.setattr(data, "KNOWN", listed(home / "imagenet-val-1300"))
    assert load("imagenet-val-1300", "test", GPU, size=8).labels.tolist() == [0, 1]
    (home / "imagenet-val-1300" / "labels.csv").write_text("file,label\n1.JPEG,0\n0.JPEG,1\n")
    with pytest.raises(CorruptFile, match=r"labels\.csv: the checksum"):
        load("imagenet-val-1300", "test", GPU, size=8)
    (home / "imagenet-val-1300" / "labels.csv").write_text("file,label\n1.JPEG,1\n0.JPEG,0\n")
    (home / "imagenet-val-1300" / "synset_words.txt").write_text("n01 apple\nn02 bee\n")
    with pytest.raises(CorruptFile, match=r"synset_words\.txt: the checksum"):
        load("imagenet-val-1300", "test", GPU, size=8)


@pytest.mark.parametrize(("kind", "place", "bit"), [(KINDS[0], -8, 0), (KINDS[1], -8, 1), (KINDS[2], -4, 1)])
def test_a_bit_of_content_changed_is_refused_by_name_where_all_else_fits(home, kind, place, bit):
    arrays(home / "cifar10")
    flip(home / "cifar10" / kind, place, bit)
    with pytest.raises(CorruptFile, match=rf"cifar10/{kind}: the checksum of its content"):
        load("cifar10", "train", GPU)
    if kind != "classes.json":
        assert len(load("cifar10", "test", GPU).labels) == 6


@pytest.mark.parametrize("kind", KINDS)
@given(damage=st.data())
@settings(max_examples=60)
def test_no_damage_to_an_array_folder_is_believed_or_raises_anything_else(tmp_path_factory, kind, damage):
    home = tmp_path_factory.mktemp("data")
    content, _ = arrays(home / "cifar10")
    path = home / "cifar10" / kind
    length = path.stat().st_size
    # the header is where damage is most varied
    place = damage.draw(st.one_of(st.integers(0, min(length, 128) - 1), st.integers(0, length - 1)))
    if damage.draw(st.booleans()):
        flip(path, place, damage.draw(st.integers(0, 7)))
    else:
        shorten(path, place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIPSLIB_DATA", str(home))
        try:
            found = load("cifar10", "train", GPU)
        except CorruptFile as error:
            assert "cifar10" in str(error)
        else:
            # white space of a header or between two names may change
            np.testing.assert_array_equal(found.images, content["train-images"])
            np.testing.assert_array_equal(found.labels, content["train-labels"])
            assert list(found.classes) == content["classes"]


@pytest.mark.parametrize("kind", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"])
@pytest.mark.parametrize("cut", [True, False])
def test_any_byte_of_an_idx_file_changed_or_cut_away_is_refused_by_name(home, monkeypatch, kind, cut):
    raw, _, known = idx(home / "mnist", edge=2)
    monkeypatch.setattr(data, "KNOWN", {"mnist": known})
    whole = (raw / kind).read_bytes()
    for place in range(len(whole)):
        (raw / kind).unlink()
        (raw / kind).write_bytes(whole[:place] if cut else whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(CorruptFile, match=kind):
            load("mnist", "train", GPU)


@pytest.mark.parametrize("place", [0, 6, 40, 130, -1])
def test_a_byte_changed_in_a_decoded_array_is_refused_by_name_and_healed_by_deleting_it(home, place):
    class_folders(home / "tiny-imagenet")
    before = np.array(load("tiny-imagenet", "train", GPU, size=8).images)
    (array,) = (home.parent / "cache" / "decoded").glob("*.npy")
    flip(array, place)
    with pytest.raises(CorruptFile, match=array.name):
        load("tiny-imagenet", "train", GPU, size=8)
    array.unlink()
    np.testing.assert_array_equal(load("tiny-imagenet", "train", GPU, size=8).images, before)


@pytest.mark.parametrize("length", [0, 5, 100, 300])
def test_a_decoded_array_cut_short_is_refused_by_name(home, length):
    class_folders(home / "tiny-imagenet")
    load("tiny-imagenet", "train", GPU, size=8)
    (array,) = (home.parent / "cache" / "decoded").glob("*.npy")
    shorten(array, length)
    with pytest.raises(CorruptFile, match=array.name):
        load("tiny-imagenet", "train", GPU, size=8)


def test_half_a_photograph_is_refused_by_name_and_nothing_is_kept(home):
    class_folders(home / "tiny-imagenet")
    path = home / "tiny-imagenet" / "train" / "n02" / "1.JPEG"
    shorten(path, path.stat().st_size // 2)
    with pytest.raises(CorruptFile, match=r"train/n02/1\.JPEG: not a whole photograph"):
        load("tiny-imagenet", "train", GPU, size=8)
    assert [p for p in (home.parent / "cache").rglob("*") if p.is_file()] == []


PIXELS = np.zeros((12, 32, 32, 3), np.uint8)
LABELS = np.arange(12, dtype=np.int64) % 3


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"train-labels": LABELS + 1}, "labels from 1 to 3; allowed are 0 to 2"),
        ({"train-labels": LABELS - 1}, "labels from -1 to 1"),
        ({"train-labels": LABELS[:11]}, "12 images and 11 labels"),
        ({"train-labels": LABELS.astype(np.int32)}, r"labels are int32 \(12,\)"),
        ({"train-labels": LABELS.astype(">i8")}, "labels are >i8"),
        ({"train-labels": LABELS[:, None]}, r"labels are int64 \(12, 1\)"),
        ({"train-images": PIXELS[:11]}, "11 images and 12 labels"),
        ({"train-images": PIXELS.astype(np.float32)}, "images are float32"),
        ({"train-images": PIXELS[..., 0]}, r"images are uint8 \(12, 32, 32\)"),
        ({"classes": ["apple", "bee"]}, "allowed are 0 to 1"),
        ({"classes": []}, "labels from 0 to 2"),
        ({"classes": {"apple": 0}}, r"classes\.json: a JSON list of class names is wanted"),
        ({"classes": [1, 2, 3]}, r"classes\.json: a JSON list"),
        ({"train-labels": np.array([None] * 12)}, r"train-labels\.npy: not a whole \.npy array"),
        ({"train-images": np.array([None] * 12)}, r"train-images\.npy: not a whole \.npy array"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name_though_their_checksums_match(home, changed, message):
    arrays(home / "cifar10", **({"train-images": PIXELS} | changed))
    with pytest.raises(CorruptFile, match=rf"cifar10/.*{message}"):
        load("cifar10", "train", GPU)


def test_no_images_are_refused(home):
    arrays(home / "cifar10", **{"train-images": PIXELS[:0], "train-labels": LABELS[:0]})
    with pytest.raises(CorruptFile, match=r"cifar10/train-images\.npy.*(no images|not a whole)"):
        load("cifar10", "train", GPU)


@pytest.mark.parametrize("content", ["[]", "{}", '{"train-images": 1, "train-labels": 2, "classes": 3}', "null", '"text"', "[" * 100_000])
def test_wrong_checksum_files_are_refused_by_name(home, content):
    arrays(home / "cifar10")
    (home / "cifar10" / "checksums.json").write_text(content)
    with pytest.raises(CorruptFile, match=r"checksums\.json"):
        load("cifar10", "train", GPU)


@pytest.mark.parametrize("kind", KINDS[:3])
def test_a_missing_file_says_what_to_put_where(home, kind):
    arrays(home / "cifar10")
    (home / "cifar10" / kind).unlink()
    with pytest.raises(MissingData, match=rf"cifar10/{kind} is missing. Let TIPSLIB_DATA name a folder that holds cifar10/ with"):
        load("cifar10", "train", GPU)


def test_a_missing_idx_file_says_what_to_put_where(home):
    raw, _, _ = idx(home / "mnist")
    (raw / "train-labels-idx1-ubyte").unlink()
    with pytest.raises(MissingData, match=r"train-labels-idx1-ubyte is missing.*MNIST/raw/"):
        load("mnist", "train", GPU)


def test_a_cache_that_cannot_be_written_says_what_to_do(home, monkeypatch):
    class_folders(home / "tiny-imagenet")
    (home.parent / "file").write_bytes(b"")
    monkeypatch.setenv("TIPSLIB_CACHE", str(home.parent / "file" / "cache"))
    with pytest.raises(StorageError, match=r"file/cache.* cannot be written .*TIPSLIB_CACHE"):
        load("tiny-imagenet", "train", GPU, size=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("svhn", "train", "gpu"), "no data set 'svhn'; there are digits, mnist, cifar10"),
        (("digits", "val", "smoke"), "split = 'val'; allowed are train, test"),
        (("digits", "train", "huge"), "no profile 'huge'; there are smoke, laptop, gpu, paper"),
        (("cifar10", "train", "smoke"), "profile 'smoke' does not read 'cifar10'; it reads digits. .* laptop, gpu, paper"),
        (("imagenet", "train", "gpu"), "Profiles that read 'imagenet': paper"),
        (("imagenet-val-1300", "train", "gpu"), "has a test split only"),
    ],
)
def test_names_that_are_not_allowed_are_refused_with_those_that_are(home, arguments, message):
    with pytest.raises(InvalidInput, match=message):
        load(*arguments)


@pytest.mark.parametrize(("name", "size", "message"), [("digits", 8, "has its own size"), ("tiny-imagenet", 0, "at least 1 pixel")])
def test_sizes_that_are_not_allowed_are_refused(home, name, size, message):
    with pytest.raises(InvalidInput, match=message):
        load(name, "train", GPU, size=size)


def by_force(images, labels):
    """The order in words: the first image of each class, then the second of each, ...; ties and classes by digest."""
    digests = [hashlib.sha256(image.tobytes()).digest()[:8] for image in images]
    waiting = {k: sorted((digests[i], i) for i in range(len(labels)) if labels[i] == k) for k in set(labels.tolist())}
    order = []
    while any(waiting.values()):
        order += [i for _, i in sorted(pairs.pop(0) for pairs in waiting.values() if pairs)]
    return order


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.integers(0, 99))
@settings(max_examples=100)
def test_the_balanced_order_is_that_by_force_and_does_not_depend_on_the_stored_one(labels, seed):
    rng = np.random.default_rng(seed)
    images, labels = rng.integers(0, 256, (len(labels), 2, 2, 1), dtype=np.uint8), np.array(labels)
    images[:, 0, 0, 0] = np.arange(len(labels))  # no two alike
    order = balanced_order(images, labels)
    assert order.tolist() == by_force(images, labels)
    for count in range(1, len(labels) + 1):
        taken, there = np.bincount(labels[order[:count]], minlength=5), np.bincount(labels, minlength=5)
        # a class has fewer than the largest only if it has no more, or its turn is to come
        assert all(t == n or t >= taken.max() - 1 for t, n in zip(taken, there, strict=True))
    shuffled = rng.permutation(len(labels))
    again = balanced_order(images[shuffled], labels[shuffled])
    np.testing.assert_array_equal(images[shuffled][again], images[order])


def test_a_profile_takes_a_balanced_beginning_of_the_training_split_and_all_of_the_test_split(home):
    content, _ = arrays(home / "cifar10")
    six, nine = (load("cifar10", "train", taking(count, "cifar10")) for count in (6, 9))
    assert np.bincount(six.labels).tolist() == [2, 2, 2]
    assert np.bincount(nine.labels).tolist() == [3, 3, 3]
    np.testing.assert_array_equal(nine.images[:6], six.images)
    order = balanced_order(content["train-images"], content["train-labels"])
    np.testing.assert_array_equal(six.images, content["train-images"][order[:6]])
    assert six.checksum == hashlib.sha256((sha256(six.images) + sha256(six.labels)).encode()).hexdigest()
    whole = load("cifar10", "train", GPU)
    assert len({six.checksum, nine.checksum, whole.checksum}) == 3
    assert load("cifar10", "train", taking(12, "cifar10")).checksum == whole.checksum
    assert len(load("cifar10", "test", taking(2, "cifar10")).labels) == 6


def test_a_subset_depends_on_neither_the_order_of_the_files_nor_a_seed_but_on_every_pixel_and_label(home):
    content, _ = arrays(home / "cifar10")
    shuffled = np.random.default_rng(5).permutation(12)
    images, labels = content["train-images"][shuffled], content["train-labels"][shuffled]
    arrays(home / "cifar100", **{"train-images": images, "train-labels": labels})
    small = taking(6, "cifar10", "cifar100")
    one, other = load("cifar10", "train", small), load("cifar100", "train", small)
    np.testing.assert_array_equal(one.images, other.images)
    np.testing.assert_array_equal(one.labels, other.labels)
    assert one.checksum == other.checksum


@pytest.mark.parametrize("piece", ["train-images", "train-labels"])
def test_the_checksum_depends_on_one_pixel_and_one_label(home, piece):
    content, _ = arrays(home / "cifar10")
    changed = content[piece].copy()
    changed.flat[-1] = (changed.flat[-1] + 1) % 3
    arrays(home / "cifar100", **{piece: changed})
    assert load("cifar10", "train", GPU).checksum != load("cifar100", "train", GPU).checksum


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (PIXELS, LABELS[:3], "12 images and 3 labels"),
        (PIXELS.astype(np.int16), LABELS, "images are int16"),
        (PIXELS, LABELS.astype(np.float64), "labels are float64"),
        (PIXELS, LABELS + 9, "allowed are 0 to 2"),
        (PIXELS[:0], LABELS[:0], "no images"),
    ],
)
def test_a_data_set_of_ones_own_is_checked_too(images, labels, message):
    with pytest.raises(InvalidInput, match=message):
        Dataset("mine", "train", images, labels, ("a", "b", "c"), "")
