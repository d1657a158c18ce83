"""The Linux kernel that runs in the guest, found from the registers of its vCPUs.

The page tables that a vCPU points to map the kernel's image at an address that is known:

    64-bit   between 0xffffffff80000000 and 0xffffffffc0000000, and nothing else before it
             (Documentation/arch/x86/x86_64/mm.rst), with four levels and with five
    32-bit   in the linear mapping, around the handlers that the IDT points to

Only the image is read. Its banner says that it is Linux; kallsyms and BTF in it say the rest.
"""

import contextlib
import functools
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError, KallsymsError
from volatility_guestdump.guestfile import PAGE_SIZE, VCPU
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.kallsyms import Kallsyms, find_kallsyms
from volatility_guestdump.paging import PTI_USER_HALF, PageTables, Read, candidate_tables
from volatility_guestdump.printable import printable

#: Where a 64-bit kernel's image may lie; modules follow behind.
IMAGE_START = 0xFFFFFFFF80000000
IMAGE_END = 0xFFFFFFFFC0000000

#: Where _text is linked to: CONFIG_PHYSICAL_START is 16 MiB in every distribution.
_LINK_ADDRESS_64 = 0xFFFFFFFF81000000
_LINK_ADDRESS_32 = 0xC1000000

#: linux_banner as the build makes it. The kernel's early boot code has one without a number
#: behind the "#", and the log has one without the newline.
_BANNER_START = b"Linux version "
_BANNER = re.compile(_BANNER_START + rb"[0-9][^\0\n]{8,400} #\d+[^\0\n]{0,200}\n\0")
_BANNER_LIMIT = 1024
_BANNERS_LIMIT = 16

#: More than any kernel's text and data.
_IMAGE_LIMIT = 512 << 20
#: How far from the handlers of exceptions a 32-bit kernel's image may reach.
_IMAGE_REACH_32 = 64 << 20
#: What is searched at a time. Larger ones were up to five times slower: each is a new allocation
#: from the system, whose pages come one by one.
_CHUNK = 256 << 10
#: How far from the banner kallsyms may lie: both are in .rodata.
_RODATA_REACH = 64 << 20
#: A kernel's BTF has about 5 MiB.
_BTF_LIMIT = 64 << 20
_NOTES_LIMIT = 64 << 10

#: An ELF note NT_GNU_BUILD_ID (3) of "GNU", up to its content; the size of that is not absurd.
_BUILD_ID = re.compile(rb"\x04\0\0\0(.\0\0\0)\x03\0\0\0GNU\0", re.DOTALL)

#: Where BTF starts and ends: from 5.7 on (90ceddcb4950), and before.
_BTF_SYMBOLS = (
    ("__start_BTF", "__stop_BTF"),
    ("_binary__btf_vmlinux_bin_start", "_binary__btf_vmlinux_bin_end"),
)

#: Pieces of memory with a banner that are tried as the kernel's, before one without symbols is
#: taken for it. Memory that was freed keeps what was in it, copies of the banner too.
_ATTEMPTS = 4


class Run(NamedTuple):
    """A piece of the image that is mapped without a gap.

    Attributes:
        start: virtual address.
        physical: guest-physical address of the same byte.
        size: in bytes.
    """

    start: int
    physical: int
    size: int


class Place(NamedTuple):
    """A place in the kernel's code or data.

    Attributes:
        symbol: the nearest below; empty when there is none.
        offset: from the symbol; the address itself when there is none.
        module: that the place is in; empty for the kernel's image.
    """

    symbol: str
    offset: int
    module: str = ""

    def __str__(self) -> str:
        symbol = f"{self.symbol}+" if self.symbol else ""
        return f"{symbol}{self.offset:#x}" + (f" [{self.module}]" if self.module else "")


