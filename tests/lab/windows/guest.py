# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Writes the dump of a guest that looks like Windows."""

import pathlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from tests.lab.errors import LabError
from tests.lab.windows.image import FILE_VERSION, MODES, PDB_NAME, Image, image, sections
from tests.lab.windows.tables import Memory, PageTables
from tests.lab.writer import GENERAL, PAGE, Region, pack_guest

#: What a vCPU is doing.
KERNEL, USER, ENTRY = "kernel", "user", "entry"

_GIB = 1 << 30
_NO_EXECUTE = 1 << 63

#: Entries of the lowest tables.
_CODE, _DATA = 0x021, _NO_EXECUTE | 0x063
_USER_CODE, _USER_DATA, _USER_READ = 0x025, _NO_EXECUTE | 0x067, _NO_EXECUTE | 0x025
#: Upper entries for pages of the user.
_USER_UPPER = 0x067
#: Not present, but Windows still has the page where the entry says: in transition.
_TRANSITION = 0x880
#: Not present, but in a paging file, at a place that the entry says.
_PAGED_OUT = 0x0001_2345_0000_0080

#: Pages of this section are in transition, or not in memory, counted from its start.
_PAGED_SECTION, _IN_TRANSITION, _NOT_IN_MEMORY = "PAGEDATA", 3, 5

#: Tags that keep the translations of page tables apart; in bit 63, not to forget them.
_USER_PCID, _KERNEL_PCID, _NO_FLUSH = 1, 2, 1 << 63

_STACK_PAGES = 6
#: Bytes between the stacks, or the control regions, of two vCPUs.
_SPACING = 0x1_0000

#: 2024-04-09 12:34:56 UTC, as Windows counts.
_SYSTEM_TIME = 133_571_396_960_000_000


@dataclass(frozen=True)
class _Places:
    """Where a mode of Windows has what.

    Attributes:
        root: physical address of the uppermost page table.
        shifts: as in `PageTables`.
        kuser: the kernel's address of KUSER_SHARED_DATA.
        idt: its address.
        kpcr: address of the first vCPU's control region.
        kpcr_pages: pages that it has.
        stack: lowest address of the first vCPU's kernel stack.
        user_code: address of the user's page of code.
        teb: address of the user's thread block.
        user_stack: lowest address of the user's stack.
        directory: offset of DirectoryTableBase in _KPROCESS.
        image_size: offset of SizeOfImage in _LDR_DATA_TABLE_ENTRY.
    """

    root: int
    shifts: Sequence[int]
    kuser: int
    idt: int
    kpcr: int
    kpcr_pages: int
    stack: int
    user_code: int
    teb: int
    user_stack: int
    directory: int
    image_size: int


_KUSER_USER = 0x7FFE_0000

_PLACES = {
    "x64": _Places(
        root=0x1A_D000,
        shifts=(39, 30, 21, 12),
        kuser=0xFFFF_F780_0000_0000,
        idt=0xFFFF_F800_3F1A_0000,
        kpcr=0xFFFF_F800_3F1B_4000,
        kpcr_pages=12,
        stack=0xFFFF_F98F_1234_0000,
        user_code=0x7FF6_A1B2_0000,
        teb=0x4C_1F2D_5000,
        user_stack=0x4C_1F3F_F000,
        directory=0x28,
        image_size=0x40,
    ),
    "pae": _Places(
        root=0x18_5000,
        shifts=(30, 21, 12),
        kuser=0xFFDF_0000,
        idt=0x80B9_5400,
        kpcr=0x80DA_0C00,
        kpcr_pages=4,
        stack=0x8D12_0000,
        user_code=0x0040_1000,
        teb=0x7FFD_E000,
        user_stack=0x0012_F000,
        directory=0x14,
        image_size=0x20,
    ),
}


