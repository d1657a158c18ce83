# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Automagic: symbols from the dump, and no scans for the plugins of this package."""

import logging
from collections.abc import Iterator
from typing import Any, Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.automagic import stacker
from volatility3.framework.configuration import requirements

from volatility_guestdump import kernels
from volatility_guestdump.exceptions import GuestDumpError
from volatility_guestdump.files.location import (
    STREAM_ERRORS,
    display_name,
    file_state,
    local_path,
    location_of,
    open_location,
    refuse_pipe,
    why,
)
from volatility_guestdump.framework.formats import FOR_LINUX
from volatility_guestdump.framework.machines import MachineRequirement, machine_below
from volatility_guestdump.framework.stacking import MEMORY_OPTION
from volatility_guestdump.framework.symbol_table import LinuxGuestDumpSymbols
from volatility_guestdump.framework.windows_symbols import load as load_symbols
from volatility_guestdump.machine import Machine

vollog = logging.getLogger(__name__)

join = interfaces.configuration.path_join

#: Where the list of stackers is kept while LayerStacker has none.
_OTHERS = "others"


class GuestDumpStackers(stacker.LayerStacker):
    """Stacks layers for plugins that need a machine, and no kernel's layer.

    Volatility's stackers for operating systems would scan all of memory. It also takes the option
    that names a memory file, for the stacker to find.
    """

    # Before LayerStacker (10), which has nothing left to do then.
    priority = 5

    @property
    def config(self) -> interfaces.configuration.HierarchicalDict:
        """The configuration of LayerStacker, the only one that has the file to stack on."""
        parent = interfaces.configuration.parent_path(self.config_path)
        return self.context.config.branch(join(parent, stacker.LayerStacker.__name__))

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> Optional[list[str]]:
        """Runs the automagic over the configurable."""
        if self._refuse_what_cannot_be_opened() or not self.find_requirements(
            context, config_path, requirement, MachineRequirement
        ):
            return None
        try:
            found: Optional[list[str]] = super().__call__(
                context, config_path, requirement, progress_callback
            )
        except STREAM_ERRORS as error:
            # LayerStacker cannot open the file either; once is enough to say so.
            vollog.debug(f"The file cannot be opened: {error}")
            return None
        if requirement.unsatisfied(context, config_path):
            self._set_aside_others()
        return found

    def _refuse_what_cannot_be_opened(self) -> bool:
        """Lets no stacker open a pipe or a URL that leads nowhere, and says what is wrong with it.

        A pipe may wait forever, and memory is not read in order. Of a URL Volatility would only say
        that no requirement is fulfilled.
        """
        location = str(self.config.get("single_location", None) or "")
        path = local_path(location)
        try:
            if path is not None:
                refuse_pipe(path)
            elif location:
                # Volatility keeps what is behind a URL, so this costs no second download.
                open_location(location).close()
        except STREAM_ERRORS as error:
            if path is None:
                vollog.warning(f"{location} cannot be opened: {error}")
            else:
                vollog.warning(f"{display_name(location)} {why(error)}")
            del self.config["single_location"]
            return True
        return False

    def _set_aside_others(self) -> None:
        """Lets LayerStacker, which comes next, stack nothing: it would search in vain.

        Its option "stackers" chooses them by name. `GuestDumpOtherStackers` puts it right again.
        """
        self.context.config[join(self.config_path, _OTHERS)] = self.config.get("stackers", [])
        self.config["stackers"] = [type(self).__name__]

    def create_stackers_list(self) -> list[type[interfaces.automagic.StackerLayerInterface]]:
        """Returns the stackers for files; those for operating systems have an exclusion list."""
        return [
            each
            for each in super().create_stackers_list()
            if not each.exclusion_list or issubclass(each, FOR_LINUX)
        ]

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the option that names a memory file, --guest-memory."""
        return [
            # Not a URIRequirement: of a file that is not there vol would only show a traceback.
            requirements.StringRequirement(
                name=MEMORY_OPTION.rpartition(".")[2],
                description="Memory file of a debug.guest, .vmsn or .vmss, where it is not beside "
                "that under the same name",
                optional=True,
            )
        ]


class GuestDumpOtherStackers(interfaces.automagic.AutomagicInterface):
    """Gives LayerStacker, which has just run, the list of stackers back that it had before."""

    priority = stacker.LayerStacker.priority + 1

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Runs the automagic over the configurable."""
        parent = interfaces.configuration.parent_path(self.config_path)
        kept = join(parent, GuestDumpStackers.__name__, _OTHERS)
        if kept in context.config:
            context.config[join(parent, stacker.LayerStacker.__name__, "stackers")] = (
                context.config[kept]
            )
            del context.config[kept]


