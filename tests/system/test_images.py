# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Images without registers, of real guests: each way to the kernel, each format."""

import gzip
import os
import pathlib
import random
import subprocess

import pytest

from benchmarks import processes
from tests.conftest import Vol
from tests.helpers import guest_machine, guests, info, real_guest, rows, write_pair
from tests.lab import formats
from tests.lab.windows import missing_tools, stand_in
from volatility_guestdump.dumps.format import Parts
from volatility_guestdump.dumps.raw import Raw
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.linux.finding import find
from volatility_guestdump.linux.finding.low_memory import low_memory_tables
from volatility_guestdump.linux.finding.search import Hits, search
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.machine import PAGE_SIZE, Memory

GUESTS = ("5.10", "hole-pti", "6.12", "newest", "la57", "nokaslr")


def _by_each_way(memory: Memory, hits: Hits) -> list[LinuxKernel]:
    """Returns the kernels that low memory, VMCOREINFO and the banner lead to, each alone."""
    low = find._first(((tables, {}) for tables in low_memory_tables(memory)), "low memory")
    found = [low, find.search_kernel(memory, hits=hits)]
    hits.vmcoreinfo.clear()
    found.append(find.search_kernel(memory, hits=hits))
    kernels = [kernel for kernel in found if kernel is not None]
    assert [kernel.found_by for kernel in kernels] == ["low memory", "VMCOREINFO", "banner"]
    return kernels


@pytest.mark.parametrize("name", [*GUESTS, *guests("kexec", "kdump-loaded")])
def test_each_way_alone(name: str) -> None:
    """Low memory, VMCOREINFO and the banner lead to the same kernel as the registers."""
    machine = guest_machine(real_guest(name))
    memory = machine.memory
    kernel = find.find_kernel(machine)
    assert kernel is not None and kernel.found_by == "registers"
    hits = search(memory)
    assert hits.vmcoreinfo and hits.banners
    for each in _by_each_way(memory, hits):
        assert each.kallsyms is not None and kernel.kallsyms is not None
        assert each.page_map == kernel.page_map
        assert each.banner == kernel.banner
        assert each.kallsyms.index == kernel.kallsyms.index


def _write_host(folder: pathlib.Path, guest: str, copies: int) -> pathlib.Path:
    """Writes a raw image of hole-pti with more in its hole, before its kernel in memory.

    Args:
        folder: that gets the file.
        guest: whose memory is in it, as in that of a hypervisor; empty for none.
        copies: of the kernel's own banner that are in it.
    """
    path = _write("hole-pti", "raw", folder)
    banner = real_guest("hole-pti").expected["banner"].encode() + b"\n\0"
    with path.open("r+b") as stream:
        for number in range(copies):
            stream.seek((1 << 30) + number * 3 * PAGE_SIZE + 0x340 * (number % 2))
            stream.write(banner)
        if guest:
            stream.seek(2 << 30)
            memory = formats.source(real_guest(guest)).memory
            memory.copy(*memory.regions[0], stream)
    return path


@pytest.mark.parametrize(("guest", "copies"), [("6.12", 0), ("5.10", 0), ("", 40)])
def test_what_looks_like_a_kernel_in_memory(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture, guest: str, copies: int
) -> None:
    """A hypervisor's guest, or copies of the banner: the running kernel is found by each way."""
    memory = _raw_memory(_write_host(tmp_path, guest, copies))
    expected = real_guest("hole-pti").expected
    hits = search(memory)
    assert len(hits.banners) >= copies + 2 * bool(guest) + 1
    assert len(hits.vmcoreinfo) == 1 + bool(guest)
    for each in _by_each_way(memory, hits):
        assert each.physical_base == int(expected["physical_base"], 16)
        assert each.banner.decode() == expected["banner"]
    assert not caplog.records


def _raw_memory(path: pathlib.Path) -> Memory:
    """Returns the memory in a raw file, without a hole."""
    location = path.as_uri()
    return Raw().machine(Parts(Raw.name, location, location), Session()).memory


