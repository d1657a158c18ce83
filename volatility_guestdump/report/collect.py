# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Collects what a report says. Each section is collected by itself, and fails by itself."""

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, TypeVar

from volatility_guestdump.attempts import Attempts
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks import frames as kernel_frames
from volatility_guestdump.linux.stacks.frames import NoteKind
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks, grouped
from volatility_guestdump.linux.state.memory_use import ResidentMemory, memory_use
from volatility_guestdump.linux.state.modules import Module
from volatility_guestdump.linux.state.printk import Log, read_log
from volatility_guestdump.linux.state.system import taint_names
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.state.timekeeper import NANOSECONDS
from volatility_guestdump.machine import VCPU, Machine, MemoryRange
from volatility_guestdump.report import document, facts, incident, rows, traces
from volatility_guestdump.x86.registers import Symbolize

#: What keeps the time that a report takes within bounds whatever the dump is.
_MAXIMUM_VCPUS = 512
_MAXIMUM_FRAMES = 100
_WHOLE_LOG = 1000
_LOG_END = 500
#: A record may have a thousand lines, of nothing at all.
_LOG_LINES = 4000
_MAXIMUM_WAITING = 1000
_MAXIMUM_GROUPS = 50
_MAXIMUM_PIDS = 100
_LARGEST = 15
_MAXIMUM_RANGES = 200
_MAXIMUM_MODULES = 1000
_MAXIMUM_PROBLEMS = 100

#: In characters. A function's name has 512 at most, and few have 100.
_MAXIMUM_TEXT = 1000
_MAXIMUM_SYMBOL = 300
_MAXIMUM_REASON = 300

#: What keeps the size of a report below 10 MB: how many bytes there are for the parts that have
#: many elements, see `document.weight`. All else has less than 2 MB in all.
_ROOM_FOR_VCPUS = 4_500_000
_ROOM_FOR_LOG = 1_800_000
_ROOM_FOR_TASKS = 1_000_000
_ROOM_FOR_MODULES = 500_000

_T = TypeVar("_T")

#: Bits of a module's taint: out of tree (TAINT_OOT_MODULE), proprietary (TAINT_PROPRIETARY_MODULE).
_OUT_OF_TREE = 1 << 12 | 1 << 0


@dataclass(frozen=True)
class Subject:
    """What a report is made of.

    Attributes:
        machine: the machine.
        linux: the Linux kernel that it runs, or None.
        stacks: of that kernel.
        kernel: facts of the kernel that it runs, whichever that is.
        no_kernel: why there is no Linux kernel.
        is_windows: whether it runs Windows.
        symbolize: names addresses in the kernel.
    """

    machine: Machine
    linux: Optional[LinuxKernel]
    stacks: Optional[Stacks]
    kernel: facts.KernelFacts
    no_kernel: str
    is_windows: bool
    symbolize: Symbolize


def collect(subject: Subject, evidence: document.Evidence, attempts: Attempts) -> document.Report:
    """Returns the report of a machine.

    Args:
        subject: what it is made of.
        evidence: files, programs, command and time.
        attempts: with what failed before; is told what else does.
    """
    return _Collector(subject, attempts).report(evidence)


