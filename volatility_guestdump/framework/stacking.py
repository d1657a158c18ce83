# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What stackers share: their order, finding the memory file, and what is said of it."""

import enum
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, Optional

from volatility3.framework import constants, interfaces
from volatility3.framework.layers import physical

from volatility_guestdump.exceptions import MemoryFileError, MissingMemoryFile
from volatility_guestdump.files.companions import SNAPSHOT_SUFFIX, SUSPEND_SUFFIX
from volatility_guestdump.files.location import (
    MEMORY_SUFFIX,
    display_name,
    is_readable,
    location_of,
    packed_locations,
    why_unreadable,
    without_gzip,
)
from volatility_guestdump.files.memory_file import MemoryStream, open_memory_file
from volatility_guestdump.framework.layers import FileMachineLayer, MemoryFileLayer
from volatility_guestdump.machine import Machine
from volatility_guestdump.x86.paging import PagingMode, find_paging

vollog = logging.getLogger(__name__)

join = interfaces.configuration.path_join

#: Where the automagic keeps what the user gave with --guest-memory.
MEMORY_OPTION = "automagic.GuestDumpStackers.guest_memory"

#: The most oddities of one file that are said.
_ODDITIES = 4


class Order(enum.IntEnum):
    """The order in which stackers are asked: Volatility's `stack_order`.

    Volatility's own have 10 and 11 (formats of memory images), 20 (VmwareStacker), 34 and 35
    (Linux, Mac) and 40 (Windows). Those of formats ask for the size of a file, for which all of a
    compressed one is decompressed, so ours come first. Those of systems scan all of memory.
    """

    #: Before `GUEST_DUMP`: where a .vmem has both descriptions it is a snapshot's memory.
    VMWARE_STATE = 3
    GUEST_DUMP = 4
    QEMU_ELF = 5
    #: Says what no stacker before it can read.
    UNSUPPORTED = 6
    #: Without registers: only what is in none of the formats with registers.
    IMAGE = 7
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


def memory_candidates(
    context: interfaces.context.ContextInterface, beside: Sequence[str]
) -> list[str]:
    """Returns the URLs to look at for a memory file: what the user named, or those beside."""
    option = context.config.get(MEMORY_OPTION, None)
    return [location_of(str(option))] if option else list(beside)


def is_left_to_vmware_stacker(memory_location: str) -> bool:
    """Whether a .vmem has a state file that Volatility's VmwareStacker looks for and can open.

    What can be read of such files `vmware_state` has taken before.
    """
    stem = without_gzip(memory_location)[: -len(MEMORY_SUFFIX)]
    return is_readable(stem + SUSPEND_SUFFIX) or is_readable(stem + SNAPSHOT_SUFFIX)


def find_memory(
    source: str,
    candidates: Sequence[str],
    size: Optional[int],
    progress: constants.ProgressCallback,
) -> Optional[str]:
    """Returns the first of some URLs at which there is a memory file that can be read.

    Args:
        source: URL of the file that describes the machine.
        candidates: the URLs.
        size: bytes of memory that the guest has, or None when that is not known.
        progress: called while a compressed file is indexed.
    """
    missing = []
    name = display_name(source)
    for candidate in [*candidates, *packed_locations(candidates)]:
        if candidate == source:
            vollog.warning(
                f"{name} is not its own memory; where that lies is given by: "
                f"vol --guest-memory FILE -f {name} PLUGIN"
            )
            return None
        try:
            open_memory_file(candidate, size, progress)
            return candidate
        except MissingMemoryFile:
            missing.append(display_name(candidate))
        except MemoryFileError as error:
            vollog.warning(f"The guest's memory cannot be read, only its registers: {error}")
            return None
    vollog.warning(
        f"{' or '.join(dict.fromkeys(missing))}: no such file. Only registers can be shown. "
        f"The memory of {name} is expected beside it; if it lies elsewhere: "
        f"vol --guest-memory FILE -f {name} PLUGIN"
    )
    return None


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
    file = open_memory_file(location, size, progress)
    stream: Any = MemoryStream(file)
    layer._file_ = stream
    layer._maximum_address = file.size - 1


class FileOfLayer(NamedTuple):
    """A file that a layer needs.

    Attributes:
        requirement: name of the layer's requirement.
        layer_class: of the file's own layer.
        location: URL of the file.
        memory_size: bytes of memory that the guest has, or None when that is not known.
    """

    requirement: str
    layer_class: type[physical.FileLayer]
    location: str
    memory_size: Optional[int] = None


