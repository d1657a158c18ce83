# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What vCPUs and tasks were doing, in memory made by hand."""

import struct
from typing import Optional

import pytest

from tests.handmade.btf import BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from tests.helpers import IDLE_VCPU
from volatility_guestdump.exceptions import OrcError
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.stacks.frames import NoteKind
from volatility_guestdump.linux.stacks.orc import OrcTable
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import CR0_PG

#: Members of task_struct: where they are, and how many bytes they have; comm is an array.
TASK_STRUCT = {
    **{"tasks": (0, 8), "pid": (32, 4), "tgid": (36, 4), "comm": (48, 0), "stack": (64, 8)},
    **{"on_cpu": (72, 4), "__state": (76, 4), "exit_state": (80, 4)},
}
THREAD_SP = 88
CODE, TASKS, STACKS, PER_CPU = 0x10000, 0x20000, 0x40000, 0x90000
SIZE = 0x4000
#: Per-CPU variables, at their addresses without a CPU's offset.
CURRENT_TASK, CRASH_NOTES = 0x100, 0x200
NAMES = ("panic", "schedule", "elsewhere")


def kernel_types() -> Btf:
    """Returns the types of the kernel."""
    builder = BtfBuilder()
    numbers = {size: builder.int_(f"u{8 * size}", size) for size in (1, 4, 8)}
    numbers[0] = builder.array(numbers[1], 16)
    thread = builder.struct("thread_struct", 8, [("sp", numbers[8], 0)])
    members = [(name, numbers[size], 8 * at) for name, (at, size) in TASK_STRUCT.items()]
    builder.struct("task_struct", 256, [*members, ("thread", thread, 8 * THREAD_SP)])
    frame = [("bp", numbers[8], 8 * 40), ("ret_addr", numbers[8], 8 * 48)]
    builder.struct("inactive_task_frame", 56, frame)
    builder.struct("rq", 8, [("curr", numbers[8], 0)])
    return Btf(builder.build())


