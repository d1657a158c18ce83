# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ELF cores of QEMU, on bytes made by hand."""

import contextlib
import io
import random
import struct
from collections.abc import Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import mutate
from tests.handmade.vmware import registers, shown
from tests.lab.formats.elf_core import NT_PRSTATUS, cpu_state, note, prstatus, qemu_notes
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import OPTIONAL_REGISTERS, REGISTERS, MemoryRange
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
    virtual: int = 0,
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
        virtual: p_vaddr of each PT_LOAD.
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
            "<II6Q", 1, 0, place & (1 << 64) - 1, virtual, physical, in_file, in_memory, 0
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


def prstatus32(number: int, values: Mapping[str, int]) -> bytes:
    """Returns NT_PRSTATUS of a guest that is not in long mode (x86_elf_prstatus in QEMU)."""
    names = (
        *("rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rax", "ds", "es", "fs", "gs", "orig_rax"),
        *("rip", "cs", "eflags", "rsp", "ss"),
    )
    words = struct.pack("<17I", *(values[name] & 0xFFFFFFFF for name in names))
    return bytes(24) + struct.pack("<I", number + 1) + bytes(44) + words + bytes(4)


def parse(data: bytes) -> QemuElf:
    """Returns what a file says."""
    return QemuElf.parse(io.BytesIO(data), "dump.elf")


@pytest.mark.parametrize("size", [432, 440, 504])
@pytest.mark.parametrize("many", [False, True])
def test_registers(size: int, many: bool) -> None:
    """Each register of each vCPU, with notes of old, present and later versions of QEMU."""
    found = parse(core(qemu_notes(VCPUS, size), many=many))
    assert found.oddities == ()
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
    """Without any note the file is useless; what is there of them is used."""
    notes = qemu_notes(VCPUS)
    start = 128 + 56 * 3
    with pytest.raises(SourceError, match=r"dump\.elf: the file ends in its program headers"):
        parse(core(notes)[: start - 1])
    with pytest.raises(SourceError, match="ends in its program headers"):
        parse(core(notes, count=0xFFFE))
    for end in (start, start + 300):
        with pytest.raises(SourceError, match=r"dump\.elf: the file ends in its notes"):
            parse(core(notes)[:end])
    for statuses, size in ((2, 2 * 356 + 9), (3, 3 * 356 + 400)):
        found = parse(core(notes)[: start + size])
        assert [vcpu.number for vcpu in found.vcpus] == list(range(statuses))
        assert all(vcpu.get("rip") and vcpu.get("cr3") is None for vcpu in found.vcpus)
        assert found.oddities[0] == "the file ends in its notes"
    found = parse(core(notes)[: start + len(notes) - 1])
    assert [vcpu.get("cr3") is None for vcpu in found.vcpus] == [False, False, True]
    assert found.oddities == ("the file ends in its notes", "QEMU's note of vCPU 2 is missing")


def test_many_vcpus() -> None:
    """Four hundred, which come in the order of their numbers in the notes."""
    vcpus = [{**registers(number), "orig_rax": 0} for number in range(400)]
    found = parse(core(qemu_notes(vcpus)))
    assert [vcpu.registers["rax"] for vcpu in found.vcpus] == [vcpu["rax"] for vcpu in vcpus]


@pytest.mark.parametrize("wide", [False, True])
def test_guest_not_in_long_mode(wide: bool) -> None:
    """Such a guest has an ELF of 32 bits, or one of 64 when it has memory above 4 GiB."""
    notes = b"".join(
        [note(b"CORE", NT_PRSTATUS, prstatus32(number, VCPUS[number])) for number in (1, 0)]
        + [note(b"QEMU", 0, cpu_state(VCPUS[number])) for number in (1, 0)]
    )
    found = parse(core(notes, machine=3) if wide else core32(notes))
    assert [vcpu.number for vcpu in found.vcpus] == [1, 0] and not found.oddities
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
        (core(b""), "without notes on a machine"),
        (core(note(b"QEMU", 1, cpu_state(VCPUS[0]))), "without notes on a machine"),
        (core(NOTES[:300]), "without notes on a machine"),
        # The core of a program has virtual addresses alone.
        (
            core(note(b"CORE", 1, prstatus(0, VCPUS[0])), ((0, 0, 0x1000, 0x1000),), virtual=4096),
            "without notes on a machine",
        ),
    ],
)
def test_what_is_left_to_others(data: bytes, message: str) -> None:
    """Files that are not QEMU's are no errors: other readers may know them."""
    with pytest.raises(UnrecognizedSource, match=f"^dump.elf: .*{message}"):
        parse(data)


