# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Tasks, CPUs and modules, in memory made by hand."""

import struct
from collections.abc import Mapping
from typing import Any, Optional, cast

import pytest

from tests.helpers import IDLE_VCPU
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.modules import Modules
from volatility_guestdump.linux.state.tasks import Cpus, Task, Tasks
from volatility_guestdump.linux.types.protocol import Field, Shape, Types
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import CR0_PG, PagingMode

#: Where memory starts; an offset of 0 into it is address BASE.
BASE = 0x10000
#: Page tables of another kernel.
OTHER_KERNEL = 0x7000

OFFSETS = {
    ("task_struct", "tasks"): 0,
    ("task_struct", "thread_node"): 16,
    ("task_struct", "signal"): 32,
    ("task_struct", "pid"): 40,
    ("task_struct", "tgid"): 44,
    ("task_struct", "comm"): 48,
    ("task_struct", "mm"): 64,
    ("task_struct", "thread.sp"): 72,
    ("task_struct", "stack"): 80,
    ("task_struct", "stack_refcount"): 88,
    ("task_struct", "__state"): 92,
    ("task_struct", "exit_state"): 96,
    ("task_struct", "on_cpu"): 100,
    ("signal_struct", "thread_head"): 0,
    ("mm_struct", "pgd"): 0,
    ("module", "list"): 0,
    ("module", "name"): 16,
    ("module", "core_layout"): 72,
    ("module", "init_layout"): 88,
    ("module", "kallsyms"): 104,
    ("module_layout", "base"): 0,
    ("module_layout", "size"): 8,
    ("mod_kallsyms", "symtab"): 0,
    ("mod_kallsyms", "strtab"): 8,
    ("mod_kallsyms", "num_symtab"): 16,
}


#: Of members that are no pointers and no integers of four bytes, what they are.
SHAPES = {
    "tasks": (Shape.STRUCTURE, 16),
    "thread_node": (Shape.STRUCTURE, 16),
    "thread_head": (Shape.STRUCTURE, 16),
    "list": (Shape.STRUCTURE, 16),
    "core_layout": (Shape.STRUCTURE, 16),
    "init_layout": (Shape.STRUCTURE, 16),
    "comm": (Shape.ARRAY, 16),
    "name": (Shape.ARRAY, 56),
}
POINTERS = ("signal", "mm", "thread.sp", "stack", "pgd", "kallsyms", "base", "symtab", "strtab")


