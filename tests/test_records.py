"""Is a record whole or refused, whatever happens to its file, its folder, its disk and its writer?"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tipslib.errors import CorruptFile, StorageError
from tipslib.profiles import get_profile
from tipslib.records import Outcome, Record, Run, Store, beside, canonical, read, write_atomically

RUN = Run("stability", {"subnetworks": [2, 4]}, "smoke", 0, "v1")
OTHER = Run("stability", {}, "smoke", 0, "v1")
OUTCOME = Outcome({"mean": 0.125, "rows": [1, 2]}, {"curve": np.arange(6.0).reshape(2, 3)}, {"digits": "ab" * 32})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(get_profile("smoke"), tmp_path)


def files(store: Store) -> list[str]:
    """Everything in the folder of records, temporary files included."""
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())


def same(record: Record | None, outcome: Outcome) -> bool:
    assert record is not None
    assert record.arrays.keys() == outcome.arrays.keys()
    equal = all(np.array_equal(record.arrays[name], array) for name, array in outcome.arrays.items())
    return equal and canonical(record.values) == canonical(dict(outcome.values))


def test_a_record_comes_back_as_it_was_saved(store: Store) -> None:
    saved = store.save(RUN, OUTCOME, {"seconds": 1.5})
    found = store.find(RUN)
    assert found is not None
    assert same(found, OUTCOME)
    assert found.provenance == {"seconds": 1.5, "data": {"digits": "ab" * 32}}
    assert found.run == saved.run == RUN
    assert found.path == saved.path == store.path(RUN)
    assert store.paths() == [found.path]
    assert store.find(OTHER) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=10,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.dictionaries(st.text(), JSON, max_size=4), seed=st.integers(0, 2**63))
def test_any_values_come_back(store: Store, values: dict[str, Any], seed: int) -> None:
    run = Run("stability", {}, "smoke", seed, "v1")
    store.save(run, Outcome(values), {})
    found = store.find(run)
    assert found is not None
    assert found.values == values
    assert canonical(found.values) == canonical(values)


@pytest.mark.parametrize("dtype", ["float64", "float32", "int64", "int8", "bool", "complex128", "<U3"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 2)])
def test_arrays_keep_type_and_shape(store: Store, dtype: str, shape: tuple[int, ...]) -> None:
    array = np.ones(shape).astype(dtype)
    found = store.save(RUN, Outcome({}, {"a": array}), {}).arrays["a"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize(
    "change", [{"experiment": "coupling"}, {"parameters": {"subnetworks": [2]}}, {"profile": "gpu"}, {"seed": 1}, {"code": "v2"}]
)
def test_the_key_depends_on_everything_that_was_asked(change: dict[str, Any]) -> None:
    asked = {"experiment": RUN.experiment, "parameters": RUN.parameters, "profile": RUN.profile, "seed": RUN.seed, "code": RUN.code}
    assert Run(**asked).key == RUN.key
    assert Run(**(asked | change)).key != RUN.key


def test_the_key_does_not_depend_on_the_order_of_the_parameters() -> None:
    assert Run("a", {"x": 1, "y": 2}, "smoke", 0, "v1").key == Run("a", {"y": 2, "x": 1}, "smoke", 0, "v1").key


def test_records_of_smoke_are_built_and_others_are_data(tmp_path: Path) -> None:
    assert Store(get_profile("laptop"), tmp_path).folder == tmp_path / "data" / "records" / "laptop"
    assert Store(get_profile("smoke"), tmp_path).folder == tmp_path / "build" / "records" / "smoke"


# damage


def resealed(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Edit a record and give it the checksum that fits."""
    body = json.loads(path.read_text())
    change(body)
    body.pop("sha256", None)
    body["sha256"] = hashlib.sha256(canonical(body)).hexdigest()
    path.write_text(json.dumps(body))


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
@pytest.mark.parametrize("suffix", [".json", ".npz"])
def test_a_record_cut_short_is_refused_by_name(store: Store, suffix: str, keep: float) -> None:
    folder = store.save(RUN, OUTCOME, {}).path.parent
    (file,) = folder.glob(f"*{suffix}")
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(CorruptFile, match=rf"{file}: .*[Dd]elete .* to recompute it"):
        store.find(RUN)


