# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where files lie: URLs, paths, and the companions of a file.

Volatility names files by URLs. Those of local files are opened here; `set_opener` says who opens
others.
"""

import bz2
import errno
import io
import lzma
import os
import pathlib
import stat
import urllib.parse
import urllib.request
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, Callable, NamedTuple, Optional

from volatility_guestdump.files.gzip_members import GzipStream

GUEST_SUFFIX = ".guest"
MEMORY_SUFFIX = ".vmem"
GZIP_SUFFIX = ".gz"

#: What reading a stream from `open_location` can raise: a damaged compressed file raises errors of
#: its own, which are no OSError.
STREAM_ERRORS = (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError)

#: How compressed files begin, and who opens them.
_COMPRESSED: Mapping[bytes, Callable[[Any], Any]] = {
    b"\x1f\x8b\x08": lambda path: io.BufferedReader(GzipStream(path)),
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


class Packing(NamedTuple):
    """A kind of compressed file or archive that has no random access.

    Attributes:
        name: what it is, in words.
        magic: how it begins.
        suffix: of its name.
        command: what unpacks it.
    """

    name: str
    magic: bytes
    suffix: str
    command: str


_PACKINGS: tuple[Packing, ...] = (
    Packing("compressed by xz", b"\xfd7zXZ\0", ".xz", "unxz"),
    Packing("compressed by bzip2", b"BZh", ".bz2", "bunzip2"),
    Packing("compressed by zstd", b"\x28\xb5\x2f\xfd", ".zst", "unzstd"),
    Packing("a zip archive", b"PK\x03\x04", ".zip", "unzip"),
    Packing("a 7z archive", b"7z\xbc\xaf\x27\x1c", ".7z", "7z x"),
)

#: Suffixes of files that may hold both files of a guest dump.
_ARCHIVES = (".zip", ".7z")

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
    return of_all_names(guest_location, _memory_names)


def _memory_names(guest_location: str) -> list[str]:
    guest = without_gzip(guest_location)
    stem, suffix = os.path.splitext(guest)
    stems = [stem] if suffix.lower() == GUEST_SUFFIX else list(dict.fromkeys([guest, stem]))
    suffixes = (MEMORY_SUFFIX, MEMORY_SUFFIX + GZIP_SUFFIX)
    return [stem + _in_case_of(suffix, each) for each in suffixes for stem in stems]


def guest_locations(memory_location: str) -> list[str]:
    """Returns where the debug.guest file of a memory file may lie: the other way round."""
    return of_all_names(memory_location, _guest_names)


def _guest_names(memory_location: str) -> list[str]:
    stem, suffix = os.path.splitext(without_gzip(memory_location))
    if suffix.lower() != MEMORY_SUFFIX:
        return []
    suffixes = (GUEST_SUFFIX, GUEST_SUFFIX + GZIP_SUFFIX)
    return [stem + _in_case_of(suffix, each) for each in suffixes]


def _in_case_of(suffix: str, other: str) -> str:
    """Returns another suffix in upper case where the given one is: DEBUG.GUEST, DEBUG.VMEM."""
    return other.upper() if suffix.isupper() else other


def of_all_names(location: str, companions: Callable[[str], list[str]]) -> list[str]:
    """Returns the companions of a file beside the name it is given by, and beside its target.

    Of a symbolic link that is the file which it leads to. What is not there under just that name
    is looked for in any mix of upper and lower case.
    """
    places = companions(location)
    path = local_path(location)
    if path is None:
        return places
    if os.path.islink(path):
        places += companions(location_of(os.path.realpath(path)))
    return list(dict.fromkeys(map(_in_any_case, places)))


def _in_any_case(location: str) -> str:
    """Returns the URL of the one file whose name differs in case only, else the URL as it is."""
    path = local_path(location)
    if path is None or os.path.lexists(path):
        return location
    folder, name = os.path.split(path)
    try:
        found = [each for each in os.listdir(folder) if each.lower() == name.lower()]
    except OSError:
        return location
    return location_of(os.path.join(folder, found[0])) if len(found) == 1 else location


def packed_locations(locations: Sequence[str]) -> list[str]:
    """Returns where packed forms of files lie that are not there themselves."""
    names = (location + packing.suffix for location in locations for packing in _PACKINGS)
    return [name for name in map(_in_any_case, names) if is_readable(name)]


def packing_of(path: str) -> Optional[Packing]:
    """Returns how a file is packed, by how it begins; None when it is not, or cannot be read."""
    try:
        with open(path, "rb", buffering=0) as stream:
            start = stream.read(max(len(each.magic) for each in _PACKINGS))
    except OSError:
        return None
    return next((each for each in _PACKINGS if start.startswith(each.magic)), None)


def packed_message(location: str, packing: Packing) -> str:
    """Returns what to say of a packed file: what it is, and what to do."""
    return f"{display_name(location)} is {packing.name}: unpack it first ({packing.command})"


def packed_guest_dump(location: str) -> Optional[str]:
    """Returns what to say of a file that is a packed guest dump by its name, else None."""
    path = local_path(location)
    packing = None if path is None else packing_of(path)
    if packing is None:
        return None
    stem = location
    if has_suffix(location, packing.suffix):
        stem = location[: -len(packing.suffix)]
        if packing.suffix in _ARCHIVES:
            return packed_message(location, packing)
    named = has_suffix(without_gzip(stem), GUEST_SUFFIX, MEMORY_SUFFIX)
    return packed_message(location, packing) if named else None


def refuse_pipe(path: str) -> None:
    """Raises OSError for a pipe or socket: opening one may wait forever."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return
    if stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode):
        raise OSError(errno.ESPIPE, "is a pipe, which has no random access: write it to a file")


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
    refuse_pipe(path)
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


def why_unreadable(location: str) -> Optional[str]:
    """Returns why a local file that is there cannot be read, in words; None for any other."""
    path = local_path(location)
    if path is None or not os.path.lexists(path):
        return None
    try:
        with open_location(location) as stream:
            stream.read(1)
    except STREAM_ERRORS as error:
        return f"{display_name(location)}: {why(error)}"
    return None


def why(error: Exception) -> str:
    """Returns what an error in opening or reading a file says, without its number and file name."""
    reason = getattr(error, "strerror", None) or getattr(error, "reason", None) or error
    return str(reason)


def file_state(location: str) -> Optional[tuple[int, ...]]:
    """Returns what changes when a local file does; None for what is not local or not there."""
    path = local_path(location)
    try:
        status = os.stat(path) if path else None
    except OSError:
        return None
    return status and (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
