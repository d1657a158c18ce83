# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The walk through page tables, on tables made by hand in each of the modes."""

import itertools
import struct
from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import IDLE_VCPU
from volatility_guestdump.exceptions import AddressError, LeftOutError, MediumError
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import (
    PageTables,
    PagingMode,
    candidate_tables,
    find_paging,
    possible_modes,
)

PAGE = 4096
LARGE = 1 << 7
#: Present, writable, accessed, dirty and global; what software may use; and "no execute".
PLAIN = 0x1
FLAGS_32 = 0xF7F & ~LARGE | 1
FLAGS_64 = FLAGS_32 | 0x7FF << 52 | 1 << 63

LEGACY, PAE = PagingMode.LEGACY, PagingMode.PAE
FOUR, FIVE = PagingMode.FOUR_LEVEL, PagingMode.FIVE_LEVEL

#: Mode -> where the index of each table starts in an address, and the bytes of an entry.
SHIFTS = {
    LEGACY: ((22, 12), 4),
    PAE: ((30, 21, 12), 8),
    FOUR: ((39, 30, 21, 12), 8),
    FIVE: ((48, 39, 30, 21, 12), 8),
}

KERNEL = 0xFFFFFFFF81000000

every_mode = pytest.mark.parametrize("mode", SHIFTS)


class Memory:
    """Physical memory with page tables that grow as pages are mapped."""

    def __init__(self, mode: PagingMode = FOUR, root: int = 0x4000, pages: int = 32) -> None:
        self.mode = mode
        self.root = root
        self.data = bytearray(pages * PAGE)
        self._size = SHIFTS[mode][1]
        self._free = itertools.count((root & -PAGE) + 2 * PAGE, PAGE)
        self._below: dict[tuple[int, int], int] = {}

    def read(self, address: int, length: int) -> bytes:
        """Reads physical memory."""
        if address + length > len(self.data):
            raise AddressError(max(address, len(self.data)))
        return bytes(self.data[address : address + length])

    def put(self, table: int, virtual: int, shift: int, entry: int) -> None:
        """Writes the entry of an address into a table."""
        self.data[self._place(table, virtual, shift)] = entry.to_bytes(self._size, "little")

    def get(self, table: int, virtual: int, shift: int) -> int:
        """Reads the entry of an address in a table."""
        return int.from_bytes(self.data[self._place(table, virtual, shift)], "little")

    def _place(self, table: int, virtual: int, shift: int) -> slice:
        bits = 2 if self.mode is PAE and shift == 30 else 10 if self.mode is LEGACY else 9
        place = table + (virtual >> shift & (1 << bits) - 1) * self._size
        return slice(place, place + self._size)

    def map(self, virtual: int, physical: int, shift: int = 12, flags: int = PLAIN) -> None:
        """Maps a page of 1 << shift bytes."""
        table = self.root
        for above in SHIFTS[self.mode][0]:
            if above == shift:
                size = 0 if shift == 12 else LARGE
                return self.put(table, virtual, shift, physical | flags | size)
            key = (table, virtual >> above)
            if key not in self._below:
                self._below[key] = next(self._free)
                # The entries of PAE's root have no flags but these.
                own = PLAIN if above == 30 and self.mode is PAE else flags
                self.put(table, virtual, above, self._below[key] | own)
            table = self._below[key]
        raise AssertionError("no such size of a page")

    def path(self) -> list[int]:
        """Returns the tables on the way to the one page that is mapped, the root first."""
        return [self.root, *self._below.values()]

    def tables(self, cr3: Optional[int] = None) -> PageTables:
        """Returns the reader under test."""
        return PageTables(self.read, self.mode, self.root if cr3 is None else cr3)


def vcpu(**registers: int) -> VCPU:
    """Returns a vCPU with paging on, and registers as given."""
    return VCPU(0, {**IDLE_VCPU, "cr0": 1 << 31 | 1, **registers})