def test_an_edited_value_does_not_fit_the_checksum(store: Store) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    path.write_text(path.read_text().replace("0.125", "0.126"))
    with pytest.raises(CorruptFile, match=rf"{path}: the checksum does not fit the content: the record was cut or edited"):
        store.find(RUN)


def test_the_record_of_another_run_is_refused(store: Store) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    os.replace(path, store.path(OTHER))
    with pytest.raises(CorruptFile, match="holds the record of another run"):
        store.find(OTHER)
    store.save(RUN, OUTCOME, {})
    resealed(path, lambda body: body.update(seed=1))
    with pytest.raises(CorruptFile, match="holds the record of another run"):
        read(path)


def test_another_format_is_refused(store: Store) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    resealed(path, lambda body: body.update(format=99))
    with pytest.raises(CorruptFile, match="record format 99; this version reads 1"):
        read(path)


def test_missing_or_exchanged_arrays_are_refused(store: Store) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    (arrays,) = path.parent.glob("*.npz")
    whole = arrays.read_bytes()
    arrays.unlink()
    with pytest.raises(CorruptFile, match=rf"{arrays}: the arrays of a record are missing"):
        store.find(RUN)
    with arrays.open("wb") as file:
        np.savez(file, curve=np.zeros((2, 3)))
    with pytest.raises(CorruptFile, match=rf"{arrays}: the checksum does not fit"):
        store.find(RUN)
    arrays.write_bytes(whole)
    assert same(store.find(RUN), OUTCOME)


def test_pickled_arrays_are_not_opened_even_with_a_checksum_that_fits(store: Store, tmp_path: Path) -> None:
    class Burglar:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "burgled",)

    path = store.save(RUN, OUTCOME, {}).path
    (arrays,) = path.parent.glob("*.npz")
    with arrays.open("wb") as file:
        np.savez(file, curve=np.array([Burglar()], dtype=object), allow_pickle=True)
    digest = hashlib.sha256(arrays.read_bytes()).hexdigest()
    resealed(path, lambda body: body["arrays"].update(sha256=digest))
    with pytest.raises(CorruptFile, match=rf"{arrays}: not a whole archive of arrays"):
        store.find(RUN)
    assert not (tmp_path / "burgled").exists()


def test_arrays_are_looked_for_beside_the_record_only(store: Store, tmp_path: Path) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    (arrays,) = path.parent.glob("*.npz")
    outside = arrays.rename(tmp_path / arrays.name)
    resealed(path, lambda body: body["arrays"].update(file=str(outside)))
    with pytest.raises(CorruptFile, match=rf"{arrays}: the arrays of a record are missing"):
        store.find(RUN)


def test_what_json_or_npz_cannot_hold_is_not_saved(store: Store) -> None:
    with pytest.raises(ValueError, match=r"[Oo]bject"):
        store.save(RUN, Outcome({}, {"bad": np.array([{}], dtype=object)}), {})
    with pytest.raises(ValueError, match="JSON"):
        store.save(RUN, Outcome({"mean": float("nan")}, OUTCOME.arrays), {})
    assert files(store) == []


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".json", ".npz"]), place=st.floats(0, 1), flip=st.integers(1, 255), how=st.sampled_from(["flip", "cut", "add"])
)
def test_a_damaged_byte_is_noticed_or_changes_nothing(store: Store, suffix: str, place: float, flip: int, how: str) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    (file,) = path.parent.glob(f"*{suffix}")
    whole = file.read_bytes()
    i = int(place * (len(whole) - 1))
    changed = {"flip": bytes([whole[i] ^ flip]) + whole[i + 1 :], "cut": b"", "add": bytes([flip]) + whole[i:]}
    file.write_bytes(whole[:i] + changed[how])
    try:
        found = read(path)
    except CorruptFile as error:
        assert str(path.parent) in str(error)
    else:
        assert same(found, OUTCOME)
        assert found.run == RUN
    file.write_bytes(whole)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "0123456789abcdef.json"
    path.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"0123456789abcdef\.json"):
        read(path)


