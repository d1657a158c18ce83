# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Reports of real guests, against what they said themselves."""

import hashlib
import json
import os
import pathlib
import re
from typing import Any, NamedTuple

import jsonschema
import pytest

from tests import lab
from tests.conftest import Vol
from tests.helpers import guests, info, real_guest, rows, write_pair
from tests.lab import formats
from tests.lab.windows import KERNEL, USER, missing_tools, stand_in
from tests.unit.test_collect import LARGEST, SCHEMA
from tests.unit.test_html import Parsed
from volatility_guestdump.machine import PAGE_SIZE

#: A guest -> what its headline is: by its state, and by what it said when it was harmed.
KINDS = {
    "hole-pti": "panic",
    "nmi": "panic",
    "module": "panic",
    "kdump": "panic",
    "idle-mix": "running",
    "user-mode": "user mode",
    "offline": "idle",
    "hung": "hung",
    "soft-lockup": "soft lockup",
    "oom": "panic",
    "odd-names": "panic",
}
#: Those whose kernel panicked in one of its functions.
PANICKED = ("hole-pti", "5.10", "6.12", "newest", "nmi", "module", "oom", "odd-names")


class Written(NamedTuple):
    """What guestdump.Report printed, and the file that it wrote."""

    rows: list[tuple[str, str, str]]
    path: pathlib.Path
    text: str
    errors: str

    @property
    def json(self) -> dict[str, Any]:
        """The report, which is as the schema says."""
        found: dict[str, Any] = json.loads(self.text)
        jsonschema.Draft202012Validator(SCHEMA).validate(found)
        return found

    @property
    def problems(self) -> dict[str, str]:
        """What could not be shown, and why."""
        return {problem["section"]: problem["reason"] for problem in self.json["problems"]}


def write(
    vol: Vol, tmp_path: pathlib.Path, dump: pathlib.Path, *arguments: object, json: bool = False
) -> Written:
    """Runs guestdump.Report in a folder of its own, and writes to another one."""
    here, out = tmp_path / "here", tmp_path / "out"
    here.mkdir()
    out.mkdir()
    beside = sorted(dump.parent.iterdir())
    more = ("--format", "json") if json else ()
    done = vol(
        *("-r", "json", "-o", out, "-f", dump, "guestdump.Report", *more, *arguments), cwd=here
    )
    shown = [(row["Section"], row["Item"], row["Value"]) for row in rows(done)]
    (path,) = out.iterdir()
    # It is written where -o says, and nowhere else.
    assert not list(here.iterdir()) and sorted(dump.parent.iterdir()) == beside
    assert shown[-1] == ("Report", "File output", path.name)
    assert path.name == f"{dump.name.split('.')[0]}-report.{'json' if json else 'html'}"
    assert "Traceback" not in done.stderr
    return Written(shown, path, path.read_text(encoding="utf-8"), done.stderr)


