# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The kernel's type information (BTF), as it lies in the kernel's image.

BTF says what debugging information would say of types: the members of each structure with their
offsets, enums, functions. The kernel has it for BPF programs, from 5.2 on with
CONFIG_DEBUG_INFO_BTF, between the symbols __start_BTF and __stop_BTF. Source of the format:
Documentation/bpf/btf.rst and include/uapi/linux/btf.h of Linux.

Three parts lie one behind the other:

header     u16 magic 0xeb9f, u8 version 1, u8 flags, u32 length of the header; then u32 offset and
           u32 length of the types and of the strings, counted from the end of the header.
types      Type 1, type 2 and so on, with nothing that says where each starts: a type's length
           follows from its kind. Types refer to each other by these numbers; 0 is void.
strings    The names, each ending in NUL; a type has the offset of its name, 0 for none.

A type begins with three u32, and goes on with what its kind needs, in units of u32:

    name offset
    info           31          30  29 28      24 23      16 15               0
                  | kind flag |      |   kind   |          |      vlen       |
    size or type   The size in bytes of an INT, STRUCT, UNION, ENUM, DATASEC, FLOAT or ENUM64; the
                   number of the type that any other kind refers to.

vlen is how many members (enumerators, parameters, variables) follow. The kind flag of a STRUCT or
UNION says that the upper 8 bits of a member's offset are the size of a bitfield; of an ENUM or
ENUM64, that its values have a sign; of a FWD, that it declares a union.

What came over time, and is decided by the kind or the flag that a type has:

    5.0     the kind flag (9d5f9f701b18); before, the size of a bitfield is that of its INT type
    5.2     VAR and DATASEC (f063c889c945): per-CPU variables are the only ones that BTF knows
    5.13    FLOAT
    5.16    DECL_TAG, 5.17 TYPE_TAG: attributes of declarations and types, of no use here
    6.0     ENUM64, and the kind flag of ENUM; before, values of enums have a sign

