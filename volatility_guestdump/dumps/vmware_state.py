# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's snapshots and suspended machines, opened by their state file or by their memory file."""

import logging
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Optional

from volatility_guestdump.dumps import checks
from volatility_guestdump.dumps.format import Format, Parts, Request, Stage, opened
from volatility_guestdump.dumps.holes import Stored, Told, better_told
from volatility_guestdump.dumps.memory import find_memory, memory_candidates, warn_of_registers
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.exceptions import MemoryFileError, SourceError, UnrecognizedSource
from volatility_guestdump.files.companions import (
    is_suspend_file,
    looks_like_state_file,
    state_locations,
    state_memory_locations,
)
from volatility_guestdump.files.location import (
    display_name,
    file_state,
    is_readable,
    local_path,
    packed_message,
    packing_of,
)
from volatility_guestdump.files.memory_file import MemoryFile, MemoryStream
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.machine import VCPU, Machine, Memory, MemoryRange, Origin
from volatility_guestdump.sources.vmware_state import MAGICS, OLD_MAGICS, VmwareState
from volatility_guestdump.x86 import stack_pointer

_logger = logging.getLogger(__name__)

#: Most states that are named where more than one may be that of a memory file.
_SHOWN = 4


class VmwareStateFile(Format):
    """A .vmsn or .vmss file, with memory inside or in a .vmem."""

    name = "VMware state"
    what = "state of a VMware machine"
    stage = Stage.DESCRIBED
    magics: Sequence[bytes] = [magic.to_bytes(4, "little") for magic in MAGICS | OLD_MAGICS]

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the state file and where its memory is, given either; see `Format.find`.

        Where a memory file may be that of several states, the one that fits is taken; where nothing
        tells them apart a warning says so.
        """
        location, session, said = request.location, request.session, request.said
        memory: Optional[str] = None
        try:
            state, state_location = open_state(location, session), location
        except UnrecognizedSource as error:
            packing = packing_of(local_path(location) or "")
            if looks_like_state_file(location) and packing is not None:
                said.warn(packed_message(location, packing))
                return None
            # By its name it should be one, so the user is told that it is not.
            if looks_like_state_file(location):
                said.warn(f"No {self.what}: {error}")
            else:
                _logger.debug("No %s: %s", self.what, error)
            found = _find_state(request)
            if found is None:
                return None
            state, state_location = open_state(found, session), found
            if state.memory_offset is None:
                memory = find_memory(found, [location], state.memory_file_size, request)
        if not state.has_memory:
            said.warn(
                f"{display_name(state_location)} is a snapshot without the guest's memory: take "
                f"one with memory while the guest runs, or suspend it"
            )
            return None
        if state.memory_offset is not None:
            memory = state_location
        elif state_location == location:
            beside = memory_candidates(request, state_memory_locations(location))
            memory = find_memory(location, beside, state.memory_file_size, request)
        return Parts(self.name, state_location, memory, state.memory_file_size)

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; without a memory file it has registers alone."""
        state = open_state(parts.location, session)
        memory_location = parts.memory if state.memory_offset is None else parts.location

        def make(identity: Hashable) -> Machine:
            file = None
            if memory_location is not None:
                file = session.file(memory_location, state.memory_file_size)
            ranges: Sequence[MemoryRange] = state.ranges(file.size if file else 0)
            told = None if file is None else _told_by_guest(state, file)
            if told is not None:
                ranges = told.ranges
            memory = PhysicalMemory(ranges, file)
            size = sum(run.size for run in memory.ranges)
            if file is not None and state.memory_offset is None and told is None:
                size += max(
                    0, file.size - max((run.file_offset + run.size for run in ranges), default=0)
                )
            kind = "suspend" if is_suspend_file(parts.location) else "snapshot"
            origin = Origin(
                f"VMware {kind} ({state.magic:#x})",
                parts.location,
                ranges,
                memory_location,
                size,
                state_memory_locations(parts.location),
                layout=told.words if told else "",
            )
            return Machine(memory, _vcpus(state, memory), identity, origin)

        return session.machine([parts.location, memory_location], make)

    def remarks(self, parts: Parts, machine: Machine, session: Session) -> Iterator[str]:
        """Yields the usual remarks, and that RSP and RBP may be exchanged."""
        state = open_state(parts.location, session)
        yield from checks.remarks(machine, state.oddities)
        # Neither the file nor the guest's memory may tell RSP from RBP.
        readings = state.vcpus, state.vcpus_by_number
        if readings[1] and stack_pointer.likelier(machine.memory.read, *readings) is None:
            memory = "nor does the guest's memory"
            if machine.origin.memory_location is None:
                memory = "the guest's memory, which may, is not there"
            name = display_name(parts.location)
            yield f"{name} does not tell RSP from RBP, and {memory}: they may be exchanged"


