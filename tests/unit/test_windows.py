# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The Windows kernel: images made by hand, the way to them, and lies in their headers."""

import pathlib
import random
import struct
from collections.abc import Iterator
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import Vol
from tests.handmade import pe as handmade
from tests.helpers import info, machine, write_pair
from tests.unit.test_paging import FIVE, FOUR, LEGACY, PAE, Memory, vcpu
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import VCPU
from volatility_guestdump.windows import find
from volatility_guestdump.windows.find import find_kernel
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.pe import Image, Pdb, read_kernel
from volatility_guestdump.x86.paging import PageTables, PagingMode

PAGE = 4096
BASE = 0xFFFFF80041A00000
PDB = Pdb("ntkrnlmp.pdb", handmade.GUID.hex.upper(), handmade.AGE)


def read(image: bytes, base: int = BASE) -> Optional[Image]:
    """Reads an image that is all there is in memory."""

    def memory(address: int, length: int) -> bytes:
        if not base <= address <= base + len(image) - length:
            raise AddressError(address)
        return image[address - base : address - base + length]

    return read_kernel(memory, base)


@pytest.mark.parametrize("bits", [64, 32])
def test_an_image(bits: int) -> None:
    """All that identifies a kernel is in its image."""
    found = read(handmade.kernel(bits))
    assert found == Image(BASE, handmade.SIZE, PDB, (10, 0, 20348, 2402), (10, 0))
    assert str(found and found.pdb) == "ntkrnlmp.pdb 0123456789ABCDEF0123456789ABCDEF-3"


@pytest.mark.parametrize("bits", [64, 32])
def test_build_number(bits: int) -> None:
    """An exported variable has it, where no resource does."""
    found = read(handmade.kernel(bits, version=None, build=7601))
    assert found == Image(BASE, handmade.SIZE, PDB, None, (10, 0), 7601)
    image = bytearray(handmade.kernel(bits, build=7601))
    for place in range(handmade.EXPORTS + 20, handmade.EXPORTS + 0x120, 4):
        for value in (0, 1, 0x3FFE, 0xFFFFFFFF):
            damaged = bytes(image[:place] + struct.pack("<I", value) + image[place + 4 :])
            again = read(damaged)
            assert again is not None and again.pdb == PDB


def test_parts_that_are_missing() -> None:
    """Either the PDB or the export directory tells a kernel; its version may be paged out."""
    assert read(handmade.kernel(export=None)) == read(handmade.kernel(export=b"hal.dll"))
    found = read(handmade.kernel(pdb=None, version=None))
    assert found == Image(BASE, handmade.SIZE, None, None, (10, 0))
    assert read(handmade.kernel(pdb=None, export=None)) is None
    assert read(handmade.kernel(pdb=b"ntfs.pdb", export=b"ntfs.sys")) is None
    for end in (PAGE, 2 * PAGE, 3 * PAGE):
        cut = read(handmade.kernel()[:end])
        assert (cut is not None) == (end == 3 * PAGE)
        assert cut is None or (cut.pdb == PDB and cut.file_version is None)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        (b"ntkrpamp.pdb", "ntkrpamp.pdb"),
        (b"d:\\builds\\ntoskrnl.pdb", "ntoskrnl.pdb"),
        (b"..\\..\\ntkrnlpa.pdb", "ntkrnlpa.pdb"),
        (b"../../etc/passwd", None),
        (b"ntkrnlmp.pdb/../../x", None),
        (b"ntkrnlmp.pdb\x1b[2J", None),
        (b"ntkrnlmp", None),
        (b"", None),
        (b"\xff" * 900, None),
    ],
)
def test_names_of_pdbs(path: bytes, name: Optional[str]) -> None:
    """Only the names that Volatility knows are taken, without any folder."""
    pdb = getattr(read(handmade.kernel(pdb=path)), "pdb", None)
    assert (pdb.name if pdb else None) == name