#: Whose formats are tested always, and those whose are only where slow tests are.
SOME, OTHERS = ("hole-pti", "newest"), ("5.10", "6.12", "la57", "nokaslr", "uefi", "user-mode")


@pytest.mark.parametrize(
    "name", [*SOME, *(pytest.param(n, marks=pytest.mark.slow) for n in OTHERS)]
)
@pytest.mark.parametrize("kind", ["raw", "vmem", "lime-iomem", "lime-high", "avml-iomem", "elf"])
def test_processes(vol: Vol, tmp_path: pathlib.Path, name: str, kind: str) -> None:
    """Every process that the guest's ps saw is listed, in every format."""
    guest = real_guest(name)
    path = formats.write(formats.source(guest), kind, tmp_path)
    done = vol("-r", "json", "-f", path, "linux.pslist")
    listed = {(row["PID"], row["COMM"]) for row in rows(done)}
    assert {(each["pid"], each["comm"]) for each in guest.expected["processes"]} <= listed
    (start, size), *others = formats.source(guest).memory.regions
    if kind == "vmem" and others:
        (line,) = (each for each in done.stderr.splitlines() if each.startswith("WARNING"))
        assert f"has a hole at {start + size:#x}-0xffffffff that the file has not" in line
    else:
        assert "WARNING" not in done.stderr
    shown = info(vol("-r", "json", "-f", path, "guestdump.Info"))
    assert shown["Kernel banner"] == guest.expected["banner"]
    assert shown["vCPUs"] == "-"
    assert shown["Kernel found by"] == ("VMCOREINFO" if kind == "lime-high" else "low memory")


def _info(vol: Vol, path: pathlib.Path) -> dict[str, str]:
    return info(vol("-r", "json", "-f", path, "guestdump.Info"))


def _write(name: str, kind: str, folder: pathlib.Path) -> pathlib.Path:
    return formats.write(formats.source(real_guest(name)), kind, folder)


def test_vmcoreinfo_and_low_memory_are_lost(vol: Vol, tmp_path: pathlib.Path) -> None:
    """The banner is left."""
    path = _write("hole-pti", "lime-high", tmp_path)
    memory = path.read_bytes()
    assert b"OSRELEASE=" in memory
    path.write_bytes(memory.replace(b"OSRELEASE=", b"overwriten"))
    shown = _info(vol, path)
    assert shown["Kernel found by"] == "banner"
    assert shown["Kernel banner"] == real_guest("hole-pti").expected["banner"]


def test_32_bit(vol: Vol, tmp_path: pathlib.Path) -> None:
    """VMCOREINFO leads to a kernel whose symbols are of code alone."""
    shown = _info(vol, _write("i686-pae", "vmem", tmp_path))
    assert shown["Kernel found by"] == "VMCOREINFO" and shown["Paging"] == "PAE"
    assert shown["Kernel banner"] == real_guest("i686-pae").expected["banner"]


@pytest.mark.parametrize("kind", ["raw", "lime-high"])
@pytest.mark.parametrize("name", guests("kexec", "kdump-loaded"))
def test_another_kernel_in_memory(vol: Vol, tmp_path: pathlib.Path, name: str, kind: str) -> None:
    """It is the running kernel that is found, and nothing is said of another."""
    guest = real_guest(name)
    path = _write(name, kind, tmp_path)
    done = vol("-r", "json", "-f", path, "guestdump.Info")
    shown = info(done)
    assert "WARNING" not in done.stderr and "Kdump" not in shown
    assert shown["Kernel physical base"] == guest.expected["physical_base"]
    assert shown["Kernel virtual base"] == guest.expected["symbols"]["_text"]
    assert guest.expected["cmdline"] in shown["Command line"]
    listed = {row["PID"] for row in rows(vol("-r", "json", "-f", path, "linux.pslist"))}
    assert {each["pid"] for each in guest.expected["processes"]} <= listed


