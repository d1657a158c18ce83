# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
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

Compiled BPF, and a kernel without ORC, is walked by frame pointers; where the CPU was stopped
before the code had set rbp, or after it had taken it back, its instructions tell.

Where the CPU was stopped outside of all code, after a call through a bad pointer, and at the first
instruction of code that has no description, nothing but the return address has been pushed.

What is no return address is no frame: one must lie in code, and on the stack of the task.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, OrcError, TypesError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.frames import Frame, Note, NoteKind
from volatility_guestdump.linux.stacks.instructions import (
    FRAME_POINTER,
    RETURN_ADDRESS,
    Instructions,
)
from volatility_guestdump.linux.stacks.orc import Entry, OrcTable, Register, Type
from volatility_guestdump.linux.stacks.returns import ReplacedReturns
from volatility_guestdump.linux.state.tasks import Task, Tasks
from volatility_guestdump.linux.types.reading import Structures
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86 import pt_regs
from volatility_guestdump.x86.paging import CR0_PG

#: A kernel stack has 16 KiB; a deeper trace than this runs in circles.
MAXIMUM_FRAMES = 1024

_WORD = 8
_MASK = (1 << 64) - 1
#: Selectors have 16 bits; with FRED what lies above them is something else.
_SELECTOR_MASK = 0xFFFF
#: __KERNEL_CS of 64-bit kernels.
_KERNEL_CS = 0x10

#: Of struct pt_regs, the registers that ORC refers to, and what tells where it goes on.
_SAVED = ("r13", "rbp", "r10", "rax", "rdx", "rdi", "rip", "cs", "rsp")
#: Of these, what the CPU pushes by itself.
_PUSHED = ("rip", "cs", "rsp")

_MOVE_RAX_TO_RSP = b"\x48\x89\xc4"

#: Notes on places that a call is supposed to have led to.
_SUPPOSED = frozenset((NoteKind.NOT_CODE, NoteKind.FIRST_INSTRUCTION, NoteKind.FRAME_POINTER))

#: Where threads of the kernel and CPUs begin. ORC up to 6.3 says of all code that it does not
#: describe that it is the end of the stack.
_BEGINNINGS = frozenset(
    (
        *(
            "ret_from_fork",
            "ret_from_fork_asm",
            "rewind_stack_and_make_dead",
            "rewind_stack_do_exit",
        ),
        *("secondary_startup_64", "secondary_startup_64_no_verify", "common_startup_64"),
        *("startup_64", "start_cpu0", "soft_restart_cpu"),
    )
)
#: What error_entry ends with from 5.18 on: a jump to a function that is given the saved registers,
#: and returns where they are now. The kernel's entry code calls error_entry before it has them on
#: its stack as ORC knows it, so of the return address ORC says what was true before the call.
_GIVEN_REGISTERS = frozenset(("sync_regs", "fixup_bad_iret"))
#: The functions in which a CPU waits that was taken offline (arch/x86/kernel/smpboot.c).
_PLAY_DEAD = frozenset(("hlt_play_dead", "mwait_play_dead", "native_play_dead"))


class _State(NamedTuple):
    """The registers of a frame as far as they are known.

    Attributes:
        bp: None where code may have changed it that tells nothing of that.
        exact: whether ip is where the CPU was, and not a return address.
        registers: others than these three, where an interrupt or a vCPU left them.
        found_by: how the frame was found, where that is to be said.
    """

    ip: int
    sp: int
    bp: Optional[int]
    exact: bool
    registers: Mapping[str, int]
    found_by: tuple[Note, ...] = ()


class _Stack(NamedTuple):
    """Whose stack is unwound, as far as that is known.

    Attributes:
        task: address of the task_struct.
        bounds: of its stack, where all frames must lie on that.
    """

    task: Optional[int] = None
    bounds: Optional[range] = None


