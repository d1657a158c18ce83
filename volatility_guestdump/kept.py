# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is kept of the files and machines looked at last.

Volatility makes each layer several times over in one run; what takes long is made once.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Callable, Generic, TypeVar

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """The values made last, by what identifies them; threads may share them.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        # Tuples, for None is a value too.
        self._values: OrderedDict[Hashable, tuple[_T]] = OrderedDict()
        self._lock = threading.Lock()
        #: Held by the thread that makes the value of a key. Values of other keys need not wait.
        self._making: dict[Hashable, threading.RLock] = {}

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the value of a key, made now or before.

        Threads that ask for the same key at the same time get one value, which one of them makes.
        Where that fails the error is of the thread that tried, and the next one tries again.
        """
        # Without the lock: nearly all find what they ask for.
        found = self._values.get(key)
        if found is not None:
            return found[0]
        with self._lock:
            making = self._making.setdefault(key, threading.RLock())
        with making:
            found = self._values.get(key)
            if found is not None:
                return found[0]
            try:
                found = (make(),)
                with self._lock:
                    while len(self._values) >= self._limit:
                        self._values.popitem(last=False)
                    self._values[key] = found
            finally:
                with self._lock:
                    self._making.pop(key, None)
        return found[0]

    def drop(self, key: Hashable) -> None:
        """Forgets the value of a key, if there is one."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._values.clear()

    def __reduce__(self) -> tuple[type["Kept[_T]"], tuple[int]]:
        # Volatility copies what keeps values, and sends it to other processes: each keeps its own.
        return type(self), (self._limit,)
