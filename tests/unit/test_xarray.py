# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""XArrays made by hand, whole and damaged."""

import random
import struct
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.state.xarray import Entry, Layout, entries

#: The nodes of 64-bit kernels.
LAYOUT = Layout(shift=0, slots=40, count=64, pointer_size=8)
SIZE = 576
#: Size of a pointer -> where the nodes begin.
BASES = {8: 0xFFFF888000000000, 4: 0xC0100000}


class Kept(NamedTuple):
    """What a test puts into a tree: something of an order, at a multiple of 1 << order."""

    number: int
    order: int

    @property
    def numbers(self) -> range:
        """All numbers that it takes."""
        return range(self.number, self.number + (1 << self.order))


class Tree:
    """A tree that grows as the kernel's does.

    Attributes:
        nodes: address -> shift and slots.
        reads: how many nodes were read.
    """

    def __init__(self, layout: Layout = LAYOUT, top: int = 24) -> None:
        self.layout = layout
        self.bits = layout.count.bit_length() - 1
        self.nodes: dict[int, tuple[int, list[int]]] = {}
        self.reads = 0
        self.head = self._new(top - top % self.bits) | 2

    def _new(self, shift: int) -> int:
        address = BASES[self.layout.pointer_size] + SIZE * len(self.nodes)
        self.nodes[address] = shift, [0] * self.layout.count
        return address

    def put(self, kept: Kept, pointer: int) -> None:
        """Stores something, with sibling entries behind its first slot."""
        address = self.head & ~2
        while True:
            shift, slots = self.nodes[address]
            place = kept.number >> shift & self.layout.count - 1
            if kept.order >= shift:
                slots[place] = pointer
                for sibling in range(place + 1, place + (1 << kept.order - shift)):
                    slots[sibling] = place << 2 | 2
                return
            if not slots[place]:
                slots[place] = self._new(shift - self.bits) | 2
            address = slots[place] & ~2

    def read(self, address: int, length: int) -> bytes:
        """Reads memory in which there are only the nodes."""
        offset = (address - BASES[self.layout.pointer_size]) % SIZE
        node = address - offset
        if node not in self.nodes:
            raise AddressError(address)
        shift, slots = self.nodes[node]
        letter = "Q" if self.layout.pointer_size == 8 else "I"
        data = bytearray(SIZE)
        data[self.layout.shift] = shift
        struct.pack_into(f"<{len(slots)}{letter}", data, self.layout.slots, *slots)
        self.reads += 1
        return bytes(data[offset : offset + length])

    def entries(self, most_nodes: int = 10_000) -> list[Entry]:
        """Returns what is found in the tree."""
        return list(entries(self.read, self.head, self.layout, most_nodes))


def disjoint(chosen: list[tuple[int, int]]) -> list[Kept]:
    """Returns those of (place, order) that do not take each other's numbers, ascending."""
    taken: list[Kept] = []
    for place, order in chosen:
        kept = Kept(place >> order << order, order)
        if not any(
            kept.numbers.start < other.numbers.stop and other.numbers.start < kept.numbers.stop
            for other in taken
        ):
            taken.append(kept)
    return sorted(taken)


@given(st.lists(st.tuples(st.integers(0, (1 << 30) - 1), st.integers(0, 12)), max_size=40))
def test_what_is_put_in_is_found(chosen: list[tuple[int, int]]) -> None:
    """Each once, by all of its numbers, in their order."""
    tree = Tree()
    wanted = disjoint(chosen)
    for place, kept in enumerate(wanted):
        tree.put(kept, 0x1000 * (place + 2))
    assert tree.entries() == [
        Entry(kept.number, 1 << kept.order, 0x1000 * (place + 2))
        for place, kept in enumerate(wanted)
    ]


