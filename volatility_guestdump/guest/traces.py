# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The trace that the kernel printed when it panicked, held against the stack in memory."""

import enum
import re
from collections.abc import Sequence
from difflib import SequenceMatcher
from typing import NamedTuple, Optional

from volatility_guestdump.linux.stacks.frames import Frame, NoteKind
from volatility_guestdump.linux.state.log import is_panic
from volatility_guestdump.linux.state.printk import Record
from volatility_guestdump.linux.state.timekeeper import NANOSECONDS

#: Where a trace ends at the latest: the end of a panic or an oops, and what comes between that and
#: the trace: modules, in front of which registers are printed again, and traces of other CPUs.
_ENDS = ("---[ end ", "Modules linked in:", "Sending NMI from CPU ", "NMI backtrace for cpu ")
#: "panic+0x118/0x2f4", "th_hung+0x11/0x20 [crashme]", "RIP: 0010:native_safe_halt+0xb/0x10"; one
#: after "? " was only found on the stack.
_FRAME = re.compile(
    r"\s*(?:RIP: 0010:)?([^\s?][^\s+]*\+0x[0-9a-f]+)/0x[0-9a-f]+( \[[^\]]+\])?(?: \S+)?\s*"
)
_STARTS = ("Call Trace:", "Call trace:")
_LONGEST = 200

#: The message of a panic that an oops led to. It says nothing of the oops.
AFTER_OOPS = "Fatal exception"
#: What an oops begins with: "Oops: 0010 [#1] PREEMPT SMP", "general protection fault, ...: 0000
#: [#1]"; from 6.10 on always "Oops: ".
_OOPS = re.compile(r"(?:Oops: )?(\S.*?): [0-9a-f]{4} \[#\d+\]")
#: What stands some lines before, if that says more.
_OOPS_CAUSE = re.compile(r"BUG: (?:unable to handle|kernel NULL pointer) .*|kernel BUG at .*")
_CAUSE_LINES = 6
#: An oops leads to a panic at once; a serial console may take its time for each line.
_OOPS_SECONDS = 60

#: What ends a kernel. vpanic is there from 6.16 on.
_PANIC_FUNCTIONS = frozenset({"panic", "vpanic", "nmi_panic"})
#: What calls them at the end of an oops; what was at fault is below the exception then.
_OOPS_FUNCTIONS = frozenset({"oops_end", "make_task_dead", "do_exit"})


class Incomparable(enum.Enum):
    """Why two traces cannot be compared."""

    NOT_PRINTED = "not printed"
    NO_STACK = "no stack"
    NOT_THROUGH_PANIC = "not through panic()"
    FAILED = "failed"


class Comparison(NamedTuple):
    """Two traces against each other.

    Attributes:
        in_log: for each frame of the stack, whether the kernel's trace has it; empty where the
            two cannot be compared.
        in_stack: for each frame of the kernel's trace, whether the stack has it; likewise.
        same: how many frames below panic() are the same.
        incomparable: why the two cannot be compared; None when they can.
    """

    in_log: Sequence[bool] = ()
    in_stack: Sequence[bool] = ()
    same: int = 0
    incomparable: Optional[Incomparable] = None

    @property
    def differences(self) -> int:
        """How many frames are in one of the two alone."""
        return list(self.in_log).count(False) + list(self.in_stack).count(False)


def panic_trace(records: Sequence[Record]) -> list[str]:
    """Returns the trace that belongs to the last panic in a log, as "symbol+0xoffset" each.

    panic() prints it behind its message, but none where there was an oops before. Where it was the
    oops that led to the panic, the trace is that of the oops.
    """
    before, behind = _around_panic(records)
    found = _last_oops(before)
    return _first_trace(behind) or ([] if found is None else _first_trace(before[found[0] :]))


def oops(records: Sequence[Record]) -> str:
    """Returns what the kernel said of the oops that led to the last panic; empty when nothing."""
    lines, _ = _around_panic(records)
    found = _last_oops(lines)
    if found is None:
        return ""
    at, name = found
    before = lines[max(0, at - _CAUSE_LINES) : at]
    return next(filter(_OOPS_CAUSE.fullmatch, reversed(before)), name)


