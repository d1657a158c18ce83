# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Makes BTF from its definition, Documentation/bpf/btf.rst of Linux, and not by our reader."""

import struct
from collections.abc import Mapping, Sequence
from typing import Optional, Union

#: (name, type) or, with the offset and the size of a bitfield in bits, (name, type, offset, size).
Field = Union[tuple[str, int, int], tuple[str, int, int, int]]

SIGNED, CHAR, BOOL = 1, 2, 4

_U32 = (1 << 32) - 1


def header(
    types: int,
    strings: int,
    *,
    magic: int = 0xEB9F,
    version: int = 1,
    length: int = 24,
    types_at: int = 0,
    strings_at: Optional[int] = None,
    order: str = "<",
) -> bytes:
    """Returns the header for sections of some sizes, which start behind `length` bytes.

    Args:
        types: size of the types.
        strings: size of the strings.
        magic: of the header.
        version: of the header.
        length: of the header as it says.
        types_at: offset of the types.
        strings_at: offset of the strings; right behind the types by default.
        order: of bytes, as struct has it.
    """
    at = types_at + types if strings_at is None else strings_at
    return struct.pack(f"{order}HBBIIIII", magic, version, 0, length, types_at, types, at, strings)


class BtfBuilder:
    """Collects types. Each method that adds one returns its number."""

    def __init__(self) -> None:
        self.types: list[bytes] = []
        self.strings = bytearray(b"\0")
        self._offsets: dict[bytes, int] = {b"": 0}

    @property
    def next(self) -> int:
        """The number of the type that is added next, for what refers to it before."""
        return len(self.types) + 1

    def string(self, text: Union[str, bytes]) -> int:
        """Adds a string, and returns its offset."""
        data = text.encode() if isinstance(text, str) else text
        if data not in self._offsets:
            self._offsets[data] = len(self.strings)
            self.strings += data + b"\0"
        return self._offsets[data]

    def add(
        self,
        kind: int,
        name: Union[str, bytes, int] = "",
        last: int = 0,
        extra: Sequence[int] = (),
        count: int = 0,
        flag: bool = False,
    ) -> int:
        """Adds a type of any kind.

        Args:
            kind: its number.
            name: of the type, or the name's offset.
            last: size, or the type that is referred to.
            extra: the words that follow.
            count: vlen.
            flag: the kind flag.
        """
        at = name if isinstance(name, int) else self.string(name)
        words = [at, count | kind << 24 | flag << 31, last, *extra]
        self.types.append(struct.pack(f"<{len(words)}I", *(word & _U32 for word in words)))
        return len(self.types)

    def int_(
        self, name: str, size: int, encoding: int = 0, bits: Optional[int] = None, offset: int = 0
    ) -> int:
        """Adds an integer."""
        bits = 8 * size if bits is None else bits
        return self.add(1, name, size, [encoding << 24 | offset << 16 | bits])

    def ptr(self, to: int) -> int:
        """Adds a pointer."""
        return self.add(2, "", to)

    def array(self, element: int, count: int, index: int = 1) -> int:
        """Adds an array."""
        return self.add(3, "", 0, [element, index, count])

    def _composite(
        self, kind: int, name: str, size: int, fields: Sequence[Field], flag: Optional[bool]
    ) -> int:
        flag = any(len(field) > 3 for field in fields) if flag is None else flag
        words: list[int] = []
        for label, number, offset, *bits in fields:
            words += [self.string(label), number, offset | (bits[0] << 24 if bits else 0)]
        return self.add(kind, name, size, words, len(fields), flag)

    def struct(
        self, name: str, size: int, fields: Sequence[Field] = (), flag: Optional[bool] = None
    ) -> int:
        """Adds a structure, with the kind flag when it has bitfields or when `flag` says so."""
        return self._composite(4, name, size, fields, flag)

    def union(
        self, name: str, size: int, fields: Sequence[Field] = (), flag: Optional[bool] = None
    ) -> int:
        """Adds a union."""
        return self._composite(5, name, size, fields, flag)

    def enum(
        self, name: str, values: Mapping[str, int], size: int = 4, signed: bool = False
    ) -> int:
        """Adds an enum."""
        words = [word for key, value in values.items() for word in (self.string(key), value)]
        return self.add(6, name, size, words, len(values), signed)

    def enum64(
        self, name: str, values: Mapping[str, int], size: int = 8, signed: bool = False
    ) -> int:
        """Adds an enum of 64 bits."""
        words: list[int] = []
        for key, value in values.items():
            words += [self.string(key), value & _U32, value >> 32]
        return self.add(19, name, size, words, len(values), signed)

    def fwd(self, name: str, union: bool = False) -> int:
        """Adds a forward declaration."""
        return self.add(7, name, flag=union)

    def typedef(self, name: str, of: int) -> int:
        """Adds a typedef."""
        return self.add(8, name, of)

    def volatile(self, of: int) -> int:
        """Adds a qualifier."""
        return self.add(9, "", of)

    def const(self, of: int) -> int:
        """Adds a qualifier."""
        return self.add(10, "", of)

    def restrict(self, of: int) -> int:
        """Adds a qualifier."""
        return self.add(11, "", of)

    def func(self, name: str, prototype: int, linkage: int = 0) -> int:
        """Adds a function."""
        return self.add(12, name, prototype, count=linkage)

    def func_proto(self, result: int, parameters: Sequence[tuple[str, int]] = ()) -> int:
        """Adds the type of a function."""
        words = [word for name, number in parameters for word in (self.string(name), number)]
        return self.add(13, "", result, words, len(parameters))

    def var(self, name: str, of: int, linkage: int = 1) -> int:
        """Adds a variable."""
        return self.add(14, name, of, [linkage])

    def datasec(self, name: str, size: int, variables: Sequence[tuple[int, int, int]]) -> int:
        """Adds a section with variables, each (number, offset, size)."""
        words = [word for variable in variables for word in variable]
        return self.add(15, name, size, words, len(variables))

    def float_(self, name: str, size: int) -> int:
        """Adds a floating-point number."""
        return self.add(16, name, size)

    def decl_tag(self, tag: str, of: int, component: int = -1) -> int:
        """Adds a tag of a declaration."""
        return self.add(17, tag, of, [component])

    def type_tag(self, tag: str, of: int) -> int:
        """Adds a tag of a type."""
        return self.add(18, tag, of)

    def build(self) -> bytes:
        """Returns header, types and strings."""
        types = b"".join(self.types)
        return header(len(types), len(self.strings)) + types + bytes(self.strings)
