# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Composes a report of the facts of a guest: in words where it must be, of bounded size."""

from collections.abc import Iterator, Sequence
from typing import Optional, TypeVar

from volatility_guestdump import words
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.guest import facts
from volatility_guestdump.guest.facts import FileState, GuestFacts, NoLinux
from volatility_guestdump.linux.stacks import frames as kernel_frames
from volatility_guestdump.linux.stacks.stacks import PanicTask
from volatility_guestdump.linux.state.system import taint_names
from volatility_guestdump.report import document, incident

#: Limits that bound the time that a report takes, whatever the dump is.
_MAXIMUM_FRAMES = 100
_MAXIMUM_VCPUS = 512
_WHOLE_LOG = 1000
_LOG_END = 500
#: A record may have a thousand lines, of nothing at all.
_LOG_LINES = 4000
_MAXIMUM_GROUPS = 50
_MAXIMUM_PIDS = 100
_MAXIMUM_RANGES = 200
_MAXIMUM_MODULES = 1000
_MAXIMUM_PROBLEMS = 100

#: In characters. A function's name has 512 at most, and few have 100.
_MAXIMUM_TEXT = 1000
_LONG_TEXT = 4000
_MAXIMUM_SYMBOL = 300
_MAXIMUM_REASON = 300

#: How many bytes the parts with many elements may have, see `document.weight`. All else has less
#: than 2 MB in all, so that a report stays below 10 MB.
_ROOM_FOR_VCPUS = 4_500_000
_ROOM_FOR_LOG = 1_800_000
_ROOM_FOR_TASKS = 1_000_000
_ROOM_FOR_MODULES = 500_000

_T = TypeVar("_T")


def compose(found: GuestFacts, evidence: document.Evidence) -> document.Report:
    """Returns the report of a guest. Each section is made by itself, and fails by itself.

    Args:
        found: what is known of the guest.
        evidence: files, programs, command and time.
    """
    attempts = Attempts()
    make = attempts.make
    for failure in (*_not_there(found), *found.failures):
        attempts.note(*failure)
    vcpus = _fitting(attempts.make_each("vCPUs", _vcpu, found.vcpus), _ROOM_FOR_VCPUS)
    modules = make("Modules", lambda: _modules(found.modules, attempts))
    return document.Report(
        headline=make("Headline", lambda: _headline(found))
        or document.Headline("unknown", "What happened is not known."),
        system=_system(found),
        panic=make("Panic", lambda: _panic(found)),
        vcpus=vcpus,
        vcpus_not_shown=(found.machine.vcpus or 0) - len(vcpus),
        log=make("Kernel log", lambda: _log(found)),
        tasks=make("Tasks", lambda: _tasks(found.tasks)),
        memory=_memory(found.memory),
        modules=modules,
        evidence=evidence,
        # Made last, when all other failures are known.
        problems=_problems(attempts),
    )


def system_rows(found: GuestFacts) -> list[words.Row]:
    """Returns the section on the system in words: the rows of guestdump.Info."""
    rows = (*words.machine_rows(found.machine), *words.kernel_rows(found.kernel))
    # Ranges of memory have a section of their own.
    return [
        (name, _short(value, _LONG_TEXT))
        for name, value in rows
        if not name.startswith("Memory range")
    ]


def no_linux(found: GuestFacts) -> str:
    """Returns why no Linux kernel is known, in words; empty when one is."""
    reason, file = found.no_linux, found.machine.memory_file
    missing = file.missing if file else 0
    return "" if reason is None else words.no_linux(reason, found.kernel.system, missing)


def _not_there(found: GuestFacts) -> Iterator[tuple[str, str]]:
    """Yields section and reason of what a report cannot have of such a guest."""
    if found.no_linux is NoLinux.OTHER_SYSTEM:
        yield "Kernel log, tasks, modules", "they are shown of Linux guests alone"
    elif found.no_linux is not None:
        yield "Kernel", no_linux(found)
    if found.tasks_missing:
        yield "Tasks", found.tasks_missing
    if found.machine.vcpus is None:
        yield "vCPUs", f"{found.machine.format}: this image has no registers"
    symbols = found.kernel.symbols
    # With an installed ISF nothing is missing for want of types.
    if symbols is not None and symbols.missing and not (symbols.location and symbols.kallsyms):
        yield "Symbols", symbols.missing
    file = found.machine.memory_file
    if file is not None and file.state is FileState.SHORT:
        yield "Memory", f"the file lacks {file.missing} bytes"
    elif file is not None and file.damage:
        yield "Memory", file.damage


