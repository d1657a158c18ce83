# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The Windows kernel that runs in the guest, found from the registers of its vCPUs.

The handlers of exceptions, which the IDT points to, lie in the kernel's image: its headers are
somewhere below, at the start of a page. With kernel virtual address shadowing a vCPU in user mode
has page tables loaded that map the handlers, but not the headers. Then another vCPU has the
kernel's tables, or the processor control region, which gs_base points to in kernel mode, names
them.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence
from typing import Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import PAGE_SIZE, VCPU, Machine, Read
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.pe import Image, read_kernel
from volatility_guestdump.x86.idt import EXCEPTIONS, handlers
from volatility_guestdump.x86.paging import PageTables, PagingMode, loaded_tables

#: How far below a handler the headers may lie; a kernel's image has up to 20 MiB.
_REACH = 64 << 20
#: Pages looked at in all page tables together, and those of them that are taken for headers.
_MAXIMUM_PAGES = 1 << 18
_MAXIMUM_HEADERS = 256
#: Gates, and entries of page tables, that are looked at in all. A handler has up to 16,384 entries
#: below it, in shadow tables too, which each vCPU may have of its own.
_STEPS = 1 << 22

#: KPRCB.KernelDirectoryTableBase, from the start of the processor control region, is what
#: KiSystemCall64Shadow loads into CR3. It starts a page of its own behind what else is in there:
#: gs:[7000h] in Windows 10 1709, gs:[9000h] from 1803 on, others in other versions.
_KERNEL_TABLES = range(0x5000, 0xC000, PAGE_SIZE)
#: At so many places it is looked for, through the tables of each vCPU in turn.
_MAXIMUM_PLACES = 1 << 17


def find_kernel(machine: Machine) -> Optional[WindowsKernel]:
    """Finds the Windows kernel that the vCPUs of a machine run.

    Args:
        machine: that is searched.

    Returns:
        The kernel, or None when the guest is not Windows or has no tables loaded that map it.
    """
    # One in user mode may have shadow tables loaded.
    ordered = sorted(machine.vcpus, key=lambda vcpu: vcpu.ring or 0)
    search = _Search()
    for vcpu, tables in _candidates(machine.memory.read, ordered):
        if not search.budget.take(EXCEPTIONS):
            break
        for handler in handlers(vcpu, tables):
            image = search.image_below(tables, handler)
            if image is not None:
                return WindowsKernel(tables, image)
    return None


def _candidates(read: Read, vcpus: Sequence[VCPU]) -> Iterator[tuple[VCPU, PageTables]]:
    """Yields the page tables that are loaded, then those that processor control regions name.

    Each once, and none beside what CR3 says: Linux alone keeps its tables in pairs.
    """
    loaded: list[tuple[VCPU, PageTables]] = []
    seen: set[tuple[PagingMode, int]] = set()
    for vcpu in vcpus:
        for tables in loaded_tables(read, vcpu):
            if (tables.mode, tables.root) not in seen:
                seen.add((tables.mode, tables.root))
                loaded.append((vcpu, tables))
    yield from loaded
    bases = ((vcpu, vcpu.get("gs_base")) for vcpu in vcpus)
    in_kernel = [(vcpu, base) for vcpu, base in bases if base is not None and base >> 63]
    in_long_mode = [tables for _, tables in loaded if tables.mode.is_64bit]
    places = itertools.product(in_kernel, in_long_mode, _KERNEL_TABLES)
    for (vcpu, base), tables, place in itertools.islice(places, _MAXIMUM_PLACES):
        try:
            (cr3,) = struct.unpack("<Q", tables.read(base + place, 8))
        except AddressError:
            continue
        named = tables.at(cr3)
        if (named.mode, named.root) not in seen:
            seen.add((named.mode, named.root))
            yield vcpu, named


class _Search:
    """A search for images below handlers, with limits for all of it together.

    Attributes:
        budget: of gates and entries of page tables.
    """

    def __init__(self) -> None:
        self.budget = Budget(_STEPS)
        self._pages_left = _MAXIMUM_PAGES
        self._headers_left = _MAXIMUM_HEADERS
        #: Root -> start and end of what was looked at last; and the images that were found there.
        self._looked: dict[int, tuple[int, int]] = {}
        self._images: dict[int, list[Image]] = {}

    def image_below(self, tables: PageTables, handler: int) -> Optional[Image]:
        """Returns the kernel's image that a handler lies in, or None."""
        images = self._images.setdefault(tables.root, [])
        start = handler & -PAGE_SIZE
        for known in images:
            if known.base <= handler < known.base + known.size:
                return known
        if self._pages_left < 0:
            return None
        for part in self._not_looked_at(tables.root, max(start - _REACH, 0), start + PAGE_SIZE):
            # What is not needed any more after the start of the system leaves gaps.
            mapped = list(tables.runs(part.start, part.stop, self.budget))
            for first, _, size in reversed(mapped):
                for page in range(first + size - PAGE_SIZE, first - 1, -PAGE_SIZE):
                    image = self._image_at(tables, page)
                    if image is not None:
                        images.append(image)
                        if handler < page + image.size:
                            return image
        return None

    def _not_looked_at(self, root: int, start: int, end: int) -> list[range]:
        """Returns the parts of a piece of memory that lie outside of the last one, highest first.

        The handlers of a kernel lie near each other, and so do the pieces below them.
        """
        low, high = self._looked.get(root, (end, end))
        if end < low or high < start:
            self._looked[root] = start, end
            return [range(start, end)]
        self._looked[root] = min(low, start), max(high, end)
        return [part for part in (range(max(high, start), end), range(start, low)) if part]

    def _image_at(self, tables: PageTables, page: int) -> Optional[Image]:
        self._pages_left -= 1
        try:
            if self._headers_left <= 0 or tables.read(page, 2) != b"MZ":
                return None
        except AddressError:
            return None
        self._headers_left -= 1
        return read_kernel(tables.read, page)
