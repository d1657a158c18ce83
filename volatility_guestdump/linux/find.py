"""Finding the Linux kernel that a machine runs, from the registers of its vCPUs.

The page tables that a vCPU points to map the kernel's image at an address that is known:

    64-bit   between 0xffffffff80000000 and 0xffffffffc0000000, and nothing else before it
             (Documentation/arch/x86/x86_64/mm.rst), with four levels and with five
    32-bit   in the linear mapping, around the handlers that the IDT points to

Only the image is read. Its banner says that it is Linux; kallsyms in it says the rest.
"""

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import Optional

from volatility_guestdump.exceptions import AddressError, KallsymsError
from volatility_guestdump.linux.kallsyms import Kallsyms, find_kallsyms
from volatility_guestdump.linux.kernel import LinuxKernel, Run
from volatility_guestdump.machine import PAGE_SIZE, Machine, read_padded
from volatility_guestdump.x86.idt import handlers
from volatility_guestdump.x86.paging import PageTables, candidate_tables

#: Where a 64-bit kernel's image may lie; modules follow behind.
IMAGE_START = 0xFFFFFFFF80000000
IMAGE_END = 0xFFFFFFFFC0000000

#: linux_banner as the build makes it. The kernel's early boot code has one without a number
#: behind the "#", and the log has one without the newline.
_BANNER_START = b"Linux version "
_BANNER = re.compile(_BANNER_START + rb"[0-9][^\0\n]{8,400} #\d+[^\0\n]{0,200}\n\0")
_BANNER_LIMIT = 1024
_BANNERS_LIMIT = 16

#: More than any kernel's text and data.
_IMAGE_LIMIT = 512 << 20
#: How far from the handlers of exceptions a 32-bit kernel's image may reach.
_IMAGE_REACH_32 = 64 << 20
#: What is searched at a time. Larger ones were up to five times slower: each is a new allocation
#: from the system, whose pages come one by one.
_CHUNK = 256 << 10
#: How far from the banner kallsyms may lie: both are in .rodata.
_RODATA_REACH = 64 << 20
#: Pieces of memory with a banner that are tried as the kernel's, before one without symbols is
#: taken for it. Memory that was freed keeps what was in it, copies of the banner too.
_ATTEMPTS = 4


def find_kernel(machine: Machine) -> Optional[LinuxKernel]:
    """Finds the Linux kernel that the vCPUs of a machine run.

    Args:
        machine: that is searched; each vCPU is tried, for some may be in a useless state.

    Returns:
        The kernel, or None when the guest is not Linux, or has not come far enough to tell.
    """
    found = None
    for kernel in itertools.islice(_kernels(machine), _ATTEMPTS):
        if kernel.kallsyms is not None:
            return kernel
        found = found or kernel
    return found


def _kernels(machine: Machine) -> Iterator[LinuxKernel]:
    """Yields what may be the kernel: pieces of the image that have a banner."""
    for vcpu, tables in candidate_tables(machine.memory.read, machine.vcpus):
        first = list(handlers(vcpu, tables, 1))
        runs = list(_image_runs(tables, first))
        for run in runs:
            banners = _banners(tables, run)
            if banners:
                yield _kernel(tables, first, runs, run, banners)


def _kernel(
    tables: PageTables,
    first_handlers: Sequence[int],
    runs: Sequence[Run],
    rodata: Run,
    banners: dict[int, bytes],
) -> LinuxKernel:
    """Returns the kernel in an image.

    Args:
        tables: page tables that map it.
        first_handlers: where its handler of divide errors may be.
        runs: the mapped pieces of its image, ascending.
        rodata: the one of them that has the banner.
        banners: addresses of what may be the banner, with the texts.
    """
    bits = 64 if tables.mode.is_64bit else 32
    known: list[tuple[str, Sequence[int]]] = [("linux_banner", list(banners))]
    if tables.mode.is_64bit:
        known += [("_text", [runs[0].start]), ("_stext", [runs[0].start])]
    known += [("asm_exc_divide_error", first_handlers), ("divide_error", first_handlers)]
    first = min(banners)
    start = max(rodata.start, (first - _RODATA_REACH) & -PAGE_SIZE)
    end = min(rodata.start + rodata.size, first + _RODATA_REACH)
    image, missing = read_padded(
        tables.read_physical, rodata.physical + start - rodata.start, end - start
    )
    try:
        kallsyms = find_kallsyms(image, start, known, bits)
    except KallsymsError as error:
        return LinuxKernel(tables, runs, banners[first], None, str(missing or error))
    banner = banners[first]
    place = kallsyms.address("linux_banner")
    if place is not None:
        banner = banners.get(place) or _banner_at(tables, place) or banner
    return LinuxKernel(_kernel_tables(tables, kallsyms, runs), runs, banner, kallsyms)


def _banner_at(tables: PageTables, address: int) -> Optional[bytes]:
    """Returns the banner at an address, or None when there is none."""
    try:
        match = _BANNER.match(tables.read(address, _BANNER_LIMIT))
    except AddressError:
        return None
    return match[0].rstrip(b"\0\n") if match else None


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


def _image_runs(tables: PageTables, first_handlers: Sequence[int]) -> Iterator[Run]:
    """Yields what the page tables map where the kernel's image lies or may lie."""
    if tables.mode.is_64bit:
        start, end = IMAGE_START, IMAGE_END
    else:
        start, end = 0, 0
        for handler in first_handlers:
            start = max(0, handler - _IMAGE_REACH_32) & -PAGE_SIZE
            end = min(1 << 32, handler + _IMAGE_REACH_32)
    left = _IMAGE_LIMIT
    for address, physical, size in tables.runs(start, end):
        yield Run(address, physical, min(size, left))
        left -= size
        if left <= 0:
            return


def _banners(tables: PageTables, run: Run) -> dict[int, bytes]:
    """Returns the addresses and texts of what looks like linux_banner in a piece of the image."""
    for offset in range(0, run.size, _CHUNK):
        size = min(_CHUNK + _BANNER_LIMIT, run.size - offset)
        chunk, _ = read_padded(tables.read_physical, run.physical + offset, size)
        banners: dict[int, bytes] = {}
        place = chunk.find(_BANNER_START)
        while place >= 0 and len(banners) < _BANNERS_LIMIT:
            match = _BANNER.match(chunk, place)
            if match:
                banners[run.start + offset + place] = match[0].rstrip(b"\0\n")
            place = chunk.find(_BANNER_START, place + 1)
        if banners:
            return banners
    return {}
