# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The names of kallsyms, and the index by which the kernel itself finds one of them.

A kernel has 150,000 names, of which a plugin asks for some fifty, so a name is expanded when it is
asked for. See `kallsyms` for how the tables are laid out.

The kernel's index (kallsyms_seqs_of_names) has the numbers of all symbols in the order of their
names, so a binary search finds a name after expanding seventeen. What the order is differs:
kernels that Clang built with link-time optimization order their names without what it put behind
them, from the first "." on (6.2 to 6.5) or from ".llvm." on (6.6 to 6.10: 8cc32a9bbf29,
020925ce9299). All of these agree on the part of a name before its first dot as long as no
character of any name sorts before the dot; so that part is what is searched for, and all names
that have it are compared.
"""

import array
import itertools
import sys
from collections.abc import ItemsView, Iterable, Iterator, Mapping, Sequence
from typing import Optional, Protocol

from volatility_guestdump.exceptions import KallsymsError

MARKER_INTERVAL = 256
SEQUENCE_SIZE = 3

#: What no symbol's name has.
SEPARATOR = "\n"

#: How many names are looked at to see whether they are in order. All of them would take as long as
#: to do without the index; those that a search meets are checked too.
_SAMPLES = 64

#: What clang's link-time optimization (CONFIG_LTO_CLANG_THIN) puts between the name of a static
#: function or variable and a hash, when it makes it known to other units.
_PROMOTED = ".llvm."

#: What ends the part of a name that the index is ordered by in every kernel.
_DOT = "."


class Strings(Protocol):
    """What there is one string of for each symbol."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> str: ...

    def __iter__(self) -> Iterator[str]: ...


class PackedNames:
    """Names with their types as the kernel keeps them.

    Args:
        packed: the table of names.
        blocks: offset in it of each 256th name.
        count: of the names.
        tokens: what each byte stands for.

    Attributes:
        names: the names without their types, expanded when they are asked for.
        types: the types, one character each.
    """

    def __init__(
        self, packed: bytes, blocks: Sequence[int], count: int, tokens: Sequence[bytes]
    ) -> None:
        self._packed = packed
        self._blocks = blocks
        self._count = count
        self._texts = [token.decode("latin-1") for token in tokens]
        self._whole: Optional[tuple[list[str], str]] = None
        #: Number -> (name, type) of those that were asked for.
        self._expanded: dict[int, tuple[str, str]] = {}
        self.names: Strings = _Names(self)
        self.types: Strings = _Types(self)

    def __len__(self) -> int:
        return self._count

    def symbol(self, number: int) -> tuple[str, str]:
        """Returns the name of a symbol and its type."""
        if self._whole is not None:
            names, types = self._whole
            return names[number], types[number]
        found = self._expanded.get(number)
        if found is None:
            found = self._expanded[number] = self._expand_one(number)
        return found

    def _expand_one(self, number: int) -> tuple[str, str]:
        if not 0 <= number < self._count:
            raise IndexError(number)
        packed = self._packed
        offset = self._blocks[number // MARKER_INTERVAL]
        for _ in range(number % MARKER_INTERVAL):
            length = packed[offset]
            offset += length + 1 if length < 0x80 else _long(packed, offset)
        length = packed[offset]
        end = offset + (length + 1 if length < 0x80 else _long(packed, offset))
        pieces = packed[offset + 1 if length < 0x80 else offset + 2 : end]
        text = "".join(map(self._texts.__getitem__, pieces))
        # The first character is the type, unless damage made the first token an empty one.
        return (text[1:], text[0]) if self._texts[pieces[0]] else (text, "?")

    def whole(self) -> tuple[list[str], str]:
        """Returns all names and all types, expanded once."""
        if self._whole is None:
            self._whole = self._expand()
        return self._whole

    def _expand(self) -> tuple[list[str], str]:
        """Expands all names at once, which takes half the time of one by one."""
        packed, texts = self._packed, self._texts
        heads = [text[:1] or "?" for text in texts]
        tails = [SEPARATOR + text[1:] for text in texts]
        pieces = list(map(texts.__getitem__, packed))
        types = []
        place = 0
        for _ in range(self._count):
            length = packed[place]
            end = place + (length + 1 if length < 0x80 else _long(packed, place))
            pieces[place] = ""
            place += 1
            if length & 0x80:
                pieces[place] = ""
                place += 1
            token = packed[place]
            types.append(heads[token])
            pieces[place] = tails[token]
            place = end
        return "".join(pieces[:place]).split(SEPARATOR)[1:], "".join(types)

    @property
    def sorts_below_dot(self) -> bool:
        """Whether a name may have a character that sorts before the dot."""
        return any(character < _DOT for text in self._texts for character in text)


def _long(packed: bytes, offset: int) -> int:
    """Returns how many bytes a name takes whose length has a second byte."""
    return 2 + (packed[offset] & 0x7F) + (packed[offset + 1] << 7)


class _Names:
    """The names alone."""

    def __init__(self, packed: PackedNames) -> None:
        self._packed = packed

    def __len__(self) -> int:
        return len(self._packed)

    def __getitem__(self, number: int) -> str:
        return self._packed.symbol(number)[0]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed.whole()[0])


