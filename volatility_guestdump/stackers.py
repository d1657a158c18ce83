"""Stackers: debug.guest or debug.vmem -> GuestDumpLayer -> the Linux kernel's Intel layer."""

import logging
from typing import Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.automagic import linux, symbol_cache
from volatility3.framework.layers import intel, physical

from volatility_guestdump.exceptions import GuestFileError, MemoryFileError, NotAGuestFile
from volatility_guestdump.layers import GuestDumpLayer, LinuxIntelLA57, open_guest_file
from volatility_guestdump.linux.kernel import LinuxKernel, kernel_of
from volatility_guestdump.paging import PagingMode
from volatility_guestdump.vmem import (
    MEMORY_SUFFIX,
    display_name,
    guest_location_of,
    is_readable,
    memory_locations,
)

vollog = logging.getLogger(__name__)

_LINUX_LAYERS: dict[PagingMode, type[intel.Intel]] = {
    PagingMode.LEGACY: intel.LinuxIntel,
    PagingMode.PAE: intel.LinuxIntelPAE,
    PagingMode.FOUR_LEVEL: intel.LinuxIntel32e,
    PagingMode.FIVE_LEVEL: LinuxIntelLA57,
}


class GuestDumpStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks a GuestDumpLayer on either file of a debug.guest + debug.vmem pair."""

    # Before Volatility's VmwareStacker (20), which warns of a .vmem without .vmss or .vmsn.
    stack_order = 15

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to identify a guest dump within this layer."""
        layer = context.layers[layer_name]
        if not isinstance(layer, physical.FileLayer):
            return None
        found = cls._find_pair(layer.location)
        if found is None:
            return None
        guest, memory = found
        new_name = context.layers.free_layer_name("GuestDumpLayer")
        path = interfaces.configuration.path_join("GuestDumpHelper", new_name)
        meta_layer = cls._file_layer(context, layer, guest, path, "meta_layer")
        base_layer = meta_layer
        if memory is not None:
            base_layer = cls._file_layer(context, layer, memory, path, "base_layer")
        context.config[interfaces.configuration.path_join(path, "meta_layer")] = meta_layer
        context.config[interfaces.configuration.path_join(path, "base_layer")] = base_layer
        dump = GuestDumpLayer(context, path, new_name)
        cls._report_memory(dump)
        return dump

    @staticmethod
    def _find_pair(location: str) -> Optional[tuple[str, Optional[str]]]:
        """Returns the URLs of debug.guest and, where it is readable, of the memory file."""
        try:
            open_guest_file(location)
        except NotAGuestFile as error:
            vollog.log(constants.LOGLEVEL_VVVV, f"No guest dump: {error}")
        except GuestFileError as error:
            vollog.warning(f"Not a usable guest dump: {error}")
            return None
        else:
            candidates = memory_locations(location)
            memory = next((place for place in candidates if is_readable(place)), None)
            return location, memory

        guest = guest_location_of(location)
        if guest is None or not is_readable(guest):
            return None
        stem = location[: -len(MEMORY_SUFFIX)]
        if is_readable(stem + ".vmss") or is_readable(stem + ".vmsn"):
            # A snapshot has its own description of memory, which VmwareStacker reads.
            return None
        try:
            open_guest_file(guest)
        except GuestFileError as error:
            vollog.warning(f"Not a usable guest dump: {error}")
            return None
        return guest, location

    @staticmethod
    def _file_layer(
        context: interfaces.context.ContextInterface,
        given: physical.FileLayer,
        location: str,
        path: str,
        requirement: str,
    ) -> str:
        """Returns the name of the layer of a file; the one that was given stands for its own."""
        if given.location == location:
            return given.name
        name: str = context.layers.free_layer_name("FileLayer")
        path = interfaces.configuration.path_join(path, requirement)
        context.config[interfaces.configuration.path_join(path, "location")] = location
        context.layers.add_layer(physical.FileLayer(context, path, name))
        return name

    @staticmethod
    def _report_memory(dump: GuestDumpLayer) -> None:
        guest = display_name(dump.guest_location)
        size = dump.guest.memory_size
        location = dump.memory_location
        missing = dump.missing_memory
        if location is None:
            expected = " or ".join(map(display_name, memory_locations(dump.guest_location)))
            vollog.warning(
                f"{expected}: no such file, or not readable. The memory that {guest} describes "
                f"({size} bytes) is expected beside it; only its registers can be shown"
            )
        elif missing > 0:
            vollog.warning(
                f"{display_name(location)}: {size - missing} bytes, but {guest} describes {size}: "
                f"the copy is incomplete. Memory from guest-physical address "
                f"{dump.first_missing_address:#x} on is missing"
            )
        elif missing < 0:
            vollog.warning(
                f"{display_name(location)}: {size - missing} bytes, but {guest} describes {size}: "
                f"the surplus is ignored"
            )


class GuestDumpLinuxStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks the Linux kernel's Intel layer on a GuestDumpLayer, from the vCPUs' registers."""

    # Before Volatility's stackers for Linux (34 and 35), which scan all of memory.
    stack_order = 33
    exclusion_list = ["mac", "windows"]

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to find the kernel that the vCPUs run."""
        layer = context.layers[layer_name]
        if not isinstance(layer, GuestDumpLayer):
            return None
        try:
            kernel = kernel_of(layer)
        except MemoryFileError as error:
            vollog.warning(f"Memory cannot be read: {error}")
            return None
        if kernel is None:
            vollog.debug("The vCPUs of the guest dump run no Linux kernel")
            return None
        join = interfaces.configuration.path_join
        new_name = context.layers.free_layer_name("IntelLayer")
        path = join("GuestDumpHelper", new_name)
        context.config[join(path, "memory_layer")] = layer_name
        context.config[join(path, "page_map_offset")] = kernel.page_map
        context.config[join(path, "kernel_virtual_offset")] = kernel.kaslr_shift
        context.config[join(path, linux.LinuxSymbolFinder.banner_config_key)] = str(
            cls._identifier(kernel), "latin-1"
        )
        return _LINUX_LAYERS[kernel.tables.mode](
            context, config_path=path, name=new_name, metadata={"os": "Linux"}
        )

    @staticmethod
    def _identifier(kernel: LinuxKernel) -> bytes:
        """Returns the banner in the form in which an installed ISF has it."""
        return installed_isf(kernel)[0]


def installed_isf(kernel: LinuxKernel) -> tuple[bytes, Optional[str]]:
    """Looks for an installed ISF of a kernel.

    Returns:
        The banner with the end that Volatility's list of ISFs has, or else as in memory; and the
        URL of the ISF, or None.
    """
    try:
        cache = symbol_cache.load_cache_manager()
    except ValueError:
        installed = {}
    else:
        installed = cache.get_identifier_dictionary(operating_system="linux")
    for banner, location in installed.items():
        if banner and banner.rstrip(b"\0\n") == kernel.banner:
            return banner, location
    return kernel.banner + b"\n\0", None
