"""Volatility's own plugins on kernels for which our table mends what they rely on.

Without the mend each of these ends in a traceback, or leaves out what is there.
"""

import pathlib
import shutil
import tarfile

import pytest

from tests.conftest import Vol
from tests.helpers import real_guest, rows
from volatility_guestdump import kernels
from volatility_guestdump.framework.layers import open_machine
from volatility_guestdump.linux.btf import Kind
from volatility_guestdump.linux.kernel import LinuxKernel

#: What a task loses on its way out, and the state in which it waits for its parent.
_ZOMBIE = {"mm": 0, "active_mm": 0, "fs": 0, "files": 0, "nsproxy": 0, "exit_state": 0x20}


@pytest.mark.parametrize("guest", ["5.10", "hole-pti", "6.12", "newest"])
def test_capabilities(vol: Vol, guest: str) -> None:
    """The first process may do everything."""
    found = rows(vol("-r", "json", "-f", real_guest(guest).guest_path, "linux.capabilities"))
    init = next(row for row in found if row["Pid"] == 1)
    assert (init["cap_effective"], init["cap_bounding"], init["cap_inheritable"]) == (
        *("all", "all"),
        "",
    )


def test_exported_symbols_of_modules(vol: Vol) -> None:
    """The names are read, and whether modules export a symbol is told by them."""
    guest = real_guest("5.10").guest_path
    found = rows(vol("-r", "json", "-f", guest, "linux.kallsyms", "--modules"))
    assert {row["ModuleName"] for row in found}
    assert {row["Exported"] for row in found} <= {True, False}


def test_scanned_files_that_are_none(vol: Vol) -> None:
    """What only looks like a socket's file is passed over; the listening socket is found."""
    found = rows(vol("-r", "json", "-f", real_guest("hole-pti").guest_path, "linux.sockscan"))
    assert any(row["Source Port"] == 8000 and row["State"] == "LISTEN" for row in found)


@pytest.mark.parametrize("plugin", ["linux.lsmod", "linux.malware.modxview"])
def test_taint_of_modules(vol: Vol, plugin: str) -> None:
    """Modules are listed; those of a distribution's kernel are not tainted."""
    found = rows(vol("-r", "json", "-f", real_guest("newest").guest_path, plugin))
    names = {row.get("Module Name") or row.get("Name") for row in found}
    assert {"loop", "dummy"} <= names
    assert {row["Taints"] for row in found} <= {"", None, "-"}


def test_cached_files_are_recovered(vol: Vol, tmp_path: pathlib.Path) -> None:
    """The content of a file in the page cache is that of the file."""
    guest = real_guest("newest").guest_path
    options = ("-o", tmp_path, "-f", guest, "linux.pagecache.RecoverFs", "--compression-format")
    done = vol(*options, "gz")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    with tarfile.open(tmp_path / "recovered_fs.tar.gz") as archive:
        sizes = {member.name: member.size for member in archive if member.isfile()}
        assert sum(sizes.values()) > 100_000
        init = next(name for name in sizes if name.endswith("/init"))
        content = archive.extractfile(init)
        assert content is not None and content.read(2) == b"#!"


@pytest.mark.parametrize("plugin", ["linux.kallsyms", "linux.pscallstack"])
def test_place_relative_kallsyms(vol: Vol, plugin: str) -> None:
    """What cannot be mended is said in one line, without a traceback."""
    done = vol("-f", real_guest("newest").guest_path, plugin)
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    assert "Volatility cannot read the kallsyms of Linux 7." in output
    assert "guestdump.Backtrace --tasks" in output


def _kernel(folder: pathlib.Path) -> LinuxKernel:
    machine = open_machine((folder / "debug.guest").as_uri(), (folder / "debug.vmem").as_uri())
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    return kernel


def test_zombies(vol: Vol, tmp_path: pathlib.Path) -> None:
    """A task that ended is listed until its parent asks for it, by every plugin that can."""
    guest = real_guest("hole-pti")
    for path in (guest.guest_path, guest.vmem_path):
        shutil.copy(path, tmp_path / path.name)
    before = rows(vol("-r", "json", "-f", tmp_path / "debug.guest", "linux.pslist"))
    victim = next(row for row in before if row["COMM"] == "sleep")
    kernel = _kernel(tmp_path)
    task = kernel.btf.find("task_struct", Kind.STRUCT)
    assert task is not None
    members = {member.name: member for member in kernel.btf.members(task)}
    runs = _runs(tmp_path)
    with (tmp_path / "debug.vmem").open("r+b") as memory:
        for name, value in _ZOMBIE.items():
            member = members[name]
            place = (victim["OFFSET (V)"] | 0xFFFF << 48) + member.bit_offset // 8
            size = kernel.btf.size(kernel.btf.resolve(member.type)) if name == "exit_state" else 8
            physical = kernel.tables.translate(place)[0]
            start, _, file_offset = next(run for run in runs if run[0] <= physical < run[1])
            memory.seek(physical - start + file_offset)
            memory.write(value.to_bytes(size, "little"))
    after = rows(vol("-r", "json", "-f", tmp_path / "debug.guest", "linux.pslist", "--threads"))
    assert {row["PID"] for row in before} == {row["PID"] for row in after}
    for plugin in ("linux.lsof", "linux.psaux", "linux.envars", "linux.proc.Maps", "linux.elfs"):
        done = vol("-f", tmp_path / "debug.guest", plugin)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr


def _runs(folder: pathlib.Path) -> list[tuple[int, int, int]]:
    machine = open_machine((folder / "debug.guest").as_uri(), (folder / "debug.vmem").as_uri())
    return [(run.start, run.end, run.file_offset) for run in machine.origin.ranges]
