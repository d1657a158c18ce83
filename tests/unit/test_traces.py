# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The kernel's own trace of a panic, in logs made by hand, and stacks against it."""

from collections.abc import Sequence

import pytest

from volatility_guestdump import words
from volatility_guestdump.guest import traces
from volatility_guestdump.linux.stacks.frames import Frame
from volatility_guestdump.linux.state.printk import Record

PANIC = """\
sysrq: Trigger a crash
Kernel panic - not syncing: sysrq triggered crash
CPU: 1 PID: 1 Comm: init Not tainted 6.1.0-56-cloud-amd64 #1  Debian 6.1.192-2
Hardware name: QEMU Standard PC, BIOS 1.16.2-debian-1.16.2-1 04/01/2014
Call Trace:
 <TASK>
 dump_stack_lvl+0x44/0x5c
 panic+0x118/0x2ed
 ? printk+0x43/0x45
 sysrq_handle_crash+0x16/0x20 [crash me]
 RIP: 0010:native_safe_halt+0xb/0x10
Code: 0f 0b+0x1/0x2 x y
RSP: 0018:ffffaf3ac0013e58 EFLAGS: 00000246
 entry_SYSCALL_64_after_hwframe+0x6e/0xd8 (/lib/libc.so.6)
 </TASK>
---[ end Kernel panic - not syncing: sysrq triggered crash ]---
 later+0x1/0x2"""
TRACE = [
    "dump_stack_lvl+0x44",
    "panic+0x118",
    "sysrq_handle_crash+0x16 [crash me]",
    "native_safe_halt+0xb",
    "entry_SYSCALL_64_after_hwframe+0x6e",
]


def records(text: str, facility: int = 0) -> list[Record]:
    """Returns a record for each line of a text."""
    return [Record(0, facility, 0, "", (line,)) for line in text.splitlines()]


def stack(*symbols: str) -> list[Frame]:
    """Returns a stack."""
    return [Frame(None, None, symbol, ()) for symbol in symbols]


def test_the_trace_of_a_panic() -> None:
    """It has the frames that count, with modules, to the end of the panic."""
    assert traces.panic_trace(records(PANIC)) == TRACE
    one = [Record(0, 0, 0, "", tuple(PANIC.splitlines()[4:]))]
    assert traces.panic_trace([*records(PANIC)[:4], *one]) == TRACE


def test_the_last_panic_counts() -> None:
    """A trace of before is another's."""
    before = PANIC.replace("dump_stack_lvl", "before")
    assert traces.panic_trace(records(f"{before}\n{PANIC}")) == TRACE


OOPS = """\
BUG: kernel NULL pointer dereference, address: 0000000000000008
Oops: 0002 [#1] PREEMPT SMP NOPTI
RIP: 0010:fault+0x5/0x10 [crashme]
Call Trace:
 <TASK>
 ? exc_page_fault+0x75/0x170
 caller+0x8/0x10 [crashme]
 ret_from_fork+0x22/0x30
 </TASK>
Modules linked in: crashme(OE)
---[ end trace 0000000000000000 ]---
RIP: 0010:fault+0x5/0x10 [crashme]"""
OOPS_TRACE = ["caller+0x8 [crashme]", "ret_from_fork+0x22"]
FATAL = """\
Kernel panic - not syncing: Fatal exception
Kernel Offset: 0x24400000 from 0xffffffff81000000
---[ end Kernel panic - not syncing: Fatal exception ]---"""
WARNING = """\
------------[ cut here ]------------
WARNING: CPU: 0 PID: 1 at arch/x86/kernel/smp.c:128 native_smp_send_reschedule+0x39/0x40
Call Trace:
 try_to_wake_up+0x1f/0x400
---[ end trace 0000000000000001 ]---"""
OTHER_CPU = """\
Sending NMI from CPU 1 to CPUs 0:
NMI backtrace for cpu 0
Call Trace:
 default_idle+0x9/0x10"""


def later(seconds: int, text: str) -> list[Record]:
    """Returns the records of a text that was printed some seconds after boot."""
    return [record._replace(nanoseconds=seconds * 10**9) for record in records(text)]