@pytest.mark.parametrize(
    ("mode", "virtual", "shift", "physical"),
    [
        (LEGACY, 0xC0123000, 12, 0x7000),
        (LEGACY, 0xC0400000, 22, 0xFFC00000),
        (PAE, 0xC0123000, 12, 0x7_0000_7000),
        (PAE, 0xC0200000, 21, 0xF_FFE0_0000),
        (FOUR, KERNEL, 12, 0xF_FFFF_FFFF_F000),
        (FOUR, KERNEL, 21, 0xF_FFFF_FFE0_0000),
        (FOUR, 0xFFFF888040000000, 30, 0xF_FFFF_C000_0000),
        (FOUR, 0x7FFFFFFFF000, 12, 0x7000),
        (FIVE, KERNEL, 12, 0xF_FFFF_FFFF_F000),
        (FIVE, KERNEL, 21, 0x40000000),
        (FIVE, 0xFF11000040000000, 30, 0xF_FFFF_C000_0000),
        (FIVE, 0xFFFFFFFFFFF000, 12, 0x7000),
    ],
)
@pytest.mark.parametrize("extra", [False, True])
def test_pages_of_every_size(
    mode: PagingMode, virtual: int, shift: int, physical: int, extra: bool
) -> None:
    """First, last and other bytes of a page are found, whatever flags the entries have."""
    memory = Memory(mode)
    flags = PLAIN if not extra else FLAGS_32 if mode is LEGACY else FLAGS_64
    # In the entry of a large page, bit 12 chooses the caching.
    memory.map(virtual, physical | (1 << 12 if extra and shift > 12 else 0), shift, flags)
    tables = memory.tables()
    size = 1 << shift
    for offset in (0, 1, 0xABC, size - 1):
        assert tables.translate(virtual + offset) == (physical + offset, size - offset)
    for address in (virtual - 1, virtual + size):
        with pytest.raises(AddressError) as caught:
            tables.translate(address)
        assert caught.value.address == address and "not mapped" in str(caught.value)


def test_bit_7_is_a_size_in_the_middle_tables_only() -> None:
    """In a page's own entry it chooses the caching; in the roots it is reserved."""
    for mode, shifts in ((LEGACY, [12]), (PAE, [30, 12]), (FOUR, [39, 12]), (FIVE, [48, 39, 12])):
        memory = Memory(mode)
        memory.map(0x5000, 0x9000)
        for shift, table in zip(SHIFTS[mode][0], memory.path()):
            if shift in shifts:
                memory.put(table, 0x5000, shift, memory.get(table, 0x5000, shift) | LARGE)
        assert memory.tables().translate(0x5123) == (0x9123, 0xEDD)


def test_4mib_pages_need_cr4_pse() -> None:
    """Without the flag bit 7 of a page directory's entry is ignored: a page table follows."""
    memory = Memory(LEGACY)
    memory.map(0xC0001000, 0x9000)
    root = memory.path()[0]
    memory.put(root, 0xC0001000, 22, memory.get(root, 0xC0001000, 22) | LARGE)
    cr4_pse = 1 << 4
    found = {}
    for cr4 in (0, cr4_pse):
        stopped = vcpu(cr3=root, cr4=cr4, rip=0xC0001000, rsp=0xC0001000, idt_base=0xC0001000)
        (_, tables), *_ = candidate_tables(memory.read, [stopped])
        found[cr4] = tables.translate(0xC0001000)[0]
    # The table's own address, read as that of a page.
    table = memory.path()[1]
    assert found == {0: 0x9000, cr4_pse: (table >> 13 & 0xFF) << 32 | 0x1000}


def test_4mib_pages_above_4_gib() -> None:
    """PSE-36: bits 13 to 20 of the entry are bits 32 to 39 of the address."""
    memory = Memory(LEGACY)
    memory.map(0xC0400000, 0x00C00000 | 0xA5 << 13, 22)
    assert memory.tables().translate(0xC0400123)[0] == 0xA5_00C00123


@every_mode
@pytest.mark.parametrize("level", range(5))
def test_not_present(mode: PagingMode, level: int) -> None:
    """An entry without its present bit ends the walk, whatever else it says."""
    shifts = SHIFTS[mode][0]
    if level >= len(shifts):
        return
    memory = Memory(mode)
    memory.map(0x5000, 0x9000)
    assert memory.tables().maps(0x5000)
    memory.put(memory.path()[level], 0x5000, shifts[level], 0xFFFFE)
    assert not memory.tables().maps(0x5000)


@every_mode
def test_bits_above_an_address(mode: PagingMode) -> None:
    """An address that is not canonical is not mapped, though its low bits are."""
    memory = Memory(mode)
    low, top = 0x5000, 12 + sum(mode.index_bits)
    high = (1 << top) - PAGE
    memory.map(low, 0x9000)
    memory.map(high, 0xA000)
    tables = memory.tables()
    extended = high | (1 << 64) - (1 << top) if mode.is_64bit else high
    assert tables.maps(low) and tables.maps(extended)
    for bit in range(top, 65):
        assert not tables.maps(low | 1 << bit)
        assert not tables.maps(extended ^ 1 << bit)
    if mode.is_64bit:
        assert not tables.maps(high) and not tables.maps(low | (1 << 64) - (1 << top))


