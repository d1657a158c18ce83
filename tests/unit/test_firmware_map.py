# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The firmware's memory map, found by its bytes."""

import random
import struct
from collections.abc import Iterator, Sequence
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.finding import firmware_map
from volatility_guestdump.linux.finding.firmware_map import (
    MapSearch,
    MemoryMap,
    Range,
    ram_of,
    steps,
)
from volatility_guestdump.machine import MemoryRange

Entry = tuple[int, int, int]

#: What QEMU's BIOS says of 192 MiB with a hole.
BIOS: Sequence[Entry] = (
    (0, 0x9FC00, 1),
    (0x9FC00, 0x400, 2),
    (0xF0000, 0x10000, 2),
    (0x100000, 0x7EE0000, 1),
    (0x7FE0000, 0x20000, 2),
    (0xFFFC0000, 0x40000, 2),
    (0x100000000, 0x4000000, 1),
    (0xFD00000000, 0x300000000, 2),
)
#: The same as the kernel has corrected it.
CORRECTED: Sequence[Entry] = ((0, 0x1000, 2), (0x1000, 0x9EC00, 1), *BIOS[1:])
RAM = (
    Range(0x1000, 0x9FC00),
    Range(0x100000, 0x7FE0000),
    Range(0x100000000, 0x104000000),
)


