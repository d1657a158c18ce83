# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The memory file: where it lies, reading it by offsets, and the holes put back."""

import gzip
import os
import pathlib
import pickle
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_guestdump.dumps import Session
from volatility_guestdump.exceptions import (
    AddressError,
    MediumError,
    MemoryFileError,
    MissingMemoryFile,
)
from volatility_guestdump.files.location import (
    display_name,
    file_state,
    guest_locations,
    is_readable,
    local_path,
    memory_locations,
)
from volatility_guestdump.files.memory_file import MemoryFile, MemoryStream
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.machine import MemoryRange

DATA = bytes(n * 7 & 0xFF for n in range(5000))


@pytest.mark.parametrize(
    ("guest", "memory"),
    [
        ("debug.guest", ["debug.vmem", "debug.vmem.gz"]),
        ("debug.guest.gz", ["debug.vmem", "debug.vmem.gz"]),
        ("case-17", ["case-17.vmem", "case-17.vmem.gz"]),
        ("case-17.gz", ["case-17.vmem", "case-17.vmem.gz"]),
        ("a.b.guest", ["a.b.vmem", "a.b.vmem.gz"]),
        ("a.b", ["a.b.vmem", "a.vmem", "a.b.vmem.gz", "a.vmem.gz"]),
        ("debug.guest.guest", ["debug.guest.vmem", "debug.guest.vmem.gz"]),
    ],
)
def test_where_memory_lies(guest: str, memory: list[str]) -> None:
    """The suffix is replaced, or added where it may be part of the name; plain files first."""
    folder = "file:///cases/17.guest/"
    assert memory_locations(folder + guest) == [folder + name for name in memory]


@pytest.mark.parametrize(
    ("memory", "guest"),
    [
        ("debug.vmem", ["debug.guest", "debug.guest.gz"]),
        ("debug.vmem.gz", ["debug.guest", "debug.guest.gz"]),
        ("a.b.vmem", ["a.b.guest", "a.b.guest.gz"]),
        ("debug.guest", []),
        ("debug.raw", []),
        ("debug", []),
        ("debug.gz", []),
    ],
)
def test_where_the_guest_file_lies(memory: str, guest: list[str]) -> None:
    """Only the suffix of a memory file leads to a debug.guest."""
    folder = "file:///cases/17.vmem/"
    assert guest_locations(folder + memory) == [folder + name for name in guest]


@pytest.mark.parametrize("name", ["a b.vmem", "50%.vmem", "a#b?c;d.vmem", "ü.vmem"])
def test_names_in_urls(tmp_path: pathlib.Path, name: str) -> None:
    """A URL leads back to the path, and its name is shown as it is on the disk."""
    path = tmp_path / name
    path.write_bytes(DATA)
    location = path.as_uri()
    assert local_path(location) == str(path)
    assert display_name(location) == name
    assert is_readable(location) and MemoryFile(location).size == len(DATA)
    assert local_path("http://example.org/debug.vmem") is None
    assert local_path("file://localhost/debug.vmem") == local_path("file:///debug.vmem")
    # What lies on another machine is a path on Windows only.
    share = r"\\server\share\debug.vmem" if os.name == "nt" else None
    assert local_path("file://server/share/debug.vmem") == share


def test_file_state(tmp_path: pathlib.Path) -> None:
    """It changes when the file does, and there is none of what is not there."""
    path = tmp_path / "debug.vmem"
    assert file_state(path.as_uri()) is None and not is_readable(path.as_uri())
    assert file_state("http://example.org/debug.vmem") is None
    path.write_bytes(DATA)
    before = file_state(path.as_uri())
    assert before == file_state(path.as_uri()) is not None
    path.write_bytes(DATA + b"x")
    assert file_state(path.as_uri()) != before


