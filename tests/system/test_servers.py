# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Volatility's own plugins on what servers have: large folios, long arguments, containers.

Without our mends each of these fails, or shows something else than the guest's /proc.
"""

import hashlib
import pathlib
import tarfile
from typing import Any

import pytest

from tests.conftest import Vol
from tests.helpers import guests, real_guest, rows

NAMES = guests("servers-6.1", "servers-6.12", "servers-newest")

#: Of the pages that the CPU maps.
PAGE = 4096


def shown(vol: Vol, name: str, *plugin: object) -> list[dict[str, Any]]:
    """Returns what a plugin prints of a guest."""
    return rows(vol("-r", "json", "-f", real_guest(name).guest_path, *plugin))


def told(name: str) -> dict[str, Any]:
    """Returns what a guest said."""
    servers: dict[str, Any] = real_guest(name).expected["servers"]
    return servers


@pytest.mark.parametrize("path", ["/h/f", "/h/odd", "/h/small"])
@pytest.mark.parametrize("name", NAMES)
def test_files_in_large_folios(vol: Vol, tmp_path: pathlib.Path, name: str, path: str) -> None:
    """The content is what the guest's sha256sum read, and each page is listed once, in order."""
    guest = real_guest(name).guest_path
    plugin = ("linux.pagecache.InodePages", "--find", path, "--dump")
    done = vol("-r", "json", "-o", tmp_path, "-f", guest, *plugin)
    pages = rows(done)
    assert "corrupt" not in done.stderr and "bounds" not in done.stderr
    (content,) = (file.read_bytes() for file in tmp_path.iterdir())
    assert hashlib.sha256(content).hexdigest() == told(name)["files"][path]
    assert [page["Index"] for page in pages] == list(range(len(pages)))
    # Whole folios of 2 MiB.
    assert len(pages) * PAGE >= len(content) and not len(pages) % 512
    assert {page["PagePAddr"] - pages[0]["PagePAddr"] for page in pages[:512]} == {
        number * PAGE for number in range(512)
    }
    flags = [set(page["Flags"].split(",")) for page in pages]
    assert all("uptodate" in each for each in flags)
    assert [number for number, each in enumerate(flags) if "head" in each] == [
        number for number in range(len(pages)) if not number % 512
    ]


@pytest.mark.parametrize("name", NAMES)
def test_large_folios_are_recovered(vol: Vol, tmp_path: pathlib.Path, name: str) -> None:
    """The same for all files of the file system."""
    guest = real_guest(name).guest_path
    done = vol("-o", tmp_path, "-f", guest, "linux.pagecache.RecoverFs", "--tmpfs-only")
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    with tarfile.open(tmp_path / "recovered_fs.tar.gz") as archive:
        digests = {
            hashlib.sha256(stream.read()).hexdigest()
            for member in archive
            if (stream := archive.extractfile(member)) is not None
        }
    assert set(told(name)["files"].values()) <= digests


@pytest.mark.parametrize("name", NAMES)
def test_long_arguments(vol: Vol, name: str) -> None:
    """Those of /proc/PID/cmdline."""
    truth = told(name)["arguments"]
    (row,) = shown(vol, name, "linux.psaux", "--pid", truth["pid"])
    assert len(truth["text"]) > 3 * PAGE and row["ARGS"] == truth["text"]


@pytest.mark.parametrize("name", NAMES)
def test_long_environment(vol: Vol, name: str) -> None:
    """That of /proc/PID/environ, in its order."""
    truth = told(name)["environment"]
    found = [
        f"{row['KEY']}={row['VALUE']}"
        for row in shown(vol, name, "linux.envars", "--pid", truth["pid"])
    ]
    assert max(map(len, truth["variables"])) > 9000 and found == truth["variables"]


@pytest.mark.parametrize("name", NAMES)
def test_what_processes_of_a_container_map(vol: Vol, name: str) -> None:
    """The files of /proc/PID/maps: path, device, inode and offset."""
    containers = told(name)["containers"]
    assert len(containers) == 2
    for container in containers:
        truth = [
            (int(start, 16), int(offset, 16), *(int(part, 16) for part in device.split(":")), path)
            for start, offset, device, path in (
                (fields[0].split("-")[0], fields[2], f"{fields[3]}:{int(fields[4]):x}", fields[5])
                for fields in (line.split() for line in container["maps"])
                if len(fields) > 5 and fields[5].startswith("/")
            )
        ]
        found = [
            tuple(row[key] for key in ("Start", "PgOff", "Major", "Minor", "Inode", "File Path"))
            for row in shown(vol, name, "linux.proc.Maps", "--pid", container["pid"])
            if row["File Path"].startswith("/")
        ]
        assert truth and found == truth


@pytest.mark.parametrize("name", NAMES)
def test_open_files_of_a_container(vol: Vol, name: str) -> None:
    """Number, inode and path of those in /proc/PID/fd."""
    for container in told(name)["containers"]:
        truth = [
            (int(number), int(inode), path)
            for number, _, inode, path in (line.split() for line in container["files"])
        ]
        found = [
            (row["FD"], row["Inode"], row["Path"])
            for row in shown(vol, name, "linux.lsof", "--pid", container["pid"])
        ]
        assert truth and found == truth


@pytest.mark.parametrize("name", NAMES)
def test_mounts_of_a_container(vol: Vol, name: str) -> None:
    """Those of /proc/PID/mountinfo: the host's, which the process does not see, are none of them.

    What only the file system itself can tell is not in it: lowerdir=... of an overlay.
    """
    for container in told(name)["containers"]:
        truth = {
            (*before.split(), *after.split()[:2])
            for before, after in (line.split(" - ") for line in container["mountinfo"])
        }
        keys = ("MOUNT ID", "PARENT_ID", "MAJOR:MINOR", "ROOT", "MOUNT_POINT", "MOUNT_OPTIONS")
        found = {
            tuple(str(row[key]) for key in (*keys, "FSTYPE", "MOUNT_SRC"))
            for row in shown(vol, name, "linux.mountinfo", "--pids", container["pid"])
        }
        assert truth and found == truth


@pytest.mark.parametrize("name", NAMES)
def test_mounts_of_all_namespaces(vol: Vol, name: str) -> None:
    """Without a process to look from, what a container's root folder hides is shown too."""
    found = {row["MOUNT ID"] for row in shown(vol, name, "linux.mountinfo")}
    namespace = real_guest(name).expected["servers"]["containers"][0]["mountinfo"]
    hidden = {int(line.split()[1]) for line in namespace} - {
        int(line.split()[0]) for line in namespace
    }
    assert hidden and hidden <= found
