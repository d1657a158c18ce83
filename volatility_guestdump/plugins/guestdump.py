# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Plugins for the dumps that VMware ESXi writes of guests: debug.guest and debug.vmem."""

import json
import logging
import lzma
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, Optional

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements
from volatility3.framework.renderers import format_hints

try:
    import volatility_guestdump  # noqa: F401
except ImportError:
    # Given with -p to a Volatility that lives elsewhere: the package is around this folder.
    sys.path.append(str(pathlib.Path(__file__).resolve().parents[2]))

from volatility_guestdump import automagic, guest, info, registers
from volatility_guestdump.exceptions import GuestDumpError, KernelError
from volatility_guestdump.guestfile import REGISTERS, VCPU
from volatility_guestdump.layers import GuestDumpLayer
from volatility_guestdump.linux.backtrace import Stack, Stacks
from volatility_guestdump.linux.isf import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.paging import find_paging
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.symbols import WindowsSymbols, installed, load

vollog = logging.getLogger(__name__)

UNKNOWN = "-"


class GuestDumpPlugin(interfaces.plugins.PluginInterface):
    """What the plugins for guest dumps share."""

    _required_framework_version = (2, 0, 0)
    hidden = True

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns what the plugin needs, and its options."""
        return [
            automagic.GuestDumpRequirement(
                name="primary", description="A guest dump: debug.guest or debug.vmem of VMware ESXi"
            )
        ]

    @property
    def dump(self) -> GuestDumpLayer:
        """The layer of the guest dump."""
        layer = automagic.guest_dump_below(self.context, str(self.config["primary"]))
        assert layer is not None, "the requirement is satisfied by nothing else"
        return layer

    def linux_kernel(self) -> Optional[LinuxKernel]:
        """Returns the Linux kernel of the guest, or None, with a warning when memory is damaged."""
        try:
            return guest.linux_kernel(self.dump)
        except GuestDumpError as error:
            vollog.warning(f"The kernel of the guest cannot be found: {error}")
            return None

    def windows_kernel(self) -> Optional[WindowsKernel]:
        """Returns the Windows kernel of the guest, or None."""
        try:
            return guest.windows_kernel(self.dump)
        except GuestDumpError:
            # That memory is damaged was said in the search for a Linux kernel.
            return None

    def no_kernel(self) -> str:
        """Returns why there is no Linux kernel, in words."""
        if self.dump.memory_location is None:
            return "the guest's memory is missing"
        windows = self.windows_kernel()
        if windows is not None:
            return f"this guest runs {windows.system}"
        return "in the guest's memory there is none that can be recognised"

    def windows_symbols(self, kernel: WindowsKernel) -> Optional[WindowsSymbols]:
        """Returns the symbols of a Windows kernel, when they are on this machine."""
        pdb = kernel.image.pdb
        if pdb is None or installed(pdb) is None:
            return None
        path = interfaces.configuration.path_join(self.config_path, "symbols")
        table = load(self.context, pdb, path)
        return None if table is None else WindowsSymbols(kernel, self.context, table)


class Info(GuestDumpPlugin):
    """Shows what a guest dump is of: format, memory, paging, kernel and panic."""

    _version = (1, 0, 0)
    hidden = False

    def _generator(self) -> Iterator[tuple[int, tuple[str, str]]]:
        dump = self.dump
        yield from ((0, row) for row in info.file_variables(dump))
        values = self._kernel_values(dump)
        for variable in info.KERNEL_VARIABLES:
            yield 0, (variable, values.get(variable) or UNKNOWN)

    def _kernel_values(self, dump: GuestDumpLayer) -> info.Values:
        kernel = self.linux_kernel()
        if kernel is not None:
            return info.linux_variables(dump, kernel)
        windows = self.windows_kernel()
        if windows is not None:
            return info.windows_variables(windows, self.windows_symbols(windows))
        return info.unknown_variables(dump)

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid([("Variable", str), ("Value", str)], self._generator())


class Registers(GuestDumpPlugin):
    """Shows the registers of every vCPU of a guest dump."""

    _version = (1, 0, 0)
    hidden = False

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns what the plugin needs, and its options."""
        return [*super().get_requirements(), _vcpu_requirement()]

    def _generator(
        self,
    ) -> Iterator[tuple[int, tuple[int, str, format_hints.Hex, str]]]:
        dump = self.dump
        kernel = self.linux_kernel()
        symbolize = kernel.symbolize if kernel else self._windows_symbolize()
        for vcpu in selected_vcpus(dump, self.config.get("vcpu", None)):
            mode, tables = find_paging(dump.memory.read, vcpu)
            user_half = None
            if kernel and tables:
                mode = kernel.tables.mode
                user_half = kernel.loaded_user_half(vcpu)
            for register in REGISTERS:
                decoded = registers.decode(vcpu, register, mode, user_half, symbolize)
                yield 0, (vcpu.number, register, format_hints.Hex(vcpu[register]), decoded)

    def _windows_symbolize(self) -> registers.Symbolize:
        kernel = self.windows_kernel()
        if kernel is None:
            return _no_symbol
        symbols = self.windows_symbols(kernel)
        return symbols.symbolize if symbols else kernel.symbolize

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [("vCPU", int), ("Register", str), ("Value", format_hints.Hex), ("Decoded", str)],
            self._generator(),
        )


