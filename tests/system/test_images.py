# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Images without registers, of real guests: each way to the kernel, each format."""

import pathlib

import pytest

from tests.conftest import Vol
from tests.helpers import guest_machine, info, real_guest, rows
from tests.lab import formats
from volatility_guestdump.linux import find
from volatility_guestdump.linux.low_memory import low_memory_tables
from volatility_guestdump.linux.search import search

GUESTS = ("5.10", "hole-pti", "6.12", "newest", "la57", "nokaslr")


@pytest.mark.parametrize("name", GUESTS)
def test_each_way_alone(name: str) -> None:
    """Low memory, VMCOREINFO and the banner lead to the same kernel as the registers."""
    machine = guest_machine(real_guest(name))
    memory = machine.memory
    kernel = find.find_kernel(machine)
    assert kernel is not None and kernel.found_by == "registers"
    traces = search(memory)
    assert traces.vmcoreinfo and traces.banners
    low = find._first(((tables, ()) for tables in low_memory_tables(memory)), "low memory")
    found = [low, find.search_kernel(memory, traces=traces)]
    traces.vmcoreinfo.clear()
    found.append(find.search_kernel(memory, traces=traces))
    for each, way in zip(found, ("low memory", "VMCOREINFO", "banner")):
        assert each is not None and each.found_by == way
        assert each.kallsyms is not None and kernel.kallsyms is not None
        assert each.page_map == kernel.page_map
        assert each.banner == kernel.banner
        assert each.kallsyms.index == kernel.kallsyms.index


@pytest.mark.parametrize("name", ["hole-pti", "newest"])
@pytest.mark.parametrize("kind", ["raw", "vmem", "lime-iomem", "lime-high", "avml-iomem", "elf"])
def test_processes(vol: Vol, tmp_path: pathlib.Path, name: str, kind: str) -> None:
    """Every process that the guest's ps saw is listed, in every format."""
    guest = real_guest(name)
    path = formats.write(formats.source(guest), kind, tmp_path)
    done = vol("-r", "json", "-f", path, "linux.pslist")
    listed = {(row["PID"], row["COMM"]) for row in rows(done)}
    assert {(each["pid"], each["comm"]) for each in guest.expected["processes"]} <= listed
    assert "VMSS" not in done.stderr
    shown = info(vol("-r", "json", "-f", path, "guestdump.Info"))
    assert shown["Kernel banner"] == guest.expected["banner"]
    assert shown["vCPUs"] == "-"
    assert shown["Kernel found by"] == ("VMCOREINFO" if kind == "lime-high" else "low memory")
