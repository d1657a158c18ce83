# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernel modules: what code they have, what their functions are called, and how to unwind them.

Where a module's memory is: core_layout and init_layout up to 6.3, an array mem[] from 6.4 on
(ac3b43283923). Its symbols are an ELF symbol table that it keeps (kallsyms), its unwinding tables
are in arch.
"""

import bisect
import functools
import operator
from array import array
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump import elf
from volatility_guestdump.exceptions import AddressError, KernelError, TypesError
from volatility_guestdump.linux.finding.image import KernelMemory
from volatility_guestdump.linux.pieces import Pieces
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.stacks.orc import ENTRY_SIZE, IP_SIZE, OrcTable, table_with_holes
from volatility_guestdump.linux.types.lists import ring
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Struct, Structures
from volatility_guestdump.machine import read_padded
from volatility_guestdump.text import printable

#: More than any machine loads; a damaged list must end.
_MAXIMUM_MODULES = 4096
_NAME_SIZE = 56
#: The region of modules has 1.5 GiB, and none has nearly as much code.
_MAXIMUM_MODULE = 256 << 20
_MAXIMUM_SYMBOLS = 1 << 18
_MAXIMUM_ORC_ENTRIES = 1 << 20
#: Symbols of the assembler's own before one of the source.
_MAXIMUM_SKIPPED = 256
_MASK = (1 << 64) - 1
#: Of so many modules the symbols and tables are kept; a stack goes through few.
_MODULES_KEPT = 16
#: Kinds of memory that a module has (enum mod_mem_type has 7).
_MAXIMUM_RANGES = 64
_SYMBOL_NAME_LIMIT = 512

_SHN_UNDEF = 0


class Module(NamedTuple):
    """A loaded module.

    Attributes:
        name: without control characters.
        address: of its struct module.
        ranges: (start, size) of its memory that may have code.
    """

    name: str
    address: int
    ranges: tuple[tuple[int, int], ...]

    @property
    def size(self) -> int:
        """Bytes of its memory, as lsmod(8) shows them."""
        return sum(size for _, size in self.ranges)


class KernelWithOrc(KernelMemory, Protocol):
    """A kernel's memory, and how it is unwound."""

    @property
    def orc(self) -> OrcTable:
        """The kernel's own unwinding tables.

        Raises:
            OrcError: the kernel has none, or they are damaged.
        """