class FakeTypes(Types):
    """Members, and no more.

    Args:
        missing: members of task_struct that this kernel does not have.
    """

    def __init__(self, *missing: str) -> None:
        self.missing = missing

    def look_up(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member."""
        if (structure, path) not in OFFSETS or path in self.missing:
            return None
        if path in POINTERS:
            return Field(8 * OFFSETS[structure, path], Shape.POINTER)
        shape, size = SHAPES.get(path, (Shape.INTEGER, 4))
        return Field(8 * OFFSETS[structure, path], shape, size, signed=path == "pid")

    def size(self, structure: str) -> Optional[int]:
        """No size is known."""
        return None

    def constants(self, enumeration: str) -> Mapping[str, int]:
        """No enum is known."""
        return {}


class FakeTables:
    """Page tables that map the direct map of 4-level kernels."""

    mode = PagingMode.FOUR_LEVEL

    def translate(self, address: int) -> tuple[int, int]:
        """Returns a physical address, and how much follows it."""
        return address - 0xFFFF888000000000, 4096


class FakeKernel:
    """A kernel with a piece of memory."""

    bits = 64
    tables = FakeTables()

    def __init__(self, size: int = 0x4000, **symbols: int) -> None:
        self.memory = bytearray(size)
        self.symbols = symbols
        self.reads = 0

    def put(self, address: int, *words: int) -> None:
        """Writes words."""
        struct.pack_into(f"<{len(words)}Q", self.memory, address - BASE, *words)

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self.symbols.get(symbol)

    def runs_on(self, vcpu: VCPU) -> Optional[bool]:
        """Whether a vCPU has not the page tables of another kernel."""
        return vcpu.get("cr3") != OTHER_KERNEL

    def read(self, address: int, length: int) -> bytes:
        """Reads memory."""
        self.reads += 1
        at = address - BASE
        if not 0 <= at <= len(self.memory) - length:
            raise AddressError(address)
        return bytes(self.memory[at : at + length])

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, 8), "little")


def tasks_of(kernel: FakeKernel, whole: bool = True) -> list[int]:
    """Returns the numbers of all tasks, and asserts whether these are said to be all."""
    types = FakeTypes()
    tasks = Tasks(cast(LinuxKernel, cast(Any, kernel)), types)
    found = [task.pid for task in tasks]
    assert bool(tasks.broken) != whole
    return found


def with_tasks() -> FakeKernel:
    """Returns a kernel with processes 1 (threads 1 and 2) and 3."""
    kernel = FakeKernel(init_task=BASE)
    one, two, three, signal = BASE + 0x100, BASE + 0x200, BASE + 0x300, BASE + 0x400
    for node, after in ((BASE, one), (one, three), (three, BASE)):
        kernel.put(node, after)
    for head, members in ((signal, (one, two)), (signal + 0x10, (three,))):
        nodes = [head, *(task + 16 for task in members), head]
        for node, after in zip(nodes, nodes[1:]):
            kernel.put(node, after)
        kernel.put(members[0] + 32, head)
    for pid, task in enumerate((one, two, three), 1):
        kernel.put(task + 40, pid)
    return kernel


def test_threads_follow_their_leader() -> None:
    """Each is a task of its own."""
    assert tasks_of(with_tasks()) == [1, 2, 3]


def test_a_leader_whose_threads_are_lost() -> None:
    """It is still a task, and it is known that there may be more."""
    kernel = with_tasks()
    kernel.put(BASE + 0x100 + 32, 0)
    assert tasks_of(kernel, whole=False) == [1, 3]


@pytest.mark.parametrize(
    ("place", "value", "found", "damage"),
    [
        (0, None, [1, 2, 3], ""),
        # The next process, and the second's thread: not in the dump.
        (0x100, 0xDEAD0000, [1, 2], "0xdea"),
        (0x100 + 16, 0xDEAD0000, [1, 3], "0xdea"),
        # No signal_struct, and a list that does not end where it began.
        (0x100 + 32, 0, [1, 3], "0x"),
        (0x300, BASE + 0x300, [1, 2, 3], f"leads back to {BASE + 0x300:#x}"),
        (0x410, BASE + 0x110, [1, 2, 3], f"run into each other at {BASE + 0x100:#x}"),
    ],
)
def test_what_is_damaged(place: int, value: Optional[int], found: list[int], damage: str) -> None:
    """Lists that are not whole are told from those that are."""
    kernel = with_tasks()
    if value is not None:
        kernel.put(BASE + place, value)
    tasks = Tasks(cast(LinuxKernel, cast(Any, kernel)), FakeTypes())
    assert [task.pid for task in tasks] == found
    assert damage in tasks.broken and bool(damage) == bool(tasks.broken)


def test_lists_that_run_into_each_other() -> None:
    """The time grows with their length, and not with its square."""
    reads = []
    for count in (500, 1000):
        kernel = FakeKernel(8 * count, init_task=BASE)
        for number in range(count):
            kernel.put(BASE + 8 * number, BASE + 8 * number + 8)
        assert len(tasks_of(kernel, whole=False)) > count // 2
        reads.append(kernel.reads)
    assert reads[1] < 3 * reads[0]


@pytest.mark.parametrize(("limit", "found"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3])])
def test_more_tasks_than_there_can_be(
    monkeypatch: pytest.MonkeyPatch, limit: int, found: list[int]
) -> None:
    """Those that are left out are missing, and nothing is said of where the list leads."""
    monkeypatch.setattr("volatility_guestdump.linux.state.tasks._MAXIMUM_TASKS", limit)
    tasks = Tasks(cast(LinuxKernel, cast(Any, with_tasks())), FakeTypes())
    assert [task.pid for task in tasks] == found
    assert ("more than" in tasks.broken) == (len(found) < 3) == bool(tasks.broken)


def one_task(*missing: str, **symbols: int) -> tuple[FakeKernel, Tasks, Task]:
    """Returns a kernel with one task, at its start.

    Args:
        missing: members that its task_struct does not have.
        symbols: of the kernel.
    """
    kernel = FakeKernel(**symbols)
    tasks = Tasks(cast(LinuxKernel, cast(Any, kernel)), FakeTypes(*missing))
    return kernel, tasks, Task(BASE, 1, 1, "one")


@pytest.mark.parametrize(
    ("state", "exit_state", "shown"),
    [
        (0, 0, "R"),
        (1, 0, "S"),
        (2, 0, "D"),
        (4, 0, "T"),
        (8, 0, "t"),
        (0x40, 0, "P"),
        (0x402, 0, "I"),
        # Killable, freezable, waking and new; frozen, and waiting for a lock of PREEMPT_RT
        (0x102, 0, "D"),
        (0x2001, 0, "S"),
        (0x200, 0, "R"),
        (0x800, 0, "R"),
        (0x8000, 0, "D"),
        (0x1000, 0, "D"),
        # Dead by __state, and what became of it by exit_state
        (0x80, 0x20, "Z"),
        (0x80, 0x10, "X"),
        (0x80, 0x30, "Z"),
    ],
)
def test_states(state: int, exit_state: int, shown: str) -> None:
    """They are what /proc/PID/stat says (task_state_index, include/linux/sched.h)."""
    kernel, tasks, task = one_task()
    struct.pack_into("<II", kernel.memory, 92, state, exit_state)
    assert tasks.at(task.address).state == shown
    kernel, tasks, task = one_task("exit_state")
    assert tasks.at(task.address).state == ""


def test_a_state_that_is_no_integer() -> None:
    """A damaged type may say that a state has gigabytes: it is not known then."""

    class Huge(FakeTypes):
        def look_up(self, structure: str, path: str) -> Optional[Field]:
            found = super().look_up(structure, path)
            return found and (found._replace(size=1 << 32) if path == "exit_state" else found)

    kernel = with_tasks()
    types = Huge()
    assert [each.state for each in Tasks(cast(LinuxKernel, cast(Any, kernel)), types)] == [""] * 3


def test_members_that_lie_far_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a damaged task_struct nothing is read but the members themselves."""
    kernel = with_tasks()
    most, read = 0, kernel.read

    def counting(address: int, length: int) -> bytes:
        nonlocal most
        most = max(most, length)
        return read(address, length)

    monkeypatch.setattr(kernel, "read", counting)
    monkeypatch.setitem(OFFSETS, ("task_struct", "exit_state"), 500 << 20)
    types = FakeTypes()
    assert list(Tasks(cast(LinuxKernel, cast(Any, kernel)), types)) == []
    assert most <= 16


def test_the_stack_of_a_task() -> None:
    """It is where task_struct says, as large as the first task's in the image."""
    bounds = {"__start_init_stack": 0x100000, "__end_init_stack": 0x108000}
    for symbols, size in (({}, 0x4000), (bounds, 0x8000)):
        kernel, tasks, task = one_task(**symbols)
        kernel.put(BASE + 80, 0xFFFFC90000010000)
        kernel.memory[88] = 1
        assert tasks.stack(task) == range(0xFFFFC90000010000, 0xFFFFC90000010000 + size)


def test_a_stack_that_is_freed() -> None:
    """It has no address any more, or nobody uses it; the stack pointer still leads somewhere."""
    kernel, tasks, task = one_task()
    kernel.put(BASE + 72, 0xFFFFC90000013E00)
    kernel.memory[88] = 1
    assert tasks.stack(task) is None
    kernel.put(BASE + 80, 0xFFFFC90000010000)
    assert tasks.stack(task) is not None
    kernel.memory[88] = 0
    assert tasks.stack(task) is None


def test_running() -> None:
    """A kernel with one CPU alone has no member that tells."""
    kernel, tasks, task = one_task()
    assert not tasks.is_running(task)
    kernel.memory[100] = 1
    assert tasks.is_running(task)
    _, tasks, task = one_task("on_cpu")
    assert not tasks.is_running(task)


def test_cpus_whose_vcpus_are_missing() -> None:
    """The kernel tells how many it has; a vCPU is the one that its base of GS is of."""
    kernel = FakeKernel(__per_cpu_offset=BASE, nr_cpu_ids=BASE + 0x100, current_task=0)
    kernel.put(BASE, 0x1000, 0x2000, 0x3000)
    kernel.put(BASE + 0x100, 3)
    vcpu = VCPU(0, {**IDLE_VCPU, "cr0": CR0_PG, "gs_base": 0x3000})
    cpus = Cpus(cast(LinuxKernel, cast(Any, kernel)), None, [vcpu])
    assert (cpus.number(vcpu), list(cpus.offsets)) == (2, [0x1000, 0x2000, 0x3000])
    # The records of the first two are missing.
    vcpu = VCPU(2, {**IDLE_VCPU, "cr0": CR0_PG, "gs_base": 0x3000})
    del kernel.symbols["nr_cpu_ids"]
    assert Cpus(cast(LinuxKernel, cast(Any, kernel)), None, [vcpu]).number(vcpu) == 2


def test_a_vcpu_that_runs_another_kernel() -> None:
    """It is no CPU of this one, though its base of GS may be the same."""
    kernel = FakeKernel(__per_cpu_offset=BASE, current_task=0)
    kernel.put(BASE, 0x1000)
    vcpu = VCPU(0, {**IDLE_VCPU, "cr0": CR0_PG, "gs_base": 0x1000, "cr3": OTHER_KERNEL})
    assert Cpus(cast(LinuxKernel, cast(Any, kernel)), None, [vcpu]).number(vcpu) is None


def cpus_of(page_maps: list[int], **registers: int) -> Cpus:
    """Returns the CPUs of a kernel whose current tasks have certain page maps.

    Args:
        page_maps: of the current task of each CPU; 0 for a thread of the kernel.
        registers: of the only vCPU that counts.
    """
    kernel = FakeKernel(__per_cpu_offset=BASE, current_task=BASE)
    for number, page_map in enumerate(page_maps):
        area = BASE + 0x1000 + 0x100 * number
        kernel.put(BASE + 8 * number, area - BASE)
        kernel.put(area, area + 8)
        if page_map:
            kernel.put(area + 8 + 64, area + 0x80)
            kernel.put(area + 0x80, page_map + 0xFFFF888000000000)
    vcpus = [VCPU(number, {**IDLE_VCPU, "gs_base": 1}) for number in range(len(page_maps))]
    return Cpus(cast(LinuxKernel, cast(Any, kernel)), FakeTypes(), vcpus)


@pytest.mark.parametrize(
    ("page_maps", "cr3", "number"),
    [
        # Its own
        ([0x2000, 0x4000], 0x4000, 1),
        # The user half of a pair
        ([0x2000, 0x4000], 0x5000, 1),
        # One in a page where a user half would lie, beside that of another CPU
        ([0x3000, 0x2000], 0x3000, 0),
        # A thread of the kernel has the page map of who ran before
        ([0, 0x4000], 0x8000, 0),
        # Another kernel, as kdump's
        ([0x2000, 0x4000], 0x8000, None),
    ],
)
def test_the_cpu_of_a_page_map(page_maps: list[int], cr3: int, number: Optional[int]) -> None:
    """In user mode the page map tells which CPU a vCPU is."""
    vcpu = VCPU(0, {**IDLE_VCPU, "cr0": CR0_PG, "cr3": cr3, "gs_base": 1})
    assert cpus_of(page_maps).number(vcpu) == number


def test_a_cpu_that_was_not_started() -> None:
    """It is none of the kernel's yet, whatever its per-CPU variables say."""
    vcpu = VCPU(0, {**IDLE_VCPU, "cr0": 0x10, "cr3": 0x2000})
    assert cpus_of([0x2000]).number(vcpu) is None


class WithoutSmp(FakeTypes):
    """The types of a kernel for one CPU."""

    def look_up(self, structure: str, path: str) -> Optional[Field]:
        """Returns a member, but not task_struct.on_cpu."""
        return None if path == "on_cpu" else super().look_up(structure, path)


def test_a_kernel_for_one_cpu() -> None:
    """The current task of the one CPU is the one that runs, and it has a variable of its own."""
    kernel = with_tasks()
    two, variable = BASE + 0x200, BASE + 0x500
    kernel.symbols["current_task"] = variable
    kernel.put(variable, two)
    linux, types = cast(LinuxKernel, cast(Any, kernel)), WithoutSmp()
    tasks = Tasks(linux, types)
    assert [(task.pid, tasks.is_running(task)) for task in tasks] == [
        *((1, False), (2, True), (3, False))
    ]
    # The base of gs is where the stack protector's canary lies.
    vcpu = VCPU(0, {**IDLE_VCPU, "cr0": CR0_PG, "cr3": 0x2000, "gs_base": BASE + 0x3000})
    cpus = Cpus(linux, types, [vcpu])
    assert (cpus.number(vcpu), cpus.current_task(vcpu)) == (0, two)


def test_a_kernel_for_one_cpu_that_does_not_name_its_task() -> None:
    """Then it is not known which task runs, and all are listed."""
    kernel = with_tasks()
    types = WithoutSmp()
    tasks = Tasks(cast(LinuxKernel, cast(Any, kernel)), types)
    assert not any(tasks.is_running(task) for task in tasks)


def modules_of(kernel: FakeKernel) -> Modules:
    """Returns the modules of a kernel."""
    return Modules(cast(LinuxKernel, cast(Any, kernel)), FakeTypes())


def with_modules() -> FakeKernel:
    """Returns a kernel with modules "a" at 0x100000 and "b" at 0x200000, with symbols."""
    kernel = FakeKernel(modules=BASE)
    first, second, strings = BASE + 0x100, BASE + 0x200, BASE + 0x1000
    for node, after in ((BASE, first), (first, second), (second, BASE)):
        kernel.put(node, after)
    kernel.memory[0x1000:0x1020] = b"\0early\0later\0.L1\0twin\0".ljust(32, b"\0")
    for number, module in enumerate((first, second), 1):
        kernel.put(module + 16, ord("a") + number - 1)
        kernel.put(module + 72, number << 20, 0x1000)
        kernel.put(module + 104, module + 0x80)
        kernel.put(module + 0x80, BASE + 0x2000 + 0x100 * number, strings, 6)
        rows = [(0, 0, 0), (7, 1, 0x40), (1, 1, 0x10), (13, 1, 0x48), (17, 1, 0x40), (1, 0, 0x50)]
        for row, (name, section, value) in enumerate(rows):
            symbol = struct.pack("<IBBHQQ", name, 0, 0, section, (number << 20) + value, 0)
            at = 0x2000 + 0x100 * number + 24 * row
            kernel.memory[at : at + 24] = symbol
    return kernel


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (0x100010, "early+0x0 [a]"),
        (0x10003F, "early+0x2f [a]"),
        # The first of two at one address, and none of the assembler's own
        (0x100040, "later+0x0 [a]"),
        (0x100050, "later+0x10 [a]"),
        (0x200012, "early+0x2 [b]"),
    ],
)
def test_symbols_of_modules(address: int, shown: str) -> None:
    """As the kernel names them."""
    assert str(modules_of(with_modules()).locate(address)) == shown


