# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory glued together without its holes, of real guests: LiME's format=raw and its like."""

import os
import pathlib
import shutil
from collections.abc import Iterator, Sequence

import pytest

from tests import lab
from tests.conftest import Vol
from tests.helpers import guests, info, real_guest, rows
from tests.lab import formats
from volatility_guestdump.dumps.glued import find_glued, find_glued_around
from volatility_guestdump.dumps.opening import open_dump
from volatility_guestdump.files.memory_file import MemoryFile
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.linux.finding.search import search
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.sources.glued import Rule

#: Tested always: three ranges, seven by UEFI, five levels. The others where slow tests are.
SOME, OTHERS = (
    ("hole-pti", "uefi", "la57"),
    ("5.10", "6.12", "newest", "nokaslr", "uefi-la57"),
)
ALL = [*SOME, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)]

#: What is written by which rule.
RULES = {
    "glued": Rule.EXACT,
    "glued-page-zero": Rule.PAGE_ZERO,
    "glued-pages": Rule.WHOLE_PAGES,
    "glued-last-page-lost": Rule.LAST_PAGE_LOST,
}


class Counted:
    """A file without a map.

    Args:
        path: of the file.

    Attributes:
        done: how many bytes of it were read.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._file = MemoryFile(path.as_uri())
        self.size = self._file.size
        self.done = 0

    def read(self, offset: int, length: int) -> bytes:
        """Reads it, and counts."""
        self.done += length
        return self._file.read(offset, length)

    def stored(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yields all of it."""
        yield offset, length

    def map(self) -> None:
        """Reads are not to pass by."""


def _write(guest: lab.Guest, kind: str, folder: pathlib.Path) -> pathlib.Path:
    return formats.write(formats.source(guest), kind, folder)


def _shown(ranges: Sequence[tuple[int, int]]) -> str:
    return ", ".join(f"{start:x}-{start + size - 1:x}" for start, size in ranges)


def _system_ram(vol: Vol, raw: pathlib.Path) -> list[tuple[int, int]]:
    """Returns address and size of what is "System RAM" in linux.iomem of a raw image."""
    (root,) = rows(vol("-r", "json", "-f", raw, "linux.iomem"))
    return [
        (row["Start"], row["End"] + 1 - row["Start"])
        for row in root["__children"]
        if row["Name"] == "System RAM"
    ]


