# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The unwinder, on stacks and tables made by hand."""

import struct
from collections.abc import Mapping
from typing import Any, Optional, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade.kernel import types
from tests.helpers import IDLE_VCPU
from tests.unit import test_orc as orc
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.place import Place
from volatility_guestdump.linux.stacks.frames import Frame, Note, NoteKind
from volatility_guestdump.linux.stacks.generated import Trampoline
from volatility_guestdump.linux.stacks.orc import OrcTable
from volatility_guestdump.linux.stacks.orc_in_image import read_orc
from volatility_guestdump.linux.stacks.returns import ReplacedReturns
from volatility_guestdump.linux.stacks.unwind import MAXIMUM_FRAMES, Unwinder
from volatility_guestdump.linux.state.tasks import Task, Tasks
from volatility_guestdump.linux.types.btf_types import BtfTypes
from volatility_guestdump.machine import VCPU
from volatility_guestdump.words import notes
from volatility_guestdump.x86.paging import CR0_PG

STACK = 0xFFFFC90000010000
CODE = orc.CODE
#: Page tables of another kernel.
OTHER_KERNEL = 0x7000


class FakeKernel:
    """A kernel with functions of 16 bytes, each with one ORC entry, and one page of stack."""

    bits = 64
    has_code_alone = lacks_symbols = False
    virtual_base = CODE
    kallsyms = None
    types: Any = None
    modules: Any = None
    generated: Any = None

    def __init__(
        self, functions: Mapping[str, tuple[int, int, int]], with_orc: bool = True
    ) -> None:
        self.names = list(functions)
        self.virtual_end = CODE + 16 * len(self.names)
        self.stack = bytearray(4096)
        # Each begins with a call, behind which `at` is; before the first there is nothing.
        self.code = bytearray((b"\xe8" + bytes(4)).ljust(16, b"\x90") * len(self.names))
        self.code = bytearray(16) + self.code + bytearray(b"\x90" * 128)
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

    def require_types(self) -> Any:
        """Returns the kernel's types."""
        return self.types

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self.symbols.get(symbol)

    @property
    def orc(self) -> OrcTable:
        """The kernel's unwinding tables."""
        return read_orc(cast(LinuxKernel, cast(Any, self)))

    def at(self, name: str, offset: int = 5) -> int:
        """Returns an address in a function."""
        return CODE + 16 * self.names.index(name) + offset

    def locate(self, address: int) -> Optional[Place]:
        """Names an address."""
        if not self.virtual_base <= address < self.virtual_end:
            return None
        return Place(self.names[(address - CODE) // 16], (address - CODE) % 16)

    def locate_loaded(self, address: int) -> Optional[Place]:
        """Names an address in generated code."""
        return None if self.generated is None else self.generated.locate(address)

    def is_code(self, address: int) -> bool:
        """Whether an address is in a function."""
        return self.locate(address) is not None or self.locate_loaded(address) is not None

    def runs_on(self, vcpu: VCPU) -> Optional[bool]:
        """Whether a vCPU has not the page tables of the other kernel."""
        return vcpu.get("cr3") != OTHER_KERNEL

    def read(self, address: int, length: int) -> bytes:
        """Reads the stack or a table."""
        if address >= STACK and address + length <= STACK + len(self.stack):
            return bytes(self.stack[address - STACK : address - STACK + length])
        for start, data in self.memory.items():
            if start <= address and address + length <= start + len(data):
                return data[address - start : address - start + length]
        if address >= CODE - 16 and address + length <= CODE - 16 + len(self.code):
            return bytes(self.code[address - CODE + 16 :][:length])
        if self.generated is not None and self.generated.locate(address) is not None:
            # A call lies before every even address.
            return bytes(b"\xff\xd0"[place % 2] for place in range(address, address + length))
        raise AddressError(address)

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, 8), "little")

    def write_code(self, address: int, code: bytes) -> None:
        """Writes instructions."""
        start = address - CODE + 16
        self.code[start : start + len(code)] = code

    def code_before(self, address: int, code: str) -> None:
        """Writes instructions that end where an address is."""
        self.write_code(address - 16, bytes.fromhex(code).rjust(16, b"\x90"))

    def put(self, offset: int, *words: int) -> None:
        """Writes words to the stack."""
        struct.pack_into(f"<{len(words)}Q", self.stack, offset, *words)


def trace(kernel: FakeKernel, function: str, sp: int, **registers: int) -> list[Frame]:
    """Returns the frames of a vCPU that runs a function."""
    where = {"rip": kernel.at(function), "rsp": STACK + sp, "cs": 0x10, "cr0": CR0_PG}
    values = {**IDLE_VCPU, **where, **registers}
    return trace_of(kernel, values)


def trace_of(kernel: FakeKernel, values: Mapping[str, int]) -> list[Frame]:
    """Returns the frames of a vCPU that has some registers."""
    unwinder = Unwinder(cast(LinuxKernel, cast(Any, kernel)))
    return list(unwinder.of_vcpu(VCPU(0, values)))


