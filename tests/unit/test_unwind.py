"""The unwinder, on stacks and tables made by hand."""

import struct
from collections.abc import Mapping
from typing import Any, Optional, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import IDLE_VCPU
from tests.unit import test_orc as orc
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.orc import OrcTable
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.unwind import MAXIMUM_FRAMES, NOT_STARTED, Frame, Unwinder
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import CR0_PG

STACK = 0xFFFFC90000010000
CODE = orc.CODE


class FakeKernel:
    """A kernel with functions of 16 bytes, each with one ORC entry, and one page of stack."""

    bits = 64
    virtual_base = CODE
    kallsyms = None
    types = modules = None

    def __init__(
        self, functions: Mapping[str, tuple[int, int, int]], with_orc: bool = True
    ) -> None:
        self.names = list(functions)
        self.virtual_end = CODE + 16 * len(self.names)
        self.stack = bytearray(4096)
        # Entries of a function that is never called make calls the commonest.
        rows = [*functions.values(), *[(8, 0, orc.flags(3, "call"))] * 40]
        rows.append((0, 0, orc.flags(3, "end of the stack", "undefined")))
        entries = b"".join(struct.pack("<hhH", *row) for row in rows)
        ips = orc.places([CODE + 16 * number for number in range(len(rows))])
        self.memory = {orc.TABLE: ips, orc.TABLE + 0x100000: entries}
        self.symbols = {}
        if with_orc:
            self.symbols = {
                "__start_orc_unwind_ip": orc.TABLE,
                "__stop_orc_unwind_ip": orc.TABLE + len(ips),
                "__start_orc_unwind": orc.TABLE + 0x100000,
                "__stop_orc_unwind": orc.TABLE + 0x100000 + len(entries),
            }

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self.symbols.get(symbol)

    @property
    def orc(self) -> OrcTable:
        """The kernel's unwinding tables."""
        return LinuxKernel._read_orc(cast(LinuxKernel, cast(Any, self)))

    def at(self, name: str, offset: int = 5) -> int:
        """Returns an address in a function."""
        return CODE + 16 * self.names.index(name) + offset

    def locate(self, address: int) -> Optional[Place]:
        """Names an address."""
        if not self.virtual_base <= address < self.virtual_end:
            return None
        return Place(self.names[(address - CODE) // 16], (address - CODE) % 16)

    def read(self, address: int, length: int) -> bytes:
        """Reads the stack or a table."""
        if address >= STACK and address + length <= STACK + len(self.stack):
            return bytes(self.stack[address - STACK : address - STACK + length])
        for start, data in self.memory.items():
            if start <= address and address + length <= start + len(data):
                return data[address - start : address - start + length]
        raise AddressError(address)

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, 8), "little")

    def put(self, offset: int, *words: int) -> None:
        """Writes words to the stack."""
        struct.pack_into(f"<{len(words)}Q", self.stack, offset, *words)


def trace(kernel: FakeKernel, function: str, sp: int, **registers: int) -> list[Frame]:
    """Returns the frames of a vCPU that runs a function."""
    where = {"rip": kernel.at(function), "rsp": STACK + sp, "cs": 0x10, "cr0": CR0_PG}
    values = {**IDLE_VCPU, **where, **registers}
    unwinder = Unwinder(cast(LinuxKernel, cast(Any, kernel)))
    return list(unwinder.of_vcpu(VCPU(0, values)))


def names(frames: list[Frame]) -> list[str]:
    """Returns the names of the functions of a trace."""
    return [frame.symbol.split("+")[0] for frame in frames]


CALL = (8, 0, orc.flags(3, "call"))
END = (0, 0, orc.flags(3, "end of the stack", "undefined"))


def pt_regs(kernel: FakeKernel, ip: int, sp: int, cs: int = 0x10, bp: int = 0) -> list[int]:
    """Returns the words of a struct pt_regs."""
    words = [0] * 21
    words[4], words[16], words[17], words[19] = bp, ip, cs, sp
    return words


def test_calls_by_the_stack_pointer() -> None:
    """Each return address lies where the entry of the code says."""
    kernel = FakeKernel({"leaf": CALL, "middle": (32, 0, orc.flags(3, "call")), "top": END})
    kernel.put(0x100, kernel.at("middle"), 1, 2, 3, kernel.at("top"))
    frames = trace(kernel, "leaf", 0x100)
    assert [(frame.symbol, frame.sp - STACK, frame.note) for frame in frames] == [
        ("leaf+0x5", 0x100, ""),
        ("middle+0x5", 0x108, ""),
        ("top+0x5", 0x128, ""),
    ]


def test_a_return_address_behind_a_function_is_that_functions() -> None:
    """A call that never returns may be the last of its function."""
    kernel = FakeKernel({"leaf": CALL, "caller": END, "next": CALL})
    kernel.put(0x100, kernel.at("next", 0))
    assert [frame.symbol for frame in trace(kernel, "leaf", 0x100)] == ["leaf+0x5", "caller+0x10"]


