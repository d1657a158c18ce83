# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A kernel's BTF, asked by the names of structures and members."""

from collections.abc import Mapping
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import BtfError, LostTypeError
from volatility_guestdump.linux.types.btf import COMPOSITES, ENUMS, Btf
from volatility_guestdump.linux.types.btf_kinds import Kind
from volatility_guestdump.linux.types.protocol import Field, Shape, Types

#: No nest of structures, nor of arrays, in a kernel comes near it.
_MAXIMUM_DEPTH = 64


class _Found(NamedTuple):
    """A member: number of its type, and where it is in the structure that was asked."""

    type: int
    bit_offset: int
    bit_size: int


class BtfTypes(Types):
    """What a kernel's BTF knows.

    Args:
        btf: it.
    """

    def __init__(self, btf: Btf) -> None:
        self._btf = btf

    def look_up(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member; see `Types.look_up`."""
        found = self._look_up(structure, path)
        if found is None and self._btf.damage:
            raise LostTypeError(
                f"{structure}.{path} is not in what is left of the kernel's types: "
                f"{self._btf.damage}"
            )
        return found

    def _look_up(self, structure: str, path: str) -> Optional[Field]:
        number = self._composite(structure)
        found = None
        offset = 0
        for name in path.split("."):
            found = None if number is None else self._member(number, name, set())
            if found is None:
                return None
            offset += found.bit_offset
            number = self._btf.resolve(found.type)
        return None if found is None else self._field(found._replace(bit_offset=offset))

    def size(self, structure: str) -> Optional[int]:
        """Returns the size of a structure; see `Types.size`."""
        number = self._composite(structure)
        return None if number is None else self._btf.size(number)

    def constants(self, enumeration: str) -> Mapping[str, int]:
        """Returns the names and values of an enum; see `Types.constants`."""
        number = self._btf.find(enumeration, *ENUMS)
        return {} if number is None else self._btf.enumerators(number)

    def _composite(self, name: str) -> Optional[int]:
        """Returns the number of the structure or union of a name, which may be a typedef's."""
        number = self._btf.find(name, *COMPOSITES)
        if number is None:
            typedef = self._btf.find(name, Kind.TYPEDEF)
            number = None if typedef is None else self._btf.resolve(typedef)
        return number if number is not None and self._btf.kind(number) in COMPOSITES else None

    def _member(self, number: int, name: str, seen: set[int]) -> Optional[_Found]:
        """Returns a member of a structure, or of one of its anonymous members."""
        btf = self._btf
        if btf.kind(number) not in COMPOSITES or number in seen or len(seen) > _MAXIMUM_DEPTH:
            return None
        seen.add(number)
        members = btf.members(number)
        for member in members:
            if member.name == name:
                return _Found(member.type, *btf.placed(member))
        for member in members:
            if member.name:
                continue
            try:
                found = self._member(btf.resolve(member.type), name, seen)
            except LostTypeError:
                # It may be in another.
                continue
            if found is not None:
                return found._replace(bit_offset=member.bit_offset + found.bit_offset)
        return None

    def _field(self, found: _Found) -> Field:
        btf, number = self._btf, self._btf.resolve(found.type)
        kind, offset = btf.kind(number), found.bit_offset
        if kind is Kind.PTR:
            target = btf.target(number)
            try:
                return Field(offset, Shape.POINTER, structure=self._structure(target))
            except LostTypeError:
                return Field(offset, Shape.POINTER)
        if kind is Kind.ARRAY:
            # pahole makes one array of all dimensions.
            element, count = btf.array(number)
            size = count * self._size(btf.resolve(element), 0)
            return Field(
                offset, Shape.ARRAY, size, structure=self._structure(element), length=count
            )
        if kind in COMPOSITES:
            structure = self._structure(found.type)
            return Field(offset, Shape.STRUCTURE, btf.size(number), structure=structure)
        if kind is Kind.INT or kind in ENUMS:
            integer = kind is Kind.INT
            signed = btf.integer(number).signed if integer else btf.enum_is_signed(number)
            return Field(offset, Shape.INTEGER, btf.size(number), found.bit_size, signed)
        return Field(offset, Shape.OTHER, self._size(number, 0))

    def _structure(self, number: int) -> str:
        """Returns the name of the structure that a type is, or else of the typedef to it."""
        target, typedef = self._btf.resolve(number), ""
        # A structure that no file of the kernel itself defines is only declared.
        if self._btf.kind(target) not in (*COMPOSITES, Kind.FWD):
            return ""
        while number != target:
            if self._btf.kind(number) is Kind.TYPEDEF:
                typedef = self._btf.name(number)
            number = self._btf.target(number)
        return self._btf.name(target) or typedef

    def _size(self, number: int, depth: int) -> int:
        """Returns the size of what is no typedef, in bytes; 0 where that is not known."""
        btf = self._btf
        kind = btf.kind(number)
        if kind is Kind.ARRAY:
            if depth > _MAXIMUM_DEPTH:
                raise BtfError(f"type {number} of BTF nests too deeply")
            element, count = btf.array(number)
            return count * self._size(btf.resolve(element), depth + 1)
        if kind in COMPOSITES or kind in ENUMS or kind in (Kind.INT, Kind.FLOAT):
            return btf.size(number)
        return 0
