# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Stops a guest under load at random moments and checks its traces.

    python -m tests.lab.load RECIPE [RECIPE ...] --stops N [--keep FOLDER] [--append TEXT]

The guest of a recipe is booted with system calls, forks and pipes going on in it, and stopped over
QMP again and again. Each time debug.guest and debug.vmem are written, and the traces of its vCPUs
and of all its tasks are held against what can be told without unwinding:

    end     a trace ends with a note, or where a thread of the kernel or a CPU begins
    early   no note says that the trace ends before its end
    call    what is no exact place is a return address: it follows a call instruction
    callee  that instruction calls the function of the frame above, or one that jumps there, or
            something that only the running CPU knew (a pointer, a thunk)
    bottom  a trace that ends at a border to user code ends at the registers of user mode, which
            are at the very top of the task's stack once the CPU has changed to it

Dumps with a fault are kept in FOLDER. The exit status is 1 when there is one. With --append the
kernel's command line says more, "ftrace=function_graph" for one: tracers replace return addresses.
"""

import argparse
import collections
import dataclasses
import functools
import logging
import pathlib
import random
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

from tests.lab import packages
from tests.lab.errors import LabError
from tests.lab.guests import boot, wait_until_ready
from tests.lab.qemu import Machine
from tests.lab.recipes import GUESTS, STOP, Recipe
from tests.lab.writer import pack_guest, write_vmem
from volatility_guestdump import kernels
from volatility_guestdump.dumps import open_dump
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.frames import Frame, NoteKind
from volatility_guestdump.linux.stacks.stacks import Stack, Stacks

#: No facts are asked for: the guest is ready once it is under load.
LOAD = """\
dd if=/dev/zero of=/dev/null bs=1 &
dd if=/dev/zero of=/written bs=1 count=100000000 &
(while :; do sh -c ':'; done) &
(while :; do cat /proc/version | cat | wc -c; done > /dev/null) &
(while :; do cat /proc/self/maps /proc/interrupts > /dev/null; done) &
(while :; do sleep 0.01; done) &
echo
echo "lab: ready"
while :; do wait; done
"""

#: Seconds that the guest goes on between two stops, at most.
LONGEST_RUN = 1.0

#: Where threads of the kernel and CPUs begin.
_BEGINNINGS = re.compile(
    r"(ret_from_fork(_asm)?|(secondary|common)_startup_64(_no_verify)?|startup_64|start_cpu0)\+"
)
#: Notes with which a trace ends well.
_BORDERS = {NoteKind.USER_MODE, NoteKind.SYSTEM_CALL, NoteKind.INTERRUPT, NoteKind.EXCEPTION}
#: Notes after which the next frame is an exact place.
_INTERRUPTED = {NoteKind.SYSTEM_CALL, NoteKind.INTERRUPT, NoteKind.EXCEPTION}
_ENDS_EARLY = {
    *(
        NoteKind.CIRCLE,
        NoteKind.DOWNWARDS,
        NoteKind.OUTSIDE_STACK,
        NoteKind.NO_RETURN_ADDRESS,
        NoteKind.REPLACED,
    ),
    *(
        NoteKind.UNDESCRIBED,
        NoteKind.DAMAGED_ORC,
        NoteKind.UNKNOWN_REGISTER,
        NoteKind.BAD_REGISTERS,
    ),
    *(NoteKind.NOT_IN_DUMP, NoteKind.TOO_DEEP, NoteKind.NO_STACK, NoteKind.SP_ELSEWHERE),
}

#: "call *..." by a register, or by memory with each form of its address; and the "lretq" with which
#: secondary_startup_64 calls C code.
_INDIRECT_CALL = re.compile(
    rb"\x48\xcb\Z|"
    rb"\xff(?:[\xd0-\xd7\x10-\x13\x16\x17]|\x15.{4}|\x14.(?:.{4})?|[\x50-\x53\x55-\x57].|\x54.."
    rb"|[\x90-\x93\x95-\x97].{4}|\x94.{5})\Z",
    re.DOTALL,
)
_CALL, _JUMP = 0xE8, 0xE9
#: One that is taken always, and those by conditions.
_SHORT_JUMPS = {0xEB, *range(0x70, 0x80)}
_NEAR_JUMPS = {bytes((0x0F, 0x80 | condition)) for condition in range(16)}
_CALL_SIZE = 5
#: Functions that go on to wherever a register or a static call points.
_THUNKS = re.compile(r"__x86_indirect|__SC[TK]__|__static_call|trace_.*thunk|__bpf_")
#: Code of tracers, to which functions return that were called from elsewhere.
_TRACERS = re.compile(r"return_to_handler\+|(__)?kretprobe_trampoline\+|arch_rethook_trampoline\+")
_FUNCTION_LIMIT = 64 << 10
_FUNCTIONS_FOLLOWED = 2000
#: Of functions; what begins elsewhere is a label in assembler, or a ".cold" part.
_ALIGNMENT = 16
#: CPU_ENTRY_AREA_BASE and the gigabytes that the area has at most (asm/pgtable_areas.h): stacks of
#: the CPUs for the first instructions of an entry.
_ENTRY_AREA = range(0xFFFFFE0000000000, 0xFFFFFE8000000000)
#: sizeof(struct pt_regs); with FRED there are 16 bytes above it.
_REGISTERS_SIZE = 168


class Fault(NamedTuple):
    """Something that is wrong with a trace.

    Attributes:
        check: that it failed.
        stack: the trace.
        number: of the frame.
        words: what is wrong.
    """

    check: str
    stack: Stack
    number: int
    words: str


class _Function(NamedTuple):
    """A function of the kernel, or the part of one that has a name of its own."""

    name: str
    start: int
    end: int


def _enters(place: int, function: _Function) -> bool:
    return place == function.start or function.name.endswith(".cold")


class Checker:
    """Checks the traces of one dump.

    Args:
        kernel: of the guest.
        stacks: of the guest.
    """

    def __init__(self, kernel: LinuxKernel, stacks: Stacks) -> None:
        self._kernel = kernel
        self._stacks = stacks
        self._function = functools.lru_cache(maxsize=None)(self._find_function)
        self._jumps = functools.lru_cache(maxsize=None)(self._read_jumps)

    def faults(self, stack: Stack) -> Iterator[Fault]:
        """Yields what is wrong with a trace."""
        last = len(stack.frames) - 1
        frame = stack.frames[last]
        kinds = {note.kind for note in frame.notes}
        if not kinds and not _BEGINNINGS.match(frame.symbol):
            yield Fault("end", stack, last, "no end and no note")
        for number, frame in enumerate(stack.frames):
            for note in frame.notes:
                if note.kind in _ENDS_EARLY:
                    yield Fault("early", stack, number, str(note))
        yield from self._bottom(stack, last, kinds)
        exact = stack.vcpu is not None
        for number, frame in enumerate(stack.frames):
            if frame.ip is not None and not exact:
                yield from self._call(stack, number)
            exact = any(note.kind in _INTERRUPTED for note in frame.notes)

    def _bottom(self, stack: Stack, last: int, kinds: set[NoteKind]) -> Iterator[Fault]:
        tasks = self._stacks.tasks
        sp = stack.frames[last].sp
        if not kinds & _INTERRUPTED or not last or tasks is None or stack.task is None:
            return
        if all(frame.sp in _ENTRY_AREA for frame in stack.frames):
            # The CPU has just come from user code, and has not changed to the task's stack yet.
            return
        bounds = tasks.stack(stack.task)
        if bounds is None or sp is None:
            yield Fault("bottom", stack, last, "the task has no stack")
        elif not 0 < bounds.stop - sp <= _REGISTERS_SIZE + 64:
            yield Fault("bottom", stack, last, f"{bounds.stop - sp} bytes below the stack's top")

    def _call(self, stack: Stack, number: int) -> Iterator[Fault]:
        frame = stack.frames[number]
        assert frame.ip is not None
        if any(note.kind is NoteKind.REPLACED for note in frame.notes):
            # It is said to be none.
            return
        if frame.symbol.startswith(("ret_from_fork+0x0", "ret_from_fork_asm+0x0")):
            # A task that has not run yet begins there.
            return
        first, last = map(self._kernel.address, ("_sinittext", "_einittext"))
        if first is not None and last is not None and first <= frame.ip < last:
            # What is left of the code that started the kernel is not code any more.
            return
        try:
            code = self._kernel.read(frame.ip - 7, 7)
        except AddressError:
            yield Fault("call", stack, number, "code is not there")
            return
        if code[-_CALL_SIZE] == _CALL:
            target = frame.ip + int.from_bytes(code[-4:], "little", signed=True)
            above = stack.frames[number - 1] if number else None
            if above and not _TRACERS.match(above.symbol) and not self._leads_to(target, above):
                symbol = self._kernel.locate(target) or self._kernel.locate_loaded(target)
                yield Fault("callee", stack, number, f"calls {symbol or hex(target)}")
        elif not _INDIRECT_CALL.search(code):
            yield Fault("call", stack, number, f"follows {code.hex()}")

    def _leads_to(self, target: int, above: Frame) -> bool:
        """Whether a call of a function can have led to a frame of another.

        A function that ends by calling another jumps there, and leaves no frame.
        """
        assert above.ip is not None
        reached = [target]
        known: set[int] = set()
        while reached and len(known) < _FUNCTIONS_FOLLOWED:
            function = self._function(reached.pop(0))
            if function is None or function.start in known:
                continue
            if function.start <= above.ip <= function.end or _THUNKS.search(function.name):
                return True
            known.add(function.start)
            reached += self._jumps(function)
        return False

    def _read_jumps(self, function: _Function) -> list[int]:
        """Returns where a function jumps to, outside of itself.

        Every byte is taken for the beginning of an instruction: what is none hardly leads to the
        beginning of a function.
        """
        try:
            code = self._kernel.read(function.start, function.end - function.start)
        except AddressError:
            return []
        found = []
        for offset, byte in enumerate(code[:-1]):
            size = 1 if byte in _SHORT_JUMPS else 4
            if (
                byte == _JUMP
                or byte in _SHORT_JUMPS
                or (code[offset - 1 : offset + 1] in _NEAR_JUMPS)
            ):
                operand = code[offset + 1 : offset + 1 + size]
                distance = int.from_bytes(operand, "little", signed=True)
                place = function.start + offset + 1 + size + distance
                if not function.start <= place < function.end:
                    found.append(place)
        if function.end % _ALIGNMENT:
            # No function begins there: what follows is another entry of the same code.
            found.append(function.end)
        starts = ((place, self._function(place)) for place in found)
        return [place for place, entered in starts if entered and _enters(place, entered)]

    def _find_function(self, address: int) -> Optional[_Function]:
        """Returns the function that an address is in."""
        kernel = self._kernel
        found = kernel.locate(address) or kernel.locate_loaded(address)
        if found is None:
            return None
        start = end = address - found.offset
        while end - start < _FUNCTION_LIMIT and self._start(end + _ALIGNMENT) == start:
            end += _ALIGNMENT
        # Labels in assembler lie closer together than functions.
        end += _ALIGNMENT
        while (place := self._start(end - 1)) != start and place is not None:
            end = place
        return _Function(found.symbol, start, end)

    def _start(self, address: int) -> Optional[int]:
        """Returns where the symbol is that an address follows."""
        found = self._kernel.locate(address) or self._kernel.locate_loaded(address)
        return None if found is None else address - found.offset


def checked(folder: pathlib.Path) -> tuple[list[Stack], list[Fault]]:
    """Reads a dump as a user's would be read.

    Returns:
        Its traces, and what is wrong with them.
    """
    dump = open_dump(str(folder / "debug.guest"))
    if dump.machine is None:
        raise LabError(dump.advice)
    machine = dump.machine
    kernel = kernels.linux_kernel(machine)
    if kernel is None:
        raise LabError(f"no kernel is found in {folder}")
    stacks = Stacks(kernel, machine.vcpus)
    found = [*map(stacks.of_vcpu, machine.vcpus), *stacks.of_tasks()]
    checker = Checker(kernel, stacks)
    return found, [fault for stack in found for fault in checker.faults(stack)]


def stops(
    recipe: Recipe, machine: Machine, count: int, folder: pathlib.Path
) -> Iterator[pathlib.Path]:
    """Yields the folder of a dump for each stop; it lasts until the next."""
    regions = machine.regions()
    for _ in range(count):
        time.sleep(random.uniform(0.01, LONGEST_RUN))
        machine.execute("stop")
        dump = pathlib.Path(tempfile.mkdtemp(dir=folder, prefix=f"{recipe.name}-"))
        write_vmem(dump / "debug.vmem", machine.memory(regions))
        registers = [vcpu.registers for vcpu in machine.vcpus()]
        guest = pack_guest(recipe.format_version, regions, registers)
        (dump / "debug.guest").write_bytes(guest)
        yield dump
        kernels.forget()
        shutil.rmtree(dump, ignore_errors=True)
        machine.execute("cont")


def run(recipe: Recipe, count: int, keep: Optional[pathlib.Path]) -> list[Fault]:
    """Boots a guest under load, stops it, and returns what is wrong with its traces."""
    recipe = dataclasses.replace(recipe, start=LOAD, end=STOP, modes=(), dumps=())
    kernel = packages.kernel(recipe.kernel, recipe.modules)
    faults: list[Fault] = []
    traces = frames = 0
    innermost: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory(prefix="lab-load-") as name:
        folder = pathlib.Path(name)
        with boot(recipe, kernel, folder, folder) as machine:
            wait_until_ready(recipe, machine, folder)
            for number, dump in enumerate(stops(recipe, machine, count, folder), 1):
                stacks, wrong = checked(dump)
                traces += len(stacks)
                frames += sum(len(stack.frames) for stack in stacks)
                innermost.update(_place(stack.frames[0]) for stack in stacks if stack.vcpu)
                faults += wrong
                for fault in wrong:
                    _show(fault, number)
                if wrong and keep is not None:
                    shutil.copytree(dump, keep / f"{recipe.name}-{number}", dirs_exist_ok=True)
    print(f"{recipe.name}: {count} stops, {traces} traces, {frames} frames, {len(faults)} faults")
    common = ", ".join(f"{place} {times}" for place, times in innermost.most_common(12))
    print(f"{recipe.name}: vCPUs were at {len(innermost)} places: {common}", flush=True)
    return faults


def _place(frame: Frame) -> str:
    return frame.symbol.partition("+")[0] or ",".join(note.kind.name for note in frame.notes)


def _show(fault: Fault, stop: int) -> None:
    stack = fault.stack
    who = f"vCPU {stack.vcpu.number}" if stack.vcpu else "task"
    if stack.task:
        who += f" pid {stack.task.pid} {stack.task.comm}"
    print(f"stop {stop}: {who}: frame {fault.number}: {fault.check}: {fault.words}")
    for number, frame in enumerate(stack.frames):
        notes = ", ".join(note.kind.name + note.detail for note in frame.notes)
        print(f"  {number:2} {frame.sp or 0:#x} {frame.ip or 0:#x} {frame.symbol} {notes}")


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab.load", description="Checks traces of guests under load."
    )
    parser.add_argument("recipes", metavar="RECIPE", nargs="+", choices=list(GUESTS))
    parser.add_argument("--stops", metavar="N", type=int, default=10, help="default: 10")
    parser.add_argument("--append", metavar="TEXT", default="", help="to the kernel's command line")
    parser.add_argument(
        "--keep", metavar="FOLDER", type=pathlib.Path, help="where dumps with a fault go"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    recipes = [
        dataclasses.replace(recipe, append=f"{recipe.append} {options.append}".strip())
        for recipe in map(GUESTS.__getitem__, options.recipes)
    ]
    faults = [fault for recipe in recipes for fault in run(recipe, options.stops, options.keep)]
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
