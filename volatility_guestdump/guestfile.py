"""The debug.guest file: layout of guest-physical memory and registers of every vCPU.

ESXi writes debug.guest beside debug.vmem when a VM in debug mode panics. It has no magic; all
fields are packed and little-endian:

    header: version, number of vCPUs, memory information (in version 7 also the architecture)
    in version 1, eight reserved bytes for each hole in memory
    one record for each vCPU: control registers, IDT base, general registers

The offsets differ between versions and stand in symbols/guest-VERSION.json, one file for each
version. What every version has in common, and what makes a file valid, stands here.
"""

import functools
import json
import pathlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from volatility_guestdump.exceptions import GuestFileError, NotAGuestFile

PAGE_SIZE = 0x1000

#: Version of the format -> the release of ESXi that writes it.
RELEASES: Mapping[int, str] = {
    1: "ESXi 6.7 and older",
    3: "ESXi 6.8",
    4: "ESXi 7.0",
    5: "ESXi 8.0",
    6: "ESXi 8.0 U2",
    7: "ESXi 9.0",
}

#: The format has room for this many holes.
MAXIMUM_HOLES = 2

#: More than any release of ESXi gives to a guest (768).
MAXIMUM_VCPUS = 8192

#: Values of the header's architecture, which came with version 7.
ARCHITECTURE_X86 = 1