def lies() -> Iterator[bytes]:
    """Makes images whose headers say what cannot be."""
    sound = handmade.kernel()
    optional = handmade.NT_HEADERS + 24
    for place, code, values in (
        (0x3C, "<I", (0, 4, 0xFF0, 0x1000, 0xFFFFFFFF)),
        (handmade.NT_HEADERS + 6, "<H", (0, 0xFFFF)),
        (handmade.NT_HEADERS + 20, "<H", (0, 0xFFFF)),
        (optional + 108, "<I", (0, 3, 0xFFFFFFFF)),
        (optional + 56, "<I", (0, 1, 0x1001, 0xFFFFFFFF)),
        (handmade.DEBUG + 28 + 16, "<I", (0, 24, 0xFFFFFFFF)),
        (handmade.DEBUG + 28 + 20, "<I", (0, 0x3FFF, 0xFFFFFFFF)),
        (handmade.RESOURCES + 12, "<HH", ((0xFFFF, 0xFFFF),)),
        # A directory that is its own entry, at each level.
        (handmade.RESOURCES + 28, "<I", (0x80000000,)),
        (handmade.RESOURCES + 0x40 + 20, "<I", (0x80000040,)),
        (handmade.RESOURCES + 0xC0, "<II", ((0xFFFFFFFF, 0xFFFFFFFF),)),
    ):
        for value in values:
            image = bytearray(sound)
            struct.pack_into(code, image, place, *(value if isinstance(value, tuple) else (value,)))
            yield bytes(image)
    # All directories claim to be as large as they can.
    image = bytearray(sound)
    for number in range(16):
        struct.pack_into("<II", image, optional + 112 + 8 * number, 0x3FF0, 0xFFFFFFFF)
    yield bytes(image)


def test_lies_in_the_headers() -> None:
    """What is wrong is no kernel, or one of which less is known."""
    for image in lies():
        found = read(image)
        assert found is None or found.pdb in (None, PDB)


