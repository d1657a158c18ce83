# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The kernel's log: the message of a panic.

The log is a ring of records in the buffer that log_buf points to. Where a record's text lies is
found by the text; how long it is, by the record:

    from 5.10   eight bytes before the text is the number of its descriptor, which is also that of
                a struct printk_info in the array behind prb
    before      before the text is a struct printk_log

A kernel without BTF does not tell the layout of these: then the text ends where the letters do.
"""

import re
import struct
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.btf import Btf, Kind
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.text import printable

#: Not the line "---[ end Kernel panic" with which a panic ends.
_PANIC = re.compile(rb"(?<!---\[ end )Kernel panic - not syncing: ([\x20-\x7e\x80-\xff]{1,1000})")
_PREFIX = len(b"Kernel panic - not syncing: ")

#: CONFIG_LOG_BUF_SHIFT is at most 25, which is 32 MiB; log_buf_len= could make it longer.
_LOG_LIMIT = 64 << 20


class _Record(NamedTuple):
    text_length: int
    sequence: int


def panic_message(kernel: LinuxKernel) -> Optional[str]:
    """Returns what the kernel said when it panicked, or None when it did not.

    Args:
        kernel: whose log is read; its types tell where records end.
    """
    if kernel.panic_cpu is not None and kernel.panic_cpu < 0:
        # Anybody can write into the log what looks like a panic.
        return None
    pointer, size = kernel.address("log_buf"), kernel.address("log_buf_len")
    if pointer is None or size is None:
        return None
    try:
        length = min(int.from_bytes(kernel.read(size, 4), "little"), _LOG_LIMIT)
        log = kernel.read(kernel.pointer(pointer), length)
    except AddressError:
        return None
    btf = kernel.types
    newest, message = (False, -1), None
    for match in _PANIC.finditer(log):
        text = match[1]
        record = _record(kernel, btf, log, match.start()) if btf else None
        # What is no record any more, or not yet, only counts when there is none.
        order = (False, match.start())
        if record:
            text = text[: max(0, record.text_length - _PREFIX)]
            order = (True, record.sequence)
        if order > newest and text:
            newest, message = order, printable(text).strip()
    return message


def _record(kernel: LinuxKernel, btf: Btf, log: bytes, start: int) -> Optional[_Record]:
    """Reads the record that a text at an offset of the log belongs to."""
    try:
        if btf.find("printk_ringbuffer", Kind.STRUCT) is not None:
            return _ring_record(kernel, btf, log, start)
        header = btf.find("printk_log", Kind.STRUCT)
        if header is None or start < btf.size(header):
            return None
        at = start - btf.size(header) + btf.offset("printk_log", "text_len")
        return _Record(struct.unpack_from("<H", log, at)[0], start)
    except (AddressError, BtfError, struct.error):
        return None


def _ring_record(kernel: LinuxKernel, btf: Btf, log: bytes, start: int) -> Optional[_Record]:
    prb = kernel.address("prb")
    word = kernel.bits // 8
    if prb is None or start < word:
        return None
    ring = kernel.pointer(prb) + btf.offset("printk_ringbuffer", "desc_ring")
    (count_bits,) = struct.unpack(
        "<I", kernel.read(ring + btf.offset("prb_desc_ring", "count_bits"), 4)
    )
    infos = kernel.pointer(ring + btf.offset("prb_desc_ring", "infos"))
    number = int.from_bytes(log[start - word : start], "little") & ((1 << min(count_bits, 31)) - 1)
    info = infos + number * btf.size_of("printk_info")
    (sequence,) = struct.unpack("<Q", kernel.read(info + btf.offset("printk_info", "seq"), 8))
    (length,) = struct.unpack("<H", kernel.read(info + btf.offset("printk_info", "text_len"), 2))
    return _Record(length, sequence)
