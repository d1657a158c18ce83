# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Pages of zeros in what was read: where a page was missing, or was so in the machine's memory."""

from bisect import bisect_right
from collections.abc import Sequence
from typing import Optional

from volatility_guestdump.machine import PAGE_SIZE

_ZEROS = bytes(PAGE_SIZE)


class Holes:
    """The pages of zeros in a piece of memory.

    Whoever could not read a page left zeros in its place: LiME does, and `machine.read_padded`.
    Memory may also have had zeros there: the caller has to know that no such page belongs there.

    Args:
        data: the piece. Where it starts or ends within a page, that part counts as a page.
        address: of its first byte, which tells where pages start.
        first: offset of the first byte that is looked at.
        end: offset behind the last, or None for all.
    """

    def __init__(
        self, data: bytes, address: int, first: int = 0, end: Optional[int] = None
    ) -> None:
        size = len(data) if end is None else min(end, len(data))
        #: Start and end of each run of pages, ascending.
        self._starts: list[int] = []
        self._ends: list[int] = []
        start = max(first - (address + first) % PAGE_SIZE, 0)
        while start < size:
            stop = min(start + PAGE_SIZE - (address + start) % PAGE_SIZE, len(data))
            if not data[start] and data[start:stop] == _ZEROS[: stop - start]:
                if self._ends and self._ends[-1] == start:
                    self._ends[-1] = stop
                else:
                    self._starts.append(start)
                    self._ends.append(stop)
            start = stop

    def __bool__(self) -> bool:
        return bool(self._starts)

    def __iter__(self) -> "zip[tuple[int, int]]":
        """Returns (offset of the start, offset of the end) of each run of pages, ascending."""
        return zip(self._starts, self._ends)

    def touch(self, start: int, end: int) -> bool:
        """Whether any byte from one offset up to another lies in a page of zeros."""
        index = bisect_right(self._ends, start)
        return index < len(self._starts) and self._starts[index] < end

    def following(self, offset: int) -> int:
        """Returns the offset of the first byte from an offset on that lies in a page of zeros.

        A number behind all offsets when there is none.
        """
        index = bisect_right(self._ends, offset)
        return max(offset, self._starts[index]) if index < len(self._starts) else 1 << 64

    def entries(self, start: int, size: int, count: int) -> "list[range]":
        """Returns the numbers of those entries of a table that touch a page of zeros.

        Args:
            start: offset of the table.
            size: of an entry.
            count: of the entries.
        """
        found: list[range] = []
        for first, end in self:
            low = max((first - start) // size, 0)
            high = min(-(-(end - start) // size), count)
            if low < high:
                if found and found[-1].stop >= low:
                    low = found.pop().start
                found.append(range(low, high))
        return found


def outside(ranges: Sequence[range], count: int) -> "list[range]":
    """Returns what ranges leave of the numbers from 0 up to a count; they are ascending."""
    found, start = [], 0
    for each in ranges:
        if start < each.start:
            found.append(range(start, each.start))
        start = each.stop
    if start < count:
        found.append(range(start, count))
    return found
