# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The ELF core that QEMU writes of a machine, with the registers of its vCPUs.

dump-guest-memory writes it; so do `virsh dump --memory-only` and `virtctl memory-dump`, which let
QEMU do it. It is a core file as a debugger expects one:

    ELF header, program headers, section headers
    PT_NOTE     a run of notes: NT_PRSTATUS of each vCPU, then QEMU's own note of each, then
                VMCOREINFO where the guest gave it to QEMU's device of that name
    PT_LOAD     a run of memory each, at the guest-physical address p_paddr

QEMU's own note (struct QEMUCPUState) has all registers that a debugger of kernels wants:

    name   "QEMU", type 0; 432 bytes, from QEMU 2.12 on 440 (kernel_gs_base), later perhaps more
    u32    version (1), u32 size of the structure
    u64    rax rbx rcx rdx rsi rdi rsp rbp r8 .. r15 rip rflags
    24 bytes for each of cs ds es fs gs ss ldt tr gdt idt: u32 selector, limit, flags, pad, u64 base
    u64    cr0 .. cr4, kernel_gs_base

NT_PRSTATUS gives the vCPU's number, counted from 1, as its pid, and has the general registers too.
Each of the two may be missing, or damaged: a note of QEMU belongs to the NT_PRSTATUS that has the
same registers, and where the two differ in some of them, these are left out.

Other programs write such cores without notes of QEMU, among them the kernel itself for kdump. They
are read likewise; their vCPUs have the general registers alone, and count in the order of the file.

Memory is all that the guest can address: beside RAM the firmware's flash and a video card's memory
where there are such. With paging=true there is a PT_LOAD for each run of *virtual* addresses, so
that runs of physical addresses repeat and overlap; all lead to the same places in the file.

A guest that is not in long mode gives an ELF of 32 bits, unless it has memory above 4 GiB.

