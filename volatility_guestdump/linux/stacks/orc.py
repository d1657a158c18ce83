# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ORC, the tables by which the kernel unwinds its own stack (x86-64).

Code compiled without frame pointers leaves nothing on the stack that leads from a function to its
caller. With CONFIG_UNWINDER_ORC, from 4.14 on (ee9f8fce9964, "x86/unwind: Add the ORC unwinder"),
objtool follows each function at build time and notes, for each stretch of its instructions, where
the return address lies. The canonical frame address (CFA) is what the stack pointer was before the
call that led here, so the return address is the word below it.

Two tables belong together, one in .orc_unwind_ip and one in .orc_unwind. For each i the code from
the place of ip[i] + ip[i] on (i32, so that the table needs no relocation; in ascending order of
what it stands for) up to the next such place is described by entry[i] of six bytes:

    i16 sp_offset    the CFA is register sp_reg plus this
    i16 bp_offset    the caller's rbp lies at register bp_reg plus this
    u16 flags        15    12  11 10    8 7      4 3      0
                    |        see below   | bp_reg | sp_reg |

The flags came in four forms:

    form   kernels                                           bits 15-12   11       10      9-8
    1      4.14 - 6.2                                        0            0        end     type
    2      6.3 (ffb1b4a41016)                                0            end      signal  type
    3      6.4 - 7.0 (fb799447ae29), RHEL 9 from 5.14.0-517  0            signal   type (10-8)
    4      from 7.1                                          0            signal   type (10-8)

Types in forms 1 and 2: 0 call, 1 registers, 2 interrupt frame; sp_reg 0 with end is the end of the
stack. In forms 3 and 4: 0 undefined, 1 end of the stack, 2 call, 3 registers, 4 interrupt frame.
"call": the word below the CFA is the return address. "registers": an exception came here, and a
whole pt_regs lies at the CFA; "interrupt frame": only what the processor pushed does. "signal"
says that the address of this frame is of the instruction that was interrupted, and no return
address; the type says so already. Form 4 has the registers of form 3 under other numbers.

Which form it is, the table tells itself: nearly all code of a kernel is described as "the stack
pointer plus something, within a call", and that has other numbers in each form; and only in form 2
is bit 11 used and type 0 the call.

