# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Types and symbols in Volatility's terms, and what Volatility makes of them."""

import base64
import contextlib
import copy
import functools
import gc
import json
import pathlib
import pickle
import struct
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Optional, cast

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volatility3 import schemas
from volatility3.framework import contexts, exceptions, interfaces, objects
from volatility3.framework.layers import physical
from volatility3.framework.objects import (
    Array,
    Boolean,
    Char,
    Integer,
    PrimitiveObject,
    StructType,
    templates,
)
from volatility3.framework.symbols import intermed

from tests.handmade.btf import BOOL, SIGNED, BtfBuilder
from volatility_guestdump.exceptions import BtfError, KernelError
from volatility_guestdump.framework.templates import (
    KeepsMembers,
    StructureTemplate,
    kept_members,
    quick,
    quick_class,
)
from volatility_guestdump.linux.isf.document import ISF_FORMAT, IsfView, LazyMapping
from volatility_guestdump.linux.isf.types import Isf, TypeConverter
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.symbols.kallsyms import Encoding, Kallsyms
from volatility_guestdump.linux.types.btf import Btf

TEXT = 0xFFFFFFFF81000000
SHIFT = 0x1000000
INT: Isf = {"kind": "base", "name": "int"}


#: (name, address in the running kernel)
SYMBOLS = [
    ("_text", TEXT + SHIFT),
    ("init_task", TEXT + SHIFT + 0x1000),
    ("__per_cpu_offset", TEXT + SHIFT + 0x2000),
    ("linux_banner", TEXT + SHIFT + 0x2040),
    ("timekeeper_data", TEXT + SHIFT + 0x3000),
    ("ba!ng", TEXT + SHIFT + 0x3100),
    ("esc\x1b[2J", TEXT + SHIFT + 0x3200),
    ("twice", TEXT + SHIFT + 0x3300),
    ("twice", TEXT + SHIFT + 0x3400),
    ("counter", 0x1F00),
    ("elsewhere", 0x1F10),
    ("kallsyms", TEXT + SHIFT + 0x4000),
]


class FakeKernel:
    """A kernel of which no more is known than its types and symbols."""

    bits = 64
    symbol_shift = SHIFT
    has_code_alone = lacks_symbols = False
    banner = b"Linux version 6.1.0 (me@here) #1 SMP"
    kallsyms_error = "no symbols here"

    def __init__(self, btf: BtfBuilder, symbols: Sequence[tuple[str, int]] = SYMBOLS) -> None:
        self._btf = btf
        names = [name for name, _ in symbols]
        self.kallsyms: Optional[Kallsyms] = Kallsyms(
            names,
            "D" * len(names),
            {name: number for number, name in enumerate(names)},
            [address for _, address in symbols],
            Encoding.RELATIVE,
            {"kallsyms_names": TEXT + SHIFT + 0x5000},
        )

    @property
    def btf(self) -> Btf:
        """Returns the types."""
        return Btf(self._btf.build())


def view_of(kernel: FakeKernel) -> IsfView:
    """Returns the document of a kernel."""
    return IsfView(cast(LinuxKernel, cast(Any, kernel)))


def converter(btf: BtfBuilder) -> TypeConverter:
    """Returns the types of a 64-bit kernel."""
    return TypeConverter(Btf(btf.build()), 8)


def user_types(btf: BtfBuilder) -> LazyMapping:
    """Returns the section of that name."""
    types = converter(btf)
    return LazyMapping(types.user_types, types.user_type)


def struct_of(name: str) -> Isf:
    """Returns how a member that is a structure is described."""
    return {"kind": "struct", "name": name}


def array(count: int, element: Isf) -> Isf:
    """Returns how an array is described."""
    return {"kind": "array", "count": count, "subtype": element}


def bits(position: int, length: int, of: Isf) -> Isf:
    """Returns how a bitfield is described."""
    return {"kind": "bitfield", "bit_position": position, "bit_length": length, "type": of}


def sample() -> BtfBuilder:
    """Returns types with a bit of everything."""
    btf = BtfBuilder()
    number = btf.int_("int", 4, SIGNED)
    word = btf.int_("long unsigned int", 8)
    text = btf.array(btf.int_("char", 1, SIGNED), 16)
    flag = btf.int_("_Bool", 1, BOOL)
    enum = btf.enum("state", {"S_B": 1, "S_A": 1 << 31})
    wide = btf.enum64("mask", {"ALL": (1 << 64) - 1})
    negative = btf.enum("error", {"NONE": 0, "EIO": -5}, signed=True)
    inner = btf.union("", 8, [("x", number, 0), ("y", word, 0)])
    middle = btf.struct("", 16, [("m", number, 0), ("", inner, 64)])
    lock = btf.typedef("lock_t", btf.struct("", 4, [("slock", number, 0)]))
    function = btf.ptr(btf.func_proto(number))
    qualified = btf.ptr(btf.const(btf.volatile(btf.type_tag("user", number))))
    files = btf.ptr(btf.fwd("files_struct"))
    anything = btf.ptr(0)
    grid = btf.array(btf.array(number, 3), 2)
    rate = btf.float_("double", 8)
    rest = btf.array(word, 0)
    btf.struct(
        "task_struct",
        256,
        [
            ("state", enum, 0),
            ("", middle, 64),
            ("comm", text, 192),
            ("lock", lock, 320),
            ("parent", btf.next + 1, 384),
            ("run", function, 448),
            ("user", qualified, 512),
            ("files", files, 576),
            ("low", number, 640, 3),
            ("high", number, 643, 7),
            ("ok", flag, 672, 1),
            ("kind", enum, 673, 2),
            ("mask", wide, 704),
            ("error", negative, 768),
            ("anything", anything, 832),
            ("grid", grid, 896),
            ("rate", rate, 1088),
            ("rest", rest, 2048),
        ],
    )
    btf.ptr(btf.next - 1)
    counter = btf.var("counter", word)
    btf.datasec(".data..percpu", 0x2000, [(counter, 0x1F00, 8), (btf.var("elsewhere", word), 8, 8)])
    return btf


