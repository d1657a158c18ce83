# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is asked of a kernel's types, wherever they come from.

The kernel's own BTF (`btf`) answers these questions, and so does an installed ISF (`isf`). Whoever
reads a structure asks `Types`, mostly by way of `reading`, and does not know which of them it is.
"""

import abc
import enum
from collections.abc import Mapping
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump.exceptions import TypesError


class Shape(enum.Enum):
    """What a member is."""

    #: A number: an integer, a bool or an enum.
    INTEGER = enum.auto()
    POINTER = enum.auto()
    #: A structure or a union.
    STRUCTURE = enum.auto()
    ARRAY = enum.auto()
    #: A float, a function, or what is not known.
    OTHER = enum.auto()


class Field(NamedTuple):
    """A member of a structure or union.

    Attributes:
        bit_offset: from the start of the outermost structure.
        shape: what it is, without typedefs and qualifiers.
        size: in bytes; 0 where that is not known, and of a pointer, which is one of the kernel's
            words.
        bit_size: of a bit field, else 0.
        signed: whether it is an integer with a sign.
        structure: name of the structure that it is, that it points to or that it is an array of;
            where that structure has no name, of a typedef to it; else empty.
        length: number of an array's elements, of all its dimensions.
    """

    bit_offset: int
    shape: Shape
    size: int = 0
    bit_size: int = 0
    signed: bool = False
    structure: str = ""
    length: int = 0

    @property
    def offset(self) -> int:
        """From the start of the outermost structure, in bytes."""
        return self.bit_offset // 8


class Types(Protocol):
    """A kernel's types.

    A source may not know something because the kernel has no such thing, or because the source
    itself is damaged or incomplete there. `find` returns None then, for callers that can do without
    it, and `field` raises TypesError for those that cannot.
    """

    @abc.abstractmethod
    def look_up(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member, or None when the structure, or the member, is not known.

        Args:
            structure: name of a structure or union.
            path: name of the member, which may lie in anonymous members; with dots between
                those of nested structures.

        Raises:
            TypesError: what leads to it is damaged.
        """

    @abc.abstractmethod
    def size(self, structure: str) -> Optional[int]:
        """Returns the size of a structure or union in bytes, or None when it is not known."""

    @abc.abstractmethod
    def constants(self, enumeration: str) -> Mapping[str, int]:
        """Returns the names and values of an enum; none when it is not known.

        Raises:
            TypesError: it is damaged.
        """

    def find(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member as `look_up` does, and None also when that is damaged."""
        try:
            return self.look_up(structure, path)
        except TypesError:
            return None

    def field(self, structure: str, path: str) -> Field:
        """Returns a member; see `look_up`.

        Raises:
            TypesError: the kernel has no such structure or member, or it is not known.
        """
        found = self.look_up(structure, path)
        if found is None:
            raise TypesError(f"the kernel has no {structure}.{path}")
        return found

    def offset(self, structure: str, path: str) -> int:
        """Returns the offset of a member in bytes; see `field`."""
        return self.field(structure, path).offset

    def has(self, structure: str) -> bool:
        """Whether there is a structure or union of a name."""
        return self.size(structure) is not None

    def size_of(self, structure: str, largest: int = 1 << 20) -> int:
        """Returns the size of a structure or union in bytes.

        Args:
            structure: its name.
            largest: what it can have at most. Who reads so many bytes, or several structures at
                once, says how many are sound: a damaged type may have gigabytes.

        Raises:
            TypesError: the kernel has no such structure, its size is not known, or is none.
        """
        size = self.size(structure)
        if size is None:
            raise TypesError(f"the kernel has no struct {structure}")
        if not 0 <= size <= largest:
            raise TypesError(f"struct {structure} would have {size} bytes")
        return size