def test_the_trace_of_an_oops() -> None:
    """It stands before the message of the panic, behind which there is none."""
    assert traces.panic_trace(records(f"{OOPS}\n{FATAL}")) == OOPS_TRACE
    assert traces.panic_trace([*later(100, OOPS), *later(108, FATAL)]) == OOPS_TRACE


@pytest.mark.parametrize(
    "text", [OTHER_CPU, WARNING, f"{OTHER_CPU}\n{WARNING}", f"{WARNING}\n{OTHER_CPU}"]
)
def test_traces_of_others(text: str) -> None:
    """Behind a panic another CPU's may follow, and at any time a warning's: they are not it."""
    lines = PANIC.splitlines()
    own, end = "\n".join(lines[:-2]), "\n".join(lines[-2:])
    assert traces.panic_trace(records(f"{text}\n{own}\n{OTHER_CPU}\n{end}\n{text}")) == TRACE
    before, *after = FATAL.splitlines()
    fatal = "\n".join([before, OTHER_CPU, *after, text])
    assert traces.panic_trace(records(f"{text}\n{OOPS}\n{fatal}")) == OOPS_TRACE


def test_what_was_long_before() -> None:
    """After any oops panic() prints no trace: then neither the oops nor a warning was its cause."""
    assert traces.panic_trace([*later(100, OOPS), *later(4000, FATAL)]) == []
    assert traces.panic_trace([*later(100, WARNING), *later(101, FATAL)]) == []
    assert traces.oops([*later(100, OOPS), *later(4000, FATAL)]) == ""


@pytest.mark.parametrize("text", ["", "Call Trace:\n panic+0x1/0x2", PANIC.replace("Call", "A")])
def test_no_trace(text: str) -> None:
    """Without a panic, or a trace, there is none."""
    assert traces.panic_trace(records(text)) == []


def test_what_a_program_can_write() -> None:
    """Neither a panic nor a line of a trace is taken from its records."""
    assert traces.panic_trace(records(PANIC, facility=1)) == []
    forged = records(PANIC.replace("0x118", "0x666"), facility=1)
    assert traces.panic_trace([*records(PANIC), *forged]) == TRACE
    behind = Record(0, 0, 0, "", ("mounted x", *PANIC.splitlines()))
    assert traces.panic_trace([behind]) == []


def test_a_trace_without_end() -> None:
    """It is cut."""
    lines = [*PANIC.splitlines()[:5], *(f" f{n}+0x1/0x2" for n in range(10_000))]
    assert len(traces.panic_trace(records("\n".join(lines)))) <= 1000


def test_a_line_that_takes_long() -> None:
    """What a line has does not make it slow, and it is none of a trace."""
    lines = [*PANIC.splitlines()[:5], " " * 4000, "a+" * 2000, " x+0x1/0x2" + " " * 4000 + "y z"]
    assert traces.panic_trace(records("\n".join(lines))) == []


SAME = ("panic+0x118", "sysrq_handle_crash+0x16 [crash me]", "native_safe_halt+0xb")


@pytest.mark.parametrize(
    ("symbols", "log", "in_log", "in_stack", "said"),
    [
        # Above the call of panic() the two differ by nature.
        (
            ("delay_tsc+0x1", *SAME),
            ("dump_stack+0x1", *SAME),
            [True] * 4,
            [True] * 4,
            "frames below panic(): all 2 are the same",
        ),
        (
            ("vpanic+0x1", "panic+0x57", "a+0x1", "b+0x1"),
            ("panic+0x57", "a+0x2", "b+0x1"),
            [True, True, False, True],
            [True, False, True],
            "frames below panic(): 1 the same, 2 in one of them alone",
        ),
        (SAME, (), (), (), "the kernel's log has no frame of it that is certain"),
        ((), SAME, (), (), "there is no stack to compare it with"),
        (("a+0x1",), SAME, (), (), "not compared: one of them does not lead through panic()"),
    ],
)
def test_a_stack_against_the_trace(
    symbols: Sequence[str],
    log: Sequence[str],
    in_log: Sequence[bool],
    in_stack: Sequence[bool],
    said: str,
) -> None:
    """What is in one of the two alone is marked, and both are told apart from no comparison."""
    found = traces.compare(stack(*symbols), log)
    assert (list(found.in_log), list(found.in_stack)) == (list(in_log), list(in_stack))
    assert words.comparison(found) == said
