"""Archives become folders whole or not at all; evil and broken ones are refused by name."""

import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile

import pytest

from tipslib.archives import aside, extract
from tipslib.errors import CorruptFile, InvalidInput, StorageError

CONTENT = {"set/train/a/1.JPEG": b"one", "set/words.txt": b"a apple\n"}


def tar(path, members=CONTENT, links=()):
    with tarfile.open(path, {".gz": "w:gz", ".tgz": "w:gz", ".xz": "w:xz", ".bz2": "w:bz2"}.get(path.suffix, "w")) as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        for name, target, kind in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            archive.addfile(info)
    return path


def zipped(path, members=CONTENT, modes=None):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            info = zipfile.ZipInfo(name)
            info.external_attr = (modes or {}).get(name, 0o644) << 16
            archive.writestr(info, content)
    return path


def everything(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*")}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.tar.xz", "a.tar.bz2", "a.zip"])
def test_an_archive_becomes_a_folder(tmp_path, name):
    archive = (zipped if name.endswith(".zip") else tar)(tmp_path / name)
    extract(archive, tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in CONTENT} == CONTENT
    assert everything(tmp_path) == {name, "out", "out/set", "out/set/train", "out/set/train/a"} | {f"out/{n}" for n in CONTENT}


EVIL = ["../escaped", "set/../../escaped", "/tmp/escaped", "..\\escaped", "C:\\escaped", "C:escaped"]


@pytest.mark.parametrize("make", [tar, zipped])
@pytest.mark.parametrize("name", EVIL)
def test_a_member_outside_the_folder_is_refused_and_nothing_is_unpacked(tmp_path, make, name):
    (tmp_path / "inner").mkdir()
    archive = make(tmp_path / "inner" / ("evil.zip" if make is zipped else "evil.tar"), CONTENT | {name: b"evil"})
    before = everything(tmp_path)
    with pytest.raises(CorruptFile, match=r"evil\.(tar|zip): .*outside the folder"):
        extract(archive, tmp_path / "inner" / "out")
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "links",
    [
        [("set/link", "/etc/passwd", tarfile.SYMTYPE)],
        [("set/link", "../../escaped", tarfile.SYMTYPE)],
        [("set/link", "../../../escaped", tarfile.LNKTYPE)],
        [("set/device", "", tarfile.CHRTYPE)],
        [("set/pipe", "", tarfile.FIFOTYPE)],
    ],
)
def test_links_to_the_outside_and_devices_are_refused(tmp_path, links):
    archive = tar(tmp_path / "evil.tar", links=links)
    with pytest.raises(CorruptFile, match=r"evil\.tar: refused"):
        extract(archive, tmp_path / "out")
    assert everything(tmp_path) == {"evil.tar"}


