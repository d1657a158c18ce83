"""kallsyms and BTF of the dump in the terms of Volatility's Intermediate Symbol Format (ISF).

`IsfView` converts a type or a symbol when it is asked for. Volatility's symbol table is made of
it; guestdump.Isf writes all of it to a file.
"""

import base64
import contextlib
import functools
import json
import logging
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional

from volatility_guestdump import __version__
from volatility_guestdump.exceptions import BtfError, KernelError
from volatility_guestdump.linux.btf import COMPOSITES, ENUMS, Btf, Kind, Member
from volatility_guestdump.linux.kallsyms import Kallsyms
from volatility_guestdump.linux.kernel import LinuxKernel

vollog = logging.getLogger(__name__)

Isf = dict[str, Any]

#: The version of the schema that what follows conforms to.
ISF_FORMAT = "6.2.0"

#: Whose conventions the conversion follows. linux.hidden_modules of Volatility 2.28 refuses
#: symbols of any other producer; who really made them stands beside the symbols.
_PRODUCER = {"name": "dwarf2json", "version": "0.9.0"}

#: (size, signed) of an enum -> the integer that holds it.
_ENUM_BASES = {
    (1, False): "unsigned char",
    (1, True): "signed char",
    (2, False): "short unsigned int",
    (2, True): "short int",
    (4, False): "unsigned int",
    (4, True): "int",
    (8, False): "long long unsigned int",
    (8, True): "long long int",
}

#: Symbols that Volatility 2.28 looks for -> what the kernel calls the same place today.
_SUCCESSORS = {
    # The first of several timekeepers since 6.17.
    "tk_core": "timekeeper_data",
}

#: Names that mean something of their own to Volatility.
_NATIVE = (
    *("pointer", "array", "enum", "bitfield", "void", "string", "bytes", "function"),
    *("struct", "union", "class"),
)

_VOID: Isf = {"kind": "base", "name": "void"}

#: No type of a kernel nests pointers, arrays and anonymous structures nearly as deep.
_MAXIMUM_DEPTH = 32
#: task_struct has about 300.
_MAXIMUM_MEMBERS = 1 << 16
#: Those of all structures and enums of Debian's kernels are about 100,000.
_MAXIMUM_MEMBERS_WRITTEN = 1 << 19
#: The largest arrays have 4 MiB. Plugins read arrays whole.
_MAXIMUM_ARRAY = 64 << 20
#: The largest table of the kernel, __per_cpu_offset, has 64 KiB.
_MAXIMUM_TABLE = 1 << 20


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


def _usable(name: str) -> bool:
    # Volatility uses "!" to separate tables, and names reach the analyst's screen.
    return bool(name) and name.isprintable() and "!" not in name


