# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernels that were built otherwise than those of distributions, in memory made by hand."""

import bisect
import json
import pathlib
import random
import struct
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional, cast

import pytest
from volatility3.framework import contexts
from volatility3.framework.automagic import linux
from volatility3.framework.layers import physical
from volatility3.framework.symbols import intermed

from tests.handmade.btf import BtfBuilder
from volatility_guestdump.exceptions import AddressError, BtfError, OrcError
from volatility_guestdump.linux.finding.boot_header import preferred_address
from volatility_guestdump.linux.finding.image import Run
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.orc import Register
from volatility_guestdump.linux.stacks.orc_search import find_orc
from volatility_guestdump.linux.symbols.kallsyms import Encoding, Kallsyms
from volatility_guestdump.x86.paging import PageTables, PagingMode

BANNER = b"Linux version 6.1.0-odd (somebody@somewhere) (clang) #1 SMP"
START_KERNEL_MAP = 0xFFFFFFFF80000000


class FakeTables:
    """Page tables that map the kernel's image in one piece."""

    def __init__(self, mode: PagingMode, start: int, physical_start: int, image: bytes) -> None:
        self.mode = mode
        self.root = 0
        self._start = start
        self._physical = physical_start
        self._image = image

    def translate(self, address: int) -> tuple[int, int]:
        """Returns the physical address, and how much follows it."""
        at = address - self._start
        if not 0 <= at < len(self._image):
            raise AddressError(address)
        return self._physical + at, len(self._image) - at

    def read_physical(self, address: int, length: int) -> bytes:
        """Reads physical memory."""
        at = address - self._physical
        if not 0 <= at <= len(self._image) - length:
            raise AddressError(address)
        return self._image[at : at + length]

    def read(self, address: int, length: int) -> bytes:
        """Reads virtual memory."""
        return self.read_physical(self.translate(address)[0], length)


class Place(NamedTuple):
    """Where a kernel runs: the virtual and the physical address of its image's start."""

    virtual: int
    physical: int
    mode: PagingMode = PagingMode.FOUR_LEVEL


def kernel_at(
    place: Place, image: bytes, symbols: Sequence[tuple[str, str, int]] = ()
) -> LinuxKernel:
    """Returns a kernel.

    Args:
        place: where it runs.
        image: its memory.
        symbols: (name, type, offset in the image); _text is there anyway.
    """
    table = [("_text", "T", 0), ("_stext", "T", 0), *symbols]
    kallsyms = Kallsyms(
        [name for name, _, _ in table],
        "".join(kind for _, kind, _ in table),
        {name: number for number, (name, _, _) in enumerate(table)},
        [place.virtual + offset for _, _, offset in table],
        Encoding.RELATIVE,
        {},
        64 if place.mode.is_64bit else 32,
    )
    tables = FakeTables(place.mode, place.virtual, place.physical, image)
    run = Run(place.virtual, place.physical, len(image))
    return LinuxKernel(cast(PageTables, cast(Any, tables)), [run], BANNER, kallsyms)


def boot_params(preferred: int, version: int = 0x20F, alignment: int = 0x200000) -> bytes:
    """Returns struct boot_params with the header of the kernel's file, as boot.rst has it."""
    page = bytearray(4096)
    struct.pack_into("<4sH", page, 0x202, b"HdrS", version)
    struct.pack_into("<I", page, 0x230, alignment)
    struct.pack_into("<Q", page, 0x258, preferred)
    return bytes(page)


PHYSICAL_START = [0x1000000, 0x200000, 0x8000000]


@pytest.mark.parametrize("named", [True, False], ids=["by its symbol", "by a search"])
@pytest.mark.parametrize("start", PHYSICAL_START)
@pytest.mark.parametrize("shift", [0, 0x2A00000])
def test_shift_of_a_kernel_linked_elsewhere(named: bool, start: int, shift: int) -> None:
    """CONFIG_PHYSICAL_START is in the header that the boot loader passed on."""
    image = bytes(0x3000) + boot_params(start)
    symbols = [("boot_params", "B", 0x3000)] if named else []
    kernel = kernel_at(Place(START_KERNEL_MAP + start + shift, 0x7000000), image, symbols)
    assert preferred_address(kernel) == start
    assert kernel.kaslr_shift == kernel.symbol_shift == shift


@pytest.mark.parametrize("start", PHYSICAL_START)
@pytest.mark.parametrize("page_offset", [0x40000000, 0x78000000, 0x80000000, 0xC0000000])
def test_shift_of_32_bits_with_another_split(start: int, page_offset: int) -> None:
    """All of memory is mapped from PAGE_OFFSET on, and the kernel is moved in it."""
    physical_start = start + 0x3000000
    place = Place(page_offset + physical_start, physical_start, PagingMode.PAE)
    kernel = kernel_at(place, bytes(0x1000) + boot_params(start))
    assert kernel.kaslr_shift == kernel.symbol_shift == 0x3000000


