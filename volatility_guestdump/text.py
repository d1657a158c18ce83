# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a guest calls things, made fit for the analyst's screen."""

#: What becomes of characters below this is remembered; a guest may have all of the others.
_REMEMBERED = 1 << 16


class _Shown(dict[int, int]):
    """Number of a character -> that of what is shown for it, for str.translate."""

    def __missing__(self, character: int) -> int:
        shown = character if chr(character).isprintable() else ord("?")
        if character < _REMEMBERED:
            self[character] = shown
        return shown


_SHOWN = _Shown()


def printable(name: bytes) -> str:
    """Returns a name up to its NUL, with "?" for what a terminal might obey or not show."""
    text = name.split(b"\0")[0].decode("utf-8", "replace")
    # Thousands of names are asked for, and nearly all are as they should be.
    return text if text.isprintable() else text.translate(_SHOWN)
