# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""BTF with pages missing among its types.

Nothing in BTF says where a type starts, nor what number it has: both follow from the types before
it. Behind a page that is lost, and so is zeros, they are found again in two steps.

1. Where types start: from the first word on from which a chain of sound types leads to the end, or
   to the next page that is lost. The page may have ended in the middle of a structure. The members
   that follow do not pass for types: where a type has its kind, a member has a type's number.
2. What number the first of them has: types refer to each other by their numbers, and not every kind
   may refer to every other. A function refers to its prototype, a section to its variables. Of the
   hundreds of numbers that are possible, one fits all the references there are.

Where no number fits, or more than one does, all types up to the next such piece are lost.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.linux.types.btf_kinds import (
    KIND_FLAG,
    MAXIMUM_TYPES,
    SIZES,
    VLEN,
    Kind,
)

#: Words behind a hole at which the first type may start: the largest structures and enums of a
#: kernel have some thousand members.
_REACH = 16 << 10
#: How many types have to follow where types are taken to start, if no end comes before.
_SURE = 64
#: References within a piece that have to fit a number.
_FEWEST_REFERENCES = 64
#: Words at which a type may start, and references held against a number, that are looked at behind
#: all holes together.
_STEPS = 1 << 24
#: Stands for the kind of a type that is lost.
LOST = 0xFF

#: Kinds of types that have no name, and of types that have one.
_NAMELESS = frozenset((Kind.PTR, Kind.ARRAY, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT))
_NAMED = frozenset((Kind.INT, Kind.TYPEDEF, Kind.FUNC, Kind.VAR, Kind.DATASEC, Kind.FLOAT))
#: Bits of the second word that no kind uses.
_UNUSED = 0x60FF0000

_VALUES = frozenset(
    (
        *(Kind.INT, Kind.PTR, Kind.ARRAY, Kind.STRUCT, Kind.UNION, Kind.ENUM, Kind.TYPEDEF),
        *(Kind.VOLATILE, Kind.CONST, Kind.RESTRICT, Kind.FLOAT, Kind.ENUM64, Kind.TYPE_TAG),
    )
)
#: What a pointer, a typedef or a qualifier may refer to: values, and these besides.
_ANY = _VALUES | {Kind.VOID, Kind.FWD, Kind.FUNC_PROTO}
_REFER = frozenset(
    (*(Kind.PTR, Kind.TYPEDEF, Kind.VOLATILE, Kind.CONST, Kind.RESTRICT), Kind.TYPE_TAG)
)


class Found(NamedTuple):
    """What is left of the types.

    Attributes:
        starts: where each type starts, in words, from that of type 0 on; -1 for what is lost.
        kinds: of the types; `LOST` for what is lost.
        whole: whether the last one is known, so that no number behind it is a type's.
    """

    starts: list[int]
    kinds: bytearray
    whole: bool


def types_around(words: Sequence[int], holes: Sequence[tuple[int, int]], strings: bytes) -> Found:
    """Finds the types that pages of zeros leave.

    Args:
        words: all of the types.
        holes: first word of each hole among them and the first behind it, ascending.
        strings: the names.
    """
    return _Walk(words, holes, strings).found()


