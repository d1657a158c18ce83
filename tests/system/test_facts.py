# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The facts of real guests as a program gets them: of each format, and many at once."""

import collections
import concurrent.futures
import dataclasses
import gzip
import multiprocessing
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

import volatility_guestdump
from tests.helpers import real_guest
from tests.lab import formats
from volatility_guestdump.exceptions import SourceError
from volatility_guestdump.guest.facts import FileState, GuestFacts

GUEST = "hole-pti"
AT_ONCE = 8


@pytest.fixture(scope="module", name="files")
def _files(tmp_path_factory: pytest.TempPathFactory) -> formats.Files:
    return formats.Files(tmp_path_factory.mktemp("formats"))


@pytest.fixture(scope="module", name="whole")
def _whole() -> GuestFacts:
    return volatility_guestdump.facts(real_guest(GUEST).guest_path)


def of_guest(found: GuestFacts) -> tuple[Any, ...]:
    """Returns what does not depend on the file that a guest was found in."""
    return (
        dataclasses.replace(found.kernel, found_by=None, panic_task=None),
        *(found.no_linux, found.panicked, found.log, found.tasks, found.memory.use, found.modules),
        found.failures,
    )


def test_what_the_guest_said(whole: GuestFacts) -> None:
    """Kernel, panic, vCPUs, memory and taint are those of the guest."""
    truth = real_guest(GUEST).expected
    assert truth["kernel_release"] in (whole.kernel.system or "")
    assert whole.kernel.panic == truth["panic_message"] and whole.panicked
    assert whole.machine.vcpus == len(whole.vcpus) == len(truth["vcpus"])
    assert whole.machine.memory_size == sum(int(r["size"], 16) for r in truth["memory_regions"])
    assert whole.kernel.told.taint == truth["system"]["tainted"]
    assert whole.panic is not None and whole.panic.comparison.differences == 0
    who = whole.kernel.panic_task
    assert who is not None and who.task is not None and who.task.pid == 1
    assert whole.log is not None and len(whole.log.records) > 200
    assert not whole.failures and not whole.warnings


#: All but those with no memory or no place for the hole, and what only Volatility reads.
KINDS = sorted({*formats.FORMATS} - {"vmsn-no-memory", "elf"} - formats.WITHOUT_HOLES)


@pytest.mark.parametrize("kind", KINDS)
def test_each_format(files: formats.Files, kind: str, whole: GuestFacts) -> None:
    """The same guest has the same facts in each, but for registers where there are none."""
    found = volatility_guestdump.facts(files(real_guest(GUEST), kind))
    assert of_guest(found) == of_guest(whole)
    file = found.machine.memory_file
    assert file is not None and file.state is FileState.COMPLETE
    if found.machine.vcpus is not None:
        assert [(v.number, v.task, v.frames) for v in found.vcpus] == [
            (v.number, v.task, v.frames) for v in whole.vcpus
        ]
    else:
        assert not found.vcpus


@pytest.mark.parametrize(
    ("kind", "executor"),
    [("debug.guest", "threads"), ("lime", "threads"), ("debug.guest.gz", "processes")],
)
def test_many_at_once(
    files: formats.Files,
    tmp_path: pathlib.Path,
    kind: str,
    executor: str,
    whole: GuestFacts,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Eight read the same file at the same time: all get the same, and nothing is left behind."""
    guest = real_guest(GUEST)
    path = guest.guest_path
    if kind == "lime":
        path = files(guest, "lime")
    elif kind == "debug.guest.gz":
        path = tmp_path / kind
        path.write_bytes(gzip.compress(guest.guest_path.read_bytes()))
        memory = guest.vmem_path.read_bytes()
        (tmp_path / "debug.vmem.gz").write_bytes(gzip.compress(memory, 1))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("TMPDIR", str(scratch))
    before, opened = sorted(path.parent.iterdir()), _open_files()
    pool: concurrent.futures.Executor
    if executor == "threads":
        pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE)
    else:
        pool = concurrent.futures.ProcessPoolExecutor(
            AT_ONCE, mp_context=multiprocessing.get_context("spawn")
        )
    with pool:
        found = list(pool.map(volatility_guestdump.facts, [path] * AT_ONCE))
    assert all(each == found[0] for each in found)
    assert of_guest(found[0]) == of_guest(whole)
    assert sorted(path.parent.iterdir()) == before
    # What tests before had open may have been closed since.
    assert not _open_files() - opened


def _open_files() -> "collections.Counter[str]":
    """Returns what files this process has open and how often, where the system tells."""
    folder = "/proc/self/fd"
    found: collections.Counter[str] = collections.Counter()
    if not os.path.isdir(folder):
        return found
    for name in os.listdir(folder):
        try:
            target = os.readlink(f"{folder}/{name}")
        except OSError:
            continue
        if target.startswith(("/", "memfd:")) and not target.startswith(("/dev/", "/proc/")):
            found[target] += 1
    return found


def test_no_volatility(whole: GuestFacts) -> None:
    """A program that asks for facts loads no module of Volatility, nor a template engine."""
    code = (
        "import sys, volatility_guestdump\n"
        "found = volatility_guestdump.facts(sys.argv[1])\n"
        "print(found.tasks.count, [name for name in sys.modules"
        " if name.startswith(('volatility3', 'jinja2'))])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(real_guest(GUEST).guest_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert whole.tasks is not None
    assert (done.stdout, done.stderr) == (f"{whole.tasks.count} []\n", "")


def test_a_snapshot_without_memory(files: formats.Files) -> None:
    """There is no machine in it: the error says what to do."""
    with pytest.raises(SourceError, match="take one with memory"):
        volatility_guestdump.facts(files(real_guest(GUEST), "vmsn-no-memory"))