def test_a_structure() -> None:
    """Every kind of member, each where it lies, as dwarf2json has it."""
    btf = sample()
    fields = user_types(btf)["task_struct"]["fields"]
    middle = fields.pop("unnamed_field_1")
    assert middle["anonymous"] and middle["offset"] == 8
    pointer = {"kind": "pointer"}
    expected: dict[str, tuple[int, Isf]] = {
        "state": (0, {"kind": "enum", "name": "state"}),
        "comm": (24, array(16, {"kind": "base", "name": "char"})),
        "lock": (40, struct_of("lock_t")),
        "parent": (48, {**pointer, "subtype": struct_of("task_struct")}),
        "run": (56, {**pointer, "subtype": {"kind": "function"}}),
        "user": (64, {**pointer, "subtype": INT}),
        "files": (72, {**pointer, "subtype": struct_of("files_struct")}),
        "low": (80, bits(0, 3, INT)),
        "high": (80, bits(3, 7, INT)),
        "ok": (84, bits(0, 1, {"kind": "base", "name": "_Bool"})),
        "kind": (84, bits(1, 2, {"kind": "enum", "name": "state"})),
        "mask": (88, {"kind": "enum", "name": "mask"}),
        "error": (96, {"kind": "enum", "name": "error"}),
        "anything": (104, {**pointer, "subtype": {"kind": "base", "name": "void"}}),
        "grid": (112, array(2, array(3, INT))),
        "rate": (136, {"kind": "base", "name": "double"}),
        "rest": (256, array(0, {"kind": "base", "name": "long unsigned int"})),
    }
    assert fields == {name: {"offset": at, "type": kind} for name, (at, kind) in expected.items()}


def test_nested_anonymous_structures() -> None:
    """They go by their numbers, their members are marked, and a typedef names one."""
    btf = sample()
    types = user_types(btf)
    middle = types["task_struct"]["fields"]["unnamed_field_1"]["type"]["name"]
    fields = types[middle]["fields"]
    inner = fields["unnamed_field_1"]["type"]
    assert inner["kind"] == "union" and middle.startswith("unnamed_")
    assert types[inner["name"]] == {
        "kind": "union",
        "size": 8,
        "fields": {
            "x": {"offset": 0, "type": INT},
            "y": {"offset": 0, "type": {"kind": "base", "name": "long unsigned int"}},
        },
    }
    assert fields["m"] == {"offset": 0, "type": INT}
    assert types["lock_t"]["fields"] == {"slock": {"offset": 0, "type": INT}}


def test_old_bitfields() -> None:
    """Before the kind flag a bitfield was a member of an integer of fewer bits."""
    btf = BtfBuilder()
    plain, few = btf.int_("int", 4, SIGNED), btf.int_("int", 4, SIGNED, 3, 6)
    btf.struct("s", 8, [("a", plain, 0), ("b", few, 32), ("c", btf.const(few), 40)])
    fields = user_types(btf)["s"]["fields"]
    assert fields["a"] == {"offset": 0, "type": INT}
    # The bit position counts from the byte that the bitfield starts in.
    assert fields["b"] == {"offset": 4, "type": bits(6, 3, INT)}
    assert fields["c"] == {"offset": 5, "type": bits(6, 3, INT)}


def test_bitfields_stay_in_their_type() -> None:
    """One that leaves its integer, counted from its first byte (packed), is no member."""
    btf = BtfBuilder()
    number, byte = btf.int_("int", 4, SIGNED), btf.int_("char", 1)
    btf.struct("s", 12, [("a", number, 62, 30), ("b", number, 37, 27), ("c", byte, 66, 6)])
    fields = user_types(btf)["s"]["fields"]
    found = {n: (f["offset"], f["type"]["bit_position"]) for n, f in fields.items()}
    assert found == {"b": (4, 5), "c": (8, 2)}


def test_integers_of_one_name() -> None:
    """The one that uses all of its bytes is meant; no bitfield's makes "int" one byte large."""
    btf = BtfBuilder()
    btf.int_("int", 1, SIGNED, 0, 3)
    btf.int_("int", 4, SIGNED)
    btf.int_("int", 8, SIGNED)
    btf.int_("unsigned int", 1, 0, 0, 3)
    btf.int_("odd", 2, 0, 0, 9)
    sizes = {name: base["size"] for name, base in converter(btf).base_types.items()}
    assert (sizes["int"], sizes["unsigned int"], sizes["odd"]) == (4, 4, 2)


@pytest.mark.parametrize("name", ["struct", "union", "class", "pointer", "void"])
def test_integers_named_as_what_volatility_knows(name: str) -> None:
    """Volatility would take every structure, or every pointer, for that integer."""
    btf = BtfBuilder()
    btf.int_(name, 2)
    assert converter(btf).base_types.get(name, {}).get("size") != 2


