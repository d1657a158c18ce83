"""What the vCPUs and tasks of a guest were doing: their stacks, and who panicked."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.tasks import Cpus, Task, Tasks
from volatility_guestdump.linux.unwind import Frame, Unwinder
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
    groups: dict[tuple[tuple[int, str], ...], StackGroup] = {}
    tasks: dict[tuple[tuple[int, str], ...], list[Optional[Task]]] = {}
    for stack in stacks:
        key = tuple((frame.ip, frame.note) for frame in stack.frames)
        members = tasks.setdefault(key, [])
        members.append(stack.task)
        groups.setdefault(key, StackGroup(members, stack.frames))
    return sorted(groups.values(), key=lambda group: -len(group.tasks))


class PanicTask(NamedTuple):
    """Who panicked.

    Attributes:
        vcpu: that it ran on.
        task: None where it cannot be told.
        place: in the kernel, "panic+0x118"; empty where the stack cannot be unwound.
    """

    vcpu: VCPU
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
    """

    def __init__(self, kernel: LinuxKernel, vcpus: Sequence[VCPU]) -> None:
        self._kernel = kernel
        self._vcpus = vcpus
        self.tasks: Optional[Tasks] = None
        self.tasks_missing = ""
        try:
            self.tasks = Tasks(kernel, kernel.btf)
        except BtfError as error:
            self.tasks_missing = str(error)
        self._cpus = Cpus(kernel, kernel.types, vcpus)
        self._unwinder = Unwinder(kernel)

    def of_vcpu(self, vcpu: VCPU) -> Stack:
        """Returns what a vCPU was doing."""
        task = None
        address = self._cpus.current_task(vcpu)
        if address is not None and self.tasks is not None:
            with contextlib.suppress(AddressError):
                task = self.tasks.at(address)
        return Stack(vcpu, task, list(self._unwinder.of_vcpu(vcpu)))

    def of_tasks(self) -> Iterator[Stack]:
        """Yields what the tasks that no vCPU runs wait for."""
        for task in self.tasks or ():
            assert self.tasks is not None
            try:
                if self.tasks.is_running(task):
                    continue
            except AddressError:
                continue
            yield Stack(None, task, list(self._unwinder.of_task(self.tasks, task)))

    def panic_task(self) -> Optional[PanicTask]:
        """Returns who panicked, or None when nobody did or it cannot be told."""
        number = self._kernel.panic_cpu
        for vcpu in self._vcpus:
            if number is None or self._cpus.number(vcpu) != number:
                continue
            stack = self.of_vcpu(vcpu)
            place = ""
            if self._kernel.bits == 64:
                place = next(
                    (frame.symbol for frame in stack.frames if frame.symbol.startswith("panic+")),
                    stack.frames[0].symbol or f"{stack.frames[0].ip:#x}",
                )
            return PanicTask(vcpu, stack.task, place)
        return None
