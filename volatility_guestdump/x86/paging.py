# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Page tables of x86, in the five ways a vCPU can use them.

Volatility's Intel layers serve the plugins. This is the walk for what comes before a layer can
be made: which of the vCPUs' page tables are sound, and where the kernel is.

    mode     tables (bits of index)                entry   large pages
    32-bit   10, 10                                4       4 MiB (with CR4.PSE, CPUID PSE-36)
    PAE      2, 9, 9                               8       2 MiB
    4-level  9, 9, 9, 9                            8       1 GiB, 2 MiB
    5-level  9, 9, 9, 9, 9                         8       1 GiB, 2 MiB

Source: Intel Software Developer's Manual, volume 3, chapter 4.
"""

import enum
from collections.abc import Iterable, Iterator
from typing import Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import PAGE_SIZE, VCPU, Read

CR0_PG = 1 << 31
CR4_PSE = 1 << 4
CR4_PAE = 1 << 5
CR4_LA57 = 1 << 12
CR4_PCIDE = 1 << 17
EFER_LMA = 1 << 10

#: With page-table isolation the kernel's and the user's half of a page map lie in two pages that
#: follow each other; this bit of CR3 chooses (Linux: PTI_PGTABLE_SWITCH_BIT).
PTI_USER_HALF = 1 << 12

#: The largest that is asked for are tables of the kernel, of 64 MiB. A page can be mapped any
#: number of times, so the size of memory is no limit.
MAXIMUM_READ = 256 << 20

_PRESENT = 1 << 0
_LARGE = 1 << 7
_PHYSICAL_MASK = (1 << 52) - 1

#: The smallest large page has so many bits of an address.
_LARGE_BITS = 21
#: Of so many tables, and of so many pieces of large pages, it is kept what they are.
_TABLES_KEPT = 1 << 12
_PIECES_KEPT = 1 << 15


class PagingMode(enum.Enum):
    """How a vCPU turns virtual addresses into physical ones."""

    OFF = "off"
    LEGACY = "32-bit"
    PAE = "PAE"
    FOUR_LEVEL = "4-level"
    FIVE_LEVEL = "5-level"

    @property
    def index_bits(self) -> tuple[int, ...]:
        """Bits of the virtual address that each table takes, from the root down."""
        return _INDEX_BITS[self]

    @property
    def entry_size(self) -> int:
        """Bytes of an entry."""
        return 4 if self is PagingMode.LEGACY else 8

    @property
    def address_bits(self) -> int:
        """Bits of a virtual address that are translated."""
        return 12 + sum(self.index_bits)

    @property
    def is_64bit(self) -> bool:
        """Whether the mode needs long mode."""
        return self in (PagingMode.FOUR_LEVEL, PagingMode.FIVE_LEVEL)

    def root(self, cr3: int) -> int:
        """Returns the physical address of the root table: CR3 without PCID and flags."""
        if self is PagingMode.PAE:
            return cr3 & 0xFFFFFFE0
        return cr3 & _PHYSICAL_MASK & ~(PAGE_SIZE - 1)


_INDEX_BITS = {
    PagingMode.OFF: (),
    PagingMode.LEGACY: (10, 10),
    PagingMode.PAE: (2, 9, 9),
    PagingMode.FOUR_LEVEL: (9, 9, 9, 9),
    PagingMode.FIVE_LEVEL: (9, 9, 9, 9, 9),
}


#: Registers with addresses that code of 32 bits cannot have above 4 GiB.
_TELLING = ("rip", "rsp", "idt_base", "cr3", "gs_base")


def possible_modes(vcpu: VCPU) -> list[PagingMode]:
    """Returns the paging modes that the registers of a vCPU allow, the likelier first.

    EFER tells 4-level paging from PAE where the source has it. Elsewhere, as in debug.guest, they
    differ only in what the addresses in the registers look like, and, when that says nothing, in
    which tables translate them. Without CR0 or CR4 more modes are possible, and memory has to tell.
    """
    cr0, cr4 = vcpu.get("cr0"), vcpu.get("cr4")
    if cr0 is not None and not cr0 & CR0_PG:
        return [PagingMode.OFF]
    if cr4 is not None and not cr4 & CR4_PAE:
        return [PagingMode.LEGACY]
    if cr4 is not None and cr4 & CR4_LA57:
        return [PagingMode.FIVE_LEVEL]
    efer = vcpu.get("efer")
    if efer is not None:
        in_long_mode: Optional[bool] = bool(efer & EFER_LMA)
    else:
        in_long_mode = any((vcpu.get(register) or 0) >> 32 for register in _TELLING) or None
    modes = []
    if in_long_mode is not True:
        modes.append(PagingMode.PAE)
    if in_long_mode is not False:
        modes.append(PagingMode.FOUR_LEVEL)
        if cr4 is None:
            modes.append(PagingMode.FIVE_LEVEL)
    if in_long_mode is not True and cr4 is None:
        modes.append(PagingMode.LEGACY)
    return modes


class PageTables:
    """A tree of page tables.

    Every walk reads one entry at each level, so a table that refers to itself does no harm.

    Args:
        read: reads physical memory.
        mode: how the tables are built; not OFF.
        cr3: where they start, as in the register.
        has_4mib_pages: whether CR4.PSE is set: without it 32-bit paging has no large pages, and
            their bit is ignored. Of no meaning in other modes.

    Attributes:
        mode: as given.
        root: physical address of the root table.
        read_physical: as given.
    """

    def __init__(self, read: Read, mode: PagingMode, cr3: int, has_4mib_pages: bool = True) -> None:
        self.read_physical = read
        self.mode = mode
        self._has_4mib_pages = has_4mib_pages
        self.root = mode.root(cr3)
        self._tables: dict[int, bytes] = {}
        # 2 MiB of virtual addresses -> the large page that has them, and its size: nearly all that
        # a kernel allocates is in some of these.
        self._large_pages: dict[int, tuple[int, int]] = {}
        # Each walk asks for them at every level, and those of an enumeration take their time.
        self._entry_size = mode.entry_size
        self._address_bits = mode.address_bits
        self._levels = tuple(self._all_levels())

    def at(self, cr3: int) -> "PageTables":
        """Returns page tables built in the same way that start elsewhere."""
        return PageTables(self.read_physical, self.mode, cr3, self._has_4mib_pages)

    def _all_levels(self) -> Iterator[tuple[int, int, bool]]:
        """Yields bits of the index, bits below it, and whether a page can be that large."""
        bits_left = self._address_bits
        for level, bits in enumerate(self.mode.index_bits):
            bits_left -= bits
            yield bits, bits_left, self._may_be_large(level)

    def _table(self, address: int, bits: int) -> bytes:
        table = self._tables.get(address)
        if table is None:
            table = self.read_physical(address, self._entry_size << bits)
            if len(self._tables) < _TABLES_KEPT:
                self._tables[address] = table
        return table

    def _walk(self, address: int) -> tuple[Optional[int], int]:
        """Returns (physical address of the page or None, size of the page or of the gap)."""
        if not self._is_canonical(address):
            return None, PAGE_SIZE
        table, entry_size = self.root, self._entry_size
        for bits, bits_left, may_be_large in self._levels:
            index = (address >> bits_left) & ((1 << bits) - 1)
            try:
                entries = self._table(table, bits)
            except AddressError:
                return None, 1 << (bits_left + bits)
            start = index * entry_size
            entry = int.from_bytes(entries[start : start + entry_size], "little")
            if not entry & _PRESENT:
                return None, 1 << bits_left
            if bits_left == 12 or (entry & _LARGE and may_be_large):
                page = entry & _PHYSICAL_MASK & -(1 << bits_left)
                if self.mode is PagingMode.LEGACY and bits_left > 12:
                    # PSE-36: bits 13-20 are bits 32-39 of the address; zero on CPUs without it.
                    page |= (entry >> 13 & 0xFF) << 32
                return page, 1 << bits_left
            table = entry & _PHYSICAL_MASK & -PAGE_SIZE
        raise AssertionError("the last table has entries of one page")

    def _is_canonical(self, address: int) -> bool:
        # The low bits of any other address must not pass for the whole.
        if self._address_bits == 32:
            return not address >> 32
        sign = address >> (self._address_bits - 1)
        return sign in (0, (1 << (65 - self._address_bits)) - 1)

    def _may_be_large(self, level: int) -> bool:
        # Only the tables of 1 GiB, 2 MiB and 4 MiB entries have large pages, not the roots of
        # PAE and of 4 and 5 levels.
        from_last = len(self.mode.index_bits) - 1 - level
        if self.mode is PagingMode.LEGACY and not self._has_4mib_pages:
            return False
        return from_last == 1 or (from_last == 2 and self.mode.is_64bit)

    def translate(self, address: int) -> tuple[int, int]:
        """Translates a virtual address.

        Returns:
            The physical address, and how many bytes from there on lie in the same page.

        Raises:
            AddressError: the address is not mapped.
        """
        found = self._large_pages.get(address >> _LARGE_BITS)
        page, size = found or self._walk(address)
        if page is None:
            raise AddressError(address, f"virtual address {address:#x} is not mapped")
        if found is None and size >> _LARGE_BITS and len(self._large_pages) < _PIECES_KEPT:
            self._large_pages[address >> _LARGE_BITS] = page, size
        offset = address & (size - 1)
        return page + offset, size - offset

    def maps(self, address: int) -> bool:
        """Whether a virtual address is mapped to physical memory that the dump has."""
        try:
            self.read(address, 1)
        except AddressError:
            return False
        return True

    def read(self, address: int, length: int) -> bytes:
        """Returns `length` bytes at a virtual address.

        Raises:
            AddressError: not all of them are mapped to memory that the dump has, or there are more
                than `MAXIMUM_READ`.
            MediumError: the medium that they lie on cannot be read.
        """
        if length > MAXIMUM_READ:
            raise AddressError(address, f"{length} bytes at {address:#x} are too many for one read")
        physical, available = self.translate(address)
        if length <= available:
            return self._read_page(address, physical, length)
        parts = []
        while length > 0:
            physical, available = self.translate(address)
            part = min(length, available)
            parts.append(self._read_page(address, physical, part))
            address += part
            length -= part
        return b"".join(parts)

    def _read_page(self, address: int, physical: int, length: int) -> bytes:
        """Reads what lies in one page; errors have the virtual address."""
        try:
            return self.read_physical(physical, length)
        except AddressError as error:
            missing = address + max(0, min(error.address - physical, length - 1))
            # The kind of the error says why; it is the same for both addresses.
            raise type(error)(missing, f"virtual address {missing:#x}: {error}") from error

    def runs(
        self, start: int, end: int, budget: Optional[Budget] = None
    ) -> Iterator[tuple[int, int, int]]:
        """Yields what is mapped between two virtual addresses, ascending.

        Args:
            start: the first address.
            end: the first address behind the last.
            budget: of entries that are looked at; where it is spent this ends. Tables that are all
                there, and map nothing, have 262,144 for each GiB.

        Yields:
            (virtual address, physical address, bytes); pages that follow each other in both
            spaces are joined.
        """
        run: Optional[tuple[int, int, int]] = None
        address = start
        while address < end and (budget is None or budget.take()):
            page, size = self._walk(address)
            step = min(size - (address & (size - 1)), end - address)
            if page is not None:
                physical = page + (address & (size - 1))
                if run and run[0] + run[2] == address and run[1] + run[2] == physical:
                    run = (run[0], run[1], run[2] + step)
                else:
                    if run:
                        yield run
                    run = (address, physical, step)
            address += step
        if run:
            yield run


def loaded_tables(read: Read, vcpu: VCPU) -> Iterator[PageTables]:
    """Yields what CR3 of a vCPU points to, in each paging mode that its registers allow."""
    cr3, cr4 = vcpu.get("cr3"), vcpu.get("cr4")
    if cr3 is None:
        return
    has_4mib_pages = cr4 is None or bool(cr4 & CR4_PSE)
    for mode in possible_modes(vcpu):
        if mode is not PagingMode.OFF:
            yield PageTables(read, mode, cr3, has_4mib_pages)


def candidate_tables(read: Read, vcpus: Iterable[VCPU]) -> Iterator[tuple[VCPU, PageTables]]:
    """Yields the page tables that the vCPUs point to, each once.

    A vCPU that was stopped in user mode under page-table isolation has the user's half loaded.
    Nothing in the registers tells, so of a root in an odd page both are yielded, the kernel's
    half first.
    """
    seen = set()
    for vcpu in vcpus:
        for loaded in loaded_tables(read, vcpu):
            for tables in (_kernel_half(loaded), loaded):
                if (tables.mode, tables.root) not in seen:
                    seen.add((tables.mode, tables.root))
                    yield vcpu, tables


def _kernel_half(tables: PageTables) -> PageTables:
    return tables.at(tables.root & ~PTI_USER_HALF)


def find_paging(read: Read, vcpu: VCPU) -> tuple[Optional[PagingMode], Optional[PageTables]]:
    """Returns the paging mode of a vCPU, and its page tables when they make sense.

    They do when they map what the vCPU runs, its stack or its IDT. Those that are loaded come
    first: without page-table isolation the page before them may be the root of another process.
    Where no memory tells, the mode is the likeliest that the registers allow, or None where the
    registers that tell it are missing.
    """
    places = [vcpu.get(register) for register in ("rip", "rsp", "idt_base")]
    for loaded in loaded_tables(read, vcpu):
        for tables in (loaded, _kernel_half(loaded)):
            if any(place is not None and tables.maps(place) for place in places):
                return tables.mode, tables
    modes = possible_modes(vcpu)
    return modes[0] if vcpu.has_paging_registers or modes == [PagingMode.OFF] else None, None
