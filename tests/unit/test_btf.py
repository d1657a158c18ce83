# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The BTF decoder, on types made by hand."""

import contextlib
import struct
from collections.abc import Iterator
from typing import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade.btf import BOOL, CHAR, SIGNED, BtfBuilder, header
from volatility_guestdump.exceptions import BtfError, TypesError
from volatility_guestdump.linux.types.btf import COMPOSITES, ENUMS, Btf, Integer, Member
from volatility_guestdump.linux.types.btf_kinds import Kind
from volatility_guestdump.linux.types.btf_types import BtfTypes

HEADER = 24


def one_of_each() -> tuple[BtfBuilder, dict[str, int]]:
    """Returns types of every kind, and the number of each by the kind's name."""
    btf = BtfBuilder()
    number = {"INT": btf.int_("int", 4, SIGNED)}
    number["PTR"] = btf.ptr(number["INT"])
    number["ARRAY"] = btf.array(number["INT"], 7)
    fields = [("a", number["INT"], 0), ("b", number["PTR"], 64)]
    number["STRUCT"] = btf.struct("pair", 16, fields)
    number["UNION"] = btf.union("either", 8, [("c", number["INT"], 0), ("d", number["PTR"], 0)])
    number["ENUM"] = btf.enum("colour", {"RED": 0, "BLUE": 5}, signed=True)
    number["FWD"] = btf.fwd("absent")
    number["TYPEDEF"] = btf.typedef("pair_t", number["STRUCT"])
    number["VOLATILE"] = btf.volatile(number["TYPEDEF"])
    number["CONST"] = btf.const(number["VOLATILE"])
    number["RESTRICT"] = btf.restrict(number["CONST"])
    number["FUNC_PROTO"] = btf.func_proto(number["INT"], [("x", number["PTR"]), ("", 0)])
    number["FUNC"] = btf.func("main", number["FUNC_PROTO"], 1)
    number["VAR"] = btf.var("counter", number["INT"])
    number["DATASEC"] = btf.datasec(".data", 64, [(number["VAR"], 48, 4)])
    number["FLOAT"] = btf.float_("double", 8)
    number["DECL_TAG"] = btf.decl_tag("mine", number["RESTRICT"])
    number["TYPE_TAG"] = btf.type_tag("user", number["DECL_TAG"])
    number["ENUM64"] = btf.enum64("wide", {"LOW": 1, "HIGH": 1 << 40})
    return btf, number


def decode_all(data: bytes) -> Iterator[object]:
    """Decodes whatever can be decoded of the types."""
    btf = Btf(data)
    for number in range(len(btf)):
        for ask in (btf.kind, btf.name, btf.resolve):
            with contextlib.suppress(BtfError):
                yield ask(number)
        kind = btf.kind(number)
        decoders: list[Callable[[int], object]] = []
        if kind in COMPOSITES:
            decoders = [btf.members, btf.size]
        elif kind in ENUMS:
            decoders = [btf.enumerators]
        elif kind is Kind.INT:
            decoders = [btf.integer, btf.integer_bits]
        elif kind is Kind.ARRAY:
            decoders = [btf.array]
        elif kind is not Kind.VOID:
            decoders = [btf.target]
        for decode in decoders:
            with contextlib.suppress(BtfError):
                yield decode(number)
    for name in btf.names:
        yield btf.section_offsets(name)