def test_frame_pointers_in_orc() -> None:
    """Rbp may lead to the frame, and may be saved in it."""
    kernel = FakeKernel(
        {
            "leaf": (16, -16, orc.flags(3, "call", "bp", "prev_sp")),
            "upper": (16, -16, orc.flags(3, "call", "bp", "prev_sp")),
            "top": END,
        }
    )
    kernel.put(0x180, STACK + 0x200, kernel.at("upper"))
    kernel.put(0x200, 0, kernel.at("top"))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "upper", "top"]
    assert [frame.sp - STACK for frame in frames] == [0x100, 0x190, 0x210]


@pytest.mark.parametrize(
    ("sp_reg", "offset", "register"), [("r10", 16, "r10"), ("r13", 16, "r13"), ("di", 16, "rdi")]
)
def test_other_registers(sp_reg: str, offset: int, register: str) -> None:
    """The frame may be found by another register, as the vCPU has it."""
    kernel = FakeKernel({"leaf": (offset, 0, orc.flags(3, "call", sp_reg)), "top": END})
    kernel.put(0x308, kernel.at("top"))
    assert names(trace(kernel, "leaf", 0x100, **{register: STACK + 0x300})) == ["leaf", "top"]


def test_a_register_that_is_not_known_any_more() -> None:
    """Behind a call only rsp and rbp are known: the trace ends with that reason."""
    kernel = FakeKernel({"leaf": CALL, "odd": (8, 0, orc.flags(3, "call", "r10"))})
    kernel.put(0x100, kernel.at("odd"))
    assert "r10" in trace(kernel, "leaf", 0x100)[-1].note


def test_indirect_addresses() -> None:
    """The address of the frame may itself lie on the stack, as when stacks are switched."""
    kernel = FakeKernel(
        {
            "by_bp": (-8, 0, orc.flags(3, "call", "bp_indirect")),
            "by_sp": (24, 0, orc.flags(3, "call", "sp_indirect")),
            "top": END,
        }
    )
    kernel.put(0x80, STACK + 0x400)
    kernel.put(0x3F8, kernel.at("by_sp"))
    kernel.put(0x400, STACK + 0x200)
    kernel.put(0x210, kernel.at("top"))
    frames = trace(kernel, "by_bp", 0x40, rbp=STACK + 0x88)
    assert names(frames) == ["by_bp", "by_sp", "top"]
    assert frames[-1].sp == STACK + 0x218


def test_an_interrupt_is_crossed() -> None:
    """What was interrupted goes on from its saved registers, rbp included."""
    kernel = FakeKernel(
        {
            "handler": CALL,
            "asm_sysvec_timer": (0, 0, orc.flags(3, "registers", "sp", signal=True)),
            "interrupted": (16, -16, orc.flags(3, "call", "bp", "prev_sp")),
            "top": END,
        }
    )
    kernel.put(0x100, kernel.at("asm_sysvec_timer"))
    regs = pt_regs(kernel, kernel.at("interrupted", 0), STACK + 0x800, bp=STACK + 0x880)
    kernel.put(0x108, *regs)
    kernel.put(0x880, 0, kernel.at("top"))
    frames = trace(kernel, "handler", 0x100)
    assert names(frames) == ["handler", "asm_sysvec_timer", "interrupted", "top"]
    assert [frame.note for frame in frames] == ["", "interrupt", "", ""]
    assert frames[2].symbol == "interrupted+0x0"


def test_an_interrupt_frame_is_crossed() -> None:
    """Before the registers are saved there is only what the CPU pushed."""
    kernel = FakeKernel(
        {"asm_exc_page_fault": (8, 0, orc.flags(3, "interrupt frame")), "faulting": END}
    )
    kernel.put(0x108, kernel.at("faulting"), 0x10, 0x246, STACK + 0x700, 0x18)
    frames = trace(kernel, "asm_exc_page_fault", 0x100)
    assert [(frame.symbol, frame.note) for frame in frames] == [
        ("asm_exc_page_fault+0x5", "exception"),
        ("faulting+0x5", ""),
    ]
    assert frames[1].sp == STACK + 0x700


def test_the_entry_from_user_space_ends_the_trace() -> None:
    """A system call's registers are those of user code."""
    name = "entry_SYSCALL_64_after_hwframe"
    kernel = FakeKernel({"leaf": CALL, name: (0, 0, orc.flags(3, "registers"))})
    kernel.put(0x100, kernel.at(name))
    kernel.put(0x108, *pt_regs(kernel, 0x401000, 0x7FFF0000, cs=0x33))
    frames = trace(kernel, "leaf", 0x100)
    assert [(name, frame.note) for name, frame in zip(names(frames), frames)] == [
        ("leaf", ""),
        ("entry_SYSCALL_64_after_hwframe", "system call"),
    ]


def test_user_mode_is_one_frame() -> None:
    """A vCPU in user mode has no kernel stack that it uses."""
    kernel = FakeKernel({"leaf": CALL})
    assert trace(kernel, "leaf", 0x100, rip=0x401000, cs=0x33) == [
        Frame(STACK + 0x100, 0x401000, "", "user mode")
    ]


