# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The ORC decoder, on tables made by hand in each of the four forms."""

import contextlib
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_guestdump.exceptions import OrcError
from volatility_guestdump.linux.stacks.orc import (
    LOST,
    OrcTable,
    Register,
    Type,
    find_form,
    table_with_holes,
)
from volatility_guestdump.machine import PAGE_SIZE

TABLE = 0xFFFFFFFF82000000
CODE = 0xFFFFFFFF81000000

OLD = {"undefined": 0, "prev_sp": 1, "dx": 2, "di": 3, "bp": 4, "sp": 5, "r10": 6, "r13": 7}
OLD.update(bp_indirect=8, sp_indirect=9)
NEW = {"undefined": 0, "ax": 1, "dx": 2, "sp": 3, "bp": 4, "di": 5, "r10": 6, "r13": 7}
NEW.update(prev_sp=8, sp_indirect=9, bp_indirect=10)

#: Names of what an entry says -> number, for the types of forms 1-2 and of forms 3-4.
OLD_TYPES = {"call": 0, "registers": 1, "interrupt frame": 2}
NEW_TYPES = {"undefined": 0, "end of the stack": 1, "call": 2}
NEW_TYPES.update({"registers": 3, "interrupt frame": 4})


def flags(form: int, kind: str, sp: str = "sp", bp: str = "undefined", signal: bool = False) -> int:
    """Returns the flags of an entry as the kernels of a form have them."""
    numbers = NEW if form == 4 else OLD
    value = numbers[sp] | numbers[bp] << 4
    if form >= 3:
        return value | NEW_TYPES[kind] << 8 | signal << 11
    if kind == "end of the stack":
        return value & ~0xF | 1 << (10 if form == 1 else 11)
    if form == 2:
        value |= signal << 10
    return value | OLD_TYPES[kind] << 8


def entries(form: int) -> bytes:
    """Returns the entries of a kernel of a form: mostly calls, and one of each other kind."""
    rows = [(8, 0, flags(form, "call"))] * 20
    rows += [
        (16, -16, flags(form, "call", "bp", "prev_sp")),
        (0, 0, flags(form, "end of the stack", "undefined")),
        (0, 0, flags(form, "registers", "sp", signal=form > 1)),
        (8, 0, flags(form, "interrupt frame", "sp", signal=form > 1)),
        (-8, -24, flags(form, "call", "bp_indirect", "bp")),
        (24, 0, flags(form, "call", "sp_indirect")),
        (0, 0, flags(form, "call", "r10")),
        (0, 0, flags(form, "call", "r13")),
        (0, 0, flags(form, "call", "di")),
        (0, 0, flags(form, "call", "dx")),
    ]
    return b"".join(struct.pack("<hhH", *row) for row in rows)


def places(addresses: Sequence[int]) -> bytes:
    """Returns a table of places, each relative to where it stands itself."""
    return b"".join(
        struct.pack("<i", address - (TABLE + 4 * index)) for index, address in enumerate(addresses)
    )


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_form_is_told_from_the_entries(form: int) -> None:
    """Each form is recognised without a word of the kernel's version."""
    assert find_form(entries(form)) == form


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_every_kind_of_entry(form: int) -> None:
    """All forms say the same once they are decoded."""
    data = entries(form)
    count = len(data) // 6
    table = OrcTable(places([CODE + 16 * n for n in range(count)]), data, TABLE, form)
    found = [table.find(CODE + 16 * n) for n in range(19, count)]
    assert [(e.type, e.sp_reg, e.sp_offset, e.bp_reg, e.bp_offset) for e in found if e] == [
        (Type.CALL, Register.SP, 8, Register.UNDEFINED, 0),
        (Type.CALL, Register.BP, 16, Register.PREV_SP, -16),
        (Type.END_OF_STACK, Register.UNDEFINED, 0, Register.UNDEFINED, 0),
        (Type.REGISTERS, Register.SP, 0, Register.UNDEFINED, 0),
        (Type.INTERRUPT_FRAME, Register.SP, 8, Register.UNDEFINED, 0),
        (Type.CALL, Register.BP_INDIRECT, -8, Register.BP, -24),
        (Type.CALL, Register.SP_INDIRECT, 24, Register.UNDEFINED, 0),
        (Type.CALL, Register.R10, 0, Register.UNDEFINED, 0),
        (Type.CALL, Register.R13, 0, Register.UNDEFINED, 0),
        (Type.CALL, Register.DI, 0, Register.UNDEFINED, 0),
        (Type.CALL, Register.DX, 0, Register.UNDEFINED, 0),
    ]