class _Collector:
    def __init__(self, subject: Subject, attempts: Attempts) -> None:
        self._subject = subject
        self._machine = subject.machine
        self._linux = subject.linux
        self._stacks = subject.stacks
        self._attempts = attempts
        # What describes the registers alone may leave it to the memory file.
        self._there = self._machine.origin.ranges or self._machine.memory.ranges
        self._memory_size = sum(run.size for run in self._there)

    def report(self, evidence: document.Evidence) -> document.Report:
        make = self._attempts.make
        make("System", self._note_what_is_not_there)
        log = make("Kernel log", self._read_log)
        panic_stack = make("Panic", self._panic_stack)
        made = self._attempts.make_each("vCPUs", self._vcpu, self._machine.vcpus[:_MAXIMUM_VCPUS])
        vcpus = _fitting(made, _ROOM_FOR_VCPUS)
        tasks = make("Tasks", lambda: self._tasks(log))
        headline = make("Headline", lambda: self._headline(log, panic_stack, tasks, made))
        return document.Report(
            headline=headline or document.Headline("unknown", "What happened is not known."),
            system=self._system(),
            panic=make("Panic", lambda: self._panic(log, panic_stack)),
            vcpus=vcpus,
            vcpus_not_shown=len(self._machine.vcpus) - len(vcpus),
            log=make("Kernel log", lambda: _log(log)),
            tasks=tasks,
            memory=self._memory(),
            modules=make("Modules", self._modules),
            evidence=evidence,
            # The last that is made: it has what went wrong with all others.
            problems=self._problems(),
        )

    def _note_what_is_not_there(self) -> None:
        subject, note = self._subject, self._attempts.note
        if subject.linux is None and not subject.is_windows:
            note("Kernel", subject.no_kernel)
        elif subject.linux is None:
            note("Kernel log, tasks, modules", "they are shown of Linux guests alone")
        if subject.stacks is not None and subject.stacks.tasks_missing:
            note("Tasks", subject.stacks.tasks_missing)
        if not subject.machine.vcpus:
            note("vCPUs", f"{subject.machine.origin.format}: this image has no registers")
        symbols = subject.kernel.symbols
        if symbols is not None and symbols.missing:
            note("Symbols", symbols.missing)
        origin = subject.machine.origin
        if origin.missing_memory > 0 and origin.memory_location is not None:
            note("Memory", f"the file lacks {origin.missing_memory} bytes")
        elif origin.damage:
            note("Memory", origin.damage)

    def _problems(self) -> list[document.Problem]:
        failures = self._attempts.failures
        found = [
            document.Problem(failure.what, _short(failure.reason, _MAXIMUM_REASON))
            for failure in failures[:_MAXIMUM_PROBLEMS]
        ]
        if len(failures) > len(found):
            more = f"{len(failures) - len(found)} more failures"
            found.append(document.Problem("Not shown here", more))
        return found

    def _system(self) -> list[document.Item]:
        make, machine = self._attempts.make, self._machine
        found = make("System", lambda: list(rows.machine_rows(facts.machine_facts(machine)))) or []
        found += make("System", lambda: list(rows.kernel_rows(self._subject.kernel))) or []
        # Ranges of memory have a section of their own.
        return [
            document.Item(name, _short(value, 4 * _MAXIMUM_TEXT))
            for name, value in found
            if not name.startswith("Memory range")
        ]

    def _read_log(self) -> Optional[Log]:
        log = None if self._linux is None else read_log(self._linux)
        if log is not None and log.lost:
            self._attempts.note("Kernel log", f"{log.lost} records cannot be read")
        return log

    def _panic_stack(self) -> Optional[Stack]:
        return None if self._stacks is None else self._stacks.of_panic()

    def _panicked(self) -> Optional[bool]:
        number = self._linux.panic_cpu if self._linux else None
        return None if number is None else number >= 0

    def _headline(
        self,
        log: Optional[Log],
        panic_stack: Optional[Stack],
        tasks: Optional[document.Tasks],
        vcpus: Sequence[document.Vcpu],
    ) -> document.Headline:
        kernel = self._subject.kernel
        if self._subject.is_windows:
            return _windows_headline(kernel)
        if self._linux is None:
            reason = self._subject.no_kernel
            return document.Headline("unknown", f"What happened is not known: {reason}.")
        evidence = incident.Evidence(
            kernel,
            self._panicked(),
            panic_stack.frames if panic_stack else (),
            log.records if log else (),
            # That none hangs among some of the tasks says nothing.
            tasks.uninterruptible if tasks and (tasks.complete or tasks.uninterruptible) else None,
            vcpus,
            len(self._machine.vcpus),
        )
        found = incident.linux_headline(evidence)
        return document.Headline(found.kind, _short(found.text))

    def _panic(self, log: Optional[Log], panic_stack: Optional[Stack]) -> Optional[document.Panic]:
        kernel = self._subject.kernel
        if kernel.panic is None and not self._panicked():
            return None
        message = None if kernel.panic is None else _short(kernel.panic)
        if self._linux is None:
            # Windows tells of its bug check; its stacks are other plugins' work.
            return document.Panic(message, None, (), (), "only stacks of Linux kernels are shown")
        frames = panic_stack.frames if panic_stack else ()
        printed = traces.panic_trace(log.records) if log else []
        compared = traces.compare(frames, printed)
        return document.Panic(
            message,
            _short(rows.panic_task(kernel.panic_task)) if kernel.panic_task else None,
            _frames(frames, compared.in_log),
            [
                document.LogFrame(
                    _short(symbol, _MAXIMUM_SYMBOL),
                    compared.in_stack[number] if compared.in_stack else None,
                )
                for number, symbol in enumerate(printed)
            ],
            compared.words,
        )

    def _vcpu(self, vcpu: VCPU) -> document.Vcpu:
        make, name = self._attempts.make, f"vCPU {vcpu.number}"
        stack = make(name, lambda: self._stack_of(vcpu))
        task = stack.task if stack else None
        frames = stack.frames if stack else ()
        top = frames[0].symbol if frames else None
        if not frames:
            rip = vcpu.get("rip")
            top = None if rip is None else make(name, lambda: self._subject.symbolize(rip))
        return document.Vcpu(
            vcpu.number,
            self._state(vcpu, stack),
            task.pid if task else None,
            task.comm if task else None,
            _short(top or "", _MAXIMUM_SYMBOL),
            _frames(frames),
            make(name, lambda: self._registers(vcpu)) or (),
        )

    def _stack_of(self, vcpu: VCPU) -> Optional[Stack]:
        return None if self._stacks is None else self._stacks.of_vcpu(vcpu)

    def _state(self, vcpu: VCPU, stack: Optional[Stack]) -> str:
        kinds = {note.kind for frame in (stack.frames if stack else ()) for note in frame.notes}
        if kinds & {NoteKind.OFFLINE, NoteKind.NOT_STARTED}:
            return "off"
        if NoteKind.OTHER_KERNEL in kinds:
            return "other kernel"
        if stack is None and not self._subject.is_windows:
            return "unknown"
        if vcpu.ring or NoteKind.USER_MODE in kinds:
            return "user"
        if vcpu.ring is None and (stack is None or NoteKind.LACKS_REGISTERS in kinds):
            return "unknown"
        # What an interrupt does on an idle CPU is no idleness.
        idle = stack is not None and stack.task is not None and not stack.task.pid
        return "idle" if idle and not kinds & {NoteKind.INTERRUPT, NoteKind.EXCEPTION} else "kernel"

    def _registers(self, vcpu: VCPU) -> list[document.Register]:
        found = facts.register_facts(self._machine, self._linux, vcpu, self._subject.symbolize)
        return [
            document.Register(name, f"{value:#x}", _short(decoded, _MAXIMUM_SYMBOL))
            for name, value, decoded in found
            if value is not None
        ]

    def _tasks(self, log: Optional[Log]) -> Optional[document.Tasks]:
        stacks = self._stacks
        if stacks is None or stacks.tasks is None:
            return None
        tasks = stacks.all_tasks
        if not tasks:
            self._attempts.note("Tasks", "none can be found")
            return None
        last_ran = {task.address: stacks.tasks.last_ran(task) or 0 for task in tasks}
        now = max(last_ran.values())
        if log is not None and log.records:
            now = max(now, log.records[-1].nanoseconds)
        now = self._sane(now)
        seconds = {
            address: (now - ran) // NANOSECONDS if 0 < ran <= now else None
            for address, ran in last_ran.items()
        }
        waiting = [task for task in tasks if task.state == "D"]
        # The first is the one that has waited longest.
        waiting.sort(key=lambda task: -(seconds[task.address] or 0))
        groups, shown = self._groups(stacks, waiting, seconds)
        states = Counter(task.state or "?" for task in tasks)
        return document.Tasks(
            len(tasks),
            dict(sorted(states.items())),
            groups,
            len(waiting) - shown,
            self._attempts.make("Memory of tasks", lambda: self._largest(stacks)) or (),
            not stacks.tasks.broken,
        )

    def _sane(self, now: int) -> int:
        """Returns the scheduler's time, 0 when it is one that cannot be."""
        clock = self._subject.kernel.told.clock
        # Both clocks start with the kernel; one damaged task must not make all others old.
        if clock is not None and now > (clock.uptime.total_seconds() + 3600) * NANOSECONDS:
            return 0
        return now

    def _groups(
        self, stacks: Stacks, waiting: Sequence[Task], seconds: dict[int, Optional[int]]
    ) -> tuple[list[document.TaskGroup], int]:
        """Returns groups of tasks, and how many tasks are in them."""
        made = self._attempts.make_each
        found = made("Stacks of tasks", stacks.of_task, waiting[:_MAXIMUM_WAITING])
        groups = []
        for group in grouped(found)[:_MAXIMUM_GROUPS]:
            members = [task for task in group.tasks if task is not None]
            names = dict.fromkeys(task.comm for task in members)
            groups.append(
                document.TaskGroup(
                    len(members),
                    [task.pid for task in members[:_MAXIMUM_PIDS]],
                    list(names)[:_MAXIMUM_PIDS],
                    seconds.get(members[0].address),
                    _frames(group.frames),
                    self._waits_in(group.frames),
                )
            )
        shown = _fitting(groups, _ROOM_FOR_TASKS)
        return shown, sum(group.count for group in shown)

    def _waits_in(self, frames: Sequence[kernel_frames.Frame]) -> str:
        """Returns where a task waits, as the kernel itself finds it for /proc/PID/wchan."""
        linux = self._linux
        assert linux is not None, "it has tasks"
        # What may sleep on behalf of others is kept apart by __sched (include/linux/sched/debug.h).
        start, end = (linux.address(f"__sched_text_{edge}") for edge in ("start", "end"))
        if start is None or end is None:
            return ""
        places = (frame.symbol for frame in frames if frame.ip and not start <= frame.ip < end)
        return _short(next(places, ""))

    def _largest(self, stacks: Stacks) -> list[document.Process]:
        linux = self._linux
        assert linux is not None, "it has tasks"
        memory = ResidentMemory(linux, linux.require_types(), stacks.cpus.offsets)
        threads: dict[int, list[Task]] = {}
        for task in stacks.all_tasks:
            threads.setdefault(task.tgid, []).append(task)

        def make(exact: bool, found: Sequence[list[Task]]) -> list[tuple[int, list[Task]]]:
            made = self._attempts.make_each(
                "Memory of tasks", lambda process: (memory.of(process, exact) or 0, process), found
            )
            return sorted(made, key=lambda pair: -pair[0])

        roughly = make(False, list(threads.values()))
        exactly = make(True, [process for size, process in roughly[: 2 * _LARGEST] if size])
        return [
            # The thread that leads a process comes first.
            document.Process(process[0].tgid, process[0].comm, size)
            for size, process in exactly
            # A damaged counter may have any value.
            if 0 < size <= self._memory_size
        ][:_LARGEST]

    def _memory(self) -> document.Memory:
        ranges = self._attempts.make("Memory", lambda: list(self._ranges())) or []
        ranges.sort(key=lambda piece: int(piece.start, 16))
        shown = ranges[:_MAXIMUM_RANGES]
        return document.Memory(
            self._memory_size,
            shown,
            len(ranges) - len(shown),
            self._attempts.make("Memory counters", self._counters),
        )

    def _ranges(self) -> Iterator[document.Range]:
        machine, linux = self._machine, self._linux
        available = machine.memory.ranges
        # There may be thousands: each run is compared with those alone that lie in it.
        starts, ends = ([getattr(run, side) for run in available] for side in ("start", "end"))
        for run in self._there:
            yield _range("memory", run.start, run.end)
            first, last = bisect.bisect_right(ends, run.start), bisect.bisect_left(starts, run.end)
            yield from _missing(run, available[first:last])
        base = self._subject.kernel.physical_base
        if linux is not None and base is not None and linux.virtual_end > linux.virtual_base:
            end = base + linux.virtual_end - linux.virtual_base
            if end <= max((run.end for run in self._there), default=0):
                yield _range("kernel", base, end)

    def _counters(self) -> Optional[dict[str, Optional[int]]]:
        if self._linux is None:
            return None
        used = vars(memory_use(self._linux, self._attempts))
        return dict(used) if any(value is not None for value in used.values()) else None

    def _modules(self) -> Optional[list[document.Module]]:
        modules = self._linux.modules if self._linux else None
        if modules is None:
            return None
        loaded = list(modules)

        def make(module: Module) -> document.Module:
            taint = modules.taint(module)
            return document.Module(
                _short(module.name),
                module.size,
                None if taint is None else ", ".join(map(" ".join, taint_names(taint))),
                None if taint is None else bool(taint & _OUT_OF_TREE),
            )

        found = self._attempts.make_each("Modules", make, loaded)
        found.sort(key=lambda module: (not module.out_of_tree, not module.taint))
        shown = _fitting(found[:_MAXIMUM_MODULES], _ROOM_FOR_MODULES)
        if len(shown) < len(found):
            self._attempts.note("Modules", f"{len(found) - len(shown)} more are not shown")
        return shown