def kinds(frame: Frame) -> list[NoteKind]:
    """Returns what the notes of a frame say."""
    return [note.kind for note in frame.notes]


def depths(frames: list[Frame]) -> list[int]:
    """Returns how far up the stack each frame is."""
    return [(frame.sp or 0) - STACK for frame in frames]


def names(frames: list[Frame]) -> list[str]:
    """Returns the names of the functions of a trace."""
    return [frame.symbol.split("+")[0] for frame in frames]


CALL = (8, 0, orc.flags(3, "call"))
BY_BP = (16, -16, orc.flags(3, "call", "bp", "prev_sp"))
UNDEFINED = (0, 0, orc.flags(3, "undefined", "undefined"))
END = (0, 0, orc.flags(3, "end of the stack", "undefined"))
#: Where a CPU begins, and a trace ends.
TOP = "secondary_startup_64"


def pt_regs(kernel: FakeKernel, ip: int, sp: int, cs: int = 0x10, bp: int = 0) -> list[int]:
    """Returns the words of a struct pt_regs."""
    words = [0] * 21
    words[4], words[16], words[17], words[19] = bp, ip, cs, sp
    return words


def test_calls_by_the_stack_pointer() -> None:
    """Each return address lies where the entry of the code says."""
    kernel = FakeKernel({"leaf": CALL, "middle": (32, 0, orc.flags(3, "call")), TOP: END})
    kernel.put(0x100, kernel.at("middle"), 1, 2, 3, kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100)
    assert [(frame.symbol, depth) for frame, depth in zip(frames, depths(frames))] == [
        ("leaf+0x5", 0x100),
        ("middle+0x5", 0x108),
        ("secondary_startup_64+0x5", 0x128),
    ]
    assert not any(frame.notes for frame in frames)


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
            TOP: END,
        }
    )
    kernel.put(0x180, STACK + 0x200, kernel.at("upper"))
    kernel.put(0x200, 0, kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "upper", TOP]
    assert depths(frames) == [0x100, 0x190, 0x210]


@pytest.mark.parametrize(
    ("sp_reg", "offset", "register"), [("r10", 16, "r10"), ("r13", 16, "r13"), ("di", 16, "rdi")]
)
def test_other_registers(sp_reg: str, offset: int, register: str) -> None:
    """The frame may be found by another register, as the vCPU has it."""
    kernel = FakeKernel({"leaf": (offset, 0, orc.flags(3, "call", sp_reg)), TOP: END})
    kernel.put(0x308, kernel.at(TOP))
    assert names(trace(kernel, "leaf", 0x100, **{register: STACK + 0x300})) == ["leaf", TOP]


def test_a_register_that_is_not_known_any_more() -> None:
    """Behind a call only rsp and rbp are known: the trace ends with that reason."""
    kernel = FakeKernel({"leaf": CALL, "odd": (8, 0, orc.flags(3, "call", "r10"))})
    kernel.put(0x100, kernel.at("odd"))
    last = trace(kernel, "leaf", 0x100)[-1]
    assert last.notes == (Note(NoteKind.UNKNOWN_REGISTER, detail="r10"),)


def test_indirect_addresses() -> None:
    """The address of the frame may itself lie on the stack, as when stacks are switched."""
    kernel = FakeKernel(
        {
            "by_bp": (-8, 0, orc.flags(3, "call", "bp_indirect")),
            "by_sp": (24, 0, orc.flags(3, "call", "sp_indirect")),
            TOP: END,
        }
    )
    kernel.put(0x80, STACK + 0x400)
    kernel.put(0x3F8, kernel.at("by_sp"))
    kernel.put(0x400, STACK + 0x200)
    kernel.put(0x210, kernel.at(TOP))
    frames = trace(kernel, "by_bp", 0x40, rbp=STACK + 0x88)
    assert names(frames) == ["by_bp", "by_sp", TOP]
    assert frames[-1].sp == STACK + 0x218


def test_an_interrupt_is_crossed() -> None:
    """What was interrupted goes on from its saved registers, rbp included."""
    kernel = FakeKernel(
        {
            "handler": CALL,
            "asm_sysvec_timer": (0, 0, orc.flags(3, "registers", "sp", signal=True)),
            "interrupted": (16, -16, orc.flags(3, "call", "bp", "prev_sp")),
            TOP: END,
        }
    )
    kernel.put(0x100, kernel.at("asm_sysvec_timer"))
    regs = pt_regs(kernel, kernel.at("interrupted", 0), STACK + 0x800, bp=STACK + 0x880)
    kernel.put(0x108, *regs)
    kernel.put(0x880, 0, kernel.at(TOP))
    frames = trace(kernel, "handler", 0x100)
    assert names(frames) == ["handler", "asm_sysvec_timer", "interrupted", TOP]
    assert [kinds(frame) for frame in frames] == [[], [NoteKind.INTERRUPT], [], []]
    assert frames[2].symbol == "interrupted+0x0"


