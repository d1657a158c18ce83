# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is made once, whoever asks for it."""

import copy
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Callable

import pytest

from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.kept import Kept, MadeOnce

THREADS = 8


def in_threads(get: Callable[[], object]) -> list[object]:
    """Returns what a function gives in eight threads that call it at once."""
    together = threading.Barrier(THREADS)

    def call(_: int) -> object:
        together.wait()
        return get()

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(THREADS)))


class Makes:
    """Counts what it makes.

    Attributes:
        made: how often.
    """

    def __init__(self) -> None:
        self.made = 0

    def make(self) -> object:
        """Makes something, and lets other threads run meanwhile."""
        self.made += 1
        time.sleep(0.05)
        return object()

    @MadeOnce
    def value(self) -> object:
        """What is made."""
        return self.make()

    @MadeOnce
    def none(self) -> object:
        """Nothing, in vain."""
        self.make()
        raise KernelError("none")


def test_eight_threads_make_one_value() -> None:
    """All have the same one."""
    makes, kept = Makes(), Kept[object](2)
    assert len(set(in_threads(lambda: kept.get("a", makes.make)))) == 1
    assert makes.made == 1
    assert len(set(in_threads(lambda: makes.value))) == 1
    assert makes.made == 2


def test_what_is_made_may_ask_for_more() -> None:
    """A machine asks for its file, which is kept too."""
    kept = Kept[int](2)
    assert kept.get("a", lambda: kept.get("b", lambda: 1) + 1) == 2
    assert (kept.get("a", int), kept.get("b", int)) == (2, 1)


def test_an_error_is_not_kept() -> None:
    """Who asks again has it made again; and the object can be copied."""
    makes, kept = Makes(), Kept[object](2)
    for _ in range(2):
        with pytest.raises(KernelError):
            _ = makes.none
        with pytest.raises(ZeroDivisionError):
            kept.get("a", lambda: 1 // 0)
    assert makes.made == 2
    assert copy.deepcopy(makes).made == 2
    assert kept.get("a", lambda: "made") == "made"


def test_threads_that_drop_what_others_look_for() -> None:
    """The oldest values go, and nobody is given another's."""
    kept = Kept[int](2)

    def ask() -> bool:
        return all(
            kept.get(number % 5, lambda number=number: number % 5) == number % 5  # type: ignore[misc]
            for number in range(2000)
        )

    assert all(in_threads(ask))
