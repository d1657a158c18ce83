# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the vCPUs and tasks of a guest were doing: their stacks, and who panicked."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.crash import registers_at_crash
from volatility_guestdump.linux.frames import Frame, Kind, Note
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.tasks import Cpus, Task, Tasks
from volatility_guestdump.linux.unwind import Unwinder
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
        task = self._task(self._cpus.current_task(vcpu))
        return Stack(vcpu, task, list(self._unwinder.of_vcpu(vcpu, task and task.address)))

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
        present = {self._cpus.number(vcpu) for vcpu in self._vcpus}
        left = {
            number: registers_at_crash(self._kernel, offset)
            for number, offset in enumerate(self._cpus.offsets)
            if number not in present
        }
        return {number: registers for number, registers in left.items() if registers}

    def at_crash(self) -> Iterator[Stack]:
        """Yields what CPUs did when the kernel panicked that run another kernel since then."""
        for number in self._left:
            yield self._of_crashed(number)

    def _of_crashed(self, number: int) -> Stack:
        task = self._task(self._cpus.task_of(number))
        note = Note(Kind.CRASH_NOTES, detail=str(number))
        frames = self._unwinder.of_registers(self._left[number], task and task.address, note)
        return Stack(None, task, list(frames))

    def of_tasks(self) -> Iterator[Stack]:
        """Yields what the tasks wait for that are not on a CPU whose registers are known."""
        if self.tasks is None:
            return
        known = {self._cpus.current_task(vcpu) for vcpu in self._vcpus}
        known |= {self._cpus.task_of(number) for number in self._left}
        for task in self.tasks:
            if task.address in known:
                continue
            frames: Sequence[Frame] = (Frame(None, None, "", (Note(Kind.RUNNING),)),)
            with contextlib.suppress(AddressError):
                if not self.tasks.is_running(task):
                    frames = list(self._unwinder.of_task(self.tasks, task))
                yield Stack(None, task, frames)

    def panic_task(self) -> Optional[PanicTask]:
        """Returns who panicked, or None when nobody did or it cannot be told."""
        number = self._kernel.panic_cpu
        if number is None:
            return None
        for vcpu in self._vcpus:
            if self._cpus.number(vcpu) == number:
                return _panic_task(number, self.of_vcpu(vcpu))
        if number in self._left:
            return _panic_task(number, self._of_crashed(number))
        return None


def _panic_task(number: int, stack: Stack) -> PanicTask:
    symbols = (frame.symbol for frame in stack.frames)
    place = next((symbol for symbol in symbols if symbol.startswith("panic+")), "")
    return PanicTask(number, stack.vcpu, stack.task, place)
