# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is known of a guest, as typed facts, without words.

They hold no file open, and can be pickled: one process can hand them to another. Addresses are
numbers, sizes are in bytes, times are UTC. What is not known is None. `system` and `collect` find
them, `words` says them.
"""

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional, Protocol

from volatility_guestdump.attempts import Failure
from volatility_guestdump.guest.traces import Comparison
from volatility_guestdump.linux.stacks.frames import Frame
from volatility_guestdump.linux.stacks.stacks import PanicTask
from volatility_guestdump.linux.state.memory_use import MemoryUse
from volatility_guestdump.linux.state.printk import Log
from volatility_guestdump.linux.state.system import NOTHING_TOLD, SystemFacts
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.x86.paging import PagingMode


class FileState(enum.Enum):
    """What there is of a memory file."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    SHORT = "short"
    DAMAGED = "damaged"
    COMPLETE = "complete"


@dataclass(frozen=True)
class MemoryFileFacts:
    """The file with the memory.

    Attributes:
        location: its URL, or where it is expected.
        state: what there is of it.
        missing: bytes that it lacks; negative when it has too many.
        first_missing: the first guest-physical address that it lacks, or None.
        damage: what of it cannot be understood, so that memory may be missing; else empty.
    """

    location: str
    state: FileState
    missing: int
    first_missing: Optional[int]
    damage: str = ""


@dataclass(frozen=True)
class MachineFacts:
    """A machine, whatever it runs.

    Attributes:
        format: what describes it.
        vcpus: how many it has, or None when that is not known.
        memory_size: in bytes, without holes.
        ranges: of guest-physical memory.
        memory_file: the file with the memory; None when nothing can be told of it.
    """

    format: str
    vcpus: Optional[int]
    memory_size: int
    ranges: Sequence[MemoryRange]
    memory_file: Optional[MemoryFileFacts]


@dataclass(frozen=True)
class Symbols:
    """Where a kernel's symbols and types come from.

    Attributes:
        location: URL of an installed ISF, or None.
        kallsyms: whether the symbols are in the memory itself.
        types: whether the types are.
        missing: why not all is there; empty when it is.
        downloadable: whether Volatility downloads what is not there.
    """

    location: Optional[str]
    kallsyms: bool = False
    types: bool = False
    missing: str = ""
    downloadable: bool = False


@dataclass(frozen=True)
class TaskCount:
    """How many tasks (threads) a guest has, without the idle ones.

    Attributes:
        all: of them.
        uninterruptible: those in uninterruptible sleep, state D; None when states are not known.
        whole: whether there are no more, as far as the lists of them tell.
    """

    all: int
    uninterruptible: Optional[int]
    whole: bool = True


@dataclass(frozen=True)
class Kdump:
    """Two kernels in one guest, the second of which kdump started when the first panicked.

    Attributes:
        is_second: whether the kernel looked at is the second.
        first_release: of the first kernel, as the second knows it, or None.
        other_vcpus: numbers of the vCPUs that run another kernel than the one looked at.
    """

    is_second: bool
    first_release: Optional[str]
    other_vcpus: Sequence[int]


@dataclass(frozen=True)
class KernelFacts:
    """A kernel; what is not known is None.

    Attributes:
        paging: how it turns virtual addresses into physical ones.
        isolation: whether page-table isolation is on.
        system: what it is, "Linux 6.1.0-56-cloud-amd64 (x64)".
        banner: what identifies it.
        build_id: in hexadecimal.
        told: what it tells of its system.
        tasks: how many there are.
        virtual_base: virtual address of the image's start.
        kaslr_shift: how far it runs from where it was linked to.
        physical_base: guest-physical address of the image's start.
        page_map: physical address of the root page table.
        symbols: where they come from.
        panic: why it stopped.
        panic_task: who stopped it.
        kdump: when there are two kernels.
        found_by: how it was found: "registers", "low memory", "VMCOREINFO" or "banner".
    """

    paging: Optional[PagingMode] = None
    isolation: Optional[bool] = None
    system: Optional[str] = None
    banner: Optional[str] = None
    build_id: Optional[str] = None
    told: SystemFacts = NOTHING_TOLD
    tasks: Optional[TaskCount] = None
    virtual_base: Optional[int] = None
    kaslr_shift: Optional[int] = None
    physical_base: Optional[int] = None
    page_map: Optional[int] = None
    symbols: Optional[Symbols] = None
    panic: Optional[str] = None
    panic_task: Optional[PanicTask] = None
    kdump: Optional[Kdump] = None
    found_by: Optional[str] = None


class NoLinux(enum.Enum):
    """Why no Linux kernel is known of a guest."""

    MEMORY_MISSING = "memory missing"
    OTHER_SYSTEM = "other system"
    NOT_FOUND = "not found"
    SEARCH_FAILED = "search failed"


class BugChecks(Protocol):
    """Who can tell why a Windows kernel stopped: its symbols."""

    def bug_check(self) -> Optional[str]:
        """Returns code, name and parameters of the bug check, or None when there was none."""


class RegisterFacts(NamedTuple):
    """A register of a vCPU.

    Attributes:
        name: its name, "cr3".
        value: of it; None where the image lacks it.
        meaning: of its value, "PG WP PE"; empty where there is nothing to say.
    """

    name: str
    value: Optional[int]
    meaning: str


