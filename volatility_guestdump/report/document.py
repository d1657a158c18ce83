# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a report says, as it is written as JSON: texts, numbers and lists of them.

Addresses are texts, "0xffffffff81000000": many readers of JSON keep but 53 bits of a number. What
is not known is None. The schema is in report.schema.json.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

#: Changes when what reads an older document could not read a newer one.
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Item:
    """A fact in words."""

    name: str
    value: str


@dataclass(frozen=True)
class Frame:
    """A frame of a stack.

    Attributes:
        address: the instruction pointer or return address.
        symbol: where that is; empty when it is in no known code.
        note: how it was found, what changes here, why the trace ends.
        in_log: whether the kernel's own trace has it; None where the two are not compared.
    """

    address: Optional[str]
    symbol: str
    note: str
    in_log: Optional[bool] = None


@dataclass(frozen=True)
class LogFrame:
    """A frame of the trace that the kernel itself printed.

    Attributes:
        symbol: as printed, without the function's size.
        in_stack: whether the stack in memory has it; None where the two are not compared.
    """

    symbol: str
    in_stack: Optional[bool]


@dataclass(frozen=True)
class Panic:
    """A panic.

    Attributes:
        message: what the kernel said.
        task: CPU, task and place.
        frames: the stack of who panicked, the innermost first.
        log_frames: the trace in the kernel's log.
        comparison: what comparing the two has given.
    """

    message: Optional[str]
    task: Optional[str]
    frames: Sequence[Frame]
    log_frames: Sequence[LogFrame]
    comparison: str


@dataclass(frozen=True)
class Register:
    """A register, its value, and what that means."""

    name: str
    value: str
    decoded: str


@dataclass(frozen=True)
class Vcpu:
    """A vCPU.

    Attributes:
        number: counts from 0.
        state: "user", "kernel", "idle", "off", "other kernel"; "unknown" without a known kernel.
        pid: of its task.
        comm: name of its task.
        top: where it was.
        frames: its stack, the innermost first.
        registers: of it.
    """

    number: int
    state: str
    pid: Optional[int]
    comm: Optional[str]
    top: str
    frames: Sequence[Frame]
    registers: Sequence[Register]


@dataclass(frozen=True)
class LogLine:
    """A line of the kernel's log.

    Attributes:
        level: from 0, emergency, to 7, debug.
        stamp: time as the kernel prints it.
        text: of the line.
    """

    level: int
    stamp: str
    text: str


@dataclass(frozen=True)
class Log:
    """The kernel's log.

    Attributes:
        lines: the newest last.
        left_out: how many records there are before these.
        lost: how many records cannot be read.
    """

    lines: Sequence[LogLine]
    left_out: int
    lost: int


@dataclass(frozen=True)
class TaskGroup:
    """Tasks in uninterruptible sleep with the same frames.

    Attributes:
        count: how many they are.
        pids: of the first of them.
        names: theirs.
        seconds: for how long the longest of them has not run, at least; None when not known.
        frames: of each of them.
        waits_in: the first of these that is not of the scheduler, nor of a lock or completion;
            empty when it is not known.
    """

    count: int
    pids: Sequence[int]
    names: Sequence[str]
    seconds: Optional[int]
    frames: Sequence[Frame]
    waits_in: str = ""


@dataclass(frozen=True)
class Process:
    """A process and its resident memory in bytes."""

    pid: int
    comm: str
    resident: int


@dataclass(frozen=True)
class Tasks:
    """The tasks (threads).

    Attributes:
        count: of all, without the idle ones.
        states: letter as in ps -> how many; "?" for those whose state is not known.
        uninterruptible: those in uninterruptible sleep, the largest group first.
        not_shown: how many tasks in uninterruptible sleep are in none of the groups.
        largest: processes with the most resident memory.
        complete: whether their lists are whole; otherwise there are more than these.
    """

    count: int
    states: dict[str, int]
    uninterruptible: Sequence[TaskGroup]
    not_shown: int
    largest: Sequence[Process]
    complete: bool = True


