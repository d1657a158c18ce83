# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ORC tables of a kernel that has no symbols for them.

The linker lays three tables one behind the other (include/asm-generic/vmlinux.lds.h):

    .orc_unwind_ip   i32 for each entry, from its own place to the code that it is for, ascending
    .orc_unwind      six bytes for each entry
    .orc_lookup      for each 256 bytes of code from _stext on the u32 number of the entry that
                     they start in; the kernel fills it when it boots (orc_init)

A long run of ascending places in the kernel's code is the first, roughly. Where it starts and ends
exactly the third tells, for that has to agree with it.
"""

import array
import itertools
import struct
import sys
from collections.abc import Iterator
from typing import NamedTuple, Optional

from volatility_guestdump.linux.stacks.orc import ENTRY_SIZE, IP_SIZE

_BLOCK = 256
#: Words that are passed over between two that are looked at; and how many of those have to
#: ascend. A kernel has hundreds of thousands.
_STRIDE = 64
_SHORTEST = 64
#: How many words before and behind the table may happen to ascend with it; behind it are entries,
#: and two of those that are looked at may.
_SLACK = 8
_SLACK_BEHIND = 2 * _STRIDE + _SLACK
_ATTEMPTS = 16
#: How many entries of .orc_lookup have to agree.
_CHECKS = 64


class Found(NamedTuple):
    """Where the tables are in an image.

    Attributes:
        ips: offset of the table of places.
        entries: offset of the table of entries.
        size: number of entries.
    """

    ips: int
    entries: int
    size: int


def find_orc(image: bytes, base: int, text: int, end: int) -> Optional[Found]:
    """Finds the ORC tables in a piece of a kernel's image.

    Args:
        image: the piece.
        base: its virtual address, a multiple of 4.
        text: virtual address of the first code (_stext).
        end: the first virtual address behind all code.
    """
    words = array.array("i", image[: len(image) // IP_SIZE * IP_SIZE])
    if sys.byteorder == "big":
        words.byteswap()
    search = _Search(image, words, base, text, end)
    # It is one of the longest; only memory that is all zeros ascends as well.
    stretches = sorted(search.ascending(), key=lambda each: each[0] - each[1])
    for first, last in stretches[:_ATTEMPTS]:
        found = search.exact(first, last)
        if found is not None:
            return found
    return None


class _Search:
    def __init__(
        self, image: bytes, words: "array.array[int]", base: int, text: int, end: int
    ) -> None:
        self._image = image
        self._words = words
        self._base = base
        self._text = text
        self._end = end

    def _place(self, index: int) -> int:
        return self._base + IP_SIZE * index + self._words[index]

    def ascending(self) -> Iterator[tuple[int, int]]:
        """Yields the first and last word of stretches whose places in code ascend."""
        first, previous = 0, self._end
        length = len(self._words)
        for index in itertools.chain(range(0, length, _STRIDE), (None,)):
            place = self._end if index is None else self._place(index)
            if index is not None and self._text <= place < self._end and previous <= place:
                previous = place
                continue
            last = length if index is None else index
            if last - first >= _SHORTEST * _STRIDE:
                yield self._extended(first, last - _STRIDE)
            first = last
            previous = place if self._text <= place < self._end else self._end

    def _extended(self, first: int, last: int) -> tuple[int, int]:
        while first and self._text <= self._place(first - 1) <= self._place(first):
            first -= 1
        while (
            last + 1 < len(self._words) and self._place(last) <= self._place(last + 1) < self._end
        ):
            last += 1
        return first, last

    def exact(self, first: int, last: int) -> Optional[Found]:
        """Returns where the tables are, given about where that of places is."""
        for start, stop in itertools.product(
            range(first, first + _SLACK), range(last + 1, last + 1 - _SLACK_BEHIND, -1)
        ):
            # .orc_unwind was aligned to six bytes once.
            for unit in (2, 6):
                at = -(-(self._base + IP_SIZE * stop) // unit) * unit - self._base
                if self._agrees(start, stop, at + ENTRY_SIZE * (stop - start)):
                    return Found(IP_SIZE * start, at, stop - start)
        return None

    def _agrees(self, start: int, stop: int, lookup: int) -> bool:
        """Whether what lies at an offset is the .orc_lookup of some places."""
        lookup = -(-lookup // IP_SIZE) * IP_SIZE
        # The first half is all in .text; other code lies behind.
        blocks = (self._place((start + stop) // 2) - self._text) // _BLOCK
        if blocks < _CHECKS or lookup + IP_SIZE * blocks > len(self._image):
            return False
        for block in range(0, blocks, blocks // _CHECKS):
            (number,) = struct.unpack_from("<I", self._image, lookup + IP_SIZE * block)
            address = self._text + _BLOCK * block
            if not number < stop - start - 1:
                return False
            # The first block may start before the first entry.
            if not self._place(start + number) <= address and block:
                return False
            if not address < self._place(start + number + 1):
                return False
        return True
