# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""LiME's format "lime", version 1: each range of memory behind a header of its own.

A header is u32 magic, u32 version, u64 first address, u64 last address, 8 reserved bytes (struct
lime_mem_range_header in LiME's src/lime.h).
"""

import pathlib
import struct
from collections.abc import Sequence
from typing import Optional

from tests.lab.formats.memory import Memory
from tests.lab.writer import Region

MAGIC = 0x4C694D45


def write(path: pathlib.Path, memory: Memory, ranges: Optional[Sequence[Region]] = None) -> None:
    """Writes memory in LiME's format.

    Args:
        path: of the new file.
        memory: of the guest.
        ranges: address and size of what is written, in the order of the file; need not begin or end
            on a page. By default all of memory, a range for each region.
    """
    with path.open("wb") as stream:
        for start, size in memory.regions if ranges is None else ranges:
            stream.write(header(start, size))
            memory.copy(start, size, stream)
        stream.truncate(stream.tell())


def header(start: int, size: int, magic: int = MAGIC, version: int = 1) -> bytes:
    """Returns the header of one range; its last address is inclusive."""
    return struct.pack("<IIQQQ", magic, version, start, start + size - 1, 0)
