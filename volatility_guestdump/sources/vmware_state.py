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

What is odd in a file costs what it lacks: a tag that is missing, there twice with two values or of
another size costs the registers in it, and a group whose tags do not follow each other is read on
from the next name that is known. Where regions are not to be understood the guest's own page tables
may tell them.

Sources: crash-utility's reader, which VMware's own people wrote (vmware_vmss.c, vmware_vmss.h), and
the listing of an ESXi 4.1 file that Volatility 2 printed (wiki page "VMware Snapshot File"). Which
tags there are beside those of `_TAGS` differs from product to product; all others are passed over.
"""

import bisect
import itertools
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple, Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import (
    PAGE_SIZE,
    PAGING_REGISTERS,
    REGISTERS,
    VCPU,
    MemoryRange,
)
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
#: Tags in all groups of one name: some hundred for each of 768 vCPUs, which is the most that a
#: guest can have.
_MAXIMUM_TAGS = 1 << 20
_MAXIMUM_VCPUS = 8192
_MAXIMUM_REGIONS = 1024
#: Places at which the groups of one name are read on where tags do not follow each other.
_MAXIMUM_RESUMPTIONS = 64
#: How far behind such a place a name is looked for: blocks of registers are smaller.
_RESUMPTION = 64 << 10
#: Nobody reads more of them.
_MAXIMUM_ODDITIES = 64

#: The block with all general registers.
_GPREGS = "gpregs"


class _Part(NamedTuple):
    """What a tag tells of a vCPU.

    Attributes:
        names: of the values in it.
        packed: how they are packed; None for a plain integer.
        size: bytes of a plain integer; 0 where any size will do, as for a selector of 16 bits.
    """

    names: Sequence[str]
    packed: Optional[struct.Struct] = None
    size: int = 0


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
    **{(name, ()): _Part((name,), size=8) for name in (*_GENERAL, "rip")},
    **{(name, ()): _Part((name,), size=4) for name in ("eflags", "EFLAGS")},
    **{("CR64", (index,)): _Part((f"cr{index}",), size=8) for index in (0, 2, 3, 4)},
    ("IDTR", (1,)): _Part(("idt_base.low",), size=4),
    ("IDTR", (2,)): _Part(("idt_base.high",), size=4),
    **{("S", (index,)): _Part((name,)) for index, name in enumerate(_SEGMENTS)},
    ("S.base64", (4,)): _Part(("fs_base",), size=8),
    ("S.base64", (5,)): _Part(("gs_base",), size=8),
}
_TAG_NAMES = frozenset(name for name, _ in _TAGS)

_NUMBER_OF_VCPUS = "cpu:numVCPUs"
_MEMORY, _NUMBER_OF_REGIONS = "Memory", "regionsCount"
_REGION_TAGS = ("regionPPN", "regionPageNum", "regionSize")
_REGION_SIZE = 4

#: Groups that are read -> the names in them that are known, which a damaged group is read on from.
_GROUPS: Mapping[str, frozenset[str]] = {
    "cpu": _TAG_NAMES | {_NUMBER_OF_VCPUS},
    "memory": frozenset((_MEMORY, _NUMBER_OF_REGIONS, *_REGION_TAGS)),
}
_KNOWN: Mapping[str, "re.Pattern[bytes]"] = {
    group: re.compile(
        b"|".join(b"%c" % len(name) + re.escape(name.encode()) for name in sorted(names)),
    )
    for group, names in _GROUPS.items()
}

#: Name of a value in a tag -> the registers that it is a part of, where these have other names.
_COMES_OF: Mapping[str, Sequence[str]] = {
    **{f"{_GPREGS}.{name}": (name,) for name in _GENERAL},
    **dict.fromkeys(("idt_base.low", "idt_base.high"), ("idt_base",)),
    **dict.fromkeys(("eflags", "EFLAGS"), ("rflags",)),
}

#: Registers that come together -> the tag that is said to be missing when all of them are.
_TOGETHER: Mapping[str, Sequence[str]] = {
    _GPREGS: _GENERAL,
    "CR64": ("cr0", "cr2", "cr3", "cr4"),
    "IDTR": ("idt_base",),
    "S": _SEGMENTS,
    "S.base64": ("fs_base", "gs_base"),
    "eflags": ("rflags",),
}


@dataclass(frozen=True)
class VmwareState:
    """What a .vmsn or .vmss file says.

    Attributes:
        magic: one of `MAGICS`.
        has_memory: whether the guest's memory was saved at all: in this file or in another one.
        regions: guest-physical memory, ascending, with offsets in the memory alone; empty where
            memory is in one piece from address 0, and None where the file does not tell.
        doubtful: whether what the file says of regions contradicts itself, or is missing.
        memory_offset: where in the file memory starts, or None when it is in a file of its own.
        memory_size: bytes of memory in this file.
        vcpus: those of which any register is there.
        vcpus_by_number: the same with RSP and RBP of the block gpregs in the order in which x86
            numbers them; empty where the file itself says which is which.
        oddities: what of the file is not as it should be, so that something may be missing.
    """

    magic: int
    has_memory: bool
    regions: Optional[tuple[MemoryRange, ...]]
    doubtful: bool
    memory_offset: Optional[int]
    memory_size: int
    vcpus: tuple[VCPU, ...]
    vcpus_by_number: tuple[VCPU, ...]
    oddities: tuple[str, ...]

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
            SourceError: of the file nothing can be read but its beginning.
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
    """A run of tags.

    Attributes:
        name: "cpu" or "memory".
        start: where it starts.
        end: where the next group starts.
        told_end: where it ends as the file says.
    """

    name: str
    start: int
    end: int
    told_end: int


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

    @property
    def end(self) -> int:
        return self.offset + self.size


class _Oddities:
    """What is odd, each once."""

    def __init__(self) -> None:
        self._found: dict[str, None] = {}

    def add(self, oddity: str) -> None:
        if len(self._found) < _MAXIMUM_ODDITIES:
            self._found[oddity] = None

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)


def _parse(window: _Window) -> VmwareState:
    oddities = _Oddities()
    groups = _groups(window, oddities)
    first, second = _vcpus(window, groups.get("cpu", ()), oddities)
    magic = int.from_bytes(window.read(0, 4), "little")
    has_memory = "memory" in groups
    memory = _memory(window, groups["memory"], oddities) if has_memory else _Memory(())
    return VmwareState(
        magic,
        has_memory,
        memory.regions,
        memory.doubtful,
        None if memory.block is None else memory.block.offset,
        memory.size,
        first,
        second,
        tuple(oddities),
    )


def _groups(window: _Window, oddities: _Oddities) -> dict[str, Sequence[_Group]]:
    """Returns the groups that are of interest; one that cannot be read is there, and empty."""
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
        (name.split(b"\0")[0].decode("latin-1"), position, size)
        for name, position, size in _GROUP.iter_unpack(table)
    ]
    # The size of a group is not relied on: its tags say where it ends, which is not in another.
    positions = sorted({position for _, position, _ in entries})
    groups: dict[str, list[_Group]] = {}
    for name, position, size in entries:
        if name not in _GROUPS:
            continue
        found = groups.setdefault(name, [])
        if position < start:
            oddities.add(f"group {name!r} at {position:#x} lies in the table of groups")
        elif position >= window.size:
            oddities.add(f"the file ends before group {name!r}")
        elif all(position != group.start for group in found):
            behind = bisect.bisect_right(positions, position)
            end = positions[behind] if behind < len(positions) else window.size
            found.append(_Group(name, position, end, min(position + size, end)))
        if len(found) > 1:
            oddities.add(f"there are {len(found)} groups {name!r}")
    return {**groups}


def _all_tags(
    window: _Window, groups: Sequence[_Group], oddities: _Oddities
) -> Iterator[tuple[_Group, _Tag]]:
    """Yields the tags of some groups of one name, as far as they can be read."""
    tags, resumptions = Budget(_MAXIMUM_TAGS), Budget(_MAXIMUM_RESUMPTIONS)
    for group in groups:
        for tag in _tags(window, group, oddities, tags, resumptions):
            yield group, tag


def _tags(
    window: _Window, group: _Group, oddities: _Oddities, tags: Budget, resumptions: Budget
) -> Iterator[_Tag]:
    """Yields the tags of a group.

    The last one may be a block that the file has only a part of, or nothing. Where tags do not
    follow each other it goes on at the next name that is known.

    Args:
        window: of the file.
        group: whose tags they are.
        oddities: is told of what is wrong.
        tags: how many there may be, in this group and the others of its name.
        resumptions: how often these groups may be read on behind what is no tag.
    """
    position = group.start
    while tags.take():
        tag, reason = _tag_at(window, group, position)
        if tag is not None and (not reason or tag.is_block):
            yield tag
        if not reason and tag is not None:
            position = _behind(window, group, tag)
            if position > window.size:
                # Memory that is cut off, which its size tells.
                return
            continue
        # An end before that which the file gives for the group is ignored if known tags follow.
        limit = group.end if reason else group.told_end
        found = None
        # What is in the guest's memory is no tag.
        if (tag is None or tag.name != _MEMORY) and resumptions.take():
            found = _resumption(window, group, position + _TAG.size, limit)
        if reason:
            oddities.add(reason)
        elif found is not None:
            oddities.add(f"group {group.name!r} goes on behind its end at {position:#x}")
        if found is None:
            return
        position = found
    oddities.add(f"group {group.name!r} has more than {_MAXIMUM_TAGS} tags")


def _tag_at(window: _Window, group: _Group, position: int) -> tuple[Optional[_Tag], str]:
    """Returns the tag at a place, and why no other can follow it.

    At the end of the group there is neither a tag nor a reason. There are both where the size of
    the tag's value is in doubt.
    """
    data = window.read(position, _TAG.size)
    if len(data) < _TAG.size:
        return None, f"the file ends in group {group.name!r}"
    (head,) = _TAG.unpack(data)
    if head == 0:
        return None, ""
    size, index_count, name_length = head & 63, head >> 6 & 3, head >> 8
    length = name_length + 4 * index_count
    data = window.read(position + _TAG.size, length)
    if len(data) < length:
        return None, f"the file ends in group {group.name!r}"
    name = data[:name_length].decode("latin-1")
    if not (name.isascii() and name.isprintable()):
        return None, f"what is at {position:#x} in group {group.name!r} is no tag"
    indices = struct.unpack_from(f"<{index_count}I", data, name_length)
    offset = position + _TAG.size + length
    tag = _Tag(name, indices, offset, size)
    if size in (_IS_BLOCK, _IS_COMPRESSED_BLOCK):
        data = window.read(offset, _BLOCK.size)
        if len(data) < _BLOCK.size:
            return None, f"the file ends in {tag.shown}"
        stored, in_memory, padding = _BLOCK.unpack(data)
        offset += _BLOCK.size + padding
        compressed = size == _IS_COMPRESSED_BLOCK
        tag = _Tag(name, indices, offset, stored, True, compressed, in_memory)
        if not compressed and stored != in_memory:
            return tag, (
                f"{tag.shown} has {stored:#x} bytes in the file, but {in_memory:#x} in memory"
            )
    if tag.end > group.end and group.end < window.size:
        return tag, (
            f"{tag.shown} of group {group.name!r} ends at {tag.end:#x}, in the group that "
            f"starts at {group.end:#x}"
        )
    if tag.end > window.size and not (tag.name == _MEMORY and tag.is_block):
        return tag, f"the file ends in {tag.shown}"
    return tag, ""


def _behind(window: _Window, group: _Group, tag: _Tag) -> int:
    """Returns where the next tag is: behind the usual size of a value, if there is a tag."""
    part = _TAGS.get((tag.name, tag.indices[1:]))
    size = _REGION_SIZE if tag.name in _REGION_TAGS else 0
    if part is not None:
        size = part.size if part.packed is None else part.packed.size
    if size and size != tag.size and not tag.is_compressed:
        following, reason = _tag_at(window, group, tag.offset + size)
        if following is not None and not reason and following.name[:1].isalpha():
            return tag.offset + size
    return tag.end


def _resumption(window: _Window, group: _Group, position: int, limit: int) -> Optional[int]:
    """Returns where the next tag of a group with a known name starts, or None.

    Args:
        window: of the file.
        group: that the tag is of.
        position: from where it is looked for.
        limit: where the group ends.
    """
    if limit <= position:
        return None
    data = window.read(position, min(_RESUMPTION, limit - position))
    for match in _KNOWN[group.name].finditer(data):
        # Before the length of the name are size and number of indices.
        place = position + match.start() - 1
        if match.start() and not _tag_at(window, group, place)[1]:
            return place
    return None


def _integer(window: _Window, tag: _Tag) -> Optional[int]:
    """Returns the value of a tag that is one integer, or None."""
    if tag.is_block or tag.size not in (1, 2, 4, 8):
        return None
    data = window.read(tag.offset, tag.size)
    return int.from_bytes(data, "little") if len(data) == tag.size else None


class _Numbers:
    """Integers by their names; one that is there twice with two values is missing.

    Args:
        oddities: is told of what is wrong.
    """

    def __init__(self, oddities: _Oddities) -> None:
        self.found: dict[str, int] = {}
        #: Names of which it is told what is wrong.
        self.wrong: set[str] = set()
        self._oddities = oddities

    def add(self, name: str, value: Optional[int], shown: str, size: int) -> None:
        """Adds an integer.

        Args:
            name: under which it is found.
            value: of it, or None when it is none.
            shown: its name in the file.
            size: of it in the file.
        """
        if value is None:
            self.refuse((name,), f"{shown} has {size} bytes")
        elif name not in self.wrong and self.found.setdefault(name, value) != value:
            self.refuse((name,), f"{shown} is there twice, with different values")

    def refuse(self, names: Sequence[str], oddity: str) -> None:
        """Takes integers back, and says why."""
        self._oddities.add(oddity)
        for name in names:
            self.found.pop(name, None)
        self.wrong.update(names)


class _Memory(NamedTuple):
    """What the group "memory" says.

    Attributes:
        regions: None where they are not to be understood.
        doubtful: whether what is said of them contradicts itself.
        block: the block with memory, where there is one.
        size: of that memory.
    """

    regions: Optional[tuple[MemoryRange, ...]]
    doubtful: bool = False
    block: Optional[_Tag] = None
    size: int = 0


def _memory(window: _Window, groups: Sequence[_Group], oddities: _Oddities) -> _Memory:
    """Returns what the groups "memory" say."""
    numbers = _Numbers(oddities)
    block: Optional[_Tag] = None
    limit = 0
    for group, tag in _all_tags(window, groups, oddities):
        if tag.name == _MEMORY and tag.is_block:
            if tag.is_compressed:
                oddities.add("the guest's memory in it is compressed, which cannot be read")
            elif block is not None:
                oddities.add("there are two blocks of memory, of which the first is used")
            elif tag.size or tag.size_in_memory:
                block = tag
                # The last group may have lost its end with the file's.
                limit = max(group.end, tag.end) if group.end == window.size else group.end
        elif tag.name == _NUMBER_OF_REGIONS and not tag.indices:
            numbers.add(tag.name, _integer(window, tag), tag.shown, tag.size)
        elif tag.name in _REGION_TAGS and len(tag.indices) == 1:
            numbers.add(tag.shown, _integer(window, tag), tag.shown, tag.size)
    regions, doubtful = _regions(numbers, oddities)
    if block is None:
        return _Memory(regions, doubtful)
    room = max(0, limit - block.offset)
    sizes = (block.size, block.size_in_memory)
    wanted = max((run.file_offset + run.size for run in regions or ()), default=0)
    if wanted in sizes and wanted <= room:
        # The regions tell which of two sizes is right.
        return _Memory(regions, doubtful, block, wanted)
    size = min(max(sizes), room) & -PAGE_SIZE
    if wanted:
        doubtful = True
        oddities.add(f"{_MEMORY} has {size:#x} bytes, but regions of {wanted:#x}")
    if wanted <= room:
        size = max(size, wanted)
    return _Memory(_up_to(regions, size), doubtful, block, size)


def _up_to(
    regions: Optional[tuple[MemoryRange, ...]], size: int
) -> Optional[tuple[MemoryRange, ...]]:
    """Returns regions as far as there are bytes for them: what is behind is no memory."""
    if regions is None:
        return None
    there = ((run, min(run.size, size - run.file_offset)) for run in regions)
    return tuple(
        MemoryRange(run.start, length, run.file_offset) for run, length in there if length > 0
    )


def _regions(
    numbers: _Numbers, oddities: _Oddities
) -> tuple[Optional[tuple[MemoryRange, ...]], bool]:
    """Returns the regions of memory, or None, and whether they are in doubt."""
    count = numbers.found.get(_NUMBER_OF_REGIONS)
    present = itertools.takewhile(
        lambda number: any(f"{name}[{number}]" in numbers.found for name in _REGION_TAGS),
        range(_MAXIMUM_REGIONS),
    )
    there = sum(1 for _ in present)
    if count is None and _NUMBER_OF_REGIONS not in numbers.wrong:
        oddities.add(f"{_NUMBER_OF_REGIONS} is missing")
    if count is not None and count != there:
        oddities.add(f"{_NUMBER_OF_REGIONS} is {count}, but there are {there} regions")
    if not there:
        return () if count == 0 else None, count != 0
    regions = _read_regions(numbers, there, oddities)
    if regions is None:
        return None, True
    end, whole = 0, True
    for run in sorted(regions, key=lambda run: run.file_offset):
        if run.file_offset != end and whole:
            oddities.add(f"regions of memory leave bytes out at {end:#x}")
            whole = False
        end = run.file_offset + run.size
    return regions, count != there or not whole


def _read_regions(
    numbers: _Numbers, there: int, oddities: _Oddities
) -> Optional[tuple[MemoryRange, ...]]:
    """Returns the first regions of memory, or None where one of them is not to be understood."""
    regions = []
    for number in range(there):
        missing = [f"{name}[{number}]" for name in _REGION_TAGS]
        missing = [name for name in missing if name not in numbers.found]
        for name in missing:
            if name not in numbers.wrong:
                oddities.add(f"{name} is missing")
        if missing:
            return None
        start, offset, size = (
            PAGE_SIZE * numbers.found[f"{name}[{number}]"] for name in _REGION_TAGS
        )
        if not size:
            oddities.add(f"region {number} of memory is empty")
        elif start + size > 1 << 52 or offset + size > 1 << 52:
            oddities.add(f"region {number} of memory ends at {start + size:#x}")
            return None
        else:
            regions.append(MemoryRange(start, size, offset))
    regions.sort(key=lambda run: run.start)
    for low, high in zip(regions, regions[1:]):
        if low.end > high.start:
            oddities.add(f"regions of memory overlap at {high.start:#x}")
            return None
    in_file = sorted(regions, key=lambda run: run.file_offset)
    for low, high in zip(in_file, in_file[1:]):
        if low.file_offset + low.size > high.file_offset:
            oddities.add(f"regions of memory have the same bytes at {high.file_offset:#x}")
            return None
    return tuple(regions) or None


def _vcpus(
    window: _Window, groups: Sequence[_Group], oddities: _Oddities
) -> tuple[tuple[VCPU, ...], tuple[VCPU, ...]]:
    """Returns the vCPUs in both readings of gpregs; the second is empty where there is but one."""
    head = _Numbers(oddities)
    values: dict[int, _Numbers] = {}
    for _, tag in _all_tags(window, groups, oddities):
        if tag.name == _NUMBER_OF_VCPUS and not tag.indices:
            head.add(tag.name, _integer(window, tag), tag.shown, tag.size)
        elif tag.name in _TAG_NAMES and tag.indices and tag.indices[0] < _MAXIMUM_VCPUS:
            number, *indices = tag.indices
            part = _TAGS.get((tag.name, tuple(indices)))
            if part is not None:
                _read_part(window, tag, part, values.setdefault(number, _Numbers(oddities)))
    readings = {number: _registers(number, found) for number, found in sorted(values.items())}
    count = head.found.get(_NUMBER_OF_VCPUS)
    if count is None and groups and not head.wrong:
        oddities.add(f"{_NUMBER_OF_VCPUS} is missing")
    if count is not None and set(range(min(count, _MAXIMUM_VCPUS + 1))) != set(readings):
        oddities.add(f"{_NUMBER_OF_VCPUS} is {count}, but there are registers of {len(readings)}")
        # A tag that is out of place makes no vCPU.
        readings = {
            number: both
            for number, both in readings.items()
            if number < count or not both[0].lacks("rip", *PAGING_REGISTERS)
        }
    _note_missing(readings, values, oddities)
    first = tuple(one for one, _ in readings.values() if one.registers)
    second = tuple(other for _, other in readings.values() if other.registers)
    return first, second if first != second else ()


def _note_missing(
    readings: Mapping[int, tuple[VCPU, VCPU]],
    values: Mapping[int, _Numbers],
    oddities: _Oddities,
) -> None:
    """Says which tags are missing, and of which vCPUs."""
    missing: dict[str, list[int]] = {}
    for number, (vcpu, _) in readings.items():
        said = set().union(*(_COMES_OF.get(name, (name,)) for name in values[number].wrong))
        names = [name for name in vcpu.lacks(*REGISTERS) if name not in said]
        for tag, together in _TOGETHER.items():
            if set(together) <= set(names):
                missing.setdefault(tag, []).append(number)
                names = [name for name in names if name not in together]
        for name in names:
            missing.setdefault(name, []).append(number)
    for name, numbers in missing.items():
        shown = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
        oddities.add(f"{name} of vCPU {shown} is missing")


def _read_part(window: _Window, tag: _Tag, part: _Part, values: _Numbers) -> None:
    """Adds what a tag tells to the values of its vCPU."""
    if tag.is_compressed:
        values.refuse(part.names, f"{tag.shown} is compressed")
    elif part.packed is None:
        value = _integer(window, tag) if part.size in (0, tag.size) else None
        values.add(part.names[0], value, tag.shown, tag.size)
    elif part.packed.size not in (tag.size, tag.size_in_memory if tag.is_block else tag.size):
        oddity = f"{tag.shown} has {tag.size} bytes instead of {part.packed.size}"
        values.refuse(part.names, oddity)
    else:
        data = window.read(tag.offset, part.packed.size)
        if len(data) < part.packed.size:
            values.refuse(part.names, f"the file ends in {tag.shown}")
            return
        for name, value in zip(part.names, part.packed.unpack(data)):
            values.add(name, value, tag.shown, tag.size)


def _registers(number: int, values: _Numbers) -> tuple[VCPU, VCPU]:
    """Returns the vCPU in both readings of gpregs."""
    found = values.found
    if "idt_base.low" in found and "idt_base.high" in found:
        base = found["idt_base.high"] << 32 | found["idt_base.low"]
        values.add("idt_base", base, f"IDTR[{number}]", 8)
    # Either has some of the flags: without one of them the flags are not known.
    flags = [name for name in ("eflags", "EFLAGS") if name in found]
    if len(flags) == 2:
        found["rflags"] = found["eflags"] | found["EFLAGS"]
    elif flags and not values.wrong & {"eflags", "EFLAGS"}:
        other = "EFLAGS" if flags == ["eflags"] else "eflags"
        values.refuse(("rflags",), f"{other}[{number}] is missing")
    exchanged = {"rsp": "rbp", "rbp": "rsp"}
    first, against_first = _with_block(found, {})
    second, against_second = _with_block(found, exchanged)
    # Where RSP or RBP has a tag of its own too, that tells which reading is right.
    if against_second and not against_first:
        second = first
    elif against_first and not against_second:
        first = second
    wrong = set(against_first) & set(against_second)
    for name in sorted(wrong):
        # With neither reading right it is not known which of the two the other one is.
        names = tuple(exchanged) if name in exchanged else (name,)
        values.refuse(names, f"{name}[{number}] differs from {_GPREGS}[{number}]")
    shown = [name for name in REGISTERS if name not in values.wrong]
    return tuple(  # type: ignore[return-value] # there are two
        VCPU(number, {name: reading[name] for name in shown if name in reading})
        for reading in (first, second)
    )


def _with_block(
    found: Mapping[str, int], exchanged: Mapping[str, str]
) -> tuple[dict[str, int], list[str]]:
    """Returns the registers with those of the block gpregs, and those that it contradicts.

    Args:
        found: what all tags told.
        exchanged: register -> the one in whose place the block has it.
    """
    registers = dict(found)
    against = []
    for name in _GENERAL:
        value = found.get(f"{_GPREGS}.{exchanged.get(name, name)}")
        if value is not None and registers.setdefault(name, value) != value:
            against.append(name)
    return registers, against
