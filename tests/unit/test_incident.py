# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The headline of a report, of facts made by hand."""

import dataclasses
from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, Optional

import pytest

from tests.helpers import IDLE_VCPU
from volatility_guestdump.guest.facts import (
    GuestFacts,
    Kdump,
    KernelFacts,
    MachineFacts,
    MemoryFacts,
    PanicFacts,
    TaskFacts,
    VcpuFacts,
    VcpuState,
    WaitingGroup,
)
from volatility_guestdump.guest.traces import Comparison
from volatility_guestdump.linux.stacks.frames import Frame, Note, NoteKind
from volatility_guestdump.linux.stacks.stacks import PanicTask
from volatility_guestdump.linux.state.printk import Log, Record
from volatility_guestdump.linux.state.system import SystemFacts
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.state.timekeeper import Clock
from volatility_guestdump.machine import VCPU
from volatility_guestdump.report import document, incident

SECOND = 1_000_000_000
NOW = 1000
CLOCK = Clock(datetime(2026, 1, 1, tzinfo=timezone.utc), timedelta(seconds=NOW))
KERNEL = KernelFacts(told=SystemFacts(clock=CLOCK))


def frames(*symbols: str, kind: Optional[NoteKind] = None, at: int = 0) -> list[Frame]:
    """Returns a stack, of which one frame may have a note."""
    notes = (Note(kind),) if kind else ()
    return [
        Frame(None, None, symbol, notes if number == at else ())
        for number, symbol in enumerate(symbols)
    ]


def record(text: str, seconds: float = NOW, facility: int = 0) -> Record:
    """Returns a record of the log."""
    return Record(int(seconds * SECOND), facility, 0, "", tuple(text.split("\n")))


def group(
    seconds: Optional[int] = 100, count: int = 1, top: str = "__schedule+0x1", pid: int = 93
) -> WaitingGroup:
    """Returns tasks in uninterruptible sleep."""
    tasks = [Task(number, number, number, "fsfreeze", "D") for number in range(pid, pid + count)]
    return WaitingGroup(tasks, seconds, [Frame(1, 1, top)])


def vcpu(number: int, state: str, top: str = "schedule+0x1") -> VcpuFacts:
    """Returns what a vCPU does."""
    task = Task(1, 40 + number, 40 + number, "dd")
    return VcpuFacts(number, VcpuState(state), task, top, (), ())


def headline(kernel: KernelFacts = KERNEL, **known: Any) -> document.Headline:
    """Returns the headline of a guest that is idle, but for what is given."""
    vcpus = known.get("vcpus", [vcpu(0, "idle")])
    waiting = known.get("waiting", ())
    frames = known.get("panic_frames")
    return incident.linux_headline(
        GuestFacts(
            MachineFacts("6", known.get("vcpu_count", len(vcpus)) or None, 0, (), None),
            kernel,
            None,
            known.get("panicked", False),
            None if frames is None else PanicFacts(frames, (), Comparison()),
            vcpus,
            Log(known.get("records", (record("booted", 1),)), 0, 0),
            None if waiting is None else TaskFacts(9, {}, waiting, ()),
            "",
            MemoryFacts(0, (), None),
            None,
        )
    )


def text(kernel: KernelFacts = KERNEL, **known: Any) -> str:
    """Returns the text of a headline."""
    return headline(kernel, **known).text


PANIC = dataclasses.replace(
    KERNEL,
    panic="sysrq triggered crash",
    panic_task=PanicTask(1, VCPU(1, IDLE_VCPU), Task(0, 1, 1, "init"), "panic+0x2e9"),
)
STACK = ("delay_tsc+0x3", "panic+0x2e9", "sysrq_handle_crash+0x16", "write_sysrq_trigger+0x1")


def test_a_panic() -> None:
    """Message, task, vCPU, place and time are told."""
    assert headline(PANIC, panicked=True, panic_frames=frames(*STACK)) == document.Headline(
        "panic",
        "Kernel panic - not syncing: sysrq triggered crash. Task init (pid 1) on vCPU 1, in "
        "sysrq_handle_crash+0x16, 16 min 40 s after boot.",
    )


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"panic": "Oops!"}, "Kernel panic - not syncing: Oops! Task init"),
        ({"panic": None}, "Kernel panic. Task init (pid 1) on vCPU 1,"),
        ({"panic_task": None}, "crash. 16 min 40 s after boot."),
        ({"panic_task": PanicTask(3, None, None, "")}, "crash. An unknown task on CPU 3, in"),
        ({"told": SystemFacts()}, "in sysrq_handle_crash+0x16."),
        ({"kdump": Kdump(False, None, [1])}, "Another kernel, as kdump starts one, has taken over"),
    ],
)
def test_a_panic_of_which_not_all_is_known(changes: dict[str, Any], said: str) -> None:
    """What is not known is left out."""
    assert said in text(
        dataclasses.replace(PANIC, **changes), panicked=True, panic_frames=frames(*STACK)
    )


