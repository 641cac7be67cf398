"""Whatever is done to the bytes of a file that the project reads: is it refused by its name, or does it mean what it meant?"""

from __future__ import annotations

import ast
import bz2
import contextlib
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import pickle
import re
import shutil
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import nbformat
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from tipslib import cli, data, project
from tipslib.anytime.elastic import make_elastic
from tipslib.anytime.runtime import AnytimeNetwork, Subnetwork
from tipslib.archives import extract
from tipslib.errors import CorruptFile, TipslibError
from tipslib.experiments import compute, pruning
from tipslib.processes import make_fabric
from tipslib.profiles import PROFILES, epochs_file, get_profile
from tipslib.records import Outcome, Run, Store, canonical, write_atomically
from tipslib.reporting import publish, published
from tipslib.reporting.publish import parameters_of, read_notebook
from tipslib.training import Recipe, fit

CASES = int(os.environ.get("TIPSLIB_FUZZ_CASES", "300"))
"""Of each kind of file; `make fuzz` tries more."""

SMOKE = get_profile("smoke")
GPU = replace(PROFILES["gpu"], datasets=dict.fromkeys(("mnist", "cifar10", "tiny-imagenet")))


def damaged(content: bytes, random: Random) -> bytes:
    """The content with something changed, lost or added, at places and in ways that `random` decides; JSON may get another shape."""
    if random.random() < 0.25:
        with contextlib.suppress(ValueError):
            return json.dumps(reshaped(json.loads(content), random)).encode()
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        start = random.randrange(len(content) + 1)
        end = min(len(content), start + random.choice((1, 1, 1, 2, 8, 64, 512)))
        content = content[:start] + instead(content[start:end], content, random) + content[end:]
    return content if random.random() < 0.85 else content[: random.randrange(len(content) + 1)]


def instead(piece: bytes, content: bytes, random: Random) -> bytes:
    """What stands in the place of a piece of the content."""
    noise = random.randbytes(random.choice((1, 1, 4, 32)))
    match random.randrange(9):
        case 0:
            return bytes([piece[0] ^ 1 << random.randrange(8)]) + piece[1:] if piece else b""
        case 1:
            return noise[:1] + piece[1:]
        case 2:
            return random.choice("0123456789abcZ -_.,:;\"'[]{}()<>/\\\n").encode() + piece[1:]
        case 3:
            return noise
        case 4:
            return noise + piece
        case 5:
            return b""
        case 6:
            return bytes(len(piece))
        case 7:
            return piece + piece
        case _:
            other = random.randrange(len(content) + 1)
            return content[other : other + len(piece)]


ODD: list[Any] = [None, True, -1, 0, 3, 10**30, 0.5, "", "x", "../x", "\0", "\ud800", [], [[]], [1], {}, {"": 0}]


