"""What a Linux kernel in a guest's memory says of itself.

Its symbols (kallsyms), types (BTF), unwinding tables (ORC) and modules are each read once, and
shared by all that ask. How a kernel is found is the subject of `find`.
"""

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple, Optional, Union

from volatility_guestdump.exceptions import AddressError, BtfError, OrcError
from volatility_guestdump.linux import vmcoreinfo
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.kallsyms import Kallsyms
from volatility_guestdump.linux.modules import Modules
from volatility_guestdump.linux.orc import OrcTable, find_form
from volatility_guestdump.linux.place import Place
from volatility_guestdump.machine import PAGE_SIZE, VCPU
from volatility_guestdump.text import printable
from volatility_guestdump.x86.paging import PTI_USER_HALF, PageTables

#: Where _text is linked to: CONFIG_PHYSICAL_START is 16 MiB in every distribution.
_LINK_ADDRESS_64 = 0xFFFFFFFF81000000
_LINK_ADDRESS_32 = 0xC1000000

#: A kernel's BTF has about 5 MiB.
_BTF_LIMIT = 64 << 20
_NOTES_LIMIT = 64 << 10
#: A distribution's kernel has about 3 MB of entries.
_ORC_LIMIT = 64 << 20

#: An ELF note NT_GNU_BUILD_ID (3) of "GNU", up to its content; the size of that is not absurd.
_BUILD_ID = re.compile(rb"\x04\0\0\0(.\0\0\0)\x03\0\0\0GNU\0", re.DOTALL)

#: Where BTF starts and ends: from 5.7 on (90ceddcb4950), and before.
_BTF_SYMBOLS = (
    ("__start_BTF", "__stop_BTF"),
    ("_binary__btf_vmlinux_bin_start", "_binary__btf_vmlinux_bin_end"),
)


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


class LinuxKernel:
    """A Linux kernel in the guest's memory.

    Args:
        tables: page tables that map it: the kernel's own when they are known.
        runs: the mapped pieces of its image, ascending.
        banner: linux_banner, without the newline at its end.
        kallsyms: its symbols, or None when they cannot be read.
        kallsyms_error: why there are none.
        found_by: how it was found: "registers", "low memory".

    Attributes:
        tables: as given.
        runs: as given.
        banner: as given.
        kallsyms: as given.
        kallsyms_error: as given.
        found_by: as given.
    """

    def __init__(
        self,
        tables: PageTables,
        runs: Sequence[Run],
        banner: bytes,
        kallsyms: Optional[Kallsyms],
        kallsyms_error: str = "",
        found_by: str = "registers",
    ) -> None:
        self.tables = tables
        self.runs = runs
        self.banner = banner
        self.kallsyms = kallsyms
        self.kallsyms_error = kallsyms_error
        self.found_by = found_by

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
        kernel_half, loaded = (
            self.tables.at(vcpu["cr3"] & ~PTI_USER_HALF),
            self.tables.at(vcpu["cr3"]),
        )
        return kernel_half.maps(data) and not loaded.maps(data)

    @property
    def page_map(self) -> int:
        """Physical address of the root page table."""
        return self.tables.root

    @functools.cached_property
    def virtual_base(self) -> int:
        """Virtual address of the image's start, _text."""
        return self.address("_text") or self.address("_stext") or self.runs[0].start

    @functools.cached_property
    def virtual_end(self) -> int:
        """The first virtual address behind the image, or behind what symbols reach of it."""
        # Without KALLSYMS_ALL there are symbols of code alone.
        return self.address("_end") or self.address("_etext") or self.virtual_base

    @functools.cached_property
    def physical_base(self) -> Optional[int]:
        """Guest-physical address of the image's start."""
        try:
            return self.tables.translate(self.virtual_base)[0]
        except AddressError:
            # The image is in one piece, whatever is left of its page tables.
            run = self.runs[0]
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
            return vmcoreinfo.parse(self.read(self.pointer(data), length))
        except AddressError:
            return {}

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

    @property
    def btf(self) -> Btf:
        """The kernel's types, read once.

        Raises:
            BtfError: the kernel has none, or they are damaged.
        """
        if isinstance(self._btf, BtfError):
            raise self._btf
        return self._btf

    @functools.cached_property
    def types(self) -> Optional[Btf]:
        """The kernel's types, or None when there are none that can be read; see `btf`."""
        return None if isinstance(self._btf, BtfError) else self._btf

    @functools.cached_property
    def _btf(self) -> Union[Btf, BtfError]:
        try:
            return self._read_btf()
        except BtfError as error:
            return error

    def _read_btf(self) -> Btf:
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

    @property
    def orc(self) -> OrcTable:
        """The kernel's unwinding tables, read once.

        Raises:
            OrcError: the kernel has none, or they are damaged.
        """
        if isinstance(self._orc, OrcError):
            raise self._orc
        return self._orc

    @functools.cached_property
    def _orc(self) -> Union[OrcTable, OrcError]:
        try:
            return self._read_orc()
        except OrcError as error:
            return error

    def _read_orc(self) -> OrcTable:
        tables = []
        for name in ("orc_unwind_ip", "orc_unwind"):
            start, stop = self.address(f"__start_{name}"), self.address(f"__stop_{name}")
            if start is None or stop is None:
                raise OrcError("the kernel has no unwinding tables (ORC)")
            if not 0 <= stop - start <= _ORC_LIMIT:
                raise OrcError(f"the kernel's {name} table would have {stop - start} bytes")
            try:
                tables.append((start, self.read(start, stop - start)))
            except AddressError as error:
                raise OrcError(f"the kernel's {name} table is not in the dump") from error
        (place, ips), (_, entries) = tables
        return OrcTable(ips, entries, place, find_form(entries))

    @functools.cached_property
    def modules(self) -> Optional[Modules]:
        """The modules that the kernel has loaded; None without types, which tell where they are."""
        return Modules(self, self.types) if self.types is not None else None

    def isolates_page_tables(self) -> Optional[bool]:
        """Whether page-table isolation is on, or None when that cannot be told.

        Then the page behind every top-level table is the user's half of it. That maps the code
        of the entries into the kernel like the kernel's half, but not the kernel's data.
        """
        entry, data = self.address("__entry_text_start"), self.address("init_task")
        if entry is None or data is None:
            return None
        user = self.tables.at(self.page_map | PTI_USER_HALF)
        if user.root == self.page_map:
            return False
        try:
            same = user.translate(entry)[0] == self.tables.translate(entry)[0]
        except AddressError:
            return False
        return same and not user.maps(data)