#: The general registers and control registers that are worth showing, in the order in which a
#: reader looks for them. The files also have orig_rax, but it is padding.
REGISTERS: tuple[str, ...] = (
    *("rip", "rflags", "rsp", "rbp", "rax", "rbx", "rcx", "rdx", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
    *("cs", "ss", "ds", "es", "fs", "gs", "fs_base", "gs_base"),
    *("cr0", "cr2", "cr3", "cr4", "idt_base"),
)


def layout_path(version: int) -> pathlib.Path:
    """Returns the ISF file that describes the structures of a version."""
    return pathlib.Path(__file__).parent / "symbols" / f"guest-{version}.json"


class Layout:
    """The structures of one version of the format, read from its ISF file.

    Args:
        version: one of `RELEASES`.
    """

    def __init__(self, version: int) -> None:
        with layout_path(version).open(encoding="utf-8") as stream:
            isf = json.load(stream)
        self._base_types: dict[str, Any] = isf["base_types"]
        self._enums: dict[str, Any] = isf["enums"]
        self._user_types: dict[str, Any] = isf["user_types"]
        self._structs: dict[str, tuple[struct.Struct, tuple[str, ...]]] = {}

    def size(self, type_name: str) -> int:
        """Returns the size of a structure in bytes."""
        return int(self._user_types[type_name]["size"])

    def read(self, type_name: str, data: bytes, offset: int = 0) -> dict[str, int]:
        """Returns the integers of a structure; those of nested ones as ``outer.inner``.

        Arrays of plain integers are reserved space in this format and are left out.
        """
        if type_name not in self._structs:
            self._structs[type_name] = self._compile(type_name)
        compiled, names = self._structs[type_name]
        return dict(zip(names, compiled.unpack_from(data, offset)))

    def _compile(self, type_name: str) -> tuple[struct.Struct, tuple[str, ...]]:
        # One Struct for the whole record: a guest may have 768 vCPUs.
        code, names, position = "<", [], 0
        for offset, name, base in sorted(self._integers(type_name)):
            integer = self._base_types[base]
            letter = {1: "b", 2: "h", 4: "i", 8: "q"}[integer["size"]]
            code += f"{offset - position}x" + (letter if integer["signed"] else letter.upper())
            names.append(name)
            position = offset + integer["size"]
        return struct.Struct(code + f"{self.size(type_name) - position}x"), tuple(names)

    def _integers(
        self, type_name: str, start: int = 0, prefix: str = ""
    ) -> list[tuple[int, str, str]]:
        found = []
        for name, field in self._user_types[type_name]["fields"].items():
            found += self._member(field["type"], start + field["offset"], prefix + name)
        return found

    def _member(self, member: dict[str, Any], offset: int, name: str) -> list[tuple[int, str, str]]:
        if member["kind"] == "struct":
            return self._integers(member["name"], offset, name + ".")
        if member["kind"] == "array":
            item = member["subtype"]
            if item["kind"] != "struct":
                return []
            size = self.size(item["name"])
            return [
                found
                for index in range(member["count"])
                for found in self._member(item, offset + index * size, f"{name}.{index}")
            ]
        if member["kind"] == "enum":
            return [(offset, name, self._enums[member["name"]]["base"])]
        return [(offset, name, member["name"])]


layout = functools.lru_cache(maxsize=None)(Layout)


@dataclass(frozen=True)
class MemoryRange:
    """A run of guest-physical memory.

    Attributes:
        start: guest-physical address of the first byte.
        size: in bytes.
        file_offset: where the run starts in debug.vmem.
    """

    start: int
    size: int
    file_offset: int

    @property
    def end(self) -> int:
        """The first guest-physical address behind the run."""
        return self.start + self.size


@dataclass(frozen=True)
class VCPU:
    """The state of one vCPU.

    Attributes:
        number: counts from 0.
        registers: name of the register -> value; `REGISTERS` and orig_rax.
    """

    number: int
    registers: Mapping[str, int]

    def __getitem__(self, register: str) -> int:
        return self.registers[register]


@dataclass(frozen=True)
class GuestFile:
    """What a debug.guest file says.

    Attributes:
        version: of the format, one of `RELEASES`.
        ranges: guest-physical memory, ascending; what lies between is a hole.
        vcpus: in the order of the file.
    """

    version: int
    ranges: tuple[MemoryRange, ...]
    vcpus: tuple[VCPU, ...]

    @property
    def format(self) -> str:
        """The version, and who writes it: "6 (ESXi 8.0 U2)"."""
        return f"{self.version} ({RELEASES[self.version]})"

    @property
    def memory_size(self) -> int:
        """Bytes of memory that the guest has, without the holes: the size of debug.vmem."""
        return sum(run.size for run in self.ranges)

    def __deepcopy__(self, memo: dict[int, Any]) -> "GuestFile":
        # It never changes, and Volatility copies its contexts with all layers.
        return self

    @classmethod
    def parse(cls, stream: BinaryIO, name: str = "debug.guest") -> "GuestFile":
        """Reads and validates a debug.guest file.

        Args:
            stream: the whole file from its start. It is read once and in order, and no further
                than a valid file would reach.
            name: how to call the file in errors.

        Raises:
            NotAGuestFile: nothing in the file looks like a guest dump.
            GuestFileError: the file looks like a guest dump, but is damaged or not supported.
        """
        try:
            return _parse(stream)
        except GuestFileError as error:
            raise type(error)(f"{name}: {error}") from None


def _parse(stream: BinaryIO) -> GuestFile:
    head = _read(stream, max(layout(version).size("guest_header") for version in RELEASES))
    if len(head) < 8:
        raise NotAGuestFile(f"{len(head)} bytes are too few for a header")
    version, vcpu_count = struct.unpack_from("<II", head)
    if version not in RELEASES:
        known = ", ".join(map(str, RELEASES))
        # A version that is yet to come: its memory information may still stand where it stood.
        recognised = any(_adds_up(layout(other), head) for other in RELEASES)
        raise (GuestFileError if recognised else NotAGuestFile)(
            f"version {version} of the format is not known (known are {known})"
        )

    structures = layout(version)
    header_size = structures.size("guest_header")
    if len(head) < header_size:
        raise NotAGuestFile(f"{len(head)} bytes are too few for a header of version {version}")
    header = structures.read("guest_header", head)
    hole_count = header["memory.hole_count"]
    reserved = structures.size("guest_hole_reserved")
    start = header_size + reserved * hole_count
    vcpu_size = structures.size("guest_vcpu")
    size = start + vcpu_count * vcpu_size
    data = head
    if (hole_count <= MAXIMUM_HOLES or not reserved) and vcpu_count <= MAXIMUM_VCPUS:
        data += _read(stream, size + 1 - len(head))

    # No magic: one of two equations that chance does not satisfy tells a guest dump that is
    # damaged from any other file.
    recognised = _adds_up(structures, head) or (vcpu_count > 0 and len(data) == size)
    kind = GuestFileError if recognised else NotAGuestFile

    if header.get("architecture", ARCHITECTURE_X86) != ARCHITECTURE_X86:
        name = "AArch64" if header["architecture"] == 0 else str(header["architecture"])
        raise kind(f"the guest's CPU architecture is {name}; only x86 can be read")
    ranges = _memory_ranges(header, kind)
    if not 0 < vcpu_count <= MAXIMUM_VCPUS:
        raise kind(f"{vcpu_count} vCPUs; a guest has between 1 and {MAXIMUM_VCPUS}")
    if len(data) != size:
        found, state = (len(data), "incomplete") if len(data) < size else ("more", "too long")
        raise kind(
            f"{found} bytes, but version {version} with {vcpu_count} vCPUs and {hole_count} holes "
            f"takes exactly {size}: the copy is {state}"
        )
    vcpus = tuple(
        VCPU(number, structures.read("guest_vcpu", data, start + number * vcpu_size))
        for number in range(vcpu_count)
    )
    return GuestFile(version, ranges, vcpus)


def _read(stream: BinaryIO, length: int) -> bytes:
    """Reads up to `length` bytes; one read() of a raw stream may return fewer."""
    parts = []
    while length > 0:
        part = stream.read(length)
        if not part:
            break
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _holes(header: Mapping[str, int]) -> list[tuple[int, int]]:
    """Returns (address, size) of each hole, in bytes."""
    return [
        (
            header[f"memory.holes.{index}.first_page"] * PAGE_SIZE,
            header[f"memory.holes.{index}.pages"] * PAGE_SIZE,
        )
        for index in range(header["memory.hole_count"])
    ]


def _adds_up(structures: Layout, head: bytes) -> bool:
    """Whether memory and holes of a header fill the space up to the last address exactly."""
    if len(head) < structures.size("guest_header"):
        return False
    header = structures.read("guest_header", head)
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
