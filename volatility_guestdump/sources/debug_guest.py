# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The debug.guest file: layout of guest-physical memory and registers of every vCPU.

ESXi writes debug.guest beside debug.vmem when a VM in debug mode panics. It has no magic; all
fields are packed and little-endian:

    header: version, number of vCPUs, memory information (in version 7 also the architecture)
    in version 1, eight reserved bytes for each hole in memory
    one record for each vCPU: control registers, IDT base, general registers

Two equations tell such a file from any other: memory and holes fill the space up to the last
address, and the file ends behind the last record. A file of which one of them holds is damaged:
what the other one would tell is left to the guest's own memory. A version that is not known is read
as the newest known one of which both hold, and its registers are used where they lead to page
tables.

The offsets stand in symbols/debug-guest.json, as ISF: each structure once, named after the first
version that has it. Which of them a version has, what all versions have in common, and what makes a
file valid, stands here.
"""

import functools
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, NamedTuple, Optional

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

#: Larger numbers are no version of the format in any time to come.
_LAST_VERSION = 255

#: The format has room for this many holes.
MAXIMUM_HOLES = 2

#: More than any release of ESXi gives to a guest (768).
MAXIMUM_VCPUS = 8192

#: A bit of CR0 that no CPU lets anybody clear: what has it not is no record of a vCPU.
_CR0_ET = 1 << 4

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
        self._ends: list[int] = []
        for offset, member, base in sorted(_integers(isf, {"kind": "struct", "name": name}, 0, "")):
            size = isf["base_types"][base]["size"]
            code += f"{offset - position}x{ {4: 'I', 8: 'Q'}[size] }"
            self._names.append(member)
            position = offset + size
            self._ends.append(position)
        self._struct = struct.Struct(f"{code}{self.size - position}x")

    def read(self, data: bytes, offset: int = 0) -> dict[str, int]:
        """Returns the integers of a structure; those of nested ones as ``outer.inner``."""
        return dict(zip(self._names, self._struct.unpack_from(data, offset)))

    def read_part(self, data: bytes) -> dict[str, int]:
        """Returns the integers that are whole in what there is of a structure."""
        values = self._struct.unpack(data[: self.size].ljust(self.size, b"\0"))
        found = zip(self._names, self._ends, values)
        return {name: value for name, end, value in found if end <= len(data)}


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
        version: of the format, as the file has it.
        layout: the version of `VERSIONS` as which it is read.
        ranges: guest-physical memory, ascending; what lies between is a hole. None where the file
            does not tell in a way that can be used.
        vcpus: in the order of the file. A file that is cut off may lack registers of the last.
        needs_proof: whether the registers are to be used only where they fit the memory.
        oddities: what of the file is not as it should be, so that something may be missing.
    """

    version: int
    layout: int
    ranges: Optional[tuple[MemoryRange, ...]]
    vcpus: tuple[VCPU, ...]
    needs_proof: bool = False
    oddities: tuple[str, ...] = ()

    @property
    def format(self) -> str:
        """The version, and who writes it: "6 (ESXi 8.0 U2)"."""
        if self.version != self.layout:
            return f"{self.version} (read as {self.layout})"
        return f"{self.version} ({VERSIONS[self.version].release})"

    @property
    def memory_size(self) -> Optional[int]:
        """Bytes of memory without the holes, which is the size of debug.vmem, or None."""
        return None if self.ranges is None else sum(run.size for run in self.ranges)

    @classmethod
    def parse(
        cls, stream: BinaryIO, name: str = "debug.guest", is_certain: bool = False
    ) -> "GuestFile":
        """Reads and validates a debug.guest file.

        Args:
            stream: the whole file from its start. It is read once and in order, and hardly
                further than a valid file would reach.
            name: how to call the file in errors.
            is_certain: whether it is known to be of this format, whatever is in it: then one of a
                version that is not known has neither memory's ranges nor vCPUs.

        Raises:
            UnrecognizedSource: nothing in the file looks like a guest dump.
            SourceError: the file is of a guest that is not supported.
        """
        try:
            return _parse(stream, is_certain)
        except SourceError as error:
            raise type(error)(f"{name}: {error}") from None