class _Walk:
    def __init__(
        self, words: Sequence[int], holes: Sequence[tuple[int, int]], strings: bytes
    ) -> None:
        self._words = words
        self._holes = holes
        self._strings = strings
        self._starts = [-1]
        self._kinds = bytearray((Kind.VOID,))
        self._budget = Budget(_STEPS)

    def found(self) -> Found:
        """Walks over all pieces.

        Raises:
            BtfError: there is a type of an unknown kind, or the last is cut off.
        """
        end, position, certain = len(self._words), 0, True
        #: The most types that may have been passed over since a number was certain.
        passed = 0
        for hole, behind in (*self._holes, (end, end)):
            if position < hole:
                piece, following = self._chain(position, hole)
                number = len(self._starts) if certain else self._number(piece, passed, hole == end)
                certain = number is not None
                if number is None:
                    passed += len(piece)
                else:
                    self._add(number, piece, lost=following > hole)
                    passed = 0
                position = following
            if position < behind:
                # None of the types between has fewer than three words.
                entry = self._entry(behind)
                passed += (entry - position) // 3
                position, certain = entry, False
        return Found(self._starts, self._kinds, certain)

    def _add(self, number: int, piece: Sequence[int], *, lost: bool) -> None:
        """Adds a piece whose first type has a number; `lost` is whether its last one is."""
        before = number - len(self._starts)
        self._starts += [-1] * before
        self._kinds += bytes((LOST,)) * before
        self._starts += piece
        self._kinds += self._kinds_of(piece)
        if lost and piece:
            self._starts[-1], self._kinds[-1] = -1, LOST

    def _kinds_of(self, piece: Sequence[int]) -> bytes:
        return bytes(self._words[start + 1] >> 24 & 0x1F for start in piece)

    def _behind(self, start: int) -> int:
        info = self._words[start + 1]
        fixed, each = SIZES[info >> 24 & 0x1F]
        return start + fixed + each * (info & VLEN)

    def _chain(self, position: int, end: int) -> tuple[list[int], int]:
        """Returns where types start whose first three words lie before an end, and what follows.

        Raises:
            BtfError: one is of an unknown kind, or the very last one is cut off.
        """
        piece = []
        while position + 3 <= end:
            kind = self._words[position + 1] >> 24 & 0x1F
            if not SIZES[kind][0]:
                raise BtfError(f"a type of BTF is of an unknown kind, {kind}")
            piece.append(position)
            position = self._behind(position)
        if end == len(self._words) and position != end:
            raise BtfError("the last type of BTF is cut off")
        return piece, position

    def _entry(self, behind: int) -> int:
        """Returns where the first type behind a hole starts; the end where none is sure to."""
        end = next((hole for hole, _ in self._holes if hole >= behind), len(self._words))
        for start in range(behind, min(behind + _REACH, end)):
            position, count = start, 0
            while count < _SURE and position + 3 <= end and self._is_sound(position):
                position, count = self._behind(position), count + 1
            if not self._budget.take(1 + count):
                break
            reached = position == end if end == len(self._words) else position + 3 > end
            if count and (count == _SURE or reached):
                return start
        return end

    def _is_sound(self, start: int) -> bool:
        """Whether what starts at a word has all that its kind has."""
        name, info, last = self._words[start : start + 3]
        number, count = info >> 24 & 0x1F, info & VLEN
        if not SIZES[number][0] or info & _UNUSED or (name and not self._is_name(name)):
            return False
        kind = Kind(number)
        if (kind in _NAMELESS and name) or (kind in _NAMED and not name):
            return False
        if not SIZES[number][1] and count and kind is not Kind.FUNC:
            return False
        if kind is Kind.INT or kind is Kind.FLOAT:
            return last in (1, 2, 4, 8, 10, 12, 16)
        if kind is Kind.ENUM or kind is Kind.ENUM64:
            return last in (1, 2, 4, 8)
        if kind in (Kind.STRUCT, Kind.UNION, Kind.DATASEC):
            return last < 1 << 28
        return last <= MAXIMUM_TYPES and not (info & KIND_FLAG and kind in _NAMELESS)

    def _is_name(self, offset: int) -> bool:
        """Whether a name starts at an offset; it may have been lost."""
        return offset < len(self._strings) and not self._strings[offset - 1]

    def _references(self, start: int) -> Iterator[tuple[int, frozenset[int]]]:
        """Yields the numbers of types that one refers to, each with the kinds that it may be of."""
        words = self._words
        info, last = words[start + 1], words[start + 2]
        kind, count = info >> 24 & 0x1F, info & VLEN
        if kind == Kind.FUNC:
            yield last, frozenset((Kind.FUNC_PROTO,))
        elif kind == Kind.ARRAY:
            yield words[start + 3], _VALUES | {Kind.FWD}
            yield words[start + 4], frozenset((Kind.INT,))
        elif kind in (Kind.STRUCT, Kind.UNION):
            for place in range(start + 4, start + 3 + 3 * count, 3):
                yield words[place], _VALUES
        elif kind == Kind.FUNC_PROTO:
            yield last, _VALUES | {Kind.VOID}
            for place in range(start + 4, start + 3 + 2 * count, 2):
                yield words[place], _VALUES | {Kind.VOID}
        elif kind == Kind.VAR:
            yield last, _VALUES | {Kind.FWD}
        elif kind == Kind.DATASEC:
            for place in range(start + 3, start + 3 + 3 * count, 3):
                yield words[place], frozenset((Kind.VAR, Kind.FUNC))
        elif kind in _REFER:
            yield last, _ANY

    def _number(self, piece: Sequence[int], passed: int, last: bool) -> Optional[int]:
        """Returns the number of the first type of a piece, or None where that is not certain.

        Args:
            piece: where its types start.
            passed: the most types that may lie before it without a number.
            last: whether no other piece follows.
        """
        first, kinds = len(self._starts), self._kinds_of(piece)
        # What the last of them refers to may lie in the next hole.
        whole = piece if last else piece[:-1]
        references = [
            (target, allowed)
            for start in whole
            for target, allowed in self._references(start)
            if target >= first
        ]
        fitting = [
            number
            for number in range(first, first + passed + 1)
            if not self._budget.is_spent and self._fits(number, kinds, references, last)
        ]
        # Where not all numbers were tried another one may fit too.
        return fitting[0] if len(fitting) == 1 and not self._budget.is_spent else None

    def _fits(
        self,
        number: int,
        kinds: bytes,
        references: Sequence[tuple[int, frozenset[int]]],
        last: bool,
    ) -> bool:
        """Whether enough references lead into a piece, and each to a kind that it may lead to."""
        looked_at = inside = 0
        fits = True
        for target, allowed in references:
            looked_at += 1
            place = target - number
            if 0 <= place < len(kinds):
                inside += 1
                fits = kinds[place] in allowed
            else:
                fits = place < 0 or not last
            if not fits:
                break
        self._budget.take(1 + looked_at)
        return fits and inside >= _FEWEST_REFERENCES
