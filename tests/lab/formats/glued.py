# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory glued together: what /proc/iomem calls "System RAM", range after range.

LiME's `format=raw` writes each range from its first to its last byte (write_range in LiME's
src/main.c); dd with a block size of a page copies whole pages.
"""

import pathlib
from collections.abc import Sequence

from tests.lab.formats.memory import PIECE, Memory
from tests.lab.writer import PAGE, Region


def write(path: pathlib.Path, memory: Memory, ranges: Sequence[Region]) -> None:
    """Writes ranges one behind the other.

    Args:
        path: of the new file.
        memory: of the guest.
        ranges: address and size of each.
    """
    with path.open("wb") as stream:
        for start, size in ranges:
            for address in range(start, start + size, PIECE):
                stream.write(memory.read(address, min(PIECE, start + size - address)))


def with_page_zero(ranges: Sequence[Region]) -> list[Region]:
    """Returns the ranges with page 0, which the kernel keeps for itself, in the first."""
    (start, size), *others = ranges
    assert start == PAGE
    return [(0, start + size), *others]


def whole_pages(ranges: Sequence[Region]) -> list[Region]:
    """Returns the ranges as `dd bs=4096 skip=$((start/4096)) count=$(((end+1-start)/4096))` does.

    The last address of a range is `end`.
    """
    return [(start // PAGE * PAGE, size // PAGE * PAGE) for start, size in ranges]


def last_page_lost(ranges: Sequence[Region]) -> list[Region]:
    """Returns the ranges as `dd bs=4096 skip=$((start/4096)) count=$(((end-start)/4096))` does."""
    return [(start // PAGE * PAGE, (size - 1) // PAGE * PAGE) for start, size in ranges]
