# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where a kernel's ORC tables lie in its image."""

from typing import Optional

from volatility_guestdump.exceptions import OrcError
from volatility_guestdump.linux.finding.image import KernelImage, read_run
from volatility_guestdump.linux.stacks.orc import ENTRY_SIZE, IP_SIZE, OrcTable, table_with_holes
from volatility_guestdump.linux.stacks.orc_search import find_orc
from volatility_guestdump.machine import read_padded

#: A distribution's kernel has about 3 MB of entries.
_ORC_LIMIT = 64 << 20


def read_orc(kernel: KernelImage) -> OrcTable:
    """Reads a kernel's unwinding tables, by their symbols or by what they look like.

    Raises:
        OrcError: the kernel has none, or they are damaged.
    """
    start, _ = _bounds(kernel, "orc_unwind")
    # Where symbols are lost those of the tables may be among them.
    if kernel.has_code_alone or (start is None and kernel.lacks_symbols):
        return _search_orc(kernel)
    return _read_orc(kernel)


def _bounds(kernel: KernelImage, name: str) -> tuple[Optional[int], Optional[int]]:
    start, stop = kernel.address(f"__start_{name}"), kernel.address(f"__stop_{name}")
    return (None, None) if start is None or stop is None else (start, stop)


def _read_orc(kernel: KernelImage) -> OrcTable:
    tables = []
    for name in ("orc_unwind_ip", "orc_unwind"):
        start, stop = _bounds(kernel, name)
        if start is None or stop is None:
            raise OrcError("the kernel has no unwinding tables (ORC)")
        if not 0 <= stop - start <= _ORC_LIMIT:
            raise OrcError(f"the kernel's {name} table would have {stop - start} bytes")
        data, missing = read_padded(kernel.read, start, stop - start)
        if missing is not None and not any(data):
            raise OrcError(f"the kernel's {name} table is not in the dump") from missing
        tables.append((start, data))
    return table_with_holes(*tables[0], *tables[1])


def _search_orc(kernel: KernelImage) -> OrcTable:
    # Code that is only run at the end (.exit.text) lies behind what has symbols.
    end = kernel.runs[-1].start + kernel.runs[-1].size
    for run in kernel.runs if kernel.bits == 64 else ():
        image = read_run(kernel, run)
        found = find_orc(image, run.start, kernel.virtual_base, end)
        if found is not None:
            ips = image[found.ips : found.ips + IP_SIZE * found.size]
            entries = image[found.entries : found.entries + ENTRY_SIZE * found.size]
            return table_with_holes(run.start + found.ips, ips, run.start + found.entries, entries)
    raise OrcError("the kernel has no unwinding tables (ORC) that can be found")
