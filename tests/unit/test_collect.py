# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A report of a guest made by hand: what it says, what breaks in it, how large it gets."""

import dataclasses
import json
from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any, Optional, cast

import jsonschema
import pytest

from tests.handmade.guest import HOSTILE, Counts, GuestStacks, guest
from tests.packages import ROOT
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exports import html
from volatility_guestdump.guest import collect, system, traces
from volatility_guestdump.guest.collect import Subject
from volatility_guestdump.guest.facts import (
    FileState,
    GuestFacts,
    KernelFacts,
    NoLinux,
    PieceKind,
    TaskCount,
    VcpuState,
)
from volatility_guestdump.linux.stacks.frames import NoteKind
from volatility_guestdump.linux.state.printk import Log, Record
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.report import compose, document, incident
from volatility_guestdump.x86 import registers

SCHEMA = json.loads((ROOT / "volatility_guestdump/exports/report.schema.json").read_text("utf-8"))
NOW = datetime(2026, 11, 26, 3, tzinfo=timezone.utc)
EVIDENCE = document.Evidence([], {"Python": "3"}, "vol -f debug.guest", NOW)
LARGEST = 10_000_000


def report(subject: Subject) -> document.Report:
    """Returns the report of a guest, which is as the schema says."""
    found = compose.compose(facts(subject), EVIDENCE)
    validate(found)
    return found


def facts(subject: Subject) -> GuestFacts:
    """Returns what is known of a guest."""
    return collect.collect(subject, Attempts())


def system_rows(subject: Subject) -> list[tuple[str, str]]:
    """Returns what a report says of a guest's system in words."""
    return compose.system_rows(facts(subject))


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


def _described(schema: Any, place: str) -> Iterator[tuple[str, str]]:
    """Yields each thing that a schema gives a name or allows as an alternative: place, description.

    What only says that something else may be there instead of null is described beside it.
    """
    if isinstance(schema, list):
        for part in schema:
            yield from _described(part, place)
    if not isinstance(schema, dict):
        return
    for group in ("properties", "patternProperties", "$defs"):
        for name, part in schema.get(group, {}).items():
            yield f"{place}/{name}", part.get("description", "")
            yield from _described(part, f"{place}/{name}")
    for name in ("items", "anyOf", "additionalProperties"):
        yield from _described(schema.get(name), place)


def test_every_description_in_the_schema_says_something() -> None:
    """What it is in a sentence, and when it is null if it may be."""
    found = list(_described(SCHEMA, ""))
    assert len(found) > 120
    for place, description in found:
        assert len(description.split()) > 3 and description[-1] in ".)", place
        assert description[0].isupper(), place

    def nullable(schema: Any, place: str) -> Iterator[tuple[str, Any]]:
        for name, part in schema.get("properties", {}).items():
            types = part.get("type", ())
            if "null" in (types if isinstance(types, list) else ()) or (
                {"type": "null"} in part.get("anyOf", ()) or None in part.get("enum", ())
            ):
                yield f"{place}/{name}", part
            for inner in (part, *part.get("anyOf", ()), part.get("items", {})):
                yield from nullable(inner, f"{place}/{name}")

    may = [*nullable(SCHEMA, ""), *nullable(SCHEMA["$defs"]["frame"], "frame")]
    assert len(may) > 40
    assert [place for place, part in may if "null" not in part["description"].lower()] == []


def test_kinds_in_the_schema() -> None:
    """They are those that there are, for a reader of the schema to look through."""

    def kinds(*path: str) -> set[Any]:
        part: Any = SCHEMA
        for name in path:
            part = part[name]
        return set(part["enum"])

    notes = kinds("$defs", "frame", "properties", "notes", "items", "properties", "kind")
    assert notes == {kind.name.lower().replace("_", " ") for kind in NoteKind}
    system = ("properties", "system", "properties")
    assert kinds(*system, "no_linux") == {None, *(each.value for each in NoLinux)}
    vcpu = ("properties", "vcpus", "items", "properties", "state")
    assert kinds(*vcpu) == {each.value for each in VcpuState}
    piece = ("properties", "memory", "properties", "ranges", "items", "properties", "kind")
    assert kinds(*piece) == {each.value for each in PieceKind}
    file = SCHEMA["properties"]["system"]["properties"]["memory_file"]["anyOf"][0]
    assert set(file["properties"]["state"]["enum"]) == {each.value for each in FileState}
    compared = SCHEMA["properties"]["panic"]["anyOf"][0]["properties"]["comparison"]
    assert set(compared["properties"]["incomparable"]["enum"]) == {
        *(None, "not Linux"),
        *(each.value for each in traces.Incomparable),
    }


