# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Files under odd names and of odd kinds, as a user of `vol` meets them."""

import bz2
import gzip
import http.server
import lzma
import os
import pathlib
import random
import socket
import subprocess
import threading
import zipfile
from collections.abc import Iterator
from typing import Optional

import pytest

from tests.conftest import Vol, program
from tests.helpers import IDLE_VCPU, info, rows, write_pair

SIZE = 1 << 20


@pytest.fixture
def guest(tmp_path: pathlib.Path) -> pathlib.Path:
    """A small guest dump."""
    return write_pair(tmp_path, bytes(SIZE), vcpus=[{**IDLE_VCPU, "rip": 0x1234}])


def test_a_symbolic_link(vol: Vol, guest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """A link to either file finds the other one."""
    desk = tmp_path / "desk"
    desk.mkdir()
    for name in ("debug.guest", "debug.vmem"):
        (desk / name).symlink_to(guest.with_name(name))
        done = vol("-r", "json", "-f", desk / name, "guestdump.Info")
        assert info(done)["Memory file"].endswith("debug.vmem (complete)")
        assert "WARNING" not in done.stderr
        (desk / name).unlink()


@pytest.mark.parametrize("given", ["DEBUG.GUEST", "DEBUG.VMEM"])
def test_upper_case(vol: Vol, guest: pathlib.Path, given: str) -> None:
    """Names in upper case are the same names."""
    for name in ("debug.guest", "debug.vmem"):
        guest.with_name(name).rename(guest.with_name(name.upper()))
    done = vol("-r", "json", "-f", guest.with_name(given), "guestdump.Info")
    assert info(done)["Memory file"].endswith("DEBUG.VMEM (complete)")
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("given", ["debug.guest", "debug.vmem"])
def test_gzip_data_under_a_plain_name(vol: Vol, guest: pathlib.Path, given: str) -> None:
    """Somebody renamed the compressed file."""
    memory = guest.with_suffix(".vmem")
    memory.write_bytes(gzip.compress(memory.read_bytes()))
    done = vol("-r", "json", "-f", guest.with_name(given), "guestdump.Info")
    assert info(done)["Memory file"].endswith("debug.vmem (complete)")
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("given", ["debug.guest.gz", "debug.vmem.gz"])
def test_plain_data_named_gz(vol: Vol, guest: pathlib.Path, given: str) -> None:
    """Somebody renamed the plain file; both are read."""
    for name in ("debug.guest", "debug.vmem"):
        guest.with_name(name).rename(guest.with_name(name + ".gz"))
    done = vol("-r", "json", "-f", guest.with_name(given), "guestdump.Info")
    assert info(done)["Memory file"].endswith("debug.vmem.gz (complete)")
    assert "WARNING" not in done.stderr


def test_packed_memory_beside(vol: Vol, guest: pathlib.Path) -> None:
    """What lies there is named, and the registers are shown all the same."""
    memory = guest.with_suffix(".vmem")
    memory.with_name("debug.vmem.xz").write_bytes(lzma.compress(memory.read_bytes()))
    memory.unlink()
    done = vol("-r", "json", "-f", guest, "guestdump.Registers")
    assert [row["Value"] for row in rows(done) if row["Register"] == "rip"] == [0x1234]
    assert done.stderr.count("WARNING") == 1
    assert "debug.vmem.xz is compressed by xz: unpack it first (unxz)" in done.stderr


def test_an_archive(vol: Vol, guest: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Both files in an archive: what to do."""
    archive = tmp_path / "case.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.write(guest)
        file.write(guest.with_suffix(".vmem"))
    done = vol("-f", archive, "guestdump.Info")
    assert done.returncode == 1
    reason = "case.zip is a zip archive: unpack it first (unzip)"
    assert done.stderr.count("WARNING") == 1
    assert done.stderr.splitlines()[-1] == f"volatility_guestdump: {reason}"
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("x.vmsn.gz", "damaged or cut off behind"),
        ("x.vmem.gz", "damaged or cut off behind"),
        ("x.vmsn.xz", "x.vmsn.xz is compressed by xz: unpack it first (unxz)"),
        ("x.vmss", "x.vmss is compressed by xz: unpack it first (unxz)"),
        ("x.vmsn.bz2", "x.vmsn.bz2 is compressed by bzip2: unpack it first (bunzip2)"),
    ],
)
@pytest.mark.parametrize("plugin", ["guestdump.Info", "linux.pslist"])
def test_each_reason_comes_once(
    vol: Vol, tmp_path: pathlib.Path, name: str, message: str, plugin: str
) -> None:
    """Several stackers open a compressed file; the first that cannot says so."""
    # Of a state file as much as tells that it is one.
    content = b"\xd2\xbe\xd2\xbe" + random.Random(1).randbytes(1 << 18)
    packed = gzip.compress(content)[: 1 << 17]
    if not name.endswith(".gz"):
        packed = bz2.compress(content) if name.endswith(".bz2") else lzma.compress(content)
    (tmp_path / name).write_bytes(packed)
    done = vol("-f", tmp_path / name, plugin)
    assert "Traceback" not in done.stderr
    warnings = [line for line in done.stderr.splitlines() if " volatility_guestdump." in line]
    assert len(warnings) == 1 and message in warnings[0]
    assert message in done.stderr.splitlines()[-1]


def test_advice_shows_the_command_line(vol: Vol, guest: pathlib.Path) -> None:
    """--guest-memory stands before the plugin's name, and the advice is one that works."""
    memory = guest.with_suffix(".vmem").rename(guest.with_name("memory.raw"))
    done = vol("-r", "json", "-f", guest, "guestdump.Registers")
    assert "vol --guest-memory FILE -f debug.guest PLUGIN" in done.stderr
    done = vol("-r", "json", "--guest-memory", memory, "-f", guest, "guestdump.Info")
    assert info(done)["Memory file"].endswith("memory.raw (complete)")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
@pytest.mark.parametrize("plugin", ["guestdump.Info", "linux.pslist"])
def test_a_pipe(vol: Vol, tmp_path: pathlib.Path, plugin: str) -> None:
    """Nobody may ever write to it, so it is not opened; the last line says what to do."""
    os.mkfifo(tmp_path / "x.vmsn")
    done = vol("-f", tmp_path / "x.vmsn", plugin)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = "volatility_guestdump: x.vmsn is a pipe, which has no random access: write it to a file"
    assert done.stderr.splitlines()[-1] == last


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_memory_is_a_pipe(vol: Vol, guest: pathlib.Path) -> None:
    """The registers are shown all the same."""
    memory = guest.with_suffix(".vmem")
    memory.unlink()
    os.mkfifo(memory)
    done = vol("-r", "json", "-f", guest, "guestdump.Registers")
    assert [row["Value"] for row in rows(done) if row["Register"] == "rip"] == [0x1234]
    assert done.stderr.count("WARNING") == 1
    assert "debug.vmem: is a pipe, which has no random access" in done.stderr


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Yields the URL of a server that has no file."""
    handler = http.server.BaseHTTPRequestHandler
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as opened:
        threading.Thread(target=opened.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{opened.server_port}"
        opened.shutdown()


@pytest.mark.parametrize("plugin", ["guestdump.Info", "linux.pslist"])
@pytest.mark.parametrize(
    ("answers", "reason"),
    [(True, "HTTP Error 501: "), (False, "Connection refused"), (None, "Volatility 3 is offline")],
)
def test_a_url_that_leads_nowhere(
    server: str, tmp_path: pathlib.Path, answers: Optional[bool], reason: str, plugin: str
) -> None:
    """One line says which URL and why, and it is the last."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    url = f"{f'http://127.0.0.1:{port}' if answers is False else server}/debug.guest"
    offline = ["--offline"] if answers is None else []
    done = subprocess.run(
        [program("vol"), "-q", *offline, "--cache-path", tmp_path, "-f", url, plugin],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "Traceback" not in done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"volatility_guestdump: {url} cannot be opened: ") and reason in last
    assert done.stderr.count(f"{url} cannot be opened") == 2


@pytest.mark.parametrize("plugin", ["guestdump.Info", "linux.pslist"])
def test_a_folder(vol: Vol, tmp_path: pathlib.Path, plugin: str) -> None:
    """What cannot be opened is said once."""
    done = vol("-f", tmp_path, plugin)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert done.stderr.count("WARNING") == 1 and done.stderr.count(str(tmp_path)) == 1


@pytest.mark.parametrize("name", ["debug.guest", "debug.vmsn", "debug.vmss.gz"])
@pytest.mark.parametrize("is_loop", [False, True])
def test_registers_that_cannot_be_read(
    vol: Vol, guest: pathlib.Path, name: str, is_loop: bool
) -> None:
    """What lies beside a memory file, and cannot be opened, is said."""
    guest.unlink()
    beside = guest.with_name(name)
    if is_loop:
        beside.symlink_to(beside)
    else:
        beside.mkdir()
    done = vol("-f", guest.with_suffix(".vmem"), "guestdump.Registers")
    message = f"The guest's registers cannot be read, only its memory: {name}: "
    assert "Traceback" not in done.stderr
    assert f"\nvolatility_guestdump: {message}" in done.stderr


@pytest.mark.parametrize("size", [0, 31])
@pytest.mark.parametrize("name", ["memory.raw", "memory.lime", "dump.elf"])
def test_hardly_a_file(vol: Vol, tmp_path: pathlib.Path, name: str, size: int) -> None:
    """A copy that failed at once."""
    (tmp_path / name).write_bytes(b"EMiL"[:size] + bytes(max(0, size - 4)))
    done = vol("-f", tmp_path / name, "guestdump.Info")
    assert "Traceback" not in done.stderr
    last = f"volatility_guestdump: {name} shows no Linux kernel: "
    assert done.stderr.splitlines()[-1].startswith(last)
