# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The message of a panic, from the kernel's log.

Programs write into that log too, through /dev/kmsg. Their records have a facility of their own,
which the kernel takes care of: only its own have facility 0 (devkmsg_write, kernel/printk). What a
program has named or mounted stands in the middle of the kernel's own records, or behind a line
break in them; the kernel's message starts one.

A kernel without BTF does not tell where its records are. Then the text is looked for in the buffer
that log_buf points to, and ends where the letters do.
"""

import re
from collections.abc import Sequence
from typing import Optional

from volatility_guestdump.exceptions import AddressError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.printk import Record, read_log
from volatility_guestdump.machine import read_padded
from volatility_guestdump.text import printable

#: What the message of a panic starts with.
PANIC = "Kernel panic - not syncing: "
#: Not the line "---[ end Kernel panic" with which a panic ends.
#: In 6.1 and later, not in 5.10, its last two letters stand there twice, with a line break behind:
#: the text was moved over the two of its level, and its end was left (printk_sprint).
_PANIC = re.compile(
    rb"(?<!---\[ end )Kernel panic - not syncing: "
    rb"(?:([\x20-\x7e\x80-\xff]{0,998}([\x20-\x7e\x80-\xff]{2}))\2\n|([\x20-\x7e\x80-\xff]{1,1000}))"
)
_MAXIMUM_MESSAGE = 1000

#: CONFIG_LOG_BUF_SHIFT is at most 25, which is 32 MiB; log_buf_len= could make it longer.
_LOG_LIMIT = 64 << 20


def panic_message(kernel: LinuxKernel) -> Optional[str]:
    """Returns what the kernel said when it panicked, or None when it did not.

    Raises:
        AddressError: what leads to the log is not in the dump.
    """
    if kernel.panic_cpu is not None and kernel.panic_cpu < 0:
        # Anybody can write into the log what looks like a panic.
        return None
    if kernel.types is not None:
        try:
            return message_of(read_log(kernel).records)
        except (AddressError, KernelError):
            # The text may be there though what tells of the records is not.
            pass
    return _message_in_buffer(kernel)


def message_of(records: Sequence[Record]) -> Optional[str]:
    """Returns the message of the last panic among the records of a log, or None."""
    for record in reversed(records):
        if is_panic(record):
            return record.lines[0].removeprefix(PANIC)[:_MAXIMUM_MESSAGE].strip() or None
    return None


def is_panic(record: Record) -> bool:
    """Whether a record is the message of a panic."""
    return not record.facility and record.lines[0].startswith(PANIC)


def _message_in_buffer(kernel: LinuxKernel) -> Optional[str]:
    pointer, size = kernel.address("log_buf"), kernel.address("log_buf_len")
    if pointer is None or size is None:
        return None
    length = min(int.from_bytes(kernel.read(size, 4), "little"), _LOG_LIMIT)
    log, _ = read_padded(kernel.read, kernel.pointer(pointer), length)
    message = None
    for match in _PANIC.finditer(log):
        message = printable(match[1] or match[3]).strip()
    return message