@dataclass(frozen=True)
class StandIn:
    """A dump on disk, and what it should show.

    Attributes:
        guest_path: the debug.guest file.
        vmem_path: the debug.vmem file.
        regions: guest-physical memory.
        symbols: folder of symbols for Volatility.
        base: address of the kernel's image.
        size: of the image.
        pdb_name: what the image says that its PDB is called.
        guid: of the PDB.
        age: of the PDB.
        file_version: of the image's resources.
        page_map: physical address of the kernel's page tables.
        shadow_page_map: physical address of the page tables while code of a user runs, or None.
        addresses: name of a symbol -> its virtual address, as the linker says.
        control_regions: address of each vCPU's KPCR.
        bugcheck: its code and four parameters.
        in_transition: pages of the image whose page table entries are not present, but in
            transition.
        absent: pages of the image that are not in memory.
    """

    guest_path: pathlib.Path
    vmem_path: pathlib.Path
    regions: Sequence[Region]
    symbols: pathlib.Path
    base: int
    size: int
    pdb_name: str
    guid: str
    age: int
    file_version: str
    page_map: int
    shadow_page_map: Optional[int]
    addresses: Mapping[str, int]
    control_regions: Sequence[int]
    bugcheck: tuple[int, tuple[int, int, int, int]]
    in_transition: Sequence[int]
    absent: Sequence[int]


def stand_in(
    folder: pathlib.Path,
    mode: str = "x64",
    *,
    vcpus: Sequence[str] = (KERNEL,),
    memory: int = 64 << 20,
    version: int = 6,
) -> StandIn:
    """Writes debug.guest and debug.vmem of a guest that looks like Windows.

    Args:
        folder: that gets the files.
        mode: "x64", with shadows of the page tables for user mode, or "pae".
        vcpus: what each vCPU is doing: `KERNEL`, `USER`, or `ENTRY`: in kernel mode, but not yet
            with the kernel's page tables.
        memory: size of memory in bytes; of more than 3 GiB, the rest is above 4 GiB.
        version: of the dump's format.

    Raises:
        LabError: the image of the kernel cannot be made, or the mode has no such vCPUs.
    """
    if mode == "pae" and ENTRY in vcpus:
        raise LabError("the stand-in with PAE has no shadow page tables")
    return _Guest(mode, len(vcpus)).save(folder, vcpus, memory, version)


