# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The facts of a machine and of the kernel that it runs: how each is found.

Nothing here knows Volatility: where symbols are installed is told by the caller.
"""

from collections.abc import Iterator
from typing import Optional

from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import BtfError
from volatility_guestdump.files.location import file_state
from volatility_guestdump.guest.facts import (
    BugChecks,
    FileState,
    Kdump,
    KernelFacts,
    MachineFacts,
    MemoryFileFacts,
    RegisterFacts,
    Symbols,
    TaskCount,
)
from volatility_guestdump.linux.finding.image import CODE_ALONE
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.linux.state.crash import first_kernel_release, is_second_kernel
from volatility_guestdump.linux.state.log import panic_message
from volatility_guestdump.linux.state.system import system_facts
from volatility_guestdump.machine import OPTIONAL_REGISTERS, REGISTERS, VCPU, Machine
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.x86 import registers
from volatility_guestdump.x86.paging import PagingMode, find_paging


def machine_facts(machine: Machine, attempts: Attempts) -> MachineFacts:
    """Returns what is known of a machine, whatever it runs.

    Args:
        machine: the machine.
        attempts: is told when nothing can be told of its memory file, and why.
    """
    origin = machine.origin
    return MachineFacts(
        origin.format,
        len(machine.vcpus) or None,
        origin.memory_size,
        origin.ranges,
        attempts.make("Memory file", lambda: _memory_file(machine)),
    )


def _memory_file(machine: Machine) -> MemoryFileFacts:
    origin = machine.origin
    missing, damage = origin.missing_memory, origin.damage
    if origin.memory_location is not None:
        state = FileState.DAMAGED if damage else FileState.COMPLETE
        if missing > 0:
            state = FileState.SHORT
        first = machine.first_missing_address if missing > 0 else None
        return MemoryFileFacts(origin.memory_location, state, missing, first, damage)
    expected = origin.expected_memory or [origin.location]
    for candidate in expected:
        if file_state(candidate):
            return MemoryFileFacts(candidate, FileState.UNREADABLE, missing, None, damage)
    return MemoryFileFacts(expected[0], FileState.MISSING, missing, None, damage)


def register_facts(
    machine: Machine, kernel: Optional[LinuxKernel], vcpu: VCPU, symbolize: registers.Symbolize
) -> Iterator[RegisterFacts]:
    """Yields each register; those that only some formats have are left out where they are missing.

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
            meaning = registers.decode(vcpu, name, mode, user_half, symbolize)
            yield RegisterFacts(name, value, meaning)


def unknown_kernel_facts(machine: Machine) -> KernelFacts:
    """Returns what is known without a kernel: how the first vCPU that pages does so."""
    for vcpu in machine.vcpus:
        mode, tables = find_paging(machine.memory.read, vcpu)
        cr3 = vcpu.get("cr3")
        if mode is not None and mode is not PagingMode.OFF and cr3 is not None:
            return KernelFacts(mode, page_map=tables.root if tables else mode.root(cr3))
    # Paging is known to be off if every vCPU has the registers that tell.
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