def test_every_kind() -> None:
    """Types of every kind follow each other, and each is what it was made as."""
    builder, number = one_of_each()
    btf = Btf(builder.build())
    assert len(btf) == 1 + len(number) == len(Kind)
    assert {kind.name: at for at in range(1, len(btf)) for kind in [btf.kind(at)]} == number
    assert (btf.kind(0), btf.name(0)) == (Kind.VOID, "")
    assert btf.integer(number["INT"]) == Integer("int", 4, True, False)
    assert btf.array(number["ARRAY"]) == (number["INT"], 7)
    sized = [("INT", 4), ("STRUCT", 16), ("UNION", 8), ("ENUM", 4), ("FLOAT", 8), ("ENUM64", 8)]
    assert [(kind, btf.size(number[kind])) for kind, _ in sized] == sized
    assert btf.members(number["STRUCT"]) == [
        Member("a", number["INT"], 0, 0),
        Member("b", number["PTR"], 64, 0),
    ]
    assert [member.bit_offset for member in btf.members(number["UNION"])] == [0, 0]
    assert btf.enumerators(number["ENUM"]) == {"RED": 0, "BLUE": 5}
    assert btf.enumerators(number["ENUM64"]) == {"LOW": 1, "HIGH": 1 << 40}
    targets = {"PTR": "INT", "TYPEDEF": "STRUCT", "FUNC": "FUNC_PROTO", "FUNC_PROTO": "INT"}
    targets.update(VAR="INT", CONST="VOLATILE")
    assert all(btf.target(number[kind]) == number[to] for kind, to in targets.items())
    assert btf.section_offsets(".data") == {number["VAR"]: 48}


def test_names() -> None:
    """Names of the kinds that plugins look for are indexed; those without a name are listed."""
    builder, number = one_of_each()
    second = builder.union("pair", 4)
    anonymous = [builder.struct("", 0), builder.enum("", {}), builder.union("", 0)]
    btf = Btf(builder.build())
    assert btf.names["pair"] == [number["STRUCT"], second]
    assert {"int", "double", "colour", "wide", "pair_t", "counter", ".data"} <= set(btf.names)
    assert {"absent", "main", "mine", "user", "x", "RED"}.isdisjoint(btf.names)
    assert btf.anonymous == anonymous
    assert btf.find("pair", Kind.UNION) == second
    assert btf.find("pair", *COMPOSITES) == number["STRUCT"]
    assert btf.find("pair", Kind.ENUM) is None is btf.find("nothing", Kind.ENUM)
    assert BtfTypes(btf).size_of("pair") == 16
    with pytest.raises(TypesError):
        BtfTypes(btf).size_of("int")


def test_resolving() -> None:
    """Typedefs and qualifiers are looked through, pointers and arrays are not."""
    builder, number = one_of_each()
    btf = Btf(builder.build())
    for kind in ("TYPE_TAG", "DECL_TAG", "RESTRICT", "CONST", "VOLATILE", "TYPEDEF", "STRUCT"):
        assert btf.resolve(number[kind]) == number["STRUCT"]
    for kind in ("PTR", "ARRAY", "FUNC", "VAR", "FWD"):
        assert btf.resolve(number[kind]) == number[kind]
    assert btf.resolve(0) == 0


def test_integers() -> None:
    """Signs, _Bool, and the bits that integers had for bitfields before Linux 5.0."""
    builder = BtfBuilder()
    numbers = [
        builder.int_("long int", 8, SIGNED),
        builder.int_("char", 1, CHAR),
        builder.int_("_Bool", 1, BOOL),
        builder.int_("unsigned int", 4, 0, 3, 5),
    ]
    btf = Btf(builder.build())
    found = [(integer.signed, integer.boolean) for integer in map(btf.integer, numbers)]
    assert found == [(True, False), (False, False), (False, True), (False, False)]
    assert [btf.integer_bits(at) for at in numbers] == [(0, 64), (0, 8), (0, 8), (5, 3)]


def test_bitfields() -> None:
    """The upper eight bits of an offset are a bitfield's size, but only with the kind flag."""
    builder = BtfBuilder()
    number = builder.int_("int", 4)
    flagged = builder.struct("f", 8, [("a", number, 3, 5), ("b", number, 32, 0), ("c", number, 40)])
    plain = builder.union("p", 1 << 24, [("a", number, 5 << 24 | 3)])
    btf = Btf(builder.build())
    assert [member[2:] for member in btf.members(flagged)] == [(3, 5), (32, 0), (40, 0)]
    assert btf.members(plain) == [Member("a", number, 5 << 24 | 3, 0)]