def _no_symbol(address: int) -> Optional[str]:
    return None


def _vcpu_requirement() -> requirements.ListRequirement:
    return requirements.ListRequirement(
        name="vcpu",
        element_type=int,
        description="Numbers of the vCPUs to show (all others are left out)",
        optional=True,
    )


def selected_vcpus(dump: GuestDumpLayer, numbers: Optional[list[int]]) -> list[VCPU]:
    """Returns the vCPUs of the given numbers, or all; a number that is none is warned of."""
    vcpus = dump.guest.vcpus
    for number in numbers or ():
        if not 0 <= number < len(vcpus):
            vollog.warning(f"There is no vCPU {number}: the guest has {len(vcpus)}, from 0")
    return [vcpu for vcpu in vcpus if not numbers or vcpu.number in numbers]


class Backtrace(GuestDumpPlugin):
    """Shows the task and the kernel's stack of every vCPU of a Linux guest.

    The stack is unwound with the kernel's own tables (ORC), from the vCPU's registers. With --tasks
    the tasks that no vCPU runs follow, from where they were switched away.
    """

    _version = (1, 0, 0)
    hidden = False

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns what the plugin needs, and its options."""
        return [
            *super().get_requirements(),
            _vcpu_requirement(),
            requirements.BooleanRequirement(
                name="tasks",
                description="Also show the tasks that no vCPU runs",
                default=False,
                optional=True,
            ),
            requirements.ListRequirement(
                name="pid",
                element_type=int,
                description="Show only tasks with these process or thread numbers",
                optional=True,
            ),
        ]

    def _generator(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        kernel = self.linux_kernel()
        if kernel is None:
            vollog.error(f"Only the stacks of Linux kernels can be unwound; {self.no_kernel()}")
            return
        if kernel.bits != 64:
            vollog.error("Only the stacks of 64-bit kernels can be unwound")
            return
        stacks = Stacks(kernel, self.dump.guest.vcpus)
        pids = self.config.get("pid", None) or []
        missing = set(pids)
        # Whoever asks for a task wants it, running or not.
        for stack in self._chosen(stacks, bool(self.config.get("tasks", False) or pids)):
            task = stack.task
            if pids and (task is None or not {task.pid, task.tgid} & set(pids)):
                continue
            if task is not None:
                missing -= {task.pid, task.tgid}
            for number, frame in enumerate(stack.frames):
                yield (
                    0,
                    (
                        renderers.NotAvailableValue() if stack.vcpu is None else stack.vcpu.number,
                        task.pid if task else renderers.NotAvailableValue(),
                        task.comm if task else renderers.NotAvailableValue(),
                        number,
                        format_hints.Hex(frame.sp),
                        format_hints.Hex(frame.ip),
                        frame.symbol,
                        frame.note,
                    ),
                )

        for pid in sorted(missing):
            vollog.warning(f"There is no task with the number {pid} among those asked for")

    def _chosen(self, stacks: Stacks, with_tasks: bool) -> Iterator[Stack]:
        numbers = self.config.get("vcpu", None)
        for vcpu in selected_vcpus(self.dump, numbers):
            yield stacks.of_vcpu(vcpu)
        if with_tasks:
            yield from stacks.of_tasks()

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [
                *(("vCPU", int), ("PID", int), ("COMM", str), ("Frame", int)),
                *(("SP", format_hints.Hex), ("IP", format_hints.Hex)),
                *(("Symbol", str), ("Note", str)),
            ],
            self._generator(),
        )


class Isf(GuestDumpPlugin):
    """Writes the symbols and types of the guest's Linux kernel as an ISF file."""

    _version = (1, 0, 0)
    hidden = False

    def _generator(self) -> Iterator[tuple[int, tuple[str, int, int, str]]]:
        kernel = self.linux_kernel()
        if kernel is None:
            vollog.error(f"An ISF is made of a Linux kernel's memory; {self.no_kernel()}")
            return
        banner = kernel.shown_banner
        try:
            document = IsfView(kernel).expanded()
        except KernelError as error:
            vollog.error(f"No ISF can be made for {banner}: {error}")
            return
        name = re.sub(r"[^A-Za-z0-9.+_-]", "_", f"{kernel.release}-{kernel.build_id}")
        with self.open(f"{name}.json.xz") as output:
            # More effort makes a file that is a tenth smaller, in four times the time.
            with lzma.open(output, "wt", preset=1, encoding="utf-8") as text:
                json.dump(document, text)
            yield (
                0,
                (
                    banner,
                    len(document["user_types"]) + len(document["enums"]),
                    len(document["symbols"]),
                    output.preferred_filename,
                ),
            )

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [("Kernel banner", str), ("Types", int), ("Symbols", int), ("File output", str)],
            self._generator(),
        )
