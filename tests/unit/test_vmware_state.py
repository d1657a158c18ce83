# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""VMware's state files, on bytes made by hand."""

import contextlib
import io
import itertools
import random
import struct
from typing import Any, Optional

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
    """Returns a file in which the tags of one vCPU, or of one region, are not there."""
    groups = dict(vmware.machine(state=State(blocks=False)))
    groups[group] = b"".join(
        each.pack()
        for each in vmware.tags_of(groups[group])
        if each.name != name or (each.indices and each.indices[0] != number)
    )
    return vmware.file(list(groups.items()))


@pytest.mark.parametrize("magic", MAGICS)
@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("padding", [0, 7])
def test_registers(magic: int, blocks: bool, padding: int) -> None:
    """Each register of each vCPU has its value, in both forms of tags."""
    state = parse(
        vmware.file(vmware.machine(3, state=State(blocks=blocks, padding=padding)), magic)
    )
    assert state.magic == magic and state.oddities == ()
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
    assert not state.vcpus_by_number and not state.oddities
    assert (state.vcpus[0].registers["rsp"], state.vcpus[0].registers["rbp"]) == (rsp, rbp)


def test_block_and_tag_that_disagree() -> None:
    """An RSP that is neither value of the block leaves RSP and RBP out."""
    state = parse(changed("cpu", tag("rsp", (0,), bytes(8))))
    assert [vcpu.lacks(*REGISTERS) for vcpu in state.vcpus] == [("rsp", "rbp"), ()]
    assert state.oddities == ("rsp[0] differs from gpregs[0]",)


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
    ],
)
def test_refused(data: bytes, message: str) -> None:
    """A file whose table of groups cannot be read is of no use."""
    with pytest.raises(SourceError, match=f"^x.vmsn: .*{message}"):
        parse(data)


#: What the file of `vmware.machine` says of memory.
REGIONS = (MemoryRange(0, 0x8000, 0),)


@pytest.mark.parametrize(
    ("data", "regions", "oddities"),
    [
        (vmware.file(vmware.machine() * 2), REGIONS, ["there are 2 groups 'cpu'", "there are 2"]),
        (
            vmware.file([*vmware.machine(), ("memory", memory_tags([(0, 0x3000)]))]),
            None,
            ["there are 2 groups 'memory'", "regionSize[0] is there twice, with different values"],
        ),
        (
            vmware.file(vmware.machine(), positions={"memory": 12}),
            None,
            ["group 'memory' at 0xc lies in the table of groups", "regionsCount is missing"],
        ),
        (
            vmware.file(vmware.machine(), positions={"memory": 1 << 63}),
            None,
            ["the file ends before group 'memory'", "regionsCount is missing"],
        ),
        (
            changed("memory", _u32("regionsCount", (), 2)),
            REGIONS,
            ["regionsCount is there twice, with different values"],
        ),
        (changed("memory", tag("regionPPN", (0,), bytes(3))), None, ["regionPPN[0] has 3 bytes"]),
        (without("regionsCount", "memory"), REGIONS, ["regionsCount is missing"]),
        (without("regionPPN", "memory"), None, ["regionPPN[0] is missing"]),
        (
            vmware.file([("memory", _u32("regionsCount", (), 5000))]),
            None,
            ["regionsCount is 5000, but there are 0 regions"],
        ),
        (
            vmware.file(vmware.machine(regions=((0, 0x8000), (1 << 32, 0)))),
            REGIONS,
            ["region 1 of memory is empty"],
        ),
        (
            vmware.file(vmware.machine(regions=((0, 0x2000), (0x1000, 0x1000)))),
            None,
            ["regions of memory overlap at 0x1000"],
        ),
        (
            vmware.file(vmware.machine(regions=((0, 0x3000),), memory=bytes(0x2000))),
            (MemoryRange(0, 0x2000, 0),),
            ["Memory has 0x2000 bytes, but regions of 0x3000"],
        ),
        (
            changed("memory", block("Memory", (), bytes(0x1000), compressed=True)),
            REGIONS,
            ["the guest's memory in it is compressed, which cannot be read"],
        ),
        (
            changed(
                "memory", block("Memory", (), bytes(0x8000)), vmware.machine(memory=bytes(0x8000))
            ),
            REGIONS,
            ["there are two blocks of memory, of which the first is used"],
        ),
    ],
)
def test_odd_memory(
    data: bytes, regions: Optional[tuple[MemoryRange, ...]], oddities: list[str]
) -> None:
    """What is odd is said, and what is not to be understood is left to the guest's own memory."""
    state = parse(data)
    found = [each for each in state.oddities if "cpu" not in each or "groups" in each]
    assert state.regions == regions and state.has_memory
    assert state.doubtful or regions == REGIONS or "Memory has" not in oddities[0]
    assert len(found) == len(oddities)
    for oddity, start in zip(found, oddities):
        assert oddity.startswith(start)


