# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Writes kernel logs as kernel/printk/printk_ringbuffer.h and the printk.c before it define them.

No member stands where a kernel has it, so that a reader that knows offsets by heart fails.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple, Optional

from tests.handmade.btf import BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from volatility_guestdump.linux.types.btf import Btf

#: States of a descriptor: being made, there (and may grow), there, and taken away.
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
#: The positions of an empty text, and of one that there was no room for.
NO_TEXT, FAILED = 3, 1
CALLER_IS_CPU = 1 << 31

#: Where the parts are.
RING, DESCRIPTORS, INFOS, TEXT, VARIABLES = 0x8001000, 0x8100000, 0x8200000, 0x8300000, 0x8000000
DESCRIPTOR_SIZE, INFO_SIZE, OLD_HEADER = 40, 48, 24


class Entry(NamedTuple):
    """A record to write."""

    text: bytes
    facility: int = 0
    level: int = 6
    nanoseconds: int = 0
    caller: int = 1
    state: int = FINALIZED
    #: Instead of a place for the text.
    position: Optional[int] = None


def _details(builder: BtfBuilder, name: str, size: int) -> None:
    """Adds what tells of a record: both forms have the same members, of other sizes."""
    u8, u16 = builder.int_("u8", 1), builder.int_("u16", 2)
    u32, u64 = builder.int_("u32", 4), builder.int_("u64", 8)
    builder.struct(
        name,
        size,
        [
            *(("caller_id", u32, 0, 0), ("flags", u8, 32, 5), ("level", u8, 37, 3)),
            *(("facility", u8, 40, 0), ("text_len", u16, 48, 0), ("ts_nsec", u64, 64, 0)),
            *(("len", u16, 128, 0), ("seq", u64, 192 if size > OLD_HEADER else 128, 0)),
        ],
    )


def _details_of(entry: Entry, length: int, whole: int, size: int) -> bytes:
    level = 0b10110 | entry.level << 5
    head = struct.pack(
        *("<IBBHQH", entry.caller, level, entry.facility, length, entry.nanoseconds, whole)
    )
    return head.ljust(size, b"\0")


