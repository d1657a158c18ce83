# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Reads of memory, by our layers and by Volatility's: python -m benchmarks.reads GUEST RAW.

It reads much memory, so it runs in a process of its own; it prints what `measure` returns as JSON.
"""

import json
import mmap
import multiprocessing
import pathlib
import random
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple

from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.framework.layers import intel, linear, physical, segmented
from volatility3.plugins.linux import pslist  # type: ignore[attr-defined]

import volatility_guestdump.framework  # noqa: F401 # makes Volatility know its stackers
from tests.lab import formats
from volatility_guestdump.dumps.format import Parts
from volatility_guestdump.dumps.qemu_elf import QemuElfCore
from volatility_guestdump.dumps.vmware_state import VmwareStateFile
from volatility_guestdump.files.location import local_path
from volatility_guestdump.framework import stacking
from volatility_guestdump.framework.layers import GuestDumpLayer
from volatility_guestdump.x86.paging import PageTables, PagingMode

#: Reads (address, length).
Read = Callable[[int, int], bytes]

#: Layer -> seconds of a first pass and of a second, reads of a pass, and bytes of a read.
Times = dict[str, tuple[float, float, int, int]]

_ROUNDS = 3
_COUNT = 20_000
#: Sizes of reads at random addresses, each at a multiple of its size; and from end to end.
_RANDOM = {"8 bytes": 8, "4 KiB": 4 << 10}
_SEQUENTIAL = {"1 MiB": 1 << 20}
_COMPARED = 100

#: The kernel's half of 48-bit addresses, up to its image: the direct map of all memory is in there.
_KERNEL_HALF = (0xFFFF_8000_0000_0000, 0xFFFF_FFFF_8000_0000)


class Piece(NamedTuple):
    """What is read: a run of addresses, by layers that have the same memory there."""

    start: int
    size: int
    readers: Mapping[str, Read]


class _StockSegments(segmented.SegmentedLayer):
    """What a layer for guest dumps is when it does no more than Volatility asks for."""

    def _load_segments(self) -> None:
        dump = self.context.layers[str(self.config["dump"])]
        assert isinstance(dump, GuestDumpLayer)
        self._segments = [
            (run.start, run.file_offset, run.size, run.size) for run in dump.machine.origin.ranges
        ]


def _one_file(
    context: interfaces.context.ContextInterface, dump: GuestDumpLayer, folder: pathlib.Path
) -> Mapping[str, Read]:
    """Writes a guest as files that hold registers and memory, and returns who reads them."""
    machine = dump.machine
    assert dump.memory_location is not None
    memory = formats.Memory(
        pathlib.Path(local_path(dump.memory_location) or ""),
        [(run.start, run.size) for run in machine.origin.ranges],
    )
    vcpus = [{**vcpu.registers, "eflags": vcpu.registers["rflags"]} for vcpu in machine.vcpus]
    source = formats.Source(memory, vcpus)
    state = formats.write(source, "vmsn-inside", folder).as_uri()
    core = formats.write(source, "elf-qemu", folder).as_uri()
    formats_read = {"memory in a .vmsn": (VmwareStateFile.name, state)}
    formats_read["ELF core of QEMU"] = (QemuElfCore.name, core)
    return {
        f"GuestDumpLayer, {what}": stacking.layer_of(context, Parts(name, location, location)).read
        for what, (name, location) in formats_read.items()
    }


def pieces(guest: pathlib.Path, raw: pathlib.Path, folder: pathlib.Path) -> dict[str, Piece]:
    """Returns what is read of a guest without holes: physical memory, and the direct map.

    Args:
        guest: its debug.guest.
        raw: the same memory as one file.
        folder: for the same guest in other formats.
    """
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = guest.as_uri()
    plugins.construct_plugin(
        *(context, automagic.available(context), pslist.PsList, "plugins"),
        progress_callback=None,
        open_method=interfaces.plugins.FileHandlerInterface,  # type: ignore[type-abstract]
    )
    virtual = context.layers[context.modules["kernel"].layer_name]
    dump = context.layers[virtual.dependencies[0]]
    assert isinstance(virtual, intel.LinuxIntel32e) and isinstance(dump, GuestDumpLayer)

    page_map = int(str(virtual.config["page_map_offset"]))

    def add(name: str, kind: type, **config: object) -> interfaces.layers.DataLayerInterface:
        for key, value in config.items():
            context.config[f"stock.{name}.{key}"] = value
        layer: interfaces.layers.DataLayerInterface = kind(context, f"stock.{name}", name)
        context.add_layer(layer)
        return layer

    file = add("file", physical.FileLayer, location=raw.as_uri())
    add("vmem", physical.FileLayer, location=guest.with_suffix(".vmem").as_uri())
    segments = add("segments", _StockSegments, base_layer="vmem", dump=dump.name)
    on_file, on_segments = (
        add(f"on_{below}", intel.LinuxIntel32e, memory_layer=below, page_map_offset=page_map)
        for below in ("file", "segments")
    )

    with raw.open("rb") as stream:
        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    tables = PageTables(dump.machine.memory.read, PagingMode.FOUR_LEVEL, page_map)
    run = max(dump.machine.origin.ranges, key=lambda each: each.size)
    direct, base, size = max(tables.runs(*_KERNEL_HALF), key=lambda each: each[2])
    size = min(size, run.end - base)
    assert run.start <= base

    return {
        "physical": Piece(
            run.start,
            run.size,
            {
                "mmap": lambda address, length: mapped[address : address + length],
                "GuestDumpLayer": dump.read,
                **_one_file(context, dump, folder),
                "FileLayer, raw": file.read,
                "SegmentedLayer on FileLayer": segments.read,
            },
        ),
        "virtual": Piece(
            direct & virtual.address_mask,
            size,
            {
                "mmap": _shifted(mapped, base - (direct & virtual.address_mask)),
                type(virtual).__name__: virtual.read,
                "LinuxIntel32e on FileLayer, raw": on_file.read,
                "LinuxIntel32e on SegmentedLayer": on_segments.read,
            },
        ),
    }


def _shifted(mapped: mmap.mmap, distance: int) -> Read:
    return lambda address, length: mapped[address + distance : address + distance + length]


def _pass(read: Read, addresses: Sequence[int], size: int) -> float:
    # Volatility remembers the last 512 reads of its layers: a second pass would read nothing.
    linear.LinearlyMappedLayer.read.cache_clear()
    started = time.perf_counter()
    for address in addresses:
        read(address, size)
    return time.perf_counter() - started


def _passes(read: Read, addresses: Sequence[int], size: int) -> tuple[float, float]:
    """Returns the seconds of a layer's first pass, and of its second.

    They run in a copy of this process, whose layers have read nothing yet. And what one layer
    leaves behind in the heap makes reads of 1 MiB by another half as fast again, or as slow.
    """
    processes = multiprocessing.get_context("fork")
    receiver, sender = processes.Pipe(duplex=False)

    def both() -> None:
        sender.send((_pass(read, addresses, size), _pass(read, addresses, size)))

    process = processes.Process(target=both)
    process.start()
    sender.close()
    try:
        found: tuple[float, float] = receiver.recv()
    finally:
        process.join()
    return found


def _time(piece: Piece, addresses: Sequence[int], size: int) -> Times:
    rounds = [
        {name: _passes(read, addresses, size) for name, read in piece.readers.items()}
        for _ in range(_ROUNDS)
    ]
    first, second = (
        {name: min(each[name][number] for each in rounds) for name in piece.readers}
        for number in (0, 1)
    )
    return {name: (first[name], second[name], len(addresses), size) for name in piece.readers}


def _compare(piece: Piece, addresses: Sequence[int], size: int) -> None:
    for address in addresses[:_COMPARED]:
        if len({read(address, size) for read in piece.readers.values()}) != 1:
            raise AssertionError(f"the layers differ at {address:#x}")


def measure(guest: pathlib.Path, raw: pathlib.Path) -> dict[str, dict[str, Times]]:
    """Returns kind of memory -> size of the reads -> what each layer took."""
    chance = random.Random(1)
    tables: dict[str, dict[str, Times]] = {}
    with tempfile.TemporaryDirectory(dir=raw.parent) as folder:
        for kind, piece in pieces(guest, raw, pathlib.Path(folder)).items():
            for title, size in {**_RANDOM, **_SEQUENTIAL}.items():
                places = range(piece.start, piece.start + piece.size - size + 1, size)
                addresses = chance.choices(places, k=_COUNT) if title in _RANDOM else places
                tables.setdefault(kind, {})[title] = _time(piece, addresses, size)
            _compare(piece, addresses, size)
    return tables


if __name__ == "__main__":
    json.dump(measure(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])), sys.stdout)
