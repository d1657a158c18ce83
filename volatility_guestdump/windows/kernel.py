"""The Windows kernel that runs in the guest, found from the registers of its vCPUs.

The handlers of exceptions, which the IDT points to, lie in the kernel's image: its headers are
somewhere below, at the start of a page. With kernel virtual address shadowing a vCPU in user mode
has page tables loaded that map the handlers, but not the headers. Then another vCPU has the
kernel's tables, or the processor control region, which gs_base points to in kernel mode, names
them.
"""

import functools
import itertools
import struct
from collections.abc import Iterable, Iterator
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.guestfile import PAGE_SIZE, VCPU
from volatility_guestdump.paging import PageTables, PagingMode, Read, possible_modes
from volatility_guestdump.windows.pe import KERNEL_NAME, Image, read_kernel

#: Exceptions that the CPU itself raises: their handlers are the kernel's own.
_EXCEPTIONS = 32
#: How far below a handler the headers may lie; a kernel's image has up to 20 MiB.
_REACH = 64 << 20
#: Pages looked at in all page tables together, and those of them that are taken for headers.
_MAXIMUM_PAGES = 1 << 18
_MAXIMUM_HEADERS = 256

#: KPRCB.KernelDirectoryTableBase, from the start of the processor control region, is what
#: KiSystemCall64Shadow loads into CR3. It starts a page of its own behind what else is in there:
#: gs:[7000h] in Windows 10 1709, gs:[9000h] from 1803 on, others in other versions.
_KERNEL_TABLES = range(0x5000, 0xC000, PAGE_SIZE)

#: KUSER_SHARED_DATA, which every version has at the same address and with the same offsets.
#: Source: Microsoft Security Response Center, "Randomizing the KUSER_SHARED_DATA structure", 2022.
_SHARED_64 = 0xFFFFF78000000000
_SHARED_32 = 0xFFDF0000
_BUILD_NUMBER = 0x260
_MAJOR_VERSION = 0x26C


class WindowsKernel:
    """A Windows kernel in the guest's memory.

    Args:
        tables: page tables that map it.
        image: its image.

    Attributes:
        tables: as given.
        image: as given.
    """

    def __init__(self, tables: PageTables, image: Image) -> None:
        self.tables = tables
        self.image = image

    @property
    def bits(self) -> int:
        """Bits of a pointer."""
        return 64 if self.tables.mode.is_64bit else 32

    @property
    def page_map(self) -> int:
        """Physical address of the root page table."""
        return self.tables.root

    @property
    def physical_base(self) -> int:
        """Guest-physical address of the image's start."""
        return self.tables.translate(self.image.base)[0]

    @functools.cached_property
    def version(self) -> str:
        """Version and build of the system, "10.0.20348"."""
        shared = _SHARED_64 if self.bits == 64 else _SHARED_32
        try:
            major, minor = struct.unpack("<II", self.tables.read(shared + _MAJOR_VERSION, 8))
            (build,) = struct.unpack("<I", self.tables.read(shared + _BUILD_NUMBER, 4))
        except AddressError:
            major = 0
        # The build number came with Windows 10; its upper bits tell what kind of build it is.
        if major >= 10:
            return f"{major}.{minor}.{build & 0xFFFF}"
        if self.image.file_version:
            return ".".join(map(str, self.image.file_version[:3]))
        known = (*self.image.system_version, self.image.build)
        return ".".join(str(number) for number in known if number is not None)

    @property
    def system(self) -> str:
        """What runs in the guest, "Windows 10.0.20348 (x64)"."""
        return f"Windows {self.version} ({'x64' if self.bits == 64 else 'x86'})"

    @property
    def banner(self) -> str:
        """What identifies the kernel and its symbols, "ntkrnlmp.pdb GUID-age"."""
        return str(self.image.pdb) if self.image.pdb else KERNEL_NAME

    def symbolize(self, address: int) -> Optional[str]:
        """Returns "ntoskrnl.exe+0xoffset" for an address in the image, else None."""
        offset = address - self.image.base
        return f"{KERNEL_NAME}+{offset:#x}" if 0 <= offset < self.image.size else None


