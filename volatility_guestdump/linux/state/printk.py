# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The records of the kernel's log, as dmesg(1) shows them.

From 5.10 on (896fbe20b4e2) prb points to a struct printk_ringbuffer with three rings:

    descriptors     struct prb_desc: an id with a state in its two top bits, and where the text lies
    infos           struct printk_info, at the same index: sequence, time, length, level, caller
    text            blocks of an id and a text each; positions count on and on, their low bits are
                    the offset. A block that does not fit before the end lies at the start instead.

The index of a descriptor is the low bits of its id; ids from tail_id to head_id are in the log.

Before, the records lay one after the other in log_buf, from log_first_idx to log_next_idx: a
struct printk_log with the text behind it. A record of length 0 stands for the end of the buffer.
"""

import contextlib
from collections import deque
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.protocol import Types
from volatility_guestdump.linux.types.reading import Struct, Structures
from volatility_guestdump.machine import read_padded
from volatility_guestdump.text import printable

#: Of a longer log the last so many records: 2 MiB of text, of the usual length.
MAXIMUM_RECORDS = 20_000
#: LOG_LINE_MAX is 1024, PRINTKRB_RECORD_MAX 1024 or 2048.
_TEXT_LIMIT = 4096
#: log_buf_len= takes up to 2 GiB, which with 32 bytes a record has 2^26 descriptors.
_MAXIMUM_COUNT_BITS = 26

#: What tells of a record has less than a hundred bytes in any kernel. A whole ring is read at once.
_LARGEST_RECORD = 1 << 10
#: Records that an old log can have: 32 MiB are the most that a kernel is built with
#: (CONFIG_LOG_BUF_SHIFT), and few are shorter than 32 bytes.
_MAXIMUM_WALKED = 1 << 20

_COMMITTED, _FINALIZED = 1, 2
#: NO_LPOS: the position of an empty text.
_NO_TEXT = 3
#: What callers are told apart by: bit 31 of caller_id is set for a CPU, else it is a thread's pid.
_CALLER_IS_CPU = 1 << 31


class Record(NamedTuple):
    """A record of the log.

    Attributes:
        nanoseconds: since boot, by the clock of the CPU that wrote it.
        facility: 0 for the kernel itself; what processes write into its log has others.
        level: from 0, emergency, to 7, debug.
        caller: "CPU 1" or "pid 93", or empty where the log does not tell (CONFIG_PRINTK_CALLER).
        lines: of its text, fit for the screen.
    """

    nanoseconds: int
    facility: int
    level: int
    caller: str
    lines: tuple[str, ...]

    @property
    def stamp(self) -> str:
        """The time as the kernel prints it, "[   10.580686]"."""
        seconds, rest = divmod(self.nanoseconds, 1_000_000_000)
        return f"[{seconds:5}.{rest // 1000:06}]"


class Log(NamedTuple):
    """A kernel's log.

    Attributes:
        records: the newest last.
        lost: how many records there should be whose text is not in the dump.
        earlier: how many records there are before these, see `MAXIMUM_RECORDS`.
    """

    records: Sequence[Record]
    lost: int
    earlier: int


def read_log(kernel: LinuxKernel) -> Log:
    """Returns a kernel's log.

    Raises:
        KernelError: the kernel has no log that can be read.
        AddressError: what leads to it is not in the dump.
    """
    types = kernel.require_types()
    prb = kernel.address("prb")
    if prb is not None and types.has("printk_ringbuffer"):
        return _Ring(kernel, types, kernel.pointer(prb)).read()
    if types.has("printk_log"):
        return _read_old(kernel, types)
    raise KernelError("the kernel does not say where its log is")


class _NoRecordError(Exception):
    """A slot of the ring holds no record."""


def _record(info: Struct, text: bytes) -> Record:
    """Returns a record, given a struct printk_info or a struct printk_log."""
    # A tab is not to be shown as something that is not known.
    lines = tuple(
        printable(line.expandtabs()[:_TEXT_LIMIT]) for line in text.rstrip(b"\n").split(b"\n")
    )
    return Record(
        nanoseconds=info.integer("ts_nsec"),
        facility=info.integer("facility"),
        # It has three bits; of damaged types it might have more.
        level=info.integer("level") & 7,
        caller=_caller(info),
        lines=lines,
    )


def _caller(info: Struct) -> str:
    # With CONFIG_PRINTK_CALLER.
    caller = info.get("caller_id")
    if caller is None:
        return ""
    if caller & _CALLER_IS_CPU:
        return f"CPU {caller ^ _CALLER_IS_CPU}"
    return f"pid {caller}"


class _Ring:
    """A printk_ringbuffer.

    Args:
        kernel: whose log it is.
        types: its types.
        address: of the struct.

    Raises:
        KernelError: its sizes make no sense, or the types do not tell where they are.
        AddressError: it is not in the dump.
    """

    def __init__(self, kernel: LinuxKernel, types: Types, address: int) -> None:
        self._kernel = kernel
        self._types = types
        self._word = kernel.bits // 8
        self._descriptor = Structures(kernel, types, "prb_desc")
        self._info = Structures(kernel, types, "printk_info")
        for kind, paths in (
            (self._descriptor, ("state_var", "text_blk_lpos.begin", "text_blk_lpos.next")),
            (self._info, ("text_len", "ts_nsec", "facility", "level")),
        ):
            kind.require_numbers(*paths)
        ring = Structures(kernel, types, "printk_ringbuffer").at(address)
        descriptors = Structures(kernel, types, "prb_desc_ring").at(ring.place("desc_ring"))
        text = Structures(kernel, types, "prb_data_ring").at(ring.place("text_data_ring"))
        self._count_bits = descriptors.integer("count_bits")
        self._size_bits = text.integer("size_bits")
        if not 0 <= self._count_bits <= _MAXIMUM_COUNT_BITS or not 0 < self._size_bits < 32:
            raise KernelError("the sizes of the kernel's log make no sense")
        self._descriptors, self._infos = descriptors.integer("descs"), descriptors.integer("infos")
        self._head, self._tail = descriptors.integer("head_id"), descriptors.integer("tail_id")
        self._text = text.integer("data")

    def read(self) -> Log:
        """Reads the records."""
        ids = (1 << (self._kernel.bits - 2)) - 1
        there = min(((self._head - self._tail) & ids) + 1, 1 << self._count_bits)
        count = min(there, MAXIMUM_RECORDS)
        first = self._head - count + 1
        descriptor_size, info_size = (
            self._types.size_of(kind.name, _LARGEST_RECORD)
            for kind in (self._descriptor, self._info)
        )
        descriptors = self._slots(self._descriptors, first, count, descriptor_size)
        infos = self._slots(self._infos, first, count, info_size)
        records, lost = [], 0
        for number in range(count):
            descriptor = self._descriptor.of(
                descriptors[number * descriptor_size : (number + 1) * descriptor_size]
            )
            info = self._info.of(infos[number * info_size : (number + 1) * info_size])
            with contextlib.suppress(_NoRecordError):
                try:
                    text = self._record_text((first + number) & ids, descriptor, info)
                except AddressError:
                    lost += 1
                    continue
                records.append(_record(info, text))
        return Log(records, lost, there - count)

    def _slots(self, address: int, first: int, count: int, size: int) -> bytes:
        """Reads `count` elements of a ring from the one of an id on, zeros for missing pages."""
        there = 1 << self._count_bits
        index = first & (there - 1)
        until = min(count, there - index)
        read = self._kernel.read
        data, _ = read_padded(read, address + index * size, until * size)
        if until < count:
            data += read_padded(read, address, (count - until) * size)[0]
        return data

    def _record_text(self, number: int, descriptor: Struct, info: Struct) -> bytes:
        """Returns the text of a record.

        Raises:
            _NoRecordError: the descriptor is of none, being made or taken away.
            AddressError: its parts are not all in the dump.
        """
        state, begin = descriptor.integer("state_var"), descriptor.integer("text_blk_lpos.begin")
        end = descriptor.integer("text_blk_lpos.next")
        if state & ((1 << (8 * self._word - 2)) - 1) != number:
            raise AddressError(self._descriptors, "a descriptor of the log is not in the dump")
        if state >> (8 * self._word - 2) not in (_COMMITTED, _FINALIZED):
            raise _NoRecordError
        sequence = info.get("seq")
        if sequence is not None and (sequence ^ number) & ((1 << self._count_bits) - 1):
            # Each info has numbers that belong to its place; one of zeros would be an empty record.
            raise AddressError(self._infos, "what tells of a record of the log is not in the dump")
        return self._block(number, begin, end, info.integer("text_len"))

    def _block(self, number: int, begin: int, end: int, length: int) -> bytes:
        """Returns the text of a block; see `_record_text`."""
        if begin & 1 and end & 1:
            # It has no data: an empty text (NO_LPOS), or one that there was no room for.
            if begin == end == _NO_TEXT:
                return b""
            raise _NoRecordError
        size = 1 << self._size_bits
        at, room = begin % size, end - begin
        if end // size == begin // size + 1 and end % size:
            at, room = 0, end % size
        if not self._word <= room <= size - at:
            raise AddressError(self._text + at, "a block of the log makes no sense")
        length = min(length, room - self._word, _TEXT_LIMIT)
        data = self._kernel.read(self._text + at, self._word + length)
        if int.from_bytes(data[: self._word], "little") != number:
            # A descriptor is taken away before its block is written over.
            raise AddressError(self._text + at, "a block of the log is not in the dump")
        return data[self._word :]


def _read_old(kernel: LinuxKernel, types: Types) -> Log:
    names = ("log_buf", "log_buf_len", "log_first_idx", "log_next_idx")
    places = [kernel.address(name) for name in names]
    buffer, size, first, end = places
    if buffer is None or size is None or first is None or end is None:
        raise KernelError("the kernel does not say where its log is")
    start = kernel.pointer(buffer)
    length, index, last = (
        int.from_bytes(kernel.read(place, 4), "little") for place in (size, first, end)
    )
    # The last are wanted alone, and where these are only a walk from the first tells.
    there: deque[tuple[Struct, int]] = deque(maxlen=MAXIMUM_RECORDS)
    count = 0
    for found in _walk_old(kernel, types, start, length, index, last):
        there.append(found)
        count += 1
    records = []
    for info, place in there:
        size = min(info.integer("text_len"), info.integer("len"), _TEXT_LIMIT)
        with contextlib.suppress(AddressError):
            records.append(_record(info, kernel.read(place, size)))
    return Log(records, len(there) - len(records), count - len(there))


def _walk_old(
    kernel: LinuxKernel, types: Types, start: int, length: int, index: int, last: int
) -> Iterator[tuple[Struct, int]]:
    """Yields what tells of each record, and the address of its text."""
    headers = Structures(kernel, types, "printk_log")
    headers.require_numbers("len", "text_len", "ts_nsec", "facility", "level")
    header = types.size_of("printk_log", _LARGEST_RECORD)
    walked, wrapped = 0, index < last
    # The length is the guest's, up to 4 GiB, and a step may be short: both have a limit.
    steps = Budget(_MAXIMUM_WALKED)
    while index != last and walked <= length and index + header <= length:
        if not steps.take():
            raise KernelError(f"the kernel's log has more than {_MAXIMUM_WALKED} records")
        try:
            info = headers.of(kernel.read(start + index, header))
            size = info.integer("len")
            if not size:
                if wrapped:
                    return
                wrapped, index = True, 0
                continue
            if size < header:
                # No record is shorter than what tells of it.
                return
        except AddressError:
            # Where the next record is, only this one would have told.
            return
        yield info, start + index + header
        index += size
        walked += size
