# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The image of a Windows kernel as it lies in memory, byte by byte (Microsoft's "PE Format")."""

import struct
import uuid
from typing import Optional

GUID = uuid.UUID("01234567-89ab-cdef-0123-456789abcdef")
AGE = 3

#: Where the parts lie, from the image's start.
NT_HEADERS, TEXT, DEBUG, CODEVIEW, EXPORTS, RESOURCES = 0x80, 0x1000, 0x2000, 0x2100, 0x2400, 0x3000
SIZE = 0x4000


def kernel(
    bits: int = 64,
    pdb: Optional[bytes] = b"ntkrnlmp.pdb",
    export: Optional[bytes] = b"ntoskrnl.exe",
    version: Optional[tuple[int, int, int, int]] = (10, 0, 20348, 2402),
    size: int = SIZE,
    build: Optional[int] = None,
) -> bytes:
    """Returns an image.

    Args:
        bits: of its code.
        pdb: path of the PDB in its CodeView record, or None for no debug directory.
        export: its name in the export directory, or None for no such directory.
        version: of the file, in its resources; None for no resources.
        size: that its headers give.
        build: the value of the exported NtBuildNumber; None for no exports but the image's name.
    """
    image = bytearray(SIZE)
    image[:2] = b"MZ"
    struct.pack_into("<I", image, 0x3C, NT_HEADERS)
    directories = [(0, 0)] * 16
    if export is not None:
        directories[0] = (EXPORTS, 0x28)
        struct.pack_into("<I", image, EXPORTS + 12, EXPORTS + 0x40)
        image[EXPORTS + 0x40 : EXPORTS + 0x41 + len(export)] = export + b"\0"
    if build is not None:
        _exports(image, build)
    if version is not None:
        directories[2] = (RESOURCES, 0x400)
        image[RESOURCES : RESOURCES + 0x400] = _resources(version)
    if pdb is not None:
        directories[6] = (DEBUG, 2 * 28)
        record = b"RSDS" + GUID.bytes_le + struct.pack("<I", AGE) + pdb + b"\0"
        image[CODEVIEW : CODEVIEW + len(record)] = record
        # A record of another kind comes first, as in real kernels.
        struct.pack_into("<IIHHIIII", image, DEBUG, 0, 0, 0, 0, 13, 8, CODEVIEW, 0)
        struct.pack_into("<IIHHIIII", image, DEBUG + 28, 0, 0, 0, 0, 2, len(record), CODEVIEW, 0)
    machine, magic = (0x8664, 0x20B) if bits == 64 else (0x14C, 0x10B)
    word = "Q" if bits == 64 else "I"
    optional_size = (112 if bits == 64 else 96) + 16 * 8
    header = b"PE\0\0" + struct.pack("<HHIIIHH", machine, 3, 0, 0, 0, optional_size, 0x22)
    common = struct.pack("<HBBIIIII", magic, 14, 0, 0x1000, 0, 0, TEXT, TEXT)
    common += struct.pack("<Q", 0xFFFFF80041A00000) if bits == 64 else bytes(8)
    # Alignments, three versions, sizes of image and headers, checksum, subsystem and flags.
    common += struct.pack("<IIHHHHHHI", 0x1000, 0x200, 10, 0, 10, 0, 10, 0, 0)
    common += struct.pack("<IIIHH", size, 0x1000, 0, 1, 0)
    common += struct.pack("<4" + word, 0, 0, 0, 0) + struct.pack("<II", 0, 16)
    for entry in directories:
        common += struct.pack("<II", *entry)
    sections = b""
    for name, place in ((b".text", TEXT), (b".rdata", DEBUG), (b".rsrc", RESOURCES)):
        sections += struct.pack("<8sIIII", name, 0x1000, place, 0x1000, place)
        sections += struct.pack("<IIHHI", 0, 0, 0, 0, 0x60000020)
    whole = header + common + sections
    image[NT_HEADERS : NT_HEADERS + len(whole)] = whole
    return bytes(image)


def _exports(image: bytearray, build: int) -> None:
    """Adds exported names, in alphabetical order, to the directory that has the image's name."""
    names = [b"ExAllocatePool", b"KeBugCheckEx", b"NtBuildNumber", b"NtClose", b"ZwClose"]
    functions, table, ordinals, text = (EXPORTS + at for at in (0x60, 0xA0, 0xC0, 0x100))
    struct.pack_into("<5I", image, EXPORTS + 20, 6, len(names), functions, table, ordinals)
    for number, name in enumerate(names):
        place = text + 0x20 * number
        image[place : place + len(name) + 1] = name + b"\0"
        struct.pack_into("<I", image, table + 4 * number, place)
        # Ordinals are in an order of their own.
        struct.pack_into("<H", image, ordinals + 2 * number, 5 - number)
        struct.pack_into("<I", image, functions + 4 * (5 - number), EXPORTS + 0x300 + 4 * number)
    struct.pack_into("<I", image, EXPORTS + 0x300 + 4 * 2, 0xF0000000 | build)


def _resources(version: tuple[int, int, int, int]) -> bytes:
    """Returns three levels of directories with a version behind another resource."""
    data = bytearray(0x400)

    def directory(at: int, *entries: tuple[int, int]) -> None:
        struct.pack_into("<HH", data, at + 12, 0, len(entries))
        for number, entry in enumerate(entries):
            struct.pack_into("<II", data, at + 16 + 8 * number, *entry)

    directory(0, (11, 0x80000000 | 0x200), (16, 0x80000000 | 0x40))
    directory(0x40, (1, 0x80000000 | 0x80))
    directory(0x80, (0x409, 0xC0))
    struct.pack_into("<II", data, 0xC0, RESOURCES + 0x100, 0x100)
    major, minor, build, revision = version
    numbers = (0xFEEF04BD, 0x10000, major << 16 | minor, build << 16 | revision)
    struct.pack_into("<IIII", data, 0x100 + 40, *numbers)
    return bytes(data)
