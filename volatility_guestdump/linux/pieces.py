# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What lies where: pieces of memory, found by an address in them."""

import bisect
import operator
from collections.abc import Iterable
from typing import Generic, Optional, TypeVar

_T = TypeVar("_T")


class Pieces(Generic[_T]):
    """Pieces of memory that lie apart.

    Args:
        pieces: of each the first address, the first one behind it, and what is there.
    """

    def __init__(self, pieces: Iterable[tuple[int, int, _T]]) -> None:
        # Of damaged ones that overlap it is the one that starts last.
        self._pieces = sorted(pieces, key=operator.itemgetter(0))
        self._starts = [start for start, _, _ in self._pieces]

    def at(self, address: int) -> Optional[_T]:
        """Returns what is at an address, or None."""
        index = bisect.bisect_right(self._starts, address) - 1
        if index < 0:
            return None
        _, end, found = self._pieces[index]
        return found if address < end else None
