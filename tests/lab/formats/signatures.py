# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The beginnings of files that are dumps of a guest, but in formats for other tools.

They have what tells the format, and nothing behind it.
"""

import pathlib
import struct

from tests.lab.writer import PAGE

#: The header of a flattened file of makedumpfile takes this much.
FLATTENED_HEADER = 4096


def kdump_compressed(signature: bytes = b"KDUMP   ", version: int = 6) -> bytes:
    """Returns a kdump-compressed file (disk_dump_header of crash's diskdump.h) without pages.

    `b"DISKDUMP"` is the older signature. The header, the sub-header and two bitmaps have a block
    each.
    """
    names = b"".join(
        text.ljust(65, b"\0") for text in (b"Linux", b"guest", b"6.1.0", b"#1", b"x86_64", b"")
    )
    # Behind the names: time of the crash, status, size of a block, blocks of the sub-header, blocks
    # of the bitmaps, pages, blocks in all, blocks of devices, blocks written, the panicked CPU,
    # number of CPUs.
    head = struct.pack("<8si", signature, version) + names.ljust(396, b"\0")
    counts = (0, 0, 0, PAGE, 1, 2, 64, 4, 0, 4, 0, 1)
    return (head + struct.pack("<QQIiiIIIIIii", *counts)).ljust(4 * PAGE, b"\0")


def flattened(content: bytes) -> bytes:
    """Returns a file in makedumpfile's flattened format (makedumpfile_header, type 1, version 1).

    It is a header, then runs of offset, size and data, all numbers big-endian; offset and size of
    -1 end it.
    """
    header = struct.pack(">16sqq", b"makedumpfile", 1, 1).ljust(FLATTENED_HEADER, b"\0")
    run = struct.pack(">qq", 0, len(content)) + content
    return header + run + struct.pack(">qq", -1, -1)


def qemu_migration(version: int = 3) -> bytes:
    """Returns QEMU's stream of a machine's state (QEMU_VM_FILE_MAGIC), without sections."""
    return b"QEVM" + struct.pack(">I", version) + b"\0"


def libvirt_save(signature: bytes = b"LibvirtQemudSave") -> bytes:
    """Returns what `virsh dump` and `virsh save` write: libvirt's header in front of QEMU's stream.

    `b"LibvirtQemudPart"` is the signature of a file that was not finished (struct
    _virQEMUSaveHeader in libvirt's src/qemu/qemu_saveimage.h).
    """
    document = b"<domain type='kvm'><name>guest</name></domain>\0"
    # Version, size of the document, whether it ran, compression, offset of the cookie, unused.
    header = struct.pack("<16s5I56x", signature, 2, len(document), 1, 0, 0)
    return header + document + qemu_migration()


#: Name of a file -> its bytes, for every format that is told by its beginning only.
FILES = {
    "vmcore.kdump": kdump_compressed(),
    "vmcore.diskdump": kdump_compressed(b"DISKDUMP", 1),
    "vmcore.flattened": flattened(kdump_compressed()),
    "virsh-dump": libvirt_save(),
    "virsh-dump.partial": libvirt_save(b"LibvirtQemudPart"),
    "migration.qevm": qemu_migration(),
}


def write(folder: pathlib.Path) -> None:
    """Writes all `FILES` into a folder."""
    for name, data in FILES.items():
        (folder / name).write_bytes(data)
