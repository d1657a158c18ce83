# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Real guests: what Volatility and our plugins print against what the guest and QEMU said."""

import hashlib
import itertools
import json
import lzma
import pathlib
import re
from typing import Optional

import jsonschema
import pytest
from volatility3 import schemas

from tests.conftest import Vol
from tests.helpers import guest_machine, guests, info, machine, real_guest, rows
from tests.lab import GUESTS
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.isf.document import ISF_FORMAT
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.symbols.kallsyms import Kallsyms
from volatility_guestdump.linux.symbols.kallsyms_names import NameIndex
from volatility_guestdump.machine import Machine
from volatility_guestdump.sources.debug_guest import VERSIONS

PAGE, LARGE_PAGE = 4096, 2 << 20

NAMES = [name for name, recipe in GUESTS.items() if not (recipe.slow or recipe.odd)]
WITH_TYPES = [name for name in NAMES if "686" not in GUESTS[name].kernel.release]


def test_every_version_of_the_format_is_met() -> None:
    """The lab's guests are written in all versions of the format."""
    assert {GUESTS[name].format_version for name in NAMES} == set(VERSIONS)


@pytest.mark.parametrize("name", WITH_TYPES)
def test_pslist_prints_every_process(vol: Vol, name: str) -> None:
    """linux.pslist has every process that the guest had, with its parent and its name."""
    guest = real_guest(name)
    printed = {
        (row["PID"], row["PPID"]): row["COMM"]
        for row in rows(vol("-r", "json", "-f", guest.guest_path, "linux.pslist"))
    }
    assert guest.expected["processes"]
    for process in guest.expected["processes"]:
        comm = printed.get((process["pid"], process["ppid"]))
        # A worker's name in /proc goes on with what it works on.
        assert comm is not None and process["comm"].startswith(comm), process


@pytest.mark.parametrize("name", NAMES)
def test_info(vol: Vol, name: str) -> None:
    """Every variable of guestdump.Info that the lab knows the truth of is right."""
    guest = real_guest(name)
    truth = guest.expected
    shown = info(vol("-r", "json", "-f", guest.guest_path, "guestdump.Info"))
    version = truth["format_version"]
    regions = [(int(run["start"], 16), int(run["size"], 16)) for run in truth["memory_regions"]]
    size = sum(size for _, size in regions)
    assert list(shown) == [
        *("Format", "vCPUs", "Memory size"),
        *(f"Memory range {number}" for number in range(len(regions))),
        *("Memory file", "Paging", "Page-table isolation", "Operating system", "Kernel banner"),
        *("Kernel build id", "Host name", "Date", "Uptime", "Load average", "Tasks"),
        *("Command line", "Taint", "Kernel virtual base", "KASLR shift", "Kernel physical base"),
        *("Page map (DTB)", "Symbols", "Panic", "Panic task", "Kernel found by"),
    ]
    assert shown["Kernel found by"] == "registers"
    assert shown["Format"] == f"{version} ({VERSIONS[version].release})"
    assert shown["vCPUs"] == str(len(truth["vcpus"]))
    assert shown["Memory size"] == f"{size} ({size >> 20} MiB)"
    offset = 0
    for number, (start, length) in enumerate(regions):
        assert shown[f"Memory range {number}"] == (
            f"{start:#x}-{start + length - 1:#x} at file offset {offset:#x}"
        )
        offset += length
    assert shown["Memory file"] == f"{guest.vmem_path.as_uri()} (complete)"
    assert shown["Paging"] == truth["paging"]
    assert shown["Kernel banner"] == truth["banner"]
    assert truth["kernel_release"] in shown["Operating system"]
    assert shown["KASLR shift"] == truth["kernel_offset"]
    assert shown["Kernel physical base"] == truth["physical_base"]
    assert shown["Kernel virtual base"] == truth["symbols"]["_text"]
    if "system" in truth and name in WITH_TYPES:
        system = truth["system"]
        assert shown["Host name"] == system["hostname"]
        assert shown["Taint"].split(" ")[0] == str(system["tainted"])
    if name in WITH_TYPES:
        assert truth["cmdline"] in shown["Command line"]
        assert shown["Kernel build id"] == truth["build_id"]
        assert shown["Page-table isolation"] == ("on" if "pti=on" in truth["cmdline"] else "off")
        assert shown["Symbols"] == "kallsyms and BTF in the dump"
        assert shown["Panic"] == (truth["panic_message"] or "-")
        task = truth["panic_task"]
        who = f"vCPU {task['cpu']}: {task['comm']} (pid {task['pid']}), " if task else "-"
        assert re.fullmatch(
            re.escape(who) + (r"panic\+0x[0-9a-f]+" if task else ""), shown["Panic task"]
        )
    else:
        assert "no type information (BTF)" in shown["Symbols"]
        assert "an ISF for this banner" in shown["Symbols"]


