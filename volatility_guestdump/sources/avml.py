# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""AVML's compressed format: memory in blocks of at most 16 MiB, each compressed by itself.

A block is a header like LiME's (see `lime`; the last address is inclusive) with magic "AVML" and
version 2, a stream in snappy's framing format, and the length of that stream as a u64
(AVML's src/image.rs). Blocks that are all zero are left out.

The stream (google/snappy, framing_format.txt) is a run of chunks, each of u8 kind and u24 length:

    0xff         "sNaPpY": a stream starts
    0            u32 masked CRC-32C, then at most 64 KiB of data, compressed
    1            u32 masked CRC-32C, then the data as they are
    0x80-0xfe    padding, and chunks that may be skipped

A compressed chunk starts with the size of its data as a varint, so the chunks are listed without
decompressing any; one is decompressed, and its checksum checked, when it is read.
"""

import array
import bisect
import importlib
import mmap
import struct
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from typing import Any, Optional, Protocol

from volatility_guestdump.exceptions import (
    MediumError,
    SourceError,
    UnrecognizedSource,
)
from volatility_guestdump.machine import MemoryRange

MAGIC = b"AVML"
_VERSION = 2
_HEADER = struct.Struct("<4sIQQQ")
#: AVML compresses at most this much at once, so a shorter block is the last of its range.
_BLOCK = 16 << 20
_CHUNK_LIMIT = 64 << 10
_STREAM_START = b"\xff\x06\x00\x00sNaPpY"
_COMPRESSED, _PLAIN = 0, 1
_FIRST_SKIPPABLE = 0x80
#: Those of 256 GiB of memory.
_CHUNKS_LIMIT = 1 << 22
#: Decompressed chunks that are kept: 32 MiB.
_KEPT = 512


class File(Protocol):
    """A file that is read at any offset."""

    @property
    def size(self) -> int:
        """In bytes."""

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes, or raises AddressError."""


class AvmlFile:
    """The memory in an AVML file, its blocks one after another.

    Args:
        file: the file.
        name: of the file, for messages.

    Attributes:
        size: of the memory, in bytes.
        ranges: the runs of memory, ascending; `file_offset` counts in what is decompressed. What is
            left out behind a whole block, up to one that continues it, is zero. The last may have
            more bytes than there are.
        damage: where the file is damaged or cut off, and how; empty when it is whole. Nothing
            behind that place is read.

    Raises:
        UnrecognizedSource: the file is not in this format.
        SourceError: not even its first block can be read.
        AddressError: it cannot be read.
    """

    def __init__(self, file: File, name: str) -> None:
        self._file = file
        self._name = name
        self._starts = array.array("Q")
        #: Where each chunk is in the file, with its header; length 0 stands for zeros.
        self._places = array.array("Q")
        self._lengths = array.array("Q")
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.size = 0
        self.damage = ""
        self.ranges: Sequence[MemoryRange] = self._read_blocks()
        # Imported for a file of AVML's alone: every start of vol would pay for it.
        try:
            self._cramjam: Any = importlib.import_module("cramjam")
        except ImportError:
            message = f"{name}: AVML's format needs cramjam (pip install cramjam)"
            raise SourceError(message) from None

    def _read_blocks(self) -> list[MemoryRange]:
        ranges: list[MemoryRange] = []
        try:
            self._add_blocks(ranges)
        except SourceError as error:
            if not ranges:
                raise
            self.damage = str(error)
        if not ranges:
            raise UnrecognizedSource(f"{self._name}: empty")
        return ranges

    def _add_blocks(self, ranges: list[MemoryRange]) -> None:
        """Lists the blocks, up to the end or the first damage."""
        before: Optional[tuple[int, int]] = None
        offset = 0
        while offset < self._file.size:
            if offset + _HEADER.size > self._file.size:
                raise self._cut_off(offset)
            magic, version, start, last, _ = _HEADER.unpack(self._file.read(offset, _HEADER.size))
            if magic != MAGIC:
                if not ranges:
                    raise UnrecognizedSource(f"{self._name}: magic {magic!r} is not that of AVML")
                raise SourceError(f"{self._name}: no header of an AVML block at {offset:#x}")
            if version != _VERSION:
                raise SourceError(f"{self._name}: version {version} of AVML's is not known")
            end = last + 1
            if not start < end <= start + _BLOCK or last >> 52:
                raise SourceError(f"{self._name}: block {start:#x}-{last:#x} at {offset:#x}")
            if before and start < before[1]:
                raise SourceError(f"{self._name}: the block at {start:#x} is out of order")
            if before and self._continues(before, start):
                self._add(start - before[1], 0, 0)
            elif not before or start != before[1]:
                ranges.append(MemoryRange(start, 0, self.size))
            run = ranges[-1]
            ranges[-1] = MemoryRange(run.start, end - run.start, run.file_offset)
            offset = self._read_chunks(offset + _HEADER.size, end - start)
            before = (start, end)

    @staticmethod
    def _continues(before: tuple[int, int], start: int) -> bool:
        """Whether blocks of zeros are left out between a block and one that starts behind it."""
        return (
            before[1] - before[0] == _BLOCK
            and start > before[1]
            and not (start - before[0]) % _BLOCK
        )

    def _read_chunks(self, offset: int, size: int) -> int:
        """Lists the chunks of a block of some size; returns where the next block starts."""
        first, end = offset, self.size + size
        while self.size < end:
            if offset + 4 > self._file.size:
                raise self._cut_off(offset)
            # The header, checksum and size of the data.
            start = self._file.read(offset, min(13, self._file.size - offset))
            kind, length = start[0], int.from_bytes(start[1:4], "little")
            if offset + 4 + length > self._file.size:
                raise self._cut_off(offset)
            if kind in (_COMPRESSED, _PLAIN):
                count = length - 4 if kind == _PLAIN else _varint(start[8:])
                if not 0 < count <= _CHUNK_LIMIT or self.size + count > end:
                    raise SourceError(f"{self._name}: chunk of {count} bytes at {offset:#x}")
                if len(self._starts) >= _CHUNKS_LIMIT:
                    raise SourceError(f"{self._name}: more than {_CHUNKS_LIMIT} chunks")
                self._add(count, offset, 4 + length)
            elif kind < _FIRST_SKIPPABLE:
                raise SourceError(f"{self._name}: chunk of kind {kind:#x} at {offset:#x}")
            offset += 4 + length
        if offset + 8 > self._file.size:
            raise self._cut_off(offset)
        length = int.from_bytes(self._file.read(offset, 8), "little")
        if length != offset - first:
            raise SourceError(f"{self._name}: a block ends at {offset:#x}, but says otherwise")
        return offset + 8

    def _add(self, count: int, place: int, length: int) -> None:
        self._starts.append(self.size)
        self._places.append(place)
        self._lengths.append(length)
        self.size += count

    def _cut_off(self, offset: int) -> SourceError:
        return SourceError(f"{self._name}: the file is cut off in the block at {offset:#x}")

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes of what is decompressed.

        Raises:
            MediumError: they are not there, or damaged.
        """
        if length <= 0:
            return b""
        if offset < 0 or offset + length > self.size:
            raise MediumError(offset, f"{self._name}: {offset:#x} is behind the end of memory")
        parts = []
        number = bisect.bisect_right(self._starts, offset) - 1
        while length > 0:
            start = self._starts[number]
            end = self._starts[number + 1] if number + 1 < len(self._starts) else self.size
            part = min(length, end - offset)
            if self._lengths[number]:
                chunk = self._chunk(number, end - start)
                parts.append(chunk[offset - start : offset - start + part])
            else:
                parts.append(bytes(part))
            offset += part
            length -= part
            number += 1
        return b"".join(parts)

    def _chunk(self, number: int, size: int) -> bytes:
        chunk = self._kept.get(number)
        if chunk is None:
            place = self._places[number]
            packed = self._file.read(place, self._lengths[number])
            try:
                chunk = bytes(self._cramjam.snappy.decompress(_STREAM_START + packed))
            except (self._cramjam.DecompressionError, ValueError) as error:
                raise MediumError(
                    self._starts[number], f"{self._name}: damaged at {place:#x}: {error}"
                ) from error
            if len(chunk) != size:
                raise MediumError(self._starts[number], f"{self._name}: damaged at {place:#x}")
            while len(self._kept) >= _KEPT:
                self._kept.popitem(last=False)
            self._kept[number] = chunk
        return chunk

    def map(self) -> Optional[mmap.mmap]:
        """Returns None: it cannot be mapped."""
        return None

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yields offset and size of what of a piece of memory is not left out."""
        end = offset + length
        number = max(0, bisect.bisect_right(self._starts, offset) - 1)
        while offset < end:
            behind = self._starts[number + 1] if number + 1 < len(self._starts) else self.size
            if self._lengths[number]:
                yield offset, min(end, behind) - offset
            offset = behind
            number += 1

    def __reduce__(self) -> tuple[Any, ...]:
        return AvmlFile, (self._file, self._name)


def _varint(data: bytes) -> int:
    """Returns the number that data start with, or -1: seven bits a byte, the lowest first."""
    value = 0
    for position, byte in enumerate(data[:5]):
        value |= (byte & 0x7F) << 7 * position
        if byte < 0x80:
            return value
    return -1
