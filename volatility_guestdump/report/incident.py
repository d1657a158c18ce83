# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What happened to a guest, in one sentence or some: the headline of a report.

Nothing is guessed from version or name. A panic is what the kernel itself counts as one. Messages
on stalls count when a record of the kernel's own starts with them, not when a process wrote them to
/dev/kmsg; what is not recent is told as what was, not as what is.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import NamedTuple, Optional

from volatility_guestdump.linux.stacks.frames import Frame
from volatility_guestdump.linux.state.printk import Record
from volatility_guestdump.linux.state.timekeeper import NANOSECONDS
from volatility_guestdump.report import document, traces
from volatility_guestdump.report.facts import KernelFacts
from volatility_guestdump.report.rows import duration

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

#: Where a frozen task waits: it does not hang.
_FROZEN = "__refrigerator+"


@dataclass(frozen=True)
class Evidence:
    """What is known of a Linux guest when its headline is made; what is not, is None or empty.

    Attributes:
        kernel: facts of the kernel.
        panicked: whether it did; None when that cannot be told.
        panic_frames: the stack of who panicked.
        records: of the kernel's log.
        waiting: groups of tasks in uninterruptible sleep; None when tasks are not known.
        vcpus: what they do, those that are known.
        vcpu_count: how many there are; 0 of an image without registers.
    """

    kernel: KernelFacts
    panicked: Optional[bool]
    panic_frames: Sequence[Frame]
    records: Sequence[Record]
    waiting: Optional[Sequence[document.TaskGroup]]
    vcpus: Sequence[document.Vcpu]
    vcpu_count: int


def linux_headline(evidence: Evidence) -> document.Headline:
    """Returns what happened to a Linux guest."""
    kernel = evidence.kernel
    if kernel.kdump and kernel.kdump.is_second:
        first = kernel.kdump.first_release
        had = f"Linux {first}" if first else "another kernel"
        text = f"The kernel that kdump started when {had} had panicked runs. This report is of it."
        return document.Headline("kdump", text)
    if kernel.panic is not None and evidence.panicked is None and not evidence.records:
        text = f'The kernel log has "Kernel panic - not syncing: {kernel.panic}"; whether the '
        return document.Headline("unknown", f"{text}kernel wrote that cannot be told.")
    if kernel.panic is not None or evidence.panicked:
        return document.Headline("panic", _panic(evidence))
    for lockup in _LOCKUPS:
        told = _told(evidence.records, (lockup,))
        if told is not None and _is_recent(told.record, evidence):
            return document.Headline(told.kind, f"{told.sentence} {_NO_PANIC}")
    hung = _hung(evidence)
    if hung is not None:
        return document.Headline("hung", f"{hung} {_NO_PANIC}")
    said = "No panic. " if evidence.panicked is False else ""
    if evidence.panicked is None:
        said = "The kernel does not tell whether it panicked. "
    found = _at_rest(evidence, said)
    before = _told(evidence.records, (*_LOCKUPS, ("hung", _HUNG_TASK)))
    if before is not None:
        return document.Headline(found.kind, f"{found.text} Before: {before.sentence}")
    return found


def _panic(evidence: Evidence) -> str:
    kernel = evidence.kernel
    said = f"Kernel panic - not syncing: {kernel.panic}" if kernel.panic else "Kernel panic"
    # What the message says may have an end of its own.
    if kernel.panic and kernel.panic.startswith(traces.AFTER_OOPS):
        cause = traces.oops(evidence.records)
        said += f" ({cause})" * bool(cause)
    sentences = [said if said.endswith((".", "!")) else f"{said}."]
    sentences += filter(None, [_who(evidence)])
    if kernel.kdump:
        sentences.append("Another kernel, as kdump starts one, has taken over since.")
    return " ".join(sentences)


