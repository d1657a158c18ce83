# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Machines of layers that Volatility stacked."""

import struct

from volatility3.framework import contexts
from volatility3.framework.layers import lime, physical

from volatility_guestdump.framework.machines import machine_below
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
