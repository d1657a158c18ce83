# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a kernel leaves behind for the second kernel that kdump starts when it panics.

Of each CPU that it has stopped, the registers: an ELF note NT_PRSTATUS in the per-CPU buffer that
crash_notes points to. The second kernel is told where a list of these notes is, an ELF header with
nothing but program headers, by elfcorehdr= on its command line (kernel/crash_core.c,
arch/x86/kernel/crash.c of Linux). One more note there is the first kernel's VMCOREINFO.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Optional

from volatility_guestdump import elf
from volatility_guestdump.exceptions import AddressError, ElfError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.system import command_line
from volatility_guestdump.text import printable

#: Bytes of a note NT_PRSTATUS of 64 bits, which is the first in the buffer.
_CRASH_NOTE = len(elf.pack_notes([elf.Note(elf.CORE, elf.NT_PRSTATUS, bytes(elf.PRSTATUS_64))]))

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
_MAXIMUM_HEADERS = 8192 + 16
_NOTE_LIMIT = 0x1000


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
        place = (kernel.pointer(variable) + offset) & ((1 << 64) - 1)
        data = kernel.read(place, _CRASH_NOTE)
    except AddressError:
        return None
    note = next(elf.notes(data), None)
    if note is None or (note.name, note.type) != (elf.CORE, elf.NT_PRSTATUS):
        return None
    status = elf.parse_prstatus(note.content)
    return None if status is None else status.registers


def is_second_kernel(kernel: LinuxKernel) -> bool:
    """Whether a kernel is one that kdump started, because another had panicked."""
    return _elfcorehdr(kernel) is not None


def first_kernel_release(kernel: LinuxKernel) -> Optional[str]:
    """Returns the release of the kernel that panicked, as the one that kdump started knows it."""
    place = _elfcorehdr(kernel)
    if place is None:
        return None
    for note in _notes(kernel, place):
        if note.name == elf.VMCOREINFO:
            match = re.search(rb"^OSRELEASE=([^\n]{1,64})$", note.content, re.MULTILINE)
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


def _notes(kernel: LinuxKernel, place: int) -> Iterator[elf.Note]:
    """Yields the first note of each run of notes that an ELF header lists."""
    read = kernel.tables.read_physical
    try:
        header = elf.parse_header(read(place, elf.MAXIMUM_HEADER))
        count, start = header.segment_count, header.segments
        if header.form.bits != 64 or start > _NOTE_LIMIT or count > _MAXIMUM_HEADERS:
            return
        data = read(place + start, count * header.form.segment.size)
    except (AddressError, ElfError):
        return
    for segment in elf.parse_segments(header.form, data):
        if segment.type != elf.PT_NOTE:
            continue
        try:
            run = read(segment.offset, min(segment.file_size, _NOTE_LIMIT))
        except AddressError:
            continue
        yield from itertools.islice(elf.notes(run), 1)
