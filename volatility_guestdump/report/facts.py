# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is known of a machine and of the kernel that it runs, as typed facts.

Words are made of them in `rows`. Nothing here knows Volatility: where symbols are installed is told
by the caller.
"""

import enum
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional, Protocol

from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.files.location import file_state
from volatility_guestdump.linux.finding.image import CODE_ALONE
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.stacks import PanicTask, Stacks
from volatility_guestdump.linux.state.crash import first_kernel_release, is_second_kernel
from volatility_guestdump.linux.state.log import panic_message
from volatility_guestdump.linux.state.system import NOTHING_TOLD, SystemFacts, system_facts
from volatility_guestdump.machine import (
    OPTIONAL_REGISTERS,
    REGISTERS,
    VCPU,
    Machine,
    MemoryRange,
)
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.x86 import registers
from volatility_guestdump.x86.paging import PagingMode, find_paging


class FileState(enum.Enum):
    """What there is of a memory file."""

    MISSING = "missing"
    UNREADABLE = "unreadable"
    SHORT = "short"
    DAMAGED = "damaged"
    COMPLETE = "complete"


@dataclass(frozen=True)
class MemoryFileFacts:
    """The file with the memory.

    Attributes:
        location: its URL, or where it is expected.
        state: what there is of it.
        missing: bytes that it lacks; negative when it has too many.
        first_missing: the first guest-physical address that it lacks, or None.
    """

    location: str
    state: FileState
    missing: int
    first_missing: Optional[int]


@dataclass(frozen=True)
class MachineFacts:
    """A machine, whatever it runs.

    Attributes:
        format: what describes it.
        vcpus: how many it has, or None when that is not known.
        memory_size: in bytes, without holes.
        ranges: of guest-physical memory.
        memory_file: the file with the memory.
    """

    format: str
    vcpus: Optional[int]
    memory_size: int
    ranges: Sequence[MemoryRange]
    memory_file: MemoryFileFacts


@dataclass(frozen=True)
class Symbols:
    """Where a kernel's symbols and types come from.

    Attributes:
        location: URL of an installed ISF, or None.
        kallsyms: whether the symbols are in the memory itself.
        types: whether the types are.
        missing: why not all is there; empty when it is.
        downloadable: whether Volatility downloads what is not there.
    """

    location: Optional[str]
    kallsyms: bool = False
    types: bool = False
    missing: str = ""
    downloadable: bool = False


@dataclass(frozen=True)
class TaskCount:
    """How many tasks (threads) a guest has, without the idle ones.

    Attributes:
        all: of them.
        uninterruptible: those in uninterruptible sleep, state D; None when states are not known.
        whole: whether there are no more, as far as the lists of them tell.
    """

    all: int
    uninterruptible: Optional[int]
    whole: bool = True


@dataclass(frozen=True)
class Kdump:
    """Two kernels in one guest, the second of which kdump started when the first panicked.

    Attributes:
        is_second: whether the kernel looked at is the second.
        first_release: of the first kernel, as the second knows it, or None.
        other_vcpus: numbers of the vCPUs that run another kernel than the one looked at.
    """

    is_second: bool
    first_release: Optional[str]
    other_vcpus: Sequence[int]


@dataclass(frozen=True)
class KernelFacts:
    """A kernel; what is not known is None.

    Attributes:
        paging: how it turns virtual addresses into physical ones.
        isolation: whether page-table isolation is on.
        system: what it is, "Linux 6.1.0-56-cloud-amd64 (x64)".
        banner: what identifies it.
        build_id: in hexadecimal.
        told: what it tells of its system.
        tasks: how many there are.
        virtual_base: virtual address of the image's start.
        kaslr_shift: how far it runs from where it was linked to.
        physical_base: guest-physical address of the image's start.
        page_map: physical address of the root page table.
        symbols: where they come from.
        panic: why it stopped.
        panic_task: who stopped it.
        kdump: when there are two kernels.
        found_by: how it was found: "registers", "low memory", "VMCOREINFO" or "banner".
    """

    paging: Optional[PagingMode] = None
    isolation: Optional[bool] = None
    system: Optional[str] = None
    banner: Optional[str] = None
    build_id: Optional[str] = None
    told: SystemFacts = NOTHING_TOLD
    tasks: Optional[TaskCount] = None
    virtual_base: Optional[int] = None
    kaslr_shift: Optional[int] = None
    physical_base: Optional[int] = None
    page_map: Optional[int] = None
    symbols: Optional[Symbols] = None
    panic: Optional[str] = None
    panic_task: Optional[PanicTask] = None
    kdump: Optional[Kdump] = None
    found_by: Optional[str] = None


class BugChecks(Protocol):
    """Who can tell why a Windows kernel stopped: its symbols."""

    def bug_check(self) -> Optional[str]:
        """Returns code, name and parameters of the bug check, or None when there was none."""


def machine_facts(machine: Machine) -> MachineFacts:
    """Returns what is known of a machine, whatever it runs."""
    origin = machine.origin
    return MachineFacts(
        origin.format,
        len(machine.vcpus) or None,
        origin.memory_size,
        origin.ranges,
        _memory_file(machine),
    )


def _memory_file(machine: Machine) -> MemoryFileFacts:
    origin = machine.origin
    missing = origin.missing_memory
    if origin.memory_location is not None:
        state = FileState.DAMAGED if origin.damage else FileState.COMPLETE
        if missing > 0:
            state = FileState.SHORT
        first = machine.first_missing_address if missing > 0 else None
        return MemoryFileFacts(origin.memory_location, state, missing, first)
    expected = origin.expected_memory or [origin.location]
    for candidate in expected:
        if file_state(candidate):
            return MemoryFileFacts(candidate, FileState.UNREADABLE, missing, None)
    return MemoryFileFacts(expected[0], FileState.MISSING, missing, None)


def register_facts(
    machine: Machine, kernel: Optional[LinuxKernel], vcpu: VCPU, symbolize: registers.Symbolize
) -> Iterator[tuple[str, Optional[int], str]]:
    """Yields name, value and meaning of each register; None for a value that the image lacks.

    Those that only some formats have are left out where they are missing.

    Args:
        machine: that it is of.
        kernel: the Linux kernel that the machine runs, or None.
        vcpu: the vCPU.
        symbolize: names addresses in the kernel.
    """
    mode, tables = find_paging(machine.memory.read, vcpu)
    user_half = None
    if kernel and tables:
        mode = kernel.tables.mode
        user_half = kernel.loaded_user_half(vcpu)
    for name in (*REGISTERS, *OPTIONAL_REGISTERS):
        value = vcpu.get(name)
        if value is not None or name in REGISTERS:
            yield name, value, registers.decode(vcpu, name, mode, user_half, symbolize)


def unknown_kernel_facts(machine: Machine) -> KernelFacts:
    """Returns what is known without a kernel: how the first vCPU that pages does so."""
    for vcpu in machine.vcpus:
        mode, tables = find_paging(machine.memory.read, vcpu)
        cr3 = vcpu.get("cr3")
        if mode is not None and mode is not PagingMode.OFF and cr3 is not None:
            return KernelFacts(mode, page_map=tables.root if tables else mode.root(cr3))
    # That no vCPU pages is known of those whose registers are there.
    known = [vcpu.has_paging_registers for vcpu in machine.vcpus]
    return KernelFacts(PagingMode.OFF if known and all(known) else None)


def linux_facts(
    machine: Machine,
    kernel: LinuxKernel,
    stacks: Optional[Stacks],
    installed: Optional[str],
    attempts: Attempts,
) -> KernelFacts:
    """Returns what is known of a Linux kernel.

    Args:
        machine: that it runs on.
        kernel: the kernel.
        stacks: of its tasks; None when these cannot be told.
        installed: URL of an installed ISF, or None.
        attempts: is told which facts cannot be read, and why.
    """
    make = attempts.make
    return KernelFacts(
        paging=kernel.tables.mode,
        isolation=make("Page-table isolation", kernel.isolates_page_tables),
        system=make("Operating system", lambda: kernel.system),
        banner=make("Kernel banner", lambda: kernel.shown_banner),
        build_id=make("Kernel build id", lambda: kernel.build_id),
        told=system_facts(kernel, attempts),
        tasks=make("Tasks", lambda: _task_count(stacks, attempts)),
        virtual_base=kernel.virtual_base,
        kaslr_shift=make("KASLR shift", lambda: kernel.kaslr_shift),
        physical_base=make("Kernel physical base", lambda: kernel.physical_base),
        page_map=make("Page map (DTB)", lambda: kernel.page_map),
        symbols=make("Symbols", lambda: _linux_symbols(kernel, installed)),
        panic=make("Panic", lambda: panic_message(kernel)),
        panic_task=make("Panic task", lambda: stacks.panic_task() if stacks else None),
        kdump=make("Kdump", lambda: _kdump(machine, kernel)),
        found_by=kernel.found_by,
    )


def _linux_symbols(kernel: LinuxKernel, installed: Optional[str]) -> Symbols:
    missing = kernel.kallsyms_error
    try:
        has_types = bool(kernel.btf)
    except BtfError as error:
        has_types = False
        missing = missing or str(error)
    if kernel.has_code_alone and not missing:
        missing = f"the kernel's {CODE_ALONE}"
    return Symbols(installed, kernel.kallsyms is not None, has_types, missing)


def _task_count(stacks: Optional[Stacks], attempts: Attempts) -> Optional[TaskCount]:
    if stacks is None or stacks.tasks is None:
        return None
    states = [task.state for task in stacks.all_tasks]
    broken = stacks.tasks.broken
    if broken:
        attempts.note("Tasks", f"not all can be listed: {broken}")
    # There is always a first process.
    if not states:
        return None
    return TaskCount(len(states), states.count("D") if any(states) else None, not broken)


def _kdump(machine: Machine, kernel: LinuxKernel) -> Optional[Kdump]:
    others = [vcpu.number for vcpu in machine.vcpus if kernel.runs_on(vcpu) is False]
    is_second = is_second_kernel(kernel)
    if not is_second and not others:
        return None
    return Kdump(is_second, first_kernel_release(kernel), others)


def windows_facts(
    kernel: WindowsKernel, installed: Optional[str], symbols: Optional[BugChecks]
) -> KernelFacts:
    """Returns what is known of a Windows kernel.

    Args:
        kernel: the kernel.
        installed: URL of an installed ISF, or None.
        symbols: its symbols, when they are on this machine.
    """
    missing = "" if kernel.image.pdb else "the kernel's debug record is not in the dump"
    return KernelFacts(
        kernel.tables.mode,
        system=kernel.system,
        banner=kernel.shown_banner,
        virtual_base=kernel.image.base,
        physical_base=kernel.physical_base,
        page_map=kernel.page_map,
        symbols=Symbols(installed, missing=missing, downloadable=not missing),
        panic=symbols.bug_check() if symbols else None,
        found_by="registers",
    )
