# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
r"""The kernel's own symbol table (kallsyms), found and decoded in the kernel's image.

A kernel built with CONFIG_KALLSYMS carries the names and addresses of its functions, and with
CONFIG_KALLSYMS_ALL also those of its variables, to name what it prints in a trace. The tables are
written by scripts/kallsyms.c when the kernel is linked:

names          The symbols in ascending order of address. Each is a length and so many bytes, and
               each byte is the number of a *token*: a string of one or more characters that often
               occur in names, as "_init" or "trace_". A name is its tokens, one after the other.
               The first character of the result is no part of the name, but the type of the symbol
               as nm(1) shows it ("T" for a function). So the bytes 3, 0x54, 0xa0, 0x15 are three
               tokens; if these are "Tsch", "ed", "ule" they say that schedule is a function.
num_syms       How many symbols there are, u32.
token_table    The 256 tokens in the order of their numbers, each a string that ends in NUL.
token_index    Where each of them starts in token_table, u16. A token is so found in one step.
markers        Where each 256th symbol starts in names. To reach symbol n one starts at marker
               n // 256 and hops over n % 256 lengths.
addresses      The address of each symbol, in one of the encodings below.
seqs_of_names  The numbers of the symbols in the order of their names, three bytes each with the
               most significant first: a name is found by binary search (`kallsyms_names`).

The variants, with the kernels that have them:

length of a name
    to 6.0       One byte.
    from 6.1     With bit 7 set a second byte follows that has the bits from 7 up (73bbb94466fd,
                 "kallsyms: support "big" kernel symbols"). An older table can be read by the same
                 rule, for none of its lengths has bit 7: names were at most 127 characters then
                 (KSYM_NAME_LEN was 128), and a name never has more tokens than characters.
markers
    to 4.20      unsigned long.
    from 5.0     u32 (80ffbaa5b1bd, "kallsyms: reduce size a little on 64-bit").
order, each table aligned to eight bytes (to four in 32-bit kernels and, seen in 7.2, in kernels
with place-relative addresses)
    to 6.1       addresses, num_syms, names, markers, token_table, token_index
    6.2, 6.3     addresses, num_syms, names, markers, seqs_of_names, token_table, token_index
                 (60443c88f3a8, "kallsyms: Improve the performance of kallsyms_lookup_name()";
                 19bd8981dc2e made an entry three bytes instead of four before 6.2 was released;
                 stable kernels of before have them too, as Debian's 6.1)
    from 6.4     num_syms, names, markers, token_table, token_index, addresses, seqs_of_names
                 (404bad70fcf7, "kallsyms: change the output order")
addresses
    absolute           unsigned long, the address itself. To 4.5; later, to 6.14, only without
                       CONFIG_KALLSYMS_BASE_RELATIVE.
    relative           u32 offsets, and behind them one address that they are relative to. From 4.6
                       (2213e9a66bb8, "kallsyms: add support for relative offsets in kallsyms
                       address table"), where CONFIG_KALLSYMS_ABSOLUTE_PERCPU is not set.
    absolute percpu    The same with i32 offsets: one that is not negative is an address of its own
                       (a per-CPU variable's, which on x86-64 counts from 0), a negative n stands
                       for base - 1 - n. 4.6 to 6.14, with CONFIG_KALLSYMS_ABSOLUTE_PERCPU, which
                       x86-64 with SMP sets (01157ddc58dc removed it).
    place-relative     i32 offsets from the place of the entry itself. Seen from 7.0 on.

No variant is taken by the kernel's version: distributions backport. Nothing in memory points at
the tables that could be followed without symbols, but they check each other. The token table is
the anchor: the token of each digit is that digit alone, for a character that is used in a name is
its own token, and every kernel has symbols with each digit. So the bytes "0\0" "1\0" .. "9\0"
are in it; and token_index has to agree with it entry for entry. num_syms and names are found from
there backwards, by decoding: of a candidate, all names and all markers have to agree. Which
encoding the addresses have is decided by which one gives a known symbol its known address.
"""

import enum
import functools
import itertools
import operator
import struct
from bisect import bisect_left, bisect_right
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump.exceptions import KallsymsError
from volatility_guestdump.linux.holes import Holes
from volatility_guestdump.linux.symbols.kallsyms_names import (
    MARKER_INTERVAL,
    SEPARATOR,
    SEQUENCE_SIZE,
    NameIndex,
    PackedNames,
    Strings,
    number_of_names,
)

_DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
#: How many tokens there are.
TOKENS = 256
#: Of token_index, in bytes.
TOKEN_INDEX_SIZE = 2 * TOKENS

#: Far more than any kernel has: a distribution's kernel has about 200,000.
_MAXIMUM_SYMBOLS = 1 << 22
#: Fewer than any kernel has.
MINIMUM_SYMBOLS = 256
#: Tokens longer than a whole name (KSYM_NAME_LEN is 512) would only serve to exhaust memory.
_MAXIMUM_TOKEN = 512
#: Bytes that a symbol takes on average in names, markers and seqs_of_names; it is about 12.
_SHORTEST = 2
_LONGEST = 512
#: Far more than the names of any kernel have together: about 5 MiB.
_MAXIMUM_TEXT = 256 << 20
#: How far before token_table num_syms is looked for, and in what portions.
_SEARCH_LIMIT = 16 << 20
_SEARCH_PORTION = 2 << 20

#: Steps of a search, of less than a tenth of a microsecond: a kernel's takes a million.
_WORK_LIMIT = 32 << 20

#: Types that nm(1) gives to the symbols of a kernel.
SYMBOL_TYPES = frozenset("AaBbCcDdGgIiNnRrSsTtUuVvWw?-")
_TYPES = frozenset(map(ord, SYMBOL_TYPES))


class Encoding(enum.Enum):
    """How the table keeps the addresses."""

    ABSOLUTE = "absolute"
    RELATIVE = "relative"
    ABSOLUTE_PERCPU = "absolute percpu"
    PLACE_RELATIVE = "place-relative"


class Symbol(NamedTuple):
    """A symbol of the kernel.

    Attributes:
        name: without the type.
        type: as nm(1) shows it; upper case is global.
        address: in the running kernel, KASLR included.
        relocated: whether the address moves with KASLR; a per-CPU variable's may not.
    """

    name: str
    type: str
    address: int
    relocated: bool


