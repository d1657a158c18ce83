# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the system tests need besides fixtures."""

import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Optional

import pytest

from tests import lab
from tests.lab import writer
from volatility_guestdump.dumps import open_dump
from volatility_guestdump.framework.layers import SESSION
from volatility_guestdump.machine import VCPU, Machine, MemoryRange, Origin, Read

#: A vCPU that has not come far: real mode, no paging, no IDT.
IDLE_VCPU: Mapping[str, int] = dict.fromkeys(
    (*writer.GENERAL, "cr0", "cr2", "cr3", "cr4", "idt_base", "eflags"), 0
)


def real_guest(name: str) -> lab.Guest:
    """Returns a guest of the lab; skips the test where none can be made, but never in CI."""
    found = lab.existing(name)
    if found is None:
        missing = lab.missing_tools(name)
        if missing and not os.environ.get("CI"):
            pytest.skip(f"guests cannot be made without {', '.join(missing)}")
        found = lab.guest(name)
    return found


def guests(*names: str) -> list[Any]:
    """Returns guests of the lab to parametrize a test with: one of a slow guest is slow."""
    return [
        pytest.param(name, marks=[pytest.mark.slow] if lab.GUESTS[name].slow else [])
        for name in names
    ]


class _Memory:
    """Memory that is read by a function, and says of no address that it is there."""

    def __init__(self, read: Read) -> None:
        self.read = read
        self.ranges: Sequence[MemoryRange] = ()

    def covers(self, address: int, length: int) -> bool:
        """Returns False."""
        return False

    def stored(self) -> Iterator[MemoryRange]:
        """Yields nothing."""
        yield from self.ranges


def machine(read: Read, vcpus: Sequence[VCPU]) -> Machine:
    """Returns a machine made by hand."""
    return Machine(_Memory(read), vcpus, object(), Origin("", "", (), None, 0))


def guest_machine(guest: lab.Guest) -> Machine:
    """Returns the machine of a guest of the lab."""
    return opened(guest.guest_path)


def opened(path: pathlib.Path, memory: Optional[pathlib.Path] = None) -> Machine:
    """Returns the machine in a dump, kept as Volatility keeps it."""
    dump = open_dump(str(path), str(memory) if memory else None, session=SESSION)
    assert dump.machine is not None, dump.advice
    return dump.machine


def rows(done: "subprocess.CompletedProcess[str]") -> list[dict[str, Any]]:
    """Returns what vol's JSON renderer printed."""
    assert done.returncode == 0, done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def info(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """Returns the variables of guestdump.Info."""
    return {row["Variable"]: row["Value"] for row in rows(done)}


def write_pair(
    folder: pathlib.Path,
    memory: Optional[bytes],
    *,
    version: int = 6,
    regions: Optional[Sequence[writer.Region]] = None,
    vcpus: Sequence[Mapping[str, int]] = (IDLE_VCPU,),
    name: str = "debug.guest",
) -> pathlib.Path:
    """Writes a guest dump, and returns the path of its debug.guest."""
    if regions is None:
        assert memory is not None
        regions = [(0, len(memory))]
    guest = folder / name
    guest.write_bytes(writer.pack_guest(version, regions, vcpus))
    if memory is not None:
        guest.with_suffix(".vmem").write_bytes(memory)
    return guest
