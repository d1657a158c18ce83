# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's snapshots and QEMU's ELF of real guests: the same as what debug.guest shows of them."""

import dataclasses
import gzip
import os
import pathlib
import struct
from collections.abc import Mapping
from typing import Optional

import pytest
from volatility3.framework import contexts, interfaces
from volatility3.framework.layers import physical

from tests.conftest import Vol
from tests.helpers import guest_machine, info, opened, real_guest, rows
from tests.lab import Guest, formats
from tests.lab.formats import signatures, vmware_state
from tests.lab.windows import missing_tools, stand_in
from volatility_guestdump import kernels
from volatility_guestdump.framework.formats import GuestDumpStacker, UnsupportedFormatStacker
from volatility_guestdump.framework.layers import GuestDumpLayer
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.state.tasks import Cpus, kernel_gs_base
from volatility_guestdump.machine import REGISTERS, VCPU, Machine
from volatility_guestdump.sources.debug_guest import GuestFile

#: What Volatility logs when it takes the page map from a layer, and when it scans for a kernel.
GIVEN, SCANNED = "DTB was given to us by base layer", "Kernel base determination"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> formats.Files:
    """Guests in other formats."""
    return formats.Files(tmp_path_factory.mktemp("formats"))


def check_registers(machine: Machine, guest: Guest, more: bool = False) -> None:
    """Checks that each register is what QEMU said."""
    written = guest.expected["vcpus"]
    others = guest.expected.get("vcpu_msrs", [{}] * len(written)) if more else [{}] * len(written)
    assert [vcpu.number for vcpu in machine.vcpus] == list(range(len(written)))
    for vcpu, registers, msrs in zip(machine.vcpus, written, others):
        for name, value in registers.items():
            assert vcpu.registers["rflags" if name == "eflags" else name] == int(value, 16), name
        assert not msrs or vcpu.registers["kernel_gs_base"] == int(msrs["kernel_gs_base"], 16)


def memory_equals(machine: Machine, guest: Guest) -> bool:
    """Whether memory is that of debug.vmem, as far as it is in both, by samples."""
    other = guest_machine(guest).memory
    pages = [
        page
        for run in other.ranges
        for page in range(run.start, run.end, 0x51000)
        if machine.memory.covers(page, 4096)
    ]
    assert len(pages) > 100
    return all(machine.memory.read(page, 4096) == other.read(page, 4096) for page in pages)


@pytest.mark.parametrize("name", ["qemu-elf", "qemu-elf-la57"])
def test_elf_of_qemu(vol: Vol, name: str) -> None:
    """Registers are QEMU's, frames those of debug.guest, processes those of the guest's ps."""
    guest = real_guest(name)
    frames = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
    for path in (guest.folder / "dump.elf", guest.folder / "dump-paging.elf"):
        machine = opened(path)
        check_registers(machine, guest, more=True)
        assert memory_equals(machine, guest)
        assert rows(vol("-r", "json", "-f", path, "guestdump.Backtrace")) == frames
    tasks = {number: task for number, task in enumerate(guest.expected["vcpu_tasks"]) if task}
    assert tasks
    shown_tasks = {row["vCPU"]: (row["PID"], row["COMM"]) for row in frames}
    for number, task in tasks.items():
        assert shown_tasks[number] == (task["pid"], task["comm"])
    # With paging=true memory is in the file several times.
    listed = rows(vol("-r", "json", "-f", path, "linux.pslist"))
    expected = {(each["pid"], each["comm"]) for each in guest.expected["processes"]}
    assert expected <= {(row["PID"], row["COMM"]) for row in listed}
    shown = info(vol("-r", "json", "-f", path, "guestdump.Info"))
    assert shown["Format"] == "QEMU ELF dump"
    # The other guest has no device to give it to QEMU with.
    assert shown["Kernel found by"] == ("VMCOREINFO" if name == "qemu-elf" else "registers")
    assert shown["Kernel banner"] == guest.expected["banner"]


