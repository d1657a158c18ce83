# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The interrupt descriptor table (IDT): the exceptions' handlers, which lie in the kernel's image.

    offset   64-bit gate (16 bytes)        32-bit gate (8 bytes)
    0        handler, bits 0-15            handler, bits 0-15
    2        selector                      selector
    5        present (bit 7), type         present (bit 7), type
    6        handler, bits 16-63           handler, bits 16-31

Source: Intel Software Developer's Manual, volume 3, chapter 6.
"""

from collections.abc import Iterator

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import PageTables

#: Exceptions that the CPU itself raises: their handlers are the kernel's own.
EXCEPTIONS = 32


def handlers(vcpu: VCPU, tables: PageTables, count: int = EXCEPTIONS) -> Iterator[int]:
    """Yields the addresses of the first exceptions' handlers, as far as there are any.

    Args:
        vcpu: whose IDT is read.
        tables: page tables that map it.
        count: how many gates are looked at.
    """
    base = vcpu.get("idt_base")
    if base is None:
        return
    size = 16 if tables.mode.is_64bit else 8
    for vector in range(count):
        try:
            gate = tables.read(base + vector * size, size)
        except AddressError:
            return
        # Present, and an interrupt or a trap gate; a task gate has no address.
        if gate[5] & 0x9E == 0x8E:
            yield int.from_bytes(gate[:2] + gate[6 : 12 if size == 16 else 8], "little")