def test_an_interrupt_frame_is_crossed() -> None:
    """Before the registers are saved there is only what the CPU pushed."""
    kernel = FakeKernel({"asm_exc_page_fault": (8, 0, orc.flags(3, "interrupt frame")), TOP: END})
    kernel.put(0x108, kernel.at(TOP), 0x10, 0x246, STACK + 0x700, 0x18)
    frames = trace(kernel, "asm_exc_page_fault", 0x100)
    assert [(frame.symbol, kinds(frame)) for frame in frames] == [
        ("asm_exc_page_fault+0x5", [NoteKind.EXCEPTION]),
        ("secondary_startup_64+0x5", []),
    ]
    assert frames[1].sp == STACK + 0x700


def test_the_entry_from_user_space_ends_the_trace() -> None:
    """A system call's registers are those of user code."""
    name = "entry_SYSCALL_64_after_hwframe"
    kernel = FakeKernel({"leaf": CALL, name: (0, 0, orc.flags(3, "registers"))})
    kernel.put(0x100, kernel.at(name))
    kernel.put(0x108, *pt_regs(kernel, 0x401000, 0x7FFF0000, cs=0x33))
    frames = trace(kernel, "leaf", 0x100)
    assert [(name, kinds(frame)) for name, frame in zip(names(frames), frames)] == [
        ("leaf", []),
        ("entry_SYSCALL_64_after_hwframe", [NoteKind.SYSTEM_CALL]),
    ]


def test_user_mode_is_one_frame() -> None:
    """A vCPU in user mode has no kernel stack that it uses."""
    kernel = FakeKernel({"leaf": CALL})
    assert trace(kernel, "leaf", 0x100, rip=0x401000, cs=0x33) == [
        Frame(STACK + 0x100, 0x401000, "", (Note(NoteKind.USER_MODE),))
    ]


def test_only_rip_and_rsp_are_needed() -> None:
    """Whatever else is missing, the frames are the same; RBP only where a frame needs it."""
    kernel = FakeKernel({"leaf": CALL, "middle": CALL, TOP: END})
    kernel.put(0x100, kernel.at("middle"), kernel.at(TOP))
    whole = {**IDLE_VCPU, "rip": kernel.at("leaf"), "rsp": STACK + 0x100, "cs": 0x10, "cr0": CR0_PG}
    expected = trace_of(kernel, whole)
    assert names(expected) == ["leaf", "middle", TOP]
    for missing in whole.keys() - {"rip", "rsp"}:
        rest = {name: value for name, value in whole.items() if name != missing}
        assert trace_of(kernel, rest) == expected, missing
    two = {name: whole[name] for name in ("rip", "rsp")}
    assert trace_of(kernel, two) == expected
    # Without CS, the half of the address space tells user mode.
    user = {"rip": 0x401000, "rsp": 0x7FFC_0000_0000}
    assert kinds(trace_of(kernel, user)[0]) == [NoteKind.USER_MODE]


@pytest.mark.parametrize(
    ("missing", "said"), [({"rip"}, "RIP"), ({"rsp"}, "RSP"), ({"rip", "rsp"}, "RIP and RSP")]
)
def test_without_rip_or_rsp(missing: set[str], said: str) -> None:
    """The one row says which is lacking, and has what is there."""
    kernel = FakeKernel({"leaf": CALL})
    whole = {**IDLE_VCPU, "rip": kernel.at("leaf"), "rsp": STACK + 0x100, "cs": 0x10, "cr0": CR0_PG}
    rest = {name: value for name, value in whole.items() if name not in missing}
    (frame,) = trace_of(kernel, rest)
    assert (frame.ip, frame.sp) == (rest.get("rip"), rest.get("rsp"))
    assert frame.notes == (Note(NoteKind.LACKS_REGISTERS, detail=said),)
    assert frame.symbol == ("" if "rip" in missing else "leaf+0x5")


def test_a_cpu_that_was_not_started_is_one_frame() -> None:
    """What it runs is not the kernel's, whatever the kernel has at these addresses."""
    kernel = FakeKernel({"leaf": CALL})
    frames = trace(kernel, "leaf", 0x100, cr0=0x10)
    assert [(frame.symbol, kinds(frame)) for frame in frames] == [("", [NoteKind.NOT_STARTED])]


@pytest.mark.parametrize("name", ["arch_rethook_trampoline", "return_to_handler"])
def test_a_return_address_that_a_tracer_replaced(name: str) -> None:
    """It is the first byte of the tracer's code, and not the end of the function before it."""
    kernel = FakeKernel({"leaf": CALL, "before": CALL, name: CALL})
    kernel.symbols[name] = kernel.at(name, 0)
    kernel.put(0x100, kernel.at(name, 0))
    frames = trace(kernel, "leaf", 0x100)
    assert [frame.symbol for frame in frames] == ["leaf+0x5", name + "+0x0"]
    assert kinds(frames[1]) == [NoteKind.REPLACED]