def test_anonymous_members_and_their_names() -> None:
    """The name that an anonymous member is given is none that another member has."""
    btf = BtfBuilder()
    number = btf.int_("int", 4)
    inner = btf.struct("", 4, [("x", number, 0)])
    btf.struct("s", 8, [("", inner, 0), ("unnamed_field_0", number, 32)])
    fields = user_types(btf)["s"]["fields"]
    assert fields.pop("unnamed_field_0") == {"offset": 4, "type": {"kind": "base", "name": "int"}}
    (anonymous,) = fields.values()
    assert anonymous["anonymous"] and anonymous["offset"] == 0


def test_numbered_names_that_others_have() -> None:
    """A name that is made of another is none that a type has."""
    btf = BtfBuilder()
    btf.struct("s__3", 1)
    btf.struct("s", 2)
    third = btf.struct("s", 3)
    fourth = btf.struct("s__3__3", 4)
    assert third == 3
    types = converter(btf)
    assert sorted(types.outline(name)[1] for name in types.user_types) == [1, 2, 3, 4]
    assert fourth in types.user_types.values()


def test_a_structure_of_many_names() -> None:
    """It is converted once, and no more names are written than a kernel would have."""
    btf = BtfBuilder()
    number = btf.int_("int", 4)
    large = btf.struct("large", 4, [(f"m{i}", number, 0) for i in range(1000)])
    for index in range(100):
        btf.typedef(f"t{index}", large)
    section = user_types(btf)
    assert section["large"] is section["t7"]
    for index in range(1000):
        btf.typedef(f"more{index}", large)
    with pytest.raises(BtfError, match="too many members"):
        view_of(FakeKernel(btf)).expanded()


def test_names_that_several_have() -> None:
    """The first keeps it, and each is referred to by its own."""
    btf = BtfBuilder()
    first, union = btf.struct("s", 4), btf.union("s", 8)
    enums = [btf.enum("e", {name: 0}) for name in "AB"]
    late = btf.typedef("late", btf.typedef("early", btf.struct("", 3)))
    taken = btf.typedef("s", btf.struct("other", 5))
    fields = [("a", first, 0), ("b", union, 0), ("c", late, 0), ("d", taken, 0), ("e", enums[1], 0)]
    btf.struct("user", 64, fields)
    types = converter(btf)
    view = LazyMapping(types.user_types, types.user_type)
    assert (types.outline("s"), types.outline(f"s__{union}")) == (("struct", 4), ("union", 8))
    assert types.outline("late") == types.outline("early") == ("struct", 3)
    assert [*types.enums] == ["e", f"e__{enums[1]}"]
    names = [field["type"]["name"] for field in view["user"]["fields"].values()]
    assert names == ["s", f"s__{union}", "early", "other", f"e__{enums[1]}"]


def test_enums() -> None:
    """Their integer holds all values, and they are in the order of their names."""
    types = converter(sample())
    enums = LazyMapping(types.enums, types.enum)
    found = {name: (value["size"], value["base"]) for name, value in enums.items()}
    assert found == {
        "state": (4, "unsigned int"),
        "mask": (8, "long long unsigned int"),
        "error": (4, "int"),
    }
    assert [*enums["state"]["constants"].items()] == [("S_A", 1 << 31), ("S_B", 1)]
    assert enums["mask"]["constants"] == {"ALL": (1 << 64) - 1}
    assert {base for _, base in found.values()} <= set(types.base_types)


def test_base_types() -> None:
    """Volatility has classes of its own for truth values, characters and pointers."""
    types = converter(sample()).base_types
    names = ["int", "long unsigned int", "char", "_Bool", "double", "pointer", "void"]
    assert [
        (types[name]["kind"], types[name]["size"], types[name]["signed"]) for name in names
    ] == [
        ("int", 4, True),
        ("int", 8, False),
        ("char", 1, True),
        ("bool", 1, False),
        ("float", 8, True),
        ("int", 8, False),
        ("void", 0, False),
    ]


INTEGERS = [
    ("short int", "short", 2, True),
    ("short unsigned int", "unsigned short", 2, False),
    ("long int", "long", 8, True),
    ("long unsigned int", "unsigned long", 8, False),
    ("long long unsigned int", "unsigned long long", 8, False),
]


@pytest.mark.parametrize("compiler", ["gcc", "clang"])
def test_integers_of_both_compilers(compiler: str, tmp_path: pathlib.Path) -> None:
    """Volatility finds them by gcc's names, and by those of the compiler that was used."""
    btf = BtfBuilder()
    for gcc, clang, size, signed in INTEGERS:
        btf.int_(gcc if compiler == "gcc" else clang, size, SIGNED if signed else 0)
    btf.struct("task_struct", 8, [("flags", 4, 0)])
    document = view_of(FakeKernel(btf)).expanded()
    schema().validate(document)
    space = loaded(document, tmp_path, struct.pack("<q", -2)).symbol_space
    for gcc, clang, size, signed in INTEGERS:
        for name in (gcc, clang):
            found = space.get_type(f"t!{name}")
            assert (found.size, found.vol.data_format.signed) == (size, signed), name
    symbols = document["symbols"]
    assert symbols["__per_cpu_offset"]["type"]["subtype"]["name"] == "long unsigned int"


@pytest.mark.parametrize("name", ["a!b", "a\x1b[2J"])
def test_other_names_that_cannot_be_shown(name: str) -> None:
    """Nor do the names of enumerators and of structures that are only declared get through."""
    btf = BtfBuilder()
    btf.enum("e", {name: 1, "B": 2})
    btf.struct("s", 8, [("p", btf.ptr(btf.fwd(name)), 0)])
    types = converter(btf)
    assert name not in LazyMapping(types.enums, types.enum)["e"]["constants"]
    pointer = LazyMapping(types.user_types, types.user_type)["s"]["fields"]["p"]["type"]
    assert name not in pointer["subtype"].values()