def test_where_a_panic_was() -> None:
    """After an oops it is where the fault was; in an interrupt it is said."""
    stack: tuple[str, ...] = (
        "panic+0x1",
        "oops_end.cold+0x2",
        "page_fault+0x3",
        "asm_exc+0x4",
        "culprit+0x5 [x]",
    )
    said = text(PANIC, panicked=True, panic_frames=frames(*stack, kind=NoteKind.EXCEPTION, at=3))
    assert "on vCPU 1, in culprit+0x5 [x]," in said
    stack = ("panic+0x1", "softdog_fire+0xcd [softdog]", "asm_sysvec+0x1", "halt+0x2")
    said = text(PANIC, panicked=True, panic_frames=frames(*stack, kind=NoteKind.INTERRUPT, at=2))
    assert "on vCPU 1, within an interrupt, in softdog_fire+0xcd [softdog]," in said
    stack = ("panic+0x1", "unknown_nmi_error+0x1", "asm_exc_nmi+0x1", "halt+0x2")
    said = text(PANIC, panicked=True, panic_frames=frames(*stack, kind=NoteKind.INTERRUPT, at=2))
    assert "within an NMI" in said
    # Nothing leads to panic(): where it was is not known.
    assert "vCPU 1, 16 min" in text(PANIC, panicked=True, panic_frames=frames("halt+0x1"))


def test_a_panic_that_may_be_forged() -> None:
    """Without records, and without the kernel's word for it, it is not said that there was one."""
    found = headline(PANIC, panicked=None, records=())
    assert found.kind == "unknown" and "whether the kernel wrote that cannot be told" in found.text
    assert headline(PANIC, panicked=True, records=()).kind == "panic"
    assert headline(PANIC, panicked=None).kind == "panic"


#: Messages of kernels from 4.14 to today, and what of them is shown.
MESSAGES = [
    *(
        ("soft lockup", message, "Soft lockup - CPU#1 stuck for 22s! [x:1] (kernel log, ")
        for message in (
            "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]",
            "NMI watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [x:1]",
            "BUG: soft lockup - CPU#1 stuck for 22s! [x:1]",
        )
    ),
    *(
        ("hard lockup", message, "Hard LOCKUP on cpu 3 (kernel log, ")
        for message in (
            "NMI watchdog: Watchdog detected hard LOCKUP on cpu 3",
            "watchdog: Watchdog detected hard LOCKUP on cpu 3",
            "watchdog: CPU2: Watchdog detected hard LOCKUP on cpu 3",
        )
    ),
    *(
        ("rcu stall", f"{prefix}INFO: {message}{rest}", f"RCU stall: {message} (kernel log, ")
        for prefix in ("", "rcu: ")
        for message, rest in (
            ("rcu_preempt self-detected stall on CPU", ""),
            ("rcu_sched detected stalls on CPUs/tasks", ":"),
            ("rcu_sched detected expedited stalls on CPUs/tasks", ": { 1-...D } 21 jiffies"),
            ("rcu_tasks detected stalls on tasks", ":"),
        )
    ),
]


@pytest.mark.parametrize(("kind", "message", "said"), MESSAGES)
def test_a_watchdog_that_has_barked(kind: str, message: str, said: str) -> None:
    """Its last message is the headline, whatever prefix a kernel gives it."""
    log = (record("x", 3), record(message, 950), record("Call Trace:", 951))
    found = headline(records=log, vcpus=[vcpu(0, "kernel")])
    assert found == document.Headline(kind, f"{said}950.000000). No panic is known.")


@pytest.mark.parametrize(("kind", "message", "said"), MESSAGES)
def test_a_watchdog_that_barked_long_ago(kind: str, message: str, said: str) -> None:
    """It is told, but as what was."""
    found = headline(records=(record(message, 300), record("x", 301)))
    assert found.kind == "idle" and f"Before: {said}300.000000)." in found.text
    # Where the clock cannot be read, that of the log is all there is.
    log = (record(message, 300), record("x", 301))
    assert headline(KernelFacts(), records=log).kind == kind
    assert headline(KernelFacts(), records=(*log, record("x", 400))).kind == "idle"