DAMAGED = {
    "empty, as UEFI leaves it": bytes(4096),
    "too old to have it": boot_params(0x1000000, version=0x209),
    "no address": boot_params(0),
    "not aligned": boot_params(0x1234000),
    "an absurd alignment": boot_params(0x1000000, alignment=3),
    "far away": boot_params(1 << 40),
    "behind the kernel": boot_params(0x8000000),
}


@pytest.mark.parametrize("header", DAMAGED.values(), ids=DAMAGED)
def test_shift_that_nothing_tells(header: bytes) -> None:
    """It is not known then; a symbol table takes the usual address."""
    place = Place(START_KERNEL_MAP + 0x2A00000, 0x7000000)
    for symbols in ([("boot_params", "B", 0x1000)], []):
        kernel = kernel_at(place, bytes(0x1000) + header, symbols)
        assert kernel.kaslr_shift is None
        assert kernel.symbol_shift == 0x1A00000


def test_headers_that_differ() -> None:
    """Which is the kernel's own cannot be told; a copy of the same one does no harm."""
    place = Place(START_KERNEL_MAP + 0x8000000, 0x7000000)
    one, other = boot_params(0x1000000), boot_params(0x2000000)
    assert preferred_address(kernel_at(place, one + one)) == 0x1000000
    assert preferred_address(kernel_at(place, one + other)) is None


def test_shift_by_vmcoreinfo() -> None:
    """What the kernel itself says comes first."""
    text = b"OSRELEASE=6.1.0-odd\nKERNELOFFSET=a00000\n"
    place = Place(START_KERNEL_MAP + 0x8A00000, 0x7000000)
    image = bytearray(0x1000) + boot_params(0x1000000)
    struct.pack_into("<QQ", image, 0, place.virtual + 16, len(text))
    image[16 : 16 + len(text)] = text
    symbols = [("vmcoreinfo_data", "D", 0), ("vmcoreinfo_size", "D", 8)]
    kernel = kernel_at(place, bytes(image), [*symbols, ("boot_params", "B", 0x1000)])
    assert kernel.kaslr_shift == kernel.symbol_shift == 0xA00000


def test_isf_of_another_split_in_volatility(tmp_path: pathlib.Path) -> None:
    """Volatility takes PAGE_OFFSET for 0xc0000000, and finds the page tables all the same."""
    # A kernel of VMSPLIT_2G whose header is lost.
    place = Place(0x81200000, 0x1200000, PagingMode.PAE)
    layout = {"pid": 4, "comm": 8, "files": 24, "active_mm": 28, "tasks": 32}
    btf = BtfBuilder()
    number = btf.int_("int", 4, 1)
    btf.int_("long unsigned int", 4)
    pointer = btf.ptr(0)
    head = btf.struct("list_head", 8, [("next", pointer, 0), ("prev", pointer, 32)])
    types = {"comm": btf.array(btf.int_("char", 1), 16), "pid": number, "tasks": head}
    fields = [(name, types.get(name, pointer), 8 * at) for name, at in layout.items()]
    btf.struct("task_struct", 40, fields)
    data = btf.build()
    places = {
        "init_task": 0x1000,
        "init_files": 0x2000,
        "init_mm": 0x3000,
        "swapper_pg_dir": 0x4000,
    }
    image = bytearray(0x5000) + data
    at = places["init_task"]
    image[at + layout["comm"] : at + layout["comm"] + 9] = b"swapper/0"
    for name, value in (("files", 0x2000), ("active_mm", 0x3000), ("tasks", 0x1020)):
        struct.pack_into("<I", image, at + layout[name], place.virtual + value)
    struct.pack_into("<I", image, at + layout["tasks"] + 4, place.virtual + 0x2020)
    symbols = [(name, "D", offset) for name, offset in places.items()]
    symbols += [("__start_BTF", "D", 0x5000), ("__stop_BTF", "D", 0x5000 + len(data))]
    kernel = kernel_at(place, bytes(image), symbols)
    assert kernel.kaslr_shift is None
    context = contexts.Context()
    path = tmp_path / "kernel.json"
    path.write_text(json.dumps(IsfView(kernel).expanded()), encoding="utf-8")
    table = intermed.IntermediateSymbolTable(context, "c", "t", path.as_uri(), validate=False)
    context.symbol_space.append(table)
    memory = bytes(place.physical) + bytes(image)
    context.add_layer(physical.BufferDataLayer(context, "m", "m", memory))
    stacker = linux.LinuxIntelStacker
    physical_shift, virtual_shift = stacker.find_aslr(context, "t", "m")
    linked = table.get_symbol("swapper_pg_dir").address
    assert linked + virtual_shift == place.virtual + places["swapper_pg_dir"]
    found = stacker.virtual_to_physical_address(linked + physical_shift)
    assert found == place.physical + places["swapper_pg_dir"]


