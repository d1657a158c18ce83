# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Plugins for what hypervisors write of guests: debug.guest, snapshots, ELF dumps of QEMU."""

import io
import json
import logging
import lzma
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any, Optional, Union

from volatility3.framework import interfaces, renderers
from volatility3.framework.configuration import requirements
from volatility3.framework.renderers import format_hints

# Given with -p to a Volatility that lives elsewhere, the plugins bring the package along that is
# around them, and nothing that lies beside it. Other processes of Volatility get the same path.
_PATH_ENTRY = pathlib.Path(__file__).resolve().parents[1] / "path_entry"
if "volatility_guestdump" not in sys.modules and _PATH_ENTRY.is_dir():
    sys.path.insert(0, str(_PATH_ENTRY))

import volatility_guestdump

if volatility_guestdump.registration_error is not None:
    raise ImportError(
        f"volatility_guestdump: {volatility_guestdump.registration_error}"
    ) from volatility_guestdump.registration_error

from volatility_guestdump import kernels
from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.framework import installed, output, windows_symbols
from volatility_guestdump.framework.machines import MachineRequirement, machine_below
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks import Stack, Stacks
from volatility_guestdump.machine import OPTIONAL_REGISTERS, REGISTERS, VCPU, Machine
from volatility_guestdump.report import facts, rows
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.x86 import registers
from volatility_guestdump.x86.paging import find_paging

vollog = logging.getLogger(__name__)


