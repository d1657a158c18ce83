# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What can go wrong with a guest's memory image: one class for each kind, all below one base."""

from typing import Optional


class GuestDumpError(Exception):
    """Base of every error that the decoders of this package raise."""


class SourceError(GuestDumpError):
    """A file that describes a machine, and is damaged or of a kind that cannot be read."""


class UnrecognizedSource(SourceError):
    """The file shows no sign of being of the format."""


class ElfError(GuestDumpError):
    """Bytes that are no ELF header, or one of another kind of computer."""


class MemoryFileError(GuestDumpError):
    """The file with a guest's memory is missing, or cannot be opened."""


class MissingMemoryFile(MemoryFileError):
    """There is no memory file where one is expected."""


class AddressError(GuestDumpError):
    """An address that cannot be read.

    Whatever reads memory raises this and nothing else, so whoever decodes memory survives every
    failure with one `except`.

    Attributes:
        address: the first address that cannot be read, in the space that was asked.
    """

    def __init__(self, address: int, message: Optional[str] = None) -> None:
        super().__init__(message or f"{address:#x} is not backed by memory")
        self.address = address


class MediumError(AddressError):
    """The image has the address, but the medium that it lies on cannot be read there."""


class LeftOutError(AddressError):
    """The guest has the address, but whoever wrote the image left its page out on purpose."""


class KernelError(GuestDumpError):
    """The guest's kernel does not describe itself in a way that can be read."""


class KallsymsError(KernelError):
    """The kernel's symbol table (kallsyms) is missing or damaged."""


class TypesError(KernelError):
    """The kernel's types are missing or damaged, or do not tell what is asked of them."""


class BtfError(TypesError):
    """The kernel's type information (BTF) is missing or damaged."""


class LostTypeError(BtfError):
    """Thrown when a type lies on a page of the kernel's BTF that is missing."""


class OrcError(KernelError):
    """The kernel's unwinding tables (ORC) are missing or damaged."""
