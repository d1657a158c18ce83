# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The layer of ELF cores that QEMU wrote of a machine, and its stacker."""

import logging
from collections.abc import Hashable
from typing import Any, Optional

from volatility3.framework import constants, exceptions, interfaces
from volatility3.framework.layers import physical

from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.files.location import display_name, file_state
from volatility_guestdump.files.memory_file import MemoryStream, open_memory_file
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework import stacking
from volatility_guestdump.framework.layers import FileMachineLayer, kept_machine, opened_source
from volatility_guestdump.framework.reasons import warn_of_file
from volatility_guestdump.kept import Kept
from volatility_guestdump.machine import Machine, Origin
from volatility_guestdump.sources.qemu_elf import MAGIC, QemuElf

vollog = logging.getLogger(__name__)

#: Two, for whoever compares two guests.
_cores: Kept[QemuElf] = Kept(2)


class QemuElfFormatException(exceptions.LayerException):
    """Thrown when the ELF core behind a layer is not one that QEMU wrote of a machine."""


def open_core(location: str) -> QemuElf:
    """Reads and validates an ELF core; one that did not change since is not read again.

    Args:
        location: URL of the file.

    Raises:
        UnrecognizedSource: the file is no ELF core of a PC that QEMU wrote.
        SourceError: the file is damaged, not supported or cannot be read.
    """
    return _cores.get((location, file_state(location)), lambda: _read_core(location))


def _read_core(location: str) -> QemuElf:
    with opened_source(location, [MAGIC], "no ELF file") as file:
        stream: Any = MemoryStream(file)
        return QemuElf.parse(stream, display_name(location))


def open_machine(location: str) -> Machine:
    """Returns the machine that an ELF core is of.

    Raises:
        SourceError: the core is not valid.
        MemoryFileError: the file cannot be opened.
    """

    def make(identity: Hashable) -> Machine:
        core = open_core(location)
        memory = PhysicalMemory(core.ranges, open_memory_file(location))
        size = sum(run.size for run in memory.ranges)
        origin = Origin("QEMU ELF dump", location, core.ranges, location, size)
        return Machine(memory, core.vcpus, identity, origin, core.vmcoreinfo)

    return kept_machine([location], make)


class QemuElfLayer(FileMachineLayer):
    """The guest-physical memory of an ELF core that QEMU wrote."""

    format_exception = QemuElfFormatException

    def _make_machine(self) -> Machine:
        return open_machine(self.file_location)


class QemuElfStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks a QemuElfLayer on an ELF core; what is not QEMU's is left to Elf64Stacker."""

    stack_order = stacking.Order.QEMU_ELF

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to identify an ELF core of QEMU within this layer."""
        layer = context.layers[layer_name]
        if type(layer) is not physical.FileLayer:
            return None
        location = layer.location
        try:
            core = open_core(location)
        except UnrecognizedSource as error:
            vollog.log(constants.LOGLEVEL_VV, f"No ELF core of QEMU: {error}")
            return None
        except SourceError as error:
            warn_of_file("Not a usable ELF core of QEMU", error)
            return None
        stacking.read_through_memory_file(layer, location)
        new_layer = stacking.layer_of_file(context, QemuElfLayer, location)
        stacking.report(new_layer.machine, core.oddities)
        return new_layer
