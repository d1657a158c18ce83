"""What can go wrong with a guest dump: one class for each kind, all below one base."""

from typing import Optional


class GuestDumpError(Exception):
    """Base of every error that the decoders of this package raise."""


class GuestFileError(GuestDumpError):
    """A debug.guest file that is damaged, or of a kind that cannot be read."""


class NotAGuestFile(GuestFileError):
    """The file shows no sign of being a debug.guest file."""


class MemoryFileError(GuestDumpError):
    """The memory file (debug.vmem) is missing, unreadable or of the wrong size."""


class MissingMemoryFile(MemoryFileError):
    """There is no memory file where one is expected."""


class AddressError(GuestDumpError):
    """An address that is not backed by memory.

    Attributes:
        address: the first address that cannot be read, in the space that was asked.
    """

    def __init__(self, address: int, message: Optional[str] = None) -> None:
        super().__init__(message or f"{address:#x} is not backed by memory")
        self.address = address


class KernelError(GuestDumpError):
    """The guest's kernel does not describe itself in a way that can be read."""


class KallsymsError(KernelError):
    """The kernel's symbol table (kallsyms) is missing or damaged."""


class BtfError(KernelError):
    """The kernel's type information (BTF) is missing or damaged."""


class OrcError(KernelError):
    """The kernel's unwinding tables (ORC) are missing or damaged."""
