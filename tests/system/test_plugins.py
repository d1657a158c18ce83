# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Volatility's own plugins, with the symbols of the dump, against what the guest said."""

from typing import Any

import pytest

from tests.conftest import Vol
from tests.helpers import guests, real_guest, rows

NAMES = guests("5.10", "hole-pti", "6.12", "newest", "next")


def shown(vol: Vol, name: str, *plugin: object) -> list[dict[str, Any]]:
    """Returns what a plugin prints of a guest."""
    return rows(vol("-r", "json", "-f", real_guest(name).guest_path, *plugin))


@pytest.mark.parametrize("name", NAMES)
def test_arguments_of_processes(vol: Vol, name: str) -> None:
    """Those of /proc/PID/cmdline."""
    arguments = {str(row["PID"]): row["ARGS"] for row in shown(vol, name, "linux.psaux")}
    truth = real_guest(name).expected["arguments"]
    assert truth and {pid: arguments.get(pid) for pid in truth} == truth


@pytest.mark.parametrize("name", NAMES)
def test_modules(vol: Vol, name: str) -> None:
    """Those of /proc/modules, in its order, with their sizes."""
    modules = [(row["Module Name"], row["Code Size"]) for row in shown(vol, name, "linux.lsmod")]
    truth = real_guest(name).expected["modules"]
    assert truth and modules == [(each["name"], each["size"]) for each in truth]


@pytest.mark.parametrize("name", NAMES)
def test_mounts(vol: Vol, name: str) -> None:
    """Those of /proc/self/mountinfo are among all that the kernel has."""
    mounts = {
        (str(row["MOUNT ID"]), row["MOUNT_POINT"], row["FSTYPE"], row["MOUNT_SRC"])
        for row in shown(vol, name, "linux.mountinfo.MountInfo")
    }
    truth = real_guest(name).expected["mounts"]
    keys = ("id", "path", "type", "source")
    assert truth and {tuple(each[key] for key in keys) for each in truth} <= mounts


@pytest.mark.parametrize("name", NAMES)
def test_memory_of_a_process(vol: Vol, name: str) -> None:
    """The areas of /proc/PID/maps, with their rights and files."""
    truth = real_guest(name).expected["maps"]
    found = [
        (row["Start"], row["End"], row["Flags"], row["File Path"])
        for row in shown(vol, name, "linux.proc.Maps", "--pid", truth["pid"])
    ]
    # The last one is a page of the kernel's that every process has.
    told = [each for each in truth["areas"] if each["path"] != "[vsyscall]"]
    assert told and len(found) == len(told)
    for (start, end, flags, path), area in zip(found, told):
        assert (hex(start), hex(end), flags) == (area["start"], area["end"], area["flags"][:3])
        assert path == area["path"] or not area["path"].startswith("/")
