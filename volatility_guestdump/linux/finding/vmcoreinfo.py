# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMCOREINFO: what a kernel tells to tools that read its dumps.

It is text of lines "name=value" in a page of its own, from the page's start
(kernel/vmcore_info.c), and names the top-level page table.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import PAGE_SIZE, Memory
from volatility_guestdump.x86.paging import PageTables, PagingMode

START = b"OSRELEASE="

#: Where a 64-bit kernel's image is mapped, but for phys_base.
_START_KERNEL_MAP = 0xFFFFFFFF80000000
#: Where the linear mapping of a 32-bit kernel may start (CONFIG_PAGE_OFFSET), the usual one first.
PAGE_OFFSETS_32 = (0xC0000000, 0xB0000000, 0x80000000, 0x78000000, 0x40000000)
_HEXADECIMAL = re.compile(r"(?:0x)?[0-9a-f]{1,16}")


def parse(text: bytes) -> dict[str, str]:
    """Returns name -> value."""
    lines = (line.partition("=") for line in text.decode("latin-1").splitlines())
    return {name: value for name, equals, value in lines if equals}


def read_at(memory: Memory, address: int) -> dict[str, str]:
    """Returns what the page at a guest-physical address says; nothing when it cannot be read."""
    try:
        return parse(memory.read(address, PAGE_SIZE).partition(b"\0")[0])
    except AddressError:
        return {}


def symbol(info: Mapping[str, str], name: str) -> Optional[int]:
    """Returns the virtual address of a symbol that VMCOREINFO names, or None."""
    value = info.get(f"SYMBOL({name})", "")
    return int(value, 16) if _HEXADECIMAL.fullmatch(value) else None


def _number(info: Mapping[str, str], name: str) -> Optional[int]:
    value = info.get(f"NUMBER({name})", "")
    return int(value) if re.fullmatch(r"-?\d{1,20}", value) else None


def vmcoreinfo_tables(memory: Memory, info: Mapping[str, str]) -> Iterator[PageTables]:
    """Yields the page tables that VMCOREINFO names, when they map themselves to where they are."""
    for name in ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir"):
        address = symbol(info, name)
        if address is not None:
            break
    else:
        return
    candidates: list[tuple[PagingMode, int]] = []
    if address >= _START_KERNEL_MAP:
        root = address - _START_KERNEL_MAP + (_number(info, "phys_base") or 0)
        five = _number(info, "pgtable_l5_enabled")
        if five != 1:
            candidates.append((PagingMode.FOUR_LEVEL, root))
        if five != 0:
            candidates.append((PagingMode.FIVE_LEVEL, root))
    else:
        candidates += [
            (mode, address - offset)
            for offset in PAGE_OFFSETS_32
            for mode in (PagingMode.PAE, PagingMode.LEGACY)
            if address >= offset
        ]
    for mode, root in candidates:
        if root < 0:
            continue
        tables = PageTables(memory.read, mode, root)
        try:
            found, _ = tables.translate(address)
        except AddressError:
            continue
        if found == root:
            yield tables
