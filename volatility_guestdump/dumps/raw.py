# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Raw memory, as it is or with the hole below 4 GiB squeezed out: proved by the kernel in it."""

from typing import Optional

from volatility_guestdump import kernels
from volatility_guestdump.dumps.format import Format, OneFile, Parts, Request, Stage, one_file
from volatility_guestdump.dumps.glued import Glued, find_glued_around
from volatility_guestdump.dumps.holes import ATTEMPTS, Hole, Stored, checked, find_hole
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.files.location import display_name
from volatility_guestdump.files.memory_file import MemoryFile
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.linux.finding import vmcoreinfo
from volatility_guestdump.linux.finding.find import search_kernel
from volatility_guestdump.linux.finding.search import Hits, search
from volatility_guestdump.machine import Machine
from volatility_guestdump.sources import raw


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
        stored = Stored(file, 0, file.size)
        found = find_hole(stored, lambda start: kernels.linux_kernel(self._machine(start, request)))
        return None if found is None else _said(found, request)

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
                start = _said(checked(kernel, hole, Stored(file, 0, file.size)), request)
                if start == hole:
                    kernels.remember(self._machine(start, request), kernel)
                return self.parts(request.location, start)
            attempts += 1
            if attempts >= ATTEMPTS:
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


def _said(hole: Hole, request: Request) -> int:
    """Returns where a hole starts, and says that there is one."""
    if hole.start:
        # A warning: whoever knows better should see it.
        request.said.warn(
            f"{display_name(request.location)}: by the guest's {hole.told_by} its memory has a "
            f"hole at {hole.start:#x}-0xffffffff that the file has not; what the file has from "
            f"{hole.start:#x} on is taken for memory from 0x100000000 on"
        )
    return hole.start


def no_linux_kernel(location: str) -> str:
    """Returns what to say of a file that all ways to a Linux kernel were tried on in vain."""
    return (
        f"{display_name(location)} shows no Linux kernel: neither page tables below 1 MiB, nor "
        "VMCOREINFO, nor a banner lead to one. It is not all of a Linux machine's memory, or in a "
        "format that is not known"
    )