class GuestDumpMemoryOption(interfaces.automagic.AutomagicInterface):
    """Says when the file that --guest-memory names is not what memory is read from."""

    # Behind LayerStacker (10): the layers are there.
    priority = stacker.LayerStacker.priority + 2

    def __call__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        requirement: interfaces.configuration.RequirementInterface,
        progress_callback: constants.ProgressCallback = None,
    ) -> None:
        """Runs the automagic over the configurable."""
        option = context.config.get(MEMORY_OPTION, None)
        said = join(self.config_path, "said")
        if not option or said in context.config:
            return
        named = location_of(str(option))
        found: Any = self.find_requirements(
            *(context, config_path, requirement, requirements.TranslationLayerRequirement),
            shortcut=False,
        )
        for path, _ in found:
            machine = machine_below(context, str(context.config.get(path, None)))
            used = None if machine is None else machine.origin.memory_location
            if used is None or used == named or file_state(used) == file_state(named):
                continue
            # Plugins that run others run this for each.
            context.config[said] = True
            vollog.warning(
                f"{display_name(named)}, which --guest-memory names, is not used: memory is read "
                f"from {display_name(used)}"
            )
            return


def _missing_tables(
    finder: interfaces.automagic.AutomagicInterface,
    context: interfaces.context.ContextInterface,
    config_path: str,
    requirement: interfaces.configuration.RequirementInterface,
) -> Iterator[tuple[str, requirements.SymbolTableRequirement, str, Machine]]:
    """Yields the tables that a configurable still needs for kernels in guest dumps.

    Yields:
        Configuration path of the table, what is required, the kernel's layer and the machine below.
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
            machine = machine_below(context, layer_name)
            if machine is not None:
                yield path, wanted, layer_name, machine


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
        for path, _, layer_name, machine in _missing_tables(
            self, context, config_path, requirement
        ):
            kernel = kernels.windows_kernel(machine)
            if kernel is None or kernel.image.pdb is None:
                continue
            layer = context.layers[layer_name]
            base = kernel.image.base & layer.address_mask
            vollog.debug(f"Windows kernel at {base:#x} by the IDT: {kernel.shown_banner}")
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
        for path, wanted, layer_name, machine in _missing_tables(
            self, context, config_path, requirement
        ):
            self._construct(context, path, wanted, layer_name, machine)

    @staticmethod
    def _construct(
        context: interfaces.context.ContextInterface,
        path: str,
        wanted: requirements.SymbolTableRequirement,
        layer_name: str,
        machine: Machine,
    ) -> None:
        kernel = kernels.linux_kernel(machine)
        if kernel is None:
            return
        table = LinuxGuestDumpSymbols
        context.config[join(path, "class")] = f"{table.__module__}.{table.__name__}"
        context.config[join(path, "isf_url")] = machine.origin.location
        context.config[join(path, "symbol_mask")] = context.layers[layer_name].address_mask
        try:
            wanted.construct(context, interfaces.configuration.parent_path(path))
        except (GuestDumpError, ValueError) as error:
            del context.config[join(path, "class")]
            advice = f"Install an ISF for the banner: {kernel.shown_banner}"
            if kernel.has_code_alone and kernel.bits == 64:
                advice += ". guestdump.Info, Registers and Backtrace show what is known without"
            if machine.origin.missing_memory > 0:
                advice = "The memory file is incomplete: copy it again"
            vollog.warning(f"No symbols for this guest: {error}. {advice}")
