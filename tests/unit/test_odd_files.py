# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Files under odd names, of odd kinds, and with something behind their end."""

import bz2
import gzip
import io
import lzma
import os
import pathlib
import random
import sys
import zipfile

import pytest

from tests.helpers import opened, write_pair
from volatility_guestdump.exceptions import MemoryFileError
from volatility_guestdump.files import gzip_index
from volatility_guestdump.files.gzip_members import GzipStream
from volatility_guestdump.files.location import (
    guest_locations,
    memory_locations,
    open_location,
    packed_guest_dump,
    packed_locations,
)
from volatility_guestdump.files.memory_file import MemoryFile

#: Two members, with runs of zeros and without.
MEMORY = bytes(300_000) + random.Random(3).randbytes(400_000) + bytes(1_000_000)
PACKED = gzip.compress(MEMORY[:600_000]) + gzip.compress(MEMORY[600_000:])

TAILS = {
    "zeros": bytes(5000),
    "a few zeros": bytes(3),
    "zeros of a tape block": bytes(1 << 20),
    "garbage": random.Random(5).randbytes(5000),
    "text": b"end of file",
}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    monkeypatch.setattr(gzip_index, "_cache_folder", lambda: cache)


def _names(locations: list[str]) -> list[str]:
    return [location.rpartition("/")[2] for location in locations]


def test_companions_of_a_symbolic_link(tmp_path: pathlib.Path) -> None:
    """A link leads to its target's companion, behind the one that lies beside the link."""
    evidence, desk = tmp_path / "evidence", tmp_path / "desk"
    evidence.mkdir()
    desk.mkdir()
    (evidence / "debug.guest").write_bytes(b"")
    (desk / "case.guest").symlink_to(evidence / "debug.guest")
    found = memory_locations((desk / "case.guest").as_uri())
    assert _names(found) == ["case.vmem", "case.vmem.gz", "debug.vmem", "debug.vmem.gz"]
    assert found[2] == (evidence / "debug.vmem").as_uri()
    (evidence / "debug.vmem").write_bytes(b"")
    (desk / "ram.vmem").symlink_to(evidence / "debug.vmem")
    assert (evidence / "debug.guest").as_uri() in guest_locations((desk / "ram.vmem").as_uri())


@pytest.mark.parametrize(
    ("guest", "memory"),
    [
        ("DEBUG.GUEST", "DEBUG.VMEM"),
        ("DEBUG.GUEST.GZ", "DEBUG.VMEM.GZ"),
        ("debug.guest", "DEBUG.VMEM"),
        ("Debug.Guest", "debug.vmem"),
    ],
)
def test_companions_in_upper_case(tmp_path: pathlib.Path, guest: str, memory: str) -> None:
    """Copies by way of old file systems come in upper case."""
    for name in (guest, memory):
        (tmp_path / name).write_bytes(b"")
    assert memory in _names(memory_locations((tmp_path / guest).as_uri()))
    assert guest in _names(guest_locations((tmp_path / memory).as_uri()))


def test_companions_that_differ_in_case_only(tmp_path: pathlib.Path) -> None:
    """Which of several is meant cannot be told; one of just the right name is taken."""
    for name in ("debug.Vmem", "debug.VMEM"):
        (tmp_path / name).write_bytes(b"")
    if len(list(tmp_path.glob("debug.*"))) < 2:
        pytest.skip("the file system does not tell upper from lower case")
    assert _names(memory_locations((tmp_path / "debug.guest").as_uri()))[0] == "debug.vmem"
    (tmp_path / "debug.vmem").write_bytes(b"")
    assert _names(memory_locations((tmp_path / "debug.guest").as_uri()))[0] == "debug.vmem"


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_bytes_behind_the_last_member(tmp_path: pathlib.Path, tail: bytes) -> None:
    """What gunzip ignores is ignored: at once, and by the index that is kept."""
    path = tmp_path / "debug.vmem.gz"
    path.write_bytes(PACKED + tail)
    for _ in range(2):
        file = MemoryFile(path.as_uri(), len(MEMORY))
        assert file.size == len(MEMORY)
        for offset in (0, 299_990, 599_990, 1_500_000, len(MEMORY) - 20):
            assert file.read(offset, 20) == MEMORY[offset : offset + 20]
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_member_that_is_cut_off_is_no_garbage(tmp_path: pathlib.Path) -> None:
    """What begins like a member belongs to the file."""
    path = tmp_path / "debug.vmem.gz"
    for cut in (5, 12, 1000):
        path.write_bytes(PACKED + gzip.compress(random.Random(9).randbytes(5000))[:cut])
        with pytest.raises(MemoryFileError, match="damaged or cut off behind 0x"):
            MemoryFile(path.as_uri(), len(MEMORY))


@pytest.mark.parametrize("tail", TAILS.values(), ids=TAILS)
def test_bytes_behind_a_compressed_guest_file(tmp_path: pathlib.Path, tail: bytes) -> None:
    """The same for debug.guest.gz."""
    guest = write_pair(tmp_path, bytes(4096))
    packed = tmp_path / "copy.guest.gz"
    packed.write_bytes(gzip.compress(guest.read_bytes()) + tail)
    assert opened(packed).vcpus == opened(guest).vcpus


def test_a_stream_of_members(tmp_path: pathlib.Path) -> None:
    """It reads on over members, seeks by reading, and says where they end."""
    path = tmp_path / "a.gz"
    path.write_bytes(PACKED + bytes(7))
    with GzipStream(str(path)) as stream:
        assert stream.seek(0, io.SEEK_END) == len(MEMORY)
        assert stream.members_end == len(PACKED)
        assert stream.seek(599_990) == 599_990 and stream.tell() == 599_990
        assert io.BufferedReader(stream).read(20) == MEMORY[599_990:600_010]
    path.write_bytes(PACKED[:-3])
    with GzipStream(str(path)) as stream, pytest.raises(EOFError):
        stream.readall()