#: Calls of an address, of what a register has, and of what memory has; a far return.
CALLS = [
    *("e8 00010000", "ff d0", "41 ff d3", "ff 10", "ff 14 c5", "ff 14 c5 00010000", "ff 50 18"),
    *("ff 54 24 08", "ff 90 00010000", "ff 94 c0 00010000", "ff 15 00010000", "48 cb"),
]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("rip", [0, 0x4141414100, 0xFFFFFFFFA0000000])
def test_a_call_through_a_bad_pointer(rip: int, call: str) -> None:
    """Outside of all code nothing but the return address was pushed."""
    kernel = FakeKernel({TOP: END})
    kernel.put(0x100, kernel.at(TOP))
    kernel.code_before(kernel.at(TOP), call)
    frames = trace(kernel, TOP, 0x100, rip=rip)
    assert [(frame.ip, frame.symbol, kinds(frame)) for frame in frames] == [
        (rip, "", [NoteKind.NOT_CODE]),
        (kernel.at(TOP), "secondary_startup_64+0x5", []),
    ]


def test_outside_of_code_without_a_return_address() -> None:
    """A return address must be in code."""
    kernel = FakeKernel({TOP: END})
    kernel.put(0x100, 0x1234)
    (frame,) = trace(kernel, TOP, 0x100, rip=0)
    assert frame.notes == (Note(NoteKind.NOT_CODE), Note(NoteKind.NO_RETURN_ADDRESS, 0x1234))


@pytest.mark.parametrize("code", ["90", "e9 00010000", "ff e0", "ff 30", "ff d0 90"])
def test_a_return_to_a_bad_address(code: str) -> None:
    """What is next on a stack that was overwritten may lie in code, but follows no call."""
    kernel = FakeKernel({TOP: END})
    kernel.put(0x100, kernel.at(TOP))
    kernel.code_before(kernel.at(TOP), code)
    (frame,) = trace(kernel, TOP, 0x100, rip=0x4141414100)
    assert frame.notes == (
        Note(NoteKind.NOT_CODE),
        Note(NoteKind.NO_RETURN_ADDRESS, kernel.at(TOP)),
    )
    # What is left of code that is freed after the start says nothing.
    kernel.symbols.update(_sinittext=kernel.at(TOP, 0), _einittext=kernel.at(TOP, 16))
    assert names(trace(kernel, TOP, 0x100, rip=0x4141414100)) == ["", TOP]


def test_no_return_address() -> None:
    """What lies outside of all code is no frame; that of a null pointer is not crossed either."""
    for word in (0, 0x4141414100):
        kernel = FakeKernel({"leaf": CALL, TOP: END})
        kernel.put(0x100, word, kernel.at(TOP))
        (frame,) = trace(kernel, "leaf", 0x100)
        assert frame.notes == (Note(NoteKind.NO_RETURN_ADDRESS, word),)


def test_another_kernel() -> None:
    """Of a vCPU that has other page tables nothing can be said with this kernel's tables."""
    kernel = FakeKernel({"leaf": CALL})
    (frame,) = trace(kernel, "leaf", 0x100, cr3=OTHER_KERNEL)
    assert (frame.symbol, kinds(frame)) == ("", [NoteKind.OTHER_KERNEL])


def test_the_first_instruction_of_code_that_is_not_described() -> None:
    """Nothing but the return address has been pushed then."""
    kernel = FakeKernel({"__x86_indirect_thunk_rax": UNDEFINED, TOP: END})
    kernel.put(0x100, kernel.at(TOP))
    kernel.code_before(kernel.at(TOP), CALLS[0])
    frames = trace(kernel, TOP, 0x100, rip=kernel.at("__x86_indirect_thunk_rax", 0))
    assert [kinds(frame) for frame in frames] == [[NoteKind.FIRST_INSTRUCTION], []]
    assert names(frames)[1] == TOP


@pytest.mark.parametrize("entry", ["UNDEFINED", "END"])
def test_code_that_is_not_described(entry: str) -> None:
    """The end of the stack is one only where a thread begins: else ORC means "unknown" by it."""
    kernel = FakeKernel(
        {"odd": UNDEFINED if entry == "UNDEFINED" else END, "caller": CALL, TOP: END}
    )
    # Not an address behind a call of "odd": that could be of any function.
    kernel.put(0x100, kernel.at("caller"), kernel.at(TOP))
    (frame,) = trace(kernel, "odd", 0x100)
    assert frame.notes == (Note(NoteKind.UNDESCRIBED),)


