# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Return addresses that tracers replaced, in each form in which they are noted."""

import struct

import pytest

from tests.handmade.kernel import HandmadeKernel, types
from volatility_guestdump.linux.stacks.frames import NoteKind
from volatility_guestdump.linux.stacks.returns import ReplacedReturns
from volatility_guestdump.linux.types.btf import Btf

TASK, OTHER_TASK, NOTES = 0x1000, 0x2000, 0x10000
#: Places on a stack, and the right return addresses.
INNER, MIDDLE, OUTER = 0x8000, 0x8100, 0x8200
GRAPH, HOOK = 0xA000, 0xB000

#: struct ftrace_ret_stack with a time, as up to 6.12, and without.
TIMED = {"ret": (0, 8), "func": (8, 8), "calltime": (16, 8), "retp": (24, 8)}
UNTIMED = {"ret": (0, 8), "func": (8, 8), "retp": (16, 8)}
TASK_STRUCT = {"curr_ret_stack": (0, -4), "ret_stack": (8, 8)}


def returns(kernel: HandmadeKernel) -> ReplacedReturns:
    """Returns what tracers replaced in a kernel."""
    kernel.symbols.update(return_to_handler=GRAPH, arch_rethook_trampoline=HOOK)
    return ReplacedReturns(kernel.kernel)


def graph_types(in_words: bool, timed: bool) -> Btf:
    """Returns the types of a kernel with the function graph tracer."""
    size, entry = (32, TIMED) if timed else (24, UNTIMED)
    layout = {"ftrace_ret_stack": (size, entry), "task_struct": (16, TASK_STRUCT)}
    return types(layout, {"ret_stack": "" if in_words else "ftrace_ret_stack"})


def entry(timed: bool, place: int, address: int) -> list[int]:
    """Returns the words of a struct ftrace_ret_stack."""
    return [address, 0xF, 7, place] if timed else [address, 0xF, place]


def of_array(entries: list[tuple[int, int]], current: int) -> HandmadeKernel:
    """Returns a kernel that notes return addresses in an array, the newest last."""
    kernel = HandmadeKernel(graph_types(in_words=False, timed=True))
    kernel.write(TASK, struct.pack("<iiQ", current, 0, NOTES))
    for number, (place, address) in enumerate(entries):
        kernel.put(NOTES + 32 * number, *entry(True, place, address))
    return kernel


def of_words(entries: list[tuple[int, int]], timed: bool, data: int = 0) -> HandmadeKernel:
    """Returns a kernel that notes return addresses among longs.

    Args:
        entries: the newest last.
        timed: whether an entry has a time.
        data: how many longs a tracer has beside each entry.
    """
    kernel = HandmadeKernel(graph_types(in_words=True, timed=timed))
    words: list[int] = []
    for place, address in entries:
        noted = entry(timed, place, address)
        # The bitmap of who wants to know, of type 1.
        words += [*noted, 1 << 12 | 1 << 10 | len(noted)]
        if data:
            # What one of them put there, of type 2.
            words += [0xDEAD] * data
            words.append((data - 1) << 12 | 2 << 10 | len(noted) + data + 1)
    kernel.put(NOTES, *words, *[0xBAD] * (512 - len(words)))
    kernel.write(TASK, struct.pack("<iiQ", len(words), 0, NOTES))
    return kernel


NOTED = [(OUTER, 0x30), (MIDDLE, 0x20), (INNER, 0x10)]


@pytest.mark.parametrize(
    "kernel",
    [
        of_array(NOTED, 2),
        of_words(NOTED, timed=True),
        of_words(NOTED, timed=False),
        of_words(NOTED, timed=False, data=3),
        of_words(NOTED, timed=False, data=32),
    ],
)
def test_the_function_graph_tracer(kernel: HandmadeKernel) -> None:
    """Each place has its own address, whatever else tracers put between them."""
    found = returns(kernel)
    assert [found.original(TASK, place) for place in (INNER, MIDDLE, OUTER)] == [0x10, 0x20, 0x30]
    assert found.original(TASK, 0x8008) is None


def test_entries_that_are_out_of_date() -> None:
    """Functions that have returned leave theirs behind; the one taken back last is of use still."""
    found = returns(of_array([(OUTER, 0x30), (MIDDLE, 0x20), (INNER, 0x99)], 0))
    assert [found.original(TASK, place) for place in (INNER, MIDDLE, OUTER)] == [None, 0x20, 0x30]
    # None is left.
    found = returns(of_array([(OUTER, 0x30), (INNER, 0x99)], -1))
    assert [found.original(TASK, place) for place in (INNER, OUTER)] == [None, 0x30]


