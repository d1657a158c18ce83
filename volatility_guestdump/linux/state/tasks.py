# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Tasks of the kernel: which one each vCPU runs, and all the others.

The current task of a CPU is a per-CPU variable: current_task up to 6.1, a member of pcpu_hot from
6.2 to 6.14, current_task again since. A per-CPU variable of a CPU lies at the variable's address
plus that CPU's entry in __per_cpu_offset, which in kernel mode is also what gs_base holds.
"""

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.lists import Walk, ring
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Structures
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import CR0_PG, PTI_USER_HALF

#: CONFIG_NR_CPUS is at most 8192.
_MAXIMUM_CPUS = 8192
#: PID_MAX_LIMIT of a 64-bit kernel is 4 Mi; a damaged list must end before.
_MAXIMUM_TASKS = 1 << 20

_COMM_SIZE = 16
#: Members of task_struct that are read of each; the state is __state from 5.14 on, state before.
_SHOWN = ("pid", "tgid", "comm", "__state", "state", "exit_state")

#: THREAD_SIZE of 64-bit kernels, where the kernel does not tell it. Source:
#: arch/x86/include/asm/page_64_types.h.
_STACK_SIZE = 16 << 10
#: With KASAN it is 32 KiB, or 64 KiB with more of its checks.
_STACK_SIZES = tuple(size << 10 for size in (4, 8, 16, 32, 64))
#: What lies around the first task's stack in the image, and is as large: from 6.10 on
#: (8f69cba096b5), and before.
_FIRST_STACK = (
    ("__start_init_stack", "__end_init_stack"),
    ("__start_init_task", "__end_init_task"),
)

#: What ps shows for the highest bit that is set in a task's state, from 4.14 on. Source:
#: task_index_to_char, include/linux/sched.h.
_STATES = "RSDTtXZP"
#: What a task's state may be: those, and I, an idle thread of the kernel.
STATES = f"{_STATES}I"
#: TASK_REPORT: the bits that count.
_REPORTED = 0x7F
_UNINTERRUPTIBLE = 2
#: TASK_IDLE: TASK_UNINTERRUPTIBLE and TASK_NOLOAD.
_IDLE = 0x402
#: TASK_RTLOCK_WAIT from 5.15 on, and TASK_FROZEN from 6.1 on, count as uninterruptible.
_SHOWN_AS_UNINTERRUPTIBLE = 0x1000 | 0x8000


def _state_letter(state: int, exit_state: int) -> str:
    """Returns what ps shows for a task."""
    both = state | exit_state
    if both & _IDLE == _IDLE:
        return "I"
    if both & _SHOWN_AS_UNINTERRUPTIBLE and not exit_state:
        both |= _UNINTERRUPTIBLE
    return _STATES[(both & _REPORTED).bit_length()]


class Task(NamedTuple):
    """A task (a thread) of the kernel.

    Attributes:
        address: of its task_struct.
        pid: number of the thread; that of the process is `tgid`.
        tgid: number of the process.
        comm: its name, without control characters.
        state: a letter as in /proc/PID/stat and ps; empty when the types do not tell.
    """

    address: int
    pid: int
    tgid: int
    comm: str
    state: str = ""


class Tasks:
    """The tasks of a kernel.

    Args:
        kernel: in whose memory they are.
        types: its types.

    Attributes:
        broken: why some task may be missing among those that were listed; empty when none is.

    Raises:
        KernelError: the types have no task_struct as it should be.
    """

    def __init__(self, kernel: LinuxKernel, types: Types) -> None:
        self.broken = ""
        self._kernel = kernel
        self._types = types
        # Which of the two members of the state there is, is a matter of the kernel's version.
        self._tasks = Structures(kernel, types, "task_struct", *_SHOWN)
        self._tasks.require("pid", "tgid", "comm", "tasks", "thread.sp", "stack")
        self._state = "__state" if self._tasks.is_number("__state") else "state"

    def at(self, address: int) -> Task:
        """Reads the task at an address.

        Raises:
            AddressError: it is not in the dump.
            TypesError: its types are damaged.
        """
        task = self._tasks.at(address)
        state, exit_state = task.get(self._state), task.get("exit_state")
        letter = ""
        if state is not None and exit_state is not None:
            letter = _state_letter(state, exit_state)
        pid, tgid = task.integer("pid"), task.integer("tgid")
        return Task(address, pid, tgid, task.text("comm", _COMM_SIZE), letter)

    def stack(self, task: Task) -> Optional[range]:
        """Returns where the stack of a task lies; None when it is freed.

        A task that has exited loses its stack before the last is gone that knows the task, its
        parent for one; what thread.sp leads to is another's then.

        Raises:
            AddressError: the task is not in the dump.
        """
        found = self._tasks.bare(task.address)
        start = found.integer("stack")
        if not start or found.get("stack_refcount") == 0:
            return None
        return range(start, start + self._stack_size)

    @functools.cached_property
    def _stack_size(self) -> int:
        for first, last in _FIRST_STACK:
            start, end = self._kernel.address(first), self._kernel.address(last)
            if start is not None and end is not None and end - start in _STACK_SIZES:
                return end - start
        return _STACK_SIZE

    def stack_pointer(self, task: Task) -> int:
        """Returns where a task that is not running left its stack.

        Raises:
            AddressError: the task is not in the dump.
        """
        return self._tasks.bare(task.address).integer("thread.sp")

    def is_running(self, task: Task) -> bool:
        """Whether a CPU runs the task, so that what it left of its stack is out of date.

        Raises:
            AddressError: the task is not in the dump.
        """
        on_cpu = self._tasks.bare(task.address).get("on_cpu")
        if on_cpu is None:
            # A kernel without SMP has no such member, and one variable for its one CPU.
            current = _current_task_variable(self._kernel, self._types)
            return current is not None and self._kernel.pointer(current) == task.address
        return bool(on_cpu)

    def __iter__(self) -> Iterator[Task]:
        """Yields every thread of every process, but no idle task; ends where a list is damaged."""
        init_task = self._kernel.address("init_task")
        if init_task is None:
            return
        seen: set[int] = set()
        link, node = self._tasks.offset("tasks"), self._tasks.find("thread_node")
        head = self._types.find("signal_struct", "thread_head")
        leaders = self._list(init_task + link)
        for leader in (place - link for place in leaders):
            threads: Optional[Walk] = None
            if node is not None and head is not None:
                try:
                    signal = self._tasks.bare(leader).get("signal")
                    threads = None if signal is None else self._list(signal + head.offset)
                except AddressError as error:
                    self._note(str(error))
            others = (place - node.offset for place in threads) if threads and node else ()
            for address in itertools.chain((leader,), others):
                if address in seen:
                    if address == leader:
                        continue
                    # A thread has one leader: what follows was walked before. Lists that run
                    # into each other would take the square of their length.
                    self._note(f"lists of tasks run into each other at {address:#x}")
                    break
                if len(seen) >= _MAXIMUM_TASKS:
                    self._note(f"there are more than {_MAXIMUM_TASKS} tasks")
                    return
                seen.add(address)
                try:
                    yield self.at(address)
                except AddressError as error:
                    self._note(str(error))
            self._note(threads.broken if threads else "")
        self._note(leaders.broken)

    def _list(self, head: int) -> Walk:
        back = self._kernel.bits // 8
        return ring(self._kernel, head, limit=_MAXIMUM_TASKS, what="tasks", back=back)

    def _note(self, reason: str) -> None:
        self.broken = self.broken or reason


def kernel_gs_base(vcpu: VCPU) -> Optional[int]:
    """Returns the kernel's base of GS, or None where the source lacks it.

    In user mode it is put aside, which not every source has; then it is the user's.
    """
    aside = vcpu.get("kernel_gs_base")
    return aside if aside is not None and vcpu.ring else vcpu.get("gs_base")


class Cpus:
    """Which CPU of the kernel each vCPU is, and where its per-CPU variables are.

    Args:
        kernel: that they run.
        types: its types, when they are known.
        vcpus: all of the guest.
    """

    def __init__(self, kernel: LinuxKernel, types: Optional[Types], vcpus: Sequence[VCPU]) -> None:
        self._kernel = kernel
        self._types = types
        # A vCPU whose registers are damaged is left out.
        count = max((vcpu.number + 1 for vcpu in vcpus), default=0)
        self._offsets = self._read_offsets(count)
        numbers = {offset: number for number, offset in enumerate(self._offsets)}
        #: Number of the vCPU -> number of the CPU, where a base of GS tells it.
        self._told = {
            vcpu.number: numbers[base]
            for vcpu, base in ((vcpu, kernel_gs_base(vcpu)) for vcpu in vcpus)
            if base in numbers and kernel.runs_on(vcpu) is not False
        }
        taken = set(self._told.values())
        #: CPUs of which no base of GS tells which vCPU they are.
        self._free = [number for number in range(len(self._offsets)) if number not in taken]
        self._page_map = functools.lru_cache(maxsize=_MAXIMUM_CPUS)(self._read_page_map)

    def _count(self) -> int:
        """Returns how many CPUs the kernel may have, or 0 when it does not tell."""
        address = self._kernel.address("nr_cpu_ids")
        if address is None:
            return 0
        try:
            return int.from_bytes(self._kernel.read(address, 4), "little")
        except AddressError:
            return 0

    @property
    def offsets(self) -> Sequence[int]:
        """For each CPU of the kernel, what is added to the address of a per-CPU variable."""
        return self._offsets

    def _read_offsets(self, count: int) -> list[int]:
        table = self._kernel.address("__per_cpu_offset")
        if table is None:
            # A kernel without SMP has one instance, at the variable's own address.
            return [0]
        size = self._kernel.bits // 8
        offsets: list[int] = []
        for number in range(min(self._count() or count, _MAXIMUM_CPUS)):
            try:
                offsets.append(self._kernel.pointer(table + number * size))
            except AddressError:
                break
        return offsets

    def number(self, vcpu: VCPU) -> Optional[int]:
        """Returns the kernel's number of the CPU that a vCPU is, or None when nothing tells.

        In user mode gs_base is the user's. Then it is one of the CPUs that no other vCPU is: the
        one whose current task has the vCPU's page tables, or else the one with its own number,
        unless the task there has page tables of its own.
        """
        cr0, cr3 = vcpu.get("cr0"), vcpu.get("cr3")
        if cr0 is not None and not cr0 & CR0_PG:
            # The kernel has not started it: it is in the firmware.
            return None
        if self._kernel.runs_on(vcpu) is False:
            return None
        told = self._told.get(vcpu.number)
        if told is not None:
            return told
        if cr3 is None:
            # Nothing would contradict a guess.
            return None
        root = self._kernel.tables.mode.root(cr3)
        # Where page tables are not isolated, one may lie where the user half of a pair would.
        for page_map in (root, root & ~PTI_USER_HALF):
            found = self._by_page_map.get(page_map)
            if found:
                return vcpu.number if vcpu.number in found else found[0]
        own = self._free[0] if len(self._free) == 1 else vcpu.number
        if own not in self._free or self._page_map(own) is not None:
            # Its current task has other page tables: this vCPU runs another kernel, as kdump's.
            return None
        return own

    @functools.cached_property
    def _by_page_map(self) -> Mapping[int, Sequence[int]]:
        """Page map of a current task -> those of the free CPUs that have it."""
        found: dict[int, list[int]] = {}
        for number in self._free:
            page_map = self._page_map(number)
            if page_map is not None:
                found.setdefault(page_map, []).append(number)
        return found

    def _read_page_map(self, number: int) -> Optional[int]:
        """Returns the physical address of the page map that a CPU's current task has, or None."""
        try:
            if self._types is None:
                return None
            tasks, spaces = (
                Structures(self._kernel, self._types, name) for name in ("task_struct", "mm_struct")
            )
            task = tasks.at(self._kernel.pointer(self._current_task_pointer(number)))
            pgd = spaces.at(task.integer("mm")).integer("pgd")
            return self._kernel.tables.translate(pgd)[0]
        except (AddressError, KernelError):
            return None

    def _current_task_pointer(self, number: int) -> int:
        variable = _current_task_variable(self._kernel, self._types)
        if variable is None:
            raise KernelError("the kernel does not name its current tasks")
        return (variable + self._offsets[number]) & ((1 << self._kernel.bits) - 1)

    def current_task(self, vcpu: VCPU) -> Optional[int]:
        """Returns the address of the task_struct that a vCPU runs, or None."""
        number = self.number(vcpu)
        return None if number is None else self.task_of(number)

    def chosen_task(self, vcpu: VCPU) -> Optional[int]:
        """Returns the address of the task_struct that the scheduler chose for a vCPU, or None.

        It differs from the current one while the vCPU changes from one task to another.
        """
        number, queues = self.number(vcpu), self._kernel.address("runqueues")
        if number is None or queues is None or self._types is None:
            return None
        try:
            place = queues + self._offsets[number] + self._types.offset("rq", "curr")
            return self._kernel.pointer(place & ((1 << self._kernel.bits) - 1))
        except (AddressError, KernelError):
            return None

    def task_of(self, number: int) -> Optional[int]:
        """Returns the address of the task_struct that a CPU runs, or None."""
        try:
            return self._kernel.pointer(self._current_task_pointer(number))
        except (AddressError, KernelError):
            return None


def _current_task_variable(kernel: LinuxKernel, types: Optional[Types]) -> Optional[int]:
    """Returns the address of the per-CPU variable that names the current task, or None."""
    address = kernel.address("current_task")
    if address is None and types is not None:
        hot, current = kernel.address("pcpu_hot"), types.find("pcpu_hot", "current_task")
        if hot is not None and current is not None:
            address = hot + current.offset
    return address
