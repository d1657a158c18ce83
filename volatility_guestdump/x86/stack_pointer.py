# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which of two readings of the registers has the stack pointer right.

Where a format does not tell RSP from RBP the memory does: a stack pointer leads to memory in which
return addresses lie, before each of which a call instruction stands. RBP may be anything; where it
is a frame pointer it leads to the same stack, further up.
"""

import struct
from collections.abc import Sequence
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import VCPU, Read, read_padded
from volatility_guestdump.x86.paging import PageTables, find_paging

#: How much of a stack is looked at, and how large a kernel's stack may be.
_LOOKED_AT = 512
_STACK_SIZE = 16 << 10

#: Lengths of call instructions that end in FF /2 with its operand; E8 has 5 bytes.
_INDIRECT_CALLS = (2, 3, 4, 6, 7)
_LONGEST_CALL = 7


def likelier(read: Read, first: Sequence[VCPU], second: Sequence[VCPU]) -> Optional[Sequence[VCPU]]:
    """Returns the reading that checks out in memory, or None when nothing tells.

    Args:
        read: reads guest-physical memory.
        first: the vCPUs in one reading.
        second: the same vCPUs in the other.
    """
    certain = likely = 0
    for one, other in zip(first, second):
        score, other_score = _score(read, one), _score(read, other)
        place, other_place = one.get("rsp") or 0, other.get("rsp") or 0
        if min(score, other_score) >= 0 and abs(place - other_place) < _STACK_SIZE:
            # Of two places in one stack the stack pointer is the lower.
            certain += (place < other_place) - (place > other_place)
        else:
            likely += score - other_score
    votes = certain or likely
    if votes == 0:
        return None
    return first if votes > 0 else second


def _score(read: Read, vcpu: VCPU) -> int:
    """Returns how many return addresses lie at the stack pointer; -1 when it can be none."""
    _, tables = find_paging(read, vcpu)
    place = vcpu.get("rsp")
    if tables is None or place is None:
        return -1
    # Code of 32 bits has a stack of words of 4 bytes, under a kernel of 64 bits below 4 GiB.
    size = 8 if tables.mode.is_64bit and place >> 32 else 4
    if place % size or not tables.maps(place):
        return -1
    data, _ = read_padded(tables.read, place, _LOOKED_AT)
    words = struct.iter_unpack("<Q" if size == 8 else "<I", data)
    return sum(_follows_call(tables, word) for (word,) in words)


def _follows_call(tables: PageTables, address: int) -> bool:
    """Whether a call instruction may end at an address."""
    try:
        code = tables.read(address - _LONGEST_CALL, _LONGEST_CALL) if tables.maps(address) else b""
    except AddressError:
        return False
    if not code:
        return False
    # FF /2: the middle three bits of the byte behind FF are 2.
    return code[-5] == 0xE8 or any(
        code[-length] == 0xFF and code[1 - length] >> 3 & 7 == 2 for length in _INDIRECT_CALLS
    )