def _problems(attempts: Attempts) -> list[document.Problem]:
    failures = attempts.failures
    found = [
        document.Problem(failure.what, _short(failure.reason, _MAXIMUM_REASON))
        for failure in failures[:_MAXIMUM_PROBLEMS]
    ]
    if len(failures) > len(found):
        more = f"{len(failures) - len(found)} more failures"
        found.append(document.Problem("Not shown here", more))
    return found


def _headline(found: GuestFacts) -> document.Headline:
    if found.no_linux is NoLinux.OTHER_SYSTEM:
        made = incident.windows_headline(found.kernel)
    elif found.no_linux is not None:
        text = f"What happened is not known: {no_linux(found)}."
        made = document.Headline("unknown", text)
    else:
        made = incident.linux_headline(found)
    return document.Headline(made.kind, _short(made.text))


def _system(found: GuestFacts) -> document.System:
    machine, kernel, told = found.machine, found.kernel, found.kernel.told
    text, number = _short_or_none, _hexadecimal
    return document.System(
        format=_short(machine.format),
        vcpus=machine.vcpus,
        # A file that describes the registers alone may leave it to the memory file.
        memory_size=machine.memory_size if machine.ranges else None,
        memory_file=_memory_file(machine.memory_file) if machine.memory_file else None,
        paging=kernel.paging.value if kernel.paging else None,
        page_table_isolation=kernel.isolation,
        operating_system=text(kernel.system),
        banner=text(kernel.banner),
        build_id=text(kernel.build_id),
        host_name=text(told.host_name),
        time=told.clock.time if told.clock else None,
        uptime=told.clock.uptime.total_seconds() if told.clock else None,
        load_average=told.load,
        command_line=None if told.command_line is None else _short(told.command_line, _LONG_TEXT),
        taint=_taint(told.taint),
        virtual_base=number(kernel.virtual_base),
        kaslr_shift=number(kernel.kaslr_shift),
        physical_base=number(kernel.physical_base),
        page_map=number(kernel.page_map),
        symbols=_symbols(kernel.symbols) if kernel.symbols else None,
        kdump=_kdump(kernel.kdump) if kernel.kdump else None,
        found_by=kernel.found_by,
        no_linux=found.no_linux.value if found.no_linux else None,
    )


def _memory_file(file: facts.MemoryFileFacts) -> document.MemoryFile:
    return document.MemoryFile(
        file.location,
        file.state.value,
        file.missing,
        _hexadecimal(file.first_missing),
        _short(file.damage) or None,
    )


def _symbols(symbols: facts.Symbols) -> document.Symbols:
    return document.Symbols(
        symbols.location,
        symbols.kallsyms,
        symbols.types,
        _short(symbols.missing) or None,
        symbols.downloadable,
    )


def _kdump(kdump: facts.Kdump) -> document.Kdump:
    return document.Kdump(
        kdump.is_second, _short_or_none(kdump.first_release), kdump.other_vcpus[:_MAXIMUM_VCPUS]
    )


def _taint(value: Optional[int]) -> Optional[document.Taint]:
    if value is None:
        return None
    return document.Taint(value, [document.TaintFlag(*pair) for pair in taint_names(value)])


def _panic(found: GuestFacts) -> Optional[document.Panic]:
    message, panic = _short_or_none(found.kernel.panic), found.panic
    if found.no_linux is NoLinux.OTHER_SYSTEM and message is not None:
        # Windows tells of its bug check; its stacks are other plugins' work.
        told = "only stacks of Linux kernels are shown"
        return document.Panic(
            message, None, (), (), document.Comparison(None, None, "not Linux", told)
        )
    if panic is None:
        return None
    compared = panic.comparison
    comparable = compared.incomparable is None
    return document.Panic(
        message,
        _panic_task(found.kernel.panic_task) if found.kernel.panic_task else None,
        _frames(panic.frames, compared.in_log),
        [
            document.LogFrame(
                _short(symbol, _MAXIMUM_SYMBOL),
                compared.in_stack[number] if compared.in_stack else None,
            )
            for number, symbol in enumerate(panic.printed)
        ],
        document.Comparison(
            compared.same if comparable else None,
            compared.differences if comparable else None,
            compared.incomparable.value if compared.incomparable else None,
            words.comparison(compared),
        ),
    )


def _panic_task(who: PanicTask) -> document.PanicTask:
    return document.PanicTask(
        who.cpu,
        None if who.vcpu is None else who.vcpu.number,
        None if who.task is None else who.task.pid,
        None if who.task is None else who.task.comm,
        _short(who.place, _MAXIMUM_SYMBOL),
        _short(words.panic_task(who)),
    )


