# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The ELF core that QEMU writes of a machine, with the registers of its vCPUs.

dump-guest-memory writes it; so do `virsh dump --memory-only` and `virtctl memory-dump`, which let
QEMU do it. It is a core file as a debugger expects one:

    ELF header, program headers, section headers
    PT_NOTE     a run of notes: NT_PRSTATUS of each vCPU, then QEMU's own note of each, then
                VMCOREINFO where the guest gave it to QEMU's device of that name
    PT_LOAD     a run of memory each, at the guest-physical address p_paddr

QEMU's own note (struct QEMUCPUState) has all registers that a debugger of kernels wants. They are
read from it alone; NT_PRSTATUS gives the vCPU's number, and must have the same RIP:

    name   "QEMU", type 0; 432 bytes, from QEMU 2.12 on 440 (kernel_gs_base), later perhaps more
    u32    version (1), u32 size of the structure
    u64    rax rbx rcx rdx rsi rdi rsp rbp r8 .. r15 rip rflags
    24 bytes for each of cs ds es fs gs ss ldt tr gdt idt: u32 selector, limit, flags, pad, u64 base
    u64    cr0 .. cr4, kernel_gs_base

Memory is all that the guest can address: beside RAM the firmware's flash and a video card's memory
where there are such. With paging=true there is a PT_LOAD for each run of *virtual* addresses, so
that runs of physical addresses repeat and overlap; all lead to the same places in the file.

A guest that is not in long mode gives an ELF of 32 bits, unless it has memory above 4 GiB.

