# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Dumps of a real guest opened without Volatility: each format, by a program of a few lines."""

import gzip
import json
import pathlib
import subprocess
import sys

import pytest

from tests.helpers import real_guest
from tests.lab import formats
from tests.lab.formats import signatures
from tests.packages import ROOT
from volatility_guestdump import kernels
from volatility_guestdump.dumps import Session, open_dump
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.state.tasks import Tasks

#: What a caller writes. It tells what it was given, and what was loaded for it.
PROGRAM = """
import json, sys
from volatility_guestdump import kernels
from volatility_guestdump.dumps import open_dump
from volatility_guestdump.linux.state.tasks import Tasks

with open_dump(sys.argv[1]) as dump:
    kernel = dump.machine and kernels.search_linux(dump.machine)
    names = [task.comm for task in Tasks(kernel, kernel.types)] if kernel else []
loaded = [name for name in sys.modules if name.partition(".")[0] == "volatility3"]
print(json.dumps([dump.machine and dump.machine.origin.format, names, dump.warnings, dump.advice,
                  loaded]))
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> formats.Files:
    """The guest in other formats."""
    return formats.Files(tmp_path_factory.mktemp("formats"))


@pytest.mark.parametrize("kind", ["debug.guest", "debug.vmem", *formats.FORMATS])
def test_each_format_without_volatility(files: formats.Files, kind: str) -> None:
    """Names of tasks are those of the guest's ps, and no module of Volatility is loaded."""
    guest = real_guest("newest" if kind in formats.WITHOUT_HOLES else "hole-pti")
    path = guest.folder / kind if kind.startswith("debug.") else files(guest, kind)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    shown, names, warnings, advice, loaded = json.loads(done.stdout)
    assert loaded == []
    if kind == "vmsn-no-memory":
        assert shown is None and "is a snapshot without the guest's memory" in advice
        return
    assert not advice and shown
    assert {task["comm"] for task in guest.expected["processes"]} <= set(names)
    # Where holes were put back a line says so.
    said = {"vmem": "has a hole at"}.get(kind, "without its holes" if "glued" in kind else "")
    assert len(warnings) == bool(said) and all(said in each for each in warnings)


def test_what_is_no_dump(tmp_path: pathlib.Path) -> None:
    """Nothing is raised: what a file is, and what to do, is told."""
    signatures.write(tmp_path)
    for name in signatures.FILES:
        dump = open_dump(str(tmp_path / name))
        assert dump.machine is None and dump.advice.startswith(f"{name} is ")
    for name, content, expected in (
        ("gone", None, "gone: No such file or directory"),
        ("debug.guest", b"text", "No guest dump: "),
        ("x.vmsn", b"text", "No state of a VMware machine: "),
        ("memory.raw", bytes(1 << 20), "memory.raw shows no Linux kernel"),
        ("cut.lime", b"EMiL" + bytes(40), "Not a usable memory image: cut.lime: version 0"),
    ):
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        dump = open_dump(path.as_uri())
        assert dump.machine is None and dump.advice.startswith(expected), name
    dump = open_dump(str(tmp_path))
    assert dump.machine is None and "Is a directory" in dump.advice


def test_memory_that_is_named(tmp_path: pathlib.Path) -> None:
    """Paths, URLs and compressed files; without memory the vCPUs are there."""
    guest = real_guest("hole-pti")
    alone, packed = tmp_path / "case.guest", tmp_path / "elsewhere.gz"
    alone.write_bytes(guest.guest_path.read_bytes())
    packed.write_bytes(gzip.compress(guest.vmem_path.read_bytes(), 1))
    for memory in (str(guest.vmem_path), packed.as_uri()):
        with open_dump(str(alone), memory) as dump:
            assert dump.machine is not None and not dump.warnings
            assert kernels.linux_kernel(dump.machine) is not None
    dump = open_dump(str(alone))
    assert dump.machine is not None and len(dump.machine.vcpus) == 2
    assert dump.machine.origin.memory_location is None
    assert "case.vmem: no such file" in dump.warnings[0].replace("vmem.gz", "vmem")


def test_what_is_kept_and_closed() -> None:
    """One session opens a dump once; what is closed is read no more, and found no more."""
    path = str(real_guest("hole-pti").guest_path)
    with Session() as session:
        dumps = [open_dump(path, session=session) for _ in range(2)]
        machine = dumps[0].machine
        assert machine is not None and dumps[1].machine is machine
        dumps[0].close()
        kernel = kernels.linux_kernel(machine)
        assert kernel is not None and kernel.types is not None
        assert next(iter(Tasks(kernel, kernel.types))).comm
        assert kernels.linux_kernel(machine) is kernel
        file = session.file(real_guest("hole-pti").guest_path.as_uri())
        assert file.read(0, 4)
    with pytest.raises(AddressError):
        file.read(0, 4)
    # Another session has files of its own, and so a kernel of its own.
    other = open_dump(path).machine
    assert other is not None and other.identity != machine.identity