def test_enums_without_end() -> None:
    """As many values as BTF can say are decoded; an enum of no integer's size is none."""
    btf = BtfBuilder()
    btf.enum("large", {f"V{number}": number for number in range(0xFFFF)})
    btf.enum("odd", {"A": 1}, size=3)
    types = converter(btf)
    enums = LazyMapping(types.enums, types.enum)
    assert len(enums["large"]["constants"]) == 0xFFFF
    assert enums.get("odd") is None and list(enums.expanded()) == ["large"]


@pytest.mark.parametrize("name", ["a!b", "a\x1b[2J", "a\n", "\x7f"])
def test_names_that_cannot_be_shown(name: str) -> None:
    """Types with such names go by their number, members are left out."""
    btf = BtfBuilder()
    number = btf.int_(name, 4)
    hidden = [btf.struct(name, 4), btf.enum(name, {"A": 1}), btf.typedef(name, 2)]
    fields = [("i", number, 0), ("s", hidden[0], 0), ("e", hidden[1], 0), ("t", hidden[2], 0)]
    btf.struct("s", 4, [*fields, (name, number, 0)])
    types = converter(btf)
    section = LazyMapping(types.user_types, types.user_type)
    assert [*section] == ["s", f"unnamed_{hidden[0]}"] and name not in types.base_types
    assert [*types.enums] == [f"unnamed_{hidden[1]}"]
    assert [*section["s"]["fields"]] == ["i", "s", "e", "t"]
    assert name not in str(section.expanded()) and repr(name)[1:-1] not in str(section.expanded())


def nested(depth: int, anonymous: bool = True) -> BtfBuilder:
    """Returns structures in each other, or pointers to each other; "outer" holds all."""
    btf = BtfBuilder()
    number = btf.int_("int", 4)
    inner = btf.struct("", 4, [("x", number, 0)])
    for _ in range(depth):
        inner = btf.struct("", 4, [("", inner, 0)]) if anonymous else btf.ptr(inner)
    btf.struct("outer", 4, [("" if anonymous else "p", inner, 0)])
    return btf


@pytest.mark.parametrize("anonymous", [True, False])
def test_deep_nesting(anonymous: bool) -> None:
    """No kernel nests nearly as deep as what is refused."""
    assert user_types(nested(12, anonymous))["outer"]["fields"]
    deep = converter(nested(300, anonymous))
    with pytest.raises(BtfError):
        deep.user_type("outer", deep.user_types["outer"])
    with pytest.raises(KeyError):
        user_types(nested(5000, anonymous))["outer"]


@pytest.mark.parametrize("anonymous", [True, False])
def test_deep_nesting_from_the_inside(anonymous: bool) -> None:
    """What is converted first, inner or outer structures, makes no difference."""
    btf = nested(300, anonymous)
    for number in range(2, len(btf.types)):
        btf.struct(f"s{number}", 4, [("" if anonymous else "p", number, 0)])
    section = user_types(btf)
    found = section.expanded()
    assert "outer" not in found and "s300" not in found and "s10" in found
    assert user_types(btf).get("s300") is None
    usable(btf.build())


def inside_itself(btf: BtfBuilder) -> None:
    """Makes an anonymous member of the structure that it is in."""
    btf.struct("s", 4, [("", btf.next, 0)])


def inside_each_other(btf: BtfBuilder) -> None:
    """Makes a structure and a union that are members of each other."""
    btf.struct("s", 4, [("", btf.next + 1, 0)])
    btf.union("u", 4, [("", btf.next - 1, 0)] * 3)


def array_of_itself(btf: BtfBuilder) -> None:
    """Makes an array that is its own element."""
    btf.struct("s", 4, [("a", btf.next + 1, 0)])
    btf.array(btf.next, 2)


def pointer_to_itself(btf: BtfBuilder) -> None:
    """Makes a pointer to itself."""
    btf.struct("s", 4, [("p", btf.next + 1, 0)])
    btf.ptr(btf.next)


def typedef_of_itself(btf: BtfBuilder) -> None:
    """Makes a typedef of its own qualifier."""
    btf.struct("s", 4, [("t", btf.next + 1, 0)])
    btf.typedef("t", btf.next + 1)
    btf.const(btf.next - 1)


def a_million_members(btf: BtfBuilder) -> None:
    """Makes a structure of sixteen that have 65,535 members each, by doubling."""
    number = btf.int_("int", 4)
    last = btf.struct("", 4, [("x", number, 0)])
    for _ in range(20):
        last = btf.struct("", 4, [("", last, 0)] * 2)
    btf.struct("s", 4, [("", last, 0)])


def a_large_array(btf: BtfBuilder) -> None:
    """Makes an array of arrays of together 256 MiB."""
    inner = btf.array(btf.int_("int", 4), 1 << 13)
    btf.struct("s", 4, [("a", btf.array(inner, 1 << 13), 0)])


def an_unknown_type(btf: BtfBuilder) -> None:
    """Makes a member of a type that does not exist."""
    btf.struct("s", 4, [("a", 1000, 0)])


def a_lost_name(btf: BtfBuilder) -> None:
    """Makes a member whose name is outside of the strings."""
    btf.add(4, "s", 4, [1 << 20, 0, 0], 1)


def bits_of_nothing(btf: BtfBuilder) -> None:
    """Makes a bitfield of an integer without size."""
    btf.struct("s", 4, [("a", btf.int_("none", 0), 0, 5)])


