# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Files that describe a real guest in an odd way: each costs what it lacks, and never the memory.

Of every tag, note and field one is left out, there twice, or of another size. In each such file all
processes are there, the registers that are there are the guest's, and one line says what is odd.
"""

import functools
import pathlib
import shutil
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Callable, Optional

import pytest

from tests.conftest import Vol
from tests.handmade import vmware
from tests.helpers import real_guest, rows
from tests.lab import Guest, formats, writer
from tests.lab.formats import elf_core, vmware_state
from tests.lab.formats.vmware_state import Group, State
from volatility_guestdump.dumps.opening import open_dump
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.machine import REGISTERS, Machine
from volatility_guestdump.sources.vmware_state import _GROUPS

#: How the line begins that says what is odd of a file.
LINE = "is not as it should be: "
#: What leads to the kernel: machines that have the same have the same processes.
LEADING = ("cr0", "cr3", "cr4", "rip", "rsp", "idt_base", "gs_base", "efer")
#: Names of tags that are read.
TAGS = frozenset(name for names in _GROUPS.values() for name in names)
#: Where memory starts in a state file that has it inside; before that there is room for all else.
MEMORY_AT = 0x10000


class Checked:
    """Checks machines of one guest, its processes once for all that lead to them alike.

    Args:
        guest: the guest.
    """

    def __init__(self, guest: Guest) -> None:
        self._pids = {task["pid"] for task in guest.expected["processes"]}
        self._registers = [
            {
                "rflags" if name == "eflags" else name: int(value, 16)
                for name, value in registers.items()
            }
            for registers in guest.expected["vcpus"]
        ]
        self._seen: set[object] = set()

    def __call__(self, path: pathlib.Path, what: str) -> tuple[Machine, Optional[str]]:
        """Opens a file; returns its machine and the line that says what is odd."""
        with open_dump(str(path)) as dump:
            assert dump.machine is not None, (what, dump.warnings, dump.advice)
            lines = [line for line in dump.warnings if LINE in line]
            assert len(lines) <= 1 and len(dump.warnings) <= 2, (what, dump.warnings)
            self._check_registers(dump.machine, what)
            key = (
                tuple(dump.machine.memory.ranges),
                bool(dump.machine.vmcoreinfo),
                tuple(vcpu.get(name) for vcpu in dump.machine.vcpus for name in LEADING),
            )
            if key not in self._seen:
                self._check_processes(dump.machine, what)
                self._seen.add(key)
            return dump.machine, lines[0] if lines else None

    def _check_registers(self, machine: Machine, what: str) -> None:
        for vcpu in machine.vcpus:
            for name, value in vcpu.registers.items():
                if name in REGISTERS:
                    assert value == self._registers[vcpu.number][name], (what, vcpu.number, name)

    def _check_processes(self, machine: Machine, what: str) -> None:
        kernel = find_kernel(machine)
        assert kernel is not None, what
        found = {task.pid for task in Stacks(kernel, machine.vcpus).all_tasks}
        assert found >= self._pids, what

    def lost(self, machine: Machine) -> int:
        """Returns how many registers a machine lacks."""
        there = [name for vcpu in machine.vcpus for name in REGISTERS if vcpu.get(name) is not None]
        return len(self._registers) * len(REGISTERS) - len(there)


@functools.lru_cache(maxsize=2)
def checked(name: str) -> Checked:
    """Returns what checks machines of a guest."""
    return Checked(real_guest(name))


def groups(blocks: bool) -> list[Group]:
    """Returns the groups of a state file of the guest, whose memory is elsewhere."""
    source = formats.source(real_guest("hole-pti"))
    state = State(blocks=blocks)
    return [
        ("cpu", vmware_state.cpu_tags(source.vcpus, state)),
        ("memory", vmware_state.memory_tags(source.memory.regions)),
    ]


def all_odd(whole: Sequence[Group]) -> Iterator[tuple[str, Sequence[Group]]]:
    """Yields what is odd, and the groups of a state file in which it is."""
    for what, _, changed in vmware.odd(whole, TAGS):
        yield what, changed
    for number, (name, _) in enumerate(whole):
        yield f"group {name} doubled", [*whole, whole[number]]
    yield "group cpu left out", [group for group in whole if group[0] != "cpu"]
    for name in ("CR64", "IDTR", "rip", "gpregs", "S", "S.base64", "eflags", "regionsCount"):
        left = [
            (group, b"".join(tag.pack() for tag in vmware.tags_of(body) if tag.name != name))
            for group, body in whole
        ]
        yield f"{name} left out of all", left


@pytest.mark.parametrize("blocks", [True, False], ids=["blocks", "tags"])
def test_states_with_memory_beside(tmp_path: pathlib.Path, blocks: bool) -> None:
    """Each tag of a .vmss file, with a .vmem beside it."""
    check = checked("hole-pti")
    path = tmp_path / "x.vmss"
    path.with_suffix(".vmem").symlink_to(real_guest("hole-pti").vmem_path)
    count = 0
    whole = groups(blocks)
    for what, changed in all_odd(whole):
        path.write_bytes(vmware.file(changed))
        machine, line = check(path, what)
        assert machine.origin.missing_memory == 0, what
        lost = check.lost(machine)
        # Without the group nobody says what should be in it.
        assert (line is not None) >= bool(lost) or "group cpu" in what, what
        count += 1
    path.write_bytes(vmware.file(whole))
    assert check(path, "whole")[1] is None and count > 500


def inside(whole: Sequence[Group], memory: vmware.Tag) -> bytes:
    """Returns the start of a state file up to its memory, which is at `MEMORY_AT`."""
    *others, (name, tags) = whole
    end = len(vmware.file([*others, (name, tags)])) - 2
    padding = MEMORY_AT - end - len(memory.head) - 18
    head = vmware.file([*others, (name, tags + memory._replace(padding=bytes(padding)).pack())])
    return head[:MEMORY_AT]


def test_states_with_memory_inside(tmp_path: pathlib.Path) -> None:
    """Each tag of the group "memory" of a .vmsn file, and the block Memory."""
    check = checked("hole-pti")
    guest = real_guest("hole-pti")
    size = formats.source(guest).memory.size
    path = tmp_path / "x.vmsn"
    with path.open("wb") as target, guest.vmem_path.open("rb") as memory:
        target.seek(MEMORY_AT)
        shutil.copyfileobj(memory, target, 1 << 20)
    (block,) = vmware.tags_of(vmware_state.block("Memory", (), b""))
    whole = groups(blocks=True)
    cases = [
        (what, changed, (size, size))
        for what, group, changed in vmware.odd(whole, TAGS)
        if group == "memory"
    ]
    half = size // 2
    for sizes in ((size, 2 * size), (2 * size, size), (half, size), (size, half)):
        cases.append((f"Memory with {sizes}", whole, sizes))
    cases += [(f"Memory with {each} twice", whole, (each, each)) for each in (half, 2 * size)]
    for what, changed, sizes in cases:
        with path.open("r+b") as target:
            target.write(inside(changed, block._replace(sizes=sizes)))
        machine, line = check(path, what)
        assert not check.lost(machine), what
        assert sum(run.size for run in machine.memory.ranges) == size, what
        assert line is not None or "doubled" in what or "regionsCount" in what, what


def guest_files(version: int) -> Iterator[tuple[str, bytes]]:
    """Yields what is odd, and a debug.guest file in which it is."""
    source = formats.source(real_guest("hole-pti"))
    whole = writer.pack_guest(version, source.memory.regions, source.vcpus)
    for other in (*range(10), 255, 0xFFFFFFFF):
        yield f"version {other}", struct.pack("<I", other) + whole[4:]
    for count in (0, 1, 3, 8193, 0xFFFFFFFF):
        yield f"{count} vCPUs", whole[:4] + struct.pack("<I", count) + whole[8:]
    layout = writer.LAYOUTS[version]
    for place in range(layout.memory_offset, layout.memory_offset + 28, 4):
        for value in (0, 1, 0x12345678):
            changed = whole[:place] + struct.pack("<I", value) + whole[place + 4 :]
            yield f"{value:#x} at {place} of memory information", changed
    size = 4490 if version in (1, 3) else 4487
    for left in (*range(8, 2 * size, 331), size):
        yield f"{left} bytes less", whole[:-left]
    for more in (1, 4096, size):
        yield f"{more} bytes more", whole + bytes(more)
    # The next ESXi: records of another size, and another header too.
    records = [whole[-2 * size : -size], whole[-size:]]
    longer = b"".join(record + bytes(8) for record in records)
    yield "version 8 with longer records", struct.pack("<I", 8) + whole[4 : -2 * size] + longer
    yield "version 8 with another header", struct.pack("<II", 8, 2) + bytes(60) + longer


@pytest.mark.parametrize("version", [1, 4, 6, 7])
def test_debug_guest(tmp_path: pathlib.Path, version: int) -> None:
    """Each field of debug.guest, opened by its own name and by that of its memory."""
    check = checked("hole-pti")
    path = tmp_path / "debug.guest"
    memory = path.with_suffix(".vmem")
    memory.symlink_to(real_guest("hole-pti").vmem_path)
    for what, data in guest_files(version):
        path.write_bytes(data)
        for opened in (path, memory):
            machine, line = check(opened, what)
            assert machine.origin.missing_memory == 0, what
            assert line is not None or not check.lost(machine), what
            if what.startswith(("version 8 with", "0x")):
                assert line is not None or not what.startswith("version 8"), what


def elf_notes(name: str) -> Iterator[tuple[str, bytes]]:
    """Yields what is odd, and the notes of a real ELF dump in which it is."""
    guest = real_guest(name)
    written = formats.source(guest).vcpus
    whole: list[tuple[str, bytes, int, bytes]] = []
    for number, registers in enumerate(written):
        data = elf_core.prstatus(number, {"orig_rax": 0, **registers})
        whole.append((f"NT_PRSTATUS {number}", b"CORE", 1, data))
    for number, registers in enumerate(written):
        whole.append((f"QEMU {number}", b"QEMU", 0, elf_core.cpu_state(registers)))

    def packed(notes: Sequence[tuple[str, bytes, int, bytes]]) -> bytes:
        return b"".join(elf_core.note(*note[1:]) for note in notes)

    changes: Mapping[str, Callable[[bytes], Sequence[bytes]]] = {
        "left out": lambda data: (),
        "doubled": lambda data: (data, data),
        "cut": lambda data: (data[:200],),
        "empty": lambda data: (b"",),
        "longer": lambda data: (data + bytes(64),),
        "another version": lambda data: (b"\2\0\0\0" + data[4:],),
        "another size": lambda data: (data[:4] + b"\7\0\0\0" + data[8:],),
    }
    for place, (shown, owner, kind, data) in enumerate(whole):
        for change, make in changes.items():
            parts = [(shown, owner, kind, each) for each in make(data)]
            yield f"{shown} {change}", packed([*whole[:place], *parts, *whole[place + 1 :]])
    yield "whole", packed(whole)
    yield "no note of QEMU", packed([note for note in whole if note[1] == b"CORE"])
    yield "no NT_PRSTATUS", packed([note for note in whole if note[1] == b"QEMU"])
    yield "exchanged", packed(whole[::-1])
    yield "two VMCOREINFO", packed(whole) + 2 * elf_core.note(b"VMCOREINFO", 0, b"OSRELEASE=x\n")


def test_elf_of_qemu(tmp_path: pathlib.Path) -> None:
    """Each note of an ELF dump that QEMU wrote."""
    name = "qemu-elf"
    check = checked(name)
    path = tmp_path / "x.elf"
    shutil.copyfile(real_guest(name).folder / "dump.elf", path)
    size = path.stat().st_size
    with path.open("r+b") as core:
        for what, notes in elf_notes(name):
            # The first program header is PT_NOTE's; its notes go behind all else.
            core.seek(elf_core.PROGRAM_HEADERS + 8)
            core.write(struct.pack("<Q", size))
            core.seek(elf_core.PROGRAM_HEADERS + 32)
            core.write(struct.pack("<Q", len(notes)))
            core.seek(size)
            core.write(notes)
            core.truncate()
            core.flush()
            machine, line = check(path, what)
            assert len(machine.vcpus) == len(real_guest(name).expected["vcpus"]), what
            assert (line is not None) >= bool(check.lost(machine)), what
            assert line is None or what not in ("whole", "exchanged"), what


@pytest.mark.parametrize(
    ("kind", "missing", "said"),
    [
        ("vmss", "rip", "rip of vCPU 0 is missing"),
        ("vmss", "regionsCount", "regionsCount is missing"),
        ("vmss", "regionPPN", "by the guest's memory map memory lies at 0x0-0x7ffffff, "),
        ("guest", "version", "it is read as version 7"),
        ("guest", "records", "its registers are not where that has them, and are not used"),
    ],
)
def test_by_the_real_program(
    vol: Vol, tmp_path: pathlib.Path, kind: str, missing: str, said: str
) -> None:
    """What a user sees: all processes, the registers that there are, and one line."""
    guest = real_guest("hole-pti")
    source = formats.source(guest)
    path = tmp_path / f"x.{kind}"
    path.with_suffix(".vmem").symlink_to(guest.vmem_path)
    if kind == "vmss":
        whole = [
            (
                name,
                b"".join(
                    tag.pack()
                    for tag in vmware.tags_of(body)
                    if tag.name != missing or (tag.indices and tag.indices[0])
                ),
            )
            for name, body in groups(blocks=True)
        ]
        path.write_bytes(vmware.file(whole))
    else:
        data = writer.pack_guest(7, source.memory.regions, source.vcpus)
        more = bytes(8) if missing == "records" else b""
        path.write_bytes(struct.pack("<I", 8) + data[4:] + more)
    for opened in (path, path.with_suffix(".vmem")):
        done = vol("-r", "json", "-f", opened, "linux.pslist")
        assert {row["PID"] for row in rows(done)} >= {
            task["pid"] for task in guest.expected["processes"]
        }
        assert done.stderr.count(LINE) == 1 and said in done.stderr, done.stderr
    shown = rows(vol("-r", "json", "-f", path, "guestdump.Registers"))
    values = {row["Register"]: row["Value"] for row in shown if row["vCPU"] == 0}
    if missing == "records":
        assert not shown
        return
    assert values["rsp"] == int(guest.expected["vcpus"][0]["rsp"], 16)
    assert (values["rip"] is None) == (missing == "rip")
    frames = rows(vol("-r", "json", "-f", path, "guestdump.Backtrace"))
    notes = [row["Note"] for row in frames if row["vCPU"] == 0]
    if missing == "rip":
        assert notes == ["the image lacks RIP, without which there is no stack"]
    else:
        expected = rows(vol("-r", "json", "-f", guest.guest_path, "guestdump.Backtrace"))
        assert frames == expected
