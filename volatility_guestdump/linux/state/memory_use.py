# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What memory is used for: the kernel's own counters, and the resident memory of tasks.

The counters are those of /proc/meminfo (fs/proc/meminfo.c): arrays of longs, vm_zone_stat and
vm_node_stat, whose indexes are the values of enum zone_stat_item and node_stat_item, which differ
from kernel to kernel and stand in BTF. All are in pages. CPUs keep small changes to themselves for
a while, so each is exact to some dozens of pages for each CPU.

A counter that cannot be read, or is larger than all memory, is not known.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.types.protocol import Shape, Types
from volatility_guestdump.linux.types.reading import Structures
from volatility_guestdump.machine import PAGE_SIZE

#: HUGE_MAX_HSTATE is 2 on x86.
_MAXIMUM_HUGE_SIZES = 8
#: Counters of mm_struct.rss_stat that are resident memory: those of file pages, anonymous pages
#: and shared memory. The one between is of pages in swap (include/linux/mm_types_task.h).
_RESIDENT = (0, 1, 3)
_RSS_COUNTERS = 4
#: struct percpu_counter has 40 bytes, with checks of locks some more. All are read at once.
_LARGEST_COUNTER = 1 << 10


@dataclass(frozen=True)
class MemoryUse:
    """What memory is used for, in bytes; what is not known is None.

    Attributes:
        total: what the kernel manages.
        free: not used.
        page_cache: contents of files, shared memory included.
        anonymous: memory of processes that is of no file.
        slab: the kernel's own objects.
        page_tables: of processes.
        huge_pages: set aside as huge pages (hugetlb), used or not.
        swap_total: of all swap areas.
        swap_free: of these, not used.
    """

    total: Optional[int] = None
    free: Optional[int] = None
    page_cache: Optional[int] = None
    anonymous: Optional[int] = None
    slab: Optional[int] = None
    page_tables: Optional[int] = None
    huge_pages: Optional[int] = None
    swap_total: Optional[int] = None
    swap_free: Optional[int] = None


def memory_use(kernel: LinuxKernel, attempts: Attempts) -> MemoryUse:
    """Returns what a kernel's memory is used for.

    Args:
        kernel: the kernel.
        attempts: is told which counters cannot be read, and why.
    """
    counters = _Counters(kernel)

    def make(name: str, read: Callable[[], Optional[int]]) -> Optional[int]:
        return attempts.make(f"Memory counter: {name.replace('_', ' ')}", read)

    found = {
        "total": make("total", counters.total),
        "free": make("free", lambda: counters.zone("NR_FREE_PAGES")),
        "page_cache": make("page_cache", lambda: counters.node("NR_FILE_PAGES")),
        "anonymous": make("anonymous", lambda: counters.node("NR_ANON_MAPPED")),
        "slab": make("slab", counters.slab),
        "page_tables": make("page_tables", lambda: counters.node("NR_PAGETABLE")),
        "huge_pages": make("huge_pages", counters.huge_pages),
    }
    total = found["total"]
    sane = {
        name: pages * PAGE_SIZE if pages is not None and (total is None or pages <= total) else None
        for name, pages in found.items()
    }
    swap = make("swap_total", lambda: counters.variable("total_swap_pages"))
    swap_free = make("swap_free", lambda: counters.variable("nr_swap_pages"))
    if swap is not None and swap_free is not None and swap_free > swap:
        swap = swap_free = None
    return MemoryUse(
        **sane,
        swap_total=None if swap is None else swap * PAGE_SIZE,
        swap_free=None if swap_free is None else swap_free * PAGE_SIZE,
    )


