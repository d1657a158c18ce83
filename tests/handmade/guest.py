# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A Linux guest that a report can be made of, with any number of things in it and any text."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta, timezone
from typing import Any, NamedTuple, Optional, cast

from tests.handmade import printk
from tests.handmade.btf import BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from tests.handmade.printk import Entry
from tests.helpers import IDLE_VCPU, machine
from volatility_guestdump.guest.collect import Subject
from volatility_guestdump.guest.facts import KernelFacts, Symbols, TaskCount
from volatility_guestdump.linux.stacks.frames import Frame, Note, NoteKind
from volatility_guestdump.linux.stacks.stacks import PanicTask, Stack, Stacks
from volatility_guestdump.linux.state.modules import Module
from volatility_guestdump.linux.state.system import SystemFacts
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.state.timekeeper import Clock
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.machine import VCPU, Machine, MemoryRange, Origin
from volatility_guestdump.text import printable
from volatility_guestdump.x86.paging import PagingMode

SECOND = 1_000_000_000
NOW = 5000
#: Behind these, every task has the same memory.
_TASKS, _MM = 1 << 60, 0x20000
#: The kernel has no more of a task's name.
_COMM = 15
_PAGES = (100, 20, 5, 3)
_RANGES = (MemoryRange(0, 1 << 29, 0), MemoryRange(1 << 32, 1 << 28, 1 << 29))


class Counts(NamedTuple):
    """How many things there are in a guest."""

    vcpus: int = 2
    frames: int = 4
    tasks: int = 20
    #: Of the tasks, those in uninterruptible sleep, each with a stack of its own.
    waiting: int = 3
    records: int = 10
    modules: int = 3


_FEW = Counts()


class GuestKernel(HandmadeKernel):
    """A kernel with a log, counters, modules and tasks."""

    virtual_base, virtual_end = 0xFFFFFFFF81000000, 0xFFFFFFFF83000000
    mode = PagingMode.FOUR_LEVEL
    modules: Optional["GuestModules"] = None

    def read(self, address: int, length: int) -> bytes:
        """Reads what was written, or a task."""
        if address >= _TASKS:
            return _MM.to_bytes(length, "little")
        return super().read(address, length)

    def runs_on(self, vcpu: VCPU) -> Optional[bool]:
        """Every vCPU runs it."""
        return True

    def loaded_user_half(self, vcpu: VCPU) -> bool:
        """No vCPU has it loaded."""
        return False


class GuestModules(list[Module]):
    """Modules, every other one of which is out of tree.

    Attributes:
        broken: why some may be missing.
    """

    broken = ""

    def taint(self, module: Module) -> Optional[int]:
        """Returns what a module taints the kernel with."""
        return 1 << 12 if module.address % 2 else 0


class GuestStacks:
    """What vCPUs and tasks do.

    Args:
        tasks: all of them.
        frames: of each of them.
    """

    def __init__(self, tasks: Sequence[Task], frames: Sequence[Frame]) -> None:
        self.tasks = self
        self.tasks_missing = self.broken = ""
        self.all_tasks = tasks
        self.cpus = self
        self.offsets: Sequence[int] = ()
        self.frames = frames

    def since_ran(self, task: Task) -> Optional[int]:
        """Returns for how long a task has not run."""
        return (task.pid % 100 - 1) * SECOND

    def of_vcpu(self, vcpu: VCPU) -> Stack:
        """Returns what a vCPU does."""
        return Stack(vcpu, self.all_tasks[vcpu.number % len(self.all_tasks)], self.frames)

    def of_task(self, task: Task) -> Stack:
        """Returns what a task waits for; no other waits there."""
        return Stack(None, task, [*self.frames, Frame(1, task.pid, f"own+{task.pid:#x}")])

    def of_panic(self) -> Optional[Stack]:
        """Returns the stack of who panicked."""
        return self.of_vcpu(VCPU(0, IDLE_VCPU))


def _log(text: bytes, count: int) -> list[Entry]:
    said = b"Kernel panic - not syncing: " + text
    trace = [b"Call Trace:", b" panic+0x118/0x2ed", b" caller+0x5/0x10 [" + text + b"]"]
    lines = [said, *trace, *(b"%d: " % number + text for number in range(count))]
    return [Entry(line, level=number % 8) for number, line in enumerate(lines)]


def _types() -> Btf:
    builder = BtfBuilder()
    printk.ring_types(builder)
    word, pointer = builder.int_("long long", 8), builder.ptr(0)
    counters = builder.array(word, 4)
    stat = builder.struct("mm_rss_stat", 32, [("count", counters, 0)])
    builder.struct("mm_struct", 64, [("rss_stat", stat, 0)])
    builder.struct("task_struct", 64, [("mm", pointer, 0)])
    builder.enum("zone_stat_item", {"NR_FREE_PAGES": 0})
    builder.enum("node_stat_item", {"NR_FILE_PAGES": 1, "NR_ANON_MAPPED": 2})
    return Btf(builder.build())


