# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The memory map that the firmware gave to a kernel (arch/x86/kernel/e820.c)."""

import struct
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.kernel import LinuxKernel

_ENTRY = struct.Struct("<QQI")
#: RAM, and what ACPI keeps in RAM (enum e820_type: 1, 3, 4).
_IN_RAM = (1, 3, 4)
_ENTRIES_LIMIT = 4096
_FOUR_GIB = 4 << 30


def end_of_memory(kernel: LinuxKernel) -> Optional[tuple[int, int]]:
    """Returns where RAM ends below 4 GiB, and where all of it ends; None when nothing tells."""
    pointer = kernel.address("e820_table")
    if pointer is None:
        return None
    try:
        table = kernel.pointer(pointer)
        count = int.from_bytes(kernel.read(table, 4), "little")
        if not 0 < count <= _ENTRIES_LIMIT:
            return None
        entries = list(_ENTRY.iter_unpack(kernel.read(table + 4, _ENTRY.size * count)))
    except AddressError:
        return None
    # The kernel sorts its table; bytes of something else are hardly ever sorted.
    if any(not size for _, size, _ in entries) or any(
        before + size > start for (before, size, _), (start, *_) in zip(entries, entries[1:])
    ):
        return None
    ends = [start + size for start, size, kind in entries if kind in _IN_RAM]
    low = [end for end in ends if end <= _FOUR_GIB]
    if not low or max(ends) >> 52:
        return None
    return max(low), max(ends)
