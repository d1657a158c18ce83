# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ELF cores of QEMU, on bytes made by hand."""

import contextlib
import io
import random
import struct
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import mutate
from tests.handmade.vmware import registers, shown
from tests.lab.formats.elf_core import NT_PRSTATUS, cpu_state, note, prstatus, qemu_notes
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import REGISTERS, MemoryRange
from volatility_guestdump.sources.qemu_elf import QemuElf

#: p_paddr, offset in the memory of the file, p_filesz, p_memsz.
Load = tuple[int, int, int, int]

LOADS: Sequence[Load] = ((0, 0, 0x3000, 0x3000), (1 << 32, 0x3000, 0x2000, 0x2000))
VCPUS = [{**registers(number), "orig_rax": 0, "kernel_gs_base": number} for number in range(3)]


def core(
    notes: bytes,
    loads: Sequence[Load] = LOADS,
    *,
    kind: int = 4,
    machine: int = 62,
    size: int = 56,
    count: int = -1,
    many: bool = False,
) -> bytes:
    """Returns an ELF core of 64 bits: header, one section header, program headers, notes, memory.

    Args:
        notes: in PT_NOTE.
        loads: where each PT_LOAD is.
        kind: e_type.
        machine: e_machine.
        size: e_phentsize.
        count: e_phnum, where it is not that of the headers.
        many: whether the number of program headers stands in the section header.
    """
    number = 1 + len(loads)
    number_shown = 0xFFFF if many else number if count < 0 else count
    start = 64 + 64 + 56 * number
    head = b"\x7fELF\2\1\1" + bytes(9)
    head += struct.pack(
        "<HHIQQQIHHHHHH", kind, machine, 1, 0, 128, 64, 0, 64, size, number_shown, 64, 1, 0
    )
    head += bytes(44) + struct.pack("<I", number if many else 0) + bytes(16)
    head += struct.pack("<II6Q", 4, 0, start, 0, 0, len(notes), len(notes), 0)
    for physical, offset, in_file, in_memory in loads:
        place = start + len(notes) + offset
        head += struct.pack(
            "<II6Q", 1, 0, place & (1 << 64) - 1, 0, physical, in_file, in_memory, 0
        )
    return head + notes + bytes(0x5000)


def core32(notes: bytes) -> bytes:
    """Returns an ELF core of 32 bits, as of a guest that is not in long mode."""
    start = 52 + 32 * 2
    head = b"\x7fELF\1\1\1" + bytes(9)
    head += struct.pack("<HHIIIIIHHHHHH", 4, 3, 1, 0, 52, 0, 0, 52, 32, 2, 0, 0, 0)
    head += struct.pack("<8I", 4, start, 0, 0, len(notes), len(notes), 0, 0)
    head += struct.pack("<8I", 1, start + len(notes), 0, 0x1000, 0x2000, 0x2000, 0, 0)
    return head + notes + bytes(0x2000)


def prstatus32(number: int, rip: int) -> bytes:
    """Returns NT_PRSTATUS of a guest that is not in long mode (x86_elf_prstatus in QEMU)."""
    # From ebx on eip is the 13th of 17 registers.
    status = bytearray(24) + struct.pack("<I", number + 1) + bytes(44 + 17 * 4 + 4)
    struct.pack_into("<I", status, 72 + 12 * 4, rip)
    return bytes(status)


def parse(data: bytes) -> QemuElf:
    """Returns what a file says."""
    return QemuElf.parse(io.BytesIO(data), "dump.elf")


@pytest.mark.parametrize("size", [432, 440, 504])
@pytest.mark.parametrize("many", [False, True])
def test_registers(size: int, many: bool) -> None:
    """Each register of each vCPU, with notes of old, present and later versions of QEMU."""
    found = parse(core(qemu_notes(VCPUS, size), many=many))
    assert found.left_out == ()
    assert [vcpu.number for vcpu in found.vcpus] == [0, 1, 2]
    for vcpu, written in zip(found.vcpus, VCPUS):
        more = {} if size == 432 else {"kernel_gs_base": written["kernel_gs_base"]}
        assert vcpu.registers == {**shown(written), **more}
    start = 128 + 56 * 3 + len(qemu_notes(VCPUS, size))
    assert found.ranges == (
        MemoryRange(0, 0x3000, start),
        MemoryRange(1 << 32, 0x2000, start + 0x3000),
    )


def test_vmcoreinfo() -> None:
    """It is there where the guest gave it to QEMU."""
    text = b"OSRELEASE=6.1.0\nPAGESIZE=4096\n"
    assert parse(core(qemu_notes(VCPUS) + note(b"VMCOREINFO", 0, text))).vmcoreinfo == text
    assert parse(core(qemu_notes(VCPUS))).vmcoreinfo == b""


