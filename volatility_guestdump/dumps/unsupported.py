# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is said of dumps in formats that are read neither here nor by Volatility.

Without it Volatility searches all of such a file for a kernel, finds none, and says no more.
"""

from collections.abc import Mapping
from typing import Optional

from volatility_guestdump.files.location import STREAM_ERRORS, display_name, open_location

_ELF_FROM_QEMU = (
    "take an ELF of the guest's memory: `virsh dump --memory-only`, or dump-guest-memory of QEMU's "
    "monitor without compression"
)
_KDUMP = f"which crash reads; {_ELF_FROM_QEMU}"

#: How a file begins -> what it is, and what to do. Sources: diskdump.h of crash, makedumpfile.h,
#: qemu_saveimage.h of libvirt, migration/qemu-file-types.h of QEMU.
SIGNATURES: Mapping[bytes, str] = {
    b"KDUMP   ": f"a kdump-compressed file, {_KDUMP}",
    b"DISKDUMP": f"a kdump-compressed file of the older form, {_KDUMP}",
    b"makedumpfile\0\0\0\0": "a flattened file of makedumpfile, or of QEMU's kdump formats, "
    f"{_KDUMP}",
    b"LibvirtQemudSave": "a machine that libvirt saved for restoring it (virsh dump or virsh "
    f"save), in which memory is not in order; {_ELF_FROM_QEMU}",
    b"LibvirtQemudPart": "a machine that libvirt did not finish saving, in which memory is not in "
    f"order; {_ELF_FROM_QEMU}",
    b"QEVM": "QEMU's stream of a machine's state (migrate, savevm), in which memory is not in "
    f"order; {_ELF_FROM_QEMU}",
}


def what_it_is(location: str) -> Optional[str]:
    """Returns what a file is that cannot be read, and how to get one that can; None for any other.

    Args:
        location: URL of the file.
    """
    try:
        with open_location(location) as stream:
            start = stream.read(max(map(len, SIGNATURES)))
    except STREAM_ERRORS:
        return None
    for signature, what in SIGNATURES.items():
        if start.startswith(signature):
            return f"{display_name(location)} is {what}"
    return None
