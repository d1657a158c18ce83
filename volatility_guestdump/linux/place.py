# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Places in the kernel's code and data, as the kernel itself prints them."""

from typing import NamedTuple


class Place(NamedTuple):
    """A place in the kernel's code or data.

    Attributes:
        symbol: the nearest below; empty when there is none.
        offset: from the symbol; the address itself when there is none.
        module: that the place is in; empty for the kernel's image.
    """

    symbol: str
    offset: int
    module: str = ""

    def __str__(self) -> str:
        symbol = f"{self.symbol}+" if self.symbol else ""
        return f"{symbol}{self.offset:#x}" + (f" [{self.module}]" if self.module else "")