def guest(text: str = "x", counts: Counts = _FEW) -> Subject:
    """Returns what a report is made of.

    Args:
        text: what everything is called and says; as readers do, what a terminal might obey is
            replaced in all but the log, of which the bytes are there.
        counts: how many things there are.
    """
    encoded = text.encode("utf-8", "surrogatepass")
    name = printable(encoded) or "x"
    kernel = GuestKernel(_types(), _totalram_pages=0x100, vm_zone_stat=0x200, vm_node_stat=0x300)
    # The first frame of each stack is the scheduler's.
    kernel.symbols["__sched_text_start"] = kernel.virtual_base
    kernel.symbols["__sched_text_end"] = kernel.virtual_base + 1
    kernel.panic_cpu = 0
    kernel.put(0x100, 100_000)
    kernel.put(0x200, *range(1000, 1010))
    kernel.put(0x300, *range(2000, 2010))
    kernel.put(_MM, *_PAGES)
    entries = _log(encoded.replace(b"\n", b" ")[:4000], counts.records)
    size_bits = (sum(len(entry.text) + 16 for entry in entries)).bit_length()
    printk.write_ring(kernel, entries, count_bits=len(entries).bit_length(), size_bits=size_bits)
    kernel.modules = GuestModules(
        Module(name, number, ((0x1000, 0x4000),)) for number in range(counts.modules)
    )
    tasks = [
        Task(_TASKS + number, number, number, name[:_COMM], "D" if number < counts.waiting else "S")
        for number in range(1, counts.tasks + 1)
    ]
    notes = (Note(NoteKind.EXCEPTION), Note(NoteKind.DAMAGED_ORC, detail=name))
    symbols = [f"panic+{len(name):#x}", *(f"{name}+{n:#x}" for n in range(1, counts.frames))]
    frames = [Frame(n, 0xFFFFFFFF81000000 + n, symbol, notes) for n, symbol in enumerate(symbols)]
    stacks = GuestStacks(tasks, frames)
    vcpus = [VCPU(number, IDLE_VCPU) for number in range(counts.vcpus)]
    return Subject(
        _machine(kernel, vcpus),
        kernel.kernel,
        cast(Stacks, cast(Any, stacks)),
        _facts(name, vcpus, tasks),
        None,
        lambda address: name,
    )


def _machine(kernel: HandmadeKernel, vcpus: Sequence[VCPU]) -> Machine:
    made = machine(kernel.read, vcpus)
    cast(Any, made.memory).ranges = _RANGES
    size = sum(run.size for run in _RANGES)
    folder = "file:///cases/17"
    origin = Origin(
        "6 (ESXi 8.0 U2)", f"{folder}/debug.guest", _RANGES, f"{folder}/debug.vmem", size
    )
    return Machine(made.memory, made.vcpus, made.identity, origin)


def _facts(name: str, vcpus: Sequence[VCPU], tasks: Sequence[Task]) -> KernelFacts:
    clock = Clock(datetime(2026, 11, 26, tzinfo=timezone.utc), timedelta(seconds=NOW))
    return KernelFacts(
        PagingMode.FOUR_LEVEL,
        False,
        f"Linux {name}",
        f"Linux version {name}",
        "ab" * 20,
        SystemFacts(name, clock, (0.5, 0.25, 0.0), name, 4097),
        TaskCount(len(tasks), sum(task.state == "D" for task in tasks)),
        0xFFFFFFFF81000000,
        0,
        0x1000000,
        0x2000,
        Symbols(None, True, True),
        name,
        PanicTask(0, vcpus[0] if vcpus else None, tasks[0] if tasks else None, "panic+0x118"),
        None,
        "registers",
    )


#: What tries to be more than text.
HOSTILE: Mapping[str, str] = {
    "script": "<script>alert(1)</script>",
    "attribute": "\"'><img src=x onerror=alert(1)>",
    "end of style": "</style></title></pre></code><style>*{display:none}",
    "entity": "&lt;b&gt;&#x22;",
    "comment": "--><!--]]>",
    "template": "{{ 7 * 7 }}{% raw %}${7*7}",
    "escapes": "\x1b[2J\x1b]0;owned\x07\x9b31m\x08",
    "right to left": "\u202egnp.exe\u2066\u200f",
    "not UTF-8": "\udcff",
    "beyond ASCII": "\U0001f600\u65e5",
    "long": "x" * 10_000,
    "long and escaped": '"<' * 5_000,
}
