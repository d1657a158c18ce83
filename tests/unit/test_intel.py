# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The short path of our Intel layers: it gives what Volatility's own layers give."""

import copy
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from volatility3.framework import contexts, exceptions
from volatility3.framework.layers import intel, physical

from tests.unit.test_paging import FIVE, FOUR, LEGACY, PAE, PAGE, Memory
from volatility_guestdump.framework.intel import (
    GuestDumpIntel,
    GuestDumpIntel32e,
    GuestDumpIntelLA57,
    GuestDumpIntelPAE,
)
from volatility_guestdump.x86.paging import PagingMode

#: Pages at these places lie beside each other here, elsewhere there, or nowhere.
VIRTUAL, PAGES = 0x40000000, 6


def layers(mode: PagingMode) -> tuple[intel.Intel, intel.Intel]:
    """Returns our layer and Volatility's on the same tables."""
    memory = Memory(mode, pages=48)
    places = [40, 41, 38, None, 47, 60]
    for number, place in enumerate(places):
        if place is not None:
            memory.map(VIRTUAL + number * PAGE, place * PAGE)
            start = place * PAGE
            if start < len(memory.data):
                memory.data[start : start + PAGE] = bytes(
                    (number * 37 + index // 16) & 0xFF for index in range(PAGE)
                )
    # The last page is cut off, and one is outside of memory.
    return both(memory, 47 * PAGE + 100)


def both(memory: Memory, size: int) -> tuple[intel.Intel, intel.Intel]:
    """Returns our layer and Volatility's on a memory of some size."""
    context = contexts.Context()
    content = bytes(memory.data[:size])
    context.layers.add_layer(physical.BufferDataLayer(context, "raw", "raw", content))
    made = []
    ours, theirs = {
        FOUR: (GuestDumpIntel32e, intel.LinuxIntel32e),
        PAE: (GuestDumpIntelPAE, intel.LinuxIntelPAE),
        LEGACY: (GuestDumpIntel, intel.LinuxIntel),
    }[memory.mode]
    for layer_class in (ours, theirs):
        name = layer_class.__name__
        context.config[f"{name}.memory_layer"] = "raw"
        context.config[f"{name}.page_map_offset"] = memory.root
        layer = layer_class(context, name, name)
        context.layers.add_layer(layer)
        made.append(layer)
    return made[0], made[1]


LAYERS = {mode: layers(mode) for mode in (FOUR, PAE)}


def outcome(layer: intel.Intel, offset: int, length: int, pad: bool) -> object:
    """Returns what a read gives, or the address that it fails at."""
    try:
        return layer.read(offset, length, pad)
    except exceptions.InvalidAddressException as error:
        return type(error), error.invalid_address


@pytest.mark.parametrize("mode", LAYERS)
@given(
    offset=st.integers(-PAGE, (PAGES + 1) * PAGE) | st.sampled_from([-VIRTUAL, 1 << 48, 1 << 63]),
    length=st.integers(-PAGE, 3 * PAGE),
    pad=st.booleans(),
)
@settings(max_examples=300, deadline=None)
def test_reads_are_those_of_volatility(
    mode: PagingMode, offset: int, length: int, pad: bool
) -> None:
    """Bytes, padding and failures are the same, in one page and over several."""
    ours, theirs = LAYERS[mode]
    place = VIRTUAL + offset
    expected = outcome(theirs, place, length, pad)
    for _ in range(2):
        assert outcome(ours, place, length, pad) == expected
        assert ours.is_valid(place, length) == theirs.is_valid(place, length)
        found, stock = (list(each.mapping(place, length, True)) for each in (ours, theirs))
        assert found == stock


@pytest.mark.parametrize("mode", [FOUR, PAE, LEGACY])
def test_large_pages(mode: PagingMode) -> None:
    """They are read as Volatility reads them, the last one up to where memory ends."""
    large = 22 if mode is LEGACY else 21
    memory = Memory(mode, pages=(12 << 20) // PAGE)
    for page in range(0x100, len(memory.data) // PAGE):
        memory.data[page * PAGE : page * PAGE + 4] = page.to_bytes(4, "little")
    for number, place in enumerate((2, 1, 2)):
        memory.map(VIRTUAL + (number << large), place << large, large)
    ours, theirs = both(memory, (2 << large) + (1 << 20) + 100)
    for address in range(VIRTUAL, VIRTUAL + (4 << large), PAGE):
        for length in (8, PAGE + 4):
            assert outcome(ours, address, length, False) == outcome(theirs, address, length, False)
            assert ours.is_valid(address, length) == theirs.is_valid(address, length)
    assert ours.read(VIRTUAL + (1 << large) + PAGE, 4) == memory.read((1 << large) + PAGE, 4)


@pytest.mark.parametrize("mode", LAYERS)
def test_copies_find_their_pages_again(mode: PagingMode) -> None:
    """A copied or pickled context has layers of its own."""
    ours, _ = LAYERS[mode]
    expected = ours.read(VIRTUAL + 8, 8)
    context = ours.context
    for copied in (copy.deepcopy(context), pickle.loads(pickle.dumps(context))):
        layer = copied.layers[ours.name]
        assert layer is not ours and layer.read(VIRTUAL + 8, 8) == expected
        assert layer.context is copied


@pytest.mark.parametrize("bits", [46, 52])
def test_pages_without_access_rights_under_5_levels(bits: int) -> None:
    """Linux inverts the frame number of PROT_NONE pages, in as many bits as its mask has."""
    memory = Memory(FIVE)
    place, protnone = 20 * PAGE, 1 << 8
    memory.data[place : place + 8] = b"PROTNONE"
    memory.map(VIRTUAL, place)
    inverted = ~place & (1 << bits) - 1 & -PAGE
    memory.put(memory.path()[-1], VIRTUAL, 12, inverted | protnone)
    context = contexts.Context()
    context.layers.add_layer(physical.BufferDataLayer(context, "raw", "raw", bytes(memory.data)))
    context.config["ours.memory_layer"] = "raw"
    context.config["ours.page_map_offset"] = memory.root
    layer = GuestDumpIntelLA57(context, "ours", "ours")
    context.layers.add_layer(layer)
    assert layer.read(VIRTUAL, 8) == b"PROTNONE"


def test_a_page_of_a_block_that_another_thread_forgets() -> None:
    """What is remembered may be forgotten at any time; the page is then looked for again."""
    memory = Memory(FOUR, pages=(6 << 20) // PAGE)
    memory.data[(2 << 20) + PAGE : (2 << 20) + PAGE + 4] = b"page"
    memory.map(VIRTUAL, 2 << 20, 21)
    ours, _ = both(memory, len(memory.data))

    class Forgets(dict[int, int]):
        """Blocks that are gone as soon as somebody has seen that they are there."""

        def __contains__(self, key: object) -> bool:
            there = super().__contains__(key)
            self.clear()
            return there

        def get(self, key: int, default: object = None) -> object:  # type: ignore[override]
            found = super().get(key, default)
            self.clear()
            return found

    ours.read(VIRTUAL, 8)
    assert isinstance(ours, GuestDumpIntel32e) and ours._blocks
    ours._blocks = Forgets(ours._blocks)
    assert ours.read(VIRTUAL + PAGE, 4) == b"page"