@pytest.mark.parametrize("saves_rbp", [False, True])
def test_a_call_of_a_function_that_is_not_described(saves_rbp: bool) -> None:
    """The one address on the stack that follows a call of that very function is its return."""
    kernel = FakeKernel({"__crash_kexec": UNDEFINED, "caller": BY_BP, TOP: END})
    after = kernel.at("caller", 8)
    call = b"\xe8" + struct.pack("<i", kernel.at("__crash_kexec", 0) - after)
    start = b"\x55\x48" if saves_rbp else b"\x53\x48"
    kernel.write_code(kernel.at("__crash_kexec", 0), start.ljust(16, b"\x90") + bytes(3) + call)
    # The address of another call first.
    kernel.put(0x100, 7, kernel.at("caller", 4), 9, after)
    kernel.put(0x180, STACK + 0x300, kernel.at(TOP))
    frames = trace(kernel, "__crash_kexec", 0x100, rbp=STACK + 0x180)
    assert (frames[1].ip, depths(frames)[1]) == (after, 0x120)
    assert kinds(frames[0]) == [NoteKind.CALL_FOUND]
    if saves_rbp:
        # It may be anything now.
        assert frames[1].notes == (Note(NoteKind.UNKNOWN_REGISTER, detail="rbp"),)
    else:
        assert names(frames)[2] == TOP
    # One of an earlier call is still there.
    kernel.put(0x130, after)
    (frame,) = trace(kernel, "__crash_kexec", 0x100, rbp=STACK + 0x180)
    assert kinds(frame) == [NoteKind.UNDESCRIBED]


def test_registers_that_are_none() -> None:
    """Where no registers were saved the trace ends, whatever looks like an address there."""
    kernel = FakeKernel({"asm_exc_page_fault": (0, 0, orc.flags(3, "registers")), TOP: END})
    kernel.put(0x100, *pt_regs(kernel, kernel.at(TOP), STACK + 0x800, cs=0x1234))
    (frame,) = trace(kernel, "asm_exc_page_fault", 0x100)
    assert kinds(frame) == [NoteKind.EXCEPTION, NoteKind.BAD_REGISTERS]


def test_registers_that_are_zero() -> None:
    """Where a thread of the kernel begins that is its end; elsewhere the stack was overwritten."""
    name = "ret_from_fork_asm"
    registers = (0, 0, orc.flags(3, "registers"))
    kernel = FakeKernel({"asm_exc_page_fault": registers, name: registers, TOP: END})
    (frame,) = trace(kernel, name, 0x100)
    assert kinds(frame) == []
    (frame,) = trace(kernel, "asm_exc_page_fault", 0x100)
    assert kinds(frame) == [NoteKind.EXCEPTION, NoteKind.BAD_REGISTERS]


def test_a_cpu_that_is_offline() -> None:
    """It waits in a function that is for nothing else; once is enough to say so."""
    kernel = FakeKernel({"hlt_play_dead": CALL, "native_play_dead": CALL, TOP: END})
    kernel.put(0x100, kernel.at("native_play_dead"), kernel.at(TOP))
    frames = trace(kernel, "hlt_play_dead", 0x100)
    assert [kinds(frame) for frame in frames] == [[NoteKind.OFFLINE], [], []]


def test_a_kernel_without_orc_goes_by_frame_pointers() -> None:
    """That is said at every frame, and it ends where they lead to no code."""
    kernel = FakeKernel({"leaf": CALL, "upper": CALL}, with_orc=False)
    kernel.put(0x180, STACK + 0x200, kernel.at("upper"))
    kernel.put(0x200, 0, 0x1234)
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "upper"]
    assert [kinds(frame) for frame in frames] == [
        [NoteKind.FRAME_POINTER],
        [NoteKind.FRAME_POINTER, NoteKind.NO_RETURN_ADDRESS],
    ]
    assert "ORC" in frames[0].notes[0].detail


@pytest.mark.parametrize(
    ("code", "offset", "saved"),
    [
        # endbr64; push %rbp; mov %rsp, %rbp; ...: before the push, before the mov, and behind it
        ("f30f1efa 55 4889e5 90", 0, [1]),
        ("f30f1efa 55 4889e5 90", 4, [1]),
        ("f30f1efa 55 4889e5 90", 5, [0, 1]),
        ("f30f1efa 55 4889e5 90", 8, []),
        # leave; ret: the frame is gone
        ("55 4889e5 90 c9 c3", 6, [1]),
        ("55 4889e5 90 c9 c3", 5, []),
    ],
)
def test_the_instructions_tell_whether_rbp_is_set(code: str, offset: int, saved: list[int]) -> None:
    """No caller is left out where a function has not set rbp yet, or not any more.

    Args:
        code: of the function.
        offset: where it was stopped.
        saved: what lies on its stack: 0 for the saved rbp, 1 for the return address.
    """
    kernel = FakeKernel({"leaf": CALL, "caller": CALL, "outer": CALL, TOP: CALL}, with_orc=False)
    kernel.write_code(kernel.at("leaf", 0), bytes.fromhex(code).ljust(16, b"\x90"))
    frame = [STACK + 0x300, kernel.at("caller")]
    # rbp leads to the caller's frame, or to the function's own, which leads to that.
    if saved:
        kernel.put(0x100, *(frame[number] for number in saved))
        kernel.put(0x300, STACK + 0x400, kernel.at("outer"))
        rbp = STACK + 0x300
    else:
        kernel.put(0x180, *frame)
        kernel.put(0x300, STACK + 0x400, kernel.at("outer"))
        rbp = STACK + 0x180
    kernel.put(0x400, 0, kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100, rip=kernel.at("leaf", offset), rbp=rbp)
    assert names(frames) == ["leaf", "caller", "outer", TOP]
    assert not frames[-1].notes


