# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Guests that hang, ran out of memory, or bear names that try to be more than text."""

import pytest

from tests.conftest import Vol
from tests.helpers import guest_machine, guests, real_guest, rows
from volatility_guestdump import kernels
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.guest.system import linux_facts
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks

#: Control characters that act on a terminal, and marks that turn the direction of text.
ACTING = {*map(chr, range(32)), *map(chr, range(0x7F, 0xA0)), "\u202e"} - {"\n", "\t"}


def _stacks(name: str) -> Stacks:
    machine = guest_machine(real_guest(name))
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    return Stacks(kernel, machine.vcpus)


def _functions(stack: Stack) -> list[str]:
    return [frame.symbol.split("+")[0] for frame in stack.frames]


@pytest.mark.parametrize("name", guests("hung"))
def test_a_hung_task(name: str) -> None:
    """It is the one in uninterruptible sleep, and where it waits is shown."""
    truth = real_guest(name).expected
    hung = {int(pid) for pid, state in truth["states"].items() if state == "D"}
    shown = {s.task.pid: s for s in _stacks(name).of_tasks() if s.task and s.task.state == "D"}
    assert len(hung) == 1 and shown.keys() == hung
    (stack,) = shown.values()
    assert stack.task is not None and stack.task.comm == "lab_hung"
    functions = _functions(stack)
    assert functions[0] == "__schedule" and functions[-3:] == [
        "th_hung",
        "kthread",
        "ret_from_fork",
    ]


@pytest.mark.parametrize("name", guests("soft-lockup"))
def test_a_soft_lockup(name: str) -> None:
    """The vCPU that never leaves the kernel is in the function that loops, or interrupted there."""
    machine = guest_machine(real_guest(name))
    found = [_stacks(name).of_vcpu(vcpu) for vcpu in machine.vcpus]
    (stack,) = (s for s in found if s.task and s.task.comm == "lab_lockup")
    assert _functions(stack)[-3:] == ["th_lockup", "kthread", "ret_from_fork"]


@pytest.mark.parametrize("name", guests("oom"))
def test_memory_is_full(name: str) -> None:
    """What the kernel panicked of, and whom it met."""
    guest = real_guest(name)
    machine = guest_machine(guest)
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    facts = linux_facts(machine, kernel, Stacks(kernel, machine.vcpus), None, Attempts())
    assert facts.panic == guest.expected["panic_message"]
    who = guest.expected["panic_task"]
    assert facts.panic_task is not None and facts.panic_task.task is not None
    assert (facts.panic_task.task.pid, facts.panic_task.task.comm) == (who["pid"], who["comm"])


@pytest.mark.parametrize("name", guests("odd-names"))
@pytest.mark.parametrize(
    "arguments",
    [("guestdump.Info",), ("guestdump.Registers",), ("guestdump.Backtrace", "--tasks")],
    ids=lambda arguments: str(arguments[0]),
)
def test_names_stay_text(vol: Vol, name: str, arguments: tuple[str, ...]) -> None:
    """Nothing that a guest is called reaches the terminal as more than text."""
    done = vol("-f", real_guest(name).guest_path, *arguments)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert not ACTING & set(done.stdout + done.stderr)


@pytest.mark.parametrize("name", guests("odd-names"))
def test_odd_names_are_shown(vol: Vol, name: str) -> None:
    """The tasks are those of the guest: an odd name loses none."""
    guest = real_guest(name)
    command = ("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace", "--tasks")
    shown = {row["PID"]: row["COMM"] for row in rows(vol(*command))}
    assert shown.keys() >= {task["pid"] for task in guest.expected["processes"]}
    assert "<script>al(1)<" in shown.values()


@pytest.mark.parametrize("name", guests("kexec", "kdump-loaded"))
def test_the_kernel_that_runs_is_chosen(name: str) -> None:
    """Of two kernels in memory, whose banners are the same, it is the one that the vCPUs run."""
    guest = real_guest(name)
    machine = guest_machine(guest)
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    assert hex(kernel.virtual_base) == guest.expected["symbols"]["_text"]
    assert kernel.physical_base is not None
    assert hex(kernel.physical_base) == guest.expected["physical_base"]
    assert (
        linux_facts(machine, kernel, Stacks(kernel, machine.vcpus), None, Attempts()).kdump is None
    )
    stacks = Stacks(kernel, machine.vcpus)
    shown = [*map(stacks.of_vcpu, machine.vcpus), *stacks.of_tasks()]
    tasks = {stack.task.pid for stack in shown if stack.task}
    assert tasks >= {task["pid"] for task in guest.expected["processes"]}
