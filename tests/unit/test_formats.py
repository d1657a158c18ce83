# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the writers write, taken apart again by a few lines of each test's own."""

import io
import pathlib
import random
import struct
from collections.abc import Iterator

import cramjam
import pytest

from tests.lab.formats import avml, elf_core, lime, raw, vmware_state
from tests.lab.formats.memory import Memory, Source, iomem, without_low_memory
from tests.lab.writer import GENERAL, PAGE, Region

REGIONS = ((0, 3 << 20), (1 << 32, 2 << 20))

#: A page of zeros between others, in each region.
ZERO_PAGES = (0x3000, 0x1_0000_5000)

NAMES = (*GENERAL, "cr0", "cr2", "cr3", "cr4", "idt_base", "eflags", "kernel_gs_base")


@pytest.fixture
def source(tmp_path: pathlib.Path) -> Source:
    """A guest with a hole in memory; it has pages that are zero and some that compress."""
    numbers = random.Random(7)
    data = bytearray(numbers.randbytes(5 << 20))
    # Compressible in part, as memory is.
    data[1 << 20 : 2 << 20] = b"page of a guest " * (1 << 16)
    data[0x3000:0x4000] = bytes(PAGE)
    data[(3 << 20) + 0x5000 : (3 << 20) + 0x6000] = bytes(PAGE)
    path = tmp_path / "memory"
    path.write_bytes(data)
    vcpus = [{name: numbers.getrandbits(31) for name in NAMES} for _ in range(2)]
    return Source(Memory(path, REGIONS), vcpus)


def content(memory: Memory) -> bytes:
    """Returns all of memory without its hole."""
    return memory.path.read_bytes()


def crc32c(data: bytes) -> int:
    """Returns the CRC-32C (Castagnoli, reflected) of some bytes, bit by bit."""
    value = 0xFFFF_FFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
    return value ^ 0xFFFF_FFFF


def test_raw_has_each_byte_at_its_address(source: Source, tmp_path: pathlib.Path) -> None:
    """The hole is zeros."""
    memory = source.memory
    raw.write(tmp_path / "raw", memory)
    assert (tmp_path / "raw").stat().st_size == memory.end
    with (tmp_path / "raw").open("rb") as stream:
        low = stream.read(4 << 20)
        stream.seek(1 << 32)
        high = stream.read()
    assert low[: 3 << 20] + high == content(memory)
    assert not any(low[3 << 20 :])


def test_squeezed_memory_ends_where_memory_does(source: Source, tmp_path: pathlib.Path) -> None:
    """The hole takes nothing."""
    raw.write_squeezed(tmp_path / "vmem", source.memory)
    assert (tmp_path / "vmem").read_bytes() == content(source.memory)


def test_a_file_ends_where_memory_does_even_if_its_end_is_zero(tmp_path: pathlib.Path) -> None:
    """A hole in the file at its end is part of the file."""
    (tmp_path / "memory").write_bytes(b"\1" * PAGE + bytes(PAGE))
    memory = Memory(tmp_path / "memory", [(0, 2 * PAGE)])
    lime.write(tmp_path / "lime", memory)
    elf_core.write(tmp_path / "elf", memory)
    assert (tmp_path / "lime").read_bytes()[32:] == content(memory)
    assert (tmp_path / "elf").read_bytes().endswith(content(memory))


