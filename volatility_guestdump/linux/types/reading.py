# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""How a kernel's structures are read: by the names of their members.

    tasks = Structures(kernel, types, "task_struct", "pid", "comm")
    task = tasks.at(address)
    task.integer("pid"), task.text("comm", 16), task.get("on_cpu")

A page that is not in the dump is an AddressError. A member that the types do not know is a
TypesError, and None of `get`.
"""

from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.exceptions import AddressError, TypesError
from volatility_guestdump.linux.finding.image import KernelMemory
from volatility_guestdump.linux.types.protocol import Field, Shape, Types
from volatility_guestdump.text import printable

#: What has more bits is no integer; a damaged type may say that it has billions.
_LARGEST_INTEGER = 64
#: Members that lie farther apart are not read together; task_struct has about 10 KiB.
_LARGEST_PIECE = 64 << 10


class Structures:
    """The structures of one name in a kernel's memory.

    Args:
        kernel: in whose memory they are.
        types: that describe them.
        name: of the structure.
        *together: members that are wanted of each; they are read at once, as there may be many.
            Those that the types do not know are left out.

    Attributes:
        name: as given.
    """

    def __init__(self, kernel: KernelMemory, types: Types, name: str, *together: str) -> None:
        self.name = name
        self._kernel = kernel
        self._types = types
        self._word = kernel.bits // 8
        self._fields: dict[str, Optional[Field]] = {}
        pieces = [
            (field.offset, self._end(field))
            for field in map(self.find, together)
            if field is not None
        ]
        #: Where what is read together begins and ends.
        self._piece = range(
            min((start for start, _ in pieces), default=0),
            max((end for _, end in pieces), default=0),
        )

    def _end(self, field: Field) -> int:
        """Returns the offset of the first byte behind a member."""
        if field.bit_size:
            return (field.bit_offset + field.bit_size + 7) // 8
        return field.offset + (self._word if field.shape is Shape.POINTER else field.size)

    @property
    def size(self) -> int:
        """Bytes of each.

        Raises:
            TypesError: that is not known.
        """
        return self._types.size_of(self.name)

    def find(self, path: str) -> Optional[Field]:
        """Returns a member; None where the types do not know it."""
        try:
            return self._fields[path]
        except KeyError:
            found = self._fields[path] = self._types.find(self.name, path)
            return found

    def field(self, path: str) -> Field:
        """Returns a member.

        Raises:
            TypesError: the types do not know it.
        """
        return self.find(path) or self._types.field(self.name, path)

    def offset(self, path: str) -> int:
        """Returns the offset of a member in bytes.

        Raises:
            TypesError: the types do not know it.
        """
        return self.field(path).offset

    def is_number(self, path: str) -> bool:
        """Whether `Struct.integer` can read a member."""
        field = self.find(path)
        return field is not None and self._bits(field) is not None

    def require(self, *paths: str) -> None:
        """Makes sure that the types know some members.

        Raises:
            TypesError: they do not.
        """
        for path in paths:
            self.field(path)

    def require_numbers(self, *paths: str) -> None:
        """Makes sure that `Struct.integer` can read some members.

        Raises:
            TypesError: it cannot.
        """
        for path in paths:
            if self._bits(self.field(path)) is None:
                raise self._no_integer(path)

    def _no_integer(self, path: str) -> TypesError:
        return TypesError(f"{self.name}.{path} is no integer of up to {_LARGEST_INTEGER} bits")

    def at(self, address: int) -> "Struct":
        """Returns the one at an address. What is read together is read now, where it can be."""
        data = b""
        if 0 < len(self._piece) <= _LARGEST_PIECE:
            try:
                data = self._kernel.read(address + self._piece.start, len(self._piece))
            except AddressError:
                # A page between them may be missing: each is read for itself then.
                data = b""
        return Struct(self, address, data, self._piece.start)

    def bare(self, address: int) -> "Struct":
        """Returns the one at an address, of which nothing is read until it is asked for."""
        return Struct(self, address, b"", 0)

    def containing(self, path: str, address: int) -> "Struct":
        """Returns the one whose member is at an address (container_of)."""
        return self.at(address - self.offset(path))

    def of(self, data: bytes) -> "Struct":
        """Returns one whose bytes have been read already."""
        return Struct(self, None, data, 0)

    def _bits(self, field: Field) -> Optional[int]:
        """Returns how many bits an integer has, or None when it is none."""
        if field.shape is Shape.POINTER:
            return 8 * self._word
        # An atomic_t, or a refcount_t, is a structure around an integer.
        bits = field.bit_size or (0 if field.shape is Shape.ARRAY else 8 * field.size)
        return bits if 0 < bits <= _LARGEST_INTEGER else None

    def integer(self, path: str, struct: "Struct") -> int:
        """Returns the value that a member has; see `Struct.integer`."""
        field = self.field(path)
        bits = self._bits(field)
        if bits is None:
            raise self._no_integer(path)
        shift = field.bit_offset % 8
        data = struct.read(field.offset, (shift + bits + 7) // 8)
        value = int.from_bytes(data, "little") >> shift & ((1 << bits) - 1)
        return value - (1 << bits) if field.signed and value >> (bits - 1) else value

    def read(self, address: int, length: int) -> bytes:
        """Reads the kernel's memory.

        Raises:
            AddressError: it is not in the dump.
        """
        return self._kernel.read(address, length)


class Struct:
    """A structure in a kernel's memory.

    Args:
        kind: what it is one of.
        address: where it is; None where its bytes are all that there is of it.
        data: of its bytes what has been read.
        start: offset of those.
    """

    __slots__ = ("_address", "_data", "_kind", "_start")

    def __init__(self, kind: Structures, address: Optional[int], data: bytes, start: int) -> None:
        self._kind = kind
        self._address = address
        self._data = data
        self._start = start

    @property
    def address(self) -> int:
        """Where it is."""
        assert self._address is not None, "what was made of bytes is not asked for its address"
        return self._address

    @property
    def size(self) -> int:
        """Its bytes.

        Raises:
            TypesError: their number is not known.
        """
        return self._kind.size

    def place(self, path: str) -> int:
        """Returns the address of a member.

        Raises:
            TypesError: the types do not know it.
        """
        return self.address + self._kind.offset(path)

    def read(self, offset: int, length: int) -> bytes:
        """Returns some of its bytes.

        Raises:
            AddressError: they are not in the dump.
        """
        first = offset - self._start
        if self._address is None or 0 <= first <= len(self._data) - length:
            return self._data[first : first + length]
        return self._kind.read(self._address + offset, length)

    def integer(self, path: str) -> int:
        """Returns the value of an integer, a pointer, or a structure as small as one (atomic_t).

        Raises:
            AddressError: it is not in the dump.
            TypesError: the types do not know it, or it is none of these.
        """
        return self._kind.integer(path, self)

    def get(self, path: str) -> Optional[int]:
        """Returns the same, or None where the types do not know such a member.

        Raises:
            AddressError: it is not in the dump.
        """
        return self._kind.integer(path, self) if self._kind.is_number(path) else None

    def text(self, path: str, limit: int) -> str:
        """Returns what an array of characters holds up to its first NUL, fit for the screen.

        Args:
            path: of the array.
            limit: the number of characters that are read of one that is longer, or whose length is
                not known.

        Raises:
            AddressError: it is not in the dump.
            TypesError: the types do not know it.
        """
        field = self._kind.field(path)
        return printable(self.read(field.offset, min(field.size or limit, limit)))

    def elements(self, path: str, kind: Structures, limit: int) -> "Iterator[Struct]":
        """Yields the structures of an array.

        Args:
            path: of the array.
            kind: what its elements are.
            limit: of a longer array the elements that are looked at.

        Raises:
            TypesError: the types do not know the array, or the size of its elements.
        """
        field, size = self._kind.field(path), kind.size
        for number in range(min(field.length, limit)):
            yield kind.at(self.address + field.offset + number * size)
