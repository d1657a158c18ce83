# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The facts of a file, for programs, and how little they ask for."""

import logging
import pathlib
import pickle
import subprocess
import sys

import pytest

import volatility_guestdump
from tests.helpers import write_pair
from tests.packages import ROOT
from volatility_guestdump.exceptions import SourceError
from volatility_guestdump.guest.facts import FileState, MachineFacts, NoLinux, VcpuState
from volatility_guestdump.machine import MemoryRange
from volatility_guestdump.words import machine_rows

MEMORY = bytes(1 << 20)


def test_a_machine_without_a_kernel(
    tmp_path: pathlib.Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What there is comes typed; nothing is printed, and nothing is written."""
    caplog.set_level(logging.INFO)
    path = write_pair(tmp_path, MEMORY)
    before = sorted(tmp_path.iterdir())
    found = volatility_guestdump.facts(path)
    assert (found.machine.vcpus, found.machine.memory_size) == (1, len(MEMORY))
    file = found.machine.memory_file
    assert file is not None and (file.state, file.missing) == (FileState.COMPLETE, 0)
    assert found.no_linux is NoLinux.NOT_FOUND and found.kernel.system is None
    (vcpu,) = found.vcpus
    assert vcpu.state is VcpuState.UNKNOWN and ("rip", 0, "") in vcpu.registers
    assert (found.log, found.tasks, found.modules, found.panic) == (None, None, None, None)
    assert [piece.size for piece in found.memory.pieces] == [len(MEMORY)]
    # One process may hand them to another.
    assert pickle.loads(pickle.dumps(found)) == found
    assert sorted(tmp_path.iterdir()) == before
    assert tuple(capfd.readouterr()) == ("", "")


def test_memory_that_lies_elsewhere(tmp_path: pathlib.Path) -> None:
    """It may have any name, and is named; where it is not found that is a fact too."""
    path = write_pair(tmp_path, None, regions=[(0, len(MEMORY))])
    found = volatility_guestdump.facts(str(path))
    assert found.no_linux is NoLinux.MEMORY_MISSING
    memory = tmp_path / "8f3a"
    memory.write_bytes(MEMORY)
    file = volatility_guestdump.facts(path, memory).machine.memory_file
    assert file is not None and file.state is FileState.COMPLETE
    assert file.location == memory.as_uri()


@pytest.mark.parametrize("content", [None, b"", b"just a text\n" * 1000])
def test_a_file_that_is_no_dump(tmp_path: pathlib.Path, content: "bytes | None") -> None:
    """The error says what there is, and names the file."""
    path = tmp_path / "notes.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=r"notes\.txt"):
        volatility_guestdump.facts(path)


def test_the_name_stays_a_function() -> None:
    """No module of the package is called like it, so none that is imported takes its place."""
    code = (
        "import volatility_guestdump, sys\n"
        "first = {name for name in sys.modules if name.startswith('volatility_guestdump')}\n"
        "from volatility_guestdump.guest import collect, facts, guest, read\n"
        "from volatility_guestdump import words\n"
        "print(sorted(first), type(volatility_guestdump.facts).__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    # Nor does importing the package import what the function needs.
    loaded = ["volatility_guestdump", "volatility_guestdump.version"]
    assert done.stdout == f"{loaded} function\n"


def test_rows_of_many_ranges() -> None:
    """The first of them are shown, and it is said how many there are more."""
    ranges = [MemoryRange(number << 13, 0x1000, number << 12) for number in range(70)]
    rows = dict(machine_rows(MachineFacts("raw", None, 70 << 12, ranges, None)))
    shown = [name for name in rows if name.startswith("Memory range ")]
    assert shown == [f"Memory range {number}" for number in range(64)]
    assert rows["Memory ranges not shown"] == "6" and rows["Memory file"] == "-"
    rows = dict(machine_rows(MachineFacts("raw", None, 64 << 12, ranges[:64], None)))
    assert "Memory ranges not shown" not in rows and "Memory range 63" in rows
