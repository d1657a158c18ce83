# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's state files in memory, put together of the lab's tags."""

import struct
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from tests.lab.formats import vmware_state
from tests.lab.formats.vmware_state import Group, State
from volatility_guestdump.machine import REGISTERS

#: Bytes of the header, and of each entry in the table of groups.
HEADER, ENTRY = 12, 80

_STATE = State()


def registers(number: int) -> dict[str, int]:
    """Returns registers with a value each that no other has."""
    found = {
        name: 0x1000 * (index + 1) + 8 * number
        for index, name in enumerate(REGISTERS)
        if name not in ("cs", "ss", "ds", "es", "fs", "gs", "rflags")
    }
    found["idt_base"] = 0xFFFF_FE00_0000_0000 + number
    selectors = {"cs": 0x10, "ss": 0x18, "ds": 0x20, "es": 0x28, "fs": 0x30, "gs": 0x38}
    return {**found, **selectors, "eflags": 0x0001_0246}


def shown(vcpu: Mapping[str, int]) -> dict[str, int]:
    """Returns what a reader should show of registers that were written."""
    return {name: vcpu["eflags" if name == "rflags" else name] for name in REGISTERS}


def file(
    groups: Sequence[Group],
    magic: int = vmware_state.MAGICS[0],
    positions: Mapping[str, int] = MappingProxyType({}),
    count: int = -1,
) -> bytes:
    """Returns a state file.

    Args:
        groups: names and tags, without the end.
        magic: of the file.
        positions: name of a group -> what the table says instead of its position.
        count: what the header says instead of the number of groups.
    """
    table, bodies = b"", b""
    start = HEADER + ENTRY * len(groups)
    for name, tags in groups:
        body = tags + b"\0\0"
        position = positions.get(name, start + len(bodies))
        table += struct.pack("<64sQQ", name.encode(), position, len(body))
        bodies += body
    return struct.pack("<III", magic, 8, len(groups) if count < 0 else count) + table + bodies


def machine(
    vcpus: int = 2,
    regions: Sequence[tuple[int, int]] = ((0, 0x8000),),
    state: State = _STATE,
    memory: bytes = b"",
) -> list[Group]:
    """Returns the groups of a machine.

    Args:
        vcpus: how many.
        regions: address and size of memory's regions; none for regionsCount 0.
        state: how registers are written.
        memory: in the block "Memory", where there is one.
    """
    tags = vmware_state.memory_tags(regions)
    if memory:
        tags += vmware_state.block("Memory", (), memory, 5)
    cpus = vmware_state.cpu_tags([registers(number) for number in range(vcpus)], state)
    return [
        ("Checkpoint", vmware_state.tag("now", (), b"12345678")),
        ("cpu", cpus),
        ("memory", tags),
    ]