@pytest.mark.parametrize(
    ("loads", "oddity", "expected"),
    [
        ((), "there is no memory in it", []),
        (((0, 0, 0, 0x1000),), "there is no memory in it", []),
        (
            ((0, 0, 0x2000, 0x2000), (0x1000, 0, 0x2000, 0x2000)),
            "guest-physical address 0x1000 is in the file twice, at 0x1418 and 0x418",
            [(0, 0x2000), (0x2000, 0x1000)],
        ),
        (
            ((0, 0, 0x3000, 0x3000), (0x1000, 0, 0x1000, 0x1000)),
            "guest-physical address 0x1000 is in the file twice, at 0x1418 and 0x418",
            [(0, 0x3000)],
        ),
        (
            ((0, 0, 0x1000, 0x1000), (0, 0, 1 << 60, 1 << 60)),
            "memory at 0x0 has 0x1000000000000000 bytes",
            [(0, 0x1000)],
        ),
        (
            ((0, 0, 0x1000, 0x1000), ((1 << 64) - 0x1000, 0, 0x2000, 0x2000)),
            "memory at 0xfffffffffffff000 has 0x2000 bytes",
            [(0, 0x1000)],
        ),
    ],
)
def test_memory_that_cannot_be(
    loads: Sequence[Load], oddity: str, expected: list[tuple[int, int]]
) -> None:
    """It is said, and all other memory and the registers are there."""
    found = parse(core(NOTES, loads))
    assert [(run.start, run.size) for run in found.ranges] == expected
    start = 128 + 56 * (1 + len(loads)) + len(NOTES)
    assert found.oddities == (
        oddity.replace("0x1418", hex(start + 0x1000)).replace("0x418", hex(start)),
    )
    assert [vcpu.registers["rip"] for vcpu in found.vcpus] == [vcpu["rip"] for vcpu in VCPUS]


def _notes(statuses: Sequence[bytes], states: Sequence[bytes]) -> bytes:
    return b"".join(
        [note(b"CORE", NT_PRSTATUS, each) for each in statuses]
        + [note(b"QEMU", 0, each) for each in states]
    )


STATUSES = [prstatus(number, vcpu) for number, vcpu in enumerate(VCPUS)]
STATES = [cpu_state(vcpu) for vcpu in VCPUS]


#: What NT_PRSTATUS has of the registers that are worth showing.
GENERAL = {name for name in REGISTERS if name not in ("cr0", "cr2", "cr3", "cr4", "idt_base")}
#: Registers whose place is in the first 400 bytes of QEMU's note.
FIRST = set(REGISTERS) - {"cr2", "cr3", "cr4"}


def resized(state: bytes, size: int) -> bytes:
    """Returns a note of QEMU that says another size of itself."""
    return state[:4] + struct.pack("<I", size) + state[8:]


