# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a report says, as it is written as JSON: numbers, texts, booleans, times, and lists.

It is of bounded size whatever the guest is. Addresses are texts, "0xffffffff81000000": many readers
of JSON keep but 53 bits of a number. Sizes are in bytes. What is not known is None. Where a fact is
in words too, these are called `text`. The schema is in exports/report.schema.json.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Optional

#: Changes when what reads an older document could not read a newer one.
SCHEMA_VERSION = 2


@dataclass(frozen=True)
class MemoryFile:
    """The file with the guest's memory.

    Attributes:
        location: its URL, or where it is expected.
        state: "complete", "short", "damaged", "unreadable" or "missing".
        missing: bytes that it lacks; negative when it has too many.
        first_missing: the first guest-physical address that it lacks.
        damage: what of it cannot be understood; None when all is.
    """

    location: str
    state: str
    missing: int
    first_missing: Optional[str]
    damage: Optional[str]


@dataclass(frozen=True)
class Symbols:
    """Where the kernel's symbols and types come from.

    Attributes:
        location: URL of an installed ISF.
        kallsyms: whether the symbols are in the memory itself.
        types: whether the types are.
        missing: why not all is there; None when it is.
        downloadable: whether Volatility downloads what is not there.
    """

    location: Optional[str]
    kallsyms: bool
    types: bool
    missing: Optional[str]
    downloadable: bool


@dataclass(frozen=True)
class TaintFlag:
    """What a kernel, or a module, is tainted by: the kernel's letter for it, and its meaning."""

    letter: str
    meaning: str


@dataclass(frozen=True)
class Taint:
    """What a kernel is tainted by, or what a module taints it with: all bits, and each of them."""

    value: int
    flags: Sequence[TaintFlag]


@dataclass(frozen=True)
class Kdump:
    """Two kernels in one guest, the second of which kdump started when the first panicked.

    Attributes:
        is_second: whether the report is of the second.
        first_release: of the first kernel, as the second knows it.
        other_vcpus: numbers of the vCPUs that run another kernel than the one of the report.
    """

    is_second: bool
    first_release: Optional[str]
    other_vcpus: Sequence[int]


@dataclass(frozen=True)
class System:
    """The machine and its kernel; what is not known is None.

    Attributes:
        format: what describes the machine, "6 (ESXi 8.0 U2)".
        vcpus: how many it has; None of an image without registers.
        memory_size: bytes of memory that it has, without holes.
        memory_file: the file with the memory.
        paging: how the kernel turns virtual addresses into physical ones.
        page_table_isolation: whether it is on.
        operating_system: "Linux 6.1.0-56-cloud-amd64 (x64)".
        banner: what identifies the kernel.
        build_id: of the kernel, in hexadecimal.
        host_name: of the guest.
        time: of the day in the guest, by its kernel's clock.
        uptime: seconds since it booted.
        load_average: of 1, 5 and 15 minutes.
        command_line: of the kernel.
        taint: of the kernel.
        virtual_base: virtual address of the kernel's image.
        kaslr_shift: how far it runs from where it was linked to.
        physical_base: guest-physical address of the kernel's image.
        page_map: guest-physical address of the root page table (DTB).
        symbols: where they come from.
        kdump: of two kernels, which they are.
        found_by: how the kernel was found: "registers", "low memory", "VMCOREINFO" or "banner".
        no_linux: why no Linux kernel is known: "memory missing", "other system", "not found" or
            "search failed"; None when one is.
    """

    format: str
    vcpus: Optional[int]
    memory_size: Optional[int]
    memory_file: Optional[MemoryFile]
    paging: Optional[str] = None
    page_table_isolation: Optional[bool] = None
    operating_system: Optional[str] = None
    banner: Optional[str] = None
    build_id: Optional[str] = None
    host_name: Optional[str] = None
    time: Optional[datetime] = None
    uptime: Optional[float] = None
    load_average: Optional[Sequence[float]] = None
    command_line: Optional[str] = None
    taint: Optional[Taint] = None
    virtual_base: Optional[str] = None
    kaslr_shift: Optional[str] = None
    physical_base: Optional[str] = None
    page_map: Optional[str] = None
    symbols: Optional[Symbols] = None
    kdump: Optional[Kdump] = None
    found_by: Optional[str] = None
    no_linux: Optional[str] = None


@dataclass(frozen=True)
class Note:
    """What is to be said of a frame: how it was found, what changes here, why the trace ends.

    Attributes:
        kind: what it says: the name of a `NoteKind`, "system call".
        address: that it speaks of, if it does of one.
        text: all of it in words.
    """

    kind: str
    address: Optional[str]
    text: str


@dataclass(frozen=True)
class Frame:
    """A frame of a stack.

    Attributes:
        address: the instruction pointer or return address.
        symbol: where that is; empty when it is in no known code.
        notes: what is to be said of it.
        in_log: whether the kernel's own trace has it; None where the two are not compared.
    """

    address: Optional[str]
    symbol: str
    notes: Sequence[Note] = ()
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
class PanicTask:
    """Who panicked.

    Attributes:
        cpu: the kernel's number of the CPU that it ran on.
        vcpu: number of the vCPU that is this CPU; None when none is any more.
        pid: of the task; None where the task cannot be told.
        comm: name of the task; likewise.
        place: in the kernel, "panic+0x118"; empty where the stack does not lead there.
        text: all of it in words.
    """

    cpu: int
    vcpu: Optional[int]
    pid: Optional[int]
    comm: Optional[str]
    place: str
    text: str


@dataclass(frozen=True)
class Comparison:
    """The stack of who panicked against the trace that the kernel printed.

    Attributes:
        same: how many frames below panic() are the same; None where the two are not compared.
        different: how many are in one of them alone; likewise.
        incomparable: why the two are not compared: "not printed", "no stack", "not through
            panic()", "failed", "not Linux"; None when they are.
        text: all of it in words.
    """

    same: Optional[int]
    different: Optional[int]
    incomparable: Optional[str]
    text: str


@dataclass(frozen=True)
class Panic:
    """A panic, or the bug check of Windows.

    Attributes:
        message: what the kernel said.
        task: who panicked.
        frames: the stack of who panicked, the innermost first.
        log_frames: the trace in the kernel's log.
        comparison: of the two.
    """

    message: Optional[str]
    task: Optional[PanicTask]
    frames: Sequence[Frame]
    log_frames: Sequence[LogFrame]
    comparison: Comparison


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
        nanoseconds: since the guest booted.
        stamp: that time as the kernel prints it.
        text: of the line.
    """

    level: int
    nanoseconds: int
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
        taint: what it taints the kernel with; None when not known.
        out_of_tree: whether it is not part of the kernel's own source; None when not known.
    """

    name: str
    size: int
    taint: Optional[Taint]
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
    created: datetime


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
    system: System
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
        """Returns what is written as JSON: dictionaries, lists, texts, numbers and booleans."""
        made: dict[str, Any] = _plain(self)
        return made


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return {name: _plain(part) for name, part in vars(value).items()}
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(part) for part in value]
    return value


def iso(time: datetime) -> str:
    """Returns a time, which is UTC, by ISO 8601: "2026-11-26T03:00:00.250000Z"."""
    return f"{time.replace(tzinfo=None).isoformat()}Z"


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
