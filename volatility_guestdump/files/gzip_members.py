# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""gzip files member by member, with what gunzip accepts behind the last one.

A gzip file is a row of members (RFC 1952, 2.2). Block devices, tapes and some copying programs put
zeros or other bytes behind the last of them; gunzip ignores what does not begin like a member.
"""

import io
import os
import zlib
from typing import Any, Callable, Optional

#: How a gzip member starts: two bytes of magic, and deflate as the method.
MAGIC = b"\x1f\x8b\x08"

_STEP = 64 << 10
#: zlib's windowBits for a gzip member whose checksum is verified.
_GZIP = 31


class GzipStream(io.RawIOBase):
    """The content of a gzip file, read once from its start.

    Args:
        path: of the file.

    Attributes:
        taken: how many bytes of the file were read so far.
        members_end: how many of them the members take that were read to their end.

    Raises:
        OSError: the file cannot be opened. Reading also raises zlib.error (damaged) and EOFError
            (cut off).
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 # closed by close()
        self._inflater = zlib.decompressobj(_GZIP)
        self._input = b""
        self._position = 0
        self.taken = 0
        self.members_end = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True: backwards from the start again."""
        return True

    def tell(self) -> int:
        """Returns the position in the content."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Changes the position, for which all content before it is read."""
        if whence == os.SEEK_CUR:
            offset += self._position
        elif whence == os.SEEK_END:
            while self.read(_STEP):
                pass
            offset += self._position
        if offset < self._position:
            self._file.seek(0)
            self._inflater = zlib.decompressobj(_GZIP)
            self._input = b""
            self.taken = self._position = self.members_end = 0
        while self._position < offset and self.read(min(_STEP, offset - self._position)):
            pass
        return self._position

    def read(self, size: Optional[int] = -1) -> bytes:
        """Returns up to `size` bytes of the content; none at its end.

        Raises:
            EOFError: the file ends inside a member.
            zlib.error: a member is damaged.
        """
        if size is None or size < 0:
            return self.readall()
        while size:
            if self._inflater.eof and not self._next_member():
                return b""
            if not self._input:
                self._input = self._file.read(_STEP)
                self.taken += len(self._input)
            # Without input it gives what it still holds back.
            data = self._inflater.decompress(self._input, size)
            if not self._input and not data and not self._inflater.eof:
                raise EOFError("a gzip member is cut off")
            unused = self._inflater.unused_data if self._inflater.eof else None
            self._input = self._inflater.unconsumed_tail if unused is None else unused
            if self._inflater.eof:
                self.members_end = self.taken - len(self._input)
            if data:
                self._position += len(data)
                return data
        return b""

    def _next_member(self) -> bool:
        """Goes to the next member; what does not begin like one is no part of the content."""
        while len(self._input) < len(MAGIC):
            more = self._file.read(_STEP)
            if not more:
                break
            self.taken += len(more)
            self._input += more
        if not self._input.startswith(MAGIC):
            return False
        self._inflater = zlib.decompressobj(_GZIP)
        return True

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer, and returns how many bytes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()


def starts_with_member(path: str) -> bool:
    """Whether a file begins with a gzip member that decompresses, as far as its first bytes go.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with GzipStream(path) as stream:
            return stream.read(_STEP) != b""
    except (EOFError, zlib.error):
        return False


def end_of_members(path: str, progress: Callable[[int], None]) -> Optional[int]:
    """Reads all of a gzip file for where its members end.

    Args:
        path: of the file.
        progress: called with how many bytes of the file are read.

    Returns:
        How many bytes of the file the members take; None when one is damaged or cut off.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        with GzipStream(path) as stream:
            while stream.read(1 << 20):
                progress(stream.taken)
            return stream.members_end
    except (EOFError, zlib.error):
        return None


class Beginning(io.RawIOBase):
    """The first bytes of a file, as a file.

    Args:
        path: of the file.
        size: how many bytes.
    """

    def __init__(self, path: str, size: int) -> None:
        super().__init__()
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 # closed by close()
        self._size = size

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position."""
        return self._file.tell()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Changes the position, and returns it."""
        if whence == os.SEEK_END:
            return self._file.seek(self._size + offset)
        return self._file.seek(offset, whence)

    def readinto(self, buffer: Any) -> int:
        """Reads into a buffer, and returns how many bytes."""
        left = max(0, self._size - self._file.tell())
        return self._file.readinto(memoryview(buffer)[:left]) if left else 0

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
        super().close()