FIELDS = ["format", "key", "experiment", "parameters", "profile", "seed", "code", "values", "arrays", "provenance"]


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(FIELDS), value=JSON, missing=st.booleans())
def test_a_field_that_is_wrong_is_refused_even_with_a_checksum_that_fits(store: Store, name: str, value: Any, missing: bool) -> None:
    path = store.save(RUN, OUTCOME, {}).path
    resealed(path, lambda body: body.pop(name) if missing else body.update({name: value}))
    try:
        found = read(path, RUN)
    except CorruptFile:
        return
    assert not missing
    asked = {"format": 1, "key": RUN.key, **{field: getattr(RUN, field) for field in FIELDS if hasattr(RUN, field)}}
    assert name in ("values", "provenance", "arrays") or value == asked[name]
    assert name != "arrays" or found.arrays == {}


# writers


def write_many(folder: str, value: int, times: int = 40) -> None:
    store = Store(get_profile("smoke"), Path(folder))
    for _ in range(times):
        store.save(RUN, Outcome({"who": value}, {"curve": np.full(1000, float(value))}), {})


def test_of_two_writers_one_wins_and_both_are_whole_all_the_time(store: Store, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_many, args=(str(tmp_path), value)) for value in (1, 2)]
    for writer in writers:
        writer.start()
    seen = set()
    while any(writer.is_alive() for writer in writers):
        if record := store.find(RUN):
            seen.add(record.values["who"])
            assert (record.arrays["curve"] == record.values["who"]).all()
    for writer in writers:
        writer.join()
        assert writer.exitcode == 0
    assert seen <= {1, 2}
    assert len(seen) > 0
    last = store.find(RUN)
    assert last is not None
    assert (last.arrays["curve"] == last.values["who"]).all()
    assert len(files(store)) == 3, "one record and the arrays of each writer, nothing temporary"


def test_what_a_killed_process_left_goes_and_what_others_write_stays(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    mine = beside(tmp_path / "a.json")
    assert str(os.getpid()) in mine.name
    machine = mine.name.split(".")[3]
    left = [tmp_path / f".a.json.{machine}.{dead.pid}.01234567", tmp_path / f".a.json.{machine}.{10**30}.01234567"]
    others = [
        tmp_path / f".a.json.{machine}.1.01234567",  # a process that lives
        tmp_path / f".a.json.{'0' * 8}.{dead.pid}.01234567",  # another machine's
        tmp_path / f".ab.json.{machine}.{dead.pid}.01234567",  # of another file
        tmp_path / f"a.json.{machine}.{dead.pid}.01234567",
    ]
    for path in (mine, *left, *others):
        path.write_bytes(b"half")
    folder = tmp_path / f".a.json.{machine}.{dead.pid}.89abcdef"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "half").touch()
    write_atomically(tmp_path / "a.json", b"whole")
    assert set(tmp_path.iterdir()) == {mine, *others, tmp_path / "a.json"}


def test_a_killed_writer_leaves_the_old_record_or_the_new_one(store: Store, tmp_path: Path) -> None:
    store.save(RUN, Outcome({"who": 0}, {"curve": np.zeros(1000)}), {})
    here = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {here!r}); from test_records import write_many; write_many(sys.argv[1], int(sys.argv[2]), 10**6)"
    )
    for number, delay in enumerate(np.linspace(0, 0.03, 8), start=1):
        writer = subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(number)])
        while (record := store.find(RUN)) is None or record.values["who"] != number:
            assert writer.poll() is None
            time.sleep(0.001)
        time.sleep(delay)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        record = store.find(RUN)
        assert record is not None
        assert (record.arrays["curve"] == record.values["who"]).all()
        assert [path.stem for path in store.paths()] == [RUN.key]


# folders and disks that refuse: each script runs in a process of its own, which may mount, drop its rights or limit itself

SCRIPT = """
import os, resource, signal, subprocess, sys
from pathlib import Path
import numpy as np
from tipslib.errors import StorageError
from tipslib.profiles import get_profile
from tipslib.records import Outcome, Run, Store

place = Path(sys.argv[1])
store = Store(get_profile("smoke"), place)
small, large = Outcome({"size": "small"}, {"a": np.zeros(3)}), Outcome({"size": "large"}, {"a": np.random.default_rng(0).random(50_000)})
run, other = Run("stability", {}, "smoke", 0, "v1"), Run("stability", {}, "smoke", 1, "v1")

def refused(run, outcome):
    try:
        store.save(run, outcome, {})
    except StorageError as error:
        return str(error)
    raise SystemExit("it was not refused")

def everything():
    return sorted(path.name for path in store.folder.rglob("*") if path.is_file())
"""