def reshaped(value: Any, random: Random) -> Any:
    """JSON with a part of it lost, doubled, renamed, or replaced by something of another kind."""
    if not value or not isinstance(value, dict | list) or random.random() < 0.2:
        return random.choice(ODD)
    if isinstance(value, list):
        i = random.randrange(len(value))
        return value[:i] + random.choice([[], [value[i]] * 2, [reshaped(value[i], random)]]) + value[i + 1 :]
    name = random.choice(sorted(value))
    others = {key: each for key, each in value.items() if key != name}
    return others | random.choice([{}, {f"{name}x": value[name]}, *[{name: reshaped(value[name], random)}] * 3])


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    write
        Makes good files in an empty folder, and returns those that are to be damaged.
    read
        What the project makes of them, comparable with `==`.
    seal
        Gives a damaged file the checksum that fits, as somebody does who forges one. None: it keeps its own.
    sealed
        Whether a checksum tells a changed file. Without one, or with one that was made to fit, other content may be read.
    """

    name: str
    write: Callable[[Path], list[Path]]
    read: Callable[[Path], Any]
    seal: Callable[[Path, Path], None] | None = None
    sealed: bool = True


# records

RUN = Run("stability", {"subnetworks": [2, 4]}, "smoke", 0, "v1")


def write_record(folder: Path) -> list[Path]:
    outcome = Outcome({"mean": 0.125, "rows": [1, 2]}, {"curve": np.arange(6.0).reshape(2, 3)}, {"digits": "ab" * 32})
    path = Store(SMOKE, folder).save(RUN, outcome, {"seconds": 1.5}).path
    return [path, *path.parent.glob("*.npz")]


def read_record(folder: Path) -> Any:
    found = Store(SMOKE, folder).find(RUN)
    assert found is not None
    arrays = {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in found.arrays.items()}
    return found.run, canonical(found.values), canonical(found.provenance), arrays


def seal_record(folder: Path, changed: Path) -> None:
    path = Store(SMOKE, folder).path(RUN)
    resealed(path, lambda body: changed == path or body["arrays"].update(sha256=hashlib.sha256(changed.read_bytes()).hexdigest()))


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Give a JSON file that holds its own checksum another content, and the checksum that fits; leave it alone if it is no such file."""
    with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError):
        body = json.loads(path.read_bytes())
        body.pop("sha256", None)
        change(body)
        path.write_bytes(canonical(body | {"sha256": hashlib.sha256(canonical(body)).hexdigest()}))


# checkpoints


class OneStep:
    def __len__(self) -> int:
        return 1

    def batches(self, epoch: int, first: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        yield from [(torch.ones(2, 3), torch.tensor([0, 1]))][first:]


class CrossEntropy:
    def __init__(self) -> None:
        self.seen = 0

    def step(self, model: nn.Module, images: Tensor, labels: Tensor, *, step: int, backward: Callable[[Tensor], None]) -> Tensor:
        self.seen += 1
        loss = F.cross_entropy(model(images), labels)
        backward(loss)
        return loss.detach()

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: Any) -> None:
        self.seen = state["seen"]


FABRIC = make_fabric("cpu")


def train(folder: Path) -> Any:
    torch.manual_seed(0)
    model, objective = nn.Linear(3, 2), CrossEntropy()
    recipe = Recipe(epochs=1, learning_rate=0.1)
    losses = fit(model, objective, OneStep(), recipe, seed=0, fabric=FABRIC, checkpoint=folder / "run.ckpt")
    return losses, objective.seen, {name: value.tolist() for name, value in model.state_dict().items()}


def write_checkpoint(folder: Path) -> list[Path]:
    train(folder)
    return [folder / "run.ckpt"]


def seal_checkpoint(folder: Path, changed: Path) -> None:
    content = changed.read_bytes()[32:]
    changed.write_bytes(hashlib.sha256(content).digest() + content)


# anytime networks


def supernet(seed: int) -> Any:
    torch.manual_seed(seed)
    layers = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    return make_elastic(nn.Sequential(*layers), (3, 4, 4), lowest=0.25)


OTHER = supernet(1)


def write_widths(folder: Path) -> list[Path]:
    net = supernet(0)
    net(torch.rand(4, 3, 4, 4))
    rows = [Subnetwork(net.space.at(ratio), ratio / 2, None, 1 + ratio) for ratio in (0.5, 1.0)]
    return [folder / "net.json", AnytimeNetwork(net, rows).save(folder / "net.json")]


def read_widths(folder: Path) -> Any:
    found = AnytimeNetwork.load(folder / "net.json", OTHER)
    rows = [(s.widths, s.accuracy, s.milliseconds, s.statistics) for s in found.subnetworks]
    return rows, {name: value.tolist() for name, value in found.net.state_dict().items()}


def seal_widths(folder: Path, changed: Path) -> None:
    path, digest = folder / "net.json", hashlib.sha256(changed.read_bytes()).hexdigest()
    resealed(path, lambda body: changed == path or body.update({"sha256 of checkpoint": digest}))


