# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the writers of formats start from: a guest's memory, and its vCPUs' registers."""

import pathlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO

from tests.lab.writer import PAGE, Region, not_zero

#: Memory is passed on in pieces of at most this size.
PIECE = 1 << 20

#: The first MiB of a PC: BIOS data, video memory and ROMs lie in it.
LOW_MEMORY = 1 << 20


class Memory:
    """Guest-physical memory, kept in a file with the holes between its regions squeezed out.

    Args:
        path: of the file, debug.vmem for example; exactly as long as the regions together.
        regions: address and size in bytes, ascending; each of whole pages.
    """

    def __init__(self, path: pathlib.Path, regions: Sequence[Region]) -> None:
        self.path = path
        self.regions = tuple(regions)
        wanted = self.size
        if path.stat().st_size != wanted:
            raise ValueError(f"{path} has {path.stat().st_size:#x} bytes instead of {wanted:#x}")

    @property
    def size(self) -> int:
        """How many bytes of memory there are."""
        return sum(size for _, size in self.regions)

    @property
    def end(self) -> int:
        """The first address behind memory."""
        return sum(self.regions[-1])

    def _position(self, address: int, size: int) -> int:
        position = 0
        for start, length in self.regions:
            if start <= address and address + size <= start + length:
                return position + address - start
            position += length
        raise ValueError(f"{size:#x} bytes at {address:#x} are not in one region of memory")

    def read(self, address: int, size: int) -> bytes:
        """Returns bytes that lie in one region."""
        position = self._position(address, size)
        with self.path.open("rb") as stream:
            stream.seek(position)
            return stream.read(size)

    def runs(self, address: int, size: int) -> Iterator[tuple[int, memoryview]]:
        """Yields address and bytes of each run that is not zero, of a range in one region."""
        position = self._position(address, size)
        with self.path.open("rb") as stream:
            stream.seek(position)
            for offset in range(0, size, PIECE):
                piece = stream.read(min(PIECE, size - offset))
                for start, data in not_zero(piece):
                    yield address + offset + start, data

    def copy(self, address: int, size: int, stream: BinaryIO) -> None:
        """Copies a range to where the stream stands, with a hole in the file for what is zero.

        The stream stands behind the range afterwards. Its file ends there only once something is
        written, or after `truncate`.
        """
        position = stream.tell()
        for start, data in self.runs(address, size):
            stream.seek(position + start - address)
            stream.write(data)
        stream.seek(position + size)


@dataclass(frozen=True)
class Source:
    """A guest to be written in some format.

    Attributes:
        memory: of the guest.
        vcpus: of each vCPU, name of the register -> value, the names being those of expected.json.
        system_ram: address and size of what its /proc/iomem calls "System RAM", as far as its log
            tells.
    """

    memory: Memory
    vcpus: Sequence[Mapping[str, int]]
    system_ram: Sequence[Region] = ()


def iomem(regions: Sequence[Region]) -> list[Region]:
    """Returns address and size of what /proc/iomem of a guest with a BIOS calls "System RAM".

    Linux keeps page 0 to itself, the BIOS its last KiB below 640 KiB; from there to 1 MiB no memory
    is for use, and the BIOS's tables end the region below 4 GiB. So ranges end in mid-page.
    """
    (start, size), *others = regions
    end = start + size
    return [
        (0x1000, 0x9FC00 - 0x1000),
        (LOW_MEMORY, end - 0x20000 - LOW_MEMORY),
        *others,
    ]


def system_ram(log: str) -> list[Region]:
    """Returns address and size of what /proc/iomem calls "System RAM" by a kernel's first lines.

    It prints what the firmware told it, and what it changed. From 7.0 on it calls RAM by its name
    in /proc/iomem there, and before "usable".

    Args:
        log: of the kernel; of a second kernel in it, what the first one printed counts.
    """
    ram: list[Region] = []
    behind = 0
    for match in re.finditer(r"BIOS-e820: \[mem 0x([0-9a-f]+)-0x([0-9a-f]+)\] +(.*)", log):
        start, last, kind = int(match[1], 16), int(match[2], 16), match[3].strip()
        if start < behind:
            break
        behind = last + 1
        if kind in ("usable", "System RAM"):
            ram.append((start, last + 1 - start))
    return [
        (start, end - start)
        for first, size in ram
        # "update [mem 0x00000000-0x00000fff]", "remove [mem 0x000a0000-0x000fffff]"
        for start, end in (
            (max(first, PAGE), min(first + size, 0xA0000)),
            (max(first, LOW_MEMORY), first + size),
        )
        if start < end
    ]


def without_low_memory(ranges: Sequence[Region]) -> list[Region]:
    """Returns the ranges without what lies in the first MiB."""
    cut = [(max(start, LOW_MEMORY), start + size) for start, size in ranges]
    return [(start, end - start) for start, end in cut if end > start]
