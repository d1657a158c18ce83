# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The search for a Linux kernel in memory that was made to keep it busy."""

import re
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import machine
from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.finding import find
from volatility_guestdump.linux.finding.banner import banner_starts, match_banner
from volatility_guestdump.linux.finding.search import search
from volatility_guestdump.machine import PAGE_SIZE, REGISTERS, VCPU, MemoryRange
from volatility_guestdump.x86.paging import PageTables, PagingMode

#: The last entry of each root leads to one table, whose entry for the image maps 1 GiB at once.
SHARED = 0x10000
#: One table after the other has another gigabyte, of which no piece is like one of another.
APART = 1 << 44


class Memory:
    """Memory in which nearly every page is a root that maps much, and all of it is zeros.

    Args:
        apart: whether each root maps a gigabyte of its own.
    """

    def __init__(self, apart: bool) -> None:
        self.looked_at = 0
        self._apart = apart

    def read(self, address: int, length: int) -> bytes:
        """Reads a table or what it maps."""
        number, offset = divmod(address, PAGE_SIZE)
        if address >= APART or length > PAGE_SIZE or address < SHARED:
            self.looked_at += length
            return bytes(length)
        table = bytearray(PAGE_SIZE)
        # A root in an even page, with its own table behind it.
        below = (number + 1) * PAGE_SIZE if self._apart else SHARED
        table[511 * 8 : 512 * 8] = (below | 3).to_bytes(8, "little")
        mapped = APART + (number << 30) if self._apart else 0
        table[510 * 8 : 511 * 8] = (mapped | 0x83).to_bytes(8, "little")
        return bytes(table[offset : offset + length])


@pytest.mark.parametrize(("apart", "limit"), [(False, 600 << 20), (True, 2 << 30)])
def test_many_vcpus_whose_tables_lead_to_no_kernel(
    apart: bool, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they have in common is looked at once, and only so much of what they have not."""
    monkeypatch.setattr(find, "_ALL_IMAGES_LIMIT", 2 << 30)
    memory = Memory(apart)
    registers = {**dict.fromkeys(REGISTERS, 0), "cr0": 1 << 31 | 1, "cr4": 1 << 5}
    registers["rip"] = 0xFFFFFFFF80000000
    vcpus = [
        VCPU(number, {**registers, "cr3": 0x20000 + 2 * PAGE_SIZE * number})
        for number in range(1024)
    ]
    assert find.find_kernel(machine(memory.read, vcpus)) is None
    assert 0 < memory.looked_at <= limit + (16 << 20)


class HollowTables:
    """Tables that are all there down to the last, which maps nothing: a step for each page.

    Args:
        monkeypatch: counts entries that are looked at in `walks`.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.walks = 0
        walk = PageTables._walk

        def counted(tables: PageTables, address: int) -> tuple[Optional[int], int]:
            self.walks += 1
            return walk(tables, address)

        monkeypatch.setattr(PageTables, "_walk", counted)

    @staticmethod
    def read(address: int, length: int) -> bytes:
        """Reads a table: each has all its entries lead to the next, from the root to the last."""
        level, offset = address >> 40 & 7, address % PAGE_SIZE
        below = ((level + 1) << 40 | 3) if level < 3 else 2
        table = below.to_bytes(8, "little") * 512
        return table[offset : offset + length]


@pytest.mark.parametrize("count", [64, 8192])
def test_tables_that_are_all_there_and_map_nothing(
    count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """8,192 roots cost hours at a quarter of a million entries each: all have one budget."""
    monkeypatch.setattr(find, "IMAGE_STEPS", 1 << 17)
    hollow = HollowTables(monkeypatch)
    registers = {**dict.fromkeys(REGISTERS, 0), "cr0": 1 << 31 | 1, "cr4": 1 << 5, "efer": 1 << 10}
    vcpus = [VCPU(number, {**registers, "cr3": 2 * PAGE_SIZE * number}) for number in range(count)]
    assert find.find_kernel(machine(hollow.read, vcpus)) is None
    # What registers lead to, low memory, and one look for a handler of each root.
    assert hollow.walks <= 2 * (1 << 17) + 4 * count


def test_hollow_tables_in_low_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same where it is asked which hole a file has."""
    hollow = HollowTables(monkeypatch)
    tables = PageTables(hollow.read, PagingMode.FOUR_LEVEL, 0)
    budget = Budget(1000)
    assert not any(find.maps_an_image(tables, budget) for _ in range(64))
    assert hollow.walks == 1000 and budget.is_spent


LETTERS = st.sampled_from([b" #1", b" #", b"1", b"7", b"x", b" ", b"\n", b"\0", b"Linux version 6"])


@given(st.lists(LETTERS, max_size=12), st.integers(0, 420), st.integers(0, 230))
@settings(deadline=None, max_examples=500)
def test_banners(parts: list[bytes], before: int, behind: int) -> None:
    """What a regular expression says that goes back at each byte is found in one pass."""
    data = b"Linux version 6" + b"x" * before + b"".join(parts) + b"y" * behind + b"\n\0"
    strict, loose = (
        re.match(
            rb"(Linux version [0-9][^\0\n]{8,400} #[0-9]{1,%d}[^\0\n]{0,%d})\n\0" % limits, data
        )
        for limits in ((2, 200), (214, 214))
    )
    found = match_banner(data, 0)
    if strict:
        assert found == strict[1]
    if found is not None:
        assert loose is not None and found == loose[1]
    assert list(banner_starts(data, 0))[::-1] == [
        at.start() for at in re.finditer(b"Linux version ", data)
    ]


@pytest.mark.parametrize("start", [0, 5, PAGE_SIZE - 20])
def test_memory_full_of_what_begins_like_a_banner(start: int) -> None:
    """Anybody can fill it: some in each page are looked at, and the real one is found."""
    banner = b"Linux version 6.1.0-real (somebody@somewhere) (gcc) #1 SMP"
    decoys = b"Linux version 1 #1" * (1 << 15)
    content = bytearray(bytes(start) + decoys)
    place = 0x20000 + 0x40
    content[0x20000:0x21000] = bytes(0x1000)
    content[place : place + len(banner) + 2] = banner + b"\n\0"
    reads = []

    def read(address: int, length: int) -> bytes:
        if not 0 <= address <= address + length <= len(content):
            raise AddressError(address)
        reads.append(length)
        return bytes(content[address : address + length])

    memory: Any = machine(read, []).memory
    memory.ranges = [MemoryRange(0, len(content), 0)]
    found = search(memory)
    assert found.banners == [place]
    # One for each portion, and 16 for each page.
    assert len(reads) <= 10 + 17 * len(content) // PAGE_SIZE