def test_the_long_that_was_taken_back_last() -> None:
    """The tracer is still at work for the function, and its entry is no longer in use."""
    kernel = of_words(NOTED, timed=False)
    # Two of three entries, each with the long that says where it starts.
    kernel.write(TASK, struct.pack("<i", 8))
    found = returns(kernel)
    assert [found.original(TASK, place) for place in (INNER, MIDDLE, OUTER)] == [0x10, 0x20, 0x30]
    kernel.write(TASK, struct.pack("<i", 4))
    assert returns(kernel).original(TASK, INNER) is None


def test_functions_that_are_not_to_be_shown() -> None:
    """They lower the index of the array by 65536."""
    assert returns(of_array(NOTED, 2 - 65536)).original(TASK, INNER) == 0x10


def test_one_place_twice() -> None:
    """A function left by a jump to another: the newer entry has the tracer's own address."""
    kernel = of_array([(OUTER, 0x30), (OUTER, GRAPH)], 1)
    assert returns(kernel).original(TASK, OUTER) == 0x30


@pytest.mark.parametrize("offset", [0, 600, 1023])
def test_damaged_longs(offset: int) -> None:
    """An offset that leads nowhere ends the search."""
    kernel = of_words(NOTED, timed=True)
    kernel.put(NOTES + 8 * 14, offset)
    assert returns(kernel).original(TASK, INNER) is None


def test_a_task_without_notes() -> None:
    """Where the tracer has not come to, and what cannot be read, has none."""
    kernel = HandmadeKernel(graph_types(in_words=True, timed=True))
    kernel.write(TASK, bytes(16))
    assert returns(kernel).original(TASK, INNER) is None
    assert returns(kernel).original(OTHER_TASK, INNER) is None
    assert returns(HandmadeKernel()).original(TASK, INNER) is None


def of_rethooks() -> HandmadeKernel:
    """Returns a kernel that notes return addresses as from 5.18 on."""
    node = {"llist": (16, 8), "ret_addr": (32, 8), "frame": (40, 8)}
    kernel = HandmadeKernel(
        types({"rethook_node": (48, node), "task_struct": (8, {"rethooks": (0, 8)})})
    )
    kernel.put(TASK, NOTES + 16)
    kernel.put(NOTES, 0, 0, NOTES + 0x100 + 16, 0, HOOK, INNER)
    kernel.put(NOTES + 0x100, 0, 0, NOTES + 0x200 + 16, 0, 0x10, INNER)
    kernel.put(NOTES + 0x200, 0, 0, 0, 0, 0x30, OUTER)
    return kernel


def of_instances() -> HandmadeKernel:
    """Returns a kernel that notes return addresses as from 5.11 to 5.17."""
    instance = {"llist": (16, 8), "ret_addr": (32, 8), "fp": (40, 8)}
    task = {"kretprobe_instances": (8, 8)}
    kernel = HandmadeKernel(
        types({"kretprobe_instance": (48, instance), "task_struct": (16, task)})
    )
    kernel.put(TASK, 0, NOTES + 16)
    kernel.put(NOTES, 0, 0, NOTES + 0x100 + 16, 0, 0x10, INNER)
    kernel.put(NOTES + 0x100, 0, 0, 0, 0, 0x30, OUTER)
    return kernel


def of_table() -> HandmadeKernel:
    """Returns a kernel that notes return addresses as up to 5.10, and has those of two tasks."""
    instance = {"hlist": (0, 8), "ret_addr": (24, 8), "task": (32, 8), "fp": (40, 8)}
    kernel = HandmadeKernel(
        types({"kretprobe_instance": (48, instance), "task_struct": (8, {})}),
        kretprobe_inst_table=NOTES + 0x1000,
    )
    kernel.put(NOTES + 0x1000, *[0] * 17, NOTES, *[0] * 46)
    kernel.put(NOTES, NOTES + 0x100, 0, 0, 0x99, OTHER_TASK, INNER)
    kernel.put(NOTES + 0x100, NOTES + 0x200, 0, 0, 0x10, TASK, INNER)
    kernel.put(NOTES + 0x200, 0, 0, 0, 0x30, TASK, OUTER)
    return kernel


@pytest.mark.parametrize("kernel", [of_rethooks(), of_instances(), of_table()])
def test_kretprobes(kernel: HandmadeKernel) -> None:
    """Each place has its own address; tasks are not mixed up."""
    found = returns(kernel)
    assert (found.original(TASK, INNER), found.original(TASK, OUTER)) == (0x10, 0x30)
    assert found.original(TASK, MIDDLE) is None


def test_a_circle_of_notes() -> None:
    """A damaged list ends."""
    kernel = of_rethooks()
    kernel.put(NOTES + 0x200 + 16, NOTES + 16)
    assert returns(kernel).original(TASK, OUTER) == 0x30


def test_who_replaced() -> None:
    """The address in place of the right one tells it."""
    found = returns(HandmadeKernel())
    assert (found.tracer(GRAPH), found.tracer(HOOK)) == (
        NoteKind.FUNCTION_GRAPH,
        NoteKind.KRETPROBE,
    )
    assert found.tracer(GRAPH + 1) is None
