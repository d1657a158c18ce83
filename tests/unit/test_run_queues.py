# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""For how long tasks have not run, in memory made by hand."""

from typing import Optional

import pytest

from tests.handmade.btf import BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump.linux.state.run_queues import RunQueues
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.types.btf import Btf

SECOND = 10**9
TASK, QUEUES = 0x10000, 0x500
CPUS = (0x100000, 0x200000)
#: Uptime of 100 days, of which a tenth went to interrupts and to other guests.
UPTIME, TASK_TIME = 100 * 86400 * SECOND, 90 * 86400 * SECOND


def _types(without: str, up_to_5_15: bool) -> Btf:
    builder = BtfBuilder()
    u64, u32 = builder.int_("u64", 8), builder.int_("u32", 4)

    def struct(name: str, size: int, *fields: tuple[str, int, int]) -> int:
        return builder.struct(name, size, [field for field in fields if field[0] != without])

    info = struct("thread_info", 16, *() if up_to_5_15 else (("cpu", u32, 8 * 8),))
    sched = struct("sched_info", 32, ("last_arrival", u64, 8 * 16))
    entity = struct("sched_entity", 64, ("exec_start", u64, 8 * 24))
    own = (("cpu", u32, 8 * 100),) if up_to_5_15 else ()
    members = (("thread_info", info, 0), ("sched_info", sched, 8 * 16), ("se", entity, 8 * 48))
    struct("task_struct", 256, *members, *own)
    struct("rq", 64, ("clock", u64, 8 * 8), ("clock_task", u64, 8 * 16))
    return Btf(builder.build())


def waiting(
    since: int, ran: int = 0, cpu: int = 1, without: str = "", up_to_5_15: bool = False
) -> HandmadeKernel:
    """Returns a kernel with a task.

    Args:
        since: nanoseconds that it has waited.
        ran: nanoseconds that it ran before, from when it was chosen on.
        cpu: that it ran on.
        without: a member that the types do not have.
        up_to_5_15: whether the CPU is a member of task_struct.
    """
    kernel = HandmadeKernel(_types(without, up_to_5_15), runqueues=QUEUES)
    for number, offset in enumerate(CPUS):
        # The clocks of the others are of no use.
        there = (UPTIME, TASK_TIME) if number == cpu else (1 << 62, 1 << 62)
        kernel.put(offset + QUEUES, 0, *there, 0, 0, 0, 0, 0)
    kernel.write(TASK, bytes(256))
    kernel.write(TASK + (100 if up_to_5_15 else 8), cpu.to_bytes(4, "little"))
    kernel.put(TASK + 16 + 16, UPTIME - since - ran)
    kernel.put(TASK + 48 + 24, TASK_TIME - since)
    return kernel


def since_ran(kernel: HandmadeKernel) -> Optional[int]:
    """Returns for how long the task has not run."""
    queues = RunQueues(kernel.kernel, kernel.require_types(), CPUS)
    return queues.since_ran(Task(TASK, 1, 1, "one", "D"))


@pytest.mark.parametrize("up_to_5_15", [False, True])
@pytest.mark.parametrize("cpu", [0, 1])
def test_interrupts_and_stolen_time_make_no_task_hang(cpu: int, up_to_5_15: bool) -> None:
    """After 100 days, ten of them stolen, one that waits for a second has waited for a second."""
    assert since_ran(waiting(SECOND, cpu=cpu, up_to_5_15=up_to_5_15)) == SECOND


def test_what_a_task_ran_is_no_waiting() -> None:
    """It was chosen an hour ago, and ran until a second ago."""
    assert since_ran(waiting(SECOND, 3600 * SECOND)) == SECOND
    moved = waiting(SECOND, 3600 * SECOND)
    moved.put(TASK + 48 + 24, 0)
    assert since_ran(moved) is None


@pytest.mark.parametrize("without", ["sched_info", "last_arrival", "se", "clock", "clock_task"])
def test_a_kernel_that_does_not_note_when_tasks_run(without: str) -> None:
    """Nothing is made up."""
    assert since_ran(waiting(SECOND, without=without)) is None


@pytest.mark.parametrize("place", [TASK + 16 + 16, TASK + 48 + 24])
def test_a_task_of_the_future(place: int) -> None:
    """What it noted is damaged, or the CPU is another one."""
    kernel = waiting(SECOND)
    kernel.put(place, UPTIME + 1)
    assert since_ran(kernel) is None


def test_what_is_not_there() -> None:
    """No such CPU, no symbol, a page that is missing: nothing is known, and nothing fails."""
    assert since_ran(waiting(SECOND, cpu=2)) is None
    kernel = waiting(SECOND)
    del kernel.symbols["runqueues"]
    assert since_ran(kernel) is None
    for place in (TASK + 8, TASK + 16 + 16, CPUS[1] + QUEUES + 8):
        kernel = waiting(SECOND)
        del kernel.bytes[place]
        assert since_ran(kernel) is None