class Numbers(Protocol):
    """What there is one number of for each symbol."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> int: ...

    def __iter__(self) -> Iterator[int]: ...


class Kallsyms:
    """The symbols of a kernel, in the order of its table.

    Args:
        names: without the types.
        types: one character for each name.
        index: name -> number of the symbol.
        addresses: one for each name.
        encoding: how the addresses were kept.
        tables: symbols of kallsyms' own tables, which it leaves out, with their addresses.
        bits: of an address.
        gaps: where symbols are lost: (first address that may be one's, address of the next that is
            there), ascending.
        lost: how many symbols of the table are absent, because a page of it is missing.

    Attributes:
        index: as given. Of several symbols with one name it has the global one, else the last, as
            a linker's symbol table read from start to end would leave it. Where clang made
            "name.llvm.123" of a static "name", and no other symbol has that, it has both.
        encoding: as given.
        tables: as given.
        lost: as given.
    """

    def __init__(
        self,
        names: Strings,
        types: Strings,
        index: Mapping[str, int],
        addresses: "Numbers",
        encoding: Encoding,
        tables: Mapping[str, int],
        bits: int = 64,
        gaps: Sequence[tuple[int, int]] = (),
        lost: int = 0,
    ) -> None:
        self._names = names
        self._types = types
        self.index = index
        self._addresses = addresses
        self.encoding = encoding
        self.tables = tables
        self.lost = lost
        self._gap_starts = [start for start, _ in gaps]
        self._gap_ends = [end for _, end in gaps]
        # What lies below the kernel's half of the address space is a per-CPU offset or a constant.
        self._kernel_half = 1 << (bits - 1)
        start = index.get("_text", index.get("_stext"))
        if bits == 32 and start is not None:
            # How much of it the kernel has is configured there (CONFIG_VMSPLIT_1G to _3G).
            self._kernel_half = min(self._kernel_half, addresses[start])

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> Symbol:
        address = self._addresses[index]
        return Symbol(self._names[index], self._types[index], address, address >= self._kernel_half)

    def __iter__(self) -> Iterator[Symbol]:
        for name, kind, address in zip(self._names, self._types, self._all_addresses):
            yield Symbol(name, kind, address, address >= self._kernel_half)

    def find(self, name: str) -> Optional[Symbol]:
        """Returns the symbol of a name, or None."""
        number = self.index.get(name)
        return None if number is None else self[number]

    def address(self, name: str) -> Optional[int]:
        """Returns the address of a symbol in the running kernel, or None."""
        number = self.index.get(name)
        return None if number is None else self._addresses[number]

    @functools.cached_property
    def _all_addresses(self) -> Sequence[int]:
        return list(self._addresses)

    @functools.cached_property
    def _by_address(self) -> tuple[Sequence[int], Sequence[int]]:
        """(addresses in ascending order, number of the symbol at each)."""
        addresses = self._all_addresses
        ascending = sorted(addresses)
        # A kernel's table has them in order already.
        if all(map(operator.eq, addresses, ascending)):
            return ascending, range(len(self))
        order = sorted(range(len(self)), key=addresses.__getitem__)
        return ascending, order

    def at(self, address: int) -> Optional[tuple[Symbol, int]]:
        """Returns the symbol that an address belongs to, and the offset from its start.

        Of several symbols at one place it is the first of the table, as the kernel prints it. It is
        None too where the address may belong to a symbol that is lost.
        """
        addresses, order = self._by_address
        last = bisect_right(addresses, address) - 1
        if last < 0 or addresses[last] < self._kernel_half:
            return None
        gap = bisect_right(self._gap_starts, address) - 1
        if gap >= 0 and address < self._gap_ends[gap]:
            return None
        first = bisect_left(addresses, addresses[last])
        return self[order[first]], address - addresses[first]

    def between(self, first: int, last: int) -> Iterator[Symbol]:
        """Yields the symbols from one address to another, both included, ascending."""
        addresses, order = self._by_address
        for place in range(bisect_left(addresses, first), bisect_right(addresses, last)):
            yield self[order[place]]

    def next_address(self, address: int) -> Optional[int]:
        """Returns the address of the nearest symbol above an address, or None.

        None too where that may be of a symbol that is lost.
        """
        addresses, _ = self._by_address
        index = bisect_right(addresses, address)
        if index == len(addresses):
            return None
        gap = bisect_right(self._gap_ends, address)
        if gap < len(self._gap_starts) and self._gap_starts[gap] < addresses[index]:
            return None
        return addresses[index]


def find_kallsyms(
    image: bytes, base: int, known: Sequence[tuple[str, Container[int]]], bits: int = 64
) -> Kallsyms:
    """Finds and decodes the symbol table in a kernel's image.

    Args:
        image: the kernel's memory, or at least its read-only data.
        base: virtual address of the image's first byte, a multiple of 8.
        known: names of symbols with the addresses that they may have, the surest first.
        bits: of an address.

    Raises:
        KallsymsError: there is no table, or none that gives a known symbol its address.
    """
    reason = "the kernel has no symbol table (kallsyms), or a damaged one"
    work = Work()
    for unit in (8, 4) if bits == 64 else (4,):
        tables = Tables(image, base, bits, unit, work)
        for token_table, token_index, tokens in tables.token_tables():
            for num_syms, count in tables.counts(token_table, tokens):
                found = tables.names(num_syms, count, token_table)
                if found is None:
                    continue
                if text_too_large(found.packed, tokens):
                    reason = "the names in kallsyms would take too much memory"
                    continue
                candidates = list(tables.addresses(num_syms, count, token_index + TOKEN_INDEX_SIZE))
                packed = PackedNames(found.packed, found.blocks, count, tokens)
                index = NameIndex(packed, tables.sequences(found, candidates, count, token_table))
                checks = [(index[name], places) for name, places in known if name in index]
                if not checks:
                    continue
                for (number, places), candidate in itertools.product(checks, candidates):
                    if candidate[number] not in places:
                        continue
                    lost = candidate.lost(Holes(image, base, *candidate.extent))
                    if lost:
                        if number in lost:
                            continue
                        return with_losses(packed.names, packed.types, candidate, lost, bits)
                    offsets = candidate.tables
                    offsets["kallsyms_num_syms"] = num_syms
                    offsets["kallsyms_names"] = num_syms + unit
                    offsets["kallsyms_markers"] = found.markers
                    offsets["kallsyms_token_table"] = token_table
                    offsets["kallsyms_token_index"] = token_index
                    if token_table - found.end >= SEQUENCE_SIZE * count:
                        offsets["kallsyms_seqs_of_names"] = tables.align(found.end)
                    return Kallsyms(
                        packed.names,
                        packed.types,
                        index,
                        candidate.alone(),
                        candidate.encoding,
                        {name: base + offset for name, offset in offsets.items()},
                        bits,
                    )
                reason = "no encoding of the addresses in kallsyms gives known symbols their place"
    raise KallsymsError(reason)


class Work:
    """What a search may cost; without a limit decoys could make it take hours."""

    def __init__(self) -> None:
        self._left = _WORK_LIMIT

    def spend(self, units: int) -> None:
        """Counts steps of a search.

        Raises:
            KallsymsError: they are too many.
        """
        self._left -= units
        if self._left < 0:
            raise KallsymsError("the kernel has too much that only looks like kallsyms")


class Tables:
    """A search for the tables with one alignment.

    Args:
        image: the kernel's memory.
        base: its virtual address.
        bits: of an address.
        unit: what the tables are aligned to, in bytes.
        work: of the whole search.
    """

    def __init__(self, image: bytes, base: int, bits: int, unit: int, work: Work) -> None:
        self._image = image
        self._base = base
        self._bits = bits
        self._unit = unit
        self._work = work

    def align(self, offset: int) -> int:
        """Returns the place of a table that follows what ends at an offset."""
        return -(-offset // self._unit) * self._unit

    def token_tables(self) -> Iterator[tuple[int, int, list[bytes]]]:
        """Yields (offset of token_table, offset of token_index, tokens) for each sound pair."""
        image = self._image
        digits = image.find(_DIGITS)
        while digits >= 0:
            self._work.spend(8 * TOKENS)
            # From the token "0" forward to the end of the last token.
            end = digits
            for _ in range(ord("0"), TOKENS):
                end = image.find(b"\0", end, end + _MAXIMUM_TOKEN) + 1
                if not end:
                    break
            index_at = self.align(end)
            if end and index_at + TOKEN_INDEX_SIZE <= len(image):
                index = struct.unpack_from(f"<{TOKENS}H", image, index_at)
                start = digits - index[ord("0")]
                if start >= 0:
                    tokens = image[start : end - 1].split(b"\0")
                    offset, offsets = 0, []
                    for token in tokens:
                        offsets.append(offset)
                        offset += len(token) + 1
                    if tuple(offsets) == index and SEPARATOR.encode() not in image[start:end]:
                        yield start, index_at, tokens
            digits = image.find(_DIGITS, digits + 1)

    def counts(
        self, end: int, tokens: list[bytes], holes: Optional[Holes] = None
    ) -> Iterator[tuple[int, int]]:
        """Yields (offset, value) of what may be num_syms, the nearest to `end` first.

        Args:
            end: offset of token_table.
            tokens: that names consist of.
            holes: in which names need not be.
        """
        image, unit = self._image, self._unit
        types = [bool(token) and token[0] in _TYPES for token in tokens]
        high = end - end % unit
        lowest = max(0, high - _SEARCH_LIMIT)
        while high > lowest:
            low = max(lowest, high - _SEARCH_PORTION)
            low += -low % unit
            self._work.spend((high - low) // unit)
            upper = _upper_bytes(image[low:high], unit)
            index = upper.rfind(0)
            while index >= 0:
                offset = low + index * unit
                count = int.from_bytes(image[offset : offset + 3], "little")
                if MINIMUM_SYMBOLS <= count < _MAXIMUM_SYMBOLS:
                    room = end - offset - unit
                    # Cheap, and refuses nearly every number that is not num_syms.
                    if _SHORTEST * count <= room <= _LONGEST * count and self._starts_names(
                        offset + unit, end, types, holes
                    ):
                        yield offset, count
                index = upper.rfind(0, 0, index)
            high = low

    def _starts_names(
        self, offset: int, end: int, types: Sequence[bool], holes: Optional[Holes]
    ) -> bool:
        """Whether the first few names at an offset have the type of a symbol."""
        self._work.spend(8)
        for _ in range(8):
            if offset + 2 >= end:
                return False
            if holes and holes.touch(offset, offset + 3):
                return True
            length = self._image[offset]
            offset += 1
            if length & 0x80:
                length = (length & 0x7F) | (self._image[offset] << 7)
                offset += 1
            if not length or not types[self._image[offset]]:
                return False
            offset += length
        return True

    def names(self, position: int, count: int, limit: int) -> Optional["_NamesTable"]:
        """Checks what lies behind num_syms for names and markers.

        Returns:
            The names. None when they run into `limit`, or when no markers that agree with them
            follow.
        """
        image = self._image
        first = offset = position + self._unit
        blocks = []
        for number in range(0, count, MARKER_INTERVAL):
            blocks.append(offset - first)
            offset = self.skip_names(offset, min(MARKER_INTERVAL, count - number), limit)
            if not offset:
                return None
        at = self.align(offset)
        # They were unsigned longs up to 4.20 (80ffbaa5b1bd).
        for code, size in (("I", 4), ("Q", 8)):
            end = at + size * len(blocks)
            if end <= limit and image[at:end] == struct.pack(f"<{len(blocks)}{code}", *blocks):
                return _NamesTable(image[first:offset], blocks, at, end)
        return None

    def skip_names(self, offset: int, count: int, limit: int) -> int:
        """Returns the offset behind some names, or 0 when they have no sound lengths."""
        image = self._image
        self._work.spend(count)
        try:
            for _ in range(count):
                length = image[offset]
                if 0 < length < 0x80:
                    offset += 1 + length
                elif length:
                    offset += 2 + ((length & 0x7F) | (image[offset + 1] << 7))
                else:
                    return 0
        except IndexError:
            return 0
        return offset if offset <= limit else 0

    def sequences(
        self, names: "_NamesTable", candidates: Sequence["Addresses"], count: int, limit: int
    ) -> Sequence[bytes]:
        """Returns what may be seqs_of_names.

        Args:
            names: the table of names.
            candidates: the addresses in every encoding.
            count: of symbols.
            limit: offset of token_table.
        """
        size = SEQUENCE_SIZE * count
        places = [self.align(names.end)] if limit - names.end >= size else []
        places += [each.tables.get("kallsyms_seqs_of_names", -1) for each in candidates]
        return [self._image[at : at + size] for at in dict.fromkeys(places) if at >= 0]

    def addresses(self, num_syms: int, count: int, index_end: int) -> Iterator["Addresses"]:
        """Yields the addresses in every encoding and at every place where they may be."""
        size = self._bits // 8
        start = num_syms - self.align(size * count)
        if start >= 0:
            yield self._addresses(Encoding.ABSOLUTE, {"kallsyms_addresses": start}, start, count, 0)
        behind = self.align(index_end)
        for start in (num_syms - self.align(size) - self.align(4 * count), behind):
            base_at = start + self.align(4 * count)
            if start < 0 or base_at + size > len(self._image):
                continue
            base = int.from_bytes(self._image[base_at : base_at + size], "little")
            tables = {"kallsyms_offsets": start, "kallsyms_relative_base": base_at}
            if start == behind:
                tables["kallsyms_seqs_of_names"] = base_at + self.align(size)
            yield self._addresses(Encoding.RELATIVE, tables, start, count, base)
            yield self._addresses(Encoding.ABSOLUTE_PERCPU, tables, start, count, base)
            tables = {"kallsyms_offsets": start, "kallsyms_seqs_of_names": base_at}
            yield self._addresses(Encoding.PLACE_RELATIVE, tables, start, count, self._base + start)

    def _addresses(
        self, encoding: Encoding, tables: dict[str, int], start: int, count: int, base: int
    ) -> "Addresses":
        return Addresses(encoding, tables, self._image, start, count, base, self._bits)


class _NamesTable(NamedTuple):
    """The table of names with its markers, found sound.

    Attributes:
        packed: the names, from the length of the first on.
        blocks: offset in them of each 256th.
        markers: offset in the image of the markers.
        end: offset behind these.
    """

    packed: bytes
    blocks: Sequence[int]
    markers: int
    end: int


class Addresses:
    """Addresses in one of the encodings, each decoded when it is asked for.

    Args:
        encoding: which.
        tables: offsets of the tables that they are read from.
        data: has them.
        start: offset of the first.
        count: how many there are.
        base: what they are relative to; of place-relative ones the address of the first.
        bits: of an address.

    Attributes:
        encoding: as given.
        tables: as given.
    """

    def __init__(
        self,
        encoding: Encoding,
        tables: dict[str, int],
        data: bytes,
        start: int,
        count: int,
        base: int,
        bits: int,
    ) -> None:
        self.encoding = encoding
        self.tables = tables
        self._data = data
        self._start = start
        self._count = count
        self._base = base
        self._bits = bits

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> int:
        if not 0 <= number < self._count:
            raise IndexError(number)
        return self._decode(number, number + 1)[0]

    def __iter__(self) -> Iterator[int]:
        return iter(self._decode(0, self._count))

    def alone(self) -> "Addresses":
        """Returns the same without the rest of the kernel's memory, which is large."""
        size = self._size * self._count
        data = self._data[self._start : self._start + size]
        return Addresses(self.encoding, self.tables, data, 0, self._count, self._base, self._bits)

    @property
    def extent(self) -> tuple[int, int]:
        """Offset of the first, and offset behind the last."""
        return self._start, self._start + self._size * self._count

    def lost(self, holes: Holes) -> AbstractSet[int]:
        """Returns the numbers of those that lie in pages of zeros of the image."""
        ranges = holes.entries(self._start, self._size, self._count)
        return frozenset(itertools.chain.from_iterable(ranges))

    def relative(self, number: int) -> Optional[int]:
        """Returns an address without what it is relative to; None where it is relative to none."""
        (value,) = self._integers("i", number, number + 1)
        if self.encoding is Encoding.RELATIVE:
            return value & 0xFFFFFFFF
        if self.encoding is Encoding.ABSOLUTE_PERCPU and value < 0:
            return -1 - value
        return None

    def based(self, base: int) -> "Addresses":
        """Returns the same relative to another address."""
        return Addresses(
            *(self.encoding, self.tables, self._data, self._start, self._count, base, self._bits)
        )

    @property
    def _size(self) -> int:
        return self._bits // 8 if self.encoding is Encoding.ABSOLUTE else 4

    def _decode(self, first: int, end: int) -> Sequence[int]:
        """Returns the addresses of the symbols of some numbers."""
        base, mask = self._base, (1 << self._bits) - 1
        if self.encoding is Encoding.ABSOLUTE:
            return self._integers("Q" if self._bits == 64 else "I", first, end)
        if self.encoding is Encoding.RELATIVE:
            return [(base + value) & mask for value in self._integers("I", first, end)]
        values = self._integers("i", first, end)
        if self.encoding is Encoding.ABSOLUTE_PERCPU:
            return [value if value >= 0 else (base - 1 - value) & mask for value in values]
        places = range(base + 4 * first, base + 4 * end, 4)
        return [(place + value) & mask for place, value in zip(places, values)]

    def _integers(self, code: str, first: int, end: int) -> Sequence[int]:
        offset = self._start + self._size * first
        return struct.unpack_from(f"<{end - first}{code}", self._data, offset)


