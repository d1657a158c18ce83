# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Plugins for what hypervisors write of guests: debug.guest, snapshots, ELF dumps of QEMU."""

import collections
import functools
import logging
import pathlib
import platform
import re
import shlex
import sys
from collections.abc import Iterator
from typing import Any, BinaryIO, Callable, Optional, Union

from volatility3.framework import constants, interfaces, renderers
from volatility3.framework.configuration import requirements
from volatility3.framework.renderers import format_hints

# Given with -p to a Volatility that lives elsewhere, the plugins bring the package along that is
# around them, and nothing that lies beside it. Other processes of Volatility get the same path.
_PATH_ENTRY = pathlib.Path(__file__).resolve().parents[1] / "path_entry"
if "volatility_guestdump" not in sys.modules and _PATH_ENTRY.is_dir():
    sys.path.insert(0, str(_PATH_ENTRY))

try:
    import volatility_guestdump.framework  # noqa: F401 # makes Volatility know the package
except Exception as error:
    # A Volatility that is older or newer may raise anything. It expects an ImportError, logs it,
    # and goes on without this package.
    raise ImportError(f"volatility_guestdump: {error}") from error

from volatility_guestdump import words
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.exports import isf
from volatility_guestdump.files.location import display_name
from volatility_guestdump.framework import output
from volatility_guestdump.framework.installed import InstalledSymbols
from volatility_guestdump.framework.machines import MachineRequirement, machine_below
from volatility_guestdump.guest import system
from volatility_guestdump.guest.guest import Guest
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks, grouped
from volatility_guestdump.linux.state.tasks import STATES
from volatility_guestdump.machine import VCPU, Machine
from volatility_guestdump.version import __version__

vollog = logging.getLogger(__name__)

#: Most vCPUs that are named in a line.
_VCPUS_NAMED = 8


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

    @functools.cached_property
    def guest(self) -> Guest:
        """The guest that is looked at."""
        here = InstalledSymbols(self.context, self.config_path)
        return Guest(self.machine, here, self._progress_callback)

    def no_linux(self) -> str:
        """Returns why there is no Linux kernel, in words; empty when there is one."""
        why, windows = self.guest.no_linux, self.guest.windows
        missing = self.machine.origin.missing_memory
        return words.no_linux(why, windows.system if windows else None, missing) if why else ""

    def write_file(self, name: str, write: Callable[[BinaryIO], None]) -> str:
        """Writes a file, unless there is one; returns what to say of it in its column.

        Args:
            name: of the file.
            write: writes it to a stream.
        """
        file: Any = None
        try:
            file = self.open(name)
            taken = output.existing(file)
            if taken is None:
                write(file)
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


