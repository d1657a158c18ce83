# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is fuzzed: each target makes an input from a random number generator, and runs it."""

import contextlib
import functools
import gc
import io
import os
import random
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, Callable, Optional

from volatility3.framework import automagic, contexts, exceptions, interfaces, plugins
from volatility3.plugins.linux import pslist  # type: ignore[attr-defined]

from tests.fuzz import worst
from tests.fuzz.mutations import mutate
from tests.handmade import kallsyms as handmade_kallsyms
from tests.handmade import pe as handmade_pe
from tests.handmade import vmware as handmade_vmware
from tests.helpers import IDLE_VCPU, machine
from tests.lab import GUESTS, Guest, existing, writer
from tests.lab.formats import avml as avml_writer
from tests.lab.formats import elf_core, vmware_state
from tests.lab.formats import lime as lime_writer
from tests.unit import (
    test_btf,
    test_kallsyms,
    test_orc,
    test_qemu_elf,
    test_symbols,
    test_unwind,
    test_windows,
)
from volatility_guestdump import words
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import AddressError, GuestDumpError
from volatility_guestdump.exports import html
from volatility_guestdump.files.location import file_state
from volatility_guestdump.files.memory_file import Content, MemoryFile
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework import layers
from volatility_guestdump.framework.symbol_table import _GuestDumpFormat
from volatility_guestdump.guest import collect, system
from volatility_guestdump.kernels import forget
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.orc import OrcTable, find_form
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.linux.symbols.kallsyms import find_kallsyms
from volatility_guestdump.machine import (
    OPTIONAL_REGISTERS,
    PAGE_SIZE,
    REGISTERS,
    VCPU,
    Machine,
    MemoryRange,
)
from volatility_guestdump.plugins.guestdump import Backtrace, Info, Registers, Report
from volatility_guestdump.report import compose, document
from volatility_guestdump.sources import lime
from volatility_guestdump.sources.avml import AvmlFile
from volatility_guestdump.sources.debug_guest import GuestFile
from volatility_guestdump.sources.qemu_elf import QemuElf
from volatility_guestdump.sources.vmware_state import VmwareState
from volatility_guestdump.windows.find import find_kernel as find_windows_kernel
from volatility_guestdump.x86 import stack_pointer
from volatility_guestdump.x86.paging import PageTables, PagingMode, candidate_tables, find_paging

#: Runs one input; returns quietly, or raises what a user would see as a traceback.
Target = Callable[[random.Random], None]

_LARGEST_REPORT = 10_000_000
_REGIONS = [(0, 0x8000000), (1 << 32, 0x4000000)]


def guest_file(rng: random.Random) -> None:
    """A debug.guest file of any version, damaged."""
    vcpus = [IDLE_VCPU] * rng.randint(1, 3)
    whole = writer.pack_guest(rng.choice((1, 3, 4, 5, 6, 7)), _REGIONS[: rng.randint(1, 2)], vcpus)
    head = mutate(rng, whole[:120])
    data = head + whole[120:] if rng.random() < 0.8 else mutate(rng, whole)
    try:
        guest = GuestFile.parse(io.BytesIO(data))
    except GuestDumpError:
        return
    assert guest.memory_size is None or guest.memory_size > 0
    read = PhysicalMemory(guest.ranges or (), None).read
    for vcpu in guest.vcpus:
        find_paging(read, vcpu)


def state_file(rng: random.Random) -> None:
    """A .vmsn or .vmss file of either form, with memory inside or outside, damaged."""
    state = vmware_state.State(blocks=rng.random() < 0.5, padding=rng.choice((0, 0, 9)))
    regions = rng.choice(((), ((0, 0x8000),), ((0, 0x6000), (1 << 32, 0x2000))))
    memory = rng.randbytes(0x8000) if rng.random() < 0.5 else b""
    groups = handmade_vmware.machine(rng.randint(1, 3), regions, state, memory)
    if rng.random() < 0.3:
        rng.shuffle(groups)
    magic = rng.choice(vmware_state.MAGICS)
    whole = handmade_vmware.file(groups, magic)
    # Nearly all of a file is registers: damage the tables more often.
    place = rng.choice((0, 12, handmade_vmware.HEADER + handmade_vmware.ENTRY, len(whole) - 300))
    part = mutate(rng, whole[place : place + 400], 3)
    data = whole[:place] + part + whole[place + 400 :]
    if rng.random() < 0.3:
        data = mutate(rng, whole)
    try:
        found = VmwareState.parse(io.BytesIO(data))
    except GuestDumpError:
        return
    ranges = found.ranges(rng.choice((0, 0x1000, 0x8000)))
    file = _BytesFile(data) if found.memory_offset is not None else None
    _look_at_source(rng, ranges, (*found.vcpus, *found.vcpus_by_number), file)
    read = PhysicalMemory(ranges, file).read
    stack_pointer.likelier(read, found.vcpus, found.vcpus_by_number)
    if found.memory_file_size is not None:
        assert found.memory_file_size > 0


