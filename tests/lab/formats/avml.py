# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""AVML's compressed format, version 2 of its own magic.

Memory is cut into blocks, each with a header like LiME's (see `lime`; the last address is
inclusive), followed by the block as a stream in snappy's framing format and by the length of that
stream as a u64 (AVML's src/image.rs). A block that is all zero is left out.

The framing format (google/snappy, framing_format.txt) is a run of chunks, each of u8 kind and u24
length: one of kind 0xff with the name "sNaPpY", then for each 64 KiB of data one of kind 0
(compressed) or 1 (as it is), which starts with the masked CRC-32C of the data.
"""

import pathlib
import struct
from collections.abc import Sequence
from typing import Optional

import cramjam

from tests.lab.formats import lime
from tests.lab.formats.memory import Memory
from tests.lab.writer import Region

MAGIC = 0x4C4D5641

#: AVML compresses at most this much at once.
BLOCK = 16 << 20


def write(
    path: pathlib.Path,
    memory: Memory,
    ranges: Optional[Sequence[Region]] = None,
    *,
    lose_last_byte: bool = False,
) -> None:
    """Writes memory as AVML does.

    Args:
        path: of the new file.
        memory: of the guest.
        ranges: address and size of what is written; by default all of memory.
        lose_last_byte: whether each range ends one byte early, as with AVML 0.20, which takes the
            last address in /proc/iomem for the first one behind.
    """
    with path.open("wb") as stream:
        for start, whole in memory.regions if ranges is None else ranges:
            end = start + whole - (1 if lose_last_byte else 0)
            for address in range(start, end, BLOCK):
                data = memory.read(address, min(BLOCK, end - address))
                stream.write(block(address, data))


def block(address: int, data: bytes) -> bytes:
    """Returns a block with its header and its length; nothing if it is all zero."""
    if data.count(0) == len(data):
        return b""
    # The library is built on the same "snap" as AVML; both compress frame by frame.
    framed = bytes(cramjam.snappy.compress(data))
    header = lime.header(address, len(data), MAGIC, 2)
    return header + framed + struct.pack("<Q", len(framed))
