# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The message of a panic, in logs made by hand as old and new kernels keep them."""

import struct
from collections.abc import Mapping
from typing import Any, Optional, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.linux.btf import Btf
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.log import panic_message

PANIC = b"Kernel panic - not syncing: "

POINTERS, PRB, INFOS, LOG = 0x1000, 0x2000, 0x3000, 0x10000
LOG_SIZE = 0x1000
COUNT_BITS = 3

Structs = Mapping[str, tuple[int, Mapping[str, int]]]

#: Structure -> its size, and members with their offsets. None of them stands where a kernel has
#: it, so that a reader that knows the offsets by heart fails.
RING: Structs = {
    "printk_ringbuffer": (80, {"fail": 0, "desc_ring": 16}),
    "prb_desc_ring": (48, {"count_bits": 4, "infos": 24}),
    "printk_info": (40, {"text_len": 2, "seq": 16}),
}
OLD: Structs = {"printk_log": (20, {"ts_nsec": 0, "text_len": 14})}


def btf(structs: Structs) -> Btf:
    """Returns types with the structures; every member is an int."""
    strings = bytearray(b"\0int\0")

    def name(text: str) -> int:
        strings.extend(text.encode() + b"\0")
        return len(strings) - len(text) - 1

    types = struct.pack("<4I", 1, 1 << 24, 4, 32)
    for structure, (size, members) in structs.items():
        types += struct.pack("<3I", name(structure), 4 << 24 | len(members), size)
        for member, offset in members.items():
            types += struct.pack("<3I", name(member), 1, 8 * offset)
    sizes = (24, 0, len(types), len(types), len(strings))
    return Btf(struct.pack("<HBB5I", 0xEB9F, 1, 0, *sizes) + types + strings)