@pytest.mark.parametrize(("flags", "first"), [((True, False), 0xFFFFFFFE), ((False, False), -2)])
def test_signs_of_enumerators(flags: tuple[bool, bool], first: int) -> None:
    """The flag says whether there are signs, unless no enum has it: then all have a sign."""
    builder = BtfBuilder()
    signed = builder.enum("s", {"A": -2, "B": 0x7FFFFFFF}, signed=flags[0])
    unsigned = builder.enum("u", {"C": 0xFFFFFFFE}, signed=flags[1])
    btf = Btf(builder.build())
    assert btf.enumerators(signed) == {"A": -2, "B": 0x7FFFFFFF}
    assert btf.enumerators(unsigned) == {"C": first}
    assert btf.enum_is_signed(signed) is flags[0]


def test_wide_enumerators() -> None:
    """Values of 64 bits, with a sign and without one."""
    builder = BtfBuilder()
    builder.enum("any", {"X": -1}, signed=True)
    signed = builder.enum64("s", {"A": -2, "B": (1 << 63) - 1}, signed=True)
    unsigned = builder.enum64("u", {"C": (1 << 64) - 2})
    btf = Btf(builder.build())
    assert btf.enumerators(signed) == {"A": -2, "B": (1 << 63) - 1}
    assert btf.enumerators(unsigned) == {"C": (1 << 64) - 2}


def test_forward_declarations() -> None:
    """They are of structures or of unions."""
    builder = BtfBuilder()
    numbers = [builder.fwd("s"), builder.fwd("u", union=True)]
    assert [*map(Btf(builder.build()).is_union_forward, numbers)] == [False, True]


def test_members_by_path() -> None:
    """Anonymous members are looked into, and dots lead through typedefs into named ones."""
    builder = BtfBuilder()
    number = builder.int_("int", 4)
    inner = builder.union("", 8, [("x", number, 0), ("y", number, 32)])
    middle = builder.typedef("m_t", builder.struct("m", 16, [("", inner, 64)]))
    last = builder.typedef("inner_t", inner)
    builder.struct("outer", 64, [("first", number, 0), ("m", middle, 128), ("", last, 320)])
    btf = Btf(builder.build())
    paths = {"first": 0, "m": 16, "m.x": 24, "m.y": 28, "x": 40, "y": 44}
    assert {path: BtfTypes(btf).offset("outer", path) for path in paths} == paths
    for structure, path in (("outer", "z"), ("outer", "first.x"), ("m.y", "x"), ("none", "x")):
        with pytest.raises(TypesError):
            BtfTypes(btf).offset(structure, path)


def test_sections() -> None:
    """All parts of a section of one name are taken, and no others."""
    builder = BtfBuilder()
    variables = [builder.var(name, 0) for name in "abc"]
    builder.datasec(".data..percpu", 64, [(variables[0], 0, 8), (variables[1], 32, 4)])
    builder.datasec(".bss", 64, [(variables[2], 8, 8)])
    builder.struct(".bss", 4, [("a", variables[0], 0)])
    btf = Btf(builder.build())
    assert btf.section_offsets(".bss") == {variables[2]: 8}
    assert btf.section_offsets(".data..percpu") == {variables[0]: 0, variables[1]: 32}
    assert btf.section_offsets("nothing") == {}


def test_header_variants() -> None:
    """A longer header, gaps, and sections in the other order are as good."""
    builder, number = one_of_each()
    types, strings = b"".join(builder.types), bytes(builder.strings)
    sizes = len(types), len(strings)
    gap = -len(strings) % 4 + 8
    variants = [
        header(*sizes, length=40) + bytes(b"\xaa" * 16) + types + strings,
        header(*sizes, types_at=8, strings_at=8 + sizes[0] + 3)
        + (b"\xaa" * 8 + types + b"\xaa" * 3 + strings + b"\xaa" * 5),
        header(*sizes, types_at=sizes[1] + gap, strings_at=0) + strings + bytes(gap) + types,
    ]
    expected = [*map(str, decode_all(builder.build()))]
    assert len(expected) > 4 * len(number)
    for data in variants:
        assert [*map(str, decode_all(data))] == expected


