"""Tasks of the kernel: which one each vCPU runs, and all the others.

The current task of a CPU is a per-CPU variable: current_task up to 6.1, a member of pcpu_hot from
6.2 to 6.14, current_task again since. A per-CPU variable of a CPU lies at the variable's address
plus that CPU's entry in __per_cpu_offset, which in kernel mode is also what gs_base holds.
"""

import contextlib
import functools
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError, KernelError
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.machine import VCPU
from volatility_guestdump.text import printable
from volatility_guestdump.x86.paging import CR0_PG, PTI_USER_HALF

#: CONFIG_NR_CPUS is at most 8192.
_MAXIMUM_CPUS = 8192
#: PID_MAX_LIMIT of a 64-bit kernel is 4 Mi; a damaged list must end before.
_MAXIMUM_TASKS = 1 << 20

_COMM_SIZE = 16

#: States of tasks as /proc and ps(1) name them. Those up to X are bits of task_struct.__state (a
#: member named state before 5.14, 2f064a59a11f) and of exit_state, the lowest being S; the values
#: are those since 4.14 (include/linux/sched.h, fs/proc/array.c).
STATES = "RSDTtXZPI"
_REPORTED_BITS = 0x7F
_UNINTERRUPTIBLE, _TASK_IDLE = 0x2, 0x402
#: Waiting for a lock with PREEMPT_RT (from 5.15), and frozen (from 6.1, f5d39b020809): shown as D.
_SHOWN_UNINTERRUPTIBLE = 0x9000


def state_letter(state: int, exit_state: int) -> str:
    """Returns the letter of a task's state, as /proc shows it.

    Args:
        state: task_struct.__state.
        exit_state: task_struct.exit_state.
    """
    if state & _SHOWN_UNINTERRUPTIBLE:
        return "D"
    if state & _TASK_IDLE == _TASK_IDLE:
        return "I"
    return STATES[((state | exit_state) & _REPORTED_BITS).bit_length()]


class Task(NamedTuple):
    """A task (a thread) of the kernel.

    Attributes:
        address: of its task_struct.
        pid: number of the thread; that of the process is `tgid`.
        tgid: number of the process.
        comm: its name, without control characters.
    """

    address: int
    pid: int
    tgid: int
    comm: str