Source: QEMU, target/i386/arch_dump.c and dump/dump.c.
"""

import collections
import itertools
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Optional

from volatility_guestdump import elf
from volatility_guestdump.elf import MAGIC, Segment
from volatility_guestdump.exceptions import ElfError, SourceError, UnrecognizedSource
from volatility_guestdump.machine import OPTIONAL_REGISTERS, REGISTERS, VCPU, MemoryRange
from volatility_guestdump.sources.streams import read_up_to

__all__ = ["MAGIC", "QemuElf"]

#: With paging=true there may be many; this is 14 MiB of them.
_MAXIMUM_PROGRAM_HEADERS = 1 << 18
#: Notes of 8192 vCPUs have 7 MiB.
_MAXIMUM_NOTES = 16 << 20
_MAXIMUM_VCPUS = 8192

_QEMU = b"QEMU"
_VERSION = 1
_SEGMENTS = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
_PARTS = ("limit", "flags", "pad")
#: Fields of QEMU's note, and how each is packed.
_FIELDS: Mapping[str, str] = {
    "version": "I",
    "size": "I",
    **dict.fromkeys(("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp"), "Q"),
    **dict.fromkeys(("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "rip", "rflags"), "Q"),
    **{
        name: code
        for segment in _SEGMENTS
        for name, code in (
            (segment, "I"),
            *((f"{segment}.{part}", "I") for part in _PARTS),
            (f"{segment}_base", "Q"),
        )
    },
    **dict.fromkeys(("cr0", "cr1", "cr2", "cr3", "cr4"), "Q"),
    "kernel_gs_base": "Q",
}
_STATE = struct.Struct("<" + "".join(_FIELDS.values()))
#: Where each field ends.
_ENDS = list(itertools.accumulate({"I": 4, "Q": 8}[code] for code in _FIELDS.values()))
#: Bytes of the note up to kernel_gs_base, which old versions of QEMU do not write.
_SHORTEST = _STATE.size - 8

#: A note of QEMU that differs in more registers than these from NT_PRSTATUS is none of that vCPU.
_MAXIMUM_DIFFERENCES = 8
#: Notes of QEMU with the same RIP that are compared with one NT_PRSTATUS.
_ATTEMPTS = 64


@dataclass(frozen=True)
class QemuElf:
    """What an ELF core of QEMU says.

    Attributes:
        ranges: guest-physical memory, ascending.
        vcpus: in the order of the file. Registers that the file lacks, or that it has twice with
            different values, are missing.
        oddities: what of the file is not as it should be, so that something may be missing.
        vmcoreinfo: what the kernel tells to tools that read its dumps; empty where the guest did
            not give it to QEMU.
    """

    ranges: tuple[MemoryRange, ...]
    vcpus: tuple[VCPU, ...]
    oddities: tuple[str, ...]
    vmcoreinfo: bytes = b""

    @classmethod
    def parse(cls, stream: BinaryIO, name: str = "core", needs_notes: bool = True) -> "QemuElf":
        """Reads and validates an ELF core.

        Args:
            stream: the file, which can seek. No memory is read of it.
            name: how to call the file in errors.
            needs_notes: whether a core without notes on a machine is not recognised: it may be a
                machine's, without registers, or that of a process.

        Raises:
            UnrecognizedSource: the file is no ELF core of a machine that is a PC.
            SourceError: it is one, but is damaged or not supported.
        """
        try:
            return _parse(stream, needs_notes)
        except SourceError as error:
            raise type(error)(f"{name}: {error}") from None


def _read(stream: BinaryIO, offset: int, length: int) -> bytes:
    if offset >= stream.seek(0, os.SEEK_END):
        return b""
    stream.seek(offset)
    return read_up_to(stream, length)


def _parse(stream: BinaryIO, needs_notes: bool) -> QemuElf:
    try:
        header = elf.parse_header(_read(stream, 0, elf.MAXIMUM_HEADER))
    except ElfError as error:
        raise UnrecognizedSource(str(error)) from error
    if header.type != elf.ET_CORE or header.machine not in (elf.EM_386, elf.EM_X86_64):
        raise UnrecognizedSource("no ELF core of a PC")
    count, size = header.segment_count, header.segment_size
    if header.count_place is not None:
        info = _read(stream, header.count_place, 4)
        # Without a section header there are just so many.
        count = int.from_bytes(info, "little") if len(info) == 4 else count
    # Before the notes are read nothing tells that it is a machine's.
    if size != header.form.segment.size or count > _MAXIMUM_PROGRAM_HEADERS:
        raise UnrecognizedSource(f"an ELF core with {count} program headers of {size} bytes")
    table = _read(stream, header.segments, count * size)
    if len(table) < count * size:
        raise SourceError("the file ends in its program headers: the copy is incomplete")
    loads, data, end_of_notes = [], bytearray(), 0
    for segment in elf.parse_segments(header.form, table):
        if segment.type == elf.PT_NOTE and segment.file_size:
            if len(data) + segment.file_size > _MAXIMUM_NOTES:
                raise UnrecognizedSource(f"an ELF core with {segment.file_size} bytes of notes")
            data += _read(stream, segment.offset, segment.file_size)
            end_of_notes = max(end_of_notes, segment.offset + segment.file_size)
        elif segment.type == elf.PT_LOAD:
            loads.append(segment)
    notes = _Notes()
    for note in elf.notes(bytes(data)):
        notes.add(note)
    if not notes.are_of_a_machine(loads):
        if end_of_notes > stream.seek(0, os.SEEK_END):
            raise SourceError("the file ends in its notes: the copy is incomplete")
        if needs_notes:
            raise UnrecognizedSource("an ELF core without notes on a machine")
    if end_of_notes > stream.seek(0, os.SEEK_END):
        notes.oddities.append("the file ends in its notes")
    vcpus = notes.vcpus()
    ranges = _ranges(loads, notes.oddities)
    return QemuElf(ranges, vcpus, tuple(notes.oddities), notes.vmcoreinfo)


class _State(NamedTuple):
    """A note of QEMU: the registers in it, and what is wrong with it or nothing."""

    registers: Mapping[str, int]
    wrong: str


def _state(content: bytes) -> _State:
    """Returns what is in a note of QEMU, as far as it goes."""
    values = _STATE.unpack(content[: _STATE.size].ljust(_STATE.size, b"\0"))
    ends = zip(_FIELDS, _ENDS, values)
    found = {name: value for name, end, value in ends if end <= len(content)}
    size = found.get("size", 0)
    wrong = ""
    if len(content) < _SHORTEST:
        wrong = f"has {len(content)} bytes instead of {_SHORTEST}"
    elif not _SHORTEST <= size <= len(content):
        wrong = f"has {len(content)} bytes, but says that it has {size}"
    elif found["version"] != _VERSION:
        wrong = f"has version {found['version']} instead of {_VERSION}"
    if size < _STATE.size:
        found.pop("kernel_gs_base", None)
    known = (*REGISTERS, *OPTIONAL_REGISTERS)
    return _State({name: value for name, value in found.items() if name in known}, wrong)


class _Status(NamedTuple):
    """An NT_PRSTATUS.

    Attributes:
        number: of the vCPU, or None where it does not tell.
        registers: in it.
        mask: of the bits that it has of each.
        wrong: what is wrong with it, or nothing.
    """

    number: Optional[int]
    registers: Mapping[str, int]
    mask: int
    wrong: str


def _status(content: bytes) -> _Status:
    status = elf.parse_prstatus(content)
    if status is None:
        return _Status(None, {}, 0, f"has {len(content)} bytes instead of {elf.PRSTATUS_64}")
    known = {name: value for name, value in status.registers.items() if name in REGISTERS}
    mask = (1 << (64 if len(content) == elf.PRSTATUS_64 else 32)) - 1
    return _Status(status.pid - 1, known, mask, "")


@dataclass
class _Notes:
    """The notes of a file, as far as they are of interest.

    Attributes:
        statuses: the contents of NT_PRSTATUS.
        states: the contents of QEMU's notes.
        vmcoreinfo: what the kernel tells.
        oddities: what is not as it should be.
    """

    statuses: list[bytes] = field(default_factory=list)
    states: list[bytes] = field(default_factory=list)
    vmcoreinfo: bytes = b""
    oddities: list[str] = field(default_factory=list)

    def add(self, note: elf.Note) -> None:
        if (note.name, note.type) == (elf.CORE, elf.NT_PRSTATUS):
            self.statuses.append(note.content)
        elif (note.name, note.type) == (_QEMU, 0):
            self.states.append(note.content)
        elif note.name == elf.VMCOREINFO:
            if self.vmcoreinfo:
                self.oddities.append("there are two notes VMCOREINFO, of which the first is used")
            self.vmcoreinfo = self.vmcoreinfo or note.content

    def are_of_a_machine(self, loads: Sequence[Segment]) -> bool:
        """Whether the core is a machine's: that of a program has no physical addresses."""
        if self.states or self.vmcoreinfo:
            return True
        physical = any(load.physical for load in loads) or not any(load.virtual for load in loads)
        return bool(self.statuses and loads and physical)

    def vcpus(self) -> tuple[VCPU, ...]:
        """Returns the vCPUs, and adds to the oddities."""
        statuses = [_status(content) for content in self._once(self.statuses, "NT_PRSTATUS")]
        states = [_state(content) for content in self.states[:_MAXIMUM_VCPUS]]
        if len(self.states) > _MAXIMUM_VCPUS:
            self.oddities.append(f"there are {len(self.states)} notes of QEMU")
        pairs = _pairs(statuses, states)
        numbers = self._numbers([status for status, _ in pairs])
        return tuple(
            VCPU(number, self._registers(number, status, state))
            for number, (status, state) in zip(numbers, pairs)
        )

    def _once(self, contents: Sequence[bytes], name: str) -> Sequence[bytes]:
        """Returns each of some notes once, but those that tell nothing."""
        kept = list(dict.fromkeys(contents[:_MAXIMUM_VCPUS]))
        if len(kept) == len(contents) or not any(map(elf.parse_prstatus, contents)):
            return contents[:_MAXIMUM_VCPUS]
        self.oddities.append(
            f"{name} is there {len(contents)} times, {len(kept)} of them different"
        )
        return kept

    def _numbers(self, statuses: Sequence[Optional[_Status]]) -> list[int]:
        """Returns the numbers of the vCPUs: those in NT_PRSTATUS where QEMU wrote it."""
        told = [
            status.number if status is not None and self.states else None for status in statuses
        ]
        for number, count in collections.Counter(told).items():
            if number is None:
                continue
            if not 0 <= number < _MAXIMUM_VCPUS:
                self.oddities.append(f"NT_PRSTATUS has the number {number + 1}, which no vCPU has")
            elif count > 1:
                self.oddities.append(f"there are two NT_PRSTATUS of vCPU {number} that differ")
        taken: set[int] = set()
        numbers: list[Optional[int]] = []
        for number in told:
            sound = number is not None and 0 <= number < _MAXIMUM_VCPUS and number not in taken
            numbers.append(number if sound else None)
            taken |= {number} if sound and number is not None else set()
        free = (number for number in itertools.count() if number not in taken)
        return [next(free) if number is None else number for number in numbers]

    def _registers(
        self, number: int, status: Optional[_Status], state: Optional[_State]
    ) -> Mapping[str, int]:
        """Returns the registers of a vCPU in its two notes."""
        if status is None and self.statuses:
            self.oddities.append(f"NT_PRSTATUS of vCPU {number} is missing")
        if status is not None and status.wrong:
            self.oddities.append(f"NT_PRSTATUS of vCPU {number} {status.wrong}")
        if state is None:
            self.oddities.append(f"QEMU's note of vCPU {number} is missing")
            return status.registers if status is not None else {}
        if state.wrong:
            self.oddities.append(f"QEMU's note of vCPU {number} {state.wrong}")
        registers = dict(state.registers)
        if status is None:
            return registers
        different = _differences(status, state)
        if len(different) > _MAXIMUM_DIFFERENCES or (different and state.wrong):
            self.oddities.append(f"QEMU's note of vCPU {number} is not that of its NT_PRSTATUS")
            return status.registers
        for name in different:
            self.oddities.append(
                f"{name} of vCPU {number} is both {registers.pop(name):#x} and "
                f"{status.registers[name]:#x}"
            )
        missing = {
            name: status.registers[name]
            for name in status.registers
            if name not in (*registers, *different)
        }
        return {**registers, **missing}