@every_mode
def test_cr3(mode: PagingMode) -> None:
    """PCID and flags in CR3 are not part of the address; PAE's root has 32 bytes only."""
    root = 0x4020 if mode is PAE else 0x4000
    memory = Memory(mode, root)
    memory.map(0x5000, 0x9000)
    low = 0x1F if mode is PAE else 0xFFF
    high = 1 << 63 if mode.is_64bit else 0
    assert memory.tables(root | low | high).root == root
    assert memory.tables(root | low | high).maps(0x5000)


def test_runs_join_what_follows_in_both_spaces() -> None:
    """Neighbours in one space only stay apart; the borders cut pages."""
    memory = Memory()
    for virtual, physical in ((0, 9), (1, 10), (2, 12), (4, 13), (5, 14), (9, 15)):
        memory.map(KERNEL + virtual * PAGE, physical * PAGE)
    memory.map(KERNEL + (2 << 20), 0x10000000, 21)
    memory.map(KERNEL + (4 << 20), 0x10200000)
    tables = memory.tables()
    expected = [(0, 9, 2), (2, 12, 1), (4, 13, 2), (9, 15, 1), (512, 0x10000, 513)]
    assert list(tables.runs(KERNEL - (1 << 22), KERNEL + (1 << 24))) == [
        (KERNEL + virtual * PAGE, physical * PAGE, pages * PAGE)
        for virtual, physical, pages in expected
    ]
    assert list(tables.runs(KERNEL + 0x1800, KERNEL + 0x2010)) == [
        (KERNEL + 0x1800, 0xA800, 0x800),
        (KERNEL + 0x2000, 0xC000, 0x10),
    ]
    assert list(tables.runs(KERNEL, KERNEL)) == []


@every_mode
def test_runs_skip_gaps(mode: PagingMode) -> None:
    """What is not mapped costs no more than its tables have entries, up to the last address."""
    memory = Memory(mode)
    top = 1 << 12 + sum(mode.index_bits)
    start, end = (1 << 64) - top // 2, 1 << 64
    if not mode.is_64bit:
        start, end = 0, top
    memory.map(end - PAGE, 0x9000)
    memory.map(start, 0xB000)
    assert list(memory.tables().runs(start, end)) == [
        (start, 0xB000, PAGE),
        (end - PAGE, 0x9000, PAGE),
    ]


@pytest.mark.parametrize("target", [(0x4000, 0x4000), (0x5000, 0x4000)])
def test_tables_that_lead_back(target: tuple[int, int]) -> None:
    """Tables that contain themselves or each other end after as many steps as there are levels."""
    memory = Memory()
    for table, other in zip((0x4000, 0x5000), target):
        memory.data[table : table + PAGE] = struct.pack("<Q", other | PLAIN) * 512
    reads = []

    def read(address: int, length: int) -> bytes:
        reads.append(address)
        return memory.read(address, length)

    tables = PageTables(read, FOUR, 0x4000)
    assert tables.translate(KERNEL + 5) == (0x4005, PAGE - 5)
    found = list(tables.runs(KERNEL, KERNEL + (8 << 20)))
    assert found == [(KERNEL + n * PAGE, 0x4000, PAGE) for n in range(2048)]
    assert len(reads) <= 2


@every_mode
def test_tables_outside_of_memory(mode: PagingMode) -> None:
    """What a missing table maps is a gap, be it the root's or another's."""
    memory = Memory(mode)
    # Of even index: a gap that is taken for twice as large would hide the neighbour.
    missing, behind = (index << SHIFTS[mode][0][0] for index in (2, 3))
    memory.map(0x5000, 0x9000)
    memory.map(behind, 0xA000)
    memory.put(memory.root, missing, SHIFTS[mode][0][0], 0xF000_0000 | PLAIN)
    reads = []

    def read(address: int, length: int) -> bytes:
        reads.append(address)
        return memory.read(address, length)

    tables = PageTables(read, mode, memory.root)
    assert list(tables.runs(0, behind + 2 * PAGE)) == [
        (0x5000, 0x9000, PAGE),
        (behind, 0xA000, PAGE),
    ]
    assert reads.count(0xF000_0000) == 1 and not tables.maps(missing)
    nowhere = memory.tables(0xF000_0000)
    with pytest.raises(AddressError) as caught:
        nowhere.translate(0x5000)
    assert caught.value.address == 0x5000
    assert list(nowhere.runs(0, 1 << 31)) == []


