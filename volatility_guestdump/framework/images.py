# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Layers of images that have memory and no registers: raw, LiME, AVML, and their stackers."""

import contextlib
import logging
import os
from collections.abc import Hashable, Sequence
from typing import Any, Callable, Optional

from volatility3.framework import constants, exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical

from volatility_guestdump import kernels
from volatility_guestdump.exceptions import (
    AddressError,
    MemoryFileError,
    SourceError,
    UnrecognizedSource,
)
from volatility_guestdump.files.location import (
    GZIP_SUFFIX,
    MEMORY_SUFFIX,
    STREAM_ERRORS,
    display_name,
    file_state,
    has_suffix,
    is_readable,
    local_path,
    open_location,
    without_gzip,
)
from volatility_guestdump.files.memory_file import Content, MemoryStream, open_memory_file
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework.layers import MachineLayer, MemoryFileLayer, kept_machine
from volatility_guestdump.kept import Kept
from volatility_guestdump.linux import memory_map
from volatility_guestdump.linux.find import maps_an_image, search_kernel
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.low_memory import last_entries, low_memory_tables
from volatility_guestdump.linux.search import Traces, search
from volatility_guestdump.machine import Machine, MemoryRange, Origin
from volatility_guestdump.sources import avml, lime, raw

vollog = logging.getLogger(__name__)

join = interfaces.configuration.path_join

#: How far the end of RAM that the firmware reports may be from the hole: it keeps some for itself.
_FIRMWARE_LIMIT = 64 << 20


class ImageFormatException(exceptions.LayerException):
    """Thrown when the image behind a layer is not valid."""


def _machine(
    kind: str, location: str, ranges: Sequence[MemoryRange], file: Content, identity: Hashable
) -> Machine:
    memory = PhysicalMemory(ranges, file)
    size = sum(run.size for run in memory.ranges)
    return Machine(memory, (), identity, Origin(kind, location, ranges, location, size))


def open_lime(location: str) -> Machine:
    """Returns the machine whose memory is in a LiME file.

    Raises:
        UnrecognizedSource: the file is not in this format.
        SourceError: it is damaged or cannot be read.
        MemoryFileError: it cannot be opened.
    """

    def make(identity: Hashable) -> Machine:
        name = display_name(location)
        try:
            # Before a compressed file is indexed, which takes long, for it may be any.
            with open_location(location) as stream:
                if stream.read(len(lime.MAGIC)) != lime.MAGIC:
                    raise UnrecognizedSource(f"{name} is not in LiME's format")
            file = open_memory_file(location)
            memory_stream: Any = MemoryStream(file)
            ranges = lime.parse(memory_stream, file.size, name)
        except (*STREAM_ERRORS, AddressError) as error:
            raise SourceError(f"{name}: {error}") from error
        return _machine("LiME", location, ranges, file, identity)

    return kept_machine([location], make, "LiME")


def open_avml(location: str) -> Machine:
    """Returns the machine whose memory is in a file of AVML; raises the same as `open_lime`."""

    def make(identity: Hashable) -> Machine:
        file = open_avml_file(location)
        return _machine("AVML", location, file.ranges, file, identity)

    return kept_machine([location], make, "AVML")


def open_avml_file(location: str) -> avml.AvmlFile:
    """Returns the memory in a file of AVML, opened now or before."""
    key = (location, os.getpid(), file_state(location))
    return _avml_files.get(key, lambda: _open_avml_file(location))


def _open_avml_file(location: str) -> avml.AvmlFile:
    name = display_name(location)
    try:
        with open_location(location) as stream:
            if stream.read(len(avml.MAGIC)) != avml.MAGIC:
                raise UnrecognizedSource(f"{name} is not in AVML's format")
        return avml.AvmlFile(open_memory_file(location), name)
    except (*STREAM_ERRORS, AddressError) as error:
        raise SourceError(f"{name}: {error}") from error


#: Two, for whoever compares two guests.
_avml_files: Kept[avml.AvmlFile] = Kept(2)


