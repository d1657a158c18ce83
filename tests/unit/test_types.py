# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Types by the names of structures and members: of BTF and of an ISF, which answer alike."""

import copy
import json
from collections.abc import Iterator
from typing import Any, Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade.btf import BOOL, SIGNED, BtfBuilder
from tests.unit.test_symbols import FakeKernel, view_of
from volatility_guestdump.exceptions import TypesError
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.linux.types.btf_types import BtfTypes
from volatility_guestdump.linux.types.isf import Isf
from volatility_guestdump.linux.types.protocol import Field, Shape, Types

INTEGER, POINTER, STRUCTURE, ARRAY, OTHER = Shape

#: Path in "task" -> what is known of it.
FIELDS = {
    "pid": Field(0, INTEGER, 4, signed=True),
    "flags": Field(32, INTEGER, 8),
    "done": Field(96, INTEGER, 1),
    "low": Field(104, INTEGER, 4, 3),
    "high": Field(107, INTEGER, 4, 5),
    "state": Field(128, INTEGER, 4),
    "users": Field(160, STRUCTURE, 4, structure="atomic_t"),
    "users.counter": Field(160, INTEGER, 4, signed=True),
    "name": Field(192, ARRAY, 16, length=16),
    "rings": Field(320, ARRAY, 48, structure="pair", length=3),
    "mm": Field(704, POINTER, structure="pair"),
    "self": Field(768, POINTER, structure="task"),
    "nothing": Field(832, POINTER),
    "declared": Field(896, POINTER, structure="elsewhere"),
    "inner": Field(960, STRUCTURE, 16, structure="pair"),
    "inner.next": Field(960, POINTER),
    "inner.prev": Field(1024, POINTER),
    "hidden": Field(1088, INTEGER, 4, signed=True),
    "deeper": Field(1088, INTEGER, 8),
    "ratio": Field(1152, OTHER, 8),
}
SIZES = {"task": 152, "pair": 16, "atomic_t": 4}
COLOURS = {"RED": 0, "BLUE": 5}


def sample() -> BtfBuilder:
    """Returns the types that the constants above describe."""
    made = BtfBuilder()
    number, long = made.int_("int", 4, SIGNED), made.int_("long unsigned int", 8)
    letter, truth = made.int_("char", 1), made.int_("_Bool", 1, BOOL)
    unsigned, ratio = made.int_("unsigned int", 4), made.float_("double", 8)
    colour = made.enum("colour", COLOURS)
    pair = made.struct("pair", 16, [("next", made.ptr(0), 0), ("prev", made.ptr(0), 64)])
    atomic = made.typedef("atomic_t", made.struct("", 4, [("counter", number, 0)]))
    deepest = made.struct("", 8, [("deeper", long, 0)])
    union = made.union("", 8, [("hidden", number, 0), ("", deepest, 0)])
    pointers = made.ptr(made.const(pair)), made.ptr(0), made.ptr(made.fwd("elsewhere"))
    steady = made.const(long)
    itself = made.ptr(made.next + 3)
    name, rings = made.array(letter, 16), made.array(pair, 3)
    fields = (
        *(("pid", number, 0), ("flags", steady, 32), ("done", truth, 96)),
        *(("low", unsigned, 104, 3), ("high", unsigned, 107, 5), ("state", colour, 128)),
        *(("users", atomic, 160), ("name", name, 192), ("rings", rings, 320)),
        *(("mm", pointers[0], 704), ("self", itself, 768), ("nothing", pointers[1], 832)),
        *(("declared", pointers[2], 896), ("inner", pair, 960), ("", union, 1088)),
        ("ratio", ratio, 1152),
    )
    made.struct("task", 152, fields)
    return made


def document() -> Any:
    """Returns the same types as ISF, as they come from a file."""
    return json.loads(json.dumps(view_of(FakeKernel(sample())).expanded()))


def made_of(source: str) -> Types:
    """Returns the types as one source has them."""
    return BtfTypes(Btf(sample().build())) if source == "BTF" else Isf(document()).types


@pytest.fixture(params=["BTF", "ISF"])
def types(request: pytest.FixtureRequest) -> Types:
    """The types, of each source."""
    return made_of(request.param)


def test_members(types: Types) -> None:
    """Each is where it is, as large as it is, and what it is."""
    for path, field in FIELDS.items():
        found = types.field("task", path)
        assert found == field, path
        assert found.offset == types.offset("task", path) == field.bit_offset // 8


def test_sizes_and_constants(types: Types) -> None:
    """Of structures, and of typedefs to them; and the values of enums."""
    assert {name: types.size_of(name) for name in SIZES} == SIZES
    assert types.constants("colour") == COLOURS
    assert types.constants("taste") == {}


