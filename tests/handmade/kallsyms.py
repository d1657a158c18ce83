# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernel images with a symbol table (kallsyms), as scripts/kallsyms.c of Linux writes it.

Written from the kernel's format and not from our reader. Addresses are the caller's; everything
else, also what lies around the tables, is the same in every run.
"""

import enum
import random
import re
import struct
from collections.abc import Sequence
from typing import NamedTuple, Optional

BASE = 0xFFFFFFFF82000000
BASE_32 = 0xC2000000


class Order(enum.Enum):
    """In which order a kernel keeps the tables, by the first version that has it."""

    ADDRESSES_FIRST = "to 6.1"
    WITH_SEQUENCES = "6.2"
    ADDRESSES_LAST = "from 6.4"


class Form(NamedTuple):
    """What kernels do differently.

    Attributes:
        order: of the tables.
        encoding: of the addresses, by the name that the reader's `Encoding` has for it.
        bits: of an address.
        unit: what the tables are aligned to.
        wide_markers: whether markers are unsigned longs (up to 4.20).
    """

    order: Order
    encoding: str
    bits: int = 64
    unit: int = 8
    wide_markers: bool = False


class Image(NamedTuple):
    """An image, and where its tables are.

    Attributes:
        data: the bytes.
        base: address of the first.
        bits: of an address.
        tables: name -> offset of each table.
        names: offset of each symbol's length.
        end: offset of the first byte behind the last table.
    """

    data: bytes
    base: int
    bits: int
    tables: dict[str, int]
    names: Sequence[int]
    end: int

    def at(self, table: str) -> int:
        """Returns the offset of a table of kallsyms."""
        return self.tables["kallsyms_" + table]

    def patched(self, offset: int, data: bytes) -> "Image":
        """Returns the image with other bytes at an offset."""
        return self._replace(data=self.data[:offset] + data + self.data[offset + len(data) :])


def tokens_of_kernel(extra: bytes = b"") -> list[bytes]:
    """Returns 256 tokens: what is a name's character is itself, the others are longer.

    Args:
        extra: characters of names that names usually do not have.
    """
    used = extra + b".0123456789?ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
    long = [b"Tsys_", b"T__x64_sys_", b"t__pfx_", b"Ttcp_", b"d__", b"_init", b"_exit", b"struct_"]
    pairs = [first + second for first in (b"s", b"t", b"_", b"re") for second in _single(used)]
    spare = iter(long + pairs)
    return [bytes([byte]) if byte in used else next(spare) for byte in range(256)]


def image(
    symbols: Sequence[tuple[str, str, int]],
    form: Form,
    tokens: Sequence[bytes] = (),
    suffix: Optional[str] = None,
) -> Image:
    """Makes the image of a kernel.

    Args:
        symbols: (name, type, address) in the order of the table.
        form: what the kernel does differently.
        tokens: other than the usual 256.
        suffix: where what a compiler puts behind a name starts, which does not count for the order
            of names in a kernel with link-time optimization: "." or ".llvm.".
    """
    dollar = b"$" if any("$" in name for name, _, _ in symbols) else b""
    tokens = tokens or tokens_of_kernel(dollar)
    base = BASE if form.bits == 64 else BASE_32
    noise = random.Random(1)
    data = bytearray(noise.randbytes(1003))
    tables: dict[str, int] = {}

    def put(name: str, content: bytes) -> None:
        data.extend(bytes(-len(data) % form.unit))
        tables["kallsyms_" + name] = len(data)
        data.extend(content)

    def put_addresses() -> None:
        data.extend(bytes(-len(data) % form.unit))
        addresses = [address for _, _, address in symbols]
        word = "<Q" if form.bits == 64 else "<I"
        if form.encoding == "absolute":
            put("addresses", b"".join(struct.pack(word, address) for address in addresses))
            return
        # The lowest address that is not a per-CPU variable's.
        origin = min(address for address in addresses if address >> (form.bits - 1))
        put("offsets", _offsets(addresses, form.encoding, origin, base + len(data)))
        if form.encoding != "place-relative":
            put("relative_base", struct.pack(word, origin))

    def put_sequences() -> None:
        def key(number: int) -> str:
            name = symbols[number][0]
            return name.partition(suffix)[0] if suffix else name

        by_name = sorted(range(len(symbols)), key=key)
        put("seqs_of_names", b"".join(number.to_bytes(3, "big") for number in by_name))

    names, places = _names(symbols, tokens)
    ends = [0]
    for token in tokens:
        ends.append(ends[-1] + len(token) + 1)
    if form.order is not Order.ADDRESSES_LAST:
        put_addresses()
    put("num_syms", struct.pack("<I", len(symbols)))
    put("names", names)
    code = "Q" if form.wide_markers else "I"
    put("markers", b"".join(struct.pack("<" + code, place) for place in places[::256]))
    if form.order is Order.WITH_SEQUENCES:
        put_sequences()
    put("token_table", b"".join(token + b"\0" for token in tokens))
    put("token_index", struct.pack("<256H", *(end & 0xFFFF for end in ends[:-1])))
    if form.order is Order.ADDRESSES_LAST:
        put_addresses()
        put_sequences()
    end = len(data)
    data.extend(noise.randbytes(1003))
    start = tables["kallsyms_names"]
    return Image(bytes(data), base, form.bits, tables, [start + place for place in places], end)


def _single(characters: bytes) -> list[bytes]:
    return [bytes([character]) for character in characters]


def _offsets(addresses: Sequence[int], encoding: str, origin: int, place: int) -> bytes:
    """Returns the addresses in four bytes each; `place` is the address of the first entry."""
    if encoding == "relative":
        return b"".join(struct.pack("<I", address - origin) for address in addresses)
    if encoding == "absolute percpu":
        return b"".join(
            struct.pack("<i", address if address < origin else origin - address - 1)
            for address in addresses
        )
    # To a per-CPU variable, whose address is near 0, it is forward around the end of memory.
    return b"".join(
        struct.pack("<I", address - (place + 4 * number) & 0xFFFFFFFF)
        for number, address in enumerate(addresses)
    )


def _names(
    symbols: Sequence[tuple[str, str, int]], tokens: Sequence[bytes]
) -> tuple[bytes, list[int]]:
    """Returns the table of names, and where in it each of them starts."""
    numbers = {token: number for number, token in enumerate(tokens)}
    longest = sorted(filter(None, tokens), key=len, reverse=True)
    parts = re.compile(b"|".join(map(re.escape, longest)))
    table, places = bytearray(), []
    for name, kind, _ in symbols:
        packed = bytes(numbers[token] for token in parts.findall((kind + name).encode("latin-1")))
        places.append(len(table))
        if len(packed) > 0x7F:
            table += bytes([len(packed) & 0x7F | 0x80, len(packed) >> 7])
        else:
            table.append(len(packed))
        table += packed
    return bytes(table), places
