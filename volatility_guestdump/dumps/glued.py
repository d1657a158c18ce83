# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory glued together without its holes: where its pieces belong, by the kernel in it.

Whether a file is such memory shows below 1 MiB, where 64-bit Linux keeps a page table (see
`linux.finding.low_memory`): ranges there begin at pages, and so that page is one of the file's too.
Then the firmware's memory map is looked for by its bytes (see `linux.finding.firmware_map`), first
where it usually is: below 1 MiB, and around the kernel's image, to which that page table leads. The
page table must lead to a kernel with a banner once memory is in its place; the kernel then says
itself of which ranges its RAM is, and that all of them are here the size of the file proves.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Callable, Optional

from volatility_guestdump import kernels
from volatility_guestdump.budget import Budget
from volatility_guestdump.dumps.format import Format, OneFile, Parts, Request, Stage, one_file
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.exceptions import SourceError
from volatility_guestdump.files.location import display_name
from volatility_guestdump.files.memory_file import Content
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.linux.finding.find import (
    IMAGE_STEPS,
    low_memory_kernel,
    maps_an_image,
    search_kernel,
)
from volatility_guestdump.linux.finding.firmware_map import MapSearch, MemoryMap, steps
from volatility_guestdump.linux.finding.low_memory import last_entries, low_memory_tables
from volatility_guestdump.linux.finding.search import Progress
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.memory_map import memory_maps
from volatility_guestdump.machine import Machine, MemoryRange
from volatility_guestdump.sources.glued import Rule, glue, runs_of, size_of, text_of

_LOW_MEMORY = 1 << 20
#: How far from the page table of the kernel's image copies of the map are looked for first.
_IMAGE_REACH = 64 << 20
#: More than the holes of any machine have together: those with much memory have one below 1 TiB.
_HOLES_LIMIT = 1 << 40

#: What a line has room for.
_RANGES_SHOWN = 4
#: Pages that lead to different places, or banners, around which is looked first: on guests that
#: were looked at it was one page.
_PLACES_LIMIT = 8
#: Ways to put memory in its place, of different maps and rules, that are tried; and those of them
#: with which page tables lead somewhere, where a kernel is looked for.
_ATTEMPTS, _KERNELS_LIMIT = 256, 8


class Glued(Format):
    """Ranges of RAM one behind the other, whose low memory leads to a Linux kernel."""

    name = "glued"
    what = "memory image"
    stage = Stage.RAW

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file, read as the kernel in it says; see `Format.find`."""
        file = request.session.file(request.location, None, request.progress)
        found = find_glued(file, request.progress)
        return None if found is None else self.accepted(found, request)

    def accepted(self, found: "Found", request: Request) -> Parts:
        """Returns what the machine is made of, and says how it is."""
        parts = Parts(self.name, request.location, request.location, reading=text_of(found.ranges))
        kernels.remember(self.machine(parts, request.session), found.kernel)
        # A warning: whoever knows better should see it.
        request.said.warn(
            f"{display_name(request.location)} is memory without its holes, range behind range. "
            f"By the guest's {found.told_by} they are {_shown(found.ranges)}, and each is read "
            f"where it belongs: the kernel found there by {found.kernel.found_by} proves it"
            f"{', and so does the size of the file' if found.fits else ''}"
        )
        return parts

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; see `Format.machine`."""

        def read() -> OneFile:
            try:
                return OneFile(runs_of(parts.reading), session.file(parts.location))
            except ValueError as error:
                raise SourceError(f"{parts.reading!r} names no ranges of memory") from error

        return one_file(parts, session, "raw memory, glued together without its holes", read)


def _shown(ranges: Sequence[MemoryRange]) -> str:
    shown = text_of(ranges[:_RANGES_SHOWN]).replace(",", ", ")
    more = len(ranges) - _RANGES_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


@dataclasses.dataclass(frozen=True)
class Found:
    """Glued memory, and where its pieces belong.

    Attributes:
        ranges: the runs of memory; the file may end before they do.
        kernel: that page tables lead to with them.
        rule: by which the file was written.
        told_by: what the ranges are known from, in words.
        fits: whether the file has exactly the size that they have.
    """

    ranges: tuple[MemoryRange, ...]
    kernel: LinuxKernel
    rule: Rule
    told_by: str
    fits: bool


def find_glued(file: Content, progress: Progress = None) -> Optional[Found]:
    """Returns where the pieces of glued memory belong; None if the file is something else.

    The file is read at most once.

    Args:
        file: of nothing but memory.
        progress: called with per cent and a description.
    """
    flat = PhysicalMemory([MemoryRange(0, file.size, 0)], file)
    tables = _led_to(flat, file.size)
    if not tables:
        return None
    places = [(table - _IMAGE_REACH, table + _IMAGE_REACH) for table in tables]
    budget = Budget(2 * IMAGE_STEPS)

    def is_likely(memory: PhysicalMemory) -> bool:
        return any(maps_an_image(tables, budget) for tables in low_memory_tables(memory))

    attempts = _Attempts(file, is_likely, low_memory_kernel, _KERNELS_LIMIT)
    for found in _maps(flat, file.size, [*places, (0, file.size)], progress):
        attempts.with_map(found)
        if attempts.are_over or budget.is_spent:
            break
    return attempts.found


