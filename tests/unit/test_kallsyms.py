# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The decoder of kallsyms, on kernel images made by hand in each of the kernels' forms."""

import random
import struct
import time
from collections.abc import Callable, Container, Iterable, Sequence
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade.kallsyms import Form, Image, Order, image, tokens_of_kernel
from volatility_guestdump.exceptions import KallsymsError
from volatility_guestdump.linux.symbols.kallsyms import Encoding, Kallsyms, Symbol, find_kallsyms
from volatility_guestdump.linux.symbols.kallsyms_names import NameIndex

TEXT = 0xFFFFFFFF81000000
TEXT_32 = 0xC1000000

FORMS = [
    Form(Order.ADDRESSES_FIRST, "absolute"),
    Form(Order.ADDRESSES_FIRST, "absolute", wide_markers=True),
    Form(Order.ADDRESSES_FIRST, "absolute", bits=32, unit=4),
    Form(Order.ADDRESSES_FIRST, "relative"),
    Form(Order.ADDRESSES_FIRST, "relative", bits=32, unit=4),
    Form(Order.ADDRESSES_FIRST, "absolute percpu"),
    Form(Order.ADDRESSES_FIRST, "absolute percpu", wide_markers=True),
    Form(Order.WITH_SEQUENCES, "relative"),
    Form(Order.WITH_SEQUENCES, "relative", bits=32, unit=4),
    Form(Order.WITH_SEQUENCES, "absolute percpu"),
    Form(Order.ADDRESSES_LAST, "relative"),
    Form(Order.ADDRESSES_LAST, "relative", bits=32, unit=4),
    Form(Order.ADDRESSES_LAST, "absolute percpu"),
    Form(Order.ADDRESSES_LAST, "place-relative"),
    Form(Order.ADDRESSES_LAST, "place-relative", unit=4),
    Form(Order.ADDRESSES_LAST, "place-relative", bits=32, unit=4),
]
OLD, MIDDLE, NEW = FORMS[5], FORMS[9], FORMS[12]

#: As builders and readers of symbols take them: (name, type, address).
Row = tuple[str, str, int]

every_form = pytest.mark.parametrize("form", FORMS, ids=lambda form: "-".join(map(str, form)))
some_forms = pytest.mark.parametrize("form", [OLD, MIDDLE, NEW], ids=lambda form: form.order.value)


def text(form: Form) -> int:
    """Returns where the kernel's code starts."""
    return TEXT if form.bits == 64 else TEXT_32


def kernel(form: Form, extra: Iterable[Row] = (), count: int = 600) -> list[Row]:
    """Returns symbols of a kernel: the usual, those given, and as many as are missing."""
    start = text(form)
    rows = [("_stext", "T", start), ("linux_banner", "D", start + 0x800000)]
    rows += [("__x64_sys_" + "q" * 200, "T", start + 0x10), ("q" * 127, "d", start + 0x20)]
    if form.encoding != "relative" and form.bits == 64:
        rows[:0] = [("fixed_percpu_data", "D", 0), ("cpu_info", "d", 0x1F0C0)]
    rows += extra
    kinds = "TtDdBbRrWwVA"
    return rows + [
        (f"__pfx_tcp_{n}.isra.0", kinds[n % len(kinds)], start + 0x1000 + 16 * n)
        for n in range(count - len(rows))
    ]


def decode(made: Image, known: Sequence[tuple[str, Container[int]]] = ()) -> Kallsyms:
    """Decodes an image; unless it is said, what is known is where the code starts."""
    start = TEXT if made.bits == 64 else TEXT_32
    return find_kallsyms(made.data, made.base, known or [("_stext", [start])], made.bits)


def refused(made: Image, reason: str = "kallsyms") -> None:
    """Checks that there is no table in an image."""
    with pytest.raises(KallsymsError, match=reason):
        decode(made)


def symbols(rows: Iterable[Row], form: Form) -> list[Symbol]:
    """Returns what a reader has to make of symbols."""
    return [Symbol(*row, row[2] >= text(form)) for row in rows]


@every_form
def test_every_form(form: Form) -> None:
    """All forms decode to exactly the symbols that they were made of."""
    rows = kernel(form)
    made = image(rows, form)
    found = decode(made)
    assert list(found) == symbols(rows, form)
    assert len(found) == len(rows)
    assert found.encoding is Encoding(form.encoding)
    assert found.tables == {name: made.base + offset for name, offset in made.tables.items()}


