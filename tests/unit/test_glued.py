# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory glued together without its holes: the rules of programs, and putting it in its place."""

import pathlib
import random
import struct
from collections.abc import Iterator, Sequence
from typing import Optional, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.handmade.kernel import HandmadeKernel
from tests.lab.formats import glued as writer
from tests.lab.formats.memory import system_ram
from volatility_guestdump.dumps import glued as dumps_glued
from volatility_guestdump.dumps.format import Parts
from volatility_guestdump.dumps.glued import Glued, find_glued
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.exceptions import AddressError, SourceError
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.linux.finding.firmware_map import MemoryMap, Range
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.memory_map import memory_maps
from volatility_guestdump.sources.glued import Rule, glue, runs_of, size_of, text_of

RAM = ((0x1000, 0x9FC00), (0x100000, 0x7FE0000), (0x100000000, 0x104000000))


@pytest.mark.parametrize(
    ("rule", "taken"),
    [
        (Rule.EXACT, RAM),
        (Rule.PAGE_ZERO, ((0, 0x9FC00), *RAM[1:])),
        (Rule.WHOLE_PAGES, ((0x1000, 0x9F000), *RAM[1:])),
        (
            Rule.LAST_PAGE_LOST,
            ((0x1000, 0x9F000), (0x100000, 0x7FDF000), (0x100000000, 0x103FFF000)),
        ),
        (Rule.FROM_ONE_MIB, RAM[1:]),
    ],
)
def test_rules(rule: Rule, taken: Sequence[tuple[int, int]]) -> None:
    """What each program takes of a range stands behind what it took of the one before."""
    runs = glue(RAM, rule)
    assert [(run.start, run.end) for run in runs] == list(taken)
    assert [run.file_offset for run in runs] == [
        sum(end - start for start, end in taken[:number]) for number in range(len(taken))
    ]


RANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(1, 1 << 16)), min_size=1).map(
    lambda pairs: [
        (sum(map(sum, pairs[:number])) + gap, sum(map(sum, pairs[: number + 1])))
        for number, (gap, _) in enumerate(pairs)
    ]
)


@given(RANGES, st.sampled_from(Rule))
def test_any_ranges(ram: list[tuple[int, int]], rule: Rule) -> None:
    """Runs ascend, none is empty, and they are read again as they were written."""
    runs = glue(ram, rule)
    assert all(run.size > 0 for run in runs)
    assert all(one.end <= other.start for one, other in zip(runs, runs[1:]))
    assert not runs or runs_of(text_of(runs)) == runs
    assert size_of(runs) <= sum(end - start for start, end in ram) + (rule is Rule.PAGE_ZERO) * 4096


@pytest.mark.parametrize(
    "text",
    ["", "1000", "1000-", "x-y", "1000-fff", "1000-1fff,1fff-2fff", "2000-2fff,0-fff", "1-2-3"],
)
def test_texts_that_are_no_ranges(text: str, tmp_path: pathlib.Path) -> None:
    """A saved configuration may have been changed by hand."""
    with pytest.raises(ValueError):
        runs_of(text)
    path = tmp_path / "memory.raw"
    path.write_bytes(bytes(100))
    parts = Parts("glued", path.as_uri(), path.as_uri(), reading=text)
    with Session() as session, pytest.raises(SourceError, match="names no ranges of memory"):
        Glued().machine(parts, session)


