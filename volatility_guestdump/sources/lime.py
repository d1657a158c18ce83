# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""LiME's format "lime": ranges of memory, each behind a header of its own.

A header is u32 magic, u32 version, u64 first address, u64 last address (inclusive), 8 reserved
bytes (struct lime_mem_range_header in LiME's src/lime.h). Ranges need not end on a page.
"""

import struct
from collections.abc import Sequence
from typing import BinaryIO

from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import MemoryRange

MAGIC = b"EMiL"
_VERSION = 1
_HEADER = struct.Struct("<4sIQQQ")
#: Far more than /proc/iomem of any machine has.
_RANGES_LIMIT = 1 << 16


def parse(stream: BinaryIO, size: int, name: str) -> Sequence[MemoryRange]:
    """Returns the ranges of memory in a file, ascending; the last may go beyond its end.

    Args:
        stream: the file.
        size: of the file, in bytes.
        name: of the file, for messages.

    Raises:
        UnrecognizedSource: the file is not in this format.
        SourceError: it is damaged.
    """
    ranges: list[MemoryRange] = []
    offset = 0
    while offset + _HEADER.size <= size:
        stream.seek(offset)
        magic, version, start, last, _ = _HEADER.unpack(stream.read(_HEADER.size))
        if magic != MAGIC:
            if not ranges:
                raise UnrecognizedSource(f"{name}: magic {magic!r} is not that of LiME")
            raise SourceError(f"{name}: no header of a LiME range at {offset:#x}")
        if version != _VERSION:
            raise SourceError(f"{name}: version {version} of LiME's format is not known")
        if last < start or last >> 52:
            raise SourceError(f"{name}: range {start:#x}-{last:#x} at {offset:#x}")
        if len(ranges) >= _RANGES_LIMIT:
            raise SourceError(f"{name}: more than {_RANGES_LIMIT} ranges")
        ranges.append(MemoryRange(start, last - start + 1, offset + _HEADER.size))
        offset += _HEADER.size + last - start + 1
    if not ranges:
        raise UnrecognizedSource(f"{name}: too short for LiME's format")
    ranges.sort(key=lambda run: run.start)
    for before, run in zip(ranges, ranges[1:]):
        if run.start < before.end:
            raise SourceError(f"{name}: ranges at {before.start:#x} and {run.start:#x} overlap")
    return ranges
