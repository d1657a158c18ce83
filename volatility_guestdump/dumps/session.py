# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is open, and what was read of it: made once, shared, and closed together."""

import os
import threading
import weakref
from collections.abc import Hashable, Iterable
from typing import Any, Callable, Optional, TypeVar

from volatility_guestdump import kernels
from volatility_guestdump.files.gzip_index import Progress
from volatility_guestdump.files.location import file_state
from volatility_guestdump.files.memory_file import Content, MemoryFile
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.kept import Kept
from volatility_guestdump.machine import Machine

_T = TypeVar("_T")
_C = TypeVar("_C", bound=Content)

#: Two of each, for whoever compares two guests.
_GUESTS = 2
#: Descriptions are small, and of several states one is chosen.
_DESCRIPTIONS = 8


class Session:
    """The files and machines looked at last; threads may share it.

    What changed on disk since is read again. Whoever wants nothing kept calls `close`, or uses the
    session as a context manager.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._files: Kept[MemoryFile] = Kept(_GUESTS)
        self._contents: Kept[Content] = Kept(_GUESTS)
        self._descriptions: Kept[Any] = Kept(_DESCRIPTIONS)
        self._machines: Kept[Machine] = Kept(_GUESTS)
        # Also what is no longer kept, as long as a machine reads it.
        self._opened: weakref.WeakSet[MemoryFile] = weakref.WeakSet()
        self._memories: weakref.WeakSet[PhysicalMemory] = weakref.WeakSet()
        self._identities: set[Hashable] = set()
        self._token = object()

    def file(
        self, location: str, expected_size: Optional[int] = None, progress: Progress = None
    ) -> MemoryFile:
        """Returns a memory file, opened now or before; see `MemoryFile`."""

        def make() -> MemoryFile:
            file = MemoryFile(location, expected_size, progress)
            with self._lock:
                self._opened.add(file)
            return file

        # A forked process opens it anew: it would share the place in the file with its parent.
        return self._files.get((location, expected_size, os.getpid(), file_state(location)), make)

    def content(self, kind: type[_C], location: str, read: Callable[[], _C]) -> _C:
        """Returns the memory that is in a file in some other form, made now or before.

        Args:
            kind: class of what is returned.
            location: URL of the file.
            read: makes it.
        """
        key = (kind, location, os.getpid(), file_state(location))
        found = self._contents.get(key, read)
        assert isinstance(found, kind)
        return found

    def description(self, kind: type[_T], location: str, read: Callable[[], _T]) -> _T:
        """Returns what a file describes, read now or before.

        Args:
            kind: class of what is returned.
            location: URL of the file.
            read: reads it.
        """
        found = self._descriptions.get((kind, location, file_state(location)), read)
        assert isinstance(found, kind)
        return found

    def machine(
        self,
        locations: Iterable[Optional[str]],
        make: Callable[[Hashable], Machine],
        reading: Hashable = "",
    ) -> Machine:
        """Returns the machine that some files make, made now or before.

        Args:
            locations: URLs of the files; None stands for one that there is not.
            make: makes the machine, given its identity.
            reading: tells it from other machines that the same files can be read as.
        """
        files = tuple((location, file_state(location)) for location in locations if location)
        # The session too: what was found in a machine must not be used when its files are closed.
        identity = (self._token, reading, files)
        with self._lock:
            self._identities.add(identity)

        def made() -> Machine:
            machine = make(identity)
            if isinstance(machine.memory, PhysicalMemory):
                with self._lock:
                    self._memories.add(machine.memory)
            return machine

        return self._machines.get(identity, made)

    def close(self) -> None:
        """Closes all files, and forgets everything, also the kernels of the machines.

        Memory of a machine that somebody still has cannot be read any more.
        """
        for kept in (self._files, self._contents, self._descriptions, self._machines):
            kept.clear()
        with self._lock:
            opened, identities = list(self._opened), list(self._identities)
            memories = list(self._memories)
            self._opened.clear()
            self._memories.clear()
            self._identities.clear()
        for identity in identities:
            kernels.forget(identity)
        for memory in memories:
            memory.close()
        for file in opened:
            file.close()

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
