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
from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import (
    MemoryFileError,
    SourceError,
    UnrecognizedSource,
)
from volatility_guestdump.files.location import (
    GZIP_SUFFIX,
    MEMORY_SUFFIX,
    display_name,
    file_state,
    has_suffix,
    local_path,
    without_gzip,
)
from volatility_guestdump.files.memory_file import Content, MemoryStream, open_memory_file
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework import reasons, stacking
from volatility_guestdump.framework.layers import (
    FileMachineLayer,
    MemoryFileLayer,
    kept_machine,
    opened_source,
)
from volatility_guestdump.kept import Kept
from volatility_guestdump.linux.finding import vmcoreinfo
from volatility_guestdump.linux.finding.find import IMAGE_STEPS, maps_an_image, search_kernel
from volatility_guestdump.linux.finding.low_memory import last_entries, low_memory_tables
from volatility_guestdump.linux.finding.search import Traces, search
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.state import memory_map
from volatility_guestdump.machine import Machine, MemoryRange, Origin
from volatility_guestdump.sources import avml, lime, raw
from volatility_guestdump.x86.paging import PageTables

vollog = logging.getLogger(__name__)

#: How far the end of RAM that the firmware reports may be from the hole: it keeps some for itself.
_FIRMWARE_LIMIT = 64 << 20
#: Holes with which page tables make sense, and are followed in vain, before a search ends.
_ATTEMPTS = 8


class ImageFormatException(exceptions.LayerException):
    """Thrown when the image behind a layer is not valid."""


def _machine(
    kind: str,
    location: str,
    ranges: Sequence[MemoryRange],
    file: Content,
    identity: Hashable,
    damage: str = "",
) -> Machine:
    memory = PhysicalMemory(ranges, file)
    size = sum(run.size for run in memory.ranges)
    origin = Origin(kind, location, ranges, location, size, damage=damage)
    return Machine(memory, (), identity, origin)


def open_lime(location: str) -> Machine:
    """Returns the machine whose memory is in a LiME file.

    Raises:
        UnrecognizedSource: the file is not in this format.
        SourceError: it is damaged or cannot be read.
        MemoryFileError: it cannot be opened.
    """

    def make(identity: Hashable) -> Machine:
        with opened_source(location, [lime.MAGIC], "not in LiME's format") as file:
            stream: Any = MemoryStream(file)
            ranges, damage = lime.parse(stream, file.size, display_name(location))
        return _machine("LiME", location, ranges, file, identity, damage)

    return kept_machine([location], make, "LiME")


def open_avml(location: str) -> Machine:
    """Returns the machine whose memory is in a file of AVML; raises the same as `open_lime`."""

    def make(identity: Hashable) -> Machine:
        file = open_avml_file(location)
        return _machine("AVML", location, file.ranges, file, identity, file.damage)

    return kept_machine([location], make, "AVML")


def open_avml_file(location: str) -> avml.AvmlFile:
    """Returns the memory in a file of AVML, opened now or before."""
    # By process as in `open_memory_file`, which is below it.
    key = (location, os.getpid(), file_state(location))
    return _avml_files.get(key, lambda: _open_avml_file(location))


def _open_avml_file(location: str) -> avml.AvmlFile:
    with opened_source(location, [avml.MAGIC], "not in AVML's format") as file:
        return avml.AvmlFile(file, display_name(location))


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
    budget, attempts = Budget(2 * IMAGE_STEPS), 0
    for hole in raw.possible_holes(file.size):
        memory = PhysicalMemory(raw.with_hole(file.size, hole), file)
        if any(maps_an_image(tables, budget) for tables in low_memory_tables(memory)):
            kernel = kernels.linux_kernel(open_raw(location, hole))
            if kernel is not None:
                return _checked_hole(location, kernel, hole, file)
            attempts += 1
        if budget.is_spent or attempts >= _ATTEMPTS:
            break
    return None


def hole_by_search(location: str, progress: constants.ProgressCallback) -> Optional[int]:
    """Returns the same after a search of all memory."""
    file = open_memory_file(location)
    traces = search(PhysicalMemory(raw.with_hole(file.size, 0), file), progress)
    attempts = 0
    for hole in raw.possible_holes(file.size):
        ranges = raw.with_hole(file.size, hole)
        distance = ranges[-1].start - ranges[-1].file_offset
        moved = Traces(
            *(
                [each + (distance if hole and each >= hole else 0) for each in found]
                for found in (traces.vmcoreinfo, traces.banners)
            )
        )
        memory = PhysicalMemory(ranges, file)
        if hole not in raw.USUAL_HOLES:
            # To decode kallsyms for each would take too long.
            moved.banners.clear()
            named = (vmcoreinfo.read_at(memory, each) for each in moved.vmcoreinfo)
            if not any(any(vmcoreinfo.vmcoreinfo_tables(memory, info)) for info in named):
                continue
        kernel = search_kernel(memory, traces=moved)
        if kernel is not None:
            start = _checked_hole(location, kernel, hole, file)
            if start == hole:
                kernels.remember(open_raw(location, start), kernel)
            return start
        attempts += 1
        if attempts >= _ATTEMPTS:
            break
    return None