class VcpuState(enum.Enum):
    """What a vCPU did."""

    USER = "user"
    KERNEL = "kernel"
    IDLE = "idle"
    OFF = "off"
    OTHER_KERNEL = "other kernel"
    #: Without a known kernel.
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class VcpuFacts:
    """A vCPU.

    Attributes:
        number: counts from 0.
        state: what it did.
        task: that it ran, or None.
        place: where it was, "default_idle+0xb"; empty when that is not known.
        frames: its stack, the innermost first; empty where there is none.
        registers: in the order in which a reader looks for them.
    """

    number: int
    state: VcpuState
    task: Optional[Task]
    place: str
    frames: Sequence[Frame]
    registers: Sequence[RegisterFacts]


@dataclass(frozen=True)
class PanicFacts:
    """A panic of Linux.

    Attributes:
        frames: the stack of who panicked, the innermost first; empty where it is not known.
        printed: the trace in the kernel's log, "panic+0x118" each.
        comparison: of the two.
    """

    frames: Sequence[Frame]
    printed: Sequence[str]
    comparison: Comparison


@dataclass(frozen=True)
class WaitingGroup:
    """Tasks in uninterruptible sleep with the same frames.

    Attributes:
        tasks: the one that has waited longest first.
        seconds: for how long that one has not run, at least; None when not known.
        frames: of each of them.
        waits_in: the first of these that is not of the scheduler, nor of a lock or completion;
            empty when it is not known.
    """

    tasks: Sequence[Task]
    seconds: Optional[int]
    frames: Sequence[Frame]
    waits_in: str = ""


@dataclass(frozen=True)
class ProcessFacts:
    """A process.

    Attributes:
        pid: its number.
        comm: name of the thread that leads it.
        resident: bytes of memory that it has resident.
    """

    pid: int
    comm: str
    resident: int


@dataclass(frozen=True)
class TaskFacts:
    """The tasks (threads).

    Attributes:
        count: of all, without the idle ones.
        states: letter as in ps -> how many; "?" for those whose state is not known.
        waiting: tasks in uninterruptible sleep, the largest group first. Left out are those beyond
            the first thousand, and those whose stack cannot be read.
        largest: processes with the most resident memory.
        complete: whether their lists are whole; otherwise there are more than these.
    """

    count: int
    states: Mapping[str, int]
    waiting: Sequence[WaitingGroup]
    largest: Sequence[ProcessFacts]
    complete: bool = True


class PieceKind(enum.Enum):
    """What a piece of guest-physical memory is."""

    MEMORY = "memory"
    #: The guest had it, the file does not.
    MISSING = "missing"
    #: The kernel's image.
    KERNEL = "kernel"


class Piece(NamedTuple):
    """A piece of guest-physical memory.

    Attributes:
        kind: what it is. Pieces of the other kinds lie inside of those that are memory.
        start: its first guest-physical address.
        size: in bytes.
    """

    kind: PieceKind
    start: int
    size: int


@dataclass(frozen=True)
class MemoryFacts:
    """Guest-physical memory.

    Attributes:
        size: in bytes, without holes.
        pieces: ascending.
        use: the kernel's own counters; None when none of them is known.
    """

    size: int
    pieces: Sequence[Piece]
    use: Optional[MemoryUse]


@dataclass(frozen=True)
class ModuleFacts:
    """A loaded module.

    Attributes:
        name: of it.
        size: in bytes.
        taint: bits that it taints the kernel with, see `taint_names`; None when not known.
    """

    name: str
    size: int
    taint: Optional[int]

    @property
    def out_of_tree(self) -> Optional[bool]:
        """Whether it is not part of the kernel's own source; None when not known."""
        return None if self.taint is None else bool(self.taint & _OUT_OF_TREE)


#: Bits of a module's taint: out of tree (TAINT_OOT_MODULE), proprietary (TAINT_PROPRIETARY_MODULE).
_OUT_OF_TREE = 1 << 12 | 1 << 0


@dataclass(frozen=True)
class GuestFacts:
    """All that is known of a guest.

    Attributes:
        machine: whatever it runs.
        kernel: that it runs; of an unknown one only how the vCPUs page is known.
        no_linux: why no Linux kernel is known, or None when one is.
        panicked: whether the Linux kernel did; None when that cannot be told.
        panic: of the Linux kernel, when it is known to have panicked.
        vcpus: those that could be looked at, 512 of them at most; empty without registers.
        log: of the kernel, or None.
        tasks: or None.
        tasks_missing: why tasks cannot be listed, of a Linux kernel that does not tell; else empty.
        memory: guest-physical memory.
        modules: those that are out of tree first; None when they are not known.
        failures: what could not be read, and why.
        warnings: what is missing, left out or odd about the files, when they were opened for this.
    """

    machine: MachineFacts
    kernel: KernelFacts
    no_linux: Optional[NoLinux]
    panicked: Optional[bool]
    panic: Optional[PanicFacts]
    vcpus: Sequence[VcpuFacts]
    log: Optional[Log]
    tasks: Optional[TaskFacts]
    tasks_missing: str
    memory: MemoryFacts
    modules: Optional[Sequence[ModuleFacts]]
    failures: Sequence[Failure] = ()
    warnings: Sequence[str] = ()
