# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Guest-physical memory and page tables in it."""

import pathlib
import struct
from collections.abc import Sequence

from tests.lab.writer import PAGE

_PRESENT = 1
_POINTER = 0x000F_FFFF_FFFF_F000

#: Where pages are taken from: a prime number of them, handed out in strides.
_FIRST_PAGE = 0x400
_PAGES = 4093
_STRIDE = 7


class Memory:
    """Guest-physical memory of which only few pages are not zero."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._taken = 0

    def allocate(self) -> int:
        """Returns the address of a page not used yet; neighbours are not handed out in turn."""
        number = _FIRST_PAGE + self._taken * _STRIDE % _PAGES
        self._taken += 1
        assert self._taken < _PAGES
        return number * PAGE

    def write(self, address: int, data: bytes) -> None:
        """Writes bytes that are within one page."""
        number, offset = divmod(address, PAGE)
        assert offset + len(data) <= PAGE
        page = self._pages.setdefault(number, bytearray(PAGE))
        page[offset : offset + len(data)] = data

    def read_entry(self, address: int) -> int:
        """Returns an entry of a page table."""
        number, offset = divmod(address, PAGE)
        entry: int = struct.unpack_from("<Q", self._pages.get(number, bytes(PAGE)), offset)[0]
        return entry

    def write_entry(self, address: int, entry: int) -> None:
        """Writes an entry of a page table."""
        self.write(address, struct.pack("<Q", entry))

    def save(self, path: pathlib.Path, size: int) -> None:
        """Writes the memory to a file, with holes in the file where pages are zero."""
        assert size >= (_FIRST_PAGE + _PAGES) * PAGE
        with path.open("wb") as stream:
            for number, page in sorted(self._pages.items()):
                stream.seek(number * PAGE)
                stream.write(page)
            stream.truncate(size)


class PageTables:
    """Page tables with entries of 64 bits.

    Args:
        memory: that has the tables.
        root: physical address of the uppermost table.
        shifts: of each level from the uppermost, the lowest bit of the address that it decodes.
    """

    def __init__(self, memory: Memory, root: int, shifts: Sequence[int]) -> None:
        self.root = root
        self._memory = memory
        self._shifts = shifts
        self._mapped: dict[int, int] = {}

    def map(self, virtual: int, entry: int, *, upper: int = 0x063) -> None:
        """Maps a page.

        Args:
            virtual: address of the page.
            entry: the lowest table's entry.
            upper: flags for entries of upper tables that have to be made.
        """
        table = self.root
        for shift in self._shifts[:-1]:
            place = table + 8 * (virtual >> shift & 0x1FF)
            pointer = self._memory.read_entry(place)
            if not pointer & _PRESENT:
                pointer = self._memory.allocate() | upper
                self._memory.write_entry(place, pointer)
            table = pointer & _POINTER
        self._memory.write_entry(table + 8 * (virtual >> self._shifts[-1] & 0x1FF), entry)
        self._mapped[virtual] = entry & _POINTER

    def physical(self, virtual: int) -> int:
        """Returns the physical address that a virtual one was mapped to."""
        return self._mapped[virtual & -PAGE] + virtual % PAGE

    def write(self, virtual: int, data: bytes) -> None:
        """Writes bytes at a virtual address."""
        while data:
            part = data[: PAGE - virtual % PAGE]
            self._memory.write(self.physical(virtual), part)
            virtual += len(part)
            data = data[len(part) :]
