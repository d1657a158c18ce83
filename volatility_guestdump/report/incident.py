# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What happened to a guest, in one sentence or some: the headline of a report.

Nothing is guessed from version or name. A panic is what the kernel itself counts as one. Messages
on stalls count when a record of the kernel's own starts with them, not when a process wrote them to
/dev/kmsg; what is not recent is told as what was, not as what is.
"""

import re
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, Optional

from volatility_guestdump.guest import traces
from volatility_guestdump.guest.facts import GuestFacts, KernelFacts, VcpuFacts, VcpuState
from volatility_guestdump.linux.state.printk import Record
from volatility_guestdump.linux.state.timekeeper import NANOSECONDS
from volatility_guestdump.report import document
from volatility_guestdump.words import duration

#: While what they saw goes on, watchdogs repeat themselves within this time: that of RCU, the
#: slowest, after three times its timeout of 21 s and 3 s more (kernel/rcu/tree_stall.h).
_RECENT_SECONDS = 75
#: A task that waits for longer than this, uninterruptibly, is worth the headline.
_LONG_SECONDS = 10

#: What has panicked is told before.
_NO_PANIC = "No panic is known."

#: A prefix says what part of the kernel a message comes from: none at first, "NMI watchdog: ",
#: "watchdog: " and "rcu: " since. New kernels also tell which CPU saw a hard lockup.
_SOFT_LOCKUP = re.compile(r"(?:(?:NMI )?watchdog: )?BUG: (soft lockup - CPU#\d+ stuck for \d+s!.*)")
_HARD_LOCKUP = re.compile(
    r"(?:(?:NMI )?watchdog: )?(?:CPU\d+: )?Watchdog detected (hard LOCKUP on cpu ?\d+)"
)
_RCU_STALL = re.compile(
    r"(?:rcu: )?INFO: (rcu\w+ (?:self-detected stall on CPU|detected (?:expedited )?stalls? on "
    r"(?:CPUs/tasks|tasks)))"
)
#: "INFO: task jbd2/sda1-8:93 blocked for more than 120 seconds."; new kernels may say in what.
_HUNG_TASK = re.compile(r"INFO: (task .+:(\d+) blocked .{0,40}for more than \d+ seconds)")
#: What tells most comes first: a CPU that is locked up stalls RCU too.
_LOCKUPS = (("hard lockup", _HARD_LOCKUP), ("soft lockup", _SOFT_LOCKUP), ("rcu stall", _RCU_STALL))

_RESTING = frozenset({VcpuState.IDLE, VcpuState.OFF})

#: Where a frozen task waits: it does not hang.
_FROZEN = "__refrigerator+"


def linux_headline(found: GuestFacts) -> document.Headline:
    """Returns what happened to a Linux guest."""
    kernel = found.kernel
    if kernel.kdump and kernel.kdump.is_second:
        first = kernel.kdump.first_release
        had = f"Linux {first}" if first else "another kernel"
        text = f"The kernel that kdump started when {had} had panicked runs. This report is of it."
        return document.Headline("kdump", text)
    if kernel.panic is not None and found.panicked is None and not _records(found):
        text = f'The kernel log has "Kernel panic - not syncing: {kernel.panic}"; whether the '
        return document.Headline("unknown", f"{text}kernel wrote that cannot be told.")
    if kernel.panic is not None or found.panicked:
        return document.Headline("panic", _panic(found))
    for lockup in _LOCKUPS:
        told = _told(_records(found), (lockup,))
        if told is not None and _is_recent(told.record, found):
            return document.Headline(told.kind, f"{told.sentence} {_NO_PANIC}")
    hung = _hung(found)
    if hung is not None:
        return document.Headline("hung", f"{hung} {_NO_PANIC}")
    said = "No panic. " if found.panicked is False else ""
    if found.panicked is None:
        said = "The kernel does not tell whether it panicked. "
    rests = _at_rest(found, said)
    before = _told(_records(found), (*_LOCKUPS, ("hung", _HUNG_TASK)))
    if before is not None:
        return document.Headline(rests.kind, f"{rests.text} Before: {before.sentence}")
    return rests


def windows_headline(kernel: KernelFacts) -> document.Headline:
    """Returns what happened to a Windows guest."""
    if kernel.panic:
        return document.Headline("bug check", f"Windows bug check {kernel.panic}.")
    system = kernel.system or "Windows"
    if kernel.symbols is not None and kernel.symbols.location is None:
        text = f"{system}. Whether there was a bug check its symbols would tell; none are here."
        return document.Headline("unknown", text)
    return document.Headline("running", f"{system}. It keeps no record of a bug check.")


def _records(found: GuestFacts) -> Sequence[Record]:
    return found.log.records if found.log else ()


def _panic(found: GuestFacts) -> str:
    kernel = found.kernel
    said = f"Kernel panic - not syncing: {kernel.panic}" if kernel.panic else "Kernel panic"
    # What the message says may have an end of its own.
    if kernel.panic and kernel.panic.startswith(traces.AFTER_OOPS):
        cause = traces.oops(_records(found))
        said += f" ({cause})" * bool(cause)
    sentences = [said if said.endswith((".", "!")) else f"{said}."]
    sentences += filter(None, [_who(found)])
    if kernel.kdump:
        sentences.append("Another kernel, as kdump starts one, has taken over since.")
    return " ".join(sentences)


def _who(found: GuestFacts) -> str:
    who, uptime = found.kernel.panic_task, _uptime(found.kernel)
    parts = []
    if who is not None:
        cpu = f"CPU {who.cpu}" if who.vcpu is None else f"vCPU {who.vcpu.number}"
        task = f"Task {who.task.comm} (pid {who.task.pid})" if who.task else "An unknown task"
        frames = found.panic.frames if found.panic else ()
        interrupt = traces.interrupt(frames)
        parts = [f"{task} on {cpu}"]
        if interrupt:
            parts.append(f"within {interrupt}")
        place = traces.culprit(frames)
        if place:
            parts.append(f"in {place}")
    if uptime:
        parts.append(f"{uptime} after boot")
    said = ", ".join(parts)
    return f"{said[0].upper()}{said[1:]}." if said else ""


def _uptime(kernel: KernelFacts) -> str:
    clock = kernel.told.clock
    return duration(clock.uptime) if clock else ""


class _Told(NamedTuple):
    """What a watchdog has told.

    Attributes:
        kind: as in a headline.
        match: of its message.
        record: of the log.
    """

    kind: str
    match: "re.Match[str]"
    record: Record

    @property
    def sentence(self) -> str:
        """It in words."""
        said = self.match[1]
        said = f"RCU stall: {said}" if self.kind == "rcu stall" else said[0].upper() + said[1:]
        return f"{said} (kernel log, {self.record.stamp.strip('[ ]')})."


def _told(
    records: Sequence[Record], patterns: Sequence[tuple[str, "re.Pattern[str]"]]
) -> Optional[_Told]:
    """Returns the last message that fits one of some patterns, or None."""
    for record in reversed(records):
        if record.facility:
            continue
        for kind, pattern in patterns:
            match = pattern.match(record.lines[0])
            if match:
                return _Told(kind, match, record)
    return None


def _is_recent(record: Record, found: GuestFacts) -> bool:
    # Both clocks start with the kernel; the CPU that keeps one of them may be what is stuck.
    now = _records(found)[-1].nanoseconds
    clock = found.kernel.told.clock
    if clock is not None:
        now = max(now, clock.uptime // timedelta(microseconds=1) * 1000)
    return now - record.nanoseconds <= _RECENT_SECONDS * NANOSECONDS


def _hung(found: GuestFacts) -> Optional[str]:
    """Returns which tasks hang, or None when none does."""
    told = _told(_records(found), (("hung", _HUNG_TASK),))
    tasks = found.tasks
    # If only some tasks are known, that none of them hangs says nothing of the others.
    if tasks is None or not (tasks.complete or tasks.waiting):
        return told.sentence if told is not None and _is_recent(told.record, found) else None
    waiting = [
        group
        for group in tasks.waiting
        if not any(frame.symbol.startswith(_FROZEN) for frame in group.frames)
    ]
    longest = max(waiting, key=lambda group: group.seconds or 0, default=None)
    if longest is None or (longest.seconds or 0) < _LONG_SECONDS:
        return None
    count = sum(len(group.tasks) for group in waiting)
    task = f"{longest.tasks[0].comm} (pid {longest.tasks[0].pid})"
    place = f" in {longest.waits_in}" * bool(longest.waits_in)
    lasting = f"for {duration(timedelta(seconds=longest.seconds or 0))} at least"
    text = f"Task {task} hangs in uninterruptible sleep{place}, {lasting}."
    if count > 1:
        text = f"{count} tasks are in uninterruptible sleep, the longest, {task}, {lasting}{place}."
    pids = {task.pid for group in waiting for task in group.tasks}
    if told is not None and int(told.match[2]) in pids:
        text += f" {told.sentence}"
    return text


def _at_rest(found: GuestFacts, said: str) -> document.Headline:
    uptime = _uptime(found.kernel)
    after = f" {uptime} after boot" if uptime else ""
    count = found.machine.vcpus
    if not count:
        return document.Headline(
            "unknown",
            f"{said}What the guest did is not known: the image has no registers."
            + (f" It was taken{after}." if after else ""),
        )
    working = [vcpu for vcpu in found.vcpus if vcpu.state not in _RESTING]
    if not working:
        if len(found.vcpus) == count:
            off = " or off" * any(vcpu.state is VcpuState.OFF for vcpu in found.vcpus)
            return document.Headline("idle", f"{said}All vCPUs were idle{off}{after}.")
        of = f"{len(found.vcpus)} of {count} vCPUs"
        text = f"{said}{of} were idle{after}, the others are not known."
        return document.Headline("unknown", text)
    doing = [_doing(vcpu) for vcpu in working[:3]]
    if len(working) > len(doing):
        doing.append(f"{len(working) - len(doing)} more vCPUs were not idle either")
    states = {vcpu.state for vcpu in working}
    kind = "user mode" if states == {VcpuState.USER} else "running"
    # One of them may be in the midst of a panic.
    if VcpuState.UNKNOWN in states or (found.panicked is None and kind == "running"):
        kind = "unknown"
    return document.Headline(kind, f"{said}The guest was stopped{after}: {', '.join(doing)}.")


def _doing(vcpu: VcpuFacts) -> str:
    task = f"task {vcpu.task.comm} (pid {vcpu.task.pid})" if vcpu.task else "an unknown task"
    if vcpu.state is VcpuState.USER:
        return f"vCPU {vcpu.number} ran {task} in user mode"
    if vcpu.state is VcpuState.KERNEL:
        return f"vCPU {vcpu.number} ran {task} in {vcpu.place or 'the kernel'}"
    if vcpu.state is VcpuState.OTHER_KERNEL:
        return f"vCPU {vcpu.number} ran another kernel"
    return f"what vCPU {vcpu.number} did is not known"
