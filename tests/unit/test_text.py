# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What of a guest's words reaches the screen."""

from hypothesis import given
from hypothesis import strategies as st

from volatility_guestdump import text
from volatility_guestdump.text import printable


@given(st.binary(max_size=40) | st.text(max_size=40).map(lambda it: it.encode("utf-8", "replace")))
def test_nothing_that_a_terminal_may_obey(data: bytes) -> None:
    """What can be shown stays where it is, and all else is a question mark."""
    expected = data.split(b"\0")[0].decode("utf-8", "replace")
    shown = printable(data)
    assert shown.isprintable() and len(shown) == len(expected)
    assert all(a == b or (b == "?" and not a.isprintable()) for a, b in zip(expected, shown))


def test_no_more_is_remembered_than_has_a_limit() -> None:
    """A guest may have every character that there is."""
    every = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))
    printable(every.encode())
    assert len(text._SHOWN) <= 1 << 16
