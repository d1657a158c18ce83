# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The reader of debug.guest, on files of every version: sound ones, broken ones and noise."""

import io
import pathlib
import re
import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Optional, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import IDLE_VCPU
from tests.lab import writer
from volatility_guestdump.dumps import open_dump
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import REGISTERS
from volatility_guestdump.sources.debug_guest import GuestFile

VERSIONS = (1, 3, 4, 5, 6, 7)
HEADER_SIZES = {1: 61, 3: 78, 4: 78, 5: 78, 6: 79, 7: 83}
PAGE = writer.PAGE

every_version = pytest.mark.parametrize("version", VERSIONS)


def parse(data: bytes) -> GuestFile:
    """Returns what a file says."""
    return GuestFile.parse(io.BytesIO(data))


def vcpu(number: int) -> dict[str, int]:
    """Returns registers that all differ, and use all the bits that the file has for them."""
    values = {
        name: (0xF0 + number % 16) << 56 | number << 32 | 0x1000 + place
        for place, name in enumerate(IDLE_VCPU)
    }
    return {**values, "cr0": 0x8005_0033 + number}


def header(
    version: int,
    pages: int,
    holes: Sequence[tuple[int, int]],
    last_page: int,
    *,
    hole_count: Optional[int] = None,
    last_byte: int = PAGE - 1,
) -> bytes:
    """Returns a file with one vCPU whose memory information is anything, sizes in pages."""
    layout = writer.LAYOUTS[version]
    count = len(holes) if hole_count is None else hole_count
    numbers = ([number for hole in holes for number in hole] + [0] * 4)[:4]
    letter = "Q" if layout.wide else "I"
    memory = struct.pack(
        f"<Q{letter}II4{letter}", last_page * PAGE + last_byte, pages, 0, count, *numbers
    )
    whole = writer.pack_guest(version, [(0, PAGE)], [IDLE_VCPU])
    end = layout.memory_offset + len(memory)
    reserved = bytes(8 * count) if version == 1 else b""
    return whole[: layout.memory_offset] + memory + reserved + whole[end:]


@every_version
@pytest.mark.parametrize("count", [1, 3])
def test_registers(version: int, count: int) -> None:
    """Every register of every vCPU has the value that was written."""
    vcpus = [vcpu(number) for number in range(count)]
    guest = parse(writer.pack_guest(version, [(0, PAGE)], vcpus))
    assert guest.version == version and guest.format.startswith(f"{version} (ESXi ")
    assert [found.number for found in guest.vcpus] == list(range(count))
    for found, written in zip(guest.vcpus, vcpus):
        assert {name: found.registers[name] for name in REGISTERS} == {
            name: written[name] for name in REGISTERS
        }


