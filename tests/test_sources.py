"""Where data sets are found: prepared, unpacked, downloaded by torchvision's own code from this machine; and every way it can fail."""

import functools
import hashlib
import http.server
import pickle
import tarfile
import threading
from urllib.error import URLError

import numpy as np
import pytest
import torchvision

from tipslib import data
from tipslib.errors import CorruptFile, MissingData, StorageError
from tipslib.sources import LAYOUT, cache_folder, find_folder


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder for prepared data and an empty cache."""
    (tmp_path / "data").mkdir()
    monkeypatch.setenv("TIPSLIB_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TIPSLIB_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def served(home, monkeypatch):
    """Address under which `home` is served."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            """Say nothing."""

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=home)) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def offline(monkeypatch):
    def refuse(*args, **kwargs):
        raise URLError("no network")

    monkeypatch.setattr("torchvision.datasets.utils.download_url", refuse)


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


class Planted:
    """Creates a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def small_cifar(folder, served, kind, damage=None):
    """A subclass of torchvision's class whose archive holds two images a batch and is served from `folder`."""
    parent = {"cifar10": torchvision.datasets.CIFAR10, "cifar100": torchvision.datasets.CIFAR100}[kind]
    labels, names = {"cifar10": ("labels", "label_names"), "cifar100": ("fine_labels", "fine_label_names")}[kind]
    batches = folder / "packing" / parent.base_folder
    batches.mkdir(parents=True)
    rng = np.random.default_rng(0)
    contents = {}
    for name, _ in parent.train_list + parent.test_list:
        contents[name] = {"data": rng.integers(0, 256, (2, 3072), dtype=np.uint8), labels: [1, 0]}
    sums = {}
    for name, content in (contents | {parent.meta["filename"]: {names: ["apple", "bee"]}}).items():
        packed = pickle.dumps(content)
        sums[name] = hashlib.md5(packed).hexdigest()
        if damage == "batch" and name in contents:
            packed = pickle.dumps(Planted(str(folder / "harm")))
        (batches / name).write_bytes(packed)
    archive = folder / parent.filename
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, parent.base_folder)
        if damage == "evil":
            tar.add(archive.with_name("packing"), "../escaped")
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()

    changed = {
        "url": f"{served}/{archive.name}",
        "tgz_md5": md5 if damage != "archive" else "0" * 32,
        "train_list": [[name, sums[name]] for name, _ in parent.train_list],
        "test_list": [[name, sums[name]] for name, _ in parent.test_list],
        "meta": parent.meta | {"md5": sums[parent.meta["filename"]]},
    }
    return type("Small", (parent,), changed), contents


@pytest.mark.parametrize("kind", ["cifar10", "cifar100"])
def test_cifar_is_downloaded_checked_and_kept_as_arrays(home, served, monkeypatch, kind):
    Small, contents = small_cifar(home, served, kind)
    monkeypatch.setattr(f"torchvision.datasets.{kind.upper()}", Small)
    for split, listed in (("train", Small.train_list), ("test", Small.test_list)):
        found = data.load(kind, split, "gpu")
        pixels = np.concatenate([contents[name]["data"] for name, _ in listed])
        np.testing.assert_array_equal(found.images, pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        assert found.labels.tolist() == [1, 0] * len(listed)
        assert found.classes == ("apple", "bee")
        assert isinstance(found.images.base, np.memmap)
    names = {f"{split}-{piece}.npy" for split in ("train", "test") for piece in ("images", "labels")}
    assert set(files(home / "cache")) == {f"downloads/{kind}/{n}" for n in names | {"classes.json", "checksums.json"}}


def test_a_download_happens_once(home, served, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", small_cifar(home, served, "cifar10")[0])
    first = data.load("cifar10", "train", "gpu")
    monkeypatch.setattr("torchvision.datasets.CIFAR10", None)
    assert data.load("cifar10", "train", "gpu").checksum == first.checksum


def test_a_kept_download_with_a_byte_changed_is_refused_by_name(home, served, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", small_cifar(home, served, "cifar10")[0])
    data.load("cifar10", "test", "gpu")
    path = home / "cache" / "downloads" / "cifar10" / "test-images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.unlink()
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"downloads/cifar10/test-images\.npy: the checksum"):
        data.load("cifar10", "test", "gpu")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("archive", r"cifar-10-python\.tar\.gz: came with another checksum"),
        ("batch", r"cifar-10-python\.tar\.gz: a batch in it has not the published checksum"),
        ("evil", r"cifar-10-python\.tar\.gz: .*outside the folder"),
    ],
)
def test_a_damaged_download_is_refused_and_nothing_is_kept(home, served, monkeypatch, damage, message):
    monkeypatch.setattr("torchvision.datasets.CIFAR10", small_cifar(home, served, "cifar10", damage)[0])
    with pytest.raises(CorruptFile, match=message):
        find_folder("cifar10")
    assert files(home / "cache") == []
    assert not (home / "escaped").exists()
    assert not (home / "harm").exists()