def ring_types(builder: BtfBuilder, bits: int = 64) -> None:
    """Adds the types of a log since 5.10."""
    word, u32 = builder.int_("word", bits // 8), builder.int_("u32", 4)
    _details(builder, "printk_info", INFO_SIZE)
    place = builder.struct("prb_data_blk_lpos", 16, [("next", word, 0), ("begin", word, 64)])
    builder.struct(
        "prb_desc", DESCRIPTOR_SIZE, [("text_blk_lpos", place, 64), ("state_var", word, 0)]
    )
    descriptors = [(name, word, 64 * n) for n, name in enumerate(("infos", "head_id", "descs"))]
    ring = builder.struct(
        "prb_desc_ring", 48, [*descriptors, ("tail_id", word, 192), ("count_bits", u32, 256)]
    )
    data = builder.struct("prb_data_ring", 24, [("data", word, 0), ("size_bits", u32, 64)])
    builder.struct(
        "printk_ringbuffer", 96, [("text_data_ring", data, 64), ("desc_ring", ring, 64 * 5)]
    )


def write_ring(
    kernel: HandmadeKernel,
    entries: Sequence[Entry],
    first: int = 0,
    position: int = 0,
    count_bits: int = 6,
    size_bits: int = 12,
) -> None:
    """Writes a log since 5.10.

    Args:
        kernel: whose log it is.
        entries: its records.
        first: id of the first.
        position: of the first one's text.
        count_bits: so many descriptors there are, as a power of two.
        size_bits: so many bytes of text, likewise.
    """
    word = kernel.bits // 8
    id_mask, word_mask = (1 << (kernel.bits - 2)) - 1, (1 << kernel.bits) - 1
    size = 1 << size_bits
    kernel.symbols["prb"] = VARIABLES
    kernel.put(VARIABLES, RING)
    kernel.write(RING, bytes(96))
    kernel.put(RING + 8, TEXT)
    kernel.write(RING + 16, struct.pack("<I", size_bits))
    last = first + len(entries) - 1
    for number, value in enumerate((INFOS, last & id_mask, DESCRIPTORS, first & id_mask)):
        kernel.put(RING + 40 + 8 * number, value)
    kernel.write(RING + 72, struct.pack("<I", count_bits))
    kernel.write(TEXT, b"\xee" * size)
    kernel.write(DESCRIPTORS, bytes(DESCRIPTOR_SIZE << count_bits))
    kernel.write(INFOS, bytes(INFO_SIZE << count_bits))
    for number, entry in enumerate(entries, first):
        index, name = number % (1 << count_bits), number & id_mask
        begin = following = entry.position if entry.position is not None else position
        if entry.position is None:
            block = -(-(word + len(entry.text)) // word) * word
            at, following = position % size, position + block
            if at + block > size:
                # It lies at the start, and only its id where it would have been.
                kernel.put(TEXT + at, name)
                at, following = 0, (position // size + 1) * size + block
            kernel.put(TEXT + at, name)
            kernel.write(TEXT + at + word, entry.text)
            position = following
        descriptor = DESCRIPTORS + DESCRIPTOR_SIZE * index
        kernel.put(descriptor, name | entry.state << (kernel.bits - 2))
        kernel.put(descriptor + 8, following & word_mask)
        kernel.put(descriptor + 16, begin & word_mask)
        details = _details_of(entry, len(entry.text), 0, INFO_SIZE)
        sequence = struct.pack("<Q", number & ((1 << 64) - 1))
        kernel.write(INFOS + INFO_SIZE * index, details[:24] + sequence + details[32:])


def old_types(builder: BtfBuilder) -> None:
    """Adds the types of a log before 5.10."""
    _details(builder, "printk_log", OLD_HEADER)


def write_old(
    kernel: HandmadeKernel, entries: Sequence[Entry], start: int = 0, size: int = 1 << 12
) -> None:
    """Writes a log before 5.10.

    Args:
        kernel: whose log it is.
        entries: its records.
        start: offset of the first.
        size: of the buffer.
    """
    kernel.write(TEXT, b"\xee" * size)
    index = start
    for entry in entries:
        # Behind the text are keys and values.
        whole = -(-(OLD_HEADER + len(entry.text) + 5) // 4) * 4
        if index + whole + OLD_HEADER > size:
            kernel.write(TEXT + index, bytes(OLD_HEADER))
            index = 0
        head = _details_of(entry, len(entry.text), whole, OLD_HEADER)
        kernel.write(TEXT + index, head + entry.text + b"K=+v\0")
        index += whole
    for number, (name, value) in enumerate(
        (("log_buf_len", size), ("log_first_idx", start), ("log_next_idx", index))
    ):
        kernel.symbols[name] = VARIABLES + 16 + 4 * number
        kernel.write(VARIABLES + 16 + 4 * number, struct.pack("<I", value))
    write_buffer(kernel, size)


def write_buffer(kernel: HandmadeKernel, size: int) -> None:
    """Writes where the text is, and how much, which kernels of all times tell."""
    kernel.symbols.update(log_buf=VARIABLES + 8, log_buf_len=VARIABLES + 16)
    kernel.put(VARIABLES + 8, TEXT)
    kernel.write(VARIABLES + 16, struct.pack("<I", size))


def with_log(entries: Sequence[Entry], old: bool = False, bits: int = 64) -> HandmadeKernel:
    """Returns a kernel with a log and nothing else."""
    builder = BtfBuilder()
    if old:
        old_types(builder)
    else:
        ring_types(builder, bits)
    kernel = HandmadeKernel(Btf(builder.build()))
    kernel.bits = bits
    if old:
        write_old(kernel, entries)
    else:
        write_ring(kernel, entries)
        write_buffer(kernel, 1 << 12)
    return kernel
