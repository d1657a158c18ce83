# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Reads the memory of a guest under load while it runs: by LiME, and by /proc/kcore as AVML does.

A guest has a disk for each acquisition, and writes its memory there in LiME's format. Before and
after each it lists its processes.
"""

import os
import pathlib
import re
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.lab import packages, truth
from tests.lab.errors import LabError
from tests.lab.guests import boot
from tests.lab.qemu import Machine
from tests.lab.recipes import BOOKWORM, STOP, KernelSource, Recipe

#: How memory is read, and the command for it; NUMBER is that of the disk.
METHODS = {
    "lime": "insmod /lab/lime.ko path=/dev/nvme0nNUMBER format=lime timeout=0; busybox rmmod lime",
    "kcore": "kcore /dev/nvme0nNUMBER",
}

#: Processes that live all through, and show in every list: with open files, sockets, arguments.
STEADY = """\
echo 4194304 > /proc/sys/kernel/pid_max
busybox mkdir /scratch /www
echo hello > /www/index.html
httpd -f -p 80 -h /www &
nc -l -p 8000 &
tail -f /dev/null &
sh -c 'read -r line < /fifo' &
LAB_STEADY=1 sleep 1000000 3< /init 4< /symbols &
"""

#: Forks, files, sockets and mounts that come and go. Nothing is looked at with less than this.
LOAD = """\
(while :; do sh -c ':'; sleep 0.02; done) &
(while :; do cat /proc/version | cat | wc -c; sleep 0.01; done > /dev/null) &
(while :; do echo 'GET / HTTP/1.0' | nc 127.0.0.1 80; sleep 0.05; done > /dev/null) &
(while :; do echo x > /scratch/x; cat /scratch/x > /scratch/y; rm /scratch/x /scratch/y; \
sleep 0.02; done) &
(while :; do mount -t tmpfs load /www/none && busybox umount /www/none; sleep 0.1; done) &
(while :; do LAB_LOAD=1 sleep 0.03 4< /symbols; done) &
"""

#: Seconds that an acquisition may take; the machine may have much else to do.
PATIENCE = 900

_HEADER = struct.Struct("<IIQQQ")
_MAGIC = 0x4C694D45


@dataclass(frozen=True)
class Acquisition:
    """An image, and what the guest said.

    Attributes:
        image: in LiME's format.
        sections: name -> lines, of all that the guest said once or of this acquisition.
    """

    image: pathlib.Path
    sections: dict[str, list[str]]


def recipe(method: str, count: int, memory: int, kernel: KernelSource = BOOKWORM) -> Recipe:
    """Returns the recipe of a guest whose memory is read a number of times."""
    # The load begins once all facts are told, which would take long under it.
    commands = [
        "busybox mkdir /www/none",
        LOAD,
        # What reads memory comes first: on a busy host the load alone would take all of the CPUs.
        "busybox renice -n -10 -p $$ > /dev/null",
        "begin steady-files",
        "for file in /proc/$steady/fd/*; do",
        "    echo $steady ${file##*/} $(busybox readlink $file)",
        "done",
        "end",
        "begin steady-maps; cat /proc/$steady/maps; end",
    ]
    for number in range(1, count + 1):
        commands += [
            "sleep 2",
            f"processes before-{number}",
            METHODS[method].replace("NUMBER", str(number)),
            f"processes after-{number}",
            f": & begin newest-{number}; echo $!; end",
            "busybox sync",
            "echo 3 > /proc/sys/vm/drop_caches",
            f'echo "lab: acquired {number}"',
        ]
    return Recipe(
        name=f"live-{method}",
        reason="memory that is read while the guest runs",
        kernel=kernel,
        format_version=6,
        memory=memory,
        start=f"{STEADY}steady=$!\n",
        end=STOP,
        finish="\n".join(commands) + "\n",
        programs=("kcore",) if method == "kcore" else (),
        lime=method == "lime",
        disks=count,
    )


def acquisitions(
    method: str, count: int, memory: int, folder: pathlib.Path
) -> Iterator[Acquisition]:
    """Boots a guest and yields each acquisition as soon as it is there; the guest goes on.

    Args:
        method: one of `METHODS`.
        count: how many.
        memory: of the guest, in MiB.
        folder: for files of the guest.
    """
    made = recipe(method, count, memory)
    kernel = packages.kernel(made.kernel, made.modules)
    with boot(made, kernel, folder, folder) as machine:
        for number in range(1, count + 1):
            log = _wait_for(f"lab: acquired {number}", machine, folder)
            image = folder / f"{method}-{number}.lime"
            _cut(folder / f"disk-{number}", image)
            yield Acquisition(image, _sections(log, number))
            image.unlink(missing_ok=True)


def _wait_for(line: str, machine: Machine, folder: pathlib.Path) -> str:
    deadline = time.monotonic() + PATIENCE
    path = folder / "facts.log"
    while True:
        log = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
        log = log.replace("\r", "")
        if f"\n{line}\n" in log:
            return log
        machine.check()
        if time.monotonic() > deadline:
            console = (folder / "console.log").read_text(encoding="utf-8", errors="replace")
            raise LabError(f"the guest does not get to {line!r}: {console[-2000:]}")
        time.sleep(0.5)


def _cut(disk: pathlib.Path, image: pathlib.Path) -> None:
    """Makes an image of a disk, which is longer than what was written to it."""
    end = 0
    with disk.open("rb") as stream:
        while True:
            stream.seek(end)
            magic, version, first, last, _ = _HEADER.unpack(stream.read(_HEADER.size))
            if (magic, version) != (_MAGIC, 1):
                break
            end += _HEADER.size + last + 1 - first
    if not end:
        raise LabError(f"nothing was written to {disk}")
    os.truncate(disk, end)
    disk.rename(image)


def _sections(log: str, number: int) -> dict[str, list[str]]:
    found = truth.sections(log)
    return {
        re.sub(rf"-{number}$", "", name): lines
        for name, lines in found.items()
        if not re.match(r"(before|after|newest)-\d+$", name) or name.endswith(f"-{number}")
    }


def stat_lines(lines: list[str]) -> dict[int, dict[str, Any]]:
    """Returns pid -> comm, parent and state of a list of processes."""
    return {
        pid: {"comm": comm, "state": state, "ppid": parent}
        for pid, comm, state, parent in truth.stat_lines(lines)
    }
