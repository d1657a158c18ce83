# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's state files, on bytes made by hand."""

import contextlib
import io
import random
import struct
from typing import Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz.mutations import mutate
from tests.handmade import vmware
from tests.lab.formats.vmware_state import MAGICS, Group, State, block, memory_tags, tag
from volatility_guestdump.exceptions import SourceError, UnrecognizedSource
from volatility_guestdump.machine import REGISTERS, MemoryRange
from volatility_guestdump.sources import vmware_state
from volatility_guestdump.sources.vmware_state import VmwareState


def parse(data: bytes) -> VmwareState:
    """Returns what a file says."""
    return VmwareState.parse(io.BytesIO(data), "x.vmsn")


def changed(name: str, tags: bytes, groups: Optional[list[Group]] = None) -> bytes:
    """Returns a file with more tags at the start of one group."""
    groups = vmware.machine() if groups is None else groups
    return vmware.file([(each, (tags if each == name else b"") + body) for each, body in groups])


def without(name: str, group: str = "cpu", number: int = 0) -> bytes:
    """Returns a file in which a tag of one vCPU, or of one region, has a name of no interest."""
    groups = dict(vmware.machine(state=State(blocks=False)))
    needle = name.encode()
    head = struct.Struct("<H")
    body, position = groups[group], 0
    parts = []
    while position < len(body):
        (flags,) = head.unpack_from(body, position)
        size, indices, length = flags & 63, flags >> 6 & 3, flags >> 8
        end = position + 2 + length + 4 * indices
        if size >= 62:
            stored, _, padding = struct.unpack_from("<QQH", body, end)
            size = 18 + padding + stored
        found = body[position + 2 : position + 2 + length]
        index = struct.unpack_from("<I", body, end - 4 * indices)[0] if indices else number
        part = body[position : end + size]
        if found == needle and index == number:
            part = part[:2] + b"?" * length + part[2 + length :]
        parts.append(part)
        position = end + size
    groups[group] = b"".join(parts)
    return vmware.file(list(groups.items()))


@pytest.mark.parametrize("magic", MAGICS)
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("padding", [0, 7])
def test_registers(magic: int, blocks: bool, padding: int) -> None:
    """Each register of each vCPU has its value, in both forms of tags."""
    state = parse(
        vmware.file(vmware.machine(3, state=State(blocks=blocks, padding=padding)), magic)
    )
    assert state.magic == magic and state.left_out == ()
    assert [vcpu.number for vcpu in state.vcpus] == [0, 1, 2]
    for vcpu in state.vcpus:
        assert vcpu.registers == vmware.shown(vmware.registers(vcpu.number))
    # One by one they have names; in the block their order is a convention.
    assert bool(state.vcpus_by_number) == blocks
    for vcpu, other in zip(state.vcpus, state.vcpus_by_number):
        assert vcpu.get("rsp") == other.get("rbp") and vcpu.get("rbp") == other.get("rsp")


@pytest.mark.parametrize("exchanged", [False, True])
def test_a_tag_tells_rsp_from_rbp(exchanged: bool) -> None:
    """Where RSP has a tag beside the block gpregs the file is not ambiguous."""
    sound = vmware.registers(0)
    rsp, rbp = (sound["rbp"], sound["rsp"]) if exchanged else (sound["rsp"], sound["rbp"])
    state = parse(changed("cpu", tag("rsp", (0,), struct.pack("<Q", rsp)), vmware.machine(1)))
    assert not state.vcpus_by_number and not state.left_out
    assert (state.vcpus[0].registers["rsp"], state.vcpus[0].registers["rbp"]) == (rsp, rbp)


def test_block_and_tag_that_disagree() -> None:
    """An RSP that is neither value of the block leaves the vCPU out."""
    state = parse(changed("cpu", tag("rsp", (0,), bytes(8))))
    assert [vcpu.number for vcpu in state.vcpus] == [1]
    assert state.left_out == ("vCPU 0: rsp is both 0x0 and 0x3000",)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ((), ()),
        (((0, 0x8000),), (MemoryRange(0, 0x8000, 0),)),
        (
            ((0, 0x3000), (1 << 32, 0x2000)),
            (MemoryRange(0, 0x3000, 0), MemoryRange(1 << 32, 0x2000, 0x3000)),
        ),
        (
            ((1 << 33, 0x1000), (0, 0x2000), (1 << 32, 0x1000), (0x10000, 0x1000)),
            (
                MemoryRange(0, 0x2000, 0x1000),
                MemoryRange(0x10000, 0x1000, 0x4000),
                MemoryRange(1 << 32, 0x1000, 0x3000),
                MemoryRange(1 << 33, 0x1000, 0),
            ),
        ),
    ],
)
def test_regions(regions: tuple[tuple[int, int], ...], expected: tuple[MemoryRange, ...]) -> None:
    """None, one, with a hole, and four out of order."""
    state = parse(vmware.file(vmware.machine(regions=regions)))
    assert state.has_memory and state.regions == expected and state.memory_offset is None
    total = sum(size for _, size in regions)
    assert state.memory_file_size == (total or None)
    assert state.ranges(0x5000) == (expected or (MemoryRange(0, 0x5000, 0),))
    inside = parse(vmware.file(vmware.machine(regions=regions, memory=b"m" * (total or 0x3000))))
    assert inside.memory_offset is not None and inside.memory_size == (total or 0x3000)
    data = vmware.file(vmware.machine(regions=regions, memory=b"m" * (total or 0x3000)))
    assert data[inside.memory_offset :][: inside.memory_size] == b"m" * inside.memory_size
    assert data[inside.memory_offset - 1 : inside.memory_offset] != b"m"
    assert [run.file_offset - inside.memory_offset for run in inside.ranges(0)] == [
        run.file_offset for run in expected or (MemoryRange(0, 0x3000, 0),)
    ]