@given(st.randoms(use_true_random=False), st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_random_damage(rng: random.Random, count: int) -> None:
    """Nothing in an image raises."""
    image = bytearray(handmade.kernel(rng.choice((64, 32))))
    for _ in range(count):
        place = rng.choice((0, 0, handmade.DEBUG, handmade.RESOURCES)) + rng.randrange(0x200)
        image[place : place + 4] = rng.choice((bytes(4), b"\xff" * 4, rng.randbytes(4)))
    found = read(bytes(image))
    assert found is None or found.pdb is None or found.pdb.name == PDB.name


class Guest(Memory):
    """Memory with a kernel's image, an IDT and what all processes share."""

    def __init__(self, mode: PagingMode, base: int, gaps: bool = False) -> None:
        super().__init__(mode, pages=128)
        self.base = base
        wide = mode in (FOUR, FIVE)
        self.idt = 0xFFFFF80040001000 if wide else 0x80B01000
        self.shared = 0xFFFFF78000000000 if wide else 0xFFDF0000
        image = handmade.kernel(64 if wide else 32)
        # Code that a system needs only when it starts has no memory any more.
        self.handler = base + handmade.SIZE - 0x800
        self.page = 100 * PAGE
        for place in range(0, handmade.SIZE, PAGE):
            if not (gaps and place == PAGE):
                self.add(base + place, image[place : place + PAGE])
        gate = struct.pack("<HHHH", self.handler & 0xFFFF, 8, 0x8E00, self.handler >> 16 & 0xFFFF)
        if wide:
            gate += struct.pack("<II", self.handler >> 32, 0)
        self.add(self.idt, gate * 256)
        shared = bytearray(PAGE)
        struct.pack_into("<I", shared, 0x260, 0xF0000000 | 20348)
        struct.pack_into("<II", shared, 0x26C, 10, 0)
        self.add(self.shared, bytes(shared))

    def add(self, virtual: int, content: bytes) -> int:
        """Maps a page with a content; returns its physical address."""
        self.page -= PAGE
        self.data[self.page : self.page + len(content)] = content
        self.map(virtual, self.page)
        return self.page

    def vcpu(self, **registers: int) -> VCPU:
        """Returns a vCPU in the kernel."""
        cr4 = {LEGACY: 0, FIVE: 0x1020}.get(self.mode, 0x20)
        usual = {"cr0": 1 << 31 | 1, "cr3": self.root, "cr4": cr4, "idt_base": self.idt}
        return vcpu(**{**usual, "rip": self.handler, "rsp": self.idt, **registers})


@pytest.mark.parametrize(("mode", "base"), [(FOUR, BASE), (PAE, 0x81A00000), (LEGACY, 0x804D7000)])
@pytest.mark.parametrize("gaps", [False, True])
def test_from_the_idt_to_the_image(mode: PagingMode, base: int, gaps: bool) -> None:
    """The image is found below the handlers, over pages that are not there."""
    guest = Guest(mode, base, gaps)
    found = find_kernel(machine(guest.read, [guest.vcpu()]))
    assert found is not None and found.tables.mode is mode
    assert (found.image.base, found.image.pdb, found.page_map) == (base, PDB, guest.root)
    assert found.physical_base is not None
    assert guest.read(found.physical_base, 2) == b"MZ"
    assert found.version == "10.0.20348" and found.bits == (64 if mode is FOUR else 32)
    assert found.shown_banner == str(PDB)
    assert found.symbolize(base + 0x1234) == "ntoskrnl.exe+0x1234"
    assert found.symbolize(base - 1) is None and found.symbolize(base + handmade.SIZE) is None


def test_five_levels(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Volatility has no layer for such a Windows: no wrong one is made, and a message says so."""
    guest = Guest(FIVE, BASE)
    registers = guest.vcpu(cs=0x10).registers
    path = write_pair(tmp_path, bytes(guest.data), vcpus=[registers])
    shown = info(vol("-r", "json", "-f", path, "guestdump.Info"))
    assert shown["Operating system"] == "Windows 10.0.20348 (x64)"
    assert shown["Kernel banner"] == str(PDB)
    done = vol("-f", path, "windows.info")
    assert done.returncode and "no layer for Windows with 5-level page tables" in done.stderr


def test_versions_without_shared_data() -> None:
    """The file's version tells, or else the headers."""
    guest = Guest(FOUR, BASE)
    found = find_kernel(machine(guest.read, [guest.vcpu()]))
    assert found is not None
    tables, image = found.tables, found.image
    guest.data[guest.page + 0x26C : guest.page + 0x274] = struct.pack("<II", 6, 1)
    assert WindowsKernel(tables, image).version == "10.0.20348"
    older = Image(image.base, image.size, None, (6, 1, 7601, 17514), (6, 1))
    assert WindowsKernel(tables, older).version == "6.1.7601"
    assert WindowsKernel(tables, older).shown_banner == "ntoskrnl.exe"
    assert WindowsKernel(tables, Image(BASE, PAGE, None, None, (6, 1))).version == "6.1"
    assert WindowsKernel(tables, Image(BASE, PAGE, None, None, (6, 1), 7601)).version == "6.1.7601"


def shadowed(place: int = 0x9000) -> tuple[Guest, int]:
    """Returns a guest with shadow tables: they map the IDT, the handlers and the KPCR alone."""
    guest = Guest(FOUR, BASE)
    kernel_root = guest.root
    kpcr = 0xFFFFF80040100000
    guest.add(kpcr, b"KPCR")
    places = {kpcr + place: guest.add(kpcr + place, struct.pack("<Q", kernel_root | 2))}
    for virtual in (guest.idt, guest.handler & -PAGE):
        places[virtual] = find_place(guest, virtual)
    guest.root = 110 * PAGE
    for virtual, physical in places.items():
        guest.map(virtual, physical)
    shadow, guest.root = guest.root, kernel_root
    return guest, shadow


def find_place(guest: Guest, virtual: int) -> int:
    """Returns the physical address of a page."""
    found = find_kernel(machine(guest.read, [guest.vcpu()]))
    assert found is not None
    return found.tables.translate(virtual)[0]


@pytest.mark.parametrize("place", [0x7000, 0x9000])
def test_shadow_tables(place: int) -> None:
    """Of a vCPU with shadow tables another one, or its control region, leads to the kernel's."""
    guest, shadow = shadowed(place)
    user = guest.vcpu(cr3=shadow, gs_base=0x7FF000, cs=0x33)
    assert find_kernel(machine(guest.read, [user])) is None
    entering = guest.vcpu(cr3=shadow, gs_base=0xFFFFF80040100000)
    for vcpus in ([user, guest.vcpu()], [entering], [user, entering]):
        found = find_kernel(machine(guest.read, vcpus))
        assert found is not None and found.image.base == BASE
        assert found.page_map == guest.root


def copies(guest: Guest, table: int, count: int) -> list[int]:
    """Appends copies of a table behind memory, in even pages; returns their addresses."""
    content = bytes(guest.data[table : table + PAGE])
    places = []
    for _ in range(count):
        guest.data += bytes(-len(guest.data) % (2 * PAGE))
        places.append(len(guest.data))
        guest.data += content
    return places


@pytest.mark.parametrize("kernel_mode_last", [True, False])
def test_many_shadow_tables(kernel_mode_last: bool) -> None:
    """However many vCPUs are in processes of their own, one in the kernel is enough."""
    guest, shadow = shadowed()
    roots = copies(guest, shadow, 200)
    vcpus = [guest.vcpu(cr3=root, gs_base=0x7FF000, cs=0x33) for root in roots]
    vcpus.insert(len(vcpus) if kernel_mode_last else 0, guest.vcpu())
    found = find_kernel(machine(guest.read, vcpus))
    assert found is not None and found.page_map == guest.root


def test_a_root_in_an_odd_page() -> None:
    """The page before it is nothing of the kind that Linux has there."""
    guest = Guest(FOUR, BASE)
    (before,) = copies(guest, guest.root, 1)
    guest.data += guest.data[guest.root : guest.root + PAGE]
    found = find_kernel(machine(guest.read, [guest.vcpu(cr3=before + PAGE)]))
    assert found is not None and found.page_map == before + PAGE


def test_headers_everywhere() -> None:
    """Only so many pages that look like headers are looked at."""
    guest = Guest(FOUR, BASE)
    decoy = bytearray(handmade.kernel(pdb=None, export=None)[:PAGE])
    place = guest.add(guest.handler & -PAGE, bytes(decoy))
    for number in range(1, 2000):
        guest.map((guest.handler & -PAGE) - number * PAGE, place)
    read: list[int] = []

    def counted(address: int, length: int) -> bytes:
        if length == PAGE and address == place:
            read.append(address)
        return guest.read(address, length)

    assert find_kernel(machine(counted, [guest.vcpu()])) is None
    assert 0 < len(read) <= 256


def test_a_handler_below_another_image() -> None:
    """A handler in an image above the kernel does not hide the kernel from the others."""
    guest = Guest(FOUR, BASE)
    above = BASE + handmade.SIZE + 4 * PAGE
    guest.add(above, bytes(PAGE))
    gate = struct.pack("<HHHHII", above & 0xFFFF, 8, 0x8E00, above >> 16 & 0xFFFF, above >> 32, 0)
    idt = find_place(guest, guest.idt)
    guest.data[idt : idt + len(gate)] = gate
    found = find_kernel(machine(guest.read, [guest.vcpu()]))
    assert found is not None and found.image.base == BASE


def test_nothing_to_find() -> None:
    """Without an IDT, with handlers elsewhere, and with pages that only look like an image."""
    guest = Guest(FOUR, BASE)
    assert find_kernel(machine(guest.read, [guest.vcpu(idt_base=0)])) is None
    assert find_kernel(machine(guest.read, [])) is None
    guest.data[find_place(guest, BASE) + handmade.NT_HEADERS] = 0
    assert find_kernel(machine(guest.read, [guest.vcpu()])) is None


def test_tables_below_handlers_that_are_all_there_and_map_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All roots together have one budget, and all handlers of one look at an entry once."""
    monkeypatch.setattr(find, "_STEPS", 1 << 16)
    walks: list[int] = []
    walk = PageTables._walk

    def counted(tables: PageTables, address: int) -> tuple[Optional[int], int]:
        walks.append(address)
        return walk(tables, address)

    monkeypatch.setattr(PageTables, "_walk", counted)
    gates = b"".join(
        struct.pack("<HHHHII", place & 0xFFFF, 8, 0x8E00, place >> 16 & 0xFFFF, place >> 32, 0)
        for place in (0xFFFFF80060000000 + number * PAGE for number in range(32))
    )

    def read(address: int, length: int) -> bytes:
        # All entries of each table lead to the next; but for that of the IDT the last is empty.
        level, offset = address >> 40 & 7, address % PAGE
        table = ((level + 1) << 40 | 3).to_bytes(8, "little") * 512
        if level == 3:
            table = (4 << 40 | 3).to_bytes(8, "little") + bytes(PAGE - 8)
        if level == 4:
            table = gates.ljust(PAGE, b"\0")
        return table[offset : offset + length]

    cpu = {"cr4": 0x20, "efer": 1 << 10, "idt_base": 0xFFFFF80000000000, "gs_base": 0}
    for count, limit in ((1, (64 << 20) // PAGE + 600), (4096, (1 << 16) + 40 * 4096)):
        walks.clear()
        vcpus = [vcpu(**cpu, cr3=2 * PAGE * number) for number in range(count)]
        assert find_kernel(machine(read, vcpus)) is None
        assert (64 << 20) // PAGE <= len(walks) <= limit
