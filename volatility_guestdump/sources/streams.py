# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Reading streams of any kind."""

from typing import BinaryIO


def read_up_to(stream: BinaryIO, length: int) -> bytes:
    """Reads up to `length` bytes; one read() of a raw stream may return fewer."""
    parts = []
    while length > 0:
        part = stream.read(length)
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)