@pytest.fixture(params=["plain", "gzip", "plain with the other name"])
def file(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> MemoryFile:
    """A memory file with DATA in it."""
    monkeypatch.setattr("volatility3.framework.constants.CACHE_PATH", str(tmp_path / "cache"))
    packed = request.param.startswith("gzip")
    path = tmp_path / ("debug.vmem.gz" if request.param == "gzip" else "debug.vmem")
    if request.param == "plain with the other name":
        path = tmp_path / "debug.gz.raw"
    path.write_bytes(gzip.compress(DATA) if packed else DATA)
    return MemoryFile(path.as_uri())


def test_memory_that_starts_like_gzip(tmp_path: pathlib.Path) -> None:
    """What a guest has at address 0 does not make its memory a compressed file."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(gzip.compress(DATA))
    assert MemoryFile(path.as_uri()).read(0, 3) == b"\x1f\x8b\x08"


def test_reads_of_a_file(file: MemoryFile) -> None:
    """Any piece inside can be read, forwards and backwards; none that reaches over the end."""
    assert file.size == len(DATA)
    for offset in (*range(0, 5000, 61), *range(4999, 0, -97)):
        for length in (0, 1, 8, 4096):
            if offset + length <= len(DATA):
                assert file.read(offset, length) == DATA[offset : offset + length]
            else:
                end = f"debug.*: the file ends before {offset + length:#x}"
                with pytest.raises(MediumError, match=end):
                    file.read(offset, length)
    assert file.read(0, len(DATA)) == DATA
    for offset in (5000, 5001, 1 << 40):
        with pytest.raises(MediumError, match="ends before"):
            file.read(offset, 1)


def test_a_file_as_a_stream(file: MemoryFile) -> None:
    """Reads go on where the last one ended, and stop at the end."""
    stream = MemoryStream(file)
    assert stream.readable() and stream.seekable()
    assert stream.read(0) == b"" and stream.read(10) == DATA[:10] and stream.tell() == 10
    assert stream.seek(5, os.SEEK_CUR) == 15 and stream.read(2) == DATA[15:17]
    assert stream.seek(-3, os.SEEK_END) == 4997 and stream.read(10) == DATA[-3:]
    assert stream.read(1) == b"" and stream.tell() == 5000
    assert stream.seek(100, os.SEEK_END) == 5100 and stream.read() == b""
    assert stream.seek(-1) == 0 and stream.read() == DATA
    assert stream.seek(4990) == 4990 and stream.read(None) == DATA[4990:]


def test_a_file_goes_to_another_process(file: MemoryFile) -> None:
    """The copy is opened where the file lies."""
    copy = pickle.loads(pickle.dumps(file))
    assert copy.location == file.location and copy.read(4000, 8) == DATA[4000:4008]


def test_files_that_cannot_be_opened(tmp_path: pathlib.Path) -> None:
    """What is missing is told from what is broken."""
    with pytest.raises(MissingMemoryFile, match=r"^debug\.vmem: No such file"):
        MemoryFile((tmp_path / "debug.vmem").as_uri())
    with pytest.raises(MemoryFileError, match="folder: Is a directory") as caught:
        (tmp_path / "folder").mkdir()
        MemoryFile((tmp_path / "folder").as_uri())
    assert caught.type is MemoryFileError


def test_a_file_that_shrinks(tmp_path: pathlib.Path) -> None:
    """A file that another program cuts off is said to end."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(DATA)
    file = MemoryFile(path.as_uri())
    os.truncate(path, 100)
    assert file.read(90, 10) == DATA[90:100]
    with pytest.raises(MediumError, match="ends before 0x65"):
        file.read(90, 11)


@pytest.mark.skipif(not hasattr(os, "pread"), reason="no file is read in this way here")
def test_a_file_system_that_gives_a_byte_at_a_time(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All is read, however often one must ask; and where it ends is said."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(DATA)
    file = MemoryFile(path.as_uri())
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, length, offset: pread(file, 1, offset))
    assert file.read(1, 4000) == DATA[1:4001]
    with pytest.raises(MediumError) as caught:
        file.read(len(DATA) - 9, 20)
    assert caught.value.address == len(DATA)


def test_files_stay_open(tmp_path: pathlib.Path) -> None:
    """A file is opened once, and again when it has changed; only the last ones are kept."""
    locations = []
    for name in "abc":
        (tmp_path / name).write_bytes(DATA)
        locations.append((tmp_path / name).as_uri())
    session = Session()
    first = session.file(locations[0])
    assert session.file(locations[0]) is first
    (tmp_path / "a").write_bytes(b"longer" + DATA)
    second = session.file(locations[0])
    assert second.size == len(DATA) + 6 and first.size == len(DATA)
    for location in locations[1:]:
        session.file(location)
    assert session.file(locations[0]) is not second


#: Reads go through windows of 64 KiB; what lies in four of these pieces may be one.
UNIT = 0x4000
CONTENT = random.Random(5).randbytes(24 * UNIT)

RANGES = [
    MemoryRange(0x10000, 0x28000, 0),
    MemoryRange(0x44000, 0x1C000, 0x28000),
    MemoryRange(0x100000, 0x8000, 0x44000),
]


@pytest.fixture(params=["mapped", "not mapped", "gzip"])
def content(
    request: pytest.FixtureRequest, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> MemoryFile:
    """A memory file with CONTENT in it, and the ways to read it."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(CONTENT)
    if request.param == "gzip":
        monkeypatch.setattr("volatility3.framework.constants.CACHE_PATH", str(tmp_path / "cache"))
        path = tmp_path / "debug.vmem.gz"
        path.write_bytes(gzip.compress(CONTENT))
    if request.param == "not mapped":
        monkeypatch.setattr(MemoryFile, "map", lambda self: None)
    return MemoryFile(path.as_uri())


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_process_opens_the_file_anew(tmp_path: pathlib.Path) -> None:
    """It would share the place in the file, where there are no positioned reads."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(CONTENT)
    session = Session()
    file = session.file(path.as_uri())
    assert session.file(path.as_uri()) is file
    child = os.fork()
    if not child:
        os._exit(session.file(path.as_uri()) is file)
    assert os.waitpid(child, 0)[1] == 0


def test_memory_with_holes(content: MemoryFile) -> None:
    """Each range comes from its place in the file; the error has the first address without one."""
    memory = PhysicalMemory(RANGES, content)
    assert memory.ranges == tuple(RANGES)
    for _ in range(2):
        assert memory.read(0x10000, 0x28000) == CONTENT[:0x28000]
        assert memory.read(0x1FFF0, 0x20) == CONTENT[0xFFF0:0x10010]
        for run in RANGES:
            # The windows of a range's ends reach into the holes.
            for place in (run.start, run.end - 8):
                offset = run.file_offset + place - run.start
                assert memory.read(place, 8) == CONTENT[offset : offset + 8]
        for address, length, missing in (
            *((0, 1, 0), (0xFFFF, 2, 0xFFFF), (0x38000, 1, 0x38000), (0x10000, 0x28001, 0x38000)),
            *((0x37FFF, 0x10000, 0x38000), (0x43FF8, 16, 0x43FF8), (0x5FFFF, 2, 0x60000)),
            *((0x107FFF, 2, 0x108000), (0x108000, 1, 0x108000), (0x10FFFF, 1, 0x10FFFF)),
            *((1 << 64, 1, 1 << 64), (-1, 1, -1), (-1, 2, -1)),
        ):
            assert not memory.covers(address, length)
            with pytest.raises(AddressError, match=f"{missing:#x} is not in the dump") as caught:
                memory.read(address, length)
            assert caught.value.address == missing
    assert memory.covers(0x10000, 0x28000) and memory.covers(0x107FFF, 1)
    assert memory.covers(0x10000, 0) and not memory.covers(0x38000, 0)
    for address, length in ((0x10000, 0), (0x10000, -16), (0x10000, -(1 << 31)), (0x38000, -1)):
        assert memory.read(address, length) == b""


def test_ranges_that_touch(content: MemoryFile) -> None:
    """A read goes on in the next range, wherever the file has it."""
    ranges = [MemoryRange(0, UNIT, 2 * UNIT), MemoryRange(UNIT, UNIT, 0)]
    memory = PhysicalMemory(ranges, content)
    expected = CONTENT[3 * UNIT - 16 : 3 * UNIT] + CONTENT[:16]
    assert memory.covers(UNIT - 16, 32) and memory.read(UNIT - 16, 32) == expected


def test_thousands_of_ranges_that_touch(content: MemoryFile) -> None:
    """A read through all of them is no deeper than one through two."""
    count = 5000
    ranges = [MemoryRange(number, 1, count - 1 - number) for number in range(count)]
    memory = PhysicalMemory(ranges, content)
    assert memory.read(0, count) == CONTENT[:count][::-1]
    with pytest.raises(AddressError) as caught:
        memory.read(0, 1 << 60)
    assert caught.value.address == count


def test_without_a_file() -> None:
    """Every address is invalid."""
    memory = PhysicalMemory(RANGES, None)
    assert memory.ranges == () and not memory.covers(0x10000, 1)
    with pytest.raises(AddressError):
        memory.read(0x10000, 1)


@pytest.mark.parametrize(
    ("size", "sizes"),
    [
        (0x4BFFF, [0x28000, 0x1C000, 0x7FFF]),
        (0x44000, [0x28000, 0x1C000]),
        (0x28001, [0x28000, 1]),
        (1, [1]),
        (0, []),
    ],
)
def test_a_short_file(tmp_path: pathlib.Path, size: int, sizes: list[int]) -> None:
    """Of the ranges that is left which the file has."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(CONTENT[:size])
    memory = PhysicalMemory(RANGES, MemoryFile(path.as_uri()))
    assert [run.size for run in memory.ranges] == sizes
    assert [run.start for run in memory.ranges] == [0x10000, 0x44000, 0x100000][: len(sizes)]
    for run in memory.ranges:
        place = run.file_offset + run.size - 1
        assert memory.read(run.end - 1, 1) == CONTENT[place : place + 1]
        assert not memory.covers(run.end, 1)
        with pytest.raises(AddressError):
            memory.read(run.end - 1, 2)


@pytest.mark.parametrize("how", ["mapped", "not mapped"])
def test_memory_that_is_cut_off_meanwhile(
    tmp_path: pathlib.Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is gone from the file when it is first read is an error of the file."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(CONTENT)
    if how == "not mapped":
        monkeypatch.setattr(MemoryFile, "map", lambda self: None)
    memory = PhysicalMemory(RANGES, MemoryFile(path.as_uri()))
    os.truncate(path, 0x20000)
    assert memory.read(0x10000, 0x100) == CONTENT[:0x100]
    for address, length in (
        *((0x44000, 8), (0x44000, 0x10000), (0x50000, 8), (0x30000, 8), (0x28000, 0xF000)),
    ):
        with pytest.raises(MediumError, match="ends before"):
            memory.read(address, length)


@pytest.mark.parametrize(("size", "is_kept"), [(256 << 20, True), (272 << 20, False)])
def test_what_stays_mapped(tmp_path: pathlib.Path, size: int, is_kept: bool) -> None:
    """All of a small guest, however much else its file has; of a larger one a part."""
    path = tmp_path / "x.vmsn"
    with path.open("wb") as stream:
        stream.truncate(size + (1 << 20))
    file = MemoryFile(path.as_uri())
    memory = PhysicalMemory([MemoryRange(0, size, 1 << 20)], file)
    mapped = memory._map
    if mapped is None:
        pytest.skip("the system cannot bring a map into memory")
    for address in range(0, size, 1 << 16):
        memory.read(address, 8)
    assert (len(memory._windows) == size >> 16) is is_kept


@pytest.fixture(scope="module")
def file_of_content(tmp_path_factory: pytest.TempPathFactory) -> MemoryFile:
    """A plain file for the many examples."""
    path = tmp_path_factory.mktemp("any") / "debug.vmem"
    path.write_bytes(CONTENT)
    return MemoryFile(path.as_uri())


@pytest.mark.parametrize("how", ["mapped", "not mapped"])
@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(1, 6)), min_size=1, max_size=4),
    st.just(24 * UNIT) | st.integers(0, 24 * UNIT),
    st.lists(
        st.tuples(
            st.integers(0, 48), st.integers(-9, 9), st.sampled_from([1, 8, 9, UNIT, 5 * UNIT])
        ),
        min_size=1,
        max_size=20,
    ),
)
@settings(deadline=None, max_examples=100)
def test_any_read(
    file_of_content: MemoryFile,
    how: str,
    layout: list[tuple[int, int]],
    file_size: int,
    reads: list[tuple[int, int, int]],
) -> None:
    """Ranges may even touch: each byte is the file's, or the first that is missing is named."""
    ranges, model, there = [], b"", b""
    offset = 0
    for gap, units in layout:
        size = units * UNIT
        start = len(model) + gap * UNIT
        ranges.append(MemoryRange(start, size, offset))
        part = CONTENT[offset : min(offset + size, file_size)]
        model += bytes(gap * UNIT) + part.ljust(size, b"\0")
        there += bytes(gap * UNIT) + b"\1" * len(part) + bytes(size - len(part))
        offset += size
    there += bytes(100 * UNIT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(file_of_content, "size", file_size)
        if how == "not mapped":
            patch.setattr(file_of_content, "map", lambda: None)
        memory = PhysicalMemory(ranges, file_of_content)
        for unit, near, length in reads:
            address = unit % (len(model) // UNIT + 2) * UNIT + near
            present = there[max(0, address) : address + length]
            missing = address if address < 0 else address + present.find(0)
            whole = address >= 0 and 0 not in present
            assert memory.covers(address, length) == whole
            if not whole:
                with pytest.raises(AddressError) as caught:
                    memory.read(address, length)
                assert caught.value.address == missing
            else:
                assert memory.read(address, length) == model[address : address + length]


def test_memory_that_is_closed(tmp_path: pathlib.Path) -> None:
    """Nothing of the file is left in the process, and what is read from then on is an error."""
    path = tmp_path / "x.vmem"
    path.write_bytes(bytes(range(256)) * 0x1000)
    file = MemoryFile(path.as_uri())
    memory = PhysicalMemory([MemoryRange(0, file.size, 0)], file)
    assert memory.read(0x1F001, 2) == b"\x01\x02"
    memory.close()
    memory.close()
    # The map alone is gone, and the file is read.
    assert memory.read(0x1F001, 2) == b"\x01\x02"
    file.close()
    with pytest.raises(MediumError):
        memory.read(0x1F001, 2)
    maps = pathlib.Path("/proc/self/maps")
    assert not maps.exists() or str(path) not in maps.read_text()