@pytest.mark.parametrize("name", NAMES)
def test_registers(vol: Vol, name: str) -> None:
    """Every register of every vCPU has the value that QEMU gave it."""
    guest = real_guest(name)
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Registers"))
    values = {(row["vCPU"], row["Register"]): row["Value"] for row in shown}
    assert len(values) == len(shown) == 31 * len(guest.expected["vcpus"])
    for number, registers in enumerate(guest.expected["vcpus"]):
        for register, value in registers.items():
            name_here = "rflags" if register == "eflags" else register
            assert values[number, name_here] == int(value, 16), (number, register)


def test_user_half_is_told() -> None:
    """The lab's guest in user mode has the user's half of CR3 loaded, or it tests nothing."""
    truth = real_guest("user-mode").expected
    assert any(int(vcpu["cr3"], 16) & 0x1000 for vcpu in truth["vcpus"])


def test_decoded_registers(vol: Vol) -> None:
    """Flags, rings and halves of isolated page tables are named, on a guest in user mode."""
    guest = real_guest("user-mode")
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Registers"))
    decoded = {(row["vCPU"], row["Register"]): row["Decoded"] for row in shown}
    for number, registers in enumerate(guest.expected["vcpus"]):
        in_user_mode = int(registers["cs"], 16) & 3 == 3
        assert ("ring 3" in decoded[number, "cs"]) == in_user_mode
        assert ("user half" in decoded[number, "cr3"]) == in_user_mode
        assert "PG" in decoded[number, "cr0"].split()
        assert "PAE" in decoded[number, "cr4"].split()


def test_symbols_in_registers(vol: Vol) -> None:
    """An address in the image is shown as the nearest symbol that the guest has, others are not."""
    guest = real_guest("nokaslr")
    shown = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Registers"))
    decoded = {(row["vCPU"], row["Register"]): row["Decoded"] for row in shown}
    symbols = list(symbols_of("nokaslr"))
    for number, registers in enumerate(guest.expected["vcpus"]):
        rip = int(registers["rip"], 16)
        nearest = max(symbol.address for symbol in symbols if symbol.address <= rip)
        first = next(symbol.name for symbol in symbols if symbol.address == nearest)
        assert decoded[number, "rip"] == f"{first}+{rip - nearest:#x}"
        # The IDT is mapped outside of the image.
        assert decoded[number, "idt_base"] == ""


def test_panic_without_types_is_said(vol: Vol) -> None:
    """A kernel without BTF ends Linux plugins with the banner that an ISF is needed for."""
    guest = real_guest("i686-pae")
    done = vol("-f", guest.guest_path, "linux.pslist")
    assert done.returncode != 0
    assert "no type information (BTF)" in done.stderr
    assert guest.expected["banner"] in done.stderr
    assert "Traceback" not in done.stderr


