# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The Linux kernel's Intel layers on a machine's memory, with a short path for small reads.

Volatility's layers translate each read anew, through two generators and a layer's name; nearly all
reads of plugins are of a few bytes in pages that were translated before.
"""

import functools
from collections.abc import Iterable
from typing import Any, Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.layers import intel

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.framework.machines import machine_of
from volatility_guestdump.framework.templates import KeepsMembers, kept_members
from volatility_guestdump.machine import PAGE_SIZE, Read

_PAGE_BITS = PAGE_SIZE.bit_length() - 1
_OFFSET = PAGE_SIZE - 1
#: What plugins ask for is a structure: task_struct has 10 KiB.
_MAXIMUM_PIECE = 1 << 16
#: More pages than a plugin usually reads, in 8 MiB.
_MAXIMUM_PAGES = 1 << 16
#: The smallest large page, of PAE and long mode; without PAE they have two of it.
_BLOCK = 2 << 20
_PAGES = _BLOCK // PAGE_SIZE


class _ShortPath(KeepsMembers, intel.Intel):
    """Remembers where pages are, and reads what lies inside one page from there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        #: Number of a virtual page -> its address in the layer below.
        self._places: dict[int, int] = {}
        #: The same for whole blocks of large pages: of what the kernel maps for itself, each page
        #: is read a few times only, and most time would go into its page tables.
        self._blocks: dict[int, int] = {}
        self.kept_members = kept_members()

    @functools.cached_property
    def _below(self) -> interfaces.layers.DataLayerInterface:
        return self._context.layers[str(self._base_layer)]

    @functools.cached_property
    def _read_below(self) -> Read:
        machine = machine_of(self._below)
        return machine.memory.read if machine else self._below.read

    def _place(self, number: int) -> Optional[int]:
        """Finds the place of a page; None when not all of it can be read."""
        block, page = divmod(number, _PAGES)
        # One look: another thread may clear both meanwhile.
        start = self._blocks.get(block)
        if start is not None:
            place = start + page * PAGE_SIZE
        else:
            try:
                place, size, layer = self._translate(number << _PAGE_BITS)
            except exceptions.InvalidAddressException:
                return None
            if layer != self._base_layer or not self._below.is_valid(place, PAGE_SIZE):
                return None
            start = place - page * PAGE_SIZE
            if size >= _BLOCK and not start % _BLOCK and self._below.is_valid(start, _BLOCK):
                self._blocks[block] = start
        if len(self._places) >= _MAXIMUM_PAGES:
            self._places.clear()
            self._blocks.clear()
        self._places[number] = place
        return place

    def read(  # type: ignore[override] # Volatility's is behind an lru_cache
        self, offset: int, length: int, pad: bool = False
    ) -> bytes:
        """Reads virtual memory; see `DataLayerInterface.read`."""
        start = offset & _OFFSET
        if 0 < length <= PAGE_SIZE - start:
            number = offset >> _PAGE_BITS
            place = self._places.get(number)
            if place is None:
                place = self._place(number)
            if place is not None:
                try:
                    return self._read_below(place + start, length)
                except AddressError:
                    pass
        # Says precisely what is not there.
        return bytes(super().read(offset, length, pad))

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Returns whether all of a piece of memory can be read."""
        if 0 < length <= _MAXIMUM_PIECE:
            for page in range(offset >> _PAGE_BITS, (offset + length - 1 >> _PAGE_BITS) + 1):
                if page not in self._places and self._place(page) is None:
                    break
            else:
                return True
        return bool(super().is_valid(offset, length))

    def mapping(
        self, offset: int, length: int, ignore_errors: bool = False
    ) -> Iterable[tuple[int, int, int, int, str]]:
        """Yields where a piece of memory is; see `TranslationLayerInterface.mapping`."""
        start = offset & _OFFSET
        if 0 < length <= PAGE_SIZE - start:
            number = offset >> _PAGE_BITS
            place = self._places.get(number) or self._place(number)
            if place is not None:
                yield offset, length, place + start, length, str(self._base_layer)
                return
        yield from super().mapping(offset, length, ignore_errors)

    def __getstate__(self) -> dict[str, Any]:
        """Leaves out what can be found again."""
        found_again = ("_below", "_read_below")
        state = {name: value for name, value in self.__dict__.items() if name not in found_again}
        return {**state, "_places": {}, "_blocks": {}, "kept_members": kept_members()}


class GuestDumpIntel(_ShortPath, intel.LinuxIntel):
    """Linux with 32-bit paging."""


class GuestDumpIntelPAE(_ShortPath, intel.LinuxIntelPAE):
    """Linux with PAE paging."""


class GuestDumpIntel32e(_ShortPath, intel.LinuxIntel32e):
    """Linux with 4-level paging."""


class GuestDumpIntelLA57(_ShortPath, intel.LinuxMixin, intel.Intel32e):
    """Linux with 5-level paging (CR4.LA57), which Volatility 2.28 has no layer for."""

    # Linux keeps physical addresses of 52 bits in its page tables from 4.18 on (b83ce5ee91471d19).
    # The 46 bits that Volatility uses for 4-level paging would cut off memory above 64 TiB,
    # which is what 5-level paging is for.
    _maxphyaddr = 52
    _maxvirtaddr = 57
    #: Where memory encryption takes bits of the mask, entries without access rights (PROT_NONE) are
    #: not inverted up to bit 51, as in kernels before 4.18.
    _narrow_mask = (1 << 46) - 1
    _structure = [("page map layer 5", 9, False), *intel.Intel32e._structure]

    def _pte_pfn(self, entry: int) -> int:
        """Extracts the page frame number; of an inverted entry the one that memory has."""
        number: int = super()._pte_pfn(entry)
        narrow = number & (self._narrow_mask >> self.page_shift)
        if (
            number != narrow
            and self._pte_needs_invert(entry)
            and number << self.page_shift > self._below.maximum_address
        ):
            return narrow
        return number