class FakeKernel(HandmadeKernel):
    """A kernel with three functions of 16 bytes, and tasks on one list.

    Args:
        cpus: how many it has.
        panic_cpu: the number of the CPU that panicked.
    """

    def __init__(self, cpus: int, panic_cpu: Optional[int] = -1) -> None:
        super().__init__(
            kernel_types(),
            init_task=TASKS,
            current_task=CURRENT_TASK,
            crash_notes=CURRENT_TASK + 8,
            runqueues=CURRENT_TASK + 16,
            nr_cpu_ids=0x300,
            __per_cpu_offset=0x400,
        )
        self.panic_cpu = panic_cpu
        self.other: set[int] = set()
        self.put(0x300, cpus)
        self.put(0x400, *(PER_CPU + 0x1000 * number for number in range(cpus)))
        self.put(CURRENT_TASK + 8, CRASH_NOTES)
        self.count = 0
        self.task(0, "swapper/0")

    generated = modules = None
    virtual_base, virtual_end = CODE, CODE + 16 * len(NAMES)

    @property
    def orc(self) -> OrcTable:
        """It has none."""
        raise OrcError("there is no ORC")

    def task(self, pid: int, comm: str, *, stack: bool = True, on_cpu: bool = False) -> int:
        """Adds a task, and returns its address."""
        address = TASKS + 0x100 * self.count
        self.write(address, bytes(256))
        self.put(address, TASKS)
        if self.count:
            self.put(address - 0x100, address)
        self.write(address + 32, struct.pack("<II", pid, pid))
        self.write(address + 48, comm.encode())
        if stack:
            self.put(address + 64, STACKS + SIZE * self.count)
        self.write(address + 72, bytes((on_cpu,)))
        self.count += 1
        return address

    def sleep(self, task: int, function: str) -> None:
        """Lets a task have been switched away from in a function that was called as a thread."""
        frame = STACKS + SIZE * ((task - TASKS) // 0x100) + SIZE - 0x100
        self.put(task + THREAD_SP, frame)
        self.put(frame, 0, 0, 0, 0, 0, 0, self.at(function))

    def at(self, function: str) -> int:
        """Returns an address in a function."""
        return CODE + 16 * NAMES.index(function) + 5

    def locate(self, address: int) -> Optional[Place]:
        """Names an address."""
        if not self.virtual_base <= address < self.virtual_end:
            return None
        return Place(NAMES[(address - CODE) // 16], (address - CODE) % 16)

    def locate_loaded(self, address: int) -> Optional[Place]:
        """There is no other code."""
        return None

    def is_code(self, address: int) -> bool:
        """Whether an address is in a function."""
        return self.locate(address) is not None

    def runs_on(self, vcpu: VCPU) -> Optional[bool]:
        """Whether a vCPU was not taken over by another kernel."""
        return vcpu.number not in self.other

    def run(self, number: int, task: int, chosen: Optional[int] = None) -> None:
        """Lets a CPU run a task, and be about to change to another."""
        self.put(PER_CPU + 0x1000 * number + CURRENT_TASK, task)
        self.put(PER_CPU + 0x1000 * number + CURRENT_TASK + 16, task if chosen is None else chosen)

    def vcpu(self, number: int, function: str, cs: int = 0x10) -> VCPU:
        """Returns a vCPU that runs a function on the CPU with the same number."""
        where = {"rip": self.at(function), "rsp": STACKS + SIZE - 64, "cs": cs, "cr0": CR0_PG}
        return VCPU(number, {**IDLE_VCPU, **where, "gs_base": PER_CPU + 0x1000 * number})


def who(stack: Stack) -> tuple[Optional[int], Optional[int]]:
    """Returns the numbers of a stack's vCPU and task."""
    number = None if stack.vcpu is None else stack.vcpu.number
    return number, None if stack.task is None else stack.task.pid


def first_kinds(stack: Stack) -> list[NoteKind]:
    """Returns what is said of the innermost frame."""
    return [note.kind for note in stack.frames[0].notes]


def test_a_vcpu_has_its_task() -> None:
    """In user mode too, where there is but one frame."""
    kernel = FakeKernel(2)
    for number, pid in enumerate((7, 8)):
        kernel.run(number, kernel.task(pid, "shell"))
    vcpus = [kernel.vcpu(0, "schedule", cs=0x33), kernel.vcpu(1, "schedule")]
    found = [Stacks(kernel.kernel, vcpus).of_vcpu(vcpu) for vcpu in vcpus]
    assert [stack.task and stack.task.comm for stack in found] == ["shell", "shell"]
    assert who(found[1]) == (1, 8)
    assert found[1].frames[0].symbol == "schedule+0x5"
    assert first_kinds(found[0]) == [NoteKind.USER_MODE] and len(found[0].frames) == 1


def test_tasks_that_no_vcpu_runs() -> None:
    """Those that wait have frames; of the others it is said why they have none."""
    kernel = FakeKernel(2)
    kernel.run(0, kernel.task(1, "init", on_cpu=True))
    kernel.run(1, TASKS)
    kernel.sleep(kernel.task(2, "sleeper"), "schedule")
    kernel.task(3, "zombie", stack=False)
    kernel.task(4, "elsewhere", on_cpu=True)
    vcpu = kernel.vcpu(0, "schedule")
    found = list(Stacks(kernel.kernel, [vcpu, kernel.vcpu(1, "schedule")]).of_tasks())
    assert [who(stack) for stack in found] == [(None, 2), (None, 3), (None, 4)]
    assert found[0].frames[0].symbol == "schedule+0x5"
    assert [first_kinds(stack) for stack in found[1:]] == [[NoteKind.EXITED], [NoteKind.RUNNING]]


@pytest.mark.parametrize(("stack_of", "runs", "waits"), [(1, 1, [2]), (2, 2, [1]), (3, 1, [])])
def test_a_vcpu_that_changes_from_one_task_to_another(
    stack_of: int, runs: int, waits: list[int]
) -> None:
    """It runs the task whose stack it is on; on an NMI's stack nothing tells of the other task."""
    kernel = FakeKernel(1)
    previous, following = (kernel.task(pid, "task", on_cpu=True) for pid in (1, 2))
    kernel.run(0, previous, following)
    for task in (previous, following):
        kernel.sleep(task, "schedule")
    vcpu = kernel.vcpu(0, "schedule")
    vcpu = VCPU(0, {**vcpu.registers, "rsp": STACKS + SIZE * stack_of + SIZE - 64})
    stacks = Stacks(kernel.kernel, [vcpu])
    assert who(stacks.of_vcpu(vcpu)) == (0, runs)
    shown = list(stacks.of_tasks())
    assert [who(stack)[1] for stack in shown if stack.frames[0].symbol] == waits
    assert [first_kinds(stack) for stack in shown if not stack.frames[0].symbol] == (
        [] if waits else [[NoteKind.RUNNING]]
    )


def test_without_types() -> None:
    """There are no tasks, and why is said; the vCPUs' stacks are there all the same."""
    kernel = FakeKernel(1)
    kernel.types = None
    vcpu = kernel.vcpu(0, "panic")
    stacks = Stacks(kernel.kernel, [vcpu])
    assert (stacks.tasks, stacks.tasks_missing) == (None, "there are no types")
    assert not list(stacks.of_tasks())
    stack = stacks.of_vcpu(vcpu)
    assert stack.task is None and stack.frames[0].symbol == "panic+0x5"


def test_who_panicked() -> None:
    """It is the task of the CPU that the kernel names, and no one when it names none."""
    kernel = FakeKernel(2, panic_cpu=1)
    kernel.run(0, TASKS)
    kernel.run(1, kernel.task(9, "crasher"))
    vcpus = [kernel.vcpu(0, "schedule"), kernel.vcpu(1, "panic")]
    found = Stacks(kernel.kernel, vcpus).panic_task()
    assert found is not None and found.task is not None
    assert (found.cpu, found.vcpu, found.task.comm) == (1, vcpus[1], "crasher")
    assert found.place == "panic+0x5"
    # A stack that does not lead to panic()
    found = Stacks(kernel.kernel, [vcpus[0], kernel.vcpu(1, "elsewhere")]).panic_task()
    assert found is not None and found.place == ""
    for number in (-1, None):
        kernel.panic_cpu = number
        assert Stacks(kernel.kernel, vcpus).panic_task() is None


def test_a_cpu_that_runs_the_kernel_of_kdump() -> None:
    """Its stack when the kernel panicked is shown, from the registers in crash_notes."""
    kernel = FakeKernel(1, panic_cpu=0)
    kernel.run(0, kernel.task(9, "crasher", on_cpu=True))
    vcpu = kernel.vcpu(0, "elsewhere")
    kernel.other.add(0)
    registers = [0] * 27
    registers[16:20] = kernel.at("panic"), 0x10, 0x2, STACKS + SIZE - 64
    status = bytes(112) + struct.pack("<27Q", *registers) + bytes(8)
    kernel.write(PER_CPU + CRASH_NOTES, struct.pack("<III8s", 5, len(status), 1, b"CORE") + status)
    stacks = Stacks(kernel.kernel, [vcpu])
    assert first_kinds(stacks.of_vcpu(vcpu)) == [NoteKind.OTHER_KERNEL]
    (stack,) = stacks.at_crash()
    assert who(stack) == (None, 9)
    assert stack.frames[0].symbol == "panic+0x5" and NoteKind.CRASH_NOTES in first_kinds(stack)
    # It is no task that runs elsewhere.
    assert not list(stacks.of_tasks())
    found = stacks.panic_task()
    assert found is not None and (found.cpu, found.vcpu, found.place) == (0, None, "panic+0x5")


def test_a_task_with_a_gap() -> None:
    """What is shown of it is there though what lies between is not; else it is left out."""
    kernel = FakeKernel(1)
    kernel.task(7, "shell")
    gap = kernel.task(8, "with a gap")
    # In front of its state is its stack.
    for place in range(gap + 64, gap + 72):
        del kernel.bytes[place]
    stacks = Stacks(kernel.kernel, [])
    assert [(task.pid, task.comm, task.state) for task in stacks.all_tasks] == [
        (7, "shell", "R"),
        (8, "with a gap", "R"),
    ]
    for offset in (32, 36, 48, 76, 80):
        value = kernel.bytes.pop(gap + offset)
        assert [task.pid for task in Stacks(kernel.kernel, []).all_tasks] == [7]
        kernel.bytes[gap + offset] = value