def test_every_section() -> None:
    """Each has what is there."""
    found = report(guest())
    assert found.headline.kind == "panic" and found.headline.text.startswith(
        "Kernel panic - not syncing: x. Task x (pid 1) on vCPU 0, in x+0x1, 1 h 23 min 20 s after"
    )
    rows = dict(system_rows(guest()))
    assert rows["Taint"] == "4097 (proprietary module, out-of-tree module)"
    assert rows["Tasks"] == "20 (2 in uninterruptible sleep)"
    assert found.panic is not None and found.panic.message == "x"
    assert found.panic.task == document.PanicTask(
        0, 0, 1, "x", "panic+0x118", "vCPU 0: x (pid 1), panic+0x118"
    )
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
    out_of_tree = document.Taint(1 << 12, [document.TaintFlag("O", "out-of-tree module")])
    untainted = (False, document.Taint(0, []))
    assert [(module.out_of_tree, module.taint) for module in found.modules] == [
        *((True, out_of_tree), untainted, untainted),
    ]


def test_typed_values() -> None:
    """Numbers are numbers, times are ISO 8601, addresses are hexadecimal."""
    system = report(guest()).as_json()["system"]
    assert (system["vcpus"], system["memory_size"]) == (2, (1 << 29) + (1 << 28))
    assert system["memory_file"]["state"] == "complete" and system["memory_file"]["missing"] == 0
    assert (system["time"], system["uptime"]) == ("2026-11-26T00:00:00Z", 5000.0)
    assert system["load_average"] == [0.5, 0.25, 0.0] and system["page_table_isolation"] is False
    assert system["taint"]["value"] == 4097
    assert [flag["letter"] for flag in system["taint"]["flags"]] == ["P", "O"]
    assert (system["virtual_base"], system["kaslr_shift"]) == ("0xffffffff81000000", "0x0")
    assert system["symbols"]["types"] is True and system["no_linux"] is None


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
    (compose, "_module"): ("Modules", {"modules"}),
    (collect, "ResidentMemory"): ("Memory of tasks", {"tasks"}),
    (GuestStacks, "since_ran"): ("Tasks", {"tasks"}),
    (incident, "linux_headline"): ("Headline", {"headline"}),
    (registers, "decode"): ("vCPU 0", {"vcpus"}),
    (GuestStacks, "of_vcpu"): ("vCPU 0", {"vcpus", "panic", "headline"}),
    (system, "_memory_file"): ("Memory file", {"system"}),
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
    assert "_AnyError: ?[2Jbroken" in html.render(found, [], "x")


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
    assert html.render(found, system_rows(subject), "x")


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
    kernel = dataclasses.replace(subject.kernel, tasks=TaskCount(20, 2, whole=False))
    rows = system_rows(dataclasses.replace(subject, kernel=kernel))
    assert ("Tasks", "at least 20 (2 in uninterruptible sleep)") in rows


def test_other_guests() -> None:
    """Windows, no kernel and no registers are told, and what they do not have is not made up."""
    bare = dataclasses.replace(guest(), linux=None, stacks=None, kernel=KernelFacts())
    found = report(dataclasses.replace(bare, no_linux=NoLinux.MEMORY_MISSING))
    assert "the guest's memory is missing" in found.headline.text
    assert found.problems[0].section == "Kernel"
    windows = KernelFacts(system="Windows 10.0.20348 (x64)", panic="0xd1 DRIVER_IRQL (0x1)")
    found = report(dataclasses.replace(bare, kernel=windows, no_linux=NoLinux.OTHER_SYSTEM))
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
    subject = guest(long, counts)
    found = report(subject)
    assert found.log is not None and found.tasks is not None and found.modules is not None
    # All of it is counted.
    assert len(found.vcpus) + found.vcpus_not_shown == counts.vcpus and found.vcpus
    lines = sum(len(record.lines) for record in log.records[found.log.left_out - log.earlier :])
    assert lines == len(found.log.lines) and lines
    shown = sum(group.count for group in found.tasks.uninterruptible)
    assert shown and shown + found.tasks.not_shown == counts.waiting - 1
    assert found.modules and "Modules" in {problem.section for problem in found.problems}
    for written in (
        json.dumps(found.as_json(), indent=1),
        html.render(found, system_rows(subject), long),
    ):
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


@pytest.mark.parametrize(("loaded", "shown"), [(0, None), (2, 2)])
def test_modules_that_cannot_be_found_are_not_none(loaded: int, shown: Optional[int]) -> None:
    """That none is loaded is said of a list that was read, and is empty."""
    subject = guest(counts=Counts(modules=loaded))
    assert subject.linux is not None and subject.linux.modules is not None
    whole = report(subject)
    assert whole.modules is not None and len(whole.modules) == loaded
    assert ("None is loaded" in html.render(whole, [], "x")) == (not loaded)
    subject.linux.modules.broken = "the list of them is not in the dump"
    found = report(subject)
    assert (found.modules and len(found.modules)) == shown
    assert "None is loaded" not in html.render(found, [], "x")
    problems = {problem.section: problem.reason for problem in found.problems}
    assert problems["Modules"] == "the list of them is not in the dump"
