"""Where files lie: URLs, paths, and the companions of a file.

Volatility names files by URLs. Those of local files are opened here; `set_opener` says who opens
others.
"""

import bz2
import gzip
import lzma
import os
import pathlib
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, Callable, Optional

GUEST_SUFFIX = ".guest"
MEMORY_SUFFIX = ".vmem"
GZIP_SUFFIX = ".gz"

#: What reading a stream from `open_location` can raise: a damaged compressed file raises errors of
#: its own, which are no OSError.
STREAM_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)

#: How compressed files begin, and who opens them.
_COMPRESSED: Mapping[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b\x08": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}

Opener = Callable[[str], BinaryIO]


def _open_url(location: str) -> BinaryIO:
    opened: BinaryIO = urllib.request.urlopen(location)
    return opened


_opener: Opener = _open_url


def set_opener(opener: Opener) -> None:
    """Sets who opens URLs of other than local files, for streams that can seek."""
    global _opener  # noqa: PLW0603 # there is one program around us
    _opener = opener


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


def has_suffix(name: str, *suffixes: str) -> bool:
    """Whether a path or URL ends in one of some suffixes, in upper or lower case."""
    return name.lower().endswith(suffixes)


def without_gzip(location: str) -> str:
    """Returns a path or URL without the suffix of a gzip file."""
    return location[: -len(GZIP_SUFFIX)] if has_suffix(location, GZIP_SUFFIX) else location


def looks_like_guest_file(location: str) -> bool:
    """Whether a URL has the name of a debug.guest file, which may be compressed."""
    return has_suffix(without_gzip(location), GUEST_SUFFIX)


def memory_locations(guest_location: str) -> list[str]:
    """Returns where the memory of a debug.guest file may lie, the likeliest first.

    Args:
        guest_location: URL of the debug.guest file, which may be compressed.
    """
    guest = without_gzip(guest_location)
    stem, suffix = os.path.splitext(guest)
    stems = [stem] if suffix.lower() == GUEST_SUFFIX else list(dict.fromkeys([guest, stem]))
    suffixes = (MEMORY_SUFFIX, MEMORY_SUFFIX + GZIP_SUFFIX)
    return [stem + suffix for suffix in suffixes for stem in stems]


def guest_locations(memory_location: str) -> list[str]:
    """Returns where the debug.guest file of a memory file may lie: the other way round."""
    stem, suffix = os.path.splitext(without_gzip(memory_location))
    if suffix.lower() != MEMORY_SUFFIX:
        return []
    return [stem + GUEST_SUFFIX, stem + GUEST_SUFFIX + GZIP_SUFFIX]


def open_location(location: str, as_it_is: bool = False) -> BinaryIO:
    """Opens a URL for reading.

    Args:
        location: the URL.
        as_it_is: read what begins like a compressed file as it is, instead of decompressing it:
            what a guest has at address 0 may look like anything.

    Raises:
        OSError: nothing can be opened there. Reading may raise `STREAM_ERRORS`.
    """
    path = local_path(location)
    if path is None:
        return _opener(location)
    stream = open(path, "rb", buffering=0)  # noqa: SIM115 # the caller closes it
    if as_it_is:
        return stream
    try:
        start = stream.read(max(map(len, _COMPRESSED)))
        stream.seek(0)
    except OSError:
        stream.close()
        raise
    for magic, decompressing in _COMPRESSED.items():
        if start.startswith(magic):
            stream.close()
            opened: BinaryIO = decompressing(path)
            return opened
    return stream


def is_readable(location: str) -> bool:
    """Whether a file can be opened at a URL and read, or at least its first byte."""
    try:
        with open_location(location) as stream:
            stream.read(1)
    except STREAM_ERRORS:
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