def test_isf_serves_raw_memory(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Stock Volatility reads the raw memory of a guest with the ISF that guestdump.Isf wrote."""
    symbols = tmp_path / "symbols" / "linux"
    symbols.mkdir(parents=True)
    guest = real_guest("6.12")
    (row,) = rows(vol("-r", "json", "-o", symbols, "-f", guest.guest_path, "guestdump.Isf"))
    assert row["Kernel banner"] == guest.expected["banner"]
    assert row["Types"] > 5000 and row["Symbols"] > 50000
    release, build_id = guest.expected["kernel_release"], guest.expected["build_id"]
    assert row["File output"] == f"{release}-{build_id}.json.xz"

    document = json.loads(lzma.decompress((symbols / row["File output"]).read_bytes()))
    # The schema judges each entry by itself, and all of them take minutes.
    for part in ("symbols", "user_types", "enums"):
        document[part] = dict(list(document[part].items())[::100])
        assert len(document[part]) > 10
    schema = pathlib.Path(schemas.__file__).with_name(f"schema-{ISF_FORMAT}.json")
    jsonschema.Draft7Validator(json.loads(schema.read_bytes())).validate(document)

    # No debug.guest beside it, and a name that no stacker of ours looks at.
    raw = tmp_path / "memory.raw"
    raw.symlink_to(guest.vmem_path)
    # Volatility checks all of it, unless it lacks the library for that.
    (tmp_path / "jsonschema.py").write_text("raise ImportError")
    unchecked = {"PYTHONPATH": str(tmp_path)}
    options = ("-r", "json", "-s", symbols.parent)
    stock = rows(vol(*options, "-f", raw, "linux.pslist", environment=unchecked))
    ours = rows(vol("-r", "json", "-f", guest.guest_path, "linux.pslist"))
    assert stock == ours and ours
    # The installed ISF is preferred, and said so.
    same = (*options, "-f", guest.guest_path)
    shown = info(vol(*same, "guestdump.Info", environment=unchecked))
    assert shown["Symbols"] == (symbols / row["File output"]).as_uri()
    assert rows(vol(*same, "linux.pslist", environment=unchecked)) == ours


def kernel_of(name: str) -> tuple[Machine, LinuxKernel]:
    """Returns machine and kernel of a guest."""
    found = guest_machine(real_guest(name))
    kernel = find_kernel(found)
    assert kernel is not None
    return found, kernel


def symbols_of(name: str) -> Kallsyms:
    """Returns the symbols of a guest's kernel, when they are those of its own /proc/kallsyms."""
    truth = real_guest(name).expected
    _, kernel = kernel_of(name)
    assert kernel.kallsyms is not None
    digits = truth["bits"] // 4
    lines = (f"{each.address:0{digits}x} {each.type} {each.name}\n" for each in kernel.kallsyms)
    assert hashlib.sha256("".join(lines).encode()).hexdigest() == truth["kallsyms_sha256"]
    assert len(kernel.kallsyms) == truth["kallsyms_count"]
    return kernel.kallsyms


@pytest.mark.parametrize("name", NAMES)
def test_symbols_and_types_are_those_that_the_guest_told(name: str) -> None:
    """Each line of /proc/kallsyms, and each byte of /sys/kernel/btf/vmlinux."""
    symbols = symbols_of(name)
    truth = real_guest(name).expected["btf_sha256"]
    start, stop = map(symbols.address, ("__start_BTF", "__stop_BTF"))
    if truth is None:
        assert start is None or start == stop
        return
    assert start is not None and stop is not None
    _, kernel = kernel_of(name)
    assert hashlib.sha256(kernel.read(start, stop - start)).hexdigest() == truth


@pytest.mark.parametrize("name", guests("5.10", "i686-pae", "hole-pti", "6.12", "newest", "next"))
def test_every_symbol_is_found(name: str) -> None:
    """By the kernel's own index, where it has one, as by all names expanded together."""
    _, kernel = kernel_of(name)
    assert kernel.kallsyms is not None
    index = kernel.kallsyms.index
    assert isinstance(index, NameIndex)
    uses_kernels = "kallsyms_seqs_of_names" in kernel.kallsyms.tables
    assert uses_kernels == (name != "5.10") == index.uses_kernels
    _, same = kernel_of(name)
    assert same.kallsyms is not None
    # Lists all of them.
    wanted = dict(same.kallsyms.index.items())
    assert len(wanted) > 40000
    # Each search takes some twenty steps: of the larger tables, every seventh name.
    step = 1 if len(wanted) < 100_000 else 7
    for symbol, number in itertools.islice(wanted.items(), None, None, step):
        assert index[symbol] == number
    assert index.uses_kernels == uses_kernels
    assert all(kernel.kallsyms[number] == symbol for number, symbol in enumerate(same.kallsyms))


def same_kernel(found: Optional[LinuxKernel], expected: LinuxKernel) -> None:
    """Checks that a kernel was found with all its symbols."""
    assert found is not None and found.kallsyms is not None, found and found.kallsyms_error
    assert expected.kallsyms is not None and len(found.kallsyms) == len(expected.kallsyms)
    assert (found.banner, found.build_id) == (expected.banner, expected.build_id)


@pytest.mark.slow
def test_memory_missing_behind_the_kernel() -> None:
    """A copy that ends behind the kernel's image, in the middle of a page, has its symbols."""
    whole_machine, whole = kernel_of("next")
    end = whole.address("_end")
    assert end is not None and whole.physical_base is not None
    # The page tables map more than the image, up to the end of a large page.
    start = whole.physical_base + end - whole.virtual_base + 0x666
    missing = range(start, -(-start // LARGE_PAGE) * LARGE_PAGE)

    def read(address: int, length: int) -> bytes:
        if address < missing.stop and address + length > missing.start:
            raise AddressError(max(address, missing.start))
        return whole_machine.memory.read(address, length)

    same_kernel(find_kernel(machine(read, whole_machine.vcpus)), whole)


@pytest.mark.parametrize("version", [b"6.12", b"6.66"])
def test_copies_of_the_banner_in_freed_memory(version: bytes) -> None:
    """What was freed keeps what was in it: the kernel's own banner is the one that has symbols."""
    whole_machine, whole = kernel_of("6.12")
    end = whole.address("_etext")
    assert end is not None
    place = whole.tables.translate(-(-end // PAGE) * PAGE)[0]
    decoy = whole.banner.replace(b"6.12", version) + b"\n\0"

    def read(address: int, length: int) -> bytes:
        data = bytearray(whole_machine.memory.read(address, length))
        for offset, byte in enumerate(decoy, place - address):
            if 0 <= offset < length:
                data[offset] = byte
        return bytes(data)

    same_kernel(find_kernel(machine(read, whole_machine.vcpus)), whole)