def test_a_link_in_a_zip_is_refused(tmp_path):
    archive = zipped(tmp_path / "evil.zip", CONTENT | {"link": b"/etc/passwd"}, {"link": stat.S_IFLNK | 0o777})
    with pytest.raises(CorruptFile, match="link or device"):
        extract(archive, tmp_path / "out")
    assert everything(tmp_path) == {"evil.zip"}


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tar.xz", "a.zip"])
@pytest.mark.parametrize("damage", ["cut", "empty", "noise"])
def test_a_broken_archive_is_refused_by_name(tmp_path, name, damage):
    archive = (zipped if name.endswith(".zip") else tar)(tmp_path / name, CONTENT | {"set/big": os.urandom(50_000)})
    content = archive.read_bytes()
    archive.write_bytes({"cut": content[: len(content) // 2], "empty": b"", "noise": os.urandom(5000)}[damage])
    with pytest.raises(CorruptFile, match=name):
        extract(archive, tmp_path / "out")
    assert everything(tmp_path) == {name}


def test_a_byte_changed_inside_a_zip_is_refused(tmp_path):
    archive = zipped(tmp_path / "a.zip", {"file": b"x" * 1000})
    content = bytearray(archive.read_bytes())
    content[500] ^= 1
    archive.write_bytes(content)
    with pytest.raises(CorruptFile, match=r"a\.zip"):
        extract(archive, tmp_path / "out")


def test_what_is_no_archive_or_is_there_already_is_refused(tmp_path):
    (tmp_path / "a.rar").write_bytes(b"Rar!")
    with pytest.raises(InvalidInput, match=r"allowed are \.tar, .*\.zip"):
        extract(tmp_path / "a.rar", tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInput, match="is there already"):
        extract(tar(tmp_path / "a.tar"), tmp_path / "out")


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def interrupted():
        with aside(tmp_path / "deep" / "set") as work:
            (work / "half").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert everything(tmp_path) == {"deep"}
    with aside(tmp_path / "deep" / "set") as work:
        (work / "whole").write_bytes(b"whole")
        assert not (tmp_path / "deep" / "set").exists()
    assert everything(tmp_path) == {"deep", "deep/set", "deep/set/whole"}


KILLED = """
import os, signal, sys
from pathlib import Path
from tipslib.archives import aside
with aside(Path(sys.argv[1])) as work:
    (work / "half").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_download_left_goes_with_the_next(tmp_path):
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "set")], timeout=60)
    assert len(everything(tmp_path)) == 2
    with aside(tmp_path / "set") as work:
        (work / "whole").touch()
    assert everything(tmp_path) == {"set", "set/whole"}


def test_of_two_who_make_one_folder_the_first_stays(tmp_path):
    with aside(tmp_path / "set") as one, aside(tmp_path / "set") as two:
        (one / "a").write_bytes(b"later")
        (two / "a").write_bytes(b"first")
    assert (tmp_path / "set" / "a").read_bytes() == b"first"
    assert everything(tmp_path) == {"set", "set/a"}


def test_a_place_that_cannot_be_written_says_what_to_do(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="TIPSLIB_CACHE"), aside(tmp_path / "file" / "set"):
        pass


FULL = """
import resource, sys
from pathlib import Path
from tipslib.archives import extract
from tipslib.errors import StorageError
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    extract(Path(sys.argv[1]), Path(sys.argv[2]))
except StorageError as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on file sizes")
def test_a_full_disk_leaves_nothing_behind(tmp_path):
    archive = tar(tmp_path / "a.tar", {"big": b"x" * 100_000})
    done = subprocess.run([sys.executable, "-c", FULL, str(archive), str(tmp_path / "out")], capture_output=True, text=True, timeout=60)
    assert "refused" in done.stderr
    assert "Free space" in done.stderr
    assert everything(tmp_path) == {"a.tar"}


@pytest.mark.parametrize("damage", ["altered head", "cut behind a member", "cut in a head"])
def test_a_tar_that_ends_too_soon_is_refused_and_not_taken_for_whole(tmp_path, damage):
    content = bytearray(tar(tmp_path / "a.tar").read_bytes())
    second = 1024  # a head and a block for each member
    if damage == "altered head":
        content[second] ^= 1
    else:
        del content[second + 100 * (damage == "cut in a head") :]
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"a\.tar: refused \(ReadError: (bad checksum|empty header|truncated header)\)"):
        extract(tmp_path / "a.tar", tmp_path / "out")
    assert everything(tmp_path) == {"a.tar"}


def test_a_member_that_was_emptied_in_the_list_of_a_zip_is_refused(tmp_path):
    content = bytearray(zipped(tmp_path / "a.zip").read_bytes())
    entry = content.index(b"PK\1\2")
    content[entry + 16 : entry + 28] = bytes(12)  # checksum and sizes: those of an empty file, which fit each other
    (tmp_path / "a.zip").write_bytes(content)
    with pytest.raises(CorruptFile, match=r"a\.zip: the member .* has two checksums"):
        extract(tmp_path / "a.zip", tmp_path / "out")
    assert everything(tmp_path) == {"a.zip"}


def test_a_zip_that_was_written_to_a_pipe_is_unpacked(tmp_path):
    """Its checksums stand behind the members."""

    class Pipe(io.BytesIO):
        def seekable(self):
            return False

        def tell(self):
            raise OSError("a pipe")

    pipe = Pipe()
    with zipfile.ZipFile(pipe, "w") as archive:
        for name, content in CONTENT.items():
            archive.writestr(name, content)
    (tmp_path / "a.zip").write_bytes(pipe.getvalue())
    extract(tmp_path / "a.zip", tmp_path / "out")
    assert {name: (tmp_path / "out" / name).read_bytes() for name in CONTENT} == CONTENT


def test_an_archive_that_may_not_be_read_is_named(tmp_path):
    (tmp_path / "a.zip").mkdir()
    with pytest.raises(StorageError, match=r"a\.zip: cannot be read \(Is a directory\)"):
        extract(tmp_path / "a.zip", tmp_path / "out")