def test_without_memory() -> None:
    """A snapshot can be taken without the guest's memory."""
    state = parse(vmware.file(vmware.machine()[:2]))
    assert not state.has_memory and len(state.vcpus) == 2 and not state.ranges(0)


def test_nothing_is_read_that_is_not_needed() -> None:
    """Of devices and memory of many MiB no byte is read."""

    class Stream(io.BytesIO):
        read_bytes = 0

        def read(self, size: Optional[int] = -1) -> bytes:
            data = super().read(size)
            self.read_bytes += len(data)
            return data

    groups = vmware.machine(regions=((0, 8 << 20),), memory=bytes(8 << 20))
    groups[1:1] = [("MKSVMX", block("Screenshot", (), bytes(4 << 20)))]
    stream = Stream(vmware.file([*groups, ("SVGA", bytes(4 << 20))]))
    assert len(VmwareState.parse(stream).vcpus) == 2
    assert stream.read_bytes < 1 << 20


@pytest.mark.parametrize("magic", [0xBED0BED0, 0xBED2BED0, 0xBAD0BAD0, 0x464C457F, 0])
def test_other_magics(magic: int) -> None:
    """Files of older forms, and what is no state file, are told apart from damaged ones."""
    with pytest.raises(
        UnrecognizedSource,
        match="older form" if magic >> 16 in (0xBED0, 0xBED2, 0xBAD0) else "not that of",
    ):
        parse(vmware.file(vmware.machine(), magic))


def _u32(name: str, indices: tuple[int, ...], value: int) -> bytes:
    return tag(name, indices, struct.pack("<I", value))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (vmware.file([], count=0), "0 groups"),
        (vmware.file(vmware.machine(), count=0xFFFFFFFF), "4294967295 groups"),
        (vmware.file(vmware.machine(), count=4000), "the file ends before"),
        (vmware.file(vmware.machine() * 2), "two groups 'cpu'"),
        (vmware.file(vmware.machine(), positions={"memory": 12}), "lies in the table of groups"),
        (vmware.file(vmware.machine(), positions={"memory": 1 << 63}), "the file ends before"),
        (
            vmware.file([("memory", memory_tags([(0, 0x1000)])[:-3]), ("x", b"")]),
            "in the group that starts at",
        ),
        (changed("memory", _u32("regionsCount", (), 2)), "both 2 and 1 regions"),
        (changed("memory", _u32("regionSize", (0,), 2)), r"regionSize\[0\] is both 0x2 and 0x8"),
        (changed("memory", tag("regionPPN", (0,), bytes(3))), r"regionPPN\[0\] is no integer"),
        (without("regionsCount", "memory"), "number of memory's regions is missing"),
        (without("regionPPN", "memory"), r"regionPPN\[0\] is missing"),
        (vmware.file([("memory", _u32("regionsCount", (), 5000))]), "5000 regions"),
        (vmware.file(vmware.machine(regions=((0, 0),))), "region 0 of memory is empty"),
        (vmware.file(vmware.machine(regions=((0, 0x2000), (0x1000, 0x1000)))), "overlap at 0x1000"),
        (
            vmware.file(vmware.machine(regions=((0, 0x3000),), memory=bytes(0x2000))),
            "ends at 0x3000 of memory, which has 0x2000",
        ),
        (
            changed("memory", block("Memory", (), bytes(0x1000), compressed=True)),
            "memory in it is compressed",
        ),
        (
            changed(
                "memory", block("Memory", (), bytes(0x1000)), vmware.machine(memory=bytes(0x8000))
            ),
            "two blocks of memory",
        ),
        (
            changed("cpu", _u32("cpu:numVCPUs", (), 0), [("cpu", b"")]),
            "0 vCPUs",
        ),
        (
            vmware.file([("cpu", _u32("cpu:numVCPUs", (), 100_000))]),
            "100000 vCPUs; a guest has between 1 and 8192",
        ),
        (
            vmware.file(
                [
                    (
                        "cpu",
                        struct.pack("<HQQH", 63 | 1 << 8, 4, 5, 0)[:2]
                        + b"q"
                        + struct.pack("<QQH", 4, 5, 0)
                        + bytes(4),
                    )
                ]
            ),
            "q has 0x4 bytes in the file, but 0x5 in memory",
        ),
    ],
)
def test_damaged(data: bytes, message: str) -> None:
    """What is damaged is said with the file's name, and where."""
    with pytest.raises(SourceError, match=f"^x.vmsn: .*{message}"):
        parse(data)