def test_reads() -> None:
    """A read goes on in the next page, and is refused when a part of it is missing."""
    memory = Memory()
    for virtual, physical in ((0, 20), (1, 18), (2, 19), (4, 21), (6, 99)):
        memory.map(KERNEL + virtual * PAGE, physical * PAGE)
    for page in range(18, 22):
        memory.data[page * PAGE : (page + 1) * PAGE] = bytes([page]) * PAGE
    tables = memory.tables()
    assert tables.read(KERNEL + PAGE - 1, PAGE + 2) == b"\x14" + b"\x12" * PAGE + b"\x13"
    assert tables.read(KERNEL, 3 * PAGE) == b"\x14" * PAGE + b"\x12" * PAGE + b"\x13" * PAGE
    assert tables.read(KERNEL + 4 * PAGE + 1, 4) == b"\x15" * 4
    for start, length, missing in ((0, 3 * PAGE + 1, 3 * PAGE), (PAGE, 4 * PAGE, 3 * PAGE)):
        with pytest.raises(AddressError) as caught:
            tables.read(KERNEL + start, length)
        assert caught.value.address == KERNEL + missing
    # Mapped, but to memory that is not there.
    assert tables.translate(KERNEL + 6 * PAGE) == (99 * PAGE, PAGE)
    assert not tables.maps(KERNEL + 6 * PAGE)


@pytest.mark.parametrize("kind", [AddressError, MediumError, LeftOutError])
def test_errors_keep_their_kind(kind: type[AddressError]) -> None:
    """Why a page cannot be read is known by physical address; the error has the virtual one."""
    memory = Memory()
    memory.map(KERNEL, 20 * PAGE)

    def read(address: int, length: int) -> bytes:
        if address // PAGE == 20:
            raise kind(20 * PAGE + 8, "the reason")
        return memory.read(address, length)

    tables = PageTables(read, PagingMode.FOUR_LEVEL, memory.root)
    with pytest.raises(AddressError, match="the reason") as caught:
        tables.read(KERNEL, 16)
    assert type(caught.value) is kind and caught.value.address == KERNEL + 8


@given(st.dictionaries(st.integers(0, 30), st.integers(20, 31)), st.integers(0, 31 * PAGE))
@settings(deadline=None)
def test_runs_and_translate_agree(pages: dict[int, int], start: int) -> None:
    """What runs() yields is what translate() says, page by page."""
    memory = Memory()
    for virtual, physical in pages.items():
        memory.map(KERNEL + virtual * PAGE, physical * PAGE)
    tables = memory.tables()
    expected = {}
    for page in range(32):
        address = KERNEL + max(start, page * PAGE)
        if start < (page + 1) * PAGE and page in pages:
            expected[address] = tables.translate(address)
    found = {}
    for address, physical, size in tables.runs(KERNEL + start, KERNEL + 32 * PAGE):
        done = 0
        while done < size:
            step = min(size - done, PAGE - (address + done) % PAGE)
            found[address + done] = (physical + done, step)
            done += step
    assert found == expected


PG, PAE_BIT, LA57 = 1 << 31, 1 << 5, 1 << 12


@pytest.mark.parametrize(
    ("registers", "modes"),
    [
        ({"cr0": 1}, [PagingMode.OFF]),
        ({"cr0": 1, "cr4": PAE_BIT | LA57}, [PagingMode.OFF]),
        ({}, [LEGACY]),
        ({"cr4": LA57 | 0x10, "rip": KERNEL}, [LEGACY]),
        ({"cr4": PAE_BIT, "rip": 0xC0100000}, [PAE, FOUR]),
        ({"cr4": PAE_BIT, "rip": KERNEL}, [FOUR]),
        ({"cr4": PAE_BIT, "cr3": 1 << 32}, [FOUR]),
        ({"cr4": PAE_BIT, "gs_base": KERNEL}, [FOUR]),
        ({"cr4": PAE_BIT, "rax": KERNEL}, [PAE, FOUR]),
        ({"cr4": PAE_BIT | LA57}, [FIVE]),
    ],
)
def test_possible_modes(registers: dict[str, int], modes: list[PagingMode]) -> None:
    """PG, PAE and LA57 decide, and addresses above 4 GiB what these leave open."""
    assert possible_modes(vcpu(**registers)) == modes


