# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The PE image of a kernel, as it lies in the guest's memory.

pefile reads the headers, and nothing but them: what they point to is looked at here, piece by
piece and with limits, for every number in it may be a lie. Source: Microsoft's "PE Format".
"""

import pathlib
import struct
import uuid
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

import pefile

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import PAGE_SIZE, Read

_T = TypeVar("_T")

#: What the export directory of kernels says; ntkrla57.exe is the one for 5-level page tables.
KERNEL_NAME = "ntoskrnl.exe"
_EXPORT_NAMES = (KERNEL_NAME.encode(), b"ntkrla57.exe")

#: Names of the kernels' PDBs, without suffix: one CPU or several, without PAE and with it (pa), and
#: with 5-level page tables.
_PDB_NAMES = frozenset(("ntoskrnl", "ntkrnlmp", "ntkrnlpa", "ntkrpamp", "ntkrla57"))

_EXPORTS, _RESOURCES, _DEBUG = 0, 2, 6

#: A kernel has about 16 MiB.
_MAXIMUM_IMAGE = 256 << 20

_DEBUG_ENTRY = struct.Struct("<IIHHIIII")
_DEBUG_ENTRIES = 32
_CODEVIEW = 2
_CODEVIEW_SIZE = 1024

#: A kernel has about 3,000.
_MAXIMUM_EXPORTS = 1 << 16
_BUILD_NUMBER = b"NtBuildNumber\0"

_RESOURCE_ENTRIES = 256
_VERSION_RESOURCE = 16
_VERSION_SIZE = 64 << 10
#: VS_FIXEDFILEINFO starts with it.
_VERSION_SIGNATURE = struct.pack("<I", 0xFEEF04BD)


@dataclass(frozen=True)
class Pdb:
    """What identifies the symbols of an image.

    Attributes:
        name: of the PDB file, "ntkrnlmp.pdb".
        guid: in 32 upper-case hexadecimal digits.
        age: how often the PDB was changed.
    """

    name: str
    guid: str
    age: int

    def __str__(self) -> str:
        return f"{self.name} {self.guid}-{self.age}"


@dataclass(frozen=True)
class Image:
    """A kernel's image.

    Attributes:
        base: virtual address of its first byte.
        size: in bytes.
        pdb: what identifies its symbols; None when that is not in memory.
        file_version: from its resources; None when they are not in memory, as often.
        system_version: (major, minor) of the system that it is made for.
        build: of the system, as NtBuildNumber has it; None when that is not in memory.
    """

    base: int
    size: int
    pdb: Optional[Pdb]
    file_version: Optional[tuple[int, int, int, int]]
    system_version: tuple[int, int]
    build: Optional[int] = None


def read_kernel(read: Read, base: int) -> Optional[Image]:
    """Reads the headers of an image.

    Args:
        read: reads virtual memory.
        base: where the image starts.

    Returns:
        The image, when it is a Windows kernel's: its CodeView record names one of the kernels'
        PDBs, or its export directory says ntoskrnl.exe. Else None.
    """
    try:
        page = read(base, PAGE_SIZE)
        # pefile takes milliseconds; most pages that only start like headers are told at once.
        (place,) = struct.unpack_from("<I", page, 0x3C)
        if page[place : place + 4] != b"PE\0\0":
            return None
        headers: Any = pefile.PE(data=page, fast_load=True)  # type: ignore[no-untyped-call]
        optional = headers.OPTIONAL_HEADER
        size, directories = optional.SizeOfImage, optional.DATA_DIRECTORY
        places = [(entry.VirtualAddress, entry.Size) for entry in directories]
        system = (optional.MajorOperatingSystemVersion, optional.MinorOperatingSystemVersion)
    except (AddressError, pefile.PEFormatError, AttributeError, LookupError, ValueError):
        return None
    if not PAGE_SIZE <= size <= _MAXIMUM_IMAGE:
        return None

    def part(offset: int, length: int) -> bytes:
        if not 0 <= offset <= size - length:
            raise AddressError(base + offset, "outside of the image")
        return read(base + offset, length)

    def found(number: int, decode: Callable[[Read, int, int], Optional[_T]]) -> Optional[_T]:
        if number >= len(places):
            return None
        try:
            return decode(part, *places[number])
        except (AddressError, struct.error):
            return None

    pdb = found(_DEBUG, _pdb)
    if pdb is None and found(_EXPORTS, _export_name) not in _EXPORT_NAMES:
        return None
    version, build = found(_RESOURCES, _file_version), found(_EXPORTS, _build_number)
    return Image(base, size, pdb, version, system, build)


def _pdb(part: Read, offset: int, size: int) -> Optional[Pdb]:
    """Returns the PDB that the debug directory names, when it is a kernel's."""
    for number in range(min(size // _DEBUG_ENTRY.size, _DEBUG_ENTRIES)):
        entry = part(offset + number * _DEBUG_ENTRY.size, _DEBUG_ENTRY.size)
        _, _, _, _, kind, length, address, _ = _DEBUG_ENTRY.unpack(entry)
        if kind != _CODEVIEW:
            continue
        record = part(address, min(length, _CODEVIEW_SIZE))
        if record[:4] != b"RSDS" or len(record) < 25:
            continue
        (age,) = struct.unpack_from("<I", record, 20)
        path = record[24:].split(b"\0")[0].decode("utf-8", "replace")
        name = pathlib.PureWindowsPath(path).name
        stem, _, suffix = name.rpartition(".")
        # Nothing else may become part of a path or an address.
        if stem.lower() in _PDB_NAMES and suffix.lower() == "pdb":
            return Pdb(name, uuid.UUID(bytes_le=record[4:20]).hex.upper(), age)
    return None


def _export_name(part: Read, offset: int, size: int) -> bytes:
    """Returns the image's name as its export directory has it, as far as the kernel's is long."""
    (place,) = struct.unpack_from("<I", part(offset, 40), 12)
    name = part(place, len(KERNEL_NAME) + 1)
    return name[:-1] if name.endswith(b"\0") else b""


def _build_number(part: Read, offset: int, size: int) -> Optional[int]:
    """Returns the value of the exported variable NtBuildNumber; names are in alphabetical order."""
    _, names, functions_at, names_at, ordinals_at = struct.unpack("<5I", part(offset + 20, 20))
    low, high = 0, min(names, _MAXIMUM_EXPORTS)
    while low < high:
        middle = (low + high) // 2
        (place,) = struct.unpack("<I", part(names_at + 4 * middle, 4))
        name = part(place, len(_BUILD_NUMBER))
        if name == _BUILD_NUMBER:
            (ordinal,) = struct.unpack("<H", part(ordinals_at + 2 * middle, 2))
            (place,) = struct.unpack("<I", part(functions_at + 4 * ordinal, 4))
            # The upper bits tell what kind of build it is.
            return int(struct.unpack("<I", part(place, 4))[0] & 0xFFFF)
        low, high = (middle + 1, high) if name < _BUILD_NUMBER else (low, middle)
    return None


def _file_version(part: Read, offset: int, size: int) -> Optional[tuple[int, int, int, int]]:
    """Returns the file version: three levels of directories lead to it, and no further."""
    place = offset
    for wanted in (_VERSION_RESOURCE, None, None):
        below = _resource(part, place, wanted)
        if below is None:
            return None
        place = offset + (below & 0x7FFFFFFF)
    address, length = struct.unpack("<II", part(place, 8))
    data = part(address, min(length, _VERSION_SIZE))
    start = data.find(_VERSION_SIGNATURE)
    if start < 0:
        return None
    high, low = struct.unpack_from("<II", data, start + 8)
    return high >> 16, high & 0xFFFF, low >> 16, low & 0xFFFF


def _resource(part: Read, place: int, wanted: Optional[int]) -> Optional[int]:
    """Returns where an entry of a resource directory leads: that of a number, or the first."""
    named, numbered = struct.unpack_from("<HH", part(place, 16), 12)
    for number in range(min(named + numbered, _RESOURCE_ENTRIES)):
        identifier, below = struct.unpack("<II", part(place + 16 + 8 * number, 8))
        if wanted is None or identifier == wanted:
            return int(below)
    return None