def elf_notes(rng: random.Random) -> None:
    """An ELF core of QEMU, of 32 or 64 bits, with hostile headers and notes."""
    size = rng.choice((elf_core.OLD_QEMU_NOTE, elf_core.QEMU_NOTE, 504))
    notes = elf_core.qemu_notes(test_qemu_elf.VCPUS[: rng.randint(1, 3)], size)
    if rng.random() < 0.5:
        notes = mutate(rng, notes, 4)
    whole = test_qemu_elf.core(notes, many=rng.random() < 0.3)
    if rng.random() < 0.3:
        whole = test_qemu_elf.core32(notes)
    if rng.random() < 0.5:
        whole = mutate(rng, whole[:0x130], 4) + whole[0x130:]
    try:
        found = QemuElf.parse(io.BytesIO(whole))
    except GuestDumpError:
        return
    _look_at_source(rng, found.ranges, found.vcpus, _BytesFile(whole))


def image_file(rng: random.Random) -> None:
    """A file of LiME or AVML, damaged or cut off."""
    pieces = [(0, 0x20000), (0x20000, 0x1000), (1 << 32, 0x8000)][: rng.randint(1, 3)]
    data = rng.randbytes(0x1000) + bytes(0x1F000)
    if rng.random() < 0.5:
        whole = b"".join(lime_writer.header(start, size) + data[:size] for start, size in pieces)
    else:
        whole = b"".join(avml_writer.block(start, data[:size]) for start, size in pieces)
    place = rng.choice((0, 0, 32, 0x20020, max(0, len(whole) - 100)))
    whole = whole[:place] + mutate(rng, whole[place : place + 100], 3) + whole[place + 100 :]
    if rng.random() < 0.3:
        whole = whole[: rng.randrange(len(whole) + 1)]
    file: Content = _BytesFile(whole)
    try:
        if whole[:4] == lime.MAGIC:
            ranges, _ = lime.parse(io.BytesIO(whole), len(whole), "fuzz")
        else:
            packed = AvmlFile(_BytesFile(whole), "fuzz")
            ranges, file = packed.ranges, packed
    except GuestDumpError:
        return
    _look_at_source(rng, ranges, (), file)


