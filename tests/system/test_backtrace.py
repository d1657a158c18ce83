# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Backtraces of real guests against the traces that their kernels printed."""

from typing import Optional

import pytest

from tests.conftest import Vol
from tests.helpers import guests, real_guest, rows
from tests.lab import GUESTS

PANICKED = [
    name
    for name, recipe in GUESTS.items()
    if not (recipe.slow or recipe.odd)
    and recipe.end != "stop"
    and "686" not in recipe.kernel.release
]
#: What may end a trace on a healthy guest.
BORDERS = {"", "user mode", "system call", "interrupt", "exception"}


def functions(frames: list[dict[str, str]]) -> list[str]:
    """Returns the names of the functions of a trace."""
    return [frame["Symbol"].split("+")[0] for frame in frames]


@pytest.mark.parametrize("name", PANICKED)
def test_the_panicking_vcpu_has_the_trace_of_the_kernel(vol: Vol, name: str) -> None:
    """Its frames end with exactly the calls that the kernel printed when it panicked."""
    guest = real_guest(name)
    truth = guest.expected
    printed = [call for call in truth["panic_call_trace"] if not call.startswith("dump_stack")]
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
    cpu = truth["panic_task"]["cpu"]
    frames = [row for row in shown if row["vCPU"] == cpu]
    assert printed and functions(frames)[-len(printed) :] == printed
    assert {(row["PID"], row["COMM"]) for row in frames} == {
        (truth["panic_task"]["pid"], truth["panic_task"]["comm"])
    }
    # But for the innermost, which goes on after it has printed, the offsets are the same too.
    offsets = [call.split("/")[0] for call in truth["panic_call_trace_full"]][-len(printed) :]
    symbols = [frame["Symbol"].split(" [")[0] for frame in frames]
    assert symbols[1 - len(printed) :] == offsets[1:]
    assert [frame["Frame"] for frame in frames] == list(range(len(frames)))


@pytest.mark.parametrize("name", ["idle-mix", "user-mode", "nmi"])
def test_tasks_of_vcpus(vol: Vol, name: str) -> None:
    """In user mode there is one frame; a halted vCPU shows the idle path; tasks are right."""
    guest = real_guest(name)
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
    for number, mode in enumerate(guest.expected["vcpu_modes"]):
        frames = [row for row in shown if row["vCPU"] == number]
        task = guest.expected["vcpu_tasks"][number]
        if task:
            assert {(row["PID"], row["COMM"]) for row in frames} == {(task["pid"], task["comm"])}
        if mode == "user":
            assert [row["Note"] for row in frames] == ["user mode"]
            assert frames[0]["IP"] == int(guest.expected["vcpus"][number]["rip"], 16)
        elif mode == "halted" and guest.expected["panic_message"] is None:
            assert "do_idle" in functions(frames)
        assert frames[-1]["Note"] in BORDERS
        assert all(frame["Symbol"] or frame["Note"] == "user mode" for frame in frames)


def test_interrupts_and_system_calls_are_noted(vol: Vol) -> None:
    """The frames at which the CPU entered the kernel, or another stack, say so."""
    shown = rows(vol("-r", "json", "-f", real_guest("nmi").guest_path, "guestdump.Backtrace"))
    notes = {row["Symbol"].split("+")[0]: row["Note"] for row in shown if row["Note"]}
    assert notes["end_repeat_nmi"] == "interrupt"
    guest = real_guest("idle-mix")
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
    assert "kernel" in guest.expected["vcpu_modes"]
    for number, mode in enumerate(guest.expected["vcpu_modes"]):
        if mode == "kernel":
            last = [row for row in shown if row["vCPU"] == number][-1]
            assert last["Note"] == "system call"


@pytest.mark.parametrize("name", guests("hole-pti", "5.10", "6.12", "newest", "next"))
def test_every_other_task(vol: Vol, name: str) -> None:
    """--tasks has every process that no vCPU runs, and no trace of a healthy guest ends early."""
    guest = real_guest(name)
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace", "--tasks"))
    assert {row["PID"] for row in shown} >= {task["pid"] for task in guest.expected["processes"]}
    waiting = [row for row in shown if row["vCPU"] is None]
    assert waiting
    assert {row["Note"] for row in waiting} <= BORDERS
    innermost = {row["Symbol"].split("+")[0] for row in waiting if row["Frame"] == 0}
    assert innermost <= {"__schedule", "ret_from_fork", "ret_from_fork_asm"}


def test_code_of_modules_is_named(vol: Vol) -> None:
    """A function of a module is shown with its module, and unwound with the module's tables."""
    guest = real_guest("module")
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
    (index,) = (n for n, row in enumerate(shown) if row["Symbol"].startswith("softdog_fire+"))
    assert shown[index]["Symbol"].endswith(" [softdog]")
    assert functions(shown[index + 1 : index + 2]) == ["__hrtimer_run_queues"]
    assert "interrupt" in {row["Note"] for row in shown[index:]}


def test_options_select(vol: Vol) -> None:
    """--vcpu and --pid leave the others out."""
    guest = real_guest("hole-pti")
    arguments = ("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace")
    assert {row["vCPU"] for row in rows(vol(*arguments, "--vcpu", 1))} == {1}
    assert {row["PID"] for row in rows(vol(*arguments, "--pid", 2, 3))} == {2, 3}


def test_tasks_in_a_state(vol: Vol) -> None:
    """--state shows those that ps showed in it, running or not; a state that is none is named."""
    guest = real_guest("hung")
    arguments = ("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace", "--state")
    hung = {int(pid) for pid, state in guest.expected["states"].items() if state == "D"}
    shown = rows(vol(*arguments, "D"))
    assert hung and {row["PID"] for row in shown} == hung
    assert {row["State"] for row in shown} == {"D"}
    both = rows(vol(*arguments, "D", "S"))
    assert {row["State"] for row in both} == {"D", "S"}
    done = vol(*arguments, "d")
    assert not rows(done) and "There is no state d: " in done.stderr


def test_groups(vol: Vol) -> None:
    """--group has the frames of all stacks, those that are alike once, with all their tasks."""
    guest = real_guest("hole-pti")
    arguments = ("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace", "--tasks")
    alone: dict[int, list[tuple[Optional[int], str, str]]] = {}
    for row in rows(vol(*arguments)):
        if row["vCPU"] is None:
            alone.setdefault(row["PID"], []).append((row["IP"], row["Symbol"], row["Note"]))
    groups: list[tuple[int, list[int], list[tuple[Optional[int], str, str]]]] = []
    for row in rows(vol(*arguments, "--group")):
        if row["Frame"] == 0:
            groups.append((row["Tasks"], [int(pid) for pid in row["PIDs"].split()], []))
        groups[-1][2].append((row["IP"], row["Symbol"], row["Note"]))
    assert groups[0][0] > 1 and len({tuple(frames) for _, _, frames in groups}) == len(groups)
    assert [count for count, _, _ in groups] == [len(pids) for _, pids, _ in groups]
    assert [count for count, _, _ in groups] == sorted((each[0] for each in groups), reverse=True)
    found = {pid: frames for _, pids, frames in groups for pid in pids}
    assert alone and {pid: found[pid] for pid in alone} == alone


def test_32_bit_guests_are_refused(vol: Vol) -> None:
    """A 32-bit guest is refused with the reason, and no traceback."""
    done = vol("-f", real_guest("i686-pae").guest_path, "guestdump.Backtrace")
    assert "64-bit" in done.stderr and "Traceback" not in done.stderr