class Info(GuestDumpPlugin):
    """Shows what a guest dump is of: format, memory, paging, kernel and panic."""

    _version = (1, 0, 0)
    hidden = False

    def _generator(self) -> Iterator[tuple[int, tuple[str, str]]]:
        attempts = Attempts()
        machine = system.machine_facts(self.machine, attempts)
        yield from ((0, row) for row in words.machine_rows(machine))
        yield from ((0, row) for row in words.kernel_rows(self.guest.kernel_facts(attempts)))
        for failure in attempts.failures:
            vollog.warning(f"{failure.what}: {failure.reason}")

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
    ) -> Iterator[tuple[int, tuple[Any, ...]]]:
        machine = self.machine
        if not machine.vcpus:
            vollog.error(f"{machine.origin.format}: this image has no registers")
            return
        kernel = self.guest.linux
        symbolize = self.guest.symbolize
        for vcpu in selected_vcpus(machine, self.config.get("vcpu", None)):
            found = system.register_facts(machine, kernel, vcpu, symbolize)
            for register, value, decoded in found:
                yield 0, (vcpu.number, register, _address(value), decoded)

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [("vCPU", int), ("Register", str), ("Value", format_hints.Hex), ("Decoded", str)],
            self._generator(),
        )


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
    known = [vcpu.number for vcpu in vcpus]
    there = f"the guest has {len(known)}, from 0"
    if known != list(range(len(known))):
        # The file lacks those of the others.
        there = f"there are registers of {', '.join(map(str, known[:_VCPUS_NAMED]))}"
        there += ", ..." * (len(known) > _VCPUS_NAMED)
    for number in numbers or ():
        if number not in known:
            vollog.warning(f"There is no vCPU {number}: {there}")
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
            requirements.ListRequirement(
                name="state",
                element_type=str,
                description=f"Show only tasks in these states, of {' '.join(STATES)}",
                optional=True,
            ),
            requirements.BooleanRequirement(
                name="group",
                description="Show tasks with the same frames once, with their number",
                default=False,
                optional=True,
            ),
        ]

    def _generator(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for stack in self._stacks():
            task = stack.task
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
                        words.notes(frame.notes),
                    ),
                )

    def _grouped_generator(self) -> Iterator[tuple[int, tuple[Any, ...]]]:
        for group in grouped(self._stacks()):
            names = collections.Counter(task.comm for task in group.tasks if task)
            pids = [str(task.pid) for task in group.tasks if task]
            for number, frame in enumerate(group.frames):
                yield (
                    0,
                    (
                        len(group.tasks),
                        # Hundreds of numbers, once for each group.
                        "" if number else " ".join(pids),
                        "" if number else " ".join(name for name, _ in names.most_common()),
                        number,
                        _address(frame.ip),
                        frame.symbol,
                        words.notes(frame.notes),
                    ),
                )

    def _stacks(self) -> Iterator[Stack]:
        """Yields the stacks that the options ask for."""
        kernel = self.guest.linux
        if kernel is None:
            vollog.error(f"Only the stacks of Linux kernels can be unwound; {self.no_linux()}")
            return
        if kernel.bits != 64:
            vollog.error("Only the stacks of 64-bit kernels can be unwound")
            return
        if not self.machine.vcpus:
            vollog.warning(
                f"{self.machine.origin.format}: this image has no registers; the stacks of tasks "
                f"that ran are not available, those of others with --tasks"
            )
        stacks = self.guest.stacks
        assert stacks is not None, "there is a kernel"
        if stacks.tasks_missing:
            vollog.warning(f"The guest's tasks and modules cannot be told: {stacks.tasks_missing}")
        pids = self.config.get("pid", None) or []
        states = self.config.get("state", None) or []
        for state in states:
            if state not in tuple(STATES):
                known = " ".join(STATES)
                vollog.warning(f"There is no state {state}: those that tasks have are {known}")
        missing = set(pids)
        # Whoever asks for tasks wants them, running or not.
        asked = bool(self.config.get("tasks", False) or pids or states)
        for stack in self._chosen(stacks, asked):
            task = stack.task
            if pids and (task is None or not {task.pid, task.tgid} & set(pids)):
                continue
            if task is not None:
                missing -= {task.pid, task.tgid}
            if states and (task is None or task.state not in states):
                continue
            yield stack
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
        if self.config.get("group", False):
            return renderers.TreeGrid(
                [
                    *(("Tasks", int), ("PIDs", str), ("COMM", str), ("Frame", int)),
                    *(("IP", format_hints.Hex), ("Symbol", str), ("Note", str)),
                ],
                self._grouped_generator(),
            )
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
        kernel = self.guest.linux
        if kernel is None:
            vollog.error(f"An ISF is made of a Linux kernel's memory; {self.no_linux()}")
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
        written = self.write_file(f"{name}.json.xz", lambda stream: isf.write(document, stream))
        types = len(document["user_types"]) + len(document["enums"])
        yield 0, (banner, types, len(document["symbols"]), written)

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [("Kernel banner", str), ("Types", int), ("Symbols", int), ("File output", str)],
            self._generator(),
        )


class Report(GuestDumpPlugin):
    """Writes one file that tells what happened to the guest, and shows a summary of it."""

    _version = (1, 0, 0)
    hidden = False

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns what the plugin needs, and its options."""
        return [
            *super().get_requirements(),
            requirements.ChoiceRequirement(
                name="format",
                description="What to write: html to be read, json for programs",
                choices=["html", "json"],
                default="html",
                optional=True,
            ),
            requirements.BooleanRequirement(
                name="hash",
                description="Also compute the SHA-256 of the memory file",
                default=False,
                optional=True,
            ),
        ]

    def _generator(self) -> Iterator[tuple[int, tuple[str, str, str]]]:
        # Imported for this plugin alone, with a template engine: every start of vol would pay.
        from volatility_guestdump.exports import html, json  # noqa: PLC0415
        from volatility_guestdump.report import compose, evidence, summary  # noqa: PLC0415

        origin = self.machine.origin
        found = self.guest.facts()
        versions = {
            "volatility_guestdump": __version__,
            "Volatility": constants.PACKAGE_VERSION,
            "Python": platform.python_version(),
        }
        hashed, progress = bool(self.config.get("hash", False)), self._progress_callback
        files = evidence.evidence(origin, versions, shlex.join(sys.argv), hashed, progress)
        report, rows = compose.compose(found, files), compose.system_rows(found)
        yield from ((0, row) for row in summary.summary(report, rows))
        name, title = evidence.report_name(origin), display_name(origin.location)
        if self.config.get("format", "html") == "json":
            written = self.write_file(f"{name}.json", lambda stream: json.write(report, stream))
        else:
            written = self.write_file(
                f"{name}.html", lambda stream: html.write(report, rows, title, stream)
            )
        yield 0, ("Report", "File output", written)

    def run(self) -> renderers.TreeGrid:
        """Returns the rows."""
        return renderers.TreeGrid(
            [("Section", str), ("Item", str), ("Value", str)], self._generator()
        )
