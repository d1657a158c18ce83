# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Stand-ins for Windows guests: what our plugins show, and that Volatility's own chain goes on."""

import os
import pathlib
import subprocess

import pytest
from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.plugins.windows import info as windows_info  # type: ignore[attr-defined]

from tests.conftest import Vol
from tests.helpers import info, real_guest, rows
from tests.lab.windows import ENTRY, KERNEL, USER, StandIn, missing_tools, stand_in
from volatility_guestdump import kernels

#: What Volatility logs when it takes the page map from a layer, and when it scans for a kernel.
GIVEN, SCANNED = "DTB was given to us by base layer", "Kernel base determination"


@pytest.fixture(scope="module", autouse=True)
def _tools() -> None:
    missing = missing_tools()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"stand-ins cannot be made without {', '.join(missing)}")


def windows_rows(done: "subprocess.CompletedProcess[str]") -> dict[str, str]:
    """Returns what windows.info printed of the guest, without its layers."""
    shown = info(done)
    return {name: value for name, value in shown.items() if "layer" not in name}


def flat(guest: StandIn, path: pathlib.Path) -> pathlib.Path:
    """Writes the memory of a stand-in without hole as one raw file."""
    assert len(guest.regions) == 1
    path.symlink_to(guest.vmem_path)
    return path


@pytest.mark.parametrize("mode", ["x64", "pae"])
@pytest.mark.parametrize("memory", [64 << 20, 8 << 30])
def test_windows_info_needs_no_scan(
    vol: Vol, tmp_path: pathlib.Path, mode: str, memory: int
) -> None:
    """The kernel is the one that Volatility finds by scanning the same memory."""
    guest = stand_in(tmp_path, mode, memory=memory)
    arguments = ("-r", "json", "-s", guest.symbols, "-f", guest.guest_path, "windows.info")
    found = windows_rows(vol(*arguments))
    assert int(found["Kernel Base"], 16) == guest.base & (1 << 48) - 1
    assert int(found["DTB"], 16) == guest.page_map
    assert found["NTBuildLab"].startswith("20348.") and found["NtMajorVersion"] == "10"
    log = vol("-vvvv", *arguments).stderr
    assert GIVEN in log and SCANNED not in log and "Self-referential" not in log
    if memory == 64 << 20:
        raw = flat(guest, tmp_path / "flat.raw")
        assert found == windows_rows(vol(*arguments[:5], raw, "windows.info"))


