# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What stackers share: their order, where their warnings go, and how they add layers."""

import contextlib
import enum
import logging
from collections.abc import Sequence
from typing import Any, Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.layers import physical

from volatility_guestdump.dumps.format import Parts, Request, Said
from volatility_guestdump.exceptions import MemoryFileError
from volatility_guestdump.files.location import location_of
from volatility_guestdump.files.memory_file import MemoryStream
from volatility_guestdump.framework import reasons
from volatility_guestdump.framework.layers import SESSION, GuestDumpLayer, MemoryFileLayer

vollog = logging.getLogger(__name__)

join = interfaces.configuration.path_join

#: Where the automagic keeps what the user gave with --guest-memory.
MEMORY_OPTION = "automagic.GuestDumpStackers.guest_memory"


class Order(enum.IntEnum):
    """The order in which stackers are asked: Volatility's `stack_order`.

    Volatility's own have 10 and 11 (formats of memory images), 20 (VmwareStacker), 34 and 35
    (Linux, Mac) and 40 (Windows). Those of formats ask for the size of a file, for which all of a
    compressed one is decompressed, so ours come first. Those of systems scan all of memory.
    """

    #: What describes a machine with its registers.
    DESCRIBED = 3
    #: Says what no stacker before it can read.
    UNSUPPORTED = 6
    #: Without registers: only what is in none of the formats with registers.
    MEMORY = 7
    #: A .vmem alone, of which VmwareStacker warns.
    LONE_VMEM = 8
    #: Behind our own formats, which open such files by themselves.
    COMPRESSED = 9
    #: Any file: behind the stackers of all formats.
    RAW = 25
    #: From registers and low memory, which takes no scan.
    WINDOWS = 31
    LINUX = 32
    #: Says what runs in the guest when the plugin is one for another system.
    OTHER_SYSTEM = 33
    #: Our own scans: with an ISF Volatility's stackers for Linux may do without.
    RAW_SEARCH = 36
    LINUX_SEARCH = 37


class LoggedSaid(Said):
    """Warnings that go to Volatility's log as they come up."""

    @property
    def messages(self) -> Sequence[str]:
        """What was said since this run of a plugin began, by whichever stacker."""
        return reasons.said()

    def warn(self, message: str) -> None:
        """Logs a warning."""
        vollog.warning(message)


def request_for(
    context: interfaces.context.ContextInterface,
    location: str,
    progress: constants.ProgressCallback = None,
) -> Request:
    """Returns what Volatility wants opened.

    Args:
        context: whose configuration may name a memory file.
        location: URL of the file that the user named.
        progress: called while something takes long.
    """
    option = context.config.get(MEMORY_OPTION, None)
    memory = location_of(str(option)) if option else None
    return Request(location, SESSION, memory, LoggedSaid(), progress, others_follow=True)


def read_through_memory_file(
    layer: physical.FileLayer,
    location: str,
    size: Optional[int] = None,
    progress: constants.ProgressCallback = None,
) -> None:
    """Lets a file's first layer read through the memory file that is open.

    Volatility asks this layer for its size, in a message that it may not even log; for that it
    would decompress all of a compressed file. Where it sends layers to other processes the file is
    dropped, but not the size.

    Args:
        layer: of the file.
        location: URL of the memory file.
        size: bytes of memory that the guest has, or None when that is not known.
        progress: called while a compressed file is indexed.
    """
    file = SESSION.file(location, size, progress)
    stream: Any = MemoryStream(file)
    layer._file_ = stream
    layer._maximum_address = file.size - 1


def layer_of(
    context: interfaces.context.ContextInterface, parts: Parts, path: str = "GuestDumpHelper"
) -> GuestDumpLayer:
    """Returns the layer of a machine, on new layers of its files.

    Args:
        context: to add the files' layers to.
        parts: what the machine is made of.
        path: where its configuration goes.
    """
    name = context.layers.free_layer_name(GuestDumpLayer.__name__)
    path = join(path, name)
    base = _layer_of_file(context, join(path, "base_layer"), parts, parts.memory or parts.location)
    meta = base
    if parts.location != (parts.memory or parts.location):
        meta = _layer_of_file(context, join(path, "meta_layer"), parts, parts.location)
    context.config[join(path, "base_layer")] = base
    context.config[join(path, "meta_layer")] = meta
    context.config[join(path, "format")] = parts.format
    if parts.memory is None:
        context.config[join(path, "has_memory")] = False
    if parts.reading:
        context.config[join(path, "reading")] = parts.reading
    return GuestDumpLayer(context, path, name)


def _layer_of_file(
    context: interfaces.context.ContextInterface, path: str, parts: Parts, location: str
) -> str:
    """Adds the layer of a file that a machine is made of, and returns its name."""
    name: str = context.layers.free_layer_name("FileLayer")
    context.config[join(path, "location")] = location
    kind: type[physical.FileLayer] = physical.FileLayer
    if location == parts.memory:
        kind = MemoryFileLayer
        context.config[join(path, "format")] = parts.format
        if parts.memory_size is not None:
            context.config[join(path, "memory_size")] = parts.memory_size
    context.layers.add_layer(kind(context, path, name))
    return name


def read_through_file_of(
    layer: physical.FileLayer, parts: Parts, progress: constants.ProgressCallback
) -> None:
    """Does `read_through_memory_file` for the file that the user named, where that can be done."""
    size = parts.memory_size if layer.location == parts.memory else None
    with contextlib.suppress(MemoryFileError):
        read_through_memory_file(layer, layer.location, size, progress)
