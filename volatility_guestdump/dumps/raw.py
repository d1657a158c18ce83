# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Raw memory, as it is or with the hole below 4 GiB squeezed out: proved by the kernel in it."""

from typing import Optional

from volatility_guestdump import kernels
from volatility_guestdump.budget import Budget
from volatility_guestdump.dumps.format import Format, OneFile, Parts, Request, Stage, one_file
from volatility_guestdump.dumps.glued import Glued, find_glued_around
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.files.location import display_name
from volatility_guestdump.files.memory_file import MemoryFile
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.linux.finding import vmcoreinfo
from volatility_guestdump.linux.finding.find import IMAGE_STEPS, maps_an_image, search_kernel
from volatility_guestdump.linux.finding.low_memory import last_entries, low_memory_tables
from volatility_guestdump.linux.finding.search import Hits, search
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state import memory_map
from volatility_guestdump.machine import Machine
from volatility_guestdump.sources import raw
from volatility_guestdump.x86.paging import PageTables

#: How far the end of RAM that the firmware reports may be from the hole: it keeps some for itself.
_FIRMWARE_LIMIT = 64 << 20
#: Holes with which page tables make sense, and are followed in vain, before a search ends.
_ATTEMPTS = 8


class Raw(Format):
    """Raw memory whose first MiB leads to a Linux kernel."""

    name = "raw"
    what = "memory image"
    stage = Stage.RAW

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file, read with the hole that a kernel proves; see `Format.find`."""
        return self.parts(request.location, self._hole(request))

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; see `Format.machine`."""
        hole = int(parts.reading or "0", 16)

        def read() -> OneFile:
            file = session.file(parts.location)
            return OneFile(raw.with_hole(file.size, hole), file)

        kind = "raw memory, the hole below 4 GiB squeezed out" if hole else "raw memory"
        return one_file(parts, session, kind, read)

    def parts(self, location: str, hole: Optional[int]) -> Optional[Parts]:
        """Returns what the machine in a file is made of.

        Args:
            location: URL of the file.
            hole: guest-physical address at which a hole up to 4 GiB was squeezed out; 0 for none,
                None when the file has no machine that is known.
        """
        if hole is None:
            return None
        return Parts(Raw.name, location, location, None, f"{hole:#x}" if hole else "")

    def _hole(self, request: Request) -> Optional[int]:
        """Returns where the hole starts, 0 for none, or None when there is no Linux kernel."""
        file = request.session.file(request.location, None, request.progress)
        flat = PhysicalMemory(raw.with_hole(file.size, 0), file)
        if next(last_entries(flat), None) is None:
            return None
        budget, attempts = Budget(2 * IMAGE_STEPS), 0
        for hole in raw.possible_holes(file.size):
            memory = PhysicalMemory(raw.with_hole(file.size, hole), file)
            if any(maps_an_image(tables, budget) for tables in low_memory_tables(memory)):
                kernel = kernels.linux_kernel(self._machine(hole, request))
                if kernel is not None:
                    return _checked_hole(kernel, hole, file, request)
                attempts += 1
            if budget.is_spent or attempts >= _ATTEMPTS:
                break
        return None

    def _machine(self, hole: int, request: Request) -> Machine:
        parts = self.parts(request.location, hole)
        assert parts is not None
        return self.machine(parts, request.session)


