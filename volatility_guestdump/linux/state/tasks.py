# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Tasks of the kernel: which one each vCPU runs, and all the others.

The current task of a CPU is a per-CPU variable: current_task up to 6.1, a member of pcpu_hot from
6.2 to 6.14, current_task again since. A per-CPU variable of a CPU lies at the variable's address
plus that CPU's entry in __per_cpu_offset, which in kernel mode is also what gs_base holds.
"""

import functools
import itertools
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Callable, NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.machine import VCPU
from volatility_guestdump.text import printable
from volatility_guestdump.x86.paging import CR0_PG, PTI_USER_HALF

#: CONFIG_NR_CPUS is at most 8192.
_MAXIMUM_CPUS = 8192
#: PID_MAX_LIMIT of a 64-bit kernel is 4 Mi; a damaged list must end before.
_MAXIMUM_TASKS = 1 << 20
_TOO_MANY = f"there are more than {_MAXIMUM_TASKS} tasks"

_COMM_SIZE = 16
#: task_struct has about 10 KiB; the members of a damaged one may lie far apart.
_LARGEST_TASK = 64 << 10
#: What has more bytes is no integer; a damaged type may say that it has gigabytes.
_LARGEST_INTEGER = 8

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
        btf: its types.

    Attributes:
        broken: why some task may be missing among those that were listed; empty when none is.

    Raises:
        KernelError: the types have no task_struct as it should be.
    """

    def __init__(self, kernel: LinuxKernel, btf: Btf) -> None:
        self.broken = ""
        self._kernel = kernel
        self._btf = btf
        self._pid = btf.offset("task_struct", "pid")
        self._tgid = btf.offset("task_struct", "tgid")
        self._comm = btf.offset("task_struct", "comm")
        self._tasks = btf.offset("task_struct", "tasks")
        self._stack_pointer = btf.offset("task_struct", "thread.sp")
        self._stack = btf.offset("task_struct", "stack")
        # A kernel without SMP has no on_cpu. It is an int up to 6.x, a byte since.
        self._on_cpu = self._field("on_cpu")
        self._state = self._field("__state") or self._field("state")
        self._exit_state = self._field("exit_state")
        self._stack_users = self._field("stack_refcount")
        self._ran = self._field("se.exec_start")
        shown = [(self._pid, 4), (self._tgid, 4), (self._comm, _COMM_SIZE)]
        if self._state is not None and self._exit_state is not None:
            shown += [self._state, self._exit_state]
        #: Where what is shown of a task begins and ends.
        self._shown = range(
            min(offset for offset, _ in shown), max(offset + size for offset, size in shown)
        )

    def _field(self, name: str) -> Optional[tuple[int, int]]:
        """Returns offset and size of a member that not every kernel's task_struct has, or None."""
        try:
            member = self._btf.member("task_struct", name)
            size = self._btf.size(self._btf.resolve(member.type))
        except BtfError:
            return None
        return (member.bit_offset // 8, size) if size <= _LARGEST_INTEGER else None

    def _value(self, address: int, field: tuple[int, int]) -> int:
        offset, size = field
        return int.from_bytes(self._kernel.read(address + offset, size), "little")

    def at(self, address: int) -> Task:
        """Reads the task at an address.

        Raises:
            AddressError: it is not in the dump.
        """
        part = self._parts(address)
        (pid,) = struct.unpack("<i", part(self._pid, 4))
        (tgid,) = struct.unpack("<i", part(self._tgid, 4))
        letter = ""
        if self._state is not None and self._exit_state is not None:
            state, exit_state = (
                int.from_bytes(part(*field), "little") for field in (self._state, self._exit_state)
            )
            letter = _state_letter(state, exit_state)
        return Task(address, pid, tgid, printable(part(self._comm, _COMM_SIZE)), letter)

    def _parts(self, address: int) -> Callable[[int, int], bytes]:
        """Returns what reads a task's members by offset and size.

        They are read all at once, as there may be many tasks; one by one where a page between them
        is not in the dump.
        """
        read, start = self._kernel.read, self._shown.start
        if len(self._shown) > _LARGEST_TASK:
            return lambda offset, size: read(address + offset, size)
        try:
            data = read(address + start, len(self._shown))
        except AddressError:
            return lambda offset, size: read(address + offset, size)
        return lambda offset, size: data[offset - start : offset - start + size]

    def stack(self, task: Task) -> Optional[range]:
        """Returns where the stack of a task lies; None when it is freed.

        A task that has exited loses its stack before the last is gone that knows the task, its
        parent for one; what thread.sp leads to is another's then.

        Raises:
            AddressError: the task is not in the dump.
        """
        start = self._kernel.pointer(task.address + self._stack)
        users = self._stack_users
        if not start or (users is not None and not self._value(task.address, users)):
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
        return self._kernel.pointer(task.address + self._stack_pointer)

    def last_ran(self, task: Task) -> Optional[int]:
        """Returns when a task last ran, in nanoseconds of the scheduler's clock, or None.

        That clock starts with the kernel; it is the one of the log's time stamps too.
        """
        try:
            return None if self._ran is None else self._value(task.address, self._ran)
        except AddressError:
            return None

    def is_running(self, task: Task) -> bool:
        """Whether a CPU runs the task, so that what it left of its stack is out of date.

        Raises:
            AddressError: the task is not in the dump.
        """
        if self._on_cpu is None:
            # The variable of the one CPU.
            current = _current_task_variable(self._kernel, self._btf)
            return current is not None and self._kernel.pointer(current) == task.address
        return bool(self._value(task.address, self._on_cpu))

    def __iter__(self) -> Iterator[Task]:
        """Yields every thread of every process, but no idle task; ends where a list is damaged."""
        init_task = self._kernel.address("init_task")
        if init_task is None:
            return
        seen: set[int] = set()
        try:
            signal = self._btf.offset("task_struct", "signal")
            thread_node = self._btf.offset("task_struct", "thread_node")
            thread_head = self._btf.offset("signal_struct", "thread_head")
        except BtfError:
            signal = None
        for leader in self._list(init_task + self._tasks, self._tasks):
            threads: Iterable[int] = ()
            if signal is not None:
                try:
                    head = self._kernel.pointer(leader + signal) + thread_head
                    threads = self._list(head, thread_node)
                except AddressError as error:
                    self._note(str(error))
            for address in itertools.chain((leader,), threads):
                if address in seen:
                    if address == leader:
                        continue
                    # A thread has one leader: what follows was walked before. Lists that run
                    # into each other would take the square of their length.
                    self._note(f"lists of tasks run into each other at {address:#x}")
                    break
                if len(seen) >= _MAXIMUM_TASKS:
                    self._note(_TOO_MANY)
                    return
                seen.add(address)
                try:
                    yield self.at(address)
                except AddressError as error:
                    self._note(str(error))

    def _list(self, head: int, offset: int) -> Iterator[int]:
        """Yields what is on a list, up to its end or to where it leads nowhere or back."""
        seen = {head}
        try:
            node = self._kernel.pointer(head)
            while node not in seen:
                if len(seen) > _MAXIMUM_TASKS:
                    self._note(_TOO_MANY)
                    return
                seen.add(node)
                yield node - offset
                node = self._kernel.pointer(node)
        except AddressError as error:
            self._note(str(error))
            return
        if node != head:
            self._note(f"a list of tasks leads back to {node:#x}")

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
        btf: its types, when it has them.
        vcpus: all of the guest.
    """

    def __init__(self, kernel: LinuxKernel, btf: Optional[Btf], vcpus: Sequence[VCPU]) -> None:
        self._kernel = kernel
        self._btf = btf
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
            if self._btf is None:
                return None
            task = self._kernel.pointer(self._current_task_pointer(number))
            mm = self._kernel.pointer(task + self._btf.offset("task_struct", "mm"))
            pgd = self._kernel.pointer(mm + self._btf.offset("mm_struct", "pgd"))
            return self._kernel.tables.translate(pgd)[0]
        except (AddressError, KernelError):
            return None

    def _current_task_pointer(self, number: int) -> int:
        variable = _current_task_variable(self._kernel, self._btf)
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
        if number is None or queues is None or self._btf is None:
            return None
        try:
            place = queues + self._offsets[number] + self._btf.offset("rq", "curr")
            return self._kernel.pointer(place & ((1 << self._kernel.bits) - 1))
        except (AddressError, KernelError):
            return None

    def task_of(self, number: int) -> Optional[int]:
        """Returns the address of the task_struct that a CPU runs, or None."""
        try:
            return self._kernel.pointer(self._current_task_pointer(number))
        except (AddressError, KernelError):
            return None


def _current_task_variable(kernel: LinuxKernel, btf: Optional[Btf]) -> Optional[int]:
    """Returns the address of the per-CPU variable that names the current task, or None."""
    address = kernel.address("current_task")
    if address is None and btf is not None:
        hot = kernel.address("pcpu_hot")
        if hot is not None:
            try:
                address = hot + btf.offset("pcpu_hot", "current_task")
            except KernelError:
                return None
    return address