def bits_of_a_structure(btf: BtfBuilder) -> None:
    """Makes a bitfield that is no number."""
    btf.struct("s", 4, [("a", btf.struct("other", 4), 0, 5)])


def many_enums(btf: BtfBuilder) -> None:
    """Makes an array of enums of 16 GiB."""
    btf.struct("s", 4, [("a", btf.array(btf.enum("e", {"A": 1}), (1 << 32) - 1), 0)])


def many_without_size(btf: BtfBuilder) -> None:
    """Makes an array of four milliards of nothing."""
    btf.struct("s", 4, [("a", btf.array(btf.fwd("f"), (1 << 32) - 1), 0)])


def inside_damaged(btf: BtfBuilder) -> None:
    """Makes an anonymous member that is itself refused."""
    inner = btf.struct("", 4, [("a", 1000, 0)])
    btf.struct("s", 4, [("", inner, 0)])


#: Not refused yet.
OPEN = [bits_of_nothing, bits_of_a_structure, many_enums, many_without_size]
OPEN += [inside_damaged]

DAMAGE = [inside_itself, inside_each_other, array_of_itself, pointer_to_itself, typedef_of_itself]
DAMAGE += [a_million_members, a_large_array, an_unknown_type, a_lost_name]


@pytest.mark.parametrize("damage", [*DAMAGE, *OPEN])
def test_damaged_structures(damage: Callable[[BtfBuilder], None]) -> None:
    """They are refused, and others are not."""
    btf = BtfBuilder()
    btf.struct("sound", 8)
    damage(btf)
    types = converter(btf)
    section = LazyMapping(types.user_types, types.user_type)
    with pytest.raises(BtfError):
        types.user_type("s", types.user_types["s"])
    with pytest.raises(KeyError):
        section["s"]
    assert "s" in section and "sound" in section.expanded() and "s" not in section.expanded()


def test_hidden_inside_itself() -> None:
    """A member without a usable name is no anonymous one of the structure that it is in."""
    btf = BtfBuilder()
    btf.struct("s", 4, [("\x01", btf.next, 0)])
    usable(btf.build())


def test_values_are_made_once() -> None:
    """A value is made when it is asked for, and kept; a failure is a missing key."""
    asked = []

    def make(name: str, number: int) -> Isf:
        asked.append((name, number))
        if number == 2:
            raise KernelError("damaged")
        return {"name": name}

    section = LazyMapping({"a": 1, "b": 2}, make)
    assert (len(section), [*section], asked) == (2, ["a", "b"], [])
    assert section["a"] is section["a"]
    assert section.get("b") is None and section.get("c") is None
    assert asked == [("a", 1), ("b", 2)]
    assert section.expanded() == {"a": {"name": "a"}}


def test_symbols() -> None:
    """They are at the addresses they were linked to, with the types that are known."""
    btf = sample()
    number = btf.int_("int", 4)
    btf.struct("", 8, [("seq", number, 0), ("timekeeper", number, 32)])
    view = view_of(FakeKernel(btf))
    symbols = view.expanded()["symbols"]
    found = {name: symbol["address"] - TEXT for name, symbol in symbols.items()}
    expected = {name: address - SHIFT - TEXT for name, address in SYMBOLS if address > TEXT}
    # Per-CPU variables do not move with the kernel.
    expected.update(counter=0x1F00 - TEXT, elsewhere=0x1F10 - TEXT)
    expected.update(kallsyms_names=0x5000, tk_core=expected["timekeeper_data"])
    del expected["ba!ng"], expected["esc\x1b[2J"]
    assert found == expected
    types = {name: symbol["type"] for name, symbol in symbols.items()}
    unsigned: Isf = {"kind": "base", "name": "long unsigned int"}
    void: Isf = {"kind": "base", "name": "void"}
    assert types["init_task"] == struct_of("task_struct")
    assert types["__per_cpu_offset"] == array(8, unsigned)
    assert types["tk_core"] == struct_of(f"unnamed_{len(btf.types)}")
    assert (types["counter"], types["elsewhere"], types["twice"]) == (unsigned, void, void)
    banner = base64.b64decode(symbols["linux_banner"]["constant_data"])
    assert banner == FakeKernel.banner + b"\n\0"
    locations = view.symbols_by_location(0)
    assert [address for address, name in locations if name == "twice"] == [
        TEXT + 0x3300,
        TEXT + 0x3400,
    ]
    assert locations == sorted(locations)
    # Every symbol is found by its address as by its name.
    assert {name for _, name in locations} == set(symbols)
    assert all((symbol["address"], name) in locations for name, symbol in symbols.items())
    assert view.symbols_by_location(0xFFF)[0] == (0, "__per_cpu_offset")
    for mask in (0, (1 << 48) - 1, (1 << 57) - 1):
        locations = view.symbols_by_location(mask)
        edges = {address + step for address, _ in locations for step in (-1, 0, 1)} | {0, 1 << 64}
        for first in edges:
            for last in (first, first + 1, max(edges)):
                between = [place for place in locations if first <= place[0] <= last]
                assert view.symbols_between(first, last, mask) == between
    # Here the upper bits are neither all zeros nor all ones.
    assert view.symbols_between(0, 1 << 64, (1 << 13) - 1) is None


