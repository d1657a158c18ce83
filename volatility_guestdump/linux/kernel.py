# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a Linux kernel in a guest's memory says of itself.

Its symbols (kallsyms), types (BTF, or an ISF that is handed in), unwinding tables (ORC) and modules
are each read once, and shared by all that ask. How a kernel is found is the subject of `find`.
"""

import functools
import re
from collections.abc import Sequence
from typing import Callable, Optional, Union

from volatility_guestdump import elf
from volatility_guestdump.exceptions import AddressError, BtfError, OrcError
from volatility_guestdump.kept import MadeOnce
from volatility_guestdump.linux.finding import vmcoreinfo
from volatility_guestdump.linux.finding.boot_header import preferred_address
from volatility_guestdump.linux.finding.image import Run
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.stacks.generated import GeneratedCode
from volatility_guestdump.linux.stacks.orc import OrcTable
from volatility_guestdump.linux.stacks.orc_in_image import read_orc
from volatility_guestdump.linux.state.modules import Modules
from volatility_guestdump.linux.symbols.kallsyms import Kallsyms
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.linux.types.btf_in_image import read_btf
from volatility_guestdump.linux.types.btf_types import BtfTypes
from volatility_guestdump.linux.types.isf import Isf
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.machine import PAGE_SIZE, VCPU
from volatility_guestdump.text import printable
from volatility_guestdump.x86.paging import PTI_USER_HALF, PageTables

#: Where a 64-bit kernel maps physical address 0 of what it is linked to (__START_KERNEL_map).
_START_KERNEL_MAP = 0xFFFFFFFF80000000
#: CONFIG_PHYSICAL_START of every distribution.
_USUAL_PHYSICAL_START = 0x1000000

_NOTES_LIMIT = 64 << 10

#: Where the image starts; symbol tables of code alone have it too.
_STARTS = ("_text", "_stext")
#: Facts of a kernel to which no ISF adds anything.
_NOT_OF_ISF = ("_btf", "_orc")


class LinuxKernel:
    """A Linux kernel in the guest's memory.

    Args:
        tables: page tables that map it: the kernel's own when they are known.
        runs: the mapped pieces of its image, ascending.
        banner: linux_banner, without the newline at its end.
        kallsyms: its symbols, or None when they cannot be read.
        kallsyms_error: why there are none.
        found_by: how it was found: "registers", "low memory", "VMCOREINFO" or "banner".

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
        self._load_isf: Optional[Callable[[], Optional[Isf]]] = None

    @property
    def bits(self) -> int:
        """Bits of a pointer."""
        return 64 if self.tables.mode.is_64bit else 32

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol in the running kernel, or None."""
        if self.kallsyms is None:
            return None
        found = self.kallsyms.address(symbol)
        return self._address_in_isf(symbol) if found is None and self.lacks_symbols else found

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

    @property
    def has_code_alone(self) -> bool:
        """Whether its symbols are those of code alone: CONFIG_KALLSYMS_ALL is not set then.

        Plugins start from variables. Where symbols are lost that of the first task may be one.
        """
        kallsyms = self.kallsyms
        return kallsyms is not None and not kallsyms.lost and "init_task" not in kallsyms.index

    @property
    def lacks_symbols(self) -> bool:
        """Whether the kernel may have symbols that its symbol table does not tell."""
        return self.kallsyms is not None and (self.has_code_alone or self.kallsyms.lost > 0)

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
        data, cr3 = self.address("init_task"), vcpu.get("cr3")
        if data is None or cr3 is None or not cr3 & PTI_USER_HALF:
            return False
        kernel_half, loaded = self.tables.at(cr3 & ~PTI_USER_HALF), self.tables.at(cr3)
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
        # Code that starts the kernel lies behind all other code.
        end = self.address("_end") or self.address("_einittext") or self.address("_etext")
        if end is not None or self.kallsyms is None:
            return end or self.virtual_base
        # Symbols of code alone: the page where the last function starts.
        last = self.kallsyms.at((1 << self.bits) - 1)
        return (last[0].address | (PAGE_SIZE - 1)) + 1 if last else self.virtual_base

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
    def kaslr_shift(self) -> Optional[int]:
        """How far the kernel runs from where it was linked to; None where nothing tells."""
        offset = self.vmcoreinfo.get("KERNELOFFSET", "")
        if re.fullmatch(r"[0-9a-f]{1,16}", offset):
            return int(offset, 16)
        preferred = preferred_address(self)
        shift = None if preferred is None else self._shift_from(preferred)
        return shift if shift is not None and shift >= 0 else None

    @functools.cached_property
    def symbol_shift(self) -> int:
        """How far addresses are from those in a symbol table that is made of this kernel.

        Where KASLR's shift is not known any whole number of pages would do: who uses such a table
        for other memory finds its shift by comparing. The usual link address is taken then.
        """
        if self.kaslr_shift is not None:
            return self.kaslr_shift
        return self._shift_from(_USUAL_PHYSICAL_START) or 0

    def _shift_from(self, physical_start: int) -> Optional[int]:
        """Returns how far the kernel is from where it would be without KASLR.

        Args:
            physical_start: the physical address that it was linked to run at.
        """
        if self.bits == 64:
            return self.virtual_base - (_START_KERNEL_MAP + physical_start)
        # The whole of physical memory up to there is moved (PAGE_OFFSET), wherever the split of
        # the address space is.
        return None if self.physical_base is None else self.physical_base - physical_start

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
            return elf.build_id(self.read(start, stop - start))
        except AddressError:
            return None

    @property
    def btf(self) -> Btf:
        """The kernel's own types, read once.

        Raises:
            BtfError: the kernel has none, or they are damaged.
        """
        if isinstance(self._btf, BtfError):
            raise self._btf
        return self._btf

    @functools.cached_property
    def types(self) -> Optional[Types]:
        """The kernel's types: its BTF, or an ISF's; None when neither can be read."""
        if not isinstance(self._btf, BtfError):
            return BtfTypes(self._btf)
        return None if self._isf is None else self._isf.types

    def require_types(self) -> Types:
        """Returns the kernel's types.

        Raises:
            BtfError: there are none; it says why the kernel's own cannot be read.
        """
        return self.types or BtfTypes(self.btf)

    def offer_isf(self, load: Callable[[], Optional[Isf]]) -> None:
        """Says where there may be an ISF of this very kernel.

        It is loaded where the kernel has no BTF, or has symbols of code alone.

        Args:
            load: loads it; returns None when there is none.
        """
        if self._load_isf is None:
            self._load_isf = load
            # Facts that were not known without it are made again.
            for name in [name for name in vars(self) if name not in _NOT_OF_ISF]:
                if isinstance(vars(type(self)).get(name), functools.cached_property):
                    del vars(self)[name]

    @MadeOnce
    def _isf(self) -> Optional[Isf]:
        return None if self._load_isf is None else self._load_isf()

    def _address_in_isf(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol that kallsyms does not have, by the ISF's."""
        if self._isf_base is None or self._isf is None:
            return None
        linked, (start, shift) = self._isf.address(symbol), self._isf_base
        if linked is None:
            return None
        # Below the image are addresses that KASLR does not move, as those of per-CPU variables
        # are up to 6.14 on x86-64.
        return linked + shift if linked >= start else linked

    @functools.cached_property
    def _isf_base(self) -> Optional[tuple[int, int]]:
        """The address that the image was linked to by the ISF, and how far it is from there."""
        if self._isf is None or self.kallsyms is None:
            return None
        for name in _STARTS:
            linked, address = self._isf.address(name), self.kallsyms.address(name)
            if linked is not None and address is not None:
                return linked, address - linked
        return None

    @MadeOnce
    def _btf(self) -> Union[Btf, BtfError]:
        try:
            return read_btf(self)
        except BtfError as error:
            return error

    @property
    def orc(self) -> OrcTable:
        """The kernel's unwinding tables, read once.

        Raises:
            OrcError: the kernel has none, or they are damaged.
        """
        if isinstance(self._orc, OrcError):
            raise self._orc
        return self._orc

    @MadeOnce
    def _orc(self) -> Union[OrcTable, OrcError]:
        try:
            return read_orc(self)
        except OrcError as error:
            return error

    @MadeOnce
    def modules(self) -> Optional[Modules]:
        """The modules that the kernel has loaded; None without types, which tell where they are."""
        return Modules(self, self.types) if self.types is not None else None

    @MadeOnce
    def generated(self) -> Optional[GeneratedCode]:
        """The code that the kernel made while it ran; None without types."""
        return GeneratedCode(self, self.types) if self.types is not None else None

    @functools.cached_property
    def _code(self) -> Sequence[tuple[int, int]]:
        """What of the image is code: (start, end)."""
        bounds = (
            (self.address(start), self.address(end))
            for start, end in (("_stext", "_etext"), ("_sinittext", "_einittext"))
        )
        return [(start, end) for start, end in bounds if start is not None and end is not None]

    def is_code(self, address: int) -> bool:
        """Whether an address lies in code: of the image, of a module, or made by the kernel."""
        if any(start <= address < end for start, end in self._code):
            return True
        if self.modules is not None and self.modules.at(address) is not None:
            return True
        return self.generated is not None and self.generated.has(address)

    def locate_loaded(self, address: int) -> Optional[Place]:
        """Returns where an address in a module or in generated code is, else None."""
        for code in (self.modules, self.generated):
            found = code.locate(address) if code is not None else None
            if found is not None:
                return found
        return None

    def runs_on(self, vcpu: VCPU) -> Optional[bool]:
        """Whether a vCPU runs this kernel, by its page tables; None where they do not tell.

        It does not where another kernel has taken the vCPU over, as after a panic with kdump: then
        its page tables map what it runs, but not this kernel.
        """
        cr3, rip = vcpu.get("cr3"), vcpu.get("rip")
        if cr3 is None:
            return None
        # With isolated page tables the user's half maps the entries into the kernel, and no more.
        place = self.address("__entry_text_start") or self.virtual_base
        try:
            own = self.tables.translate(place)[0]
        except AddressError:
            return None
        loaded = self.tables.at(cr3)
        try:
            return loaded.translate(place)[0] == own
        except AddressError:
            return False if rip is not None and loaded.maps(rip) else None

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
