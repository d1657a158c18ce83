# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The last lines of a run that was in vain: which reasons are kept for them."""

import logging
from collections import deque
from collections.abc import Iterator

import pytest

from volatility_guestdump.exceptions import SourceError
from volatility_guestdump.framework import reasons, stacking

Kept = deque[str]


@pytest.fixture(autouse=True)
def messages() -> Iterator[Kept]:
    """Yields what is kept."""
    reasons._warnings.messages.clear()
    yield reasons._warnings.messages
    reasons._warnings.messages.clear()


@pytest.mark.parametrize("name", ["mem", "memory", "e", "is", "debug.mem"])
def test_a_file_with_the_name_of_a_word_keeps_its_last_line(messages: Kept, name: str) -> None:
    """A warning that has its name in the middle of a sentence, or of another name, is not of it."""
    for said in (
        "The guest's memory cannot be read, only its registers: old.debug.mem: is gone",
        "debug.guest, which --guest-memory names, is not used: memory is read from debug.mem",
        "Not a usable memory image: debug.memory: cut off",
    ):
        logging.getLogger(reasons.__name__).warning(said)
    reasons.no_linux_kernel(f"file:///tmp/{name}")
    assert messages[-1].startswith(f"{name} shows no Linux kernel")


@pytest.mark.parametrize(
    "said",
    [
        "Not a usable memory image: a (1).mem: no header at 0x40",
        "Not a usable ELF core of QEMU: a (1).mem: the file is cut off",
        "a (1).mem: 4096 bytes, but debug.guest describes 8192: the copy is incomplete",
        "a (1).mem is a disk image",
    ],
)
def test_of_a_file_that_was_warned_of_there_is_no_more_to_say(messages: Kept, said: str) -> None:
    """Why it is of no use is known."""
    logging.getLogger(reasons.__name__).warning(said)
    reasons.no_linux_kernel("file:///tmp/a%20%281%29.mem")
    assert list(messages) == [said]


def test_each_file_is_warned_of_once(messages: Kept) -> None:
    """Several stackers try a file; one whose name another one's ends in is another."""
    for name in ("old.mem", "old.mem", "mem"):
        stacking.LoggedSaid().warn_of_file("memory image", SourceError(f"{name}: cut off"))
    assert len(messages) == 2