def test_vmcoreinfo_of_the_file() -> None:
    """It leads to the kernel without registers; where it is another kernel's they do instead."""
    machine = opened(real_guest("qemu-elf").folder / "dump.elf")
    whole = find_kernel(machine)
    assert (
        whole is not None
        and whole.found_by == "VMCOREINFO"
        and b"KERNELOFFSET" in (machine.vmcoreinfo)
    )
    alone = find_kernel(dataclasses.replace(machine, vcpus=()))
    assert alone is not None and alone.found_by == "VMCOREINFO"
    assert (alone.page_map, alone.banner) == (whole.page_map, whole.banner)
    other = kernels.linux_kernel(guest_machine(real_guest("qemu-elf-la57")))
    assert other is not None
    data = other.address("vmcoreinfo_data")
    assert data is not None
    anothers = other.read(other.pointer(data), 2048)
    later = machine.vmcoreinfo.replace(b"OSRELEASE=6", b"OSRELEASE=7")
    for note in (b"", b"\xff" * 100, later, anothers, machine.vmcoreinfo[:30]):
        found = find_kernel(dataclasses.replace(machine, vmcoreinfo=note))
        assert found is not None and found.found_by == "registers"
        assert (found.page_map, found.banner) == (whole.page_map, whole.banner)


def test_kernel_gs_base() -> None:
    """A vCPU in user mode is told by the base of GS that the CPU keeps for the kernel."""
    guest = real_guest("qemu-elf-la57")
    machine = opened(guest.folder / "dump.elf")
    number = guest.expected["vcpu_modes"].index("user")
    vcpu = machine.vcpus[number]
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None and vcpu.registers["gs_base"] != vcpu.registers["kernel_gs_base"]
    cpus = Cpus(kernel, kernel.types, [vcpu])
    assert kernel_gs_base(vcpu) == cpus.offsets[number] == vcpu.registers["kernel_gs_base"]
    # It alone tells: page tables of no task and another number do not matter.
    lost = VCPU(0, {**vcpu.registers, "cr3": kernel.page_map})
    assert Cpus(kernel, kernel.types, [lost]).number(lost) == number


@pytest.mark.parametrize(
    ("name", "kind", "shown"),
    [
        ("hole-pti", "vmsn", "VMware snapshot (0xbed2bed2)"),
        ("hole-pti", "vmss", "VMware suspend (0xbed3bed3)"),
        ("hole-pti", "vmsn-inside", "VMware snapshot (0xbed2bed2)"),
        ("hole-pti", "vmss-inside", "VMware suspend (0xbed2bed2)"),
        ("hole-pti", "vmsn-padded", "VMware snapshot (0xbad2bad2)"),
        ("5.10", "vmsn", "VMware snapshot (0xbed2bed2)"),
        ("newest", "vmsn-no-regions", "VMware snapshot (0xbed2bed2)"),
    ],
)
def test_states(files: formats.Files, name: str, kind: str, shown: str) -> None:
    """Registers and memory of a state file in each form."""
    guest = real_guest(name)
    path = files(guest, kind)
    machine = opened(path)
    check_registers(machine, guest)
    assert memory_equals(machine, guest)
    assert machine.origin.format == shown


def test_plugins_on_states(vol: Vol, files: formats.Files) -> None:
    """Plugins show the same as on debug.guest."""
    guest = real_guest("hole-pti")
    for kind, plugin in (("vmsn-inside", "guestdump.Backtrace"), ("vmss", "linux.pslist")):
        expected = rows(vol("-r", "json", "-f", guest.guest_path, plugin))
        assert rows(vol("-r", "json", "-f", files(guest, kind), plugin)) == expected
    shown = info(vol("-r", "json", "-f", files(guest, "vmss"), "guestdump.Info"))
    assert shown["Kernel found by"] == "registers" and shown["vCPUs"] == "2"


def stack(
    path: pathlib.Path, stacker: type[interfaces.automagic.StackerLayerInterface], **options: str
) -> Optional[interfaces.layers.DataLayerInterface]:
    """Returns what a stacker puts on a file."""
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    for name, value in options.items():
        context.config[f"automagic.GuestDumpStackers.{name}"] = value
    context.layers.add_layer(physical.FileLayer(context, "file", "FileLayer"))
    return stacker.stack(context, "FileLayer")