class _BytesFile(MemoryFile):
    """A file in memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.location, self.size = "", len(data)
        self._descriptor = None
        self._error_shown = False

    def read(self, offset: int, length: int) -> bytes:
        data = self._data[offset : offset + length]
        if offset < 0 or len(data) < length:
            raise AddressError(offset)
        return data


def _look_at_source(
    rng: random.Random,
    ranges: Sequence[MemoryRange],
    vcpus: Sequence[VCPU],
    file: Optional[Content],
) -> None:
    """Checks what a source says, and reads memory as it says."""
    for low, high in zip(ranges, ranges[1:]):
        assert low.end <= high.start
    memory = PhysicalMemory(ranges, file)
    for run in ranges:
        assert run.size > 0 and run.start >= 0
        for _ in range(4):
            with contextlib.suppress(AddressError):
                address = run.start + rng.randrange(run.size)
                assert len(memory.read(address, 64)) == 64
    for vcpu in vcpus:
        # Each is there or not.
        assert set(vcpu.registers) <= {*REGISTERS, *OPTIONAL_REGISTERS}
        find_paging(memory.read, vcpu)


def page_tables(rng: random.Random) -> None:
    """Page tables that refer to each other at random, and to themselves."""
    pages = 16
    memory = bytearray(pages * PAGE_SIZE)
    for _ in range(rng.randint(1, 400)):
        place = 8 * rng.randrange(len(memory) // 8)
        entry = rng.randrange(pages + 4) * PAGE_SIZE | rng.choice((1, 3, 0x63, 0x83, 0xE7, 0))
        memory[place : place + 8] = entry.to_bytes(8, "little")

    def read(address: int, length: int) -> bytes:
        if address + length > len(memory):
            raise AddressError(address)
        return bytes(memory[address : address + length])

    registers = {**IDLE_VCPU, "rflags": 2, "cr0": 1 << 31 | 1, "cr3": rng.randrange(pages * 4096)}
    registers["cr4"] = rng.choice((0, 0x20, 0x1020))
    registers["rip"] = rng.getrandbits(rng.choice((32, 48, 64)))
    vcpu = VCPU(0, registers)
    for _, tables in candidate_tables(read, [vcpu]):
        for _ in range(8):
            tables.maps(rng.getrandbits(tables.mode.address_bits))
        start = 0xFFFFFFFF80000000 if tables.mode.is_64bit else 0
        sum(size for _, _, size in tables.runs(start, start + (1 << 30)))
    assert find_kernel(machine(read, [vcpu])) is None
    mode = rng.choice([mode for mode in PagingMode if mode is not PagingMode.OFF])
    PageTables(read, mode, registers["cr3"]).maps(registers["rip"])


def kallsyms(rng: random.Random) -> None:
    """Symbol tables of each form, damaged."""
    form = rng.choice(test_kallsyms.FORMS)
    made = handmade_kallsyms.image(test_kallsyms.kernel(form), form)
    data = bytearray(mutate(rng, made.data, 3))
    for _ in range(rng.randint(0, 3)):
        # Nearly all of an image is names: damage the small tables more often.
        place = rng.choice([address - made.base for address in made.tables.values()])
        place += rng.randrange(-16, 512)
        data[place : place + 64] = mutate(rng, bytes(data[place : place + 64]), 2)
    known = [("_stext", [test_kallsyms.text(form)])]
    try:
        found = find_kallsyms(bytes(data), made.base, known, form.bits)
    except GuestDumpError:
        return
    for symbol in found:
        found.find(symbol.name)
    for _ in range(64):
        found.at(rng.getrandbits(form.bits))


def btf(rng: random.Random) -> None:
    """Types of every kind, damaged, as what Volatility loads."""
    sound = rng.choice((test_symbols.sample(), test_btf.one_of_each()[0])).build()
    damaged = mutate(rng, sound)
    with contextlib.suppress(GuestDumpError):
        for _ in test_btf.decode_all(damaged):
            pass
    test_symbols.usable(damaged)


def orc_tables(rng: random.Random) -> None:
    """Unwinding tables of each form, damaged."""
    form = rng.choice((1, 2, 3, 4))
    entries = mutate(rng, test_orc.entries(form), 4)
    entries = entries[: len(entries) // 6 * 6]
    places = [test_orc.CODE + 16 * number for number in range(len(entries) // 6)]
    ips = mutate(rng, test_orc.places(places), 4)
    try:
        table = OrcTable(ips, entries, test_orc.TABLE, find_form(entries))
    except GuestDumpError:
        return
    for _ in range(16):
        with contextlib.suppress(GuestDumpError):
            table.find(rng.choice(places) + rng.randrange(-20, 20))


def windows(rng: random.Random) -> None:
    """A Windows kernel's image, damaged, and the way from the registers to it."""
    mode, base = rng.choice(((PagingMode.FOUR_LEVEL, test_windows.BASE), (PagingMode.PAE, 1 << 31)))
    guest = test_windows.Guest(mode, base)
    image = mutate(rng, handmade_pe.kernel(rng.choice((64, 32))))
    test_windows.read(image)
    whole = bytes(guest.data)
    place = rng.randrange(0, len(whole), 64)
    guest.data[place : place + 512] = mutate(rng, whole[place : place + 512]).ljust(512, b"\0")
    kernel = find_windows_kernel(machine(guest.read, [guest.vcpu(), guest.vcpu(gs_base=guest.idt)]))
    if kernel is not None:
        assert kernel.shown_banner.isprintable() and kernel.version.isprintable()
        kernel.symbolize(rng.getrandbits(64))
        str(kernel.physical_base)


def stacks(rng: random.Random) -> None:
    """A hand-made kernel with functions that unwind at random, and a stack full of addresses."""
    functions = {
        f"f{number}": (rng.randrange(-32, 64), rng.randrange(-32, 32), rng.getrandbits(12))
        for number in range(6)
    }
    kernel = test_unwind.FakeKernel(functions, rng.random() < 0.8)
    for place in range(0, 4096, 8):
        code = kernel.at(f"f{rng.randrange(6)}")
        kernel.put(place, rng.choice((code, test_unwind.STACK + rng.randrange(4096))))
    registers = {
        name: test_unwind.STACK + rng.randrange(4096) for name in ("rbp", "r10", "r13", "rdi")
    }
    _shown(test_unwind.trace(kernel, "f0", rng.randrange(4096), **registers))