def lacking(found: VCPU, *names: str) -> VCPU:
    """Returns a vCPU without some of its registers."""
    kept = {name: value for name, value in found.registers.items() if name not in names}
    return VCPU(found.number, kept)


@pytest.mark.parametrize(
    ("missing", "registers", "modes"),
    [
        (["cr0"], {}, [LEGACY]),
        (["cr0"], {"cr4": PAE_BIT, "rip": KERNEL}, [FOUR]),
        (["cr0"], {"cr4": PAE_BIT | LA57}, [FIVE]),
        (["cr4"], {"rip": KERNEL}, [FOUR, FIVE]),
        (["cr4"], {"rip": 0xC0100000}, [PAE, FOUR, FIVE, LEGACY]),
        (["cr4"], {"cr0": 1}, [PagingMode.OFF]),
        (["cr0", "cr4"], {"rip": KERNEL}, [FOUR, FIVE]),
        (["rip", "rsp", "idt_base", "cr3", "gs_base"], {"cr4": PAE_BIT}, [PAE, FOUR]),
    ],
)
def test_possible_modes_of_some_registers(
    missing: list[str], registers: dict[str, int], modes: list[PagingMode]
) -> None:
    """What is missing rules no mode out."""
    found = lacking(vcpu(**registers), *missing)
    assert possible_modes(found) == modes
    assert found.has_paging_registers == (not {"cr0", "cr3", "cr4"} & set(missing))


@pytest.mark.parametrize("mode", [FOUR, FIVE])
@pytest.mark.parametrize("missing", ["cr0", "cr4", "rip", "rsp", "idt_base", "gs_base"])
def test_find_paging_by_some_registers(mode: PagingMode, missing: str) -> None:
    """Any register but CR3 may be missing where another one is mapped."""
    cr4 = PAE_BIT | (LA57 if mode is FIVE else 0)
    memory = Memory(mode)
    memory.map(KERNEL, 0x9000)
    place = KERNEL + 0x10
    whole = vcpu(cr3=0x4003, cr4=cr4, rip=place, rsp=place, idt_base=place, gs_base=KERNEL)
    shown, tables = find_paging(memory.read, lacking(whole, missing))
    assert shown is mode and tables is not None and tables.root == 0x4000
    assert find_paging(memory.read, lacking(whole, "cr3")) == (None, None)
    assert list(candidate_tables(memory.read, [lacking(whole, "cr3")])) == []
    # A mode that nothing tells is not guessed.
    assert find_paging(memory.read, lacking(whole, "rip", "rsp", "idt_base", "cr4")) == (None, None)


@pytest.mark.parametrize("mode", [FOUR, FIVE])
def test_find_paging(mode: PagingMode) -> None:
    """One of rip, rsp and the IDT is mapped by the right tables; of two halves, the kernel's."""
    cr4 = PAE_BIT | (LA57 if mode is FIVE else 0)
    memory = Memory(mode)
    memory.map(KERNEL, 0x9000)
    for register in ("rip", "rsp", "idt_base"):
        found = vcpu(cr3=0x4003, cr4=cr4, gs_base=KERNEL, **{register: KERNEL + 0x10})
        assert find_paging(memory.read, vcpu(cr3=0x3000, cr4=cr4, rip=KERNEL)) == (mode, None)
        for cr3 in (0x4003, 0x5003):
            found = VCPU(0, {**found.registers, "cr3": cr3})
            shown, tables = find_paging(memory.read, found)
            assert shown is mode and tables is not None and tables.root == 0x4000
    elsewhere = vcpu(cr3=0x4000, cr4=cr4, gs_base=KERNEL)
    assert find_paging(memory.read, elsewhere) == (mode, None)
    wrong = LEGACY if mode is FOUR else FOUR
    cr4 = PAE_BIT if mode is FIVE else 0
    assert find_paging(memory.read, vcpu(cr3=0x4000, cr4=cr4, rip=KERNEL)) == (wrong, None)


