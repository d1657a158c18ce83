# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""BTF in the terms of Volatility's Intermediate Symbol Format (ISF)."""

import functools
import logging
from typing import Any, Optional

from volatility_guestdump.exceptions import BtfError, LostTypeError
from volatility_guestdump.linux.types.btf import COMPOSITES, ENUMS, Btf, Member
from volatility_guestdump.linux.types.btf_kinds import Kind

vollog = logging.getLogger(__name__)

#: A part of an ISF document.
Isf = dict[str, Any]

VOID: Isf = {"kind": "base", "name": "void"}

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

#: How gcc and clang name the same integers in debug information. Volatility's plugins ask for
#: gcc's names, and so do our types of globals.
_SPELLINGS = (
    ("short int", "short"),
    ("short unsigned int", "unsigned short"),
    ("long int", "long"),
    ("long unsigned int", "unsigned long"),
    ("long long int", "long long"),
    ("long long unsigned int", "unsigned long long"),
)

#: Names that mean something of their own to Volatility.
_NATIVE = (
    *("pointer", "array", "enum", "bitfield", "void", "string", "bytes", "function"),
    *("struct", "union", "class"),
)

#: No type of a kernel nests pointers, arrays and anonymous structures nearly as deep.
_MAXIMUM_DEPTH = 32
#: task_struct has about 300.
_MAXIMUM_MEMBERS = 1 << 16
#: The largest arrays have 4 MiB. Plugins read arrays whole.
_MAXIMUM_ARRAY = 64 << 20


def usable(name: str) -> bool:
    """Whether a name can be one in a symbol table."""
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
        self._lost_members: dict[int, set[str]] = {}
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
            if not usable(name):
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
        if btf.damage:
            # Their names may be lost, but they are what every kernel has of them.
            for name, size, signed in (("long int", pointer_size, True), ("char", 1, True)):
                self.base_types.setdefault(name, _base_type("int", size, signed))
            self.base_types.setdefault("long unsigned int", _base_type("int", pointer_size, False))
            self.base_types.setdefault("_Bool", _base_type("bool", 1, False))
        for names in _SPELLINGS:
            for name, other in (names, names[::-1]):
                if name in self.base_types:
                    self.base_types.setdefault(other, self.base_types[name])
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
            # Check before recursing: a cached inner type does not bound this path.
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
            try:
                target, below = self._descriptor(btf.target(number), depth + 1)
            except LostTypeError:
                target, below = VOID, 0
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
            return {"kind": shape, "name": name if usable(name) else f"unnamed_{number}"}
        if kind in ENUMS:
            return {"kind": "enum", "name": self._names[number]}
        if kind in (Kind.FUNC_PROTO, Kind.FUNC):
            return {"kind": "function"}
        if kind in (Kind.INT, Kind.FLOAT) and btf.name(number) in self.base_types:
            return {"kind": "base", "name": btf.name(number)}
        if kind is Kind.INT and not btf.name(number):
            integer = btf.integer(number)
            name = _ENUM_BASES.get((integer.size, integer.signed), "void")
            return {"kind": "base", "name": "_Bool" if integer.boolean else name}
        return VOID

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
                target = self._anonymous(member)
                if not target:
                    continue
                # Volatility takes its members for those of this structure: they must be sound.
                self.user_type("", target)
                name = f"unnamed_field_{len(fields)}"
                while name in names:
                    name += "_"
            try:
                field = self._field(member) if usable(name) else None
            except LostTypeError:
                # It costs this member. Whoever asks for it is told so.
                self._lost_members.setdefault(number, set()).add(name)
                continue
            if field is not None:
                if not member.name:
                    field["anonymous"] = True
                fields[name] = field
        return fields

    def is_lost(self, name: str, member: object) -> bool:
        """Whether a member of a structure that was asked for has a type that is lost."""
        return member in self._lost_members.get(self.user_types.get(name, 0), ())

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
                target = self._anonymous(member)
                size += 1
                if target:
                    inner, below = self._flat_size(target, depth + 1)
                    size += inner
                    deepest = max(deepest, below + 1)
                if size > _MAXIMUM_MEMBERS:
                    raise BtfError(f"type {number} of BTF has too many members")
            found = self._flat_sizes[number] = size, deepest
        self._check_depth(number, depth + found[1])
        return found

    def _anonymous(self, member: Member) -> int:
        """Returns the number of the structure that an anonymous member is; 0 for any other."""
        if member.name:
            return 0
        try:
            target = self._btf.resolve(member.type)
        except LostTypeError:
            return 0
        return target if self._btf.kind(target) in COMPOSITES else 0

    def _field(self, member: Member) -> Optional[Isf]:
        """Describes a member; None for a bitfield that no integer of its type covers (packed)."""
        btf = self._btf
        target = btf.resolve(member.type)
        offset, bits = btf.placed(member)
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
        constants = {name: value for name, value in enumerators if usable(name)}
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