def lime_ranges(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields first address and bytes of each range."""
    position = 0
    while position < len(data):
        magic, version, first, last, reserved = struct.unpack_from("<IIQQQ", data, position)
        assert (magic, version, reserved) == (0x4C694D45, 1, 0)
        position += 32
        yield first, data[position : position + last + 1 - first]
        position += last + 1 - first


@pytest.mark.parametrize(
    "ranges", [REGIONS, tuple(iomem(REGIONS)), tuple(without_low_memory(iomem(REGIONS)))]
)
def test_lime(source: Source, tmp_path: pathlib.Path, ranges: tuple[Region, ...]) -> None:
    """Ranges have their bytes, whether they end on a page or not."""
    lime.write(tmp_path / "lime", source.memory, ranges)
    found = list(lime_ranges((tmp_path / "lime").read_bytes()))
    assert [(start, len(data)) for start, data in found] == list(ranges)
    for start, data in found:
        assert data == source.memory.read(start, len(data))


def test_iomem_ends_in_mid_page_and_low_memory_can_be_left_out() -> None:
    """Ranges are those of a guest with a BIOS, cut at 1 MiB on demand."""
    ranges = iomem(REGIONS)
    assert [start + size - 1 for start, size in ranges] == [0x9FBFF, 0x2DFFFF, 0x1_001F_FFFF]
    assert without_low_memory([(0, 3 << 20), (1 << 32, PAGE)]) == [
        (1 << 20, 2 << 20),
        (1 << 32, PAGE),
    ]


def avml_blocks(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yields first address, last address and snappy's stream of each block."""
    position = 0
    while position < len(data):
        magic, version, first, last, _ = struct.unpack_from("<IIQQQ", data, position)
        assert (magic, version) == (0x4C4D5641, 2)
        start = position = position + 32
        assert data[start : start + 10] == b"\xff\x06\0\0sNaPpY"
        size = 0
        while size < last + 1 - first:
            kind, length = (
                data[position],
                int.from_bytes(data[position + 1 : position + 4], "little"),
            )
            position += 4 + length
            if kind == 0:
                size += cramjam.snappy.decompress_raw_len(data[position - length + 4 : position])
            elif kind == 1:
                size += length - 4
        assert int.from_bytes(data[position : position + 8], "little") == position - start
        yield first, last, data[start:position]
        position += 8


def test_avml(source: Source, tmp_path: pathlib.Path) -> None:
    """The library's decoder, which checks the sums, gives memory back."""
    avml.write(tmp_path / "avml", source.memory)
    blocks = list(avml_blocks((tmp_path / "avml").read_bytes()))
    assert [(first, last) for first, last, _ in blocks] == [
        (start, start + size - 1) for start, size in REGIONS
    ]
    for first, last, stream in blocks:
        wanted = source.memory.read(first, last + 1 - first)
        assert bytes(cramjam.snappy.decompress(stream)) == wanted


def test_avml_frames_have_masked_sums_and_both_kinds(source: Source) -> None:
    """Frames of 64 KiB are compressed if that makes them smaller."""
    data = source.memory.read((1 << 20) - 0x10000, 0x20000)
    block = avml.block(0, data)
    stream = io.BytesIO(block[32:-8])
    kinds = []
    while header := stream.read(4):
        chunk = stream.read(int.from_bytes(header[1:], "little"))
        kinds.append(header[0])
        if header[0] == 0xFF:
            continue
        plain = chunk[4:] if header[0] else bytes(cramjam.snappy.decompress_raw(chunk[4:]))
        assert len(plain) == 0x10000
        assert plain == data[: len(plain)]
        data = data[len(plain) :]
        crc = crc32c(plain)
        masked = ((crc >> 15 | crc << 17) + 0xA282_EAD8) & 0xFFFF_FFFF
        assert int.from_bytes(chunk[:4], "little") == masked
    # The first 64 KiB cannot be compressed.
    assert kinds == [0xFF, 1, 0]
    assert not data


def test_avml_cuts_blocks_and_leaves_out_zeros(tmp_path: pathlib.Path) -> None:
    """A block has 16 MiB at most; the last byte is lost on demand."""
    size = 2 * avml.BLOCK + 3 * PAGE
    with (tmp_path / "memory").open("wb") as stream:
        stream.write(b"\1")
        stream.seek(2 * avml.BLOCK)
        stream.write(b"\2")
        stream.truncate(size)
    memory = Memory(tmp_path / "memory", [(0, size)])
    avml.write(tmp_path / "avml", memory, lose_last_byte=True)
    blocks = list(avml_blocks((tmp_path / "avml").read_bytes()))
    assert [(first, last) for first, last, _ in blocks] == [
        (0, avml.BLOCK - 1),
        (2 * avml.BLOCK, size - 2),
    ]


def elf_segments(data: bytes) -> list[tuple[int, ...]]:
    """Returns type, flags, offset, virtual, physical, size in the file and in memory, alignment."""
    assert data[:6] == b"\x7fELF\2\1"
    offset, size, count = (
        int.from_bytes(data[at : at + length], "little")
        for at, length in ((32, 8), (54, 2), (56, 2))
    )
    return [struct.unpack_from("<II6Q", data, offset + size * number) for number in range(count)]


def test_elf_without_notes(source: Source, tmp_path: pathlib.Path) -> None:
    """Each region is a PT_LOAD."""
    elf_core.write(tmp_path / "elf", source.memory)
    data = (tmp_path / "elf").read_bytes()
    segments = elf_segments(data)
    assert [(kind, physical, size) for kind, _, _, _, physical, size, _, _ in segments] == [
        (1, start, size) for start, size in REGIONS
    ]
    for _, _, offset, _, physical, size, _, _ in segments:
        assert data[offset : offset + size] == source.memory.read(physical, size)


@pytest.mark.parametrize("size", [432, 440, 512])
def test_elf_with_notes(source: Source, tmp_path: pathlib.Path, size: int) -> None:
    """Notes of QEMU's old size, of its present one, and of a later one."""
    elf_core.write(tmp_path / "elf", source.memory, elf_core.qemu_notes(source.vcpus, size))
    data = (tmp_path / "elf").read_bytes()
    kind, _, offset, _, _, length, _, _ = elf_segments(data)[0]
    assert kind == 4
    notes = data[offset : offset + length]
    position, found = 0, []
    while position < len(notes):
        name_size, data_size, note_kind = struct.unpack_from("<III", notes, position)
        name = notes[position + 12 :][:name_size]
        position += 12 + (name_size + 3) // 4 * 4
        found.append((name, note_kind, notes[position : position + data_size]))
        position += (data_size + 3) // 4 * 4
    assert [(name, kind, len(body)) for name, kind, body in found] == [
        *[(b"CORE\0", 1, 336)] * 2,
        *[(b"QEMU\0", 0, size)] * 2,
    ]
    registers = source.vcpus[1]
    assert struct.unpack_from("<Q", found[1][2], 240) == (registers["rip"],)
    state = found[3][2]
    offsets = {"rax": 8, "rip": 136, "gs_base": 264, "cr3": 416, "idt_base": 384}
    for register, at in offsets.items():
        assert struct.unpack_from("<Q", state, at) == (registers[register],), register
    if size > 432:
        assert struct.unpack_from("<Q", state, 432) == (registers["kernel_gs_base"],)


def test_elf_with_paging_has_the_same_memory_more_than_once(
    source: Source, tmp_path: pathlib.Path
) -> None:
    """Loads overlap; what is not stored has no place in the file."""
    loads = elf_core.paging_loads(source.memory, 1 << 20, 1 << 20)
    elf_core.write(tmp_path / "elf", source.memory, loads=loads)
    data = (tmp_path / "elf").read_bytes()
    stored = [segment for segment in elf_segments(data) if segment[5]]
    for _, _, offset, _, physical, size, _, _ in stored:
        assert data[offset : offset + size] == source.memory.read(physical, size)
    assert sum(segment[5] for segment in stored) > source.memory.size
    virtual = [segment[3] for segment in stored]
    assert virtual == sorted(virtual)
    assert [segment[2] for segment in elf_segments(data) if not segment[5]] == [2**64 - 1]


class StateFile:
    """A state file taken apart: tags of each group, and where the memory is in it."""

    def __init__(self, data: bytes) -> None:
        self.magic, _, count = struct.unpack_from("<III", data)
        self.groups: dict[str, dict[tuple[object, ...], bytes]] = {}
        self.memory_offset = 0
        for number in range(count):
            name, position, size = struct.unpack_from("<64sQQ", data, 12 + 80 * number)
            tags = self.groups[name.rstrip(b"\0").decode()] = {}
            end = position + size
            while flags := int.from_bytes(data[position : position + 2], "little"):
                value_size, indices, length = flags & 63, flags >> 6 & 3, flags >> 8
                position += 2
                key = data[position : position + length].decode()
                position += length
                numbers = struct.unpack_from(f"<{indices}I", data, position)
                position += 4 * indices
                if value_size >= 62:
                    value_size, _, padding = struct.unpack_from("<QQH", data, position)
                    position += 18 + padding
                    if key == "Memory" and name.startswith(b"memory\0"):
                        self.memory_offset = position
                full_key = (key, *numbers)
                tags[full_key] = data[position : position + value_size]
                position += value_size
            assert position + 2 == end


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("inside", [True, False])
@pytest.mark.parametrize("padding", [0, 5])
def test_vmware(
    source: Source, tmp_path: pathlib.Path, blocks: bool, inside: bool, padding: int
) -> None:
    """Regions may stand in the file in any order, registers in blocks or one by one."""
    turned = REGIONS[::-1]
    state = vmware_state.State(0xBAD2BAD2, blocks, padding, inside=inside, regions=turned)
    vmware_state.write(tmp_path / "x.vmsn", source, state)
    found = StateFile((tmp_path / "x.vmsn").read_bytes())
    assert found.magic == 0xBAD2BAD2

    memory = found.groups["memory"]
    if inside:
        written = memory[("Memory",)]
        assert found.memory_offset % vmware_state.ALIGNMENT == 0
    else:
        assert ("Memory",) not in memory
        vmware_state.write_memory(tmp_path / "x.vmem", source.memory, turned)
        written = (tmp_path / "x.vmem").read_bytes()
    assert memory[("regionsCount",)] == struct.pack("<I", 2)
    for number, (start, size) in enumerate(turned):
        page, in_file, pages = (
            int.from_bytes(memory[(name, number)], "little")
            for name in ("regionPPN", "regionPageNum", "regionSize")
        )
        assert (page * PAGE, pages * PAGE) == (start, size)
        assert written[in_file * PAGE :][:size] == source.memory.read(start, size)

    cpu = found.groups["cpu"]
    for number, registers in enumerate(source.vcpus):
        if blocks:
            general = struct.unpack("<16Q", cpu[("gpregs", number)])
            control = struct.unpack("<9Q", cpu[("CR64", number)])
            _, idt = struct.unpack("<HQ", cpu[("IDTR", number)])
        else:
            general = tuple(
                int.from_bytes(cpu[(name, number)], "little") for name in vmware_state.GPREGS
            )
            control = tuple(
                int.from_bytes(cpu[("CR64", number, index)], "little") for index in range(9)
            )
            idt = int.from_bytes(cpu[("IDTR", number, 1)] + cpu[("IDTR", number, 2)], "little")
        assert general[:6] == tuple(
            registers[name] for name in ("rax", "rcx", "rdx", "rbx", "rbp", "rsp")
        )
        assert (control[0], control[3], idt) == (
            registers["cr0"],
            registers["cr3"],
            registers["idt_base"],
        )
        flags = [int.from_bytes(cpu[(name, number)], "little") for name in ("eflags", "EFLAGS")]
        assert flags[0] | flags[1] == registers["eflags"]
        assert cpu[("S.base64", number, 5)] == struct.pack("<Q", registers["gs_base"])
        assert cpu[("S", number, 1)] == struct.pack("<I", registers["cs"])


def test_vmware_without_memory_or_regions(source: Source, tmp_path: pathlib.Path) -> None:
    """A snapshot may lack memory; memory without a hole needs no regions."""
    path = tmp_path / "x.vmsn"
    vmware_state.write(path, source, vmware_state.State(has_memory=False))
    assert "memory" not in StateFile(path.read_bytes()).groups
    with pytest.raises(ValueError, match="regions"):
        vmware_state.write(path, source, vmware_state.State(count_regions=False))
    (tmp_path / "flat").write_bytes(bytes(PAGE))
    flat = Source(Memory(tmp_path / "flat", [(0, PAGE)]), source.vcpus)
    vmware_state.write(path, flat, vmware_state.State(count_regions=False))
    memory = StateFile(path.read_bytes()).groups["memory"]
    assert memory[("regionsCount",)] == bytes(4)
    assert ("regionPPN", 0) not in memory
