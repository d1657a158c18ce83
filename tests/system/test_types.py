# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernels without BTF, and an installed ISF in its place: what is ours works as with BTF."""

import base64
import json
import mmap
import pathlib
import shutil
from typing import Any

import pytest

from tests.conftest import Vol
from tests.helpers import guest_machine, real_guest, rows
from tests.system.test_odd_kernels import with_code_alone
from volatility_guestdump import kernels
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.linux.state.memory_use import ResidentMemory, memory_use
from volatility_guestdump.linux.state.printk import read_log
from volatility_guestdump.linux.state.system import system_facts
from volatility_guestdump.linux.types.isf import Isf
from volatility_guestdump.machine import Machine

GUEST = "6.12"


def without_btf(folder: pathlib.Path, name: str) -> pathlib.Path:
    """Writes a guest whose kernel is as if it had no BTF; returns the path of its debug.guest."""
    guest = real_guest(name)
    kernel = kernels.linux_kernel(guest_machine(guest))
    assert kernel is not None
    start, stop = kernel.address("__start_BTF"), kernel.address("__stop_BTF")
    assert start is not None and stop is not None
    btf = kernel.read(start, stop - start)
    shutil.copy(guest.guest_path, folder)
    copy = folder / guest.vmem_path.name
    shutil.copy(guest.vmem_path, copy)
    with copy.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        place = memory.find(btf)
        assert place >= 0, "the image of a kernel is in one piece"
        memory[place : place + len(btf)] = bytes(len(btf))
    return folder / guest.guest_path.name


def test_what_is_ours_with_an_isf_and_no_btf(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Backtrace and Report say what they say with BTF, of which the ISF was made."""
    guest, symbols = real_guest(GUEST), tmp_path / "symbols" / "linux"
    symbols.mkdir(parents=True)
    rows(vol("-r", "json", "-o", symbols, "-f", guest.guest_path, "guestdump.Isf"))
    hidden = without_btf(tmp_path, GUEST)
    cache = tmp_path / "cache"
    cache.mkdir()

    def ask(path: pathlib.Path, isf: bool, *plugin: object) -> list[dict[str, Any]]:
        options = ("-s", symbols.parent) if isf else ()
        return rows(vol("-r", "json", *options, "-f", path, *plugin, cache=cache))

    def report(path: pathlib.Path, isf: bool) -> dict[str, Any]:
        output = tmp_path / f"report {isf}"
        output.mkdir()
        ask(path, isf, "-o", output, "guestdump.Report", "--format", "json")
        (written,) = output.iterdir()
        found: dict[str, Any] = json.loads(written.read_bytes())
        # Where the files are, and when.
        del found["evidence"], found["system"]["memory_file"], found["system"]["symbols"]
        return found

    backtrace = ("guestdump.Backtrace", "--tasks")
    expected = ask(guest.guest_path, False, *backtrace)
    assert {row["PID"] for row in expected} >= {task["pid"] for task in guest.expected["processes"]}
    assert ask(hidden, True, *backtrace) == expected
    assert {row["PID"] for row in ask(hidden, False, *backtrace)} == {None}
    assert report(hidden, True) == report(guest.guest_path, False)


def test_an_isf_that_cannot_be_read(vol: Vol, tmp_path: pathlib.Path) -> None:
    """It is named, and the rest is as without it."""
    guest, hidden = real_guest(GUEST), without_btf(tmp_path, GUEST)
    symbols = tmp_path / "symbols" / "linux"
    symbols.mkdir(parents=True)
    banner = base64.b64encode(guest.expected["banner"].encode() + b"\n\0").decode()
    # What Volatility's own list of ISFs reads of it is there.
    document = {
        "metadata": {"format": "6.2.0", "linux": {}},
        "symbols": {"linux_banner": {"address": 1, "constant_data": banner}},
    }
    (symbols / "damaged.json").write_text(json.dumps(document))
    done = vol(
        "-r", "json", "-s", symbols.parent, "-f", hidden, "guestdump.Backtrace", cache=tmp_path
    )
    assert done.stderr.count("damaged.json cannot be read: the ISF has no user_types") == 1
    assert "Traceback" not in done.stderr
    assert {row["vCPU"] for row in rows(done)} == {0, 1}


def _told(kernel: LinuxKernel, machine: Machine) -> dict[str, Any]:
    """Returns all that is read of a kernel's structures."""
    attempts, stacks = Attempts(), Stacks(kernel, machine.vcpus)
    assert kernel.modules is not None
    resident = ResidentMemory(kernel, kernel.require_types(), stacks.cpus.offsets)
    return {
        "tasks": stacks.all_tasks,
        "running": list(map(stacks.of_vcpu, machine.vcpus)),
        "waiting": list(stacks.of_tasks()),
        "modules": [(module, kernel.modules.taint(module)) for module in kernel.modules],
        "log": read_log(kernel),
        "system": system_facts(kernel, attempts),
        "memory": memory_use(kernel, attempts),
        "resident": [resident.of([task], exact=True) for task in stacks.all_tasks],
        "panic": stacks.panic_task(),
        "failures": attempts.failures,
    }


@pytest.mark.parametrize("name", ["5.10", "newest"])
def test_types_and_symbols_of_an_isf(name: str) -> None:
    """Structures read by an ISF's types, at the addresses of its symbols, are those of BTF."""
    machine = guest_machine(real_guest(name))
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None
    expected = _told(kernel, machine)
    assert expected["tasks"] and expected["modules"] and not expected["failures"]
    isf = Isf(json.loads(json.dumps(IsfView(kernel).expanded())))
    whole = LinuxKernel(kernel.tables, kernel.runs, kernel.banner, kernel.kallsyms)
    for other in (whole, with_code_alone(kernel)):
        # What is known before the ISF is at hand is not kept.
        other.__dict__["_btf"] = BtfError("it has none")
        assert other.types is None and other.modules is None
        with pytest.raises(BtfError, match="it has none"):
            other.require_types()
        other.offer_isf(lambda: isf)
        assert _told(other, machine) == expected
        assert other.panic_cpu == kernel.panic_cpu and other.has_code_alone is (other is not whole)