def write_file(path: pathlib.Path, kind: str, files: formats.Files) -> None:
    """Writes a file of the guest with a hole, of another one, or a state that it was in later."""
    guest = real_guest("hole-pti")
    if kind == "less":
        low, (start, size) = formats.source(guest).memory.regions
        state = vmware_state.State(regions=[low, (start, size // 2)])
        vmware_state.write(path, formats.source(guest), state)
    elif kind == "later":
        source = formats.source(guest)
        vcpus = [{**registers, "rax": registers["rax"] ^ 1} for registers in source.vcpus]
        vmware_state.write(path, formats.Source(source.memory, vcpus))
    elif kind == "6.12":
        path.symlink_to(files(real_guest("6.12"), "vmsn"))
    else:
        path.symlink_to(guest.vmem_path if kind == "vmem" else files(guest, kind))


@pytest.mark.parametrize(
    ("names", "opened", "expected"),
    [
        ({"x.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmsn", "x.vmsn"),
        ({"x.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x.vmsn"),
        ({"x.vmss": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x.vmss"),
        ({"X.VMSS": "vmsn", "X.VMEM": "vmem"}, "X.VMEM", "X.VMSS"),
        ({"x-1.vmsn": "vmsn", "x-1.vmem": "vmem", "x.vmsn": "6.12"}, "x-1.vmem", "x-1.vmsn"),
        ({"x-Snapshot1.vmsn": "vmsn", "x.vmem": "vmem"}, "x-Snapshot1.vmsn", "x-Snapshot1.vmsn"),
        ({"x-Snapshot1.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x-Snapshot1.vmsn"),
        ({"x-1a2b3c4d.vmss": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x-1a2b3c4d.vmss"),
        # Of two states the one whose page tables are there.
        ({"x.vmss": "6.12", "x.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x.vmsn"),
        (
            {"x-Snapshot1.vmsn": "6.12", "x-Snapshot2.vmsn": "vmsn", "x.vmem": "vmem"},
            "x.vmem",
            "x-Snapshot2.vmsn",
        ),
        # Both have them: the one whose memory has just that size.
        ({"x.vmss": "less", "x.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x.vmsn"),
        # Both say the same, or not.
        ({"x.vmss": "vmss", "x.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmem", "x.vmss"),
        ({"x.vmss": "later", "x.vmsn": "vmsn", "x.vmem": "vmem"}, "x.vmem", None),
        (
            {"x-Snapshot1.vmsn": "later", "x-Snapshot2.vmsn": "vmsn", "x.vmem": "vmem"},
            "x.vmem",
            None,
        ),
        # A state of another guest, with its memory inside, or without any.
        ({"x-Snapshot1.vmsn": "6.12", "x.vmem": "vmem"}, "x.vmem", None),
        ({"x.vmsn": "vmsn-inside", "x.vmem": "vmem"}, "x.vmem", None),
        ({"x.vmsn": "vmsn-no-memory", "x.vmem": "vmem"}, "x.vmem", None),
        ({"x.vmem": "vmem"}, "x.vmem", None),
        ({"x.vmsn": "vmsn-inside"}, "x.vmsn", "x.vmsn"),
        ({"x.vmsn": "vmsn-no-memory"}, "x.vmsn", None),
    ],
)
def test_which_files_belong_together(
    files: formats.Files,
    tmp_path: pathlib.Path,
    names: Mapping[str, str],
    opened: str,
    expected: Optional[str],
) -> None:
    """VMware's habits, whichever of the files is opened."""
    hole = real_guest("hole-pti")
    for name, kind in names.items():
        write_file(tmp_path / name, kind, files)
    layer = stack(tmp_path / opened, GuestDumpStacker)
    if expected is None:
        # The links lead to files that have a debug.guest beside them.
        assert layer is None or str(layer.config["format"]) == "debug.guest"
        return
    assert isinstance(layer, GuestDumpLayer)
    assert layer.machine.origin.location == (tmp_path / expected).as_uri()
    memory = [name for name, kind in names.items() if kind == "vmem"] or [expected]
    assert layer.machine.origin.memory_location == (tmp_path / memory[0]).as_uri()
    assert stacked_kernel(layer.machine) == hole.expected["banner"]


@pytest.fixture(scope="module")
def packed(
    files: formats.Files, tmp_path_factory: pytest.TempPathFactory
) -> Mapping[str, pathlib.Path]:
    """A state file and its memory, as they are and compressed, by suffix; none beside another."""
    guest = real_guest("hole-pti")
    found = {".vmsn": files(guest, "vmsn"), ".vmem": guest.vmem_path}
    for suffix, path in list(found.items()):
        found[f"{suffix}.gz"] = tmp_path_factory.mktemp("packed") / "packed.gz"
        found[f"{suffix}.gz"].write_bytes(gzip.compress(path.read_bytes(), 1))
    return found


@pytest.mark.parametrize("packing", [("", ""), (".gz", ""), ("", ".gz"), (".gz", ".gz")])
@pytest.mark.parametrize(
    ("state", "memory"),
    [
        ("x-Snapshot1.vmsn", "x-Snapshot1.vmem"),
        ("x-Snapshot12.vmsn", "x.vmem"),
        ("x-1a2b3c4d.vmss", "x-1a2b3c4d.vmem"),
        ("x-1A2B3C4D.vmss", "x.vmem"),
        ("x.vmsn", "x.vmem"),
        ("X.VMSS", "X.VMEM"),
        ("X-SNAPSHOT2.VMSN", "X.VMEM"),
        ("a b%20c#1\u540d.vmsn", "a b%20c#1\u540d.vmem"),
    ],
)
def test_names_from_either_side(
    packed: Mapping[str, pathlib.Path],
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    state: str,
    memory: str,
    packing: tuple[str, str],
) -> None:
    """Whichever file is opened, however both are called and packed, the other one is found."""
    paths = []
    for name, kind, suffix in zip((state, memory), (".vmsn", ".vmem"), packing):
        path = tmp_path / f"{name}{suffix.upper() if name.isupper() else suffix}"
        path.symlink_to(packed[kind + suffix])
        paths.append(path)
    for path in paths:
        layer = stack(path, GuestDumpStacker)
        assert isinstance(layer, GuestDumpLayer)
        origin = layer.machine.origin
        assert [origin.location, origin.memory_location] == [each.as_uri() for each in paths]
        assert len(layer.machine.vcpus) == 2 and not origin.missing_memory
    assert not caplog.messages


def test_more_than_one_state(vol: Vol, files: formats.Files, tmp_path: pathlib.Path) -> None:
    """Where nothing tells them apart memory is shown and registers are not; a line says why."""
    for name, kind in {"x.vmss": "later", "x.vmsn": "vmsn", "x.vmem": "vmem"}.items():
        write_file(tmp_path / name, kind, files)
    expected = {task["pid"] for task in real_guest("hole-pti").expected["processes"]}
    done = vol("-r", "json", "-f", tmp_path / "x.vmem", "linux.pslist")
    assert expected <= {row["PID"] for row in rows(done)}
    done = vol("-r", "json", "-f", tmp_path / "x.vmem", "guestdump.Registers")
    assert rows(done) == []
    assert (
        done.stderr.count("x.vmem may be the memory of more than one state (x.vmss, x.vmsn)") == 1
    )
    assert "To choose one: vol -f x.vmss PLUGIN" in done.stderr
    shown = rows(vol("-r", "json", "-f", tmp_path / "x.vmsn", "guestdump.Registers"))
    assert {row["vCPU"] for row in shown} == {0, 1}


def stacked_kernel(machine: Machine) -> str:
    """Returns the banner of the kernel that the registers lead to."""
    kernel = kernels.linux_kernel(machine)
    assert kernel is not None and kernel.found_by == "registers"
    return kernel.shown_banner


def test_memory_that_the_user_names(
    files: formats.Files, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """--guest-memory says where memory lies, whatever the files are called."""
    guest = real_guest("hole-pti")
    state = tmp_path / "state.17"
    state.symlink_to(files(guest, "vmsn"))
    layer = stack(state, GuestDumpStacker, guest_memory=str(guest.vmem_path))
    assert isinstance(layer, GuestDumpLayer) and not caplog.messages
    assert stacked_kernel(layer.machine) == guest.expected["banner"]
    layer = stack(state, GuestDumpStacker, guest_memory=str(tmp_path / "gone"))
    assert isinstance(layer, GuestDumpLayer) and layer.machine.origin.memory_location is None
    assert "gone: no such file. Only registers can be shown" in caplog.text


@pytest.mark.parametrize("kind", ["vmsn-inside", "vmss", "elf-qemu", "lime", "raw"])
def test_named_memory_that_is_not_used(
    vol: Vol, files: formats.Files, tmp_path: pathlib.Path, kind: str
) -> None:
    """A file that has its own memory is not read with another one, and a line says so."""
    path = files(real_guest("hole-pti"), kind)
    if kind == "vmss":
        # Whoever opens the memory file has named it already.
        path = path.with_suffix(".vmem")
    other = tmp_path / "other.vmem"
    other.write_bytes(bytes(4096))
    command = ("-r", "json", "--guest-memory", other, "-f", path, "guestdump.Info")
    done = vol(*command)
    assert info(done)["Memory file"] == f"{path.as_uri()} (complete)"
    message = (
        f"other.vmem, which --guest-memory names, is not used: memory is read from {path.name}"
    )
    assert done.stderr.count(message) == 1 and done.stderr.count("WARNING") == 1
    other.unlink()
    other.symlink_to(path)
    assert "WARNING" not in vol(*command).stderr


def test_a_vcpu_without_all_registers(
    files: formats.Files, tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It has the others, and what it lacks is said; the other one still leads to the kernel."""
    guest = real_guest("hole-pti")
    whole = files(guest, "vmss").read_bytes()
    damaged = whole.replace(b"\x03rip" + struct.pack("<I", 0), b"\x03rpi" + struct.pack("<I", 0), 1)
    assert damaged != whole
    (tmp_path / "x.vmss").write_bytes(damaged)
    (tmp_path / "x.vmem").symlink_to(guest.vmem_path)
    layer = stack(tmp_path / "x.vmss", GuestDumpStacker)
    assert isinstance(layer, GuestDumpLayer)
    assert [vcpu.lacks(*REGISTERS) for vcpu in layer.machine.vcpus] == [("rip",), ()]
    assert caplog.messages == ["x.vmss is not as it should be: rip of vCPU 0 is missing"]
    assert stacked_kernel(layer.machine) == guest.expected["banner"]


def test_a_snapshot_without_memory(vol: Vol, files: formats.Files) -> None:
    """What is missing, and how to get it, is the last line."""
    done = vol("-f", files(real_guest("hole-pti"), "vmsn-no-memory"), "linux.pslist")
    assert done.returncode != 0 and "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert "is a snapshot without the guest's memory: take one with memory" in last


@pytest.mark.parametrize("name", sorted(signatures.FILES))
def test_formats_that_are_not_read(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """One message says what the file is and how to get one that can be read."""
    signatures.write(tmp_path)
    assert stack(tmp_path / name, UnsupportedFormatStacker) is None
    (message,) = caplog.messages
    assert message.startswith(f"{name} is ") and "--memory-only" in message


def test_kdump_of_qemu(caplog: pytest.LogCaptureFixture) -> None:
    """The real file of QEMU's format kdump-zlib is named."""
    assert stack(real_guest("qemu-elf").folder / "dump.kdump", UnsupportedFormatStacker) is None
    (message,) = caplog.messages
    assert "kdump" in message and "dump-guest-memory" in message


@pytest.mark.parametrize("mode", ["x64", "pae"])
def test_windows_in_a_snapshot(vol: Vol, tmp_path: pathlib.Path, mode: str) -> None:
    """windows.info needs no scan, and shows what it shows of debug.guest."""
    missing = missing_tools()
    if missing and not os.environ.get("CI"):
        pytest.skip(f"stand-ins cannot be made without {', '.join(missing)}")
    guest = stand_in(tmp_path, mode, memory=64 << 20)
    with guest.guest_path.open("rb") as stream:
        parsed = GuestFile.parse(stream)
    vcpus = [{**vcpu.registers, "eflags": vcpu.registers["rflags"]} for vcpu in parsed.vcpus]
    source = formats.Source(formats.Memory(guest.vmem_path, guest.regions), vcpus)
    state = tmp_path / "w-Snapshot1.vmsn"
    vmware_state.write(state, source)
    vmware_state.write_memory(state.with_suffix(".vmem"), source.memory)
    arguments = ("-r", "json", "-s", guest.symbols)
    done = vol("-vvvv", *arguments, "-f", state, "windows.info")
    assert GIVEN in done.stderr and SCANNED not in done.stderr
    found = {name: value for name, value in info(done).items() if "layer" not in name}
    expected = info(vol(*arguments, "-f", guest.guest_path, "windows.info"))
    assert found == {name: value for name, value in expected.items() if "layer" not in name}
    assert int(found["Kernel Base"], 16) == guest.base & (1 << 48) - 1