def _differences(status: _Status, state: _State) -> list[str]:
    """Returns the registers that two notes both have, with different values."""
    return [
        name
        for name, value in status.registers.items()
        if name in state.registers and state.registers[name] & status.mask != value
    ]


def _pairs(
    statuses: Sequence[_Status], states: Sequence[_State]
) -> list[tuple[Optional[_Status], Optional[_State]]]:
    """Returns which NT_PRSTATUS and which note of QEMU are of one vCPU, in the order of the file.

    They are where their registers are the same, and else where both have the same place. A note of
    QEMU that is there twice counts once.
    """
    places: dict[Optional[int], list[int]] = {}
    for place, state in enumerate(states):
        rip = state.registers.get("rip")
        places.setdefault(None if rip is None else rip & 0xFFFFFFFF, []).append(place)
    left = set(range(len(states)))
    chosen: dict[int, int] = {}
    for number, status in enumerate(statuses):
        same_rip = places.get(status.registers.get("rip", -1) & 0xFFFFFFFF, ())
        for place in itertools.islice((number, *same_rip), _ATTEMPTS):
            if place in left and status.registers and not _differences(status, states[place]):
                chosen[number] = place
                left.discard(place)
                break
    for number in range(len(statuses)):
        if number not in chosen and number in left:
            chosen[number] = number
            left.discard(number)
    used = {_content(states[place]) for place in chosen.values()}
    found: list[tuple[Optional[_Status], Optional[_State]]] = [
        (status, states[chosen[number]] if number in chosen else None)
        for number, status in enumerate(statuses)
    ]
    alone = [states[place] for place in sorted(left)]
    return found + [(None, state) for state in alone if not statuses or _content(state) not in used]


