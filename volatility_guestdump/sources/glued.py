# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory glued together: ranges of RAM one behind the other, with nothing between them.

LiME writes it with `format=raw`, and so does whoever copies range after range of /proc/iomem with
dd. Where the ranges were the file does not say: each byte behind the first gap lies at another
offset than its address, and behind a range that ends in mid-page not even at the same offset in a
page.

    /proc/iomem                       offset in the file
    00001000-0009fbff : System RAM    0x00000-0x9ebff
    00100000-0ffdffff : System RAM    0x9ec00-0xff7ebff

What is known of the ranges, the size of the file proves: it is the sum of theirs.
"""

import enum
from collections.abc import Iterable, Sequence

from volatility_guestdump.machine import PAGE_SIZE, MemoryRange

_MIB = 1 << 20


class Rule(enum.Enum):
    """What a program makes of the ranges that /proc/iomem calls "System RAM"."""

    #: LiME: from the first to the last byte.
    EXACT = "each range whole"
    #: With page 0, which the firmware calls RAM and Linux keeps for itself.
    PAGE_ZERO = "each range whole, and page 0"
    #: dd with bs=4096, skip=first / 4096, count=(last + 1 - first) / 4096.
    WHOLE_PAGES = "the whole pages of each range"
    #: dd with bs=4096, skip=first / 4096, count=(last - first) / 4096.
    LAST_PAGE_LOST = "each range without its last page"
    #: Without what lies below 1 MiB.
    FROM_ONE_MIB = "each range from 1 MiB on"


def glue(ram: Iterable[tuple[int, int]], rule: Rule) -> Sequence[MemoryRange]:
    """Returns the runs of memory in a file that a program made of ranges of RAM.

    Args:
        ram: start and first address behind of each range, ascending.
        rule: of the program.
    """
    runs: list[MemoryRange] = []
    offset = 0
    for start, end in ram:
        first, last = _taken(start, end, rule)
        if first < last:
            runs.append(MemoryRange(first, last - first, offset))
            offset += last - first
    return runs


def _taken(start: int, end: int, rule: Rule) -> tuple[int, int]:
    """Returns start and end of what a program takes of a range."""
    page = start // PAGE_SIZE * PAGE_SIZE
    if rule is Rule.PAGE_ZERO and start == PAGE_SIZE:
        return 0, end
    if rule is Rule.WHOLE_PAGES:
        return page, page + (end - start) // PAGE_SIZE * PAGE_SIZE
    if rule is Rule.LAST_PAGE_LOST:
        return page, page + (end - 1 - start) // PAGE_SIZE * PAGE_SIZE
    if rule is Rule.FROM_ONE_MIB:
        return max(start, _MIB), end
    return start, end


def size_of(runs: Iterable[MemoryRange]) -> int:
    """Returns the size of the file that has these runs, in bytes."""
    return sum(run.size for run in runs)


def text_of(runs: Iterable[MemoryRange]) -> str:
    """Returns runs as /proc/iomem writes them, "1000-9fbff,100000-ffdffff"."""
    return ",".join(f"{run.start:x}-{run.end - 1:x}" for run in runs)


def runs_of(text: str) -> Sequence[MemoryRange]:
    """Returns the runs that `text_of` wrote, or a user.

    Raises:
        ValueError: the text is none of runs that ascend.
    """
    runs: list[MemoryRange] = []
    offset = behind = 0
    for part in text.split(","):
        first, last = (int(number, 16) for number in part.split("-"))
        if not behind <= first <= last:
            raise ValueError(f"{part} is no range of memory behind {behind:#x}")
        runs.append(MemoryRange(first, last + 1 - first, offset))
        offset += last + 1 - first
        behind = last + 1
    return runs
