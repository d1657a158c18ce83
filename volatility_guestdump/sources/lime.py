# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""LiME's format "lime": ranges of memory, each behind a header of its own.

A header is u32 magic, u32 version, u64 first address, u64 last address (inclusive), 8 reserved
bytes (struct lime_mem_range_header in LiME's src/lime.h). Ranges need not end on a page.
"""

import struct
from collections.abc import Sequence
from typing import BinaryIO, NamedTuple

from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import MemoryRange

MAGIC = b"EMiL"
_VERSION = 1
_HEADER = struct.Struct("<4sIQQQ")
#: Far more than /proc/iomem of any machine has.
_RANGES_LIMIT = 1 << 16


class LimeFile(NamedTuple):
    """What is in a LiME file.

    Attributes:
        ranges: of memory, ascending; one may go beyond the end of the file.
        damage: where headers end to make sense, and how; empty when all do. What is behind that
            place is not known.
    """

    ranges: Sequence[MemoryRange]
    damage: str


def parse(stream: BinaryIO, size: int, name: str) -> LimeFile:
    """Returns the ranges of memory in a file.

    Args:
        stream: the file.
        size: of the file, in bytes.
        name: of the file, for messages.

    Raises:
        UnrecognizedSource: the file is not in this format.
        SourceError: not even its first header makes sense, or ranges overlap.
    """
    ranges: list[MemoryRange] = []
    damage = ""
    try:
        _add_ranges(ranges, stream, size, name)
    except SourceError as error:
        if not ranges:
            raise
        damage = str(error)
    ranges.sort(key=lambda run: run.start)
    for before, run in zip(ranges, ranges[1:]):
        if run.start < before.end:
            raise SourceError(f"{name}: ranges at {before.start:#x} and {run.start:#x} overlap")
    return LimeFile(ranges, damage)


def _add_ranges(ranges: list[MemoryRange], stream: BinaryIO, size: int, name: str) -> None:
    """Lists the ranges, in the order of the file, up to its end or the first damage."""
    offset = 0
    while offset < size:
        if offset + _HEADER.size > size:
            if not ranges:
                raise UnrecognizedSource(f"{name}: too short for LiME's format")
            raise SourceError(f"{name}: the file is cut off in the header at {offset:#x}")
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
        raise UnrecognizedSource(f"{name}: empty")
