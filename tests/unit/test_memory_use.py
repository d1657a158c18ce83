# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What memory is used for, in memory made by hand."""

import struct
from collections.abc import Sequence
from typing import Optional

import pytest

from tests.handmade.btf import BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import AddressError, TypesError
from volatility_guestdump.linux.state.memory_use import MemoryUse, ResidentMemory, memory_use
from volatility_guestdump.linux.state.tasks import Task
from volatility_guestdump.linux.types.btf import Btf
from volatility_guestdump.linux.types.btf_types import BtfTypes
from volatility_guestdump.machine import PAGE_SIZE

ZONES, NODES, STATES, VARIABLES = 0x1000, 0x2000, 0x3000, 0x4000
ZONE_ITEMS = {"NR_FREE_PAGES": 0, "NR_ZONE_UNEVICTABLE": 1, "NR_PAGETABLE": 2}
NODE_ITEMS = {
    "NR_SLAB_RECLAIMABLE_B": 5,
    "NR_SLAB_UNRECLAIMABLE_B": 6,
    "NR_ANON_MAPPED": 17,
    "NR_FILE_PAGES": 19,
}
NAMES = ("_totalram_pages", "total_swap_pages", "nr_swap_pages", "hugetlb_max_hstate")


def meminfo(
    nodes: dict[str, int] = NODE_ITEMS, zones: dict[str, int] = ZONE_ITEMS
) -> HandmadeKernel:
    """Returns a kernel whose counters are 100 and their index, of 10,000 pages in all."""
    builder = BtfBuilder()
    builder.enum("zone_stat_item", zones)
    builder.enum("node_stat_item", nodes)
    word, order = builder.int_("long", 8), builder.int_("unsigned int", 4)
    builder.struct("hstate", 48, [("nr_huge_pages", word, 64), ("order", order, 256)])
    places = {name: VARIABLES + 16 * number for number, name in enumerate(NAMES)}
    kernel = HandmadeKernel(
        Btf(builder.build()),
        vm_zone_stat=ZONES,
        vm_node_stat=NODES,
        hstates=STATES,
        **places,
    )
    kernel.put(ZONES, *range(100, 130))
    kernel.put(NODES, *range(200, 230))
    for name, value in zip(NAMES, (10_000, 50, 20, 2)):
        kernel.put(places[name], value)
    # 3 of 2 MiB, and 2 of 4 pages, say.
    for number, (pages, order_) in enumerate(((3, 9), (2, 2))):
        kernel.write(STATES + 48 * number, struct.pack("<QQQQI", 0, pages, 0, 0, order_))
    return kernel


