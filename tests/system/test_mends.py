# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Volatility's own plugins on kernels for which our table mends what they rely on.

Without the mend each of these ends in a traceback, or leaves out what is there.
"""

import pathlib
import tarfile

import pytest

from tests.conftest import Vol
from tests.helpers import real_guest, rows


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
    exported = {row["SymbolName"] for row in found if row["Exported"]}
    assert exported == {"loop_register_transfer", "loop_unregister_transfer"}


def test_scanned_files_that_are_none(vol: Vol) -> None:
    """What only looks like a socket's file is passed over; a listening socket is found.

    The plugin shows the first socket that it finds by its file, and no other: it keeps None as
    the place of each. Which of the two listening sockets lies first in memory is chance.
    """
    found = rows(vol("-r", "json", "-f", real_guest("hole-pti").guest_path, "linux.sockscan"))
    assert {row["Source Port"] for row in found if row["State"] == "LISTEN"} & {"80", "8000"}


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


def test_zombies(vol: Vol) -> None:
    """A task that ended is listed until its parent asks for it, by every plugin that can."""
    guest = real_guest("zombies-6.1")
    ended = {(task["pid"], task["comm"]) for task in guest.expected["zombies"]}
    found = rows(vol("-r", "json", "-f", guest.guest_path, "linux.pslist", "--threads"))
    assert ended and ended <= {(row["PID"], row["COMM"]) for row in found}
    running = {task["pid"] for task in guest.expected["processes"]}
    assert running <= {row["PID"] for row in found}
    for plugin in ("linux.lsof", "linux.psaux", "linux.envars", "linux.proc.Maps", "linux.elfs"):
        done = vol("-f", guest.guest_path, plugin)
        assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    # They have no time namespace, and are none.
    boottime = rows(vol("-r", "json", "-f", guest.guest_path, "linux.boottime"))
    assert len(boottime) == 1 and boottime[0]["TIME NS"]
