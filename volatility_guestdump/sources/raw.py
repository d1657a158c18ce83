# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Raw memory: each byte at its guest-physical address, or with a hole squeezed out.

VMware writes a .vmem without the hole below 4 GiB, in which devices are. Where a hole starts the
file does not say.
"""

from collections.abc import Iterator, Sequence

from volatility_guestdump.machine import MemoryRange

_HOLE_END = 4 << 30
#: VMware's hole, but for machines with devices that are passed through.
_USUAL_HOLE = 3 << 30
#: Where holes start in most files; 0 for none.
USUAL_HOLES = (0, _USUAL_HOLE)
#: Holes of other sizes start at multiples of this.
_HOLE_STEP = 64 << 20


def with_hole(size: int, start: int, offset: int = 0) -> Sequence[MemoryRange]:
    """Returns the runs of memory of a file of some size with a hole put back.

    Args:
        size: of the memory in the file, in bytes.
        start: guest-physical address of the hole; 0 or one beyond memory stands for none.
        offset: where memory starts in the file.
    """
    if not start or start >= size:
        return [MemoryRange(0, size, offset)]
    return [MemoryRange(0, start, offset), MemoryRange(_HOLE_END, size - start, offset + start)]


def possible_holes(size: int) -> Iterator[int]:
    """Yields where a hole may start in memory of some size, the likelier first; 0 for none."""
    yield 0
    if size > _USUAL_HOLE:
        yield _USUAL_HOLE
    for start in range(_HOLE_END - _HOLE_STEP, 0, -_HOLE_STEP):
        if start < size and start != _USUAL_HOLE:
            yield start
