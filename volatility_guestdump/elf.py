# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ELF: headers, segments and notes, read from bytes and written to bytes.

    ELF header        what the file is, and where the two tables are
    program headers   a table with an entry for each segment, which is a piece of memory (PT_LOAD)
                      or a run of notes (PT_NOTE)
    section headers   another table, of which only one number is of interest here
    notes             one behind the other: u32 size of the name, u32 size of the content, u32
                      type, the name with a NUL at its end, the content; both end on a multiple of 4

Nothing here reads a file: a caller reads the bytes at the places that the header tells. All is
little-endian. Notes say what the rest of a file is of:

    name         type   content
    CORE         1      NT_PRSTATUS: the registers of a CPU
    GNU          3      NT_GNU_BUILD_ID: tells one build of a program from every other
    VMCOREINFO   0      what a Linux kernel tells to tools that read its dumps

Sources: System V ABI, chapters 4 and 5; include/uapi/linux/elf.h and elfcore.h of Linux.
"""

import re
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import ElfError

#: How an ELF file begins.
MAGIC = b"\x7fELF"
#: Bytes at the start of a file that tell in which form all others are.
_IDENTIFICATION = 16
_LITTLE_ENDIAN, _VERSION = 1, 1
#: No header is longer.
MAXIMUM_HEADER = 64

ET_CORE = 4
EM_386, EM_X86_64 = 3, 62
PT_LOAD, PT_NOTE = 1, 4

#: e_phnum when there are more program headers than it can say; the first section's sh_info does.
PN_XNUM = 0xFFFF

NT_PRSTATUS, NT_GNU_BUILD_ID = 1, 3
CORE, GNU, VMCOREINFO = b"CORE", b"GNU", b"VMCOREINFO"

#: A symbol of 64 bits: st_name, st_info, st_other, st_shndx, st_value, st_size.
SYMBOL_64 = struct.Struct("<IBBHQQ")

_NOTE = struct.Struct("<III")
#: The header of a build id, up to its content, whose size is below 256.
_BUILD_ID = re.compile(
    re.escape(struct.pack("<I", len(GNU) + 1))
    + rb"(.\0\0\0)"
    + re.escape(struct.pack("<I", NT_GNU_BUILD_ID) + GNU + b"\0"),
    re.DOTALL,
)


class Form(NamedTuple):
    """What differs between ELF of 32 and of 64 bits.

    Attributes:
        bits: 32 or 64.
        header: behind the identification: e_type, e_machine, e_version, e_entry, e_phoff, e_shoff,
            e_flags, e_ehsize, e_phentsize, e_phnum, e_shentsize, e_shnum, e_shstrndx.
        segment: a program header.
        order: the fields of `Segment` as they follow each other in it.
        section_info: where a section header has sh_info.
        section_size: bytes of a section header.
    """

    bits: int
    header: struct.Struct
    segment: struct.Struct
    order: tuple[str, ...]
    section_info: int
    section_size: int

    @property
    def header_size(self) -> int:
        """Bytes of the ELF header."""
        return _IDENTIFICATION + self.header.size


#: By the byte of the identification that tells the class.
_FORMS: Mapping[int, Form] = {
    1: Form(
        32,
        struct.Struct("<HHIIIIIHHHHHH"),
        struct.Struct("<8I"),
        (*("type", "offset", "virtual", "physical", "file_size", "memory_size"), "flags", "align"),
        28,
        40,
    ),
    2: Form(
        64,
        struct.Struct("<HHIQQQIHHHHHH"),
        struct.Struct("<II6Q"),
        (*("type", "flags", "offset", "virtual", "physical", "file_size", "memory_size"), "align"),
        44,
        64,
    ),
}
FORM_32, FORM_64 = _FORMS[1], _FORMS[2]


class Segment(NamedTuple):
    """A program header.

    Attributes:
        type: `PT_LOAD`, `PT_NOTE` or another.
        offset: of its bytes in the file.
        file_size: how many bytes the file has of it.
        physical: address in guest-physical memory.
        virtual: address in virtual memory.
        memory_size: bytes that it has in memory.
        flags: whether it can be read (4), written (2) and run (1).
        align: of offset and addresses; 0 for none.
    """

    type: int
    offset: int
    file_size: int
    physical: int = 0
    virtual: int = 0
    memory_size: int = 0
    flags: int = 0
    align: int = 0


@dataclass(frozen=True)
class Header:
    """An ELF header.

    Attributes:
        form: of 32 or of 64 bits.
        type: e_type, `ET_CORE` for a core.
        machine: e_machine.
        segments: offset of the program headers.
        segment_count: e_phnum.
        segment_size: bytes of one of them as the file says.
        sections: offset of the section headers; 0 for none.
    """

    form: Form
    type: int
    machine: int
    segments: int
    segment_count: int
    segment_size: int
    sections: int = 0

    @property
    def count_place(self) -> Optional[int]:
        """Offset of the u32 that has the number of program headers, where e_phnum has not."""
        if self.segment_count != PN_XNUM or not self.sections:
            return None
        return self.sections + self.form.section_info


class Note(NamedTuple):
    """A note; the name is without the NUL at its end."""

    name: bytes
    type: int
    content: bytes


def parse_header(data: bytes) -> Header:
    """Reads an ELF header.

    Args:
        data: the first `MAXIMUM_HEADER` bytes of the file, or all that it has.

    Raises:
        ElfError: it is none, or one of another kind of computer.
    """
    if len(data) < _IDENTIFICATION or not data.startswith(MAGIC):
        raise ElfError("no ELF file")
    form = _FORMS.get(data[4])
    if form is None or data[5] != _LITTLE_ENDIAN:
        raise ElfError("an ELF file of another kind than a PC has")
    if len(data) < form.header_size:
        raise ElfError("an ELF file without a whole header")
    fields = form.header.unpack_from(data, _IDENTIFICATION)
    kind, machine, _, _, segments, sections, _, _, segment_size, segment_count = fields[:10]
    return Header(form, kind, machine, segments, segment_count, segment_size, sections)


def parse_segments(form: Form, data: bytes) -> list[Segment]:
    """Reads program headers; bytes behind the last whole one are ignored."""
    size = form.segment.size
    return [
        Segment(**dict(zip(form.order, fields)))
        for fields in form.segment.iter_unpack(data[: len(data) // size * size])
    ]


def notes(data: bytes) -> Iterator[Note]:
    """Yields notes that follow each other, up to the first that is cut off."""
    place = 0
    while place + _NOTE.size <= len(data):
        name_size, size, kind = _NOTE.unpack_from(data, place)
        start = place + _NOTE.size
        content = start + _padded(name_size)
        if content + size > len(data):
            return
        name = data[start : start + name_size].rstrip(b"\0")
        yield Note(name, kind, data[content : content + size])
        place = content + _padded(size)


def _padded(size: int) -> int:
    return size + -size % 4


def build_id(data: bytes) -> Optional[str]:
    """Returns the GNU build id in hexadecimal that is among some notes, or None."""
    # Not from note to note: some linkers align one to 8 bytes, and no note says so.
    for match in _BUILD_ID.finditer(data):
        if match.start() % 4 == 0:
            size = int.from_bytes(match[1], "little")
            return data[match.end() : match.end() + size].hex() or None
    return None


class _PrstatusForm(NamedTuple):
    """Where NT_PRSTATUS (struct elf_prstatus) has what is of interest.

    Attributes:
        size: bytes of all of it.
        pid: offset of pr_pid, of four bytes.
        registers: offset of pr_reg.
        names: of the registers, by the names of 64 bits.
        words: how they are packed.
    """

    size: int
    pid: int
    registers: int
    names: tuple[str, ...]
    words: struct.Struct


#: By the size of the whole. Registers are those of struct user_regs_struct; from ds to gs they
#: are 16 bits wide in the CPU.
_PRSTATUS: Mapping[int, _PrstatusForm] = {
    form.size: form
    for form in (
        _PrstatusForm(
            144,
            24,
            72,
            (
                *("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs"),
                *("orig_rax", "rip", "cs", "rflags", "rsp", "ss"),
            ),
            struct.Struct("<17I"),
        ),
        _PrstatusForm(
            336,
            32,
            112,
            (
                *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax"),
                *("rcx", "rdx", "rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss"),
                *("fs_base", "gs_base", "ds", "es", "fs", "gs"),
            ),
            struct.Struct("<27Q"),
        ),
    )
}
PRSTATUS_32, PRSTATUS_64 = sorted(_PRSTATUS)


class Prstatus(NamedTuple):
    """What NT_PRSTATUS tells.

    Attributes:
        pid: of the process; in dumps of machines another number, which their writers choose.
        registers: name -> value.
    """

    pid: int
    registers: Mapping[str, int]


def parse_prstatus(content: bytes) -> Optional[Prstatus]:
    """Reads NT_PRSTATUS, which has one size for 32 and one for 64 bits; None for another size."""
    form = _PRSTATUS.get(len(content))
    if form is None:
        return None
    values = form.words.unpack_from(content, form.registers)
    pid = int.from_bytes(content[form.pid : form.pid + 4], "little", signed=True)
    return Prstatus(pid, dict(zip(form.names, values)))


def pack_header(header: Header) -> bytes:
    """Returns an ELF header; `parse_header` reads the same from it."""
    form = header.form
    number = next(each for each, known in _FORMS.items() if known is form)
    identification = MAGIC + bytes((number, _LITTLE_ENDIAN, _VERSION))
    return identification.ljust(_IDENTIFICATION, b"\0") + form.header.pack(
        *(header.type, header.machine, _VERSION, 0, header.segments, header.sections, 0),
        *(form.header_size, header.segment_size, header.segment_count),
        *((form.section_size, 1, 0) if header.sections else (0, 0, 0)),
    )


def pack_segments(form: Form, segments: Iterable[Segment]) -> bytes:
    """Returns program headers, one behind the other."""
    return b"".join(
        form.segment.pack(*(getattr(segment, field) for field in form.order))
        for segment in segments
    )


def pack_notes(found: Iterable[Note]) -> bytes:
    """Returns notes, one behind the other."""
    return b"".join(
        _NOTE.pack(len(note.name) + 1, len(note.content), note.type)
        + _fill(note.name + b"\0")
        + _fill(note.content)
        for note in found
    )


def _fill(data: bytes) -> bytes:
    return data.ljust(_padded(len(data)), b"\0")


def pack_prstatus(status: Prstatus, size: int = PRSTATUS_64) -> bytes:
    """Returns NT_PRSTATUS; registers that are not given are 0.

    Args:
        status: what it tells.
        size: `PRSTATUS_64` or `PRSTATUS_32`.
    """
    form = _PRSTATUS[size]
    data = bytearray(form.size)
    struct.pack_into("<i", data, form.pid, status.pid)
    values: Sequence[int] = [status.registers.get(name, 0) for name in form.names]
    form.words.pack_into(data, form.registers, *values)
    return bytes(data)
