# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which of two readings of the registers has the stack pointer right.

Where a format does not tell RSP from RBP the memory does: a stack pointer is a multiple of 8 that
leads to memory, where return addresses lie, which are near RIP. RBP may be anything; where it is a
frame pointer it leads to the same stack, further up.
"""

import struct
from collections.abc import Sequence
from typing import Optional

from volatility_guestdump.machine import VCPU, Read, read_padded
from volatility_guestdump.x86.paging import PageTables, find_paging

#: How much of a stack is looked at, and how far from RIP a kernel's or a program's code may be.
_STACK = 512
_CODE_REACH = 64 << 20


def likelier(read: Read, first: Sequence[VCPU], second: Sequence[VCPU]) -> Optional[Sequence[VCPU]]:
    """Returns the reading that checks out for more vCPUs, or None when nothing tells.

    Args:
        read: reads guest-physical memory.
        first: the vCPUs in one reading.
        second: the same vCPUs in the other.
    """
    votes = 0
    for one, other in zip(first, second):
        scores = []
        for vcpu in (one, other):
            _, tables = find_paging(read, vcpu)
            scores.append(_return_addresses(tables, vcpu) if tables else -1)
        # Of two places in one stack the stack pointer is the lower.
        below = [-vcpu["rsp"] if score >= 0 else 0 for vcpu, score in zip((one, other), scores)]
        low, high = (scores[0], below[0]), (scores[1], below[1])
        votes += (low > high) - (low < high)
    if votes == 0:
        return None
    return first if votes > 0 else second


def _return_addresses(tables: PageTables, vcpu: VCPU) -> int:
    """Returns how many words at the stack pointer are near RIP; -1 when it is no stack pointer."""
    place = vcpu["rsp"]
    if place % 8 or not tables.maps(place):
        return -1
    data, _ = read_padded(tables.read, place, _STACK)
    return sum(abs(word - vcpu["rip"]) < _CODE_REACH for (word,) in struct.iter_unpack("<Q", data))
