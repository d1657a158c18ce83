# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernel logs made by hand, as kernels since 5.10 and before keep them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.handmade import printk as handmade
from tests.handmade.btf import BtfBuilder
from tests.handmade.kernel import HandmadeKernel
from tests.handmade.printk import Entry, with_log
from volatility_guestdump.exceptions import AddressError, KernelError, TypesError
from volatility_guestdump.linux.state import printk
from volatility_guestdump.linux.state.printk import MAXIMUM_RECORDS, Log, Record, read_log
from volatility_guestdump.linux.types.btf import Btf

BOTH = pytest.mark.parametrize("old", [False, True])


def texts(log: Log) -> list[str]:
    """Returns the text of each record."""
    return ["|".join(record.lines) for record in log.records]


@pytest.mark.parametrize(("old", "bits"), [(False, 64), (False, 32), (True, 64)])
def test_a_record(old: bool, bits: int) -> None:
    """Time, facility, level, caller and lines are those that were written."""
    entries = [
        Entry(b"Linux version 6.1\n", level=5, caller=handmade.CALLER_IS_CPU | 3),
        Entry(b"first\n\tsecond\n", 1, 7, 1234_567_890_123, 93),
    ]
    assert read_log(with_log(entries, old, bits).kernel) == Log(
        [
            Record(0, 0, 5, "CPU 3", ("Linux version 6.1",)),
            Record(1234_567_890_123, 1, 7, "pid 93", ("first", "        second")),
        ],
        0,
        0,
    )


def test_stamps() -> None:
    """They are as the kernel prints them."""
    stamps = [Record(ns, 0, 6, "", ("",)).stamp for ns in (0, 10_580_686_999, 1234567 * 10**9)]
    assert stamps == ["[    0.000000]", "[   10.580686]", "[1234567.000000]"]


@BOTH
def test_what_a_terminal_might_obey(old: bool) -> None:
    """It is shown as something that is not known, in lines of its own."""
    text = b"\x1b[2J\xe2\x80\xaegpj\xff<script>\"'\n\0hidden"
    (record,) = read_log(with_log([Entry(text)], old).kernel).records
    assert record.lines == ("?[2J?gpj\N{REPLACEMENT CHARACTER}<script>\"'", "")


@pytest.mark.parametrize("position", range(0, 4096, 520))
@pytest.mark.parametrize("first", [0, 60, (1 << 62) - 3])
def test_rings_go_round(first: int, position: int) -> None:
    """Ids, positions and indexes begin again, and nothing is lost or twice."""
    kernel = with_log([])
    entries = [Entry(b"%d " % number + b"x" * 50) for number in range(50)]
    handmade.write_ring(kernel, entries, first, (1 << 64) - 4096 * 2 + position)
    log = read_log(kernel.kernel)
    assert texts(log) == [entry.text.decode() for entry in entries]
    assert (log.lost, log.earlier) == (0, 0)


@pytest.mark.parametrize("start", range(0, 4000, 500))
def test_the_old_buffer_goes_round(start: int) -> None:
    """A record of length 0 stands for its end."""
    kernel = with_log([], old=True)
    entries = [Entry(b"%d " % number + b"x" * 50) for number in range(40)]
    handmade.write_old(kernel, entries, start)
    assert texts(read_log(kernel.kernel)) == [entry.text.decode() for entry in entries]


def test_records_that_are_none() -> None:
    """What is being made, was taken away or found no room is left out, and is not lost."""
    entries = [
        Entry(b"made", state=handmade.RESERVED),
        Entry(b"growing", state=handmade.COMMITTED),
        Entry(b"gone", state=handmade.REUSABLE),
        Entry(b"", position=handmade.NO_TEXT),
        Entry(b"no room", position=handmade.FAILED),
        Entry(b"last"),
    ]
    log = read_log(with_log(entries).kernel)
    assert (texts(log), log.lost) == (["growing", "", "last"], 0)


def test_of_a_long_log_the_end() -> None:
    """The last records are read, and it is said how many there are before."""
    kernel = with_log([])
    entries = [Entry(b"%d" % number) for number in range(MAXIMUM_RECORDS + 5)]
    handmade.write_ring(kernel, entries, first=7, count_bits=15, size_bits=20)
    log = read_log(kernel.kernel)
    assert (len(log.records), log.earlier, log.lost) == (MAXIMUM_RECORDS, 5, 0)
    assert (log.records[0].lines, log.records[-1].lines) == (("5",), (f"{MAXIMUM_RECORDS + 4}",))


@pytest.mark.parametrize(
    ("place", "zeros"),
    [
        (handmade.TEXT + 16, 0),
        # A missing page reads as zeros.
        (handmade.TEXT + 16, 8 + len("second")),
        (handmade.DESCRIPTORS + handmade.DESCRIPTOR_SIZE, handmade.DESCRIPTOR_SIZE),
        (handmade.INFOS + handmade.INFO_SIZE, handmade.INFO_SIZE),
    ],
)
def test_a_record_that_is_not_in_the_dump(place: int, zeros: int) -> None:
    """It is counted, and the others are there: one bad page costs what is on it."""
    kernel = with_log([Entry(b"first"), Entry(b"second"), Entry(b"third")])
    if zeros:
        kernel.write(place, bytes(zeros))
    else:
        del kernel.bytes[place]
    log = read_log(kernel.kernel)
    assert (texts(log), log.lost) == (["first", "third"], 1)


def test_an_old_log_ends_where_it_is_damaged() -> None:
    """Where the next record is, only the missing one would have told."""
    kernel = with_log([Entry(b"first"), Entry(b"second"), Entry(b"third")], old=True)
    del kernel.bytes[handmade.TEXT + 40]
    assert texts(read_log(kernel.kernel)) == ["first"]


