# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What time it was in the guest, and for how long it had run, by the kernel's own clock.

The kernel keeps wall-clock time in a struct timekeeper (include/linux/timekeeper_internal.h), and
brings it forward with every tick: it is as old as the last tick of the CPU that did this, which
in a guest where nothing runs can be some seconds. It lies, behind a sequence counter, in

    tk_core             of an anonymous struct, from 6.13 on of struct tk_data
    timekeeper_data     from 6.17 on: an array of struct tk_data, the system's clock first
"""

from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Optional

from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Struct, Structures

NANOSECONDS = 1_000_000_000

#: The sequence counter's type from 5.9 on (with PREEMPT_RT it is larger), and before.
_SEQUENCE_COUNTERS = ("seqcount_raw_spinlock", "seqcount")

_NO_SENSE = "the kernel's clock makes no sense"

#: Years that a datetime can have.
_LAST_SECOND = int(datetime(9999, 1, 1, tzinfo=timezone.utc).timestamp())


@dataclass(frozen=True)
class Clock:
    """The kernel's clock when it was last brought forward.

    Attributes:
        time: of the day, UTC.
        uptime: since the guest booted, what it slept included.
    """

    time: datetime
    uptime: timedelta


def read_clock(kernel: LinuxKernel) -> Optional[Clock]:
    """Returns the kernel's clock, or None when the kernel does not say where it is.

    Raises:
        AddressError: it is not in the dump.
        KernelError: it makes no sense, or the types do not tell how to read it.
    """
    types = kernel.types
    if types is None:
        return None
    place = _timekeeper(kernel, types)
    return None if place is None else _read(Structures(kernel, types, "timekeeper").at(place))


def _timekeeper(kernel: LinuxKernel, types: Types) -> Optional[int]:
    """Returns the address of the system's struct timekeeper."""
    address = kernel.address("timekeeper_data") or kernel.address("tk_core")
    if address is None:
        return None
    if types.has("tk_data"):
        return address + types.offset("tk_data", "timekeeper")
    word = kernel.bits // 8
    for structure in _SEQUENCE_COUNTERS:
        if types.has(structure):
            size = types.size_of(structure)
            # The struct behind it is aligned like a pointer, on 32-bit x86 too.
            return address + (size + word - 1) // word * word
    return None


def _read(timekeeper: Struct) -> Clock:
    read = timekeeper.integer
    seconds, shift = read("xtime_sec"), read("tkr_mono.shift")
    # The clock source's shift is at most 32, and less than a second is beyond the seconds.
    if not 0 <= seconds < _LAST_SECOND or not 0 <= shift <= 32:
        raise KernelError(_NO_SENSE)
    fraction = read("tkr_mono.xtime_nsec") >> shift
    if not 0 <= fraction < 2 * NANOSECONDS:
        raise KernelError(_NO_SENSE)
    now = seconds * NANOSECONDS + fraction
    # Volatility's plugins tell by the same difference when a guest booted.
    real = read("offs_real")
    booted = real - read("offs_boot")
    to_monotonic = read("wall_to_monotonic.tv_sec") * NANOSECONDS
    to_monotonic += read("wall_to_monotonic.tv_nsec")
    uptime = now - booted
    # The kernel keeps the offset twice: where both agree, it is no chance that they look well.
    if uptime < 0 or to_monotonic != -real:
        raise KernelError(_NO_SENSE)
    return Clock(
        datetime.fromtimestamp(seconds, timezone.utc) + timedelta(microseconds=fraction // 1000),
        timedelta(microseconds=uptime // 1000),
    )
