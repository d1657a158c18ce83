# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The memory map of a machine, as its firmware gave it to Linux, found in memory by its bytes.

It is in memory several times, in three forms. None of them needs to be aligned to be found:

    a table       u32 count, then entries of 20 bytes: u64 address, u64 size, u32 kind, which is 1
                  for RAM. This is `e820_table` and its copies for kexec and of the firmware; up to
                  4.11 it was `e820` (arch/x86/include/asm/e820/types.h)
    boot_params   the same entries without a count before them, as the boot loader passed them
                  (arch/x86/include/uapi/asm/bootparam.h); their first copy is below 1 MiB
    resources     what /proc/iomem shows: e820__reserve_resources() makes one struct resource of
                  each entry, all in one array (arch/x86/kernel/e820.c)

RAM begins anew at 1 MiB on every PC: from 640 KiB on there are video memory and ROMs, and
e820__memblock_setup() and its callers take away what a firmware says to the contrary. So each form
is looked for by the eight bytes of that address.
"""

import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, NamedTuple, Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.machine import PAGE_SIZE, Memory, read_padded

#: An entry: address, size, kind (struct e820_entry, packed).
ENTRY = struct.Struct("<QQI")
#: More than any machine has.
ENTRIES_LIMIT = 4096

#: Kinds of entries that /proc/iomem calls "System RAM": E820_TYPE_RAM, and E820_TYPE_RESERVED_KERN
#: of up to 6.14, which holds what the boot loader left for the kernel.
RAM_KINDS = (1, 128)
#: The other kinds of arch/x86/include/asm/e820/types.h: reserved, ACPI (2), unusable, persistent
#: memory (2), soft reserved.
_OTHER_KINDS = (2, 3, 4, 5, 7, 12, 0xEFFFFFFF)

#: Where the first MiB has no RAM (BIOS_BEGIN, BIOS_END).
_BIOS_BEGIN, _BIOS_END = 0xA0000, 0x100000
_ADDRESS_BITS = 52

#: The bytes of the address 1 MiB, without those in front that are zero: zeros are everywhere.
_MIB = _BIOS_END.to_bytes(8, "little")
_ANCHOR = _MIB.lstrip(b"\0")
_BEFORE_ANCHOR = len(_MIB) - len(_ANCHOR)

#: Start, end (the last byte), pointer to the name, flags (struct resource).
_RESOURCE = struct.Struct("<4Q")
#: Bytes of a struct resource from 4.6 on, and before, without `desc`.
_RESOURCE_SIZES = (64, 56)
_IORESOURCE_MEM = 0x200
#: Pointers to a kernel's own strings are above this.
_KERNEL_IMAGE = 0xFFFFFFFF80000000

#: Entries of the first MiB, of which there are a dozen at most.
_LOW_ENTRIES_LIMIT = 64
#: How much before and behind a place is read to decode the map around it: 1,024 resources or 3,276
#: entries. The kernel has room for 3,200 at most (E820_MAX_ENTRIES).
_BEFORE, _BEHIND = _LOW_ENTRIES_LIMIT * max(_RESOURCE_SIZES), 64 << 10
#: What is searched at a time. Each is a new allocation, which costs more where it is larger.
_PORTION = 256 << 10
_ZEROS = bytes(_PORTION)

#: Places and entries that a search looks at: so many, and one more for each so many bytes. Some
#: 30,000 places were seen in 256 MiB.
_STEPS, _BYTES_OF_A_STEP = 1 << 18, 1 << 10
#: Different maps that are found, before a search ends.
MAPS_LIMIT = 64


class Range(NamedTuple):
    """A range of guest-physical addresses.

    Attributes:
        start: the first address.
        end: the first one behind it.
    """

    start: int
    end: int


@dataclass(frozen=True)
class MemoryMap:
    """Where a machine has RAM.

    Attributes:
        ram: ranges, ascending, none of which touch: what /proc/iomem calls "System RAM".
        told_by: what tells it, in words.
    """

    ram: tuple[Range, ...]
    told_by: str = field(compare=False)


def ram_of(entries: Sequence[tuple[int, int, int]]) -> Optional[tuple[Range, ...]]:
    """Returns the ranges of RAM that Linux uses by a firmware's map; None if that is no map.

    Linux keeps page 0 for itself and takes away what is between 640 KiB and 1 MiB
    (trim_bios_range).

    Args:
        entries: address, size and kind of each.
    """
    behind = 0
    ram: list[tuple[int, int]] = []
    for start, size, kind in entries:
        end = start + size
        # The kernel sorts its table; bytes of something else are hardly ever sorted.
        if not size or start < behind or end >> _ADDRESS_BITS:
            return None
        behind = end
        if kind not in RAM_KINDS:
            continue
        for first, last in ((PAGE_SIZE, _BIOS_BEGIN), (_BIOS_END, end)):
            ram.append((max(start, first), min(end, last)))
    return merged(ram) or None


def merged(ranges: Iterable[tuple[int, int]]) -> tuple[Range, ...]:
    """Returns ranges without those that are empty, and one for those that touch.

    Args:
        ranges: start and first address behind of each, ascending.
    """
    runs: list[Range] = []
    for start, end in ranges:
        if runs and start == runs[-1].end and start < end:
            runs[-1] = Range(runs[-1].start, end)
        elif start < end:
            runs.append(Range(start, end))
    return tuple(runs)


def steps(size: int) -> Budget:
    """Returns what the search of a memory of some size may look at."""
    return Budget(_STEPS + size // _BYTES_OF_A_STEP)


class MapSearch:
    """Looks for maps in memory, whatever is known of its addresses.

    Args:
        memory: that is searched.
        budget: of places and entries that are looked at; `steps` for the usual one.
    """

    def __init__(self, memory: Memory, budget: Budget) -> None:
        self._memory = memory
        self._end = memory.ranges[-1].end if memory.ranges else 0
        self._seen: set[MemoryMap] = set()
        self._budget = budget

    @property
    def is_over(self) -> bool:
        """Whether so much was found or looked at that the search has to end."""
        return self._budget.is_spent or len(self._seen) >= MAPS_LIMIT

    def maps(
        self, start: int, end: int, done: Optional[Callable[[int], None]] = None
    ) -> Iterator[MemoryMap]:
        """Yields the maps in a piece of memory that were not found before.

        Args:
            start: of the piece.
            end: the first address behind; maps are found whose RAM from 1 MiB on is in it.
            done: called with how many more bytes were searched.
        """
        for portion in range(start, end, _PORTION):
            if self.is_over:
                return
            size = min(_PORTION, end - portion)
            # What crosses the end of a portion begins in it.
            data = self._read(portion, size + _RESOURCE.size)
            for at in [] if data.startswith(_ZEROS[:size]) else self._places(data, size):
                # To read it costs as much as some steps.
                self._budget.take((_BEFORE + _BEHIND) // PAGE_SIZE)
                window = max(0, portion + at - _BEFORE)
                around = self._read(window, _BEFORE + _BEHIND)
                for form in (self._entries, self._resources):
                    for found in form(around, portion + at - window):
                        if found not in self._seen:
                            self._seen.add(found)
                            yield found
                if self.is_over:
                    return
            if done is not None:
                done(size)

    def _read(self, start: int, size: int) -> bytes:
        return read_padded(self._memory.read, start, max(0, min(size, self._end - start)))[0]

    def _places(self, data: bytes, size: int) -> list[int]:
        """Returns the offsets below `size` that may be of RAM from 1 MiB on, ascending."""
        places = []
        # From its end: bytes.rfind is up to three times as fast as bytes.find.
        place = data.rfind(_ANCHOR)
        while place >= 0 and not self.is_over:
            self._budget.take()
            at = place - _BEFORE_ANCHOR
            if (
                0 <= at < size
                and data.startswith(_MIB, at)
                and (_ram_entry(data, at) or _resource(data, at) is not None)
            ):
                places.append(at)
            place = data.rfind(_ANCHOR, 0, place + len(_ANCHOR) - 1)
        return places[::-1]

    def _entries(self, data: bytes, at: int) -> Iterator[MemoryMap]:
        """Yields the maps that entries may be of which one begins at an offset."""
        if not _ram_entry(data, at):
            return
        begins = [at]
        next_start = ENTRY.unpack_from(data, at)[0]
        while begins[-1] >= ENTRY.size and len(begins) < _LOW_ENTRIES_LIMIT:
            self._budget.take()
            entry = ENTRY.unpack_from(data, begins[-1] - ENTRY.size)
            if not _is_entry(entry) or entry[0] + entry[1] > next_start:
                break
            next_start = entry[0]
            begins.append(begins[-1] - ENTRY.size)
        entries = self._following(data, begins[-1])
        # What is in front of a table may look like an entry of it, and the kind of an entry like
        # the count in front of one: each is a map then, and most entries come first.
        for skipped, begin in enumerate(reversed(begins)):
            self._budget.take()
            count = int.from_bytes(data[begin - 4 : begin], "little") if begin >= 4 else 0
            if len(begins) - skipped <= count <= len(entries) - skipped:
                yield from self._map(entries[skipped : skipped + count], "e820 table")
        yield from self._map(entries, "boot_params")

    def _map(self, entries: Sequence[tuple[int, int, int]], told_by: str) -> Iterator[MemoryMap]:
        self._budget.take(len(entries))
        ram = ram_of(entries)
        # Of one range alone nothing is out of place.
        if ram is not None and len(ram) > 1:
            yield MemoryMap(ram, told_by)

    def _following(self, data: bytes, at: int) -> list[tuple[int, int, int]]:
        entries: list[tuple[int, int, int]] = []
        behind = 0
        while len(entries) < ENTRIES_LIMIT and at + ENTRY.size <= len(data):
            self._budget.take()
            entry = ENTRY.unpack_from(data, at)
            if not _is_entry(entry) or entry[0] < behind:
                break
            entries.append(entry)
            behind = entry[0] + entry[1]
            at += ENTRY.size
        return entries

    def _resources(self, data: bytes, at: int) -> Iterator[MemoryMap]:
        """Yields the map in an array of resources, one of which begins at an offset."""
        name = _resource(data, at)
        if name is None:
            return
        for size in _RESOURCE_SIZES:
            begin = at
            next_start = _RESOURCE.unpack_from(data, at)[0]
            while begin > at - _LOW_ENTRIES_LIMIT * size:
                self._budget.take()
                if _resource(data, begin - size) is None:
                    break
                start, last = _RESOURCE.unpack_from(data, begin - size)[:2]
                if last >= next_start:
                    break
                begin, next_start = begin - size, start
            entries: list[tuple[int, int, int]] = []
            place = begin
            while len(entries) < ENTRIES_LIMIT:
                self._budget.take()
                found = _resource(data, place)
                if found is None:
                    break
                start, last = _RESOURCE.unpack_from(data, place)[:2]
                if entries and start < sum(entries[-1][:2]):
                    break
                # Those of one kind share a name.
                entries.append((start, last + 1 - start, 1 if found == name else 2))
                place += size
            yield from self._map(entries, "/proc/iomem")


def _ram_entry(data: bytes, at: int) -> bool:
    """Whether an entry of RAM may be at an offset."""
    if at + ENTRY.size > len(data):
        return False
    entry = ENTRY.unpack_from(data, at)
    return entry[2] in RAM_KINDS and _is_entry(entry)


def _is_entry(entry: tuple[int, int, int]) -> bool:
    start, size, kind = entry
    known = kind in RAM_KINDS or kind in _OTHER_KINDS
    return known and size > 0 and not (start + size) >> _ADDRESS_BITS


def _resource(data: bytes, at: int) -> Optional[int]:
    """Returns the pointer to the name of a resource of memory at an offset, or None."""
    if at < 0 or at + _RESOURCE.size > len(data):
        return None
    start, last, name, flags = _RESOURCE.unpack_from(data, at)
    sane = start <= last and not last >> _ADDRESS_BITS and flags & _IORESOURCE_MEM
    return name if sane and name >= _KERNEL_IMAGE and not flags >> 32 else None
