# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where a kernel says that RAM is: the firmware's memory map, and the tree of /proc/iomem."""

from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.finding.firmware_map import (
    ENTRIES_LIMIT,
    ENTRY,
    MemoryMap,
    merged,
    ram_of,
)
from volatility_guestdump.linux.kernel import LinuxKernel

#: RAM, and what ACPI keeps in RAM (enum e820_type: 1, 3, 4).
_IN_RAM = (1, 3, 4)
_FOUR_GIB = 4 << 30

#: The name of RAM in /proc/iomem.
_SYSTEM_RAM = b"System RAM\0"
#: Where struct resource of a 64-bit kernel has its pointers to parent, sibling and child: from 4.6
#: on, and before, without `desc` (include/linux/ioport.h).
_LINKS = (40, 32)


def end_of_memory(kernel: LinuxKernel) -> Optional[tuple[int, int]]:
    """Returns where RAM ends below 4 GiB, and where all of it ends; None when nothing tells."""
    entries = _e820_entries(kernel)
    if entries is None or ram_of(entries) is None:
        return None
    ends = [start + size for start, size, kind in entries if kind in _IN_RAM]
    low = [end for end in ends if end <= _FOUR_GIB]
    return (max(low), max(ends)) if low else None


def memory_maps(kernel: LinuxKernel) -> Iterator[MemoryMap]:
    """Yields what the kernel says of where RAM is, the best first.

    Memory that was plugged in later is in the tree of /proc/iomem alone.
    """
    tree = _iomem(kernel)
    if tree is not None:
        yield tree
    entries = _e820_entries(kernel)
    ram = None if entries is None else ram_of(entries)
    if ram is not None:
        yield MemoryMap(ram, "e820_table")


def _e820_entries(kernel: LinuxKernel) -> Optional[list[tuple[int, int, int]]]:
    pointer = kernel.address("e820_table")
    if pointer is None:
        return None
    try:
        table = kernel.pointer(pointer)
        count = int.from_bytes(kernel.read(table, 4), "little")
        if not 0 < count <= ENTRIES_LIMIT:
            return None
        return list(ENTRY.iter_unpack(kernel.read(table + 4, ENTRY.size * count)))
    except AddressError:
        return None


def _iomem(kernel: LinuxKernel) -> Optional[MemoryMap]:
    """Returns the ranges that are called "System RAM" at the top of /proc/iomem."""
    root = kernel.address("iomem_resource")
    if root is None or kernel.bits != 64:
        return None
    for links in _LINKS:
        try:
            ranges = list(_system_ram(kernel, root, links))
        except (AddressError, _NotThere):
            continue
        ram = merged(ranges)
        if ram:
            return MemoryMap(ram, "/proc/iomem")
    return None


class _NotThere(Exception):
    """Thrown when what is read is no tree of resources."""


def _system_ram(kernel: LinuxKernel, root: int, links: int) -> Iterator[tuple[int, int]]:
    behind = 0
    resource = kernel.pointer(root + links + 16)
    for _ in range(ENTRIES_LIMIT):
        if not resource:
            return
        start, end = kernel.pointer(resource), kernel.pointer(resource + 8) + 1
        # Siblings are sorted, so no ring of them gets far.
        if kernel.pointer(resource + links) != root or start < behind or end <= start:
            break
        behind = end
        name = kernel.pointer(resource + 16)
        if kernel.read(name, len(_SYSTEM_RAM)) == _SYSTEM_RAM:
            yield start, end
        resource = kernel.pointer(resource + links + 8)
    raise _NotThere