class FakeKernel:
    """A kernel with a log, and nothing else."""

    def __init__(self, bits: int = 64) -> None:
        self.bits = bits
        self.panic_cpu: Optional[int] = None
        self.types: Optional[Btf] = None
        self.symbols = {"log_buf": POINTERS, "log_buf_len": POINTERS + 16, "prb": POINTERS + 32}
        self.memory = {
            POINTERS: bytearray(48),
            PRB: bytearray(80),
            INFOS: bytearray(40 << COUNT_BITS),
            LOG: bytearray(b"\xee" * LOG_SIZE),
        }
        self.put(POINTERS, LOG.to_bytes(bits // 8, "little"))
        self.put(POINTERS + 16, LOG_SIZE.to_bytes(4, "little"))
        self.put(POINTERS + 32, PRB.to_bytes(bits // 8, "little"))
        self.put(PRB + 16 + 4, COUNT_BITS.to_bytes(4, "little"))
        self.put(PRB + 16 + 24, INFOS.to_bytes(bits // 8, "little"))

    def put(self, address: int, data: bytes) -> None:
        """Writes memory."""
        for start, memory in self.memory.items():
            if start <= address and address + len(data) <= start + len(memory):
                memory[address - start : address - start + len(data)] = data
                return
        raise AssertionError(hex(address))

    def put_ring(
        self, place: int, number: int, sequence: int, text: bytes, length: Optional[int] = None
    ) -> None:
        """Writes a record of a kernel since 5.10."""
        self.put(LOG + place, number.to_bytes(self.bits // 8, "little") + text)
        info = INFOS + 40 * (number % (1 << COUNT_BITS))
        self.put(info + 2, struct.pack("<H", len(text) if length is None else length))
        self.put(info + 16, struct.pack("<Q", sequence))

    def put_old(self, place: int, text: bytes, rest: bytes = b"") -> None:
        """Writes a record of a kernel before 5.10."""
        head = bytes(14) + struct.pack("<HI", len(text), 0xEEEEEEEE)
        self.put(LOG + place, head + text + rest)

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self.symbols.get(symbol)

    def read(self, address: int, length: int) -> bytes:
        """Reads memory."""
        for start, data in self.memory.items():
            if start <= address and address + length <= start + len(data):
                return bytes(data[address - start : address - start + length])
        raise AddressError(address)

    def pointer(self, address: int) -> int:
        """Reads a pointer."""
        return int.from_bytes(self.read(address, self.bits // 8), "little")

    def message(self, types: Optional[Btf]) -> Optional[str]:
        """Returns what the code under test makes of it."""
        self.types = types
        return panic_message(cast(LinuxKernel, cast(Any, self)))


@pytest.mark.parametrize("bits", [32, 64])
def test_records_since_5_10(bits: int) -> None:
    """The descriptor says how long a text is, though what was there before goes on behind it."""
    kernel = FakeKernel(bits)
    kernel.put_ring(0x100, 1, 7, b"Freeing unused kernel memory")
    kernel.put_ring(0x200, 2 + (5 << COUNT_BITS), 8, PANIC + b"sysrq triggered crash")
    kernel.put(LOG + 0x200 + bits // 8 + len(PANIC) + 21, b" of a record before")
    assert kernel.message(btf(RING)) == "sysrq triggered crash"


@pytest.mark.parametrize("first", [True, False])
def test_the_newest_of_several(first: bool) -> None:
    """By the number of the record, as a ring has no order of places."""
    kernel = FakeKernel()
    kernel.put_ring(0x100, 1, 9 if first else 7, PANIC + b"first")
    kernel.put_ring(0x800, 2, 8, PANIC + b"second")
    assert kernel.message(btf(RING)) == ("first" if first else "second")


def test_records_before_5_10() -> None:
    """The record's head stands before the text; behind it are keys and values."""
    kernel = FakeKernel()
    kernel.put_old(0, b"x", b"SUBSYSTEM=pci")
    kernel.put_old(0x100, PANIC + b"Fatal exception", b"DEVICE=+pci")
    assert kernel.message(btf(OLD)) == "Fatal exception"
    kernel.put_old(0x400, PANIC + b"later ")
    assert kernel.message(btf(OLD)) == "later"
    kernel = FakeKernel()
    kernel.put(LOG, PANIC + b"no room for a head before it\n")
    # A head that is looked for all the same would be found at the end of the log.
    kernel.put(LOG + LOG_SIZE - 20, bytes(20))
    assert kernel.message(btf(OLD)) == "no room for a head before it"


@pytest.mark.parametrize("types", [None, btf({}), btf({"printk_log": OLD["printk_log"]})])
def test_without_a_record(types: Optional[Btf]) -> None:
    """The text ends where the letters do, and of several the last is taken."""
    kernel = FakeKernel()
    kernel.memory[LOG][:] = bytes([0xFF, 0x7F]) * (LOG_SIZE // 2)
    kernel.put(LOG + 0x100, PANIC + b"first\n")
    kernel.put(LOG + 0x200, PANIC + b"Fatal exception in interrupt\0tail")
    assert kernel.message(types) == "Fatal exception in interrupt"


def test_no_panic() -> None:
    """A kernel that did not panic said nothing."""
    kernel = FakeKernel()
    kernel.put_ring(0, 1, 1, b"Kernel panic - not syncing:")
    assert kernel.message(btf(RING)) is None
    kernel.put_ring(0x200, 2, 2, PANIC)
    kernel.put(LOG + 0x200 + 8 + len(PANIC), b"\n")
    assert kernel.message(None) is None


@pytest.mark.parametrize(("panic_cpu", "message"), [(None, "said"), (0, "said"), (-1, None)])
def test_what_only_looks_like_a_panic(panic_cpu: Optional[int], message: Optional[str]) -> None:
    """Programs can write into the log; the kernel knows whether it panicked."""
    kernel = FakeKernel()
    kernel.put_ring(0x100, 1, 7, PANIC + b"said")
    kernel.panic_cpu = panic_cpu
    assert kernel.message(btf(RING)) == message


@pytest.mark.parametrize("symbol", ["log_buf", "log_buf_len"])
def test_a_log_that_is_not_there(symbol: str) -> None:
    """Without a symbol, or without its memory, there is no message and no error."""
    kernel = FakeKernel()
    kernel.put(LOG, PANIC + b"said\0")
    assert kernel.message(None) == "said"
    kernel.symbols[symbol] = 0xDEAD0000
    assert kernel.message(None) is None
    del kernel.symbols[symbol]
    assert kernel.message(None) is None
    kernel = FakeKernel()
    kernel.put(POINTERS, struct.pack("<Q", 0xDEAD0000))
    assert kernel.message(None) is None


def test_descriptors_that_are_not_there() -> None:
    """A record whose descriptor cannot be read ends where the letters do."""
    for place, value in ((POINTERS + 32, 0xDEAD0000), (PRB + 40, 0xDEAD0000), (PRB + 20, 31)):
        kernel = FakeKernel()
        kernel.put_ring(0x100, 0x1000002, 8, PANIC + b"said\n", len(PANIC) + 2)
        assert kernel.message(btf(RING)) == "sa"
        kernel.put(place, value.to_bytes(4, "little"))
        assert kernel.message(btf(RING)) == "said"
    kernel = FakeKernel()
    kernel.put_ring(0x100, 2, 8, PANIC + b"said\n", len(PANIC) + 2)
    for missing in RING:
        assert kernel.message(btf({**RING, missing: (64, {})})) == "said"
    del kernel.symbols["prb"]
    assert kernel.message(btf(RING)) == "said"
    kernel = FakeKernel()
    kernel.put(LOG, PANIC + b"no room for a number before it\n")
    assert kernel.message(btf(RING)) == "no room for a number before it"


def test_descriptors_that_make_no_sense() -> None:
    """A length below that of the words that are always there leaves nothing; one above, all."""
    for length, shown in ((0, ""), (len(PANIC) - 2, ""), (len(PANIC), ""), (0xFFFF, "said")):
        kernel = FakeKernel()
        kernel.put_ring(0x100, 2, 8, PANIC + b"said\n", length)
        assert (kernel.message(btf(RING)) or "") == shown
    # So many descriptors that the number would be taken as it is, and more than can be counted.
    for count_bits in (32, 40, 0xFFFFFFFF):
        kernel = FakeKernel()
        kernel.put_ring(0x100, (1 << 32) + 2, 8, PANIC + b"said\n", len(PANIC) + 2)
        kernel.put(PRB + 20, struct.pack("<I", count_bits))
        assert kernel.message(btf(RING)) == "sa"


def test_what_a_terminal_might_obey() -> None:
    """Control characters end a message or are replaced, and it is not endless."""
    for text, shown in (
        (b"Attempted to kill init!\x1b[2J", "Attempted to kill init!"),
        ("Grüße ".encode() + b"\xc2\x9b2J\xff.\n", "Grüße ?2J\N{REPLACEMENT CHARACTER}."),
        (b"x" * 2000, "x" * 1000),
    ):
        kernel = FakeKernel()
        kernel.put(LOG + 64, PANIC + text)
        kernel.put(LOG + 64 + len(PANIC + text), b"\0")
        assert kernel.message(None) == shown


NOISE = st.binary(min_size=40, max_size=40)


@given(st.data(), st.sampled_from([32, 64]), st.sampled_from([RING, OLD, {}]))
@settings(deadline=None)
def test_noise(data: st.DataObject, bits: int, structs: Structs) -> None:
    """Whatever the log and its descriptors are, a text comes out, or none."""
    kernel = FakeKernel(bits)
    types = btf(structs) if structs else None
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, LOG_SIZE - 80))
        kernel.put(LOG + place, data.draw(NOISE) + PANIC + data.draw(st.binary(max_size=12)))
    if data.draw(st.booleans()):
        kernel.put(PRB, data.draw(NOISE) * 2)
    if data.draw(st.booleans()):
        kernel.put(INFOS, data.draw(NOISE) * 8)
    message = kernel.message(types)
    assert message is None or (message.isprintable() and len(message) <= 1000)
