# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Collects what a report says. Each section is collected by itself, and fails by itself."""

import contextlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Optional, TypeVar

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux import frames as kernel_frames
from volatility_guestdump.linux.frames import Kind
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.memory_use import ResidentMemory, memory_use
from volatility_guestdump.linux.printk import Log, read_log
from volatility_guestdump.linux.stacks import Stack, Stacks, grouped
from volatility_guestdump.linux.system import taint_names
from volatility_guestdump.linux.tasks import Cpus, Task
from volatility_guestdump.machine import OPTIONAL_REGISTERS, REGISTERS, VCPU, Machine, MemoryRange
from volatility_guestdump.report import document, facts, incident, rows, traces
from volatility_guestdump.x86 import registers
from volatility_guestdump.x86.paging import find_paging

_logger = logging.getLogger(__name__)

#: What keeps the size of a report, and the time it takes, within bounds whatever the dump is.
_MAXIMUM_VCPUS = 512
_MAXIMUM_FRAMES = 100
_MAXIMUM_TEXT = 1000
_WHOLE_LOG = 1000
_LOG_END = 500
_MAXIMUM_LOG_LINES = 4000
_MAXIMUM_WAITING = 1000
_MAXIMUM_GROUPS = 50
_MAXIMUM_PIDS = 100
_LARGEST = 15
_MAXIMUM_RANGES = 200
_MAXIMUM_MODULES = 1000

#: Bits of a module's taint: out of tree (TAINT_OOT_MODULE), proprietary (TAINT_PROPRIETARY_MODULE).
_OUT_OF_TREE = 1 << 12 | 1 << 0

_T = TypeVar("_T")

#: Names an address, as `LinuxKernel.symbolize` does.
Symbolize = Callable[[int], Optional[str]]


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


def collect(subject: Subject, evidence: document.Evidence) -> document.Report:
    """Returns the report of a machine."""
    return _Collector(subject).report(evidence)


