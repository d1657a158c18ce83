# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The debug.guest file: layout of guest-physical memory and registers of every vCPU.

ESXi writes debug.guest beside debug.vmem when a VM in debug mode panics. It has no magic; all
fields are packed and little-endian:

    header: version, number of vCPUs, memory information (in version 7 also the architecture)
    in version 1, eight reserved bytes for each hole in memory
    one record for each vCPU: control registers, IDT base, general registers

The offsets stand in symbols/debug-guest.json, as ISF: each structure once, named after the first
version that has it. Which of them a version has, what all versions have in common, and what makes a
file valid, stands here.
"""

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple

from volatility_guestdump import resources
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import PAGE_SIZE, VCPU, MemoryRange
from volatility_guestdump.sources.streams import read_up_to

#: ISF of the structures.
STRUCTURES = "debug-guest.json"


class Version(NamedTuple):
    """What differs between the versions of the format.

    Attributes:
        release: of ESXi that writes it.
        header: name of the structure at the start of the file.
        vcpu: name of the structure of a vCPU.
        hole_reserved: bytes behind the header for each hole in memory.
    """

    release: str
    header: str
    vcpu: str
    hole_reserved: int = 0


#: Source: crash-utility's reader (vmware_guestdump.c), which learnt of version 7 in 2025.
VERSIONS: Mapping[int, Version] = {
    1: Version("ESXi 6.7 and older", "guest_header_v1", "guest_vcpu_v1", hole_reserved=8),
    3: Version("ESXi 6.8", "guest_header_v3", "guest_vcpu_v1"),
    4: Version("ESXi 7.0", "guest_header_v3", "guest_vcpu_v4"),
    5: Version("ESXi 8.0", "guest_header_v3", "guest_vcpu_v4"),
    6: Version("ESXi 8.0 U2", "guest_header_v6", "guest_vcpu_v4"),
    7: Version("ESXi 9.0", "guest_header_v7", "guest_vcpu_v4"),
}

#: The format has room for this many holes.
MAXIMUM_HOLES = 2

#: More than any release of ESXi gives to a guest (768).
MAXIMUM_VCPUS = 8192

#: Values of the header's architecture, which came with version 7.
ARCHITECTURE_AARCH64 = 0
ARCHITECTURE_X86 = 1


class Structure:
    """A packed structure of the format, from its ISF.

    Arrays of plain integers are reserved space in this format and are not read.

    Args:
        name: of the structure.

    Attributes:
        size: in bytes.
    """

    def __init__(self, name: str) -> None:
        isf = resources.read_json(STRUCTURES)
        self.size: int = isf["user_types"][name]["size"]
        # One Struct for the whole record: a guest may have 768 vCPUs.
        code, self._names, position = "<", [], 0
        for offset, member, base in sorted(_integers(isf, {"kind": "struct", "name": name}, 0, "")):
            size = isf["base_types"][base]["size"]
            code += f"{offset - position}x{ {4: 'I', 8: 'Q'}[size] }"
            self._names.append(member)
            position = offset + size
        self._struct = struct.Struct(f"{code}{self.size - position}x")

    def read(self, data: bytes, offset: int = 0) -> dict[str, int]:
        """Returns the integers of a structure; those of nested ones as ``outer.inner``."""
        return dict(zip(self._names, self._struct.unpack_from(data, offset)))


def _integers(
    isf: Mapping[str, Any], described: Mapping[str, Any], offset: int, name: str
) -> list[tuple[int, str, str]]:
    """Returns (offset, name, base type) of the integers in what a part of an ISF describes."""
    kind = described["kind"]
    if kind == "struct":
        found = []
        for member, field in isf["user_types"][described["name"]]["fields"].items():
            path = name if "anonymous" in field else f"{name}.{member}".lstrip(".")
            found += _integers(isf, field["type"], offset + field["offset"], path)
        return found
    if kind == "array":
        item = described["subtype"]
        if item["kind"] != "struct":
            return []
        size = isf["user_types"][item["name"]]["size"]
        return [
            found
            for index in range(described["count"])
            for found in _integers(isf, item, offset + index * size, f"{name}.{index}")
        ]
    return [
        (
            offset,
            name,
            isf["enums"][described["name"]]["base"] if kind == "enum" else described["name"],
        )
    ]


structure = functools.cache(Structure)


@dataclass(frozen=True)
class GuestFile:
    """What a debug.guest file says.

    Attributes:
        version: of the format, one of `VERSIONS`.
        ranges: guest-physical memory, ascending; what lies between is a hole.
        vcpus: in the order of the file.
    """

    version: int
    ranges: tuple[MemoryRange, ...]
    vcpus: tuple[VCPU, ...]

    @property
    def format(self) -> str:
        """The version, and who writes it: "6 (ESXi 8.0 U2)"."""
        return f"{self.version} ({VERSIONS[self.version].release})"

    @property
    def memory_size(self) -> int:
        """Bytes of memory that the guest has, without the holes: the size of debug.vmem."""
        return sum(run.size for run in self.ranges)

    @classmethod
    def parse(cls, stream: BinaryIO, name: str = "debug.guest") -> "GuestFile":
        """Reads and validates a debug.guest file.

        Args:
            stream: the whole file from its start. It is read once and in order, and no further
                than a valid file would reach.
            name: how to call the file in errors.

        Raises:
            UnrecognizedSource: nothing in the file looks like a guest dump.
            SourceError: the file looks like a guest dump, but is damaged or not supported.
        """
        try:
            return _parse(stream)
        except SourceError as error:
            raise type(error)(f"{name}: {error}") from None


def _parse(stream: BinaryIO) -> GuestFile:
    head = read_up_to(stream, max(structure(version.header).size for version in VERSIONS.values()))
    if len(head) < 8:
        raise UnrecognizedSource(f"{len(head)} bytes are too few for a header")
    number, vcpu_count = struct.unpack_from("<II", head)
    if number not in VERSIONS:
        known = ", ".join(map(str, VERSIONS))
        # A version that is yet to come: its memory information may still stand where it stood.
        recognised = any(_adds_up(structure(other.header), head) for other in VERSIONS.values())
        raise (SourceError if recognised else UnrecognizedSource)(
            f"version {number} of the format is not known (known are {known})"
        )

    version = VERSIONS[number]
    header_structure, vcpu_structure = structure(version.header), structure(version.vcpu)
    if len(head) < header_structure.size:
        raise UnrecognizedSource(f"{len(head)} bytes are too few for a header of version {number}")
    header = header_structure.read(head)
    hole_count = header["memory.hole_count"]
    start = header_structure.size + version.hole_reserved * hole_count
    size = start + vcpu_count * vcpu_structure.size
    data = head
    if (hole_count <= MAXIMUM_HOLES or not version.hole_reserved) and vcpu_count <= MAXIMUM_VCPUS:
        data += read_up_to(stream, size + 1 - len(head))

    # No magic: one of two equations that chance does not satisfy tells a guest dump that is
    # damaged from any other file.
    recognised = _adds_up(header_structure, head) or (vcpu_count > 0 and len(data) == size)
    kind = SourceError if recognised else UnrecognizedSource

    if header.get("architecture", ARCHITECTURE_X86) != ARCHITECTURE_X86:
        name = (
            "AArch64"
            if header["architecture"] == ARCHITECTURE_AARCH64
            else str(header["architecture"])
        )
        raise kind(f"the guest's CPU architecture is {name}; only x86 can be read")
    ranges = _memory_ranges(header, kind)
    if not 0 < vcpu_count <= MAXIMUM_VCPUS:
        raise kind(f"{vcpu_count} vCPUs; a guest has between 1 and {MAXIMUM_VCPUS}")
    if len(data) != size:
        found, state = (len(data), "incomplete") if len(data) < size else ("more", "too long")
        raise kind(
            f"{found} bytes, but version {number} with {vcpu_count} vCPUs and {hole_count} holes "
            f"takes exactly {size}: the copy is {state}"
        )
    vcpus = tuple(
        VCPU(index, vcpu_structure.read(data, start + index * vcpu_structure.size))
        for index in range(vcpu_count)
    )
    return GuestFile(number, ranges, vcpus)


def _holes(header: Mapping[str, int]) -> list[tuple[int, int]]:
    """Returns (address, size) of each hole, in bytes."""
    return [
        (
            header[f"memory.holes.{index}.first_page"] * PAGE_SIZE,
            header[f"memory.holes.{index}.pages"] * PAGE_SIZE,
        )
        for index in range(header["memory.hole_count"])
    ]


def _adds_up(structure: Structure, head: bytes) -> bool:
    """Whether memory and holes of a header fill the space up to the last address exactly."""
    if len(head) < structure.size:
        return False
    header = structure.read(head)
    if header["memory.hole_count"] > MAXIMUM_HOLES or header["memory.pages"] == 0:
        return False
    filled = header["memory.pages"] * PAGE_SIZE + sum(size for _, size in _holes(header))
    return header["memory.last_address"] + 1 == filled


def _memory_ranges(header: Mapping[str, int], kind: type) -> tuple[MemoryRange, ...]:
    """Turns the header's holes into the runs of memory between them."""
    hole_count = header["memory.hole_count"]
    if hole_count > MAXIMUM_HOLES:
        raise kind(f"{hole_count} holes in memory, but the format has room for {MAXIMUM_HOLES}")
    if header["memory.pages"] == 0:
        raise kind("the guest has no memory")
    end = header["memory.last_address"] + 1
    ranges: list[MemoryRange] = []
    position = file_offset = 0
    for index, (hole, size) in enumerate(_holes(header)):
        shown = f"hole {index} ({hole:#x}-{hole + size - 1:#x})"
        if size == 0:
            raise kind(f"hole {index} at {hole:#x} is empty")
        if index and hole < position:
            raise kind(
                f"{shown} overlaps or precedes hole {index - 1}, which ends at {position:#x}"
            )
        if index and hole == position:
            raise kind(f"{shown} touches hole {index - 1}: holes must lie apart")
        if hole + size > end:
            raise kind(f"{shown} lies outside of memory, which ends at {end:#x}")
        if hole > position:
            ranges.append(MemoryRange(position, hole - position, file_offset))
            file_offset += hole - position
        position = hole + size
    if position < end:
        ranges.append(MemoryRange(position, end - position, file_offset))
        file_offset += end - position
    if file_offset != header["memory.pages"] * PAGE_SIZE:
        raise kind(
            f"memory ends at {end:#x} and has {hole_count} holes, which leaves {file_offset:#x} "
            f"bytes of memory, but the header gives {header['memory.pages'] * PAGE_SIZE:#x}"
        )
    return tuple(ranges)
