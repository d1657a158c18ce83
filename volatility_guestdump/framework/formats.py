# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Stackers of formats: from the file that a user names to the layer of the machine in it.

They ask the formats of `dumps.table`, in the stages that their order stands for.
"""

import logging
from collections.abc import Sequence
from typing import Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.layers import physical

from volatility_guestdump.dumps import format as dump_format
from volatility_guestdump.dumps import table, unsupported
from volatility_guestdump.dumps.format import Stage
from volatility_guestdump.exceptions import MemoryFileError
from volatility_guestdump.files.companions import has_state_file
from volatility_guestdump.files.location import (
    GZIP_SUFFIX,
    MEMORY_SUFFIX,
    has_suffix,
    local_path,
    without_gzip,
)
from volatility_guestdump.framework import reasons, stacking
from volatility_guestdump.framework.layers import SESSION, MemoryFileLayer

vollog = logging.getLogger(__name__)


class FormatStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks the layer of a machine on the layer of its file, in the formats of one stage.

    Attributes:
        stage: of the formats.
        file_layers: classes of the layers that it stacks on.
    """

    stage: Stage
    file_layers: Sequence[type[physical.FileLayer]] = (physical.FileLayer,)

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to identify a machine within this layer."""
        layer = context.layers[layer_name]
        if type(layer) not in cls.file_layers:
            return None
        location = str(layer.config["location"])
        if not cls._concerns(location):
            return None
        request = stacking.request_for(context, location, progress_callback)
        for each in table.of_stage(cls.stage):
            parts = dump_format.find(each, request)
            if parts is None:
                continue
            if type(layer) is physical.FileLayer:
                stacking.read_through_file_of(layer, parts, progress_callback)
            new_layer = stacking.layer_of(context, parts)
            for remark in new_layer.format.remarks(parts, new_layer.machine, SESSION):
                vollog.warning(remark)
            return new_layer
        return None

    @classmethod
    def _concerns(cls, location: str) -> bool:
        """Whether a file is one that the stacker looks at."""
        return True


class GuestDumpStacker(FormatStacker):
    """Stacks the layer of a machine that a file describes with its registers."""

    stage = Stage.DESCRIBED
    stack_order = stacking.Order.DESCRIBED


class UnsupportedFormatStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks nothing: says what a file is that cannot be read, and how to get one that can."""

    stack_order = stacking.Order.UNSUPPORTED

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Warns of a file in a format that is known, but not read."""
        layer = context.layers[layer_name]
        if type(layer) is physical.FileLayer:
            known = unsupported.what_it_is(layer.location)
            if known is not None:
                vollog.warning(known)


class MemoryStacker(FormatStacker):
    """Stacks the layer of a file with memory and no registers."""

    # Plugins for others are left to Volatility's own stackers.
    exclusion_list = ["mac", "windows"]
    stage = Stage.MEMORY
    stack_order = stacking.Order.MEMORY


class CompressedFileStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks a layer with random access on that of a compressed file, for others to stack on.

    Volatility would decompress it from its start again and again.
    """

    exclusion_list = MemoryStacker.exclusion_list
    stack_order = stacking.Order.COMPRESSED

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to open a compressed file."""
        layer = context.layers[layer_name]
        if type(layer) is not physical.FileLayer:
            return None
        location = layer.location
        if not has_suffix(location, GZIP_SUFFIX) or not local_path(location):
            return None
        request = stacking.request_for(context, location, progress_callback)
        try:
            SESSION.file(location, None, progress_callback)
        except MemoryFileError as error:
            request.said.warn_of_file("memory image", error)
            return None
        name = context.layers.free_layer_name(MemoryFileLayer.__name__)
        path = stacking.join("GuestDumpHelper", name)
        context.config[stacking.join(path, "location")] = location
        return MemoryFileLayer(context, path, name)


class RawMemoryStacker(FormatStacker):
    """Stacks the layer of a file whose low memory leads to a Linux kernel."""

    exclusion_list = MemoryStacker.exclusion_list
    stage = Stage.RAW
    stack_order = stacking.Order.RAW
    file_layers = (physical.FileLayer, MemoryFileLayer)


class VmemStacker(RawMemoryStacker):
    """Does the same for a .vmem that is alone, before Volatility warns that it is."""

    stack_order = stacking.Order.LONE_VMEM
    file_layers = (physical.FileLayer, MemoryFileLayer)

    @classmethod
    def _concerns(cls, location: str) -> bool:
        # A .vmem whose state file could not be read here is left to VmwareStacker.
        return has_suffix(without_gzip(location), MEMORY_SUFFIX) and not has_state_file(location)


class RawSearchStacker(RawMemoryStacker):
    """Stacks the layer of a file in which a search finds a Linux kernel."""

    stage = Stage.SEARCHED
    stack_order = stacking.Order.RAW_SEARCH

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to find a kernel in the file."""
        found = super().stack(context, layer_name, progress_callback)
        layer = context.layers[layer_name]
        if found is None and type(layer) in cls.file_layers:
            reasons.no_linux_kernel(str(layer.config["location"]))
        return found


#: The stackers of files that are not asked where a plugin is for another system than Linux.
FOR_LINUX: tuple[type[interfaces.automagic.StackerLayerInterface], ...] = (
    MemoryStacker,
    CompressedFileStacker,
    RawMemoryStacker,
)
