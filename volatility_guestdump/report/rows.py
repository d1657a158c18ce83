"""The facts in words: the rows of guestdump.Info."""

from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.linux.stacks import PanicTask
from volatility_guestdump.report.facts import (
    FileState,
    KernelFacts,
    MachineFacts,
    MemoryFileFacts,
    Symbols,
)

#: Stands where something is not known.
UNKNOWN = "-"

Row = tuple[str, str]


def machine_rows(facts: MachineFacts) -> Iterator[Row]:
    """Yields (variable, value) of a machine."""
    yield "Format", facts.format
    yield "vCPUs", UNKNOWN if facts.vcpus is None else str(facts.vcpus)
    size = f"{facts.memory_size} ({binary_size(facts.memory_size)})"
    # A file that describes the registers alone may leave it to the memory file.
    yield "Memory size", size if facts.ranges else UNKNOWN
    for number, run in enumerate(facts.ranges):
        yield (
            f"Memory range {number}",
            f"{run.start:#x}-{run.end - 1:#x} at file offset {run.file_offset:#x}",
        )
    yield "Memory file", f"{facts.memory_file.location} ({_file_state(facts.memory_file)})"


def binary_size(size: int) -> str:
    """Returns a size in the largest unit that gives a short number: "192 MiB", "1.5 GiB"."""
    if size < 1 << 30:
        return f"{size / (1 << 20):.6g} MiB"
    return f"{size / (1 << 30):.6g} GiB"


def _file_state(file: MemoryFileFacts) -> str:
    if file.state is FileState.SHORT:
        return f"{file.missing} bytes short, from guest-physical address {file.first_missing:#x}"
    if file.state is FileState.COMPLETE and file.missing:
        return f"complete, {-file.missing} bytes too long"
    return str(file.state.value)


def kernel_rows(facts: KernelFacts) -> Iterator[Row]:
    """Yields (variable, value) of a kernel, always the same variables."""
    isolation = facts.isolation
    values = {
        "Paging": facts.paging and facts.paging.value,
        "Page-table isolation": None if isolation is None else "on" if isolation else "off",
        "Operating system": facts.system,
        "Kernel banner": facts.banner,
        "Kernel build id": facts.build_id,
        "Kernel virtual base": _hexadecimal(facts.virtual_base),
        "KASLR shift": _hexadecimal(facts.kaslr_shift),
        "Kernel physical base": _hexadecimal(facts.physical_base),
        "Page map (DTB)": _hexadecimal(facts.page_map),
        "Symbols": _symbols(facts.symbols) if facts.symbols else None,
        "Panic": facts.panic,
        "Panic task": _panic_task(facts.panic_task) if facts.panic_task else None,
    }
    for variable, value in values.items():
        yield variable, value or UNKNOWN


def _hexadecimal(value: Optional[int]) -> Optional[str]:
    return None if value is None else f"{value:#x}"


def _symbols(symbols: Symbols) -> str:
    if symbols.location is not None:
        return symbols.location
    if symbols.downloadable:
        return "none on this machine; Volatility's Windows plugins download them"
    partly = "kallsyms and BTF in the dump" if symbols.types else "kallsyms in the dump"
    if not symbols.kallsyms:
        partly = "none"
    elif not symbols.missing:
        return partly
    elif not symbols.types:
        partly += ", but no types"
    return f"{partly}: {symbols.missing}; plugins need an ISF for this banner"


def _panic_task(panic: PanicTask) -> str:
    task = f"{panic.task.comm} (pid {panic.task.pid})" if panic.task else ""
    return f"vCPU {panic.vcpu.number}: " + ", ".join(filter(None, (task, panic.place)))
