# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Finding the Linux kernel that a machine runs.

The page tables that are found map the kernel's image at an address that is known:

    64-bit   between 0xffffffff80000000 and 0xffffffffc0000000, and nothing else before it
             (Documentation/arch/x86/x86_64/mm.rst), with four levels and with five
    32-bit   in the linear mapping, around an address of the kernel that is known

There are five ways to the page tables, the cheapest and surest first: VMCOREINFO where the file
has it beside memory, registers of vCPUs, low memory, and after a search of all memory VMCOREINFO
and the banner. However they are found, only the image is read then. Its banner says that it is
Linux; kallsyms in it says the rest.
"""

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError, KallsymsError
from volatility_guestdump.linux.finding import vmcoreinfo
from volatility_guestdump.linux.finding.banner import (
    BANNER_LIMIT,
    RODATA_REACHES,
    banner_starts,
    banner_tables,
    match_banner,
)
from volatility_guestdump.linux.finding.image import Run
from volatility_guestdump.linux.finding.low_memory import low_memory_tables
from volatility_guestdump.linux.finding.search import Hits, Progress, search
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state.crash import is_second_kernel
from volatility_guestdump.linux.symbols.kallsyms import Kallsyms, find_kallsyms
from volatility_guestdump.linux.symbols.kallsyms_holes import find_damaged_kallsyms
from volatility_guestdump.machine import PAGE_SIZE, Machine, Memory, read_padded
from volatility_guestdump.x86.idt import handlers
from volatility_guestdump.x86.paging import PageTables, candidate_tables

vollog = logging.getLogger(__name__)

#: Where a 64-bit kernel's image may lie; modules follow behind.
IMAGE_START = 0xFFFFFFFF80000000
IMAGE_END = 0xFFFFFFFFC0000000

_BANNERS_LIMIT = 16

#: More than any kernel's text and data.
_IMAGE_LIMIT = 512 << 20
#: What all candidates together may map where the image lies, for all of it is looked at; each piece
#: counts as one of this size at least. A kernel has some 50 MiB there, other systems hardly any.
_ALL_IMAGES_LIMIT = 16 << 30
_SMALLEST_PIECE = 64 << 10
#: Entries of page tables that are looked at there, in those of all candidates. A kernel has some
#: hundreds; with pages of 4 KiB alone some 15,000.
IMAGE_STEPS = 1 << 21
#: How far from an address in it a 32-bit kernel's image may reach.
_IMAGE_REACH_32 = 64 << 20
#: What is searched at a time. Larger ones were up to five times slower: each is a new allocation
#: from the system, whose pages come one by one.
_CHUNK = 256 << 10
#: Pieces of memory with a banner that are tried as the kernel's, before one without symbols is
#: taken for it. Memory that was freed keeps what was in it, copies of the banner too.
_ATTEMPTS = 4
#: The same after a search, where several with symbols are looked for.
_ATTEMPTS_IN_ALL = 64
#: Banners around which kallsyms are looked for after a search, for each of `RODATA_REACHES`.
#: Copies of the banner may be many, and a near look at one takes a tenth of a second, a far one a
#: whole.
_BANNER_ATTEMPTS = (256, 16)

#: Addresses that symbols of the kernel may have.
_Known = Mapping[str, Sequence[int]]
#: Page tables, and symbols of the kernel that they map: around them a 32-bit one is looked for.
_Candidates = Iterable[tuple[PageTables, _Known]]


def find_kernel(machine: Machine) -> Optional[LinuxKernel]:
    """Finds the Linux kernel of a machine by its file's VMCOREINFO, registers or low memory.

    Args:
        machine: that is looked at; each vCPU is tried, for some may be in a useless state.

    Returns:
        The kernel, or None when the guest is not Linux, or has not come far enough to tell. Of two,
        it is the one that panicked, and not the one that kdump started then.
    """
    return (
        _by_note(machine)
        or _first(_by_registers(machine), "registers")
        or low_memory_kernel(machine.memory)
    )


def low_memory_kernel(memory: Memory) -> Optional[LinuxKernel]:
    """Returns the Linux kernel that low memory leads to, or None; see `find_kernel`."""
    return _first(((tables, {}) for tables in low_memory_tables(memory)), "low memory")


def search_kernel(
    memory: Memory, progress: Progress = None, hits: Optional[Hits] = None
) -> Optional[LinuxKernel]:
    """Searches all of memory for a Linux kernel.

    Args:
        memory: that is searched.
        progress: called with per cent and a description while it is.
        hits: what a search has found already.

    Returns:
        The kernel, or None when there is none. Of several with symbols, which a crash kernel or
        an earlier kernel left in memory, it is the first, and a warning says so.
    """
    hits = search(memory, progress) if hits is None else hits
    found = _chosen(_by_vmcoreinfo(memory, hits), "VMCOREINFO")
    for reach, attempts in zip(RODATA_REACHES, _BANNER_ATTEMPTS):
        found = found or _chosen(_by_banner(memory, hits.banners[:attempts], reach), "banner")
    return found


def _by_note(machine: Machine) -> Optional[LinuxKernel]:
    """Returns the kernel that VMCOREINFO in the machine's file leads to, or None.

    The guest wrote it when it started, maybe before it started another kernel: it is believed where
    the kernel in memory has the release that it names.
    """
    if not machine.vmcoreinfo:
        return None
    info = vmcoreinfo.parse(machine.vmcoreinfo)
    found = _first(_named_tables(machine.memory, info), "VMCOREINFO")
    if found is not None and found.kallsyms is not None and found.release == info.get("OSRELEASE"):
        return found
    vollog.info("The VMCOREINFO in the file does not lead to the kernel that it tells of")
    return None


def _by_registers(machine: Machine) -> Iterator[tuple[PageTables, _Known]]:
    for vcpu, tables in candidate_tables(machine.memory.read, machine.vcpus):
        first = list(handlers(vcpu, tables, 1))
        yield tables, {"asm_exc_divide_error": first, "divide_error": first}


def _by_vmcoreinfo(memory: Memory, hits: Hits) -> Iterator[tuple[PageTables, _Known]]:
    for address in hits.vmcoreinfo:
        yield from _named_tables(memory, vmcoreinfo.read_at(memory, address))


def _named_tables(memory: Memory, info: Mapping[str, str]) -> Iterator[tuple[PageTables, _Known]]:
    start = vmcoreinfo.symbol(info, "_stext")
    for tables in vmcoreinfo.vmcoreinfo_tables(memory, info):
        yield tables, {} if start is None else {"_stext": [start]}


def _by_banner(
    memory: Memory, addresses: Sequence[int], reach: tuple[int, int]
) -> Iterator[tuple[PageTables, _Known]]:
    for address in addresses:
        for tables, banner in banner_tables(memory, address, reach):
            yield tables, {"linux_banner": [banner]}


def _first(candidates: _Candidates, found_by: str) -> Optional[LinuxKernel]:
    """Returns the first kernel with symbols, or else the first without.

    One that kdump started comes behind the one that panicked.
    """
    found = second = None
    for kernel in itertools.islice(_kernels(candidates, found_by), _ATTEMPTS):
        if kernel.kallsyms is None:
            found = found or kernel
        elif is_second_kernel(kernel):
            second = second or kernel
        else:
            return kernel
    return second or found


def _chosen(candidates: _Candidates, found_by: str) -> Optional[LinuxKernel]:
    """Returns the kernel that runs: of several with symbols a crash kernel that was started."""
    different: dict[int, LinuxKernel] = {}
    kernels = _kernels(_each_once(candidates), found_by)
    for kernel in itertools.islice(kernels, _ATTEMPTS_IN_ALL):
        if kernel.kallsyms is not None:
            different.setdefault(kernel.page_map, kernel)
        if len(different) >= _ATTEMPTS:
            break
    found = list(different.values())
    if len(found) < 2:
        return found[0] if found else None
    # A crash kernel in memory is mapped and has symbols only when it was started, and what it
    # was started behind does not run any more.
    chosen = next(filter(is_second_kernel, found), found[0])
    others = ", ".join(
        f"{kernel.release} at {kernel.page_map:#x}" for kernel in found if kernel is not chosen
    )
    vollog.warning(
        f"There is more than one Linux kernel in memory: {chosen.release} with its page tables at "
        f"{chosen.page_map:#x} is taken for the running one, and not {others}"
    )
    return chosen


def _each_once(candidates: _Candidates) -> Iterator[tuple[PageTables, _Known]]:
    seen = set()
    for tables, known in candidates:
        if (tables.mode, tables.root) not in seen:
            seen.add((tables.mode, tables.root))
            yield tables, known


def _kernels(candidates: _Candidates, found_by: str) -> Iterator[LinuxKernel]:
    """Yields what may be the kernel: pieces of the image that have a banner."""
    without_banner: set[Run] = set()
    left = _ALL_IMAGES_LIMIT
    budget = Budget(IMAGE_STEPS)
    for tables, known in candidates:
        places = [each for places in known.values() for each in places]
        runs = list(_image_runs(tables, places, budget))
        left -= sum(max(run.size, _SMALLEST_PIECE) for run in runs)
        if budget.is_spent:
            vollog.warning(
                f"The search for a Linux kernel by {found_by} is given up: page tables have far "
                f"more entries where a kernel's image may lie than kernels have"
            )
        if left < 0 or budget.is_spent:
            return
        for run in runs:
            banners = {} if run in without_banner else _banners(tables, run)
            if banners:
                kernel = _kernel(tables, known, runs, run, banners)
                kernel.found_by = found_by
                yield kernel
            else:
                without_banner.add(run)


def _kernel(
    tables: PageTables,
    symbols: _Known,
    runs: Sequence[Run],
    rodata: Run,
    banners: dict[int, bytes],
) -> LinuxKernel:
    """Returns the kernel in an image.

    Args:
        tables: page tables that map it.
        symbols: of the kernel, whose addresses are known by other means than its image.
        runs: the mapped pieces of its image, ascending.
        rodata: the one of them that has the banner.
        banners: addresses of what may be the banner, with the texts.
    """
    bits = 64 if tables.mode.is_64bit else 32
    known: list[tuple[str, Sequence[int]]] = [("linux_banner", list(banners))]
    if tables.mode.is_64bit:
        known += [("_text", [runs[0].start]), ("_stext", [runs[0].start])]
    known += symbols.items()
    first = min(banners)
    kallsyms, reason = None, ""
    # What is whole is looked for before what is not, which takes longer.
    for decode, (before, behind) in (
        *((find_kallsyms, reach) for reach in RODATA_REACHES),
        (find_damaged_kallsyms, RODATA_REACHES[0]),
    ):
        start = max(rodata.start, (first - before) & -PAGE_SIZE)
        end = min(rodata.start + rodata.size, first + behind)
        image, missing = read_padded(
            tables.read_physical, rodata.physical + start - rodata.start, end - start
        )
        try:
            kallsyms = decode(image, start, known, bits)
            break
        except KallsymsError as error:
            reason = str(missing or error)
    if kallsyms is None:
        return LinuxKernel(tables, runs, banners[first], None, reason)
    banner = banners[first]
    place = kallsyms.address("linux_banner")
    if place is not None:
        banner = banners.get(place) or _banner_at(tables, place) or banner
    return LinuxKernel(_kernel_tables(tables, kallsyms, runs), runs, banner, kallsyms)


def _banner_at(tables: PageTables, address: int) -> Optional[bytes]:
    """Returns the banner at an address, or None when there is none."""
    try:
        return match_banner(tables.read(address, BANNER_LIMIT), 0)
    except AddressError:
        return None


def _kernel_tables(tables: PageTables, kallsyms: Kallsyms, runs: Sequence[Run]) -> PageTables:
    """Returns swapper_pg_dir when it maps the image as the vCPU's tables do."""
    start = runs[0].start
    for name in ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir"):
        address = kallsyms.address(name)
        if address is None:
            continue
        try:
            root, _ = tables.translate(address)
            own = tables.at(root)
            # Not the size of the page too: either may have split a large one.
            if own.translate(start)[0] == tables.translate(start)[0]:
                return own
        except AddressError:
            continue
    return tables


