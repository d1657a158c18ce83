# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where a kernel's ORC tables lie in its image."""

from volatility_guestdump.exceptions import AddressError, OrcError
from volatility_guestdump.linux.finding.image import KernelImage, read_run
from volatility_guestdump.linux.stacks.orc import ENTRY_SIZE, IP_SIZE, OrcTable, find_form
from volatility_guestdump.linux.stacks.orc_search import find_orc

#: A distribution's kernel has about 3 MB of entries.
_ORC_LIMIT = 64 << 20


def read_orc(kernel: KernelImage) -> OrcTable:
    """Reads a kernel's unwinding tables, by their symbols or by what they look like.

    Raises:
        OrcError: the kernel has none, or they are damaged.
    """
    return _search_orc(kernel) if kernel.has_code_alone else _read_orc(kernel)


def _read_orc(kernel: KernelImage) -> OrcTable:
    tables = []
    for name in ("orc_unwind_ip", "orc_unwind"):
        start, stop = kernel.address(f"__start_{name}"), kernel.address(f"__stop_{name}")
        if start is None or stop is None:
            raise OrcError("the kernel has no unwinding tables (ORC)")
        if not 0 <= stop - start <= _ORC_LIMIT:
            raise OrcError(f"the kernel's {name} table would have {stop - start} bytes")
        try:
            tables.append((start, kernel.read(start, stop - start)))
        except AddressError as error:
            raise OrcError(f"the kernel's {name} table is not in the dump") from error
    (place, ips), (_, entries) = tables
    return OrcTable(ips, entries, place, find_form(entries))


def _search_orc(kernel: KernelImage) -> OrcTable:
    # Code that is only run at the end (.exit.text) lies behind what has symbols.
    end = kernel.runs[-1].start + kernel.runs[-1].size
    for run in kernel.runs if kernel.bits == 64 else ():
        image = read_run(kernel, run)
        found = find_orc(image, run.start, kernel.virtual_base, end)
        if found is not None:
            ips = image[found.ips : found.ips + IP_SIZE * found.size]
            entries = image[found.entries : found.entries + ENTRY_SIZE * found.size]
            return OrcTable(ips, entries, run.start + found.ips, find_form(entries))
    raise OrcError("the kernel has no unwinding tables (ORC) that can be found")
