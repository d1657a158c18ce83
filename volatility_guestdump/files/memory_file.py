# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Random access to a file of raw memory, plain or compressed."""

import errno
import io
import logging
import mmap
import os
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO, Optional, Protocol, Union

from volatility_guestdump.exceptions import MediumError, MemoryFileError, MissingMemoryFile
from volatility_guestdump.files.gzip_index import Progress, SeekableGzip
from volatility_guestdump.files.gzip_members import MAGIC, starts_with_member
from volatility_guestdump.files.location import (
    GZIP_SUFFIX,
    STREAM_ERRORS,
    display_name,
    has_suffix,
    local_path,
    open_location,
    packed_message,
    packing_of,
    refuse_pipe,
    why,
)

vollog = logging.getLogger(__name__)


class Content(Protocol):
    """What a guest's memory is read from: bytes at offsets."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes, or raises MediumError."""

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yields offset and size of what of a piece is not known to be zero."""

    def map(self) -> Optional[mmap.mmap]:
        """Returns all as mapped into memory, or None where that cannot be done."""


class MemoryFile:
    """Random access to a file of raw memory, plain or compressed; threads may share it.

    Args:
        location: URL of the file.
        expected_size: bytes of memory that the guest has, or None when that is not known.
        progress: called while a compressed file is indexed.

    Attributes:
        location: URL of the file.
        expected_size: as given.
        size: of the memory in it, in bytes.

    Raises:
        MissingMemoryFile: nothing is there.
        MemoryFileError: the file cannot be opened or decompressed.
    """

    def __init__(
        self, location: str, expected_size: Optional[int] = None, progress: Progress = None
    ) -> None:
        self.location = location
        self.expected_size = expected_size
        #: Whether somebody was told that not all of it can be read.
        self._error_shown = False
        self._lock = threading.Lock()
        self._descriptor: Optional[int] = None
        path = local_path(location)
        try:
            if path is not None:
                refuse_pipe(path)
            if path is not None and _is_gzip(path, expected_size):
                self._file: Union[BinaryIO, SeekableGzip] = SeekableGzip(path, progress)
                self.size = self._file.size
                return
            if path is not None:
                _refuse_packed(path, location, expected_size)
            self._file = open_location(location, as_it_is=True)
            self.size = self._file.seek(0, os.SEEK_END)
        except STREAM_ERRORS as error:
            missing = isinstance(error, FileNotFoundError)
            kind = MissingMemoryFile if missing else MemoryFileError
            raise kind(f"{display_name(location)}: {why(error)}") from error
        # Positioned reads need no lock and half the system calls.
        if hasattr(os, "pread") and isinstance(self._file, io.FileIO):
            self._descriptor = self._file.fileno()

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes.

        Raises:
            MediumError: the file ends before, or the medium has an error.
        """
        data = self._read_some(offset, length)
        if len(data) >= length:
            return data
        # One system call reads no more than 2 GiB, and some file systems give less than is asked.
        parts = [data]
        while data and length > len(data):
            offset, length = offset + len(data), length - len(data)
            data = self._read_some(offset, length)
            parts.append(data)
        if not data:
            raise MediumError(
                offset, f"{display_name(self.location)}: the file ends before {offset + length:#x}"
            )
        return b"".join(parts)

    def _read_some(self, offset: int, length: int) -> bytes:
        """Returns up to `length` bytes; none at the end of the file."""
        try:
            if self._descriptor is not None:
                return os.pread(self._descriptor, length, offset)
            with self._lock:
                if isinstance(self._file, SeekableGzip):
                    return self._file.read(offset, length)
                self._file.seek(offset)
                return self._file.read(length)
        except STREAM_ERRORS as error:
            message = f"{display_name(self.location)}: {length} bytes at {offset:#x}: {error}"
            if not self._error_shown:
                # Once: whoever decodes memory passes over what cannot be read in silence.
                self._error_shown = True
                vollog.warning(f"Memory cannot be read: {message}")
            raise MediumError(offset, message) from error

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yields offset and size of what of a piece of the file is no hole of a sparse file."""
        end = offset + length
        while offset < end:
            first, last = offset, end
            if self._descriptor is not None and hasattr(os, "SEEK_DATA"):
                try:
                    first = os.lseek(self._descriptor, offset, os.SEEK_DATA)
                    last = min(end, os.lseek(self._descriptor, first, os.SEEK_HOLE))
                except OSError as error:
                    if error.errno == errno.ENXIO:
                        return
                    # The file system cannot tell.
                    first, last = offset, end
            if first >= end:
                return
            yield first, last - first
            offset = last

    def map(self) -> Optional[mmap.mmap]:
        """Returns the file as mapped into memory, or None where that cannot be done."""
        if self._descriptor is None:
            return None
        try:
            return mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, OverflowError, ValueError):
            # Empty, or too large for the address space of a 32-bit process.
            return None

    def close(self) -> None:
        """Closes the file: what is read from then on raises MediumError."""
        with self._lock:
            self._descriptor = None
            self._file.close()

    def __reduce__(self) -> tuple[Any, ...]:
        # Volatility sends layers to other processes.
        return MemoryFile, (self.location, self.expected_size)


def _is_gzip(path: str, expected_size: Optional[int]) -> bool:
    """Whether a file is compressed, whatever its name.

    What a guest has at address 0 may look like anything, so the magic alone is no proof: the
    file's size must not be that of the memory, and without the name the data must decompress.
    """
    with open(path, "rb", buffering=0) as stream:
        if stream.read(len(MAGIC)) != MAGIC:
            return False
    if os.path.getsize(path) == expected_size:
        return False
    if has_suffix(path, GZIP_SUFFIX):
        return True
    return expected_size is not None and starts_with_member(path)


def _refuse_packed(path: str, location: str, expected_size: Optional[int]) -> None:
    """Raises MemoryFileError for a compressed file that cannot be read at any offset."""
    packing = packing_of(path)
    if packing is None or os.path.getsize(path) == expected_size:
        return
    if expected_size is not None or has_suffix(path, packing.suffix):
        raise MemoryFileError(packed_message(location, packing))


class MemoryStream(io.RawIOBase):
    """A memory file as a stream, for those who want one.

    Args:
        file: that is read.
    """

    def __init__(self, file: Content) -> None:
        super().__init__()
        self._memory = file
        self._position = 0

    def readable(self) -> bool:
        """Returns True."""
        return True

    def seekable(self) -> bool:
        """Returns True."""
        return True

    def tell(self) -> int:
        """Returns the position."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Changes the position, and returns it."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._memory.size}
        self._position = max(0, start[whence] + offset)
        return self._position

    def read(self, size: Optional[int] = -1) -> bytes:
        """Returns the next bytes, up to the end.

        Raises:
            MediumError: the medium has an error.
        """
        left = max(0, self._memory.size - self._position)
        length = left if size is None or size < 0 else min(size, left)
        data = self._memory.read(self._position, length) if length else b""
        self._position += len(data)
        return data