def open_raw(location: str, hole: int) -> Machine:
    """Returns the machine whose memory is in a raw file.

    Args:
        location: URL of the file.
        hole: guest-physical address at which a hole up to 4 GiB was squeezed out; 0 for none.

    Raises:
        MemoryFileError: the file cannot be opened.
    """

    def make(identity: Hashable) -> Machine:
        file = open_memory_file(location)
        kind = "raw memory, the hole below 4 GiB squeezed out" if hole else "raw memory"
        return _machine(kind, location, raw.with_hole(file.size, hole), file, identity)

    return kept_machine([location], make, f"raw {hole:#x}")


def hole_by_low_memory(location: str) -> Optional[int]:
    """Returns where a raw file's hole starts, 0 for none, or None when it shows no Linux kernel."""
    file = open_memory_file(location)
    flat = PhysicalMemory(raw.with_hole(file.size, 0), file)
    if next(last_entries(flat), None) is None:
        return None
    for hole in raw.possible_holes(file.size):
        memory = PhysicalMemory(raw.with_hole(file.size, hole), file)
        if any(map(maps_an_image, low_memory_tables(memory))):
            kernel = kernels.linux_kernel(open_raw(location, hole))
            if kernel is not None:
                return _checked_hole(location, kernel, hole, file.size)
    return None


def hole_by_search(location: str, progress: constants.ProgressCallback) -> Optional[int]:
    """Returns the same after a search of all memory."""
    file = open_memory_file(location)
    traces = search(PhysicalMemory(raw.with_hole(file.size, 0), file), progress)
    for hole in raw.possible_holes(file.size):
        ranges = raw.with_hole(file.size, hole)
        distance = ranges[-1].start - ranges[-1].file_offset
        moved = Traces(
            *(
                [each + (distance if hole and each >= hole else 0) for each in found]
                for found in (traces.vmcoreinfo, traces.banners)
            )
        )
        if hole not in (0, 3 << 30):
            # To decode kallsyms for each would take too long.
            moved.banners.clear()
        kernel = search_kernel(PhysicalMemory(ranges, file), traces=moved)
        if kernel is not None:
            start = _checked_hole(location, kernel, hole, file.size)
            kernels.remember(open_raw(location, start), kernel)
            return start
    return None


def _checked_hole(location: str, kernel: LinuxKernel, hole: int, size: int) -> int:
    """Returns where the hole starts by the kernel's own memory map, where it fits the file."""
    ends = memory_map.end_of_memory(kernel)
    if ends is not None:
        low, end = ends
        start = size - (end - (4 << 30))
        if end > 4 << 30 and end > size and low <= start < low + _FIRMWARE_LIMIT:
            hole = start
    if hole:
        vollog.info(
            f"{display_name(location)}: the guest's page tables or memory map tell that its "
            f"memory has a hole at {hole:#x}-0xffffffff, which the file has not"
        )
    return hole


class _ImageLayer(MachineLayer):
    """A machine that one file makes.

    Attributes:
        file_layer: class of the layer of that file.
    """

    file_layer: type[MemoryFileLayer] = MemoryFileLayer

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        metadata: Optional[dict[str, Any]] = None,
    ) -> None:
        try:
            super().__init__(context, config_path, name, metadata)
        except SourceError as error:
            raise ImageFormatException(name, str(error)) from error

    @property
    def _location(self) -> str:
        return str(self.context.layers[str(self._base_layer)].config["location"])

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the layer of the file."""
        return [requirements.TranslationLayerRequirement(name="base_layer", optional=False)]


class LimeMemoryLayer(_ImageLayer):
    """The guest-physical memory in a LiME file."""

    def _make_machine(self) -> Machine:
        return open_lime(self._location)


class AvmlFileLayer(MemoryFileLayer):
    """What is in a file of AVML, decompressed."""

    @property
    def memory_file(self) -> Content:
        """The content, for those who need no layer."""
        return open_avml_file(str(self.config["location"]))


class AvmlMemoryLayer(_ImageLayer):
    """The guest-physical memory in a file of AVML."""

    file_layer = AvmlFileLayer

    def _make_machine(self) -> Machine:
        return open_avml(self._location)


class RawMemoryLayer(_ImageLayer):
    """The guest-physical memory in a raw file, with a hole put back where it has one."""

    def _make_machine(self) -> Machine:
        return open_raw(self._location, int(str(self.config.get("hole", None) or 0)))

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the layer of the file, and where the hole starts."""
        return [
            *super().get_requirements(),
            requirements.IntRequirement(
                name="hole",
                description="Guest-physical address at which a hole up to 4 GiB was squeezed out",
                optional=True,
                default=0,
            ),
        ]


class ImageStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks the layer of an image without registers on the layer of its file."""

    # Plugins for others are left to Volatility's own stackers.
    exclusion_list = ["mac", "windows"]
    # Before Volatility's (from 10), and behind those of formats with registers.
    stack_order = 8

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to identify an image within this layer."""
        layer = context.layers[layer_name]
        if type(layer) is not physical.FileLayer:
            return None
        location = layer.location
        try:
            if has_suffix(location, GZIP_SUFFIX) and local_path(location):
                # Random access to what Volatility would decompress to know its size.
                stream: Any = MemoryStream(open_memory_file(location, progress=progress_callback))
                layer._file_ = stream
            return cls._stack(context, location, progress_callback)
        except UnrecognizedSource as error:
            vollog.log(constants.LOGLEVEL_VV, f"Not an image for {cls.__name__}: {error}")
        except (SourceError, MemoryFileError) as error:
            vollog.warning(f"Not a usable memory image: {error}")
        return None

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        layers: tuple[tuple[Callable[[str], Machine], type[_ImageLayer]], ...] = (
            (open_lime, LimeMemoryLayer),
            (open_avml, AvmlMemoryLayer),
        )
        for open_machine, layer_class in layers:
            with contextlib.suppress(UnrecognizedSource):
                open_machine(location)
                return _new_layer(context, layer_class, location)
        return None


def _new_layer(
    context: interfaces.context.ContextInterface,
    layer_class: type[_ImageLayer],
    location: str,
    hole: int = 0,
) -> interfaces.layers.DataLayerInterface:
    name = context.layers.free_layer_name(layer_class.__name__)
    path = join("GuestDumpHelper", name)
    base = context.layers.free_layer_name("FileLayer")
    context.config[join(path, "base_layer", "location")] = location
    context.layers.add_layer(layer_class.file_layer(context, join(path, "base_layer"), base))
    context.config[join(path, "base_layer")] = base
    if hole:
        context.config[join(path, "hole")] = hole
    return layer_class(context, path, name)


class RawMemoryStacker(ImageStacker):
    """Stacks a RawMemoryLayer on a file whose low memory leads to a Linux kernel."""

    # Behind the stackers of all formats.
    stack_order = 25

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        hole = hole_by_low_memory(location)
        return None if hole is None else _new_layer(context, RawMemoryLayer, location, hole)


class VmemStacker(RawMemoryStacker):
    """Does the same for a .vmem that is alone, before Volatility warns that it is."""

    stack_order = 9

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        plain = without_gzip(location)
        if not has_suffix(plain, MEMORY_SUFFIX):
            return None
        stem = plain[: -len(MEMORY_SUFFIX)]
        if is_readable(f"{stem}.vmss") or is_readable(f"{stem}.vmsn"):
            return None
        return super()._stack(context, location, progress)


class RawSearchStacker(ImageStacker):
    """Stacks a RawMemoryLayer on a file in which a search finds a Linux kernel."""

    # Behind Volatility's stackers for Linux (34 and 35).
    stack_order = 36

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        hole = hole_by_search(location, progress)
        return None if hole is None else _new_layer(context, RawMemoryLayer, location, hole)