def test_cut_off_in_the_notes() -> None:
    """Without a note of QEMU the file is useless; with some of them the other vCPUs are said."""
    notes = qemu_notes(VCPUS)
    start = 128 + 56 * 3
    with pytest.raises(SourceError, match=r"dump\.elf: the file ends in its program headers"):
        parse(core(notes)[: start - 1])
    with pytest.raises(SourceError, match="ends in its program headers"):
        parse(core(notes, count=0xFFFE))
    for end in (start, start + 3 * 300, start + 3 * 356 + 400):
        with pytest.raises(SourceError, match=r"dump\.elf: the file ends in its notes"):
            parse(core(notes)[:end])
    found = parse(core(notes)[: start + len(notes) - 1])
    assert [vcpu.number for vcpu in found.vcpus] == [0, 1]
    assert found.left_out == ("2: its note of QEMU is missing",)


def test_many_vcpus() -> None:
    """Four hundred, which come in the order of their numbers in the notes."""
    vcpus = [{**registers(number), "orig_rax": 0} for number in range(400)]
    found = parse(core(qemu_notes(vcpus)))
    assert [vcpu.registers["rax"] for vcpu in found.vcpus] == [vcpu["rax"] for vcpu in vcpus]


@pytest.mark.parametrize("wide", [False, True])
def test_guest_not_in_long_mode(wide: bool) -> None:
    """Such a guest has an ELF of 32 bits, or one of 64 when it has memory above 4 GiB."""
    notes = b"".join(
        [note(b"CORE", NT_PRSTATUS, prstatus32(number, VCPUS[number]["rip"])) for number in (1, 0)]
        + [note(b"QEMU", 0, cpu_state(VCPUS[number])) for number in (1, 0)]
    )
    found = parse(core(notes, machine=3) if wide else core32(notes))
    assert [vcpu.number for vcpu in found.vcpus] == [1, 0] and not found.left_out
    if not wide:
        assert found.ranges == (MemoryRange(0x1000, 0x2000, 52 + 64 + len(notes)),)


@pytest.mark.parametrize(
    ("loads", "expected"),
    [
        # Touching in memory and in the file; touching in memory alone; in the file alone.
        (((0, 0, 0x1000, 0x1000), (0x1000, 0x1000, 0x1000, 0x1000)), [(0, 0x2000, 0)]),
        (
            ((0, 0x1000, 0x1000, 0x1000), (0x1000, 0, 0x1000, 0x1000)),
            [(0, 0x1000, 0x1000), (0x1000, 0x1000, 0)],
        ),
        (LOADS, [(0, 0x3000, 0), (1 << 32, 0x2000, 0x3000)]),
        # With paging: again, inside, across, and memory of devices that is not in the file.
        (
            (
                (0, 0, 0x3000, 0x3000),
                (0, 0, 0x3000, 0x3000),
                (0x1000, 0x1000, 0x1000, 0x1000),
                (0x2000, 0x2000, 0x2000, 0x2000),
                (0xFEE00000, -1, 0, 0x1000),
            ),
            [(0, 0x4000, 0)],
        ),
        # Of what is not in memory there is nothing, whatever the file has.
        (((0, 0, 0x2000, 0x1000),), [(0, 0x1000, 0)]),
    ],
)
def test_memory(loads: Sequence[Load], expected: list[tuple[int, int, int]]) -> None:
    """Runs come without overlap, and as few as can be."""
    found = parse(core(qemu_notes(VCPUS), loads))
    start = 128 + 56 * (1 + len(loads)) + len(qemu_notes(VCPUS))
    assert [(run.start, run.size, run.file_offset - start) for run in found.ranges] == expected


NOTES = qemu_notes(VCPUS)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "no ELF file"),
        (b"\x7fELF", "no ELF file"),
        (core(NOTES)[:40], "without a whole header"),
        (b"\x7fELF\2\2\1" + core(NOTES)[7:], "another kind than a PC has"),
        (b"\x7fELF\3\1\1" + core(NOTES)[7:], "another kind than a PC has"),
        (core(NOTES, kind=2), "no ELF core of a PC"),
        (core(NOTES, machine=183), "no ELF core of a PC"),
        (core(NOTES, size=55), "program headers of 55 bytes"),
        (core(b""), "without notes of QEMU"),
        (core(note(b"CORE", 1, prstatus(0, VCPUS[0]))), "without notes of QEMU"),
        (core(note(b"QEMU", 1, cpu_state(VCPUS[0]))), "without notes of QEMU"),
        (core(NOTES[:300]), "without notes of QEMU"),
    ],
)
def test_what_is_left_to_others(data: bytes, message: str) -> None:
    """Files that are not QEMU's are no errors: other readers may know them."""
    with pytest.raises(UnrecognizedSource, match=f"^dump.elf: .*{message}"):
        parse(data)