@pytest.mark.parametrize(
    ("notes", "there", "oddities"),
    [
        # Each note left out.
        (_notes(STATUSES, STATES[1:]), {0: GENERAL}, ["QEMU's note of vCPU 0 is missing"]),
        (_notes(STATUSES, STATES[:-1]), {2: GENERAL}, ["QEMU's note of vCPU 2 is missing"]),
        (_notes(STATUSES[1:], STATES), {}, ["NT_PRSTATUS of vCPU 0 is missing"]),
        (_notes(STATUSES[:-1], STATES), {}, ["NT_PRSTATUS of vCPU 2 is missing"]),
        (_notes([], STATES), {}, []),
        (
            _notes(STATUSES, []),
            {0: GENERAL, 1: GENERAL, 2: GENERAL},
            [f"QEMU's note of vCPU {number} is missing" for number in range(3)],
        ),
        # Each doubled.
        (
            _notes([STATUSES[0], *STATUSES], STATES),
            {},
            ["NT_PRSTATUS is there 4 times, 3 of them different"],
        ),
        (_notes(STATUSES, [STATES[0], *STATES]), {}, []),
        (_notes(STATUSES, [*STATES, STATES[2]]), {}, []),
        (_notes(STATUSES * 2, STATES * 2), {}, ["NT_PRSTATUS is there 6 times, 3 of them"]),
        # Each of another size or version.
        (
            _notes(STATUSES, [STATES[0][:400], *STATES[1:]]),
            {0: FIRST},
            ["QEMU's note of vCPU 0 has 400 bytes instead of 432"],
        ),
        (
            _notes(STATUSES, [STATES[0], resized(STATES[1], 0xFFFF), STATES[2]]),
            {},
            ["QEMU's note of vCPU 1 has 440 bytes, but says that it has 65535"],
        ),
        (
            _notes(STATUSES, [b"\2" + STATES[0][1:], *STATES[1:]]),
            {},
            ["QEMU's note of vCPU 0 has version 2 instead of 1"],
        ),
        (
            _notes([STATUSES[0][:100], *STATUSES[1:]], STATES),
            {},
            ["NT_PRSTATUS of vCPU 0 has 100 bytes instead of 336"],
        ),
        (_notes(STATUSES, [b"", *STATES[1:]]), {0: GENERAL}, ["QEMU's note of vCPU 0 has 0 bytes"]),
        # In another order they are told by their registers.
        (_notes(STATUSES, [STATES[1], STATES[0], STATES[2]]), {}, []),
        # Registers that differ in the two; all of them, as in a layout that is not known.
        (
            _notes(STATUSES, [STATES[0], cpu_state({**VCPUS[1], "rip": 5}), STATES[2]]),
            {1: set(REGISTERS) - {"rip"}},
            [f"rip of vCPU 1 is both 0x5 and {VCPUS[1]['rip']:#x}"],
        ),
        (
            _notes(STATUSES, [STATES[0], STATES[1][:8] + bytes(8) + STATES[1][8:432], STATES[2]]),
            {1: GENERAL},
            ["QEMU's note of vCPU 1 is not that of its NT_PRSTATUS"],
        ),
        # Numbers that no vCPU has, or that two have.
        (
            _notes([STATUSES[0], prstatus(1 << 20, VCPUS[1]), STATUSES[2]], STATES),
            {},
            ["NT_PRSTATUS has the number 1048577, which no vCPU has"],
        ),
        (
            _notes([STATUSES[0], prstatus(-1, VCPUS[1]), STATUSES[2]], STATES),
            {},
            ["NT_PRSTATUS has the number 0, which no vCPU has"],
        ),
        (
            _notes([STATUSES[0], prstatus(0, VCPUS[1]), STATUSES[2]], STATES),
            {},
            ["there are two NT_PRSTATUS of vCPU 0 that differ"],
        ),
        # Cut off, or longer than there is.
        (_notes(STATUSES, STATES)[:-100], {2: GENERAL}, ["QEMU's note of vCPU 2 is missing"]),
        (_notes(STATUSES, STATES) + struct.pack("<III", 0xFFFFFFFF, 0xFFFFFFFF, 1), {}, []),
    ],
)
def test_odd_notes(notes: bytes, there: dict[int, set[str]], oddities: list[str]) -> None:
    """All vCPUs are there, each with the registers that the file tells, and what is odd is said."""
    found = parse(core(notes))
    assert sorted(vcpu.number for vcpu in found.vcpus) == [0, 1, 2]
    for vcpu in found.vcpus:
        written = shown(VCPUS[vcpu.number])
        expected = {name: written[name] for name in there.get(vcpu.number, set(REGISTERS))}
        known = {name: value for name, value in vcpu.registers.items() if name in REGISTERS}
        assert known == expected, vcpu.number
    assert len(found.oddities) == len(oddities), found.oddities
    for oddity, start in zip(found.oddities, oddities):
        assert oddity.startswith(start)


def test_the_kernels_own_core() -> None:
    """What kdump's kernel writes has no notes of QEMU, and the numbers of programs."""
    text = b"OSRELEASE=6.1.0\n"
    statuses = [prstatus(1000 + number, vcpu) for number, vcpu in enumerate(VCPUS)]
    found = parse(core(_notes(statuses, []) + note(b"VMCOREINFO", 0, text)))
    assert [vcpu.number for vcpu in found.vcpus] == [0, 1, 2] and found.vmcoreinfo == text


def test_more_notes_than_vcpus_can_be() -> None:
    """Ten thousand notes are no guest's: what is too much is not read."""
    found = parse(core(note(b"QEMU", 0, STATES[0]) * 9000))
    assert len(found.vcpus) == 8192 and found.oddities == ("there are 9000 notes of QEMU",)


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
    assert all(run.size > 0 for run in found.ranges)
    for low, high in zip(found.ranges, found.ranges[1:]):
        assert low.end <= high.start
    for vcpu in found.vcpus:
        assert set(vcpu.registers) <= {*REGISTERS, *OPTIONAL_REGISTERS}
    assert len({vcpu.number for vcpu in found.vcpus}) == len(found.vcpus)
