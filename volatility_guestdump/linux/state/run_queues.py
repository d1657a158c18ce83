# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""For how long a task has not run, by the clocks of the CPU that it ran on.

Each CPU has a struct rq, the per-CPU variable runqueues, with two clocks in nanoseconds. They go on
when the scheduler does something on that CPU, so that those of an idle one are out of date:

    clock         all time
    clock_task    time in which a task could run: without interrupts, and without what the
                  hypervisor gave to others (steal)

What a task notes by them:

    sched_info.last_arrival   clock, when it last began to run (CONFIG_SCHED_INFO)
    se.exec_start             clock_task, when it last stopped running; 0 after it has moved

The first difference has what the task ran since then in it, the second lacks interrupts and stolen
time: a task has not run for the smaller of both at least. The log's clock, or another CPU's, would
not do: over a long uptime clock_task is behind by hours. drgn takes the first difference alone
(task_since_last_arrival_ns).
"""

from collections.abc import Sequence
from typing import Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Struct, Structures


class RunQueues:
    """What the scheduler of a kernel knows of time.

    Args:
        kernel: in whose memory it is.
        types: its types.
        cpu_offsets: what added to the address of a per-CPU variable gives that of each CPU.
    """

    def __init__(self, kernel: LinuxKernel, types: Types, cpu_offsets: Sequence[int]) -> None:
        self._queues = Structures(kernel, types, "rq", "clock", "clock_task")
        self._tasks = Structures(kernel, types, "task_struct")
        self._variable = kernel.address("runqueues")
        self._mask = (1 << kernel.bits) - 1
        self._cpu_offsets = cpu_offsets

    def since_ran(self, task: Task) -> Optional[int]:
        """Returns for how many nanoseconds a task has not run, at least; None where nothing tells.

        Args:
            task: that no CPU runs.
        """
        found = self._tasks.bare(task.address)
        try:
            queue = self._queue_of(found)
            arrived, stopped = found.get("sched_info.last_arrival"), found.get("se.exec_start")
            if queue is None or not arrived or not stopped:
                return None
            clock, clock_task = queue.get("clock"), queue.get("clock_task")
        except AddressError:
            return None
        if clock is None or clock_task is None or clock < arrived or clock_task < stopped:
            return None
        return min(clock - arrived, clock_task - stopped)

    def _queue_of(self, task: Struct) -> Optional[Struct]:
        """Returns the queue of the CPU that a task ran on; the one that there is without SMP."""
        if self._variable is None:
            return None
        # From 5.16 on (bcf9033e5449), and before.
        number = task.get("thread_info.cpu")
        if number is None:
            number = task.get("cpu") or 0
        if not 0 <= number < len(self._cpu_offsets):
            return None
        return self._queues.at((self._variable + self._cpu_offsets[number]) & self._mask)
