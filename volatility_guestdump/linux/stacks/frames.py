# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Frames of a backtrace, and what is to be said of them.

A note is a kind with its particulars. The words for it are made where it is shown.
"""

import enum
from typing import NamedTuple, Optional


class NoteKind(enum.Enum):
    """What a note says of a frame."""

    # Why a trace ends well: what lies below is no code of the kernel.
    USER_MODE = enum.auto()
    SYSTEM_CALL = enum.auto()

    # What brought the CPU to another place. It ends the trace when that was user code.
    INTERRUPT = enum.auto()
    EXCEPTION = enum.auto()

    # What else is known of the frame.
    OFFLINE = enum.auto()
    CRASH_NOTES = enum.auto()

    # How the frame was found, other than by its caller's return address and ORC.
    FUNCTION_GRAPH = enum.auto()
    KRETPROBE = enum.auto()
    TRAMPOLINE = enum.auto()

    # How the frame's caller is found, other than by ORC.
    FRAME_POINTER = enum.auto()
    NOT_CODE = enum.auto()
    FIRST_INSTRUCTION = enum.auto()
    CALL_FOUND = enum.auto()

    # Why there is no frame at all, or but one.
    NOT_STARTED = enum.auto()
    LACKS_REGISTERS = enum.auto()
    ONLY_64_BIT = enum.auto()
    OTHER_KERNEL = enum.auto()
    RUNNING = enum.auto()
    EXITED = enum.auto()
    NO_STACK = enum.auto()
    SP_ELSEWHERE = enum.auto()

    # Why a trace ends before its end.
    CIRCLE = enum.auto()
    DOWNWARDS = enum.auto()
    OUTSIDE_STACK = enum.auto()
    NO_RETURN_ADDRESS = enum.auto()
    REPLACED = enum.auto()
    UNDESCRIBED = enum.auto()
    DAMAGED_ORC = enum.auto()
    UNKNOWN_REGISTER = enum.auto()
    BAD_REGISTERS = enum.auto()
    NOT_IN_DUMP = enum.auto()
    TOO_DEEP = enum.auto()


class Note(NamedTuple):
    """Something that is to be said of a frame.

    Attributes:
        kind: what it says.
        address: that it speaks of, if it does of one.
        detail: a name or a reason that belongs to it, or empty.
    """

    kind: NoteKind
    address: Optional[int] = None
    detail: str = ""


class Frame(NamedTuple):
    """A frame of a backtrace.

    Attributes:
        sp: the stack pointer in it; None where there is no stack.
        ip: the instruction pointer, or the return address; None where there is no stack.
        symbol: where that is, "vfs_write+0xe6"; empty when it is in no known code.
        notes: how it was found, what changes here, why the trace ends. The last frame of a trace
            has none only where a thread of the kernel, or a CPU, began.
    """

    sp: Optional[int]
    ip: Optional[int]
    symbol: str
    notes: tuple[Note, ...] = ()
