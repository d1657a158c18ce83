# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Machines of layers that Volatility stacked."""

import copy
import gc
import pickle
import struct
import weakref
from typing import Any, Callable

import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import lime, physical

from volatility_guestdump.framework.machines import machine_below, machine_of
from volatility_guestdump.machine import Machine


def lime_in_memory(content: bytes) -> Machine:
    """Returns the machine of a LiME image that a program has in its own memory."""
    context = contexts.Context()
    image = struct.pack("<4sIQQQ", b"EMiL", 1, 0, len(content) - 1, 0) + content
    context.layers.add_layer(physical.BufferDataLayer(context, "raw", "raw", image))
    context.config["lime.base_layer"] = "raw"
    context.layers.add_layer(lime.LimeLayer(context, "lime", "lime"))
    machine = machine_below(context, "lime")
    assert machine is not None
    return machine


def test_two_images_that_are_in_no_file() -> None:
    """Each is a machine of its own, whose kernel is not that of the other."""
    first, second = lime_in_memory(b"a" * 4096), lime_in_memory(b"b" * 4096)
    assert first.memory.read(0, 1) == b"a" and second.memory.read(0, 1) == b"b"
    assert first.identity != second.identity


def test_what_nobody_uses_is_freed() -> None:
    """A machine of Volatility's own layer reads the layer, and goes with it."""
    machine = lime_in_memory(b"a" * 4096)
    layer = weakref.ref(machine.memory._layer)  # type: ignore[attr-defined]
    gone = weakref.ref(machine)
    gc.collect()
    found: Any = layer()
    assert found is not None and machine_of(found) is machine
    del found
    del machine
    gc.collect()
    assert layer() is None and gone() is None


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copied_layer_has_a_machine_of_its_own(again: Callable[[Any], Any]) -> None:
    """Else it would read the layer that it was copied from."""
    machine = lime_in_memory(b"a" * 4096)
    context = machine.memory._layer.context  # type: ignore[attr-defined]
    copied = again(context)
    layer = copied.layers["lime"]
    assert machine_of(layer) is not machine and machine_of(layer) is machine_of(layer)
    layer = copy.copy(layer)
    found: Any = machine_of(layer)
    assert found.memory._layer is layer