@every_form
def test_addresses_wrap(form: Form) -> None:
    """Addresses have as many bits as the kernel's, whatever they are relative to."""
    made = image(kernel(form), form)
    if form.encoding == "absolute":
        return
    entry = made.at("offsets") + 4 * 599
    for value in (-(1 << 31), -1, 0, (1 << 31) - 1):
        wanted = {
            "relative": text(form) + value % (1 << 32),
            "absolute percpu": value if value >= 0 else text(form) - 1 - value,
            "place-relative": made.base + entry + value,
        }
        found = decode(made.patched(entry, struct.pack("<i", value)))
        assert found[599].address == wanted[form.encoding] % (1 << form.bits)


@pytest.mark.parametrize("count", [256, 257, 512, 513])
@some_forms
def test_number_of_symbols(form: Form, count: int) -> None:
    """There is a marker for each 256 symbols that are begun."""
    rows = kernel(form, count=count)
    assert list(decode(image(rows, form))) == symbols(rows, form)


def test_too_few_symbols() -> None:
    """No kernel has so few symbols."""
    refused(image(kernel(NEW, count=255), NEW), "no symbol table")


def test_names_of_one_and_two_bytes_length() -> None:
    """A length takes a second byte when the name has more than 127 tokens."""
    lengths = [1, 2, 125, 126, 127, 128, 129, 254, 255, 256, 300, 511]
    rows = kernel(NEW, [("q" * length, "b", TEXT + length) for length in lengths])
    made = image(rows, NEW)
    assert made.data[made.names[6 + 3]] == 0x7F
    assert made.data[made.names[6 + 4] :][:2] == b"\x80\x01"
    assert list(decode(made)) == symbols(rows, NEW)
    # A long name at the very end of the table is as good.
    rows.append(("q" * 300, "b", TEXT))
    assert list(decode(image(rows, NEW))) == symbols(rows, NEW)


def test_find() -> None:
    """Of several symbols with a name the global one is meant, else the last."""
    extra = [("only", "t", TEXT + 1), ("both", "T", TEXT + 2), ("both", "t", TEXT + 3)]
    extra += [("early", "t", TEXT + 4), ("early", "D", TEXT + 5), ("globals", "T", TEXT + 6)]
    extra += [("globals", "T", TEXT + 7), ("locals", "t", TEXT + 8), ("locals", "d", TEXT + 9)]
    rows = kernel(NEW, extra)
    found = decode(image(rows, NEW))
    wanted = {"only": 1, "both": 2, "early": 5, "globals": 7, "locals": 9}
    assert {name: found.address(name) for name in wanted} == {
        name: TEXT + offset for name, offset in wanted.items()
    }
    for name in wanted:
        symbol = found.find(name)
        assert symbol == found[found.index[name]]
        assert symbol == next(
            s for s in found if (s.name, s.address) == (name, found.address(name))
        )
    assert set(found.index) == {name for name, _, _ in rows}
    assert found.find("cpu_info") == Symbol("cpu_info", "d", 0x1F0C0, False)
    assert found.find("missing") is None
    assert found.address("missing") is None


def test_at() -> None:
    """A symbol reaches up to the next; of aliases the first is named."""
    high = TEXT + 0x900000
    extra = [("z_first", "t", high), ("second", "T", high), ("a_third", "t", high)]
    found = decode(image(kernel(NEW, [("last", "t", high + 0x80), *extra]), NEW))

    def name(address: int) -> object:
        place = found.at(address)
        return place and (place[0].name, place[1])

    assert name(high - 1) == ("linux_banner", 0xFFFFF)
    assert name(high) == ("z_first", 0)
    assert name(high + 0x7F) == ("z_first", 0x7F)
    assert name(high + 0x80) == ("last", 0)
    assert name(TEXT) == ("_stext", 0)
    assert name((1 << 64) - 1) == ("last", (1 << 64) - 1 - high - 0x80)
    # Per-CPU variables have offsets there and no addresses.
    for address in (-1, 0, 0x1F0C0, 0x1F0C8, TEXT - 1):
        assert found.at(address) is None