def _content(state: _State) -> tuple[str, tuple[tuple[str, int], ...]]:
    """Returns what is in a note of QEMU, to be looked up in a set."""
    return state.wrong, tuple(state.registers.items())


def _ranges(loads: Sequence[Segment], oddities: list[str]) -> tuple[MemoryRange, ...]:
    """Returns the runs of memory without overlap, those that touch in memory and file as one.

    A run may reach beyond the file's end, when the copy is incomplete. Of what the file has at two
    places the first is taken, in the order of guest-physical addresses.
    """
    ranges: list[MemoryRange] = []
    for run in sorted(_present(loads, oddities), key=lambda run: (run.start, run.file_offset)):
        last = ranges[-1] if ranges else None
        if last is None or run.start > last.end:
            ranges.append(run)
        elif run.file_offset - run.start == last.file_offset - last.start:
            size = max(last.end, run.end) - last.start
            ranges[-1] = MemoryRange(last.start, size, last.file_offset)
        else:
            behind = run.start
            if run.start < last.end:
                behind = last.end
                there = run.start - last.start + last.file_offset
                oddities.append(
                    f"guest-physical address {run.start:#x} is in the file twice, at {there:#x} "
                    f"and {run.file_offset:#x}"
                )
            if behind < run.end:
                offset = run.file_offset + behind - run.start
                ranges.append(MemoryRange(behind, run.end - behind, offset))
    if not ranges:
        oddities.append("there is no memory in it")
    return tuple(ranges)


def _present(loads: Sequence[Segment], oddities: list[str]) -> Iterator[MemoryRange]:
    """Yields what has bytes in the file, or had them before the file was cut off."""
    for load in loads:
        # What is in memory alone, as registers of devices, is not in the file.
        size = min(load.file_size, load.memory_size)
        if not size:
            continue
        if load.physical + size > 1 << 52 or load.offset + size > 1 << 63:
            oddities.append(f"memory at {load.physical:#x} has {size:#x} bytes")
        else:
            yield MemoryRange(load.physical, size, load.offset)