class LinuxKernel:
    """A Linux kernel in the guest's memory.

    Args:
        tables: page tables that map it.
        vcpu: that has them loaded.
        runs: the mapped pieces of its image, ascending.
        rodata: the one of them that has the banner.
        banners: addresses of what may be the banner, with the texts.

    Attributes:
        tables: the kernel's own page tables when they are known, else as given.
        banner: as the kernel prints it.
        kallsyms: the kernel's symbols, or None.
        kallsyms_error: why there are none.
    """

    def __init__(
        self,
        tables: PageTables,
        vcpu: VCPU,
        runs: Sequence[Run],
        rodata: Run,
        banners: dict[int, bytes],
    ) -> None:
        self.tables = tables
        self._runs = runs
        self.kallsyms: Optional[Kallsyms] = None
        self.kallsyms_error = ""
        known: list[tuple[str, Sequence[int]]] = [("linux_banner", list(banners))]
        if tables.mode.is_64bit:
            known += [("_text", [runs[0].start]), ("_stext", [runs[0].start])]
        handlers = list(_first_handler(vcpu, tables))
        known += [("asm_exc_divide_error", handlers), ("divide_error", handlers)]
        first = min(banners)
        start = max(rodata.start, (first - _RODATA_REACH) & -PAGE_SIZE)
        end = min(rodata.start + rodata.size, first + _RODATA_REACH)
        image, missing = _read_present(tables, rodata.physical + start - rodata.start, end - start)
        try:
            self.kallsyms = find_kallsyms(image, start, known, self.bits)
        except KallsymsError as error:
            self.kallsyms_error = str(missing or error)
        self.banner = banners[first]
        place = self.address("linux_banner")
        if place is not None:
            self.banner = banners.get(place) or self._banner_at(place) or self.banner
        self.tables = self._kernel_tables()

    @property
    def bits(self) -> int:
        """Bits of a pointer."""
        return 64 if self.tables.mode.is_64bit else 32

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol in the running kernel, or None."""
        return self.kallsyms.address(symbol) if self.kallsyms else None

    def read(self, address: int, length: int) -> bytes:
        """Reads the kernel's virtual memory.

        Raises:
            AddressError: not all of it is mapped.
        """
        return self.tables.read(address, length)

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, self.bits // 8), "little")

    def _banner_at(self, address: int) -> Optional[bytes]:
        """Returns the banner at an address, or None when there is none."""
        try:
            match = _BANNER.match(self.read(address, _BANNER_LIMIT))
        except AddressError:
            return None
        return match[0].rstrip(b"\0\n") if match else None

    def _kernel_tables(self) -> PageTables:
        """Returns swapper_pg_dir when it maps the image as the vCPU's tables do."""
        start = self._runs[0].start
        for name in ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir"):
            address = self.address(name)
            if address is None:
                continue
            try:
                root, _ = self.tables.translate(address)
                tables = PageTables(self.tables.read_physical, self.tables.mode, root)
                # Not the size of the page too: either may have split a large one.
                if tables.translate(start)[0] == self.tables.translate(start)[0]:
                    return tables
            except AddressError:
                continue
        return self.tables

    @property
    def shown_banner(self) -> str:
        """The banner, fit for the screen."""
        return printable(self.banner)

    @property
    def release(self) -> str:
        """The release as uname(1) shows it, "6.1.0-56-cloud-amd64"."""
        return self.shown_banner.split(" ", 3)[2]

    @property
    def system(self) -> str:
        """What runs in the guest, "Linux 6.1.0-56-cloud-amd64 (x64)"."""
        return f"Linux {self.release} ({'x64' if self.bits == 64 else 'x86'})"

    def locate(self, address: int) -> Optional[Place]:
        """Returns where an address in the kernel's image is, else None."""
        if self.kallsyms is None or not self.virtual_base <= address < self.virtual_end:
            return None
        found = self.kallsyms.at(address)
        return Place(printable(found[0].name.encode("latin-1")), found[1]) if found else None

    def symbolize(self, address: int) -> Optional[str]:
        """Returns "symbol+0xoffset" for an address in the kernel's image, else None."""
        place = self.locate(address)
        return None if place is None else str(place)

    def loaded_user_half(self, vcpu: VCPU) -> bool:
        """Whether a vCPU has the user's half of isolated page tables loaded."""
        data = self.address("init_task")
        if data is None or not vcpu["cr3"] & PTI_USER_HALF:
            return False
        mode, read = self.tables.mode, self.tables.read_physical
        return PageTables(read, mode, vcpu["cr3"] & ~PTI_USER_HALF).maps(data) and not PageTables(
            read, mode, vcpu["cr3"]
        ).maps(data)

    @property
    def page_map(self) -> int:
        """Physical address of the root page table."""
        return self.tables.root

    @functools.cached_property
    def virtual_base(self) -> int:
        """Virtual address of the image's start, _text."""
        return self.address("_text") or self.address("_stext") or self._runs[0].start

    @functools.cached_property
    def virtual_end(self) -> int:
        """The first virtual address behind the image, or behind what symbols reach of it."""
        # Without KALLSYMS_ALL there are symbols of code alone.
        return self.address("_end") or self.address("_etext") or self.virtual_base

    @functools.cached_property
    def physical_base(self) -> int:
        """Guest-physical address of the image's start."""
        try:
            return self.tables.translate(self.virtual_base)[0]
        except AddressError:
            # The image is in one piece, whatever is left of its page tables.
            run = self._runs[0]
            return run.physical - (run.start - self.virtual_base)

    @functools.cached_property
    def panic_cpu(self) -> Optional[int]:
        """Number of the CPU that panicked; -1 when none did, None when nothing tells."""
        address = self.address("panic_cpu")
        if address is None:
            return None
        try:
            return int.from_bytes(self.read(address, 4), "little", signed=True)
        except AddressError:
            return None

    @functools.cached_property
    def kaslr_shift(self) -> int:
        """How far the kernel runs from where it was linked to."""
        offset = self.vmcoreinfo.get("KERNELOFFSET", "")
        if re.fullmatch(r"[0-9a-f]{1,16}", offset):
            return int(offset, 16)
        return self.virtual_base - (_LINK_ADDRESS_64 if self.bits == 64 else _LINK_ADDRESS_32)

    @functools.cached_property
    def vmcoreinfo(self) -> dict[str, str]:
        """What the kernel tells to tools that read its dumps, name -> value; may be empty."""
        data, size = self.address("vmcoreinfo_data"), self.address("vmcoreinfo_size")
        if data is None or size is None:
            return {}
        try:
            length = min(self.pointer(size), PAGE_SIZE)
            text = self.read(self.pointer(data), length).decode("latin-1")
        except AddressError:
            return {}
        lines = (line.partition("=") for line in text.splitlines())
        return {name: value for name, equals, value in lines if equals}

    @functools.cached_property
    def build_id(self) -> Optional[str]:
        """The GNU build id in hexadecimal, or None."""
        start, stop = self.address("__start_notes"), self.address("__stop_notes")
        if start is None or stop is None or not 0 < stop - start <= _NOTES_LIMIT:
            return None
        try:
            notes = self.read(start, stop - start)
        except AddressError:
            return None
        # Not from note to note: some linkers align one to 8 bytes, and no note says so.
        for match in _BUILD_ID.finditer(notes):
            if match.start() % 4 == 0:
                size = int.from_bytes(match[1], "little")
                return notes[match.end() : match.end() + size].hex() or None
        return None

    def read_btf(self) -> Btf:
        """Reads and indexes the kernel's types.

        Raises:
            BtfError: the kernel has none, or they are damaged.
        """
        for names in _BTF_SYMBOLS:
            start, stop = map(self.address, names)
            if start is not None and stop is not None and stop != start:
                break
        else:
            raise BtfError("the kernel has no type information (BTF)")
        if not 0 < stop - start <= _BTF_LIMIT:
            raise BtfError(f"the kernel's BTF would have {stop - start} bytes")
        try:
            return Btf(self.read(start, stop - start))
        except AddressError as error:
            raise BtfError(f"the kernel's BTF is not in the dump: {error}") from error

    def isolates_page_tables(self) -> Optional[bool]:
        """Whether page-table isolation is on, or None when that cannot be told.

        Then the page behind every top-level table is the user's half of it. That maps the code
        of the entries into the kernel like the kernel's half, but not the kernel's data.
        """
        entry, data = self.address("__entry_text_start"), self.address("init_task")
        if entry is None or data is None:
            return None
        user = PageTables(
            self.tables.read_physical, self.tables.mode, self.page_map | PTI_USER_HALF
        )
        if user.root == self.page_map:
            return False
        try:
            same = user.translate(entry)[0] == self.tables.translate(entry)[0]
        except AddressError:
            return False
        return same and not user.maps(data)