def test_next_address() -> None:
    """The nearest symbol above, at another place than the address itself."""
    found = decode(
        image(kernel(NEW, [("last", "t", TEXT + 0x900000), ("end", "T", TEXT + 0xA00000)]), NEW)
    )
    assert found.next_address(-1) == 0
    assert found.next_address(0) == 0x1F0C0
    assert found.next_address(0x1F0C0) == TEXT
    assert found.next_address(TEXT) == TEXT + 0x10
    assert found.next_address(TEXT + 0x800000) == TEXT + 0x900000
    assert found.next_address(TEXT + 0x9FFFFF) == TEXT + 0xA00000
    assert found.next_address(TEXT + 0xA00000) is None


def index_of(found: Kallsyms) -> NameIndex:
    """Returns what finds names."""
    assert isinstance(found.index, NameIndex)
    return found.index


def whole_index(rows: Sequence[Row]) -> dict[str, int]:
    """Returns the number of the symbol that a name means: the last global one, else the last.

    A name that had something put behind it is meant without that too, if it is the only one.
    """
    index: dict[str, int] = {}
    order = sorted(enumerate(rows), key=lambda pair: (pair[1][1].isupper(), pair[0]))
    index.update((name, number) for number, (name, _, _) in order)
    promoted = [name.partition(".llvm.")[0] for name, _, _ in rows if ".llvm." in name]
    for number, (name, _, _) in enumerate(rows):
        base = name.partition(".llvm.")[0]
        if promoted.count(base) == 1:
            index.setdefault(base, number)
    return index


#: Names that begin alike, in the order of none of the kernels' indexes.
ALIKE = [
    (name, kind, TEXT + 0x900000 + number)
    for number, (name, kind) in enumerate(
        [
            *(("foo.llvm.1", "t"), ("foo", "t"), ("foo.cold", "t"), ("foo", "T"), ("foo.5", "d")),
            *(("foo0", "t"), ("foo.llvm.0", "t"), ("foo", "t"), ("fo", "T"), ("foo_", "t")),
            *((".L1", "t"), (".L1", "t"), ("foo.isra.0.llvm.3", "t"), ("foo.isra.0", "t")),
            *(("one.llvm.7", "t"), ("two.llvm.7", "t"), ("two.llvm.8", "t"), ("two_", "t")),
            *(
                ("one.cold.llvm.7", "t"),
                ("__key.0", "b"),
                ("__key.10", "b"),
                ("__key.9", "b"),
                ("__key.0", "B"),
            ),
        ]
    )
]


@pytest.mark.parametrize("suffix", [None, ".", ".llvm."])
@every_form
def test_every_name_is_found(form: Form, suffix: Optional[str]) -> None:
    """By the kernel's own index where there is one, and as all names expanded together say."""
    rows = kernel(form, ALIKE if form.bits == 64 else ())
    found = decode(image(rows, form, suffix=suffix))
    has_index = form.order is not Order.ADDRESSES_FIRST
    index = index_of(found)
    assert index.uses_kernels == has_index
    wanted = whole_index(rows)
    for name, number in wanted.items():
        assert index[name] == number and name in index
        assert found.find(name) == found[number] == symbols(rows, form)[number]
        for absent in (name + "x", name[:-1] + "\x7f", name + ".", "." + name, name[1:]):
            assert (absent in index) == (absent in wanted)
    assert "" not in index and "\xff" not in index
    assert index.uses_kernels == has_index
    assert dict(index) == dict(index.items()) == wanted and len(index) == len(wanted)
    assert not index.uses_kernels and index["_stext"] == wanted["_stext"]


def test_names_that_sort_below_the_dot() -> None:
    """Where names have such characters the index does not tell, and all names are expanded."""
    extra = [("foo$x", "t", TEXT + 0x900000), ("foo", "t", TEXT + 0x900008)]
    rows = kernel(NEW, [*extra, ("foo.cold", "t", TEXT + 0x900010)])
    found = decode(image(rows, NEW))
    assert not index_of(found).uses_kernels
    assert list(found) == symbols(rows, NEW)
    assert {name: found.index[name] for name in whole_index(rows)} == whole_index(rows)


@pytest.mark.parametrize("form", [MIDDLE, NEW], ids=lambda form: form.order.value)
def test_damaged_index(form: Form) -> None:
    """An index that has not each symbol once is not used: no symbol is lost by it."""
    rows = kernel(form)
    made, wanted = image(rows, form), whole_index(rows)
    start = made.at("seqs_of_names")
    for place, data in (
        *((0, bytes(3)), (3 * 599, b"\xff\xff\xff"), (3 * 300, (600).to_bytes(3, "big"))),
        *((0, bytes(1800)), (900, bytes(900)), (1, made.data[start : start + 1799])),
    ):
        found = decode(made.patched(start + place, data))
        assert not index_of(found).uses_kernels
        assert {name: found.index[name] for name in wanted} == wanted


