# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's state files: .vmsn of a snapshot, .vmss of a suspended machine.

A file begins with u32 magic, u32 version, u32 number of groups, and the table of groups, each of a
name (64 bytes), u64 position and u64 size. A group is a run of tags, ended by a u16 of zero:

    u16   bits 0-5: size of the value; 6-7: number of indices; 8-15: length of the name
    name, without an end
    u32   for each index
    value

If the size is 62 (compressed) or 63, the value is a block instead: u64 size on disk, u64 size in
memory, u16 bytes of padding, the padding, the data.

The groups "cpu" and "memory" are what is of interest among many others. Guest-physical memory is
in the block "Memory", or in a .vmem file beside, with its holes squeezed out either way.
"""

import pathlib
import random
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

from tests.lab.formats.memory import Memory, Source
from tests.lab.writer import PAGE, RESERVED, Region

#: Magics that 64-bit products write.
MAGICS = (0xBED2BED2, 0xBED3BED3, 0xBAD1BAD1, 0xBAD2BAD2)

#: Sizes in a tag that stand for blocks.
COMPRESSED, BLOCK = 62, 63

#: The most bytes that a tag holds without a block.
LARGEST_VALUE = 61

#: The block "Memory" starts at a multiple of this.
ALIGNMENT = 0x10000

#: General registers in the order of the block "gpregs" (crash's vmware_vmss.c, which VMware wrote):
#: rbp before rsp, unlike in x86's own numbering.
GPREGS = (
    *("rax", "rcx", "rdx", "rbx", "rbp", "rsp", "rsi", "rdi"),
    *("r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"),
)

#: Segments in the order of the tags "S" and "S.base64".
SEGMENTS = ("es", "cs", "ss", "ds", "fs", "gs", "ldt", "tr")

#: Bytes of other groups before those of interest: most of a real file is the state of devices and
#: a picture of the screen. crash reads far beyond the table of groups, and fails in a tiny file.
DEVICES, SCREENSHOT = 1 << 20, 3 << 20


@dataclass(frozen=True)
class State:
    """How a state file is written.

    Attributes:
        magic: one of `MAGICS`, or another.
        blocks: whether registers come in the blocks gpregs, CR64 and IDTR, or each in a tag.
        padding: bytes in front of the data in those blocks; crash honours it in IDTR only.
        inside: whether the memory is in the block "Memory" of this file.
        has_memory: whether there is a group "memory" at all; a snapshot can be taken without.
        count_regions: whether regions are listed; else regionsCount is 0, which says that memory
            is one region from 0.
        regions: address and size in bytes of what is listed, in the order of the file; by default
            the memory's own regions.
    """

    magic: int = MAGICS[0]
    blocks: bool = True
    padding: int = 0
    inside: bool = False
    has_memory: bool = True
    count_regions: bool = True
    regions: Optional[Sequence[Region]] = None


def tag(name: str, indices: Sequence[int], value: bytes) -> bytes:
    """Returns a tag with a value of at most `LARGEST_VALUE` bytes."""
    if len(value) > LARGEST_VALUE:
        raise ValueError(f"{len(value)} bytes of {name} need a block")
    return _tag_header(name, indices, len(value)) + value


def block(
    name: str, indices: Sequence[int], data: bytes, padding: int = 0, compressed: bool = False
) -> bytes:
    """Returns a tag with a block; a compressed one has its data as zlib does it."""
    stored = zlib.compress(data) if compressed else data
    header = _tag_header(name, indices, COMPRESSED if compressed else BLOCK)
    sizes = struct.pack("<QQH", len(stored), len(data), padding)
    return header + sizes + RESERVED * padding + stored


def _tag_header(name: str, indices: Sequence[int], size: int) -> bytes:
    text = name.encode()
    flags = size | len(indices) << 6 | len(text) << 8
    return struct.pack(f"<H{len(text)}s{len(indices)}I", flags, text, *indices)


def _u32(name: str, indices: Sequence[int], value: int) -> bytes:
    return tag(name, indices, struct.pack("<I", value))


def _u64(name: str, indices: Sequence[int], value: int) -> bytes:
    return tag(name, indices, struct.pack("<Q", value))


#: A group's name, and its tags without the end.
Group = tuple[str, bytes]


def write(path: pathlib.Path, source: Source, state: State = State()) -> None:
    """Writes a state file; for the .vmem beside it see `write_memory`.

    Args:
        path: of the new file.
        source: the guest.
        state: how to write it.
    """
    memory = source.memory
    regions = memory.regions if state.regions is None else tuple(state.regions)
    if not state.count_regions and (len(regions) > 1 or regions[0][0] != 0):
        raise ValueError("memory that is not one region from 0 needs its regions listed")
    groups = [*_groups_before(), ("cpu", cpu_tags(source.vcpus, state)), _mistakable()]
    if state.has_memory:
        groups.append(("memory", memory_tags(regions if state.count_regions else ())))
    groups.append(("Timer", _u64("now", (), 0x1234_5678_9ABC)))
    if state.has_memory and state.inside:
        write_groups(path, groups, state.magic, memory, regions)
    else:
        write_groups(path, groups, state.magic)


def write_memory(
    path: pathlib.Path, memory: Memory, regions: Optional[Sequence[Region]] = None
) -> None:
    """Writes the .vmem that belongs to a state file with these regions."""
    with path.open("wb") as stream:
        for start, size in memory.regions if regions is None else regions:
            memory.copy(start, size, stream)
        stream.truncate(stream.tell())


def write_groups(
    path: pathlib.Path,
    groups: Sequence[Group],
    magic: int = MAGICS[0],
    memory: Optional[Memory] = None,
    regions: Sequence[Region] = (),
) -> None:
    """Writes a state file of these groups.

    Args:
        path: of the new file.
        groups: in the order of the file.
        magic: of the file.
        memory: appended to the group "memory" as the block "Memory"; None if it is not inside.
        regions: of the memory, in the order of the file.
    """
    inside = sum(size for _, size in regions) if memory else 0
    position = 12 + 80 * len(groups)
    table, bodies = [], []
    for name, tags in groups:
        body, extra = tags, 0
        if memory and name == "memory":
            header = _tag_header("Memory", (), BLOCK)
            padding = -(position + len(tags) + len(header) + 18) % ALIGNMENT
            sizes = struct.pack("<QQH", inside, inside, padding)
            body, extra = tags + header + sizes + RESERVED * padding, inside
        size = len(body) + extra + 2
        table.append(struct.pack("<64sQQ", name.encode(), position, size))
        bodies.append(body)
        position += size
    with path.open("wb") as stream:
        stream.write(struct.pack("<III", magic, 8, len(groups)) + b"".join(table))
        for (name, _), body in zip(groups, bodies):
            stream.write(body)
            if memory and name == "memory":
                for start, length in regions:
                    memory.copy(start, length, stream)
            stream.write(b"\0\0")


def memory_tags(regions: Sequence[Region]) -> bytes:
    """Returns the tags of the group "memory", without memory itself.

    Args:
        regions: address and size in bytes, in the order of the file; none writes regionsCount 0.
    """
    parts = [_u32("align_mask", (), ALIGNMENT - 1), _u32("regionsCount", (), len(regions))]
    position = 0
    for number, (start, size) in enumerate(regions):
        parts.append(_u32("regionPageNum", (number,), position))
        parts.append(_u32("regionPPN", (number,), start // PAGE))
        parts.append(_u32("regionSize", (number,), size // PAGE))
        position += size // PAGE
    # The numbers of pages in use and the like; readers do not ask for them.
    return b"".join([*parts, _u32("hotSet.size", (), 0x5A5A), tag("mainMem.busy", (), b"\1")])


def cpu_tags(vcpus: Sequence[Mapping[str, int]], state: State = State()) -> bytes:
    """Returns the tags of the group "cpu".

    Args:
        vcpus: of each vCPU, name of the register -> value.
        state: `State.blocks` and `State.padding` say how registers are written.
    """
    parts = [_u32("hypervisorCPUID", (0,), 0x4000_0010), _u32("cpu:numVCPUs", (), len(vcpus))]
    for number, registers in enumerate(vcpus):
        parts.append(_u64("TSC", (number,), 0x1122_3344_5566_7788))
        parts.append(block("FPU", (number,), bytes(range(256)) * 2, padding=6))
        parts.append(_pack_blocks(number, registers, state.padding) if state.blocks else b"")
        parts.append(b"" if state.blocks else _pack_one_by_one(number, registers))
        parts.append(_u64("rip", (number,), registers["rip"]))
        # Readers join the two.
        parts.append(_u32("eflags", (number,), registers["eflags"] & 0xFF))
        parts.append(_u32("EFLAGS", (number,), registers["eflags"] & ~0xFF))
        for index, name in enumerate(SEGMENTS):
            indices = (number, index)
            parts.append(_u32("S", indices, registers.get(name, 0)))
            parts.append(_u64("S.base64", indices, registers.get(f"{name}_base", 0)))
            parts.append(_u32("S.limit", indices, 0xFFFF_FFFF))
    return b"".join(parts)


def _pack_blocks(number: int, registers: Mapping[str, int], padding: int) -> bytes:
    general = struct.pack("<16Q", *(registers[name] for name in GPREGS))
    control = struct.pack("<9Q", *(registers.get(f"cr{index}", 0) for index in range(9)))
    table = struct.pack("<HQ", 0xFFF, registers["idt_base"])
    return b"".join(
        (
            block("gpregs", (number,), general, padding),
            block("CR64", (number,), control, padding),
            block("IDTR", (number,), table, padding),
        )
    )


def _pack_one_by_one(number: int, registers: Mapping[str, int]) -> bytes:
    parts = [_u64(name, (number,), registers[name]) for name in GPREGS]
    parts += [_u64("CR64", (number, index), registers.get(f"cr{index}", 0)) for index in range(9)]
    base = registers["idt_base"]
    for index, value in enumerate((0xFFF, base & 0xFFFF_FFFF, base >> 32)):
        parts.append(_u32("IDTR", (number, index), value))
    return b"".join(parts)


def _groups_before() -> list[Group]:
    """Returns groups of devices and the like: tags of every shape, and large blocks."""
    data = random.Random(1).randbytes(SCREENSHOT)
    shapes = b"".join(
        tag(f"shape{size}", tuple(range(size % 4)), data[:size])
        for size in range(LARGEST_VALUE + 1)
        # Without name, indices and value a tag would be the end of the group.
    )
    devices = [
        (f"scsi{number}", block("queue", (number, 0), data[: DEVICES // 16], padding=number))
        for number in range(16)
    ]
    return [
        ("Checkpoint", shapes + tag("n" * 255, (1, 2, 3), b"")),
        ("MKSVMX", block("Screenshot", (), data) + block("Cursor", (), bytes(4096), 0, True)),
        *devices,
        ("SVGA", b"".join(_u32("reg", (index,), index) for index in range(500))),
    ]


def _mistakable() -> Group:
    """Returns a group whose tags have the names of other groups' tags, with other values."""
    tags = (
        _u32("regionsCount", (), 7),
        _u32("regionPPN", (0,), 0x77777),
        _u32("cpu:numVCPUs", (), 99),
        _u64("rip", (0,), 0xDEAD_BEEF),
        block("Memory", (), RESERVED * PAGE, padding=3),
    )
    return "cpuid", b"".join(tags)