class Bytes:
    """Memory of one run from 0.

    Args:
        data: in it.
        bad: numbers of pages that cannot be read.
    """

    def __init__(self, data: bytes, bad: Sequence[int] = ()) -> None:
        self.data = data
        self.ranges: Sequence[MemoryRange] = [MemoryRange(0, len(data), 0)]
        self._bad = bad

    def read(self, address: int, length: int) -> bytes:
        """Returns what is there."""
        pages = range(address // 0x1000, (address + length - 1) // 0x1000 + 1)
        if address + length > len(self.data) or any(page in self._bad for page in pages):
            raise AddressError(address, "not there")
        return self.data[address : address + length]

    def covers(self, address: int, length: int) -> bool:
        """Whether it is in memory."""
        return address + length <= len(self.data)

    def stored(self) -> Iterator[MemoryRange]:
        """Yields all of it."""
        yield from self.ranges


def entries(of: Sequence[Entry]) -> bytes:
    """Returns entries as boot_params has them."""
    return b"".join(struct.pack("<QQI", *entry) for entry in of)


def table(of: Sequence[Entry], count: Optional[int] = None) -> bytes:
    """Returns an e820_table."""
    return struct.pack("<I", len(of) if count is None else count) + entries(of)


def resources(of: Sequence[Entry], size: int) -> bytes:
    """Returns an array of struct resource, of some size each."""
    names = {1: 0xFFFFFFFF81E7B281, 2: 0xFFFFFFFF81E7B290}
    flags = {1: 0x81000200, 2: 0x80000200}
    return b"".join(
        struct.pack("<4Q", start, start + length - 1, names[kind], flags[kind])
        + bytes(size - 32 - 24)
        + struct.pack("<3Q", 0xFFFFFFFF82000000, 0xFFFF888000001000, 0)
        for start, length, kind in of
    )


def found(data: bytes, bad: Sequence[int] = ()) -> list[MemoryMap]:
    """Returns the maps that a search of all of some memory finds."""
    return list(MapSearch(Bytes(data, bad), steps(len(data))).maps(0, len(data)))


FORMS = {
    "table": (table(CORRECTED), "e820 table"),
    "table of the firmware": (table(BIOS), "e820 table"),
    "boot_params": (entries(BIOS), "boot_params"),
    "resources": (resources(CORRECTED, 64), "/proc/iomem"),
    "resources before 4.6": (resources(CORRECTED, 56), "/proc/iomem"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_form_at_each_alignment(form: str) -> None:
    """None has to be aligned, and what is around does not matter."""
    data, told_by = FORMS[form]
    for offset in (*range(70), 0x9EC00 + 0x244):
        for around in (b"\0", b"\x01", b"\xff"):
            (one,) = found(around * offset + data + around * 100)
            assert one.ram == RAM and one.told_by == told_by


@pytest.mark.parametrize("form", FORMS)
def test_each_form_across_portions(form: str) -> None:
    """What is read at once ends anywhere in it."""
    data, _ = FORMS[form]
    for before in range(0, len(data), 7):
        (one,) = found(bytes((256 << 10) - before) + data + bytes(5000))
        assert one.ram == RAM


def test_what_is_searched_begins_behind_the_first_entries() -> None:
    """A map belongs to the piece in which its RAM from 1 MiB on begins."""
    data = bytes(5000) + table(CORRECTED)
    split = 5000 + 4 + 4 * 20
    search = MapSearch(Bytes(data), steps(len(data)))
    assert not list(search.maps(0, split))
    assert [one.ram for one in search.maps(split, len(data))] == [RAM]
    assert not list(search.maps(0, len(data))), "it was found before"


def test_copies_that_differ() -> None:
    """Each is found, those that say the same once; the kernel's corrections are made for all."""
    other = [*CORRECTED[:-1], (0x104000000, 0x1000000, 1)]
    data = bytes(77).join([b"", table(BIOS), table(CORRECTED), table(other), entries(BIOS), b""])
    assert [one.ram for one in found(data)] == [RAM, (*RAM[:2], (0x100000000, 0x105000000))]


def test_what_the_kernel_takes_away() -> None:
    """Page 0, and what is between 640 KiB and 1 MiB; what touches is one range."""
    assert ram_of([(0, 0x200000, 1), (0x200000, 0x1000, 128), (0x201000, 0x1000, 3)]) == (
        (0x1000, 0xA0000),
        (0x100000, 0x201000),
    )
    assert ram_of([(0, 0x1000, 1), (0xA0000, 0x60000, 1)]) is None


def test_entries_in_front_that_are_none_of_it() -> None:
    """What makes sense in front of a table is tried, and the table as its count says."""
    assert RAM in [one.ram for one in found(b"\1" * 9 + entries([(0x10, 8, 1)]) + table(CORRECTED))]
    # The count, 9, is no kind; with 12 entries it is: then both are maps.
    more = [*CORRECTED, *((0x10000000000 + each * 0x1000, 0x800, 2) for each in range(3))]
    data = b"\xff" * 9 + struct.pack("<QQ", 0, 0) + table(more)
    assert RAM in [one.ram for one in found(data)]


def test_more_entries_behind_than_the_count_says() -> None:
    """Those that were there when the table was longer do not belong to it."""
    data = b"\xff" * 9 + table([*CORRECTED, (0xFFFF00000000, 0x1000, 1)], len(CORRECTED))
    assert found(data)[0] == MemoryMap(RAM, "e820 table")


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param([(0x100000, 0x1000, 1), (0x101000, 0x1000, 2)], id="one range"),
        pytest.param([(0x1000, 0xFF001, 1), (0x100000, 0x1000, 1)], id="overlap"),
        pytest.param([(0x1000, 0, 1), (0x100000, 0x1000, 1)], id="no size"),
        pytest.param([(0x1000, 0x9F000, 9), (0x100000, 0x1000, 1)], id="no such kind"),
        pytest.param([(0x1000, 0x9F000, 1), (0x100000, 1 << 52, 1)], id="too large"),
        pytest.param([(0x1000, 0x9F000, 1), (0x100000, 0x1000, 2)], id="no RAM from 1 MiB on"),
    ],
)
def test_no_map(wrong: Sequence[Entry]) -> None:
    """What is no map of RAM with gaps is none, in whatever form."""
    of = [(start, size, kind if kind in (1, 2) else 2) for start, size, kind in wrong]
    for data in (table(wrong), entries(wrong), resources(of, 64) if wrong[0][1] else b""):
        assert not found(bytes(99) + data + bytes(99))


@pytest.mark.parametrize("count", [0, 1, 9, 10, 4096, 0x7FFFFFFF, 0xFFFFFFFF])
def test_absurd_counts(count: int) -> None:
    """The entries that are there say the same without a count."""
    data = b"\xff" * 99 + table(CORRECTED, count) + b"\xff" * 99
    assert [one.ram for one in found(data)] == [RAM]


def test_cut_off() -> None:
    """What the end of the file leaves of a map is one of its own, and never an error."""
    for form, _ in FORMS.values():
        for end in range(len(form)):
            for one in found(form[:end]):
                assert one.ram == RAM[: len(one.ram)]


def test_pages_that_cannot_be_read() -> None:
    """They cost what is on them."""
    data = bytearray(0x6000)
    data[0x0F80 : 0x0F80 + 4 + 9 * 20] = table(CORRECTED)
    data[0x4100 : 0x4100 + 9 * 64] = resources(CORRECTED, 64)
    assert [one.told_by for one in found(bytes(data), bad=[0])] == ["/proc/iomem"]
    assert [one.told_by for one in found(bytes(data), bad=[4])] == ["e820 table"]


MAPS = st.lists(
    st.tuples(st.integers(1, 1 << 34), st.integers(1, 1 << 34), st.sampled_from([1, 1, 2, 3, 4])),
    max_size=300,
)


@settings(max_examples=50, deadline=None)
@given(MAPS, st.integers(0, 300), st.integers(0, 1 << 30), st.sampled_from(["table", "resources"]))
def test_any_map_in_noise(
    rest: list[tuple[int, int, int]], offset: int, seed: int, form: str
) -> None:
    """All ranges are found, however many they are, from the first byte to the last."""
    of: list[Entry] = [(0, 0x1000, 2), (0x1000, 0x9EFFF, 1), (0x100000, 0x100000, 1)]
    for gap, size, kind in rest:
        start = of[-1][0] + of[-1][1] + gap
        of.append((start, size, kind))
    noise = random.Random(seed).randbytes(offset), random.Random(seed + 1).randbytes(500)
    ram = tuple((start, start + size) for start, size, kind in of if kind == 1)
    if form == "resources":
        data = resources([(start, size, min(kind, 2)) for start, size, kind in of], 64)
    else:
        data = table(of)
    assert ram in [one.ram for one in found(noise[0] + data + noise[1])]


def test_random_bytes_and_zeros() -> None:
    """They have no map."""
    assert not found(random.Random(20).randbytes(4 << 20))
    assert not found(bytes(4 << 20))


HOSTILE = {
    "addresses": (0x100000).to_bytes(8, "little"),
    "entries": entries([(0x100000, 0x1000, 1)]),
    "rising entries": b"".join(entries([(0x100000 - 63 + each, 1, 1)]) for each in range(63))
    + entries([(0x100000, 1, 1)])
    + b"".join(entries([(0x100001 + 2 * each, 1, 1)]) for each in range(4096)),
    "counts": b"".join(table([(0x1000 * each, 0x1000, each % 2 + 1)]) for each in range(1, 257)),
    "resources": resources([(0x100000, 0x1000, 1)], 64),
    "rising resources": resources(
        [(0x100000 - 63 + each, 1, each % 2 + 1) for each in range(64)]
        + [(0x100001 + 2 * each, 1, each % 2 + 1) for each in range(4096)],
        64,
    ),
}


class Counted(Budget):
    """A budget that counts.

    Attributes:
        taken: steps.
    """

    taken = 0

    def take(self, steps: int = 1) -> bool:
        """Takes steps, and counts them."""
        self.taken += steps
        return super().take(steps)


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_bytes_cost_steps_that_are_bounded(kind: str) -> None:
    """A file that is full of what a map is found by ends the search; its maps are few."""
    data = (HOSTILE[kind] * ((4 << 20) // len(HOSTILE[kind]) + 1))[: 4 << 20]
    budget = Counted(1 << 16)
    maps = list(MapSearch(Bytes(data), budget).maps(0, len(data)))
    assert len(maps) <= firmware_map.MAPS_LIMIT
    # The place that is looked at last has so many entries at most, each of which may be the first.
    assert budget.taken <= (1 << 16) + 65 * firmware_map.ENTRIES_LIMIT