`Btf` makes one pass that notes where each type starts; a type is decoded when it is asked for.
"""

import array
import itertools
import struct
import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import BtfError, LostTypeError
from volatility_guestdump.linux.holes import Holes
from volatility_guestdump.linux.types.btf_holes import LOST, types_around
from volatility_guestdump.linux.types.btf_kinds import MAXIMUM_TYPES, SIZES, Kind

MAGIC = 0xEB9F

_HEADER = struct.Struct("<HBBIIIII")

#: No chain of typedefs and qualifiers in a kernel comes near it.
_MAXIMUM_DEPTH = 64
#: The kernel refuses BTF with longer names (KSYM_NAME_LEN, since 6.1).
_MAXIMUM_NAME = 512


_KINDS = tuple(Kind)

#: Kinds that only qualify another type.
_MODIFIERS = frozenset(
    (Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.TYPE_TAG, Kind.DECL_TAG)
)

COMPOSITES = frozenset((Kind.STRUCT, Kind.UNION))
ENUMS = frozenset((Kind.ENUM, Kind.ENUM64))

#: Kinds whose names can be looked up, as a table for bytes.translate: kind -> 1 or 0.
_NAMED = bytes(
    kind in (*COMPOSITES, *ENUMS, Kind.TYPEDEF, Kind.INT, Kind.FLOAT, Kind.VAR, Kind.DATASEC)
    for kind in range(256)
)


class Member(NamedTuple):
    """A member of a structure or union.

    Attributes:
        name: empty for an anonymous member.
        type: number of its type.
        bit_offset: from the start of the structure.
        bit_size: 0 when the member is no bitfield.
    """

    name: str
    type: int
    bit_offset: int
    bit_size: int


class Integer(NamedTuple):
    """An integer type.

    Attributes:
        name: as in C, "long unsigned int".
        size: in bytes.
        signed: whether it has a sign.
        boolean: whether it is _Bool.
    """

    name: str
    size: int
    signed: bool
    boolean: bool


def btf_headers(image: bytes) -> Iterator[int]:
    """Yields the offsets of what begins like BTF, where no symbol tells its place."""
    start = struct.pack("<HBB", MAGIC, 1, 0)
    place = image.find(start)
    while place >= 0:
        yield place
        place = image.find(start, place + 1)


class Btf:
    """The types of a kernel.

    Args:
        data: all of BTF, header included.
        address: where it lies in the kernel's memory. A page of zeros in it is a hole then: what is
            missing costs the types and the names in it.

    Attributes:
        names: name -> numbers of the types that have it, for the kinds that can be looked up.
        anonymous: numbers of the structures, unions and enums that have no name, or one that is
            lost.
        damage: what is lost, in words; empty when nothing is.

    Raises:
        BtfError: the header or a type does not fit into the data, or is of an unknown kind.
    """

    def __init__(self, data: bytes, address: Optional[int] = None) -> None:
        if len(data) < _HEADER.size:
            raise BtfError(f"BTF of {len(data)} bytes has no header")
        magic, version, _, header, types, types_size, strings, strings_size = _HEADER.unpack_from(
            data
        )
        if magic != MAGIC or version != 1:
            raise BtfError(f"BTF has magic {magic:#x} and version {version}, not {MAGIC:#x} and 1")
        if (
            types % 4
            or types_size % 4
            or header + types + types_size > len(data)
            or header + strings + strings_size > len(data)
        ):
            raise BtfError("the sections of BTF do not fit into its data")
        self._strings = data[header + strings : header + strings + strings_size]
        self._words = array.array("I", data[header + types : header + types + types_size])
        if sys.byteorder == "big":
            self._words.byteswap()
        self._starts: list[int] = [-1]
        self._kinds = bytearray((Kind.VOID,))
        self._knows_last = True
        self.damage = ""
        at = header + strings
        holes = [] if address is None else list(Holes(data, address))
        #: Where names are lost.
        self._lost_names = [
            (start - at, end - at) for start, end in holes if start < at + strings_size and end > at
        ]
        at = header + types
        lost_words = [
            (max(start - at, 0) // 4, min(-(-(end - at) // 4), len(self._words)))
            for start, end in holes
            if start < at + types_size and end > at
        ]
        self.names: dict[str, list[int]] = {}
        self.anonymous: list[int] = []
        # Up to 5.19 values of enums are signed, and no flag says so.
        self._signed_enums = True
        if lost_words:
            self._index_around(lost_words)
        else:
            self._index()
        self._index_names()
        if self._lost_names and not self.damage:
            self.damage = "some names of types and members are on a page that is lost"

    def _index_around(self, holes: Sequence[tuple[int, int]]) -> None:
        found = types_around(self._words, holes, self._strings)
        self._starts, self._kinds, self._knows_last = found
        if len(self._starts) > MAXIMUM_TYPES:
            raise BtfError(f"BTF has more than {MAXIMUM_TYPES} types")
        lost = self._starts.count(-1) - 1
        parts = [f"{lost} types are on a page that is lost"] if lost else []
        if not self._knows_last:
            parts.append(
                f"those from number {len(self._starts)} on are on, or behind, a page that is lost"
            )
        self.damage = ", and ".join(parts)

    def _index(self) -> None:
        words, starts, kinds, sizes = self._words, self._starts, self._kinds, SIZES
        position, end = 0, len(words)
        while position < end - 2 and len(starts) <= MAXIMUM_TYPES:
            info = words[position + 1]
            kind = (info >> 24) & 0x1F
            fixed, each = sizes[kind]
            if not fixed:
                raise BtfError(f"type {len(starts)} of BTF is of an unknown kind, {kind}")
            starts.append(position)
            kinds.append(kind)
            position += fixed + each * (info & 0xFFFF)
        if len(starts) > MAXIMUM_TYPES:
            raise BtfError(f"BTF has more than {MAXIMUM_TYPES} types")
        if position != end:
            raise BtfError(f"type {len(starts) - 1} of BTF is cut off")

    def _index_names(self) -> None:
        words, starts, kinds = self._words, self._starts, self._kinds
        # Names that start inside of each other could take far more memory than they lie in.
        room = 2 * len(self._strings)
        named = kinds.translate(_NAMED)
        for number in itertools.compress(range(len(kinds)), named):
            start = starts[number]
            name = self._string(words[start]) if words[start] else ""
            if name:
                numbers = self.names.get(name)
                if numbers is None:
                    numbers = self.names[name] = []
                    room -= len(name)
                    if room < 0:
                        raise BtfError("the names of BTF overlap")
                numbers.append(number)
            else:
                self.anonymous.append(number)
            if words[start + 1] >> 31 and kinds[number] == Kind.ENUM:
                self._signed_enums = False

    def __len__(self) -> int:
        """Number of types, void included."""
        return len(self._starts)

    def _string(self, offset: int) -> str:
        end = self._strings.find(b"\0", offset, offset + _MAXIMUM_NAME)
        if end < 0:
            raise BtfError(f"a name of BTF at {offset:#x} is too long, or outside of its strings")
        if self._lost_names and any(
            start <= end and offset < stop for start, stop in self._lost_names
        ):
            return ""
        return self._strings[offset:end].decode("ascii", "replace")

    def _start(self, number: int) -> int:
        if not 0 < number < len(self._starts):
            raise self._no_type(number)
        start = self._starts[number]
        if start < 0:
            raise self._no_type(number)
        return start

    def _no_type(self, number: int) -> BtfError:
        if 0 < number < len(self._starts) or (number > 0 and not self._knows_last):
            return LostTypeError(f"type {number} of BTF is on, or behind, a page that is lost")
        return BtfError(f"BTF has no type {number}")

    def kind(self, number: int) -> Kind:
        """Returns the kind of a type."""
        if not 0 <= number < len(self._kinds) or self._kinds[number] == LOST:
            raise self._no_type(number)
        return _KINDS[self._kinds[number]]

    def name(self, number: int) -> str:
        """Returns the name of a type; empty for an anonymous one, for void, and for a lost name."""
        return self._string(self._words[self._start(number)]) if number else ""

    def target(self, number: int) -> int:
        """Returns the type that a pointer, modifier, variable or function refers to."""
        return self._words[self._start(number) + 2]

    def size(self, number: int) -> int:
        """Returns the size of a structure, union, enum, integer or float in bytes."""
        return self._words[self._start(number) + 2]

    def count(self, number: int) -> int:
        """Returns how many members a structure or an enum has."""
        return self._words[self._start(number) + 1] & 0xFFFF

    def is_union_forward(self, number: int) -> bool:
        """Whether a forward declaration is one of a union."""
        return bool(self._words[self._start(number) + 1] >> 31)

    def resolve(self, number: int) -> int:
        """Returns what remains of a type without typedefs and qualifiers.

        Raises:
            BtfError: the typedefs refer to each other in a circle.
        """
        for _ in range(_MAXIMUM_DEPTH):
            if self.kind(number) not in _MODIFIERS:
                return number
            number = self.target(number)
        raise BtfError(f"type {number} of BTF is a typedef of itself")

    def find(self, name: str, *kinds: Kind) -> Optional[int]:
        """Returns the first type of a name that is of one of the kinds, or None."""
        for number in self.names.get(name, ()):
            if self.kind(number) in kinds:
                return number
        return None

    def integer(self, number: int) -> Integer:
        """Decodes an integer type."""
        encoding = self._words[self._start(number) + 3] >> 24
        return Integer(self.name(number), self.size(number), bool(encoding & 1), bool(encoding & 4))

    def integer_bits(self, number: int) -> tuple[int, int]:
        """Returns (offset, size) in bits of an integer type; before 5.0 bitfields used these."""
        data = self._words[self._start(number) + 3]
        return (data >> 16) & 0xFF, data & 0xFF

    def array(self, number: int) -> tuple[int, int]:
        """Returns the type and the number of the elements of an array.

        Raises:
            BtfError: the type is no array.
        """
        start = self._start(number)
        if self.kind(number) is not Kind.ARRAY:
            raise BtfError(f"type {number} of BTF is no array")
        return self._words[start + 3], self._words[start + 5]

    def members(self, number: int) -> list[Member]:
        """Decodes the members of a structure or union; those whose names are lost are absent."""
        start = self._start(number)
        info = self._words[start + 1]
        count = self.count(number)
        words = self._words[start + 3 : start + 3 + 3 * count]
        members = []
        for position in range(0, 3 * count, 3):
            name, member_type, offset = words[position : position + 3]
            bits = 0
            if info >> 31:
                bits, offset = offset >> 24, offset & 0xFFFFFF
            text = self._string(name) if name else ""
            if text or not name:
                members.append(Member(text, member_type, offset, bits))
        return members

    def placed(self, member: Member) -> tuple[int, int]:
        """Returns where a member starts, in bits, and how many bits it has if it is a bit field.

        Before the kind flag a bit field was a member of an integer type of its own, which says it.
        """
        target = self.resolve(member.type)
        if not member.bit_size and self.kind(target) is Kind.INT:
            shift, bits = self.integer_bits(target)
            if shift or bits != 8 * self.size(target):
                return member.bit_offset + shift, bits
        return member.bit_offset, member.bit_size

    def enumerators(self, number: int) -> dict[str, int]:
        """Returns the names and values of an enum, without those whose names are lost."""
        start = self._start(number)
        info = self._words[start + 1]
        wide = self.kind(number) is Kind.ENUM64
        signed = self.enum_is_signed(number) or (self._signed_enums and not wide)
        step = 3 if wide else 2
        found: dict[str, int] = {}
        for position in range(start + 3, start + 3 + step * (info & 0xFFFF), step):
            value = self._words[position + 1]
            bits = 32
            if wide:
                value |= self._words[position + 2] << 32
                bits = 64
            if signed and value >> (bits - 1):
                value -= 1 << bits
            found[self._string(self._words[position])] = value
        if self._lost_names:
            found.pop("", None)
        return found

    def section_offsets(self, name: str) -> dict[int, int]:
        """Returns the variables of a section, with their offsets from its start."""
        found: dict[int, int] = {}
        for number in self.names.get(name, ()):
            if self.kind(number) is Kind.DATASEC:
                start = self._starts[number]
                end = start + 3 + 3 * (self._words[start + 1] & 0xFFFF)
                for position in range(start + 3, end, 3):
                    found[self._words[position]] = self._words[position + 1]
        return found

    def enum_is_signed(self, number: int) -> bool:
        """Whether the values of an enum have a sign."""
        return bool(self._words[self._start(number) + 1] >> 31)
