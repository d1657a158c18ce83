# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a kernel leaves behind for the one that kdump starts, in memory made by hand."""

import struct

import pytest

from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump.linux.state.crash import (
    first_kernel_release,
    is_second_kernel,
    registers_at_crash,
)

VARIABLE, NOTES, OFFSET = 0x1000, 0x100, 0x20000
#: struct user_regs_struct (arch/x86/include/asm/user_64.h).
USER_REGS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base"),
    *("ds", "es", "fs", "gs"),
)


def elf_note(name: bytes, kind: int, contents: bytes) -> bytes:
    """Returns an ELF note."""
    header = struct.pack("<III", len(name), len(contents), kind)
    return header + name.ljust(-(-len(name) // 4) * 4, b"\0") + contents


def prstatus() -> bytes:
    """Returns a struct elf_prstatus whose registers are numbered from 1."""
    return bytes(112) + struct.pack("<27Q", *range(1, 28)) + bytes(8)


def crashed(note: bytes) -> HandmadeKernel:
    """Returns a kernel with a note of one CPU."""
    kernel = HandmadeKernel(crash_notes=VARIABLE)
    kernel.put(VARIABLE, NOTES)
    kernel.write(NOTES + OFFSET, note)
    return kernel


def test_registers_of_a_crash() -> None:
    """All that the note has, by their names."""
    found = registers_at_crash(crashed(elf_note(b"CORE\0", 1, prstatus())).kernel, OFFSET)
    assert found == {name: number for number, name in enumerate(USER_REGS, 1)}


@pytest.mark.parametrize(
    "note",
    [
        # No crash, another note, a short one, and one that is cut off
        bytes(400),
        elf_note(b"LINUX\0", 1, prstatus()),
        elf_note(b"CORE\0", 3, prstatus()),
        elf_note(b"CORE\0", 1, bytes(100)) + bytes(400),
        elf_note(b"CORE\0", 1, prstatus())[:300],
    ],
)
def test_no_registers_of_a_crash(note: bytes) -> None:
    """What is no such note is none."""
    assert registers_at_crash(crashed(note).kernel, OFFSET) is None
    assert registers_at_crash(HandmadeKernel().kernel, OFFSET) is None


def started(command_line: str) -> HandmadeKernel:
    """Returns a kernel with a command line."""
    kernel = HandmadeKernel(saved_command_line=0x100)
    kernel.put(0x100, 0x200)
    kernel.write(0x200, command_line.encode().ljust(0x100, b"\0") + bytes(0x100))
    return kernel


def second(command_line: str, place: int, *notes: bytes) -> HandmadeKernel:
    """Returns a kernel that kdump started.

    Args:
        command_line: what it was started with.
        place: physical address of the ELF header.
        *notes: that the header lists.
    """
    kernel = started(command_line)
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", b"\x7fELF\2\1\1", 4, 62, 1, 0, 64, 0, 0, 64, 56, 0, 0, 0, 0
    )
    header = header[:56] + struct.pack("<H", len(notes) + 1) + header[58:]
    kernel.write(place, header)
    for number, note in enumerate(notes):
        at = 0x50000 + 0x2000 * number
        kernel.write(at, note)
        program = struct.pack("<IIQQQQQQ", 4, 0, at, 0, at, len(note), len(note), 4)
        kernel.write(place + 64 + 56 * number, program)
    kernel.write(place + 64 + 56 * len(notes), struct.pack("<IIQQQQQQ", 1, 7, 0, 0, 0, 9, 9, 0))
    return kernel


VMCOREINFO = elf_note(b"VMCOREINFO\0", 0, b"OSRELEASE=6.1.0-first\nPAGESIZE=4096\n")


@pytest.mark.parametrize(
    ("command_line", "place"),
    [
        ("elfcorehdr=0x1e000000 console=ttyS0", 0x1E000000),
        ("console=ttyS0 elfcorehdr=480M", 480 << 20),
        ("quiet elfcorehdr=0x10000@0x1e000000 x", 0x1E000000),
        # Octal, and units of both cases, as the kernel reads them.
        ("elfcorehdr=0123456K", 0o123456 << 10),
        ("elfcorehdr=0x1e0m", 0x1E0 << 20),
    ],
)
def test_the_first_kernel(command_line: str, place: int) -> None:
    """Its release is in the note VMCOREINFO, behind those of its CPUs."""
    kernel = second(command_line, place, elf_note(b"CORE\0", 1, prstatus()), VMCOREINFO).kernel
    assert is_second_kernel(kernel)
    assert first_kernel_release(kernel) == "6.1.0-first"


@pytest.mark.parametrize(
    "kernel",
    [
        *map(started, ("quiet", "noelfcorehdr=0x1000", "elfcorehdr=")),
        # An address that no memory has; int() refuses five thousand digits.
        *map(started, ("elfcorehdr=" + "9" * 5000, "elfcorehdr=9E", f"elfcorehdr={1 << 64}")),
        HandmadeKernel(),
        HandmadeKernel(saved_command_line=0x100),
    ],
)
def test_a_kernel_that_was_not_started_by_kdump(kernel: HandmadeKernel) -> None:
    """Its command line has no elfcorehdr, or is not in the dump."""
    assert not is_second_kernel(kernel.kernel)
    assert first_kernel_release(kernel.kernel) is None


def test_a_first_kernel_that_cannot_be_told() -> None:
    """Without the note, or where the header is none, the second is still a second."""
    kernel = second("elfcorehdr=0x1000", 0x1000, elf_note(b"CORE\0", 1, prstatus()))
    assert is_second_kernel(kernel.kernel) and first_kernel_release(kernel.kernel) is None
    kernel = second("elfcorehdr=0x1000", 0x1000, VMCOREINFO)
    kernel.write(0x1000, b"none")
    assert first_kernel_release(kernel.kernel) is None
