# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Opening a dump: each format is asked in turn, the surer ones first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from volatility_guestdump.dumps import unsupported
from volatility_guestdump.dumps.format import Parts, Request, Stage, find
from volatility_guestdump.dumps.raw import no_linux_kernel
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.dumps.table import format_named, of_stage
from volatility_guestdump.exceptions import MemoryFileError, SourceError
from volatility_guestdump.files.gzip_index import Progress
from volatility_guestdump.files.location import (
    STREAM_ERRORS,
    display_name,
    location_of,
    open_location,
    why,
)
from volatility_guestdump.machine import Machine


@dataclass(frozen=True)
class Dump:
    """A file that somebody wanted opened; a context manager that closes what was opened for it.

    Attributes:
        location: URL of the file.
        machine: the machine in it, or None when there is none that can be read.
        warnings: what is missing, left out or odd, in the order in which it came up.
        advice: what the file is and what to do, where there is no machine; else empty.
    """

    location: str
    machine: Optional[Machine]
    warnings: Sequence[str]
    advice: str
    _own_session: Optional[Session] = None

    def close(self) -> None:
        """Closes all that was opened, unless the session is the caller's."""
        if self._own_session is not None:
            self._own_session.close()

    def __enter__(self) -> "Dump":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_dump(
    path: str,
    memory: Optional[str] = None,
    *,
    session: Optional[Session] = None,
    progress: Progress = None,
) -> Dump:
    """Opens a dump of a machine, in any of the formats of `table.FORMATS`.

    Args:
        path: path or URL of a file of it.
        memory: path or URL of the memory file, where it is not beside the file that describes the
            machine under the same name.
        session: keeps what is opened beyond the dump; by default the dump has one of its own.
        progress: called with per cent and a description while something takes long: while a
            compressed file is indexed, or all of memory is searched for a kernel.

    Returns:
        The dump, also of a file that cannot be read: `Dump.advice` says what is wrong with that.
    """
    used = session or Session()
    request = Request(
        location_of(path), used, location_of(memory) if memory else None, progress=progress
    )
    try:
        machine, advice = _open(request)
    except BaseException:
        # Nobody gets the dump, so nobody would close it.
        if session is None:
            used.close()
        raise
    warnings = list(request.said.messages)
    if machine is None and not advice:
        # The last one tells most: those before it are of formats that were tried earlier.
        advice = warnings.pop() if warnings else no_linux_kernel(request.location)
    return Dump(request.location, machine, warnings, advice, used if session is None else None)


def _open(request: Request) -> tuple[Optional[Machine], str]:
    """Returns the machine, or None and why there is none; empty where that is in the warnings."""
    try:
        with open_location(request.location) as stream:
            stream.read(1)
    except STREAM_ERRORS as error:
        return None, f"{display_name(request.location)}: {why(error)}"
    for stage in Stage:
        for one in of_stage(stage):
            parts = find(one, request)
            if parts is not None:
                return _machine(parts, request)
        if stage is Stage.DESCRIBED:
            known = unsupported.what_it_is(request.location)
            if known is not None:
                return None, known
    return None, ""


def _machine(parts: Parts, request: Request) -> tuple[Optional[Machine], str]:
    one = format_named(parts.format)
    try:
        machine = one.machine(parts, request.session)
    except (SourceError, MemoryFileError) as error:
        return None, str(error)
    for remark in one.remarks(parts, machine, request.session):
        request.said.warn(remark)
    return machine, ""
