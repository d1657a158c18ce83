# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The message of a panic, in logs made by hand, and what only looks like one."""

from typing import Optional

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade import printk as handmade
from tests.handmade.kernel import HandmadeKernel
from tests.handmade.printk import Entry, with_log
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.state.log import panic_message

PANIC = b"Kernel panic - not syncing: "
BOTH = pytest.mark.parametrize("old", [False, True])
USER = 1


def message(kernel: HandmadeKernel, panic_cpu: Optional[int] = 0) -> Optional[str]:
    """Returns what the code under test makes of a log."""
    kernel.panic_cpu = panic_cpu
    return panic_message(kernel.kernel)


def without_types(text: bytes) -> HandmadeKernel:
    """Returns a kernel without types, with a text in its log's buffer."""
    kernel = HandmadeKernel()
    kernel.write(handmade.TEXT, b"\xff\x7f" * 50 + text + b"\x7f\xff" * 50)
    handmade.write_buffer(kernel, 200 + len(text))
    return kernel


@BOTH
@pytest.mark.parametrize("panic_cpu", [0, None])
def test_the_message(old: bool, panic_cpu: Optional[int]) -> None:
    """It is the last one's, without what was there before it or comes behind it."""
    entries = [
        Entry(PANIC + b"first"),
        Entry(PANIC + b"Fatal exception in interrupt \n"),
        Entry(b"CPU: 0 PID: 1 Comm: init"),
        Entry(b"---[ end Kernel panic - not syncing: Fatal exception in interrupt ]---"),
    ]
    assert message(with_log(entries, old), panic_cpu) == "Fatal exception in interrupt"


@BOTH
@pytest.mark.parametrize(
    "entry",
    [
        # What a program writes to /dev/kmsg has its facility, whatever that asks for but 0.
        Entry(PANIC + b"forged", USER),
        Entry(PANIC + b"forged", 31),
        # What a program has named or mounted is in what the kernel says of it.
        Entry(b'overlayfs: unrecognized mount option "' + PANIC + b'forged"'),
        Entry(b'overlayfs: unrecognized mount option "\n' + PANIC + b'forged"'),
        Entry(b"\x02\0\0\0\0\0\0\0" + PANIC + b"forged"),
        Entry(b"Kernel panic - not syncing:"),
    ],
)
def test_what_only_looks_like_a_panic(entry: Entry, old: bool) -> None:
    """It counts neither without a panic nor in the place of its message."""
    assert message(with_log([Entry(b"x"), Entry(b"y"), entry], old), None) is None
    assert message(with_log([entry], old), 0) is None
    assert message(with_log([Entry(PANIC + b"said"), entry, entry], old), 0) == "said"


@BOTH
def test_no_panic(old: bool) -> None:
    """The kernel knows whether it panicked; who panics without a word says nothing."""
    assert message(with_log([Entry(PANIC + b"said")], old), -1) is None
    assert message(with_log([Entry(PANIC)], old)) is None


def test_without_types() -> None:
    """The text ends where the letters do, and of several the last is taken."""
    text = PANIC + b"first\n" + PANIC + b"Fatal exception in interrupt\0tail"
    assert message(without_types(text)) == "Fatal exception in interrupt"
    assert message(without_types(text), -1) is None
    assert message(without_types(b"---[ end " + PANIC + b"x ]---")) is None


@pytest.mark.parametrize("said", [b"sysrq triggered crash", b"abab", b"ab"])
def test_what_printk_leaves_behind(said: bytes) -> None:
    """The two last letters stand twice before the line break, in newer kernels."""
    assert message(without_types(PANIC + said + said[-2:] + b"\n\0")) == said.decode()
    assert message(without_types(PANIC + said + b"\0\0")) == said.decode()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (b"Attempted to kill init!\x1b[2J", "Attempted to kill init!"),
        ("Grüße ".encode() + b"\xc2\x9b2J\xff.\n", "Grüße ?2J\N{REPLACEMENT CHARACTER}."),
        (b"x" * 2000, "x" * 1000),
    ],
)
def test_what_a_terminal_might_obey(text: bytes, shown: str) -> None:
    """Control characters end a message or are replaced, and it is not endless."""
    assert message(without_types(PANIC + text)) == shown
    found = message(with_log([Entry(PANIC + text)]))
    assert found is not None and found.isprintable() and len(found) <= 1000


def test_types_that_do_not_lead_to_the_records() -> None:
    """The text is looked for as without types."""
    kernel = with_log([Entry(PANIC + b"said\n")])
    del kernel.bytes[handmade.RING]
    assert message(kernel) == "said"


def test_a_missing_page() -> None:
    """It costs what is on it."""
    kernel = without_types(PANIC + b"said\0")
    kernel.write(handmade.TEXT + 200, bytes(0x3000))
    handmade.write_buffer(kernel, 0x3000)
    del kernel.bytes[handmade.TEXT + 0x1800]
    assert message(kernel) == "said"


def test_a_log_that_is_not_there() -> None:
    """Without a symbol there is no message; without its memory that is an error."""
    for symbol in ("log_buf", "log_buf_len"):
        kernel = without_types(PANIC + b"said\0")
        kernel.symbols[symbol] = 0xDEAD0000
        with pytest.raises(AddressError):
            message(kernel)
        del kernel.symbols[symbol]
        assert message(kernel) is None


@given(st.binary(max_size=60), st.integers(0, 3), st.booleans())
@settings(deadline=None, max_examples=50)
def test_noise(noise: bytes, place: int, old: bool) -> None:
    """Whatever the log and its descriptors are, a text comes out, or none."""
    kernel = with_log([Entry(PANIC + noise)], old)
    parts = (handmade.RING, handmade.DESCRIPTORS, handmade.INFOS, handmade.TEXT)
    kernel.write(parts[place], noise)
    found = message(kernel)
    assert found is None or (found.isprintable() and len(found) <= 1000)