class _Guest:
    """A guest in the making."""

    def __init__(self, mode: str, vcpus: int) -> None:
        self._wide = mode == "x64"
        self._places = _PLACES[mode]
        self._base = MODES[mode].base
        self._image: Image = image(mode)
        self._vcpus = vcpus
        self._memory = Memory()
        self._tables = self._kernel_tables()
        self._shadow = PageTables(self._memory, self._memory.allocate(), self._places.shifts)
        self._in_transition: list[int] = []
        self._absent: list[int] = []
        self._size = self._map_image()
        function = self._image.addresses["RtlpLongFunction"]
        self._bugcheck = (0xD1, (0x20, 2, 0, function + 0x1B))
        self._map_kuser()
        self._map_idt()
        self._map_processors()
        self._map_user()
        self._fill_image()
        if self._wide:
            # Both have the same tables for the user's half of addresses.
            for index in range(256):
                entry = self._memory.read_entry(self._tables.root + 8 * index)
                self._memory.write_entry(self._shadow.root + 8 * index, entry)

    def _pointer(self, *values: int) -> bytes:
        return struct.pack(f"<{len(values)}{'Q' if self._wide else 'I'}", *values)

    def _kernel_tables(self) -> PageTables:
        root = self._places.root
        if self._wide:
            self._memory.write_entry(root + 8 * 0x1ED, root | _DATA)
        else:
            for index in range(4):
                directory = root + PAGE * (index + 1)
                self._memory.write_entry(root + 8 * index, directory | 1)
                self._memory.write_entry(root + 4 * PAGE + 8 * index, directory | _DATA)
        return PageTables(self._memory, root, self._places.shifts)

    def _map_new(
        self, virtual: int, flags: int, *, shadow: bool = False, upper: int = 0x63
    ) -> None:
        entry = self._memory.allocate() | flags
        self._tables.map(virtual, entry, upper=upper)
        if shadow and self._wide:
            self._shadow.map(virtual, entry, upper=upper)

    def _map_image(self) -> int:
        end = 0
        for section in sections((self._image.folder / "ntoskrnl.exe").read_bytes()):
            end = section.start + len(section.data)
            if section.discardable:
                continue
            flags = _CODE if section.executable else _DATA
            for offset in range(0, len(section.data), PAGE):
                virtual = self._base + section.start + offset
                number = offset // PAGE if section.name == _PAGED_SECTION else None
                if number == _NOT_IN_MEMORY:
                    self._tables.map(virtual, _PAGED_OUT)
                    self._absent.append(virtual)
                    continue
                if number == _IN_TRANSITION:
                    self._map_new(virtual, _TRANSITION)
                    self._in_transition.append(virtual)
                else:
                    self._map_new(virtual, flags, shadow=section.name == "KVASCODE")
                self._tables.write(virtual, section.data[offset : offset + PAGE])
        return end

    def _map_kuser(self) -> None:
        page = self._memory.allocate()
        self._tables.map(self._places.kuser, page | _DATA)
        self._tables.map(_KUSER_USER, page | _USER_READ, upper=_USER_UPPER)
        high = _SYSTEM_TIME >> 32
        time = struct.pack("<III", _SYSTEM_TIME & 0xFFFF_FFFF, high, high)
        self._memory.write(page + 0x14, time)
        self._memory.write(page + 0x30, "C:\\Windows".encode("utf-16-le"))
        self._memory.write(page + 0x260, struct.pack("<IIIII", 20348, 3, 1, 10, 0))

    def _map_idt(self) -> None:
        idt = self._places.idt
        self._map_new(idt & -PAGE, _DATA, shadow=True)
        suffix = "Shadow" if self._wide else ""
        handlers = {0: "KiDivideErrorFault", 14: "KiPageFault"}
        for vector in range(256):
            name = handlers.get(vector, "KiUnexpectedInterrupt") + suffix
            handler = self._image.addresses[name]
            low, middle, high = handler & 0xFFFF, handler >> 16 & 0xFFFF, handler >> 32
            if self._wide:
                gate = struct.pack("<HHHHII", low, 0x10, 0x8E00, middle, high, 0)
            else:
                gate = struct.pack("<HHHH", low, 0x08, 0x8E00, middle)
            self._tables.write(idt + vector * len(gate), gate)

    def _map_processors(self) -> None:
        places = self._places
        for index in range(self._vcpus):
            kpcr = places.kpcr + _SPACING * index
            for number in range(places.kpcr_pages):
                self._map_new((kpcr & -PAGE) + number * PAGE, _DATA, shadow=True)
            stack = places.stack + _SPACING * index
            for number in range(_STACK_PAGES):
                self._map_new(stack + number * PAGE, _DATA)
            if self._wide:
                self._tables.write(kpcr + 0x18, self._pointer(kpcr, kpcr + 0x180))
                self._tables.write(kpcr + 0x38, self._pointer(places.idt))
                top = stack + _STACK_PAGES * PAGE
                cr3 = places.root | _NO_FLUSH | _KERNEL_PCID
                self._tables.write(kpcr + 0x9000, struct.pack("<QQQI", cr3, top, 0, 1))
            else:
                self._tables.write(kpcr + 0x1C, self._pointer(kpcr, kpcr + 0x120))
                self._tables.write(kpcr + 0x38, self._pointer(places.idt))
            callers = ("KiPageFault", "KeReadStateEvent", "KiIdleLoop")
            returns = [self._image.addresses[name] + 0x20 for name in callers]
            self._tables.write(self._stack_pointer(index), self._pointer(*returns))

    def _map_user(self) -> None:
        for virtual, flags in (
            (self._places.user_code, _USER_CODE),
            (self._places.teb, _USER_DATA),
            (self._places.user_stack, _USER_DATA),
        ):
            self._map_new(virtual, flags, upper=_USER_UPPER)
        self._tables.write(self._places.user_code, b"\x90" * 0x20 + b"\xeb\xfe")

    def _fill_image(self) -> None:
        addresses, places = self._image.addresses, self._places
        code, parameters = self._bugcheck
        for address, data in (
            (addresses["KiBugCheckData"], self._pointer(code, *parameters)),
            (addresses["KeNumberProcessors"], struct.pack("<I", self._vcpus)),
            (addresses["PspSystemProcess"] + places.directory, self._pointer(places.root)),
            (addresses["KiKernelModule"] + places.image_size, struct.pack("<I", self._size)),
        ):
            self._tables.write(address, data)

    def _stack_pointer(self, index: int) -> int:
        return self._places.stack + _SPACING * index + _STACK_PAGES * PAGE - 0x180

    def _registers(self, index: int, doing: str) -> dict[str, int]:
        places = self._places
        kpcr = places.kpcr + _SPACING * index
        found = dict.fromkeys(GENERAL, 0)
        found.update(cr0=0x8005_0033, cr2=0, eflags=0x246, rflags=0x246, idt_base=places.idt)
        found.update(cr3=places.root, cr4=0x37_0678 if self._wide else 0x4_06F9)
        base = "gs_base" if self._wide else "fs_base"
        if doing == USER:
            found.update(rip=places.user_code + 0x10, rsp=places.user_stack + 0xE00)
            found[base] = places.teb
            selectors = (
                (0x33, 0x2B, 0x2B, 0x53, 0x2B) if self._wide else (0x1B, 0x23, 0x23, 0x3B, 0)
            )
        else:
            function = "KeBugCheckEx" if index == 0 else "HalProcessorIdle"
            stack_pointer = self._stack_pointer(index)
            if doing == ENTRY:
                # On the stack that the processor's region has for this.
                function, stack_pointer = "KiPageFaultShadow", kpcr + 0xB800
            found.update(rip=self._image.addresses[function] + 0x10, rsp=stack_pointer)
            found[base] = kpcr
            selectors = (
                (0x10, 0x18, 0x2B, 0x53, 0x2B) if self._wide else (0x08, 0x10, 0x23, 0x30, 0)
            )
        cs, ss, data, fs, gs = selectors
        found.update(cs=cs, ss=ss, ds=data, es=data, fs=fs, gs=gs)
        if self._wide:
            shadow = self._shadow.root | _USER_PCID
            found["cr3"] = places.root | _KERNEL_PCID if doing == KERNEL else shadow
        return found

    def save(
        self, folder: pathlib.Path, vcpus: Sequence[str], memory: int, version: int
    ) -> StandIn:
        """Writes the dump."""
        low = min(memory, 3 * _GIB)
        regions = [(0, low)] + ([(4 * _GIB, memory - low)] if memory > low else [])
        registers = [self._registers(index, doing) for index, doing in enumerate(vcpus)]
        guest_path, vmem_path = folder / "debug.guest", folder / "debug.vmem"
        guest_path.write_bytes(pack_guest(version, regions, registers))
        self._memory.save(vmem_path, memory)
        self._image.copy_symbols(folder / "symbols")
        return StandIn(
            guest_path=guest_path,
            vmem_path=vmem_path,
            regions=regions,
            symbols=folder / "symbols",
            base=self._base,
            size=self._size,
            pdb_name=PDB_NAME,
            guid=self._image.guid,
            age=self._image.age,
            file_version=FILE_VERSION,
            page_map=self._places.root,
            shadow_page_map=self._shadow.root if self._wide else None,
            addresses=self._image.addresses,
            control_regions=[self._places.kpcr + _SPACING * n for n in range(self._vcpus)],
            bugcheck=self._bugcheck,
            in_transition=self._in_transition,
            absent=self._absent,
        )