def _vcpu(vcpu: facts.VcpuFacts) -> document.Vcpu:
    return document.Vcpu(
        vcpu.number,
        vcpu.state.value,
        vcpu.task.pid if vcpu.task else None,
        vcpu.task.comm if vcpu.task else None,
        _short(vcpu.place, _MAXIMUM_SYMBOL),
        _frames(vcpu.frames),
        [
            document.Register(name, f"{value:#x}", _short(meaning, _MAXIMUM_SYMBOL))
            for name, value, meaning in vcpu.registers
            if value is not None
        ],
    )


def _frames(
    frames: Sequence[kernel_frames.Frame], in_log: Sequence[bool] = ()
) -> list[document.Frame]:
    return [
        document.Frame(
            _hexadecimal(frame.ip),
            _short(frame.symbol, _MAXIMUM_SYMBOL),
            [_note(note) for note in frame.notes],
            in_log[number] if in_log else None,
        )
        for number, frame in enumerate(frames[:_MAXIMUM_FRAMES])
    ]


def _note(note: kernel_frames.Note) -> document.Note:
    kind = note.kind.name.lower().replace("_", " ")
    text = _short(words.note(note), _MAXIMUM_SYMBOL)
    return document.Note(kind, _hexadecimal(note.address), text)


def _log(found: GuestFacts) -> Optional[document.Log]:
    log = found.log
    if log is None:
        return None
    whole = len(log.records) <= _WHOLE_LOG and not log.earlier
    lines: list[document.LogLine] = []
    shown, left = 0, _ROOM_FOR_LOG
    for record in reversed(log.records if whole else log.records[-_LOG_END:]):
        made = [
            document.LogLine(record.level, record.nanoseconds, record.stamp, _short(line))
            for line in record.lines
        ]
        left -= document.weight(made)
        if left < 0 or len(lines) + len(made) > _LOG_LINES:
            break
        lines += reversed(made)
        shown += 1
    return document.Log(lines[::-1], log.earlier + len(log.records) - shown, log.lost)


def _tasks(tasks: Optional[facts.TaskFacts]) -> Optional[document.Tasks]:
    if tasks is None:
        return None
    groups = _fitting([_group(group) for group in tasks.waiting[:_MAXIMUM_GROUPS]], _ROOM_FOR_TASKS)
    return document.Tasks(
        tasks.count,
        dict(tasks.states),
        groups,
        tasks.states.get("D", 0) - sum(group.count for group in groups),
        [document.Process(each.pid, each.comm, each.resident) for each in tasks.largest],
        tasks.complete,
    )


def _group(group: facts.WaitingGroup) -> document.TaskGroup:
    return document.TaskGroup(
        len(group.tasks),
        [task.pid for task in group.tasks[:_MAXIMUM_PIDS]],
        list(dict.fromkeys(task.comm for task in group.tasks))[:_MAXIMUM_PIDS],
        group.seconds,
        _frames(group.frames),
        _short(group.waits_in),
    )


def _memory(memory: facts.MemoryFacts) -> document.Memory:
    shown = memory.pieces[:_MAXIMUM_RANGES]
    return document.Memory(
        memory.size,
        [
            document.Range(kind.value, f"{start:#x}", f"{start + size - 1:#x}", size)
            for kind, start, size in shown
        ],
        len(memory.pieces) - len(shown),
        dict(vars(memory.use)) if memory.use else None,
    )


def _modules(
    modules: Optional[Sequence[facts.ModuleFacts]], attempts: Attempts
) -> Optional[list[document.Module]]:
    if modules is None:
        return None
    made = attempts.make_each("Modules", _module, modules)
    shown = _fitting(made[:_MAXIMUM_MODULES], _ROOM_FOR_MODULES)
    if len(shown) < len(made):
        attempts.note("Modules", f"{len(made) - len(shown)} more are not shown")
    return shown


def _module(module: facts.ModuleFacts) -> document.Module:
    return document.Module(
        _short(module.name), module.size, _taint(module.taint), module.out_of_tree
    )


def _hexadecimal(value: Optional[int]) -> Optional[str]:
    return None if value is None else f"{value:#x}"


def _short(text: str, limit: int = _MAXIMUM_TEXT) -> str:
    if len(text) <= limit:
        return text
    return f"{text[:limit]}... ({len(text) - limit} more characters)"


def _short_or_none(text: Optional[str]) -> Optional[str]:
    return None if text is None else _short(text)


def _fitting(parts: Sequence[_T], room: int) -> list[_T]:
    """Returns as many of the first parts as there is room for."""
    left, shown = room, []
    for part in parts:
        left -= document.weight(part)
        if left < 0:
            break
        shown.append(part)
    return shown
