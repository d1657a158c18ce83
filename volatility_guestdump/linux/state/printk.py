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
from typing import NamedTuple, Optional

from volatility_guestdump.budget import Budget
from volatility_guestdump.exceptions import AddressError, BtfError, KernelError
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.btf import Btf
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

#: What has more bits is no integer; a damaged type may say that it has billions.
_LARGEST_INTEGER = 64

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
    btf = kernel.btf
    prb = kernel.address("prb")
    if prb is not None and "printk_ringbuffer" in btf.names:
        return _Ring(kernel, btf, kernel.pointer(prb)).read()
    if "printk_log" in btf.names:
        return _read_old(kernel, btf)
    raise KernelError("the kernel does not say where its log is")


class _NoRecordError(Exception):
    """A slot of the ring holds no record."""


class _Field:
    """An unsigned member of a structure, which may be a bitfield.

    Args:
        btf: that has the structure.
        structure: its name.
        path: of the member.
    """

    def __init__(self, btf: Btf, structure: str, path: str) -> None:
        member = btf.member(structure, path)
        bits = member.bit_size
        if not bits:
            bits = 8 * btf.size(btf.resolve(member.type))
        if bits > _LARGEST_INTEGER:
            raise BtfError(f"{structure}.{path} has {bits} bits")
        self._first = member.bit_offset // 8
        self._end = (member.bit_offset + bits + 7) // 8
        self._shift = member.bit_offset % 8
        self._mask = (1 << bits) - 1

    def of(self, data: bytes) -> int:
        """Returns the value that the member has in a structure's bytes."""
        value = int.from_bytes(data[self._first : self._end], "little")
        return value >> self._shift & self._mask


class _Info:
    """What tells of a record: struct printk_info, or struct printk_log.

    Args:
        btf: that has the structure.
        structure: its name.

    Attributes:
        length: of the text, in bytes.
    """

    def __init__(self, btf: Btf, structure: str) -> None:
        self.length = _Field(btf, structure, "text_len")
        self._time = _Field(btf, structure, "ts_nsec")
        self._facility = _Field(btf, structure, "facility")
        self._level = _Field(btf, structure, "level")
        self._caller: Optional[_Field] = None
        # With CONFIG_PRINTK_CALLER.
        with contextlib.suppress(BtfError):
            self._caller = _Field(btf, structure, "caller_id")

    def record(self, data: bytes, text: bytes) -> Record:
        """Returns a record."""
        # A tab is not to be shown as something that is not known.
        lines = tuple(printable(line.expandtabs()) for line in text.rstrip(b"\n").split(b"\n"))
        return Record(
            nanoseconds=self._time.of(data),
            facility=self._facility.of(data),
            # It has three bits; of damaged types it might have more.
            level=self._level.of(data) & 7,
            caller=self._caller_of(data),
            lines=lines,
        )

    def _caller_of(self, data: bytes) -> str:
        if self._caller is None:
            return ""
        caller = self._caller.of(data)
        if caller & _CALLER_IS_CPU:
            return f"CPU {caller ^ _CALLER_IS_CPU}"
        return f"pid {caller}"