def find_kernel(read: Read, vcpus: Iterable[VCPU]) -> Optional[LinuxKernel]:
    """Finds the Linux kernel that the vCPUs run.

    Args:
        read: reads guest-physical memory.
        vcpus: of the guest; each is tried, for some may be in a useless state.

    Returns:
        The kernel, or None when the guest is not Linux, or has not come far enough to tell.
    """
    found = None
    for kernel in itertools.islice(_kernels(read, vcpus), _ATTEMPTS):
        if kernel.kallsyms is not None:
            return kernel
        found = found or kernel
    return found


def _kernels(read: Read, vcpus: Iterable[VCPU]) -> Iterator[LinuxKernel]:
    """Yields what may be the kernel: pieces of the image that have a banner."""
    for vcpu, tables in candidate_tables(read, vcpus):
        runs = list(_image_runs(vcpu, tables))
        for run in runs:
            banners = _banners(tables, run)
            if banners:
                yield LinuxKernel(tables, vcpu, runs, run, banners)


def _image_runs(vcpu: VCPU, tables: PageTables) -> Iterator[Run]:
    """Yields what the page tables map where the kernel's image lies or may lie."""
    if tables.mode.is_64bit:
        start, end = IMAGE_START, IMAGE_END
    else:
        start, end = 0, 0
        for handler in _first_handler(vcpu, tables):
            start = max(0, handler - _IMAGE_REACH_32) & -PAGE_SIZE
            end = min(1 << 32, handler + _IMAGE_REACH_32)
    left = _IMAGE_LIMIT
    for address, physical, size in tables.runs(start, end):
        yield Run(address, physical, min(size, left))
        left -= size
        if left <= 0:
            return


