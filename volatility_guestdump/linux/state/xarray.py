# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""XArrays: what the kernel keeps by number, such as the pages of a file.

An XArray (include/linux/xarray.h, lib/xarray.c; from 4.20 on) is a tree. A node has 64 slots, or 16
in kernels built to be small. Its `shift` says for how many numbers a slot stands: 1 << shift. The
two lowest bits of a slot say what is in it:

    00  a pointer to what is kept; nothing, if all bits are zero
    10  above 4096: the address of a node one level further down, plus 2;
        else: a sibling entry, see below, or another one of the tree's own
    x1  a value instead of a pointer; in a file, a page that was swapped out or dropped

What takes several numbers stands in the first of its slots: a large folio, for one, which is a run
of pages that the kernel manages as one. A pointer in a node whose shift is not zero takes all
numbers of its slot. Where it takes several slots, each of the others has a *sibling entry*: the
place of the first slot in the node, times 4, plus 2.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Callable, NamedTuple

from volatility_guestdump.exceptions import AddressError

_INTERNAL = 2
_KIND_MASK = 3
#: Internal entries up to this one are no addresses of nodes (xa_is_node).
_LAST_SPECIAL = 4096
#: Numbers have as many bits as a pointer has, at most.
_MOST_BITS = 64
#: How many slots a node can have; other numbers are those of damaged types.
_COUNTS = (16, 64)


@dataclass(frozen=True)
class Layout:
    """Where the parts of `struct xa_node` stand.

    Attributes:
        shift: offset of the byte that says how many numbers a slot stands for.
        slots: offset of the slots.
        count: how many slots there are.
        pointer_size: in bytes.
    """

    shift: int
    slots: int
    count: int
    pointer_size: int


class Entry(NamedTuple):
    """Something that is kept.

    Attributes:
        number: the first that it is kept by.
        numbers: how many it takes.
        pointer: to it.
    """

    number: int
    numbers: int
    pointer: int


def entries(
    read: Callable[[int, int], bytes], head: int, layout: Layout, most_nodes: int
) -> Iterator[Entry]:
    """Yields what an XArray keeps, in the order of its numbers, without values.

    A node that cannot be read, or is not what its place in the tree demands, costs what is below
    it. A damaged tree ends too: no node is read twice.

    Args:
        read: returns bytes at a virtual address; raises `AddressError`.
        head: `xa_head` of the array.
        layout: of its nodes.
        most_nodes: that are read.
    """
    if layout.count not in _COUNTS:
        return
    if _is_node(head):
        yield from _Walk(read, layout, most_nodes).below(head - _INTERNAL, 0, _MOST_BITS)
    elif head and not head & _KIND_MASK:
        yield Entry(0, 1, head)


def _is_node(entry: int) -> bool:
    return entry & _KIND_MASK == _INTERNAL and entry > _LAST_SPECIAL


class _Walk:
    """A walk through the nodes of a tree; see `entries`."""

    def __init__(self, read: Callable[[int, int], bytes], layout: Layout, most_nodes: int) -> None:
        self._read = read
        self._layout = layout
        self._most_nodes = most_nodes
        self._bits = layout.count.bit_length() - 1
        self._seen: set[int] = set()

    def below(self, node: int, first: int, parent_shift: int) -> Iterator[Entry]:
        """Yields what a node and those below it keep.

        Args:
            node: its address.
            first: the number that its first slot begins with.
            parent_shift: of the node above.
        """
        if node in self._seen or len(self._seen) >= self._most_nodes:
            return
        self._seen.add(node)
        try:
            shift = self._read(node + self._layout.shift, 1)[0]
            slots = self._slots(node)
        except AddressError:
            return
        # With every level the shift gets less, which bounds the depth.
        if shift % self._bits or shift >= parent_shift:
            return
        for place, entry in enumerate(slots):
            number = first + (place << shift)
            if _is_node(entry):
                if shift:
                    yield from self.below(entry - _INTERNAL, number, shift)
            elif entry and not entry & _KIND_MASK:
                sibling = place << 2 | _INTERNAL
                behind = place + 1
                while behind < len(slots) and slots[behind] == sibling:
                    behind += 1
                yield Entry(number, (behind - place) << shift, entry)

    def _slots(self, node: int) -> tuple[int, ...]:
        layout = self._layout
        data = self._read(node + layout.slots, layout.count * layout.pointer_size)
        return struct.unpack(f"<{layout.count}{'Q' if layout.pointer_size == 8 else 'I'}", data)