@every_version
@pytest.mark.parametrize(
    ("regions", "ranges"),
    [
        ([(0, 5)], [(0, 5, 0)]),
        ([(0, 5), (9, 2)], [(0, 5, 0), (9, 2, 5)]),
        ([(0, 1), (2, 1), (5, 7)], [(0, 1, 0), (2, 1, 1), (5, 7, 2)]),
        ([(4, 2)], [(4, 2, 0)]),
        ([(1, 2), (4, 3)], [(1, 2, 0), (4, 3, 2)]),
        ([(0, 0xC0000), (0x100000, 0xF0000)], [(0, 0xC0000, 0), (0x100000, 0xF0000, 0xC0000)]),
    ],
)
def test_ranges(
    version: int, regions: list[tuple[int, int]], ranges: list[tuple[int, int, int]]
) -> None:
    """Memory is what the holes leave, and the file has it without them."""
    in_bytes = [(start * PAGE, size * PAGE) for start, size in regions]
    guest = parse(writer.pack_guest(version, in_bytes, [IDLE_VCPU]))
    runs = guest.ranges or ()
    found = [(run.start // PAGE, run.size // PAGE, run.file_offset // PAGE) for run in runs]
    assert found == ranges
    assert guest.memory_size == PAGE * sum(size for _, size in regions)
    assert (guest.ranges or ())[-1].end == PAGE * sum(regions[-1])


def test_a_hole_at_the_end() -> None:
    """Memory may end in a hole; there is no range behind it."""
    guest = parse(header(6, 4, [(4, 2)], 5))
    assert [(run.start, run.size) for run in guest.ranges or ()] == [(0, 4 * PAGE)]


@every_version
def test_truncated_at_every_byte(version: int) -> None:
    """A file without a whole header is none; behind it, the registers are there up to its end."""
    whole = writer.pack_guest(version, [(0, PAGE), (2 * PAGE, PAGE)], [vcpu(0), vcpu(1)])
    header_size = HEADER_SIZES[version] + (8 if version == 1 else 0)
    size = 4490 if version in (1, 3) else 4487
    assert len(whole) == header_size + 2 * size
    expected = parse(whole)
    for length in range(len(whole)):
        if length < HEADER_SIZES[version]:
            with pytest.raises(UnrecognizedSource):
                parse(whole[:length])
            continue
        if version in (1, 3) and length in (len(whole) - 6,):
            # Just as long as one of version 5 would be: what is read so has to prove itself.
            continue
        guest = parse(whole[:length])
        assert guest.ranges == expected.ranges and guest.version == version
        assert guest.oddities == (
            f"{length} bytes, but 2 vCPUs take {len(whole)}: the copy is incomplete",
        )
        for found, other in zip(guest.vcpus, expected.vcpus):
            assert found.number == other.number
            assert found.registers.items() <= other.registers.items()
        registers = sum(len(found.registers) for found in guest.vcpus)
        assert (registers == 0) == (length < header_size + 4)
    assert len(guest.vcpus) == 2 and guest.vcpus[1].registers == expected.vcpus[1].registers


@every_version
def test_too_long(version: int) -> None:
    """What is behind the vCPUs is ignored, and not all of it is read."""
    whole = writer.pack_guest(version, [(0, PAGE)], [IDLE_VCPU, IDLE_VCPU])
    stream = io.BytesIO(whole + bytes(100 << 20))
    guest = GuestFile.parse(stream, "x.guest")
    assert guest.oddities == ("the file goes on behind its 2 vCPUs",)
    assert guest.vcpus == parse(whole).vcpus and guest.ranges == parse(whole).ranges
    assert stream.tell() < 40 << 20


def test_a_stream_that_gives_little_at_a_time() -> None:
    """A raw stream may return fewer bytes than it was asked for."""

    class Trickle(io.BytesIO):
        def read(self, size: Optional[int] = -1) -> bytes:
            return super().read(min(size or 0, 7))

    whole = writer.pack_guest(7, [(0, PAGE)], [vcpu(1)])
    assert GuestFile.parse(cast(BinaryIO, Trickle(whole))) == parse(whole)


@pytest.mark.parametrize("like", VERSIONS)
@pytest.mark.parametrize("version", [0, 2, 8, 0xFFFFFFFF])
def test_unknown_versions(version: int, like: int) -> None:
    """A version to come is read as the newest of which all adds up, and has to prove itself."""
    number = struct.pack("<I", version)
    vcpus = [vcpu(0), vcpu(1)]
    whole = writer.pack_guest(like, [(0, PAGE), (2 * PAGE, PAGE)], vcpus)
    same = parse(whole)
    guest = parse(number + whole[4:])
    read_as = 5 if like == 4 else like
    assert (guest.version, guest.layout, guest.needs_proof) == (version, read_as, True)
    assert guest.format == f"{version} (read as {read_as})"
    assert guest.oddities == (
        f"version {version} of the format is not known; it is read as version {read_as}",
    )
    assert (guest.ranges, guest.vcpus) == (same.ranges, same.vcpus)
    # Records of another size: memory alone adds up.
    longer = parse(number + whole[4:] + bytes(8))
    assert longer.ranges == same.ranges and longer.vcpus == ()
    assert longer.oddities[-1] == "its registers are not where that has them, and are not used"
    with pytest.raises(UnrecognizedSource, match=f"version {version} of the format is not known"):
        parse(number + header(like, 3, [(1, 1)], 2)[4:])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("like", VERSIONS)
def test_another_version_than_the_file_says(version: int, like: int) -> None:
    """The layout decides, and not the number."""
    whole = writer.pack_guest(like, [(0, PAGE), (2 * PAGE, PAGE)], [vcpu(0)])
    guest = parse(struct.pack("<I", version) + whole[4:])
    same = parse(whole)
    assert (guest.ranges, guest.vcpus) == (same.ranges, same.vcpus)
    alike = version == like or {version, like} == {4, 5}
    assert guest.needs_proof == bool(guest.oddities) == (not alike)


@pytest.mark.parametrize(("architecture", "name"), [(0, "AArch64"), (2, "2")])
def test_other_architectures(architecture: int, name: str) -> None:
    """Version 7 says which CPUs the guest has."""
    whole = bytearray(writer.pack_guest(7, [(0, PAGE)], [IDLE_VCPU]))
    struct.pack_into("<I", whole, 72, architecture)
    with pytest.raises(SourceError, match=f"architecture is {name}; only x86") as caught:
        parse(bytes(whole))
    assert caught.type is SourceError


@every_version
@pytest.mark.parametrize(
    ("pages", "holes", "last_page", "message"),
    [
        (4, [(2, 0)], 3, "hole 0 at 0x2000 is empty"),
        (4, [(1, 1), (3, 0)], 4, "hole 1 at 0x3000 is empty"),
        (3, [(1, 3), (2, 1)], 6, "hole 1 .0x2000-0x2fff. overlaps or precedes hole 0.* 0x4000"),
        (3, [(4, 1), (1, 1)], 4, "hole 1 .0x1000-0x1fff. overlaps or precedes hole 0.* 0x5000"),
        (3, [(1, 1), (2, 1)], 4, "hole 1 .0x2000-0x2fff. touches hole 0"),
        (3, [(3, 2)], 3, "hole 0 .0x3000-0x4fff. lies outside of memory, which ends at 0x4000"),
        (3, [(9, 1)], 3, "hole 0 .0x9000-0x9fff. lies outside of memory"),
        (3, [(1, 1)], 4, "leaves 0x4000 bytes of memory, but the header gives 0x3000"),
        (5, [(1, 1)], 4, "leaves 0x4000 bytes of memory, but the header gives 0x5000"),
        (0, [(0, 5)], 4, "no memory"),
    ],
)
def test_bad_holes(
    version: int, pages: int, holes: list[tuple[int, int]], last_page: int, message: str
) -> None:
    """Holes that contradict each other or the size of memory are named; registers are there."""
    guest = parse(header(version, pages, holes, last_page))
    assert guest.ranges is None and guest.memory_size is None
    assert len(guest.oddities) == 1 and re.search(message, guest.oddities[0])
    assert len(guest.vcpus) == 1 and not guest.needs_proof


@every_version
@pytest.mark.parametrize("count", [3, 0x7FFFFFFF, 0xFFFFFFFF])
def test_too_many_holes(version: int, count: int) -> None:
    """There is room for two holes only."""
    whole = header(version, 4, [(1, 1), (3, 1)], 5)
    place = writer.LAYOUTS[version].memory_offset + (20 if version > 1 else 16)
    broken = whole[:place] + struct.pack("<I", count) + whole[place + 4 :]
    guest = parse(broken)
    assert guest.ranges is None and len(guest.vcpus) == 1
    assert guest.oddities == (f"{count} holes in memory, but the format has room for 2",)


@pytest.mark.parametrize("last_byte", [0, PAGE - 2])
def test_memory_that_ends_within_a_page(last_byte: int) -> None:
    """Memory is whole pages."""
    guest = parse(header(6, 4, [], 3, last_byte=last_byte))
    assert guest.ranges is None and "but the header gives" in guest.oddities[0]


@every_version
def test_two_errors_are_no_guest_dump(version: int) -> None:
    """When neither memory nor the size of the file adds up, it is some other file."""
    with pytest.raises(UnrecognizedSource):
        parse(header(version, 3, [(1, 1)], 4)[:-1])


@every_version
@pytest.mark.parametrize("count", [0, 1, 4, 8193, 0xFFFFFFFF])
def test_numbers_of_vcpus(version: int, count: int) -> None:
    """A number that is wrong costs no vCPU: the file's size tells how many there are."""
    whole = writer.pack_guest(version, [(0, PAGE)], [vcpu(0), vcpu(1)])
    guest = parse(whole[:4] + struct.pack("<I", count) + whole[8:])
    same = parse(whole)
    assert (guest.ranges, guest.vcpus) == (same.ranges, same.vcpus)
    assert len(guest.oddities) == 1
    if count != 4:
        assert guest.oddities == (f"the number of vCPUs is {count}, but there are registers of 2",)


@every_version
def test_no_vcpus(version: int, tmp_path: pathlib.Path) -> None:
    """A header alone is of a guest without vCPUs; without memory too there is no machine."""
    data = writer.pack_guest(version, [(0, PAGE)], [])
    guest = parse(data)
    assert guest.ranges and not guest.vcpus
    assert guest.oddities == ("it has no vCPUs",)
    path = tmp_path / "debug.guest"
    path.write_bytes(data)
    with open_dump(str(path)) as dump:
        assert dump.machine is None
        assert any("debug.guest: it has no vCPUs" in each for each in (*dump.warnings, dump.advice))


@given(st.sampled_from(VERSIONS), st.binary(max_size=200), st.integers(0, 5000))
def test_noise(version: int, data: bytes, padding: int) -> None:
    """Random bytes, with and without a known version, are refused and nothing else happens."""
    for noise in (data, struct.pack("<II", version, 1) + data + bytes(padding)):
        with pytest.raises(SourceError):
            parse(noise)


regions_of_memory = st.lists(
    st.tuples(st.integers(1, 1 << 20), st.integers(1, 1 << 20)), min_size=1, max_size=3
).flatmap(
    # With three regions both holes lie between them; else one may come first.
    lambda runs: st.tuples(st.just(runs), st.booleans() if len(runs) < 3 else st.just(True))
)


@given(st.sampled_from(VERSIONS), regions_of_memory, st.lists(st.integers(0, 255), max_size=4))
@settings(deadline=None)
def test_round_trip(
    version: int, layout: tuple[list[tuple[int, int]], bool], numbers: list[int]
) -> None:
    """Whatever memory and vCPUs are written, they are read."""
    runs, at_zero = layout
    regions = []
    position = 0
    for index, (gap, size) in enumerate(runs):
        position += 0 if index == 0 and at_zero else gap * PAGE
        regions.append((position, size * PAGE))
        position += size * PAGE
    vcpus: list[Mapping[str, int]] = [IDLE_VCPU, *map(vcpu, numbers)]
    guest = parse(writer.pack_guest(version, regions, vcpus))
    assert [(run.start, run.size) for run in guest.ranges or ()] == regions
    file_offset = end = 0
    for run in guest.ranges or ():
        assert run.start >= end and run.file_offset == file_offset and run.size > 0
        file_offset += run.size
        end = run.end
    assert guest.memory_size == file_offset
    assert [found.registers["r9"] for found in guest.vcpus] == [written["r9"] for written in vcpus]
