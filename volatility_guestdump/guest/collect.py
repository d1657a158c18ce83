# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Collects the facts of a guest. Each kind of them is collected by itself, and fails by itself."""

import bisect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from volatility_guestdump.attempts import Attempts
from volatility_guestdump.guest import system, traces
from volatility_guestdump.guest.facts import (
    GuestFacts,
    KernelFacts,
    MemoryFacts,
    ModuleFacts,
    NoLinux,
    PanicFacts,
    Piece,
    PieceKind,
    ProcessFacts,
    RegisterFacts,
    TaskFacts,
    VcpuFacts,
    VcpuState,
    WaitingGroup,
)
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.frames import Frame, NoteKind
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks, grouped
from volatility_guestdump.linux.state.memory_use import MemoryUse, ResidentMemory, memory_use
from volatility_guestdump.linux.state.modules import Module
from volatility_guestdump.linux.state.printk import Log, read_log
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.state.timekeeper import NANOSECONDS
from volatility_guestdump.machine import VCPU, Machine, MemoryRange
from volatility_guestdump.x86.registers import Symbolize

#: Limits that bound the time of collecting, whatever the dump is.
_MAXIMUM_VCPUS = 512
_MAXIMUM_WAITING = 1000
_LARGEST = 15


@dataclass(frozen=True)
class Subject:
    """What facts are collected of.

    Attributes:
        machine: the machine.
        linux: the Linux kernel that it runs, or None.
        stacks: of that kernel.
        kernel: facts of the kernel that it runs, whichever that is.
        no_linux: why there is no Linux kernel; None when there is one.
        symbolize: names addresses in the kernel.
    """

    machine: Machine
    linux: Optional[LinuxKernel]
    stacks: Optional[Stacks]
    kernel: KernelFacts
    no_linux: Optional[NoLinux]
    symbolize: Symbolize


def collect(subject: Subject, attempts: Attempts) -> GuestFacts:
    """Returns the facts of a guest.

    Args:
        subject: the guest.
        attempts: with what failed before; is told what else does.
    """
    return _Collector(subject, attempts).facts()