@pytest.mark.parametrize("name", ALL)
def test_every_process(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """The rows are those of the raw image; one line says what was put back."""
    guest = real_guest(name)
    source = formats.source(guest)
    raw, glued = (formats.write(source, kind, tmp_path) for kind in ("raw", "glued"))
    assert glued.stat().st_size == sum(size for _, size in source.system_ram)
    expected = rows(vol("-r", "json", "-f", raw, "linux.pslist"))
    done = vol("-r", "json", "-f", glued, "linux.pslist")
    assert rows(done) == expected
    listed = {(row["PID"], row["COMM"]) for row in expected}
    assert {(each["pid"], each["comm"]) for each in guest.expected["processes"]} <= listed
    (line,) = (each for each in done.stderr.splitlines() if each.startswith("WARNING"))
    assert "glued.raw is memory without its holes, range behind range" in line
    assert f"By the guest's /proc/iomem they are {_shown(source.system_ram[:4])}" in line
    assert "found there by low memory proves it, and so does the size of the file" in line
    assert _system_ram(vol, raw) == source.system_ram, "what the lab wrote is not what LiME would"


def test_info(vol: Vol, tmp_path: pathlib.Path) -> None:
    """guestdump.Info names the ranges, and what they were glued to."""
    guest = real_guest("uefi")
    shown = info(vol("-r", "json", "-f", _write(guest, "glued", tmp_path), "guestdump.Info"))
    assert shown["Format"] == "raw memory, glued together without its holes"
    assert shown["Kernel banner"] == guest.expected["banner"]
    assert shown["Memory range 2"] == "0x808000-0x80afff at file offset 0x79f000"


@pytest.mark.parametrize("name", ["hole-pti", *guests("uefi", "newest", "la57", "5.10")])
@pytest.mark.parametrize("kind", RULES)
def test_each_rule(tmp_path: pathlib.Path, name: str, kind: str) -> None:
    """Whatever a program takes of the ranges; not all of the file is read for it."""
    guest = real_guest(name)
    path = _write(guest, kind, tmp_path)
    file = Counted(path)
    found = find_glued(file)
    assert found is not None and found.fits and found.told_by == "/proc/iomem"
    assert found.kernel.banner.decode() == guest.expected["banner"]
    assert file.done < file.size
    whole = formats.source(guest).memory
    assert sum(run.size for run in found.ranges) == file.size
    for run in found.ranges:
        for start in (run.start, run.end - 64):
            offset = run.file_offset + start - run.start
            assert file.read(offset, 64) == whole.read(start, 64)
    # UEFI's ranges are of whole pages, so that those rules are the same.
    same = name == "uefi" and kind == "glued-pages"
    assert found.rule is (Rule.EXACT if same else RULES[kind])


def test_without_low_memory(tmp_path: pathlib.Path) -> None:
    """A search of all memory finds the banner, and around it the map."""
    guest = real_guest("hole-pti")
    path = _write(guest, "glued-from-one-mib", tmp_path)
    with open_dump(str(path)) as dump:
        assert dump.machine is not None and not dump.advice
        (line,) = dump.warnings
        assert "found there by VMCOREINFO proves it, and so does the size of the file" in line
        assert [run.start for run in dump.machine.memory.ranges] == [0x100000, 0x100000000]


def test_32_bits(tmp_path: pathlib.Path) -> None:
    """So it does of a kernel that has no page table below 1 MiB."""
    guest = real_guest("i686-pae")
    file = MemoryFile(_write(guest, "glued", tmp_path).as_uri())
    assert find_glued(file) is None
    hits = search(PhysicalMemory([MemoryRange(0, file.size, 0)], file))
    found = find_glued_around(file, hits.banners)
    assert found is not None and found.fits
    assert found.kernel.banner.decode() == guest.expected["banner"]
    ranges = [(run.start, run.size) for run in found.ranges]
    assert ranges == list(formats.source(guest).system_ram)


def test_cut_off(vol: Vol, tmp_path: pathlib.Path) -> None:
    """What is missing is said; what is there is in its place."""
    guest = real_guest("hole-pti")
    path = _write(guest, "glued", tmp_path)
    whole = path.stat().st_size
    os.truncate(path, whole - 0x123456)
    done = vol("-r", "json", "-f", path, "guestdump.Info")
    assert info(done)["Kernel banner"] == guest.expected["banner"]
    said = [each for each in done.stderr.splitlines() if each.startswith("WARNING")]
    assert "proves it" in said[0] and "the size of the file" not in said[0]
    start, size = formats.source(guest).system_ram[-1]
    assert f"from guest-physical address {start + size - 0x123456:#x} on" in said[1]
    assert f"{whole - 0x123456} of the {whole} bytes" in said[1]


def test_saved_configuration(vol: Vol, tmp_path: pathlib.Path) -> None:
    """The ranges are in it, as /proc/iomem writes them: nothing is searched for again."""
    path = _write(real_guest("hole-pti"), "glued", tmp_path)
    saved = tmp_path / "saved.json"
    first = rows(vol("-r", "json", "--save-config", saved, "-f", path, "linux.pslist"))
    assert "1000-9fbff,100000-7fdffff,100000000-103ffffff" in saved.read_text()
    assert first and rows(vol("-r", "json", "-c", saved, "linux.pslist")) == first


@pytest.mark.parametrize("kind", ["raw", "vmem", "the kernel's banners are gone"])
def test_what_is_no_glued_memory(tmp_path: pathlib.Path, kind: str) -> None:
    """Memory at its place, and with the hole alone squeezed out, is not taken for it."""
    guest = real_guest("hole-pti")
    banner = guest.expected["banner"].encode()
    if kind in formats.FORMATS:
        path = _write(guest, kind, tmp_path)
    else:
        path = tmp_path / "memory.raw"
        shutil.copy(_write(guest, "glued", tmp_path), path)
        data = path.read_bytes().replace(banner, bytes(len(banner)))
        path.write_bytes(data)
    file = Counted(path)
    assert find_glued(file) is None
    # Once, and page tables and the image again for maps with which low memory leads somewhere.
    assert file.done < file.size * (1.05 if kind in formats.FORMATS else 2)
