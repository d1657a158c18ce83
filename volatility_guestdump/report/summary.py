# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The rows of guestdump.Report: what a report says, as short as it can be said."""

from collections import Counter
from collections.abc import Iterable, Iterator

from volatility_guestdump.report import document
from volatility_guestdump.words import UNKNOWN, module_taint, short_size

#: Section, item, value.
Row = tuple[str, str, str]


def summary(report: document.Report, system: Iterable[tuple[str, str]]) -> Iterator[Row]:
    """Yields the rows of a report, without that of its file.

    Args:
        report: what it says.
        system: its section on the system in words, see `compose.system_rows`.
    """
    yield "Headline", report.headline.kind, report.headline.text
    for name, value in system:
        yield "System", name, value
    if report.panic is not None:
        yield "Panic", "Message", report.panic.message or UNKNOWN
        yield "Panic", "Task", report.panic.task.text if report.panic.task else UNKNOWN
        yield "Panic", "Stack and log", report.panic.comparison.text
    for vcpu in report.vcpus:
        task = UNKNOWN if vcpu.comm is None else f"{vcpu.comm} ({vcpu.pid})"
        yield "vCPUs", str(vcpu.number), ", ".join(filter(None, (vcpu.state, task, vcpu.top)))
    if report.log is not None:
        levels = Counter(line.level for line in report.log.lines)
        errors = sum(number for level, number in levels.items() if level <= 3)
        yield "Kernel log", "Lines", f"{len(report.log.lines)} ({errors} errors or worse)"
        yield "Kernel log", "Left out", str(report.log.left_out)
    if report.tasks is not None:
        states = ", ".join(f"{count} {state}" for state, count in report.tasks.states.items())
        yield "Tasks", "States", states
        for group in report.tasks.uninterruptible:
            names = ", ".join(group.names[:3])
            place = f" in {group.waits_in}" * bool(group.waits_in)
            yield "Tasks", "Uninterruptible", f"{group.count}: {names}{place}"
    for name, size in (report.memory.counters or {}).items():
        yield "Memory", name.replace("_", " "), UNKNOWN if size is None else short_size(size)
    for module in report.modules or ():
        if module.out_of_tree and module.taint is not None:
            taint = module_taint(module.taint.value)
            yield "Modules", module.name, f"{module.size} bytes, {taint}"
    for file in report.evidence.files:
        yield "Evidence", file.role, f"{file.location}, SHA-256 {file.sha256 or UNKNOWN}"
    for problem in report.problems:
        yield "Not shown", problem.section, problem.reason
