# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""kallsyms in the terms of Volatility's Intermediate Symbol Format (ISF)."""

import base64
import functools
import logging
from collections.abc import Iterator, Mapping
from typing import Optional

from volatility_guestdump import resources
from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.linux.isf.types import VOID, Isf, TypeConverter, usable
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.symbols.kallsyms import Kallsyms

vollog = logging.getLogger(__name__)

#: Symbols that Volatility 2.28 looks for -> what the kernel calls the same place today.
_SUCCESSORS = {
    # The first of several timekeepers since 6.17.
    "tk_core": "timekeeper_data",
}

#: The largest table of the kernel, __per_cpu_offset, has 64 KiB.
_MAXIMUM_TABLE = 1 << 20


def _globals() -> dict[str, list[Isf]]:
    """Returns the types that globals of the kernel may have, for those that plugins read."""
    types: dict[str, list[Isf]] = resources.read_json("linux-globals.json")
    return types


class _Numbers(Mapping[str, int]):
    """Name -> number in kallsyms, of the names that can be used; -1 for kallsyms' own tables.

    Args:
        kallsyms: with the names.
    """

    def __init__(self, kallsyms: Kallsyms) -> None:
        self._index = kallsyms.index
        self._tables = kallsyms.tables

    def __getitem__(self, name: str) -> int:
        number = self._index.get(name) if usable(name) else None
        if number is not None:
            return number
        if name in self._tables:
            return -1
        # KeyError for what has no successor.
        return self[_SUCCESSORS[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._whole)

    def __len__(self) -> int:
        return len(self._whole)

    @functools.cached_property
    def _whole(self) -> dict[str, int]:
        whole = {**dict.fromkeys(self._tables, -1), **dict(self._index.items())}
        # Looked at together in a twentieth of the time; of a sound kernel all names are usable.
        if "" in whole or not usable("".join(whole)):
            whole = {name: number for name, number in whole.items() if usable(name)}
        for name, successor in _SUCCESSORS.items():
            if name not in whole and successor in whole:
                whole[name] = whole[successor]
        return whole


class SymbolConverter:
    """kallsyms in the terms of ISF.

    Args:
        kernel: whose kallsyms is known.
        types: the kernel's types.

    Attributes:
        symbols: name -> number in kallsyms; -1 for those of kallsyms' own tables.
    """

    def __init__(self, kernel: LinuxKernel, kallsyms: Kallsyms, types: TypeConverter) -> None:
        self._kernel = kernel
        self._kallsyms = kallsyms
        self._types = types
        self.symbols: Mapping[str, int] = _Numbers(kallsyms)

    def symbol(self, name: str, number: int) -> Isf:
        """Returns a symbol as ISF has it, at the address that it was linked to."""
        address, relocated = self._place(name, number)
        try:
            described = self._type(name, address, relocated)
        except BtfError as error:
            vollog.debug(f"The type of {name} cannot be decoded: {error}")
            described = VOID
        found: Isf = {"address": self._linked(address, relocated), "type": described}
        if name == "linux_banner":
            banner = self._kernel.banner + b"\n\0"
            found["constant_data"] = base64.b64encode(banner).decode("ascii")
        return found

    def _place(self, name: str, number: int) -> tuple[int, bool]:
        """Returns the address of a symbol, and whether KASLR moved it."""
        if number < 0:
            return self._kallsyms.tables[name], True
        _, _, address, relocated = self._kallsyms[number]
        return address, relocated

    def _linked(self, address: int, relocated: bool) -> int:
        return address - self._kernel.symbol_shift if relocated else address

    def by_location(self, mask: int) -> list[tuple[int, str]]:
        """Returns (linked address, name) of all symbols, ascending; see `IsfView`."""
        mask = mask or -1
        places = [
            (symbol.name, symbol.address, symbol.relocated)
            for symbol in self._kallsyms
            if usable(symbol.name)
        ]
        places += self._not_in_kallsyms()
        return sorted(
            {(self._linked(address, relocated) & mask, name) for name, address, relocated in places}
        )

    def between(self, first: int, last: int, mask: int) -> Optional[list[tuple[int, str]]]:
        """Returns what `by_location` has from one address to another, both included.

        None where only looking at all symbols would tell.
        """
        shift = self._kernel.symbol_shift
        # What the mask takes away, and what it can have been: all zeros, or all ones.
        upper = ((1 << self._kernel.bits) - 1) & ~mask if mask else 0
        if upper:
            above = self._kallsyms.next_address(mask)
            if shift < 0 or (above is not None and above - shift < upper):
                return None
        mask = mask or -1
        found = {
            (self._linked(symbol.address, symbol.relocated) & mask, symbol.name)
            for base in {0, upper, shift, upper + shift}
            for symbol in self._kallsyms.between(first + base, last + base)
            if usable(symbol.name)
        }
        found.update(
            (self._linked(address, relocated) & mask, name)
            for name, address, relocated in self._not_in_kallsyms()
        )
        return sorted((place, name) for place, name in found if first <= place <= last)

    def _not_in_kallsyms(self) -> Iterator[tuple[str, int, bool]]:
        """Yields name, address, and whether KASLR moved it, of further symbols."""
        for name in (*self._kallsyms.tables, *_SUCCESSORS):
            if name in self.symbols and name not in self._kallsyms.index:
                yield (name, *self._place(name, self.symbols[name]))

    def _type(self, name: str, address: int, relocated: bool) -> Isf:
        for candidate in _globals().get(name, ()):
            found = self._candidate(candidate, address)
            if found is not None:
                return found
        # Up to 6.14 the addresses of per-CPU variables start from 0 on x86-64.
        start = self._percpu_start if relocated else 0
        return self._types.percpu_variable(name, address - start) or VOID

    @functools.cached_property
    def _percpu_start(self) -> int:
        return self._kallsyms.address("__per_cpu_start") or 0

    def _candidate(self, candidate: Isf, address: int) -> Optional[Isf]:
        """Returns a type of symbols/linux-globals.json when this kernel has it."""
        if "members" in candidate:
            return self._types.anonymous_with(candidate["members"])
        if candidate["kind"] == "array" and candidate["count"] is None:
            # As many as fit before the next symbol.
            size = self._types.size(candidate["subtype"])
            end = self._kallsyms.next_address(address)
            room = min(end - address, _MAXIMUM_TABLE) if end else 0
            return {**candidate, "count": room // size if size else 0}
        if candidate["kind"] in ("struct", "union") and not self._types.size(candidate):
            return None
        return candidate
