# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a kernel leaves behind for the second kernel that kdump starts when it panics.

Of each CPU that it has stopped, the registers: an ELF note NT_PRSTATUS in the per-CPU buffer that
crash_notes points to. The second kernel is told where a list of these notes is, an ELF header with
nothing but program headers, by elfcorehdr= on its command line (kernel/crash_core.c,
arch/x86/kernel/crash.c of Linux). One more note there is the first kernel's VMCOREINFO.
"""

import re
import struct
from collections.abc import Iterator, Mapping
from typing import Optional

from volatility_guestdump.exceptions import AddressError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.system import command_line
from volatility_guestdump.text import printable

_NOTE = struct.Struct("<III")
_NT_PRSTATUS = 1
_CORE = b"CORE\0\0\0\0"
#: Where struct elf_prstatus has the registers, a struct user_regs_struct.
_PR_REG = 112
_REGISTERS = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base"),
    *("ds", "es", "fs", "gs"),
)

#: A number as the kernel's memparse takes it (lib/cmdline.c): in base 16, 8 or 10, with a unit.
_ELFCOREHDR = re.compile(
    r"(?:^|\s)elfcorehdr=(?:[0-9a-zA-Z]+@)?"
    r"(?:0[xX](?P<hexadecimal>[0-9a-fA-F]+)|(?P<octal>0[0-7]*)|(?P<decimal>[1-9][0-9]*))"
    r"(?P<unit>[kKmMgGtTpPeE]?)"
)
_BASES = {"hexadecimal": 16, "octal": 8, "decimal": 10}
_UNITS = " KMGTPE"
#: A number of 64 bits has no more digits, in base 8 with its leading zero.
_MAXIMUM_DIGITS = 23
#: Of a physical address.
_ADDRESS_BITS = 52
_EHDR_MAGIC = b"\x7fELF\x02\x01"
_EHDR_SIZE = 64
_PHDR = struct.Struct("<IIQQQQQQ")
_PT_NOTE = 4
_MAXIMUM_HEADERS = 8192 + 16
_NOTE_LIMIT = 0x1000
_VMCOREINFO = b"VMCOREINFO\0"


def registers_at_crash(kernel: LinuxKernel, offset: int) -> Optional[Mapping[str, int]]:
    """Returns the registers that a CPU had when it was stopped for a second kernel, or None.

    Args:
        kernel: that panicked.
        offset: of the CPU's instances of per-CPU variables.
    """
    variable = kernel.address("crash_notes")
    if variable is None or kernel.bits != 64:
        return None
    try:
        note = (kernel.pointer(variable) + offset) & ((1 << 64) - 1)
        header = kernel.read(note, _NOTE.size + len(_CORE))
        name_size, size, kind = _NOTE.unpack_from(header)
        words = struct.Struct(f"<{len(_REGISTERS)}Q")
        if (name_size, kind) != (len("CORE") + 1, _NT_PRSTATUS) or size < _PR_REG + words.size:
            return None
        if header[_NOTE.size :] != _CORE:
            return None
        values = words.unpack(kernel.read(note + len(header) + _PR_REG, words.size))
    except AddressError:
        return None
    return dict(zip(_REGISTERS, values))


def is_second_kernel(kernel: LinuxKernel) -> bool:
    """Whether a kernel is one that kdump started, because another had panicked."""
    return _elfcorehdr(kernel) is not None


def first_kernel_release(kernel: LinuxKernel) -> Optional[str]:
    """Returns the release of the kernel that panicked, as the one that kdump started knows it."""
    place = _elfcorehdr(kernel)
    if place is None:
        return None
    for name, contents in _notes(kernel, place):
        if name == _VMCOREINFO:
            match = re.search(rb"^OSRELEASE=([^\n]{1,64})$", contents, re.MULTILINE)
            return None if match is None else printable(match[1])
    return None


def _elfcorehdr(kernel: LinuxKernel) -> Optional[int]:
    """Returns the guest-physical address that elfcorehdr= names, or None."""
    try:
        match = _ELFCOREHDR.search(command_line(kernel) or "")
    except (AddressError, KernelError):
        return None
    return None if match is None else _physical_address(match)


def _physical_address(match: "re.Match[str]") -> Optional[int]:
    """Returns the address that elfcorehdr= names, or None when no memory can be there."""
    ((kind, digits),) = ((kind, match[kind]) for kind in _BASES if match[kind] is not None)
    if len(digits) > _MAXIMUM_DIGITS:
        return None
    address = int(digits, _BASES[kind]) << 10 * _UNITS.index(match["unit"].upper() or " ")
    return address if address >> _ADDRESS_BITS == 0 else None


def _notes(kernel: LinuxKernel, place: int) -> Iterator[tuple[bytes, bytes]]:
    """Yields (name, contents) of the first note of each run of notes that an ELF header lists."""
    read = kernel.tables.read_physical
    try:
        header = read(place, _EHDR_SIZE)
        (start,) = struct.unpack_from("<Q", header, 32)
        (count,) = struct.unpack_from("<H", header, 56)
        if not header.startswith(_EHDR_MAGIC) or start > _NOTE_LIMIT or count > _MAXIMUM_HEADERS:
            return
        headers = read(place + start, count * _PHDR.size)
    except AddressError:
        return
    for kind, _, offset, _, _, size, _, _ in _PHDR.iter_unpack(headers):
        if kind != _PT_NOTE or size < _NOTE.size:
            continue
        try:
            data = read(offset, min(size, _NOTE_LIMIT))
        except AddressError:
            continue
        name_size, contents_size, _ = _NOTE.unpack_from(data)
        contents = _NOTE.size + -(-name_size // 4) * 4
        yield data[_NOTE.size :][:name_size], data[contents : contents + contents_size]
