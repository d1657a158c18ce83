# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's state files in memory, put together of the lab's tags."""

import struct
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Callable, NamedTuple

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


class Tag(NamedTuple):
    """A tag of a group, in pieces.

    Attributes:
        name: of it.
        indices: behind the name.
        head: of the tag, up to its value: bits, name, indices.
        sizes: of a block, in the file and in memory; empty for what is no block.
        padding: of a block.
        value: the bytes.
    """

    name: str
    indices: tuple[int, ...]
    head: bytes
    sizes: tuple[int, ...]
    padding: bytes
    value: bytes

    @property
    def shown(self) -> str:
        """The name with its indices: "CR64[0][3]"."""
        return self.name + "".join(f"[{index}]" for index in self.indices)

    def pack(self) -> bytes:
        """Returns the bytes of the tag as it is."""
        sizes = struct.pack("<QQH", *self.sizes, len(self.padding)) if self.sizes else b""
        return self.head + sizes + self.padding + self.value

    def with_value(self, value: bytes) -> "Tag":
        """Returns the tag with another value, of any size that such a tag can have."""
        if self.sizes:
            return self._replace(sizes=(len(value), len(value)), value=value)
        bits = self.head[0] & ~63 | len(value)
        return self._replace(head=bytes((bits,)) + self.head[1:], value=value)


def tags_of(body: bytes) -> Iterator[Tag]:
    """Yields the tags of a group."""
    position = 0
    while position < len(body):
        (bits,) = struct.unpack_from("<H", body, position)
        size, count, length = bits & 63, bits >> 6 & 3, bits >> 8
        start = position + 2 + length
        name = body[position + 2 : start].decode()
        indices = struct.unpack_from(f"<{count}I", body, start)
        end = start + 4 * count
        head, padding = body[position:end], b""
        sizes: tuple[int, ...] = ()
        if size >= vmware_state.COMPRESSED:
            *stored, more = struct.unpack_from("<QQH", body, end)
            sizes = tuple(stored)
            padding = body[end + 18 : end + 18 + more]
            end += 18 + more
            size = sizes[0]
        yield Tag(name, indices, head, sizes, padding, body[end : end + size])
        position = end + size


#: What may be odd of a tag -> the bytes in its place.
CHANGES: Mapping[str, Callable[[Tag], bytes]] = {
    "left out": lambda tag: b"",
    "another name": lambda tag: (
        tag.head[:2] + b"?" * len(tag.name) + tag.pack()[2 + len(tag.name) :]
    ),
    "doubled": lambda tag: tag.pack() * 2,
    "doubled with another value": lambda tag: (
        tag.pack() + tag.with_value(bytes(byte ^ 0x55 for byte in tag.value)).pack()
    ),
    "shorter": lambda tag: tag.with_value(tag.value[: len(tag.value) // 2]).pack(),
    "longer": lambda tag: tag.with_value(tag.value + bytes(4)).pack(),
    # The value is as long as before.
    "a smaller size": lambda tag: _resized(tag, -2),
    "a larger size": lambda tag: _resized(tag, 2),
    "a larger size in the file": lambda tag: _resized(tag, 2, 0),
    "a larger size in memory": lambda tag: _resized(tag, 0, 2),
    "over its end": lambda tag: _resized(tag, 1 << 30),
}


def _resized(tag: Tag, by: int, in_memory: int = -1) -> bytes:
    """Returns a tag that says another size of its value."""
    if tag.sizes:
        stored, there = tag.sizes
        more = by if in_memory < 0 else in_memory
        return tag._replace(sizes=(stored + by, there + more)).pack()
    size = max(0, min(len(tag.value) + by, vmware_state.LARGEST_VALUE))
    return bytes((tag.head[0] & ~63 | size,)) + tag.pack()[1:]


def odd(groups: Sequence[Group], names: frozenset[str]) -> Iterator[tuple[str, str, list[Group]]]:
    """Yields a machine's groups with each tag changed in each way of `CHANGES`, one at a time.

    Args:
        groups: of the machine.
        names: of the tags that are changed.

    Yields:
        What is changed, "rip[0]: doubled"; the name of the group; all groups.
    """
    for place, (group, body) in enumerate(groups):
        if group not in ("cpu", "memory"):
            continue
        tags = list(tags_of(body))
        for number, tag in enumerate(tags):
            for change, make in CHANGES.items() if tag.name in names else ():
                parts = [each.pack() for each in tags]
                parts[number] = make(tag)
                changed = list(groups)
                changed[place] = (group, b"".join(parts))
                yield f"{tag.shown}: {change}", group, changed
