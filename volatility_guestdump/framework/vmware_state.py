# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The layer of VMware's snapshots and suspended machines, and its stacker."""

import logging
from collections.abc import Hashable, Sequence
from typing import Any, Optional

from volatility3.framework import constants, exceptions, interfaces
from volatility3.framework.layers import physical

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
from volatility_guestdump.files.memory_file import MemoryStream, open_memory_file
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework import stacking
from volatility_guestdump.framework.layers import (
    DescribedMemoryLayer,
    kept_machine,
    opened_source,
)
from volatility_guestdump.framework.reasons import warn_of_file
from volatility_guestdump.kept import Kept
from volatility_guestdump.machine import VCPU, Machine, Memory, Origin
from volatility_guestdump.sources.vmware_state import MAGICS, OLD_MAGICS, VmwareState
from volatility_guestdump.x86 import stack_pointer

vollog = logging.getLogger(__name__)

#: Most states that are named where more than one may be that of a memory file.
_SHOWN = 4

#: Two, for whoever compares two guests.
_states: Kept[VmwareState] = Kept(2)


class VmwareStateFormatException(exceptions.LayerException):
    """Thrown when the .vmsn or .vmss file behind a layer is not valid."""


def open_state(location: str) -> VmwareState:
    """Reads and validates a state file; one that did not change since is not read again.

    Args:
        location: URL of the file.

    Raises:
        UnrecognizedSource: the file is no state file, or one of an older form.
        SourceError: the file is damaged, not supported or cannot be read.
    """
    return _states.get((location, file_state(location)), lambda: _read_state(location))


def _read_state(location: str) -> VmwareState:
    magics = [magic.to_bytes(4, "little") for magic in MAGICS | OLD_MAGICS]
    with opened_source(location, magics, "no state file of VMware") as file:
        stream: Any = MemoryStream(file)
        return VmwareState.parse(stream, display_name(location))


def open_machine(state_location: str, memory_location: Optional[str]) -> Machine:
    """Returns the machine of a state file and its memory file.

    Args:
        state_location: URL of the state file.
        memory_location: URL of its memory file, or None when there is none; it is of no concern
            where the state file has the memory.

    Raises:
        SourceError: the state file is not valid.
        MemoryFileError: the memory file cannot be opened.
    """
    state = open_state(state_location)
    if state.memory_offset is not None:
        memory_location = state_location

    def make(identity: Hashable) -> Machine:
        file = None
        if memory_location is not None:
            file = open_memory_file(memory_location, state.memory_file_size)
        ranges = state.ranges(file.size if file else 0)
        memory = PhysicalMemory(ranges, file)
        size = sum(run.size for run in memory.ranges)
        if file is not None and state.memory_offset is None:
            size += max(
                0, file.size - max((run.file_offset + run.size for run in ranges), default=0)
            )
        kind = "suspend" if is_suspend_file(state_location) else "snapshot"
        origin = Origin(
            f"VMware {kind} ({state.magic:#x})",
            state_location,
            ranges,
            memory_location,
            size,
            state_memory_locations(state_location),
        )
        return Machine(memory, _vcpus(state, memory), identity, origin)

    return kept_machine([state_location, memory_location], make)


def _vcpus(state: VmwareState, memory: Memory) -> Sequence[VCPU]:
    """Returns the vCPUs in the reading of the registers that checks out in memory."""
    if not state.vcpus_by_number:
        return state.vcpus
    found = stack_pointer.likelier(memory.read, state.vcpus, state.vcpus_by_number)
    return state.vcpus if found is None else found


def _report_reading(state: VmwareState, machine: Machine) -> None:
    """Warns when neither the file nor the guest's memory tells RSP from RBP."""
    readings = state.vcpus, state.vcpus_by_number
    if readings[1] and stack_pointer.likelier(machine.memory.read, *readings) is None:
        memory = "nor does the guest's memory"
        if machine.origin.memory_location is None:
            memory = "the guest's memory, which may, is not there"
        vollog.warning(
            f"{display_name(machine.origin.location)} does not tell RSP from RBP, and {memory}: "
            f"they may be exchanged"
        )


class VmwareStateLayer(DescribedMemoryLayer):
    """The guest-physical memory of a .vmsn or .vmss file, and of the .vmem that belongs to it."""

    format_exception = VmwareStateFormatException

    def _make_machine(self) -> Machine:
        return open_machine(self.describing_location, self.memory_location)


class VmwareStateStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks a VmwareStateLayer on a state file, or on a memory file that has one beside it.

    What cannot be read here is left to Volatility's VmwareStacker.
    """

    stack_order = stacking.Order.VMWARE_STATE

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to identify a state file within this layer, or beside it."""
        layer = context.layers[layer_name]
        if type(layer) is not physical.FileLayer:
            return None
        location = layer.location
        memory: Optional[str] = None
        try:
            state, state_location = open_state(location), location
        except UnrecognizedSource as error:
            packing = packing_of(local_path(location) or "")
            if looks_like_state_file(location) and packing is not None:
                vollog.warning(packed_message(location, packing))
                return None
            # Whoever names a file so means it.
            level = logging.WARNING if looks_like_state_file(location) else constants.LOGLEVEL_VV
            vollog.log(level, f"No state of a VMware machine: {error}")
            found = cls._find_state(location)
            if found is None:
                return None
            state, state_location = open_state(found), found
            if state.memory_offset is None:
                memory = stacking.find_memory(
                    found, [location], state.memory_file_size, progress_callback
                )
        except SourceError as error:
            warn_of_file("Not a usable state of a VMware machine", error)
            return None
        if not state.has_memory:
            vollog.warning(
                f"{display_name(state_location)} is a snapshot without the guest's memory: take "
                f"one with memory while the guest runs, or suspend it"
            )
            return None
        if state.memory_offset is not None:
            memory = state_location
        elif state_location == location:
            beside = stacking.memory_candidates(context, state_memory_locations(location))
            memory = stacking.find_memory(
                location, beside, state.memory_file_size, progress_callback
            )
        if location == memory:
            stacking.read_through_memory_file(layer, location, state.memory_file_size)
        elif location == state_location:
            stacking.read_through_memory_file(layer, location)
        path, name = stacking.described_by(
            context, VmwareStateLayer.__name__, state_location, memory, state.memory_file_size
        )
        new_layer = VmwareStateLayer(context, path, name)
        stacking.report(new_layer.machine, state.left_out)
        _report_reading(state, new_layer.machine)
        return new_layer

    @staticmethod
    def _find_state(location: str) -> Optional[str]:
        """Returns the URL of the state file of a memory file, or None."""
        same_name, others = state_locations(location)
        found = _usable_states(same_name)
        if len(found) > 1:
            found = _likeliest(found, location)
        if not found:
            # Of a machine that ran on since, or of another one, memory is not that of the state.
            fitting = [each for each in _usable_states(others) if _fits(each, location)]
            found = _likeliest(fitting, location)
        if len(found) > 1:
            names = [display_name(each) for each in found[:_SHOWN]]
            more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
            vollog.warning(
                f"{display_name(location)} may be the memory of more than one state "
                f"({', '.join(names)}{more}), so no registers are used. To choose one: "
                f"vol -f {names[0]} PLUGIN"
            )
            return None
        return found[0] if found else None


def _likeliest(states: list[str], memory_location: str) -> list[str]:
    """Returns which of some states a memory file is likely of: one, or those that nothing tells.

    Page tables that make sense count most, for memory that is another one's has none. States of one
    run of a guest may all have them: then a file of just the right size is better evidence.

    Args:
        states: URLs of usable states.
        memory_location: URL of the memory file.
    """
    for suits in (_fits, _has_size_of):
        states = [each for each in states if suits(each, memory_location)] or states
    parsed = [open_state(each) for each in states]
    if all((one.regions, one.vcpus) == (parsed[0].regions, parsed[0].vcpus) for one in parsed):
        return states[:1]
    return states


def _has_size_of(state_location: str, memory_location: str) -> bool:
    """Whether a memory file has just as many bytes as a state says."""
    size = open_state(state_location).memory_file_size
    try:
        return size is not None and open_memory_file(memory_location, size).size == size
    except MemoryFileError:
        return False


def _usable_states(locations: Sequence[str]) -> list[str]:
    """Returns which of some URLs are state files with memory in a file of its own.

    Of a file that is there under several names, as symbolic links are, it returns the first.
    """
    found: dict[Hashable, str] = {}
    for location in locations:
        if not is_readable(location):
            stacking.report_unreadable(location)
            continue
        try:
            state = open_state(location)
        except SourceError as error:
            # Volatility's stacker may read it.
            vollog.info(f"Not a usable state of a VMware machine: {error}")
            continue
        if state.has_memory and state.memory_offset is None:
            found.setdefault(file_state(location) or location, location)
        else:
            vollog.info(f"{display_name(location)} has no memory in another file")
    return list(found.values())


def _fits(state_location: str, memory_location: str) -> bool:
    """Whether page tables of a state's vCPUs make sense in a memory file."""
    try:
        return stacking.matches(open_machine(state_location, memory_location)) is True
    except (SourceError, MemoryFileError):
        return False