def test_code_before_all_symbols_of_a_module() -> None:
    """Nothing but the module is known."""
    place = modules_of(with_modules()).locate(0x100000)
    assert place is not None and (place.symbol, place.module) == ("", "a")


def test_a_module_that_cannot_be_read_hides_no_other() -> None:
    """The list goes on behind it."""
    kernel = with_modules()
    end = BASE + len(kernel.memory)
    kernel.put(BASE, end - 16)
    kernel.put(end - 16, BASE + 0x200)
    place = modules_of(kernel).locate(0x200012)
    assert place is not None and place.module == "b"


def test_names_are_read_when_they_are_asked_for() -> None:
    """A table of symbols costs no more reads the longer it is."""
    kernel = with_modules()
    modules = modules_of(kernel)
    before = kernel.reads
    assert str(modules.locate(0x100012)) == "early+0x2 [a]"
    assert kernel.reads - before < 8


def test_modules_that_no_symbol_leads_to() -> None:
    """Their list is not empty, it is not known; a kernel that can load none has no such list."""
    kernel = with_modules()
    assert not modules_of(kernel).broken
    kernel.symbols = {}
    unknown = modules_of(kernel)
    assert not list(unknown) and "no symbol" in unknown.broken
    kernel = cast(Any, with_modules())
    kernel.symbols = {}
    none = Modules(kernel, FakeTypes("list"))
    assert not list(none) and not none.broken


def test_modules_of_which_the_first_cannot_be_found() -> None:
    """A head that is not in the dump, and a module that is not: it is said how many are missing."""
    kernel = with_modules()
    kernel.symbols["modules"] = 0xDEAD0000
    assert modules_of(kernel).broken and not list(modules_of(kernel))
    kernel = with_modules()
    end = BASE + len(kernel.memory)
    kernel.put(BASE, end - 16)
    kernel.put(end - 16, BASE + 0x200)
    modules = modules_of(kernel)
    assert [module.name for module in modules] == ["b"]
    assert modules.broken == "1 of them cannot be read"
