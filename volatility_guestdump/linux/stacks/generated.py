# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Code that the kernel makes while it runs: ftrace's trampolines and compiled BPF programs.

No symbol table has it, and no unwinding table describes it.

Where one tracer alone hooks a function, ftrace calls it through a copy of ftrace_caller or of
ftrace_regs_caller, whose place is in the tracer's struct ftrace_ops. The copy is unwound like the
code that it was copied from, which the kernel does too (orc_ftrace_find, 6be7fa3c74d1). Its name
is the one that /proc/kallsyms has for it.

Compiled BPF programs, and the code by which functions get to them, are on the list bpf_kallsyms,
from 5.7 on with their names (struct bpf_ksym, bfea9a8574f3). All of them have frame pointers.
"""

import functools
from collections.abc import Iterator
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import AddressError, TypesError
from volatility_guestdump.linux.finding.image import KernelMemory
from volatility_guestdump.linux.pieces import Pieces
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.types.lists import chain, ring
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Structures

#: Damaged lists must end: more tracers, and more BPF programs, than any machine has.
_MAXIMUM_OPS = 4096
_MAXIMUM_PROGRAMS = 1 << 16
#: KSYM_NAME_LEN is 512 at most.
_NAME_SIZE = 512
#: No trampoline and no program has nearly as much code.
_MAXIMUM_SIZE = 16 << 20
#: So many bytes tell the two functions apart: what patches a copy comes later.
_COMPARED = 16


class Trampoline(NamedTuple):
    """A copy of one of ftrace's functions.

    Attributes:
        start: address of the copy.
        end: the first address behind it.
        source: address of the function that it is a copy of; None where that cannot be told.
    """

    start: int
    end: int
    source: Optional[int]


class Program(NamedTuple):
    """A piece of compiled BPF.

    Attributes:
        start: address of its first instruction.
        end: the first address behind it.
        name: without control characters.
    """

    start: int
    end: int
    name: str


class GeneratedCode:
    """The code that a kernel has made.

    Args:
        kernel: that made it.
        types: its types.
    """

    def __init__(self, kernel: KernelMemory, types: Types) -> None:
        self._kernel = kernel
        self._types = types

    @functools.cached_property
    def _trampolines(self) -> Pieces[Trampoline]:
        return Pieces((each.start, each.end, each) for each in self._read_trampolines())

    @functools.cached_property
    def _programs(self) -> Pieces[Program]:
        return Pieces((each.start, each.end, each) for each in self._read_programs())

    def trampoline(self, address: int) -> Optional[Trampoline]:
        """Returns the trampoline that an address lies in, or None."""
        return self._trampolines.at(address)

    def program(self, address: int) -> Optional[Program]:
        """Returns the BPF program that an address lies in, or None."""
        return self._programs.at(address)

    def has(self, address: int) -> bool:
        """Whether an address lies in generated code."""
        return self.trampoline(address) is not None or self.program(address) is not None

    def locate(self, address: int) -> Optional[Place]:
        """Returns where an address in generated code is, else None."""
        trampoline = self.trampoline(address)
        if trampoline is not None:
            return Place("ftrace_trampoline", address - trampoline.start, "__builtin__ftrace")
        program = self.program(address)
        return None if program is None else Place(program.name, address - program.start)

    def _read_trampolines(self) -> Iterator[Trampoline]:
        kernel = self._kernel
        head, last = kernel.address("ftrace_ops_list"), kernel.address("ftrace_list_end")
        if head is None:
            return
        kind = Structures(kernel, self._types, "ftrace_ops")
        try:
            link = kind.offset("next")
            places = chain(
                *(kernel, head), limit=_MAXIMUM_OPS, what="tracers", link=link, last=last or 0
            )
            for ops in map(kind.at, places):
                start, size = ops.integer("trampoline"), ops.integer("trampoline_size")
                if start and 0 < size <= _MAXIMUM_SIZE:
                    yield Trampoline(start, start + size, self._source(start))
        except (AddressError, TypesError):
            return

    def _source(self, start: int) -> Optional[int]:
        """Returns the function that a trampoline is a copy of."""
        for name in ("ftrace_caller", "ftrace_regs_caller"):
            source = self._kernel.address(name)
            try:
                if source is not None and self._read_start(source) == self._read_start(start):
                    return source
            except AddressError:
                continue
        return None

    def _read_start(self, address: int) -> bytes:
        return self._kernel.read(address, _COMPARED)

    def _read_programs(self) -> Iterator[Program]:
        head = self._kernel.address("bpf_kallsyms")
        if head is None:
            return
        kind = Structures(self._kernel, self._types, "bpf_ksym")
        try:
            nodes = ring(self._kernel, head, limit=_MAXIMUM_PROGRAMS, what="BPF programs")
            for program in (kind.containing("lnode", node) for node in nodes):
                start, end = program.integer("start"), program.integer("end")
                if start and 0 < end - start <= _MAXIMUM_SIZE:
                    yield Program(start, end, program.text("name", _NAME_SIZE))
        except (AddressError, TypesError):
            return