def test_symbols_of_damaged_types() -> None:
    """They have no type, and damage elsewhere does not take theirs away."""
    btf = BtfBuilder()
    damaged = btf.add(4, "", 8, [1 << 20, 0, 0], count=1)
    number = btf.int_("int", 4)
    sound = btf.struct("", 8, [("seq", number, 0), ("timekeeper", number, 32)])
    btf.datasec(".data..percpu", 8, [(btf.var("counter", 9999), 0x1F00, 8)])
    symbols = view_of(FakeKernel(btf)).document["symbols"]
    assert damaged < sound and symbols["tk_core"]["type"] == struct_of(f"unnamed_{sound}")
    assert symbols["counter"]["type"] == {"kind": "base", "name": "void"}


def test_a_type_that_the_kernel_has_not() -> None:
    """A global whose structure is missing has no type."""
    symbols = view_of(FakeKernel(BtfBuilder())).document["symbols"]
    assert symbols["init_task"]["type"] == {"kind": "base", "name": "void"}


def test_a_kernel_without_symbols() -> None:
    """It has no document, and says why."""
    kernel = FakeKernel(sample())
    kernel.kallsyms = None
    with pytest.raises(KernelError, match="no symbols here"):
        view_of(kernel)


def test_symbols_of_code_alone() -> None:
    """A document without the variables that plugins start from would serve nobody."""
    kernel = FakeKernel(sample())
    kernel.has_code_alone = True
    with pytest.raises(KernelError, match="has code alone"):
        view_of(kernel)


@functools.cache
def schema() -> Any:
    """Returns what checks a document against Volatility's schema."""
    path = pathlib.Path(schemas.__file__).with_name(f"schema-{ISF_FORMAT}.json")
    return jsonschema.Draft7Validator(json.loads(path.read_text(encoding="utf-8")))


def loaded(document: Isf, folder: pathlib.Path, memory: bytes = b"") -> contexts.Context:
    """Returns a context with a document as table "t" and memory as layer "m"."""
    path = folder / "kernel.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    context = contexts.Context()
    table = intermed.IntermediateSymbolTable(context, "c", "t", path.as_uri(), validate=False)
    context.symbol_space.append(table)
    context.add_layer(physical.BufferDataLayer(context, "m", "m", memory))
    return context


def test_volatility_reads_the_document(tmp_path: pathlib.Path) -> None:
    """It conforms to the schema, and objects made with it have the right values."""
    document = view_of(FakeKernel(sample())).expanded()
    schema().validate(document)
    memory = bytearray(512)
    struct.pack_into("<I4xI4xI4xQ", memory, 0, 1, 0, 0, 0)
    struct.pack_into("<IIIIQ", memory, 0, 1 << 31, 0, 7, 0, 0x1122334455667788)
    struct.pack_into("<16sI4xQ", memory, 24, b"swapper", 9, 0x100)
    struct.pack_into("<IIQi", memory, 80, 5 | 0x55 << 3, 0b101, (1 << 64) - 1, -5)
    struct.pack_into("<6i", memory, 112, *range(6))
    struct.pack_into("<d", memory, 136, 2.5)
    struct.pack_into("<I", memory, 0x100, 1)
    context = loaded(document, tmp_path, bytes(memory))
    task = context.object("t!task_struct", "m", 0)
    assert task.vol.size == 256
    assert (task.state.description, task.state) == ("S_A", 1 << 31)
    # Of anonymous members and of those inside of them
    assert (task.m, task.x, task.y) == (7, 0x55667788, 0x1122334455667788)
    assert task.comm.cast("string", max_length=16) == "swapper"
    assert (task.lock.slock, task.low, task.high, task.ok) == (9, 5, 0x55, 1)
    assert (task.kind, task.mask.description, task.error.description) == (2, "ALL", "EIO")
    assert [[*row] for row in task.grid] == [[0, 1, 2], [3, 4, 5]]
    assert (task.rate, len(task.rest)) == (2.5, 0)
    assert (task.parent, task.parent.dereference().state) == (0x100, 1)
    symbol = context.symbol_space.get_symbol("t!init_task")
    assert (symbol.address, symbol.type_name) == (TEXT + 0x1000, "t!task_struct")


#: What objects hold, of one kind or another
VALUES = (
    *("type_name", "offset", "layer_name", "native_layer_name", "member_name", "parent", "size"),
    *("data_format", "subtype", "count", "members", "base_type", "choices", "start_bit", "colour"),
)


@pytest.mark.parametrize(
    "member", ["state", "comm", "lock", "low", "kind", "grid", "rate", "parent", "ok"]
)
def test_objects_hold_what_those_of_volatility_hold(tmp_path: pathlib.Path, member: str) -> None:
    """The quick templates change where an object's values stand, not what they are."""
    context = loaded(view_of(FakeKernel(sample())).expanded(), tmp_path, bytes(512))
    context.add_layer(physical.BufferDataLayer(context, "n", "n", bytes(512)))
    task = context.symbol_space.get_type("t!task_struct")
    offset, own = task.vol.members[member]
    if isinstance(own, templates.ReferenceTemplate):
        own = context.symbol_space.get_type(own.vol.type_name)
    template: Any
    for template in (task, own):
        ours = quick(template)
        assert ours.size == template.size
        info = interfaces.objects.ObjectInformation("m", offset, "n", member, size=3)
        both = [kind(context, info) for kind in (template, ours)]
        first, second = ({k: o.vol[k] for k in VALUES if k in o.vol} for o in both)
        assert first == second and {*VALUES[:7]} <= {*first}
        if isinstance(both[1], PrimitiveObject):
            copied = pickle.loads(pickle.dumps(both[1]))
            assert copied == both[0]
            assert {k: copied.vol[k] for k in VALUES[:7]} == {k: first[k] for k in VALUES[:7]}


