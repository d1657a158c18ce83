# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a function's instructions tell of its stack frame, where no table describes it.

Compiled BPF, and kernels without ORC, begin their functions with

    push %rbp           nothing but the return address is on the stack up to here
    mov  %rsp, %rbp     the caller's rbp is on top of it here
    ...                 rbp points to the caller's rbp, with the return address above it
    leave; ret          as at the beginning, from "ret" on

BPF's trampolines have some instructions before these. With speculation held back a jump to a return
thunk stands for "ret".

Code in assembler has nothing of the kind. What remains is that a return address follows a "call".
"""

import re
from typing import TYPE_CHECKING, Optional

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.stacks.orc import Entry, Register, Type

if TYPE_CHECKING:
    from volatility_guestdump.linux.kernel import LinuxKernel

#: Where rbp has been set.
FRAME_POINTER = Entry(Type.CALL, Register.BP, 16, Register.PREV_SP, -16)
#: Where it has been pushed.
_PUSHED_FRAME_POINTER = Entry(Type.CALL, Register.SP, 16, Register.PREV_SP, -16)
#: Where nothing but the return address has been pushed.
RETURN_ADDRESS = Entry(Type.CALL, Register.SP, 8, Register.UNDEFINED, 0)

_SET_FRAME_POINTER = b"\x55\x48\x89\xe5"
_PUSH_BP = b"\x55"
#: What is before them in BPF's trampolines is no longer.
_PROLOGUE = 64

_RET, _CALL, _JMP, _LEAVE = 0xC3, 0xE8, 0xE9, 0xC9
#: Of "call" and "jmp" with an address.
_CALL_SIZE = 5
#: "call" of an address, or of what a register or memory has, in each form of its operand; and the
#: "lretq" by which a CPU enters the kernel's C code, with the address behind it on the stack for
#: unwinders (secondary_startup_64 in arch/x86/kernel/head_64.S; in 5.10 and 6.1, not in 6.12).
_CALLS = re.compile(
    rb"\xe8.{4}\Z|\x48\xcb\Z"
    rb"|\xff(?:[\xd0-\xd7\x10-\x13\x16\x17]|\x15.{4}|\x14.(?:.{4})?"
    rb"|[\x50-\x53\x55-\x57].|\x54..|[\x90-\x93\x95-\x97].{4}|\x94.{5})\Z",
    re.DOTALL,
)
_LONGEST_CALL = 7

#: How far up the stack a return address is looked for.
_SEARCHED_STACK = 1024
_WORD = 8
_MASK = (1 << 64) - 1


class Instructions:
    """The instructions of a kernel, of its modules, and those that it made while it ran.

    Args:
        kernel: whose they are.
    """

    def __init__(self, kernel: "LinuxKernel") -> None:
        self._kernel = kernel

    def locate(self, address: int) -> Optional[Place]:
        """Returns where an address in code is, or None."""
        return self._kernel.locate(address) or self._kernel.locate_loaded(address)

    def start(self, address: int) -> Optional[int]:
        """Returns where the function begins that an address is in, or None."""
        found = self.locate(address)
        return None if found is None else address - found.offset

    def may_follow_call(self, address: int) -> bool:
        """Whether the instruction before an address is a call, as before every return address.

        The code that starts the kernel cannot tell: its memory has been used for something else
        since, but the idle task of the first CPU still has a return address into it.
        """
        start, end = self._kernel.address("_sinittext"), self._kernel.address("_einittext")
        if start is not None and end is not None and start <= address < end:
            return True
        try:
            before = self._kernel.read(address - _LONGEST_CALL, _LONGEST_CALL)
        except AddressError:
            return False
        return _CALLS.search(before) is not None

    def may_change_bp(self, start: Optional[int]) -> bool:
        """Whether a function's first instructions have what could save rbp, to use it itself.

        Args:
            start: of the function, or None where that is not known.
        """
        try:
            return start is None or _PUSH_BP in self._kernel.read(start, _PROLOGUE)
        except AddressError:
            return True

    def frame(self, ip: int, start: int) -> Entry:
        """Returns what is on the stack of a function that sets a frame pointer.

        Args:
            ip: the instruction that would have come next.
            start: of the function.
        """
        try:
            now = self._kernel.read(ip, _CALL_SIZE)
            before = self._kernel.read(ip - 1, 1)
            code = self._kernel.read(start, _PROLOGUE)
        except AddressError:
            return FRAME_POINTER
        if now[0] == _RET or (before[0] == _LEAVE and self._jumps_to_return(ip, now)):
            return RETURN_ADDRESS
        sets = code.find(_SET_FRAME_POINTER)
        if 0 <= ip - start <= sets:
            return RETURN_ADDRESS
        return _PUSHED_FRAME_POINTER if ip == start + sets + 1 and sets >= 0 else FRAME_POINTER

    def _jumps_to_return(self, ip: int, instruction: bytes) -> bool:
        """Whether an instruction is a jump to a return thunk."""
        if instruction[0] != _JMP:
            return False
        place = self.locate(_target(ip + _CALL_SIZE, instruction))
        return place is not None and "return_thunk" in place.symbol

    def call_on_stack(self, start: int, sp: int) -> Optional[int]:
        """Returns how far up the stack the one return address into a caller of a function is.

        Where the function was called by a pointer, or left for by a jump, there is none. Of several
        all but one are left over from earlier calls, and nothing tells which.

        Args:
            start: of the function.
            sp: the stack pointer in it.

        Returns:
            Bytes from the stack pointer, or None where there is not just one.
        """
        found = []
        for depth in range(0, _SEARCHED_STACK, _WORD):
            try:
                address = self._kernel.pointer((sp + depth) & _MASK)
                if not self._kernel.is_code(address - 1):
                    continue
                call = self._kernel.read(address - _CALL_SIZE, _CALL_SIZE)
            except AddressError:
                continue
            if call[0] == _CALL and _target(address, call) == start:
                found.append(depth)
        return found[0] if len(found) == 1 else None


def _target(after: int, instruction: bytes) -> int:
    """Returns where a call or jump leads, from the address behind it."""
    return (after + int.from_bytes(instruction[1:_CALL_SIZE], "little", signed=True)) & _MASK