def add_file_layers(
    context: interfaces.context.ContextInterface, kind: str, files: Sequence[FileOfLayer]
) -> tuple[str, str]:
    """Adds the layers of the files that a layer needs.

    Args:
        context: to add them to.
        kind: class name of the layer that needs them.
        files: of one URL there is one layer, of the class that comes first.

    Returns:
        Configuration path and name for the layer that needs them.
    """
    new_name: str = context.layers.free_layer_name(kind)
    path = join("GuestDumpHelper", new_name)
    added: dict[str, str] = {}
    for requirement, layer_class, location, memory_size in files:
        if location not in added:
            name: str = context.layers.free_layer_name("FileLayer")
            context.config[join(path, requirement, "location")] = location
            if memory_size is not None:
                context.config[join(path, requirement, "memory_size")] = memory_size
            context.layers.add_layer(layer_class(context, join(path, requirement), name))
            added[location] = name
        context.config[join(path, requirement)] = added[location]
    return path, new_name


def layer_of_file(
    context: interfaces.context.ContextInterface,
    layer_class: type[FileMachineLayer],
    location: str,
    **settings: int,
) -> FileMachineLayer:
    """Returns the layer of a machine that one file makes, on a new layer of that file.

    Args:
        context: to add the file's layer to.
        layer_class: of the machine's layer.
        location: URL of the file.
        settings: of the machine's layer; what is 0 is left out.
    """
    base = FileOfLayer("base_layer", layer_class.file_layer, location)
    path, name = add_file_layers(context, layer_class.__name__, [base])
    for setting, value in settings.items():
        if value:
            context.config[join(path, setting)] = value
    return layer_class(context, path, name)


def described_by(
    context: interfaces.context.ContextInterface,
    kind: str,
    source: str,
    memory: Optional[str],
    size: Optional[int],
) -> tuple[str, str]:
    """Adds the layers that a `DescribedMemoryLayer` needs.

    Args:
        context: to add them to.
        kind: class name of the layer.
        source: URL of the file that describes the machine.
        memory: URL of the file that holds its memory, which may be the same; None when there is
            none.
        size: bytes of memory that the guest has, or None when that is not known.

    Returns:
        Configuration path and name for the layer.
    """
    return add_file_layers(
        context,
        kind,
        [
            FileOfLayer(
                "meta_layer", MemoryFileLayer if memory == source else physical.FileLayer, source
            ),
            FileOfLayer("base_layer", MemoryFileLayer, memory or source, size),
        ],
    )


def report(machine: Machine, oddities: Sequence[str] = ()) -> None:
    """Warns of what is odd or missing, and of memory that does not fit the registers.

    Args:
        machine: that is looked at.
        oddities: what of the file that describes it is not as it should be.
    """
    if oddities:
        shown = "; ".join(oddities[:_ODDITIES])
        more = f"; and {len(oddities) - _ODDITIES} more" if len(oddities) > _ODDITIES else ""
        vollog.warning(
            f"{display_name(machine.origin.location)} is not as it should be: {shown}{more}"
        )
    _report_size(machine)
    _report_match(machine)


def report_unreadable(location: str) -> None:
    """Warns of a file with registers that is there, and cannot be opened."""
    reason = why_unreadable(location)
    if reason is not None:
        vollog.warning(f"The guest's registers cannot be read, only its memory: {reason}")


def _report_size(machine: Machine) -> None:
    origin = machine.origin
    if origin.memory_location is None:
        return
    missing = ""
    if machine.first_missing_address is not None:
        missing = f"from guest-physical address {machine.first_missing_address:#x} on "
    if origin.damage:
        vollog.warning(f"{origin.damage}. Memory {missing or 'behind that '}is missing")
        return
    if not origin.missing_memory:
        return
    found = (
        f"{display_name(origin.memory_location)}: {origin.memory_file_size} bytes, but "
        f"{display_name(origin.location)} describes {origin.memory_size}: "
    )
    if origin.memory_location == origin.location:
        found = (
            f"{display_name(origin.location)} has {origin.memory_file_size} of the "
            f"{origin.memory_size} bytes of memory that it describes: "
        )
    if origin.missing_memory > 0:
        vollog.warning(f"{found}the copy is incomplete. Memory {missing}is missing")
    else:
        vollog.warning(f"{found}the surplus is ignored")


def _report_match(machine: Machine) -> None:
    """Warns when no page tables of a vCPU make sense in the memory file."""
    origin = machine.origin
    if origin.memory_location is None:
        return
    if matches(machine) is not False:
        return
    if origin.memory_location != origin.location:
        missing = "they are missing, or " if origin.missing_memory > 0 else ""
        vollog.warning(
            f"{display_name(origin.memory_location)} has the page tables of no vCPU of "
            f"{display_name(origin.location)}: {missing}it is the memory of another guest"
        )
    elif origin.missing_memory <= 0:
        vollog.warning(
            f"{display_name(origin.location)} is damaged: it has the page tables of no vCPU"
        )


def matches(machine: Machine) -> Optional[bool]:
    """Whether page tables of a vCPU make sense in memory; None where no vCPU has any."""
    paged = False
    for vcpu in machine.vcpus:
        mode, tables = find_paging(machine.memory.read, vcpu)
        if tables is not None:
            return True
        paged = paged or mode not in (None, PagingMode.OFF)
    return False if paged else None
