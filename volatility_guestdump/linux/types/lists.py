# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""How the kernel's linked lists are walked.

The kernel has several kinds of them, which differ in where the next pointer lies and in what says
that a list ends (include/linux/list.h, llist.h):

    list_head       a ring: the head is a node like the others, and the last one leads back to it
    hlist, llist    the head points to the first node, and the last one has a null pointer
    others          a member of the structure itself points to the next; ftrace's end at a node that
                    stands for the end

The memory is not to be trusted: a list may lead back into itself, nowhere, or on and on.
"""

from collections.abc import Iterator
from typing import Protocol

from volatility_guestdump.exceptions import AddressError


class Pointers(Protocol):
    """Memory that has pointers."""

    def pointer(self, address: int) -> int:
        """Reads a pointer.

        Raises:
            AddressError: it is not in the dump.
        """


class Walk:
    """The nodes of a list, in order.

    It is iterated over once. It ends where the list does, and also where that is damaged.

    Args:
        memory: that the list is in.
        head: address of the pointer to the first node.
        ends: what the last node may point to.
        limit: number of nodes that a list can have.
        what: is on the list, in words: "tasks".
        link: offset of the pointer to the next in each node.
        back: offset of the pointer to the one before, 0 where there is none. Where the way forward
            is broken, what lies behind is reached from the other end.

    Attributes:
        broken: why nodes may be missing among those yielded so far; empty when none is.
    """

    def __init__(
        self,
        memory: Pointers,
        head: int,
        ends: frozenset[int],
        *,
        limit: int,
        what: str,
        link: int = 0,
        back: int = 0,
    ) -> None:
        self.broken = ""
        self._memory = memory
        self._head = head
        self._ends = ends
        self._limit = limit
        self._what = what
        self._link = link
        self._back = back

    def __iter__(self) -> Iterator[int]:
        seen: set[int] = set()
        yield from self._forward(seen)
        if self.broken and self._back:
            yield from reversed(self._from_the_end(seen))

    def _from_the_end(self, seen: set[int]) -> list[int]:
        """Returns what was not seen and is reached from the end, the last first."""
        pointer, found, after = self._memory.pointer, [], self._head
        try:
            node = pointer(after + self._back)
            while node not in seen and node not in self._ends and len(seen) < self._limit:
                # Each leads to the one that it was reached from, or nothing is sure.
                if pointer(node + self._link) != after:
                    break
                seen.add(node)
                found.append(node)
                node, after = pointer(node + self._back), node
        except AddressError:
            pass
        return found

    def _forward(self, seen: set[int]) -> Iterator[int]:
        pointer, link = self._memory.pointer, self._link
        try:
            node = pointer(self._head)
            while node not in self._ends:
                if node in seen:
                    self.broken = f"a list of {self._what} leads back to {node:#x}"
                    return
                if len(seen) >= self._limit:
                    self.broken = f"there are more than {self._limit} {self._what}"
                    return
                seen.add(node)
                try:
                    following = pointer(node + link)
                except AddressError:
                    # Members of it that lie on another page may be there.
                    yield node
                    raise
                if self._back and not following:
                    # No node of a ring has a null pointer: its page is lost, and so is zeros.
                    self.broken = f"a list of {self._what} is zeros at {node:#x}"
                    return
                yield node
                node = following
        except AddressError as error:
            self.broken = str(error)


def ring(memory: Pointers, head: int, *, limit: int, what: str, back: int = 0) -> Walk:
    """Returns the nodes of a list_head but for its head; see `Walk`."""
    return Walk(memory, head, frozenset((head,)), limit=limit, what=what, back=back)


def chain(
    memory: Pointers, head: int, *, limit: int, what: str, link: int = 0, last: int = 0
) -> Walk:
    """Returns the nodes of an hlist, an llist or the like; see `Walk`.

    Args:
        memory: as there.
        head: as there.
        limit: as there.
        what: as there.
        link: as there.
        last: address of the node that stands for the end, if one does beside the null pointer.
    """
    return Walk(memory, head, frozenset((0, last)), limit=limit, what=what, link=link)