@pytest.mark.parametrize("form", [MIDDLE, NEW], ids=lambda form: form.order.value)
def test_index_out_of_order(form: Form) -> None:
    """Names that are met out of their order end the use of the index, and none is lost by it."""
    rows = kernel(form)
    made, wanted = image(rows, form), whole_index(rows)
    start = made.at("seqs_of_names")
    numbers = [made.data[at : at + 3] for at in range(start, start + 1800, 3)]
    for order in (numbers[::-1], sorted(numbers), numbers[300:] + numbers[:300]):
        found = decode(made.patched(start, b"".join(order)))
        assert {name: found.address(name) for name in wanted} == {
            name: rows[number][2] for name, number in wanted.items()
        }
        assert not index_of(found).uses_kernels


@every_form
def test_known_symbols(form: Form) -> None:
    """One of those that the table has has to be where it is known to be."""
    made, start = image(kernel(form), form), text(form)
    right, banner = ("_stext", [start - 8, start]), ("linux_banner", [start + 0x800000])
    other = ("linux_banner", [1])
    for known in ([right], [("absent", [1]), right], [right, other], [other, right], [banner]):
        assert decode(made, known).address("_stext") == start
    for wrong in (("_stext", [start + 1]), ("linux_banner", [start]), ("_stext", ())):
        with pytest.raises(KallsymsError, match="no encoding"):
            decode(made, [wrong, other])
    for nothing in ([("absent", [start])], [("absent", [start]), ("neither", [start])]):
        with pytest.raises(KallsymsError, match="no symbol table"):
            decode(made, nothing)


