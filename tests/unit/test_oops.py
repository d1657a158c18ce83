# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the kernel's log says of an oops, and where a stack says that the fault was."""

import pytest

from volatility_guestdump.guest.traces import culprit, oops
from volatility_guestdump.linux.stacks.frames import Frame, Note, NoteKind
from volatility_guestdump.linux.state.printk import Record

PANIC = "Kernel panic - not syncing: Fatal exception"


def _log(*lines: str, facility: int = 0) -> list[Record]:
    return [Record(0, facility, 0, "", (line,)) for line in lines]


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            (
                "BUG: unable to handle page fault for address: 0000004141414100",
                "#PF: supervisor instruction fetch in kernel mode",
                "PGD 0 P4D 0 ",
                "Oops: 0010 [#1] PREEMPT SMP NOPTI",
            ),
            "BUG: unable to handle page fault for address: 0000004141414100",
        ),
        (
            ("BUG: kernel NULL pointer dereference, address: 0000000000000008", "Oops: 0000 [#1]"),
            "BUG: kernel NULL pointer dereference, address: 0000000000000008",
        ),
        (
            ("kernel BUG at mm/slub.c:379!", "Oops: invalid opcode: 0000 [#1] SMP"),
            "kernel BUG at mm/slub.c:379!",
        ),
        (
            ("general protection fault, probably for non-canonical address 0x1: 0000 [#1] SMP",),
            "general protection fault, probably for non-canonical address 0x1",
        ),
        (("Oops: divide error: 0000 [#2] SMP",), "divide error"),
        (("Oops: 0002 [#1] SMP",), "Oops"),
        (("BUG: scheduling while atomic: sh/1/0x2",), ""),
    ],
)
def test_the_cause_of_an_oops(lines: tuple[str, ...], expected: str) -> None:
    """It is what stands before the oops, or the oops's own name."""
    older = _log("Oops: older: 0000 [#1]", *["RIP: 0010:f+0x1/0x2"] * 7)
    assert oops([*_log(*lines, "RIP: 0010:f+0x1/0x2"), *_log(PANIC)]) == expected
    assert oops([*older, *_log(*lines, PANIC)]) == (expected or "older")


def test_what_is_no_oops_of_the_kernel() -> None:
    """What a process wrote is none, nor what came after the panic, nor one without a panic."""
    line = "Oops: divide error: 0000 [#1] SMP"
    assert not oops([*_log(line, facility=1), *_log(PANIC)])
    assert not oops(_log(PANIC, line))
    assert not oops(_log(line))


def test_the_culprit_of_a_call_through_a_bad_pointer() -> None:
    """The address called is in no code: who called it is named too."""
    stack = [
        Frame(1, 1, "panic+0x2e9"),
        Frame(2, 2, "oops_end.cold+0x18"),
        Frame(3, 3, "asm_exc_page_fault+0x22", (Note(NoteKind.EXCEPTION),)),
        Frame(4, 0x4141414100, "", (Note(NoteKind.NOT_CODE),)),
        Frame(5, 5, "th_wild+0x22 [crashme]"),
    ]
    assert culprit(stack) == "0x4141414100, called by th_wild+0x22 [crashme]"
    assert culprit(stack[:4]) == "0x4141414100"
    assert culprit([*stack[:3], *stack[4:]]) == "th_wild+0x22 [crashme]"
    assert culprit(stack[:3]) == ""