def test_a_jump_to_a_return_thunk_is_a_return() -> None:
    """Where speculation is held back, there is no "ret" in the code itself."""
    kernel = FakeKernel({"leaf": CALL, "__x86_return_thunk": CALL, TOP: CALL}, with_orc=False)
    code = b"\x55\x48\x89\xe5\xc9\xe9" + struct.pack("<i", 16 - 10)
    kernel.write_code(kernel.at("leaf", 0), code.ljust(16, b"\x90"))
    kernel.put(0x100, kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100, rip=kernel.at("leaf", 5), rbp=STACK + 0x300)
    assert names(frames) == ["leaf", TOP]


def test_an_entry_that_has_not_changed_stacks_yet() -> None:
    """ORC describes the stack from behind "mov %rax, %rsp" on."""
    names_of = {"asm_exc_page_fault": (8, 0, orc.flags(3, "interrupt frame"))}
    kernel = FakeKernel({**names_of, "behind": (0, 0, orc.flags(3, "registers")), TOP: END})
    ip = kernel.at("behind", 0) - 3
    kernel.write_code(ip, b"\x48\x89\xc4")
    kernel.put(0x300, *pt_regs(kernel, kernel.at(TOP), STACK + 0x600))
    frames = trace(kernel, TOP, 0x100, rip=ip, rax=STACK + 0x300)
    assert names(frames) == ["asm_exc_page_fault", TOP]
    assert (frames[0].sp, kinds(frames[0])) == (STACK + 0x100, [NoteKind.EXCEPTION])


def test_what_error_entry_ends_with() -> None:
    """It jumps to sync_regs with the registers on the stack, where ORC has none of them yet."""
    names_of = {"sync_regs": CALL, "asm_exc_page_fault": (8, 0, orc.flags(3, "interrupt frame"))}
    kernel = FakeKernel({**names_of, "behind": (0, 0, orc.flags(3, "registers")), TOP: END})
    ip = kernel.at("behind", 0) - 3
    kernel.write_code(ip, b"\x48\x89\xc4")
    kernel.put(0x100, ip)
    kernel.put(0x108, *pt_regs(kernel, kernel.at(TOP), STACK + 0x600))
    frames = trace(kernel, "sync_regs", 0x100)
    assert names(frames) == ["sync_regs", "asm_exc_page_fault", TOP]
    assert (frames[1].ip, kinds(frames[1])) == (ip, [NoteKind.EXCEPTION])


def test_marked_frame_pointers_lead_to_registers() -> None:
    """A kernel with frame pointers marks one that points to saved registers by its lowest bit."""
    kernel = FakeKernel({"leaf": CALL, "interrupted": CALL}, with_orc=False)
    kernel.put(0x180, *pt_regs(kernel, kernel.at("interrupted"), STACK + 0x600))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x181)
    assert names(frames)[:2] == ["leaf", "interrupted"]
    assert kinds(frames[0]) == [NoteKind.EXCEPTION]


def test_a_kernel_thread_with_frame_pointers_ends_at_its_start() -> None:
    """The registers that ret_from_fork marks are all zero there."""
    kernel = FakeKernel({"leaf": CALL, "ret_from_fork": CALL}, with_orc=False)
    kernel.put(0x180, STACK + 0x201, kernel.at("ret_from_fork"))
    kernel.put(0x200, *pt_regs(kernel, 0, 0, cs=0))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "ret_from_fork"]
    assert not frames[1].notes


def test_a_stack_that_is_cut_off() -> None:
    """The trace ends with the address that is missing."""
    kernel = FakeKernel({"leaf": (0x2000, 0, orc.flags(3, "call"))})
    (frame,) = trace(kernel, "leaf", 0x100)
    assert frame.notes == (Note(NoteKind.NOT_IN_DUMP, STACK + 0x100 + 0x2000 - 8),)


def test_a_circle() -> None:
    """A stack that leads back to itself ends."""
    kernel = FakeKernel({"leaf": (0, 0, orc.flags(3, "registers"))})
    kernel.put(0x100, *pt_regs(kernel, kernel.at("leaf"), STACK + 0x100))
    frames = trace(kernel, "leaf", 0x100)
    assert [kinds(frame) for frame in frames] == [[NoteKind.EXCEPTION], [NoteKind.CIRCLE]]


def test_downwards() -> None:
    """A call whose frame lies below is refused."""
    kernel = FakeKernel({"leaf": (-16, 0, orc.flags(3, "call"))})
    kernel.put(0xE8, kernel.at("leaf"))
    (frame,) = trace(kernel, "leaf", 0x100)
    assert kinds(frame) == [NoteKind.DOWNWARDS]


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
    assert frames[-1].notes


MADE = 0xFFFFFFFFC0100000