def find_kernel(read: Read, vcpus: Iterable[VCPU]) -> Optional[WindowsKernel]:
    """Finds the Windows kernel that the vCPUs run.

    Args:
        read: reads guest-physical memory.
        vcpus: of the guest.

    Returns:
        The kernel, or None when the guest is not Windows or has no tables loaded that map it.
    """
    # One in user mode may have shadow tables loaded.
    ordered = sorted(vcpus, key=lambda vcpu: vcpu["cs"] & 3)
    search = _Search()
    for vcpu, tables in _candidates(read, ordered):
        for handler in _handlers(vcpu, tables):
            image = search.image_below(tables, handler)
            if image is not None:
                return WindowsKernel(tables, image)
    return None


def _candidates(read: Read, vcpus: list[VCPU]) -> Iterator[tuple[VCPU, PageTables]]:
    """Yields the page tables that are loaded, then those that processor control regions name.

    Each once, and none beside what CR3 says: Linux alone keeps its tables in pairs.
    """
    loaded: list[tuple[VCPU, PageTables]] = []
    seen: set[tuple[PagingMode, int]] = set()
    for vcpu in vcpus:
        for mode in possible_modes(vcpu):
            if mode is not PagingMode.OFF and (mode, mode.root(vcpu["cr3"])) not in seen:
                seen.add((mode, mode.root(vcpu["cr3"])))
                loaded.append((vcpu, PageTables(read, mode, vcpu["cr3"])))
    yield from loaded
    for vcpu in vcpus:
        for (_, tables), place in itertools.product(loaded, _KERNEL_TABLES):
            if not tables.mode.is_64bit or not vcpu["gs_base"] >> 63:
                continue
            try:
                (cr3,) = struct.unpack("<Q", tables.read(vcpu["gs_base"] + place, 8))
            except AddressError:
                continue
            named = PageTables(read, tables.mode, cr3)
            if (named.mode, named.root) not in seen:
                seen.add((named.mode, named.root))
                yield vcpu, named


def _handlers(vcpu: VCPU, tables: PageTables) -> Iterator[int]:
    """Yields the addresses of the exceptions' handlers, as far as there are any."""
    size = 16 if tables.mode.is_64bit else 8
    for vector in range(_EXCEPTIONS):
        try:
            gate = tables.read(vcpu["idt_base"] + vector * size, size)
        except AddressError:
            return
        # Present, and an interrupt or a trap gate; a task gate has no address.
        if gate[5] & 0x9E == 0x8E:
            yield int.from_bytes(gate[:2] + gate[6 : 12 if size == 16 else 8], "little")


class _Search:
    """A search for images below handlers, with limits for all of it together."""

    def __init__(self) -> None:
        self._pages_left = _MAXIMUM_PAGES
        self._headers_left = _MAXIMUM_HEADERS
        #: Of each root the pages that were looked at, and the images found.
        self._seen: dict[int, set[int]] = {}
        self._images: dict[int, list[Image]] = {}

    def image_below(self, tables: PageTables, handler: int) -> Optional[Image]:
        """Returns the kernel's image that a handler lies in, or None."""
        seen = self._seen.setdefault(tables.root, set())
        images = self._images.setdefault(tables.root, [])
        start = handler & -PAGE_SIZE
        for known in images:
            if known.base <= handler < known.base + known.size:
                return known
        if self._pages_left < 0:
            return None
        # What is not needed any more after the start of the system leaves gaps.
        mapped = list(tables.runs(max(start - _REACH, 0), start + PAGE_SIZE))
        for first, _, size in reversed(mapped):
            for page in range(first + size - PAGE_SIZE, first - 1, -PAGE_SIZE):
                if page in seen:
                    continue
                seen.add(page)
                image = self._image_at(tables, page)
                if image is not None:
                    images.append(image)
                    if handler < page + image.size:
                        return image
        return None

    def _image_at(self, tables: PageTables, page: int) -> Optional[Image]:
        self._pages_left -= 1
        try:
            if self._headers_left <= 0 or tables.read(page, 2) != b"MZ":
                return None
        except AddressError:
            return None
        self._headers_left -= 1
        return read_kernel(tables.read, page)