def _who(evidence: Evidence) -> str:
    who, uptime = evidence.kernel.panic_task, _uptime(evidence.kernel)
    parts = []
    if who is not None:
        cpu = f"CPU {who.cpu}" if who.vcpu is None else f"vCPU {who.vcpu.number}"
        task = f"Task {who.task.comm} (pid {who.task.pid})" if who.task else "An unknown task"
        interrupt = traces.interrupt(evidence.panic_frames)
        parts = [f"{task} on {cpu}"]
        if interrupt:
            parts.append(f"within {interrupt}")
        place = traces.culprit(evidence.panic_frames)
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


def _is_recent(record: Record, evidence: Evidence) -> bool:
    # Both clocks start with the kernel; the CPU that keeps one of them may be what is stuck.
    now = evidence.records[-1].nanoseconds
    clock = evidence.kernel.told.clock
    if clock is not None:
        now = max(now, clock.uptime // timedelta(microseconds=1) * 1000)
    return now - record.nanoseconds <= _RECENT_SECONDS * NANOSECONDS


def _hung(evidence: Evidence) -> Optional[str]:
    """Returns which tasks hang, or None when none does."""
    told = _told(evidence.records, (("hung", _HUNG_TASK),))
    if evidence.waiting is None:
        return told.sentence if told is not None and _is_recent(told.record, evidence) else None
    waiting = [
        group
        for group in evidence.waiting
        if not any(frame.symbol.startswith(_FROZEN) for frame in group.frames)
    ]
    longest = max(waiting, key=lambda group: group.seconds or 0, default=None)
    if longest is None or (longest.seconds or 0) < _LONG_SECONDS:
        return None
    count = sum(group.count for group in waiting)
    task = f"{longest.names[0]} (pid {longest.pids[0]})"
    place = f" in {longest.waits_in}" * bool(longest.waits_in)
    lasting = f"for {duration(timedelta(seconds=longest.seconds or 0))} at least"
    text = f"Task {task} hangs in uninterruptible sleep{place}, {lasting}."
    if count > 1:
        text = f"{count} tasks are in uninterruptible sleep, the longest, {task}, {lasting}{place}."
    if told is not None and any(int(told.match[2]) in group.pids for group in waiting):
        text += f" {told.sentence}"
    return text


def _at_rest(evidence: Evidence, said: str) -> document.Headline:
    uptime = _uptime(evidence.kernel)
    after = f" {uptime} after boot" if uptime else ""
    if not evidence.vcpu_count:
        return document.Headline(
            "unknown",
            f"{said}What the guest did is not known: the image has no registers."
            + (f" It was taken{after}." if after else ""),
        )
    working = [vcpu for vcpu in evidence.vcpus if vcpu.state not in ("idle", "off")]
    if not working:
        if len(evidence.vcpus) == evidence.vcpu_count:
            off = " or off" * any(vcpu.state == "off" for vcpu in evidence.vcpus)
            return document.Headline("idle", f"{said}All vCPUs were idle{off}{after}.")
        of = f"{len(evidence.vcpus)} of {evidence.vcpu_count} vCPUs"
        text = f"{said}{of} were idle{after}, the others are not known."
        return document.Headline("unknown", text)
    doing = [_doing(vcpu) for vcpu in working[:3]]
    if len(working) > len(doing):
        doing.append(f"{len(working) - len(doing)} more vCPUs were not idle either")
    states = {vcpu.state for vcpu in working}
    kind = "user mode" if states == {"user"} else "running"
    # One of them may be in the midst of a panic.
    if "unknown" in states or (evidence.panicked is None and kind == "running"):
        kind = "unknown"
    return document.Headline(kind, f"{said}The guest was stopped{after}: {', '.join(doing)}.")


def _doing(vcpu: document.Vcpu) -> str:
    task = f"task {vcpu.comm} (pid {vcpu.pid})" if vcpu.comm is not None else "an unknown task"
    if vcpu.state == "user":
        return f"vCPU {vcpu.number} ran {task} in user mode"
    if vcpu.state == "kernel":
        return f"vCPU {vcpu.number} ran {task} in {vcpu.top or 'the kernel'}"
    if vcpu.state == "other kernel":
        return f"vCPU {vcpu.number} ran another kernel"
    return f"what vCPU {vcpu.number} did is not known"
