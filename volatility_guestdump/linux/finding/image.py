# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A Linux kernel as those see it that read one kind of its structures: memory and symbols.

`LinuxKernel` makes readers of its modules, generated code and boot header, and gives itself to
them; for these protocols they need not import it.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump.x86.paging import PageTables


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
    def tables(self) -> PageTables:
        """Page tables that map the kernel."""

    @property
    def runs(self) -> Sequence[Run]:
        """The mapped pieces of its image, ascending."""

    @property
    def virtual_base(self) -> int:
        """Virtual address of the image's start."""
