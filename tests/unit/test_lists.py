# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Lists in memory made by hand: whole ones, and ones that lead nowhere, back, or on and on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump.linux.types.lists import chain, ring

HEAD = 0x1000


def linked(*nodes: int, last: int, link: int = 0) -> HandmadeKernel:
    """Returns memory with a list of these nodes, the last of which points to `last`."""
    kernel = HandmadeKernel()
    places = [HEAD, *(node + link for node in nodes)]
    for place, node in zip(places, (*nodes, last)):
        kernel.put(place, node)
    return kernel


def test_a_ring() -> None:
    """It ends where it leads back to its head."""
    walk = ring(linked(0x2000, 0x3000, last=HEAD), HEAD, limit=2, what="tasks")
    assert (list(walk), walk.broken) == ([0x2000, 0x3000], "")
    empty = ring(linked(last=HEAD), HEAD, limit=2, what="tasks")
    assert (list(empty), empty.broken) == ([], "")


@pytest.mark.parametrize("last", [0, 0x9000])
def test_a_chain(last: int) -> None:
    """It ends with a null pointer, or with the node that stands for the end."""
    kernel = linked(0x2000, 0x3000, last=last, link=24)
    walk = chain(kernel, HEAD, limit=2, what="tracers", link=24, last=0x9000)
    assert (list(walk), walk.broken) == ([0x2000, 0x3000], "")


def test_a_list_that_leads_back() -> None:
    """Each node is passed once."""
    walk = ring(linked(0x2000, 0x3000, last=0x2000), HEAD, limit=9, what="tasks")
    assert (list(walk), walk.broken) == ([0x2000, 0x3000], "a list of tasks leads back to 0x2000")


def test_a_list_that_leads_nowhere() -> None:
    """What comes before is there."""
    walk = ring(linked(0x2000, last=0x5000), HEAD, limit=9, what="tasks")
    assert (list(walk), walk.broken) == ([0x2000, 0x5000], "0x5000 is not backed by memory")
    lost = ring(HandmadeKernel(), HEAD, limit=9, what="tasks")
    assert (list(lost), lost.broken) == ([], "0x1000 is not backed by memory")


@given(st.integers(1, 20), st.integers(0, 30))
def test_a_limit(limit: int, length: int) -> None:
    """A list of more nodes than there can be costs no more steps than the limit."""
    nodes = [0x2000 + 16 * number for number in range(length)]
    kernel = linked(*nodes, last=HEAD)
    steps = 0
    pointer = kernel.pointer

    class Counting:
        def pointer(self, address: int) -> int:
            nonlocal steps
            steps += 1
            return pointer(address)

    walk = ring(Counting(), HEAD, limit=limit, what="tasks")
    assert list(walk) == nodes[:limit]
    assert steps == 1 + min(limit, length)
    assert walk.broken == (f"there are more than {limit} tasks" if length > limit else "")
