# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is kept of the files and machines looked at last.

Volatility makes each layer several times over in one run; what takes long is made once.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Callable, Generic, TypeVar

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """The values made last, by what identifies them.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[Hashable, tuple[_T]] = OrderedDict()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the value of a key, made now or before."""
        # Tuples, for None is a value too; and no second look at what another thread may drop.
        found = self._values.get(key)
        if found is None:
            found = (make(),)
            while len(self._values) >= self._limit:
                self._values.popitem(last=False)
            self._values[key] = found
        return found[0]

    def clear(self) -> None:
        """Forgets everything."""
        self._values.clear()