class Tasks:
    """The tasks of a kernel.

    Args:
        kernel: in whose memory they are.
        btf: its types.

    Raises:
        KernelError: the types have no task_struct as it should be.
    """

    def __init__(self, kernel: LinuxKernel, btf: Btf) -> None:
        self._kernel = kernel
        self._btf = btf
        self._pid = btf.offset("task_struct", "pid")
        self._tgid = btf.offset("task_struct", "tgid")
        self._comm = btf.offset("task_struct", "comm")
        self._tasks = btf.offset("task_struct", "tasks")
        self._stack_pointer = btf.offset("task_struct", "thread.sp")
        on_cpu = btf.member("task_struct", "on_cpu")
        self._on_cpu = on_cpu.bit_offset // 8
        # An int up to 6.x, a byte since.
        self._on_cpu_size = btf.size(btf.resolve(on_cpu.type))
        self._state: Optional[tuple[int, int]] = None
        with contextlib.suppress(BtfError):
            self._state = self._state_offsets()

    def _state_offsets(self) -> tuple[int, int]:
        offset = self._btf.offset
        try:
            state = offset("task_struct", "__state")
        except BtfError:
            state = offset("task_struct", "state")
        return state, offset("task_struct", "exit_state")

    def at(self, address: int) -> Task:
        """Reads the task at an address.

        Raises:
            AddressError: it is not in the dump.
        """
        # In one read: there may be many tasks.
        first = min(self._pid, self._tgid, self._comm)
        end = max(self._pid + 4, self._tgid + 4, self._comm + _COMM_SIZE)
        data = self._kernel.read(address + first, end - first)
        (pid,) = struct.unpack_from("<i", data, self._pid - first)
        (tgid,) = struct.unpack_from("<i", data, self._tgid - first)
        comm = data[self._comm - first :][:_COMM_SIZE]
        return Task(address, pid, tgid, printable(comm))

    def stack_pointer(self, task: Task) -> int:
        """Returns where a task that is not running left its stack.

        Raises:
            AddressError: the task is not in the dump.
        """
        return self._kernel.pointer(task.address + self._stack_pointer)

    def is_running(self, task: Task) -> bool:
        """Whether a CPU runs the task, so that what it left of its stack is out of date.

        Raises:
            AddressError: the task is not in the dump.
        """
        size = self._on_cpu_size
        return self._kernel.read(task.address + self._on_cpu, size) != bytes(size)

    def state(self, task: Task) -> str:
        """Returns the letter of a task's state, one of `STATES`; "?" when it is not known."""
        if self._state is None:
            return "?"
        state, exit_state = self._state
        first = min(state, exit_state)
        try:
            # In one read: there may be many tasks.
            data = self._kernel.read(task.address + first, max(state, exit_state) + 4 - first)
        except AddressError:
            return "?"
        (now,) = struct.unpack_from("<I", data, state - first)
        (ended,) = struct.unpack_from("<I", data, exit_state - first)
        return state_letter(now, ended)

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
                with contextlib.suppress(AddressError):
                    head = self._kernel.pointer(leader + signal) + thread_head
                    threads = self._list(head, thread_node)
            for address in itertools.chain((leader,), threads):
                if address in seen:
                    if address == leader:
                        continue
                    # A thread has one leader: what follows was walked before. Lists that run
                    # into each other would take the square of their length.
                    break
                if len(seen) >= _MAXIMUM_TASKS:
                    return
                seen.add(address)
                try:
                    yield self.at(address)
                except AddressError:
                    continue

    def _list(self, head: int, offset: int) -> Iterator[int]:
        """Yields what is on a list, up to its end or to where it leads nowhere or back."""
        seen = {head}
        try:
            node = self._kernel.pointer(head)
            while node not in seen and len(seen) <= _MAXIMUM_TASKS:
                seen.add(node)
                yield node - offset
                node = self._kernel.pointer(node)
        except AddressError:
            return


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
        self._offsets = self._read_offsets(len(vcpus))
        numbers = {offset: number for number, offset in enumerate(self._offsets)}
        #: Number of the vCPU -> number of the CPU, where gs_base tells it.
        self._told = {
            vcpu.number: numbers[vcpu["gs_base"]] for vcpu in vcpus if vcpu["gs_base"] in numbers
        }
        self._taken = set(self._told.values())
        self._page_map = functools.lru_cache(maxsize=_MAXIMUM_CPUS)(self._read_page_map)

    def _read_offsets(self, count: int) -> list[int]:
        table = self._kernel.address("__per_cpu_offset")
        if table is None:
            # A kernel without SMP has one instance, at the variable's own address.
            return [0]
        size = self._kernel.bits // 8
        offsets: list[int] = []
        for number in range(min(count, _MAXIMUM_CPUS)):
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
        if not vcpu["cr0"] & CR0_PG:
            # The kernel has not started it: it is in the firmware.
            return None
        told = self._told.get(vcpu.number)
        if told is not None:
            return told
        free = [number for number in range(len(self._offsets)) if number not in self._taken]
        root = self._kernel.tables.mode.root(vcpu["cr3"])
        free.sort(key=lambda number: number != vcpu.number)
        # Where page tables are not isolated, one may lie where the user half of a pair would.
        for page_map in (root, root & ~PTI_USER_HALF):
            for number in free:
                if self._page_map(number) == page_map:
                    return number
        if not free or (free[0] != vcpu.number and len(free) > 1):
            return None
        # Its current task has other page tables: this vCPU runs another kernel, as kdump's.
        return free[0] if self._page_map(free[0]) is None else None

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
        variable = self._current_task_variable()
        if variable is None:
            raise KernelError("the kernel does not name its current tasks")
        return (variable + self._offsets[number]) & ((1 << self._kernel.bits) - 1)

    def current_task(self, vcpu: VCPU) -> Optional[int]:
        """Returns the address of the task_struct that a vCPU runs, or None."""
        number = self.number(vcpu)
        if number is None:
            return None
        try:
            return self._kernel.pointer(self._current_task_pointer(number))
        except (AddressError, KernelError):
            return None

    def _current_task_variable(self) -> Optional[int]:
        address = self._kernel.address("current_task")
        if address is None and self._btf is not None:
            hot = self._kernel.address("pcpu_hot")
            if hot is not None:
                try:
                    address = hot + self._btf.offset("pcpu_hot", "current_task")
                except KernelError:
                    return None
        return address
