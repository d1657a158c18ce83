# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Random access to gzip files, through an index of places where decompression can start.

rapidgzip does the work. The index is made in one pass over the file and kept in the folder that
`set_cache_folder` names (Volatility's cache path, where it goes with --clear-cache), else in one of
the user's own that nobody else can read or write; where there is none it is not kept. It is only
ever used for the very file that it was made from: its name is a digest of what identifies that file
(device, inode, size, times) and of samples of its content, and what it says of the file's size must
agree with the file.
"""

import hashlib
import importlib
import logging
import os
import pathlib
import stat
import sys
import tempfile
import weakref
from collections import OrderedDict
from typing import Any, Callable, Optional

from volatility_guestdump.exceptions import MemoryFileError
from volatility_guestdump.files.gzip_members import Beginning, end_of_members

vollog = logging.getLogger(__name__)

#: What one worker of rapidgzip takes at a time. A chunk of zeros grows a thousandfold, so the
#: default of 4 MiB would need gigabytes.
_CHUNK_SIZE = 256 << 10
#: More workers than one were slower on two cores, and each needs as much memory again.
_WORKERS = 1
# Larger ones were three times slower: each is a new allocation from the system.
_STEP = 256 << 10
#: Of files of at most so many bytes no index is kept.
_SMALL = 1 << 20
#: What is kept of the content: at most 64 MiB.
_BLOCK = 64 << 10
_BLOCKS = 1024
_SAMPLE = 64 << 10
_SAMPLES = 16


#: Told per cent and a description while something takes long; Volatility's ProgressCallback.
Progress = Optional[Callable[[float, str], None]]


def _private_folder() -> Optional[pathlib.Path]:
    """Returns a folder of the user's own, made when there is none; None when it is not private.

    Whoever can write into it could plant an index, or a link to a file that is then written over.
    """
    variable, usual = "XDG_CACHE_HOME", (".cache",)
    if sys.platform == "win32":
        variable, usual = "LOCALAPPDATA", ("AppData", "Local")
    elif sys.platform == "darwin":
        variable, usual = "", ("Library", "Caches")
    try:
        base = os.environ.get(variable, "")
        # A relative one is to be ignored (XDG Base Directory Specification).
        parent = pathlib.Path(base) if os.path.isabs(base) else pathlib.Path.home().joinpath(*usual)
        folder = parent / "volatility_guestdump"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.lstat()
    except (OSError, RuntimeError):
        return None
    if not stat.S_ISDIR(status.st_mode):
        return None
    if hasattr(os, "geteuid") and (status.st_uid != os.geteuid() or status.st_mode & 0o077):
        return None
    return folder


_cache_folder: Callable[[], Optional[pathlib.Path]] = _private_folder


def set_cache_folder(folder: Callable[[], Optional[pathlib.Path]]) -> None:
    """Sets what tells the folder in which indexes are kept, or that there is none."""
    global _cache_folder  # noqa: PLW0603 # there is one program around us
    _cache_folder = folder


class SeekableGzip:
    """A gzip file of one or more members, read at any offset.

    Args:
        path: of the file.
        progress: called with per cent and a description while the index is made.

    Attributes:
        size: of the decompressed content, in bytes.

    Raises:
        MemoryFileError: the file is damaged, or rapidgzip is not installed.
        OSError: the file cannot be read.
    """

    def __init__(self, path: str, progress: Progress = None) -> None:
        self._name = os.path.basename(path)
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        # Imported when a file is compressed, which few are: every start of vol would pay for it.
        try:
            self._rapidgzip: Any = importlib.import_module("rapidgzip")
        except ImportError:
            raise MemoryFileError(
                f"{self._name}: a compressed memory file needs rapidgzip (pip install rapidgzip); "
                f"or unpack it with gunzip"
            ) from None
        self._path = path
        index = _Index(path)
        self._open(index.members_end)
        size = self._load(index.path)
        if size is None:
            # What was read of a bad index is of no use.
            self._finalizer()
            self._open(None)
            size = self._build(index, progress)
            # A file that describes a guest is read as fast without one.
            if size > _SMALL:
                self._save(index.path)
        self.size: int = size

    def _open(self, members_end: Optional[int]) -> None:
        """Opens the file, or as much of it as its members take."""
        file = self._path if members_end is None else Beginning(self._path, members_end)
        self._file: Any = self._rapidgzip.RapidgzipFile(
            file, parallelization=_WORKERS, chunk_size=_CHUNK_SIZE
        )
        # It has threads of its own, which must end before the interpreter does.
        self._finalizer = weakref.finalize(self, self._file.close)

    def _load(self, index: Optional[pathlib.Path]) -> Optional[int]:
        if index is None or not index.exists():
            return None
        try:
            self._file.import_index(str(index))
            size: int = self._file.seek(0, os.SEEK_END)
            if size > 0:
                self._file.seek(size - 1)
                if len(self._file.read(1)) == 1:
                    return size
        except (RuntimeError, ValueError, OSError, OverflowError, MemoryError) as error:
            vollog.debug(f"The index {index} does not fit {self._name}: {error}")
        return None

    def _build(self, index: "_Index", progress: Progress) -> int:
        """Reads all of the file, and returns its decompressed size."""
        size = os.path.getsize(self._path)
        try:
            return self._read_all(size, progress)
        except MemoryFileError:
            # rapidgzip takes what lies behind the last member for one that is damaged.
            def show(taken: int) -> None:
                if progress is not None:
                    progress(100 * taken / size, f"Searching the end of {self._name}")

            end = end_of_members(self._path, show)
            if not end or end == size:
                raise
        vollog.info(f"{self._name}: {size - end} bytes behind the gzip data are ignored")
        self._finalizer()
        index.set_members_end(end)
        self._open(end)
        return self._read_all(end, progress)

    def _read_all(self, compressed_size: int, progress: Progress) -> int:
        done = 0
        try:
            while True:
                part = len(self._file.read(_STEP))
                if not part:
                    break
                done += part
                if progress is not None:
                    position = self._file.tell_compressed() // 8
                    progress(100 * position / compressed_size, f"Indexing {self._name}")
            # Of a file that is cut off rapidgzip may say no more than that it has an end.
            if self._file.tell_compressed() != 8 * compressed_size:
                raise ValueError("the end of the last member is missing")
        except (RuntimeError, ValueError, OSError) as error:
            vollog.debug(f"{self._name}: {error}")
            raise MemoryFileError(
                f"{self._name}: damaged or cut off behind {done:#x} bytes of memory: copy it again"
            ) from error
        return done

    def _save(self, index: Optional[pathlib.Path]) -> None:
        if index is None:
            return
        # Another vol may write the same index: it is complete as soon as it has its name.
        try:
            descriptor, temporary = tempfile.mkstemp(dir=index.parent, suffix=".cache")
            os.close(descriptor)
            try:
                self._file.export_index(temporary, self._rapidgzip.IndexFormat.GZTOOL)
                os.replace(temporary, index)
            except BaseException:
                os.unlink(temporary)
                raise
        except (OSError, RuntimeError) as error:
            vollog.info(f"The index of {self._name} cannot be kept: {error}")

    def read(self, offset: int, length: int) -> bytes:
        """Returns up to `length` bytes; fewer at the end of the file.

        Raises:
            OSError: the file cannot be read or decompressed there.
        """
        first, last = offset // _BLOCK, (offset + length - 1) // _BLOCK
        if last - first >= _BLOCKS:
            return self._decompress(offset, length)
        data = b"".join(self._block(number) for number in range(first, last + 1))
        start = offset - first * _BLOCK
        return data[start : start + length]

    def _block(self, number: int) -> bytes:
        """Returns a block of the content; small reads come again and again to the same ones."""
        block = self._blocks.get(number)
        if block is None:
            block = self._decompress(number * _BLOCK, _BLOCK)
            if len(self._blocks) >= _BLOCKS:
                self._blocks.popitem(last=False)
            self._blocks[number] = block
        else:
            self._blocks.move_to_end(number)
        return block

    def _decompress(self, offset: int, length: int) -> bytes:
        try:
            self._file.seek(offset)
            data: bytes = self._file.read(length)
        except (RuntimeError, ValueError) as error:
            raise OSError(str(error).partition("\n")[0]) from error
        return data

    def close(self) -> None:
        """Closes the file."""
        self._finalizer()


class _Index:
    """Where the index of a file is kept.

    Its name also says where the file's members end, when something else follows them.

    Args:
        path: of the file.

    Attributes:
        path: of the index; None where there is no folder for it.
        members_end: how many bytes of the file its members take; None when that is all of it, or
            not known yet.
    """

    def __init__(self, path: str) -> None:
        self._stem = f"guestdump_{_digest(path)}"
        self.members_end: Optional[int] = None
        self._folder = _cache_folder()
        self.path = None if self._folder is None else self._folder / f"{self._stem}.cache"
        for found in () if self._folder is None else self._folder.glob(f"{self._stem}_*.cache"):
            end = found.stem.rpartition("_")[2]
            if end.isdecimal():
                self.set_members_end(int(end))

    def set_members_end(self, end: int) -> None:
        """Says where the members end."""
        self.members_end = end
        if self._folder is not None:
            self.path = self._folder / f"{self._stem}_{end}.cache"


def _digest(path: str) -> str:
    """Returns what identifies a file."""
    status = os.stat(path)
    identity = (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        # Not to be set by whoever copies a file over another one.
        status.st_ctime_ns,
    )
    digest = hashlib.sha256(repr(identity).encode())
    with open(path, "rb") as stream:
        for number in range(_SAMPLES):
            stream.seek(max(0, status.st_size - _SAMPLE) * number // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE))
    return digest.hexdigest()