@dataclass(frozen=True)
class Range:
    """A piece of guest-physical memory.

    Attributes:
        kind: "memory", "missing" (the guest had it, the file does not), or "kernel".
        start: its first address.
        end: its last address.
        size: in bytes.
    """

    kind: str
    start: str
    end: str
    size: int


@dataclass(frozen=True)
class Memory:
    """Guest-physical memory.

    Attributes:
        size: in bytes, without holes.
        ranges: the pieces, ascending; those of other kinds than "memory" lie inside of these.
        not_shown: how many pieces there are more.
        counters: the kernel's own in bytes, each None when it is not known.
    """

    size: int
    ranges: Sequence[Range]
    not_shown: int
    counters: Optional[dict[str, Optional[int]]]


@dataclass(frozen=True)
class Module:
    """A loaded module.

    Attributes:
        name: of it.
        size: in bytes.
        taint: letters with their meanings; None when not known.
        out_of_tree: whether it is not part of the kernel's own source; None when not known.
    """

    name: str
    size: int
    taint: Optional[str]
    out_of_tree: Optional[bool]


@dataclass(frozen=True)
class File:
    """A file that the report was made of.

    Attributes:
        role: what it is.
        location: its URL.
        size: in bytes; None when it is not a local file.
        sha256: of the file as it is; None when it was not computed.
        note: why a figure is missing; empty when none is.
    """

    role: str
    location: str
    size: Optional[int]
    sha256: Optional[str]
    note: str


@dataclass(frozen=True)
class Evidence:
    """What the report was made of, with what, and when (UTC)."""

    files: Sequence[File]
    versions: dict[str, str]
    command: str
    created: str


@dataclass(frozen=True)
class Problem:
    """What a section cannot show, and why."""

    section: str
    reason: str


@dataclass(frozen=True)
class Headline:
    """What happened.

    Attributes:
        kind: for programs: "panic", "bug check", "kdump", "soft lockup", "hard lockup",
            "rcu stall", "hung", "idle", "user mode", "running", "unknown".
        text: for people: one sentence or some.
    """

    kind: str
    text: str


@dataclass(frozen=True)
class Report:
    """A report. A section that has nothing to show is None; `problems` say why, if it should."""

    headline: Headline
    system: Sequence[Item]
    panic: Optional[Panic]
    vcpus: Sequence[Vcpu]
    vcpus_not_shown: int
    log: Optional[Log]
    tasks: Optional[Tasks]
    memory: Memory
    modules: Optional[Sequence[Module]]
    evidence: Evidence
    problems: Sequence[Problem]
    schema_version: int = SCHEMA_VERSION

    def as_json(self) -> dict[str, Any]:
        """Returns what is written as JSON."""
        return dataclasses.asdict(self)


#: A field of JSON with its name and indent, or the markup around a text, is shorter.
_FIELD = 40
#: A number.
_NUMBER = 20
#: What HTML makes five characters of, and JSON two at most.
_ESCAPED = "&<>\"'"
#: What JSON makes of a character beyond ASCII at most, "\\ud83d\\ude00".
_BEYOND_ASCII = 12


def weight(value: object) -> int:
    """Returns how many bytes a part of a report takes at most, as HTML or as JSON."""
    if isinstance(value, str):
        if not value.isascii():
            return _BEYOND_ASCII * len(value)
        return len(value) + 4 * sum(map(value.count, _ESCAPED))
    if dataclasses.is_dataclass(value):
        return sum(_FIELD + weight(part) for part in vars(value).values())
    if isinstance(value, Mapping):
        return sum(_FIELD + weight(key) + weight(part) for key, part in value.items())
    if isinstance(value, Sequence):
        return sum(_NUMBER + weight(part) for part in value)
    return _NUMBER
