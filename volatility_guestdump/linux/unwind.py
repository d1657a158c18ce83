"""Backtraces: from a vCPU's registers, or a task's saved stack pointer, down the kernel's stack.

Each step applies the ORC entry of the code to the registers, as the kernel's own unwinder does
when it panics (arch/x86/kernel/unwind_orc.c):

    CFA     sp_reg + sp_offset; for the indirect ones *(rbp + sp_offset) or *(rsp) + sp_offset
    call    the return address lies below the CFA, and the CFA is the caller's stack pointer
    registers, interrupt frame
            the CFA is a struct pt_regs, or the part of it that the CPU pushes: an interrupt or
            exception came between, and what it interrupted goes on from these registers
    rbp     at CFA + bp_offset or rbp + bp_offset, or as it was

A return address is looked up by the byte before it, for a call at the end of a function returns
behind it; an address from registers by itself.

Code that ORC does not describe, and a kernel without ORC, is walked by frame pointers, as far as
they lead upwards: rbp points to the caller's rbp with the return address above it.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, BtfError, OrcError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.orc import Entry, OrcTable, Register, Type
from volatility_guestdump.linux.tasks import Task, Tasks
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86 import pt_regs
from volatility_guestdump.x86.paging import CR0_PG

#: A kernel stack has 16 KiB; a deeper trace than this runs in circles.
MAXIMUM_FRAMES = 1024

USER_MODE = "user mode"
ONLY_64_BIT = "only the stacks of 64-bit kernels can be unwound"
NOT_STARTED = "paging is off: the kernel has not started this CPU"
SYSTEM_CALL = "system call"
INTERRUPT = "interrupt"
EXCEPTION = "exception"

_WORD = 8
_MASK = (1 << 64) - 1

#: What kretprobes put where a return address was, up to 5.15, from 5.16 (adf8a61a940c) and from
#: 5.18 (f3a112c0c40d) on, and what the function graph tracer puts there.
_TRAMPOLINES = (
    *("kretprobe_trampoline", "__kretprobe_trampoline", "arch_rethook_trampoline"),
    "return_to_handler",
)
#: Of struct pt_regs, the registers that ORC refers to, and what tells where it goes on.
_SAVED = ("r13", "rbp", "r10", "rax", "rdx", "rdi", "rip", "cs", "rsp")
#: Of these, what the CPU pushes by itself.
_PUSHED = ("rip", "cs", "rsp")

#: How code with frame pointers is described, "push %rbp; mov %rsp, %rbp".
_FRAME_POINTER = Entry(Type.CALL, Register.BP, 16, Register.PREV_SP, -16)
#: What a call through a null pointer leaves: nothing but the return address.
_NULL_CALL = Entry(Type.CALL, Register.SP, 8, Register.UNDEFINED, 0)


class Frame(NamedTuple):
    """A frame of a backtrace.

    Attributes:
        sp: the stack pointer in it.
        ip: the instruction pointer, or the return address.
        symbol: where that is, "vfs_write+0xe6"; empty when it is in no known code.
        note: what changes here, or why the trace ends.
    """

    sp: int
    ip: int
    symbol: str
    note: str


class _State(NamedTuple):
    """The registers of a frame as far as they are known.

    Attributes:
        exact: whether ip is where the CPU was, and not a return address.
        registers: others than these three, where an interrupt or a vCPU left them.
    """

    ip: int
    sp: int
    bp: int
    exact: bool
    registers: Mapping[str, int]


class _EndOfTraceError(Exception):
    """Nothing lies below a frame; the text is for its note, and empty at the proper end."""


class Unwinder:
    """Backtraces in one kernel.

    Args:
        kernel: whose stacks are unwound; without types it has no modules and no tasks.
    """

    def __init__(self, kernel: LinuxKernel) -> None:
        self._kernel = kernel
        self._orc: Optional[OrcTable] = None
        #: Why there is no ORC; empty when there is.
        self.orc_missing = ""
        try:
            self._orc = kernel.orc
        except OrcError as error:
            self.orc_missing = str(error)
        self._trampolines = {kernel.address(name) for name in _TRAMPOLINES} - {None}

    def of_vcpu(self, vcpu: VCPU) -> Iterator[Frame]:
        """Yields the frames of what a vCPU runs, the innermost first."""
        state = _State(vcpu["rip"], vcpu["rsp"], vcpu["rbp"], True, vcpu.registers)
        if not vcpu["cr0"] & CR0_PG:
            yield Frame(state.sp, state.ip, "", NOT_STARTED)
            return
        if vcpu["cs"] & 3 == 3:
            yield Frame(state.sp, state.ip, "", USER_MODE)
            return
        if self._kernel.bits != 64:
            yield Frame(state.sp, state.ip, self.symbolize(state.ip, True), ONLY_64_BIT)
            return
        yield from self._frames(state)

    def of_task(self, tasks: Tasks, task: Task) -> Iterator[Frame]:
        """Yields the frames of a task that no CPU runs, from where it was switched away."""
        try:
            btf = self._kernel.btf
            start = tasks.stack_pointer(task)
            pointer, offset = self._kernel.pointer, btf.offset
            ip = pointer(start + offset("inactive_task_frame", "ret_addr"))
            bp = pointer(start + offset("inactive_task_frame", "bp"))
            size = btf.size_of("inactive_task_frame")
        except (AddressError, BtfError) as error:
            yield Frame(0, 0, "", f"no saved stack: {error}")
            return
        # A task that has never run "returns" to the start of ret_from_fork.
        fresh = ip in (
            self._kernel.address("ret_from_fork"),
            self._kernel.address("ret_from_fork_asm"),
        )
        yield from self._frames(_State(ip, start + size, bp, fresh, {}))

    def symbolize(self, address: int, exact: bool) -> str:
        """Returns the name of a place in code; of a return address it is that of the call."""
        place = address if exact else address - 1
        found = self._kernel.locate(place)
        if found is None and self._kernel.modules is not None:
            found = self._kernel.modules.locate(place)
        if found is None:
            return ""
        return str(found._replace(offset=found.offset + address - place))

    def _frames(self, state: _State) -> Iterator[Frame]:
        seen = set()
        for _ in range(MAXIMUM_FRAMES):
            # It is the first byte of a trampoline then, which no call returns to.
            replaced = not state.exact and state.ip in self._trampolines
            symbol = self.symbolize(state.ip, state.exact or replaced)
            position = (state.sp, state.ip)
            if position in seen:
                yield Frame(state.sp, state.ip, symbol, "the stack runs in a circle")
                return
            seen.add(position)
            try:
                if replaced:
                    raise _EndOfTraceError("a tracer replaced the return address")
                after, note = self._step(state, symbol)
            except _EndOfTraceError as end:
                yield Frame(state.sp, state.ip, symbol, str(end))
                return
            except AddressError as error:
                yield Frame(
                    state.sp,
                    state.ip,
                    symbol,
                    f"the stack at {error.address:#x} is not in the dump",
                )
                return
            yield Frame(state.sp, state.ip, symbol, note)
            state = after
        yield Frame(state.sp, state.ip, "", f"more than {MAXIMUM_FRAMES} frames")

    def _entry(self, state: _State) -> tuple[Entry, str]:
        """Returns how to step from a frame, and a note if that is not by ORC."""
        if not state.ip:
            return _NULL_CALL, ""
        place = state.ip if state.exact else state.ip - 1
        table = self._orc
        if not self._kernel.virtual_base <= place < self._kernel.virtual_end:
            modules = self._kernel.modules
            table = modules.orc_table(place) if modules is not None else None
        try:
            entry = table.find(place) if table is not None else None
        except OrcError as error:
            raise _EndOfTraceError(str(error)) from error
        if entry is not None:
            return entry, ""
        # Code that was generated, of BPF for one, and all of a kernel without ORC.
        return _FRAME_POINTER, f"by frame pointer: {self.orc_missing or 'no ORC for this code'}"

    def _step(self, state: _State, symbol: str) -> tuple[_State, str]:
        """Returns the state of the caller, and a note on the frame that it was called from.

        Raises:
            _EndOfTraceError: there is no caller.
            AddressError: the stack is not in the dump.
        """
        entry, note = self._entry(state)
        if entry is _FRAME_POINTER and state.bp & 1:
            # Kernels with frame pointers mark those that point to registers.
            entry = entry._replace(type=Type.REGISTERS, sp_offset=-1, bp_reg=Register.UNDEFINED)
        if entry.type is Type.END_OF_STACK:
            raise _EndOfTraceError(_border(symbol))
        if entry.type is Type.UNDEFINED:
            raise _EndOfTraceError("ORC has nothing for this code")
        cfa = self._cfa(state, entry)
        if entry.type is Type.CALL:
            if cfa <= state.sp and (entry.sp_reg is Register.SP or note):
                raise _EndOfTraceError("the stack does not lead upwards")
            after = _State(self._word(cfa - _WORD), cfa, state.bp, False, {})
        else:
            note = _border(symbol) or EXCEPTION
            after = self._interrupted(state, entry, cfa, note)
        if entry.bp_reg is Register.PREV_SP:
            after = after._replace(bp=self._word(cfa + entry.bp_offset))
        elif entry.bp_reg is Register.BP:
            after = after._replace(bp=self._word(state.bp + entry.bp_offset))
        if note.startswith("by frame pointer") and not self.symbolize(after.ip, after.exact):
            raise _EndOfTraceError(f"{note}, which leads to no known code")
        return after, note

    def _cfa(self, state: _State, entry: Entry) -> int:
        """Returns the canonical frame address."""
        register, offset = entry.sp_reg, entry.sp_offset
        if register is Register.SP:
            cfa = state.sp + offset
        elif register is Register.BP:
            cfa = state.bp + offset
        elif register is Register.SP_INDIRECT:
            cfa = self._word(state.sp) + offset
        elif register is Register.BP_INDIRECT:
            cfa = self._word(state.bp + offset)
        elif register.value in state.registers:
            cfa = state.registers[register.value] + offset
        else:
            raise _EndOfTraceError(f"{register.value}, which leads to the caller, is not known")
        return cfa & _MASK

    def _interrupted(self, state: _State, entry: Entry, cfa: int, note: str) -> _State:
        """Returns the state of what was interrupted.

        Raises:
            _EndOfTraceError: that was user code.
        """
        names: Sequence[str] = _SAVED
        first = 0
        if entry.type is Type.INTERRUPT_FRAME:
            names, first = _PUSHED, pt_regs.INTERRUPT_FRAME
        data = self._kernel.read(cfa, pt_regs.SIZE - first)
        saved = {
            name: int.from_bytes(data[at : at + _WORD], "little")
            for name, at in ((name, pt_regs.OFFSETS[name] - first) for name in names)
        }
        if not saved["cs"]:
            # The registers of a thread that has never been in user mode.
            raise _EndOfTraceError("")
        if saved["cs"] & 3 == 3:
            raise _EndOfTraceError(note)
        registers = {**state.registers, **saved}
        return _State(saved["rip"], saved["rsp"], saved.get("rbp", state.bp), True, registers)

    def _word(self, address: int) -> int:
        return self._kernel.pointer(address & _MASK)


def _border(symbol: str) -> str:
    """Returns what brings the CPU to a place, if that is an entry into the kernel."""
    name = symbol.partition("+")[0].lower()
    if name.startswith(("entry_", "int80_", "do_syscall", "syscall_")) or "int80" in name:
        return SYSTEM_CALL
    if not name.startswith(("asm_", "nmi", "end_repeat_nmi", "first_nmi", "error_", "common_int")):
        return "" if "interrupt" not in name else INTERRUPT
    if "nmi" in name or "interrupt" in name or "sysvec" in name or "irq" in name:
        return INTERRUPT
    return EXCEPTION