def pages(use: MemoryUse) -> dict[str, Optional[int]]:
    """Returns counters in pages."""
    return {name: None if size is None else size // PAGE_SIZE for name, size in vars(use).items()}


ALL = {
    "total": 10_000,
    "free": 100,
    "page_cache": 219,
    "anonymous": 217,
    "slab": 411,
    "page_tables": 102,
    "huge_pages": 3 * 512 + 2 * 4,
    "swap_total": 50,
    "swap_free": 20,
}


def test_every_counter() -> None:
    """Each is where the enumerators of this kernel say."""
    attempts = Attempts()
    assert pages(memory_use(meminfo().kernel, attempts)) == ALL
    assert not attempts.failures


def test_counters_of_other_kernels() -> None:
    """Names that were others, counters of zones that are of nodes now, and zeros."""
    nodes = {name.removesuffix("_B"): index for name, index in NODE_ITEMS.items()}
    kernel = meminfo({**nodes, "NR_PAGETABLE": 3})
    kernel.symbols["totalram_pages"] = kernel.symbols.pop("_totalram_pages")
    found = pages(memory_use(kernel.kernel, Attempts()))
    assert found == {**ALL, "page_tables": 203}
    kernel = meminfo()
    kernel.put(NODES + 8 * 5, 0)
    assert pages(memory_use(kernel.kernel, Attempts()))["slab"] == 206


@pytest.mark.parametrize(
    ("place", "missing"),
    [
        (ZONES, {"free"}),
        (NODES + 8 * 6, {"slab"}),
        (STATES + 48 + 32, {"huge_pages"}),
        (VARIABLES, {"total"}),
        (VARIABLES + 32, {"swap_free"}),
    ],
)
def test_what_is_not_in_the_dump(place: int, missing: set[str]) -> None:
    """It costs its counter, and is named."""
    kernel, attempts = meminfo(), Attempts()
    del kernel.bytes[place]
    found = pages(memory_use(kernel.kernel, attempts))
    assert found == {**ALL, **dict.fromkeys(missing)}
    (failure,) = attempts.failures
    (name,) = missing
    assert failure.what == f"Memory counter: {name.replace('_', ' ')}"


def test_counters_that_make_no_sense() -> None:
    """What is below zero is 0 as the kernel shows it; what is more than all memory is none."""
    kernel, attempts = meminfo(), Attempts()
    kernel.write(ZONES, struct.pack("<q", -5))
    kernel.put(NODES + 8 * 17, 10_001)
    kernel.put(VARIABLES + 32, 51)
    kernel.put(VARIABLES + 48, 9)
    found = pages(memory_use(kernel.kernel, attempts))
    assert found == {
        **ALL,
        "free": 0,
        **dict.fromkeys(("anonymous", "huge_pages", "swap_total", "swap_free")),
    }
    assert [failure.what for failure in attempts.failures] == ["Memory counter: huge pages"]


def test_without_types_or_symbols() -> None:
    """What does not need types is there; without symbols nothing is, and nothing fails."""
    kernel, attempts = meminfo(), Attempts()
    kernel.types = None
    found = pages(memory_use(kernel.kernel, attempts))
    assert {name for name, value in found.items() if value is not None} == {
        *("total", "swap_total", "swap_free")
    }
    kernel.symbols = {}
    assert memory_use(kernel.kernel, attempts) == MemoryUse() and not attempts.failures


TASK, MM = 0x10000, 0x20000
CPUS = (0x100000, 0x200000)
#: What the four counters have: of files, anonymous, in swap, shared.
COUNTERS = (1000, 200, 55, 7)


def process(
    per_cpu: bool, counters: Sequence[int] = COUNTERS, own_counters: bool = False
) -> tuple[HandmadeKernel, Task]:
    """Returns a kernel and a process of it.

    Args:
        per_cpu: whether its counters are those of kernels from 6.2 on.
        counters: their values.
        own_counters: whether threads have some of their own too.
    """
    builder = BtfBuilder()
    word, pointer = builder.int_("long long", 8), builder.ptr(0)
    if per_cpu:
        size = 40
        counter = builder.struct(
            "percpu_counter", size, [("count", word, 64), ("counters", pointer, 256)]
        )
        stat = builder.array(counter, 4)
    else:
        size = 8
        atomic = builder.struct("atomic64_t", 8, [("counter", word, 0)])
        values = builder.array(builder.typedef("atomic_long_t", atomic), 4)
        stat = builder.struct("mm_rss_stat", 40, [("count", values, 64)])
    builder.struct("mm_struct", 400, [("rss_stat", stat, 8 * 24)])
    members = [("mm", pointer, 8 * 48)]
    if own_counters:
        number = builder.int_("int", 4)
        of_thread = [("events", number, 0), ("count", builder.array(number, 4), 32)]
        members.append(("rss_stat", builder.struct("task_rss_stat", 20, of_thread), 8 * 64))
    builder.struct("task_struct", 128, members)
    kernel = HandmadeKernel(Btf(builder.build()))
    kernel.put(TASK + 48, MM)
    first = MM + 24 + 8
    for number, value in enumerate(counters):
        kernel.write(first + size * number, struct.pack("<q", value))
        if per_cpu:
            kernel.put(first - 8 + size * number + 32, 0x500 + 4 * number)
            for cpu, part in zip(CPUS, (-3, 10)):
                kernel.write(cpu + 0x500 + 4 * number, struct.pack("<i", part))
    # Between members of a percpu_counter
    for place in range(MM + 24, MM + 24 + 4 * size):
        kernel.bytes.setdefault(place, 0xEE)
    return kernel, Task(TASK, 1, 1, "init")


def resident(kernel: HandmadeKernel) -> ResidentMemory:
    """Returns what reads the counters of processes."""
    return ResidentMemory(kernel.kernel, kernel.require_types(), CPUS)


@pytest.mark.parametrize(("per_cpu", "exact"), [(False, 1207), (True, 1207 + 3 * 7)])
def test_both_forms_of_resident_memory(per_cpu: bool, exact: int) -> None:
    """Up to 6.1 it is an array in a structure, then an array of counters with parts of CPUs."""
    kernel, task = process(per_cpu)
    assert resident(kernel).of([task]) == 1207 * PAGE_SIZE
    assert resident(kernel).of([task], exact=True) == exact * PAGE_SIZE


@pytest.mark.parametrize("per_cpu", [False, True])
def test_resident_memory_that_is_none(per_cpu: bool) -> None:
    """A thread of the kernel has none, less than none is none, and what is missing an error."""
    kernel, task = process(per_cpu, (-5, 3, 9, 1))
    assert resident(kernel).of([task]) == 0
    kernel.put(TASK + 48, 0)
    assert resident(kernel).of([task]) is None
    kernel.put(TASK + 48, 0xDEAD0000)
    with pytest.raises(AddressError):
        resident(kernel).of([task])


def test_what_threads_counted_for_themselves() -> None:
    """Up to 6.1 each thread has counters of its own that belong to those of the process."""
    kernel, task = process(False, own_counters=True)
    threads = [task, Task(task.address + 0x1000, 2, 1, "init"), Task(0x1F000, 3, 1, "init")]
    for number, thread in enumerate(threads):
        kernel.write(thread.address + 64, struct.pack("<5i", 9, 100 + number, -1, 5, 10))
    # The first two have exited.
    for thread, mm in zip(threads, (0, 0, MM)):
        kernel.put(thread.address + 48, mm)
    expected = 1207 + sum(100 + number - 1 + 10 for number in range(3))
    assert resident(kernel).of(threads) == expected * PAGE_SIZE
    assert resident(kernel).of(threads[:2]) is None


def test_resident_memory_without_types() -> None:
    """It is an error that says so."""
    kernel, _ = process(False)
    builder = BtfBuilder()
    builder.int_("int", 4)
    kernel.types = BtfTypes(Btf(builder.build()))
    with pytest.raises(TypesError):
        resident(kernel)


def test_counters_of_gigabytes() -> None:
    """Four are read at once: a size that is none is refused before anything is read."""
    kernel, _ = process(True)
    kernel.resize("percpu_counter", 0xFFFFFFFF)
    with pytest.raises(TypesError, match="percpu_counter would have 4294967295 bytes"):
        resident(kernel)


def test_strides_of_gigabytes() -> None:
    """The next element of an array is not looked for anywhere in memory."""
    kernel, attempts = meminfo(), Attempts()
    kernel.resize("hstate", 0xFFFFFFFF)
    assert memory_use(kernel.kernel, attempts).huge_pages is None
    assert "hstate would have 4294967295 bytes" in attempts.failures[0].reason