class FakeMNIST:
    """Leaves what torchvision leaves."""

    def __init__(self, root, download):
        assert download
        raw = root / "MNIST" / "raw"
        raw.mkdir(parents=True)
        for part in ("train", "t10k"):
            for name, header, body in (("images-idx3", (3, (3, 2, 2)), b"pixels" * 2), ("labels-idx1", (1, (3,)), bytes([0, 1, 9]))):
                sizes = b"".join(n.to_bytes(4, "big") for n in header[1])
                (raw / f"{part}-{name}-ubyte").write_bytes(bytes([0, 0, 8, header[0]]) + sizes + body)
                (raw / f"{part}-{name}-ubyte.gz").write_bytes(b"packed")


def test_mnist_is_downloaded_and_checked_by_what_is_known_of_it(home, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.MNIST", FakeMNIST)
    with pytest.raises(CorruptFile, match="train-images-idx3-ubyte: the checksum"):
        data.load("mnist", "train", "gpu")
    monkeypatch.setattr(data, "KNOWN", {})
    found = data.load("mnist", "train", "gpu")
    assert found.images.tobytes() == b"pixels" * 2
    assert found.images.shape == (3, 2, 2, 1)
    assert found.labels.tolist() == [0, 1, 9]
    assert len(files(home / "cache")) == 4


@pytest.mark.parametrize(
    "error", [RuntimeError("Error downloading: tried a mirror"), ConnectionResetError(104, "reset"), TimeoutError("late")]
)
def test_a_failed_download_of_mnist_says_what_to_put_where(home, monkeypatch, error):
    class Failing(FakeMNIST):
        def __init__(self, root, download):
            super().__init__(root, download)
            raise error

    monkeypatch.setattr("torchvision.datasets.MNIST", Failing)
    with pytest.raises(MissingData, match="TIPSLIB_DATA name a folder that holds mnist/ with MNIST/raw/"):
        find_folder("mnist")
    assert files(home / "cache") == []


def test_an_interrupted_download_leaves_nothing(home, monkeypatch):
    class Interrupted(FakeMNIST):
        def __init__(self, root, download):
            super().__init__(root, download)
            raise KeyboardInterrupt

    monkeypatch.setattr("torchvision.datasets.MNIST", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        find_folder("mnist")
    assert files(home / "cache") == []


@pytest.mark.parametrize("name", sorted(LAYOUT))
@pytest.mark.usefixtures("offline")
def test_a_set_that_is_nowhere_says_what_to_put_where(home, name):
    with pytest.raises(MissingData) as caught:
        find_folder(name)
    assert f"TIPSLIB_DATA name a folder that holds {name}/ with {LAYOUT[name]}" in str(caught.value)


def test_a_folder_for_data_that_is_none_is_refused(home, monkeypatch):
    monkeypatch.setenv("TIPSLIB_DATA", str(home / "nowhere"))
    with pytest.raises(MissingData, match="nowhere, which is no folder"):
        find_folder("cifar10")


def test_what_is_prepared_goes_before_what_was_downloaded(home):
    (home / "cache" / "downloads" / "cifar10").mkdir(parents=True)
    assert find_folder("cifar10") == home / "cache" / "downloads" / "cifar10"
    (home / "data" / "cifar10").mkdir()
    assert find_folder("cifar10") == home / "data" / "cifar10"


@pytest.mark.parametrize("top", ["tiny-imagenet-200/", ""])
def test_an_archive_is_unpacked_once_into_the_cache(home, top):
    (home / "words.txt").write_text("n01\tapple\n")
    archive = home / "data" / "tiny-imagenet.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(home / "words.txt", f"{top}words.txt")
        tar.add(home / "words.txt", f"{top}train/n01/a.JPEG")
    folder = find_folder("tiny-imagenet")
    assert (folder / "words.txt").read_text() == "n01\tapple\n"
    assert folder.is_relative_to(home / "cache")
    (folder / "words.txt").write_text("still here")
    assert (find_folder("tiny-imagenet") / "words.txt").read_text() == "still here"
    assert files(home / "data") == ["tiny-imagenet.tar.gz"]


def test_a_cache_that_cannot_be_written_says_what_to_do(home, monkeypatch):
    (home / "file").write_bytes(b"")
    monkeypatch.setenv("TIPSLIB_CACHE", str(home / "file" / "cache"))
    monkeypatch.setattr("torchvision.datasets.MNIST", FakeMNIST)
    with pytest.raises(StorageError, match=r"mnist: cannot be written .*TIPSLIB_CACHE"):
        find_folder("mnist")


def test_the_cache_lies_in_the_home_folder_unless_told_otherwise(home, monkeypatch):
    assert cache_folder() == home / "cache"
    monkeypatch.delenv("TIPSLIB_CACHE")
    monkeypatch.setenv("HOME", str(home))
    assert cache_folder() == home / ".cache" / "tipslib"