class _Counters:
    """Counters of a kernel, in pages; None is what this kernel does not have.

    Each raises AddressError where it is not in the dump, and TypesError where the types do not
    tell.
    """

    def __init__(self, kernel: LinuxKernel) -> None:
        self._kernel = kernel
        self._word = kernel.bits // 8

    def _at(self, address: int) -> int:
        data = self._kernel.read(address, self._word)
        # Sums of changes by many CPUs may be below zero for a moment; the kernel shows 0 then.
        return max(0, int.from_bytes(data, "little", signed=True))

    def variable(self, symbol: str) -> Optional[int]:
        """Returns a long variable."""
        address = self._kernel.address(symbol)
        return None if address is None else self._at(address)

    def total(self) -> Optional[int]:
        """Returns how much memory the kernel manages."""
        # Before 5.0 (ca79b0c211af) it is a plain variable, which inline functions of that name
        # replace.
        total = self.variable("_totalram_pages")
        return self.variable("totalram_pages") if total is None else total

    def zone(self, item: str) -> Optional[int]:
        """Returns a counter of all zones."""
        return self._item("vm_zone_stat", "zone_stat_item", item)

    def node(self, item: str) -> Optional[int]:
        """Returns a counter of all nodes; before 5.18 some of them were of zones."""
        found = self._item("vm_node_stat", "node_stat_item", item)
        return self.zone(item) if found is None else found

    def slab(self) -> Optional[int]:
        """Returns how much the kernel's own objects take."""
        pages = 0
        # From 5.9 on the names say bytes, which is true of control groups alone.
        for kind in ("RECLAIMABLE", "UNRECLAIMABLE"):
            found = self.node(f"NR_SLAB_{kind}_B")
            if found is None:
                found = self.node(f"NR_SLAB_{kind}")
            if found is None:
                return None
            pages += found
        return pages

    def _item(self, array: str, enum: str, item: str) -> Optional[int]:
        address, types = self._kernel.address(array), self._kernel.types
        if address is None or types is None:
            return None
        index = types.constants(enum).get(item)
        return None if index is None else self._at(address + index * self._word)

    def huge_pages(self) -> Optional[int]:
        """Returns how many pages are set aside as huge pages of any size."""
        address, count = self._kernel.address("hstates"), self._kernel.address("hugetlb_max_hstate")
        types = self._kernel.types
        if address is None or count is None or types is None:
            return None
        sizes = int.from_bytes(self._kernel.read(count, 4), "little")
        if sizes > _MAXIMUM_HUGE_SIZES:
            raise KernelError(f"the kernel would have {sizes} sizes of huge pages")
        states = Structures(self._kernel, types, "hstate")
        pages = 0
        for state in (states.at(address + number * states.size) for number in range(sizes)):
            pages += self._at(state.place("nr_huge_pages")) << min(state.integer("order"), 18)
        return pages


class ResidentMemory:
    """How much memory processes have resident.

    A process's counters are in mm_struct.rss_stat: plain ones to 6.1, to which each thread brings
    forward from time to time what it has counted for itself, in task_struct.rss_stat
    (SPLIT_RSS_COUNTING, until then all pages of a small process may be there); from 6.2
    (f1a7941243c1) on struct percpu_counter, a count with a part of each CPU on top.

    Args:
        kernel: that the processes are of.
        types: its types.
        cpu_offsets: what added to the address of a per-CPU variable gives that of each CPU.

    Raises:
        TypesError: the types do not tell where the counters are.
    """

    def __init__(self, kernel: LinuxKernel, types: Types, cpu_offsets: Sequence[int]) -> None:
        self._kernel = kernel
        self._word = kernel.bits // 8
        self._cpu_offsets = cpu_offsets
        self._mm = types.offset("task_struct", "mm")
        counters = types.field("mm_struct", "rss_stat")
        self._counters = counters.offset
        self._per_cpu: Optional[int] = None
        self._of_thread: Optional[int] = None
        if counters.shape is Shape.ARRAY:
            self._size = types.size_of("percpu_counter", _LARGEST_COUNTER)
            self._count = types.offset("percpu_counter", "count")
            self._per_cpu = types.offset("percpu_counter", "counters")
            self._width = 8
        else:
            self._counters += types.offset("mm_rss_stat", "count")
            self._size, self._count, self._width = self._word, 0, self._word
            # Kernels for few CPUs do without (CONFIG_SPLIT_PTLOCK_CPUS).
            of_thread = types.find("task_struct", "rss_stat.count")
            self._of_thread = None if of_thread is None else of_thread.offset

    def of(self, threads: Sequence[Task], exact: bool = False) -> Optional[int]:
        """Returns the resident memory of a process in bytes; None when it has none of its own.

        Args:
            threads: all of the process.
            exact: add what the CPUs have on top, which for each is some dozens of pages at most.

        Raises:
            AddressError: the counters are not in the dump.
        """
        # The first thread may have exited while others run on.
        mms = (self._kernel.pointer(thread.address + self._mm) for thread in threads)
        mm = next(filter(None, mms), None)
        if mm is None:
            return None
        data = self._kernel.read(mm + self._counters, _RSS_COUNTERS * self._size)
        pages = sum(self._of_threads(threads))
        for counter in _RESIDENT:
            at = counter * self._size
            first = at + self._count
            pages += int.from_bytes(data[first : first + self._width], "little", signed=True)
            if exact and self._per_cpu is not None:
                place = at + self._per_cpu
                variable = int.from_bytes(data[place : place + self._word], "little")
                pages += self._of_cpus(variable)
        return max(0, pages) * PAGE_SIZE

    def _of_threads(self, threads: Sequence[Task]) -> Iterator[int]:
        if self._of_thread is None:
            return
        counters = struct.Struct(f"<{_RSS_COUNTERS}i")
        for thread in threads:
            data = self._kernel.read(thread.address + self._of_thread, counters.size)
            counts = counters.unpack(data)
            yield sum(counts[counter] for counter in _RESIDENT)

    def _of_cpus(self, variable: int) -> int:
        mask = (1 << self._kernel.bits) - 1
        return sum(
            int.from_bytes(self._kernel.read((variable + offset) & mask, 4), "little", signed=True)
            for offset in self._cpu_offsets
        )
