# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What real guests use memory for."""

import re
import struct
from collections.abc import Iterator

import pytest

from tests.helpers import guest_machine, guests, real_guest
from volatility_guestdump import kernels
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.linux.state.memory_use import ResidentMemory, memory_use
from volatility_guestdump.linux.state.tasks import Cpus
from volatility_guestdump.machine import PAGE_SIZE

_PRESENT, _USER, _LARGE = 1, 4, 0x80
_ADDRESS = 0xFFFFFFFFFF000
#: Pages of the kernel that a process has in its tables and that do not count as its own: vDSO,
#: its data, and the page of zeros, here and there.
_NOT_ITS_OWN = 8


def _user_pages(kernel: LinuxKernel, table: int, level: int, entries: int = 512) -> Iterator[int]:
    """Yields sizes, in pages, of what a page table maps for user mode."""
    for entry in struct.unpack_from(f"<{entries}Q", kernel.tables.read_physical(table, PAGE_SIZE)):
        if not entry & _PRESENT:
            continue
        if level == 1 or (entry & _LARGE and level <= 3):
            if entry & _USER:
                yield 512 ** (level - 1)
        else:
            yield from _user_pages(kernel, entry & _ADDRESS, level - 1)


@pytest.mark.parametrize("name", guests("5.10", "hole-pti", "6.12", "la57"))
def test_resident_memory(name: str) -> None:
    """A process has as much memory as its page tables map, however its pages are counted."""
    machine = guest_machine(real_guest(name))
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    types = kernel.require_types()
    resident = ResidentMemory(kernel, types, Cpus(kernel, types, machine.vcpus).offsets)
    mm, pgd = types.offset("task_struct", "mm"), types.offset("mm_struct", "pgd")
    levels = 5 if name == "la57" else 4
    seen = 0
    for task in Stacks(kernel, machine.vcpus).all_tasks:
        space = kernel.pointer(task.address + mm)
        if not space:
            assert resident.of([task], exact=True) is None
            continue
        root, _ = kernel.tables.translate(kernel.pointer(space + pgd))
        mapped = sum(_user_pages(kernel, root, levels, entries=256))
        told = resident.of([task], exact=True)
        assert told is not None and mapped > 256
        assert abs(told // PAGE_SIZE - mapped) <= _NOT_ITS_OWN, task
        seen += 1
    assert seen >= 2


@pytest.mark.parametrize("name", guests("5.10", "hole-pti", "6.12", "newest"))
def test_all_memory(name: str) -> None:
    """It is MemTotal of /proc/meminfo."""
    guest = real_guest(name)
    kernel = kernels.linux_kernel(guest_machine(guest))
    assert kernel is not None
    assert memory_use(kernel, Attempts()).total == guest.expected["memory_total_kib"] << 10


@pytest.mark.parametrize("name", guests("oom"))
def test_counters(name: str) -> None:
    """They are those that the kernel printed before it panicked."""
    guest = real_guest(name)
    kernel = kernels.linux_kernel(guest_machine(guest))
    assert kernel is not None
    console = guest.console
    printed = {
        key: int(value) * PAGE_SIZE
        for key, value in re.findall(r"(\w+):(\d+)\b(?!kB)", console[console.index("Mem-Info:") :])
    }
    anonymous = printed["active_anon"] + printed["inactive_anon"]
    files = printed["active_file"] + printed["inactive_file"]
    expected = {
        "free": printed["free"],
        "slab": printed["slab_reclaimable"] + printed["slab_unreclaimable"],
        "page_tables": printed["pagetables"],
        # Shared memory is in the page cache, but on the lists of anonymous memory.
        "page_cache": files + printed["shmem"],
        "anonymous": anonymous - printed["shmem"],
        "huge_pages": 0,
        "swap_total": 0,
    }
    found = vars(memory_use(kernel, Attempts()))
    for counter, size in expected.items():
        # The other CPU went on for a moment.
        assert abs(found[counter] - size) <= 64 * PAGE_SIZE, counter
