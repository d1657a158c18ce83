# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Members of structures, read from memory made by hand."""

import struct
from collections.abc import Mapping
from typing import Optional

import pytest

from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump.exceptions import AddressError, TypesError
from volatility_guestdump.linux.types.protocol import Field, Shape, Types
from volatility_guestdump.linux.types.reading import Structures

PLACE = 0x1000

FIELDS = {
    "number": Field(0, Shape.INTEGER, 4, signed=True),
    "flags": Field(32, Shape.INTEGER, 4),
    "low": Field(64, Shape.INTEGER, 4, 3),
    "high": Field(67, Shape.INTEGER, 4, 5, True),
    "name": Field(96, Shape.ARRAY, 4, length=4),
    "next": Field(128, Shape.POINTER, structure="s"),
    "users": Field(192, Shape.STRUCTURE, 4, structure="atomic_t"),
    "large": Field(0, Shape.INTEGER, 1 << 32),
    "wide": Field(0, Shape.STRUCTURE, 16),
    "shapeless": Field(96, Shape.ARRAY, 0, length=4),
    "pairs": Field(128, Shape.ARRAY, 24, structure="s", length=3),
    "far": Field(8 << 20, Shape.INTEGER, 4),
}
DATA = struct.pack("<iIBBBB4sQI", -5, 0xFFFFFFFF, 0b10111_101, 0, 0, 0, b"ab\0c", 0x2000, 7)


class FewTypes(Types):
    """One structure, "s"."""

    def look_up(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member."""
        return FIELDS.get(path) if structure == "s" else None

    def size(self, structure: str) -> Optional[int]:
        """Returns a size."""
        return 8 if structure == "s" else None

    def constants(self, enumeration: str) -> Mapping[str, int]:
        """No enum is known."""
        return {}


def with_one(*together: str) -> tuple[HandmadeKernel, Structures]:
    """Returns a kernel that has one such structure, and what reads it."""
    kernel = HandmadeKernel()
    kernel.write(PLACE, DATA)
    return kernel, Structures(kernel, FewTypes(), "s", *together)


@pytest.mark.parametrize("together", [(), ("number", "users"), tuple(FIELDS)])
def test_integers(together: tuple[str, ...]) -> None:
    """With sign and without, bit fields, pointers, and what is a structure around one."""
    _, kind = with_one(*together)
    found = kind.at(PLACE)
    expected = {"number": -5, "flags": 0xFFFFFFFF, "low": 5, "high": -9, "next": 0x2000, "users": 7}
    assert {path: found.integer(path) for path in expected} == expected
    assert {path: found.get(path) for path in expected} == expected
    assert (found.address, found.place("next"), found.size) == (PLACE, PLACE + 16, 8)


def test_the_same_of_bytes() -> None:
    """They need no address; what lies beyond them is zero."""
    _, kind = with_one()
    found = kind.of(DATA)
    assert (found.integer("number"), found.integer("high"), found.integer("users")) == (-5, -9, 7)
    assert kind.of(DATA[:2]).integer("number") == 0xFFFB and kind.of(b"").integer("users") == 0


def test_a_pointer_of_32_bits() -> None:
    """It is as long as the kernel's words."""
    kernel, _ = with_one()
    kernel.bits = 32
    kernel.write(PLACE + 16, b"\x01\x02\x03\x04\xff\xff\xff\xff")
    kind = Structures(kernel, FewTypes(), "s", "number", "next")
    assert kind.at(PLACE).integer("next") == kind.bare(PLACE).integer("next") == 0x04030201


def test_no_integers() -> None:
    """A type that says so may have gigabytes: nothing of it is read."""
    _, kind = with_one()
    for path in ("large", "wide", "name", "shapeless"):
        assert kind.at(0).get(path) is None and not kind.is_number(path)
        with pytest.raises(TypesError, match=f"s.{path} is no integer"):
            kind.at(0).integer(path)
        with pytest.raises(TypesError, match=f"s.{path} is no integer"):
            kind.require_numbers("number", path)
    kind.require("number", "large")


def test_unknown_members() -> None:
    """They are None, or an error that names them."""
    _, kind = with_one()
    found = kind.at(0)
    assert found.get("none") is None is kind.find("none")
    for ask in (found.integer, found.place, kind.offset, kind.require, kind.require_numbers):
        with pytest.raises(TypesError, match=r"the kernel has no s\.none"):
            ask("none")
    with pytest.raises(TypesError, match=r"the kernel has no s\.none"):
        found.text("none", 4)


def test_texts() -> None:
    """Up to their NUL, to their end, and to a limit where a type may say anything."""
    kernel, kind = with_one("name")
    assert kind.at(PLACE).text("name", 99) == "ab"
    assert kind.at(PLACE).text("name", 1) == "a"
    assert kind.at(PLACE).text("shapeless", 2) == "ab"
    kernel.write(PLACE + 12, b"abcdef")
    assert kind.at(PLACE).text("name", 99) == "abcd"


def test_what_is_read_together() -> None:
    """One read for all of it; where a page is missing between, each by itself."""
    kernel, kind = with_one("number", "next", "none")
    reads = []
    read = kernel.read

    def counting(address: int, length: int) -> bytes:
        reads.append((address, length))
        return read(address, length)

    kernel.read = counting  # type: ignore[method-assign]
    found = kind.at(PLACE)
    assert (found.integer("number"), found.integer("flags"), found.integer("next")) == (
        *(-5, 0xFFFFFFFF, 0x2000),
    )
    assert reads == [(PLACE, 24)]
    assert found.integer("users") == 7 and reads[1:] == [(PLACE + 24, 4)]
    del kernel.bytes[PLACE + 8]
    found = kind.at(PLACE)
    assert (found.integer("number"), found.integer("next")) == (-5, 0x2000)
    with pytest.raises(AddressError):
        found.integer("low")


def test_members_that_lie_far_apart() -> None:
    """They are not read together."""
    kernel, kind = with_one("number", "far")
    kernel.write(PLACE + (1 << 20), b"\x09\0\0\0")
    assert (kind.at(PLACE).integer("number"), kind.at(PLACE).integer("far")) == (-5, 9)


def test_structures_inside_others() -> None:
    """The elements of an array, up to a limit, and what a member lies in."""
    kernel, kind = with_one()
    kernel.put(PLACE + 16, 1, 2, 3)
    found = [each.integer("number") for each in kind.at(PLACE).elements("pairs", kind, 9)]
    assert found == [1, 2, 3]
    assert len(list(kind.at(PLACE).elements("pairs", kind, 2))) == 2
    assert kind.containing("next", PLACE + 16).address == PLACE
