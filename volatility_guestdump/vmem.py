"""The memory file of a guest: finding the companion of a debug.guest file, and reading it."""

import io
import logging
import mmap
import os
import pathlib
import threading
import urllib.parse
import urllib.request
from collections import OrderedDict
from typing import Any, BinaryIO, Optional, Union

from volatility3.framework import constants
from volatility3.framework.layers import resources

from volatility_guestdump.compressed import MAGIC, SeekableGzip
from volatility_guestdump.exceptions import MemoryFileError, MissingMemoryFile

vollog = logging.getLogger(__name__)

GUEST_SUFFIX = ".guest"
MEMORY_SUFFIX = ".vmem"
GZIP_SUFFIX = ".gz"

#: Volatility's ResourceAccessor decompresses what has such a name.
COMPRESSED_SUFFIXES = (".gz", ".bz2", ".xz")


def local_path(location: str) -> Optional[str]:
    """Returns the path of a file URL, or None when the URL is not one of a local file."""
    parsed = urllib.parse.urlparse(location)
    if parsed.scheme != "file":
        return None
    share = parsed.netloc not in ("", "localhost")
    if share and os.name != "nt":
        return None
    # Of a share on Windows, file://server/share/file is \\server\share\file.
    return urllib.request.url2pathname(f"//{parsed.netloc}{parsed.path}" if share else parsed.path)


def location_of(path: str) -> str:
    """Returns the URL of a file that a user named by path or URL."""
    return path if "://" in path else pathlib.Path(path).absolute().as_uri()


def display_name(location: str) -> str:
    """Returns the last part of a URL, as a message should name the file."""
    return os.path.basename(urllib.parse.unquote(location)) or location


def _without_gzip(location: str) -> str:
    return location[: -len(GZIP_SUFFIX)] if location.endswith(GZIP_SUFFIX) else location


def memory_locations(guest_location: str) -> list[str]:
    """Returns where the memory of a debug.guest file may lie, the likeliest first.

    Args:
        guest_location: URL of the debug.guest file, which may be compressed.
    """
    guest = _without_gzip(guest_location)
    stem, suffix = os.path.splitext(guest)
    stems = [stem] if suffix == GUEST_SUFFIX else list(dict.fromkeys([guest, stem]))
    suffixes = (MEMORY_SUFFIX, MEMORY_SUFFIX + GZIP_SUFFIX)
    return [stem + suffix for suffix in suffixes for stem in stems]


def guest_locations(memory_location: str) -> list[str]:
    """Returns where the debug.guest file of a memory file may lie: the other way round."""
    stem, suffix = os.path.splitext(_without_gzip(memory_location))
    if suffix != MEMORY_SUFFIX:
        return []
    return [stem + GUEST_SUFFIX, stem + GUEST_SUFFIX + GZIP_SUFFIX]


def open_location(location: str) -> BinaryIO:
    """Opens a URL for reading, decompressed when its name says that it is compressed.

    Raises:
        OSError: nothing can be opened there.
    """
    path = local_path(location)
    if path is not None and not path.endswith(COMPRESSED_SUFFIXES):
        return open(path, "rb", buffering=0)
    opened: BinaryIO = resources.ResourceAccessor().open(location)
    return opened


def is_readable(location: str) -> bool:
    """Whether a file can be opened at a URL and read, or at least its first byte."""
    try:
        with open_location(location) as stream:
            stream.read(1)
    except (OSError, EOFError, ValueError):
        return False
    return True


def file_state(location: str) -> Optional[tuple[int, ...]]:
    """Returns what changes when a local file does; None for what is not local or not there."""
    path = local_path(location)
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


