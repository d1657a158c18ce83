# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the vCPUs and tasks of a guest were doing: their stacks, and who panicked."""

import contextlib
import functools
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, TypesError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.frames import Frame, Note, NoteKind
from volatility_guestdump.linux.stacks.unwind import Unwinder
from volatility_guestdump.linux.state.crash import registers_at_crash
from volatility_guestdump.linux.state.run_queues import RunQueues
from volatility_guestdump.linux.state.tasks import Cpus, Task, Tasks
from volatility_guestdump.machine import VCPU


class Stack(NamedTuple):
    """The stack of a vCPU or of a task.

    Attributes:
        vcpu: that it is of, or None for a task that none runs.
        task: that it is of, or None where it cannot be told.
        frames: the innermost first; never none.
    """

    vcpu: Optional[VCPU]
    task: Optional[Task]
    frames: Sequence[Frame]


class StackGroup(NamedTuple):
    """Tasks whose stacks have the same frames.

    Attributes:
        tasks: in the order of their stacks; None for one that cannot be told.
        frames: of the first of them; in the others only the stack pointers differ.
    """

    tasks: Sequence[Optional[Task]]
    frames: Sequence[Frame]


def grouped(stacks: Iterable[Stack]) -> list[StackGroup]:
    """Returns stacks by their frames, the largest group first."""
    groups: dict[Hashable, tuple[list[Optional[Task]], Sequence[Frame]]] = {}
    for stack in stacks:
        key = tuple((frame.ip, frame.symbol, frame.notes) for frame in stack.frames)
        groups.setdefault(key, ([], stack.frames))[0].append(stack.task)
    found = [StackGroup(tasks, frames) for tasks, frames in groups.values()]
    return sorted(found, key=lambda group: -len(group.tasks))


class PanicTask(NamedTuple):
    """Who panicked.

    Attributes:
        cpu: the kernel's number of the CPU that it ran on.
        vcpu: that is this CPU, or None when there is none.
        task: None where it cannot be told.
        place: in the kernel, "panic+0x118"; empty where the stack does not lead there.
    """

    cpu: int
    vcpu: Optional[VCPU]
    task: Optional[Task]
    place: str


