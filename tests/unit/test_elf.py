# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ELF headers, segments and notes: bytes of the lab's writer, round trips, and noise."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.lab import writer
from tests.lab.formats import elf_core
from volatility_guestdump import elf
from volatility_guestdump.elf import FORM_32, FORM_64, Form, Header, Note, Prstatus, Segment
from volatility_guestdump.exceptions import ElfError

both = pytest.mark.parametrize("form", [FORM_32, FORM_64], ids=["32", "64"])


def test_header_of_64_bits() -> None:
    """Each field is where the ABI has it."""
    data = struct.pack(
        "<4s12sHHIQQQIHHHHHH",
        *(b"\x7fELF", b"\2\1\1", 4, 62, 1, 0x11, 0x22, 0x33, 0x44, 64, 56, 7, 64, 3, 2),
    )
    header = Header(FORM_64, elf.ET_CORE, elf.EM_X86_64, 0x22, 7, 56, 0x33)
    assert elf.parse_header(data) == header and header.count_place is None
    many = data[:56] + b"\xff\xff" + data[58:]
    assert elf.parse_header(many).count_place == 0x33 + 44


def test_header_of_32_bits() -> None:
    """The same with shorter numbers."""
    data = struct.pack(
        "<4s12sHHIIIIIHHHHHH",
        *(b"\x7fELF", b"\1\1\1", 4, 3, 1, 0x11, 0x22, 0x33, 0x44, 52, 32, 0xFFFF, 40, 3, 2),
    )
    header = Header(FORM_32, elf.ET_CORE, elf.EM_386, 0x22, 0xFFFF, 32, 0x33)
    assert elf.parse_header(data) == header and header.count_place == 0x33 + 28
    # Without section headers there is no other place for the number.
    assert elf.parse_header(data[:32] + bytes(4) + data[36:]).count_place is None


def test_segments() -> None:
    """The two forms have the flags at different places."""
    expected = Segment(1, 0x22, 0x55, 0x44, 0x33, 0x66, 7, 0x1000)
    wide = struct.pack("<II6Q", 1, 7, 0x22, 0x33, 0x44, 0x55, 0x66, 0x1000)
    narrow = struct.pack("<8I", 1, 0x22, 0x33, 0x44, 0x55, 0x66, 7, 0x1000)
    assert elf.parse_segments(FORM_64, wide * 2 + wide[:-1]) == [expected] * 2
    assert elf.parse_segments(FORM_32, narrow + b"x") == [expected]
    assert elf.parse_segments(FORM_64, b"") == []


@both
def test_no_header(form: Form) -> None:
    """What is none, or is cut off, is said."""
    whole = elf.pack_header(Header(form, 4, 62, 64, 1, form.segment.size))
    for data, message in (
        (b"", "no ELF file"),
        (whole[:15], "no ELF file"),
        (b"\x7fELG" + whole[4:], "no ELF file"),
        (whole[:4] + b"\3" + whole[5:], "another kind"),
        (whole[:5] + b"\2" + whole[6:], "another kind"),
        (whole[: form.header_size - 1], "without a whole header"),
    ):
        with pytest.raises(ElfError, match=message):
            elf.parse_header(data)


def test_notes() -> None:
    """Name and content end on multiples of four bytes; the last one that is cut off is none."""
    found = [Note(b"CORE", 1, b"12345"), Note(b"QEMU", 0, b""), Note(b"GNU", 3, b"x" * 20)]
    data = b"".join(elf_core.note(*each) for each in found)
    assert list(elf.notes(data)) == found and elf.pack_notes(found) == data
    assert list(elf.notes(data + b"\1" * 11)) == found
    for length in range(len(data) - 24, len(data)):
        assert list(elf.notes(data[:length])) == found[:2]
    # Sizes of gigabytes are no reason to allocate any.
    assert list(elf.notes(data + struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 1) + data)) == found


def test_prstatus() -> None:
    """The registers are those of struct user_regs_struct, and the number is pr_pid."""
    written = {
        name: 0x1000 + place for place, name in enumerate((*writer.GENERAL, "eflags", "orig_rax"))
    }
    status = elf.parse_prstatus(elf_core.prstatus(4, written))
    assert status is not None and status.pid == 5
    expected = {name: written[name] for name in writer.GENERAL}
    assert status.registers == expected
    assert len(status.registers) == 27
    for size in (0, 143, 145, 335, 337):
        assert elf.parse_prstatus(bytes(size)) is None


@pytest.mark.parametrize("size", [elf.PRSTATUS_32, elf.PRSTATUS_64])
@given(pid=st.integers(-(1 << 31), (1 << 31) - 1), values=st.data())
@settings(deadline=None)
def test_prstatus_round_trip(size: int, pid: int, values: st.DataObject) -> None:
    """What is written is read."""
    bits = 32 if size == elf.PRSTATUS_32 else 64
    empty = elf.parse_prstatus(bytes(size))
    assert empty is not None
    registers = values.draw(
        st.fixed_dictionaries({name: st.integers(0, (1 << bits) - 1) for name in empty.registers})
    )
    status = Prstatus(pid, registers)
    assert elf.parse_prstatus(elf.pack_prstatus(status, size)) == status


halves = st.integers(0, 0xFFFF)


@both
@given(
    st.tuples(halves, halves, *[st.integers(0, 0xFFFFFFFF)] * 2, halves, halves),
    st.lists(st.tuples(*[st.integers(0, 0xFFFFFFFF)] * 8), max_size=5),
    st.lists(
        st.tuples(st.binary(max_size=9), st.integers(0, 0xFFFFFFFF), st.binary(max_size=40)),
        max_size=5,
    ),
)
@settings(deadline=None)
def test_round_trip(
    form: Form,
    head: tuple[int, ...],
    segments: list[tuple[int, ...]],
    notes: list[tuple[bytes, int, bytes]],
) -> None:
    """Whatever is written, it is read."""
    kind, machine, table, sections, count, size = head
    header = Header(form, kind, machine, table, count, size, sections)
    assert elf.parse_header(elf.pack_header(header)) == header
    several = [Segment(*fields) for fields in segments]
    assert elf.parse_segments(form, elf.pack_segments(form, several)) == several
    written = [Note(name.rstrip(b"\0"), number, content) for name, number, content in notes]
    assert list(elf.notes(elf.pack_notes(written))) == written


@given(st.binary(max_size=300))
@settings(deadline=None)
def test_noise(data: bytes) -> None:
    """Any bytes are read or refused, and nothing is longer than they are."""
    for start in (b"", b"\x7fELF\1\1\1", b"\x7fELF\2\1\1"):
        with contextlib.suppress(ElfError):
            elf.parse_header(start + data)
    assert sum(len(note.content) for note in elf.notes(data)) <= len(data)
    found = elf.build_id(data)
    assert found is None or bytes.fromhex(found) in data
