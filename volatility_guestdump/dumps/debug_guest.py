# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""debug.guest and debug.vmem of VMware ESXi, opened by either name."""

import dataclasses
import logging
from collections.abc import Hashable, Iterator, Sequence
from typing import Optional

from volatility_guestdump.dumps import checks
from volatility_guestdump.dumps.format import Format, Parts, Request, Stage
from volatility_guestdump.dumps.holes import Stored, better_told, prove
from volatility_guestdump.dumps.memory import find_memory, memory_candidates, warn_of_registers
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.files.companions import has_state_file
from volatility_guestdump.files.location import (
    STREAM_ERRORS,
    display_name,
    guest_locations,
    is_readable,
    looks_like_guest_file,
    memory_locations,
    open_location,
    packed_guest_dump,
)
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.machine import Machine, Origin
from volatility_guestdump.sources.debug_guest import GuestFile

_logger = logging.getLogger(__name__)


def _read(location: str) -> GuestFile:
    name = display_name(location)
    try:
        with open_location(location) as stream:
            # A file of this name is taken for a guest dump though its version is not known: memory
            # can be read then.
            return GuestFile.parse(stream, name, looks_like_guest_file(location))
    except STREAM_ERRORS as error:
        raise SourceError(f"{name}: {error}") from error


def open_guest_file(location: str, session: Session) -> GuestFile:
    """Returns what a debug.guest file has, read now or before.

    Args:
        location: URL of the file.
        session: keeps it.

    Raises:
        UnrecognizedSource: nothing in the file looks like a guest dump.
        SourceError: the file is damaged, not supported or cannot be read.
    """
    return session.description(GuestFile, location, lambda: _read(location))


class DebugGuest(Format):
    """debug.guest with the vCPUs, debug.vmem with the memory."""

    name = "debug.guest"
    what = "guest dump"
    stage = Stage.DESCRIBED
    # Its first bytes are a version, 1 or 7: they prove nothing.
    magics: Sequence[bytes] = ()

    def find(self, request: Request) -> Optional[Parts]:
        """Returns both files, given either; see `Format.find`."""
        location, session, said = request.location, request.session, request.said
        guest = _find_guest(request)
        if guest is None:
            return None
        candidates: Sequence[str] = [location]
        if guest == location:
            candidates = memory_candidates(request, memory_locations(guest))
        found = open_guest_file(guest, session)
        memory = find_memory(guest, candidates, found.memory_size, request)
        if memory is None and not found.vcpus:
            said.warn(f"Not a usable {self.what}: {display_name(guest)}: {found.oddities[0]}")
            return None
        return Parts(self.name, guest, memory, found.memory_size)

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; without a memory file it has registers alone."""

        def make(identity: Hashable) -> Machine:
            guest = open_guest_file(parts.location, session)
            file = None
            if parts.memory is not None:
                file = session.file(parts.memory, guest.memory_size)
            told = None
            if file is not None:
                stored = Stored(file, 0, file.size)
                told = better_told(guest.ranges, stored, guest.vcpus, doubtful=False)
            ranges = told.ranges if told else guest.ranges or ()
            origin = Origin(
                guest.format,
                parts.location,
                ranges,
                parts.memory,
                file.size if file else 0,
                memory_locations(parts.location),
                layout=told.words if told else "",
            )
            machine = Machine(PhysicalMemory(ranges, file), guest.vcpus, identity, origin)
            if guest.needs_proof and not prove(machine):
                machine = dataclasses.replace(machine, vcpus=())
            return machine

        return session.machine([parts.location, parts.memory], make)

    def remarks(self, parts: Parts, machine: Machine, session: Session) -> Iterator[str]:
        """Yields the usual remarks, and that registers are not used which prove nothing."""
        guest = open_guest_file(parts.location, session)
        oddities = list(guest.oddities)
        if guest.vcpus and not machine.vcpus:
            oddities.append("its registers fit no page tables in memory, and are not used")
        yield from checks.remarks(machine, oddities)


def _find_guest(request: Request) -> Optional[str]:
    """Returns the URL of debug.guest, given that of it or of its memory file."""
    location, session, said = request.location, request.session, request.said
    try:
        open_guest_file(location, session)
        return location
    except UnrecognizedSource as error:
        packed = packed_guest_dump(location)
        if packed is not None:
            said.warn(packed)
            return None
        # By its name it should be one, so the user is told that it is not.
        if looks_like_guest_file(location):
            said.warn(f"No guest dump: {error}")
        else:
            _logger.debug("No guest dump: %s", error)
    for guest in guest_locations(location):
        if not is_readable(guest):
            warn_of_registers(guest, request)
            continue
        if request.others_follow and has_state_file(location):
            return None
        try:
            open_guest_file(guest, session)
            return guest
        except SourceError as error:
            said.warn_of_file(DebugGuest.what, error)
    return None
