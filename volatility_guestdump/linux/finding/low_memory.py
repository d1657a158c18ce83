# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The kernel's page tables, from the memory below 1 MiB.

To start other CPUs and to wake from sleep, 64-bit Linux keeps a real-mode trampoline there
(arch/x86/realmode/init.c). One of its pages, trampoline_pgd, is a top-level page table whose last
entry is that of init_top_pgt, so it maps the kernel's image. Where it is differs.
"""

from collections.abc import Iterator

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import PAGE_SIZE, Memory
from volatility_guestdump.x86.paging import PageTables, PagingMode

_LOW_MEMORY = 1 << 20
#: Present, writable and accessed or not; never large, which a top-level entry cannot be.
_PRESENT = 1 << 0
_WRITABLE = 1 << 1
_LARGE = 1 << 7
_TABLE_MASK = ((1 << 52) - 1) & -PAGE_SIZE

#: Pages that lead to different places and are tried: on guests that were looked at it was one.
_ATTEMPTS = 4


def last_entries(memory: Memory) -> Iterator[tuple[int, int]]:
    """Yields pages below 1 MiB that may be top-level tables, and where their last entry leads.

    Yields:
        (guest-physical address of the page, guest-physical address of the table).
    """
    for page in range(0, _LOW_MEMORY, PAGE_SIZE):
        if not memory.covers(page, PAGE_SIZE):
            continue
        try:
            entry = int.from_bytes(memory.read(page + PAGE_SIZE - 8, 8), "little")
        except AddressError:
            continue
        flags = entry & (_PRESENT | _WRITABLE | _LARGE)
        if flags == _PRESENT | _WRITABLE and entry & _TABLE_MASK:
            yield page, entry & _TABLE_MASK


def low_memory_tables(memory: Memory) -> Iterator[PageTables]:
    """Yields page tables below 1 MiB that may map a 64-bit kernel."""
    seen = set()
    for page, table in last_entries(memory):
        if table in seen or not memory.covers(table, PAGE_SIZE):
            continue
        seen.add(table)
        for mode in (PagingMode.FOUR_LEVEL, PagingMode.FIVE_LEVEL):
            yield PageTables(memory.read, mode, page)
        if len(seen) >= _ATTEMPTS:
            return
