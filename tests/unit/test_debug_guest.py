# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The reader of debug.guest, on files of every version: sound ones, broken ones and noise."""

import io
import struct
from collections.abc import Mapping, Sequence
from typing import BinaryIO, Optional, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import IDLE_VCPU
from tests.lab import writer
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
    found = [(run.start // PAGE, run.size // PAGE, run.file_offset // PAGE) for run in guest.ranges]
    assert found == ranges
    assert guest.memory_size == PAGE * sum(size for _, size in regions)
    assert guest.ranges[-1].end == PAGE * sum(regions[-1])


def test_a_hole_at_the_end() -> None:
    """Memory may end in a hole; there is no range behind it."""
    guest = parse(header(6, 4, [(4, 2)], 5))
    assert [(run.start, run.size) for run in guest.ranges] == [(0, 4 * PAGE)]


@every_version
def test_truncated_at_every_byte(version: int) -> None:
    """A file without a whole header is none; behind it, the error says how much there should be."""
    whole = writer.pack_guest(version, [(0, PAGE), (2 * PAGE, PAGE)], [IDLE_VCPU])
    header_size = HEADER_SIZES[version] + (8 if version == 1 else 0)
    assert len(whole) == header_size + (4490 if version in (1, 3) else 4487)
    for length in range(len(whole)):
        with pytest.raises(SourceError) as caught:
            parse(whole[:length])
        message = str(caught.value)
        if length < HEADER_SIZES[version]:
            assert caught.type is UnrecognizedSource
            assert message.startswith(f"debug.guest: {length} bytes are too few for a header")
        else:
            assert caught.type is SourceError
            assert message == (
                f"debug.guest: {length} bytes, but version {version} with 1 vCPUs and 1 holes "
                f"takes exactly {len(whole)}: the copy is incomplete"
            )


@every_version
def test_too_long(version: int) -> None:
    """A file with more behind it is refused, and no more of it is read than tells so."""
    whole = writer.pack_guest(version, [(0, PAGE)], [IDLE_VCPU, IDLE_VCPU])
    stream = io.BytesIO(whole + bytes(100_000))
    with pytest.raises(SourceError, match=f"x.guest: more bytes.*{len(whole)}.*too long"):
        GuestFile.parse(stream, "x.guest")
    assert stream.tell() == len(whole) + 1


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
    """A version to come is a guest dump when its memory adds up where that of another stood."""
    number = struct.pack("<I", version)
    whole = writer.pack_guest(like, [(0, PAGE), (2 * PAGE, PAGE)], [IDLE_VCPU])
    message = f"version {version} of the format is not known .known are 1, 3, 4, 5, 6, 7"
    with pytest.raises(SourceError, match=message) as caught:
        parse(number + whole[4:])
    assert caught.type is SourceError
    with pytest.raises(UnrecognizedSource, match=message):
        parse(number + header(like, 3, [(1, 1)], 2)[4:])


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
    """Holes that contradict each other or the size of memory are named."""
    with pytest.raises(SourceError, match=message) as caught:
        parse(header(version, pages, holes, last_page))
    assert caught.type is SourceError


@every_version
@pytest.mark.parametrize("count", [3, 0x7FFFFFFF, 0xFFFFFFFF])
def test_too_many_holes(version: int, count: int) -> None:
    """There is room for two holes only."""
    whole = header(version, 4, [(1, 1), (3, 1)], 5)
    place = writer.LAYOUTS[version].memory_offset + (20 if version > 1 else 16)
    broken = whole[:place] + struct.pack("<I", count) + whole[place + 4 :]
    with pytest.raises(SourceError, match=f"{count} holes in memory.*room for 2"):
        parse(broken)


@pytest.mark.parametrize("last_byte", [0, PAGE - 2])
def test_memory_that_ends_within_a_page(last_byte: int) -> None:
    """Memory is whole pages."""
    with pytest.raises(SourceError, match="but the header gives"):
        parse(header(6, 4, [], 3, last_byte=last_byte))


@every_version
def test_two_errors_are_no_guest_dump(version: int) -> None:
    """When neither memory nor the size of the file adds up, it is some other file."""
    with pytest.raises(UnrecognizedSource):
        parse(header(version, 3, [(1, 1)], 4)[:-1])


@every_version
@pytest.mark.parametrize("count", [0, 8193, 0xFFFFFFFF])
def test_numbers_of_vcpus(version: int, count: int) -> None:
    """None and too many vCPUs are refused, before the file is read."""
    whole = writer.pack_guest(version, [(0, PAGE)], [IDLE_VCPU])
    stream = io.BytesIO(whole[:4] + struct.pack("<I", count) + whole[8:])
    with pytest.raises(SourceError, match=f"{count} vCPUs; .* between 1 and 8192") as caught:
        GuestFile.parse(stream)
    assert caught.type is SourceError
    assert stream.tell() <= max(HEADER_SIZES.values()) + 1


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
    assert [(run.start, run.size) for run in guest.ranges] == regions
    file_offset = end = 0
    for run in guest.ranges:
        assert run.start >= end and run.file_offset == file_offset and run.size > 0
        file_offset += run.size
        end = run.end
    assert guest.memory_size == file_offset
    assert [found.registers["r9"] for found in guest.vcpus] == [written["r9"] for written in vcpus]
