# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a Windows kernel in a guest's memory says of itself."""

import functools
import struct
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.windows.pe import KERNEL_NAME, Image
from volatility_guestdump.x86.paging import PageTables

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
    def physical_base(self) -> Optional[int]:
        """Guest-physical address of the image's start, or None when it is not mapped."""
        try:
            return self.tables.translate(self.image.base)[0]
        except AddressError:
            return None

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
    def shown_banner(self) -> str:
        """What identifies the kernel and its symbols, "ntkrnlmp.pdb GUID-age"."""
        return str(self.image.pdb) if self.image.pdb else KERNEL_NAME

    def symbolize(self, address: int) -> Optional[str]:
        """Returns "ntoskrnl.exe+0xoffset" for an address in the image, else None."""
        offset = address - self.image.base
        return f"{KERNEL_NAME}+{offset:#x}" if 0 <= offset < self.image.size else None
