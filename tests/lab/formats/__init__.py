# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A guest of the lab in other formats of memory images.

Each module knows one format by itself and shares nothing with the readers under test.
`python -m tests.lab.formats GUEST FOLDER` writes them all.

    files = formats.Files(tmp_path_factory.mktemp("formats"))
    files(lab.guest("hole-pti"), "lime")            # the path to open; written once
"""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Callable

from tests.lab.formats import avml, elf_core, glued, lime, raw, vmware_state
from tests.lab.formats.memory import (
    Memory,
    Source,
    iomem,
    system_ram,
    without_low_memory,
)
from tests.lab.formats.vmware_state import State
from tests.lab.guests import Guest
from tests.lab.writer import Region

__all__ = ["FORMATS", "Files", "Memory", "Source", "source", "write"]

#: Writes a guest into a folder under a name without suffix, and returns the path to open.
Writer = Callable[[Source, pathlib.Path], pathlib.Path]


def source(guest: Guest) -> Source:
    """Returns what the writers need of a guest that is on disk."""
    expected = guest.expected
    regions = [
        (int(region["start"], 16), int(region["size"], 16)) for region in expected["memory_regions"]
    ]
    # Guests that were made before this was written down lack it.
    more = expected.get("vcpu_msrs", [{}] * len(expected["vcpus"]))
    vcpus = [
        {name: int(value, 16) for name, value in {**registers, **others}.items()}
        for registers, others in zip(expected["vcpus"], more)
    ]
    log = guest.folder.joinpath("console.log").read_text(errors="replace")
    return Source(Memory(guest.vmem_path, regions), vcpus, system_ram(log))


def _raw(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.raw")
    raw.write(path, source.memory)
    return path


def _vmem(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.vmem")
    raw.write_squeezed(path, source.memory)
    return path


def _lime(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.lime")
    lime.write(path, source.memory)
    return path


def _lime_iomem(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.lime")
    lime.write(path, source.memory, iomem(source.memory.regions))
    return path


def _lime_high(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.lime")
    lime.write(path, source.memory, without_low_memory(iomem(source.memory.regions)))
    return path


def _avml(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.avml")
    avml.write(path, source.memory)
    return path


def _avml_iomem(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.avml")
    avml.write(path, source.memory, iomem(source.memory.regions), lose_last_byte=True)
    return path


def _elf(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.elf")
    elf_core.write(path, source.memory)
    return path


def _elf_qemu(source: Source, stem: pathlib.Path) -> pathlib.Path:
    path = stem.with_name(f"{stem.name}.elf")
    elf_core.write(path, source.memory, elf_core.qemu_notes(source.vcpus))
    return path


def _glued(rule: Callable[[Sequence[Region]], Sequence[Region]] = list) -> Writer:
    def write(source: Source, stem: pathlib.Path) -> pathlib.Path:
        path = stem.with_name(f"{stem.name}.raw")
        glued.write(path, source.memory, rule(source.system_ram))
        return path

    return write


def _vmware(suffix: str, state: State) -> Writer:
    def write(source: Source, stem: pathlib.Path) -> pathlib.Path:
        path = stem.with_name(f"{stem.name}{suffix}")
        vmware_state.write(path, source, state)
        if state.has_memory and not state.inside:
            vmware_state.write_memory(path.with_suffix(".vmem"), source.memory, state.regions)
        return path

    return write


#: Name -> writer, of every format that a guest can be written in.
FORMATS: Mapping[str, Writer] = {
    "raw": _raw,
    "vmem": _vmem,
    "lime": _lime,
    "lime-iomem": _lime_iomem,
    "lime-high": _lime_high,
    "avml": _avml,
    "avml-iomem": _avml_iomem,
    "elf": _elf,
    "elf-qemu": _elf_qemu,
    "glued": _glued(),
    "glued-page-zero": _glued(glued.with_page_zero),
    "glued-pages": _glued(glued.whole_pages),
    "glued-last-page-lost": _glued(glued.last_page_lost),
    "glued-from-one-mib": _glued(without_low_memory),
    "vmsn": _vmware(".vmsn", State()),
    "vmss": _vmware(".vmss", State(magic=vmware_state.MAGICS[1], blocks=False)),
    "vmsn-inside": _vmware(".vmsn", State(inside=True)),
    "vmss-inside": _vmware(".vmss", State(blocks=False, inside=True)),
    "vmsn-padded": _vmware(".vmsn", State(magic=vmware_state.MAGICS[3], padding=7)),
    "vmsn-no-memory": _vmware(".vmsn", State(has_memory=False)),
    "vmsn-no-regions": _vmware(".vmsn", State(count_regions=False)),
}

#: Formats that cannot express a hole in memory.
WITHOUT_HOLES = frozenset({"vmsn-no-regions"})


def write(source: Source, name: str, folder: pathlib.Path) -> pathlib.Path:
    """Writes a guest in a format into a folder, and returns the path of the file to open."""
    return FORMATS[name](source, folder / name)


class Files:
    """Guests in formats, each written when it is first asked for.

    Args:
        folder: an existing one for the files; for a test session a temporary one.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder
        self._written: dict[tuple[pathlib.Path, str], pathlib.Path] = {}

    def __call__(self, guest: Guest, name: str) -> pathlib.Path:
        """Returns the path of a guest in one of `FORMATS`."""
        key = (guest.folder, name)
        if key not in self._written:
            folder = self._folder / guest.folder.name
            folder.mkdir(exist_ok=True)
            self._written[key] = write(source(guest), name, folder)
        return self._written[key]