def test_memory_that_two_regions_share() -> None:
    """No two guest-physical pages can be the same bytes of the file."""
    tags = b"".join(
        _u32(name, (number,), value)
        for number, values in enumerate([(0, 0, 4), (16, 3, 4)])
        for name, value in zip(("regionPPN", "regionPageNum", "regionSize"), values)
    )
    state = parse(vmware.file([("memory", _u32("regionsCount", (), 2) + tags)]))
    assert state.regions is None and state.doubtful
    assert state.oddities == ("regions of memory have the same bytes at 0x3000",)


CONTROL = ("cr0", "cr2", "cr3", "cr4")


@pytest.mark.parametrize(
    ("data", "missing", "oddities"),
    [
        (without("rip"), {0: ("rip",)}, ["rip of vCPU 0 is missing"]),
        (without("r12", number=1), {1: ("r12",)}, ["r12 of vCPU 1 is missing"]),
        (without("CR64"), {0: CONTROL}, ["CR64 of vCPU 0 is missing"]),
        (without("IDTR"), {0: ("idt_base",)}, ["IDTR of vCPU 0 is missing"]),
        (without("S.base64"), {0: ("fs_base", "gs_base")}, ["S.base64 of vCPU 0 is missing"]),
        (without("eflags"), {0: ("rflags",)}, ["eflags[0] is missing"]),
        (
            changed("cpu", tag("rip", (0,), bytes(3))),
            {0: ("rip",)},
            ["rip[0] has 3 bytes"],
        ),
        (
            changed("cpu", tag("rip", (1,), bytes(8))),
            {1: ("rip",)},
            ["rip[1] is there twice, with different values"],
        ),
        (
            changed("cpu", block("IDTR", (0,), bytes(9))),
            {0: ("idt_base",)},
            ["IDTR[0] has 9 bytes instead of 10"],
        ),
        (
            changed("cpu", block("CR64", (0,), bytes(72), compressed=True)),
            {0: CONTROL},
            ["CR64[0] is compressed"],
        ),
        (
            changed("cpu", tag("rip", (5,), bytes(8))),
            {},
            ["cpu:numVCPUs is 2, but there are registers of 3"],
        ),
        (without("cpu:numVCPUs"), {}, ["cpu:numVCPUs is missing"]),
        (
            changed("cpu", _u32("cpu:numVCPUs", (), 3)),
            {},
            ["cpu:numVCPUs is there twice, with different values"],
        ),
        (
            vmware.file(
                [
                    (
                        name,
                        body.replace(
                            _u32("cpu:numVCPUs", (), 2), _u32("cpu:numVCPUs", (), 100_000)
                        ),
                    )
                    for name, body in vmware.machine()
                ]
            ),
            {},
            ["cpu:numVCPUs is 100000, but there are registers of 2"],
        ),
        (
            vmware.file(
                [
                    (
                        name,
                        body.replace(_u32("cpu:numVCPUs", (), 2), _u32("cpu:numVCPUs", (), 1)),
                    )
                    for name, body in vmware.machine()
                ]
            ),
            {},
            ["cpu:numVCPUs is 1, but there are registers of 2"],
        ),
    ],
)
def test_odd_registers(
    data: bytes, missing: dict[int, tuple[str, ...]], oddities: list[str]
) -> None:
    """What is odd costs the registers in it, and is said by its name in the file."""
    state = parse(data)
    assert state.oddities == tuple(oddities)
    assert [vcpu.number for vcpu in state.vcpus] == [0, 1]
    for vcpu in state.vcpus:
        assert vcpu.lacks(*REGISTERS) == missing.get(vcpu.number, ())


#: All names that are read.
NAMES = frozenset(name for names in vmware_state._GROUPS.values() for name in names)
#: The most registers that one tag has.
_MOST = {"gpregs": 16}


