# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""One search through memory for what a kernel can be found by: VMCOREINFO and banners."""

from dataclasses import dataclass, field
from typing import Callable, Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.finding import vmcoreinfo
from volatility_guestdump.linux.finding.banner import BANNER_START, banner_at, banner_starts
from volatility_guestdump.machine import PAGE_SIZE, Memory, read_padded

#: Told per cent and a description while something takes long; Volatility's ProgressCallback.
Progress = Optional[Callable[[float, str], None]]

#: What is read at a time. Each is a new allocation, which costs more where it is larger.
_PORTION = 256 << 10
#: More than there are, of what is not there to make a search endless.
_HITS = 256


@dataclass
class Hits:
    """What a search found.

    Attributes:
        vmcoreinfo: guest-physical addresses of pages that start as VMCOREINFO does.
        banners: guest-physical addresses of what may be linux_banner.
    """

    vmcoreinfo: list[int] = field(default_factory=list)
    banners: list[int] = field(default_factory=list)


def search(memory: Memory, progress: Progress = None) -> Hits:
    """Reads all of memory once. Of each page ten bytes are looked at for VMCOREINFO.

    Args:
        memory: that is searched.
        progress: called with per cent and a description.
    """
    hits = Hits()
    runs = list(memory.stored())
    total = sum(run.size for run in runs)
    done = 0
    for run in runs:
        for start in range(run.start, run.end, _PORTION):
            size = min(_PORTION, run.end - start)
            # What crosses the end of a portion begins in it.
            more = min(len(BANNER_START) - 1, run.end - start - size)
            try:
                portion = memory.read(start, size + more)
            except AddressError:
                portion, _ = read_padded(memory.read, start, size + more)
            _look_at(memory, start, portion, hits)
            done += size
            if progress is not None:
                progress(100 * done / total, "Searching for a Linux kernel")
    return hits


def _look_at(memory: Memory, start: int, portion: bytes, hits: Hits) -> None:
    first = -start % PAGE_SIZE
    starts = portion[first::PAGE_SIZE]
    page = starts.find(vmcoreinfo.START[:1])
    while page >= 0 and len(hits.vmcoreinfo) < _HITS:
        at = first + page * PAGE_SIZE
        if portion.startswith(vmcoreinfo.START, at):
            hits.vmcoreinfo.append(start + at)
        page = starts.find(vmcoreinfo.START[:1], page + 1)
    banners = [start + at for at in banner_starts(portion, start)]
    for address in reversed(banners):
        if len(hits.banners) < _HITS and banner_at(memory, address):
            hits.banners.append(address)