@pytest.mark.parametrize("kind", ["raw", "lime-high"])
def test_a_kernel_that_kdump_started(vol: Vol, tmp_path: pathlib.Path, kind: str) -> None:
    """It is the one that runs; that there is the one that panicked is said."""
    expected = real_guest("kdump").expected
    done = vol("-r", "json", "-f", _write("kdump", kind, tmp_path), "guestdump.Info")
    shown = info(done)
    assert shown["Kernel physical base"] == expected["second_kernel"]["physical_base"]
    assert expected["second_kernel"]["cmdline"] in shown["Command line"]
    assert f"Linux {expected['kernel_release']} had panicked" in shown["Kdump"]
    assert shown["Kernel found by"] == ("low memory" if kind == "raw" else "VMCOREINFO")
    if kind == "lime-high":
        assert done.stderr.count("There is more than one Linux kernel in memory") == 1


def test_a_hole_behind_the_kernel(vol: Vol, tmp_path: pathlib.Path) -> None:
    """The kernel's image is mapped without the hole too; what it has allocated is not."""
    guest = real_guest("nokaslr")
    assert len(guest.expected["memory_regions"]) == 2
    path = _write("nokaslr", "vmem", tmp_path)
    listed = {row["PID"] for row in rows(vol("-r", "json", "-f", path, "linux.pslist"))}
    assert {each["pid"] for each in guest.expected["processes"]} <= listed
    for number, region in enumerate(guest.expected["memory_regions"]):
        assert _info(vol, path)[f"Memory range {number}"].startswith(region["start"])


@pytest.mark.parametrize("kind", ["elf", "lime-iomem"])
def test_compressed(vol: Vol, tmp_path: pathlib.Path, kind: str) -> None:
    """A compressed image lists what the plain one does."""
    path = _write("hole-pti", kind, tmp_path)
    packed = path.with_name(f"{path.name}.gz")
    with gzip.open(packed, "wb", compresslevel=1) as stream:
        stream.write(path.read_bytes())
    plain, compressed = (
        rows(vol("-r", "json", "-f", each, "linux.pslist")) for each in (path, packed)
    )
    assert plain and compressed == plain