class TypeConverter:
    """BTF in the terms of ISF.

    A structure goes by its own name, or by the typedef through which it is referred to, as
    dwarf2json has it; an anonymous one without typedef by its number. Where several have one
    name, the first keeps it and the others get their number behind it.

    Args:
        btf: the kernel's types.
        pointer_size: in bytes.

    Attributes:
        base_types: the ISF section of that name.
        user_types: name -> number of a structure or union.
        enums: name -> number of an enum.
    """

    def __init__(self, btf: Btf, pointer_size: int) -> None:
        self._btf = btf
        #: Number -> (what describes the type, how deep it nests).
        self._descriptors: dict[int, tuple[Isf, int]] = {}
        #: Number of a structure -> what ISF has of it, under each of its names.
        self._structures: dict[int, Isf] = {}
        #: Number of a structure -> (its members and those of anonymous ones, how deep they nest).
        self._flat_sizes: dict[int, tuple[int, int]] = {}
        self._names: dict[int, str] = {}
        self.user_types: dict[str, int] = {}
        self.enums: dict[str, int] = {}
        self.base_types = {
            "void": _base_type("void", 0, False),
            "pointer": _base_type("int", pointer_size, False),
        }
        typedefs: list[tuple[str, int]] = []
        partial: list[tuple[str, int]] = []
        unnamed = list(btf.anonymous)
        for name, numbers in btf.names.items():
            if not _usable(name):
                unnamed += numbers
                continue
            for number in numbers:
                kind = btf.kind(number)
                if kind in COMPOSITES:
                    self._give_name(self.user_types, name, number)
                elif kind in ENUMS:
                    self._give_name(self.enums, name, number)
                elif kind is Kind.TYPEDEF:
                    typedefs.append((name, number))
                elif name in _NATIVE:
                    continue
                elif kind is Kind.INT:
                    # Before the kind flag a bitfield had an integer of its own, of the same name.
                    if btf.integer_bits(number) == (0, 8 * btf.size(number)):
                        self.base_types.setdefault(name, _integer(btf, number))
                    else:
                        partial.append((name, number))
                elif kind is Kind.FLOAT:
                    self.base_types[name] = _base_type("float", btf.size(number), True)
        for (size, signed), name in _ENUM_BASES.items():
            self.base_types.setdefault(name, _base_type("int", size, signed))
        for name, number in partial:
            self.base_types.setdefault(name, _integer(btf, number))
        for number in unnamed:
            kind = btf.kind(number)
            if kind in ENUMS or kind in COMPOSITES:
                table = self.enums if kind in ENUMS else self.user_types
                self._give_name(table, f"unnamed_{number}", number)
        for name, number in typedefs:
            try:
                target = btf.resolve(number)
                if btf.kind(target) in COMPOSITES:
                    self.user_types.setdefault(name, target)
            except BtfError as error:
                vollog.debug(f"typedef {name} cannot be decoded: {error}")

    def _give_name(self, table: dict[str, int], name: str, number: int) -> None:
        while table.setdefault(name, number) != number:
            name = f"{name}__{number}"
        self._names[number] = name

    def descriptor(self, number: int) -> Isf:
        """Returns how a member, element or symbol of a type is described.

        Raises:
            BtfError: the type is damaged.
        """
        return self._descriptor(number, 0)[0]

    def _descriptor(self, number: int, depth: int) -> tuple[Isf, int]:
        """Returns what describes a type, and how deep it nests; `depth` is how deep it lies."""
        found = self._descriptors.get(number)
        if found is None:
            # Before it is too deep for Python, whatever of it is known already.
            self._check_depth(number, depth)
            found = self._descriptors[number] = self._describe(number, depth)
        self._check_depth(number, depth + found[1])
        return found

    @staticmethod
    def _check_depth(number: int, depth: int) -> None:
        if depth > _MAXIMUM_DEPTH:
            raise BtfError(f"type {number} of BTF nests too deeply")

    def _describe(self, number: int, depth: int) -> tuple[Isf, int]:
        btf = self._btf
        start, number = number, btf.resolve(number)
        kind = btf.kind(number)
        if kind is Kind.PTR:
            target, below = self._descriptor(btf.target(number), depth + 1)
            return {"kind": "pointer", "subtype": target}, below + 1
        if kind is Kind.ARRAY:
            element, count = btf.array(number)
            subtype, below = self._descriptor(element, depth + 1)
            array = {"kind": "array", "count": count, "subtype": subtype}
            if max(count, self.size(array)) > _MAXIMUM_ARRAY:
                raise BtfError(f"array {number} of BTF has {count} elements")
            return array, below + 1
        return self._describe_flat(start, number), 0

    def _describe_flat(self, start: int, number: int) -> Isf:
        """Describes a type that refers to no other, given where the typedefs to it start."""
        btf = self._btf
        kind = btf.kind(number)
        if kind in COMPOSITES:
            shape = "struct" if kind is Kind.STRUCT else "union"
            return {"kind": shape, "name": self._typedef(start, number) or self._names[number]}
        if kind is Kind.FWD:
            shape, name = "union" if btf.is_union_forward(number) else "struct", btf.name(number)
            return {"kind": shape, "name": name if _usable(name) else f"unnamed_{number}"}
        if kind in ENUMS:
            return {"kind": "enum", "name": self._names[number]}
        if kind in (Kind.FUNC_PROTO, Kind.FUNC):
            return {"kind": "function"}
        if kind in (Kind.INT, Kind.FLOAT) and btf.name(number) in self.base_types:
            return {"kind": "base", "name": btf.name(number)}
        return _VOID

    def _typedef(self, number: int, target: int) -> Optional[str]:
        """Returns the last typedef on the way to a structure, when it has a name here."""
        name = None
        while number != target:
            if self._btf.kind(number) is Kind.TYPEDEF:
                name = self._btf.name(number)
            number = self._btf.target(number)
        return name if name and self.user_types.get(name) == target else None

    def outline(self, name: str) -> tuple[str, int]:
        """Returns the kind of a structure, "struct" or "union", and its size in bytes."""
        return self._outline(self.user_types[name])

    def _outline(self, number: int) -> tuple[str, int]:
        kind = "struct" if self._btf.kind(number) is Kind.STRUCT else "union"
        return kind, self._btf.size(number)

    def user_type(self, name: str, number: int) -> Isf:
        """Returns the structure or union of a number as ISF has it.

        Raises:
            BtfError: the type is damaged.
        """
        found = self._structures.get(number)
        if found is None:
            self._flat_size(number, 0)
            kind, size = self._outline(number)
            found = {"kind": kind, "size": size, "fields": self._fields(number)}
            self._structures[number] = found
        return found

    def _fields(self, number: int) -> dict[str, Isf]:
        fields: dict[str, Isf] = {}
        members = self._btf.members(number)
        names = {member.name for member in members}
        for member in members:
            name = member.name
            if not name:
                target = self._btf.resolve(member.type)
                if self._btf.kind(target) not in COMPOSITES:
                    continue
                # Volatility takes its members for those of this structure: they must be sound.
                self.user_type("", target)
                name = f"unnamed_field_{len(fields)}"
                while name in names:
                    name += "_"
            field = self._field(member) if _usable(name) else None
            if field is not None:
                if not member.name:
                    field["anonymous"] = True
                fields[name] = field
        return fields

    def _flat_size(self, number: int, depth: int) -> tuple[int, int]:
        """Counts members including those of anonymous ones, which Volatility expands.

        Returns:
            How many there are, and how deep the anonymous ones nest.
        """
        found = self._flat_sizes.get(number)
        if found is None:
            self._check_depth(number, depth)
            size = deepest = 0
            for member in self._btf.members(number):
                target = 0 if member.name else self._btf.resolve(member.type)
                size += 1
                if target and self._btf.kind(target) in COMPOSITES:
                    inner, below = self._flat_size(target, depth + 1)
                    size += inner
                    deepest = max(deepest, below + 1)
                if size > _MAXIMUM_MEMBERS:
                    raise BtfError(f"type {number} of BTF has too many members")
            found = self._flat_sizes[number] = size, deepest
        self._check_depth(number, depth + found[1])
        return found

    def _field(self, member: Member) -> Optional[Isf]:
        """Describes a member; None for a bitfield that no integer of its type covers (packed)."""
        btf = self._btf
        offset, bits = member.bit_offset, member.bit_size
        target = btf.resolve(member.type)
        if not bits and btf.kind(target) is Kind.INT:
            # Before the kind flag a bitfield was a member of an integer type of its own.
            shift, size = btf.integer_bits(target)
            if shift or size != 8 * btf.size(target):
                offset, bits = offset + shift, size
        descriptor = self.descriptor(member.type)
        if not bits:
            return {"offset": offset // 8, "type": descriptor}
        if btf.kind(target) not in (Kind.INT, *ENUMS) or bits > 8 * btf.size(target):
            raise BtfError(f"a bitfield of BTF has {bits} bits of type {target}")
        # From the byte that it starts in, as dwarf2json has it.
        position = offset % 8
        if position + bits > 8 * btf.size(target):
            return None
        bitfield = {
            "kind": "bitfield",
            "bit_position": position,
            "bit_length": bits,
            "type": descriptor,
        }
        return {"offset": offset // 8, "type": bitfield}

    def enum(self, name: str, number: int) -> Isf:
        """Returns the enum of a number as ISF has it.

        Raises:
            BtfError: the type is damaged.
        """
        enumerators = self._btf.enumerators(number).items()
        constants = {name: value for name, value in enumerators if _usable(name)}
        size = self._btf.size(number)
        signed = any(value < 0 for value in constants.values())
        base = _ENUM_BASES.get((size, signed))
        if base is None:
            raise BtfError(f"enum {name} of BTF has {size} bytes")
        # In dwarf2json's order, for plugins print flags in the order of their enum.
        return {"size": size, "base": base, "constants": dict(sorted(constants.items()))}

    def size(self, descriptor: Isf) -> int:
        """Returns the size in bytes of what a descriptor describes; 0 when it is not known."""
        kind = descriptor["kind"]
        if kind == "base":
            return int(self.base_types.get(descriptor["name"], {}).get("size", 0))
        if kind == "pointer":
            return int(self.base_types["pointer"]["size"])
        if kind == "array":
            return self.size(descriptor["subtype"]) * int(descriptor["count"] or 0)
        if kind in ("struct", "union") and descriptor["name"] in self.user_types:
            return self._btf.size(self.user_types[descriptor["name"]])
        if kind == "enum" and descriptor["name"] in self.enums:
            return self._btf.size(self.enums[descriptor["name"]])
        return 0

    def members_in_all(self) -> int:
        """Returns how many members all structures and enums have, under all their names."""
        tables = (self.user_types, self.enums)
        return sum(self._btf.count(number) for table in tables for number in table.values())

    def anonymous_with(self, members: list[str]) -> Optional[Isf]:
        """Returns the descriptor of the anonymous structure that has just these members."""
        for number in self._btf.anonymous:
            if self._btf.kind(number) is Kind.STRUCT and self._has_members(number, members):
                return self.descriptor(number)
        return None

    def _has_members(self, number: int, members: list[str]) -> bool:
        try:
            return [member.name for member in self._btf.members(number)] == members
        except BtfError:
            return False

    @functools.cached_property
    def _percpu_offsets(self) -> dict[int, int]:
        return self._btf.section_offsets(".data..percpu")

    def percpu_variable(self, name: str, offset: int) -> Optional[Isf]:
        """Returns the descriptor of the per-CPU variable at an offset, when it has the name.

        Of variables BTF knows no others.
        """
        number = self._btf.find(name, Kind.VAR)
        if number is None or self._percpu_offsets.get(number) != offset:
            return None
        return self.descriptor(self._btf.target(number))


def _base_type(kind: str, size: int, signed: bool) -> Isf:
    return {"kind": kind, "size": size, "signed": signed, "endian": "little"}


def _integer(btf: Btf, number: int) -> Isf:
    integer = btf.integer(number)
    kind = "bool" if integer.boolean else "char" if integer.size == 1 else "int"
    return _base_type(kind, integer.size, integer.signed)


@functools.cache
def _globals() -> dict[str, list[Isf]]:
    """Returns the types that globals of the kernel may have, for those that plugins read."""
    path = pathlib.Path(__file__).parent.parent / "symbols" / "linux-globals.json"
    with path.open(encoding="utf-8") as stream:
        types: dict[str, list[Isf]] = json.load(stream)
    return types


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
        self.symbols = {**dict.fromkeys(kallsyms.tables, -1), **kallsyms.index}
        # Looked at together in a twentieth of the time; of a sound kernel all names are usable.
        if "" in self.symbols or not _usable("".join(self.symbols)):
            self.symbols = {name: at for name, at in self.symbols.items() if _usable(name)}
        for name, successor in _SUCCESSORS.items():
            if name not in self.symbols and successor in self.symbols:
                self.symbols[name] = self.symbols[successor]

    def symbol(self, name: str, number: int) -> Isf:
        """Returns a symbol as ISF has it, at the address that it was linked to."""
        address, relocated = self._place(name, number)
        try:
            described = self._type(name, address, relocated)
        except BtfError as error:
            vollog.debug(f"The type of {name} cannot be decoded: {error}")
            described = _VOID
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
        return address - self._kernel.kaslr_shift if relocated else address

    def by_location(self, mask: int) -> list[tuple[int, str]]:
        """Returns (linked address, name) of all symbols, ascending; see `IsfView`."""
        mask = mask or -1
        places = [
            (symbol.name, symbol.address, symbol.relocated)
            for symbol in self._kallsyms
            if _usable(symbol.name)
        ]
        for name in (*self._kallsyms.tables, *_SUCCESSORS):
            if name in self.symbols and name not in self._kallsyms.index:
                places.append((name, *self._place(name, self.symbols[name])))
        return sorted(
            (self._linked(address, relocated) & mask, name) for name, address, relocated in places
        )

    def _type(self, name: str, address: int, relocated: bool) -> Isf:
        for candidate in _globals().get(name, ()):
            found = self._candidate(candidate, address)
            if found is not None:
                return found
        # Up to 6.14 the addresses of per-CPU variables start from 0 on x86-64.
        start = self._percpu_start if relocated else 0
        return self._types.percpu_variable(name, address - start) or _VOID

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
        types = self.types = TypeConverter(kernel.read_btf(), kernel.bits // 8)
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