#: A kernel's code, and the image that it is in.
CODE = Place(0xFFFFFFFF9C600000, 0x4A00000)
ENTRY = struct.Struct("<hhH")


class Orc(NamedTuple):
    """The tables of a kernel: an image, and what is in it."""

    image: bytes
    places: Sequence[int]
    ips: int
    entries: int


def orc_image(unit: int = 2, words_before: Sequence[int] = (), count: int = 8000) -> Orc:
    """Returns an image with ORC tables, laid out as the linker does it.

    Args:
        unit: what .orc_unwind is aligned to.
        words_before: what stands before the tables, as places in code.
        count: of entries.
    """
    chance = random.Random(count)
    places, place = [], CODE.virtual
    for _ in range(count):
        places.append(place)
        place += chance.randrange(1, 120)
    image = bytearray(0x110000) + chance.randbytes(0x1004)
    for word in words_before:
        image += struct.pack("<i", word - CODE.virtual - len(image))
    ips = len(image)
    for place in places:
        image += struct.pack("<i", place - CODE.virtual - len(image))
    image += bytes(-len(image) % unit)
    entries = len(image)
    for number in range(count):
        # "The stack pointer plus something, in a call", in form 3.
        image += ENTRY.pack(8 * (number % 50 + 1), 0, 0x205)
    image += bytes(-len(image) % 4)
    for address in range(CODE.virtual, places[-1], 256):
        image += struct.pack("<I", bisect.bisect_right(places, address) - 1)
    image += struct.pack("<I", count - 2) + chance.randbytes(0x1004)
    return Orc(bytes(image), places, ips, entries)


@pytest.mark.parametrize("unit", [2, 6])
@pytest.mark.parametrize("before", [(), (CODE.virtual, CODE.virtual)], ids=["alone", "ascending"])
def test_orc_without_symbols(unit: int, before: Sequence[int]) -> None:
    """The tables are found to the word, and each place has the entry that is its own."""
    made = orc_image(unit, before)
    end = CODE.virtual + len(made.image)
    found = find_orc(made.image, CODE.virtual, CODE.virtual, end)
    assert found == (made.ips, made.entries, len(made.places))
    kernel = kernel_at(CODE, made.image)
    assert kernel.has_code_alone and kernel.orc.form == 3
    for number in (0, 1, 4000, len(made.places) - 1):
        entry = kernel.orc.find(made.places[number])
        assert entry is not None and entry.sp_reg is Register.SP
        assert entry.sp_offset == 8 * (number % 50 + 1)


def _without_lookup(made: Orc) -> bytes:
    at = made.entries + ENTRY.size * len(made.places)
    return made.image[:at] + bytes(len(made.image) - at)


def _cut_off(made: Orc) -> bytes:
    return made.image[: made.entries + 100]


def _too_few(made: Orc) -> bytes:
    return orc_image(count=100).image


@pytest.mark.parametrize("damage", [_without_lookup, _cut_off, _too_few])
def test_orc_that_is_not_certain(damage: Any) -> None:
    """Without the third table that proves it, ascending numbers are not taken for ORC."""
    kernel = kernel_at(CODE, damage(orc_image()))
    with pytest.raises(OrcError, match="that can be found"):
        assert kernel.orc


def btf_of_a_kernel() -> bytes:
    """Returns types with a task_struct."""
    btf = BtfBuilder()
    btf.struct("task_struct", 4096)
    return btf.build()


@pytest.mark.parametrize("decoy", [b"", b"\x9f\xeb\x01\0" * 5, b"\x9f\xeb\x01\0\x18\0\0\0"])
def test_types_without_symbols(decoy: bytes) -> None:
    """BTF is found by its header, among what only begins like it."""
    image = bytes(0x1000) + decoy + bytes(-len(decoy) % 8) + btf_of_a_kernel() + bytes(0x1000)
    kernel = kernel_at(CODE, image)
    assert kernel.require_types().size_of("task_struct") == 4096


@pytest.mark.parametrize("variable", [True, False])
def test_no_types(variable: bool) -> None:
    """Where the symbols have variables and none of BTF it is not searched for."""
    symbols = [("init_task", "D", 0x100)] if variable else []
    image = bytes(0x1000) + (btf_of_a_kernel() if variable else b"")
    with pytest.raises(BtfError, match="no type information") as raised:
        assert kernel_at(CODE, image, symbols).btf
    assert ("CONFIG_KALLSYMS_ALL" in str(raised.value)) == (not variable)


def test_names_of_places_in_code_alone() -> None:
    """Without a symbol for the end of the image the last function's page ends it."""
    kernel = kernel_at(CODE, bytes(0x4000), [("last", "t", 0x2010)])
    assert _name(kernel, 0x2014) == "last+0x4"
    assert _name(kernel, 0x3000) is None


def _name(kernel: LinuxKernel, offset: int) -> Optional[str]:
    return kernel.symbolize(CODE.virtual + offset)