def test_no_types() -> None:
    """Void is always there; nothing at all is an error."""
    assert len(Btf(BtfBuilder().build())) == 1
    assert len(Btf(header(0, 0))) == 1
    with pytest.raises(BtfError):
        Btf(b"")


@pytest.mark.parametrize(
    "start",
    [
        header(24, 1, magic=0x9FEB),
        header(24, 1, order=">"),
        header(24, 1, version=2),
        header(25, 1),
        header(24, 1, types_at=2),
        header(28, 1),
        header(1 << 31, 1),
        header(0xFFFFFFFC, 1, types_at=4, strings_at=0),
        header(24, 2),
        header(24, 0xFFFFFFFF),
        header(24, 1, strings_at=0xFFFFFFFF),
        header(24, 1, length=0xFFFFFFFF),
        header(24, 1, length=28),
        header(20, 1),
        header(16, 1),
    ],
)
def test_broken_headers(start: bytes) -> None:
    """What is no header of version 1, or does not fit, is refused: 24 bytes of types follow."""
    builder = BtfBuilder()
    builder.ptr(0)
    builder.ptr(0)
    assert len(Btf(builder.build())) == 3
    with pytest.raises(BtfError):
        Btf(start + builder.build()[HEADER:])


def test_types_have_to_be_aligned() -> None:
    """As the kernel has it, which checks."""
    builder = BtfBuilder()
    builder.ptr(0)
    with pytest.raises(BtfError):
        Btf(header(12, 1, types_at=2) + bytes(2) + builder.types[0] + bytes(1))


def test_truncation() -> None:
    """Whatever is cut off is missed, wherever the cut is."""
    data = one_of_each()[0].build()
    for length in range(len(data)):
        with pytest.raises(BtfError):
            Btf(data[:length])


@pytest.mark.parametrize(
    ("kind", "count"),
    [(4, 2), (4, 0xFFFF), (6, 0xFFFF), (13, 2), (15, 1), (19, 3), (1, 0), (3, 0), (14, 0)],
)
def test_counts_that_do_not_fit(kind: int, count: int) -> None:
    """More members than there are bytes, up to the largest number that can be said, are refused."""
    builder = BtfBuilder()
    builder.add(kind, "x", count=count)
    with pytest.raises(BtfError):
        Btf(builder.build())


@pytest.mark.parametrize("kind", [0, 20, 31])
def test_unknown_kinds(kind: int) -> None:
    """A kind of unknown size ends everything."""
    builder = BtfBuilder()
    builder.add(kind, "x", 4, [0] * 3)
    with pytest.raises(BtfError):
        Btf(builder.build())


def test_names_out_of_range() -> None:
    """A name outside of the strings is an error when it is asked for, and of an index at once."""
    builder = BtfBuilder()
    number = builder.add(12, 0x7FFFFFFF)
    members = builder.add(4, "s", 4, [0x7FFFFFFF, 0, 0], 1)
    values = builder.add(6, "e", 4, [0xFFFFFFFF, 0], 1)
    btf = Btf(builder.build())
    asked: list[Callable[[], object]] = [
        lambda: btf.name(number),
        lambda: btf.members(members),
        lambda: btf.enumerators(values),
    ]
    for ask in asked:
        with pytest.raises(BtfError):
            ask()
    builder.struct("last", 4)
    with pytest.raises(BtfError):  # its NUL is cut off
        types = b"".join(builder.types)
        Btf(header(len(types), len(builder.strings) - 1) + types + builder.strings)
    builder.add(4, 0x7FFFFFFF)
    with pytest.raises(BtfError):
        Btf(builder.build())


def test_long_names() -> None:
    """The kernel refuses longer ones than it accepts, and so do we."""
    btf = BtfBuilder()
    btf.struct("a" * 511, 4)
    assert "a" * 511 in Btf(btf.build()).names
    btf.struct("a" * 512, 4)
    with pytest.raises(BtfError, match="too long"):
        Btf(btf.build())