def open_state(location: str, session: Session) -> VmwareState:
    """Returns what a state file has, read now or before.

    Args:
        location: URL of the file.
        session: keeps it.

    Raises:
        UnrecognizedSource: the file is no state file, or one of an older form.
        SourceError: the file is damaged, not supported or cannot be read.
    """

    def read() -> VmwareState:
        with opened(session, location, VmwareStateFile.magics, "no state file of VMware") as file:
            stream: Any = MemoryStream(file)
            return VmwareState.parse(stream, display_name(location))

    return session.description(VmwareState, location, read)


def _told_by_guest(state: VmwareState, file: MemoryFile) -> Optional[Told]:
    """Returns where memory lies by the guest's own tables, where the state tells less of it."""
    offset, size = 0, file.size
    if state.memory_offset is not None:
        offset = state.memory_offset
        size = max(0, min(state.memory_size, file.size - offset))
    stored = Stored(file, offset, size)
    return better_told(state.regions, stored, state.vcpus, state.doubtful)


def _vcpus(state: VmwareState, memory: Memory) -> Sequence[VCPU]:
    """Returns the vCPUs in the reading of the registers that checks out in memory."""
    if not state.vcpus_by_number:
        return state.vcpus
    found = stack_pointer.likelier(memory.read, state.vcpus, state.vcpus_by_number)
    return state.vcpus if found is None else found


def _find_state(request: Request) -> Optional[str]:
    """Returns the URL of the state file of a memory file, or None."""
    location = request.location
    same_name, others = state_locations(location)
    found = _usable_states(same_name, request)
    if len(found) > 1:
        found = _likeliest(found, request)
    if not found:
        # A state of another name may be of another machine, or of a moment since which the machine
        # ran on: it counts if its page tables are in this memory.
        fitting = [each for each in _usable_states(others, request) if _fits(each, request)]
        found = _likeliest(fitting, request)
    if len(found) > 1:
        names = [display_name(each) for each in found[:_SHOWN]]
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        request.said.warn(
            f"{display_name(location)} may be the memory of more than one state "
            f"({', '.join(names)}{more}), so no registers are used. To choose one: "
            f"vol -f {names[0]} PLUGIN"
        )
        return None
    return found[0] if found else None


def _likeliest(states: list[str], request: Request) -> list[str]:
    """Returns which of some states a memory file is likely of: one, or those that nothing tells.

    Page tables that make sense count most, for memory that is another one's has none. States of one
    run of a guest may all have them: then a file of just the right size is better evidence.

    Args:
        states: URLs of usable states.
        request: names the memory file.
    """
    for suits in (_fits, _has_size_of):
        states = [each for each in states if suits(each, request)] or states
    parsed = [open_state(each, request.session) for each in states]
    if all((one.regions, one.vcpus) == (parsed[0].regions, parsed[0].vcpus) for one in parsed):
        return states[:1]
    return states


def _has_size_of(state_location: str, request: Request) -> bool:
    """Whether a memory file has just as many bytes as a state says."""
    size = open_state(state_location, request.session).memory_file_size
    try:
        return size is not None and request.session.file(request.location, size).size == size
    except MemoryFileError:
        return False


def _usable_states(locations: Sequence[str], request: Request) -> list[str]:
    """Returns which of some URLs are state files with memory in a file of its own.

    A file with several names, by symbolic links for one, is returned once, under the first.
    """
    found: dict[Hashable, str] = {}
    for location in locations:
        if not is_readable(location):
            warn_of_registers(location, request)
            continue
        try:
            state = open_state(location, request.session)
        except SourceError as error:
            # Others may read it.
            _logger.info("Not a usable %s: %s", VmwareStateFile.what, error)
            continue
        if state.has_memory and state.memory_offset is None:
            found.setdefault(file_state(location) or location, location)
        else:
            _logger.info("%s has no memory in another file", display_name(location))
    return list(found.values())


def _fits(state_location: str, request: Request) -> bool:
    """Whether page tables of a state's vCPUs make sense in a memory file."""
    parts = Parts(VmwareStateFile.name, state_location, request.location)
    try:
        return checks.matches(VmwareStateFile().machine(parts, request.session)) is True
    except (SourceError, MemoryFileError):
        return False