# data sets


def digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def write_arrays(folder: Path) -> list[Path]:
    home = folder / "data" / "cifar10"
    home.mkdir(parents=True)
    classes = ["apple", "bee"]
    arrays = {"train-images": np.arange(72, dtype=np.uint8).reshape(6, 2, 2, 3), "train-labels": np.arange(6, dtype=np.int64) % 2}
    for name, array in arrays.items():
        np.save(home / f"{name}.npy", array)
    sums = {name: digest(array) for name, array in arrays.items()} | {"classes": hashlib.sha256(json.dumps(classes).encode()).hexdigest()}
    (home / "classes.json").write_text(json.dumps(classes))
    (home / "checksums.json").write_text(json.dumps(sums))
    return sorted(home.iterdir())


def reading(name: str, split: str, size: int | None = None) -> Callable[[Path], Any]:
    def read(folder: Path) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TIPSLIB_DATA", str(folder / "data"))
            patch.setenv("TIPSLIB_CACHE", str(folder / "cache"))
            found = data.load(name, split, GPU, size=size)
        return found.images.shape, found.images.tobytes(), found.labels.tobytes(), found.classes, found.checksum

    return read


def write_idx(folder: Path) -> list[Path]:
    raw = folder / "data" / "mnist" / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images, labels = np.arange(32, dtype=np.uint8).reshape(2, 4, 4), np.array([3, 7], np.uint8)
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        sizes = b"".join(n.to_bytes(4, "big") for n in array.shape)
        (raw / f"train-{name}-ubyte").write_bytes(bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes())
    return sorted(raw.iterdir())


def read_idx(folder: Path) -> Any:
    known = {
        "train-images": digest(np.arange(32, dtype=np.uint8)),
        "train-labels": digest(np.array([3, 7], np.int64)),
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data, "KNOWN", {"mnist": known})
        return reading("mnist", "train")(folder)


def write_photographs(folder: Path) -> list[Path]:
    home = folder / "data" / "tiny-imagenet"
    for name in ("n01", "n02"):
        (home / "train" / name).mkdir(parents=True)
    (home / "val" / "images").mkdir(parents=True)
    for i, colour in enumerate([(200, 20, 20), (20, 20, 200)]):
        Image.new("RGB", (6, 4), colour).save(home / "val" / "images" / f"{i}.JPEG")
    (home / "val" / "val_annotations.txt").write_text("0.JPEG\tn01\t0\t0\n1.JPEG\tn02\t0\t0\n")
    (home / "words.txt").write_text("n01\tapple\nn02\tbee\n")
    listed = sorted(path for path in home.rglob("*") if path.is_file())
    lines = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(home).as_posix()}\n" for path in listed]
    (home / "SHA256SUMS").write_text("".join(lines))
    reading("tiny-imagenet", "test", 4)(folder)
    return [*listed, home / "SHA256SUMS", *sorted((folder / "cache" / "decoded").iterdir())]


def write_counts(folder: Path) -> list[Path]:
    damages = [pruning.Damage(KEPT, np.arange(4).reshape(2, 2) + i, 5 + i, 9 + i) for i in range(2)]
    pruning._keep(folder / "counts.npz", damages)
    return [folder / "counts.npz"]


KEPT = np.array([[1, 2], [3, 4]])


def read_counts(folder: Path) -> Any:
    return [(d.correct.tolist(), d.unpruned, d.samples) for d in pruning._kept(folder / "counts.npz", KEPT)]


# published numbers


def write_published(folder: Path) -> list[Path]:
    home = folder / "data" / "published"
    home.mkdir(parents=True)
    head = "dataset,network,method,device,latency_ms,accuracy_percent,source\n"
    (home / "tips-table3.csv").write_text(head + 'Tiny,MobileNet-v2,TIPS,Pi,12.5,48.25,"Table 3, line 1"\n')
    (home / published.MANIFEST).write_text(f"{hashlib.sha256((home / 'tips-table3.csv').read_bytes()).hexdigest()}  tips-table3.csv\n")
    return sorted(home.iterdir())


