# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A Linux kernel that is nothing but words in memory, symbols and the offsets of members."""

from collections.abc import Mapping
from typing import Any, Optional, cast

from tests.handmade.btf import SIGNED, BtfBuilder
from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.linux.types.btf_types import BtfTypes
from volatility_guestdump.linux.types.protocol import Types

#: Structure -> (its size, member -> (offset, size)). A member of size 0 is an array of 16 bytes;
#: an integer with a sign has its size below zero.
Layout = Mapping[str, tuple[int, Mapping[str, tuple[int, int]]]]


def types(layout: Layout, pointers: Optional[Mapping[str, str]] = None) -> Btf:
    """Returns the types of a kernel.

    Args:
        layout: its structures.
        pointers: names of members that are pointers, with the structures that they lead to; an
            empty name for a number.
    """
    builder = BtfBuilder()
    numbers = {size: builder.int_(f"u{8 * size}", size) for size in (1, 2, 4, 8)}
    numbers.update({-size: builder.int_(f"s{8 * size}", size, SIGNED) for size in (4, 8)})
    numbers[0] = builder.array(numbers[1], 16)
    known: dict[str, int] = {}
    for name, (size, members) in layout.items():
        fields = []
        for member, (offset, width) in members.items():
            number = numbers[width]
            if pointers is not None and member in pointers:
                number = builder.ptr(known.get(pointers[member], numbers[8]))
            fields.append((member, number, 8 * offset))
        known[name] = builder.struct(name, size, fields)
    return Btf(builder.build())


class HandmadeKernel:
    """A kernel with pieces of memory.

    Args:
        btf: its types, if it has any.
        symbols: its symbols.

    Attributes:
        bits: of a pointer.
        panic_cpu: number of the CPU that panicked; -1 when none did, None when nothing tells.
    """

    bits = 64
    panic_cpu: Optional[int] = -1

    def __init__(self, btf: Optional[Btf] = None, **symbols: int) -> None:
        self.types: Optional[Types] = None if btf is None else BtfTypes(btf)
        self.symbols = symbols
        self.bytes: dict[int, int] = {}
        self.tables = self

    @property
    def kernel(self) -> LinuxKernel:
        """It, for whoever wants a real one."""
        return cast(LinuxKernel, cast(Any, self))

    def write(self, address: int, data: bytes) -> None:
        """Writes bytes."""
        self.bytes.update(enumerate(data, address))

    def put(self, address: int, *words: int) -> None:
        """Writes words of the kernel's own size."""
        size = self.bits // 8
        self.write(address, b"".join(word.to_bytes(size, "little") for word in words))

    def resize(self, structure: str, size: int) -> None:
        """Has its types say that a structure has another size."""
        types: Any = self.require_types()
        sound = types.size
        types.size = lambda name: size if name == structure else sound(name)

    def require_types(self) -> Types:
        """Returns its types."""
        if self.types is None:
            raise BtfError("there are no types")
        return self.types

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self.symbols.get(symbol)

    def read(self, address: int, length: int) -> bytes:
        """Reads what was written."""
        try:
            return bytes(self.bytes[place] for place in range(address, address + length))
        except KeyError as error:
            raise AddressError(error.args[0]) from None

    #: Physical addresses are the virtual ones.
    read_physical = read

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, self.bits // 8), "little")
