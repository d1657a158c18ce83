"""The facts in words: the rows of guestdump.Info."""

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Optional

from volatility_guestdump.linux.stacks import PanicTask
from volatility_guestdump.linux.system import taint_names
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
    yield "Memory size", f"{facts.memory_size} ({binary_size(facts.memory_size)})"
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
        **_told(facts),
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


def _told(facts: KernelFacts) -> dict[str, Optional[str]]:
    told, tasks = facts.told, facts.tasks
    clock, load = told.clock, told.load
    counted = f"{tasks.all} ({tasks.uninterruptible} in uninterruptible sleep)" if tasks else None
    return {
        "Host name": told.host_name,
        "Date": utc(clock.time) if clock else None,
        "Uptime": duration(clock.uptime) if clock else None,
        "Load average": ", ".join(f"{average:.2f}" for average in load) if load else None,
        "Tasks": counted,
        "Command line": told.command_line,
        "Taint": None if told.taint is None else taint(told.taint),
    }


def utc(time: datetime) -> str:
    """Returns a time of the day as Volatility shows it, in whole seconds."""
    return f"{time:%Y-%m-%d %H:%M:%S} UTC"


def duration(time: timedelta) -> str:
    """Returns a duration in words, "2 d 3 h 4 min 5 s"."""
    minutes, seconds = divmod(time // timedelta(seconds=1), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (seconds, "s")]
    first = next((at for at, (number, _) in enumerate(parts) if number), len(parts) - 1)
    return " ".join(f"{number} {unit}" for number, unit in parts[first:])


def taint(value: int) -> str:
    """Returns what a kernel is tainted by: "4097 (P proprietary module, O out-of-tree module)"."""
    names = ", ".join(" ".join(name) for name in taint_names(value))
    return f"{value} ({names})" if names else "0 (not tainted)"


def _hexadecimal(value: Optional[int]) -> Optional[str]:
    return None if value is None else f"{value:#x}"


def _symbols(symbols: Symbols) -> str:
    if symbols.location is not None:
        return symbols.location
    if symbols.downloadable:
        return "none on this machine; Volatility's Windows plugins download them"
    if symbols.kallsyms and symbols.types:
        return "kallsyms and BTF in the dump"
    partly = "kallsyms in the dump, but no types" if symbols.kallsyms else "none"
    return f"{partly}: {symbols.missing}; plugins need an ISF for this banner"


def _panic_task(panic: PanicTask) -> str:
    task = f"{panic.task.comm} (pid {panic.task.pid})" if panic.task else ""
    return f"vCPU {panic.vcpu.number}: " + ", ".join(filter(None, (task, panic.place)))