class _EndOfTraceError(Exception):
    """Nothing lies below a frame.

    Attributes:
        notes: why; none at the proper end.
    """

    def __init__(self, *notes: Note) -> None:
        super().__init__()
        self.notes = notes


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
        self._returns = ReplacedReturns(kernel)
        self._instructions = Instructions(kernel)

    def of_vcpu(self, vcpu: VCPU, task: Optional[int] = None) -> Iterator[Frame]:
        """Yields the frames of what a vCPU runs, the innermost first.

        Args:
            vcpu: whose registers they start from.
            task: address of the task_struct that it runs, where that is known: it tells which
                return addresses tracers replaced.
        """
        cr0 = vcpu.get("cr0")
        only: Optional[NoteKind] = None
        if cr0 is not None and not cr0 & CR0_PG:
            only = NoteKind.NOT_STARTED
        elif self._kernel.runs_on(vcpu) is False:
            only = NoteKind.OTHER_KERNEL
        elif vcpu.ring == 3:
            only = NoteKind.USER_MODE
        if only is not None:
            yield Frame(vcpu.get("rsp"), vcpu.get("rip"), "", (Note(only),))
            return
        yield from self.of_registers(vcpu.registers, task)

    def of_registers(
        self, registers: Mapping[str, int], task: Optional[int] = None, *notes: Note
    ) -> Iterator[Frame]:
        """Yields the frames of what a CPU did when it had these registers.

        Args:
            registers: of a CPU that ran the kernel, as far as they are known.
            task: as in `of_vcpu`.
            *notes: of the innermost frame.
        """
        ip, sp, cs = (registers.get(name) for name in ("rip", "rsp", "cs"))
        if ip is None or sp is None:
            lacking = " and ".join(name.upper() for name in ("rip", "rsp") if name not in registers)
            symbol = "" if ip is None else self.symbolize(ip, True)
            yield Frame(sp, ip, symbol, (*notes, Note(NoteKind.LACKS_REGISTERS, detail=lacking)))
            return
        state = _State(ip, sp, registers.get("rbp"), True, registers, notes)
        if self._kernel.bits != 64:
            symbol = self.symbolize(state.ip, True)
            yield Frame(state.sp, state.ip, symbol, (*notes, Note(NoteKind.ONLY_64_BIT)))
            return
        # The lower half of the addresses is the user's: without CS the one of RIP tells.
        if not ip >> 63 if cs is None else cs & 3 == 3:
            yield Frame(state.sp, state.ip, "", (*notes, Note(NoteKind.USER_MODE)))
            return
        yield from self._frames(state, _Stack(task))

    def of_task(self, tasks: Tasks, task: Task) -> Iterator[Frame]:
        """Yields the frames of a task that no CPU runs, from where it was switched away."""
        start: Optional[int] = None
        try:
            bounds = tasks.stack(task)
            if bounds is None:
                yield Frame(None, None, "", (Note(NoteKind.EXITED),))
                return
            start = tasks.stack_pointer(task)
            kind = Structures(self._kernel, self._kernel.require_types(), "inactive_task_frame")
            size, saved = kind.size, kind.at(start)
            if not bounds.start <= start <= bounds.stop - size:
                yield Frame(None, None, "", (Note(NoteKind.SP_ELSEWHERE, start),))
                return
            ip, bp = saved.integer("ret_addr"), saved.integer("bp")
        except (AddressError, TypesError) as error:
            yield Frame(None, None, "", (Note(NoteKind.NO_STACK, start, str(error)),))
            return
        # A task that has never run "returns" to the start of ret_from_fork.
        fresh = ip in (
            self._kernel.address("ret_from_fork"),
            self._kernel.address("ret_from_fork_asm"),
        )
        if not self._kernel.is_code(ip):
            yield Frame(None, None, "", (Note(NoteKind.NO_RETURN_ADDRESS, ip),))
            return
        yield from self._frames(
            _State(ip, start + size, bp, fresh, {}), _Stack(task.address, bounds)
        )

    def symbolize(self, address: int, exact: bool) -> str:
        """Returns the name of a place in code; of a return address it is that of the call."""
        place = address if exact else address - 1
        found = self._instructions.locate(place)
        if found is None:
            return ""
        return str(found._replace(offset=found.offset + address - place))

    def _frames(self, state: _State, stack: _Stack) -> Iterator[Frame]:
        seen = set()
        offline = False
        for _ in range(MAXIMUM_FRAMES):
            tracer = self._returns.tracer(state.ip)
            # It is the first byte of a tracer's code then, which no call returns to.
            symbol = self.symbolize(state.ip, state.exact or tracer is not None)
            notes = list(state.found_by)
            if not offline and symbol.partition("+")[0] in _PLAY_DEAD:
                offline = True
                notes.append(Note(NoteKind.OFFLINE))
            position = (state.sp, state.ip)
            after: Optional[_State] = None
            try:
                if position in seen:
                    raise _EndOfTraceError(Note(NoteKind.CIRCLE))
                seen.add(position)
                if tracer is None:
                    after, note = self._step(state, symbol)
                    notes += filter(None, (note,))
                elif state.exact:
                    # The "ret" that led here has just taken this address off the stack.
                    after = state._replace(exact=False, registers={}, found_by=())
                if after is not None:
                    after = self._checked(after, stack)
                if after is None or (tracer is not None and after.ip == state.ip):
                    raise _EndOfTraceError(Note(NoteKind.REPLACED))
            except _EndOfTraceError as end:
                after = None
                notes += end.notes
            except AddressError as error:
                after = None
                notes.append(Note(NoteKind.NOT_IN_DUMP, error.address))
            yield Frame(state.sp, state.ip, symbol, tuple(notes))
            if after is None:
                return
            state = after
        yield Frame(state.sp, state.ip, "", (Note(NoteKind.TOO_DEEP),))

    def _checked(self, state: _State, stack: _Stack) -> _State:
        """Returns the state of a caller, with the return address that a tracer replaced.

        Raises:
            _EndOfTraceError: it is no caller's.
        """
        bounds = stack.bounds
        if bounds is not None and not bounds.start <= state.sp <= bounds.stop:
            raise _EndOfTraceError(Note(NoteKind.OUTSIDE_STACK, state.sp))
        if state.exact:
            return state
        tracer = self._returns.tracer(state.ip)
        if tracer is not None and stack.task is not None:
            original = self._returns.original(stack.task, state.sp - _WORD)
            if original is not None:
                state = state._replace(ip=original, found_by=(Note(tracer),))
        if not self._kernel.is_code(state.ip - 1):
            raise _EndOfTraceError(Note(NoteKind.NO_RETURN_ADDRESS, state.ip))
        return state

    def _entry(self, state: _State, symbol: str) -> tuple[Entry, Optional[Note]]:
        """Returns how to step from a frame, and a note if that is not by ORC.

        Raises:
            _EndOfTraceError: there is no caller, or nothing tells where it is.
        """
        place = state.ip if state.exact else state.ip - 1
        if state.exact and not self._kernel.is_code(place):
            return RETURN_ADDRESS, Note(NoteKind.NOT_CODE)
        table = self._orc
        note = None
        if not self._kernel.virtual_base <= place < self._kernel.virtual_end:
            generated, modules = self._kernel.generated, self._kernel.modules
            trampoline = generated.trampoline(place) if generated is not None else None
            if trampoline is None:
                table = modules.orc_table(place) if modules is not None else None
            elif trampoline.source is None:
                raise _EndOfTraceError(Note(NoteKind.UNDESCRIBED))
            else:
                place += trampoline.source - trampoline.start
                note = Note(NoteKind.TRAMPOLINE)
        try:
            entry = table.find(place) if table is not None else None
        except OrcError as error:
            raise _EndOfTraceError(Note(NoteKind.DAMAGED_ORC, detail=str(error))) from error
        if entry is None:
            return self._frame_pointer(state, symbol)
        if entry.type in (Type.END_OF_STACK, Type.UNDEFINED):
            return self._undescribed(state, symbol)
        return entry, note

    def _undescribed(self, state: _State, symbol: str) -> tuple[Entry, Note]:
        """Returns how to step from code that ORC does not describe.

        Raises:
            _EndOfTraceError: no caller can be told, or there is none.
        """
        if _is_beginning(symbol):
            raise _EndOfTraceError
        border = _border(symbol)
        if border is not None:
            raise _EndOfTraceError(Note(border))
        start = self._start(state)
        if state.exact and start == state.ip:
            return RETURN_ADDRESS, Note(NoteKind.FIRST_INSTRUCTION)
        depth = None if start is None else self._instructions.call_on_stack(start, state.sp)
        if depth is None:
            raise _EndOfTraceError(Note(NoteKind.UNDESCRIBED))
        return RETURN_ADDRESS._replace(sp_offset=depth + _WORD), Note(NoteKind.CALL_FOUND)

    def _start(self, state: _State) -> Optional[int]:
        """Returns where the function begins that a frame is of, or None."""
        return self._instructions.start(state.ip if state.exact else state.ip - 1)

    def _frame_pointer(self, state: _State, symbol: str) -> tuple[Entry, Note]:
        """Returns how to step from code that has frame pointers, and no other description.

        Raises:
            _EndOfTraceError: a thread began there.
        """
        if _is_beginning(symbol):
            raise _EndOfTraceError
        note = Note(NoteKind.FRAME_POINTER, detail=self.orc_missing)
        if state.bp is not None and state.bp & 1:
            # Kernels with frame pointers mark those that point to registers.
            entry = FRAME_POINTER._replace(
                type=Type.REGISTERS, sp_offset=-1, bp_reg=Register.UNDEFINED
            )
            return entry, note
        start = self._start(state) if state.exact else None
        return FRAME_POINTER if start is None else self._instructions.frame(state.ip, start), note

    def _step(self, state: _State, symbol: str) -> tuple[_State, Optional[Note]]:
        """Returns the state of the caller, and a note on the frame that it was called from.

        Raises:
            _EndOfTraceError: there is no caller.
            AddressError: the stack is not in the dump.
        """
        state = self._moved(state)
        entry, note = self._entry(state, symbol)
        kind = None if note is None else note.kind
        how = filter(None, (note,))
        cfa = self._cfa(state, entry)
        if entry.type is Type.CALL:
            if cfa <= state.sp and (entry.sp_reg is Register.SP or note is not None):
                raise _EndOfTraceError(*how, Note(NoteKind.DOWNWARDS))
            given = {"rax": cfa} if symbol.partition("+")[0] in _GIVEN_REGISTERS else {}
            after = _State(self._word(cfa - _WORD), cfa, state.bp, False, given)
            # After a "ret" on a stack that was overwritten, no call has led there.
            if kind in _SUPPOSED and not self._instructions.may_follow_call(after.ip):
                raise _EndOfTraceError(*how, Note(NoteKind.NO_RETURN_ADDRESS, after.ip))
        else:
            note = Note(_border(symbol) or NoteKind.EXCEPTION)
            after = self._interrupted(state, entry, cfa, note, _is_beginning(symbol))
        if entry.bp_reg is Register.PREV_SP:
            after = after._replace(bp=self._word(cfa + entry.bp_offset))
        elif entry.bp_reg is Register.BP:
            after = after._replace(bp=self._word(_known_bp(state) + entry.bp_offset))
        elif kind is NoteKind.CALL_FOUND and self._instructions.may_change_bp(self._start(state)):
            after = after._replace(bp=None)
        return after, note

    def _moved(self, state: _State) -> _State:
        """Returns the state one instruction later where that is "mov %rax, %rsp".

        Exceptions and interrupts enter so once error_entry has saved the registers, and ORC says
        from behind it on where these are (idtentry_body in arch/x86/entry/entry_64.S).
        """
        sp = state.registers.get("rax")
        if sp is None:
            return state
        try:
            code = self._kernel.read(state.ip, len(_MOVE_RAX_TO_RSP))
        except AddressError:
            return state
        if code != _MOVE_RAX_TO_RSP:
            return state
        return state._replace(ip=state.ip + len(code), sp=sp, exact=True)

    def _cfa(self, state: _State, entry: Entry) -> int:
        """Returns the canonical frame address."""
        register, offset = entry.sp_reg, entry.sp_offset
        if register is Register.SP:
            cfa = state.sp + offset
        elif register is Register.BP:
            cfa = _known_bp(state) + offset
        elif register is Register.SP_INDIRECT:
            cfa = self._word(state.sp) + offset
        elif register is Register.BP_INDIRECT:
            cfa = self._word(_known_bp(state) + offset)
        elif register.value in state.registers:
            cfa = state.registers[register.value] + offset
        else:
            raise _EndOfTraceError(Note(NoteKind.UNKNOWN_REGISTER, detail=register.value))
        return cfa & _MASK

    def _interrupted(
        self, state: _State, entry: Entry, cfa: int, note: Note, is_beginning: bool
    ) -> _State:
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
        selector = saved["cs"] & _SELECTOR_MASK
        if is_beginning and not any(saved.values()):
            # The registers of a thread that has never been in user mode.
            raise _EndOfTraceError
        if selector & 3 == 3:
            raise _EndOfTraceError(note)
        if selector != _KERNEL_CS:
            raise _EndOfTraceError(note, Note(NoteKind.BAD_REGISTERS, cfa))
        registers = {**state.registers, **saved}
        return _State(saved["rip"], saved["rsp"], saved.get("rbp", state.bp), True, registers)

    def _word(self, address: int) -> int:
        return self._kernel.pointer(address & _MASK)


def _known_bp(state: _State) -> int:
    if state.bp is None:
        raise _EndOfTraceError(Note(NoteKind.UNKNOWN_REGISTER, detail="rbp"))
    return state.bp


def _is_beginning(symbol: str) -> bool:
    """Whether a thread of the kernel, or a CPU, began at a place."""
    return symbol.partition("+")[0] in _BEGINNINGS


def _border(symbol: str) -> Optional[NoteKind]:
    """Returns what brings the CPU to a place, if that is an entry into the kernel."""
    name = symbol.partition("+")[0].lower()
    if name.startswith(("entry_", "int80_", "do_syscall", "syscall_")) or "int80" in name:
        return NoteKind.SYSTEM_CALL
    if not name.startswith(("asm_", "nmi", "end_repeat_nmi", "first_nmi", "error_", "common_int")):
        return None if "interrupt" not in name else NoteKind.INTERRUPT
    if "nmi" in name or "interrupt" in name or "sysvec" in name or "irq" in name:
        return NoteKind.INTERRUPT
    return NoteKind.EXCEPTION
