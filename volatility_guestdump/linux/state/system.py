# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a Linux kernel tells of the system that it runs: its name, load, command line and taint.

Each fact is read by itself, and is None where the kernel does not say where it is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.timekeeper import Clock, read_clock
from volatility_guestdump.linux.types.reading import Structures
from volatility_guestdump.text import printable

#: COMMAND_LINE_SIZE is 2048 on x86; a boot configuration may come on top.
_COMMAND_LINE_LIMIT = 1 << 14
_PIECE = 0x100
#: __NEW_UTS_LEN and a NUL.
_HOST_NAME_SIZE = 65
#: Load averages have so many bits behind the point (FSHIFT, include/linux/sched/loadavg.h).
_LOAD_SHIFT = 11
_LOAD_HALF = (1 << _LOAD_SHIFT) // 200

#: Bit of tainted_mask -> letter and meaning (Documentation/admin-guide/tainted-kernels.rst).
TAINTS: tuple[tuple[str, str], ...] = (
    ("P", "proprietary module"),
    ("F", "module loaded by force"),
    ("S", "CPU or hardware out of specification"),
    ("R", "module unloaded by force"),
    ("M", "machine check"),
    ("B", "bad page"),
    ("U", "requested by user"),
    ("D", "kernel died before, oops or BUG"),
    ("A", "ACPI table overridden"),
    ("W", "warning"),
    ("C", "staging driver"),
    ("I", "workaround for a bug of the firmware"),
    ("O", "out-of-tree module"),
    ("E", "unsigned module"),
    ("L", "soft lockup"),
    ("K", "live patched"),
    ("X", "defined by the distribution"),
    ("T", "built with struct randomization"),
    ("N", "in-kernel test"),
    ("J", "mutating debug operation in fwctl"),
)


@dataclass(frozen=True)
class SystemFacts:
    """What a kernel tells of its system; what is not known is None.

    Attributes:
        host_name: its node name.
        clock: time of day and uptime.
        load: averages of 1, 5 and 15 minutes.
        command_line: of the kernel.
        taint: bits, see `taint_names`.
    """

    host_name: Optional[str] = None
    clock: Optional[Clock] = None
    load: Optional[tuple[float, float, float]] = None
    command_line: Optional[str] = None
    taint: Optional[int] = None


#: Of a kernel that tells nothing.
NOTHING_TOLD = SystemFacts()


def system_facts(kernel: LinuxKernel, attempts: Attempts) -> SystemFacts:
    """Returns what a kernel tells of its system.

    Args:
        kernel: the kernel.
        attempts: is told which facts cannot be read, and why.
    """
    return SystemFacts(
        attempts.make("Host name", lambda: _host_name(kernel)),
        attempts.make("Date and uptime", lambda: read_clock(kernel)),
        attempts.make("Load average", lambda: _load(kernel)),
        attempts.make("Command line", lambda: command_line(kernel)),
        attempts.make("Taint", lambda: _word(kernel, "tainted_mask")),
    )


def taint_names(taint: int) -> Sequence[tuple[str, str]]:
    """Returns letter and meaning of each bit of a taint, "?" for a bit that is not known."""
    return [
        TAINTS[bit] if bit < len(TAINTS) else ("?", f"bit {bit}")
        for bit in range(taint.bit_length())
        if taint >> bit & 1
    ]


def _host_name(kernel: LinuxKernel) -> Optional[str]:
    address, types = kernel.address("init_uts_ns"), kernel.types
    if address is None or types is None:
        return None
    namespace = Structures(kernel, types, "uts_namespace").at(address)
    return namespace.text("name.nodename", _HOST_NAME_SIZE)


def _load(kernel: LinuxKernel) -> Optional[tuple[float, float, float]]:
    address, word = kernel.address("avenrun"), kernel.bits // 8
    if address is None:
        return None
    data = kernel.read(address, 3 * word)
    # Rounded as /proc/loadavg rounds them (fs/proc/loadavg.c).
    one, five, fifteen = (
        ((int.from_bytes(data[at : at + word], "little") + _LOAD_HALF) * 100 >> _LOAD_SHIFT) / 100
        for at in range(0, 3 * word, word)
    )
    return one, five, fifteen


def command_line(kernel: LinuxKernel) -> Optional[str]:
    """Returns what a kernel was started with, or None when it does not say where that is.

    Raises:
        AddressError: it is not in the dump.
        KernelError: it has no end.
    """
    address = kernel.address("saved_command_line")
    if address is None:
        return None
    start = kernel.pointer(address)
    data = b""
    while len(data) < _COMMAND_LINE_LIMIT:
        # Not into the next page, which need not be mapped where the string ends before.
        place = start + len(data)
        piece = kernel.read(place, _PIECE - place % _PIECE)
        data += piece
        if b"\0" in piece:
            return printable(data)
    raise KernelError("the kernel's command line has no end")


def _word(kernel: LinuxKernel, symbol: str) -> Optional[int]:
    address = kernel.address(symbol)
    return None if address is None else kernel.pointer(address)
