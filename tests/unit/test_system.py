# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a kernel tells of its system, in memory made by hand."""

import struct
from datetime import datetime, timedelta, timezone
from typing import Optional

import pytest

from tests.handmade.btf import SIGNED, BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump import words
from volatility_guestdump.attempts import Attempts, Failure
from volatility_guestdump.exceptions import AddressError, KernelError
from volatility_guestdump.linux.state.system import (
    SystemFacts,
    command_line,
    system_facts,
    taint_names,
)
from volatility_guestdump.linux.state.timekeeper import Clock, read_clock
from volatility_guestdump.linux.types.btf import Btf

PLACE = 0xFFFF0000
SECOND = 1_000_000_000
NOW = 1_790_000_000


def types(data: bool = False, counter: Optional[tuple[str, int]] = ("seqcount", 4)) -> Btf:
    """Returns the types of what is read, with members in an order that no kernel has."""
    made = BtfBuilder()
    u32, u64 = made.int_("unsigned int", 4), made.int_("long long unsigned int", 8)
    s64 = made.int_("long long int", 8, SIGNED)
    base = made.struct("tk_read_base", 16, [("xtime_nsec", u64, 0), ("shift", u32, 64)])
    time = made.struct("timespec64", 16, [("tv_nsec", s64, 0), ("tv_sec", s64, 64)])
    keeper = made.struct(
        "timekeeper",
        56,
        [
            ("xtime_sec", u64, 0),
            ("tkr_mono", base, 64),
            ("wall_to_monotonic", time, 192),
            ("offs_real", s64, 320),
            ("offs_boot", s64, 384),
        ],
    )
    if data:
        made.struct("tk_data", 100, [("timekeeper", keeper, 8 * 24)])
    if counter:
        made.struct(counter[0], counter[1])
    text = made.array(made.int_("char", 1), 65)
    names = made.struct("new_utsname", 130, [("sysname", text, 0), ("nodename", text, 8 * 65)])
    made.struct("uts_namespace", 140, [("name", names, 32)])
    return Btf(made.build())


def timekeeper(
    seconds: int = NOW, fraction: int = SECOND // 2, booted: int = NOW - 100, slept: int = 40
) -> bytes:
    """Returns a struct timekeeper.

    Args:
        seconds: of the day.
        fraction: in nanoseconds.
        booted: when the guest did, in seconds.
        slept: seconds that it slept since.
    """
    offset = (booted + slept) * SECOND
    parts = (fraction << 10, 10, -offset % SECOND, -offset // SECOND, offset, slept * SECOND)
    return struct.pack("<QQIxxxxqqqq", seconds, *parts)


@pytest.mark.parametrize(
    ("symbol", "data", "counter", "at"),
    [
        ("tk_core", False, ("seqcount", 4), 8),
        ("tk_core", False, ("seqcount_raw_spinlock", 4), 8),
        ("tk_core", False, ("seqcount_raw_spinlock", 16), 16),
        ("tk_core", True, None, 24),
        ("timekeeper_data", True, ("seqcount", 4), 24),
    ],
)
def test_the_clock_lies_in_one_of_three_structures(
    symbol: str, data: bool, counter: Optional[tuple[str, int]], at: int
) -> None:
    """It is found behind the sequence counter, whatever that takes."""
    kernel = HandmadeKernel(types(data, counter), **{symbol: PLACE})
    kernel.write(PLACE + at, timekeeper())
    assert read_clock(kernel.kernel) == Clock(
        datetime.fromtimestamp(NOW, timezone.utc) + timedelta(seconds=0.5),
        timedelta(seconds=100.5),
    )


@pytest.mark.parametrize(
    "keeper",
    [
        timekeeper(seconds=1 << 60),
        timekeeper(fraction=3 * SECOND),
        timekeeper(booted=NOW + 2),
        timekeeper()[:-16] + struct.pack("<qq", 5, 0),
        timekeeper()[:-1],
    ],
)
def test_a_clock_that_makes_no_sense(keeper: bytes) -> None:
    """What cannot be a clock is not taken for one."""
    kernel = HandmadeKernel(types(), tk_core=PLACE)
    kernel.write(PLACE + 8, keeper)
    with pytest.raises((AddressError, KernelError)):
        read_clock(kernel.kernel)


def test_no_clock() -> None:
    """Without types or the symbol nothing is made up."""
    assert read_clock(HandmadeKernel(None, tk_core=PLACE).kernel) is None
    assert read_clock(HandmadeKernel(types()).kernel) is None
    assert read_clock(HandmadeKernel(types(counter=None), tk_core=PLACE).kernel) is None


def full_kernel() -> HandmadeKernel:
    """Returns a kernel that tells all."""
    kernel = HandmadeKernel(
        types(), avenrun=1000, init_uts_ns=2000, saved_command_line=3000, tainted_mask=4000
    )
    kernel.write(1000, struct.pack("<3Q", 2047, 2048 * 3 + 1024, 5))
    kernel.write(2000, bytes(4) + bytes(65) + b"db1\x1b[2J".ljust(65, b"\0"))
    kernel.write(3000, struct.pack("<Q", 0x50F0))
    # Behind the string nothing is mapped.
    kernel.write(0x50F0, b"quiet panic=0 ro" + b"root=\xff\0".ljust(0x100, b"\0"))
    kernel.write(4000, struct.pack("<Q", 4097))
    return kernel


def test_every_fact() -> None:
    """The facts are those that lie there, fit for the screen."""
    attempts = Attempts()
    assert system_facts(full_kernel().kernel, attempts) == SystemFacts(
        "db1?[2J",
        None,
        (1.0, 3.5, 0.0),
        "quiet panic=0 roroot=\N{REPLACEMENT CHARACTER}",
        4097,
    )
    assert not attempts.failures


@pytest.mark.parametrize(
    ("place", "field", "name"),
    [
        (1000, "load", "Load average"),
        (2069, "host_name", "Host name"),
        (3000, "command_line", "Command line"),
        (4000, "taint", "Taint"),
    ],
)
def test_each_fails_alone(place: int, field: str, name: str) -> None:
    """Where one cannot be read, the others can, and it is said which one."""
    kernel, attempts = full_kernel(), Attempts()
    whole = system_facts(kernel.kernel, attempts)
    del kernel.bytes[place]
    found = system_facts(kernel.kernel, attempts)
    assert getattr(found, field) is None
    assert [name for name in vars(whole) if getattr(whole, name) != getattr(found, name)] == [field]
    assert attempts.failures == [Failure(name, str(AddressError(place)))]


def test_a_command_line_without_end() -> None:
    """A string that does not end is none."""
    kernel = HandmadeKernel(saved_command_line=16)
    kernel.write(16, struct.pack("<Q", 0x10000))
    kernel.write(0x10000, b"x" * (1 << 20))
    with pytest.raises(KernelError):
        command_line(kernel.kernel)


def test_taint_in_words() -> None:
    """Each bit has its words; those of later kernels are given by number."""
    assert words.taint(4097) == "4097 (proprietary module, out-of-tree module)"
    assert words.taint(1 << 40) == f"{1 << 40} (bit 40)"
    assert words.taint(0) == "0 (not tainted)"
    assert taint_names(1 << 40) == [("?", "bit 40")]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 min 0 s"), (93784, "1 d 2 h 3 min 4 s")],
)
def test_durations(seconds: float, said: str) -> None:
    """Durations have the units that they need."""
    assert words.duration(timedelta(seconds=seconds)) == said