class _Reading(NamedTuple):
    """A file, read as one version of the format.

    Attributes:
        version: of `VERSIONS`.
        header: the integers in it.
        start: where the first record of a vCPU starts.
        vcpu: of such a record.
        adds_up: whether memory and holes fill the space up to the last address.
    """

    version: int
    header: Mapping[str, int]
    start: int
    vcpu: Structure
    adds_up: bool

    def size(self, vcpus: int) -> int:
        """Returns the bytes of a file with so many vCPUs."""
        return self.start + vcpus * self.vcpu.size


def _readings(head: bytes, number: int) -> list[_Reading]:
    """Returns how the start of a file can be read: as its own version, then the newest first."""
    found = []
    for known in sorted(VERSIONS, key=lambda known: (known != number, -known)):
        version = VERSIONS[known]
        header_structure = structure(version.header)
        if len(head) < header_structure.size:
            continue
        header = header_structure.read(head)
        adds_up = _adds_up(header_structure, head)
        starts = {header_structure.size: None}
        if version.hole_reserved:
            # The number of holes may be what is wrong.
            told = min(header["memory.hole_count"], MAXIMUM_HOLES)
            starts = dict.fromkeys(
                header_structure.size + version.hole_reserved * holes
                for holes in (told, *([] if adds_up else range(MAXIMUM_HOLES + 1)))
            )
        found += [
            _Reading(known, header, start, structure(version.vcpu), adds_up) for start in starts
        ]
    return found


def _parse(stream: BinaryIO, is_certain: bool) -> GuestFile:
    head = read_up_to(stream, max(structure(version.header).size for version in VERSIONS.values()))
    if len(head) < 8:
        raise UnrecognizedSource(f"{len(head)} bytes are too few for a header")
    number, count = struct.unpack_from("<II", head)
    readings = _readings(head, number)
    own = readings[0] if readings and readings[0].version == number else None
    if number in VERSIONS and own is None:
        raise UnrecognizedSource(f"{len(head)} bytes are too few for a header of version {number}")
    counted = 0 < count <= MAXIMUM_VCPUS
    sound = [reading for reading in readings if reading.adds_up]
    limit = len(head)
    if counted and (own or sound):
        limit = max(reading.size(count) for reading in readings)
    elif sound:
        limit = max(reading.size(MAXIMUM_VCPUS) for reading in sound)
    data = head + read_up_to(stream, limit + 1 - len(head))
    if len(data) > limit and sound:
        # Maybe there are more vCPUs than the header says.
        limit = max(reading.size(MAXIMUM_VCPUS) for reading in sound)
        data += read_up_to(stream, limit + 1 - len(data))

    # No magic: one of two equations that chance does not satisfy tells a guest dump from any other
    # file, both of them its version.
    whole = [each for each in sound if counted and len(data) == each.size(count)]
    by_size = [
        each
        for each in readings
        if counted and each.version == number and len(data) == each.size(count)
    ]
    reading = next(iter([*whole, *sound, *by_size]), None)
    if reading is None:
        known = ", ".join(map(str, VERSIONS))
        if is_certain and own is None and 0 < number <= _LAST_VERSION and counted:
            oddity = f"version {number} of the format is not known (known are {known})"
            return GuestFile(number, max(VERSIONS), None, (), True, (oddity,))
        raise UnrecognizedSource(
            f"neither memory nor the size of the file adds up as in version {number}"
            if own is not None
            else f"version {number} of the format is not known (known are {known})"
        )
    architecture = reading.header.get("architecture", ARCHITECTURE_X86)
    if reading.version == number and architecture != ARCHITECTURE_X86:
        name = "AArch64" if architecture == ARCHITECTURE_AARCH64 else str(architecture)
        raise SourceError(f"the guest's CPU architecture is {name}; only x86 can be read")
    oddities = []
    if own is None:
        oddities.append(
            f"version {number} of the format is not known; it is read as version {reading.version}"
        )
    elif reading.version != number:
        oddities.append(f"version is {number}, but the file is one of version {reading.version}")
    ranges = _memory_ranges(reading.header, oddities)
    vcpus: tuple[VCPU, ...] = ()
    if reading in whole or own is not None:
        vcpus = _vcpus(reading, count, data, limit, oddities)
    else:
        oddities.append("its registers are not where that has them, and are not used")
    return GuestFile(
        number, reading.version, ranges, vcpus, reading.version != number, tuple(oddities)
    )


