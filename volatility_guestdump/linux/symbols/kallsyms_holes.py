# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""kallsyms with pages missing: a lost page costs the symbols in it.

Where an image of memory lacks a page, its reader has zeros (LiME writes them into the file). None
of kallsyms' tables has a page of zeros of its own, so such a page is a hole, and what lies in it
is lost. What the other pages have is used (`kallsyms` says what the tables are):

hole in            what is done
names              They are entered again at the next marker. Lost are the names in the hole and
                   those up to that marker.
markers            Names are decoded one after the other, as far as they have no hole of their own.
num_syms           The markers tell how many symbols there are but for the last 256, and these are
                   counted.
token_table        token_index tells where those start that remain. Without it they are counted, up
                   to the hole. Names that have a lost token are lost.
token_index        Nothing is lost: token_table says the same.
addresses          Their symbols are lost. What they are relative to follows from known symbols.
seqs_of_names      Nothing is lost: all names are expanded.

A symbol is lost when its name or its address is. It is absent then, and addresses from it up to the
next symbol have none: they would wrongly be shown as parts of the symbol before.

Nothing but pages of zeros is mended. Names that have no hole have to lead to the next marker, and
a known symbol has to have its address, as in a table that is whole.
"""

import itertools
import re
import struct
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import KallsymsError
from volatility_guestdump.linux.holes import Holes
from volatility_guestdump.linux.symbols.kallsyms import (
    MINIMUM_SYMBOLS,
    SYMBOL_TYPES,
    TOKEN_INDEX_SIZE,
    TOKENS,
    Addresses,
    Encoding,
    Kallsyms,
    Tables,
    Work,
    text_too_large,
    with_losses,
)
from volatility_guestdump.linux.symbols.kallsyms_names import (
    MARKER_INTERVAL,
    SEPARATOR,
    SEQUENCE_SIZE,
)

#: Tokens of the longest name: KSYM_NAME_LEN is 512, and its type comes before it.
_LONGEST_NAME = 513
#: What 256 names take at least, of a length and a token each, and at most.
_SHORTEST_BLOCK = 2 * MARKER_INTERVAL
_LONGEST_BLOCK = (_LONGEST_NAME + 2) * MARKER_INTERVAL
#: 0 and two offsets of blocks, as u32 and as unsigned long of 64 bits: what markers start with.
_MARKERS = (
    (4, re.compile(rb"(?=\0{4}.(?:[\2-\xff]\0|.[\1\2])\0.(?:[\4-\xff]\0|.[\1-\4])\0)", re.DOTALL)),
    (8, re.compile(rb"(?=\0{8}.(?:[\2-\xff]\0|.[\1\2])\0{5}.(?:[\4-\xff]\0|.[\1-\4])\0{5})", re.S)),
)
#: A kernel has a hundred and more; fewer other numbers happen to ascend like them.
_FEWEST_MARKERS = 6
#: Blocks of names that are looked at before all of them are decoded.
_SAMPLES = 4
#: What token_table and token_index take together in any kernel is far less.
_TOKENS_REACH = 16 << 10

_Known = Sequence[tuple[str, Container[int]]]


def find_damaged_kallsyms(image: bytes, base: int, known: _Known, bits: int = 64) -> Kallsyms:
    """Finds and decodes a symbol table of which pages are missing.

    Args:
        image: as for `find_kallsyms`, with zeros for the pages that are missing.
        base: virtual address of the image's first byte, a multiple of 8.
        known: names of symbols with the addresses that they may have, the surest first.
        bits: of an address.

    Raises:
        KallsymsError: there is none, or too little of it.
    """
    holes = Holes(image, base)
    reason = "the kernel has no symbol table (kallsyms), or a damaged one"
    work = Work()
    for unit in ((8, 4) if bits == 64 else (4,)) if holes else ():
        search = _Search(image, base, bits, unit, work, holes)
        for layout in search.layouts():
            blocks = search.blocks(layout)
            if blocks is None:
                continue
            tokens = search.tokens(layout.token_table)
            if tokens is None:
                continue
            reason = "the tokens of the kernel's symbol table (kallsyms) are on a page that is lost"
            found = search.symbols(layout, blocks, tokens, known)
            if found is not None:
                return found
    raise KallsymsError(reason)


class _Layout(NamedTuple):
    """Where the tables are.

    Attributes:
        names: offset of the table of names; num_syms lies before it.
        total: number of the symbols.
        starts: offset in the image of each 256th name; None for those whose marker is lost.
        markers: offset of the markers.
        token_table: offset of the tokens.
    """

    names: int
    total: int
    starts: Sequence[Optional[int]]
    markers: int
    token_table: int


class _Tokens(NamedTuple):
    """What is left of the tokens.

    Attributes:
        texts: the tokens by their numbers; None for those that are lost.
        end: offset behind token_index, or None where that is lost.
    """

    texts: Sequence[Optional[str]]
    end: Optional[int]


class _Search:
    """A search with one alignment.

    Args:
        image: the kernel's memory.
        base: its virtual address.
        bits: of an address.
        unit: what the tables are aligned to, in bytes.
        work: of the whole search.
        holes: of the image.
    """

    def __init__(
        self, image: bytes, base: int, bits: int, unit: int, work: Work, holes: Holes
    ) -> None:
        self._image = image
        self._bits = bits
        self._unit = unit
        self._work = work
        self._holes = holes
        self._tables = Tables(image, base, bits, unit, work)
        self._align = self._tables.align

    def layouts(self) -> Iterator[_Layout]:
        """Yields where the tables may be, by the markers first: those need nothing else."""
        for size, pattern in _MARKERS if self._bits == 64 else _MARKERS[:1]:
            for match in pattern.finditer(self._image):
                if match.start() % self._unit == 0:
                    yield from self._by_markers(match.start(), size)
        yield from self._by_counts()

    def _by_markers(self, markers: int, size: int) -> Iterator[_Layout]:
        offsets = self._markers(markers, size, None)
        while offsets and offsets[-1] is None:
            offsets.pop()
        if len(offsets) < _FEWEST_MARKERS:
            return
        last = offsets[-1]
        assert last is not None, "those at the end are taken away"
        most = MARKER_INTERVAL * len(offsets)
        fewest = max(most - MARKER_INTERVAL + 1, MINIMUM_SYMBOLS)
        end = self._align(markers + size * len(offsets))
        for names in range(
            max(self._align(markers - last - _LONGEST_BLOCK), self._unit),
            markers - last,
            self._unit,
        ):
            self._work.spend(1)
            count: Optional[int] = int.from_bytes(self._image[names - self._unit : names], "little")
            if self._holes.touch(names - self._unit, names):
                count = None
            elif not fewest <= (count or 0) <= most:
                continue
            starts = [None if offset is None else names + offset for offset in offsets]
            if not self._leads_on(starts):
                continue
            if count is None:
                count = self._count_last(starts, markers)
            if count is None:
                continue
            for token_table in (end, end + self._align(SEQUENCE_SIZE * count)):
                yield _Layout(names, count, starts, markers, token_table)

    def _by_counts(self) -> Iterator[_Layout]:
        for token_table, _, tokens in self._tables.token_tables():
            for num_syms, count in self._tables.counts(token_table, tokens, self._holes):
                names = num_syms + self._unit
                number = -(-count // MARKER_INTERVAL)
                for size, sequences in itertools.product((4, 8), (0, SEQUENCE_SIZE * count)):
                    markers = token_table - self._align(sequences) - self._align(size * number)
                    if markers <= names:
                        continue
                    offsets = self._markers(markers, size, number)
                    if len(offsets) < number:
                        continue
                    starts = [None if offset is None else names + offset for offset in offsets]
                    # Where all markers are lost the names themselves have to lead to them.
                    starts[0] = names
                    if self._leads_on(starts):
                        yield _Layout(names, count, starts, markers, token_table)

    def _markers(self, markers: int, size: int, number: Optional[int]) -> list[Optional[int]]:
        """Reads markers as long as they ascend by what 256 names may take.

        Args:
            markers: offset of the first.
            size: of one.
            number: how many there are at most, where that is known.
        """
        found: list[Optional[int]] = []
        last, value_there = 0, 0
        limit = len(self._image) if number is None else markers + size * number
        for place in range(markers, min(limit, len(self._image) - size + 1), size):
            self._work.spend(1)
            if self._holes.touch(place, place + size):
                found.append(None)
                continue
            value = int.from_bytes(self._image[place : place + size], "little")
            steps = len(found) - last
            # The first is 0.
            lowest, highest = (
                value_there + steps * each for each in (_SHORTEST_BLOCK, _LONGEST_BLOCK)
            )
            if not lowest <= value <= highest:
                break
            last, value_there = len(found), value
            found.append(value)
        return found

    def _leads_on(self, starts: Sequence[Optional[int]]) -> bool:
        """Whether some blocks without a hole lead to the next, if there are any."""
        left = _SAMPLES
        for start, end in zip(starts, starts[1:]):
            if start is None or end is None or self._holes.touch(start, end):
                continue
            if self._tables.skip_names(start, MARKER_INTERVAL, end) != end:
                return False
            left -= 1
            if not left:
                break
        return True

    def _count_last(self, starts: Sequence[Optional[int]], markers: int) -> Optional[int]:
        """Returns how many symbols there are, by counting the names behind the last marker."""
        offset = starts[-1]
        assert offset is not None, "it was read"
        if self._holes.touch(offset, markers):
            return None
        for number in range(1, MARKER_INTERVAL + 1):
            offset = self._tables.skip_names(offset, 1, markers)
            if not offset:
                return None
            if self._align(offset) == markers and not any(self._image[offset:markers]):
                return MARKER_INTERVAL * (len(starts) - 1) + number
        return None

    def blocks(self, layout: _Layout) -> Optional[list[Optional[tuple[int, int]]]]:
        """Decodes the lengths of all names.

        Returns:
            Start and end of each name's tokens, None for a name that is lost. None for all where
            names do not lead to the next marker, or no block of them is whole.
        """
        found: list[Optional[tuple[int, int]]] = []
        following: Optional[int] = None
        whole = 0
        for number, marker in enumerate(layout.starts):
            count = min(MARKER_INTERVAL, layout.total - MARKER_INTERVAL * number)
            if following is not None and marker not in (None, following):
                return None
            start = following if marker is None else marker
            block = self._block(start, count, layout.markers)
            if block is None:
                return None
            pieces, following = block
            whole += following is not None
            found += pieces
            found += [None] * (count - len(pieces))
        if following is not None and self._align(following) != layout.markers:
            return None
        return found if whole else None

    def _block(
        self, start: Optional[int], count: int, limit: int
    ) -> Optional[tuple[list[Optional[tuple[int, int]]], Optional[int]]]:
        """Returns the tokens of up to 256 names up to a hole, and where they end without one.

        None where there are no names.
        """
        pieces: list[Optional[tuple[int, int]]] = []
        if start is None:
            return pieces, None
        self._work.spend(count)
        image, offset, hole = self._image, start, self._holes.following(start)
        for _ in range(count):
            if offset + 2 > hole:
                return pieces, None
            length, first = image[offset], offset + 1
            if length & 0x80:
                length, first = (length & 0x7F) | image[first] << 7, offset + 2
            offset = first + length
            if not 0 < length <= _LONGEST_NAME or offset > limit:
                return None
            if offset > hole:
                return pieces, None
            pieces.append((first, offset))
        return pieces, offset

    def tokens(self, start: int) -> Optional[_Tokens]:
        """Reads what is left of token_table at an offset; None when there is none."""
        image, holes = self._image, self._holes
        hole = holes.following(start)
        texts: list[Optional[bytes]] = []
        offset = start
        while len(texts) < TOKENS:
            end = image.find(b"\0", offset, hole)
            if end < 0:
                break
            texts.append(image[offset:end])
            offset = end + 1
        if len(texts) == TOKENS:
            index_at = self._align(offset)
            self._use_index(texts, start, index_at)
        else:
            texts += [None] * (TOKENS - len(texts))
            places = range(self._align(start + TOKENS), start + _TOKENS_REACH, self._unit)
            index_at = next((at for at in places if self._is_index(start, at)), 0)
            if index_at:
                self._use_index(texts, start, index_at)
        for digit in b"0123456789":
            if texts[digit] not in (None, bytes([digit])):
                return None
        if index_at and not self._agrees(texts, start, index_at):
            return None
        if any(text is not None and SEPARATOR.encode() in text for text in texts):
            return None
        decoded = [None if text is None else text.decode("latin-1") for text in texts]
        return _Tokens(decoded, index_at + TOKEN_INDEX_SIZE if index_at else None)

    def _is_index(self, start: int, at: int) -> bool:
        """Whether token_index, without a hole, lies at an offset."""
        end = at + TOKEN_INDEX_SIZE
        if end > len(self._image) or self._holes.touch(at, end):
            return False
        offsets = struct.unpack_from(f"<{TOKENS}H", self._image, at)
        steps = [after - before for before, after in zip(offsets, offsets[1:])]
        room = at - start - offsets[-1]
        return bool(offsets[0] == 0 and min(steps) > 0 and max(steps) <= 512 and 1 < room <= 520)

    def _index(self, at: int) -> Sequence[Optional[int]]:
        return [
            None
            if self._holes.touch(place, place + 2)
            else int.from_bytes(self._image[place : place + 2], "little")
            for place in range(at, at + TOKEN_INDEX_SIZE, 2)
        ]

    def _use_index(self, texts: list[Optional[bytes]], start: int, index_at: int) -> None:
        """Reads the tokens that were not reached one after the other."""
        offsets = self._index(index_at)
        for number, offset in enumerate(offsets):
            if texts[number] is not None or offset is None:
                continue
            end = self._image.find(b"\0", start + offset, index_at)
            if end >= 0 and not self._holes.touch(start + offset, end + 1):
                texts[number] = self._image[start + offset : end]

    def _agrees(self, texts: Sequence[Optional[bytes]], start: int, index_at: int) -> bool:
        """Whether token_index says where the tokens are."""
        offsets = self._index(index_at)
        for number, text in enumerate(texts):
            offset = offsets[number]
            if text is None or offset is None:
                continue
            after = offsets[number + 1] if number + 1 < TOKENS else None
            if self._image[start + offset : start + offset + len(text) + 1] != text + b"\0":
                return False
            if after is not None and after != offset + len(text) + 1:
                return False
        return True

    def symbols(
        self,
        layout: _Layout,
        blocks: Sequence[Optional[tuple[int, int]]],
        tokens: _Tokens,
        known: _Known,
    ) -> Optional[Kallsyms]:
        """Returns the symbols, where an encoding gives a known one its address."""
        present = [(text or "").encode("latin-1") for text in tokens.texts]
        if text_too_large(self._image[layout.names : layout.markers], present):
            return None
        names, types = self._expand(blocks, tokens.texts)
        numbers: dict[str, list[int]] = {}
        wanted = {name for name, _ in known}
        for number, name in enumerate(names):
            if name in wanted and name is not None:
                numbers.setdefault(name, []).append(number)
        checks = [(number, places) for name, places in known for number in numbers.get(name, ())]
        if not checks or not set(types) <= SYMBOL_TYPES:
            return None
        # Where token_index is lost, what lies behind it is not found.
        behind = len(self._image) if tokens.end is None else tokens.end
        found = self._tables.addresses(layout.names - self._unit, layout.total, behind)
        starts = {place for _, places in known for place in _listed(places)}
        for candidate in itertools.chain.from_iterable(
            self._with_base(each, checks, starts) for each in found
        ):
            lost = candidate.lost(self._holes)
            if any(number not in lost and candidate[number] in places for number, places in checks):
                return with_losses(names, types, candidate, lost, self._bits)
        return None

    def _with_base(
        self,
        candidate: Addresses,
        checks: Iterable[tuple[int, Container[int]]],
        starts: Container[int],
    ) -> Iterator[Addresses]:
        """Yields the addresses; where what they are relative to is lost, with what it must be.

        Either two known symbols say the same of it, or it is a known place itself: the lowest
        address of a kernel is where its image starts.
        """
        at = candidate.tables.get("kallsyms_relative_base")
        if at is None or not self._holes.touch(at, at + self._bits // 8):
            yield candidate
            return
        if candidate.encoding not in (Encoding.RELATIVE, Encoding.ABSOLUTE_PERCPU):
            return
        lost = candidate.lost(self._holes)
        places = [
            (candidate.relative(number), place)
            for number, several in checks
            if number not in lost
            for place in _listed(several)
        ]
        bases: dict[int, set[int]] = {}
        for relative, place in places:
            if relative is not None:
                bases.setdefault(place - relative, set()).add(relative)
        for base, agreeing in bases.items():
            if len(agreeing) > 1 or (base in starts and agreeing != {0}):
                yield candidate.based(base)

    def _expand(
        self, blocks: Sequence[Optional[tuple[int, int]]], texts: Sequence[Optional[str]]
    ) -> tuple[list[Optional[str]], str]:
        """Returns the names, None for those that are lost, and the types of the others."""
        image, names, types = self._image, [], []
        lost = bytes(number for number, text in enumerate(texts) if text is None)
        sure = [text or "" for text in texts]
        for piece in blocks:
            name: Optional[str] = None
            if piece is not None:
                packed = image[piece[0] : piece[1]]
                # A name that has no lost token is as long as before when these are taken away.
                if not lost or len(packed.translate(None, lost)) == len(packed):
                    text = "".join(map(sure.__getitem__, packed))
                    name = text[1:]
                    types.append(text[:1])
            names.append(name)
        return names, "".join(types)


def _listed(places: Container[int]) -> Sequence[int]:
    """Returns the addresses that a known symbol may have, where they are few."""
    return places if isinstance(places, (list, tuple)) else ()
