# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Inputs that are whole, and made to cost: random damage does not come across them.

Each counts what a decoder reads, or how many entries of page tables it looks at, and not how long
it takes. A limit is what the decoder allows itself, with some room.
"""

import contextlib
import random
from collections.abc import Iterator
from typing import Any, Optional, cast
from unittest import mock

from tests.handmade import printk as handmade_printk
from tests.handmade.kernel import HandmadeKernel
from tests.handmade.printk import Entry, with_log
from tests.helpers import IDLE_VCPU, machine
from tests.unit import test_memory_use, test_tasks
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import AddressError, GuestDumpError
from volatility_guestdump.linux.finding import find as linux_find
from volatility_guestdump.linux.finding.search import search
from volatility_guestdump.linux.state.memory_use import memory_use
from volatility_guestdump.linux.state.printk import MAXIMUM_RECORDS, read_log
from volatility_guestdump.linux.state.tasks import Tasks
from volatility_guestdump.machine import PAGE_SIZE, VCPU, MemoryRange
from volatility_guestdump.windows import find as windows_find
from volatility_guestdump.x86.paging import PageTables

#: Steps of a search here; what there are in earnest would take seconds each time.
_STEPS = 1 << 14
#: Sizes that no structure has.
_SIZES = (0, 1, 1 << 10, (1 << 10) + 1, 1 << 20, 1 << 24, 0x7FFFFFFF, 0xFFFFFFFF)
_PRESENT, _LARGE = 3, 0x83


@contextlib.contextmanager
def _counted_walks() -> Iterator[list[int]]:
    """Yields what has an item for each entry of page tables that is looked at."""
    walks: list[int] = []
    walk = PageTables._walk

    def counted(tables: PageTables, address: int) -> tuple[Optional[int], int]:
        walks.append(0)
        return walk(tables, address)

    with mock.patch.object(PageTables, "_walk", counted):
        yield walks


def full_tables(rng: random.Random) -> None:
    """Page tables all of whose entries are there, and lead to each other, to nothing or to pages.

    Every root is one, so that as many vCPUs as there may be have one of their own.
    """
    kinds = [
        b"".join(
            (rng.randrange(4) << 40 | rng.choice((_PRESENT, _PRESENT, _LARGE, 0))).to_bytes(
                8, "little"
            )
            for _ in range(rng.choice((1, 2, 512)))
        )
        for _ in range(4)
    ]
    # The last level of one of them maps nothing.
    kinds[3] = rng.choice((b"\2" + bytes(7), kinds[3]))
    tables = [(kind * 512)[:PAGE_SIZE] for kind in kinds]

    def read(address: int, length: int) -> bytes:
        if length > 1 << 20:
            raise AddressError(address)
        at = address % PAGE_SIZE
        table = tables[address >> 40 & 3]
        return (table * (2 + length // PAGE_SIZE))[at : at + length]

    registers = {**IDLE_VCPU, "cr0": 1 << 31 | 1, "cr4": rng.choice((0x20, 0x1020, 0))}
    registers["idt_base"] = rng.choice((0xFFFFF80000000000, 0xFFFFFFFF80000000, 0x80000000))
    count = rng.choice((1, 16, 500))
    vcpus = [VCPU(number, {**registers, "cr3": 2 * PAGE_SIZE * number}) for number in range(count)]
    guest = machine(read, vcpus)
    with (
        mock.patch.object(linux_find, "IMAGE_STEPS", _STEPS),
        mock.patch.object(linux_find, "_ALL_IMAGES_LIMIT", 64 << 20),
        mock.patch.object(windows_find, "_STEPS", _STEPS),
        mock.patch.object(windows_find, "_MAXIMUM_PAGES", _STEPS),
        mock.patch.object(windows_find, "_MAXIMUM_PLACES", _STEPS),
        _counted_walks() as walks,
    ):
        linux_find.find_kernel(guest)
        # Registers and low memory; a handler and the user's half of each root.
        assert len(walks) <= 2 * _STEPS + 16 * count + 100, len(walks)
        walks.clear()
        windows_find.find_kernel(guest)
        # Entries and gates, what is read of pages, and places that may name roots.
        assert len(walks) <= 5 * _STEPS + 100 * count + 1000, len(walks)


class _Counting:
    """Counts what is read of a kernel made by hand; what is not there, is there on request.

    Args:
        kernel: that is read.
        filling: what all memory is full of that nothing was written to; empty for none.

    Attributes:
        reads: how many there were.
        bytes: that were read.
    """

    def __init__(self, kernel: HandmadeKernel, filling: bytes = b"") -> None:
        self.reads = self.bytes = 0
        sound: Any = kernel.read

        def read(address: int, length: int) -> bytes:
            self.reads += 1
            self.bytes += length
            try:
                found: bytes = sound(address, length)
            except AddressError:
                if not filling or length > 1 << 20:
                    raise
                found = (filling * (1 + length // len(filling)))[:length]
            return found

        kernel.read = read  # type: ignore[method-assign]


def sizes(rng: random.Random) -> None:
    """Structures and logs whose sizes the types or the guest make up."""
    old = rng.random() < 0.5
    kernel = with_log([Entry(b"one"), Entry(b"two")], old)
    names = ("printk_log",) if old else ("prb_desc", "printk_info")
    if rng.random() < 0.6:
        kernel.resize(rng.choice(names), rng.choice(_SIZES))
    if old:
        for name in ("log_buf_len", "log_next_idx", "log_first_idx"):
            if rng.random() < 0.5:
                value = rng.choice((0, 1, 0xFFFFFFFF, 1 << 31))
                kernel.write(kernel.symbols[name], value.to_bytes(4, "little"))
    else:
        place = handmade_printk.RING + 8 * rng.randrange(16)
        kernel.write(place, rng.choice((b"\x1a", b"\x1f", b"\xff" * 8)))
    filling = rng.choice((b"", rng.randbytes(24), (24).to_bytes(4, "little")))
    counted = _Counting(kernel, filling)
    with (
        contextlib.suppress(GuestDumpError),
        mock.patch("volatility_guestdump.linux.state.printk._MAXIMUM_WALKED", _STEPS),
    ):
        read_log(kernel.kernel)
    assert counted.bytes <= MAXIMUM_RECORDS * (2 << 10) + _STEPS * (8 << 10), counted.bytes
    assert counted.reads <= 5 * MAXIMUM_RECORDS + 2 * _STEPS, counted.reads


def counters(rng: random.Random) -> None:
    """Counters of memory, of which the types make up how large they are."""
    kernel, task = test_memory_use.process(True)
    kernel.resize("percpu_counter", rng.choice(_SIZES))
    counted = _Counting(kernel, rng.randbytes(16))
    with contextlib.suppress(GuestDumpError):
        test_memory_use.resident(kernel).of([task], exact=True)
    assert counted.bytes <= 64 << 10, counted.bytes
    kernel = test_memory_use.meminfo()
    kernel.resize("hstate", rng.choice(_SIZES))
    counted = _Counting(kernel, rng.randbytes(16))
    memory_use(kernel.kernel, Attempts())
    assert counted.reads <= 100, counted.reads


def lists(rng: random.Random) -> None:
    """Lists of tasks and modules that lead into each other, on and on."""
    nodes = rng.choice((64, 512))
    kernel = test_tasks.FakeKernel(0x100 * (nodes + 2), init_task=test_tasks.BASE)
    kernel.symbols["modules"] = test_tasks.BASE
    for number in range(nodes):
        node = test_tasks.BASE + 0x100 * number
        for place in range(0, 0x100, 8):
            kernel.put(node + place, test_tasks.BASE + 0x100 * rng.randrange(nodes) + place)
        if rng.random() < 0.9:
            kernel.put(node, test_tasks.BASE + 0x100 * ((number + 1) % nodes))
    tasks = Tasks(cast(Any, kernel), test_tasks.FakeTypes())
    listed = len(list(tasks))
    # Each is read, and so are its links and those of its leader.
    assert kernel.reads <= 12 * nodes + 100, (kernel.reads, listed)
    kernel.reads = 0
    test_tasks.modules_of(kernel)
    assert kernel.reads <= 12 * nodes + 100, kernel.reads


def banners(rng: random.Random) -> None:
    """Memory full of what begins like a banner, or like VMCOREINFO."""
    parts = (
        b"Linux version ",
        b"Linux version 6",
        b" #1",
        b"\n\0",
        b"VMCOREINFO",
        b"x" * 9,
        b"#1 ",
    )
    unit = b"".join(rng.choice(parts) for _ in range(rng.randint(1, 40)))
    content = (unit * (1 + (1 << 20) // len(unit)))[: 1 << 20]
    reads = []

    def read(address: int, length: int) -> bytes:
        reads.append(length)
        if not 0 <= address <= address + length <= len(content):
            raise AddressError(address)
        return content[address : address + length]

    memory: Any = machine(read, []).memory
    memory.ranges = [MemoryRange(0, len(content), 0)]
    traces = search(memory)
    assert len(traces.banners) <= 256 and len(traces.vmcoreinfo) <= 256
    assert len(reads) <= 20 * len(content) // PAGE_SIZE + 100, len(reads)
