# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Guest-physical memory in a file: the memory file with the holes put back.

Reads go through a map of the file, which is several times faster than asking the system for each
one. But where a medium fails a map ends the process instead of raising an error. So every piece of
it is brought into memory first by a call that reports errors (MADV_POPULATE_READ, Linux 5.14);
where there is none the file is read piece by piece. What remains is a file that is cut off, or a
medium that fails, after its pieces were read: the system may drop a piece and read it again.
"""

import bisect
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Optional

from volatility_guestdump.exceptions import AddressError, MediumError
from volatility_guestdump.files.memory_file import Content
from volatility_guestdump.machine import PAGE_SIZE, MemoryRange

#: From Linux, include/uapi/asm-generic/mman-common.h; Python has no name for it.
_POPULATE_READ = 22

#: Small reads go through windows of this size.
_WINDOW_BITS = 16
_WINDOW = 1 << _WINDOW_BITS
_IN_WINDOW = _WINDOW - 1

#: What is mapped counts as memory of the process. Of a larger guest only so much is kept.
_SMALL_GUEST = 256 << 20
_MAPPED_LIMIT = 128 << 20


class PhysicalMemory:
    """Guest-physical memory: the memory file with the holes put back.

    A file that is too short is read as far as it goes.

    Args:
        ranges: the runs of memory, ascending, as debug.guest gives them.
        file: the memory file, or None when there is none: then every address is invalid.

    Attributes:
        file: as given.
        ranges: the runs that the file covers.
    """

    def __init__(self, ranges: Sequence[MemoryRange], file: Optional[Content]) -> None:
        self.file = file
        available = file.size if file else 0
        self.ranges: tuple[MemoryRange, ...] = tuple(
            MemoryRange(run.start, min(run.size, available - run.file_offset), run.file_offset)
            for run in ranges
            if run.file_offset < available
        )
        self._starts = [run.start for run in self.ranges]
        # Not by the file's size: what is beside memory in it is never mapped, and would put a guest
        # that is just small into an ELF or .vmsn that is not.
        self._is_small = sum(run.size for run in self.ranges) <= _SMALL_GUEST
        # Number of the window -> distance from guest-physical address to file offset.
        self._windows: dict[int, int] = {}
        self._mapped = 0
        self._map = file.map() if file else None
        if self._map is not None and not self._populate(0, 1):
            self._map = None

    def __reduce__(self) -> tuple[Any, ...]:
        # Without the map, which is of this process.
        return PhysicalMemory, (self.ranges, self.file)

    def close(self) -> None:
        """Lets go of the map; the file is closed by who opened it, and then nothing can be read."""
        mapped, self._map = self._map, None
        self._windows.clear()
        if mapped is not None:
            mapped.close()

    def _run(self, address: int) -> MemoryRange:
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0:
            run = self.ranges[index]
            if address < run.end:
                return run
        raise AddressError(address, f"guest-physical address {address:#x} is not in the dump")

    def covers(self, address: int, length: int) -> bool:
        """Whether all of a piece of memory, of one byte at least, can be read."""
        length = max(length, 1)
        while length > 0:
            try:
                run = self._run(address)
            except AddressError:
                return False
            length -= run.end - address
            address = run.end
        return True

    def stored(self) -> Iterator[MemoryRange]:
        """Yields the runs of memory that are no holes of a sparse file, ascending."""
        for run in self.ranges:
            assert self.file is not None
            for offset, size in self.file.stored(run.file_offset, run.size):
                yield MemoryRange(run.start + offset - run.file_offset, size, offset)

    def read(self, address: int, length: int) -> bytes:
        """Returns `length` bytes of guest-physical memory; none for a negative length.

        Raises:
            AddressError: a byte of it lies in a hole or outside of memory.
            MediumError: the memory file cannot be read there.
        """
        if length <= 0:
            return b""
        if (address & _IN_WINDOW) + length <= _WINDOW:
            try:
                start = address + self._windows[address >> _WINDOW_BITS]
                return self._map[start : start + length]  # type: ignore[index] # windows have a map
            except KeyError:
                pass
        run = self._run(address)
        if address + length <= run.end:
            return self._read(run, address, length)
        # Nothing is read before it is known that all of it is there.
        pieces = []
        while length > 0:
            run = self._run(address)
            size = min(run.end - address, length)
            pieces.append((run, address, size))
            address += size
            length -= size
        return b"".join(self._read(*piece) for piece in pieces)

    def _read(self, run: MemoryRange, address: int, length: int) -> bytes:
        """Reads what lies in one run, and opens the window for what comes next."""
        assert self.file is not None
        distance = run.file_offset - run.start
        start = address + distance
        if self._map is not None:
            window = address & ~_IN_WINDOW
            if run.start <= window and address + length <= window + _WINDOW <= run.end:
                if self._populate(window + distance, _WINDOW):
                    self._windows[address >> _WINDOW_BITS] = distance
                    return self._map[start : start + length]
            elif self._populate(start, length):
                return self._map[start : start + length]
        try:
            return self.file.read(start, length)
        except MediumError as error:
            if length <= PAGE_SIZE:
                raise MediumError(address, str(error)) from error
        # Read page by page: the error then names the page that cannot be read.
        parts = []
        while length > 0:
            size = min(PAGE_SIZE - address % PAGE_SIZE, length)
            parts.append(self._read(run, address, size))
            address += size
            length -= size
        return b"".join(parts)

    def _populate(self, start: int, length: int) -> bool:
        """Brings a piece of the file into memory; returns whether it could be read."""
        assert self._map is not None and self.file is not None
        first = start & -mmap.PAGESIZE
        size = start + length - first
        try:
            if self._mapped + size > _MAPPED_LIMIT and not self._is_small:
                if size > _MAPPED_LIMIT:
                    return False
                self._windows.clear()
                self._map.madvise(mmap.MADV_DONTNEED)
                self._mapped = 0
            self._map.madvise(_POPULATE_READ, first, size)
        except (AttributeError, OSError, ValueError):
            return False
        self._mapped += size
        return True