@functools.cache
def _real() -> tuple[Guest, GuestFile, PhysicalMemory]:
    """Returns a real guest of the lab; whichever is there."""
    for name in ("module", "hole-pti", *GUESTS):
        guest = existing(name)
        if guest is not None and not GUESTS[name].slow:
            with guest.guest_path.open("rb") as stream:
                parsed = GuestFile.parse(stream)
            memory = PhysicalMemory(parsed.ranges or (), MemoryFile(guest.vmem_path.as_uri()))
            return guest, parsed, memory
    raise RuntimeError("the lab has made no guest yet: python -m tests.lab module")


@functools.cache
def _structures() -> list[tuple[int, int]]:
    """Returns (offset in debug.vmem, size) of what of a real kernel is worth damaging."""
    _, guest, memory = _real()
    kernel = find_kernel(machine(memory.read, guest.vcpus))
    assert kernel is not None and kernel.kallsyms is not None
    address = kernel.kallsyms.address
    found = [(place, 0x1000) for place in kernel.kallsyms.tables.values()]
    for name in ("linux_banner", "init_task", "prb", "log_buf", "modules", "panic_cpu"):
        found.append((address(name) or 0, 64))
    for name in ("init_top_pgt", "__per_cpu_offset", "vmcoreinfo_data", "__start_notes"):
        found.append((address(name) or 0, 0x1000))
    for name in ("__start_BTF", "__start_orc_unwind", "__start_orc_unwind_ip"):
        found.append((address(name) or 0, 0x10000))
    for name in ("tk_core", "init_uts_ns", "vm_node_stat", "saved_command_line"):
        found.append((address(name) or 0, 0x200))
    # The ring of the log, and the modules.
    found.append((kernel.pointer(address("prb") or 0), 0x100))
    found += [(module.address, 0x400) for module in kernel.modules or ()]
    found += [(vcpu.registers["rsp"], 0x400) for vcpu in guest.vcpus]
    real = Stacks(kernel, guest.vcpus)
    for stack in [*map(real.of_vcpu, guest.vcpus), *real.of_tasks()]:
        if stack.task is not None:
            found.append((stack.task.address, 0x2000))
            found += [(frame.sp, 64) for frame in stack.frames[:4] if frame.sp is not None]
    places = []
    for place, size in found:
        with contextlib.suppress(AddressError):
            physical, room = kernel.tables.translate(place)
            run = next(run for run in memory.ranges if run.start <= physical < run.end)
            places.append((run.file_offset + physical - run.start, min(size, room)))
    return places


class _DamagedFile(MemoryFile):
    """The memory of the real guest with damage in the structures that are decoded.

    Attributes:
        reads: how many there were.
    """

    def __init__(self, rng: random.Random) -> None:
        _, _, memory = _real()
        assert isinstance(memory.file, MemoryFile)
        self._sound = memory.file
        self.location, self.size = memory.file.location, memory.file.size
        # No map of the file: it would show what is sound.
        self._descriptor = None
        self._error_shown = False
        self._patches: dict[int, bytes] = {}
        self.reads = 0
        for _ in range(rng.randint(1, 3)):
            place, size = rng.choice(_structures())
            place += rng.randrange(size) & -64
            part = mutate(rng, self._sound.read(place, 64)).ljust(64, b"\0")[:64]
            self._patches[place] = part

    def read(self, offset: int, length: int) -> bytes:
        self.reads += 1
        data = self._sound.read(offset, length)
        for place, part in self._patches.items():
            if offset < place + len(part) and place < offset + length:
                low, high = max(offset, place), min(offset + length, place + len(part))
                patch = part[low - place : high - place]
                data = data[: low - offset] + patch + data[high - offset :]
        return data


def real_kernel(rng: random.Random) -> None:
    """A real guest with damage in the structures that are decoded, looked at by all decoders."""
    _, guest, _ = _real()
    memory = PhysicalMemory(guest.ranges or (), _DamagedFile(rng))
    looked_at = machine(memory.read, guest.vcpus)
    damaged = find_kernel(looked_at)
    if damaged is not None:
        _look_at(rng, damaged, looked_at)


class _Nowhere(interfaces.plugins.FileHandlerInterface):
    """A file that a plugin writes, and nobody keeps."""

    def write(self, data: Any) -> int:
        return len(data)


