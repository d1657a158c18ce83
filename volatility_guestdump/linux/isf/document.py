# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""kallsyms and BTF of the dump in Volatility's Intermediate Symbol Format (ISF).

`IsfView` converts a type or a symbol when it is asked for. Volatility's symbol table is made of
it; guestdump.Isf writes all of it to a file.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional

from volatility_guestdump.exceptions import BtfError, KernelError
from volatility_guestdump.linux.finding.image import CODE_ALONE
from volatility_guestdump.linux.isf.symbols import SymbolConverter
from volatility_guestdump.linux.isf.types import Isf, TypeConverter
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.version import __version__

vollog = logging.getLogger(__name__)

#: The version of the schema that what follows conforms to.
ISF_FORMAT = "6.2.0"

#: Whose conventions the conversion follows. linux.hidden_modules of Volatility 2.28 refuses
#: symbols of any other producer; who really made them stands beside the symbols.
_PRODUCER = {"name": "dwarf2json", "version": "0.9.0"}

#: Those of all structures and enums of Debian's kernels are about 100,000.
_MAXIMUM_MEMBERS_WRITTEN = 1 << 19


class LazyMapping(Mapping[str, Isf]):
    """A mapping whose values are made when they are asked for.

    Args:
        keys: every key -> what `make` needs to make its value.
        make: makes a value; a `KernelError` from it counts as a missing key.
    """

    def __init__(self, keys: Mapping[str, int], make: Callable[[str, int], Isf]) -> None:
        self._sources = keys
        self._make = make
        self._made: dict[str, Isf] = {}

    def __getitem__(self, key: str) -> Isf:
        value = self._made.get(key)
        if value is None:
            try:
                value = self._make(key, self._sources[key])
            except KernelError as error:
                vollog.debug(f"{key} cannot be decoded: {error}")
                raise KeyError(key) from error
            self._made[key] = value
        return value

    def expanded(self) -> dict[str, Isf]:
        """Returns every value that can be made."""
        found = {}
        for key in self:
            with contextlib.suppress(KeyError):
                found[key] = self[key]
        return found

    def __deepcopy__(self, memo: dict[int, Any]) -> "LazyMapping":
        # What it makes never changes, and Volatility copies its contexts with all tables.
        return self

    def __contains__(self, key: object) -> bool:
        return key in self._sources

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


class IsfView:
    """What an ISF file of the kernel would hold, converted piece by piece.

    Args:
        kernel: the kernel of a dump.

    Attributes:
        types: its types.
        document: the ISF document; its larger sections convert their items when asked for.

    Raises:
        KernelError: the kernel has no kallsyms or no BTF.
    """

    def __init__(self, kernel: LinuxKernel) -> None:
        if kernel.kallsyms is None:
            raise KernelError(kernel.kallsyms_error)
        types = self.types = TypeConverter(kernel.btf, kernel.bits // 8)
        if kernel.has_code_alone:
            raise KernelError(f"the kernel's {CODE_ALONE}")
        symbols = self._symbols = SymbolConverter(kernel, kernel.kallsyms, types)
        origin = f"guest dump, volatility_guestdump {__version__}"
        self.document: dict[str, Any] = {
            "metadata": {
                "format": ISF_FORMAT,
                "producer": _PRODUCER,
                "linux": {"symbols": [{"kind": "symtab", "name": f"kallsyms ({origin})"}]},
            },
            "base_types": types.base_types,
            "user_types": LazyMapping(types.user_types, types.user_type),
            "enums": LazyMapping(types.enums, types.enum),
            "symbols": LazyMapping(symbols.symbols, symbols.symbol),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> "IsfView":
        return self

    def symbols_by_location(self, mask: int) -> list[tuple[int, str]]:
        """Returns (linked address, name) of all symbols, ascending.

        Unlike the section of symbols this has every one of several symbols with one name.

        Args:
            mask: for the addresses; 0 for none.
        """
        return self._symbols.by_location(mask)

    def symbols_between(self, first: int, last: int, mask: int) -> Optional[list[tuple[int, str]]]:
        """Returns those of `symbols_by_location` in a range of linked addresses.

        None where only looking at all of them would tell.

        Args:
            first: the lowest address.
            last: the highest.
            mask: for the addresses; 0 for none.
        """
        return self._symbols.between(first, last, mask)

    def expanded(self) -> dict[str, Any]:
        """Returns all of it as plain dictionaries; what is damaged is left out.

        Raises:
            BtfError: there are more members than any kernel has.
        """
        if self.types.members_in_all() > _MAXIMUM_MEMBERS_WRITTEN:
            raise BtfError("the structures of BTF have too many members")
        return {
            name: section.expanded() if isinstance(section, LazyMapping) else section
            for name, section in self.document.items()
        }