class Modules:
    """The modules of a kernel.

    Args:
        kernel: that has them loaded.
        types: its types.

    Attributes:
        broken: why modules may be missing; empty when none is.
    """

    def __init__(self, kernel: KernelWithOrc, types: Types) -> None:
        self.broken = ""
        self._kernel = kernel
        self._types = types
        self._kind = Structures(kernel, types, "module")
        self._modules = list(self._walk())
        self._by_address = Pieces(
            (start, start + size, module)
            for module in self._modules
            for start, size in module.ranges
        )
        kept = functools.lru_cache(maxsize=_MODULES_KEPT)
        self._symbols = kept(self._read_symbols)
        self._orc_table = kept(self._read_orc)

    def _walk(self) -> Iterator[Module]:
        head = self._kernel.address("modules")
        if head is None:
            # A kernel that can load none has no such list, in its types neither.
            if self._kind.find("list") is not None:
                self.broken = "no symbol tells where the list of them is"
            return
        unreadable = 0
        nodes = ring(
            *(self._kernel, head),
            limit=_MAXIMUM_MODULES,
            what="modules",
            back=self._kernel.bits // 8,
        )
        try:
            for node in nodes:
                module = self._module(self._kind.containing("list", node))
                if module is not None:
                    yield module
                else:
                    unreadable += 1
        except KernelError as error:
            self.broken = str(error)
            return
        self.broken = nodes.broken
        if unreadable and not self.broken:
            self.broken = f"{unreadable} of them cannot be read"

    def _module(self, module: Struct) -> Optional[Module]:
        try:
            name = module.text("name", _NAME_SIZE)
            return Module(name, module.address, tuple(self._ranges(module)))
        except AddressError:
            return None

    def _ranges(self, module: Struct) -> Iterator[tuple[int, int]]:
        if self._types.has("module_memory"):
            kind = self._structures("module_memory")
            places: Iterable[Struct] = module.elements("mem", kind, _MAXIMUM_RANGES)
        else:
            kind = self._structures("module_layout")
            places = [kind.at(module.place(layout)) for layout in ("core_layout", "init_layout")]
        for place in places:
            start, size = place.integer("base"), place.integer("size")
            if start and 0 < size <= _MAXIMUM_MODULE:
                yield start, size

    def _structures(self, name: str) -> Structures:
        return Structures(self._kernel, self._types, name)

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules)

    def taint(self, module: Module) -> Optional[int]:
        """Returns what a module taints the kernel with, as bits; None when that is not known."""
        try:
            return self._kind.at(module.address).get("taints")
        except AddressError:
            return None

    def at(self, address: int) -> Optional[Module]:
        """Returns the module that an address lies in, or None."""
        return self._by_address.at(address)

    def locate(self, address: int) -> Optional[Place]:
        """Returns where an address in a module is, else None."""
        module = self.at(address)
        if module is None:
            return None
        values, names = self._symbols(module)
        last = bisect.bisect_right(values, address)
        for number in reversed(range(max(0, last - _MAXIMUM_SKIPPED), last)):
            name = self._string(names[number])
            # As the kernel does, which skips the assembler's own.
            if name and not name.startswith((".L", "__ksym", "$")):
                return Place(name, address - values[number], module.name)
        return Place("", address, module.name)

    def _read_symbols(self, module: Module) -> tuple["array[int]", "array[int]"]:
        """Returns the values of the symbols that lie in the module, ascending, and their names.

        Of symbols at one address the first in the table comes last. Names are addresses: few are
        ever asked for.
        """
        found = []
        try:
            place = self._kind.at(module.address).integer("kallsyms")
            table = self._structures("mod_kallsyms").at(place)
            strings, count = table.integer("strtab"), table.integer("num_symtab")
            size = min(count, _MAXIMUM_SYMBOLS) * elf.SYMBOL_64.size
            data = self._kernel.read(table.integer("symtab"), size)
        except (AddressError, TypesError):
            return array("Q"), array("Q")
        for name, _, _, section, value, _ in elf.SYMBOL_64.iter_unpack(data):
            if section != _SHN_UNDEF and any(
                start <= value < start + size for start, size in module.ranges
            ):
                found.append((value, (strings + name) & _MASK))
        found.reverse()
        found.sort(key=operator.itemgetter(0))
        return array("Q", (value for value, _ in found)), array("Q", (name for _, name in found))

    def _string(self, address: int) -> str:
        data = b""
        # Most names are short, and the strings may end at the end of a page.
        for limit in (64, _SYMBOL_NAME_LIMIT):
            try:
                data = self._kernel.read(address, limit)
            except AddressError:
                break
            if b"\0" in data:
                break
        return printable(data)

    def orc_table(self, address: int) -> Optional[OrcTable]:
        """Returns the unwinding table for the code at an address, or None."""
        module = self.at(address)
        return None if module is None else self._orc_table(module)

    def _read_orc(self, module: Module) -> Optional[OrcTable]:
        kernel = self._kernel
        try:
            place = self._kind.at(module.address).place("arch")
            arch = self._structures("mod_arch_specific").at(place)
            count = arch.integer("num_orcs")
            ips, entries = arch.integer("orc_unwind_ip"), arch.integer("orc_unwind")
            if not 0 <= count <= _MAXIMUM_ORC_ENTRIES:
                return None
            return table_with_holes(
                ips,
                read_padded(kernel.read, ips, count * IP_SIZE)[0],
                entries,
                read_padded(kernel.read, entries, count * ENTRY_SIZE)[0],
                # Modules have the form of the kernel that they were built with.
                kernel.orc.form,
            )
        except (AddressError, KernelError):
            return None
