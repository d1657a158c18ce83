"""What guestdump.Info shows: a dump, and the kernel in it, in variables with text values."""

from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.layers import GuestDumpLayer
from volatility_guestdump.linux.backtrace import Stacks
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.log import panic_message
from volatility_guestdump.paging import PagingMode, find_paging
from volatility_guestdump.stackers import installed_isf
from volatility_guestdump.vmem import file_state, memory_locations
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.symbols import WindowsSymbols, installed

#: The variables of a kernel, in their order; one that is not known has no value.
KERNEL_VARIABLES = (
    *("Paging", "Page-table isolation", "Operating system", "Kernel banner", "Kernel build id"),
    *("Kernel virtual base", "KASLR shift", "Kernel physical base", "Page map (DTB)"),
    *("Symbols", "Panic", "Panic task"),
)

Values = dict[str, Optional[str]]


def file_variables(dump: GuestDumpLayer) -> Iterator[tuple[str, str]]:
    """Yields what the two files say, whatever runs in the guest."""
    guest = dump.guest
    yield "Format", guest.format
    yield "vCPUs", str(len(guest.vcpus))
    yield "Memory size", f"{guest.memory_size} ({_binary_size(guest.memory_size)})"
    for number, run in enumerate(guest.ranges):
        yield (
            f"Memory range {number}",
            f"{run.start:#x}-{run.end - 1:#x} at file offset {run.file_offset:#x}",
        )
    yield "Memory file", _memory_file(dump)


def _binary_size(size: int) -> str:
    """Returns a size in the largest unit that gives a short number: "192 MiB", "1.5 GiB"."""
    if size < 1 << 30:
        return f"{size / (1 << 20):.6g} MiB"
    return f"{size / (1 << 30):.6g} GiB"


def _memory_file(dump: GuestDumpLayer) -> str:
    """Returns the URL of the memory file, and its state."""
    location, missing = dump.memory_location, dump.missing_memory
    if location is None:
        expected = memory_locations(dump.guest_location)
        for candidate in expected:
            if file_state(candidate):
                return f"{candidate} (unreadable)"
        return f"{expected[0]} (missing)"
    state = "complete"
    if missing > 0:
        state = (
            f"{missing} bytes short, from guest-physical address {dump.first_missing_address:#x}"
        )
    elif missing:
        state = f"complete, {-missing} bytes too long"
    return f"{location} ({state})"


def unknown_variables(dump: GuestDumpLayer) -> Values:
    """Returns what is known without a kernel: how the first vCPU that pages does so."""
    for vcpu in dump.guest.vcpus:
        mode, tables = find_paging(dump.memory.read, vcpu)
        if mode is not PagingMode.OFF:
            page_map = tables.root if tables else mode.root(vcpu["cr3"])
            return {"Paging": mode.value, "Page map (DTB)": f"{page_map:#x}"}
    return {"Paging": PagingMode.OFF.value}


def linux_variables(dump: GuestDumpLayer, kernel: LinuxKernel) -> Values:
    """Returns what is known of a Linux kernel."""
    isolation = kernel.isolates_page_tables()
    btf, symbols = _linux_symbols(kernel)
    return {
        "Paging": kernel.tables.mode.value,
        "Page-table isolation": None if isolation is None else "on" if isolation else "off",
        "Operating system": kernel.system,
        "Kernel banner": kernel.shown_banner,
        "Kernel build id": kernel.build_id,
        "Kernel virtual base": f"{kernel.virtual_base:#x}",
        "KASLR shift": f"{kernel.kaslr_shift:#x}",
        "Kernel physical base": f"{kernel.physical_base:#x}",
        "Page map (DTB)": f"{kernel.page_map:#x}",
        "Symbols": symbols,
        "Panic": panic_message(kernel, btf),
        "Panic task": Stacks(kernel, dump.guest.vcpus, btf).panic_task(),
    }


def _linux_symbols(kernel: LinuxKernel) -> tuple[Optional[Btf], str]:
    """Returns the kernel's types, and in words where its symbols and types come from."""
    btf, missing = None, kernel.kallsyms_error
    try:
        btf = kernel.read_btf()
    except BtfError as error:
        missing = missing or str(error)
    _, location = installed_isf(kernel)
    if location is not None:
        return btf, location
    if not missing:
        return btf, "kallsyms and BTF in the dump"
    partly = "kallsyms in the dump, but no types" if kernel.kallsyms else "none"
    return btf, f"{partly}: {missing}; plugins need an ISF for this banner"


def windows_variables(kernel: WindowsKernel, symbols: Optional[WindowsSymbols]) -> Values:
    """Returns what is known of a Windows kernel.

    Args:
        kernel: the kernel.
        symbols: its symbols, when they are on this machine.
    """
    pdb = kernel.image.pdb
    if pdb is None:
        source = "none: the kernel's debug record is not in the dump"
    else:
        source = (
            installed(pdb) or "none on this machine; Volatility's Windows plugins download them"
        )
    return {
        "Paging": kernel.tables.mode.value,
        "Operating system": kernel.system,
        "Kernel banner": kernel.banner,
        "Kernel virtual base": f"{kernel.image.base:#x}",
        "Kernel physical base": f"{kernel.physical_base:#x}",
        "Page map (DTB)": f"{kernel.page_map:#x}",
        "Symbols": source,
        "Panic": symbols.bug_check() if symbols else None,
    }
