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

from volatility_guestdump import automagic, registers
from volatility_guestdump.exceptions import BtfError, GuestDumpError, KernelError
from volatility_guestdump.guestfile import REGISTERS, VCPU
from volatility_guestdump.layers import GuestDumpLayer
from volatility_guestdump.linux.backtrace import Stack, Stacks
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.isf import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel, kernel_of
from volatility_guestdump.linux.log import panic_message
from volatility_guestdump.paging import PagingMode, find_paging
from volatility_guestdump.stackers import installed_isf
from volatility_guestdump.vmem import memory_locations

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

    def kernel(self) -> Optional[LinuxKernel]:
        """Returns the Linux kernel of the guest, or None, with a warning when memory is damaged."""
        try:
            return kernel_of(self.dump)
        except GuestDumpError as error:
            vollog.warning(f"The kernel of the guest cannot be found: {error}")
            return None


class Info(GuestDumpPlugin):
    """Shows what a guest dump is of: format, memory, paging, kernel and panic."""

    _version = (1, 0, 0)
    hidden = False

    def _generator(self) -> Iterator[tuple[int, tuple[str, str]]]:
        for variable, value in self._variables():
            yield 0, (variable, value or UNKNOWN)

    def _variables(self) -> Iterator[tuple[str, Optional[str]]]:
        dump = self.dump
        kernel = self.kernel()
        yield from self._file_variables(dump)
        yield from self._kernel_variables(dump, kernel)

    def _file_variables(self, dump: GuestDumpLayer) -> Iterator[tuple[str, Optional[str]]]:
        guest = dump.guest
        yield "Format", guest.format
        yield "vCPUs", str(len(guest.vcpus))
        yield "Memory size", f"{guest.memory_size} ({_binary_size(guest.memory_size)})"
        for number, run in enumerate(guest.ranges):
            yield (
                f"Memory range {number}",
                f"{run.start:#x}-{run.end - 1:#x} at file offset {run.file_offset:#x}",
            )
        location = dump.memory_location or memory_locations(dump.guest_location)[0]
        yield "Memory file", f"{location} ({_memory_state(dump)})"

    def _kernel_variables(
        self, dump: GuestDumpLayer, kernel: Optional[LinuxKernel]
    ) -> Iterator[tuple[str, Optional[str]]]:
        if kernel is None:
            mode, page_map = _paging(dump)
            yield "Paging", mode.value
            yield "Page-table isolation", None
            yield "Operating system", None
            yield "Kernel banner", None
            yield "Kernel build id", None
            yield "Kernel virtual base", None
            yield "KASLR shift", None
            yield "Kernel physical base", None
            yield "Page map (DTB)", None if page_map is None else f"{page_map:#x}"
            yield "Symbols", None
            yield "Panic", None
            yield "Panic task", None
            return
        banner = kernel.shown_banner
        isolation = kernel.isolates_page_tables()
        yield "Paging", kernel.tables.mode.value
        yield "Page-table isolation", None if isolation is None else "on" if isolation else "off"
        yield (
            "Operating system",
            f"Linux {kernel.release} ({'x64' if kernel.bits == 64 else 'x86'})",
        )
        yield "Kernel banner", banner
        yield "Kernel build id", kernel.build_id
        yield "Kernel virtual base", f"{kernel.virtual_base:#x}"
        yield "KASLR shift", f"{kernel.kaslr_shift:#x}"
        yield "Kernel physical base", f"{kernel.physical_base:#x}"
        yield "Page map (DTB)", f"{kernel.page_map:#x}"
        btf, symbols = _symbols(kernel)
        yield "Symbols", symbols
        yield "Panic", panic_message(kernel, btf)
        yield "Panic task", Stacks(kernel, dump.guest.vcpus, btf).panic_task()

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid([("Variable", str), ("Value", str)], self._generator())


def _binary_size(size: int) -> str:
    """Returns a size in the largest unit that gives a short number: "192 MiB", "1.5 GiB"."""
    if size < 1 << 30:
        return f"{size / (1 << 20):.6g} MiB"
    return f"{size / (1 << 30):.6g} GiB"


def _memory_state(dump: GuestDumpLayer) -> str:
    if dump.memory_location is None:
        return "missing"
    missing = dump.missing_memory
    if missing > 0:
        return f"{missing} bytes short, from guest-physical address {dump.first_missing_address:#x}"
    return f"complete, {-missing} bytes too long" if missing else "complete"


def _paging(dump: GuestDumpLayer) -> tuple[PagingMode, Optional[int]]:
    """Returns paging mode and page map of the first vCPU that pages."""
    for vcpu in dump.guest.vcpus:
        mode, tables = find_paging(dump.memory.read, vcpu)
        if mode is not PagingMode.OFF:
            return mode, tables.root if tables else mode.root(vcpu["cr3"])
    return PagingMode.OFF, None


def _symbols(kernel: LinuxKernel) -> tuple[Optional[Btf], str]:
    """Returns the kernel's types, and in words where its symbols and types come from."""
    btf, missing = None, kernel.kallsyms_error
    try:
        btf = kernel.read_btf()
    except BtfError as error:
        missing = missing or str(error)
    _, location = installed_isf(kernel)
    if location is not None:
        return btf, location
    if not missing:
        return btf, "kallsyms and BTF in the dump"
    partly = "kallsyms in the dump, but no types" if kernel.kallsyms else "none"
    return btf, f"{partly}: {missing}; plugins need an ISF for this banner"


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
        kernel = self.kernel()
        for vcpu in selected_vcpus(dump, self.config.get("vcpu", None)):
            mode, tables = find_paging(dump.memory.read, vcpu)
            user_half = None
            if kernel and tables:
                mode = kernel.tables.mode
                user_half = kernel.loaded_user_half(vcpu)
            for register in REGISTERS:
                decoded = registers.decode(
                    vcpu, register, mode, user_half, kernel.symbolize if kernel else _no_symbol
                )
                yield 0, (vcpu.number, register, format_hints.Hex(vcpu[register]), decoded)

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
        kernel = self.kernel()
        if kernel is None:
            vollog.error("Only the stacks of Linux kernels can be unwound; none was recognised")
            return
        if kernel.bits != 64:
            vollog.error("Only the stacks of 64-bit kernels can be unwound")
            return
        stacks = Stacks(kernel, self.dump.guest.vcpus)
        pids = self.config.get("pid", None) or []
        # Whoever asks for a task wants it, running or not.
        for stack in self._chosen(stacks, bool(self.config.get("tasks", False) or pids)):
            task = stack.task
            if pids and (task is None or not {task.pid, task.tgid} & set(pids)):
                continue
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
        kernel = self.kernel()
        if kernel is None:
            vollog.error("The guest dump has no Linux kernel that can be recognised")
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