All forms are turned into `Entry` when an entry is looked up.
"""

import array
import collections
import enum
import struct
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Optional

from volatility_guestdump.exceptions import OrcError
from volatility_guestdump.linux.holes import Holes, outside

ENTRY_SIZE = 6
IP_SIZE = 4

#: What is said of a frame whose entry is on a page of zeros.
LOST = "the entry for this place is on a page that is missing"

#: A distribution's kernel has about 500,000.
_MAXIMUM_ENTRIES = 1 << 24


class Register(enum.Enum):
    """What an offset of an entry is relative to."""

    UNDEFINED = "undefined"
    PREV_SP = "prev_sp"
    AX = "rax"
    DX = "rdx"
    DI = "rdi"
    BP = "rbp"
    SP = "rsp"
    R10 = "r10"
    R13 = "r13"
    BP_INDIRECT = "bp_indirect"
    SP_INDIRECT = "sp_indirect"


class Type(enum.Enum):
    """What lies at the canonical frame address."""

    UNDEFINED = "undefined"
    END_OF_STACK = "end of the stack"
    CALL = "call"
    REGISTERS = "registers"
    INTERRUPT_FRAME = "interrupt frame"


class Entry(NamedTuple):
    """How to get from one frame to the one that called it.

    Attributes:
        type: what lies at the canonical frame address (CFA).
        sp_reg: the CFA is this register plus sp_offset.
        sp_offset: in bytes.
        bp_reg: the caller's rbp lies at this register plus bp_offset.
        bp_offset: in bytes.
    """

    type: Type
    sp_reg: Register
    sp_offset: int
    bp_reg: Register
    bp_offset: int


_R = Register
_OLD_REGISTERS = (
    *(_R.UNDEFINED, _R.PREV_SP, _R.DX, _R.DI, _R.BP, _R.SP, _R.R10, _R.R13),
    *(_R.BP_INDIRECT, _R.SP_INDIRECT),
)
_NEW_REGISTERS = (
    *(_R.UNDEFINED, _R.AX, _R.DX, _R.SP, _R.BP, _R.DI, _R.R10, _R.R13),
    *(_R.PREV_SP, _R.SP_INDIRECT, _R.BP_INDIRECT),
)
_OLD_TYPES = (Type.CALL, Type.REGISTERS, Type.INTERRUPT_FRAME)
_NEW_TYPES = (
    *(Type.UNDEFINED, Type.END_OF_STACK, Type.CALL, Type.REGISTERS),
    Type.INTERRUPT_FRAME,
)


class Form(NamedTuple):
    """How the flags of an entry are laid out.

    Attributes:
        registers: by their numbers.
        types: by their numbers.
        type_bits: width of the type, from bit 8 on.
        end_bit: number of the bit that marks the end of the stack, where there is one.
        used: mask of the flags that have a meaning.
    """

    registers: Sequence[Register]
    types: Sequence[Type]
    type_bits: int
    end_bit: Optional[int]
    used: int

    def decode(self, sp_offset: int, bp_offset: int, flags: int) -> Entry:
        """Turns an entry into the one form that the rest of the code knows.

        Raises:
            OrcError: the flags have no meaning in this form.
        """
        sp_number, bp_number = flags & 0xF, flags >> 4 & 0xF
        number = flags >> 8 & ((1 << self.type_bits) - 1)
        if (
            flags & ~self.used
            or sp_number >= len(self.registers)
            or bp_number >= len(self.registers)
            or number >= len(self.types)
        ):
            raise OrcError(f"an ORC entry has the flags {flags:#06x}, which mean nothing")
        kind = self.types[number]
        sp_reg = self.registers[sp_number]
        if self.end_bit is not None and sp_reg is Register.UNDEFINED:
            kind = Type.END_OF_STACK if flags >> self.end_bit & 1 else Type.UNDEFINED
        return Entry(kind, sp_reg, sp_offset, self.registers[bp_number], bp_offset)


FORMS: Mapping[int, Form] = {
    1: Form(_OLD_REGISTERS, _OLD_TYPES, 2, 10, 0x07FF),
    2: Form(_OLD_REGISTERS, _OLD_TYPES, 2, 11, 0x0FFF),
    3: Form(_OLD_REGISTERS, _NEW_TYPES, 3, None, 0x0FFF),
    4: Form(_NEW_REGISTERS, _NEW_TYPES, 3, None, 0x0FFF),
}


def find_form(entries: bytes, lost: Sequence[range] = ()) -> int:
    """Returns the form of a kernel's whole table, by what most of its entries say.

    Args:
        entries: the table.
        lost: numbers of the entries that are lost, in ascending ranges.

    Raises:
        OrcError: it is none of the known forms.
    """
    words = _flags(entries)
    flags: collections.Counter[int] = collections.Counter()
    for present in outside(lost, len(words)):
        flags.update(words[present.start : present.stop])
    if not flags:
        raise OrcError("the kernel's ORC table is empty")
    commonest = max(flags, key=flags.__getitem__)
    for number in sorted(FORMS, reverse=True):
        form = FORMS[number]
        try:
            entry = form.decode(0, 0, commonest)
            for value in flags:
                form.decode(0, 0, value)
        except OrcError:
            continue
        if entry.type is not Type.CALL or entry.sp_reg is not Register.SP:
            continue
        # Forms 1 and 2 read alike but for the end of the stack, which every kernel has somewhere.
        if form.end_bit is None or any(
            form.decode(0, 0, value).type is Type.END_OF_STACK for value in flags
        ):
            return number
    raise OrcError("the kernel's ORC table has an unknown form")


def _flags(entries: bytes) -> Sequence[int]:
    words = array.array("H", entries[: len(entries) // ENTRY_SIZE * ENTRY_SIZE])
    if sys.byteorder == "big":
        words.byteswap()
    return words[2::3]


class OrcTable:
    """The two tables of a kernel or of one of its modules.

    Args:
        ips: the table of places.
        entries: the table of entries.
        address: where `ips` lies in the kernel's memory.
        form: of the entries, one of `FORMS`.
        lost_ips: numbers of the places that are lost, in ascending ranges: a page of them is zeros.
        lost_entries: the same of the entries.

    Attributes:
        form: as given.

    Raises:
        OrcError: the tables are empty, or do not belong together.
    """

    def __init__(
        self,
        ips: bytes,
        entries: bytes,
        address: int,
        form: int,
        lost_ips: Sequence[range] = (),
        lost_entries: Sequence[range] = (),
    ) -> None:
        count = len(ips) // IP_SIZE
        if not 0 < count <= _MAXIMUM_ENTRIES or len(entries) != count * ENTRY_SIZE:
            raise OrcError(f"ORC tables of {len(ips)} and {len(entries)} bytes are no pair")
        self._offsets = array.array("i", ips)
        if sys.byteorder == "big":
            self._offsets.byteswap()
        self._entries = entries
        self._address = address
        self._lost_entries = lost_entries
        self.form = form
        #: Ranges of the places that are there, ascending.
        self._present = outside(lost_ips, count)

    def _place(self, index: int) -> int:
        return self._address + IP_SIZE * index + self._offsets[index]

    def find(self, address: int) -> Optional[Entry]:
        """Returns the entry for the code at an address, or None when it lies before the first.

        Raises:
            OrcError: the entry means nothing, or it is lost.
        """
        # Between the ranges are places that are lost; within one they ascend.
        low, high, lost = 0, 0, False
        for present in self._present:
            if present.start and self._place(present.start) > address:
                # Before the first place of all there is no code; before this one there may be.
                lost = True
                break
            low, high, lost = present.start, present.stop, present.stop < len(self._offsets)
        end = high
        while low < high:
            middle = (low + high) // 2
            if self._place(middle) <= address:
                low = middle + 1
            else:
                high = middle
        if (lost and low == end) or any(low - 1 in each for each in self._lost_entries):
            raise OrcError(LOST)
        if not low:
            return None
        sp_offset, bp_offset, flags = struct.unpack_from(
            "<hhH", self._entries, (low - 1) * ENTRY_SIZE
        )
        return FORMS[self.form].decode(sp_offset, bp_offset, flags)


def table_with_holes(
    place: int, ips: bytes, entries_at: int, entries: bytes, form: Optional[int] = None
) -> OrcTable:
    """Returns unwinding tables; a page of zeros in them is one that is lost.

    Args:
        place: address of the table of places.
        ips: that table.
        entries_at: address of the table of entries.
        entries: that table.
        form: of the entries; None where they shall tell it.

    Raises:
        OrcError: they are damaged.
    """
    count = len(entries) // ENTRY_SIZE
    lost_ips = Holes(ips, place).entries(0, IP_SIZE, count)
    lost = Holes(entries, entries_at).entries(0, ENTRY_SIZE, count)
    form = find_form(entries, lost) if form is None else form
    return OrcTable(ips, entries, place, form, lost_ips, lost)