class GuestDumpPlugin(interfaces.plugins.PluginInterface):
    """What the plugins for guest dumps share."""

    _required_framework_version = (2, 0, 0)
    hidden = True

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns what the plugin needs, and its options."""
        return [
            MachineRequirement(
                name="primary",
                description="A guest dump: debug.guest or debug.vmem of VMware ESXi, a VMware "
                "snapshot or suspended machine (.vmsn, .vmss), an ELF dump of QEMU, or a memory "
                "image of Linux (raw, LiME, AVML)",
            )
        ]

    @property
    def machine(self) -> Machine:
        """The machine that is looked at."""
        machine = machine_below(self.context, str(self.config["primary"]))
        assert machine is not None, "the requirement is satisfied by nothing else"
        return machine

    def linux_kernel(self) -> Optional[LinuxKernel]:
        """Returns the Linux kernel of the guest, or None."""
        return kernels.search_linux(self.machine, self._progress_callback)

    def windows_kernel(self) -> Optional[WindowsKernel]:
        """Returns the Windows kernel of the guest, or None."""
        return kernels.windows_kernel(self.machine)

    def no_kernel(self) -> str:
        """Returns why there is no Linux kernel, in words."""
        if self.machine.origin.memory_location is None:
            return "the guest's memory is missing"
        windows = self.windows_kernel()
        if windows is not None:
            return f"this guest runs {windows.system}"
        return "in the guest's memory there is none that can be recognised"

    def windows_symbols(self, kernel: WindowsKernel) -> Optional[windows_symbols.WindowsSymbols]:
        """Returns the symbols of a Windows kernel, when they are on this machine."""
        pdb = kernel.image.pdb
        if pdb is None or installed.windows_isf(pdb) is None:
            return None
        path = interfaces.configuration.path_join(self.config_path, "symbols")
        table = windows_symbols.load(self.context, pdb, path)
        if table is None:
            return None
        return windows_symbols.WindowsSymbols(kernel, self.context, table)


class Info(GuestDumpPlugin):
    """Shows what a guest dump is of: format, memory, paging, kernel and panic."""

    _version = (1, 0, 0)
    hidden = False

    def _generator(self) -> Iterator[tuple[int, tuple[str, str]]]:
        yield from ((0, row) for row in rows.machine_rows(facts.machine_facts(self.machine)))
        yield from ((0, row) for row in rows.kernel_rows(self._kernel_facts()))

    def _kernel_facts(self) -> facts.KernelFacts:
        kernel = self.linux_kernel()
        if kernel is not None:
            return facts.linux_facts(self.machine, kernel, installed.linux_isf(kernel)[1])
        windows = self.windows_kernel()
        if windows is not None:
            pdb = windows.image.pdb
            location = None if pdb is None else installed.windows_isf(pdb)
            return facts.windows_facts(windows, location, self.windows_symbols(windows))
        return facts.unknown_kernel_facts(self.machine)

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
        machine = self.machine
        if not machine.vcpus:
            vollog.error(f"{machine.origin.format}: this image has no registers")
            return
        kernel = self.linux_kernel()
        symbolize = kernel.symbolize if kernel else self._windows_symbolize()
        for vcpu in selected_vcpus(machine, self.config.get("vcpu", None)):
            mode, tables = find_paging(machine.memory.read, vcpu)
            user_half = None
            if kernel and tables:
                mode = kernel.tables.mode
                user_half = kernel.loaded_user_half(vcpu)
            for register in (*REGISTERS, *OPTIONAL_REGISTERS):
                if vcpu.get(register) is None:
                    continue
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


def _address(value: Optional[int]) -> Union[format_hints.Hex, interfaces.renderers.BaseAbsentValue]:
    return renderers.NotAvailableValue() if value is None else format_hints.Hex(value)


def _vcpu_requirement() -> requirements.ListRequirement:
    return requirements.ListRequirement(
        name="vcpu",
        element_type=int,
        description="Numbers of the vCPUs to show (all others are left out)",
        optional=True,
    )


def selected_vcpus(machine: Machine, numbers: Optional[list[int]]) -> list[VCPU]:
    """Returns the vCPUs of the given numbers, or all; a number that is none is warned of."""
    vcpus = machine.vcpus
    known = {vcpu.number for vcpu in vcpus}
    for number in numbers or ():
        if number not in known:
            vollog.warning(f"There is no vCPU {number}: the guest has {len(vcpus)}, from 0")
    return [vcpu for vcpu in vcpus if not numbers or vcpu.number in numbers]


class Backtrace(GuestDumpPlugin):
    """Shows the task and the kernel's stack of every vCPU of a Linux guest.

    The stack is unwound with the kernel's own tables (ORC), from the vCPU's registers. Where kdump
    has started a second kernel on a CPU, it is unwound from the registers that the first one saved.
    With --tasks the tasks that no vCPU runs follow, from where they were switched away.
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
        if not self.machine.vcpus:
            vollog.warning(
                f"{self.machine.origin.format}: this image has no registers; the stacks of tasks "
                f"that ran are not available, those of others with --tasks"
            )
        stacks = Stacks(kernel, self.machine.vcpus)
        if stacks.tasks_missing:
            vollog.warning(f"The guest's tasks and modules cannot be told: {stacks.tasks_missing}")
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
                        (task and task.state) or renderers.NotAvailableValue(),
                        number,
                        _address(frame.sp),
                        _address(frame.ip),
                        frame.symbol,
                        rows.notes(frame.notes),
                    ),
                )

        for pid in sorted(missing):
            vollog.warning(f"There is no task with the number {pid} among those asked for")

    def _chosen(self, stacks: Stacks, with_tasks: bool) -> Iterator[Stack]:
        numbers = self.config.get("vcpu", None)
        for vcpu in selected_vcpus(self.machine, numbers):
            yield stacks.of_vcpu(vcpu)
        if not numbers:
            yield from stacks.at_crash()
        if with_tasks:
            yield from stacks.of_tasks()

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [
                *(("vCPU", int), ("PID", int), ("COMM", str), ("State", str), ("Frame", int)),
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
        name = re.sub(
            r"[^A-Za-z0-9.+_-]", "_", "-".join(filter(None, (kernel.release, kernel.build_id)))
        )
        written = self._write(f"{name}.json.xz", document)
        types = len(document["user_types"]) + len(document["enums"])
        yield 0, (banner, types, len(document["symbols"]), written)

    def _write(self, name: str, document: dict[str, Any]) -> str:
        """Writes the file, unless there is one; returns what to say of it in its column."""
        packed = io.BytesIO()
        # More effort makes a file that is a tenth smaller, in four times the time.
        with io.TextIOWrapper(lzma.LZMAFile(packed, "w", preset=1), encoding="utf-8") as text:
            json.dump(document, text)
        file = None
        try:
            file = self.open(name)
            taken = output.existing(file)
            if taken is None:
                file.write(packed.getbuffer())
                file.close()
                return str(file.preferred_filename)
            vollog.warning(f"{taken} is there already: nothing is written")
            output.discard(file)
        except OSError as error:
            # The words of Volatility's plugins.
            vollog.warning(f"File {name} could not be written: {error}")
            if file is not None:
                output.discard(file)
            return "Error outputting file"
        return f"{name} (is there already)"

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [("Kernel banner", str), ("Types", int), ("Symbols", int), ("File output", str)],
            self._generator(),
        )