def test_no_log() -> None:
    """It is an error, not an empty log."""
    builder = BtfBuilder()
    builder.int_("int", 4)
    for kernel in (HandmadeKernel(), HandmadeKernel(Btf(builder.build())), with_log([], old=True)):
        kernel.symbols = {}
        with pytest.raises(KernelError):
            read_log(kernel.kernel)
    kernel = with_log([Entry(b"x")])
    kernel.write(handmade.RING + 72, b"\xff")
    with pytest.raises(KernelError):
        read_log(kernel.kernel)
    del kernel.bytes[handmade.VARIABLES]
    with pytest.raises(AddressError):
        read_log(kernel.kernel)


PARTS = {
    False: (handmade.RING, handmade.DESCRIPTORS, handmade.INFOS, handmade.TEXT),
    True: (handmade.TEXT, handmade.VARIABLES + 8),
}


@given(st.data(), st.booleans(), st.sampled_from([32, 64]))
@settings(deadline=None, max_examples=50)
def test_noise(data: st.DataObject, old: bool, bits: int) -> None:
    """Whatever lies there, records fit for the screen come out, or an error that is meant."""
    kernel = with_log([Entry(b"%d " % number * 9) for number in range(9)], old, 64 if old else bits)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.sampled_from(PARTS[old])) + data.draw(st.integers(0, 96))
        kernel.write(place, data.draw(st.binary(min_size=1, max_size=8)))
    try:
        log = read_log(kernel.kernel)
    except (AddressError, KernelError):
        return
    assert len(log.records) <= MAXIMUM_RECORDS and log.lost >= 0 and log.earlier >= 0
    assert all(line.isprintable() or not line for record in log.records for line in record.lines)


@pytest.mark.parametrize("structure", ["prb_desc", "printk_info"])
def test_a_ring_whose_elements_would_have_a_megabyte(structure: str) -> None:
    """20,000 of them are 19 GiB of zeros, where nothing is mapped: they are refused."""
    kernel = with_log([Entry(b"x")])
    kernel.resize(structure, 1 << 20)
    reads = counted(kernel)
    with pytest.raises(TypesError, match=f"{structure} would have 1048576 bytes"):
        read_log(kernel.kernel)
    assert sum(reads) < 1000


@pytest.mark.parametrize("size", [1, 23])
def test_an_old_log_of_4_gib_of_short_records(size: int) -> None:
    """None is shorter than what tells of it: four billion steps are one."""
    kernel = with_log([Entry(b"first"), Entry(b"second")], old=True)
    place = kernel.symbols["log_buf_len"]
    kernel.write(place, b"\xff\xff\xff\xff")
    index = -(-(handmade.OLD_HEADER + 5 + 5) // 4) * 4
    kernel.write(handmade.TEXT + index + 16, size.to_bytes(2, "little"))
    reads = counted(kernel)
    assert texts(read_log(kernel.kernel)) == ["first"] and len(reads) < 20


def test_an_old_log_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its length is the guest's word; the number of records has a limit."""
    monkeypatch.setattr(printk, "_MAXIMUM_WALKED", 1000)
    kernel = with_log([Entry(b"first")], old=True)
    for name in ("log_buf_len", "log_next_idx"):
        kernel.write(kernel.symbols[name], b"\xff\xff\xff\xff")
    reads, sound = counted(kernel), kernel.read
    head = sound(handmade.TEXT, handmade.OLD_HEADER)

    def read(address: int, length: int) -> bytes:
        if address >= handmade.TEXT:
            reads.append(length)
            return head.ljust(length, b"x")[:length]
        return sound(address, length)

    kernel.read = read  # type: ignore[method-assign]
    with pytest.raises(KernelError, match="more than 1000 records"):
        read_log(kernel.kernel)
    assert len(reads) <= 2 * 1000 + 20


def counted(kernel: HandmadeKernel) -> list[int]:
    """Returns what has the length of each read from now on."""
    reads: list[int] = []
    sound = kernel.read

    def read(address: int, length: int) -> bytes:
        reads.append(length)
        return sound(address, length)

    kernel.read = read  # type: ignore[method-assign]
    return reads


def test_of_an_old_log_that_is_long_the_end_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The text of those before is not read: it may be gigabytes."""
    monkeypatch.setattr(printk, "MAXIMUM_RECORDS", 10)
    kernel = with_log([], old=True)
    handmade.write_old(kernel, [Entry(b"%d" % number * 9) for number in range(60)])
    reads = counted(kernel)
    log = read_log(kernel.kernel)
    assert (len(log.records), log.earlier, log.lost) == (10, 50, 0)
    assert log.records[-1].lines == ("59" * 9,) and len(reads) <= 60 + 10 + 9


def test_a_text_of_an_old_log_that_is_not_in_the_dump() -> None:
    """It is counted: what tells of the next record is there."""
    kernel = with_log([Entry(b"first"), Entry(b"second"), Entry(b"third")], old=True)
    del kernel.bytes[handmade.TEXT + 36 + handmade.OLD_HEADER]
    log = read_log(kernel.kernel)
    assert (texts(log), log.lost) == (["first", "third"], 1)


@pytest.mark.parametrize("old", [False, True])
def test_a_text_of_tabs(old: bool) -> None:
    """Each becomes eight spaces: of a record no more is kept than it may have."""
    (record,) = read_log(with_log([Entry(b"\t" * 4000)], old).kernel).records
    assert len(record.lines[0]) == 4096
