# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""kallsyms of which pages are missing: what is given is right, and a page costs what it has."""

import functools
import random
from collections.abc import Iterable, Sequence
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade.kallsyms import Form, Image, Order, image
from tests.unit.test_kallsyms import FORMS, TEXT, Row, every_form, kernel, text
from volatility_guestdump.exceptions import KallsymsError
from volatility_guestdump.linux.symbols.kallsyms import Kallsyms, Symbol, find_kallsyms
from volatility_guestdump.linux.symbols.kallsyms_holes import find_damaged_kallsyms
from volatility_guestdump.machine import PAGE_SIZE

COUNT = 2000
MIDDLE = f"{'x' * (500 % 30 + 1)}_500"
#: What a page costs at most: the addresses in it; or the names in it and those up to the next
#: marker.
MOST_LOST = 1024 + 2 * 256


@functools.cache
def whole(form: Form) -> tuple[Image, Sequence[Row]]:
    """Returns an image with a kernel's symbols in the order of their addresses, and these."""
    # More than one name to an address, and names of many lengths.
    extra = [
        ("x" * (number % 30 + 1) + f"_{number}", "tTdb"[number % 4], text(form) + 24 * number)
        for number in range(COUNT // 2)
    ]
    rows = sorted(kernel(form, extra, count=COUNT), key=lambda row: row[2])
    return image(rows, form), rows


def without(made: Image, pages: Iterable[int]) -> Image:
    """Returns an image with zeros in place of pages, which are given by their numbers."""
    data = bytearray(made.data)
    for page in pages:
        size = len(data[page * PAGE_SIZE : (page + 1) * PAGE_SIZE])
        data[page * PAGE_SIZE : page * PAGE_SIZE + size] = bytes(size)
    return made._replace(data=bytes(data))


def decode(made: Image, form: Form) -> Kallsyms:
    """Decodes an image as the search for a kernel does."""
    # The finder knows several too, in different parts of the tables.
    known = [("linux_banner", [text(form) + 0x800000]), ("_stext", [text(form)])]
    known.append((MIDDLE, [text(form) + 24 * 500]))
    try:
        return find_kallsyms(made.data, made.base, known, made.bits)
    except KallsymsError:
        return find_damaged_kallsyms(made.data, made.base, known, made.bits)


def check(found: Kallsyms, rows: Sequence[Row], form: Form) -> None:
    """Checks that all that is told of symbols is true."""
    wanted = [Symbol(*row, row[2] >= text(form)) for row in rows]
    given = list(found)
    # Those that are there are in the order of the table.
    left = iter(wanted)
    assert all(symbol in left for symbol in given)
    assert len(given) == len(found) == len(wanted) - found.lost
    there, true = {symbol.address for symbol in given}, set(wanted)
    addresses = sorted({symbol.address for symbol in wanted if symbol.relocated})
    for address, following in zip(addresses, [*addresses[1:], addresses[-1] + 16]):
        for place in {address, following - 1}:
            got = found.at(place)
            if got is not None:
                assert got[0].address == address and got[1] == place - address
                assert got[0] in true
        assert address not in there or found.at(address) is not None
        assert found.next_address(address) in (None, following)
    for name, number in found.index.items():
        assert found[number] in true and found[number].name == name


def pages_of(made: Image, table: str, size: int) -> set[int]:
    """Returns the numbers of the pages that a table of a size lies in."""
    start = made.at(table)
    return set(range(start // PAGE_SIZE, (start + size - 1) // PAGE_SIZE + 1))


@every_form
def test_each_page(form: Form) -> None:
    """Without any one page that has no tokens the others' symbols are there; none is wrong."""
    made, rows = whole(form)
    tokens = pages_of(made, "token_table", made.at("token_index") + 512 - made.at("token_table"))
    everything = decode(made, form)
    assert not everything.lost
    for page in range(len(made.data) // PAGE_SIZE):
        try:
            found = decode(without(made, [page]), form)
        except KallsymsError:
            assert page in tokens
            continue
        check(found, rows, form)
        if page not in tokens:
            assert found.lost <= MOST_LOST
            assert found.encoding is everything.encoding
        if found.lost:
            # Who decodes them from memory would not see the hole.
            assert not found.tables


@every_form
def test_what_a_page_costs(form: Form) -> None:
    """A page of names costs the names in it, and no table that only helps costs any."""
    made, _ = whole(form)
    for page in range(made.names[0] // PAGE_SIZE + 1, made.at("markers") // PAGE_SIZE):
        first, end = page * PAGE_SIZE, (page + 1) * PAGE_SIZE
        inside = sum(first <= place < end for place in made.names)
        found = decode(without(made, [page]), form)
        assert inside - 1 <= found.lost <= inside + 256 + 1
        assert found.address("_stext") == text(form)
    if form.order is Order.WITH_SEQUENCES:
        sequences = pages_of(made, "seqs_of_names", 3 * COUNT)
        around = pages_of(made, "markers", 64) | pages_of(made, "token_table", 1)
        for page in sequences - around:
            assert not decode(without(made, [page]), form).lost


@given(
    st.sampled_from(FORMS),
    st.sets(st.integers(0, 30), min_size=1, max_size=6),
    st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=40)
def test_several_pages(form: Form, drawn: set[int], shuffler: random.Random) -> None:
    """Whatever pages are missing, what is given is right."""
    made, rows = whole(form)
    last = len(made.data) // PAGE_SIZE
    found: Optional[Kallsyms] = None
    try:
        found = decode(without(made, {page % (last + 1) for page in drawn}), form)
    except KallsymsError:
        return
    check(found, rows, form)


def test_only_pages_of_zeros_are_holes() -> None:
    """Other damage is refused: nobody knows how far it reaches."""
    form = FORMS[-4]
    made, _ = whole(form)
    hole = made.names[-1] // PAGE_SIZE - 1
    for first in range(0, COUNT - 256, 256):
        # A block that leads to the next one's marker.
        pages = {place // PAGE_SIZE for place in made.names[first : first + 257]}
        if hole in pages:
            continue
        for place in made.names[first : first + 256 : 85]:
            for length in (b"\0", b"\xff\xff"):
                damaged = without(made.patched(place, length), [hole])
                with pytest.raises(KallsymsError):
                    decode(damaged, form)


def test_rows_out_of_order() -> None:
    """Where symbols are not in the order of their addresses, no place is told for sure."""
    form = next(form for form in FORMS if form.encoding == "place-relative" and form.bits == 64)
    rows = kernel(form, count=COUNT)
    rows[10], rows[COUNT - 10] = rows[COUNT - 10], rows[10]
    made = image(rows, form)
    page = made.at("offsets") // PAGE_SIZE + 1
    found = decode(without(made, [page]), form)
    assert found.lost
    assert found.at(TEXT) is None and found.next_address(TEXT) is None
    assert found.address("_stext") == TEXT
