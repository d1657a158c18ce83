# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Stackers of systems: from the layer of any machine to that of its kernel.

Those of formats, from a file to the layer of its machine, are in `formats`.
"""

import logging
from typing import Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.automagic import linux, windows
from volatility3.framework.layers import intel

from volatility_guestdump import kernels
from volatility_guestdump.dumps import checks
from volatility_guestdump.framework import reasons
from volatility_guestdump.framework.installed import linux_isf
from volatility_guestdump.framework.intel import (
    GuestDumpIntel,
    GuestDumpIntel32e,
    GuestDumpIntelLA57,
    GuestDumpIntelPAE,
)
from volatility_guestdump.framework.layers import GuestDumpLayer
from volatility_guestdump.framework.machines import machine_of
from volatility_guestdump.framework.stacking import Order
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.machine import Machine
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.x86.paging import PagingMode

vollog = logging.getLogger(__name__)

_LINUX_LAYERS: dict[PagingMode, type[intel.Intel]] = {
    PagingMode.LEGACY: GuestDumpIntel,
    PagingMode.PAE: GuestDumpIntelPAE,
    PagingMode.FOUR_LEVEL: GuestDumpIntel32e,
    PagingMode.FIVE_LEVEL: GuestDumpIntelLA57,
}


class GuestDumpWindowsStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks Volatility's Intel layer for Windows on a machine's memory, from the registers."""

    stack_order = Order.WINDOWS
    exclusion_list = ["mac", "linux"]

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[interfaces.layers.DataLayerInterface]:
        """Attempts to find the kernel that the vCPUs run, and leaves the rest to Volatility."""
        layer = context.layers[layer_name]
        if not isinstance(layer, GuestDumpLayer):
            return None
        kernel = kernels.windows_kernel(layer.machine)
        if kernel is None:
            return None
        if kernel.tables.mode is PagingMode.FIVE_LEVEL:
            # GuestDumpSystemStacker says why.
            return None
        layer.describe_system(
            {
                "os": "Windows",
                "architecture": "Intel64" if kernel.bits == 64 else "Intel32",
                "pae": kernel.tables.mode is PagingMode.PAE,
                "page_map_offset": kernel.page_map,
            }
        )
        return windows.WindowsIntelStacker.stack(context, layer_name, progress_callback)


class GuestDumpLinuxStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks the Linux kernel's Intel layer on a machine's memory, from registers or low memory."""

    stack_order = Order.LINUX
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
        machine = machine_of(layer)
        if machine is not None and not isinstance(layer, GuestDumpLayer):
            cls._report(machine)
        kernel = None if machine is None else cls._find(machine, progress_callback)
        if kernel is None:
            return None
        join = interfaces.configuration.path_join
        new_name = context.layers.free_layer_name("IntelLayer")
        path = join("GuestDumpHelper", new_name)
        context.config[join(path, "memory_layer")] = layer_name
        context.config[join(path, "page_map_offset")] = kernel.page_map
        context.config[join(path, "kernel_virtual_offset")] = kernel.symbol_shift
        context.config[join(path, linux.LinuxSymbolFinder.banner_config_key)] = str(
            linux_isf(kernel)[0], "latin-1"
        )
        return _LINUX_LAYERS[kernel.tables.mode](
            context, config_path=path, name=new_name, metadata={"os": "Linux"}
        )

    @classmethod
    def _find(cls, machine: Machine, progress: constants.ProgressCallback) -> Optional[LinuxKernel]:
        return kernels.linux_kernel(machine)

    @classmethod
    def _report(cls, machine: Machine) -> None:
        """Says of a layer of Volatility's own what our stackers say of theirs."""
        for remark in checks.remarks(machine):
            vollog.warning(remark)


class GuestDumpSearchStacker(GuestDumpLinuxStacker):
    """Stacks the same layer after a search of all memory."""

    stack_order = Order.LINUX_SEARCH

    @classmethod
    def _find(cls, machine: Machine, progress: constants.ProgressCallback) -> Optional[LinuxKernel]:
        found = kernels.search_linux(machine, progress)
        # Of another system's kernel GuestDumpSystemStacker has spoken.
        if kernels.kernel(machine) is None and machine.origin.memory_location is not None:
            reasons.no_linux_kernel(machine.origin.memory_location)
        return found

    @classmethod
    def _report(cls, machine: Machine) -> None:
        """Says nothing: it was said before the search."""


class GuestDumpSystemStacker(interfaces.automagic.StackerLayerInterface):
    """Stacks nothing: says what runs in the guest when the plugin is one for another system."""

    stack_order = Order.OTHER_SYSTEM
    # Our own plugins serve every system.
    exclusion_list = ["guestdump"]

    @classmethod
    def stack(
        cls,
        context: interfaces.context.ContextInterface,
        layer_name: str,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Warns when the kernel is known, but was not looked for."""
        machine = machine_of(context.layers[layer_name])
        found = None if machine is None else kernels.kernel(machine)
        if found is None:
            return
        advice = "only plugins for that system can be used"
        if isinstance(found, WindowsKernel) and found.tables.mode is PagingMode.FIVE_LEVEL:
            advice = (
                "Volatility has no layer for Windows with 5-level page tables; guestdump.Info and "
                "guestdump.Registers work"
            )
        vollog.warning(f"This guest runs {found.system}: {advice}")
