# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Guests that were changed by someone who wants to deceive or to harm."""

import pathlib
import shutil
from collections.abc import Mapping
from typing import Union

import pytest

from tests.conftest import Vol
from tests.helpers import guest_machine, info, real_guest, rows
from tests.lab import Guest
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.sources.debug_guest import GuestFile

ESCAPE = b"\x1b[2J\x9b31m"


@pytest.fixture(scope="module")
def guest() -> Guest:
    """The guest that is changed."""
    return real_guest("hole-pti")


@pytest.fixture(scope="module")
def kernel(guest: Guest) -> LinuxKernel:
    """Its kernel, to know what lies where."""
    found = find_kernel(guest_machine(guest))
    assert found is not None and found.kallsyms is not None
    return found


def changed(
    guest: Guest,
    kernel: LinuxKernel,
    folder: pathlib.Path,
    changes: Mapping[Union[str, int], bytes],
) -> pathlib.Path:
    """Writes the pair with other bytes at symbols or addresses; returns its debug.guest."""
    shutil.copyfile(guest.guest_path, folder / "debug.guest")
    shutil.copyfile(guest.vmem_path, folder / "debug.vmem")
    with guest.guest_path.open("rb") as stream:
        ranges = GuestFile.parse(stream).ranges or ()
    with (folder / "debug.vmem").open("r+b") as memory:
        for place, content in changes.items():
            address = kernel.address(place) if isinstance(place, str) else place
            assert address is not None
            physical, room = kernel.tables.translate(address)
            assert len(content) <= room
            run = next(run for run in ranges if run.start <= physical < run.end)
            memory.seek(run.file_offset + physical - run.start)
            memory.write(content)
    return folder / "debug.guest"


def test_names_do_not_reach_the_terminal_as_they_are(
    vol: Vol, guest: Guest, kernel: LinuxKernel, tmp_path: pathlib.Path
) -> None:
    """Escape sequences in the banner, the log, symbols and tasks are shown as question marks."""
    banner = kernel.banner.replace(b"(debian-kernel", ESCAPE.ljust(14, b"("))
    log = kernel.read(kernel.pointer(kernel.address("log_buf") or 0), 1 << 17)
    panic = b"Kernel panic - not syncing: "
    assert kernel.kallsyms is not None
    token = kernel.kallsyms.tables["kallsyms_token_table"]
    # The token of a letter that linux_banner does not have.
    tokens = kernel.read(token, 4096).split(b"\0")
    letter = token + sum(len(one) + 1 for one in tokens[: ord("w")])
    types, init_task = kernel.require_types(), kernel.address("init_task") or 0
    link, comm = types.offset("task_struct", "tasks"), types.offset("task_struct", "comm")
    # The first of all tasks is init.
    init = kernel.pointer(init_task + link) - link
    given = changed(
        guest,
        kernel,
        tmp_path,
        {
            "linux_banner": banner,
            kernel.pointer(kernel.address("log_buf") or 0) + log.index(panic) + len(panic): (
                "\x9b".encode()
            ),
            letter: b"\x1b",
            init + comm: ESCAPE + b"\0",
        },
    )
    for plugin in (["Info"], ["Registers"], ["Backtrace", "--tasks"]):
        done = vol("-f", given, f"guestdump.{plugin[0]}", *plugin[1:])
        assert done.returncode == 0, done.stderr
        shown = done.stdout + done.stderr
        assert all(character.isprintable() or character in "\n\t" for character in shown)
        assert "?" in shown or plugin == ["Registers"]


def test_a_release_is_no_path(
    vol: Vol, guest: Guest, kernel: LinuxKernel, tmp_path: pathlib.Path
) -> None:
    """What guestdump.Isf writes stays in the folder that it was given."""
    release = b"../../../" + kernel.release.encode()[9:]
    banner = kernel.banner.replace(kernel.release.encode(), release)
    # A banner has to have a digit there.
    banner = banner.replace(b" ../", b" 6./")
    given = changed(guest, kernel, tmp_path, {"linux_banner": banner})
    folder = tmp_path / "one" / "two" / "three"
    folder.mkdir(parents=True)
    (row,) = rows(vol("-r", "json", "-o", folder, "-f", given, "guestdump.Isf"))
    assert "/" not in row["File output"]
    assert [path.name for path in folder.iterdir()] == [row["File output"]]


def test_a_kernel_without_a_build_id(
    vol: Vol, guest: Guest, kernel: LinuxKernel, tmp_path: pathlib.Path
) -> None:
    """The name of its ISF is its release, and nothing that is not known."""
    start, stop = kernel.address("__start_notes"), kernel.address("__stop_notes")
    assert start and stop and kernel.build_id
    given = changed(guest, kernel, tmp_path, {"__start_notes": bytes(stop - start)})
    (row,) = rows(vol("-r", "json", "-o", tmp_path, "-f", given, "guestdump.Isf"))
    assert row["File output"] == f"{kernel.release}.json.xz"


@pytest.mark.parametrize("value", [0xDEADBEEF00000000, (1 << 64) - 8, 8])
def test_per_cpu_pointers_into_nowhere(
    vol: Vol, guest: Guest, kernel: LinuxKernel, tmp_path: pathlib.Path, value: int
) -> None:
    """The vCPUs have no tasks then, but stacks."""
    given = changed(guest, kernel, tmp_path, {"__per_cpu_offset": value.to_bytes(8, "little") * 2})
    found = rows(vol("-r", "json", "-f", given, "guestdump.Backtrace"))
    assert {row["vCPU"] for row in found} == {0, 1}
    expected = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
    assert [row["Symbol"] for row in found] == [row["Symbol"] for row in expected]
    assert rows(vol("-r", "json", "-f", given, "linux.pslist"))


def test_tasks_in_a_circle(
    vol: Vol, guest: Guest, kernel: LinuxKernel, tmp_path: pathlib.Path
) -> None:
    """A list that leads back into itself, and never to its head, ends."""
    link = (kernel.address("init_task") or 0) + kernel.require_types().offset(
        "task_struct", "tasks"
    )
    first = kernel.pointer(link)
    given = changed(guest, kernel, tmp_path, {first: first.to_bytes(8, "little")})
    found = rows(vol("-r", "json", "-f", given, "guestdump.Backtrace", "--tasks"))
    assert {row["PID"] for row in found if row["vCPU"] is None} <= {0, 1}


def test_two_dumps_with_one_banner(
    vol: Vol, guest: Guest, kernel: LinuxKernel, tmp_path: pathlib.Path
) -> None:
    """Nothing of a dump is taken for another one, in the same place and with the same cache."""
    cache = tmp_path / "cache"
    cache.mkdir()
    given = changed(guest, kernel, tmp_path, {})
    expected = rows(vol("-r", "json", "-f", given, "linux.pslist", cache=cache))
    banner = info(vol("-r", "json", "-f", given, "guestdump.Info", cache=cache))["Kernel banner"]

    changed(guest, kernel, tmp_path, {"__start_BTF": bytes(64)})
    done = vol("-r", "json", "-f", given, "linux.pslist", cache=cache)
    assert done.returncode and "BTF has magic 0x0" in done.stderr
    shown = info(vol("-r", "json", "-f", given, "guestdump.Info", cache=cache))
    assert shown["Kernel banner"] == banner and "no types" in shown["Symbols"]

    changed(guest, kernel, tmp_path, {})
    assert rows(vol("-r", "json", "-f", given, "linux.pslist", cache=cache)) == expected