def find_glued_around(
    file: Content, banners: Sequence[int], progress: Progress = None
) -> Optional[Found]:
    """Returns the same where low memory leads to no kernel: it is not there, or that of 32 bits.

    Maps are looked for below 1 MiB and around banners that a search of the file has found. One that
    fits the file exactly is worth a second reading, with memory in its place.

    Args:
        file: of nothing but memory.
        banners: what may be linux_banner, by offset.
        progress: called with per cent and a description.
    """
    flat = PhysicalMemory([MemoryRange(0, file.size, 0)], file)
    places = [(each - _IMAGE_REACH, each + _IMAGE_REACH) for each in banners[:_PLACES_LIMIT]]
    attempts = _Attempts(
        file, lambda memory: True, lambda memory: search_kernel(memory, progress), 1
    )
    for found in _maps(flat, file.size, places, None):
        attempts.with_map(found, exact=True)
        if attempts.are_over:
            break
    return attempts.found


def _led_to(flat: PhysicalMemory, size: int) -> list[int]:
    """Returns where pages that may be top-level tables lead to in their last entry."""
    tables = {table for _, table in last_entries(flat) if table < size + _HOLES_LIMIT}
    return sorted(tables)[:_PLACES_LIMIT]


def _maps(
    flat: PhysicalMemory, size: int, places: Sequence[tuple[int, int]], progress: Progress
) -> Iterator[MemoryMap]:
    """Yields the memory maps in a file, for which each byte of it is looked at once at most.

    Args:
        flat: what is in the file, by offset.
        size: of the file, in bytes.
        places: start and end of where to look, after the first MiB.
        progress: called with per cent and a description.
    """
    searched = 0

    def done(more: int) -> None:
        nonlocal searched
        searched += more
        if progress is not None:
            progress(100 * searched / size, "Searching for the memory map of glued memory")

    search = MapSearch(flat, steps(size))
    for start, end in _pieces(size, places):
        yield from search.maps(start, end, done)


def _pieces(size: int, places: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields start and end of the pieces of a file in their order, no byte in two of them."""
    before: list[tuple[int, int]] = []
    for start, end in [(0, _LOW_MEMORY), *places]:
        place = max(start, 0)
        for first, last in [*sorted(before), (size, size)]:
            until = min(first, end, size)
            if place < until:
                before.append((place, until))
                yield place, until
            place = max(place, last)


class _Attempts:
    """Puts memory in its place by one map after the other, until a kernel is found with it.

    Args:
        file: of nothing but memory.
        is_likely: tells at once of memory that may be in its place whether a kernel is worth
            looking for.
        find: finds the kernel in it.
        limit: how often a kernel is looked for.

    Attributes:
        found: what was found, or None.
    """

    def __init__(
        self,
        file: Content,
        is_likely: Callable[[PhysicalMemory], bool],
        find: Callable[[PhysicalMemory], Optional[LinuxKernel]],
        limit: int,
    ) -> None:
        self._file = file
        self._is_likely = is_likely
        self._find = find
        self._left = limit
        self._tried: set[tuple[MemoryRange, ...]] = set()
        self.found: Optional[Found] = None

    @property
    def are_over(self) -> bool:
        """Whether more attempts would not help."""
        # The kernel that was found says itself where its memory is: other maps would add nothing.
        return self.found is not None or len(self._tried) >= _ATTEMPTS or not self._left

    def with_map(self, found: MemoryMap, exact: bool = False) -> None:
        """Tries a map, first by the rules with which it fits the file exactly.

        Args:
            found: the map.
            exact: whether no other rules are to be tried.
        """
        ways = [(rule, tuple(glue(found.ram, rule))) for rule in Rule]
        for rule, ranges in sorted(ways, key=lambda way: size_of(way[1]) != self._file.size):
            if exact and size_of(ranges) != self._file.size:
                return
            kernel = self._kernel(ranges)
            if kernel is None:
                continue
            fits = size_of(ranges) == self._file.size
            self.found = self._by_kernel(Found(ranges, kernel, rule, found.told_by, fits))
            if self.found is not None:
                return

    def _by_kernel(self, glued: Found) -> Optional[Found]:
        """Returns glued memory as the kernel in it describes it; None if it does not fit.

        Args:
            glued: with which the kernel was found.
        """
        told = list(memory_maps(glued.kernel))
        whole = [(own, rule) for own in told for rule in (glued.rule, *Rule)]
        # By another rule a file that is cut off would be cut off elsewhere.
        cut = [(own, glued.rule) for own in told]
        for fits, ways in ((True, whole), (False, cut)):
            for own, rule in ways:
                ranges = tuple(glue(own.ram, rule))
                lacking = size_of(ranges) - self._file.size
                if lacking < 0 or fits != (not lacking):
                    continue
                kernel = glued.kernel if ranges == glued.ranges else self._kernel(ranges)
                if kernel is not None:
                    return Found(ranges, kernel, rule, own.told_by, fits)
        # Bytes of the file that no map tells of could belong anywhere.
        return glued if size_of(glued.ranges) >= self._file.size else None

    def _kernel(self, ranges: tuple[MemoryRange, ...]) -> Optional[LinuxKernel]:
        """Returns the kernel that low memory leads to with memory in some place, or None."""
        if ranges in self._tried or self.are_over or not ranges:
            return None
        self._tried.add(ranges)
        memory = PhysicalMemory(ranges, self._file)
        if not self._is_likely(memory):
            return None
        self._left -= 1
        return self._find(memory)