def test_members_are_what_volatility_makes(tmp_path: pathlib.Path) -> None:
    """Those that its constructors do not make too, with all that these would give them."""
    context = loaded(view_of(FakeKernel(sample())).expanded(), tmp_path, bytes(range(256)) * 2)
    info = interfaces.objects.ObjectInformation("m", 8, "m", "of", size=256)
    theirs: Any = context.symbol_space.get_type("t!task_struct")(context, info)
    ours = quick_task(tmp_path)(8)
    assert vars(ours).keys() == vars(theirs).keys()
    names = [*theirs.vol.members]
    assert len(names) > 10
    for name in names:
        pair: list[Any] = [getattr(task, name) for task in (ours, theirs)]
        if name == "parent":
            pair += [each.dereference() for each in pair]
        for first, second in zip(pair[::2], pair[1::2]):
            assert vars(first).keys() == vars(second).keys()
            assert {*VALUES[:7]} <= {key for key in VALUES if key in first.vol}
            for key in VALUES[:5]:
                assert first.vol[key] == second.vol[key]
            assert first.vol.size == second.vol.size
            if isinstance(first, PrimitiveObject):
                assert first == second
            if type(second) in (Boolean, Char, Integer):
                assert copy.copy(first) == second


@pytest.mark.parametrize("length", [7, 9])
@pytest.mark.parametrize("name", ["string", "bytes"])
def test_quick_templates_of_what_has_any_length(
    tmp_path: pathlib.Path, name: str, length: int
) -> None:
    """They are of no format, but of the length that they are updated with."""
    memory = b"swapper".ljust(512, b"\0")
    context = loaded(view_of(FakeKernel(sample())).expanded(), tmp_path, memory)
    template: Any = context.symbol_space.get_type(f"t!{name}")
    info = interfaces.objects.ObjectInformation("m", 0, "m", size=length)
    made = []
    for kind in (template, quick(template)):
        clone = kind.clone()
        clone.update_vol(**{"max_length" if name == "string" else "length": length})
        assert clone.size == length
        made.append(clone(context, info))
    assert made[0] == made[1] == ("swapper" if name == "string" else memory[:length])
    assert len({(type(each).__module__, type(each).__qualname__) for each in made}) == 1


def test_quick_templates_can_be_changed(tmp_path: pathlib.Path) -> None:
    """Arguments that are updated reach the next object, and no clone."""
    context = loaded(view_of(FakeKernel(sample())).expanded(), tmp_path, bytes(512))
    task = context.symbol_space.get_type("t!task_struct")
    info = interfaces.objects.ObjectInformation("m", 0, "m")
    grid = task.vol.members["grid"][1]
    template = quick(grid)
    row = template.vol.subtype
    assert (template(context, info).vol.count, template.size) == (2, 24)
    template.update_vol(count=1)
    assert (template(context, info).vol.count, template.size) == (1, 12)
    assert quick(template)(context, info).vol.count == 1
    assert template.clone().vol.count == grid.clone().vol.count != 1
    template.replace_child(row, row.vol.subtype)
    array: Any = template(context, info)
    assert array[0] == 0
    array.count = 3
    assert (array.vol.count, array.vol.size) == (3, 12)