class SearchedRaw(Raw):
    """Raw memory in which a search finds a Linux kernel."""

    name = "raw, searched"
    stage = Stage.SEARCHED

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file, read in the way that a kernel proves; see `Format.find`."""
        file = request.session.file(request.location, None, request.progress)
        hits = search(PhysicalMemory(raw.with_hole(file.size, 0), file), request.progress)
        # Kernels are looked for around banners last: each takes seconds, where memory is glued.
        ways = [self._with_hole, self._glued]
        leads = any(_leads_to_tables(*_moved(hits, file, hole)) for hole in raw.USUAL_HOLES)
        for way in ways if leads else reversed(ways):
            parts = way(request, file, hits)
            if parts is not None:
                return parts
        return None

    def _glued(self, request: Request, file: MemoryFile, hits: Hits) -> Optional[Parts]:
        found = find_glued_around(file, hits.banners, request.progress) if hits.banners else None
        return None if found is None else Glued().accepted(found, request)

    def _with_hole(self, request: Request, file: MemoryFile, hits: Hits) -> Optional[Parts]:
        attempts = 0
        for hole in raw.possible_holes(file.size):
            memory, moved = _moved(hits, file, hole)
            if hole not in raw.USUAL_HOLES:
                # To decode kallsyms for each would take too long.
                moved.banners.clear()
                if not _leads_to_tables(memory, moved):
                    continue
            kernel = search_kernel(memory, hits=moved)
            if kernel is not None:
                start = _checked_hole(kernel, hole, file, request)
                if start == hole:
                    kernels.remember(self._machine(start, request), kernel)
                return self.parts(request.location, start)
            attempts += 1
            if attempts >= _ATTEMPTS:
                break
        return None


def _moved(hits: Hits, file: MemoryFile, hole: int) -> tuple[PhysicalMemory, Hits]:
    """Returns a file's memory with a hole put back, and where its hits are then."""
    ranges = raw.with_hole(file.size, hole)
    distance = ranges[-1].start - ranges[-1].file_offset
    moved = Hits(
        *(
            [each + (distance if hole and each >= hole else 0) for each in found]
            for found in (hits.vmcoreinfo, hits.banners)
        )
    )
    return PhysicalMemory(ranges, file), moved


def _leads_to_tables(memory: PhysicalMemory, hits: Hits) -> bool:
    """Whether a VMCOREINFO leads to page tables of its kernel."""
    named = (vmcoreinfo.read_at(memory, each) for each in hits.vmcoreinfo)
    return any(any(vmcoreinfo.vmcoreinfo_tables(memory, info)) for info in named)


def _checked_hole(kernel: LinuxKernel, hole: int, file: MemoryFile, request: Request) -> int:
    """Returns where the hole starts by the kernel's own memory map, where it fits the file.

    Args:
        kernel: that was found with a hole at `hole`, which only has to be behind its image.
        hole: where it starts, 0 for none.
        file: the raw file.
        request: gets the warning that there is a hole.
    """
    told_by = "page tables"
    ends = memory_map.end_of_memory(kernel)
    if ends is None and kernel.address("e820_table") is not None:
        # What the kernel has allocated may lie behind the hole, and only make sense with it.
        for other in raw.possible_holes(file.size):
            memory = PhysicalMemory(raw.with_hole(file.size, other), file)
            tables = PageTables(memory.read, kernel.tables.mode, kernel.tables.root)
            ends = memory_map.end_of_memory(
                LinuxKernel(tables, kernel.runs, kernel.banner, kernel.kallsyms)
            )
            if ends is not None:
                hole = other
                break
    if ends is not None:
        low, end = ends
        start = file.size - (end - (4 << 30))
        if end > 4 << 30 and end > file.size and low <= start < low + _FIRMWARE_LIMIT:
            hole = start
            told_by = "memory map"
    if hole:
        # A warning: whoever knows better should see it.
        request.said.warn(
            f"{display_name(request.location)}: by the guest's {told_by} its memory has a hole at "
            f"{hole:#x}-0xffffffff that the file has not; what the file has from {hole:#x} on is "
            f"taken for memory from 0x100000000 on"
        )
    return hole


def no_linux_kernel(location: str) -> str:
    """Returns what to say of a file that all ways to a Linux kernel were tried on in vain."""
    return (
        f"{display_name(location)} shows no Linux kernel: neither page tables below 1 MiB, nor "
        "VMCOREINFO, nor a banner lead to one. It is not all of a Linux machine's memory, or in a "
        "format that is not known"
    )