def test_look_up_takes_the_last_place_before() -> None:
    """An entry reaches up to the next place; before the first there is none."""
    data = b"".join(struct.pack("<hhH", 8 * n, 0, flags(3, "call")) for n in range(1, 4))
    table = OrcTable(places([CODE, CODE + 0x10, CODE + 0x40]), data, TABLE, 3)
    offsets = [
        entry.sp_offset if entry else None
        for entry in map(table.find, (CODE - 1, CODE, CODE + 0xF, CODE + 0x10, CODE + 0x1000))
    ]
    assert offsets == [None, 8, 8, 16, 24]


@pytest.mark.parametrize(
    ("ips", "data"), [(b"", b""), (bytes(4), bytes(5)), (bytes(8), bytes(6)), (bytes(3), b"")]
)
def test_tables_that_are_no_pair(ips: bytes, data: bytes) -> None:
    """Tables of different lengths, or of none, are refused."""
    with pytest.raises(OrcError):
        OrcTable(ips, data, TABLE, 1)


def test_flags_without_meaning() -> None:
    """An unknown register, type or bit is refused, and not guessed."""
    for form, value in ((1, 0x000A), (1, 0x0305), (1, 0x0805), (3, 0x0505), (4, 0x000B)):
        table = OrcTable(places([CODE]), struct.pack("<hhH", 0, 0, value), TABLE, form)
        with pytest.raises(OrcError):
            table.find(CODE)


@given(st.binary(max_size=600))
@settings(deadline=None)
def test_noise_is_no_table(data: bytes) -> None:
    """Random entries are refused or decoded, and nothing else happens."""
    try:
        form = find_form(data)
        table = OrcTable(places([CODE] * (len(data) // 6)), data[: len(data) // 6 * 6], TABLE, form)
        assert table.find(CODE) is not None
    except OrcError:
        pass


@given(st.binary(min_size=60, max_size=60), st.binary(min_size=40, max_size=40), st.integers())
@settings(deadline=None)
def test_unsorted_places_end(data: bytes, ips: bytes, address: int) -> None:
    """Places in any order, for any address, give an entry, none, or an error."""
    for form in (1, 2, 3, 4):
        with contextlib.suppress(OrcError):
            OrcTable(ips, data, TABLE, form).find(address & (1 << 64) - 1)


@pytest.mark.parametrize("form", [1, 2, 3, 4])
def test_a_page_that_is_missing(form: int) -> None:
    """It costs the entries in it: where one may be lost that is said, and no other is given."""
    count = 3000
    ips = places([CODE + 16 * n for n in range(count)])
    data = (entries(form) * (count * 6 // len(entries(form)) + 1))[: count * 6]
    at = TABLE + len(ips)
    whole = OrcTable(ips, data, TABLE, form)
    for which, size in ((0, len(ips)), (1, len(data))):
        for start in range(0, size, PAGE_SIZE):
            tables = [bytearray(ips), bytearray(data)]
            first = max(start - (TABLE, at)[which] % PAGE_SIZE, 0)
            end = min(start + PAGE_SIZE - (TABLE, at)[which] % PAGE_SIZE, size)
            tables[which][first:end] = bytes(end - first)
            found = table_with_holes(TABLE, bytes(tables[0]), at, bytes(tables[1]))
            assert found.form == form
            lost = 0
            for n in range(count):
                try:
                    assert found.find(CODE + 16 * n + 5) == whole.find(CODE + 16 * n + 5)
                except OrcError as error:
                    assert str(error) == LOST
                    lost += 1
            width = (4, 6)[which]
            assert (end - first) // width <= lost <= (end - first) // width + 2
            assert first == 0 or found.find(CODE - 1) is None
