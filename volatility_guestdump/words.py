# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The facts in words, which the plugins and the report share: rows, notes, sizes, times."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Optional

from volatility_guestdump.guest.facts import (
    FileState,
    Kdump,
    KernelFacts,
    MachineFacts,
    MemoryFileFacts,
    NoLinux,
    Symbols,
)
from volatility_guestdump.guest.traces import Comparison, Incomparable
from volatility_guestdump.linux.stacks.frames import Note, NoteKind
from volatility_guestdump.linux.stacks.stacks import PanicTask
from volatility_guestdump.linux.state.system import taint_names

#: Stands where something is not known.
UNKNOWN = "-"

#: Most ranges that get a row. A memory image of a server has tens; a damaged or hostile one may
#: have thousands.
_MAXIMUM_RANGES = 64

Row = tuple[str, str]


def machine_rows(facts: MachineFacts) -> Iterator[Row]:
    """Yields (variable, value) of a machine."""
    yield "Format", facts.format
    yield "vCPUs", UNKNOWN if facts.vcpus is None else str(facts.vcpus)
    size = f"{facts.memory_size} ({binary_size(facts.memory_size)})"
    # A file that describes the registers alone may leave it to the memory file.
    yield "Memory size", size if facts.ranges else UNKNOWN
    for number, run in enumerate(facts.ranges[:_MAXIMUM_RANGES]):
        yield (
            f"Memory range {number}",
            f"{run.start:#x}-{run.end - 1:#x} at file offset {run.file_offset:#x}",
        )
    if len(facts.ranges) > _MAXIMUM_RANGES:
        yield "Memory ranges not shown", str(len(facts.ranges) - _MAXIMUM_RANGES)
    file = facts.memory_file
    yield "Memory file", UNKNOWN if file is None else f"{file.location} ({_file_state(file)})"


def binary_size(size: int) -> str:
    """Returns a size in the largest unit that gives a short number: "192 MiB", "1.5 GiB"."""
    if size < 1 << 30:
        return f"{size / (1 << 20):.6g} MiB"
    return f"{size / (1 << 30):.6g} GiB"


def short_size(size: int) -> str:
    """Returns a size with the digits that a reader wants: "4 KiB", "16 MiB", "1.7 GiB"."""
    value, unit = size / (1 << 10), "KiB"
    for larger in ("MiB", "GiB", "TiB"):
        if value < 1000:
            break
        value, unit = value / (1 << 10), larger
    return f"{value:.1f} {unit}" if value < 10 and value != int(value) else f"{value:.0f} {unit}"


def _file_state(file: MemoryFileFacts) -> str:
    if file.state is FileState.SHORT:
        return f"{file.missing} bytes short, from guest-physical address {file.first_missing:#x}"
    if file.state is FileState.COMPLETE and file.missing:
        return f"complete, {-file.missing} bytes too long"
    return str(file.state.value)


def kernel_rows(facts: KernelFacts) -> Iterator[Row]:
    """Yields (variable, value) of a kernel: always the same variables, and Kdump of two kernels."""
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
        **({"Kdump": _kdump(facts.kdump)} if facts.kdump else {}),
        "Panic": facts.panic,
        "Panic task": panic_task(facts.panic_task) if facts.panic_task else None,
        "Kernel found by": facts.found_by,
    }
    for variable, value in values.items():
        yield variable, value or UNKNOWN


def _told(facts: KernelFacts) -> dict[str, Optional[str]]:
    told, tasks = facts.told, facts.tasks
    clock, load = told.clock, told.load
    counted = None
    if tasks:
        counted = str(tasks.all) if tasks.whole else f"at least {tasks.all}"
        if tasks.uninterruptible is not None:
            counted += f" ({tasks.uninterruptible} in uninterruptible sleep)"
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
    """Returns what a kernel is tainted by: "4097 (proprietary module, out-of-tree module)"."""
    names = ", ".join(meaning for _, meaning in taint_names(value))
    return f"{value} ({names})" if names else "0 (not tainted)"


def module_taint(value: int) -> str:
    """Returns what a module taints the kernel with: "O out-of-tree module, E unsigned module"."""
    return ", ".join(map(" ".join, taint_names(value)))


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


def _kdump(kdump: Kdump) -> str:
    said = []
    if kdump.is_second:
        first = f"Linux {kdump.first_release}" if kdump.first_release else "another kernel"
        said.append(f"started this kernel when {first} had panicked")
    if kdump.other_vcpus:
        numbers = ", ".join(map(str, kdump.other_vcpus))
        said.append(f"another kernel runs on vCPU {numbers}")
    return "; ".join(said)


def panic_task(panic: PanicTask) -> str:
    """Returns who panicked, in words."""
    cpu = f"CPU {panic.cpu}" if panic.vcpu is None else f"vCPU {panic.vcpu.number}"
    task = f"{panic.task.comm} (pid {panic.task.pid})" if panic.task else ""
    return ": ".join(filter(None, (cpu, ", ".join(filter(None, (task, panic.place))))))