def test_gzip_data_under_another_name(tmp_path: pathlib.Path) -> None:
    """It is compressed when its size is not that of the memory, and it decompresses."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(PACKED)
    assert MemoryFile(path.as_uri(), len(MEMORY)).read(299_990, 20) == MEMORY[299_990:300_010]
    # Memory that begins so: of just the right size, or not of gzip's form.
    assert MemoryFile(path.as_uri(), len(PACKED)).read(0, len(PACKED)) == PACKED
    assert MemoryFile(path.as_uri()).size == len(PACKED)
    path.write_bytes(b"\x1f\x8b\x08" + bytes(997))
    assert MemoryFile(path.as_uri(), 4096).size == 1000


def test_plain_data_named_gz(tmp_path: pathlib.Path) -> None:
    """The name alone does not make a file compressed, nor does what a guest has at address 0."""
    path = tmp_path / "debug.vmem.gz"
    path.write_bytes(MEMORY)
    assert MemoryFile(path.as_uri(), len(MEMORY)).read(300_000, 20) == MEMORY[300_000:300_020]
    path.write_bytes(PACKED)
    assert MemoryFile(path.as_uri(), len(PACKED)).read(0, len(PACKED)) == PACKED


def _zip(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("debug.vmem", data)
    return file.getvalue()


OTHER = {
    ".xz": (lzma.compress(MEMORY), "compressed by xz: unpack it first .unxz"),
    ".bz2": (bz2.compress(MEMORY), "compressed by bzip2: unpack it first .bunzip2"),
    ".zip": (_zip(MEMORY), "a zip archive: unpack it first .unzip"),
    ".7z": (b"7z\xbc\xaf\x27\x1c" + bytes(100), "a 7z archive: unpack it first .7z x"),
    ".zst": (b"\x28\xb5\x2f\xfd" + bytes(100), "compressed by zstd: unpack it first .unzstd"),
}


@pytest.mark.parametrize("suffix", OTHER)
def test_other_packed_files(tmp_path: pathlib.Path, suffix: str) -> None:
    """One message says what it is and what to do, under its own name and under another."""
    data, message = OTHER[suffix]
    path = tmp_path / f"debug.vmem{suffix}"
    path.write_bytes(data)
    with pytest.raises(MemoryFileError, match=rf"debug\.vmem{suffix} is {message}"):
        MemoryFile(path.as_uri())
    assert packed_locations([(tmp_path / "debug.vmem").as_uri()]) == [path.as_uri()]
    assert message[:10] in (packed_guest_dump(path.as_uri()) or "")
    other = tmp_path / "debug.vmem"
    other.write_bytes(data)
    with pytest.raises(MemoryFileError, match=rf"debug\.vmem is {message}"):
        MemoryFile(other.as_uri(), 2 * len(MEMORY))
    # Memory of the right size may begin like anything.
    assert MemoryFile(other.as_uri(), len(data)).read(0, len(data)) == data


def test_a_packed_file_of_another_kind(tmp_path: pathlib.Path) -> None:
    """Only what is a guest dump by its name is spoken of."""
    path = tmp_path / "memory.lime.xz"
    path.write_bytes(lzma.compress(MEMORY))
    assert packed_guest_dump(path.as_uri()) is None
    with open_location(path.as_uri()) as stream:
        assert stream.read(10) == MEMORY[:10]


@pytest.fixture
def home(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> pathlib.Path:
    """The cache folder of a user whose program does not say where indexes are kept."""
    monkeypatch.setattr(gzip_index, "_cache_folder", gzip_index._private_folder)
    for name in ("XDG_CACHE_HOME", "HOME", "USERPROFILE", "LOCALAPPDATA"):
        monkeypatch.setenv(name, str(tmp_path / "home"))
    return tmp_path / "home" / "volatility_guestdump"


@pytest.mark.skipif(sys.platform != "linux", reason="the folder has another name elsewhere")
def test_an_index_is_in_a_folder_of_the_users_own(
    tmp_path: pathlib.Path, home: pathlib.Path
) -> None:
    """Nobody else can put another one there."""
    packed = tmp_path / "debug.vmem.gz"
    packed.write_bytes(PACKED)
    assert MemoryFile(packed.as_uri()).read(5, 99) == MEMORY[5:104]
    (index,) = home.iterdir()
    assert home.stat().st_mode & 0o777 == 0o700 and index.suffix == ".cache"


@pytest.mark.skipif(sys.platform != "linux", reason="the folder has another name elsewhere")
@pytest.mark.parametrize("planted", ["writable", "link", "file", "another's", "no home"])
def test_a_folder_that_somebody_else_may_have_made_is_not_used(
    tmp_path: pathlib.Path, home: pathlib.Path, monkeypatch: pytest.MonkeyPatch, planted: str
) -> None:
    """The file is read all the same, and nothing is kept."""
    packed, others = tmp_path / "debug.vmem.gz", tmp_path / "others"
    packed.write_bytes(PACKED)
    others.mkdir()
    home.parent.mkdir()
    if planted == "writable":
        home.mkdir()
        home.chmod(0o777)
    elif planted == "link":
        home.symlink_to(others)
    elif planted == "file":
        home.write_bytes(b"")
    elif planted == "another's":
        monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", "relative")
        monkeypatch.setenv("HOME", "/dev/null")
    assert MemoryFile(packed.as_uri()).read(5, 99) == MEMORY[5:104]
    assert not list(others.iterdir()) and not [*home.parent.glob("*/*")]
