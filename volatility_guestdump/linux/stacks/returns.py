# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Return addresses that tracers replaced.

To see a function return, a tracer puts the address of code of its own in place of the function's
return address, and notes the right one beside the address of the word that it replaced. Which
word that is tells the entries apart, whatever order they have.

The function graph tracer, and fprobes with an exit handler from 6.14 on, note a struct
ftrace_ret_stack on a stack that the task has for it, task_struct.ret_stack:

    up to 6.10  an array; curr_ret_stack is the index of the newest, -1 when there is none
    from 6.11   an array of longs (42675b723b48, "function_graph: Convert ret_stack to a series of
                longs"); curr_ret_stack is the number of those in use. The last of them says in its
                ten lowest bits how many longs below it the newest entry starts, and before each
                entry lies such a long for the one below

Kretprobes, and fprobes up to 6.13, note

    up to 5.10  a struct kretprobe_instance in the kernel's hash table kretprobe_inst_table
    from 5.11   a struct kretprobe_instance on the list task_struct.kretprobe_instances
                (d741bf41d7c7)
    from 5.18   a struct rethook_node on the list task_struct.rethooks (73f9b911faa7)

Where a function is left by a jump to another that is traced too, the same word is replaced twice:
the newer entry has the address of the tracer's code where the right address would be.

The tracer takes its entry back before it returns. What the function graph tracer took back last is
still there, just beyond the newest entry, until another takes its place, and is of the same use
while it names the word in question.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.exceptions import AddressError, TypesError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.frames import NoteKind
from volatility_guestdump.linux.types.lists import Walk, chain
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Struct, Structures

#: What is put where a return address was. Kretprobes': up to 5.15, from 5.16 (adf8a61a940c), and
#: from 5.18 (f3a112c0c40d) on.
_TRAMPOLINES = {
    "return_to_handler": NoteKind.FUNCTION_GRAPH,
    "kretprobe_trampoline": NoteKind.KRETPROBE,
    "__kretprobe_trampoline": NoteKind.KRETPROBE,
    "arch_rethook_trampoline": NoteKind.KRETPROBE,
}
_WORD = 8
_MASK = (1 << 64) - 1

#: FTRACE_RETFUNC_DEPTH: entries in the array of the old form.
_MAXIMUM_DEPTH = 50
#: Functions that the tracer must not show lower the index by this much (FTRACE_NOTRACE_DEPTH).
_NOT_SHOWN = 65536
#: SHADOW_STACK_SIZE is a page.
_MAXIMUM_WORDS = 512
#: FGRAPH_FRAME_OFFSET_MASK.
_OFFSET_MASK = 0x3FF

#: KPROBE_TABLE_SIZE: lists in kretprobe_inst_table.
_HASH_LISTS = 64
#: More than any stack has room for.
_MAXIMUM_NODES = 4096
_TASKS_KEPT = 64

#: A word that was replaced, and what was in it.
_Entry = tuple[int, int]


class ReplacedReturns:
    """The return addresses that tracers replaced in a kernel.

    Args:
        kernel: that is traced.
    """

    def __init__(self, kernel: LinuxKernel) -> None:
        self._kernel = kernel
        addresses = ((kernel.address(name), kind) for name, kind in _TRAMPOLINES.items())
        self._trampolines = {address: kind for address, kind in addresses if address is not None}
        self._originals = functools.lru_cache(maxsize=_TASKS_KEPT)(self._read_originals)

    def tracer(self, address: int) -> Optional[NoteKind]:
        """Returns who puts an address where return addresses were, or None when nobody does."""
        return self._trampolines.get(address)

    def original(self, task: int, place: int) -> Optional[int]:
        """Returns the return address that was replaced.

        Args:
            task: address of the task_struct on whose stack it was.
            place: address of the word that was replaced.

        Returns:
            None where nothing tells.
        """
        return self._originals(task).get(place)

    def _read_originals(self, task: int) -> dict[int, int]:
        types = self._kernel.types
        found: dict[int, int] = {}
        if types is None:
            return found
        tasks = Structures(self._kernel, types, "task_struct")
        for read in (_function_graph, _rethooks, _kretprobes, _kretprobe_table):
            entries = read(self._kernel, types, tasks.at(task))
            try:
                for place, address in entries:
                    if address not in self._trampolines:
                        # The newest come first, and what is older than the right one is stale.
                        found.setdefault(place, address)
            except (AddressError, TypesError):
                continue
        return found


def _function_graph(kernel: LinuxKernel, types: Types, task: Struct) -> Iterator[_Entry]:
    """Yields what the function graph tracer noted, newest first, and what it took back last."""
    entries = Structures(kernel, types, "ftrace_ret_stack")
    size, stack, current = entries.size, task.integer("ret_stack"), task.integer("curr_ret_stack")
    if not stack:
        return
    if types.field("task_struct", "ret_stack").structure:
        if current < -1:
            current += _NOT_SHOWN
        starts: Iterator[int] = (
            stack + index * size for index in range(min(current, _MAXIMUM_DEPTH - 1), -1, -1)
        )
        beyond, end = current + 1, _MAXIMUM_DEPTH
        taken_back = stack + beyond * size
    else:
        starts = _starts_in_words(kernel, stack, current)
        beyond, end = current, _MAXIMUM_WORDS - size // _WORD
        taken_back = stack + beyond * _WORD
    for start in itertools.chain(starts, [taken_back] if 0 <= beyond < end else []):
        entry = entries.at(start)
        yield entry.integer("retp"), entry.integer("ret")


def _starts_in_words(kernel: LinuxKernel, stack: int, current: int) -> Iterator[int]:
    """Yields where entries of the function graph tracer start among longs, the newest first."""
    while 0 < current <= _MAXIMUM_WORDS:
        offset = kernel.pointer(stack + (current - 1) * _WORD) & _OFFSET_MASK
        # Each entry lies below the one before, so this ends.
        if not 0 < offset < current:
            return
        current -= offset
        current -= 1
        yield stack + current * _WORD


def _rethooks(kernel: LinuxKernel, types: Types, task: Struct) -> Iterator[_Entry]:
    nodes = Structures(kernel, types, "rethook_node")
    for place in _nodes(kernel, task.place("rethooks")):
        node = nodes.containing("llist", place)
        yield node.integer("frame"), node.integer("ret_addr")


def _kretprobes(kernel: LinuxKernel, types: Types, task: Struct) -> Iterator[_Entry]:
    instances = Structures(kernel, types, "kretprobe_instance")
    for place in _nodes(kernel, task.place("kretprobe_instances")):
        instance = instances.containing("llist", place)
        yield instance.integer("fp"), instance.integer("ret_addr")


def _kretprobe_table(kernel: LinuxKernel, types: Types, task: Struct) -> Iterator[_Entry]:
    table = kernel.address("kretprobe_inst_table")
    if table is None:
        return
    instances = Structures(kernel, types, "kretprobe_instance")
    for number in range(_HASH_LISTS):
        for place in _nodes(kernel, table + number * _WORD):
            instance = instances.containing("hlist", place)
            if instance.integer("task") == task.address:
                yield instance.integer("fp"), instance.integer("ret_addr")


def _nodes(kernel: LinuxKernel, head: int) -> Walk:
    return chain(kernel, head, limit=_MAXIMUM_NODES, what="replaced return addresses")