@pytest.mark.parametrize("name", guests(*KINDS))
def test_what_happened(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """Headline, tasks, taint and modules are those of the guest, and nothing is missing."""
    guest = real_guest(name)
    truth = guest.expected
    made = write(vol, tmp_path, guest.guest_path, json=True)
    found = made.json
    assert found["headline"]["kind"] == KINDS[name]
    assert made.rows[0] == ("Headline", KINDS[name], found["headline"]["text"])
    assert not made.problems and len(made.text) < LARGEST
    system = found["system"]
    assert system["taint"]["value"] == truth["system"]["tainted"]
    assert system["host_name"] == truth["system"]["hostname"]
    assert system["memory_size"] == found["memory"]["size"]
    assert system["memory_file"]["state"] == "complete"
    assert len(found["vcpus"]) == len(truth["vcpus"]) and not found["vcpus_not_shown"]
    for vcpu, mode in zip(found["vcpus"], truth["vcpu_modes"]):
        assert mode != "user" or vcpu["state"] == "user"
        assert mode == "user" or vcpu["state"] != "user"
    assert found["memory"]["size"] == sum(
        int(region["size"], 16) for region in truth["memory_regions"]
    )
    # The kernel's own figure when it was started; memory of its image is given back later.
    total = truth["memory_total_kib"] << 10
    counters = found["memory"]["counters"]
    assert abs(counters["total"] - total) < total / 50
    parts = ("free", "page_cache", "anonymous", "slab", "page_tables", "huge_pages")
    assert 0.8 < sum(counters[part] for part in parts) / total <= 1
    loaded = {(module["name"].split("?")[0], module["size"]) for module in found["modules"]}
    # One guest loads another module at its end.
    assert loaded >= {
        (re.split("[\x00-\x1f]", module["name"])[0], module["size"]) for module in truth["modules"]
    }
    out_of_tree = [module["name"] for module in found["modules"] if module["out_of_tree"]]
    assert bool(out_of_tree) == bool(truth["system"]["tainted"] & 1 << 12)


@pytest.mark.parametrize("name", guests(*PANICKED))
def test_the_headline_of_a_panic(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """Message, task, vCPU and function are those that the guest's console has."""
    guest = real_guest(name)
    console = (guest.guest_path.parent / "console.log").read_text(errors="replace")
    (message,) = set(re.findall(r"\] Kernel panic - not syncing: (.*?)\r?$", console, re.M))
    at = console.index("] Kernel panic - not syncing: ")
    found = re.search(r"CPU: (\d+) (?:UID: \d+ )?PID: (\d+) Comm: (\S+)", console[at:])
    stamp = re.search(r"\[ *(\d+)\.\d+\] Kernel panic - not syncing: ", console)
    assert found is not None and stamp is not None
    cpu, pid, comm = found.groups()
    calls = re.findall(r"^\[[^]]*\]  ([\w.]+\+0x[0-9a-f]+)/0x", console[at:], re.M)
    # What called panic(), the last of those that are panic() by name.
    last = max(n for n, call in enumerate(calls) if call.startswith(("panic+", "nmi_panic")))
    page = Parsed(write(vol, tmp_path, guest.guest_path).text)
    (headline,) = (text for text in page.texts if text.endswith(" after boot."))
    assert headline.startswith(
        f"Kernel panic - not syncing: {message}. Task {comm} (pid {pid}) on vCPU {cpu}, "
    )
    assert f"in {calls[last + 1]}" in headline
    seconds = re.search(r", (\d+) s after boot\.$", headline)
    assert seconds is not None and abs(int(seconds[1]) - int(stamp[1])) <= 3


def test_the_log(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Every line that the console has is there, with its stamp, in its order."""
    guest = real_guest("hole-pti")
    console = (guest.guest_path.parent / "console.log").read_text(errors="replace")
    printed = re.findall(r"^(\[ *\d+\.\d{6}\]) (.*?)\s*$", console, re.M)
    found = write(vol, tmp_path, guest.guest_path, json=True).json["log"]
    assert (found["left_out"], found["lost"]) == (0, 0) and len(printed) > 200
    logged = iter([(line["stamp"], line["text"].rstrip()) for line in found["lines"]])
    for stamp, text in printed:
        assert (stamp, text.expandtabs().rstrip()) in logged


@pytest.mark.parametrize("kind", ["lime-iomem", "raw", "avml", "elf", "vmem"])
def test_other_sources(vol: Vol, tmp_path: pathlib.Path, kind: str) -> None:
    """The same guest has the same log, tasks and modules in each, and no registers, as is said."""
    guest = real_guest("hole-pti")
    folder = tmp_path / "images"
    folder.mkdir()
    made = write(vol, tmp_path, formats.write(formats.source(guest), kind, folder), json=True)
    first = tmp_path / "first"
    first.mkdir()
    whole = write(vol, first, guest.guest_path, json=True).json
    found = made.json
    for section in ("log", "tasks", "modules"):
        assert found[section] == whole[section]
    assert found["memory"]["counters"] == whole["memory"]["counters"]
    assert not found["vcpus"] and "this image has no registers" in made.problems["vCPUs"]
    assert found["headline"]["kind"] == "panic"
    text = f"Kernel panic - not syncing: {guest.expected['panic_message']}. "
    assert found["headline"]["text"].startswith(text)


def test_32_bit(vol: Vol, tmp_path: pathlib.Path) -> None:
    """What such a kernel does not tell is named, and what the vCPUs did is shown."""
    made = write(vol, tmp_path, real_guest("i686-pae").guest_path, json=True)
    assert {"Tasks", "Kernel log", "Symbols"} <= set(made.problems)
    assert made.json["tasks"] is made.json["log"] is made.json["modules"] is None
    assert all(vcpu["registers"] and vcpu["top"] for vcpu in made.json["vcpus"])


@pytest.mark.parametrize("mode", ["x64", "pae"])
def test_windows(vol: Vol, tmp_path: pathlib.Path, mode: str) -> None:
    """The bug check is the headline where symbols tell it; nothing is made up where none do."""
    missing = missing_tools()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"stand-ins cannot be made without {', '.join(missing)}")
    dump = tmp_path / "dump"
    dump.mkdir()
    guest = stand_in(dump, mode, vcpus=(KERNEL, USER))
    code, _ = guest.bugcheck
    for number, symbols in enumerate((("-s", guest.symbols), ())):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = write(
            lambda *arguments, symbols=symbols, **more: vol(*symbols, *arguments, **more),
            *(folder, guest.guest_path),
            json=True,
        )
        headline = made.json["headline"]
        if symbols:
            assert headline["kind"] == "bug check" and f"{code:#x} DRIVER_IRQL" in headline["text"]
        else:
            assert headline["kind"] == "unknown" and "none are here" in headline["text"]
        assert [vcpu["state"] for vcpu in made.json["vcpus"]] == ["kernel", "user"]
        assert made.json["log"] is None and made.json["tasks"] is None


@pytest.mark.parametrize("name", guests("hole-pti", "odd-names"))
def test_the_page(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """It has a policy that allows nothing, no script, and a guest's names are text in it."""
    guest = real_guest(name)
    made = write(vol, tmp_path, guest.guest_path)
    page = Parsed(made.text)
    assert {"script", "img", "link", "iframe", "b onload"}.isdisjoint(
        tag for tag, _ in page.elements
    )
    policies = [
        dict(attributes).get("content")
        for tag, attributes in page.elements
        if dict(attributes).get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1 and (policies[0] or "").startswith("default-src 'none'; style-src 's")
    assert not [
        name for _, attributes in page.elements for name, _ in attributes if name[:2] == "on"
    ]
    assert len(made.text.encode()) < LARGEST
    assert all(character.isprintable() or character == "\n" for character in made.text)
    assert guest.expected["system"]["hostname"] in page.texts
    assert all(part.isprintable() for row in made.rows for part in row)


def test_hashes(vol: Vol, tmp_path: pathlib.Path) -> None:
    """That of the guest file is there, that of the memory file with --hash."""
    guest = real_guest("hole-pti")
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (guest.guest_path, guest.vmem_path)
    ]
    for number, (arguments, expected) in enumerate(
        (((), [digests[0], None]), (("--hash",), digests))
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        made = write(vol, folder, guest.guest_path, *arguments, json=True)
        files = made.json["evidence"]["files"]
        assert [file["sha256"] for file in files] == expected
        sizes = [path.stat().st_size for path in (guest.guest_path, guest.vmem_path)]
        assert [file["size"] for file in files] == sizes
        assert "guestdump.Report" in made.json["evidence"]["command"]


def test_a_file_that_is_there(vol: Vol, tmp_path: pathlib.Path) -> None:
    """It is not written over, and that is said."""
    guest = real_guest("hole-pti")
    (tmp_path / "debug-report.html").write_text("precious")
    done = vol("-r", "json", "-o", tmp_path, "-f", guest.guest_path, "guestdump.Report")
    assert rows(done)[-1]["Value"] == "debug-report.html (is there already)"
    assert (tmp_path / "debug-report.html").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["debug-report.html"]


def test_memory_that_is_missing(vol: Vol, tmp_path: pathlib.Path) -> None:
    """What it costs is named, and the rest is shown."""
    guest = real_guest("hole-pti")
    dump = tmp_path / "dump"
    dump.mkdir()
    path = write_pair(dump, None, regions=[(0, 64 << 20)])
    made = write(vol, tmp_path, path, json=True)
    assert made.json["headline"] == {
        "kind": "unknown",
        "text": "What happened is not known: the guest's memory is missing.",
    }
    assert made.json["vcpus"] and "Kernel" in made.problems
    # A copy that broke off, of a guest whose kernel is in the part that is there.
    half = _cut(guest, dump)
    out = tmp_path / "half"
    out.mkdir()
    made = write(vol, out, half, json=True)
    assert made.problems["Memory"].startswith("the file lacks ")
    assert "missing" in {piece["kind"] for piece in made.json["memory"]["ranges"]}
    assert [vcpu["registers"] for vcpu in made.json["vcpus"] if vcpu["registers"]]


def test_a_page_that_is_missing(vol: Vol, tmp_path: pathlib.Path) -> None:
    """It costs what is on it, which guestdump.Info warns of and the report lists."""
    guest = real_guest("6.12")
    symbols = {name: int(value, 16) for name, value in guest.expected["symbols"].items()}
    base = int(guest.expected["physical_base"], 16)
    page = (base + symbols["init_uts_ns"] - symbols["_text"]) & -PAGE_SIZE
    folder = tmp_path / "image"
    folder.mkdir()
    path = folder / "torn.lime"
    memory = formats.source(guest).memory
    ranges = []
    for start, size in memory.regions:
        for first, end in (
            (start, min(page, start + size)),
            (max(start, page + PAGE_SIZE), start + size),
        ):
            if first < end:
                ranges.append((first, end - first))
    assert sum(size for _, size in ranges) == memory.size - PAGE_SIZE
    formats.lime.write(path, memory, ranges)
    done = vol("-r", "json", "-f", path, "guestdump.Info")
    shown = info(done)
    assert shown["Host name"] == "-" and shown["Uptime"] != "-" and shown["Command line"] != "-"
    assert re.search(r"WARNING .*: Host name: .* is not in the dump", done.stderr)
    made = write(vol, tmp_path, path, json=True)
    assert made.problems["Host name"].endswith("is not in the dump")
    assert made.json["headline"]["kind"] == "panic" and made.json["log"]["lines"]


@pytest.mark.parametrize("name", guests("hung", "soft-lockup"))
def test_the_headline_of_a_watchdog(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """It is the last of its messages that the console has, with its stamp."""
    guest = real_guest(name)
    console = (guest.guest_path.parent / "console.log").read_text(errors="replace")
    said = (
        r"(soft lockup - CPU#\d+ stuck for \d+s! \[.*?\])|INFO: (task \S+ blocked for .* seconds)\."
    )
    *_, last = re.finditer(rf"^\[ *([0-9.]+)\].*?(?:{said})", console, re.M)
    words = last[2] or last[3]
    text = write(vol, tmp_path, guest.guest_path, json=True).json["headline"]["text"]
    assert f"{words[0].upper()}{words[1:]} (kernel log, {last[1]})." in text
    assert text.endswith("No panic is known.")


def _cut(guest: lab.Guest, folder: pathlib.Path) -> pathlib.Path:
    """Returns a guest's dump with the first three quarters of its memory."""
    path = folder / "cut.guest"
    path.write_bytes(guest.guest_path.read_bytes())
    with guest.vmem_path.open("rb") as stream:
        size = guest.vmem_path.stat().st_size
        path.with_suffix(".vmem").write_bytes(stream.read(3 * size // 4))
    return path
