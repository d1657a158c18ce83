# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""LiME's format, on bytes made by hand."""

import contextlib
import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.sources import lime


def header(start: int, last: int, magic: bytes = b"EMiL", version: int = 1) -> bytes:
    """Returns a header as LiME's lime.h describes it."""
    return struct.pack("<4sIQQQ", magic, version, start, last, 0)


def parse(data: bytes) -> list[MemoryRange]:
    """Returns the ranges in a file."""
    return list(parse_file(data).ranges)


def parse_file(data: bytes) -> lime.LimeFile:
    """Returns what is in a file."""
    return lime.parse(io.BytesIO(data), len(data), "memory.lime")


def test_ranges() -> None:
    """The last address is inclusive, and ranges need not end on a page."""
    data = header(0x1000, 0x9FBFF) + bytes(0x9EC00) + header(0x100000, 0x100FFF) + bytes(0x1000)
    assert parse(data) == [
        MemoryRange(0x1000, 0x9EC00, 32),
        MemoryRange(0x100000, 0x1000, 0x9EC00 + 64),
    ]


def test_cut_off() -> None:
    """A file that is cut off has the range that it should."""
    assert parse(header(0, 0xFFFF) + bytes(10)) == [MemoryRange(0, 0x10000, 32)]


FIRST = header(0, 0xFFF) + bytes(0x1000)


@pytest.mark.parametrize(
    ("behind", "message"),
    [
        (header(0x2000, 0x2FFF)[:31], "the file is cut off in the header at 0x1020"),
        (b"E", "the file is cut off in the header at 0x1020"),
        (header(0x2000, 0x2FFF, version=2), "version 2"),
        (header(0x2000, 0x1000), "range 0x2000-0x1000 at 0x1020"),
        (bytes(32), "no header of a LiME range at 0x1020"),
    ],
)
def test_damaged_behind_a_range(behind: bytes, message: str) -> None:
    """What is before the damage is read, and the damage is said."""
    found = parse_file(FIRST + behind)
    assert found.ranges == [MemoryRange(0, 0x1000, 32)]
    assert message in found.damage
    assert not parse_file(FIRST + header(0x2000, 0x2FFF) + bytes(5)).damage


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (header(0, 0xFFF, version=2), "version 2"),
        (header(0x2000, 0x1000), "range 0x2000-0x1000"),
        (header(0, (1 << 64) - 1), "range 0x0-"),
        (FIRST * 2, "overlap"),
    ],
)
def test_damaged(data: bytes, message: str) -> None:
    """What is damaged is said, and where."""
    with pytest.raises(SourceError, match=message):
        parse(data)


@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    """What does not start with the magic is no file in this format."""
    if data[:4] != b"EMiL":
        with pytest.raises(UnrecognizedSource):
            parse(data)
    else:
        with contextlib.suppress(SourceError):
            assert parse(data)
