"""Automagic: symbols from the dump, and no scans for the plugins of this package."""

import logging
from typing import Any

from volatility3.framework import constants, interfaces
from volatility3.framework.configuration import requirements

from volatility_guestdump.exceptions import GuestDumpError
from volatility_guestdump.layers import GuestDumpLayer
from volatility_guestdump.linux.kernel import kernel_of
from volatility_guestdump.linux.symbols import LinuxGuestDumpSymbols
from volatility_guestdump.stackers import (
    MEMORY_OPTION,
    GuestDumpLinuxStacker,
    GuestDumpStacker,
)

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
) -> "GuestDumpLayer | None":
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
            requirements.URIRequirement(
                name=MEMORY_OPTION.rpartition(".")[2],
                description="Memory file of a guest dump, where it is not beside debug.guest under "
                "the same name",
                optional=True,
            )
        ]


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
        found: Any = self.find_requirements(
            context,
            config_path,
            requirement,
            (
                requirements.TranslationLayerRequirement,
                requirements.SymbolTableRequirement,
            ),
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
                if layer_name in context.layers:
                    self._construct(context, path, wanted, layer_name)

    @staticmethod
    def _construct(
        context: interfaces.context.ContextInterface,
        path: str,
        wanted: requirements.SymbolTableRequirement,
        layer_name: str,
    ) -> None:
        dump = guest_dump_below(context, layer_name)
        kernel = dump and kernel_of(dump)
        if not dump or not kernel:
            return
        table = LinuxGuestDumpSymbols
        context.config[join(path, "class")] = f"{table.__module__}.{table.__name__}"
        context.config[join(path, "isf_url")] = dump.guest_location
        context.config[join(path, "symbol_mask")] = context.layers[layer_name].address_mask
        try:
            wanted.construct(context, interfaces.configuration.parent_path(path))
        except (GuestDumpError, ValueError) as error:
            del context.config[join(path, "class")]
            vollog.warning(
                f"No symbols for this guest: {error}. Install an ISF for the banner: "
                f"{kernel.shown_banner}"
            )