def _cr0(reading: _Reading, data: bytes, number: int) -> int:
    """Returns CR0 of a vCPU."""
    return reading.vcpu.read(data, reading.start + number * reading.vcpu.size)["cr0"]


def _vcpus(
    reading: _Reading, count: int, data: bytes, limit: int, oddities: list[str]
) -> tuple[VCPU, ...]:
    """Returns the vCPUs, as far as the file goes."""
    size = reading.vcpu.size
    there, rest = divmod(max(0, len(data) - reading.start), size)
    if len(data) != reading.size(count):
        counted = 0 < count <= MAXIMUM_VCPUS
        if counted and there < count:
            oddities.append(
                f"{len(data)} bytes, but {count} vCPUs take {reading.size(count)}: the copy is "
                f"incomplete"
            )
        elif len(data) > limit or (counted and rest):
            oddities.append(f"the file goes on behind its {count} vCPUs")
            there, rest = min(count, there) if counted else 0, 0
        else:
            while there > 1 and not _cr0(reading, data, there - 1) & _CR0_ET:
                there -= 1
            oddities.append(
                f"the file goes on behind its {count} vCPUs"
                if there == count
                else f"the number of vCPUs is {count}, but there are registers of {there}"
            )
    elif not count:
        oddities.append("it has no vCPUs")
    found = [
        VCPU(number, reading.vcpu.read(data, reading.start + number * size))
        for number in range(min(there, MAXIMUM_VCPUS))
    ]
    if rest and len(found) < MAXIMUM_VCPUS:
        last = reading.vcpu.read_part(data[reading.start + there * size :])
        found += [VCPU(there, last)] if last else []
    return tuple(found)


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


def _memory_ranges(
    header: Mapping[str, int], oddities: list[str]
) -> Optional[tuple[MemoryRange, ...]]:
    """Turns the header's holes into the runs of memory between them; None where they make none."""
    try:
        return tuple(_runs(header))
    except _BadMemory as error:
        oddities.append(str(error))
        return None


class _BadMemory(Exception):
    """Thrown when holes contradict each other or the size of memory."""


def _runs(header: Mapping[str, int]) -> list[MemoryRange]:
    hole_count = header["memory.hole_count"]
    if hole_count > MAXIMUM_HOLES:
        raise _BadMemory(
            f"{hole_count} holes in memory, but the format has room for {MAXIMUM_HOLES}"
        )
    if header["memory.pages"] == 0:
        raise _BadMemory("the guest has no memory")
    end = header["memory.last_address"] + 1
    ranges: list[MemoryRange] = []
    position = file_offset = 0
    for index, (hole, size) in enumerate(_holes(header)):
        shown = f"hole {index} ({hole:#x}-{hole + size - 1:#x})"
        if size == 0:
            raise _BadMemory(f"hole {index} at {hole:#x} is empty")
        if index and hole < position:
            raise _BadMemory(
                f"{shown} overlaps or precedes hole {index - 1}, which ends at {position:#x}"
            )
        if index and hole == position:
            raise _BadMemory(f"{shown} touches hole {index - 1}: holes must lie apart")
        if hole + size > end:
            raise _BadMemory(f"{shown} lies outside of memory, which ends at {end:#x}")
        if hole > position:
            ranges.append(MemoryRange(position, hole - position, file_offset))
            file_offset += hole - position
        position = hole + size
    if position < end:
        ranges.append(MemoryRange(position, end - position, file_offset))
        file_offset += end - position
    if file_offset != header["memory.pages"] * PAGE_SIZE:
        raise _BadMemory(
            f"memory ends at {end:#x} and has {hole_count} holes, which leaves {file_offset:#x} "
            f"bytes of memory, but the header gives {header['memory.pages'] * PAGE_SIZE:#x}"
        )
    return ranges