def _windows_headline(kernel: facts.KernelFacts) -> document.Headline:
    if kernel.panic:
        return document.Headline("bug check", _short(f"Windows bug check {kernel.panic}."))
    system = kernel.system or "Windows"
    if kernel.symbols is not None and kernel.symbols.location is None:
        text = f"{system}. Whether there was a bug check its symbols would tell; none are here."
        return document.Headline("unknown", text)
    return document.Headline("running", f"{system}. It keeps no record of a bug check.")


def _short(text: str, limit: int = _MAXIMUM_TEXT) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text) - limit} more characters)"


def _frames(
    frames: Sequence[kernel_frames.Frame], in_log: Sequence[bool] = ()
) -> list[document.Frame]:
    return [
        document.Frame(
            None if frame.ip is None else f"{frame.ip:#x}",
            _short(frame.symbol, _MAXIMUM_SYMBOL),
            _short(rows.notes(frame.notes), _MAXIMUM_SYMBOL),
            in_log[number] if in_log else None,
        )
        for number, frame in enumerate(frames[:_MAXIMUM_FRAMES])
    ]


def _fitting(parts: Sequence[_T], room: int) -> list[_T]:
    """Returns as many of the first parts as there is room for."""
    left, shown = room, []
    for part in parts:
        left -= document.weight(part)
        if left < 0:
            break
        shown.append(part)
    return shown


