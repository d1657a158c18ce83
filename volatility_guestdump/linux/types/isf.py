# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The types and symbols of an ISF document: Volatility's Intermediate Symbol Format.

dwarf2json makes one of a kernel's debugging information, for kernels that carry no types. What of
it counts here, of all versions that Volatility 3 reads (volatility3/schemas):

    base_types      name -> {size, signed, kind: int, char, bool, float or void}
    user_types      name -> {size, kind: struct or union, fields: name -> {offset, type}}
    enums           name -> {size, base: name of a base type, constants: name -> value}
    symbols         name -> {address, ...}

    a type          {kind: base, struct, union, class or enum, name}; {kind: pointer, subtype};
                    {kind: array, count, subtype}; {kind: function}; and
                    {kind: bitfield, bit_position, bit_length, type}, with the position counted from
                    the byte at the offset

An anonymous member has a made up name, and says that it is anonymous. A document is whatever a file
holds: what is not as it should be is a TypesError.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from volatility_guestdump.exceptions import TypesError
from volatility_guestdump.linux.types.protocol import Field, Shape, Types

_STRUCTURES = ("struct", "union", "class")
_INTEGERS = ("int", "char", "bool")
#: How dwarf2json calls an anonymous member; before 0.6 nothing else says so.
_UNNAMED = "unnamed_field_"
#: No nest of structures, nor of arrays, in a kernel comes near it.
_MAXIMUM_DEPTH = 64

#: A type, or another part of the document.
_Part = Mapping[str, Any]


class Isf:
    """An ISF document.

    Args:
        document: as it was read from JSON.

    Attributes:
        types: what it knows of types.
    """

    def __init__(self, document: Any) -> None:
        symbols = _mapping(document, "symbols").items()
        self._addresses = {
            name: symbol["address"]
            for name, symbol in symbols
            if isinstance(symbol, Mapping) and isinstance(symbol.get("address"), int)
        }
        self.types: Types = _IsfTypes(document)

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address that a symbol was linked to, or None."""
        # One that is only declared has the address 0.
        return self._addresses.get(symbol) or None


class _Found(NamedTuple):
    """A member: its type, and where it is in the structure that was asked, in bytes."""

    type: _Part
    offset: int


class _IsfTypes(Types):
    """The types of an ISF document.

    Args:
        document: it.
    """

    def __init__(self, document: Any) -> None:
        self._structures = _mapping(document, "user_types")
        self._enums = _mapping(document, "enums")
        self._base_types = _mapping(document, "base_types")

    def look_up(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member; see `Types.look_up`."""
        found, offset = None, 0
        for name in path.split("."):
            found = self._member(structure, name, set())
            if found is None:
                return None
            offset += found.offset
            structure = self._structure(found.type)
        return None if found is None else self._field(found._replace(offset=offset))

    def size(self, structure: str) -> Optional[int]:
        """Returns the size of a structure; see `Types.size`."""
        return (
            _number(self._structures[structure], "size") if structure in self._structures else None
        )

    def constants(self, enumeration: str) -> Mapping[str, int]:
        """Returns the names and values of an enum; see `Types.constants`."""
        if enumeration not in self._enums:
            return {}
        constants = _mapping(self._enums[enumeration], "constants")
        return {name: _number(constants, name) for name in constants}

    def _member(self, structure: str, name: str, seen: set[str]) -> Optional[_Found]:
        """Returns a member of a structure, or of one of its anonymous members."""
        if structure not in self._structures or structure in seen or len(seen) > _MAXIMUM_DEPTH:
            return None
        seen.add(structure)
        fields = _mapping(self._structures[structure], "fields")
        if name in fields:
            return _Found(_mapping(fields[name], "type"), _number(fields[name], "offset"))
        for other, field in fields.items():
            if not (isinstance(field, Mapping) and field.get("anonymous")) and not other.startswith(
                _UNNAMED
            ):
                continue
            found = self._member(self._structure(_mapping(field, "type")), name, seen)
            if found is not None:
                return found._replace(offset=_number(field, "offset") + found.offset)
        return None

    def _field(self, found: _Found) -> Field:
        described, offset = found.type, 8 * found.offset
        kind, bits = described.get("kind"), 0
        if kind == "bitfield":
            bits = _number(described, "bit_length")
            offset += _number(described, "bit_position")
            described = _mapping(described, "type")
            kind = described.get("kind")
        if kind == "pointer":
            structure = self._structure(described.get("subtype"))
            return Field(offset, Shape.POINTER, structure=structure)
        size = self._size(described, 0)
        if kind == "array":
            length = 1
            # As BTF has it: one length for all dimensions. The size was found, so this ends.
            while described.get("kind") == "array":
                length *= _number(described, "count")
                described = _mapping(described, "subtype")
            structure = self._structure(described)
            return Field(offset, Shape.ARRAY, size, structure=structure, length=length)
        if kind in _STRUCTURES:
            return Field(offset, Shape.STRUCTURE, size, structure=self._structure(described))
        name = str(described.get("name"))
        if kind == "enum" and name in self._enums:
            name = str(_mapping(self._enums, name).get("base"))
        base = self._base_types.get(name)
        base_kind = base.get("kind") if isinstance(base, Mapping) else None
        if kind == "enum" or base_kind in _INTEGERS:
            # By dwarf2json a bool has a sign.
            signed = base_kind != "bool" and isinstance(base, Mapping) and bool(base.get("signed"))
            return Field(offset, Shape.INTEGER, size, bits, signed)
        return Field(offset, Shape.OTHER, size)

    @staticmethod
    def _structure(described: Any) -> str:
        """Returns the name of the structure that a type is, or an empty text."""
        if not isinstance(described, Mapping) or described.get("kind") not in _STRUCTURES:
            return ""
        return str(described.get("name", ""))

    def _size(self, described: _Part, depth: int) -> int:
        """Returns the size of a type in bytes; 0 where that is not known, and of a pointer."""
        kind, name = str(described.get("kind")), str(described.get("name"))
        if kind == "array":
            if depth > _MAXIMUM_DEPTH:
                raise TypesError("an array of the ISF nests too deeply")
            element = _mapping(described, "subtype")
            return _number(described, "count") * self._size(element, depth + 1)
        table = {"base": self._base_types, "enum": self._enums}.get(kind, {})
        if kind in _STRUCTURES:
            table = self._structures
        return _number(table[name], "size") if name in table else 0


def _mapping(part: Any, name: Any) -> Mapping[str, Any]:
    found = part.get(name) if isinstance(part, Mapping) else None
    if not isinstance(found, Mapping):
        raise TypesError(f"the ISF has no {name} where one should be")
    return found


def _number(part: Any, name: str) -> int:
    found = part.get(name) if isinstance(part, Mapping) else None
    if not isinstance(found, int):
        raise TypesError(f"the ISF has no number {name} where one should be")
    return found