class MadeCode:
    """A trampoline at the start of the generated code, and two programs behind it.

    Args:
        source: of the trampoline.
    """

    def __init__(self, source: Optional[int] = None) -> None:
        self._trampoline = Trampoline(MADE, MADE + 0x100, source)

    def trampoline(self, address: int) -> Optional[Trampoline]:
        """Returns the trampoline that an address is in."""
        return self._trampoline if MADE <= address < MADE + 0x100 else None

    def locate(self, address: int) -> Optional[Place]:
        """Names an address."""
        number, offset = divmod(address - MADE, 0x100)
        return (
            Place(("trampoline", "bpf_one", "bpf_two")[number], offset) if 0 <= number < 3 else None
        )


def test_a_trampoline_is_unwound_like_its_source() -> None:
    """The entry is that for the same offset of what it is a copy of."""
    kernel = FakeKernel({"leaf": CALL, "ftrace_caller": (32, 0, orc.flags(3, "call")), TOP: END})
    kernel.generated = MadeCode(kernel.at("ftrace_caller", 0))
    kernel.put(0x100, MADE + 9)
    kernel.put(0x108 + 24, kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100)
    assert names(frames) == ["leaf", "trampoline", TOP]
    assert kinds(frames[1]) == [NoteKind.TRAMPOLINE]


def test_a_trampoline_of_an_unknown_source() -> None:
    """It is named, and the trace ends."""
    kernel = FakeKernel({"leaf": CALL, TOP: END})
    kernel.generated = MadeCode()
    kernel.put(0x100, MADE + 9, kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100)
    assert names(frames) == ["leaf", "trampoline"]
    assert kinds(frames[1]) == [NoteKind.UNDESCRIBED]


def test_two_programs_one_above_the_other() -> None:
    """Compiled BPF has frame pointers: they lead from one to the other, and to the kernel."""
    kernel = FakeKernel({"leaf": CALL, "runner": CALL, TOP: END})
    kernel.generated = MadeCode()
    kernel.put(0x100, MADE + 0x120)
    kernel.put(0x180, STACK + 0x200, MADE + 0x240)
    kernel.put(0x200, 0x77, kernel.at("runner"), kernel.at(TOP))
    frames = trace(kernel, "leaf", 0x100, rbp=STACK + 0x180)
    assert names(frames) == ["leaf", "bpf_one", "bpf_two", "runner", TOP]
    assert [kinds(frame) for frame in frames] == [[], *[[NoteKind.FRAME_POINTER]] * 2, [], []]


class Noted:
    """What tracers noted: of one task and one place."""

    def __init__(self, trampoline: int, task: int, place: int, address: int) -> None:
        self._trampoline = trampoline
        self._notes = {(task, place): address}

    def tracer(self, address: int) -> Optional[NoteKind]:
        """Returns who put an address on the stack."""
        return NoteKind.FUNCTION_GRAPH if address == self._trampoline else None

    def original(self, task: int, place: int) -> Optional[int]:
        """Returns what was there before."""
        return self._notes.get((task, place))


def traced(task: Optional[int], function: str, offset: int, sp: int) -> list[Frame]:
    """Returns a trace on a stack that has a tracer's address at 0x100, noted for task 0x5000."""
    kernel = FakeKernel({"leaf": CALL, "return_to_handler": END, TOP: END})
    kernel.put(0x100, kernel.at("return_to_handler", 0))
    unwinder = Unwinder(cast(LinuxKernel, cast(Any, kernel)))
    noted = Noted(kernel.at("return_to_handler", 0), 0x5000, STACK + 0x100, kernel.at(TOP))
    unwinder._returns = cast(ReplacedReturns, cast(Any, noted))
    at = kernel.at(function, offset)
    values = {"rip": at, "rsp": STACK + sp, "cs": 0x10, "cr0": CR0_PG}
    return list(unwinder.of_vcpu(VCPU(0, {**IDLE_VCPU, **values}), task))


@pytest.mark.parametrize("task", [0x5000, 0x6000, None])
def test_the_first_instruction_of_what_a_function_returns_to(task: Optional[int]) -> None:
    """The "ret" has just taken the tracer's address off the stack, where it lies still."""
    frames = traced(task, "return_to_handler", 0, 0x108)
    assert frames[0].symbol == "return_to_handler+0x0"
    if task == 0x5000:
        assert (frames[1].symbol, frames[1].sp) == ("secondary_startup_64+0x5", STACK + 0x108)
        assert kinds(frames[1]) == [NoteKind.FUNCTION_GRAPH]
    else:
        assert [kinds(frame) for frame in frames] == [[NoteKind.REPLACED]]


@pytest.mark.parametrize("task", [0x5000, 0x6000, None])
def test_a_return_address_that_a_tracer_noted(task: Optional[int]) -> None:
    """It is that of this task and of this place on the stack; without it the trace ends."""
    frames = traced(task, "leaf", 5, 0x100)
    if task == 0x5000:
        assert frames[1].symbol == "secondary_startup_64+0x5"
        assert kinds(frames[1]) == [NoteKind.FUNCTION_GRAPH]
    else:
        assert frames[1].symbol == "return_to_handler+0x0"
        assert kinds(frames[1]) == [NoteKind.REPLACED]