Source: QEMU, target/i386/arch_dump.c and dump/dump.c.
"""

import io
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Optional

from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import REGISTERS, VCPU, MemoryRange
from volatility_guestdump.sources.streams import read_up_to

#: How an ELF file begins.
MAGIC = b"\x7fELF"
_LITTLE_ENDIAN = 1
_ET_CORE = 4
_EM_386, _EM_X86_64 = 3, 62
_PT_LOAD, _PT_NOTE = 1, 4
_NT_PRSTATUS = 1

#: e_phnum when there are more program headers than it can say; the first section's sh_info does.
_PN_XNUM = 0xFFFF


class _Class(NamedTuple):
    """What differs between ELF of 32 and of 64 bits.

    Attributes:
        header: e_type, e_machine, e_phoff, e_shoff, e_phentsize, e_phnum, behind e_ident.
        program_header: of one; `fields` says what is where.
        fields: places of p_type, p_offset, p_paddr, p_filesz, p_memsz in it.
        section_info: offset of sh_info in a section header.
        prstatus: bytes of NT_PRSTATUS.
        pid: offset of pr_pid in it, where QEMU puts the vCPU's number, counted from 1.
        rip: offset and size of RIP in it.
    """

    header: struct.Struct
    program_header: struct.Struct
    fields: tuple[int, int, int, int, int]
    section_info: int
    prstatus: int
    pid: int
    rip: tuple[int, int]


_CLASSES: Mapping[int, _Class] = {
    1: _Class(
        struct.Struct("<HH8xII6xHH"), struct.Struct("<8I"), (0, 1, 3, 4, 5), 28, 144, 24, (120, 4)
    ),
    2: _Class(
        struct.Struct("<HH12xQQ6xHH"),
        struct.Struct("<II6Q"),
        (0, 2, 4, 5, 6),
        44,
        336,
        32,
        (240, 8),
    ),
}

#: A 64-bit file has the 64-bit form of NT_PRSTATUS only when the guest is in long mode.
_PRSTATUS_FORMS: Mapping[int, _Class] = {form.prstatus: form for form in _CLASSES.values()}

#: With paging=true there may be many; this is 14 MiB of them.
_MAXIMUM_PROGRAM_HEADERS = 1 << 18
#: Notes of 8192 vCPUs have 7 MiB.
_MAXIMUM_NOTES = 16 << 20
_MAXIMUM_VCPUS = 8192

_STATE = struct.Struct(f"<II18Q{10 * '4IQ'}5Q")
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_PARTS = ("limit", "flags", "pad")
_STATE_NAMES = (
    *("version", "size", "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"),
    *(
        name
        for segment in _SEGMENTS
        for name in (segment, *(f"{segment}.{part}" for part in _PARTS), f"{segment}_base")
    ),
    *("cr0", "cr1", "cr2", "cr3", "cr4"),
)
_KERNEL_GS_BASE = struct.Struct("<Q")

_NOTE = struct.Struct("<III")


@dataclass(frozen=True)
class QemuElf:
    """What an ELF core of QEMU says.

    Attributes:
        ranges: guest-physical memory, ascending.
        vcpus: in the order of the file.
        left_out: for each vCPU that is left out, which and why.
        vmcoreinfo: what the kernel tells to tools that read its dumps; empty where the guest did
            not give it to QEMU.
    """

    ranges: tuple[MemoryRange, ...]
    vcpus: tuple[VCPU, ...]
    left_out: tuple[str, ...]
    vmcoreinfo: bytes = b""

    @classmethod
    def parse(cls, stream: BinaryIO, name: str = "core") -> "QemuElf":
        """Reads and validates an ELF core.

        Args:
            stream: the file, which can seek. No memory is read of it.
            name: how to call the file in errors.

        Raises:
            UnrecognizedSource: the file is no ELF core of a PC that QEMU wrote.
            SourceError: it is one, but is damaged or not supported.
        """
        try:
            return _parse(stream)
        except SourceError as error:
            raise type(error)(f"{name}: {error}") from None


class _Load(NamedTuple):
    """A PT_LOAD: guest-physical address, offset in the file, bytes in the file."""

    start: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        return self.start + self.size


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    if offset >= stream.seek(0, os.SEEK_END):
        return b""
    stream.seek(offset)
    return read_up_to(stream, length)


def _parse(stream: BinaryIO) -> QemuElf:
    identification = _read(stream, 0, 16)
    if len(identification) < 16 or not identification.startswith(MAGIC):
        raise UnrecognizedSource("no ELF file")
    form = _CLASSES.get(identification[4])
    if form is None or identification[5] != _LITTLE_ENDIAN:
        raise UnrecognizedSource("an ELF file of another kind than a PC has")
    head = _read(stream, 16, form.header.size)
    if len(head) < form.header.size:
        raise UnrecognizedSource("an ELF file without a whole header")
    kind, machine, offset, sections, entry_size, count = form.header.unpack(head)
    if kind != _ET_CORE or machine not in (_EM_386, _EM_X86_64):
        raise UnrecognizedSource("no ELF core of a PC")
    if count == _PN_XNUM:
        info = _read(stream, sections + form.section_info, 4)
        # Without a section header there are just so many.
        count = int.from_bytes(info, "little") if sections and len(info) == 4 else count
    # Before the notes are read nothing tells that it is QEMU's.
    if entry_size != form.program_header.size or count > _MAXIMUM_PROGRAM_HEADERS:
        raise UnrecognizedSource(f"an ELF core with {count} program headers of {entry_size} bytes")
    table = _read(stream, offset, count * entry_size)
    if len(table) < count * entry_size:
        raise SourceError("the file ends in its program headers: the copy is incomplete")
    loads, notes, end_of_notes = [], bytearray(), 0
    for fields in form.program_header.iter_unpack(table):
        segment, place, physical, in_file, in_memory = (fields[index] for index in form.fields)
        if segment == _PT_NOTE and in_file:
            if len(notes) + in_file > _MAXIMUM_NOTES:
                raise UnrecognizedSource(f"an ELF core with {in_file} bytes of notes")
            notes += _read(stream, place, in_file)
            end_of_notes = max(end_of_notes, place + in_file)
        elif segment == _PT_LOAD:
            # What is in memory alone, as registers of devices, is not in the file.
            loads.append(_Load(physical, place, min(in_file, in_memory)))
    statuses, states, vmcoreinfo = _notes(bytes(notes))
    cut_off = end_of_notes > stream.seek(0, os.SEEK_END)
    if not states and cut_off:
        raise SourceError("the file ends in its notes: the copy is incomplete")
    if not states:
        raise UnrecognizedSource("an ELF core without notes of QEMU")
    vcpus, left_out = _vcpus(statuses, states)
    return QemuElf(_ranges(loads), vcpus, left_out, vmcoreinfo)


def _notes(data: bytes) -> tuple[list[bytes], list[bytes], bytes]:
    """Returns the notes NT_PRSTATUS, those of QEMU, and VMCOREINFO."""
    statuses: list[bytes] = []
    states: list[bytes] = []
    vmcoreinfo = b""
    stream = io.BytesIO(data)
    while True:
        head = stream.read(_NOTE.size)
        if len(head) < _NOTE.size:
            return statuses, states, vmcoreinfo
        name_size, size, kind = _NOTE.unpack(head)
        name = stream.read(name_size + -name_size % 4)[:name_size].rstrip(b"\0")
        content = stream.read(size)
        if len(content) < size:
            # Cut off: what is there of it is of no use.
            return statuses, states, vmcoreinfo
        stream.read(-size % 4)
        if name == b"CORE" and kind == _NT_PRSTATUS:
            statuses.append(content)
        elif name == b"QEMU" and kind == 0:
            states.append(content)
        elif name == b"VMCOREINFO":
            vmcoreinfo = vmcoreinfo or content


def _vcpus(
    statuses: Sequence[bytes], states: Sequence[bytes]
) -> tuple[tuple[VCPU, ...], tuple[str, ...]]:
    """Returns the vCPUs, and what is left out."""
    if len(states) > _MAXIMUM_VCPUS:
        raise SourceError(f"{len(states)} vCPUs; a guest has at most {_MAXIMUM_VCPUS}")
    vcpus, left_out = [], []
    seen = set()
    for index, state in enumerate(states):
        status = statuses[index] if index < len(statuses) else None
        number, rip = _status(status, index)
        registers, wrong = _registers(state)
        if not wrong and rip not in (None, registers["rip"]):
            wrong = f"RIP is both {registers['rip']:#x} and {rip:#x}"
        if not wrong and not 0 <= number < _MAXIMUM_VCPUS:
            wrong = "no vCPU has that number"
        if not wrong and number in seen:
            wrong = "there are two of that number"
        if wrong:
            left_out.append(f"{number}: {wrong}")
        else:
            seen.add(number)
            vcpus.append(VCPU(number, registers))
    # NT_PRSTATUS of all come before: the file may be cut off between.
    for index, status in enumerate(statuses[len(states) : _MAXIMUM_VCPUS], len(states)):
        left_out.append(f"{_status(status, index)[0]}: its note of QEMU is missing")
    return tuple(vcpus), tuple(left_out)


def _status(status: Optional[bytes], index: int) -> tuple[int, Optional[int]]:
    """Returns number and RIP of the vCPU that an NT_PRSTATUS is of.

    Args:
        status: the note, or None when there is none.
        index: its place among the vCPUs, which is the number where the note tells none.
    """
    form = _PRSTATUS_FORMS.get(len(status or b""))
    if status is None or form is None:
        return index, None
    place, size = form.rip
    number = int.from_bytes(status[form.pid : form.pid + 4], "little") - 1
    return number, int.from_bytes(status[place : place + size], "little")


def _registers(state: bytes) -> tuple[Mapping[str, int], str]:
    """Returns the registers in a note of QEMU, and why they cannot be used."""
    if len(state) < _STATE.size:
        return {}, f"its note has {len(state)} bytes, but registers take {_STATE.size}"
    found = dict(zip(_STATE_NAMES, _STATE.unpack_from(state)))
    size = found["size"]
    if not _STATE.size <= size <= len(state):
        return {}, f"its note has {len(state)} bytes, but says that it has {size}"
    registers = {name: found[name] for name in REGISTERS}
    if size >= _STATE.size + _KERNEL_GS_BASE.size:
        (registers["kernel_gs_base"],) = _KERNEL_GS_BASE.unpack_from(state, _STATE.size)
    return registers, ""


def _ranges(loads: Sequence[_Load]) -> tuple[MemoryRange, ...]:
    """Returns the runs of memory without overlap, those that touch in memory and file as one.

    A run may reach beyond the file's end, when the copy is incomplete.
    """
    ranges: list[MemoryRange] = []
    for load in sorted(_present(loads)):
        if ranges and load.start < ranges[-1].end:
            last = ranges[-1]
            if load.offset - load.start != last.file_offset - last.start:
                raise SourceError(
                    f"guest-physical address {load.start:#x} is in the file twice, at "
                    f"{load.start - last.start + last.file_offset:#x} and {load.offset:#x}"
                )
            ranges[-1] = MemoryRange(
                last.start, max(last.end, load.end) - last.start, last.file_offset
            )
        elif ranges and (load.start, load.offset) == (
            ranges[-1].end,
            ranges[-1].file_offset + ranges[-1].size,
        ):
            last = ranges[-1]
            ranges[-1] = MemoryRange(last.start, last.size + load.size, last.file_offset)
        else:
            ranges.append(MemoryRange(load.start, load.size, load.offset))
    if not ranges:
        raise SourceError("there is no memory in it")
    return tuple(ranges)


def _present(loads: Sequence[_Load]) -> Iterator[_Load]:
    """Yields what has bytes in the file, or had them before the file was cut off."""
    for load in loads:
        if not load.size:
            continue
        if load.end > 1 << 52 or load.offset + load.size > 1 << 63:
            raise SourceError(f"memory at {load.start:#x} has {load.size:#x} bytes")
        yield load
