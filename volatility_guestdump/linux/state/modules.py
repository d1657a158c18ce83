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
from collections.abc import Iterator
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump import elf
from volatility_guestdump.exceptions import AddressError, BtfError, KernelError
from volatility_guestdump.linux.finding.image import KernelMemory
from volatility_guestdump.linux.pieces import Pieces
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.stacks.orc import ENTRY_SIZE, IP_SIZE, OrcTable
from volatility_guestdump.linux.types.btf import Btf, Kind
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
        btf: its types.
    """

    def __init__(self, kernel: KernelWithOrc, btf: Btf) -> None:
        self._kernel = kernel
        self._btf = btf
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
            return
        try:
            link = self._btf.offset("module", "list")
            node = self._kernel.pointer(head)
            seen = {head}
            while node not in seen and len(seen) < _MAXIMUM_MODULES:
                seen.add(node)
                following = self._kernel.pointer(node)
                module = self._module(node - link)
                if module is not None:
                    yield module
                node = following
        except (AddressError, KernelError):
            return

    def _module(self, address: int) -> Optional[Module]:
        try:
            name = self._kernel.read(address + self._btf.offset("module", "name"), _NAME_SIZE)
            return Module(printable(name), address, tuple(self._ranges(address)))
        except AddressError:
            return None

    def _ranges(self, address: int) -> Iterator[tuple[int, int]]:
        btf, pointer = self._btf, self._kernel.pointer
        structure = "module_memory"
        if btf.find(structure, Kind.STRUCT) is not None:
            member = btf.member("module", "mem")
            _, count = btf.array(btf.resolve(member.type))
            first, size = address + member.bit_offset // 8, btf.size_of(structure)
            places = [first + number * size for number in range(min(count, _MAXIMUM_RANGES))]
        else:
            structure = "module_layout"
            layouts = ("core_layout", "init_layout")
            places = [address + btf.offset("module", layout) for layout in layouts]
        for place in places:
            start = pointer(place + btf.offset(structure, "base"))
            size = self._u32(place + btf.offset(structure, "size"))
            if start and 0 < size <= _MAXIMUM_MODULE:
                yield start, size

    def _u32(self, address: int) -> int:
        return int.from_bytes(self._kernel.read(address, 4), "little")

    def __iter__(self) -> Iterator[Module]:
        return iter(self._modules)

    def taint(self, module: Module) -> Optional[int]:
        """Returns what a module taints the kernel with, as bits; None when that is not known."""
        try:
            return self._kernel.pointer(module.address + self._btf.offset("module", "taints"))
        except (AddressError, BtfError):
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
        kernel, btf = self._kernel, self._btf
        found = []
        try:
            table = kernel.pointer(module.address + btf.offset("module", "kallsyms"))
            symbols = kernel.pointer(table + btf.offset("mod_kallsyms", "symtab"))
            strings = kernel.pointer(table + btf.offset("mod_kallsyms", "strtab"))
            count = self._u32(table + btf.offset("mod_kallsyms", "num_symtab"))
            data = kernel.read(symbols, min(count, _MAXIMUM_SYMBOLS) * elf.SYMBOL_64.size)
        except (AddressError, BtfError):
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
        kernel, btf = self._kernel, self._btf
        try:
            arch = module.address + btf.offset("module", "arch")
            count = self._u32(arch + btf.offset("mod_arch_specific", "num_orcs"))
            ips = kernel.pointer(arch + btf.offset("mod_arch_specific", "orc_unwind_ip"))
            entries = kernel.pointer(arch + btf.offset("mod_arch_specific", "orc_unwind"))
            if count > _MAXIMUM_ORC_ENTRIES:
                return None
            return OrcTable(
                kernel.read(ips, count * IP_SIZE),
                kernel.read(entries, count * ENTRY_SIZE),
                ips,
                # Modules have the form of the kernel that they were built with.
                kernel.orc.form,
            )
        except (AddressError, KernelError):
            return None