@every_form
def test_truncated(form: Form) -> None:
    """A table of which anything is missing at its end is none."""
    made = image(kernel(form), form)
    kept = "relative_base" if form.encoding != "place-relative" else "offsets"
    end = made.at("token_index") + 512
    if form.order is Order.ADDRESSES_LAST:
        end = made.at(kept) + (form.bits // 8 if kept == "relative_base" else 4 * 600)
    cuts = {0, 1, end - 1}
    for offset in (*made.tables.values(), *made.names[:3], *made.names[-2:]):
        cuts.update((offset - 1, offset, offset + 1, offset + 4))
    for cut in sorted(cuts):
        if cut < end:
            refused(made._replace(data=made.data[:cut]))
    # The sequences, which nothing here needs, may be cut.
    whole = end if form.encoding != "place-relative" else made.end
    assert len(decode(made._replace(data=made.data[:whole]))) == 600
    # What is cut off at the start moves all addresses, and the place of the table.
    first = min(made.tables.values())
    rest = made._replace(data=made.data[first & -8 :], base=made.base + (first & -8))
    assert decode(rest).tables == decode(made).tables
    refused(rest._replace(data=rest.data[first % 8 + form.unit :]))


@every_form
def test_wrong_counts(form: Form) -> None:
    """num_syms has to be that of the names."""
    made = image(kernel(form), form)
    for count in (0, 1, 255, 256, 599, 601, 1024, (1 << 22) - 1, 1 << 22, 1 << 31, (1 << 32) - 1):
        refused(made.patched(made.at("num_syms"), struct.pack("<I", count)), "no symbol table")


@some_forms
@pytest.mark.parametrize("number", [0, 7, 8, 300, 599])
def test_wrong_lengths(form: Form, number: int) -> None:
    """A length has to lead to the next name."""
    made = image(kernel(form), form)
    place = made.names[number]
    for length in (b"\0", b"\x80\0", b"\xff\xff", b"\xff\x7f", b"\x7f", b"\x80\x01", b"\x01"):
        refused(made.patched(place, length), "no symbol table")
    # One more would do for the last name, behind which zeros fill up to the next table.
    refused(made.patched(place, bytes([made.data[place] + 8])), "no symbol table")


@some_forms
def test_runaway_lengths(form: Form) -> None:
    """Names that lead out of the table, and out of the image, end the search."""
    made = image(kernel(form), form)
    start, end = made.at("names"), made.at("markers")
    for length in (b"\xff\xff", b"\xff", b"\x81\x80", b"\x01T", b"\x81"):
        refused(made.patched(start, (length * (end - start))[: end - start]))


@some_forms
def test_markers_disagree(form: Form) -> None:
    """Each marker has to be the place of its name."""
    made = image(kernel(form), form)
    for number, place in enumerate(made.names[::256]):
        for wrong in (place - made.at("names") + 1, 1 << 31):
            offset = made.at("markers") + 4 * number
            refused(made.patched(offset, struct.pack("<I", wrong)), "no symbol table")


@some_forms
def test_token_index_disagrees(form: Form) -> None:
    """Each entry of token_index has to be the place of its token."""
    made = image(kernel(form), form)
    for number in (0, 1, 47, 48, 49, 57, 58, 128, 255):
        offset = made.at("token_index") + 2 * number
        (value,) = struct.unpack_from("<H", made.data, offset)
        for wrong in {0, 1, value + 1, value ^ 0x100, 0xFFFF} - {value}:
            refused(made.patched(offset, struct.pack("<H", wrong)), "no symbol table")


@some_forms
def test_tokens(form: Form) -> None:
    """Tokens are shorter than a name may be, and have no line feed."""
    rows, tokens = kernel(form), tokens_of_kernel()
    for length, good in ((511, True), (512, False), (4000, False), (70000, False)):
        tokens[250] = b"v" * length
        if good:
            assert list(decode(image(rows, form, tokens))) == symbols(rows, form)
        else:
            refused(image(rows, form, tokens), "no symbol table")
    tokens[250] = b"v\nv"
    refused(image(rows, form, tokens), "no symbol table")
    # A kernel with few symbols leaves tokens empty.
    tokens[250] = tokens[1] = tokens[255] = b""
    assert list(decode(image(rows, form, tokens))) == symbols(rows, form)


def test_names_that_expand_to_too_much() -> None:
    """Names of more than any memory should take are refused before they are made."""
    tokens = tokens_of_kernel()
    tokens[250] = b"v" * 511
    rows = [("_stext", "T", TEXT), *[("v" * 511 * 250, "b", TEXT)] * 2200]
    refused(image(rows, NEW, tokens), "too much memory")


DIGITS = b"".join(b"%d\0" % digit for digit in range(10))
TOKENS = b"".join(token + b"\0" for token in tokens_of_kernel())


@pytest.mark.parametrize("decoy", [DIGITS, DIGITS + b"7" * 500, TOKENS, TOKENS + bytes(512)])
@some_forms
def test_digits_in_other_places(form: Form, decoy: bytes) -> None:
    """What looks like tokens is told from them, and costs little."""
    rows = kernel(form)
    made = image(rows, form)
    # The table moves by multiples of eight.
    front = decoy * (-(-(1 << 15) // len(decoy) // 8) * 8)
    start = time.process_time()
    moved = made._replace(data=front + made.data + front, base=made.base - len(front))
    assert list(decode(moved)) == symbols(rows, form)
    refused(made._replace(data=front))
    assert time.process_time() - start < 2


# The last two also have some names behind them: seven bytes each, of the type "T".
@pytest.mark.parametrize("decoy", [[256], [600, 3000], [0x5407] * 12 + [0], [0x15407] * 12 + [0]])
@some_forms
def test_counts_in_other_places(form: Form, decoy: list[int]) -> None:
    """Numbers that could be num_syms are told from it, and cost little."""
    rows = kernel(form)
    made = image(rows, form)
    front = b"".join(struct.pack("<Q", count) for count in decoy) * ((1 << 15) // len(decoy))
    start = time.process_time()
    moved = made._replace(data=front + made.data, base=made.base - len(front))
    assert list(decode(moved)) == symbols(rows, form)
    # Between the names and the tokens they are met before the right one.
    if form.order is Order.WITH_SEQUENCES:
        place, size = made.at("seqs_of_names"), made.at("token_table")
        decoys = made.patched(place, front[: (size - place) & -8])
        assert list(decode(decoys)) == symbols(rows, form)
    assert time.process_time() - start < 2


names = st.text("abcxyzSTR_.$0189", min_size=1, max_size=300).filter(lambda name: name != "_stext")
rows_of_kernel = st.lists(
    st.tuples(names, st.sampled_from("TtDdBbWwVvRr?"), st.integers(0, 0x1FFFFFF)), max_size=30
)


@given(st.sampled_from(FORMS), rows_of_kernel, st.integers(260, 600), st.randoms())
@settings(deadline=None, max_examples=60)
def test_any_symbols(form: Form, drawn: list[Row], count: int, shuffler: random.Random) -> None:
    """Any symbols, in any order, come back."""
    rows = kernel(form, [(name, kind, text(form) + at) for name, kind, at in drawn], count)
    shuffler.shuffle(rows)
    found = decode(image(rows, form))
    assert list(found) == symbols(rows, form)
    wanted = {}
    for is_global in (False, True):
        wanted.update({row[0]: row for row in rows if row[1].isupper() or not is_global})
    assert [found.find(name) for name in wanted] == symbols(wanted.values(), form)
    first = {row[2]: row for row in reversed(rows) if row[2] >= text(form)}
    assert [found.at(place) for place in first] == [(s, 0) for s in symbols(first.values(), form)]


MADE = [image(kernel(form, count=300), form) for form in FORMS]
changes = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=8)), max_size=6
)


def survives(made: Image, change: Callable[[bytearray], None]) -> None:
    """Checks that damage is refused, or leaves symbols that can be used."""
    data = bytearray(made.data)
    change(data)
    try:
        found = decode(made._replace(data=bytes(data)))
    except KallsymsError:
        return
    assert len(list(found)) == len(found)
    for symbol in (found[0], found[len(found) - 1]):
        # A damaged name is not at its place in the kernel's own index any more: it is missing then.
        again = found.find(symbol.name)
        assert again.name == symbol.name if again else index_of(found).uses_kernels
        found.at(symbol.address)
        found.next_address(symbol.address)


@given(st.sampled_from(MADE), changes)
@settings(deadline=None, max_examples=150)
def test_changed_bytes(made: Image, drawn: list[tuple[float, bytes]]) -> None:
    """Whatever bytes are changed, there are symbols or an error of ours."""

    def change(data: bytearray) -> None:
        for where, new in drawn:
            place = int(where * len(data))
            data[place : place + len(new)] = new

    survives(made, change)


@given(st.sampled_from(MADE), st.floats(0, 1), st.floats(0, 1))
@settings(deadline=None, max_examples=100)
def test_missing_bytes(made: Image, where: float, length: float) -> None:
    """Whatever bytes are missing, there are symbols or an error of ours."""

    def change(data: bytearray) -> None:
        place = int(where * len(data))
        del data[place : place + int(length * len(data))]

    survives(made, change)


@given(st.binary(max_size=4000))
@settings(deadline=None)
def test_noise(data: bytes) -> None:
    """Noise, also with digits in it, has no table."""
    for content in (data, data + DIGITS + data, TOKENS + data):
        for bits in (32, 64):
            with pytest.raises(KallsymsError):
                find_kallsyms(content, 0, [("_stext", [0])], bits)


@every_form
def test_static_symbols_of_clang(form: Form) -> None:
    """One that has a hash behind its name is known by the name alone, unless that is unclear."""
    at = text(form)
    extra = [
        ("do_it.llvm.123456", "t", at + 0x100),
        ("twice.llvm.1", "t", at + 0x200),
        ("twice.llvm.2", "t", at + 0x300),
        ("plain.llvm.7", "t", at + 0x400),
        ("plain", "t", at + 0x500),
    ]
    found = decode(image(kernel(form, extra), form))
    assert found.address("do_it") == found.address("do_it.llvm.123456") == at + 0x100
    assert found.address("twice") is None and found.address("twice.llvm.2") == at + 0x300
    assert found.address("plain") == at + 0x500
    # A place goes by the name that the kernel prints.
    place = found.at(at + 0x101)
    assert place is not None and place[0].name == "do_it.llvm.123456"
    assert [symbol.name for symbol in found].count("do_it") == 0


@pytest.mark.parametrize("start", [0x41000000, 0x79000000, 0x81000000, 0xC1000000])
def test_splits_of_the_address_space(start: int) -> None:
    """A 32-bit kernel's half starts where it is configured to; below it are constants."""
    names = ["_text", "function", "constant"]
    index = {name: number for number, name in enumerate(names)}
    addresses = [start, start + 0x1000, 0x20]
    found = Kallsyms(names, "TtA", index, addresses, Encoding.RELATIVE, {}, 32)
    assert [symbol.relocated for symbol in found] == [True, True, False]
    place = found.at(start + 0x1004)
    assert place is not None and (place[0].name, place[1]) == ("function", 4)
    assert found.at(0x24) is None