def test_names_inside_each_other() -> None:
    """They could take hundreds of times the memory of BTF itself."""
    btf = BtfBuilder()
    start = btf.string("a" * 500)
    for offset in range(400):
        btf.add(4, start + offset)
    with pytest.raises(BtfError, match="overlap"):
        Btf(btf.build())


def test_too_many_types() -> None:
    """The kernel has a million at most."""
    section = struct.pack("<III", 0, 2 << 24, 0) * (1 << 20)
    with pytest.raises(BtfError, match="more than"):
        Btf(header(len(section), 1) + section + b"\0")


def test_names_that_are_not_ascii() -> None:
    """Bytes that no name has are replaced."""
    builder = BtfBuilder()
    number = builder.add(4, b"caf\xe9")
    assert Btf(builder.build()).name(number) == "caf\N{REPLACEMENT CHARACTER}"


def test_numbers_out_of_range() -> None:
    """Types that do not exist are an error, whatever is asked of them."""
    builder = BtfBuilder()
    lost = [builder.typedef("t", 1000), builder.const(0xFFFFFFFF)]
    builder.struct("s", 4, [("x", 1000, 0)])
    btf = Btf(builder.build())
    for number in (-1, len(btf), 1000, 0xFFFFFFFF):
        for ask in (btf.kind, btf.name, btf.target, btf.size, btf.members, btf.array, btf.resolve):
            with pytest.raises(BtfError):
                ask(number)
    for number in lost:
        with pytest.raises(BtfError):
            btf.resolve(number)
    with pytest.raises(BtfError):
        BtfTypes(btf).offset("s", "x.y")


def test_circles() -> None:
    """Types that contain themselves come to an end."""
    builder = BtfBuilder()
    circle = builder.typedef("t", builder.next + 1)
    builder.const(circle)
    itself = builder.typedef("i", builder.next)
    inside = builder.next
    builder.struct("s", 4, [("", inside, 0)])
    array = builder.next
    builder.array(array, 3)
    btf = Btf(builder.build())
    for number in (circle, circle + 1, itself):
        with pytest.raises(BtfError):
            btf.resolve(number)
    with pytest.raises(TypesError):
        BtfTypes(btf).offset("s", "x")
    assert btf.array(btf.resolve(array)) == (array, 3)


def test_twice_inside_itself() -> None:
    """A name that is not there is not looked for in the same structure again and again."""
    builder = BtfBuilder()
    builder.struct("s", 4, [("", builder.next, 0), ("", builder.next, 0)])
    with pytest.raises(TypesError):
        BtfTypes(Btf(builder.build())).offset("s", "x")


def test_what_is_taken_for_an_array_and_is_none() -> None:
    """Damage can make any type of a member; the words of an array may lie behind the last type."""
    builder = BtfBuilder()
    last = builder.struct("s", 4)
    with pytest.raises(BtfError):
        Btf(builder.build()).array(last)


def test_a_wide_enum_has_a_sign_only_by_its_flag() -> None:
    """Enums of 64 bits are younger than the flag."""
    builder = BtfBuilder()
    number = builder.enum64("u", {"A": 1 << 63})
    assert Btf(builder.build()).enumerators(number) == {"A": 1 << 63}


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_random_damage(data: st.DataObject) -> None:
    """Damaged types are decoded or refused; nothing else happens."""
    damaged = bytearray(one_of_each()[0].build())
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, len(damaged) // 4 - 1)) * 4
        word = data.draw(st.integers(0, (1 << 32) - 1) | st.integers(0, 40))
        struct.pack_into("<I", damaged, place, word)
    with contextlib.suppress(BtfError):
        assert sum(1 for _ in decode_all(bytes(damaged))) < 10_000


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_random_types(types: bytes) -> None:
    """Bytes that were never types are decoded or refused."""
    types = types[: len(types) // 4 * 4]
    with contextlib.suppress(BtfError):
        assert sum(1 for _ in decode_all(header(len(types), 3) + types + b"\0a\0")) < 10_000