def _upper_bytes(words: bytes, size: int) -> bytes:
    """Returns one byte for each word: 0 when the word has no more than its lowest 24 bits."""
    combined = 0
    for place in range(3, size):
        combined |= int.from_bytes(words[place::size], "little")
    return combined.to_bytes(len(words) // size, "little")


def text_too_large(names: bytes, tokens: Sequence[bytes]) -> bool:
    """Whether names that consist of some tokens take more memory than those of any kernel."""
    if len(names) * max(map(len, tokens)) <= _MAXIMUM_TEXT:
        return False
    size = sum(names.count(number) * len(token) for number, token in enumerate(tokens))
    return size > _MAXIMUM_TEXT


def with_losses(
    names: Iterable[Optional[str]],
    types: Iterable[str],
    addresses: "Addresses",
    lost: Container[int],
    bits: int,
) -> Kallsyms:
    """Returns the symbols whose name and address are both there.

    Args:
        names: of all symbols in the order of the table; None for those that are lost.
        types: of those that have a name.
        addresses: of all symbols.
        lost: numbers of those whose address is lost.
        bits: of an address.
    """
    kind = iter(types)
    rows: list[tuple[str, str, int]] = []
    #: Where symbols may start that are lost.
    starts: list[int] = []
    ascends, any_lost, previous, count = True, False, 0, 0
    for number, (name, address) in enumerate(zip(names, addresses)):
        count += 1
        its_kind = "" if name is None else next(kind)
        if number in lost:
            # Behind the last that is known.
            starts.append(previous + 1)
            any_lost = True
            continue
        ascends = ascends and previous <= address
        previous = address
        if name is None:
            starts.append(address)
        else:
            rows.append((name, its_kind, address))
    if any_lost and not ascends:
        # Out of order, so lost symbols may have any address.
        starts = [0]
    ascending = sorted({address for _, _, address in rows})
    gaps: list[tuple[int, int]] = []
    for start in sorted(set(starts)):
        index = bisect_left(ascending, start)
        end = ascending[index] if index < len(ascending) else 1 << bits
        if start < end and (not gaps or gaps[-1][1] <= start):
            gaps.append((start, end))
    if any_lost and not ascends:
        gaps = [(0, 1 << bits)]
    found = [name for name, _, _ in rows]
    kinds = "".join(each for _, each, _ in rows)
    return Kallsyms(
        found,
        kinds,
        number_of_names(found, kinds),
        [address for _, _, address in rows],
        addresses.encoding,
        # No places of tables: a reader that does not know of holes would decode what is not there.
        {},
        bits,
        gaps,
        count - len(rows),
    )
