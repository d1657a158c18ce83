# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The symbols of a Windows kernel, as far as Volatility has them: its PDB as an ISF file."""

import bisect
import functools
from typing import Any, Optional

from volatility3.framework import constants, exceptions, interfaces
from volatility3.framework.symbols.windows import pdbutil

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.text import printable
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.pe import Pdb

#: The class of the symbol tables that Volatility's plugins for Windows expect.
_TABLE_CLASS = "volatility3.framework.symbols.windows.WindowsKernelIntermedSymbols"


def load(context: interfaces.context.ContextInterface, pdb: Pdb, config_path: str) -> Optional[str]:
    """Loads the symbols of a PDB into a context, by Volatility's rules for cache and download.

    Returns:
        The name of the symbol table, or None when there are none.
    """
    name = pdbutil.PDBUtility.load_windows_symbol_table(
        context, pdb.guid, pdb.age, pdb.name, _TABLE_CLASS, config_path=config_path
    )
    return None if name is None else str(name)


class WindowsSymbols:
    """Names of places in a kernel, and what it says when it stops.

    Args:
        kernel: the kernel.
        context: that its symbols are loaded in.
        table_name: of the symbols.
    """

    def __init__(
        self,
        kernel: WindowsKernel,
        context: interfaces.context.ContextInterface,
        table_name: str,
    ) -> None:
        self._kernel = kernel
        self._context = context
        self._table = context.symbol_space[table_name]

    @functools.cached_property
    def _by_offset(self) -> tuple[list[int], list[str]]:
        """(offsets from the image's start, ascending; the symbol at each)."""
        found = sorted((self._table.get_symbol(name).address, name) for name in self._table.symbols)
        return [offset for offset, _ in found], [name for _, name in found]

    def symbolize(self, address: int) -> Optional[str]:
        """Returns "symbol+0xoffset" for an address in the kernel's image, else None."""
        image = self._kernel.image
        offset = address - image.base
        if not 0 <= offset < image.size:
            return None
        offsets, names = self._by_offset
        last = bisect.bisect_right(offsets, offset) - 1
        if last < 0:
            return self._kernel.symbolize(address)
        first = bisect.bisect_left(offsets, offsets[last])
        return f"{printable(names[first].encode())}+{offset - offsets[first]:#x}"

    def bug_check(self) -> Optional[str]:
        """Returns code, name and parameters of the bug check, or None when there was none."""
        try:
            place = self._kernel.image.base + self._table.get_symbol("KiBugCheckData").address
            size = self._kernel.bits // 8
            data = self._kernel.tables.read(place, 5 * size)
        except (AddressError, exceptions.SymbolError):
            return None
        code, *parameters = (
            int.from_bytes(data[at : at + size], "little") for at in range(0, 5 * size, size)
        )
        if not code:
            return None
        words = [f"{code:#x}", self._bug_check_name(code)]
        shown = ", ".join(f"{parameter:#x}" for parameter in parameters)
        return " ".join(filter(None, words)) + f" ({shown})"

    def _bug_check_name(self, code: int) -> Optional[str]:
        """Returns what an enum of the symbols calls a code."""
        for enum in self._table.enumerations:
            plain = enum.upper().replace("_", "")
            # KBUGCHECK_CALLBACK_REASON and the like number other things.
            if "BUGCHECK" in plain and not plain.startswith("KBUGCHECK"):
                template: Any = self._context.symbol_space.get_enumeration(
                    self._table.name + constants.BANG + enum
                )
                choices: dict[str, int] = template.vol.choices
                for name, value in choices.items():
                    if value == code:
                        return printable(name.encode())
        return None