def _image_runs(tables: PageTables, known: Sequence[int], budget: Budget) -> Iterator[Run]:
    """Yields what the page tables map where the kernel's image lies or may lie."""
    if tables.mode.is_64bit:
        start, end = IMAGE_START, IMAGE_END
    else:
        start, end = 0, 0
        for address in known:
            start = max(0, address - _IMAGE_REACH_32) & -PAGE_SIZE
            end = min(1 << 32, address + _IMAGE_REACH_32)
    left = _IMAGE_LIMIT
    for address, physical, size in tables.runs(start, end, budget):
        yield Run(address, physical, min(size, left))
        left -= size
        if left <= 0:
            return


def maps_an_image(tables: PageTables, budget: Budget) -> bool:
    """Whether page tables map something to where a 64-bit kernel's image may lie.

    Args:
        tables: that are looked at.
        budget: of entries in them that are; where it is spent they map none.
    """
    try:
        first = next(_image_runs(tables, (), budget), None)
        return first is not None and bool(tables.read(first.start, 1))
    except AddressError:
        return False


def _banners(tables: PageTables, run: Run) -> dict[int, bytes]:
    """Returns the addresses and texts of what looks like linux_banner in a piece of the image."""
    for offset in range(0, run.size, _CHUNK):
        size = min(_CHUNK + BANNER_LIMIT, run.size - offset)
        chunk, _ = read_padded(tables.read_physical, run.physical + offset, size)
        banners: dict[int, bytes] = {}
        places = list(banner_starts(chunk, run.start + offset))
        for place in reversed(places):
            banner = match_banner(chunk, place)
            if banner is not None:
                banners[run.start + offset + place] = banner
            if len(banners) >= _BANNERS_LIMIT:
                break
        if banners:
            return banners
    return {}