def test_memory_that_two_regions_share() -> None:
    """No two guest-physical pages can be the same bytes of the file."""
    tags = b"".join(
        _u32(name, (number,), value)
        for number, values in enumerate([(0, 0, 4), (16, 3, 4)])
        for name, value in zip(("regionPPN", "regionPageNum", "regionSize"), values)
    )
    with pytest.raises(SourceError, match="the same bytes at 0x3000"):
        parse(vmware.file([("memory", _u32("regionsCount", (), 2) + tags)]))


@pytest.mark.parametrize(
    ("data", "left_out"),
    [
        (without("rip"), "vCPU 0: it has no rip"),
        (without("r12", number=1), "vCPU 1: it has no r12"),
        (without("CR64"), "vCPU 0: it has no cr0, cr2, cr3, cr4"),
        (without("IDTR"), "vCPU 0: it has no idt_base"),
        (without("S.base64"), "vCPU 0: it has no fs_base, gs_base"),
        (changed("cpu", tag("rip", (0,), bytes(3))), "vCPU 0: rip[0] has 3 bytes"),
        (changed("cpu", tag("rip", (1,), bytes(8))), "vCPU 1: rip is both 0x0 and 0x1008"),
        (
            changed("cpu", block("IDTR", (0,), bytes(9))),
            "vCPU 0: IDTR[0] has 9 bytes instead of 10",
        ),
        (
            changed("cpu", block("gpregs", (0,), bytes(128), compressed=True)),
            "vCPU 0: gpregs[0] is compressed",
        ),
        (changed("cpu", tag("rip", (5,), bytes(8))), "vCPU 5: there are only 2"),
        (without("cpu:numVCPUs"), "the number of vCPUs is missing"),
    ],
)
def test_left_out(data: bytes, left_out: str) -> None:
    """A vCPU that cannot be trusted is left out, with the reason; the others are there."""
    state = parse(data)
    assert state.left_out == (left_out,)
    assert {vcpu.number for vcpu in state.vcpus} == {0, 1} - set(
        range(2) if "number" in left_out else [int(left_out[5])]
    )


def test_number_of_a_vcpu_that_none_can_have() -> None:
    """An index of billions takes no memory."""
    state = parse(changed("cpu", tag("rip", (0xFFFF_FFFF,), bytes(8))))
    assert len(state.vcpus) == 2 and not state.left_out


def test_cut_off_in_memory() -> None:
    """Of memory inside the file that is cut off the size is known that it should have."""
    data = vmware.file(vmware.machine(memory=bytes(0x8000)))
    state = parse(data[:-0x4000])
    assert state.memory_size == 0x8000 and len(state.vcpus) == 2


def test_cut_off_anywhere() -> None:
    """Each shorter file is refused, or has fewer vCPUs or a memory that is known to be larger."""
    data = vmware.file(vmware.machine(1, memory=bytes(0x8000)))
    whole = parse(data)
    offset = whole.memory_offset
    assert offset is not None
    for length in range(0, offset, 7):
        with contextlib.suppress(SourceError):
            state = parse(data[:length])
            assert not state.vcpus or state == whole


def test_group_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags without end are not followed for ever, whatever the size of the file."""
    monkeypatch.setattr(vmware_state, "_MAXIMUM_TAGS", 1000)
    with pytest.raises(SourceError, match="has more than 1000 tags"):
        parse(vmware.file([("cpu", tag("x", (), b"") * 1001)]))


@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    """Any bytes behind a header and a group's entry are read or refused."""
    start = vmware.HEADER + vmware.ENTRY
    for name in ("cpu", "memory"):
        head = struct.pack("<III64sQQ", MAGICS[0], 8, 1, name.encode(), start, len(data))
        with contextlib.suppress(SourceError):
            parse(head + data)


@given(st.integers(0, 1 << 32), st.sampled_from([(), ((0, 0x3000), (1 << 32, 0x5000))]))
def test_damage(seed: int, regions: tuple[tuple[int, int], ...]) -> None:
    """Whatever is damaged, what is read is sound: ranges in order, whole vCPUs."""
    rng = random.Random(seed)
    state = State(blocks=rng.random() < 0.5)
    memory = bytes(0x8000) if rng.random() < 0.5 else b""
    data = mutate(rng, vmware.file(vmware.machine(2, regions, state, memory)))
    try:
        found = parse(data)
    except SourceError:
        return
    for low, high in zip(found.regions, found.regions[1:]):
        assert low.end <= high.start
    assert all(run.size > 0 for run in found.regions)
    for vcpu in (*found.vcpus, *found.vcpus_by_number):
        assert set(vcpu.registers) == set(REGISTERS)
        assert all(0 <= value < 1 << 64 for value in vcpu.registers.values())