class _Collector:
    def __init__(self, subject: Subject) -> None:
        self._subject = subject
        self._machine = subject.machine
        self._linux = subject.linux
        self._problems: list[document.Problem] = []
        self._stacks = subject.stacks
        if self._stacks is not None and self._stacks.tasks_missing:
            self._problem("Tasks", self._stacks.tasks_missing)

    def _problem(self, section: str, reason: str) -> None:
        self._problems.append(document.Problem(section, _short(reason)))

    def _section(self, name: str, make: Callable[[], Optional[_T]]) -> Optional[_T]:
        """Returns a section, or None when what it is made of is damaged."""
        try:
            return make()
        except Exception as error:
            # Not only the errors that are meant for this: whatever is wrong with one section, the
            # others are wanted.
            _logger.debug("section %s", name, exc_info=True)
            self._problem(name, str(error) or type(error).__name__)
            return None

    def report(self, evidence: document.Evidence) -> document.Report:
        machine, linux = self._machine, self._linux
        if linux is None and not self._subject.is_windows:
            self._problem("Kernel", self._subject.no_kernel)
        elif linux is None:
            self._problem("Kernel log, tasks, modules", "they are shown of Linux guests alone")
        if not machine.vcpus:
            self._problem("vCPUs", f"{machine.origin.format}: this image has no registers")
        symbols = self._subject.kernel.symbols
        if symbols is not None and symbols.missing:
            self._problem("Symbols", symbols.missing)
        log = self._section("Kernel log", self._read_log)
        panic_stack = self._section("Panic", self._panic_stack)
        vcpus = self._section("vCPUs", self._vcpus) or []
        tasks = self._section("Tasks", lambda: self._tasks(log))
        headline = self._section("Headline", lambda: self._headline(log, panic_stack, tasks, vcpus))
        return document.Report(
            headline or document.Headline("unknown", "What happened is not known."),
            self._system(),
            self._section("Panic", lambda: self._panic(log, panic_stack)),
            vcpus,
            max(0, len(machine.vcpus) - len(vcpus)),
            self._section("Kernel log", lambda: _log(log)),
            tasks,
            self._memory(),
            self._section("Modules", self._modules),
            evidence,
            tuple(dict.fromkeys(self._problems)),
        )

    def _system(self) -> list[document.Item]:
        found = [*rows.machine_rows(facts.machine_facts(self._machine))]
        found += rows.kernel_rows(self._subject.kernel)
        # Ranges of memory have a section of their own.
        return [
            document.Item(name, _short(value, 4 * _MAXIMUM_TEXT))
            for name, value in found
            if not name.startswith("Memory range")
        ]

    def _read_log(self) -> Optional[Log]:
        return None if self._linux is None else read_log(self._linux)

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
            tasks.uninterruptible if tasks else (),
            vcpus,
            bool(self._machine.vcpus),
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
            rows.panic_task(kernel.panic_task) if kernel.panic_task else None,
            _frames(frames, compared.in_log),
            [
                document.LogFrame(
                    _short(symbol), compared.in_stack[number] if compared.in_stack else None
                )
                for number, symbol in enumerate(printed)
            ],
            compared.words,
        )

    def _vcpus(self) -> list[document.Vcpu]:
        found = []
        for vcpu in self._machine.vcpus[:_MAXIMUM_VCPUS]:
            name = f"vCPU {vcpu.number}"
            stack = self._section(name, lambda vcpu=vcpu: self._stack_of(vcpu))  # type: ignore[misc]
            values = self._section(name, lambda vcpu=vcpu: self._registers(vcpu))  # type: ignore[misc]
            task = stack.task if stack else None
            frames = stack.frames if stack else ()
            top = frames[0].symbol if frames else ""
            if not frames:
                top = self._subject.symbolize(vcpu["rip"]) or ""
            found.append(
                document.Vcpu(
                    vcpu.number,
                    self._state(vcpu, stack),
                    task.pid if task else None,
                    task.comm if task else None,
                    _short(top),
                    _frames(frames),
                    values or (),
                )
            )
        return found

    def _stack_of(self, vcpu: VCPU) -> Optional[Stack]:
        return None if self._stacks is None else self._stacks.of_vcpu(vcpu)

    def _state(self, vcpu: VCPU, stack: Optional[Stack]) -> str:
        kinds = {note.kind for frame in (stack.frames if stack else ()) for note in frame.notes}
        if kinds & {Kind.OFFLINE, Kind.NOT_STARTED}:
            return "off"
        if Kind.OTHER_KERNEL in kinds:
            return "other kernel"
        if stack is None and not self._subject.is_windows:
            return "unknown"
        # The lowest two bits of CS are the ring.
        if vcpu["cs"] & 3:
            return "user"
        # What an interrupt does on an idle CPU is no idleness.
        idle = stack is not None and stack.task is not None and not stack.task.pid
        return "idle" if idle and not kinds & {Kind.INTERRUPT, Kind.EXCEPTION} else "kernel"

    def _registers(self, vcpu: VCPU) -> list[document.Register]:
        linux = self._linux
        mode, tables = find_paging(self._machine.memory.read, vcpu)
        user_half = None
        if linux and tables:
            mode = linux.tables.mode
            user_half = linux.loaded_user_half(vcpu)
        return [
            document.Register(
                name,
                f"{vcpu[name]:#x}",
                _short(registers.decode(vcpu, name, mode, user_half, self._subject.symbolize)),
            )
            for name in (*REGISTERS, *OPTIONAL_REGISTERS)
            if vcpu.get(name) is not None
        ]

    def _tasks(self, log: Optional[Log]) -> Optional[document.Tasks]:
        stacks = self._stacks
        if stacks is None or stacks.tasks is None:
            return None
        tasks = stacks.all_tasks
        if not tasks:
            self._problem("Tasks", "none can be found")
            return None
        last_ran = {task.address: stacks.tasks.last_ran(task) or 0 for task in tasks}
        now = max(last_ran.values())
        if log is not None and log.records:
            now = max(now, log.records[-1].nanoseconds)
        now = self._sane(now)
        seconds = {
            address: (now - ran) // 1_000_000_000 if 0 < ran <= now else None
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
            self._section("Memory of tasks", lambda: self._largest(tasks)) or (),
        )

    def _sane(self, now: int) -> int:
        """Returns the scheduler's time, 0 when it is one that cannot be."""
        clock = self._subject.kernel.told.clock
        # Both clocks start with the kernel; one damaged task must not make all others old.
        if clock is not None and now > (clock.uptime.total_seconds() + 3600) * 1e9:
            return 0
        return now

    def _groups(
        self, stacks: Stacks, waiting: Sequence[Task], seconds: dict[int, Optional[int]]
    ) -> tuple[list[document.TaskGroup], int]:
        """Returns groups of tasks, and how many tasks are in them."""
        found = []
        for task in waiting[:_MAXIMUM_WAITING]:
            with contextlib.suppress(AddressError):
                found.append(stacks.of_task(task))
        groups, shown = [], 0
        for group in grouped(found)[:_MAXIMUM_GROUPS]:
            members = [task for task in group.tasks if task is not None]
            shown += len(members)
            names = dict.fromkeys(task.comm for task in members)
            groups.append(
                document.TaskGroup(
                    len(members),
                    [task.pid for task in members[:_MAXIMUM_PIDS]],
                    list(names)[:_MAXIMUM_PIDS],
                    seconds.get(members[0].address),
                    _frames(group.frames),
                )
            )
        return groups, shown

    def _largest(self, tasks: Sequence[Task]) -> list[document.Process]:
        linux = self._linux
        assert linux is not None, "it has tasks"
        offsets = Cpus(linux, linux.types, self._machine.vcpus).offsets
        memory = ResidentMemory(linux, linux.btf, offsets)
        found = []
        for task in tasks:
            if task.pid != task.tgid:
                continue
            with contextlib.suppress(AddressError):
                size = memory.of(task)
                if size:
                    found.append((size, task))
        found.sort(key=lambda pair: -pair[0])
        largest = []
        for size, task in found[: 2 * _LARGEST]:
            with contextlib.suppress(AddressError):
                exact = memory.of(task, exact=True) or size
                # A damaged counter may have any value.
                if exact <= self._machine.origin.memory_size:
                    largest.append(document.Process(task.pid, task.comm, exact))
        return sorted(largest, key=lambda process: -process.resident)[:_LARGEST]

    def _memory(self) -> document.Memory:
        origin, linux = self._machine.origin, self._linux
        there = origin.ranges or self._machine.memory.ranges
        ranges = [_range("memory", run.start, run.end) for run in there]
        available = self._machine.memory.ranges
        for run in origin.ranges:
            missing = self._section("Memory", lambda run=run: _missing(run, available))  # type: ignore[misc]
            ranges += missing or []
        base = self._subject.kernel.physical_base
        if linux is not None and base is not None and linux.virtual_end > linux.virtual_base:
            end = base + linux.virtual_end - linux.virtual_base
            if end <= max((run.end for run in there), default=0):
                ranges.append(_range("kernel", base, end))
        ranges.sort(key=lambda piece: int(piece.start, 16))
        if self._machine.origin.missing_memory > 0 and origin.memory_location is not None:
            self._problem("Memory", f"the file lacks {origin.missing_memory} bytes")
        elif origin.damage:
            self._problem("Memory", origin.damage)
        counters = self._section("Memory counters", self._counters)
        shown = ranges[:_MAXIMUM_RANGES]
        return document.Memory(
            sum(run.size for run in there), shown, len(ranges) - len(shown), counters
        )

    def _counters(self) -> Optional[dict[str, Optional[int]]]:
        if self._linux is None:
            return None
        used = vars(memory_use(self._linux))
        return dict(used) if any(value is not None for value in used.values()) else None

    def _modules(self) -> Optional[list[document.Module]]:
        modules = self._linux.modules if self._linux else None
        if modules is None:
            return None
        found = []
        for module in list(modules)[:_MAXIMUM_MODULES]:
            taint = modules.taint(module)
            words = None if taint is None else ", ".join(map(" ".join, taint_names(taint)))
            found.append(
                document.Module(
                    _short(module.name),
                    module.size,
                    words,
                    None if taint is None else bool(taint & _OUT_OF_TREE),
                )
            )
        left_out = len(list(modules)) - len(found)
        if left_out:
            self._problem("Modules", f"{left_out} more are not shown")
        return sorted(found, key=lambda module: (not module.out_of_tree, not module.taint))


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
            _short(frame.symbol),
            _short(rows.notes(frame.notes)),
            in_log[number] if in_log else None,
        )
        for number, frame in enumerate(frames[:_MAXIMUM_FRAMES])
    ]


def _log(log: Optional[Log]) -> Optional[document.Log]:
    if log is None:
        return None
    whole = len(log.records) <= _WHOLE_LOG and not log.earlier
    records = log.records if whole else log.records[-_LOG_END:]
    lines = [
        document.LogLine(record.level, record.stamp, _short(line))
        for record in records
        for line in record.lines
    ]
    left_out = log.earlier + len(log.records) - len(records)
    return document.Log(lines[-_MAXIMUM_LOG_LINES:], left_out, log.lost)


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