def test_small_nodes_of_32_bits() -> None:
    """CONFIG_BASE_SMALL has 16 slots, a 32-bit kernel pointers of 4 bytes."""
    tree = Tree(Layout(shift=0, slots=20, count=16, pointer_size=4), top=8)
    for number, order in ((0, 0), (4, 2), (16, 4), (32, 5)):
        tree.put(Kept(number, order), 0x8000 + number * 8)
    assert [(entry.number, entry.numbers) for entry in tree.entries()] == [
        *((0, 1), (4, 4), (16, 16), (32, 32))
    ]


@pytest.mark.parametrize(
    ("head", "found"),
    [
        (0, []),
        (0x5000, [Entry(0, 1, 0x5000)]),
        # A value, and what is internal without being a node: a sibling, a retry entry.
        (0x5001, []),
        (0x5003, []),
        (2, []),
        (0x402, []),
    ],
)
def test_an_array_without_nodes(head: int, found: list[Entry]) -> None:
    """What is kept by the number 0 alone needs no node."""
    assert list(entries(Tree().read, head, LAYOUT, 10)) == found


@pytest.mark.parametrize("count", [0, 1, 2, 63, 1 << 20])
def test_nodes_that_no_kernel_has(count: int) -> None:
    """Damaged types may say anything of them: nothing is read then."""
    tree = Tree()
    tree.put(Kept(0, 0), 0x8000)
    layout = Layout(shift=0, slots=40, count=count, pointer_size=8)
    assert not list(entries(tree.read, tree.head, layout, 10))
    assert not tree.reads


def test_values_are_left_out() -> None:
    """Pages that were swapped out."""
    tree = Tree(top=0)
    tree.put(Kept(3, 0), 0x12345)
    tree.put(Kept(4, 0), 0x2000)
    assert tree.entries() == [Entry(4, 1, 0x2000)]


def test_a_node_that_is_not_there_costs_what_is_below_it() -> None:
    """The others are found."""
    tree = Tree(top=12)
    for number in (0, 64, 128):
        tree.put(Kept(number, 0), 0x8000 + number * 64)
    lost = next(address for address, (_, slots) in tree.nodes.items() if 0x8000 + 64 * 64 in slots)
    del tree.nodes[lost]
    assert [entry.number for entry in tree.entries()] == [0, 128]


def test_a_circle_ends() -> None:
    """A node below itself, or twice in the tree, is read once."""
    tree = Tree(top=12)
    shift, slots = tree.nodes[tree.head & ~2]
    slots[:] = [tree.head] * 64
    assert tree.entries() == [] and tree.reads <= 2
    tree = Tree(top=12)
    tree.put(Kept(0, 0), 0x8000)
    shift, slots = tree.nodes[tree.head & ~2]
    assert shift == 12
    slots[:] = [slots[0]] * 64
    assert tree.entries() == [Entry(0, 1, 0x8000)] and tree.reads <= 6


def test_no_more_nodes_are_read_than_allowed() -> None:
    """However many there seem to be."""
    tree = Tree(top=6)
    for number in range(0, 64 * 64, 64):
        tree.put(Kept(number, 0), 0x8000)
    assert len(tree.entries()) == 64
    tree.reads = 0
    assert len(tree.entries(most_nodes=11)) == 10 and tree.reads == 22


@given(st.integers(0, 1 << 32), st.integers(1, 2000))
def test_damaged_trees_end(seed: int, changes: int) -> None:
    """Random slots and shifts: it ends, and yields nothing but pointers."""
    chance = random.Random(seed)
    tree = Tree(top=12)
    for number in range(0, 1 << 14, 256):
        tree.put(Kept(number, number // 256 % 9), 0x8000 + number * 64)
    addresses = list(tree.nodes)
    for _ in range(changes):
        address = chance.choice(addresses)
        _, slots = tree.nodes[address]
        slots[chance.randrange(64)] = chance.choice(
            [chance.choice(addresses) | 2, chance.getrandbits(64), chance.randrange(1024), 0]
        )
        if chance.random() < 0.1:
            tree.nodes[address] = chance.randrange(256), slots
    found = tree.entries()
    assert tree.reads <= 2 * len(addresses)
    assert all(entry.pointer and not entry.pointer & 3 for entry in found)