def read_published(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIPSLIB_HOME", str(folder))
        return published.published("tips-table3").to_csv()


def seal_published(folder: Path, changed: Path) -> None:
    changed.with_name(published.MANIFEST).write_text(f"{hashlib.sha256(changed.read_bytes()).hexdigest()}  {changed.name}\n")


# archives; one folder, since making and removing folders is what takes long

MEMBERS = {"1.JPEG": b"one" * 40, "words.txt": b"a apple\n", f"l{'ä' * 60}bels.csv": b"file,label\n1.JPEG,0\n"}


def tar(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def zipped(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


ARCHIVES: Mapping[str, Callable[[Mapping[str, bytes]], bytes]] = {
    ".tar": tar,
    ".tar.gz": lambda members: gzip.compress(tar(members)),
    ".tar.bz2": lambda members: bz2.compress(tar(members)),
    ".tar.xz": lambda members: lzma.compress(tar(members)),
    ".zip": zipped,
}


def write_archive(suffix: str, folder: Path) -> list[Path]:
    (folder / f"set{suffix}").write_bytes(ARCHIVES[suffix](MEMBERS))
    return [folder / f"set{suffix}"]


def read_archive(suffix: str, folder: Path) -> Any:
    extract(folder / f"set{suffix}", folder / "out")
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in (folder / "out").rglob("*") if path.is_file()}


# notebooks, and what else is kept as text


def write_notebook(folder: Path) -> list[Path]:
    (folder / "notebooks").mkdir()
    cells = [
        new_markdown_cell("# A page"),
        new_code_cell('profile = "smoke"\nseed = 3', metadata={"tags": ["parameters"]}),
        new_code_cell("1 + 1"),
    ]
    nbformat.write(new_notebook(cells=cells), folder / "notebooks" / "page.ipynb")
    return [folder / "notebooks" / "page.ipynb"]


def read_page(folder: Path) -> Any:
    found = read_notebook(folder / "notebooks" / "page.ipynb")
    return parameters_of(found), [cell.source for cell in found.cells]


def write_epochs(folder: Path) -> list[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIPSLIB_HOME", str(folder))
        write_atomically(epochs_file("laptop"), b'{"fronts": 12, "weights": 3}')
        return [epochs_file("laptop")]


def read_epochs(folder: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TIPSLIB_HOME", str(folder))
        return {name: dict(settings) for name, settings in get_profile("laptop").settings.items()}


KINDS = [
    Kind("record", write_record, read_record),
    Kind("record, forged", write_record, read_record, seal_record, sealed=False),
    Kind("checkpoint", write_checkpoint, train),
    Kind("checkpoint, forged", write_checkpoint, train, seal_checkpoint, sealed=False),
    Kind("anytime network", write_widths, read_widths),
    Kind("anytime network, forged", write_widths, read_widths, seal_widths, sealed=False),
    Kind("arrays of a data set", write_arrays, reading("cifar10", "train")),
    Kind("idx files", write_idx, read_idx),
    Kind("photographs", write_photographs, reading("tiny-imagenet", "test", 4)),
    Kind("counts", write_counts, read_counts),
    Kind("published numbers", write_published, read_published),
    Kind("published numbers, forged", lambda folder: write_published(folder)[1:], read_published, seal_published, sealed=False),
    # what is meant to be edited by hand has no checksum, and a plain tar has one of its heads only
    Kind("notebook", write_notebook, read_page, sealed=False),
    Kind("epochs", write_epochs, read_epochs, sealed=False),
    *[Kind(f"set{suffix}", partial(write_archive, suffix), partial(read_archive, suffix), sealed=suffix != ".tar") for suffix in ARCHIVES],
]


def state(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """Content and time of change of every file in a folder."""
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def restore(folder: Path, before: Mapping[Path, tuple[bytes, int]]) -> None:
    """Make a folder what it was. Times, too: what was decoded before is then found again."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    for path, now in state(folder).items():
        if now != before.get(path):
            path.unlink()
    for path, (content, changed) in before.items():
        if not path.exists():
            path.write_bytes(content)
            os.utime(path, ns=(changed, changed))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_damaged_bytes_are_refused_by_name_or_change_nothing(kind: Kind, tmp_path: Path) -> None:
    files = kind.write(tmp_path)
    wanted = kind.read(tmp_path)
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    before, refused = state(tmp_path), 0
    for case in range(CASES):
        random = Random(f"{kind.name} {case}")
        path = random.choice(files)
        # replaced, not overwritten: it may still be mapped into memory
        path.unlink()
        path.write_bytes(damaged(before[path][0], random))
        try:
            if kind.seal is not None:
                kind.seal(tmp_path, path)
            found = kind.read(tmp_path)
        except TipslibError as error:
            refused += 1
            said = str(error)
            assert path.name in said, f"case {case} of {kind.name}: {path.name} is not named: {said}"
            assert "\n" not in said, f"case {case} of {kind.name}: more than a line: {said}"
        except Exception as error:
            error.add_note(f"case {case} of {kind.name}: {path}")
            raise
        else:
            assert found == wanted or not kind.sealed, f"case {case} of {kind.name}: {path.name} was believed"
        restore(tmp_path, before)
    assert refused >= CASES // 8, "hardly anything was damaged"


@pytest.mark.parametrize(
    "changed",
    [
        {"correct": np.zeros((2, 2, 3), int)},
        {"unpruned": np.zeros(3, int)},
        {"samples": np.zeros(2)},
        {"samples": np.array(5)},
        {"correct": None},
    ],
)
def test_counts_that_do_not_fit_are_refused_by_name(changed: dict[str, Any], tmp_path: Path) -> None:
    counts = {"correct": np.zeros((2, 2, 2), int), "unpruned": np.zeros(2, int), "samples": np.zeros(2, int)}
    np.savez(tmp_path / "counts.npz", **counts)
    assert len(read_counts(tmp_path)) == 2
    np.savez(tmp_path / "counts.npz", **{name: array for name, array in (counts | changed).items() if array is not None})
    with pytest.raises(CorruptFile, match=r"counts\.npz: no counts of the right shape"):
        read_counts(tmp_path)


# code


class Burglar:
    """Leaves a sign when it is unpickled."""

    def __init__(self, sign: Path) -> None:
        self.sign = sign

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.sign,)


def plant_checkpoint(folder: Path, evil: Burglar) -> Path:
    buffer = io.BytesIO()
    torch.save({"identity": {}, "evil": evil}, buffer)
    return plant_bytes("run.ckpt", hashlib.sha256(buffer.getvalue()).digest() + buffer.getvalue(), folder)


def plant_pickled_checkpoint(folder: Path, evil: Burglar) -> Path:
    content = pickle.dumps({"identity": {}, "evil": evil}, protocol=2)
    return plant_bytes("run.ckpt", hashlib.sha256(content).digest() + content, folder)


def plant_bytes(name: str, content: bytes, folder: Path) -> Path:
    (path,) = folder.rglob(name)
    path.write_bytes(content)
    return path


def plant_array(name: str, folder: Path, evil: Burglar) -> Path:
    buffer = io.BytesIO()
    np.save(buffer, np.array([evil], dtype=object), allow_pickle=True)
    return plant_bytes(name, buffer.getvalue(), folder)


def plant_arrays(name: str, folder: Path, evil: Burglar) -> Path:
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=True, **dict.fromkeys(("curve", "correct", "unpruned", "samples"), np.array([evil], dtype=object)))
    return plant_bytes(name, buffer.getvalue(), folder)


def plant_pickle(name: str, folder: Path, evil: Burglar) -> Path:
    return plant_bytes(name, pickle.dumps(evil), folder)


PLANTED: list[tuple[str, Callable[[Path, Burglar], Path]]] = [
    ("checkpoint, forged", plant_checkpoint),
    ("checkpoint, forged", plant_pickled_checkpoint),
    ("record, forged", partial(plant_arrays, "*.npz")),
    ("record, forged", partial(plant_pickle, "*.npz")),
    ("record", partial(plant_pickle, "*.json")),
    ("counts", partial(plant_arrays, "counts.npz")),
    ("counts", partial(plant_pickle, "counts.npz")),
    ("arrays of a data set", partial(plant_array, "train-images.npy")),
    ("arrays of a data set", partial(plant_array, "train-labels.npy")),
    ("arrays of a data set", partial(plant_pickle, "train-images.npy")),
    ("anytime network, forged", partial(plant_pickle, "*.safetensors")),
    ("anytime network", partial(plant_pickle, "net.json")),
    ("photographs", partial(plant_array, "*.npy")),
]


@pytest.mark.parametrize(("name", "plant"), PLANTED)
def test_a_planted_pickle_is_refused_by_name_and_not_run(name: str, plant: Callable[[Path, Burglar], Path], tmp_path: Path) -> None:
    sign = tmp_path / "burgled"
    pickle.loads(pickle.dumps(Burglar(sign)))
    assert sign.exists(), "the pickle would do it"
    sign.unlink()
    kind = next(kind for kind in KINDS if kind.name == name)
    kind.write(tmp_path)
    path = plant(tmp_path, Burglar(sign))
    if kind.seal is not None:
        kind.seal(tmp_path, path)
    with pytest.raises(CorruptFile, match=re.escape(path.name)):
        kind.read(tmp_path)
    assert not sign.exists()


@pytest.mark.parametrize("suffix", ARCHIVES)
@pytest.mark.parametrize("name", ["../../burgled", "{place}/burgled"])
def test_an_archive_that_reaches_outside_is_refused_by_name(suffix: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    evil = name.format(place=tmp_path)
    (tmp_path / "data" / f"cifar10{suffix}").write_bytes(ARCHIVES[suffix](MEMBERS | {evil: b"here"}))
    with pytest.raises(CorruptFile, match=rf"cifar10{re.escape(suffix)}: the member .* would lie outside"):
        reading("cifar10", "train")(tmp_path)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"cifar10{suffix}"]


def names_called(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", sorted((project.root() / "src").rglob("*.py")), ids=lambda path: path.stem)
def test_nothing_in_the_library_unpickles_or_runs_what_it_reads(path: Path) -> None:
    tree = ast.parse(path.read_text())
    safe = {"torch.load": "weights_only=True", "np.load": "allow_pickle=False"}
    for name, call in names_called(tree):
        assert not re.fullmatch(r"eval|exec|(pickle|marshal|shelve|dill|joblib|cloudpickle)\.\w+|yaml\.\w*load\w*", name), ast.unparse(call)
        if name in safe:
            assert safe[name] in map(ast.unparse, call.keywords), ast.unparse(call)
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom) for alias in node.names}
    assert not imported & {"pickle", "marshal", "shelve", "yaml"}


# the command line

Output = pytest.CaptureFixture[str]


def one_line(capsys: Output, *names: str) -> None:
    """What was said is one line on stderr that names the file, and no traceback."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "Traceback" not in err
    for name in names:
        assert name in err


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind.name not in ("record", "notebook")], ids=lambda kind: kind.name)
def test_the_command_names_a_cut_file_in_one_line(
    kind: Kind, toy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    folder = tmp_path / "read by the run"
    folder.mkdir()
    path = kind.write(folder)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 20])
    if kind.seal is not None:
        kind.seal(folder, path)
    monkeypatch.setattr(toy, "run", lambda parameters, *, seed, profile: Outcome({"found": repr(kind.read(folder))}))
    assert cli.main(["run", "toy"]) == 1
    one_line(capsys, path.name)


def test_the_command_names_cut_records_and_ends_with_1(toy: ModuleType, capsys: Output) -> None:
    first, second = compute("toy", seeds=[0, 1])
    first.path.write_bytes(first.path.read_bytes()[:50])
    (arrays,) = second.path.parent.glob(f"{second.run.key}-*.npz")
    arrays.write_bytes(b"")
    assert cli.main(["verify"]) == 1
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("corrupt ")] == [
        f"corrupt  {path}" for path in sorted([first.path, arrays])
    ]
    assert "Traceback" not in out + err


@pytest.mark.parametrize("command", [["list"], ["claims"], ["verify"], ["run", "toy"]])
def test_every_command_names_broken_epochs_in_one_line(command: list[str], toy: ModuleType, capsys: Output) -> None:
    write_atomically(epochs_file("laptop"), b"[" * 100_000)
    assert cli.main([*command, "--profile", "laptop"]) == 1
    one_line(capsys, "epochs.json")


def test_a_folder_in_the_place_of_epochs_is_named_in_one_line(toy: ModuleType, capsys: Output) -> None:
    epochs_file("laptop").mkdir(parents=True)
    assert cli.main(["list", "--profile", "laptop"]) == 1
    one_line(capsys, "epochs.json: cannot be read")


@pytest.mark.parametrize("content", [b"", b"\xff", b"[" * 5000, b"{}", b'{"cells": 1}', b"\x80\x04N."])
def test_a_broken_notebook_is_named_in_one_line_and_not_run(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("TIPSLIB_HOME", str(tmp_path))
    (path,) = write_notebook(tmp_path)
    path.write_bytes(content)
    assert publish.main(["execute", "page", "--output", str(tmp_path / "out.ipynb")]) == 1
    one_line(capsys, str(path))


@pytest.mark.parametrize("cut", ["cell of parameters", "cells"])
def test_a_notebook_whose_parameters_are_no_python_is_named(cut: str, tmp_path: Path) -> None:
    (path,) = write_notebook(tmp_path)
    body = json.loads(path.read_bytes())
    if cut == "cells":
        body["cells"] = [None]
    else:
        body["cells"][1]["source"] = ["profile = ("]
    path.write_text(json.dumps(body))
    with pytest.raises(CorruptFile, match=r"page\.ipynb: not a whole notebook"):
        read_notebook(path)


@pytest.mark.parametrize("content", [b"\0", b"\xff = 1", b"net = nothing", b"def net(:", b"def net(): return nothing", b"raise OSError"])
def test_a_broken_file_of_a_network_is_named_in_one_line(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    (tmp_path / "broken_network.py").write_bytes(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "broken_network", raising=False)
    assert cli.main(["analyze", "broken_network:net", "--input", "1,3,8,8"]) == 2
    one_line(capsys, "broken_network")


@settings(max_examples=CASES, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.text(min_size=1, max_size=12)
    | st.builds("{}={}".format, st.sampled_from(["number", "share", "seed"]), st.text('0123456789.e-[]{}",:nulatrfINFy ', max_size=8))
)
@example(text="share=NaN")
@example(text="number=" + "9" * 5000)
@example(text="number=" + "[" * 100_000)
@example(text="share=1e999")
@example(text="\ud800=1")
def test_any_parameter_is_taken_or_refused_in_one_line(text: str, toy: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: Output) -> None:
    monkeypatch.setattr(toy, "run", lambda parameters, *, seed, profile: Outcome({"number": parameters.number, "share": parameters.share}))
    capsys.readouterr()
    status = cli.main(["run", "toy", f"-p{text}", "--quiet"])
    if status == 0:
        assert capsys.readouterr() == ("", "")
        name, _, value = text.partition("=")
        assert name in ("number", "share")
        assert math.isfinite(float(value))
    else:
        assert status == 2
        one_line(capsys)
