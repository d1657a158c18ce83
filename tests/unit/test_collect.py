# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A report of a guest made by hand: what it says, what breaks in it, how large it gets."""

import dataclasses
import json
from collections.abc import Iterator
from typing import Any, cast

import jsonschema
import pytest

from tests.handmade.guest import HOSTILE, Counts, GuestStacks, guest
from tests.packages import ROOT
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.linux.state.printk import Log, Record
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.report import collect, document, facts, html, incident, traces
from volatility_guestdump.report.collect import Subject
from volatility_guestdump.report.facts import KernelFacts
from volatility_guestdump.x86 import registers

SCHEMA = json.loads((ROOT / "volatility_guestdump/report/report.schema.json").read_text("utf-8"))
EVIDENCE = document.Evidence([], {"Python": "3"}, "vol -f debug.guest", "2026-11-26 03:00:00 UTC")
LARGEST = 10_000_000


def report(subject: Subject) -> document.Report:
    """Returns the report of a guest, which is as the schema says."""
    found = collect.collect(subject, EVIDENCE, Attempts())
    validate(found)
    return found


def validate(found: document.Report) -> None:
    """Asserts that a report's JSON is as the schema says."""
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads(json.dumps(found.as_json())))


def test_the_schema() -> None:
    """It is one, and allows nothing that is not described."""
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    made = report(guest()).as_json()
    for part in (made, made["headline"], made["vcpus"][0], made["tasks"]["uninterruptible"][0]):
        part["more"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(SCHEMA).validate(made)
        del part["more"]


def test_every_section() -> None:
    """Each has what is there."""
    found = report(guest())
    assert found.headline.kind == "panic" and found.headline.text.startswith(
        "Kernel panic - not syncing: x. Task x (pid 1) on vCPU 0, in x+0x1, 1 h 23 min 20 s after"
    )
    system = {item.name: item.value for item in found.system}
    assert system["Taint"] == "4097 (proprietary module, out-of-tree module)"
    assert system["Tasks"] == "20 (2 in uninterruptible sleep)"
    assert found.panic is not None
    assert (found.panic.message, found.panic.task) == ("x", "vCPU 0: x (pid 1), panic+0x118")
    assert [frame.symbol for frame in found.panic.log_frames] == ["panic+0x118", "caller+0x5 [x]"]
    assert [frame.in_log for frame in found.panic.frames] == [True, False, False, False]
    assert [(vcpu.number, vcpu.state, vcpu.top) for vcpu in found.vcpus] == [
        (0, "kernel", "panic+0x1"),
        (1, "kernel", "panic+0x1"),
    ]
    assert {register.name for register in found.vcpus[0].registers} > {"rip", "cr3"}
    assert found.log is not None and found.log.lines[-1].text == "9: x"
    assert (len(found.log.lines), found.log.left_out, found.log.lost) == (14, 0, 0)
    assert found.tasks is not None and found.tasks.states == {"D": 2, "S": 18}
    assert [group.seconds for group in found.tasks.uninterruptible] == [1, 0]
    assert {process.resident for process in found.tasks.largest} == {(100 + 20 + 3) * 4096}
    assert [(piece.kind, piece.start, piece.end) for piece in found.memory.ranges] == [
        ("memory", "0x0", "0x1fffffff"),
        ("kernel", "0x1000000", "0x2ffffff"),
        ("memory", "0x100000000", "0x10fffffff"),
    ]
    counters = found.memory.counters
    assert counters is not None and counters["free"] == 1000 * 4096
    assert counters["anonymous"] == 2002 * 4096 and counters["swap_total"] is None
    assert found.modules is not None
    assert [(module.out_of_tree, module.taint) for module in found.modules] == [
        (True, "O out-of-tree module"),
        (False, ""),
        (False, ""),
    ]


class _AnyError(Exception):
    """An error that nobody has foreseen."""


def _fail(*_: object, **__: object) -> Any:
    raise _AnyError("\x1b[2Jbroken")


#: What breaks: an attribute of something -> what is named, and the fields of the report that may
#: differ then.
BREAKS: dict[tuple[Any, str], tuple[str, set[str]]] = {
    # The headline leans on the log, and so does the comparison of stacks.
    (collect, "read_log"): ("Kernel log", {"log", "panic"}),
    (traces, "compare"): ("Panic", {"panic"}),
    (collect, "memory_use"): ("Memory counters", {"memory"}),
    (collect, "_missing"): ("Memory", {"memory"}),
    (collect, "taint_names"): ("Modules", {"modules"}),
    (collect, "ResidentMemory"): ("Memory of tasks", {"tasks"}),
    (GuestStacks, "last_ran"): ("Tasks", {"tasks"}),
    (incident, "linux_headline"): ("Headline", {"headline"}),
    (registers, "decode"): ("vCPU 0", {"vcpus"}),
    (GuestStacks, "of_vcpu"): ("vCPU 0", {"vcpus", "panic", "headline"}),
    (facts, "machine_facts"): ("System", {"system"}),
}


@pytest.mark.parametrize(("owner", "name"), BREAKS)
def test_an_error_costs_its_section(owner: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is named with its reason, fit for the screen, and the other sections are as they were."""
    section, differ = BREAKS[owner, name]
    whole = report(guest())
    assert not whole.problems
    subject = guest()
    monkeypatch.setattr(owner, name, _fail)
    found = report(subject)
    before, after = whole.as_json(), found.as_json()
    assert {key for key in before if before[key] != after[key]} <= differ | {"problems"}
    named = {problem.section: problem.reason for problem in found.problems}
    assert "?[2Jbroken" in named[section]
    assert "_AnyError: ?[2Jbroken" in html.render(found, "x")


class _Torn:
    """Machine or kernel, of which nothing at all can be had."""

    def __getattr__(self, name: str) -> Any:
        raise _AnyError(name)


def test_nothing_can_be_read() -> None:
    """A report comes out all the same, and says so."""
    torn = cast(Any, _Torn())
    subject = dataclasses.replace(
        guest(), linux=torn, stacks=torn, kernel=KernelFacts(), symbolize=_fail
    )
    found = report(subject)
    assert found.headline.kind == "unknown"
    assert len(found.vcpus) == 2
    assert (found.log, found.tasks, found.modules) == (None, None, None)
    assert {problem.section for problem in found.problems} >= {
        *("Kernel log", "Panic", "Tasks", "Modules", "Memory counters", "vCPU 0")
    }
    assert html.render(found, "x")


def test_single_tasks_and_modules_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """They cost themselves, and are counted."""
    subject = guest()
    assert subject.linux is not None and subject.linux.modules is not None
    true = GuestStacks.of_task

    def of_task(self: GuestStacks, task: Any) -> Any:
        return _fail() if task.pid == 1 else true(self, task)

    monkeypatch.setattr(GuestStacks, "of_task", of_task)
    modules = subject.linux.modules
    taint = modules.taint
    monkeypatch.setattr(
        type(modules), "taint", lambda self, one: _fail() if one.address == 1 else taint(one)
    )
    found = report(subject)
    assert found.tasks is not None and found.modules is not None
    assert [group.pids for group in found.tasks.uninterruptible] == [[2]]
    assert found.tasks.not_shown == 1 and len(found.modules) == 2
    assert {problem.section: problem.reason for problem in found.problems} == {
        "Stacks of tasks": "1 of 2 cannot be read; the first: _AnyError: ?[2Jbroken",
        "Modules": "1 of 3 cannot be read; the first: _AnyError: ?[2Jbroken",
    }


def test_a_damaged_counter_is_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """More memory than the guest has is nobody's."""
    subject = guest()
    assert subject.linux is not None
    cast(Any, subject.linux).put(0x20000, 1 << 50)
    found = report(subject)
    assert found.tasks is not None and not found.tasks.largest


def test_none_hangs_among_some_of_the_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where their list is broken, what the log says of one that hangs counts."""
    text = "INFO: task a:93 blocked for more than 120 seconds."
    log = Log([Record(4_999 * 10**9, 0, 3, "", (text,))], 0, 0)
    monkeypatch.setattr(collect, "read_log", lambda kernel: log)
    made = guest(counts=Counts(waiting=0))
    subject = dataclasses.replace(made, kernel=dataclasses.replace(made.kernel, panic=None))
    cast(Any, subject.linux).panic_cpu = -1
    assert report(subject).headline.kind == "running"
    cast(Any, subject.stacks).broken = "a page is missing"
    found = report(subject)
    assert found.headline.kind == "hung"
    assert found.tasks is not None and not found.tasks.complete


def test_a_list_of_tasks_that_is_broken() -> None:
    """Their number is not said to be that of all."""
    subject = guest()
    kernel = dataclasses.replace(subject.kernel, tasks=facts.TaskCount(20, 2, whole=False))
    system = report(dataclasses.replace(subject, kernel=kernel)).system
    assert document.Item("Tasks", "at least 20 (2 in uninterruptible sleep)") in system


def test_other_guests() -> None:
    """Windows, no kernel and no registers are told, and what they do not have is not made up."""
    bare = dataclasses.replace(guest(), linux=None, stacks=None, kernel=KernelFacts())
    found = report(dataclasses.replace(bare, no_kernel="the guest's memory is missing"))
    assert "the guest's memory is missing" in found.headline.text
    assert found.problems[0].section == "Kernel"
    windows = KernelFacts(system="Windows 10.0.20348 (x64)", panic="0xd1 DRIVER_IRQL (0x1)")
    found = report(dataclasses.replace(bare, kernel=windows, is_windows=True))
    assert found.headline == document.Headline(
        "bug check", "Windows bug check 0xd1 DRIVER_IRQL (0x1)."
    )
    assert found.panic is not None and not found.panic.frames
    image = guest(counts=Counts(vcpus=0))
    found = report(image)
    assert not found.vcpus and "vCPUs" in {problem.section for problem in found.problems}


def strings(value: Any) -> Iterator[str]:
    """Yields every text in JSON."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for part in value.values():
            yield from strings(part)
    elif isinstance(value, list):
        for part in value:
            yield from strings(part)


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_text(name: str) -> None:
    """It is as long as it may be, and nothing that a terminal might obey."""
    found = report(guest(HOSTILE[name]))
    for text in strings(json.loads(json.dumps(found.as_json()))):
        assert len(text) < 6000 and (text.isprintable() or not text)
    assert found.headline.kind == "panic"
    assert len(json.dumps(found.as_json())) < LARGEST


@pytest.mark.parametrize("text", ['"<', "\U0001f600", "x"])
def test_a_report_has_bounds(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever there is most of, and however it must be escaped, it is less than 10 MB."""
    long = text * 2000
    counts = Counts(vcpus=700, frames=150, tasks=5000, waiting=1500, records=1, modules=4500)
    log = Log([Record(1, 0, 6, "", (long,) * (number % 9)) for number in range(1, 20_000)], 3, 4)
    monkeypatch.setattr(collect, "read_log", lambda kernel: log)
    found = report(guest(long, counts))
    assert found.log is not None and found.tasks is not None and found.modules is not None
    # All of it is counted.
    assert len(found.vcpus) + found.vcpus_not_shown == counts.vcpus and found.vcpus
    lines = sum(len(record.lines) for record in log.records[found.log.left_out - log.earlier :])
    assert lines == len(found.log.lines) and lines
    shown = sum(group.count for group in found.tasks.uninterruptible)
    assert shown and shown + found.tasks.not_shown == counts.waiting - 1
    assert found.modules and "Modules" in {problem.section for problem in found.problems}
    for written in (json.dumps(found.as_json(), indent=1), html.render(found, long)):
        assert len(written.encode("utf-8", "replace")) < LARGEST


def test_thousands_of_ranges() -> None:
    """What is missing lies in its own range, and the time does not grow with their square."""
    asked = []

    class _Counted(MemoryRange):
        @property
        def end(self) -> int:
            asked.append(self.start)
            return super().end

    counts = []
    for count in (500, 1000):
        asked.clear()
        there = [_Counted(number << 13, 0x1000, 0) for number in range(count)]
        # Of each range the first half or all of it is in the file, but for each third.
        pieces = [
            _Counted(run.start, (0x800, 0x1000)[number % 3], 0)
            for number, run in enumerate(there)
            if number % 3 < 2
        ]
        subject = guest()
        origin = dataclasses.replace(subject.machine.origin, ranges=tuple(there))
        machine = dataclasses.replace(subject.machine, origin=origin)
        cast(Any, machine.memory).ranges = tuple(pieces)
        found = report(dataclasses.replace(subject, machine=machine)).memory.ranges
        shown = [(piece.kind, int(piece.start, 16), piece.size) for piece in found]
        assert shown[:5] == [
            ("memory", 0, 0x1000),
            ("missing", 0x800, 0x800),
            ("memory", 0x2000, 0x1000),
            ("memory", 0x4000, 0x1000),
            ("missing", 0x4000, 0x1000),
        ]
        counts.append(len(asked))
    assert counts[1] < 3 * counts[0]


def test_a_log_of_empty_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that weigh nothing have a bound too, and the newest stay."""
    log = Log([Record(number, 0, 6, "", ("",) * 9) for number in range(900)], 0, 0)
    monkeypatch.setattr(collect, "read_log", lambda kernel: log)
    found = report(guest()).log
    assert found is not None and len(found.lines) > 1000
    assert found.left_out == 900 - len(found.lines) // 9
    assert found.lines[-1].stamp == log.records[-1].stamp
