# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A Linux kernel as those see it that read one kind of its structures: memory and symbols.

`LinuxKernel` makes readers of its modules, generated code and boot header, and gives itself to
them; for these protocols they need not import it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump.linux.symbols.kallsyms import Kallsyms
from volatility_guestdump.machine import read_padded
from volatility_guestdump.x86.paging import PageTables

#: What is said of a kernel without CONFIG_KALLSYMS_ALL.
CODE_ALONE = "symbol table has code alone (CONFIG_KALLSYMS_ALL is not set)"

#: More than a kernel's image has.
_IMAGE_LIMIT = 128 << 20


class Run(NamedTuple):
    """A piece of the image that is mapped without a gap.

    Attributes:
        start: virtual address.
        physical: guest-physical address of the same byte.
        size: in bytes.
    """

    start: int
    physical: int
    size: int


class KernelMemory(Protocol):
    """A kernel's virtual memory, and what lies where in it."""

    @property
    def bits(self) -> int:
        """Bits of a pointer."""

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol in the running kernel, or None."""

    def read(self, address: int, length: int) -> bytes:
        """Reads virtual memory.

        Raises:
            AddressError: not all of it is mapped.
        """

    def pointer(self, address: int) -> int:
        """Reads a pointer."""


class KernelImage(KernelMemory, Protocol):
    """A kernel's memory, and where its image lies in the guest's."""

    @property
    def kallsyms(self) -> Optional[Kallsyms]:
        """Its symbols, or None when they cannot be read."""

    @property
    def has_code_alone(self) -> bool:
        """Whether its symbols are those of code alone: CONFIG_KALLSYMS_ALL is not set then."""

    @property
    def lacks_symbols(self) -> bool:
        """Whether the kernel may have symbols that its symbol table does not tell."""

    @property
    def tables(self) -> PageTables:
        """Page tables that map the kernel."""

    @property
    def runs(self) -> Sequence[Run]:
        """The mapped pieces of its image, ascending."""

    @property
    def virtual_base(self) -> int:
        """Virtual address of the image's start."""


def read_run(kernel: KernelImage, run: Run) -> bytes:
    """Reads a piece of a kernel's image, zeros for the pages of it that cannot be read."""
    size = min(run.size, _IMAGE_LIMIT)
    return read_padded(kernel.tables.read_physical, run.physical, size)[0]