def _checked_hole(location: str, kernel: LinuxKernel, hole: int, file: Content) -> int:
    """Returns where the hole starts by the kernel's own memory map, where it fits the file.

    Args:
        location: URL of the file.
        kernel: that was found with a hole at `hole`, which only has to be behind its image.
        hole: where it starts, 0 for none.
        file: the raw file.
    """
    told_by = "page tables"
    ends = memory_map.end_of_memory(kernel)
    if ends is None and kernel.address("e820_table") is not None:
        # What the kernel has allocated may lie behind the hole, and only make sense with it.
        for other in raw.possible_holes(file.size):
            memory = PhysicalMemory(raw.with_hole(file.size, other), file)
            tables = PageTables(memory.read, kernel.tables.mode, kernel.tables.root)
            ends = memory_map.end_of_memory(
                LinuxKernel(tables, kernel.runs, kernel.banner, kernel.kallsyms)
            )
            if ends is not None:
                hole = other
                break
    if ends is not None:
        low, end = ends
        start = file.size - (end - (4 << 30))
        if end > 4 << 30 and end > file.size and low <= start < low + _FIRMWARE_LIMIT:
            hole = start
            told_by = "memory map"
    if hole:
        # A warning: whoever knows better should see it.
        vollog.warning(
            f"{display_name(location)}: by the guest's {told_by} its memory has a hole at "
            f"{hole:#x}-0xffffffff that the file has not; what the file has from {hole:#x} on is "
            f"taken for memory from 0x100000000 on"
        )
    return hole


class LimeMemoryLayer(FileMachineLayer):
    """The guest-physical memory in a LiME file."""

    format_exception = ImageFormatException

    def _make_machine(self) -> Machine:
        return open_lime(self.file_location)


class AvmlFileLayer(MemoryFileLayer):
    """What is in a file of AVML, decompressed."""

    @property
    def memory_file(self) -> Content:
        """The content, for those who need no layer."""
        return open_avml_file(str(self.config["location"]))


class AvmlMemoryLayer(FileMachineLayer):
    """The guest-physical memory in a file of AVML."""

    format_exception = ImageFormatException
    file_layer = AvmlFileLayer

    def _make_machine(self) -> Machine:
        return open_avml(self.file_location)


class RawMemoryLayer(FileMachineLayer):
    """The guest-physical memory in a raw file, with a hole put back where it has one."""

    format_exception = ImageFormatException

    def _make_machine(self) -> Machine:
        return open_raw(self.file_location, int(str(self.config.get("hole", None) or 0)))

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
    stack_order = stacking.Order.IMAGE
    #: A layer of a file that it stacks on too, besides Volatility's.
    file_layer: type[physical.FileLayer] = physical.FileLayer

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to identify an image within this layer."""
        layer = context.layers[layer_name]
        if type(layer) not in (physical.FileLayer, cls.file_layer):
            return None
        location = str(layer.config["location"])
        try:
            return cls._stack(context, location, progress_callback)
        except UnrecognizedSource as error:
            vollog.log(constants.LOGLEVEL_VV, f"Not an image for {cls.__name__}: {error}")
        except (SourceError, MemoryFileError) as error:
            reasons.warn_of_file("Not a usable memory image", error)
        return None

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        layers: tuple[tuple[Callable[[str], Machine], type[FileMachineLayer]], ...] = (
            (open_lime, LimeMemoryLayer),
            (open_avml, AvmlMemoryLayer),
        )
        for open_machine, layer_class in layers:
            with contextlib.suppress(UnrecognizedSource):
                machine = open_machine(location)
                stacking.report(machine)
                return stacking.layer_of_file(context, layer_class, location)
        return None


class CompressedFileStacker(ImageStacker):
    """Stacks a layer with random access on that of a compressed file, for others to stack on.

    Volatility would decompress it from its start again and again.
    """

    stack_order = stacking.Order.COMPRESSED

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        if not has_suffix(location, GZIP_SUFFIX) or not local_path(location):
            return None
        open_memory_file(location, progress=progress)
        name = context.layers.free_layer_name(MemoryFileLayer.__name__)
        path = stacking.join("GuestDumpHelper", name)
        context.config[stacking.join(path, "location")] = location
        return MemoryFileLayer(context, path, name)


class RawMemoryStacker(ImageStacker):
    """Stacks a RawMemoryLayer on a file whose low memory leads to a Linux kernel."""

    stack_order = stacking.Order.RAW
    file_layer = MemoryFileLayer

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        hole = hole_by_low_memory(location)
        if hole is None:
            return None
        return stacking.layer_of_file(context, RawMemoryLayer, location, hole=hole)


class VmemStacker(RawMemoryStacker):
    """Does the same for a .vmem that is alone, before Volatility warns that it is."""

    stack_order = stacking.Order.LONE_VMEM

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        is_vmem = has_suffix(without_gzip(location), MEMORY_SUFFIX)
        if not is_vmem or stacking.is_left_to_vmware_stacker(location):
            return None
        return super()._stack(context, location, progress)


class RawSearchStacker(ImageStacker):
    """Stacks a RawMemoryLayer on a file in which a search finds a Linux kernel."""

    stack_order = stacking.Order.RAW_SEARCH
    file_layer = MemoryFileLayer

    @classmethod
    def _stack(
        cls,
        context: interfaces.context.ContextInterface,
        location: str,
        progress: constants.ProgressCallback,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        hole = hole_by_search(location, progress)
        if hole is None:
            reasons.no_linux_kernel(location)
            return None
        return stacking.layer_of_file(context, RawMemoryLayer, location, hole=hole)