def no_linux(reason: NoLinux, system: Optional[str], missing: int) -> str:
    """Returns why no Linux kernel is known, in words.

    Args:
        reason: why.
        system: what the guest runs instead, if that is known.
        missing: bytes that the memory file lacks.
    """
    if reason is NoLinux.MEMORY_MISSING:
        return "the guest's memory is missing"
    if reason is NoLinux.OTHER_SYSTEM:
        return f"this guest runs {system}"
    if reason is NoLinux.SEARCH_FAILED:
        return "the search for it failed"
    found = "in the guest's memory no kernel can be recognised"
    return f"{found}; {missing} bytes of it are missing" if missing > 0 else found


_INCOMPARABLE: Mapping[Incomparable, str] = {
    Incomparable.NOT_PRINTED: "the kernel's log has no frame of it that is certain",
    Incomparable.NO_STACK: "there is no stack to compare it with",
    Incomparable.NOT_THROUGH_PANIC: "not compared: one of them does not lead through panic()",
    Incomparable.FAILED: "not compared: one of them cannot be understood",
}


def comparison(found: Comparison) -> str:
    """Returns what has come of comparing a stack with the kernel's own trace, in words."""
    if found.incomparable is not None:
        return _INCOMPARABLE[found.incomparable]
    if not found.differences:
        return f"frames below panic(): all {found.same} are the same"
    return f"frames below panic(): {found.same} the same, {found.differences} in one of them alone"


#: The words for notes; {address} and {detail} are the note's, of those that have any.
_NOTES: Mapping[NoteKind, str] = {
    NoteKind.USER_MODE: "user mode",
    NoteKind.SYSTEM_CALL: "system call",
    NoteKind.INTERRUPT: "interrupt",
    NoteKind.EXCEPTION: "exception",
    NoteKind.OFFLINE: "the CPU is offline",
    NoteKind.CRASH_NOTES: "CPU {detail} when the kernel panicked, from crash_notes",
    NoteKind.FUNCTION_GRAPH: "found by what the function graph tracer noted",
    NoteKind.KRETPROBE: "found by what a kretprobe noted",
    NoteKind.TRAMPOLINE: "by ORC of what it is a copy of",
    NoteKind.FRAME_POINTER: "by frame pointer: {detail}",
    NoteKind.NOT_CODE: "no code: the return address is the last word on the stack",
    NoteKind.FIRST_INSTRUCTION: (
        "first instruction: the return address is the last word on the stack"
    ),
    NoteKind.CALL_FOUND: "no ORC: only one address on the stack follows a call of this function",
    NoteKind.NOT_STARTED: "paging is off: the kernel has not started this CPU",
    NoteKind.LACKS_REGISTERS: "the image lacks {detail}, without which there is no stack",
    NoteKind.ONLY_64_BIT: "only the stacks of 64-bit kernels can be unwound",
    NoteKind.OTHER_KERNEL: "runs another kernel",
    NoteKind.RUNNING: "runs on a CPU whose registers are not in the dump",
    NoteKind.EXITED: "exited: its stack is freed",
    NoteKind.NO_STACK: "no saved stack: {detail}",
    NoteKind.SP_ELSEWHERE: "its stack pointer {address:#x} lies outside of its stack",
    NoteKind.CIRCLE: "the stack runs in a circle",
    NoteKind.DOWNWARDS: "the stack does not lead upwards",
    NoteKind.OUTSIDE_STACK: "leads out of the task's stack, to {address:#x}",
    NoteKind.NO_RETURN_ADDRESS: "{address:#x}, where the return address should be, is none",
    NoteKind.REPLACED: "a tracer replaced the return address, and nothing tells the right one",
    NoteKind.UNDESCRIBED: "nothing tells how to unwind this code",
    NoteKind.DAMAGED_ORC: "{detail}",
    NoteKind.UNKNOWN_REGISTER: "{detail}, which leads to the caller, is not known",
    NoteKind.BAD_REGISTERS: "what lies at {address:#x} are no saved registers",
    NoteKind.NOT_IN_DUMP: "the stack at {address:#x} is not in the dump",
    NoteKind.TOO_DEEP: "more frames than a stack can have",
}


def notes(found: Sequence[Note]) -> str:
    """Returns the notes of a frame in words."""
    return joined(map(note, found))


def joined(found: Iterable[str]) -> str:
    """Returns notes, each of which is in words, as one text."""
    return "; ".join(found)


def note(note: Note) -> str:
    """Returns one note of a frame in words."""
    detail = note.detail
    if note.kind is NoteKind.FRAME_POINTER:
        detail = detail or "no ORC for this code"
    return _NOTES[note.kind].format(address=note.address, detail=detail)
