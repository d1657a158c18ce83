# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Writes debug.guest and debug.vmem as ESXi does.

Knows the format by itself: it shares nothing with the reader under test, so that an error in one
of them shows.
"""

import pathlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

PAGE = 4096

#: Reserved bytes are filled with this, so that a reader that looks at one reads nonsense.
RESERVED = b"\xa5"

#: Order of the general registers in a vCPU's record.
GENERAL = (
    *("r15", "r14", "r13", "r12", "rbp", "rbx", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx"),
    *("rsi", "rdi", "orig_rax", "rip", "cs", "rflags", "rsp", "ss", "fs_base", "gs_base", "ds"),
    *("es", "fs", "gs"),
)

#: A region of guest-physical memory: address and size in bytes.
Region = tuple[int, int]


@dataclass(frozen=True)
class Layout:
    """Where a version of the format differs from others.

    Attributes:
        memory_offset: where the memory information stands.
        vcpu_gap: reserved bytes between IDT base and general registers.
        wide: whether page numbers have 64 bits.
    """

    memory_offset: int
    vcpu_gap: int
    wide: bool = True


LAYOUTS: Mapping[int, Layout] = {
    1: Layout(21, 45, wide=False),
    3: Layout(22, 45),
    4: Layout(22, 42),
    5: Layout(22, 42),
    6: Layout(23, 42),
    7: Layout(16, 42),
}


def holes_between(regions: Sequence[Region]) -> list[Region]:
    """Returns the holes between ascending regions of memory."""
    holes = []
    position = 0
    for start, size in regions:
        if start > position:
            holes.append((position, start - position))
        position = start + size
    return holes


def pack_guest(
    version: int, regions: Sequence[Region], vcpus: Sequence[Mapping[str, int]]
) -> bytes:
    """Returns the bytes of a debug.guest file.

    Args:
        version: of the format.
        regions: guest-physical memory, ascending.
        vcpus: of each vCPU, name of the register -> value.
    """
    layout = LAYOUTS[version]
    holes = holes_between(regions)
    gap = bytearray(RESERVED * (layout.memory_offset - 8))
    if version in (4, 5):
        # Written 1, ?, vendor of the CPU (32 bits), 0 (64 bits).
        gap[0:1] = b"\x01"
        gap[2:14] = struct.pack("<IQ", 1, 0)
    parts = [struct.pack("<II", version, len(vcpus)), bytes(gap)]
    parts.append(_pack_memory(layout.wide, regions, holes))
    if version == 1:
        parts.append(RESERVED * (8 * len(holes) + 4))
    elif version == 7:
        parts.append(struct.pack("<I", 1) + RESERVED * 7)
    parts += [_pack_vcpu(layout.vcpu_gap, registers) for registers in vcpus]
    return b"".join(parts)


def _pack_memory(wide: bool, regions: Sequence[Region], holes: Sequence[Region]) -> bytes:
    last = sum(regions[-1]) - 1
    pages = sum(size for _, size in regions) // PAGE
    numbers = [number // PAGE for hole in holes for number in hole]
    if len(numbers) > 4:
        raise ValueError(f"{len(holes)} holes, but the format has room for two")
    numbers += [0] * (4 - len(numbers))
    letter = "Q" if wide else "I"
    return struct.pack(f"<Q{letter}II4{letter}", last, pages, 0, len(holes), *numbers)


def _pack_vcpu(gap: int, registers: Mapping[str, int]) -> bytes:
    control = [registers[name] for name in ("cr0", "cr2", "cr3", "cr4")]
    # orig_rax is what the kernel would have saved at an entry; there is none.
    known = {"orig_rax": 0xFFFF_FFFF_FFFF_FFFF, "rflags": registers["eflags"], **registers}
    return b"".join(
        (
            struct.pack("<IQQQ", *control),
            RESERVED * 80,
            struct.pack("<Q", registers["idt_base"]),
            RESERVED * gap,
            struct.pack("<27Q", *(known[name] for name in GENERAL)),
            RESERVED * (17 + 4096),
        )
    )


def write_vmem(path: pathlib.Path, chunks: Iterable[bytes]) -> int:
    """Writes debug.vmem, with holes in the file where whole pages are zero.

    Args:
        path: of the new file.
        chunks: the memory, each of whole pages.

    Returns:
        The size of the file.
    """
    size = 0
    with path.open("wb") as stream:
        for chunk in chunks:
            for offset, data in not_zero(chunk):
                stream.seek(size + offset)
                stream.write(data)
            size += len(chunk)
        stream.truncate(size)
    return size


def not_zero(chunk: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yields offset and bytes of each run of pages that are not all zero."""
    zero = bytes(PAGE)
    view = memoryview(chunk)
    start = None
    for offset in range(0, len(chunk), PAGE):
        # Slices of bytes compare far faster than those of a memoryview.
        if chunk[offset : offset + PAGE] != zero[: len(chunk) - offset]:
            start = offset if start is None else start
        elif start is not None:
            yield start, view[start:offset]
            start = None
    if start is not None:
        yield start, view[start:]