class _Collector:
    def __init__(self, subject: Subject, attempts: Attempts) -> None:
        self._subject = subject
        self._machine = subject.machine
        self._linux = subject.linux
        self._stacks = subject.stacks
        self._attempts = attempts
        # A file that describes registers alone may not say where memory is; the memory file does.
        self._there = self._machine.origin.ranges or self._machine.memory.ranges
        self._memory_size = sum(run.size for run in self._there)

    def facts(self) -> GuestFacts:
        make = self._attempts.make
        machine = system.machine_facts(self._machine, self._attempts)
        log = make("Kernel log", self._read_log)
        panic_stack = make("Panic", lambda: self._stacks.of_panic() if self._stacks else None)
        vcpus = self._attempts.make_each("vCPUs", self._vcpu, self._machine.vcpus[:_MAXIMUM_VCPUS])
        return GuestFacts(
            machine=machine,
            kernel=self._subject.kernel,
            no_linux=self._subject.no_linux,
            panicked=make("Panic", self._panicked),
            panic=make("Panic", lambda: self._panic(log, panic_stack)),
            vcpus=vcpus,
            log=log,
            tasks=make("Tasks", self._tasks),
            tasks_missing=make("Tasks", self._tasks_missing) or "",
            memory=self._memory(),
            modules=make("Modules", self._modules),
            # Made last, when all other failures are known.
            failures=tuple(self._attempts.failures),
        )

    def _read_log(self) -> Optional[Log]:
        log = None if self._linux is None else read_log(self._linux)
        if log is not None and log.lost:
            self._attempts.note("Kernel log", f"{log.lost} records cannot be read")
        return log

    def _panicked(self) -> Optional[bool]:
        number = self._linux.panic_cpu if self._linux else None
        return None if number is None else number >= 0

    def _panic(self, log: Optional[Log], stack: Optional[Stack]) -> Optional[PanicFacts]:
        if self._linux is None or (self._subject.kernel.panic is None and not self._panicked()):
            return None
        make, frames = self._attempts.make, stack.frames if stack else ()
        printed = make("Panic", lambda: traces.panic_trace(log.records) if log else []) or []
        compared = make("Panic", lambda: traces.compare(frames, printed))
        failed = traces.Comparison(incomparable=traces.Incomparable.FAILED)
        return PanicFacts(frames, printed, compared or failed)

    def _vcpu(self, vcpu: VCPU) -> VcpuFacts:
        make, name = self._attempts.make, f"vCPU {vcpu.number}"
        stack = make(name, lambda: self._stacks.of_vcpu(vcpu) if self._stacks else None)
        frames = stack.frames if stack else ()
        top = frames[0].symbol if frames else None
        if not frames:
            rip = vcpu.get("rip")
            top = None if rip is None else make(name, lambda: self._subject.symbolize(rip))
        return VcpuFacts(
            vcpu.number,
            self._state(vcpu, stack),
            stack.task if stack else None,
            top or "",
            frames,
            make(name, lambda: self._registers(vcpu)) or (),
        )

    def _state(self, vcpu: VCPU, stack: Optional[Stack]) -> VcpuState:
        kinds = {note.kind for frame in (stack.frames if stack else ()) for note in frame.notes}
        if kinds & {NoteKind.OFFLINE, NoteKind.NOT_STARTED}:
            return VcpuState.OFF
        if NoteKind.OTHER_KERNEL in kinds:
            return VcpuState.OTHER_KERNEL
        if stack is None and self._subject.no_linux is not NoLinux.OTHER_SYSTEM:
            return VcpuState.UNKNOWN
        if vcpu.ring or NoteKind.USER_MODE in kinds:
            return VcpuState.USER
        if vcpu.ring is None and (stack is None or NoteKind.LACKS_REGISTERS in kinds):
            return VcpuState.UNKNOWN
        # A CPU that handles an interrupt is not idle, though its task is the idle one.
        idle = stack is not None and stack.task is not None and not stack.task.pid
        rests = idle and not kinds & {NoteKind.INTERRUPT, NoteKind.EXCEPTION}
        return VcpuState.IDLE if rests else VcpuState.KERNEL

    def _registers(self, vcpu: VCPU) -> list[RegisterFacts]:
        subject = self._subject
        return list(system.register_facts(self._machine, self._linux, vcpu, subject.symbolize))

    def _tasks_missing(self) -> str:
        return self._stacks.tasks_missing if self._stacks is not None else ""

    def _tasks(self) -> Optional[TaskFacts]:
        stacks = self._stacks
        if stacks is None or stacks.tasks is None:
            return None
        tasks = stacks.all_tasks
        if not tasks:
            self._attempts.note("Tasks", "none can be found")
            return None
        waiting = [task for task in tasks if task.state == "D"]
        seconds = {task.address: self._seconds(stacks.since_ran(task)) for task in waiting}
        # The first is the one that has waited longest.
        waiting.sort(key=lambda task: -(seconds[task.address] or 0))
        found = self._attempts.make_each(
            "Stacks of tasks", stacks.of_task, waiting[:_MAXIMUM_WAITING]
        )
        groups = []
        for group in grouped(found):
            members = [task for task in group.tasks if task is not None]
            longest = seconds.get(members[0].address)
            groups.append(
                WaitingGroup(members, longest, group.frames, self._waits_in(group.frames))
            )
        return TaskFacts(
            len(tasks),
            dict(sorted(Counter(task.state or "?" for task in tasks).items())),
            groups,
            self._attempts.make("Memory of tasks", lambda: self._largest(stacks)) or (),
            not stacks.tasks.broken,
        )

    def _seconds(self, nanoseconds: Optional[int]) -> Optional[int]:
        """Returns for how long a task has not run in seconds, None when that cannot be."""
        clock = self._subject.kernel.told.clock
        seconds = None if nanoseconds is None else nanoseconds // NANOSECONDS
        # No task is older than the kernel, whose clock was last brought forward by some CPU.
        if seconds is None or (clock is not None and seconds > clock.uptime.total_seconds() + 3600):
            return None
        return seconds

    def _waits_in(self, frames: Sequence[Frame]) -> str:
        """Returns where a task waits, as the kernel itself finds it for /proc/PID/wchan."""
        linux = self._linux
        assert linux is not None, "it has tasks"
        # The scheduler's own functions, and locks that wait by them, lie in a section of their own
        # (__sched, include/linux/sched/debug.h).
        start, end = (linux.address(f"__sched_text_{edge}") for edge in ("start", "end"))
        if start is None or end is None:
            return ""
        places = (frame.symbol for frame in frames if frame.ip and not start <= frame.ip < end)
        return next(places, "")

    def _largest(self, stacks: Stacks) -> list[ProcessFacts]:
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
            ProcessFacts(process[0].tgid, process[0].comm, size)
            for size, process in exactly
            # A damaged counter may have any value.
            if 0 < size <= self._memory_size
        ][:_LARGEST]

    def _memory(self) -> MemoryFacts:
        pieces = self._attempts.make("Memory", lambda: list(self._pieces())) or []
        pieces.sort(key=lambda piece: piece.start)
        return MemoryFacts(
            self._memory_size, pieces, self._attempts.make("Memory counters", self._use)
        )

    def _pieces(self) -> Iterator[Piece]:
        machine, linux = self._machine, self._linux
        available = machine.memory.ranges
        # There may be thousands: each run is compared with those alone that lie in it.
        starts, ends = ([getattr(run, side) for run in available] for side in ("start", "end"))
        for run in self._there:
            yield Piece(PieceKind.MEMORY, run.start, run.size)
            first, last = bisect.bisect_right(ends, run.start), bisect.bisect_left(starts, run.end)
            yield from _missing(run, available[first:last])
        base = self._subject.kernel.physical_base
        if linux is not None and base is not None and linux.virtual_end > linux.virtual_base:
            size = linux.virtual_end - linux.virtual_base
            if base + size <= max((run.end for run in self._there), default=0):
                yield Piece(PieceKind.KERNEL, base, size)

    def _use(self) -> Optional[MemoryUse]:
        if self._linux is None:
            return None
        use = memory_use(self._linux, self._attempts)
        return use if any(value is not None for value in vars(use).values()) else None

    def _modules(self) -> Optional[list[ModuleFacts]]:
        modules = self._linux.modules if self._linux else None
        if modules is None:
            return None
        loaded = list(modules)

        def make(module: Module) -> ModuleFacts:
            return ModuleFacts(module.name, module.size, modules.taint(module))

        if modules.broken:
            self._attempts.note("Modules", modules.broken)
            if not loaded:
                return None
        found = self._attempts.make_each("Modules", make, loaded)
        found.sort(key=lambda module: (not module.out_of_tree, not module.taint))
        return found


def _missing(run: MemoryRange, available: Sequence[MemoryRange]) -> list[Piece]:
    """Returns what of a run is in none of the ranges, which are ascending."""
    found, at = [], run.start
    for piece in available:
        if piece.end <= at or piece.start >= run.end:
            continue
        if piece.start > at:
            found.append(Piece(PieceKind.MISSING, at, piece.start - at))
        at = max(at, piece.end)
    if at < run.end:
        found.append(Piece(PieceKind.MISSING, at, run.end - at))
    return found