@pytest.mark.parametrize("blocks", [True, False])
@pytest.mark.parametrize("inside", [True, False])
def test_each_tag_is_odd(blocks: bool, inside: bool) -> None:
    """Each tag left out, doubled or resized costs what it tells, and no register is ever false."""
    regions = ((0, 0x3000), (1 << 32, 0x2000))
    groups = vmware.machine(2, regions, State(blocks=blocks), bytes(0x5000) if inside else b"")
    whole = parse(vmware.file(groups))
    count = 0
    for what, group, changed_groups in vmware.odd(groups, NAMES):
        state = parse(vmware.file(changed_groups))
        count += 1
        lost = 0
        for vcpu, found in itertools.zip_longest(whole.vcpus, state.vcpus):
            assert found is not None and found.number == vcpu.number, what
            lost += len(found.lacks(*REGISTERS))
            assert all(vcpu.get(name) == value for name, value in found.registers.items()), what
        name = what.partition(":")[0].partition("[")[0]
        assert lost <= (0 if group == "memory" else _MOST.get(name, 4)), what
        # What is there twice with one value, or read all the same, is not odd.
        assert state.oddities or (not lost and state.regions == whole.regions) or name == "Memory"
        assert state.regions in (None, whole.regions) or state.doubtful, what
        if name != "Memory":
            assert (state.memory_offset is None) == (whole.memory_offset is None), what
    assert count > 500


def test_number_of_a_vcpu_that_none_can_have() -> None:
    """An index of billions takes no memory."""
    state = parse(changed("cpu", tag("rip", (0xFFFF_FFFF,), bytes(8))))
    assert len(state.vcpus) == 2 and not state.oddities


def test_cut_off_in_memory() -> None:
    """Of memory inside the file that is cut off the size is known that it should have."""
    data = vmware.file(vmware.machine(memory=bytes(0x8000)))
    state = parse(data[:-0x4000])
    assert state.memory_size == 0x8000 and len(state.vcpus) == 2


def test_cut_off_anywhere() -> None:
    """Each shorter file is refused, or has fewer registers, and none that the whole one has not."""
    data = vmware.file(vmware.machine(1, memory=bytes(0x8000)))
    whole = parse(data)
    offset = whole.memory_offset
    assert offset is not None
    for length in range(0, offset, 7):
        with contextlib.suppress(SourceError):
            state = parse(data[:length])
            assert state.oddities or state.memory_offset is not None
            for vcpu in state.vcpus:
                assert vcpu.registers.items() <= whole.vcpus[0].registers.items()


def test_group_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tags without end are not followed for ever, whatever the size of the file."""
    monkeypatch.setattr(vmware_state, "_MAXIMUM_TAGS", 1000)
    state = parse(vmware.file([("cpu", tag("x", (), b"") * 1001)]))
    assert state.oddities[0] == "group 'cpu' has more than 1000 tags"


def test_groups_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many groups of one name have no more tags, nor places to read on at, than one may have."""
    monkeypatch.setattr(vmware_state, "_MAXIMUM_TAGS", 1000)
    monkeypatch.setattr(vmware_state, "_MAXIMUM_RESUMPTIONS", 4)
    read, resumed = vmware_state._tag_at, vmware_state._resumption
    calls = {"tags": 0, "resumptions": 0}

    def tag_at(*arguments: Any) -> Any:
        calls["tags"] += 1
        return read(*arguments)

    def resumption(*arguments: Any) -> Any:
        calls["resumptions"] += 1
        return resumed(*arguments)

    monkeypatch.setattr(vmware_state, "_tag_at", tag_at)
    monkeypatch.setattr(vmware_state, "_resumption", resumption)
    parse(vmware.file([("cpu", tag("x", (), b"") * 900)] * 50))
    assert calls["tags"] <= 1000
    parse(vmware.file([("cpu", b"\xff" * 9 + tag("rip", (0,), bytes(8)))] * 50))
    assert calls["resumptions"] <= 8


def test_oddities_without_end() -> None:
    """A file of nothing but what is odd takes no time, and not all of it is said."""
    odd = b"".join(tag("rip", (number,), b"abc") + b"\xff" * 9 for number in range(3000))
    state = parse(vmware.file([("cpu", odd)]))
    assert len(state.oddities) <= 64 and not state.vcpus


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
    ranges = found.regions or ()
    for low, high in zip(ranges, ranges[1:]):
        assert low.end <= high.start
    assert all(run.size > 0 for run in ranges)
    for vcpu in (*found.vcpus, *found.vcpus_by_number):
        assert vcpu.registers and set(vcpu.registers) <= set(REGISTERS)
        assert all(0 <= value < 1 << 64 for value in vcpu.registers.values())
