# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A machine that stands still: guest-physical memory, and the registers of its vCPUs.

Sources make machines of files; kernels are found in machines. Nothing here knows a format, a file
or Volatility.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional, Protocol

from volatility_guestdump.exceptions import AddressError

#: Size of a page frame. Larger pages are made of these.
PAGE_SIZE = 0x1000

#: Reads (address, length) from a space of addresses, or raises AddressError.
Read = Callable[[int, int], bytes]

#: The general registers and control registers that are worth showing, in the order in which a
#: reader looks for them. Every vCPU has them; a file may lack any of them.
REGISTERS: tuple[str, ...] = (
    *("rip", "rflags", "rsp", "rbp", "rax", "rbx", "rcx", "rdx", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base"),
    *("cr0", "cr2", "cr3", "cr4", "idt_base"),
)

#: The registers that say whether addresses are translated, how, and by which page tables.
PAGING_REGISTERS: tuple[str, ...] = ("cr0", "cr3", "cr4")

#: Registers that only some sources have.
OPTIONAL_REGISTERS: tuple[str, ...] = ("kernel_gs_base", "efer")


@dataclass(frozen=True)
class MemoryRange:
    """A run of guest-physical memory.

    Attributes:
        start: guest-physical address of the first byte.
        size: in bytes.
        file_offset: where the run starts in the file that holds it.
    """

    start: int
    size: int
    file_offset: int

    @property
    def end(self) -> int:
        """The first guest-physical address behind the run."""
        return self.start + self.size


@dataclass(frozen=True)
class VCPU:
    """The state of one vCPU, as far as its file has it.

    Attributes:
        number: counts from 0.
        registers: name of the register -> value, of `REGISTERS` and `OPTIONAL_REGISTERS`. Any may
            be missing.
    """

    number: int
    registers: Mapping[str, int]

    def get(self, register: str) -> Optional[int]:
        """Returns the value of a register, or None where the source does not have it."""
        return self.registers.get(register)

    def lacks(self, *registers: str) -> tuple[str, ...]:
        """Returns which of some registers the source does not have."""
        return tuple(name for name in registers if name not in self.registers)

    @property
    def has_paging_registers(self) -> bool:
        """Whether the registers that paging depends on are all there."""
        return not self.lacks(*PAGING_REGISTERS)

    @property
    def ring(self) -> Optional[int]:
        """The privilege level, 0 for the kernel and 3 for programs, or None without CS."""
        cs = self.get("cs")
        return None if cs is None else cs & 3


class Memory(Protocol):
    """Guest-physical memory."""

    @property
    def ranges(self) -> Sequence[MemoryRange]:
        """The runs of memory that can be read, ascending."""

    def read(self, address: int, length: int) -> bytes:
        """Returns `length` bytes of guest-physical memory; none for a negative length.

        Raises:
            AddressError: a byte of it is not there, or cannot be read from its medium. It is a
                `LeftOutError` where whoever wrote the file left the page out on purpose.
        """

    def covers(self, address: int, length: int) -> bool:
        """Whether all of a piece of memory, of one byte at least, is there."""

    def stored(self) -> Iterator[MemoryRange]:
        """Yields the runs of memory outside of which all bytes are known to be zero, ascending."""


@dataclass(frozen=True)
class Origin:
    """Where a machine comes from.

    Attributes:
        format: what describes it, in words: "6 (ESXi 8.0 U2)".
        location: URL of the file that describes it.
        ranges: the runs of memory that the guest has, whether the memory file covers them or not.
        memory_location: URL of the file that holds its memory, or None when there is none.
        memory_file_size: bytes of memory in that file.
        expected_memory: URLs at which the memory file was looked for, the likeliest first.
        damage: what of the file cannot be understood, so that memory may be missing; else empty.
        layout: what tells where memory lies and how, where its files do not; else empty.
    """

    format: str
    location: str
    ranges: Sequence[MemoryRange]
    memory_location: Optional[str]
    memory_file_size: int
    expected_memory: Sequence[str] = ()
    damage: str = ""
    layout: str = ""

    @property
    def memory_size(self) -> int:
        """Bytes of memory that the guest has, without the holes."""
        return sum(run.size for run in self.ranges)

    @property
    def missing_memory(self) -> int:
        """Bytes of memory that the memory file lacks; negative when it has too many."""
        return self.memory_size - self.memory_file_size


@dataclass(frozen=True)
class Machine:
    """A machine that stands still.

    Attributes:
        memory: guest-physical memory.
        vcpus: in the order of the source; empty where it has no registers.
        identity: tells this machine from every other, also from one that takes its place later.
        origin: where it comes from.
        vmcoreinfo: what the guest's kernel tells to tools that read its dumps (VMCOREINFO), where
            the file has it beside memory; else empty. Lines "name=value".
    """

    memory: Memory
    vcpus: Sequence[VCPU]
    identity: Hashable
    origin: Origin
    vmcoreinfo: bytes = b""

    @property
    def first_missing_address(self) -> Optional[int]:
        """The first guest-physical address that the memory file lacks, or None."""
        available = {run.start: run.end for run in self.memory.ranges}
        for run in self.origin.ranges:
            end = available.get(run.start, run.start)
            if end < run.end:
                return end
        return None

    def __deepcopy__(self, memo: dict[int, Any]) -> "Machine":
        # It never changes, and Volatility copies its contexts with all layers.
        return self


def read_padded(read: Read, address: int, length: int) -> tuple[bytes, Optional[AddressError]]:
    """Reads memory with zeros for the pages that cannot be read: one bad page costs that page.

    Args:
        read: reads the space of addresses.
        address: of the first byte.
        length: in bytes.

    Returns:
        The bytes, and the first error, or None when there was none.
    """
    try:
        return read(address, length), None
    except AddressError as error:
        first = error
    parts = []
    end = address + length
    while address < end:
        size = min(PAGE_SIZE - address % PAGE_SIZE, end - address)
        try:
            parts.append(read(address, size))
        except AddressError:
            parts.append(bytes(size))
        address += size
    return b"".join(parts), first