@given(RANGES, st.data())
def test_reads_of_ranges_that_begin_anywhere(
    ram: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Memory of a file in which nothing is aligned is read as if it were."""
    runs = glue(ram, Rule.EXACT)
    content = _Content(random.Random(1).randbytes(size_of(runs)))
    memory = PhysicalMemory(runs, content)
    run = data.draw(st.sampled_from(runs))
    start = data.draw(st.integers(run.start, run.end - 1))
    length = data.draw(st.integers(1, run.end - start))
    offset = run.file_offset + start - run.start
    assert memory.read(start, length) == content.data[offset : offset + length]
    if not any(other.start == run.end for other in runs):
        with pytest.raises(AddressError):
            memory.read(start, run.end - start + 1)


class _Content:
    """What a file has.

    Args:
        data: the bytes.

    Attributes:
        done: how many bytes were read.
    """

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.size = len(data)
        self.done = 0

    def read(self, offset: int, length: int) -> bytes:
        """Reads it, and counts."""
        self.done += length
        return self.data[offset : offset + length]

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yields all of it."""
        yield offset, length

    def map(self) -> None:
        """It is not in a file."""


@given(
    st.integers(0, 1 << 24),
    st.lists(st.tuples(st.integers(-(1 << 22), 1 << 25), st.integers(0, 1 << 25))),
)
def test_no_byte_is_searched_twice(size: int, places: list[tuple[int, int]]) -> None:
    """Whatever is likely: the pieces are all of the file, and none is in another."""
    pieces = sorted(dumps_glued._pieces(size, [*places, (0, size)]))
    assert all(start < end for start, end in pieces)
    ends = [0, *(end for _, end in pieces)]
    assert ends == [*(start for start, _ in pieces), size]


def _with_tables(data: bytearray, entries: Sequence[int]) -> bytes:
    """Puts pages into low memory whose last entries lead to some tables."""
    for number, entry in enumerate(entries):
        struct.pack_into("<Q", data, 0x9000 + number * 0x1000 + 0xFF8, entry | 0x67)
    return bytes(data)


TABLE = struct.pack("<I", 3) + b"".join(
    struct.pack("<QQI", start, size, 1)
    for start, size in ((0x1000, 0x9EC00), (0x100000, 0x200000), (0x300000, 0x100000))
)


def _noise(kind: str) -> bytes:
    if kind == "random":
        return random.Random(3).randbytes(4 << 20)
    if kind == "zeros":
        return bytes(4 << 20)
    data = bytearray(random.Random(4).randbytes(4 << 20) if kind == "tables" else 4 << 20)
    data[:0x100000] = bytes(0x100000)
    if kind == "maps":
        for offset in range(0x20000, len(data) - 0x200, 0x301):
            data[offset : offset + len(TABLE)] = TABLE
    if kind == "maps that differ":
        for number, offset in enumerate(range(0x20000, len(data) - 0x1000, 0x1000)):
            struct.pack_into("<I", data, offset, 2)
            struct.pack_into("<QQI", data, offset + 4, 0x1000, 0x1000 + number, 1)
            struct.pack_into("<QQI", data, offset + 24, 0x100000, len(data) - 0x101000, 1)
    return _with_tables(data, range(0x200000, 0x210000, 0x1000))


@pytest.mark.parametrize("kind", ["random", "zeros", "tables", "maps", "maps that differ"])
def test_what_is_no_glued_memory(kind: str) -> None:
    """It is not taken for it, and costs one reading at most."""
    content = _Content(_noise(kind))
    assert find_glued(content) is None
    if "maps" not in kind:
        # What crosses the end of a portion is read twice.
        assert content.done <= content.size * 1.01


def test_ways_that_are_tried_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file full of maps that differ has a kernel looked for in few of the places."""
    tried: list[PhysicalMemory] = []
    looked: list[PhysicalMemory] = []

    def tables(memory: PhysicalMemory) -> list[int]:
        tried.append(memory)
        return [] if len(tried) % 20 else [0]

    def kernel(memory: PhysicalMemory) -> Optional[LinuxKernel]:
        looked.append(memory)
        return None

    monkeypatch.setattr(dumps_glued, "low_memory_tables", tables)
    monkeypatch.setattr(dumps_glued, "maps_an_image", lambda tables, budget: True)
    monkeypatch.setattr(dumps_glued, "low_memory_kernel", kernel)
    assert find_glued(_Content(_noise("maps that differ"))) is None
    assert len(looked) <= dumps_glued._KERNELS_LIMIT
    assert len(tried) <= dumps_glued._ATTEMPTS
    assert len(looked) == len(tried) // 20 > 0


@pytest.mark.parametrize("says", ["the same", "more", "nothing"])
@pytest.mark.parametrize("lacking", [0, 1, 0x5000])
def test_what_the_kernel_says_itself(
    monkeypatch: pytest.MonkeyPatch, says: str, lacking: int
) -> None:
    """Its ranges are taken, the file may be cut off; where it says nothing, those of the map."""
    ram = (Range(0x1000, 0x9FC00), Range(0x100000, 0x300000))
    more = (*ram, Range(0x300800, 0x301000))
    by_kernel: dict[str, list[tuple[Range, ...]]] = {
        "the same": [ram],
        "more": [more],
        "nothing": [],
    }
    own = by_kernel[says]
    kernel = cast(LinuxKernel, object())
    monkeypatch.setattr(dumps_glued, "low_memory_kernel", lambda memory: kernel)
    monkeypatch.setattr(dumps_glued, "low_memory_tables", lambda memory: [None])
    monkeypatch.setattr(dumps_glued, "maps_an_image", lambda tables, budget: True)
    monkeypatch.setattr(
        dumps_glued, "memory_maps", lambda kernel: [MemoryMap(each, "itself") for each in own]
    )
    size = size_of(glue(more if says == "more" else ram, Rule.EXACT)) - lacking
    content = _Content(_with_tables(bytearray(size), [0x200000]))
    start = 0x20000
    entries = struct.pack("<I", 2) + b"".join(
        struct.pack("<QQI", start, end - start, 1) for start, end in ram
    )
    content.data = content.data[:start] + entries + content.data[start + len(entries) :]
    found = find_glued(content)
    assert found is not None and found.rule is Rule.EXACT
    assert found.fits == (not lacking)
    assert [(run.start, run.end) for run in found.ranges] == list(more if says == "more" else ram)
    assert found.told_by == ("itself" if own else "e820 table")


def test_more_than_any_map_tells_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing says where it belongs, so nothing of the file is read."""
    monkeypatch.setattr(dumps_glued, "low_memory_kernel", lambda memory: object())
    monkeypatch.setattr(dumps_glued, "low_memory_tables", lambda memory: [None])
    monkeypatch.setattr(dumps_glued, "maps_an_image", lambda tables, budget: True)
    monkeypatch.setattr(dumps_glued, "memory_maps", lambda kernel: [])
    data = bytearray(0x600000)
    data[0x20000 : 0x20000 + len(TABLE)] = TABLE
    assert find_glued(_Content(_with_tables(data, [0x200000]))) is None


def _resource(
    kernel: HandmadeKernel, address: int, size: int, content: Sequence[int], links: Sequence[int]
) -> None:
    """Puts a struct resource, of some size, into memory."""
    kernel.put(address, *content, 0x81000200, *([0] if size == 64 else []), *links)


def _iomem(size: int, siblings: Sequence[tuple[int, int, bytes]]) -> HandmadeKernel:
    """Returns a kernel with a tree of resources, of some size each."""
    root = 0x1000
    kernel = HandmadeKernel(iomem_resource=root)
    first = 0x2000 if siblings else 0
    _resource(kernel, root, size, (0, (1 << 46) - 1, 0x900), (0, 0, first))
    for number, (start, end, name) in enumerate(siblings):
        place = 0x2000 + number * size
        text = 0x8000 + 0x20 * number
        kernel.write(text, name + bytes(12))
        following = place + size if number + 1 < len(siblings) else 0
        _resource(kernel, place, size, (start, end - 1, text), (root, following, 0x7777))
    return kernel


def _told(kernel: HandmadeKernel) -> list[MemoryMap]:
    return list(memory_maps(cast(LinuxKernel, kernel)))


SIBLINGS = [
    (0, 0x1000, b"Reserved"),
    (0x1000, 0x9FC00, b"System RAM"),
    (0x9FC00, 0xA0000, b"Reserved"),
    (0x100000, 0x200000, b"System RAM"),
    (0x200000, 0x300000, b"System RAM"),
    (0x300000, 0x301000, b"System RAM (kmem)"),
]


@pytest.mark.parametrize("size", [64, 56])
def test_the_tree_of_iomem(size: int) -> None:
    """Ranges of the name alone, in the form from 4.6 on and in the one before."""
    (told,) = _told(_iomem(size, SIBLINGS))
    assert told == MemoryMap((Range(0x1000, 0x9FC00), Range(0x100000, 0x300000)), "")
    assert told.told_by == "/proc/iomem"
    assert not _told(_iomem(size, []))


@pytest.mark.parametrize("broken", ["ring", "parent", "end", "unmapped"])
def test_a_tree_that_is_broken(broken: str) -> None:
    """Half of it is none: what lacks is not known."""
    kernel = _iomem(64, SIBLINGS)
    if broken == "ring":
        kernel.put(0x2000 + 3 * 64 + 48, 0x2000)
    elif broken == "parent":
        kernel.put(0x2000 + 3 * 64 + 40, 0x1001)
    elif broken == "end":
        kernel.put(0x2000 + 3 * 64 + 8, 0x10)
    else:
        kernel.put(0x2000 + 3 * 64 + 48, 0xDEAD000)
    assert not _told(kernel)


def test_the_lab_knows_what_iomem_shows() -> None:
    """The writer's ranges come from the kernel's first lines, in both wordings."""
    old = """
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x000000000009fbff] usable
[    0.000000] BIOS-e820: [mem 0x000000000009fc00-0x000000000009ffff] reserved
[    0.000000] BIOS-e820: [mem 0x0000000000100000-0x0000000007fdffff] usable
[    0.000000] BIOS-e820: [mem 0x0000000000000000-0x0000000000000fff] reserved
"""
    new = old.replace("usable", " System RAM").replace("reserved", " device reserved")
    for log in (old, new):
        ranges = system_ram(log)
        assert ranges == [(0x1000, 0x9EC00), (0x100000, 0x7EE0000)]
    assert writer.with_page_zero(ranges)[0] == (0, 0x9FC00)
    assert writer.whole_pages(ranges)[0] == (0x1000, 0x9E000)
    assert writer.last_page_lost(ranges)[1] == (0x100000, 0x7EDF000)
