# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where a kernel was linked to run, by the header of its file.

A boot loader hands the header on in struct boot_params, and the kernel keeps that. In it are, as
Documentation/arch/x86/boot.rst has them (offsets into struct boot_params):

    0x202   "HdrS"
    0x206   u16 version of the protocol
    0x230   u32 kernel_alignment
    0x258   u64 pref_address: CONFIG_PHYSICAL_START, aligned; from version 2.10 on

UEFI's stub leaves the header empty.
"""

import struct
from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.finding.image import KernelImage
from volatility_guestdump.machine import PAGE_SIZE, read_padded

_MAGIC = b"HdrS"
_HEADER = struct.Struct("<4sH40xI36xQ")
#: Of the header in struct boot_params.
_OFFSET = 0x202
_FIRST_VERSION = 0x20A
#: No kernel is linked to run as high.
_HIGHEST = 1 << 30
#: How far behind its start a kernel's data may lie.
_REACH = 64 << 20


def preferred_address(kernel: KernelImage) -> Optional[int]:
    """Returns the physical address that a kernel was linked to run at, or None.

    Without a symbol for it the header is searched for in the image.
    """
    place = kernel.address("boot_params")
    if place is not None:
        try:
            return _preferred(kernel.read(place + _OFFSET, _HEADER.size))
        except AddressError:
            return None
    found = set(_search(kernel))
    return found.pop() if len(found) == 1 else None


def _search(kernel: KernelImage) -> Iterator[int]:
    start = kernel.virtual_base
    for run in kernel.runs:
        first = max(run.start, start)
        size = min(run.start + run.size, start + _REACH) - first
        if size <= 0:
            continue
        data, _ = read_padded(kernel.tables.read_physical, run.physical + first - run.start, size)
        at = data.find(_MAGIC)
        while at >= 0:
            preferred = _preferred(data[at : at + _HEADER.size])
            if preferred is not None:
                yield preferred
            at = data.find(_MAGIC, at + 1)


def _preferred(header: bytes) -> Optional[int]:
    if len(header) < _HEADER.size:
        return None
    magic, version, alignment, preferred = _HEADER.unpack(header)
    if (
        magic != _MAGIC
        or version < _FIRST_VERSION
        or alignment < PAGE_SIZE
        or alignment & (alignment - 1)
        or preferred % alignment
        or not 0 < preferred < _HIGHEST
    ):
        return None
    return int(preferred)
