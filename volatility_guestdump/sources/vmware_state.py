# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's snapshots and suspended machines: .vmsn and .vmss.

They hold the state of the whole machine: CPUs, memory, every device, a picture of the screen. A
file is a table of groups, which have names, "cpu" or "memory" for example, and each group is a run
of tags, which have names too, and values. All is little-endian and packed:

    file    u32 magic, u32 version, u32 number of groups; then each group:
            name (64 bytes, NUL behind it), u64 position, u64 size
    group   tags, up to a u16 of 0
    tag     u16 head, name, u32 for each index, value
    head    |15    length of the name    8|7   indices   6|5     size of the value     0|

Indices make arrays: ``rip[1]`` is of vCPU 1, ``CR64[1][3]`` its CR3. A size of 63 says that the
value is a block, and 62 that it is a compressed one:

    block   u64 bytes in the file, u64 bytes in memory, u16 bytes of padding, the padding, the data

The guest's memory is the block ``Memory`` of the group "memory", or, where there is none, a file of
its own (.vmem). Either way it is without its holes: regions say which pages belong where. With no
region at all, memory is in one piece from address 0.

Sources: crash-utility's reader, which VMware's own people wrote (vmware_vmss.c, vmware_vmss.h), and
the listing of an ESXi 4.1 file that Volatility 2 printed (wiki page "VMware Snapshot File"). Which
tags there are beside those of `_TAGS` differs from product to product; all others are passed over.
"""

import bisect
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple, Optional

from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import PAGE_SIZE, REGISTERS, VCPU, MemoryRange
from volatility_guestdump.sources.streams import read_up_to

#: Magics of files with 64-bit sizes.
MAGICS = frozenset((0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2))

#: Magics of an older form with 32-bit sizes, which is not read here.
OLD_MAGICS = frozenset((0xBED0BED0, 0xBED2BED0, 0xBAD0BAD0))

_HEADER = struct.Struct("<III")
_GROUP = struct.Struct("<64sQQ")
_TAG = struct.Struct("<H")
_BLOCK = struct.Struct("<QQH")

#: Values of a tag's size that stand for a block.
_IS_COMPRESSED_BLOCK = 62
_IS_BLOCK = 63

#: Real files have about a hundred groups (92 in one of ESXi 4.1).
_MAXIMUM_GROUPS = 4096
#: Some hundred tags for each of 768 vCPUs, which is the most that a guest can have.
_MAXIMUM_TAGS = 1 << 20
_MAXIMUM_VCPUS = 8192
_MAXIMUM_REGIONS = 1024

#: The block with all general registers.
_GPREGS = "gpregs"


class _Part(NamedTuple):
    """What a tag tells of a vCPU.

    Attributes:
        names: of the values in it.
        packed: how they are packed; None for a plain integer of any size.
    """

    names: Sequence[str]
    packed: Optional[struct.Struct] = None


#: The general registers as the block gpregs has them, in the order of crash's reader. x86 numbers
#: RSP before RBP; `VmwareState.vcpus_by_number` has that reading.
_GENERAL = (
    *("rax", "rcx", "rdx", "rbx", "rbp", "rsp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)
_SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs")

#: (Name of a tag in the group "cpu", its indices behind that of the vCPU) -> what it tells. Newer
#: products write blocks, older ones each register in a tag; the other tags are in both.
_TAGS: Mapping[tuple[str, tuple[int, ...]], _Part] = {
    (_GPREGS, ()): _Part([f"{_GPREGS}.{name}" for name in _GENERAL], struct.Struct("<16Q")),
    ("CR64", ()): _Part([f"cr{index}" for index in range(9)], struct.Struct("<9Q")),
    ("IDTR", ()): _Part(("idt_limit", "idt_base"), struct.Struct("<HQ")),
    **{(name, ()): _Part((name,)) for name in (*_GENERAL, "rip", "eflags", "EFLAGS")},
    **{("CR64", (index,)): _Part((f"cr{index}",)) for index in (0, 2, 3, 4)},
    ("IDTR", (1,)): _Part(("idt_base.low",)),
    ("IDTR", (2,)): _Part(("idt_base.high",)),
    **{("S", (index,)): _Part((name,)) for index, name in enumerate(_SEGMENTS)},
    ("S.base64", (4,)): _Part(("fs_base",)),
    ("S.base64", (5,)): _Part(("gs_base",)),
}
_TAG_NAMES = frozenset(name for name, _ in _TAGS)

_REGION_TAGS = ("regionPPN", "regionPageNum", "regionSize")


@dataclass(frozen=True)
class VmwareState:
    """What a .vmsn or .vmss file says.

    Attributes:
        magic: one of `MAGICS`.
        has_memory: whether the guest's memory was saved at all: in this file or in another one.
        regions: guest-physical memory, ascending, with offsets in the memory alone; empty where
            memory is in one piece from address 0.
        memory_offset: where in the file memory starts, or None when it is in a file of its own.
        memory_size: bytes of memory in this file.
        vcpus: those of which all registers are there.
        vcpus_by_number: the same with RSP and RBP of the block gpregs in the order in which x86
            numbers them; empty where the file itself says which is which.
        left_out: for each vCPU that is left out, which and why.
    """

    magic: int
    has_memory: bool
    regions: tuple[MemoryRange, ...]
    memory_offset: Optional[int]
    memory_size: int
    vcpus: tuple[VCPU, ...]
    vcpus_by_number: tuple[VCPU, ...]
    left_out: tuple[str, ...]

    @property
    def memory_file_size(self) -> Optional[int]:
        """Bytes of the file that holds memory, or None where only that file itself tells."""
        if self.memory_offset is not None or not self.regions:
            return None
        return max(run.file_offset + run.size for run in self.regions)

    def ranges(self, memory_size: int) -> tuple[MemoryRange, ...]:
        """Returns guest-physical memory, with offsets in the file that holds it.

        Args:
            memory_size: bytes of memory that the memory file has, where it is another file.
        """
        start = self.memory_offset or 0
        if not self.regions:
            size = memory_size if self.memory_offset is None else self.memory_size
            return (MemoryRange(0, size, start),) if size else ()
        return tuple(
            MemoryRange(run.start, run.size, start + run.file_offset) for run in self.regions
        )

    @classmethod
    def parse(cls, stream: BinaryIO, name: str = "state") -> "VmwareState":
        """Reads and validates a .vmsn or .vmss file.

        Args:
            stream: the file, which can seek. Of groups and blocks that are not needed nothing is
                read.
            name: how to call the file in errors.

        Raises:
            UnrecognizedSource: the file is no state file, or one of an older form.
            SourceError: the file is damaged, or not supported.
        """
        try:
            return _parse(_Window(stream))
        except SourceError as error:
            raise type(error)(f"{name}: {error}") from None


class _Window:
    """A stream, read at any place through a piece of it.

    Args:
        stream: that is read.

    Attributes:
        size: of the stream, in bytes.
    """

    _SIZE = 64 << 10

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.size = stream.seek(0, os.SEEK_END)
        self._start = 0
        self._data = b""

    def read(self, position: int, length: int) -> bytes:
        """Returns up to `length` bytes, which are not many."""
        if position >= self.size:
            return b""
        place = position - self._start
        if not 0 <= place <= len(self._data) - length:
            self._stream.seek(position)
            self._data = read_up_to(self._stream, max(length, self._SIZE))
            self._start, place = position, 0
        return self._data[place : place + length]

    def read_exactly(self, position: int, length: int) -> bytes:
        """Returns `length` bytes, or raises SourceError."""
        data = self.read(position, length)
        if len(data) < length:
            raise SourceError(
                f"the file ends before {position + length:#x}: the copy is incomplete"
            )
        return data


class _Group(NamedTuple):
    """A run of tags: where it starts, and where at the latest it ends."""

    name: str
    start: int
    end: int


class _Tag(NamedTuple):
    """A tag; `offset` and `size` are those of its value in the file."""

    name: str
    indices: tuple[int, ...]
    offset: int
    size: int
    is_block: bool = False
    is_compressed: bool = False
    size_in_memory: int = 0

    @property
    def shown(self) -> str:
        return self.name + "".join(f"[{index}]" for index in self.indices)


def _parse(window: _Window) -> VmwareState:
    groups = _groups(window)
    vcpus, by_number, left_out = _vcpus(window, groups.get("cpu"))
    memory = groups.get("memory")
    if memory is None:
        return VmwareState(_magic(window), False, (), None, 0, vcpus, by_number, left_out)
    regions, block = _memory(window, memory)
    offset, size = (block.offset, block.size_in_memory) if block else (None, 0)
    return VmwareState(_magic(window), True, regions, offset, size, vcpus, by_number, left_out)


def _magic(window: _Window) -> int:
    return int.from_bytes(window.read(0, 4), "little")


def _groups(window: _Window) -> dict[str, _Group]:
    """Returns the groups that are of interest."""
    head = window.read(0, _HEADER.size)
    if len(head) < _HEADER.size:
        raise UnrecognizedSource(f"{len(head)} bytes are too few for a header")
    magic, _, count = _HEADER.unpack(head)
    if magic in OLD_MAGICS:
        raise UnrecognizedSource(f"magic {magic:#x} is that of an older form, with 32-bit sizes")
    if magic not in MAGICS:
        raise UnrecognizedSource(f"magic {magic:#x} is not that of a state file of VMware")
    if not 0 < count <= _MAXIMUM_GROUPS:
        raise SourceError(f"{count} groups; a file has between 1 and {_MAXIMUM_GROUPS}")
    table = window.read_exactly(_HEADER.size, count * _GROUP.size)
    start = _HEADER.size + len(table)
    entries = [
        (name.split(b"\0")[0].decode("latin-1"), position)
        for name, position, _ in _GROUP.iter_unpack(table)
    ]
    # The size of a group is not relied on: its tags say where it ends, which is not in another.
    positions = sorted({position for _, position in entries})
    groups: dict[str, _Group] = {}
    for name, position in entries:
        if name not in ("cpu", "memory"):
            continue
        if name in groups:
            raise SourceError(f"there are two groups {name!r}")
        if position < start:
            raise SourceError(f"group {name!r} at {position:#x} lies in the table of groups")
        behind = bisect.bisect_right(positions, position)
        end = positions[behind] if behind < len(positions) else window.size
        groups[name] = _Group(name, position, end)
    return groups


def _tags(window: _Window, group: _Group) -> Iterator[_Tag]:
    """Yields the tags of a group.

    The last one may be a block that the file has only a part of, or nothing.
    """
    position = group.start
    for _ in range(_MAXIMUM_TAGS):
        (head,) = _TAG.unpack(window.read_exactly(position, _TAG.size))
        if head == 0:
            return
        size, index_count, name_length = head & 63, head >> 6 & 3, head >> 8
        length = name_length + 4 * index_count
        data = window.read_exactly(position + _TAG.size, length)
        name = data[:name_length].decode("latin-1")
        indices = struct.unpack_from(f"<{index_count}I", data, name_length)
        offset = position + _TAG.size + length
        tag = _Tag(name, indices, offset, size)
        if size in (_IS_BLOCK, _IS_COMPRESSED_BLOCK):
            stored, in_memory, padding = _BLOCK.unpack(window.read_exactly(offset, _BLOCK.size))
            offset += _BLOCK.size + padding
            compressed = size == _IS_COMPRESSED_BLOCK
            if not compressed and stored != in_memory:
                raise SourceError(
                    f"{tag.shown} has {stored:#x} bytes in the file, but {in_memory:#x} in memory"
                )
            tag = _Tag(name, indices, offset, stored, True, compressed, in_memory)
        position = offset + tag.size
        if position > group.end and group.end < window.size:
            raise SourceError(
                f"{tag.shown} of group {group.name!r} ends at {position:#x}, in the group that "
                f"starts at {group.end:#x}"
            )
        yield tag
        if position > window.size:
            if tag.is_block:
                return
            raise SourceError(f"the file ends in {tag.shown}: the copy is incomplete")
    raise SourceError(f"group {group.name!r} has more than {_MAXIMUM_TAGS} tags")


def _integer(window: _Window, tag: _Tag) -> int:
    """Returns the value of a tag that is one integer."""
    if tag.is_block or tag.size not in (1, 2, 4, 8):
        raise SourceError(f"{tag.shown} is no integer: it has {tag.size} bytes")
    return int.from_bytes(window.read_exactly(tag.offset, tag.size), "little")


def _memory(window: _Window, group: _Group) -> tuple[tuple[MemoryRange, ...], Optional[_Tag]]:
    """Returns the regions of memory, and the block with memory itself where there is one."""
    numbers: dict[tuple[str, int], int] = {}
    block: Optional[_Tag] = None
    count: Optional[int] = None
    for tag in _tags(window, group):
        if tag.name == "Memory" and tag.is_block:
            if tag.is_compressed:
                raise SourceError("the guest's memory in it is compressed, which cannot be read")
            if block is not None:
                raise SourceError("there are two blocks of memory")
            block = tag
        elif tag.name == "regionsCount" and not tag.indices:
            value = _integer(window, tag)
            if count not in (None, value):
                raise SourceError(f"memory has both {count} and {value} regions")
            count = value
        elif tag.name in _REGION_TAGS and len(tag.indices) == 1:
            key, value = (tag.name, tag.indices[0]), _integer(window, tag)
            if numbers.setdefault(key, value) != value:
                raise SourceError(f"{tag.shown} is both {numbers[key]:#x} and {value:#x}")
    if count is None:
        raise SourceError("the number of memory's regions is missing")
    if count > _MAXIMUM_REGIONS:
        raise SourceError(f"{count} regions of memory; a guest has at most {_MAXIMUM_REGIONS}")
    if block is not None and not block.size_in_memory:
        block = None
    return _regions(count, numbers, block), block


def _regions(
    count: int, numbers: Mapping[tuple[str, int], int], block: Optional[_Tag]
) -> tuple[MemoryRange, ...]:
    regions = []
    for number in range(count):
        for name in _REGION_TAGS:
            if (name, number) not in numbers:
                raise SourceError(f"{name}[{number}] is missing")
        start, offset, size = (PAGE_SIZE * numbers[name, number] for name in _REGION_TAGS)
        if not size:
            raise SourceError(f"region {number} of memory is empty")
        if start + size > 1 << 52:
            raise SourceError(f"region {number} of memory ends at {start + size:#x}")
        if block is not None and offset + size > block.size_in_memory:
            raise SourceError(
                f"region {number} ends at {offset + size:#x} of memory, which has "
                f"{block.size_in_memory:#x} bytes"
            )
        regions.append(MemoryRange(start, size, offset))
    regions.sort(key=lambda run: run.start)
    for low, high in zip(regions, regions[1:]):
        if low.end > high.start:
            raise SourceError(f"regions of memory overlap at {high.start:#x}")
    in_file = sorted(regions, key=lambda run: run.file_offset)
    for low, high in zip(in_file, in_file[1:]):
        if low.file_offset + low.size > high.file_offset:
            raise SourceError(f"regions of memory have the same bytes at {high.file_offset:#x}")
    return tuple(regions)


@dataclass
class _Values:
    """What was read of one vCPU, and what speaks against using it."""

    found: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def add(self, name: str, value: int) -> None:
        if self.found.setdefault(name, value) != value:
            self.wrong.append(f"{name} is both {self.found[name]:#x} and {value:#x}")


def _vcpus(
    window: _Window, group: Optional[_Group]
) -> tuple[tuple[VCPU, ...], tuple[VCPU, ...], tuple[str, ...]]:
    """Returns the vCPUs in both readings of gpregs, and what is left out."""
    if group is None:
        return (), (), ()
    if group.start >= window.size:
        return (), (), ("the file ends before the registers",)
    count: Optional[int] = None
    values: dict[int, _Values] = {}
    for tag in _tags(window, group):
        if tag.name == "cpu:numVCPUs" and not tag.indices:
            count = _integer(window, tag)
        elif tag.name in _TAG_NAMES and tag.indices and tag.indices[0] < _MAXIMUM_VCPUS:
            number, *indices = tag.indices
            part = _TAGS.get((tag.name, tuple(indices)))
            if part is not None:
                _read_part(window, tag, part, values.setdefault(number, _Values()))
    if count is None:
        return (), (), ("the number of vCPUs is missing",)
    if not 0 < count <= _MAXIMUM_VCPUS:
        raise SourceError(f"{count} vCPUs; a guest has between 1 and {_MAXIMUM_VCPUS}")
    vcpus, by_number, left_out = [], [], []
    ambiguous = False
    for number in sorted({*range(count), *values}):
        found = values.get(number, _Values())
        if number >= count:
            left_out.append(f"vCPU {number}: there are only {count}")
            continue
        first, second, wrong = _registers(found)
        if wrong:
            left_out.append(f"vCPU {number}: {wrong}")
            continue
        vcpus.append(VCPU(number, first))
        by_number.append(VCPU(number, second))
        ambiguous = ambiguous or first != second
    return tuple(vcpus), tuple(by_number if ambiguous else ()), tuple(left_out)


def _read_part(window: _Window, tag: _Tag, part: _Part, values: _Values) -> None:
    """Adds what a tag tells to the values of its vCPU."""
    if tag.is_compressed:
        values.wrong.append(f"{tag.shown} is compressed")
    elif part.packed is None:
        if tag.is_block or tag.size not in (1, 2, 4, 8):
            values.wrong.append(f"{tag.shown} has {tag.size} bytes")
        else:
            values.add(part.names[0], _integer(window, tag))
    elif tag.size != part.packed.size:
        values.wrong.append(f"{tag.shown} has {tag.size} bytes instead of {part.packed.size}")
    else:
        data = window.read(tag.offset, tag.size)
        if len(data) < tag.size:
            values.wrong.append(f"the file ends in {tag.shown}")
            return
        for name, value in zip(part.names, part.packed.unpack(data)):
            values.add(name, value)


def _registers(values: _Values) -> tuple[dict[str, int], dict[str, int], str]:
    """Returns the registers in both readings of gpregs, and why there are none or not all."""
    found = dict(values.found)
    wrong = list(values.wrong)
    if "idt_base.low" in found and "idt_base.high" in found:
        base = found["idt_base.high"] << 32 | found["idt_base.low"]
        if found.setdefault("idt_base", base) != base:
            wrong.append(f"idt_base is both {found['idt_base']:#x} and {base:#x}")
    # Either has some of the flags.
    flags = [found[name] for name in ("eflags", "EFLAGS") if name in found]
    if flags:
        found["rflags"] = flags[0] | flags[-1]
    first, against_first = _with_block(found, {})
    second, against_second = _with_block(found, {"rsp": "rbp", "rbp": "rsp"})
    # Where RSP or RBP has a tag of its own too, that tells which reading is right.
    if against_first and against_second:
        wrong.append(against_first)
    elif against_first:
        first = second
    elif against_second:
        second = first
    missing = [name for name in REGISTERS if name not in first]
    if missing:
        wrong.append(f"it has no {', '.join(missing)}")
    return (
        {name: first.get(name, 0) for name in REGISTERS},
        {name: second.get(name, 0) for name in REGISTERS},
        "; ".join(wrong[:4]),
    )


def _with_block(
    found: Mapping[str, int], exchanged: Mapping[str, str]
) -> tuple[dict[str, int], str]:
    """Returns the registers with those of the block gpregs, and what contradicts them.

    Args:
        found: what all tags told.
        exchanged: register -> the one in whose place the block has it.
    """
    registers = dict(found)
    against = ""
    for name in _GENERAL:
        value = found.get(f"{_GPREGS}.{exchanged.get(name, name)}")
        if value is not None and registers.setdefault(name, value) != value:
            against = f"{name} is both {registers[name]:#x} and {value:#x}"
    return registers, against
