# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A kernel from its banner alone: the way that needs no page table and no register.

The kernel's image is in one piece in physical memory, so kallsyms can be decoded around
linux_banner. The distance between linux_banner and the top-level page table is the same in both
spaces of addresses, and so the page table is found.
"""

import re
from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.exceptions import AddressError, KallsymsError
from volatility_guestdump.linux.finding.vmcoreinfo import PAGE_OFFSETS_32
from volatility_guestdump.linux.symbols.kallsyms import find_kallsyms
from volatility_guestdump.machine import PAGE_SIZE, Memory, read_padded
from volatility_guestdump.x86.paging import PageTables, PagingMode

#: linux_banner as the build makes it. The kernel's early boot code has one without a number
#: behind the "#", and the log has one without the newline.
BANNER_START = b"Linux version "
BANNER_LIMIT = 1024
#: Behind a banner. What lies between has none of the two bytes.
_BANNER_END = b"\n\0"
#: How far behind its start " #" may lie in it, and how far before its end.
_RELEASE = (len(BANNER_START) + 9, len(BANNER_START) + 401)
_VERSION_LIMIT = 214
_NUMBER = re.compile(rb" #[0-9]")
#: So many in a page are looked at. .rodata has one, and the log a few; anybody can fill memory with
#: the first word of banners, of which a guest has room for 70 million in each GiB.
_STARTS_IN_PAGE = 16

#: How far before and behind the banner kallsyms may lie: both are in .rodata. It was at most 4 MiB
#: behind it in kernels from 5.10 to 7.2, so there it is looked for first; an image has some 50 MiB.
RODATA_REACHES = ((PAGE_SIZE, 8 << 20), (64 << 20, 64 << 20))

#: A 64-bit kernel's image starts at a multiple of this in both spaces of addresses
#: (CONFIG_PHYSICAL_ALIGN), a 32-bit kernel's linear mapping at a multiple of the other.
_ALIGNMENT_64 = 2 << 20
_ALIGNMENT_32 = 64 << 20


class _Places:
    """The virtual addresses that what is at a physical address may have.

    Addresses that are relative to their own place are decoded as if physical ones were virtual.
    """

    def __init__(self, physical: int, bits: int) -> None:
        self._physical = physical
        self._lowest, self._alignment = (
            (0xFFFFFFFF80000000, _ALIGNMENT_64)
            if bits == 64
            else (min(PAGE_OFFSETS_32), _ALIGNMENT_32)
        )

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, int):
            return False
        return address == self._physical or (
            address >= self._lowest and (address - self._physical) % self._alignment == 0
        )


def banner_tables(
    memory: Memory, address: int, reach: tuple[int, int]
) -> Iterator[tuple[PageTables, int]]:
    """Yields the page tables of a kernel whose banner is at a guest-physical address.

    Args:
        memory: that is looked at.
        address: of the banner.
        reach: how far before and behind it kallsyms are looked for, one of `RODATA_REACHES`.

    Yields:
        Page tables that may be the kernel's, and the virtual address of its banner; for tables of
        64-bit kernels this may be the physical one.
    """
    run = next((run for run in memory.ranges if run.start <= address < run.end), None)
    if run is None:
        return
    first = -(-run.start // PAGE_SIZE) * PAGE_SIZE
    before, behind = reach
    for bits in (64, 32):
        start = max(first, (address - before) & -PAGE_SIZE)
        end = min(run.end, address + behind)
        image, _ = read_padded(memory.read, start, end - start)
        try:
            kallsyms = find_kallsyms(image, start, [("linux_banner", _Places(address, bits))], bits)
        except KallsymsError:
            continue
        banner = kallsyms.address("linux_banner")
        assert banner is not None, "the symbols were checked by it"
        modes = (
            (PagingMode.FOUR_LEVEL, PagingMode.FIVE_LEVEL)
            if bits == 64
            else (PagingMode.PAE, PagingMode.LEGACY)
        )
        if banner == address and bits == 32:
            banner += PAGE_OFFSETS_32[0]
        for name in ("init_top_pgt", "init_level4_pgt", "swapper_pg_dir"):
            place = kallsyms.address(name)
            if place is None:
                continue
            root = place - (kallsyms.address("linux_banner") or 0) + address
            if root > 0 and memory.covers(root, PAGE_SIZE):
                for mode in modes:
                    yield PageTables(memory.read, mode, root), banner
        return


def match_banner(data: bytes, place: int) -> Optional[bytes]:
    """Returns the banner that data have at a place, without the newline at its end, or None.

    Whatever lies there, the steps are as many as a banner has bytes.
    """
    if not data.startswith(BANNER_START, place):
        return None
    end = data.find(_BANNER_END, place, place + _RELEASE[1] + _VERSION_LIMIT)
    if end < 0 or not 0x30 <= data[place + len(BANNER_START)] <= 0x39:
        return None
    text = data[place:end]
    first, last = _RELEASE
    number = _NUMBER.search(text, max(first, len(text) - _VERSION_LIMIT), last + 3)
    return None if number is None or b"\n" in text or b"\0" in text else text


def banner_starts(data: bytes, address: int) -> Iterator[int]:
    """Yields offsets at which banners may start, the last first, some in each page at most.

    Args:
        data: that are searched.
        address: of their first byte.
    """
    # From the end: bytes.rfind is up to three times as fast as bytes.find.
    at, page, left = data.rfind(BANNER_START), -1, 0
    while at >= 0:
        if (address + at) // PAGE_SIZE != page:
            page, left = (address + at) // PAGE_SIZE, _STARTS_IN_PAGE
        if left:
            left -= 1
            yield at
            behind = at
        else:
            # To the page before, whose last one may reach into this one.
            behind = max(0, page * PAGE_SIZE - address + len(BANNER_START) - 1)
        at = data.rfind(BANNER_START, 0, behind)


def banner_at(memory: Memory, address: int) -> bool:
    """Whether linux_banner, as the build makes it, may be at a guest-physical address."""
    try:
        text = memory.read(address, BANNER_LIMIT)
    except AddressError:
        text, _ = read_padded(memory.read, address, BANNER_LIMIT)
    return match_banner(text, 0) is not None