@pytest.mark.parametrize(
    ("loads", "message"),
    [
        ((), "no memory in it"),
        (((0, 0, 0, 0x1000),), "no memory in it"),
        (((0, 0, 0x2000, 0x2000), (0x1000, 0, 0x1000, 0x1000)), "0x1000 is in the file twice"),
        (((0, 0, 1 << 60, 1 << 60),), "memory at 0x0 has 0x1000000000000000 bytes"),
        ((((1 << 64) - 0x1000, 0, 0x2000, 0x2000),), "memory at 0xfffffffffffff000"),
        (((0, -0x3000, 0x1000, 0x1000),), "memory at 0x0"),
    ],
)
def test_damaged(loads: Sequence[Load], message: str) -> None:
    """Memory that cannot be is said, and where."""
    with pytest.raises(SourceError, match=f"^dump.elf: .*{message}") as caught:
        parse(core(NOTES, loads))
    assert not isinstance(caught.value, UnrecognizedSource)


def _notes(statuses: Sequence[bytes], states: Sequence[bytes]) -> bytes:
    return b"".join(
        [note(b"CORE", NT_PRSTATUS, each) for each in statuses]
        + [note(b"QEMU", 0, each) for each in states]
    )


STATUSES = [prstatus(number, vcpu) for number, vcpu in enumerate(VCPUS)]
STATES = [cpu_state(vcpu) for vcpu in VCPUS]


@pytest.mark.parametrize(
    ("notes", "numbers", "left_out"),
    [
        (_notes(STATUSES, [STATES[0][:400], *STATES[1:]]), [1, 2], ["0: its note has 400 bytes"]),
        (
            _notes(
                STATUSES, [STATES[0], STATES[1][:4] + b"\xff\xff\0\0" + STATES[1][8:], STATES[2]]
            ),
            [0, 2],
            ["1: its note has 440 bytes, but says that it has 65535"],
        ),
        (_notes(STATUSES, [STATES[1], STATES[0], STATES[2]]), [2], ["0: RIP is both", "1: RIP is"]),
        (_notes([STATUSES[0], STATUSES[0]], [STATES[0], STATES[0]]), [0], ["0: there are two"]),
        (
            _notes([prstatus(1 << 20, VCPUS[0])], STATES[:1]),
            [],
            ["1048576: no vCPU has that number"],
        ),
        (_notes([prstatus(-1, VCPUS[0])], STATES[:1]), [], ["-1: no vCPU has that number"]),
        # Without NT_PRSTATUS, or with one of another form, vCPUs count in the order of the file.
        (_notes([], STATES), [0, 1, 2], []),
        (_notes([each[:100] for each in STATUSES], STATES), [0, 1, 2], []),
        # A note that is cut off, or longer than there is.
        (_notes(STATUSES, STATES)[:-100], [0, 1], ["2: its note of QEMU is missing"]),
        (_notes(STATUSES, STATES) + struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 1), [0, 1, 2], []),
    ],
)
def test_left_out(notes: bytes, numbers: list[int], left_out: list[str]) -> None:
    """A vCPU whose notes cannot be trusted is left out, with the reason."""
    found = parse(core(notes))
    assert [vcpu.number for vcpu in found.vcpus] == numbers
    assert len(found.left_out) == len(left_out)
    for reason, expected in zip(found.left_out, left_out):
        assert reason.startswith(expected)


def test_more_notes_than_vcpus_can_be() -> None:
    """Ten thousand notes are no guest's."""
    with pytest.raises(SourceError, match="9000 vCPUs; a guest has at most 8192"):
        parse(core(note(b"QEMU", 0, b"") * 9000))


@given(st.binary(max_size=200))
def test_any_notes(data: bytes) -> None:
    """Any bytes as notes are read or refused."""
    with contextlib.suppress(SourceError):
        parse(core(data))
    with contextlib.suppress(SourceError):
        parse(core(NOTES + data))


@given(st.integers(0, 1 << 32))
def test_damage(seed: int) -> None:
    """Whatever is damaged, what is read is sound: ranges apart and in order, whole vCPUs."""
    rng = random.Random(seed)
    whole = core32(NOTES) if rng.random() < 0.3 else core(NOTES)
    head = len(whole) - 0x2000
    try:
        found = parse(mutate(rng, whole[:head]) + whole[head:])
    except SourceError:
        return
    assert found.ranges and all(run.size > 0 for run in found.ranges)
    for low, high in zip(found.ranges, found.ranges[1:]):
        assert low.end <= high.start
    for vcpu in found.vcpus:
        assert set(REGISTERS) <= set(vcpu.registers)
    assert len({vcpu.number for vcpu in found.vcpus}) == len(found.vcpus)
