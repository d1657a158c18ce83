# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where the hole below 4 GiB is in memory whose file does not tell: the guest's own tables do.

Page tables make sense only with the hole put back that the file lacks; the kernel's memory map says
then where exactly it starts.
"""

import itertools
from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.files.memory_file import Content
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.linux.finding.find import IMAGE_STEPS, find_kernel, maps_an_image
from volatility_guestdump.linux.finding.low_memory import last_entries, low_memory_tables
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state import memory_map
from volatility_guestdump.machine import PAGE_SIZE, VCPU, Machine, MemoryRange, Origin
from volatility_guestdump.sources import raw
from volatility_guestdump.x86.paging import PageTables, candidate_tables, find_paging

#: How far the end of RAM that the firmware reports may be from the hole: it keeps some for itself.
_FIRMWARE_LIMIT = 64 << 20
_FOUR_GIB = 4 << 30
#: Every PC has memory from address 0 on, up to where its video card's begins.
_LEAST = 640 << 10
#: vCPUs that are looked at: the page tables of more tell nothing new.
_VCPUS = 8

#: Holes with which page tables make sense, and are followed in vain, before a search ends.
ATTEMPTS = 8

PAGE_TABLES, MEMORY_MAP = "page tables", "memory map"


class Hole(NamedTuple):
    """A hole in memory that the file has not.

    Attributes:
        start: guest-physical address; 0 where there is no hole.
        told_by: `PAGE_TABLES` or `MEMORY_MAP` of the guest.
    """

    start: int
    told_by: str


class Stored(NamedTuple):
    """Memory in a file, in one piece.

    Attributes:
        content: the file.
        offset: where memory starts in it.
        size: bytes of it.
    """

    content: Content
    offset: int
    size: int

    def ranges(self, hole: int) -> Sequence[MemoryRange]:
        """Returns the runs of memory, with a hole put back."""
        return raw.with_hole(self.size, hole, self.offset)

    def memory(self, hole: int) -> PhysicalMemory:
        """Returns the memory, with a hole put back."""
        return PhysicalMemory(self.ranges(hole), self.content)


def find_hole(
    stored: Stored,
    find: Callable[[int], Optional[LinuxKernel]],
    vcpus: Sequence[VCPU] = (),
) -> Optional[Hole]:
    """Returns the hole with which a Linux kernel is found, or None.

    Args:
        stored: the memory.
        find: returns the kernel with a hole that starts at an address, or None.
        vcpus: of the guest, whose page tables are tried before those of low memory.
    """
    if not vcpus and next(last_entries(stored.memory(0)), None) is None:
        return None
    budget, attempts = Budget(2 * IMAGE_STEPS), 0
    for start in raw.possible_holes(stored.size):
        memory = stored.memory(start)
        loaded = (tables for _, tables in candidate_tables(memory.read, vcpus[:_VCPUS]))
        candidates = itertools.chain(loaded, low_memory_tables(memory))
        if any(maps_an_image(tables, budget) for tables in candidates):
            kernel = find(start)
            if kernel is not None:
                return checked(kernel, start, stored)
            attempts += 1
        if budget.is_spent or attempts >= ATTEMPTS:
            break
    return None


def checked(kernel: LinuxKernel, start: int, stored: Stored) -> Hole:
    """Returns the hole by the kernel's own memory map, where that fits the file.

    Args:
        kernel: that was found with a hole at `start`, which only has to be behind its image.
        start: where the hole starts, 0 for none.
        stored: the memory.
    """
    size = stored.size
    ends = memory_map.end_of_memory(kernel)
    if ends is None and kernel.address("e820_table") is not None:
        # The table may lie behind the hole, and is found only with the right one.
        for other in raw.possible_holes(size):
            tables = PageTables(stored.memory(other).read, kernel.tables.mode, kernel.tables.root)
            ends = memory_map.end_of_memory(
                LinuxKernel(tables, kernel.runs, kernel.banner, kernel.kallsyms)
            )
            if ends is not None:
                start = other
                break
    if ends is not None:
        low, end = ends
        by_map = size - (end - _FOUR_GIB)
        if end > _FOUR_GIB and end > size and low <= by_map < low + _FIRMWARE_LIMIT:
            return Hole(by_map, MEMORY_MAP)
        if end <= _FOUR_GIB and low <= size < low + _FIRMWARE_LIMIT:
            return Hole(0, MEMORY_MAP)
    return Hole(start, PAGE_TABLES)


class Told(NamedTuple):
    """Where memory lies as the guest tells it.

    Attributes:
        ranges: the runs of memory.
        told_by: what of the guest tells it; empty where nothing does, and memory is taken to be in
            one piece.
    """

    ranges: Sequence[MemoryRange]
    told_by: str

    @property
    def words(self) -> str:
        """What to say of it."""
        runs = ", ".join(f"{run.start:#x}-{run.end - 1:#x}" for run in self.ranges)
        if not self.told_by:
            return f"nothing tells where memory lies; it is taken to be at {runs}"
        return f"by the guest's {self.told_by} memory lies at {runs}"


def told_by_guest(stored: Stored, vcpus: Sequence[VCPU]) -> Told:
    """Returns where memory lies of which no description can be used.

    Args:
        stored: the memory.
        vcpus: of the guest.
    """
    stored = stored._replace(size=stored.size & -PAGE_SIZE)

    def find(start: int) -> Optional[LinuxKernel]:
        origin = Origin("", "", (), None, 0)
        return find_kernel(Machine(stored.memory(start), vcpus, object(), origin))

    hole = find_hole(stored, find, vcpus)
    if hole is not None:
        return Told(stored.ranges(hole.start), hole.told_by)
    for start in raw.possible_holes(stored.size):
        read = stored.memory(start).read
        if any(find_paging(read, vcpu)[1] is not None for vcpu in vcpus[:_VCPUS]):
            return Told(stored.ranges(start), PAGE_TABLES)
    return Told(stored.ranges(0), "")


def better_told(
    ranges: Optional[Sequence[MemoryRange]],
    stored: Stored,
    vcpus: Sequence[VCPU],
    doubtful: bool,
) -> Optional[Told]:
    """Returns where memory lies as the guest tells it, where that is more than its file does.

    Args:
        ranges: what the file says; None where it does not.
        stored: the memory, all of it.
        vcpus: of the guest.
        doubtful: whether what the file says contradicts itself.
    """
    if ranges is None:
        return told_by_guest(stored, vcpus)
    if ranges and (ranges[0].start or ranges[0].size < _LEAST):
        told = told_by_guest(stored, vcpus)
        return told if told.told_by else None
    described = sum(run.size for run in ranges)
    if not described or described >= stored.size & -PAGE_SIZE:
        return None
    told = told_by_guest(stored, vcpus)
    # A file may have more than memory: then the memory map alone says that it has not.
    sure = told.told_by == MEMORY_MAP or (doubtful and told.told_by)
    return told if sure and sum(run.size for run in told.ranges) > described else None


def prove(machine: Machine) -> bool:
    """Whether the registers of a machine fit its memory: what one vCPU runs, and on, is mapped."""
    for vcpu in machine.vcpus[:_VCPUS]:
        _, tables = find_paging(machine.memory.read, vcpu)
        places = [vcpu.get(name) for name in ("rip", "rsp", "idt_base")]
        if tables is not None and sum(p is not None and tables.maps(p) for p in places) > 1:
            return True
    return False
