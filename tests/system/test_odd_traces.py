# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Traces of guests whose stacks are odd, against the traces that their kernels printed."""

import re

import pytest

from tests.helpers import guest_machine, guests, real_guest
from volatility_guestdump import kernels
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.guest.system import linux_facts
from volatility_guestdump.linux.stacks.frames import NoteKind
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks


def stacks(name: str) -> tuple[list[Stack], Stacks]:
    """Returns the stacks of a guest's vCPUs and those at the crash, and what has the others."""
    machine = guest_machine(real_guest(name))
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    found = Stacks(kernel, machine.vcpus)
    return [*map(found.of_vcpu, machine.vcpus), *found.at_crash()], found


def places(stack: Stack) -> list[str]:
    """Returns the places of a trace, without modules."""
    return [frame.symbol.split(" [")[0] for frame in stack.frames]


TRACED = ("kretprobe-6.1", "kretprobe-6.12", "fprobe-newest")


@pytest.mark.parametrize(
    "name",
    guests(
        *("graph-6.1", "graph-6.12", "graph-newest", "zombies-6.1", "zombies-6.12"),
        *("kdump", *TRACED),
    ),
)
def test_the_trace_that_the_kernel_printed(name: str) -> None:
    """From panic() on each frame is that of the console, where it is not a tracer's own code."""
    truth = real_guest(name).expected
    (shown,) = (s for s in stacks(name)[0] if s.task and s.task.pid == truth["panic_task"]["pid"])
    printed = [call.split("/")[0] for call in truth["panic_call_trace_full"]]
    start = next(number for number, call in enumerate(printed) if call.startswith("panic+"))
    found = places(shown)[-len(printed) + start + 1 :]
    for number, call in enumerate(printed[start + 1 :]):
        # The kernel prints the code that a kretprobe returns to as the end of what lies before.
        if name in TRACED and not call.startswith(found[number].split("+")[0]):
            assert NoteKind.KRETPROBE in {
                note.kind for note in shown.frames[number - len(found)].notes
            }
            continue
        assert found[number] == call
    assert [note.kind for note in shown.frames[-1].notes] == [NoteKind.SYSTEM_CALL]


@pytest.mark.parametrize("name", guests("wild-6.1", "wild-6.12"))
def test_a_call_through_a_wild_pointer(name: str) -> None:
    """The frame outside of all code is followed by its caller, up to where the thread began."""
    (stack,) = (s for s in stacks(name)[0] if s.task and s.task.comm == "lab_wild")
    (number,) = (n for n, frame in enumerate(stack.frames) if frame.ip == 0x4141414100)
    below = " ".join(places(stack)[number + 1 :])
    assert re.fullmatch(
        r"th_wild\+\w+ kthread\+\w+ ret_from_fork\+\w+( ret_from_fork_asm\+\w+)?", below
    )
    assert not stack.frames[-1].notes


@pytest.mark.parametrize("name", guests("kprobe-6.1", "kprobe-6.12"))
def test_the_handler_of_a_kprobe(name: str) -> None:
    """The trace goes on through ftrace's trampoline, of which the console has the address alone."""
    truth = real_guest(name).expected
    (shown,) = (s for s in stacks(name)[0] if s.task and s.task.pid == truth["panic_task"]["pid"])
    printed = [call.split("/")[0] for call in truth["panic_call_trace_full"]]
    start = next(number for number, call in enumerate(printed) if call.startswith("panic+")) + 1
    found = places(shown)
    end = next(number for number, place in enumerate(found) if place.startswith("panic+")) + 1
    assert printed[start].startswith("panic_before+")
    (trampoline,) = (place for place in found if place.startswith("ftrace_trampoline+"))
    assert [place for place in found[end:] if place != trampoline] == printed[start:]
    assert found[found.index(trampoline) + 1].startswith("victim+")
    assert not shown.frames[-1].notes


@pytest.mark.slow
def test_a_panic_in_compiled_bpf() -> None:
    """The programs have the names that the kernel prints, and the frames below them are its own."""
    truth = real_guest("bpf-nmi").expected
    (shown,) = (s for s in stacks("bpf-nmi")[0] if s.vcpu and s.vcpu.number == 0)
    printed = [call.split("/")[0] for call in truth["panic_call_trace_full"]]
    start = next(number for number, call in enumerate(printed) if call.startswith("panic+")) + 1
    found = places(shown)
    end = next(number for number, place in enumerate(found) if place.startswith("panic+")) + 1
    assert sum(call.startswith("bpf_prog_") for call in printed) >= 2
    assert found[end:] == printed[start:]
    assert [note.kind for note in shown.frames[-1].notes] == [NoteKind.SYSTEM_CALL]


@pytest.mark.parametrize("name", guests("zombies-6.1", "zombies-6.12"))
def test_zombies_have_no_frames(name: str) -> None:
    """Each is one row that says so, and the sleepers on their old stacks have their own."""
    truth = real_guest(name).expected
    dead = {task["pid"] for task in truth["zombies"]}
    shown = {s.task.pid: s for s in stacks(name)[1].of_tasks() if s.task}
    assert dead and dead <= set(shown)
    for pid in dead:
        (frame,) = shown[pid].frames
        task = shown[pid].task
        assert task is not None and task.state == "Z"
        assert (frame.sp, frame.ip) == (None, None)
        assert [note.kind for note in frame.notes] == [NoteKind.EXITED]


def test_kdump() -> None:
    """The kernel that panicked is shown; the vCPU in the second one is said to run another."""
    machine = guest_machine(real_guest("kdump"))
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    facts = linux_facts(machine, kernel, Stacks(kernel, machine.vcpus), None, Attempts())
    assert facts.kdump is not None and not facts.kdump.is_second
    assert facts.panic_task is not None and facts.panic_task.place.startswith("panic+")
    others = [
        s.vcpu.number
        for s in stacks("kdump")[0]
        if s.vcpu and [note.kind for note in s.frames[0].notes] == [NoteKind.OTHER_KERNEL]
    ]
    assert others and others == list(facts.kdump.other_vcpus)


@pytest.mark.slow
def test_kdump_with_one_vcpu() -> None:
    """All registers lead into the second kernel, and which the first was is said."""
    guest = real_guest("kdump-one-vcpu")
    machine = guest_machine(guest)
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    facts = linux_facts(machine, kernel, Stacks(kernel, machine.vcpus), None, Attempts())
    assert facts.kdump is not None and facts.kdump.is_second
    assert facts.kdump.first_release == guest.expected["kernel_release"]
    assert facts.panic_task is None


@pytest.mark.slow
def test_a_vcpu_in_compiled_bpf() -> None:
    """Where the vCPU is in the compiled code is what the guest's kernel told of that code."""
    ((start, size),) = (
        (int(function["start"], 16), function["size"])
        for function in real_guest("bpf").expected["bpf_functions"]
    )
    (frame,) = (
        stack.frames[0]
        for stack in stacks("bpf")[0]
        if stack.frames[0].ip is not None and start <= stack.frames[0].ip < start + size
    )
    assert re.fullmatch(
        rf"bpf_prog_[0-9a-f]{{16}}_lab_prog\+{(frame.ip or 0) - start:#x}", frame.symbol
    )


def test_a_cpu_that_is_offline() -> None:
    """It is said of the vCPU that was taken offline, and of no other."""
    offline = [
        s.vcpu.number
        for s in stacks("offline")[0]
        if s.vcpu and NoteKind.OFFLINE in {note.kind for frame in s.frames for note in frame.notes}
    ]
    assert offline == [1]
