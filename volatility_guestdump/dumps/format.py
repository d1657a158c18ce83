# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a format of dumps is to whoever opens files: a row of `table.FORMATS`."""

import contextlib
import enum
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Callable, Optional, Protocol

from volatility_guestdump.dumps import checks
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.exceptions import (
    AddressError,
    MemoryFileError,
    SourceError,
    UnrecognizedSource,
)
from volatility_guestdump.files.gzip_index import Progress
from volatility_guestdump.files.location import STREAM_ERRORS, display_name, open_location
from volatility_guestdump.files.memory_file import Content, MemoryFile
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.machine import VCPU, Machine, MemoryRange, Origin

_logger = logging.getLogger(__name__)


class Stage(enum.Enum):
    """How sure a format is of its files: the surer ones are asked first, for any system's guest."""

    #: A file with registers, in a format of its own; memory may be in another file.
    DESCRIBED = "with registers"
    #: A file with memory alone, in a format of its own.
    MEMORY = "memory alone"
    #: Any file: what lies in its first MiB leads to a Linux kernel.
    RAW = "raw memory"
    #: Any file: all of it is searched for a Linux kernel.
    SEARCHED = "raw memory, by a search"


@dataclass(frozen=True)
class Parts:
    """What a machine is made of: all that has to be known to make it again.

    Attributes:
        format: name of the format, as in `Format.name`.
        location: URL of the file that describes the machine.
        memory: URL of the file that holds its memory, which may be the same; None when there is
            none.
        memory_size: bytes of memory that the guest has, which tell whether the memory file is
            compressed; None when that is not known.
        reading: how the file is read where one file can be read as several machines; in words of
            the format's own.
    """

    format: str
    location: str
    memory: Optional[str]
    memory_size: Optional[int] = None
    reading: str = ""


class Said:
    """The warnings that came up while a file was opened."""

    def __init__(self) -> None:
        self._messages: list[str] = []

    @property
    def messages(self) -> Sequence[str]:
        """The warnings, in order."""
        return self._messages

    def warn(self, message: str) -> None:
        """Adds a warning."""
        self._messages.append(message)

    def warn_of_file(self, what: str, error: Exception) -> None:
        """Warns of a file that cannot be used, once: several formats try to open it.

        Args:
            what: the file should be, in words; see `Format.what`.
            error: names the file and the reason.
        """
        if not any(f": {message}".endswith(f": {error}") for message in self.messages):
            self.warn(f"Not a usable {what}: {error}")


@dataclass(frozen=True)
class Request:
    """What somebody wants opened, and how.

    Attributes:
        location: URL of the file that the user named.
        session: keeps what is opened.
        memory: URL of the memory file, where the user named one.
        said: takes the warnings.
        progress: called with per cent and a description while something takes long.
        others_follow: whether other programs are asked after this package, as Volatility's own
            stackers are. What they may be better at is left to them.
    """

    location: str
    session: Session
    memory: Optional[str] = None
    said: Said = field(default_factory=Said)
    progress: Progress = None
    others_follow: bool = False


class Format(Protocol):
    """A format of dumps.

    Attributes:
        name: what it is called, in words; no two formats have the same.
        what: what its files are, in words for messages ("Not a usable guest dump: ...").
        stage: when it is asked.
        magics: how its files begin; empty where nothing at their beginning tells.
    """

    name: str
    what: str
    stage: Stage
    magics: Sequence[bytes] = ()

    def find(self, request: Request) -> Optional[Parts]:
        """Returns what a machine is made of, or None when a file is not of this format.

        Raises:
            UnrecognizedSource: the file is not of this format.
            SourceError: it is, and damaged or of a kind that cannot be read.
            MemoryFileError: it cannot be opened.
        """

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine, made now or before.

        Raises:
            SourceError: a file that describes it is not valid.
            MemoryFileError: the memory file cannot be opened.
        """

    def content(self, location: str, size: Optional[int], session: Session) -> Content:
        """Returns what `file_offset` of the machine's memory counts in: the file, or what is in it.

        Args:
            location: URL of the memory file.
            size: bytes of memory that the guest has, or None when that is not known.
            session: keeps what is opened.
        """
        return session.file(location, size)

    def remarks(self, parts: Parts, machine: Machine, session: Session) -> Iterator[str]:
        """Yields what is to be said of a machine: what is left out, missing, or does not fit."""
        yield from checks.remarks(machine)


def find(one: Format, request: Request) -> Optional[Parts]:
    """Asks a format for a machine; why a file of the format cannot be used becomes a warning.

    Returns:
        What the machine is made of, or None.
    """
    try:
        return one.find(request)
    except UnrecognizedSource as error:
        _logger.debug("No %s: %s", one.what, error)
    except (SourceError, MemoryFileError) as error:
        request.said.warn_of_file(one.what, error)
    return None


@contextlib.contextmanager
def opened(
    session: Session, location: str, magics: Sequence[bytes], what: str
) -> Iterator[MemoryFile]:
    """Opens a file that begins with one of some magics. Errors in reading it become SourceError.

    Args:
        session: keeps the file.
        location: URL of the file, which may be compressed.
        magics: of the format.
        what: a file is that begins with none of them, in words ("no ELF file").

    Raises:
        UnrecognizedSource: the file begins with none of them.
        SourceError: it cannot be read.
    """
    name = display_name(location)
    try:
        # Before a compressed file is indexed, which takes long, for it may be any.
        with open_location(location) as stream:
            start = stream.read(max(map(len, magics)))
        if not start.startswith(tuple(magics)):
            raise UnrecognizedSource(f"{name} is {what}: it begins with {start.hex() or 'nothing'}")
        yield session.file(location)
    except MemoryFileError as error:
        raise SourceError(str(error)) from error
    except (*STREAM_ERRORS, AddressError) as error:
        raise SourceError(f"{name}: {error}") from error


@dataclass(frozen=True)
class OneFile:
    """What is in a file that makes a machine by itself.

    Attributes:
        ranges: the runs of memory.
        content: what their `file_offset` counts in.
        vcpus: empty where the file has no registers.
        damage: what of the file cannot be understood, so that memory may be missing; else empty.
        vmcoreinfo: see `Machine.vmcoreinfo`.
    """

    ranges: Sequence[MemoryRange]
    content: Content
    vcpus: Sequence[VCPU] = ()
    damage: str = ""
    vmcoreinfo: bytes = b""


def one_file(parts: Parts, session: Session, kind: str, read: Callable[[], OneFile]) -> Machine:
    """Returns the machine that one file makes, made now or before.

    Args:
        parts: of the machine.
        session: keeps it.
        kind: what the file is, in words.
        read: reads the file.
    """

    def make(identity: object) -> Machine:
        found = read()
        memory = PhysicalMemory(found.ranges, found.content)
        size = sum(run.size for run in memory.ranges)
        origin = Origin(
            kind, parts.location, found.ranges, parts.location, size, damage=found.damage
        )
        return Machine(memory, found.vcpus, identity, origin, found.vmcoreinfo)

    return session.machine([parts.location], make, (parts.format, parts.reading))
