# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a guest calls things, made fit for the analyst's screen."""


def printable(name: bytes) -> str:
    """Returns a name up to its NUL, with "?" for what a terminal might obey or not show."""
    text = name.split(b"\0")[0].decode("utf-8", "replace")
    # Thousands of names are asked for, and nearly all are as they should be.
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)
