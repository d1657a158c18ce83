# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""From Volatility's layers to machines.

A layer of ours (`GuestDumpLayer`) knows its machine; of a physical layer of Volatility's own one
without vCPUs is made. Whoever wants the machine of a guest asks `machine_below`, with any layer
that stands on it.
"""

import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical, segmented

from volatility_guestdump.exceptions import AddressError, MediumError, MemoryFileError
from volatility_guestdump.files.location import (
    GZIP_SUFFIX,
    file_state,
    has_suffix,
    local_path,
)
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework.layers import SESSION, GuestDumpLayer, MemoryFileLayer
from volatility_guestdump.kept import Kept
from volatility_guestdump.machine import Machine, Memory, MemoryRange, Origin


def machine_of(layer: interfaces.layers.DataLayerInterface) -> Optional[Machine]:
    """Returns the machine whose guest-physical memory a layer is, or None."""
    if isinstance(layer, GuestDumpLayer):
        return layer.machine
    if isinstance(layer, segmented.NonLinearlySegmentedLayer):
        adapted: Kept[Machine] = vars(layer).setdefault(_ADAPTED, Kept(1))
        # A shallow copy has the same attributes.
        return adapted.get(id(layer), functools.partial(_adapt, layer))
    return None


class _LayerMemory:
    """Guest-physical memory that one of Volatility's layers reads.

    Args:
        layer: the layer.
    """

    def __init__(self, layer: interfaces.layers.TranslationLayerInterface) -> None:
        self._layer = layer

    @functools.cached_property
    def ranges(self) -> Sequence[MemoryRange]:
        """The runs of memory, ascending; those that follow each other are one."""
        return _merged((start, size, mapped) for start, size, mapped, *_ in _pieces(self._layer))

    def stored(self) -> Iterator[MemoryRange]:
        """Yields all runs."""
        yield from self.ranges

    def covers(self, address: int, length: int) -> bool:
        """Whether all of a piece of memory can be read."""
        return address >= 0 and bool(self._layer.is_valid(address, max(length, 1)))

    def read(self, address: int, length: int) -> bytes:
        """Reads memory; see `Memory.read`."""
        if length <= 0:
            return b""
        try:
            return bytes(self._layer.read(address, length))
        except exceptions.InvalidAddressException as error:
            raise AddressError(error.invalid_address) from error
        except exceptions.VolatilityException as error:
            raise MediumError(address, str(error)) from error


#: The attribute of Volatility's own layers that has their machine. It reads the layer: from a table
#: beside them, even one whose keys are weak, no layer would ever be freed.
_ADAPTED = "guestdump_machine"

#: Class of a layer of Volatility's -> what it is of, in words.
_FORMATS = {
    "Elf64Layer": "ELF core",
    "LimeLayer": "LiME",
    "AVMLLayer": "AVML",
    "VmwareLayer": "VMware snapshot",
    "QemuSuspendLayer": "QEMU suspend image",
    "XenCoreDumpLayer": "Xen core dump",
}


def _adapt(layer: interfaces.layers.TranslationLayerInterface) -> Machine:
    """Returns a machine without vCPUs of a physical layer that Volatility stacked."""
    files = []
    names = list(layer.dependencies)
    while names:
        below = layer.context.layers[names.pop()]
        names += below.dependencies
        if isinstance(below, physical.FileLayer):
            files.append((below.location, file_state(below.location)))
    location = files[0][0] if files else ""
    kind = type(layer).__name__
    memory, ranges = _mapped_memory(layer) or _read_memory(layer)
    size = sum(run.size for run in memory.ranges)
    origin = Origin(_FORMATS.get(kind, f"{kind} of Volatility"), location, ranges, location, size)
    # Of memory that is in no file, nothing but itself tells it from another.
    return Machine(memory, (), (kind, tuple(files) or object()), origin)


def _pieces(
    layer: interfaces.layers.TranslationLayerInterface,
) -> Iterable[tuple[int, int, int, int, str]]:
    """Returns where each piece of a layer lies in which layer below."""
    return layer.mapping(0, layer.maximum_address + 1, ignore_errors=True)


def _merged(pieces: Iterable[tuple[int, int, int]], in_file: bool = False) -> list[MemoryRange]:
    """Returns runs of memory of pieces that follow each other.

    Args:
        pieces: address, size, and place in the file; ascending.
        in_file: whether they must do so in the file too.
    """
    runs: list[MemoryRange] = []
    for start, size, mapped in pieces:
        last = runs[-1] if runs else None
        if (
            last is not None
            and last.end == start
            and (not in_file or last.file_offset + last.size == mapped)
        ):
            runs[-1] = MemoryRange(last.start, last.size + size, last.file_offset)
        else:
            runs.append(MemoryRange(start, size, mapped))
    return runs


def _read_memory(
    layer: interfaces.layers.TranslationLayerInterface,
) -> tuple[Memory, Sequence[MemoryRange]]:
    """Returns the memory of any layer, and the runs of memory that there are."""
    memory = _LayerMemory(layer)
    return memory, memory.ranges


def _mapped_memory(
    layer: interfaces.layers.TranslationLayerInterface,
) -> Optional[tuple[Memory, Sequence[MemoryRange]]]:
    """Returns the same of a layer that has nothing but pieces of a file; else None.

    The runs may go beyond the file's end, to where the memory does not.
    """
    pieces: list[tuple[int, int, int]] = []
    files: set[str] = set()
    for start, size, mapped, mapped_size, name in _pieces(layer):
        files.add(name)
        if size != mapped_size or len(files) > 1:
            return None
        pieces.append((start, size, mapped))
    runs = _merged(pieces, in_file=True)
    below = layer.context.layers[files.pop()] if files else None
    if not isinstance(below, physical.FileLayer) or not isinstance(layer, segmented.SegmentedLayer):
        return None
    try:
        if isinstance(below, MemoryFileLayer):
            return PhysicalMemory(runs, below.memory_file), runs
        if has_suffix(below.location, GZIP_SUFFIX) or local_path(below.location) is None:
            return None
        return PhysicalMemory(runs, SESSION.file(below.location)), runs
    except MemoryFileError:
        return None


def machine_below(
    context: interfaces.context.ContextInterface, layer_name: str
) -> Optional[Machine]:
    """Returns the machine whose memory a layer is, or stands on, or None.

    Args:
        context: that has the layer.
        layer_name: of the layer.
    """
    names = [layer_name]
    while names:
        name = names.pop()
        if name not in context.layers:
            continue
        layer = context.layers[name]
        machine = machine_of(layer)
        if machine is not None:
            return machine
        names += layer.dependencies
    return None


class MachineRequirement(requirements.TranslationLayerRequirement):
    """A layer that is, or stands on, the memory of a machine."""

    def unsatisfied(
        self, context: interfaces.context.ContextInterface, config_path: str
    ) -> dict[str, interfaces.configuration.RequirementInterface]:
        """Validates that there is a machine."""
        missing = super().unsatisfied(context, config_path)
        if not missing:
            path = interfaces.configuration.path_join(config_path, self.name)
            if machine_below(context, str(context.config[path])) is None:
                missing = {path: self}
        return dict(missing)