def _forget_all() -> None:
    layers.SESSION.close()
    forget()


def volatility(rng: random.Random) -> None:
    """The same damage, looked at by a plugin in Volatility."""
    guest, parsed, _ = _real()
    location = guest.vmem_path.as_uri()
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = guest.guest_path.as_uri()
    plugin = rng.choice((Info, Registers, Backtrace, Report, pslist.PsList))
    context.config["plugins.Backtrace.tasks"] = True
    available: Any = automagic.available(context)
    chosen: Any = automagic.choose_automagic(available, plugin)
    try:
        _forget_all()
        damaged = _DamagedFile(rng)
        key = (location, parsed.memory_size, os.getpid(), file_state(location))
        layers.SESSION._files.get(key, lambda: damaged)
        grid = plugins.construct_plugin(
            *(context, chosen, plugin, "plugins", None),
            _Nowhere,  # type: ignore[type-abstract]
        ).run()
        grid.populate(lambda node, _: str(node.values))
        assert damaged.reads, "the plugin has read another file"
    except exceptions.VolatilityException:
        # What vol says in words.
        pass
    except AttributeError as error:
        # Volatility's own plugins end so when a structure lacks a member, whatever it comes from.
        if plugin is not pslist.PsList or "has no attribute: " not in str(error):
            raise
    finally:
        _forget_all()
        gc.collect()


def _look_at(rng: random.Random, kernel: LinuxKernel, guest: Machine) -> None:
    """Does what the plugins do with a kernel."""
    for value in (kernel.release, kernel.build_id, kernel.kaslr_shift, kernel.physical_base):
        str(value)
    kernel.isolates_page_tables()
    for vcpu in guest.vcpus:
        find_paging(kernel.tables.read_physical, vcpu)
        kernel.loaded_user_half(vcpu)
        kernel.symbolize(vcpu.registers["rip"])
    traces = Stacks(kernel, guest.vcpus)
    traces.panic_task()
    for vcpu in guest.vcpus:
        _shown(traces.of_vcpu(vcpu).frames)
    for stack in traces.of_tasks():
        _shown(stack.frames)
        assert stack.task is None or stack.task.comm.isprintable()
    attempts = Attempts()
    told = system.linux_facts(guest, kernel, traces, None, attempts)
    subject = collect.Subject(guest, kernel, traces, told, None, kernel.symbolize)
    facts = collect.collect(subject, attempts)
    now = datetime.now(timezone.utc)
    found = compose.compose(facts, document.Evidence([], {}, "", now))
    assert len(html.render(found, compose.system_rows(facts), "")) < _LARGEST_REPORT
    # What a decoder raises for damage that nobody has foreseen is a defect of its own.
    for problem in found.problems:
        assert not re.match(r"(.*the first: )?\w+(Error|Exception): ", problem.reason), problem
    try:
        view = IsfView(kernel)
    except GuestDumpError:
        return
    context = contexts.Context()
    table = _GuestDumpFormat(context, "fuzz", "fuzz", view)
    context.symbol_space.append(table)
    for section in ("user_types", "enums", "symbols"):
        names = list(view.document[section])
        for name in rng.sample(names, min(len(names), 200)):
            # What Volatility's symbol space turns into its own error.
            with contextlib.suppress(exceptions.VolatilityException, KeyError):
                if section == "enums":
                    table.get_enumeration(name)
                elif section == "symbols":
                    table.get_symbol(name)
                else:
                    dict(table.get_type(name).vol.members)


def _shown(frames: object) -> None:
    for frame in frames:  # type: ignore[attr-defined]
        assert frame.symbol.isprintable() and words.notes(frame.notes).isprintable()


#: Name -> target. The cheap ones are run more often.
TARGETS: dict[str, tuple[Target, int]] = {
    "guest_file": (guest_file, 60),
    "state_file": (state_file, 60),
    "elf_notes": (elf_notes, 60),
    "image_file": (image_file, 60),
    "page_tables": (page_tables, 30),
    "kallsyms": (kallsyms, 20),
    "btf": (btf, 20),
    "windows": (windows, 10),
    "orc_tables": (orc_tables, 60),
    "stacks": (stacks, 30),
    "real_kernel": (real_kernel, 2),
    "volatility": (volatility, 1),
    "full_tables": (worst.full_tables, 4),
    "sizes": (worst.sizes, 8),
    "counters": (worst.counters, 20),
    "lists": (worst.lists, 10),
    "banners": (worst.banners, 8),
}