class MemoryFile:
    """Random access to a file of raw memory, plain or compressed; threads may share it.

    Args:
        location: URL of the file.
        progress: called while a compressed file is indexed.

    Attributes:
        location: URL of the file.
        size: of the memory in it, in bytes.

    Raises:
        MissingMemoryFile: nothing is there.
        MemoryFileError: the file cannot be opened or decompressed.
    """

    def __init__(self, location: str, progress: constants.ProgressCallback = None) -> None:
        self.location = location
        #: Whether somebody was told that not all of it can be read.
        self.error_shown = False
        self._lock = threading.Lock()
        self._descriptor: Optional[int] = None
        path = local_path(location)
        try:
            if path is not None and _is_gzip(path):
                self._file: Union[BinaryIO, SeekableGzip] = SeekableGzip(path, progress)
                self.size = self._file.size
                return
            if location.lower().endswith(COMPRESSED_SUFFIXES[1:]):
                raise MemoryFileError(
                    f"{display_name(location)}: only gzip can be read at any offset; unpack it"
                )
            self._file = open_location(location)
            self.size = self._file.seek(0, os.SEEK_END)
        except (OSError, EOFError, ValueError) as error:
            reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
            missing = isinstance(error, FileNotFoundError)
            kind = MissingMemoryFile if missing else MemoryFileError
            raise kind(f"{display_name(location)}: {reason}") from error
        # Positioned reads need no lock and half the system calls.
        if hasattr(os, "pread") and isinstance(self._file, io.FileIO):
            self._descriptor = self._file.fileno()

    def read(self, offset: int, length: int) -> bytes:
        """Returns exactly `length` bytes.

        Raises:
            MemoryFileError: the file ends before, or the medium has an error.
        """
        try:
            if self._descriptor is not None:
                data = os.pread(self._descriptor, length, offset)
            else:
                with self._lock:
                    if isinstance(self._file, SeekableGzip):
                        data = self._file.read(offset, length)
                    else:
                        self._file.seek(offset)
                        data = self._file.read(length)
        except (OSError, EOFError, ValueError) as error:
            raise MemoryFileError(
                f"{display_name(self.location)}: {length} bytes at {offset:#x}: {error}"
            ) from error
        while len(data) < length:
            # One system call reads no more than 2 GiB.
            rest = self.read(offset + len(data), length - len(data)) if data else b""
            if not rest:
                raise MemoryFileError(
                    f"{display_name(self.location)}: the file ends before {offset + length:#x}"
                )
            data += rest
        return data

    def map(self) -> Optional[mmap.mmap]:
        """Returns the file as mapped into memory, or None where that cannot be done."""
        if self._descriptor is None:
            return None
        try:
            return mmap.mmap(self._descriptor, self.size, access=mmap.ACCESS_READ)
        except (OSError, OverflowError, ValueError):
            # Empty, or too large for the address space of a 32-bit process.
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        # Volatility sends layers to other processes.
        return open_memory_file, (self.location,)


def _is_gzip(path: str) -> bool:
    # The name decides: what a guest has at address 0 may look like anything.
    if not path.lower().endswith(GZIP_SUFFIX):
        return False
    with open(path, "rb", buffering=0) as stream:
        return stream.read(len(MAGIC)) == MAGIC


#: Of the files opened last. Volatility makes each layer several times over in one run, and the
#: index of a compressed file takes a while.
_opened: "OrderedDict[tuple[str, int, Any], MemoryFile]" = OrderedDict()
_OPENED_LIMIT = 2


def open_memory_file(location: str, progress: constants.ProgressCallback = None) -> MemoryFile:
    """Returns a memory file, opened now or before; see `MemoryFile`."""
    # A forked process opens it anew: it would share the place in the file with its parent.
    key = (location, os.getpid(), file_state(location))
    file = _opened.get(key)
    if file is None:
        file = MemoryFile(location, progress)
        while len(_opened) >= _OPENED_LIMIT:
            _opened.popitem(last=False)
        _opened[key] = file
    return file


class MemoryStream(io.RawIOBase):
    """A memory file as a stream, for those who want one.

    Args:
        file: that is read.
    """

    def __init__(self, file: MemoryFile) -> None:
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
            MemoryFileError: the medium has an error.
        """
        left = max(0, self._memory.size - self._position)
        length = left if size is None or size < 0 else min(size, left)
        data = self._memory.read(self._position, length) if length else b""
        self._position += len(data)
        return data
