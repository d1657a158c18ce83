# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is said of a machine: which memory is missing, and whether memory fits the registers."""

from collections.abc import Iterator, Sequence
from typing import Optional

from volatility_guestdump.files.location import display_name
from volatility_guestdump.machine import Machine
from volatility_guestdump.x86.paging import PagingMode, find_paging

#: The most oddities of one file that are said.
_ODDITIES = 4


def remarks(machine: Machine, oddities: Sequence[str] = ()) -> Iterator[str]:
    """Yields what is odd or missing, and that memory does not fit the registers.

    Args:
        machine: that is looked at.
        oddities: what of the file that describes it is not as it should be.
    """
    if machine.origin.layout:
        oddities = [*oddities[: _ODDITIES - 1], machine.origin.layout, *oddities[_ODDITIES - 1 :]]
    if oddities:
        shown = "; ".join(oddities[:_ODDITIES])
        more = f"; and {len(oddities) - _ODDITIES} more" if len(oddities) > _ODDITIES else ""
        name = display_name(machine.origin.location)
        yield f"{name} is not as it should be: {shown}{more}"
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