def _log(log: Optional[Log]) -> Optional[document.Log]:
    if log is None:
        return None
    whole = len(log.records) <= _WHOLE_LOG and not log.earlier
    lines: list[document.LogLine] = []
    shown, left = 0, _ROOM_FOR_LOG
    for record in reversed(log.records if whole else log.records[-_LOG_END:]):
        found = [
            document.LogLine(record.level, record.stamp, _short(line)) for line in record.lines
        ]
        left -= document.weight(found)
        if left < 0 or len(lines) + len(found) > _LOG_LINES:
            break
        lines += reversed(found)
        shown += 1
    return document.Log(lines[::-1], log.earlier + len(log.records) - shown, log.lost)


def _range(kind: str, start: int, end: int) -> document.Range:
    return document.Range(kind, f"{start:#x}", f"{end - 1:#x}", end - start)


def _missing(run: MemoryRange, available: Sequence[MemoryRange]) -> list[document.Range]:
    """Returns what of a run is in none of the ranges, which are ascending."""
    found, at = [], run.start
    for piece in available:
        if piece.end <= at or piece.start >= run.end:
            continue
        if piece.start > at:
            found.append(_range("missing", at, piece.start))
        at = max(at, piece.end)
    if at < run.end:
        found.append(_range("missing", at, run.end))
    return found
