# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ELF64 cores of a guest's memory: with QEMU's notes on its vCPUs, or without any.

QEMU writes such files for dump-guest-memory (dump/dump.c, target/i386/arch_dump.c); libvirt and
KubeVirt let it do so. The file header is followed by two section headers, the program headers, the
notes, and memory.
"""

import pathlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from tests.lab.formats.memory import Memory
from tests.lab.writer import GENERAL, PAGE, Region

ET_CORE, EM_X86_64 = 4, 62
PT_LOAD, PT_NOTE = 1, 4
NT_PRSTATUS = 1

#: Where QEMU puts the program headers: behind the file header and two section headers.
PROGRAM_HEADERS = 64 + 2 * 64

#: p_offset of memory that the file does not have.
NOWHERE = 0xFFFF_FFFF_FFFF_FFFF

#: Bytes of a QEMU note without and with kernel_gs_base, which QEMU 2.12 appended.
OLD_QEMU_NOTE, QEMU_NOTE = 432, 440

#: Addresses where Linux maps its image and, with 4-level paging and no KASLR, all memory.
KERNEL_IMAGE, DIRECT_MAP = 0xFFFF_FFFF_8100_0000, 0xFFFF_8880_0000_0000


@dataclass(frozen=True)
class Load:
    """A PT_LOAD.

    Attributes:
        physical: guest-physical address.
        size: in memory, in bytes.
        virtual: address; QEMU writes 0 without paging.
        stored: whether the file has its bytes.
    """

    physical: int
    size: int
    virtual: int = 0
    stored: bool = True


def write(
    path: pathlib.Path,
    memory: Memory,
    notes: bytes = b"",
    loads: Optional[Sequence[Load]] = None,
) -> None:
    """Writes an ELF core.

    Args:
        path: of the new file.
        memory: of the guest; the file has all of it once.
        notes: what PT_NOTE has; without notes there is no PT_NOTE.
        loads: by default one for each region.
    """
    if loads is None:
        loads = [Load(start, size) for start, size in memory.regions]
    count = len(loads) + bool(notes)
    notes_offset = PROGRAM_HEADERS + 56 * count
    data_offset = notes_offset + len(notes)
    headers = [_file_header(count), bytes(PROGRAM_HEADERS - 64)]
    if notes:
        size = len(notes)
        headers.append(struct.pack("<II6Q", PT_NOTE, 0, notes_offset, 0, 0, size, size, 0))
    for load in loads:
        offset = data_offset + _offset(memory.regions, load) if load.stored else NOWHERE
        stored = load.size if load.stored else 0
        numbers = (offset, load.virtual, load.physical, stored, load.size, 0)
        headers.append(struct.pack("<II6Q", PT_LOAD, 0, *numbers))
    with path.open("wb") as stream:
        stream.write(b"".join(headers) + notes)
        for start, size in memory.regions:
            memory.copy(start, size, stream)
        stream.truncate(stream.tell())


def _file_header(count: int) -> bytes:
    identification = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    fields = (ET_CORE, EM_X86_64, 1, 0, PROGRAM_HEADERS, 0, 0, 64, 56, count, 0, 0, 0)
    return identification + struct.pack("<HHIQQQIHHHHHH", *fields)


def _offset(regions: Sequence[Region], load: Load) -> int:
    position = 0
    for start, size in regions:
        if start <= load.physical and load.physical + load.size <= start + size:
            return position + load.physical - start
        position += size
    raise ValueError(f"{load} is not in one region of memory")


def paging_loads(memory: Memory, kernel: int, kernel_size: int) -> list[Load]:
    """Returns PT_LOADs as QEMU makes them with paging: one memory at several virtual addresses.

    The direct map comes in two overlapping parts for each region, the kernel's image maps some of
    the same memory again, and so do a few stray pages; MMIO is mapped too, but not stored.

    Args:
        memory: of the guest.
        kernel: guest-physical address of the kernel's image.
        kernel_size: bytes of it.
    """
    loads = []
    for start, size in memory.regions:
        half = size // 2 // PAGE * PAGE
        loads.append(Load(start, size, DIRECT_MAP + start))
        loads.append(Load(start + half, size - half, DIRECT_MAP + start + half))
    strays = range(kernel, kernel + kernel_size, kernel_size // 8 // PAGE * PAGE or PAGE)
    loads += [Load(address, PAGE, 0xFFFF_C900_0000_0000 + address) for address in strays]
    loads.append(Load(0xFEE0_0000, PAGE, 0xFFFF_FFFF_FF5F_C000, stored=False))
    loads.append(Load(kernel, kernel_size, KERNEL_IMAGE))
    # QEMU sorts by virtual address.
    return sorted(loads, key=lambda load: load.virtual)


def note(name: bytes, kind: int, data: bytes) -> bytes:
    """Returns one ELF note; name and data are padded to multiples of four bytes."""
    terminated = name + b"\0"
    header = struct.pack("<III", len(terminated), len(data), kind)
    return header + terminated + bytes(-len(terminated) % 4) + data + bytes(-len(data) % 4)


def qemu_notes(vcpus: Sequence[Mapping[str, int]], size: int = QEMU_NOTE) -> bytes:
    """Returns the notes of all vCPUs, in QEMU's order: NT_PRSTATUS of each, then QEMU's of each.

    Args:
        vcpus: of each vCPU, name of the register -> value.
        size: of QEMU's notes' data.
    """
    return b"".join(
        (
            *(
                note(b"CORE", NT_PRSTATUS, prstatus(number, registers))
                for number, registers in enumerate(vcpus)
            ),
            *(note(b"QEMU", 0, cpu_state(registers, size)) for registers in vcpus),
        )
    )


def prstatus(number: int, registers: Mapping[str, int]) -> bytes:
    """Returns the data of an NT_PRSTATUS note (x86_64_elf_prstatus in QEMU).

    The vCPU's number, counted from 1, stands where a process has its PID.
    """
    known = {"orig_rax": 0, "rflags": registers["eflags"], **registers}
    return b"".join(
        (
            bytes(32) + struct.pack("<I", number + 1) + bytes(76),
            struct.pack("<27Q", *(known[name] for name in GENERAL)),
            bytes(8),
        )
    )


def cpu_state(registers: Mapping[str, int], size: int = QEMU_NOTE) -> bytes:
    """Returns the data of a note of QEMU's own (QEMUCPUState in QEMU).

    Args:
        registers: name -> value; what is not there is 0.
        size: `OLD_QEMU_NOTE`, `QEMU_NOTE`, or more for a QEMU to come.
    """
    general = (
        *("rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rsp", "rbp", "r8", "r9", "r10", "r11"),
        *("r12", "r13", "r14", "r15", "rip", "eflags"),
    )
    segments = ("cs", "ds", "es", "fs", "gs", "ss", "ldt", "tr", "gdt", "idt")
    control = ("cr0", "cr1", "cr2", "cr3", "cr4", "kernel_gs_base")
    parts = [struct.pack("<II", 1, size)]
    parts += [struct.pack("<Q", registers[name]) for name in general]
    for name in segments:
        fields = (registers.get(name, 0), 0xFFFF_FFFF, 0, 0, registers.get(f"{name}_base", 0))
        parts.append(struct.pack("<4IQ", *fields))
    parts += [struct.pack("<Q", registers.get(name, 0)) for name in control]
    # What a later QEMU would append is not zero.
    return b"".join(parts)[:size].ljust(size, b"\xa5")
