# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The guests to measure with: as ESXi writes them, and as stock Volatility can read them."""

import dataclasses
import errno
import os
import pathlib
from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks import processes
from tests import lab
from tests.lab import formats
from tests.lab.formats import lime
from tests.lab.writer import pack_guest
from volatility_guestdump.sources.debug_guest import GuestFile

_CHUNK = 1 << 20

#: Images without registers.
RAW, LIME = IMAGES = ("raw", "LiME")


@dataclass(frozen=True)
class Subject:
    """A guest in both forms.

    Attributes:
        name: of the guest.
        kernel: what it runs.
        file: what its debug.guest says.
        guest: its debug.guest.
        raw: the same memory as one file, where the offset is the guest-physical address.
        lime: the same memory in LiME's format.
        symbols: folder for Volatility's -s, with the ISF that guestdump.Isf writes.
        caches: folders for Volatility's cache that runs before have filled, of ours and of stock.
    """

    name: str
    kernel: str
    file: GuestFile
    guest: pathlib.Path
    raw: pathlib.Path
    lime: pathlib.Path
    symbols: pathlib.Path
    caches: tuple[pathlib.Path, pathlib.Path]

    @property
    def memory(self) -> str:
        """The size of the guest's memory, in words."""
        mebibytes = (self.file.memory_size or 0) >> 20
        return f"{mebibytes >> 10} GiB" if mebibytes >= 1 << 10 else f"{mebibytes} MiB"

    def image(self, name: str) -> pathlib.Path:
        """Returns one of `IMAGES`, or debug.guest for an empty name."""
        return {"": self.guest, RAW: self.raw, LIME: self.lime}[name]

    def ours(self, cache: pathlib.Path, plugin: str, image: str = "") -> list[str]:
        """Returns the command that runs a plugin, with its options, on the guest dump."""
        return processes.ours(cache, "-f", self.image(image), *plugin.split())

    def stock(self, cache: pathlib.Path, plugin: str, image: str = RAW) -> list[str]:
        """Returns the command that runs a plugin, with its options, on the raw memory."""
        return processes.stock(cache, "-s", self.symbols, "-f", self.image(image), *plugin.split())


def prepare(name: str, folder: pathlib.Path) -> Subject:
    """Returns a guest of the lab in both forms; it is made if need be."""
    made = lab.guest(name)
    home = folder / name
    symbols = home / "symbols"
    caches = home / "cache-ours", home / "cache-stock"
    for path in (symbols / "linux", *caches):
        path.mkdir(parents=True)
    with made.guest_path.open("rb") as stream:
        file = GuestFile.parse(stream)
    subject = Subject(
        name=name,
        kernel=str(made.expected["kernel_release"]),
        file=file,
        guest=made.guest_path,
        raw=home / "memory.raw",
        lime=home / "memory.lime",
        symbols=symbols,
        caches=caches,
    )
    _write_raw(file, made.vmem_path, subject.raw)
    lime.write(subject.lime, formats.source(made).memory)
    options = ("-o", symbols / "linux", "-f", subject.guest)
    for command in (
        processes.ours(caches[0], *options, "guestdump.Isf"),
        subject.ours(caches[0], "linux.pslist"),
        subject.stock(caches[1], "linux.pslist"),
    ):
        processes.run(command, folder)
    return subject


def with_vcpus(subject: Subject, count: int, folder: pathlib.Path) -> Subject:
    """Returns a guest with its vCPUs repeated in debug.guest, and the same memory beside it."""
    home = folder / f"{subject.name}-{count}"
    home.mkdir()
    present = subject.file.vcpus
    vcpus = [present[number % len(present)] for number in range(count)]
    regions = [(run.start, run.size) for run in subject.file.ranges or ()]
    # The lab's writer calls the flags what QEMU calls them.
    registers = [{**vcpu.registers, "eflags": vcpu.registers["rflags"]} for vcpu in vcpus]
    guest = home / "debug.guest"
    guest.write_bytes(pack_guest(subject.file.version, regions, registers))
    guest.with_suffix(".vmem").symlink_to(subject.guest.with_suffix(".vmem").resolve())
    file = dataclasses.replace(subject.file, vcpus=tuple(vcpus))
    return dataclasses.replace(subject, file=file, guest=guest)


def _write_raw(file: GuestFile, memory: pathlib.Path, raw: pathlib.Path) -> None:
    with memory.open("rb") as source, raw.open("wb") as target:
        ranges = file.ranges or ()
        for run in ranges:
            start, end = run.file_offset, run.file_offset + run.size
            for position, stop in _extents(source.fileno(), start, end):
                for offset in range(position, stop, _CHUNK):
                    part = os.pread(source.fileno(), min(_CHUNK, stop - offset), offset)
                    os.pwrite(target.fileno(), part, offset - start + run.start)
        target.truncate(ranges[-1].end)


def _extents(descriptor: int, start: int, end: int) -> Sequence[tuple[int, int]]:
    """Returns where a part of a file has data: offset, and offset behind it."""
    found: list[tuple[int, int]] = []
    while start < end:
        try:
            start = os.lseek(descriptor, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            break  # no data follows
        stop = min(end, os.lseek(descriptor, start, os.SEEK_HOLE))
        if start < stop:
            found.append((start, stop))
        start = max(start, stop)
    return found
