# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What may fail by itself: facts that are wanted though what the next is made of is damaged."""

import logging
from collections.abc import Iterable
from typing import Callable, NamedTuple, Optional, TypeVar

from volatility_guestdump.exceptions import GuestDumpError
from volatility_guestdump.text import printable

_logger = logging.getLogger(__name__)

_T = TypeVar("_T")
_U = TypeVar("_U")


class Failure(NamedTuple):
    """What could not be made, and why."""

    what: str
    reason: str


class Attempts:
    """Makes one thing after the other, and keeps what failed.

    Any exception counts as a failure, not only the errors of this package: whatever is wrong with
    one thing, the others are wanted.

    Attributes:
        failures: what failed, in order.
    """

    def __init__(self) -> None:
        self.failures: list[Failure] = []

    def note(self, what: str, reason: str) -> None:
        """Adds a failure, once."""
        failure = Failure(what, reason)
        if failure not in self.failures:
            self.failures.append(failure)

    def make(self, what: str, make: Callable[[], Optional[_T]]) -> Optional[_T]:
        """Returns what a function makes, or None when it fails."""
        try:
            return make()
        except Exception as error:
            _logger.debug("%s", what, exc_info=True)
            self.note(what, _reason(error))
            return None

    def make_each(self, what: str, make: Callable[[_T], _U], items: Iterable[_T]) -> list[_U]:
        """Returns what a function makes of each item, without those that it fails with.

        All that fail are one failure, with their number.
        """
        made, failed, first = [], 0, ""
        for item in items:
            try:
                made.append(make(item))
            except Exception as error:
                if not failed:
                    _logger.debug("%s", what, exc_info=True)
                first = first or _reason(error)
                failed += 1
        if failed:
            self.note(what, f"{failed} of {failed + len(made)} cannot be read; the first: {first}")
        return made


def _reason(error: Exception) -> str:
    """Returns why something failed; an error that is not meant for it has a name worth telling."""
    reason = str(error)
    if not isinstance(error, GuestDumpError) or not reason:
        reason = f"{type(error).__name__}: {reason}".removesuffix(": ")
    # What an error tells of may be the guest's.
    return printable(reason.encode("utf-8", "replace"))