def test_the_root_of_another_process_before_the_loaded_one() -> None:
    """Both map the kernel: without page-table isolation they are no halves of one."""
    memory = Memory(root=0x5000)
    memory.map(KERNEL, 0x9000)
    memory.data[0x4000:0x5000] = memory.data[0x5000:0x6000]
    _, tables = find_paging(memory.read, vcpu(cr3=0x5000, cr4=PAE_BIT, idt_base=KERNEL))
    assert tables is not None and tables.root == 0x5000


def test_the_users_half_alone() -> None:
    """Where only the page after maps what the vCPU runs, it is the one."""
    memory = Memory(root=0x5000)
    memory.map(0x401000, 0x9000)
    found = vcpu(cr3=0x5000, cr4=PAE_BIT, rip=0x401000, rsp=0x7FFFFFFFE000)
    _, tables = find_paging(memory.read, found)
    assert tables is not None and tables.root == 0x5000


def test_a_guest_below_4_gib_is_told_by_its_tables() -> None:
    """PAE and four levels look alike in the registers of a vCPU in low memory."""
    for mode in (PAE, FOUR):
        memory = Memory(mode)
        memory.map(0xC0100000, 0x9000)
        shown, tables = find_paging(memory.read, vcpu(cr3=0x4000, cr4=PAE_BIT, rip=0xC0100000))
        assert shown is mode and tables is not None
        other = vcpu(cr3=0x4000, cr4=PAE_BIT, rax=0xC0100000)
        assert find_paging(memory.read, other) == (PAE, None)
    assert find_paging(memory.read, vcpu(cr0=1, rip=0xC0100000)) == (PagingMode.OFF, None)


def test_garbage_in_cr3() -> None:
    """A page map outside of memory, or one without sense, is not taken."""
    memory = Memory()
    memory.data[0x8000:0x9000] = b"\xff" * PAGE
    for cr3 in (0, 0x8000, 0x7FFF_F000, (1 << 64) - 1):
        found = vcpu(cr3=cr3, cr4=PAE_BIT, rip=KERNEL, rsp=KERNEL)
        assert find_paging(memory.read, found) == (FOUR, None)


def test_candidates_come_once() -> None:
    """Many vCPUs share tables; each pair of halves is tried once, the kernel's first."""
    vcpus = [
        vcpu(cr0=1),
        vcpu(cr3=0x5001, cr4=PAE_BIT, rip=KERNEL),
        vcpu(cr3=0x4002, cr4=PAE_BIT, rip=KERNEL),
        vcpu(cr3=0x8000, cr4=PAE_BIT),
        vcpu(cr3=0x4000, cr4=PAE_BIT | LA57),
    ]
    found = list(candidate_tables(Memory().read, vcpus))
    assert [(vcpus.index(owner), tables.mode, tables.root) for owner, tables in found] == [
        (1, FOUR, 0x4000),
        (1, FOUR, 0x5000),
        (3, PAE, 0x8000),
        (3, FOUR, 0x8000),
        (4, FIVE, 0x4000),
    ]


@pytest.mark.parametrize("error", [AddressError, MediumError])
@pytest.mark.parametrize(("start", "missing"), [(0x10, 0x10), (0xFF0, 0x1000), (-0x20, 0)])
def test_errors_have_the_virtual_address(
    error: type[AddressError], start: int, missing: int
) -> None:
    """What is not in the dump is said in the space that was asked for, and of the same kind."""
    memory = Memory()
    broken = 20 * PAGE

    def read(address: int, length: int) -> bytes:
        if address < broken + PAGE and broken < address + length:
            raise error(max(address, broken), f"{max(address, broken):#x} is missing")
        return memory.read(address, length)

    memory.map(KERNEL - PAGE, 22 * PAGE)
    memory.map(KERNEL, broken if missing < PAGE else 21 * PAGE)
    memory.map(KERNEL + PAGE, broken)
    tables = PageTables(read, FOUR, memory.root)
    with pytest.raises(error, match=f"virtual address {KERNEL + missing:#x}: .* is missing") as got:
        tables.read(KERNEL + start, 0x40)
    assert type(got.value) is error and got.value.address == KERNEL + missing
    assert not tables.maps(KERNEL + missing)


def test_one_read_of_far_too_much() -> None:
    """Any number of pages can be mapped to one: the dump's size is no limit, a size in it none."""
    memory = Memory()
    memory.map(0x40000000, 0, 30)
    with pytest.raises(AddressError, match="too many"):
        memory.tables().read(0x40000000, 19 << 30)
