# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""AVML's compressed format, on files made by hand."""

import os
import pathlib

import pytest

from tests.lab.formats import avml as writer
from volatility_guestdump.exceptions import MediumError, SourceError, UnrecognizedSource
from volatility_guestdump.files.memory_file import MemoryFile
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.sources.avml import AvmlFile

BLOCK = 16 << 20


def read(folder: pathlib.Path, data: bytes) -> AvmlFile:
    """Returns what is in a file."""
    path = folder / "memory.avml"
    path.write_bytes(data)
    return AvmlFile(MemoryFile(path.as_uri()), "memory.avml")


def test_blocks(tmp_path: pathlib.Path) -> None:
    """Blocks that follow each other are one range; pieces of any size cross chunks and blocks."""
    first, second = os.urandom(0x23456), b"memory" * 0x8000
    file = read(
        tmp_path,
        writer.block(0x1000, first)
        + writer.block(0x1000 + len(first), second)
        + writer.block(1 << 32, second),
    )
    size = len(first) + len(second)
    assert file.ranges == [
        MemoryRange(0x1000, size, 0),
        MemoryRange(1 << 32, len(second), size),
    ]
    whole = first + second + second
    assert file.size == len(whole)
    assert file.read(0, len(whole)) == whole
    for offset in (0, 0xFFFF, 0x10000, len(first) - 3, size - 1, len(whole) - 5):
        assert file.read(offset, 5) == whole[offset : offset + 5]
    with pytest.raises(MediumError):
        file.read(len(whole) - 4, 5)


def test_zeros_left_out(tmp_path: pathlib.Path) -> None:
    """Behind a whole block that the next one continues it is zeros that were left out."""
    whole = b"a" * BLOCK
    file = read(tmp_path, writer.block(0, whole) + writer.block(3 * BLOCK, b"end"))
    assert file.ranges == [MemoryRange(0, 3 * BLOCK + 3, 0)]
    assert file.read(BLOCK - 1, 2) == b"a\0"
    assert file.read(3 * BLOCK - 1, 4) == b"\0end"
    stored = list(file.stored(0, file.size))
    assert sum(size for _, size in stored) == BLOCK + 3
    # Out of step with the block before: another range.
    file = read(tmp_path, writer.block(0, whole) + writer.block(2 * BLOCK + 0x1000, b"end"))
    assert len(file.ranges) == 2


def test_damage_costs_a_chunk(tmp_path: pathlib.Path) -> None:
    """A chunk whose checksum is wrong cannot be read; the others can."""
    data = os.urandom(3 * 0x10000)
    packed = bytearray(writer.block(0, data))
    packed[32 + 10 + 8 + 0x10000 + 100] ^= 1
    file = read(tmp_path, bytes(packed))
    assert file.read(0, 0x10000) == data[:0x10000]
    with pytest.raises(MediumError, match="damaged"):
        file.read(0x10000, 1)
    assert file.read(0x20000, 0x10000) == data[0x20000:]


def test_not_the_format(tmp_path: pathlib.Path) -> None:
    """Other files are not in this format; damaged ones are said to be."""
    with pytest.raises(UnrecognizedSource):
        read(tmp_path, bytes(100))
    sound = writer.block(0, b"memory" * 1000)
    for damaged, message in (
        (sound[:30], "cut off"),
        (sound[:4] + b"\3" + sound[5:], "version 3"),
        (sound[:16] + bytes(7) + b"\1" + sound[24:], "block 0x0-0x100000000000000"),
    ):
        with pytest.raises(SourceError, match=message):
            read(tmp_path, damaged)


def test_damaged_behind_a_chunk(tmp_path: pathlib.Path) -> None:
    """What is before the damage is read, and the damage is said."""
    data = os.urandom(0x28000)
    first, second = writer.block(0, data), writer.block(0x28000, data)
    for damaged, size, message in (
        (first + second[:-1], 0x50000, "cut off in the block at"),
        (first + second[:-0x8000], 0x48000, "cut off in the block at"),
        (first + second[:40], 0x28000, "cut off in the block at"),
        (first + second[:10], 0x28000, "cut off in the block at"),
        (first[:40], 0, "cut off in the block at"),
        (first[:-8] + bytes(8) + second, 0x28000, "says otherwise"),
        (first + bytes(40), 0x28000, "no header"),
        (first + first, 0x28000, "out of order"),
    ):
        file = read(tmp_path, damaged)
        assert message in file.damage and file.size == size
        assert file.read(0, size) == (data + data)[:size]
        with pytest.raises(MediumError):
            file.read(size - 1 if size else 0, 2)
    assert not read(tmp_path, first + second).damage