@pytest.mark.parametrize("mode", ["x64", "pae"])
def test_without_what_the_registers_say(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    """Volatility's stackers and scanner reach the same kernel on a GuestDumpLayer."""
    guest = stand_in(tmp_path, mode)
    monkeypatch.setattr("volatility3.framework.constants.CACHE_PATH", str(tmp_path))
    monkeypatch.setattr("volatility3.symbols.__path__", [str(guest.symbols)])
    monkeypatch.setattr(kernels, "windows_kernel", lambda machine: None)
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = guest.guest_path.as_uri()
    plugin = plugins.construct_plugin(
        *(context, automagic.available(context), windows_info.Info, "plugins", None),
        interfaces.plugins.FileHandlerInterface,  # type: ignore[type-abstract]
    )
    kernel = plugin.context.modules["kernel"]
    assert kernel.offset == guest.base & (1 << 48) - 1
    layer = plugin.context.layers[kernel.layer_name]
    assert layer.config["page_map_offset"] == guest.page_map


@pytest.mark.parametrize("mode", ["x64", "pae"])
def test_info(vol: Vol, tmp_path: pathlib.Path, mode: str) -> None:
    """Every row, with symbols on the machine and without."""
    guest = stand_in(tmp_path, mode, vcpus=(KERNEL, KERNEL))
    code, parameters = guest.bugcheck
    expected = {
        "Paging": "4-level" if mode == "x64" else "PAE",
        "Page-table isolation": "-",
        "Operating system": f"Windows 10.0.20348 ({'x64' if mode == 'x64' else 'x86'})",
        "Kernel banner": f"ntkrnlmp.pdb {guest.guid}-{guest.age}",
        "Kernel build id": "-",
        "Kernel virtual base": f"{guest.base:#x}",
        "KASLR shift": "-",
        "Page map (DTB)": f"{guest.page_map:#x}",
        "Panic task": "-",
    }
    arguments = ("-r", "json", "-f", guest.guest_path, "guestdump.Info")
    shown = info(vol("-s", guest.symbols, *arguments))
    assert {name: shown[name] for name in expected} == expected
    physical = int(shown["Kernel physical base"], 16)
    assert guest.vmem_path.read_bytes()[physical : physical + 2] == b"MZ"
    assert shown["Symbols"].endswith(f"{guest.guid}-{guest.age}.json.xz")
    words = ", ".join(f"{value:#x}" for value in parameters)
    assert shown["Panic"] == f"{code:#x} DRIVER_IRQL_NOT_LESS_OR_EQUAL ({words})"
    shown = info(vol(*arguments))
    assert {name: shown[name] for name in expected} == expected
    assert shown["Symbols"].startswith("none on this machine") and shown["Panic"] == "-"


@pytest.mark.parametrize("mode", ["x64", "pae"])
def test_registers(vol: Vol, tmp_path: pathlib.Path, mode: str) -> None:
    """Addresses in the kernel are offsets in its image, or symbols where there are some."""
    guest = stand_in(tmp_path, mode)
    arguments = ("-r", "json", "-f", guest.guest_path, "guestdump.Registers")
    (rip,) = [row for row in rows(vol(*arguments)) if row["Register"] == "rip"]
    assert rip["Decoded"] == f"ntoskrnl.exe+{rip['Value'] - guest.base:#x}"
    (rip,) = [row for row in rows(vol("-s", guest.symbols, *arguments)) if row["Register"] == "rip"]
    symbol, _, offset = rip["Decoded"].partition("+")
    assert guest.addresses[symbol] + int(offset, 16) == rip["Value"]


@pytest.mark.parametrize("vcpus", [(USER, KERNEL), (ENTRY,), (USER, ENTRY)])
def test_shadow_tables(vol: Vol, tmp_path: pathlib.Path, vcpus: tuple[str, ...]) -> None:
    """A vCPU with the user's tables does not hide the kernel."""
    guest = stand_in(tmp_path, vcpus=vcpus)
    shown = info(vol("-r", "json", "-f", guest.guest_path, "guestdump.Info"))
    assert shown["Kernel virtual base"] == f"{guest.base:#x}"
    assert shown["Page map (DTB)"] == f"{guest.page_map:#x}"


def test_user_mode_alone(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Where no register leads to the kernel's tables Volatility scans, as ever."""
    guest = stand_in(tmp_path, vcpus=(USER,))
    shown = info(vol("-r", "json", "-f", guest.guest_path, "guestdump.Info"))
    assert shown["Operating system"] == "-"
    found = windows_rows(
        vol("-r", "json", "-s", guest.symbols, "-f", guest.guest_path, "windows.info")
    )
    assert int(found["DTB"], 16) == guest.page_map


def test_backtrace_is_for_linux(vol: Vol, tmp_path: pathlib.Path) -> None:
    """It says so, and what the guest is."""
    guest = stand_in(tmp_path)
    done = vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace")
    assert rows(done) == [] and "Windows 10.0.20348" in done.stderr
    assert "Only the stacks of Linux kernels can be unwound" in done.stderr
    done = vol("-r", "json", "-f", guest.guest_path, "guestdump.Isf")
    assert rows(done) == [] and "this guest runs Windows 10.0.20348 (x64)" in done.stderr


def test_plugins_for_another_system(vol: Vol, tmp_path: pathlib.Path) -> None:
    """They cannot be used, and it is said what the guest runs; others say nothing of the kind."""
    hint = "This guest runs {}: only plugins for that system can be used"
    windows, linux = stand_in(tmp_path), real_guest("hole-pti")
    done = vol("-f", windows.guest_path, "linux.pslist")
    assert done.returncode and hint.format("Windows 10.0.20348 (x64)") in done.stderr
    done = vol("-f", linux.guest_path, "windows.info")
    release = linux.expected["kernel_release"]
    assert done.returncode and hint.format(f"Linux {release} (x64)") in done.stderr
    for path in (windows.guest_path, linux.guest_path):
        done = vol("-f", path, "banners.Banners")
        assert done.returncode == 0 and "This guest runs" not in done.stderr