def test_a_cpu_that_was_not_started_is_one_frame() -> None:
    """What it runs is not the kernel's, whatever the kernel has at these addresses."""
    kernel = FakeKernel({"leaf": CALL})
    frames = trace(kernel, "leaf", 0x100, cr0=0x10)
    assert [(frame.symbol, frame.note) for frame in frames] == [("", NOT_STARTED)]


@pytest.mark.parametrize("name", ["arch_rethook_trampoline", "return_to_handler"])
def test_a_return_address_that_a_tracer_replaced(name: str) -> None:
    """It is the first byte of a trampoline, which is not the end of the function before it."""
    kernel = FakeKernel({"leaf": CALL, "before": CALL, name: CALL})
    kernel.symbols[name] = kernel.at(name, 0)
    kernel.put(0x100, kernel.at(name, 0))
    frames = trace(kernel, "leaf", 0x100)
    assert [frame.symbol for frame in frames] == ["leaf+0x5", name + "+0x0"]
    assert "tracer" in frames[1].note


def test_a_call_through_a_null_pointer() -> None:
    """At address 0 nothing but the return address was pushed."""
    kernel = FakeKernel({"caller": END})
    kernel.put(0x100, kernel.at("caller"))
    frames = trace(kernel, "caller", 0x100, rip=0)
    assert [(frame.ip, frame.symbol) for frame in frames] == [
        (0, ""),
        (kernel.at("caller"), "caller+0x5"),
    ]


def test_a_kernel_without_orc_goes_by_frame_pointers() -> None:
    """That is said at every frame, and it ends where they lead to no code."""
    kernel = FakeKernel({"leaf": CALL, "upper": CALL}, with_orc=False)
    kernel.put(0x180, STACK + 0x200, kernel.at("upper"))
    kernel.put(0x200, 0, 0x1234)
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "upper"]
    assert all("by frame pointer" in frame.note for frame in frames)


def test_marked_frame_pointers_lead_to_registers() -> None:
    """A kernel with frame pointers marks one that points to saved registers by its lowest bit."""
    kernel = FakeKernel({"leaf": CALL, "interrupted": CALL}, with_orc=False)
    kernel.put(0x180, *pt_regs(kernel, kernel.at("interrupted"), STACK + 0x600))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x181)
    assert names(frames)[:2] == ["leaf", "interrupted"]
    assert frames[0].note == "exception"


def test_a_kernel_thread_with_frame_pointers_ends_at_its_start() -> None:
    """The registers that ret_from_fork marks are all zero there."""
    kernel = FakeKernel({"leaf": CALL, "ret_from_fork": CALL}, with_orc=False)
    kernel.put(0x180, STACK + 0x201, kernel.at("ret_from_fork"))
    kernel.put(0x200, *pt_regs(kernel, 0, 0, cs=0))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "ret_from_fork"]
    assert frames[1].note == ""


def test_a_stack_that_is_cut_off() -> None:
    """The trace ends with the address that is missing."""
    kernel = FakeKernel({"leaf": (0x2000, 0, orc.flags(3, "call"))})
    (frame,) = trace(kernel, "leaf", 0x100)
    assert f"{STACK + 0x100 + 0x2000 - 8:#x}" in frame.note


def test_a_circle() -> None:
    """A stack that leads back to itself ends."""
    kernel = FakeKernel({"leaf": (0, 0, orc.flags(3, "registers"))})
    kernel.put(0x100, *pt_regs(kernel, kernel.at("leaf"), STACK + 0x100))
    frames = trace(kernel, "leaf", 0x100)
    assert len(frames) == 2 and "circle" in frames[-1].note


def test_downwards() -> None:
    """A call whose frame lies below is refused."""
    kernel = FakeKernel({"leaf": (-16, 0, orc.flags(3, "call"))})
    kernel.put(0xE8, kernel.at("leaf"))
    (frame,) = trace(kernel, "leaf", 0x100)
    assert "upwards" in frame.note


@given(
    st.binary(min_size=1, max_size=256),
    st.lists(st.tuples(st.integers(-64, 64), st.integers(0, 0xFFF)), min_size=4, max_size=4),
    st.integers(0, 4095),
)
@settings(deadline=None, max_examples=200)
def test_any_stack_and_any_entries_end(stack: bytes, rows: list[tuple[int, int]], sp: int) -> None:
    """Whatever lies on the stack and in the table, the trace ends, with a reason or at a border."""
    functions = {f"f{number}": (offset, 0, value) for number, (offset, value) in enumerate(rows)}
    kernel = FakeKernel(functions)
    stack = (stack * 4096)[:4096]
    # Return addresses that lead on are all over it.
    for place in range(0, 4080, 24):
        stack = stack[:place] + struct.pack("<Q", kernel.at(f"f{place % 4}")) + stack[place + 8 :]
    kernel.stack[:] = stack
    frames = trace(kernel, "f0", sp, rbp=STACK + sp, r10=STACK + 8, r13=STACK + 16)
    assert 0 < len(frames) <= MAXIMUM_FRAMES + 1