@pytest.mark.parametrize(
    ("structure", "path"),
    [("task", "none"), ("task", "pid.x"), ("task", "mm.next"), ("none", "x"), ("int", "x")],
)
def test_what_is_not_known(types: Types, structure: str, path: str) -> None:
    """It is None for who can do without, and an error that names it for who cannot."""
    assert types.find(structure, path) is None is types.look_up(structure, path)
    with pytest.raises(TypesError, match=f"the kernel has no {structure}.{path}"):
        types.field(structure, path)


def test_structures_that_are_not_known(types: Types) -> None:
    """Names of other types are none of structures."""
    for name in ("none", "int", "colour", "elsewhere"):
        assert not types.has(name) and types.size(name) is None
        with pytest.raises(TypesError, match=f"has no struct {name}"):
            types.size_of(name)
    with pytest.raises(TypesError, match="would have 152 bytes"):
        types.size_of("task", 151)


def test_anonymous_members_of_old_documents() -> None:
    """Once nothing but their names told them, and classes were structures."""
    old = {
        "base_types": {"int": {"size": 4, "signed": True, "kind": "int"}},
        "enums": {},
        "symbols": {"init_task": {"address": 0x1000}, "declared": {"address": 0}, "odd": {}},
        "user_types": {
            "outer": {
                "size": 12,
                "kind": "struct",
                "fields": {
                    "unnamed_field_0": {"offset": 8, "type": {"kind": "class", "name": "inner"}}
                },
            },
            "inner": {
                "size": 4,
                "kind": "struct",
                "fields": {"x": {"offset": 0, "type": {"kind": "base", "name": "int"}}},
            },
        },
    }
    isf = Isf(old)
    assert isf.types.field("outer", "x") == Field(64, INTEGER, 4, signed=True)
    assert [isf.address(name) for name in ("init_task", "declared", "odd", "none")] == [
        *(0x1000, None, None, None)
    ]


def test_an_array_of_arrays() -> None:
    """It has one length, as in BTF."""
    made = document()
    row = {"kind": "array", "count": 3, "subtype": {"kind": "struct", "name": "pair"}}
    table = {"kind": "array", "count": 5, "subtype": row}
    made["user_types"]["task"]["fields"]["rings"]["type"] = table
    assert Isf(made).types.field("task", "rings") == Field(320, ARRAY, 240, 0, False, "pair", 15)


def _asked(types: Types) -> Iterator[object]:
    for path in FIELDS:
        yield types.find("task", path)
    for name in SIZES:
        yield types.find(name, "x")


def _places(part: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for key, value in part.items():
        yield (*path, key)
        if isinstance(value, dict):
            yield from _places(value, (*path, key))


def _without(made: Any, path: tuple[str, ...], value: Optional[object]) -> Any:
    """Returns a document of which one part is something else, or is not there."""
    made = copy.deepcopy(made)
    part = made
    for key in path[:-1]:
        part = part[key]
    if value is None:
        del part[path[-1]]
    else:
        part[path[-1]] = value
    return made


_DOCUMENT = document()
_TYPES = {key: _DOCUMENT[key] for key in ("base_types", "user_types", "enums")}


@given(st.sampled_from(sorted(_places(_TYPES))), st.sampled_from([None, 7, -1, "x", [], {}, 1.5]))
@settings(max_examples=300, deadline=None)
def test_a_damaged_document(path: tuple[str, ...], value: Optional[object]) -> None:
    """What is damaged is not known, and nothing else goes wrong."""
    try:
        types = Isf(_without(_DOCUMENT, path, value)).types
    except TypesError:
        return
    assert len(list(_asked(types))) == len(FIELDS) + len(SIZES)
    for ask in (types.size, types.size_of, types.constants):
        for name in ("task", "pair", "colour"):
            try:
                ask(name)
            except TypesError:
                continue


@pytest.mark.parametrize("made", [None, [], "text", 7, {}, {"symbols": {}}, {"symbols": []}])
def test_no_document(made: object) -> None:
    """JSON that is something else is an error that says what is not there."""
    with pytest.raises(TypesError, match="the ISF has no"):
        Isf(made)


def test_structures_inside_each_other() -> None:
    """A name that is not there is looked for in each once, and arrays come to an end."""
    made = document()
    inside = {"kind": "struct", "name": "pair"}
    made["user_types"]["pair"]["fields"] = {
        f"unnamed_field_{number}": {"offset": 0, "type": inside} for number in range(9)
    }
    endless: dict[str, Any] = {"kind": "array", "count": 2}
    endless["subtype"] = endless
    made["user_types"]["task"]["fields"]["rings"]["type"] = endless
    types = Isf(made).types
    assert types.look_up("pair", "none") is None
    with pytest.raises(TypesError, match="nests too deeply"):
        types.look_up("task", "rings")
