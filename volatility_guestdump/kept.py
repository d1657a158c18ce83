# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is kept of the files and machines looked at last.

Volatility makes each layer several times over in one run; what takes long is made once, however
many threads ask for it.
"""

import functools
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Callable, Generic, Optional, TypeVar, Union, overload

_T = TypeVar("_T")


class Kept(Generic[_T]):
    """The values made last, by what identifies them. A copy begins without any.

    Args:
        limit: how many are kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._values: OrderedDict[Hashable, tuple[_T]] = OrderedDict()
        # Re-entrant: while a value is made another one may be asked for.
        self._lock = threading.RLock()

    def get(self, key: Hashable, make: Callable[[], _T]) -> _T:
        """Returns the value of a key, made now or before; other threads wait for it."""
        # Tuples, for None is a value too; and no second look at what another thread may drop.
        found = self._values.get(key)
        if found is None:
            with self._lock:
                found = self._values.get(key)
                if found is None:
                    found = (make(),)
                    while len(self._values) >= self._limit:
                        self._values.popitem(last=False)
                    self._values[key] = found
        return found[0]

    def __reduce__(self) -> tuple[Any, ...]:
        return Kept, (self._limit,)

    def drop(self, key: Hashable) -> None:
        """Forgets the value of a key, if there is one."""
        with self._lock:
            self._values.pop(key, None)

    def clear(self) -> None:
        """Forgets everything."""
        with self._lock:
            self._values.clear()


class MadeOnce(functools.cached_property[_T]):
    """A cached property that is made once, in whatever thread: from Python 3.12 on those are not.

    Each object has a lock of its own while the value is made: an error is no value.
    """

    @overload
    def __get__(self, instance: None, owner: Optional[type[Any]] = None) -> "MadeOnce[_T]": ...
    @overload
    def __get__(self, instance: object, owner: Optional[type[Any]] = None) -> _T: ...
    def __get__(
        self, instance: Optional[object], owner: Optional[type[Any]] = None
    ) -> "Union[MadeOnce[_T], _T]":
        """Returns the value of an object, made now or before."""
        if instance is None:
            return self
        assert self.attrname is not None
        values = vars(instance)
        lock = f"making {self.attrname}"
        with values.setdefault(lock, threading.RLock()):
            try:
                if self.attrname not in values:
                    values[self.attrname] = self.func(instance)
                value: _T = values[self.attrname]
                return value
            finally:
                # Locks cannot be copied, and whoever waits has this one.
                values.pop(lock, None)