class KeepingLayer(KeepsMembers, physical.BufferDataLayer):
    """Memory in which structures share their members."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.kept_members = kept_members()


def quick_task(tmp_path: pathlib.Path, keeps: bool = False) -> Callable[..., Any]:
    """Returns what makes a structure whose members, and theirs, come from quick templates.

    Args:
        tmp_path: for the symbols.
        keeps: whether structures at one address share their members.
    """
    context = loaded(view_of(FakeKernel(sample())).expanded(), tmp_path, bytes(range(256)) * 2)
    template = context.symbol_space.get_type("t!task_struct")
    members = {}
    for name, (offset, own) in template.vol.members.items():
        refers = isinstance(own, templates.ReferenceTemplate)
        member: Any = context.symbol_space.get_type(own.vol.type_name) if refers else own
        members[name] = offset, quick(member)
    made = StructureTemplate(
        quick_class(template.vol.object_class), "t!task_struct", size=256, members=members
    )
    if keeps:
        context.add_layer(KeepingLayer(context, "k", "k", bytes(range(256)) * 8))
    name = "k" if keeps else "m"

    def make(offset: int = 0, native: str = "m") -> Any:
        info = interfaces.objects.ObjectInformation(name, offset, native, size=256)
        return made(context, info)

    return make


def test_members_do_not_keep_their_parent(tmp_path: pathlib.Path) -> None:
    """No cycle keeps an object alive; who asks a member for its parent gets it all the same."""
    make = quick_task(tmp_path)
    task = make()
    kept = [task.low, task.lock, task.comm, task.grid[1], task.parent, task.state, task.rate]
    values = [{k: o.vol[k] for k in VALUES if k in o.vol and k != "parent"} for o in kept]
    for each in kept:
        assert each.vol.parent is task or each.vol.parent.vol.parent is task
    gone = weakref.ref(task)
    enabled = gc.isenabled()
    gc.disable()
    try:
        del task
        assert gone() is None
    finally:
        if enabled:
            gc.enable()
    assert [{k: o.vol[k] for k in VALUES if k in o.vol and k != "parent"} for o in kept] == values
    for each in (kept[0], kept[1], kept[3].vol.parent):
        parent = each.vol.parent
        assert each.vol.parent is parent and type(parent) is type(make())
        assert (parent.vol.type_name, parent.vol.offset) == ("t!task_struct", 0)
        assert parent.vol.parent is None and parent.low == kept[0]
    pointed = kept[4].dereference()
    assert pointed.vol.parent == kept[4] and pointed.vol.parent.vol.member_name == "parent"


def test_structures_at_one_address_share_members(tmp_path: pathlib.Path) -> None:
    """Others do not, and no more of them are kept than the last."""
    make = quick_task(tmp_path, keeps=True)
    first = make(64)
    assert make(64).lock is first.lock and make(64).low is first.low
    assert first.lock.vol.parent.vol.offset == 64
    for other in (make(65), make(64, "n")):
        assert other.lock is not first.lock and other.lock.vol.offset == other.vol.offset + 40
    assert first.lock.vol.native_layer_name == "m"
    assert make(64, "n").lock.vol.native_layer_name == "n"
    for offset in range(256, 256 + 1024):
        make(offset)
    assert make(64).lock is not first.lock and make(64).lock.slock == first.lock.slock
    # Without such a layer none are shared.
    make = quick_task(tmp_path)
    assert make().lock is not make().lock


def test_clones_have_what_was_not_updated(tmp_path: pathlib.Path) -> None:
    """Whether objects were made before or not."""
    context = loaded(view_of(FakeKernel(sample())).expanded(), tmp_path, bytes(512))
    grid = context.symbol_space.get_type("t!task_struct").vol.members["grid"][1]
    info = interfaces.objects.ObjectInformation("m", 0, "m")
    plain = templates.ObjectTemplate(Array, "t!array", count=2, subtype=grid.vol.subtype)
    template: Any = quick(plain)
    first = template.clone()
    assert template(context, info).vol.count == 2 and template.size == 24
    template.update_vol()
    template.update_vol(count=1)
    assert template(context, info).vol.count == 1
    for clone in (first, template.clone()):
        assert clone(context, info).vol.count == 2 and clone.size == 24
        clone.update_vol(count=3)
        assert clone(context, info).vol.count == 3
    assert template(context, info).vol.count == 1


def test_an_array_that_was_changed_is_its_elements_parent(tmp_path: pathlib.Path) -> None:
    """What a parent's own values are, they are too when it is made again."""
    grid = quick_task(tmp_path)().grid
    grid.count = 1
    row = grid[0]
    del grid
    assert (row.vol.parent.count, row.vol.parent.vol.size) == (1, 12)


def test_classes_of_structures(tmp_path: pathlib.Path) -> None:
    """They look like Volatility's, and are those once they are copied elsewhere."""
    task = quick_task(tmp_path)()
    assert isinstance(task, StructType)
    names = (type(task).__name__, type(task).__qualname__, type(task).__module__)
    assert names == (StructType.__name__, StructType.__qualname__, StructType.__module__)
    assert type(copy.copy(task)) is StructType
    for part in (task.grid, task.parent):
        copied = copy.copy(part)
        assert type(copied).__module__ == "volatility3.framework.objects"
        assert type(copied) is getattr(objects, type(part).__name__) is not type(part)
        assert isinstance(part, Array) or copied == part
    for absent in ("absent", "_absent", "_a__absent", "__absent"):
        assert not hasattr(task, absent)
        with pytest.raises(AttributeError, match="has no attribute"):
            getattr(task, absent)

    class Own(StructType):
        def __getattr__(self, attr: str) -> Any:
            if attr == "vol":
                raise AttributeError(attr)
            return attr

    own = quick_class(Own)
    info = interfaces.objects.ObjectInformation("m", 0, "m")
    members = {"low": task.vol.members["low"]}
    made: Any = own(task._context, type_name="t!own", object_info=info, size=8, members=members)
    assert made.low == "low" and made.vol.offset == 0 and quick_class(own) is own


def usable(btf: bytes) -> None:
    """Checks that what is left of damaged types can be written, read and used."""
    try:
        types = TypeConverter(Btf(btf), 8)
    except KernelError:
        return
    document: Isf = {
        "metadata": {"format": ISF_FORMAT},
        "base_types": types.base_types,
        "user_types": LazyMapping(types.user_types, types.user_type).expanded(),
        "enums": LazyMapping(types.enums, types.enum).expanded(),
        "symbols": {},
    }
    document = json.loads(json.dumps(document))
    schema().validate(document)
    table = intermed.Version8Format(contexts.Context(), "c", "t", document)
    for name in document["user_types"]:
        with contextlib.suppress(exceptions.SymbolError, exceptions.SymbolSpaceError):
            table.get_type(name)


@pytest.mark.parametrize("name", [b"", b"\x01"])
def test_anonymous_members_with_a_name(name: bytes) -> None:
    """An anonymous member's structure may have a name that is empty or cannot be shown."""
    btf = BtfBuilder()
    # Not at offset 0, where the empty name of what is anonymous stands.
    at = len(btf.strings)
    btf.strings += name + b"\0"
    number = btf.int_("int", 4)
    inner = btf.add(4, at, 4, [btf.string("x"), number, 0], 1)
    btf.struct("s", 4, [("", inner, 0)])
    usable(btf.build())


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_random_damage(data: st.DataObject) -> None:
    """Of damaged types those that are left can be used."""
    damaged = bytearray(sample().build())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(6, len(damaged) // 4 - 1)) * 4
        word = data.draw(st.integers(0, 40) | st.integers(0, (1 << 32) - 1))
        struct.pack_into("<I", damaged, place, word)
    usable(bytes(damaged))
