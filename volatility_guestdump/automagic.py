"""Automagic: symbols from the dump, and no scans for the plugins of this package."""

import logging
from collections.abc import Iterator
from typing import Any, Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.configuration import requirements

from volatility_guestdump.exceptions import GuestDumpError
from volatility_guestdump.guest import linux_kernel, windows_kernel
from volatility_guestdump.layers import GuestDumpLayer
from volatility_guestdump.linux.symbols import LinuxGuestDumpSymbols
from volatility_guestdump.stackers import (
    MEMORY_OPTION,
    GuestDumpLinuxStacker,
    GuestDumpStacker,
)
from volatility_guestdump.windows.symbols import load as load_symbols

vollog = logging.getLogger(__name__)

join = interfaces.configuration.path_join


class GuestDumpRequirement(requirements.TranslationLayerRequirement):
    """A layer that is, or stands on, a GuestDumpLayer."""

    def unsatisfied(
        self, context: interfaces.context.ContextInterface, config_path: str
    ) -> dict[str, interfaces.configuration.RequirementInterface]:
        """Validates that the layer is one of a guest dump."""
        missing = super().unsatisfied(context, config_path)
        if not missing:
            path = join(config_path, self.name)
            if guest_dump_below(context, str(context.config[path])) is None:
                missing = {path: self}
        return dict(missing)


def guest_dump_below(
    context: interfaces.context.ContextInterface, layer_name: str
) -> Optional[GuestDumpLayer]:
    """Returns the GuestDumpLayer that a layer is or stands on, or None."""
    names = [layer_name]
    while names:
        layer = context.layers[names.pop()]
        if isinstance(layer, GuestDumpLayer):
            return layer
        names += layer.dependencies
    return None


class GuestDumpStackers(interfaces.automagic.AutomagicInterface):
    """Leaves only the stackers for guest dumps to plugins that need a guest dump.

    The others would scan all of memory for other operating systems. It also takes the option that
    names a memory file, for the stacker to find.
    """

    # Before LayerStacker (10).
    priority = 5

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Runs the automagic over the configurable."""
        if self.find_requirements(context, config_path, requirement, GuestDumpRequirement):
            path = join(constants.AUTOMAGIC_CONFIG_PATH, "LayerStacker", "stackers")
            context.config[path] = [GuestDumpStacker.__name__, GuestDumpLinuxStacker.__name__]

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the option that names a memory file, --guest-memory."""
        return [
            # Not a URIRequirement: of a file that is not there vol would only show a traceback.
            requirements.StringRequirement(
                name=MEMORY_OPTION.rpartition(".")[2],
                description="Memory file of a guest dump, where it is not beside debug.guest under "
                "the same name",
                optional=True,
            )
        ]


def _missing_tables(
    finder: interfaces.automagic.AutomagicInterface,
    context: interfaces.context.ContextInterface,
    config_path: str,
    requirement: interfaces.configuration.RequirementInterface,
) -> Iterator[tuple[str, requirements.SymbolTableRequirement, str, GuestDumpLayer]]:
    """Yields the tables that a configurable still needs for kernels in guest dumps.

    Yields:
        Configuration path of the table, what is required, the kernel's layer and the dump below.
    """
    found: Any = finder.find_requirements(
        context,
        config_path,
        requirement,
        (requirements.TranslationLayerRequirement, requirements.SymbolTableRequirement),
        shortcut=False,
    )
    parent = interfaces.configuration.parent_path
    layers = {
        parent(path): context.config.get(path, None)
        for path, wanted in found
        if isinstance(wanted, requirements.TranslationLayerRequirement)
    }
    for path, wanted in found:
        if isinstance(wanted, requirements.SymbolTableRequirement) and wanted.unsatisfied(
            context, parent(path)
        ):
            layer_name = str(layers.get(parent(path)))
            dump = guest_dump_below(context, layer_name) if layer_name in context.layers else None
            if dump is not None:
                yield path, wanted, layer_name, dump


class GuestDumpWindowsSymbolFinder(interfaces.automagic.AutomagicInterface):
    """Tells Volatility where a Windows kernel is, and loads the symbols that its PDB record names.

    Where it cannot, Volatility's own scanner searches for both.
    """

    # Before KernelPDBScanner (30).
    priority = 25
    exclusion_list = ["mac", "linux"]

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Runs the automagic over the configurable."""
        for path, _, layer_name, dump in _missing_tables(self, context, config_path, requirement):
            kernel = windows_kernel(dump)
            if kernel is None or kernel.image.pdb is None:
                continue
            layer = context.layers[layer_name]
            base = kernel.image.base & layer.address_mask
            vollog.debug(f"Windows kernel at {base:#x} by the IDT: {kernel.banner}")
            context.config[join(layer.config_path, "kernel_virtual_offset")] = base
            load_symbols(context, kernel.image.pdb, path)


class GuestDumpSymbolFinder(interfaces.automagic.AutomagicInterface):
    """Takes the symbols of a Linux kernel from the dump when no installed ISF has its banner."""

    # After LinuxSymbolFinder (40), before KernelModule (100).
    priority = 45
    exclusion_list = ["mac", "windows"]

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Runs the automagic over the configurable."""
        for path, wanted, layer_name, dump in _missing_tables(
            self, context, config_path, requirement
        ):
            self._construct(context, path, wanted, layer_name, dump)

    @staticmethod
    def _construct(
        context: interfaces.context.ContextInterface,
        path: str,
        wanted: requirements.SymbolTableRequirement,
        layer_name: str,
        dump: GuestDumpLayer,
    ) -> None:
        kernel = linux_kernel(dump)
        if kernel is None:
            return
        table = LinuxGuestDumpSymbols
        context.config[join(path, "class")] = f"{table.__module__}.{table.__name__}"
        context.config[join(path, "isf_url")] = dump.guest_location
        context.config[join(path, "symbol_mask")] = context.layers[layer_name].address_mask
        try:
            wanted.construct(context, interfaces.configuration.parent_path(path))
        except (GuestDumpError, ValueError) as error:
            del context.config[join(path, "class")]
            advice = f"Install an ISF for the banner: {kernel.shown_banner}"
            if dump.missing_memory > 0:
                advice = "The memory file is incomplete: copy it again"
            vollog.warning(f"No symbols for this guest: {error}. {advice}")