@pytest.mark.parametrize(
    "message",
    [
        *(message for _, message, _ in MESSAGES),
        "INFO: task x:93 blocked for more than 120 seconds.",
        "Kernel panic - not syncing: forged",
    ],
)
def test_what_a_program_can_write(message: str) -> None:
    """It does not change the headline: by facility, or where it stands in a record."""
    usual = headline()
    for forged in (
        record(message, facility=1),
        record(f"x\n{message}"),
        record(f"overlayfs: {message}"),
    ):
        for waiting in ((), None):
            assert headline(records=(record("booted", 1), forged), waiting=waiting) == usual
    # Nor does it take the place of the true message.
    true = record("watchdog: BUG: soft lockup - CPU#7 stuck for 22s! [true:1]", 999)
    assert "[true:1]" in text(records=(true, record(message, facility=1)))


def test_tasks_that_hang() -> None:
    """The longest is named, and what the kernel said of it."""
    one = "Task fsfreeze (pid 93) hangs in uninterruptible sleep, for 1 min 40 s at least."
    assert text(waiting=[group()]) == f"{one} No panic is known."
    message = "INFO: task fsfreeze:93 blocked for more than 120 seconds."
    shown = "Task fsfreeze:93 blocked for more than 120 seconds (kernel log, 990.000000)."
    assert text(waiting=[group()], records=[record(message, 990)]) == (
        f"{one} {shown} No panic is known."
    )
    # Of another task.
    assert shown not in text(waiting=[group(pid=7)], records=[record(message, 990)])
    found = headline(waiting=[group(100, 5), group(3000, 2, pid=7)])
    assert found == document.Headline(
        "hung",
        "7 tasks are in uninterruptible sleep, the longest, fsfreeze (pid 7), for 50 min 0 s at "
        "least. No panic is known.",
    )


def test_tasks_that_do_not_hang() -> None:
    """Who waits for a moment, for nobody knows how long, or is frozen, makes no headline."""
    for waiting in ([group(9)], [group(None)], [group(top="__refrigerator+0x5a")]):
        assert headline(waiting=waiting).kind == "idle"


def test_tasks_that_are_not_known() -> None:
    """Then it counts what the kernel says of them."""
    message = record("INFO: task a:b:93 blocked in I/O wait for more than 120 seconds.", 990)
    found = headline(waiting=None, records=[message])
    assert found.kind == "hung" and found.text.startswith("Task a:b:93 blocked in I/O wait for")
    # Where tasks are known, it is over.
    assert headline(waiting=(), records=[message]).kind == "idle"


@pytest.mark.parametrize(
    ("vcpus", "kind", "said"),
    [
        ([vcpu(0, "idle"), vcpu(1, "off")], "idle", "All vCPUs were idle or off 16 min"),
        ([vcpu(0, "user")], "user mode", "vCPU 0 ran task dd (pid 40) in user mode."),
        ([vcpu(0, "idle"), vcpu(1, "kernel")], "running", "vCPU 1 ran task dd (pid 41) in sched"),
        ([vcpu(0, "kernel", "")], "running", "in the kernel."),
        ([vcpu(0, "unknown")], "unknown", "what vCPU 0 did is not known."),
        ([vcpu(0, "other kernel")], "running", "vCPU 0 ran another kernel."),
        ([vcpu(n, "user") for n in range(9)], "user mode", "6 more vCPUs were not idle either."),
    ],
)
def test_a_guest_at_rest(vcpus: Sequence[VcpuFacts], kind: str, said: str) -> None:
    """What the vCPUs did is told."""
    found = headline(vcpus=vcpus)
    assert found.kind == kind and said in found.text and found.text.startswith("No panic. ")


def test_vcpus_that_are_not_known() -> None:
    """It is not said that all are idle."""
    found = headline(vcpu_count=3)
    assert found.kind == "unknown"
    assert "1 of 3 vCPUs were idle 16 min 40 s after boot, the others are not known" in found.text


def test_an_image_without_registers() -> None:
    """It is not said that anything was idle."""
    found = headline(vcpus=(), panicked=None)
    assert found.kind == "unknown" and "idle" not in found.text
    assert found.text.startswith("The kernel does not tell whether it panicked. What the guest did")


def test_the_second_kernel() -> None:
    """It is said that the report is not of the one that panicked."""
    kernel = dataclasses.replace(KERNEL, kdump=Kdump(True, "6.1.0", []))
    found = headline(kernel)
    assert found.kind == "kdump" and "when Linux 6.1.0 had panicked" in found.text
