# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Lists whose memory is damaged: what the other end leads to is reached from there."""

from collections.abc import Iterable

import pytest

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.types.lists import Walk, ring

HEAD, WORD = 0x1000, 8
NODES = [0x10000 * number for number in range(1, 11)]


class FakeMemory:
    """A ring of nodes, of which some pages are missing and others zeros."""

    def __init__(self, missing: Iterable[int] = (), zeros: Iterable[int] = ()) -> None:
        order = [HEAD, *NODES, HEAD]
        self.words = dict(zip(order, order[1:]))
        self.words.update({after + WORD: node for node, after in zip(order, order[1:])})
        for node in missing:
            del self.words[node], self.words[node + WORD]
        for node in zeros:
            self.words[node] = self.words[node + WORD] = 0

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        if address not in self.words:
            raise AddressError(address)
        return self.words[address]


def walk(memory: FakeMemory, back: int = WORD) -> Walk:
    """Returns the ring of a memory."""
    return ring(memory, HEAD, limit=100, what="tasks", back=back)


def test_whole() -> None:
    """All nodes come in their order, with the way back as without it."""
    for back in (0, WORD):
        nodes = walk(FakeMemory(), back)
        assert list(nodes) == NODES
        assert not nodes.broken


@pytest.mark.parametrize("node", NODES)
def test_one_bad_node(node: int) -> None:
    """It costs itself: the nodes behind it are reached from the other end, in their order."""
    others = [each for each in NODES if each != node]
    nodes = walk(FakeMemory(zeros=[node]))
    assert list(nodes) == others
    assert nodes.broken == f"a list of tasks is zeros at {node:#x}"
    nodes = walk(FakeMemory(missing=[node]))
    assert [each for each in nodes if each != node] == others
    assert "not backed" in nodes.broken
    # Without a way back the others are lost.
    assert [each for each in walk(FakeMemory(missing=[node]), 0) if each < node] == [
        each for each in NODES if each < node
    ]


def test_two_bad_nodes() -> None:
    """What lies between them is reached from neither end."""
    nodes = walk(FakeMemory(zeros=[NODES[2], NODES[6]]))
    assert list(nodes) == NODES[:2] + NODES[7:]
    assert nodes.broken == f"a list of tasks is zeros at {NODES[2]:#x}"


def test_a_ring_that_leads_back() -> None:
    """The way back does not go on where the way forward went wrong."""
    memory = FakeMemory()
    memory.words[NODES[5]] = NODES[2]
    nodes = walk(memory)
    assert list(nodes) == NODES
    assert "leads back" in nodes.broken