class _Types(_Names):
    """The types alone."""

    def __getitem__(self, number: int) -> str:
        return self._packed.symbol(number)[1]

    def __iter__(self) -> Iterator[str]:
        return iter(self._packed.whole()[1])


class NameIndex(Mapping[str, int]):
    """Name -> number of the symbol; of several with one name the last global one, else the last.

    A name that clang made of another is known by that too, where no other symbol has it.

    Args:
        packed: the names.
        sequences: what may be the kernel's own index. Without any that is, all names are expanded
            with the first that is looked for.
    """

    def __init__(self, packed: PackedNames, sequences: Iterable[bytes] = ()) -> None:
        self._packed = packed
        orders = () if packed.sorts_below_dot else (_order(each, len(packed)) for each in sequences)
        self._order = next((order for order in orders if order is not None), None)
        self._whole: Optional[dict[str, int]] = None
        #: Place in the order -> (what the name there sorts by, name, type, number of the symbol).
        self._seen: dict[int, tuple[str, str, str, int]] = {}
        #: What names sort by -> all names that have it, with the numbers of their symbols.
        self._groups: dict[str, dict[str, int]] = {}
        if self._order is not None and not self._looks_sorted():
            self._order = None

    @property
    def uses_kernels(self) -> bool:
        """Whether the kernel's own index serves to find names, so far."""
        return self._whole is None and self._order is not None

    def __getitem__(self, name: str) -> int:
        if self.uses_kernels:
            key = name.partition(_DOT)[0]
            group = self._groups.get(key)
            if group is None:
                try:
                    group = self._groups[key] = self._find(key)
                except _NotSortedError:
                    return self.whole()[name]
            return group[name]
        return self.whole()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.whole())

    def __len__(self) -> int:
        return len(self.whole())

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self.get(name) is not None

    def items(self) -> ItemsView[str, int]:
        """Returns the items, without a search for each."""
        return self.whole().items()

    def whole(self) -> dict[str, int]:
        """Returns it as a dictionary, made once."""
        if self._whole is None:
            self._whole = number_of_names(*self._packed.whole())
        return self._whole

    def _looks_sorted(self) -> bool:
        """Whether some of the names are in order, the first and the last among them."""
        last = len(self._packed) - 1
        keys = [self._at(last * sample // _SAMPLES)[0] for sample in range(_SAMPLES + 1)]
        return keys == sorted(keys)

    def _at(self, place: int) -> tuple[str, str, str, int]:
        found = self._seen.get(place)
        if found is None:
            assert self._order is not None
            number = self._order[place]
            name, kind = self._packed.symbol(number)
            found = self._seen[place] = name.partition(_DOT)[0], name, kind, number
        return found

    def _find(self, key: str) -> dict[str, int]:
        """Returns the names that have a key, by binary search.

        Raises:
            _NotSortedError: a name that was met is not where it should be.
        """
        low, high = 0, len(self._packed)
        # The keys before `low` and at `high`, where it was looked.
        below, above = "", None
        while low < high:
            middle = (low + high) // 2
            found = self._at(middle)[0]
            if found < below or (above is not None and found > above):
                raise _NotSortedError
            if found < key:
                low, below = middle + 1, found
            else:
                high, above = middle, found
        group: dict[str, tuple[bool, int]] = {}
        for place in range(low, len(self._packed)):
            found, name, kind, number = self._at(place)
            if found != key:
                if found < key:
                    raise _NotSortedError
                break
            group[name] = max(group.get(name, (False, -1)), (kind.isupper(), number))
        found_numbers = {name: number for name, (_, number) in group.items()}
        _add_promoted(found_numbers)
        return found_numbers


class _NotSortedError(KallsymsError):
    """Thrown when the names are not in the order that the kernel's index says."""


def number_of_names(names: Sequence[str], types: Iterable[str]) -> dict[str, int]:
    """Returns name -> number of the symbol, as `NameIndex` has it."""
    numbers = dict(zip(names, range(len(names))))
    if len(numbers) < len(names):
        is_global = map(str.isupper, types)
        numbers.update(itertools.compress(zip(names, range(len(names))), is_global))
    _add_promoted(numbers)
    return numbers


def _add_promoted(numbers: dict[str, int]) -> None:
    """Adds the names that symbols had before clang promoted them, where it is clear of which."""
    promoted: dict[str, list[int]] = {}
    for name, number in numbers.items():
        if _PROMOTED in name:
            promoted.setdefault(name.partition(_PROMOTED)[0], []).append(number)
    for name, of_name in promoted.items():
        if len(of_name) == 1:
            numbers.setdefault(name, of_name[0])


def _order(sequences: bytes, count: int) -> Optional["array.array[int]"]:
    """Decodes the kernel's index; None when it does not have each symbol once."""
    if len(sequences) != SEQUENCE_SIZE * count:
        return None
    # From three bytes, the highest first, to four bytes, the lowest first.
    words = bytearray(4 * count)
    for place in range(SEQUENCE_SIZE):
        words[place::4] = sequences[SEQUENCE_SIZE - 1 - place :: SEQUENCE_SIZE]
    order = array.array("I", bytes(words))
    if sys.byteorder == "big":
        order.byteswap()
    seen = bytearray(count)
    try:
        for number in order:
            seen[number] = 1
    except IndexError:
        return None
    return None if 0 in seen else order