def test_registers_that_lead_nowhere(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Low memory leads to the kernel; without debug.guest it does too."""
    guest = real_guest("hole-pti")
    regions = formats.source(guest).memory.regions
    path = write_pair(tmp_path, guest.vmem_path.read_bytes(), regions=regions)
    assert _info(vol, path)["Kernel found by"] == "low memory"
    path.unlink()
    done = vol("-r", "json", "-f", path.with_suffix(".vmem"), "linux.pslist")
    listed = {row["PID"] for row in rows(done)}
    assert {each["pid"] for each in guest.expected["processes"]} <= listed
    assert "VMSS" not in done.stderr


def test_what_needs_registers(vol: Vol, tmp_path: pathlib.Path) -> None:
    """It is said that there are none; the stacks of tasks that wait are shown."""
    path = _write("hole-pti", "lime-iomem", tmp_path)
    done = vol("-r", "json", "-f", path, "guestdump.Registers")
    assert rows(done) == [] and "LiME: this image has no registers" in done.stderr
    done = vol("-r", "json", "-f", path, "guestdump.Backtrace", "--tasks")
    assert {row["COMM"] for row in rows(done)} >= {"kthreadd"}
    assert "tasks that ran are not available" in done.stderr


@pytest.mark.parametrize("kind", ["vmem", "lime-high"])
def test_volshell(vol: Vol, tmp_path: pathlib.Path, kind: str) -> None:
    """Volshell -l gets kernel, layers and symbols."""
    path = _write("hole-pti", kind, tmp_path)
    done = vol(
        *("-l", "-f", path),
        name="volshell",
        stdin='print("TASK", self.context.modules["kernel"].object_from_symbol("init_task").pid)\n',
    )
    assert "TASK 0" in done.stdout, done.stdout + done.stderr


@pytest.mark.parametrize("kind", ["vmem", "lime-iomem", "avml-iomem"])
def test_saved_configuration(vol: Vol, tmp_path: pathlib.Path, kind: str) -> None:
    """It is enough to make the layers and the table anew."""
    path = _write("hole-pti", kind, tmp_path)
    saved = tmp_path / "saved.json"
    first = rows(vol("-r", "json", "--save-config", saved, "-f", path, "linux.pslist"))
    assert first and rows(vol("-r", "json", "-c", saved, "linux.pslist")) == first


#: What is no memory of a Linux machine.
NO_MACHINES = ("nothing", "zeros", "random bytes", "disk", "Windows")


def _no_machine(kind: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a file that is no memory of a Linux machine, and returns its path."""
    path = folder / "image.raw"
    if kind == "Windows":
        if missing_tools():
            pytest.skip("the stand-in needs clang and lld")
        (folder / "windows").mkdir()
        stand_in(folder / "windows", "x64").vmem_path.rename(path)
        return path
    path.touch()
    if kind == "zeros":
        os.truncate(path, 4 << 30)
    elif kind == "random bytes":
        path.write_bytes(random.Random(14).randbytes(16 << 20))
    elif kind == "disk":
        # A kernel as it is installed, with nothing around it that is made when it runs.
        guest = real_guest("hole-pti")
        banner = guest.expected["banner"].encode()
        path.write_bytes(bytes(3 << 20) + banner + b"\n\0OSRELEASE=" + bytes(3 << 20))
    return path


@pytest.mark.parametrize(
    ("kind", "plugin"),
    [
        (kind, plugin)
        for kind in NO_MACHINES
        for plugin in ("linux.pslist", "windows.info", "banners.Banners")
        # Volatility takes half a minute for it.
        if (kind, plugin) != ("zeros", "banners.Banners")
    ],
)
def test_no_machine(vol: Vol, tmp_path: pathlib.Path, kind: str, plugin: str) -> None:
    """Volatility says what it says without this package, and why there is no Linux kernel."""
    path = _no_machine(kind, tmp_path)
    cache = tmp_path / "cache"
    cache.mkdir()
    stock = subprocess.run(
        processes.stock(cache, "-f", path, plugin), capture_output=True, text=True, check=False
    )
    done = vol("-f", path, plugin)
    assert (done.returncode, done.stdout) == (stock.returncode, stock.stdout)
    said = done.stderr.splitlines()
    if plugin == "linux.pslist":
        assert said.pop().startswith("volatility_guestdump: image.raw shows no Linux kernel: ")
    assert said == stock.stderr.splitlines()


@pytest.mark.parametrize("kind", NO_MACHINES)
def test_where_nothing_is_searched_for(vol: Vol, tmp_path: pathlib.Path, kind: str) -> None:
    """Plugins for Windows get no search for Linux, and those of this package none for Windows."""
    path = _no_machine(kind, tmp_path)
    done = vol("-vvvv", "-f", path, "guestdump.Info")
    assert done.returncode == 1 and "plugins.Info.primary" in done.stderr
    assert "using RawSearchStacker" in done.stderr
    assert "WindowsIntelStacker" not in done.stderr
    if kind != "zeros":
        done = vol("-vvvv", "-f", path, "windows.info")
        assert done.returncode == 1 and "using WindowsIntelStacker" in done.stderr
        assert "using RawSearchStacker" not in done.stderr
        assert "using RawMemoryStacker" not in done.stderr


def test_pages_of_another_moment(vol: Vol, tmp_path: pathlib.Path) -> None:
    """They cost what is on them; nothing ends in a traceback."""
    path = _write("newest", "raw", tmp_path)
    base = int(_info(vol, path)["Kernel physical base"], 16)
    chosen = random.Random(7)
    with path.open("r+b") as stream:
        for place in range(1 << 20, path.stat().st_size, PAGE_SIZE):
            # The image is read-only in a running kernel, but for its data.
            if not base <= place < base + (64 << 20) and chosen.random() < 0.01:
                stream.seek(max(1 << 20, place - chosen.randrange(1 << 10) * PAGE_SIZE))
                page = stream.read(PAGE_SIZE)
                stream.seek(place)
                stream.write(page)
    for plugin in (["linux.pslist"], ["linux.lsof"], ["guestdump.Backtrace", "--tasks"]):
        done = vol("-f", path, *plugin)
        assert "Traceback" not in done.stderr and "volatility_guestdump/" not in done.stderr