def _first_handler(vcpu: VCPU, tables: PageTables) -> Iterator[int]:
    """Yields the address of the handler of divide errors, the IDT's first, if there is an IDT."""
    is_64bit = tables.mode.is_64bit
    with contextlib.suppress(AddressError):
        gate = tables.read(vcpu["idt_base"], 16 if is_64bit else 8)
        yield int.from_bytes(gate[:2] + gate[6 : 12 if is_64bit else 8], "little")


def _read_present(
    tables: PageTables, physical: int, size: int
) -> tuple[bytes, Optional[AddressError]]:
    """Reads physical memory as far as the dump has it; returns also why not all."""
    try:
        return tables.read_physical(physical, size), None
    except AddressError as error:
        present = error.address - physical
        return tables.read_physical(physical, present) if present > 0 else b"", error


def _banners(tables: PageTables, run: Run) -> dict[int, bytes]:
    """Returns the addresses and texts of what looks like linux_banner in a piece of the image."""
    for offset in range(0, run.size, _CHUNK):
        size = min(_CHUNK + _BANNER_LIMIT, run.size - offset)
        chunk, _ = _read_present(tables, run.physical + offset, size)
        banners: dict[int, bytes] = {}
        place = chunk.find(_BANNER_START)
        while place >= 0 and len(banners) < _BANNERS_LIMIT:
            match = _BANNER.match(chunk, place)
            if match:
                banners[run.start + offset + place] = match[0].rstrip(b"\0\n")
            place = chunk.find(_BANNER_START, place + 1)
        if banners:
            return banners
    return {}
