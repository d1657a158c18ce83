# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""BTF of which pages are missing: what is given is right, and a page costs what it has."""

import functools
import struct
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade.btf import BtfBuilder
from volatility_guestdump.exceptions import BtfError, LostTypeError
from volatility_guestdump.linux.isf.types import TypeConverter
from volatility_guestdump.linux.types import btf_holes
from volatility_guestdump.linux.types.btf import COMPOSITES, ENUMS, Btf
from volatility_guestdump.linux.types.btf_kinds import Kind
from volatility_guestdump.linux.types.btf_types import BtfTypes
from volatility_guestdump.machine import PAGE_SIZE

ADDRESS = 0xFFFFFFFF9E038070


@functools.cache
def kernel() -> bytes:
    """Returns types as a kernel has them, in an order as pahole leaves it."""
    made = BtfBuilder()
    integer = made.int_("int", 4, 1)
    made.int_("long unsigned int", 8)
    char = made.int_("char", 1, 1)
    typedef = integer
    variables = []
    for n in range(300):
        name = made.string(f"structure_{n}")
        kinds = (integer, char, typedef)
        fields = [(f"member_{n}_{k}", kinds[k % 3], 32 * k) for k in range(n % 19)]
        structure = made.struct("", 80, fields)
        made.types[-1] = name.to_bytes(4, "little") + made.types[-1][4:]
        pointer = made.ptr(structure)
        array = made.array(char, n + 1)
        typedef = made.typedef(f"name_{n}", made.const(pointer))
        if n % 10 == 0:
            made.enum(f"enum_{n}", {f"VALUE_{n}_{k}": k for k in range(n)})
        prototype = made.func_proto(integer, [("first", pointer), ("second", array)])
        made.func(f"function_{n}", prototype)
    for n in range(40):
        variables.append((made.var(f"variable_{n}", integer), 8 * n, 8))
    made.datasec(".data..percpu", 320, variables)
    return made.build()


def seen(btf: Btf, number: int) -> Optional[tuple[Any, ...]]:
    """Returns all that is told of a type; None where it is lost."""
    try:
        kind = btf.kind(number)
    except LostTypeError:
        return None
    rest: Any = None
    if kind in COMPOSITES:
        rest = btf.members(number)
    elif kind in ENUMS:
        rest = list(btf.enumerators(number).items())
    elif kind is Kind.ARRAY:
        rest = [btf.array(number)]
    return kind, btf.name(number), btf.size(number) if number else 0, rest


def without(pages: set[int]) -> bytes:
    """Returns the types with zeros in place of pages, which are given by their numbers."""
    data = bytearray(kernel())
    for page in pages:
        first = max(page * PAGE_SIZE - ADDRESS % PAGE_SIZE, 0)
        end = min((page + 1) * PAGE_SIZE - ADDRESS % PAGE_SIZE, len(data))
        data[first:end] = bytes(end - first)
    return bytes(data)


PAGES = (ADDRESS % PAGE_SIZE + len(kernel()) - 1) // PAGE_SIZE + 1


def check(found: Btf) -> int:
    """Checks that all that is told is true; returns how many types are lost."""
    whole = Btf(kernel())
    assert len(found) <= len(whole)
    lost = len(whole) - len(found)
    for number in range(len(found)):
        got, true = seen(found, number), seen(whole, number)
        assert true is not None
        if got is None:
            lost += 1
            continue
        assert got[0] == true[0] and got[2] == true[2] and got[1] in ("", true[1])
        if got[3] is not None:
            # Members whose names are lost are absent.
            left = iter(true[3])
            assert all(member in left for member in got[3])
    for name, numbers in found.names.items():
        assert set(numbers) <= set(whole.names[name])
    return lost


@pytest.mark.parametrize("page", range(1, PAGES))
def test_each_page(page: int) -> None:
    """Without any page but the header's the other types are there and have their numbers."""
    found = Btf(without({page}), ADDRESS)
    assert found.damage
    assert check(found) <= PAGE_SIZE // 12 + 2
    # What refers to lost ones is there, without the members that need them.
    converter = TypeConverter(found, 8)
    for name, number in converter.user_types.items():
        try:
            fields = converter.user_type(name, number)["fields"]
        except BtfError:
            continue
        assert len(fields) <= len(found.members(number))


def test_a_header_is_needed() -> None:
    """Without it nothing says where the types are."""
    with pytest.raises(BtfError, match="magic"):
        Btf(without({0}), ADDRESS)


@given(st.sets(st.integers(1, PAGES - 1), min_size=2, max_size=5))
@settings(deadline=None, max_examples=40)
def test_several_pages(pages: set[int]) -> None:
    """Whatever pages are missing, what is given is right."""
    check(Btf(without(pages), ADDRESS))


def test_what_is_lost_is_named() -> None:
    """Whoever asks for a type that is lost is told that it is, and not that there is none."""
    whole = Btf(kernel())
    for page in range(1, PAGES):
        found = Btf(without({page}), ADDRESS)
        types = BtfTypes(found)
        for n in range(0, 300, 20):
            if found.find(f"structure_{n}", Kind.STRUCT) is None:
                assert whole.find(f"structure_{n}", Kind.STRUCT) is not None
                with pytest.raises(LostTypeError, match=f"structure_{n}.member.*page"):
                    types.field(f"structure_{n}", f"member_{n}_1")
                return
    pytest.fail("no structure is lost")


class Counted(list[Any]):
    """A list that counts what is looked at of it."""

    looked_at = 0

    def __iter__(self) -> Iterator[Any]:
        for each in super().__iter__():
            self.looked_at += 1
            yield each


def test_the_search_behind_holes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A large hole allows for many numbers, none of which the references behind it rule out."""
    monkeypatch.setattr(btf_holes, "_STEPS", 1 << 14)
    fits, looked_at = btf_holes._Walk._fits, 0

    def counted(self: Any, number: int, kinds: bytes, references: Any, last: bool) -> bool:
        nonlocal looked_at
        seen = Counted(references)
        found = fits(self, number, kinds, seen, last)
        looked_at += seen.looked_at
        return found

    monkeypatch.setattr(btf_holes._Walk, "_fits", counted)
    # Pointers to a type that no piece has.
    pointers = struct.pack("<III", 0, Kind.PTR << 24, 900_000) * 341 + bytes(4)
    types = pointers + bytes(400 * PAGE_SIZE) + pointers + bytes(PAGE_SIZE) + pointers
    types = types[: len(types) // 12 * 12 - 4]
    header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), 1)
    found = Btf(header + types + b"\0", -len(header) % (1 << 64))
    assert found.damage
    assert 0 < looked_at <= (1 << 14) + 341