def script(code: str, place: Path, *, mount: bool = False) -> str:
    """Run code after SCRIPT; with `mount`, in a mount namespace of its own, so that nothing stays mounted."""
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    command = [*(own if mount else []), sys.executable, "-c", SCRIPT + code, str(place)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def filled(text: str, **places: str) -> str:
    for place, code in places.items():
        text = text.replace(place, code)
    return text


def can_mount(tmp_path: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    own = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    return subprocess.run([*own, "mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)], capture_output=True).returncode == 0


FULL = """
kept = store.save(run, small, {})
before = everything()
LIMIT
for attempt in (other, run):
    message = refused(attempt, large)
    assert "cannot be written" in message and "Free space or allow writing in" in message and "SAID" in message, message
assert everything() == before, everything()
assert store.find(run).values == kept.values
print("whole")
"""

SMALL_DISK = 'subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)], check=True)\n'
SMALL_FILES = "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (65536, 65536))"


@pytest.mark.parametrize("what", ["disk", "limit"])
def test_a_full_disk_leaves_what_was_there_and_nothing_half_written(tmp_path: Path, what: str) -> None:
    if what == "disk" and can_mount(tmp_path):
        out = script(SMALL_DISK + filled(FULL, LIMIT="", SAID="No space left on device"), tmp_path, mount=True)
    else:
        out = script(filled(FULL, LIMIT=SMALL_FILES, SAID="File too large"), tmp_path)
    assert out == "whole\n"


READ_ONLY = """
kept = store.save(run, small, {})
FORBID
message = refused(other, small)
assert "cannot be written" in message and "SAID" in message, message
assert store.find(run).values == kept.values, "it can still be read"
assert store.find(other) is None
print("whole")
"""


def test_a_read_only_disk_or_folder_is_refused_and_still_read(open_folder: Path) -> None:
    if can_mount(open_folder):
        forbid = 'subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)'
        disk = SMALL_DISK + filled(READ_ONLY, FORBID=forbid, SAID="Read-only file system")
        assert script(disk, open_folder, mount=True) == "whole\n"
    assert script(filled(READ_ONLY, FORBID=NO_RIGHTS.replace("MODE", "0o555"), SAID="Permission denied"), open_folder) == "whole\n"


NO_RIGHTS = """
store.path(run).parent.chmod(MODE)
if os.geteuid() == 0:
    os.setgid(65534); os.setuid(65534)
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user may enter, which pytest's own is not."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_record_that_may_not_be_read_is_neither_missing_nor_corrupt(open_folder: Path) -> None:
    lost = """
SAVE
FORBID
try:
    store.find(run)
except StorageError as error:
    assert "cannot be read (Permission denied). Allow reading it, then repeat" in str(error), error
    print("refused")
"""
    save = "store.save(run, small, {})"
    assert script(filled(lost, SAVE=save, FORBID=NO_RIGHTS.replace("MODE", "0")), open_folder) == "refused\n"
    (folder,) = (open_folder / "build" / "records" / "smoke").iterdir()
    folder.chmod(0o755)
    file = "store.path(run).chmod(0)\n" + NO_RIGHTS.replace("MODE", "0o755")
    assert script(filled(lost, SAVE="", FORBID=file), open_folder) == "refused\n"


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "build").write_text("in the way")
    store = Store(get_profile("smoke"), tmp_path)
    assert store.find(RUN) is None
    with pytest.raises(StorageError, match=rf"{store.path(RUN).parent}.*cannot be written \((Not a directory|File exists)\)"):
        store.save(RUN, OUTCOME, {})


def test_a_folder_in_the_place_of_a_record_is_named(store: Store) -> None:
    store.path(RUN).mkdir(parents=True)
    with pytest.raises(StorageError, match=rf"{store.path(RUN)}: cannot be read \(Is a directory\)"):
        store.find(RUN)
    with pytest.raises(StorageError, match=r"cannot be written \(Is a directory\)"):
        write_atomically(store.path(RUN), b"x")
    assert files(store) == []