class SleepingTasks:
    """Tasks that left their stacks where one is told.

    Args:
        bounds: of the stack of each.
        pointer: where each left it.
    """

    def __init__(self, bounds: Optional[range], pointer: int) -> None:
        self._bounds = bounds
        self._pointer = pointer

    def stack(self, task: Task) -> Optional[range]:
        """Returns where the stack lies."""
        return self._bounds

    def stack_pointer(self, task: Task) -> int:
        """Returns where the task left it."""
        return self._pointer


def sleeping(kernel: FakeKernel, bounds: Optional[range], pointer: int) -> list[Frame]:
    """Returns the frames of a task that waits."""
    frame = {"bp": (0, 8), "ret_addr": (8, 8)}
    kernel.types = BtfTypes(types({"inactive_task_frame": (16, frame)}))
    tasks = cast(Tasks, cast(Any, SleepingTasks(bounds, pointer)))
    unwinder = Unwinder(cast(LinuxKernel, cast(Any, kernel)))
    return list(unwinder.of_task(tasks, Task(0x5000, 7, 7, "sleeper")))


BOUNDS = range(STACK, STACK + 0x200)


def test_a_task_that_waits() -> None:
    """Its trace starts from where it left its stack."""
    kernel = FakeKernel({"__schedule": (24, 0, orc.flags(3, "call")), TOP: END})
    kernel.put(0x100, 0, kernel.at("__schedule"), 1, 2, kernel.at(TOP))
    frames = sleeping(kernel, BOUNDS, STACK + 0x100)
    assert names(frames) == ["__schedule", TOP]
    assert depths(frames) == [0x110, 0x128]


def test_a_task_whose_stack_is_freed() -> None:
    """There is one row, and nothing of what another task has at the same place now."""
    kernel = FakeKernel({"__schedule": CALL, TOP: END})
    kernel.put(0x100, 0, kernel.at("__schedule"), kernel.at(TOP))
    assert sleeping(kernel, None, STACK + 0x100) == [
        Frame(None, None, "", (Note(NoteKind.EXITED),))
    ]


@pytest.mark.parametrize("place", [-8, 0x1F8, 0x200, 0x800])
def test_a_stack_pointer_outside_of_the_stack(place: int) -> None:
    """It leads to somebody else's frames: none is shown."""
    kernel = FakeKernel({"__schedule": CALL, TOP: END})
    kernel.put(0x1F8, kernel.at("__schedule"), kernel.at("__schedule"), kernel.at(TOP))
    kernel.put(0x800, 0, kernel.at("__schedule"), kernel.at(TOP))
    frames = sleeping(kernel, BOUNDS, STACK + place)
    assert frames == [Frame(None, None, "", (Note(NoteKind.SP_ELSEWHERE, STACK + place),))]


def test_a_trace_that_leaves_the_stack() -> None:
    """Beyond the end of a task's stack lies another's."""
    kernel = FakeKernel({"__schedule": (0x100, 0, orc.flags(3, "call")), TOP: END})
    kernel.put(0x180, 0, kernel.at("__schedule"))
    kernel.put(0x190 + 0xF8, kernel.at(TOP))
    (frame,) = sleeping(kernel, BOUNDS, STACK + 0x180)
    assert frame.notes == (Note(NoteKind.OUTSIDE_STACK, STACK + 0x290),)


@pytest.mark.parametrize("word", [0, STACK])
def test_a_task_that_left_no_return_address(word: int) -> None:
    """What is no code is no frame, and an address of 0 is no call through a null pointer."""
    kernel = FakeKernel({"__schedule": CALL, TOP: END})
    kernel.put(0x100, 0, word, kernel.at(TOP))
    frames = sleeping(kernel, BOUNDS, STACK + 0x100)
    assert frames == [Frame(None, None, "", (Note(NoteKind.NO_RETURN_ADDRESS, word),))]


def test_registers_at_a_crash() -> None:
    """The innermost frame says where they are from."""
    kernel = FakeKernel({"leaf": CALL, TOP: END})
    kernel.put(0x100, kernel.at(TOP))
    registers = {**IDLE_VCPU, "rip": kernel.at("leaf"), "rsp": STACK + 0x100, "cs": 0x10}
    unwinder = Unwinder(cast(LinuxKernel, cast(Any, kernel)))
    note = Note(NoteKind.CRASH_NOTES, detail="0")
    frames = list(unwinder.of_registers(registers, None, note))
    assert [frame.notes for frame in frames] == [(note,), ()]


def test_every_note_has_words() -> None:
    """None is shown as nothing, and particulars are in them."""
    for kind in NoteKind:
        assert notes([Note(kind, 0x1234, "detail")])
    assert "0x1234" in notes([Note(NoteKind.NO_RETURN_ADDRESS, 0x1234)])
    assert notes([Note(NoteKind.NOT_CODE), Note(NoteKind.USER_MODE)]).endswith("; user mode")
