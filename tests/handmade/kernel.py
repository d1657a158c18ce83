"""A kernel made by hand: symbols, types, and pieces of memory at any addresses."""

from typing import Any, Optional, cast

from tests.handmade.btf import BtfBuilder
from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.kernel import LinuxKernel


class FakeKernel:
    """What decoders ask of a kernel.

    Args:
        types: its types, or None for a kernel without.
        bits: of a pointer.
        symbols: name -> address.
    """

    def __init__(self, types: Optional[BtfBuilder] = None, bits: int = 64, **symbols: int) -> None:
        self.types = None if types is None else Btf(types.build())
        self.bits = bits
        self.symbols = dict(symbols)
        self.memory: dict[int, bytearray] = {}

    @property
    def btf(self) -> Btf:
        """Its types."""
        if self.types is None:
            raise BtfError("the kernel has no type information (BTF)")
        return self.types

    def put(self, address: int, data: bytes) -> None:
        """Makes a piece of memory, which none of the others may touch."""
        self.memory[address] = bytearray(data)

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self.symbols.get(symbol)

    def read(self, address: int, length: int) -> bytes:
        """Reads memory."""
        for start, data in self.memory.items():
            if start <= address and address + length <= start + len(data):
                return bytes(data[address - start :][:length])
        raise AddressError(address)

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, self.bits // 8), "little")

    @property
    def linux(self) -> LinuxKernel:
        """Itself, as what it stands for."""
        return cast(LinuxKernel, cast(Any, self))