class Stacks:
    """What the vCPUs and tasks of a guest were doing.

    Args:
        kernel: of the guest.
        vcpus: all of the guest.

    Attributes:
        tasks: of the kernel, or None without types, which tell where they are.
        tasks_missing: why there are none.
        cpus: of the kernel.
    """

    def __init__(self, kernel: LinuxKernel, vcpus: Sequence[VCPU]) -> None:
        self._kernel = kernel
        self._vcpus = vcpus
        self.tasks: Optional[Tasks] = None
        self.tasks_missing = ""
        try:
            self.tasks = Tasks(kernel, kernel.require_types())
        except TypesError as error:
            self.tasks_missing = str(error)
        self.cpus = Cpus(kernel, kernel.types, vcpus)
        self._unwinder = Unwinder(kernel)

    @functools.cached_property
    def all_tasks(self) -> Sequence[Task]:
        """Every task but the idle ones; none where `tasks` is None."""
        return list(self.tasks or ())

    def since_ran(self, task: Task) -> Optional[int]:
        """Returns for how many nanoseconds a task has not run, at least; None where nothing tells.

        Args:
            task: that no CPU runs.
        """
        return None if self._run_queues is None else self._run_queues.since_ran(task)

    @functools.cached_property
    def _run_queues(self) -> Optional[RunQueues]:
        types = self._kernel.types
        return None if types is None else RunQueues(self._kernel, types, self.cpus.offsets)

    def of_vcpu(self, vcpu: VCPU) -> Stack:
        """Returns what a vCPU was doing."""
        task = self._task(self._running(vcpu)[0])
        return Stack(vcpu, task, list(self._unwinder.of_vcpu(vcpu, task and task.address)))

    def _running(self, vcpu: VCPU) -> tuple[Optional[int], Optional[int]]:
        """Returns the task that a vCPU runs, and the other one where it changes between two.

        The scheduler sets rq.curr first; then __switch_to_asm changes stacks, which tells the task,
        and __switch_to sets the current one. What the other task left of its stack is valid.
        """
        current, chosen = self.cpus.current_task(vcpu), self.cpus.chosen_task(vcpu)
        if chosen is None or chosen == current or vcpu.ring == 3:
            return current, None
        if self._is_on_stack(vcpu, chosen):
            return chosen, current
        # An NMI has a stack of its own, and may come before the change of stacks or after it.
        return current, chosen if self._is_on_stack(vcpu, current) else None

    def _is_on_stack(self, vcpu: VCPU, address: Optional[int]) -> bool:
        task = self._task(address)
        if task is None or self.tasks is None:
            return False
        try:
            bounds = self.tasks.stack(task)
        except AddressError:
            return False
        sp = vcpu.get("rsp")
        return bounds is not None and sp is not None and sp in bounds

    @functools.cached_property
    def _changing(self) -> frozenset[Optional[int]]:
        """Tasks that a CPU is about to run, or ran just now, but does not at this moment."""
        return frozenset(self._running(vcpu)[1] for vcpu in self._vcpus)

    def _task(self, address: Optional[int]) -> Optional[Task]:
        if address is None or self.tasks is None:
            return None
        try:
            return self.tasks.at(address)
        except AddressError:
            return None

    @functools.cached_property
    def _left(self) -> Mapping[int, Mapping[str, int]]:
        """CPUs that no vCPU is any more, by their numbers: the registers at the crash."""
        present = {self.cpus.number(vcpu) for vcpu in self._vcpus}
        left = {
            number: registers_at_crash(self._kernel, offset)
            for number, offset in enumerate(self.cpus.offsets)
            if number not in present
        }
        return {number: registers for number, registers in left.items() if registers}

    def at_crash(self) -> Iterator[Stack]:
        """Yields what CPUs did when the kernel panicked that run another kernel since then."""
        for number in self._left:
            yield self._of_crashed(number)

    def _of_crashed(self, number: int) -> Stack:
        task = self._task(self.cpus.task_of(number))
        note = Note(NoteKind.CRASH_NOTES, detail=str(number))
        frames = self._unwinder.of_registers(self._left[number], task and task.address, note)
        return Stack(None, task, list(frames))

    def of_tasks(self) -> Iterator[Stack]:
        """Yields what the tasks wait for that are not on a CPU whose registers are known."""
        known = {self._running(vcpu)[0] for vcpu in self._vcpus}
        known |= {self.cpus.task_of(number) for number in self._left}
        for task in self.all_tasks:
            if task.address in known:
                continue
            with contextlib.suppress(AddressError):
                yield self.of_task(task)

    def of_task(self, task: Task) -> Stack:
        """Returns what a task waits for that is not on a CPU whose registers are known.

        Raises:
            AddressError: the task is not in the dump.
        """
        frames: Sequence[Frame] = (Frame(None, None, "", (Note(NoteKind.RUNNING),)),)
        if self.tasks is not None and (
            task.address in self._changing or not self.tasks.is_running(task)
        ):
            frames = list(self._unwinder.of_task(self.tasks, task))
        return Stack(None, task, frames)

    def panic_task(self) -> Optional[PanicTask]:
        """Returns who panicked, or None when nobody did or it cannot be told."""
        number, stack = self._kernel.panic_cpu, self.of_panic()
        return None if number is None or stack is None else _panic_task(number, stack)

    def of_panic(self) -> Optional[Stack]:
        """Returns the stack of who panicked, or None when nobody did or it cannot be told."""
        number = self._kernel.panic_cpu
        if number is None:
            return None
        for vcpu in self._vcpus:
            if self.cpus.number(vcpu) == number:
                return self.of_vcpu(vcpu)
        return self._of_crashed(number) if number in self._left else None


def _panic_task(number: int, stack: Stack) -> PanicTask:
    symbols = (frame.symbol for frame in stack.frames)
    place = next((symbol for symbol in symbols if symbol.startswith("panic+")), "")
    return PanicTask(number, stack.vcpu, stack.task, place)