class _Ring:
    """A printk_ringbuffer.

    Args:
        kernel: whose log it is.
        btf: its types.
        address: of the struct.
    """

    def __init__(self, kernel: LinuxKernel, btf: Btf, address: int) -> None:
        self._kernel = kernel
        self._btf = btf
        self._word = kernel.bits // 8
        descriptors = address + btf.offset("printk_ringbuffer", "desc_ring")
        text = address + btf.offset("printk_ringbuffer", "text_data_ring")
        self._count_bits = self._u32(descriptors + btf.offset("prb_desc_ring", "count_bits"))
        self._size_bits = self._u32(text + btf.offset("prb_data_ring", "size_bits"))
        if self._count_bits > _MAXIMUM_COUNT_BITS or not 0 < self._size_bits < 32:
            raise KernelError("the sizes of the kernel's log make no sense")
        pointer = kernel.pointer
        self._descriptors = pointer(descriptors + btf.offset("prb_desc_ring", "descs"))
        self._infos = pointer(descriptors + btf.offset("prb_desc_ring", "infos"))
        self._head = pointer(descriptors + btf.offset("prb_desc_ring", "head_id"))
        self._tail = pointer(descriptors + btf.offset("prb_desc_ring", "tail_id"))
        self._text = pointer(text + btf.offset("prb_data_ring", "data"))
        self._info = _Info(btf, "printk_info")
        self._descriptor = [
            _Field(btf, "prb_desc", path)
            for path in ("state_var", "text_blk_lpos.begin", "text_blk_lpos.next")
        ]

    def _u32(self, address: int) -> int:
        return int.from_bytes(self._kernel.read(address, 4), "little")

    def read(self) -> Log:
        """Reads the records."""
        ids = (1 << (self._kernel.bits - 2)) - 1
        there = min(((self._head - self._tail) & ids) + 1, 1 << self._count_bits)
        count = min(there, MAXIMUM_RECORDS)
        first = self._head - count + 1
        descriptor_size = self._btf.size_of("prb_desc", _LARGEST_RECORD)
        info_size = self._btf.size_of("printk_info", _LARGEST_RECORD)
        descriptors = self._slots(self._descriptors, first, count, descriptor_size)
        infos = self._slots(self._infos, first, count, info_size)
        records, lost = [], 0
        for number in range(count):
            descriptor = descriptors[number * descriptor_size : (number + 1) * descriptor_size]
            info = infos[number * info_size : (number + 1) * info_size]
            with contextlib.suppress(_NoRecordError):
                try:
                    text = self._record_text((first + number) & ids, descriptor, info)
                except AddressError:
                    lost += 1
                    continue
                records.append(self._info.record(info, text))
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

    def _record_text(self, number: int, descriptor: bytes, info: bytes) -> bytes:
        """Returns the text of a record.

        Raises:
            _NoRecordError: the descriptor is of none, being made or taken away.
            AddressError: its parts are not all in the dump.
        """
        state, begin, end = (field.of(descriptor) for field in self._descriptor)
        if state & ((1 << (8 * self._word - 2)) - 1) != number:
            raise AddressError(self._descriptors, "a descriptor of the log is not in the dump")
        if state >> (8 * self._word - 2) not in (_COMMITTED, _FINALIZED):
            raise _NoRecordError
        return self._block(number, begin, end, self._info.length.of(info))

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
            raise _NoRecordError
        return data[self._word :]


def _read_old(kernel: LinuxKernel, btf: Btf) -> Log:
    names = ("log_buf", "log_buf_len", "log_first_idx", "log_next_idx")
    places = [kernel.address(name) for name in names]
    buffer, size, first, end = places
    if buffer is None or size is None or first is None or end is None:
        raise KernelError("the kernel does not say where its log is")
    start = kernel.pointer(buffer)
    length, index, last = (
        int.from_bytes(kernel.read(place, 4), "little") for place in (size, first, end)
    )
    records: deque[Record] = deque(maxlen=MAXIMUM_RECORDS)
    count = 0
    for record in _walk_old(kernel, btf, start, length, index, last):
        records.append(record)
        count += 1
    return Log(list(records), 0, count - len(records))


def _walk_old(
    kernel: LinuxKernel, btf: Btf, start: int, length: int, index: int, last: int
) -> Iterator[Record]:
    header = btf.size_of("printk_log", _LARGEST_RECORD)
    size_of, info = _Field(btf, "printk_log", "len"), _Info(btf, "printk_log")
    walked, wrapped = 0, index < last
    # The length is the guest's, up to 4 GiB, and a step may be short: both have a limit.
    steps = Budget(_MAXIMUM_WALKED)
    while index != last and walked <= length and index + header <= length:
        if not steps.take():
            raise KernelError(f"the kernel's log has more than {_MAXIMUM_WALKED} records")
        try:
            data = kernel.read(start + index, header)
            size = size_of.of(data)
            if not size:
                if wrapped:
                    return
                wrapped, index = True, 0
                continue
            if size < header:
                # No record is shorter than what tells of it.
                return
            text = min(info.length.of(data), _TEXT_LIMIT, size)
            yield info.record(data, kernel.read(start + index + header, text))
        except AddressError:
            # Where the next record is, only this one would have told.
            return
        index += size
        walked += size
