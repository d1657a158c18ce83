# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is said of a machine: which memory is missing, and whether memory fits the registers."""

from collections.abc import Iterator, Sequence
from typing import Optional

from volatility_guestdump.files.location import display_name
from volatility_guestdump.machine import Machine
from volatility_guestdump.x86.paging import PagingMode, find_paging

#: The most lines that say of one file what of it is left out.
_LINES = 4


def remarks(machine: Machine, left_out: Sequence[str] = ()) -> Iterator[str]:
    """Yields what is missing, and that memory does not fit the registers.

    Args:
        machine: that is looked at.
        left_out: of which vCPUs registers are left out, and why: "vCPU 1: it has no rip".
    """
    name = display_name(machine.origin.location)
    for reason in left_out[:_LINES]:
        yield f"Registers in {name} that are left out, of {reason}"
    if len(left_out) > _LINES:
        yield f"So are those of {len(left_out) - _LINES} more vCPUs"
    yield from _size(machine)
    yield from _match(machine)


def _size(machine: Machine) -> Iterator[str]:
    origin = machine.origin
    if origin.memory_location is None:
        return
    missing = ""
    if machine.first_missing_address is not None:
        missing = f"from guest-physical address {machine.first_missing_address:#x} on "
    if origin.damage:
        yield f"{origin.damage}. Memory {missing or 'behind that '}is missing"
        return
    if not origin.missing_memory:
        return
    found = (
        f"{display_name(origin.memory_location)}: {origin.memory_file_size} bytes, but "
        f"{display_name(origin.location)} describes {origin.memory_size}: "
    )
    if origin.memory_location == origin.location:
        found = (
            f"{display_name(origin.location)} has {origin.memory_file_size} of the "
            f"{origin.memory_size} bytes of memory that it describes: "
        )
    if origin.missing_memory > 0:
        yield f"{found}the copy is incomplete. Memory {missing}is missing"
    else:
        yield f"{found}the surplus is ignored"


def _match(machine: Machine) -> Iterator[str]:
    """Yields that no page tables of a vCPU make sense in the memory file."""
    origin = machine.origin
    if origin.memory_location is None or matches(machine) is not False:
        return
    if origin.memory_location != origin.location:
        missing = "they are missing, or " if origin.missing_memory > 0 else ""
        yield (
            f"{display_name(origin.memory_location)} has the page tables of no vCPU of "
            f"{display_name(origin.location)}: {missing}it is the memory of another guest"
        )
    elif origin.missing_memory <= 0:
        yield f"{display_name(origin.location)} is damaged: it has the page tables of no vCPU"


def matches(machine: Machine) -> Optional[bool]:
    """Whether page tables of a vCPU make sense in memory; None where no vCPU has any."""
    paged = False
    for vcpu in machine.vcpus:
        mode, tables = find_paging(machine.memory.read, vcpu)
        if tables is not None:
            return True
        paged = paged or mode not in (None, PagingMode.OFF)
    return False if paged else None