def _around_panic(records: Sequence[Record]) -> tuple[list[str], list[str]]:
    """Returns the kernel's own lines before the last panic's message, and behind it.

    Of those before only recent ones can tell of an oops that led to it. Without a panic there are
    no lines.
    """
    own = [record for record in records if not record.facility]
    at = max((number for number, record in enumerate(own) if is_panic(record)), default=None)
    if at is None:
        return [], []
    since = own[at].nanoseconds - _OOPS_SECONDS * NANOSECONDS
    recent = [record for record in own[:at] if record.nanoseconds >= since]
    return _lines(recent), _lines(own[at + 1 :])


def _lines(records: Sequence[Record]) -> list[str]:
    return [line for record in records for line in record.lines]


def _last_oops(lines: Sequence[str]) -> Optional[tuple[int, str]]:
    """Returns where the last oops begins among some lines, and what it is called, or None."""
    for at in reversed(range(len(lines))):
        match = _OOPS.match(lines[at])
        if match:
            return at, match[1]
    return None


def _first_trace(lines: Sequence[str]) -> list[str]:
    """Returns the frames of the first trace among some lines; none where an end comes first."""
    found: list[str] = []
    started = False
    for line in lines:
        if line.startswith(_ENDS) or len(found) >= _LONGEST:
            break
        match = _FRAME.fullmatch(line) if started else None
        if match:
            found.append(match[1] + (match[2] or ""))
        started = started or line.strip() in _STARTS
    return found


def compare(frames: Sequence[Frame], log: Sequence[str]) -> Comparison:
    """Holds a stack against the kernel's own trace.

    Above the call of panic() the two differ by nature: the trace is printed from there, and after
    it the CPU goes on.
    """
    stack = [frame.symbol for frame in frames]
    if not log:
        return Comparison(incomparable=Incomparable.NOT_PRINTED)
    if not stack:
        return Comparison(incomparable=Incomparable.NO_STACK)
    first, first_log = _below_panic(stack), _below_panic(log)
    if not first or not first_log:
        return Comparison(incomparable=Incomparable.NOT_THROUGH_PANIC)
    in_log, in_stack = [True] * len(stack), [True] * len(log)
    matcher = SequenceMatcher(None, stack[first:], log[first_log:], autojunk=False)
    for tag, start, end, log_start, log_end in matcher.get_opcodes():
        if tag != "equal":
            in_log[first + start : first + end] = [False] * (end - start)
            in_stack[first_log + log_start : first_log + log_end] = [False] * (log_end - log_start)
    return Comparison(in_log, in_stack, len(stack) - first - in_log.count(False))


def _below_panic(trace: Sequence[str]) -> int:
    """Returns the number of the frame that called panic(), or 0."""
    calls = [number for number, symbol in enumerate(trace) if _function(symbol) in _PANIC_FUNCTIONS]
    return calls[-1] + 1 if calls else 0


def _function(symbol: str) -> str:
    return re.split(r"[+.]", symbol, maxsplit=1)[0]


def culprit(frames: Sequence[Frame]) -> str:
    """Returns where the fault was that made the kernel panic; empty when it cannot be told."""
    start = _below_panic([frame.symbol for frame in frames])
    below = frames[start:] if start else ()
    if below and _function(below[0].symbol) in _OOPS_FUNCTIONS:
        border = next(
            (at for at, frame in enumerate(below) if _has(frame, NoteKind.EXCEPTION)), None
        )
        below = () if border is None else below[border + 1 :]
    if not below or below[0].symbol or below[0].ip is None:
        return below[0].symbol if below else ""
    caller = next((frame.symbol for frame in below[1:] if frame.symbol), "")
    return f"{below[0].ip:#x}" + f", called by {caller}" * bool(caller)


def interrupt(frames: Sequence[Frame]) -> str:
    """Returns "an NMI" or "an interrupt" when a stack is of code that runs in one, else ""."""
    for frame in frames:
        if _has(frame, NoteKind.INTERRUPT):
            return "an NMI" if "nmi" in _function(frame.symbol) else "an interrupt"
        if _has(frame, NoteKind.SYSTEM_CALL):
            break
    return ""


def _has(frame: Frame, kind: NoteKind) -> bool:
    return any(note.kind is kind for note in frame.notes)
