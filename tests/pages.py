# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a page that is missing costs: each single page of a kernel's tables, one after the other.

    python -m tests.pages hole-pti
    python -m tests.pages 6.12 --every 20 --removed

LiME writes zeros for a page that it cannot read, other formats leave it out (--removed). In each
such image the kernel is found anew and its processes are listed; what is listed, and what is said
of symbols, has to be so in the whole image too. Printed is of each table in how many of the images
all processes are listed. It needs nothing newer than `find_kernel` of the package, so that another
version can be compared: PYTHONPATH=/path/to/it python tests/pages.py hole-pti.
"""

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from tests import lab
from tests.helpers import guest_machine
from volatility_guestdump.exceptions import AddressError, GuestDumpError
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.tasks import Tasks
from volatility_guestdump.machine import PAGE_SIZE, Machine, Memory, MemoryRange

#: The tables by the symbols that they start at, and those that they end at or else their pages.
_TABLES = (
    ("BTF", "__start_BTF", "__stop_BTF"),
    ("ORC places", "__start_orc_unwind_ip", "__stop_orc_unwind_ip"),
    ("ORC entries", "__start_orc_unwind", "__stop_orc_unwind"),
)


class _Bad(NamedTuple):
    """A page of guest-physical memory that is missing, or zeros.

    Attributes:
        address: of the page.
        removed: whether it is missing.
    """

    address: int
    removed: bool


class _Memory:
    """Memory without one page.

    Args:
        memory: the whole.
        bad: the page.
    """

    def __init__(self, memory: Memory, bad: _Bad) -> None:
        self._memory = memory
        self._bad = bad

    @property
    def ranges(self) -> Sequence[MemoryRange]:
        """The ranges of the whole."""
        return self._memory.ranges

    def read(self, address: int, length: int) -> bytes:
        """Reads memory.

        Raises:
            AddressError: it is not there.
        """
        data = self._memory.read(address, length)
        first = max(self._bad.address, address)
        end = min(self._bad.address + PAGE_SIZE, address + length)
        if first >= end:
            return data
        if self._bad.removed:
            raise AddressError(first)
        return data[: first - address] + bytes(end - first) + data[end - address :]

    def covers(self, address: int, length: int) -> bool:
        """Whether all of a piece is there."""
        reaches = address < self._bad.address + PAGE_SIZE and self._bad.address < address + length
        return self._memory.covers(address, length) and not (reaches and self._bad.removed)

    def stored(self) -> Iterator[MemoryRange]:
        """Yields what is stored of the whole."""
        return self._memory.stored()


class Count(NamedTuple):
    """What became of the images without a page of one table.

    Attributes:
        images: how many there were.
        listed: in how many of them all processes are listed.
        wrong: what is told and is not so, in any of them.
        lost: symbols that are absent, in the worst of them.
    """

    images: int
    listed: int
    wrong: Sequence[str]
    lost: int


def tables(kernel: LinuxKernel) -> dict[str, range]:
    """Returns the addresses of a kernel's tables by their names."""
    found = {}
    assert kernel.kallsyms is not None
    kallsyms = sorted((at, name) for name, at in kernel.kallsyms.tables.items())
    for (start, name), (end, _) in zip(kallsyms, kallsyms[1:]):
        found[name] = range(start, end)
    start, name = kallsyms[-1]
    size = 3 * len(kernel.kallsyms) if name.endswith("seqs_of_names") else 512
    found[name] = range(start, start + size)
    for name, first, last in _TABLES:
        bounds = kernel.address(first), kernel.address(last)
        if bounds[0] is not None and bounds[1] is not None:
            found[name] = range(bounds[0], bounds[1])
    for module in kernel.modules or ():
        found[f"struct module of {module.name}"] = range(module.address, module.address + 1)
    return found


def without_each_page(
    machine: Machine, every: int = 1, removed: bool = False, only: Sequence[str] = ()
) -> Mapping[str, Count]:
    """Lists the processes without each page of the tables.

    Args:
        machine: the whole.
        every: of the pages of a table one out of so many; the first always.
        removed: whether the page is missing, instead of zeros.
        only: names of the tables; all of them where it is empty.

    Returns:
        By the name of the table.
    """
    whole = find_kernel(machine)
    assert whole is not None and whole.kallsyms is not None
    processes = _processes(whole)
    assert processes, "all of them are listed in the whole image"
    symbols = {(symbol.name, symbol.address) for symbol in whole.kallsyms}
    counts = {}
    for name, table in tables(whole).items():
        if only and name not in only:
            continue
        images = listed = lost = 0
        wrong: list[str] = []
        for page in range(table.start & -PAGE_SIZE, table.stop, every * PAGE_SIZE):
            bad = _Bad(whole.tables.translate(page)[0] & -PAGE_SIZE, removed)
            memory = _Memory(machine.memory, bad)
            images += 1
            kernel = find_kernel(Machine(memory, machine.vcpus, object(), machine.origin))
            found = _processes(kernel)
            if found is not None and found - processes:
                wrong.append(f"{page:#x}: processes {sorted(found - processes)}")
            listed += found == processes
            # A version that tells nothing of losses is not trusted.
            if kernel and kernel.kallsyms and getattr(kernel.kallsyms, "lost", True):
                told = {(symbol.name, symbol.address) for symbol in kernel.kallsyms}
                lost = max(lost, len(symbols) - len(told & symbols))
                if told - symbols:
                    wrong.append(f"{page:#x}: {len(told - symbols)} symbols")
        counts[name] = Count(images, listed, wrong, lost)
    return counts


def _processes(kernel: Optional[LinuxKernel]) -> Optional[frozenset[tuple[int, str]]]:
    """Returns pid and name of each task; None where they cannot be listed."""
    if kernel is None or kernel.types is None:
        return None
    try:
        return frozenset((task.pid, task.comm) for task in Tasks(kernel, kernel.types))
    except GuestDumpError:
        return None


def main() -> None:
    """Prints a table for a guest of the lab."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("guest")
    parser.add_argument("--every", type=int, default=1, help="take one page out of so many")
    parser.add_argument("--removed", action="store_true", help="leave the page out: no zeros")
    parser.add_argument("--table", action="append", default=[], help="take this table alone")
    arguments = parser.parse_args()
    start = time.monotonic()
    machine = guest_machine(lab.guest(arguments.guest))
    counts = without_each_page(machine, arguments.every, arguments.removed, arguments.table)
    print(f"{'table':32}{'images':>8}{'all processes':>15}{'most lost':>11}  wrong")
    for name, count in counts.items():
        wrong = "; ".join(count.wrong[:3]) or "-"
        print(f"{name:32}{count.images:8}{count.listed:15}{count.lost:11}  {wrong}")
    images = sum(count.images for count in counts.values())
    listed = sum(count.listed for count in counts.values())
    print(f"{'together':32}{images:8}{listed:15}  in {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
