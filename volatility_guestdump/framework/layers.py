# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Layers: a memory file, a machine's guest-physical memory, and that of debug.guest + debug.vmem.

Those of the other formats stand beside their stackers: `vmware_state`, `qemu_elf`, `images`.
"""

import contextlib
import functools
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Callable, Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical, segmented

from volatility_guestdump.exceptions import (
    AddressError,
    MemoryFileError,
    SourceError,
    UnrecognizedSource,
)
from volatility_guestdump.files.location import (
    STREAM_ERRORS,
    display_name,
    file_state,
    memory_locations,
    open_location,
)
from volatility_guestdump.files.memory_file import (
    Content,
    MemoryFile,
    MemoryStream,
    open_memory_file,
)
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework.structures import StructuresTable
from volatility_guestdump.kept import Kept
from volatility_guestdump.machine import Machine, Origin, read_padded
from volatility_guestdump.sources.debug_guest import GuestFile


class GuestDumpFormatException(exceptions.LayerException):
    """Thrown when the debug.guest file behind a layer is not valid."""


def open_guest_file(location: str) -> GuestFile:
    """Reads and validates a debug.guest file; one that did not change since is not read again.

    Args:
        location: URL of the file.

    Raises:
        UnrecognizedSource: nothing in the file looks like a guest dump.
        SourceError: the file is damaged, not supported or cannot be read.
    """
    return _guests.get((location, file_state(location)), lambda: _read_guest_file(location))


def _read_guest_file(location: str) -> GuestFile:
    name = display_name(location)
    try:
        with open_location(location) as stream:
            return GuestFile.parse(stream, name)
    except STREAM_ERRORS as error:
        raise SourceError(f"{name}: {error}") from error


#: Two of each, for whoever compares two guests.
_guests: Kept[GuestFile] = Kept(2)
_machines: Kept[Machine] = Kept(2)


def open_machine(guest_location: str, memory_location: Optional[str]) -> Machine:
    """Returns the machine of a debug.guest file and its memory file.

    Args:
        guest_location: URL of debug.guest.
        memory_location: URL of its memory file, or None when there is none.

    Raises:
        SourceError: debug.guest is not valid.
        MemoryFileError: the memory file cannot be opened.
    """

    def make(identity: Hashable) -> Machine:
        guest = open_guest_file(guest_location)
        file = (
            None
            if memory_location is None
            else open_memory_file(memory_location, guest.memory_size)
        )
        origin = Origin(
            guest.format,
            guest_location,
            guest.ranges,
            memory_location,
            file.size if file else 0,
            memory_locations(guest_location),
        )
        return Machine(PhysicalMemory(guest.ranges, file), guest.vcpus, identity, origin)

    return kept_machine([guest_location, memory_location], make)


def kept_machine(
    locations: Iterable[Optional[str]], make: Callable[[Hashable], Machine], reading: str = ""
) -> Machine:
    """Returns the machine that some files make, made now or before.

    Args:
        locations: URLs of the files; None stands for one that there is not.
        make: makes the machine, given its identity.
        reading: tells it from other machines that the same files can be read as.
    """
    files = tuple((location, file_state(location)) for location in locations if location)
    identity = (reading, files)
    return _machines.get(identity, lambda: make(identity))


@contextlib.contextmanager
def opened_source(location: str, magics: Iterable[bytes], what: str) -> Iterator[MemoryFile]:
    """Opens a file that begins with one of some magics, and turns errors in reading it to its own.

    Args:
        location: URL of the file, which may be compressed.
        magics: of the format.
        what: of which format a file is not that begins with none of them.

    Raises:
        UnrecognizedSource: the file begins with none of them.
        SourceError: it cannot be read.
    """
    name = display_name(location)
    magics = tuple(magics)
    try:
        # Before a compressed file is indexed, which takes long, for it may be any.
        with open_location(location) as stream:
            start = stream.read(max(map(len, magics)))
        if not start.startswith(magics):
            raise UnrecognizedSource(f"{name} is {what}: it begins with {start.hex() or 'nothing'}")
        yield open_memory_file(location)
    except MemoryFileError as error:
        raise SourceError(str(error)) from error
    except (*STREAM_ERRORS, AddressError) as error:
        raise SourceError(f"{name}: {error}") from error


class MemoryFileLayer(physical.FileLayer):
    """The memory file of a guest dump, with random access to compressed files too.

    Raises:
        MemoryFileError: the file cannot be opened or decompressed.
    """

    @property
    def memory_file(self) -> Content:
        """The file, for those who need no layer."""
        size = self.config.get("memory_size", None)
        return open_memory_file(str(self.config["location"]), None if size is None else int(size))

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the file's URL, and the size of the memory that the guest has."""
        return [
            *super().get_requirements(),
            requirements.IntRequirement(
                name="memory_size",
                description="Bytes of memory that the guest has, which tell whether the file is "
                "compressed",
                optional=True,
            ),
        ]

    @property
    def _file(self) -> Any:
        # Every access to the file goes through this property.
        stream: Any = self._file_ or MemoryStream(self.memory_file)
        self._file_ = stream
        return stream

    def read(self, offset: int, length: int, pad: bool = False) -> bytes:
        """Reads the file; where the medium fails, `pad` puts zeros for the pages that it lacks."""
        try:
            return bytes(super().read(offset, length, pad))
        except AddressError as error:
            if pad:
                return read_padded(super().read, offset, length)[0]
            raise exceptions.InvalidAddressException(
                self.name, error.address, str(error)
            ) from error


class MachineLayer(segmented.SegmentedLayer):
    """The guest-physical memory of a machine, whatever files it comes from.

    Subclasses say how the machine is made of the layers that they need.

    Attributes:
        format_exception: thrown when a file that describes the machine is not valid.
    """

    provides = {"type": "physical"}
    format_exception: type[exceptions.LayerException] = exceptions.LayerException

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        metadata: Optional[dict[str, Any]] = None,
    ) -> None:
        try:
            # Makes the machine.
            super().__init__(context, config_path, name, metadata)
        except SourceError as error:
            raise self.format_exception(name, str(error)) from error

    def _make_machine(self) -> Machine:
        """Returns the machine, made now or before.

        Raises:
            SourceError: a file that describes it is not valid.
            MemoryFileError: the memory file cannot be opened.
        """
        raise NotImplementedError

    @functools.cached_property
    def machine(self) -> Machine:
        """The machine, for those who need no layer."""
        return self._make_machine()

    def describe_system(self, metadata: dict[str, Any]) -> None:
        """Adds to the layer's metadata what is known of the system that the guest runs."""
        self._metadata = {**self._metadata, **metadata}

    def _load_segments(self) -> None:
        self._segments = [
            (run.start, run.file_offset, run.size, run.size) for run in self.machine.memory.ranges
        ]

    @property
    def minimum_address(self) -> int:
        """The first address of memory, whether the memory file covers it or not."""
        ranges = self.machine.origin.ranges
        return ranges[0].start if ranges else 0

    @property
    def maximum_address(self) -> int:
        """The last address of memory, whether the memory file covers it or not."""
        ranges = self.machine.origin.ranges
        return ranges[-1].end - 1 if ranges else 0

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Returns whether all of a piece of memory can be read."""
        return self.machine.memory.covers(offset, length)

    def read(  # type: ignore[override] # Volatility's is behind an lru_cache
        self, offset: int, length: int, pad: bool = False
    ) -> bytes:
        """Reads guest-physical memory; see `DataLayerInterface.read`."""
        try:
            return self.machine.memory.read(offset, length)
        except AddressError as error:
            if pad:
                # The layer below puts zeros for no more than the pages that are lacking.
                return bytes(super().read(offset, length, pad))
            raise exceptions.InvalidAddressException(
                self.name, error.address, str(error)
            ) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the open file out; it is opened again when it is needed."""
        return {name: value for name, value in self.__dict__.items() if name != "machine"}


class FileMachineLayer(MachineLayer):
    """A machine that one file makes, which the base layer is of.

    Attributes:
        file_layer: class of the base layer.
    """

    file_layer: type[MemoryFileLayer] = MemoryFileLayer

    @property
    def file_location(self) -> str:
        """URL of the file."""
        return str(self.context.layers[str(self._base_layer)].config["location"])

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the layer of the file."""
        return [requirements.TranslationLayerRequirement(name="base_layer", optional=False)]


class DescribedMemoryLayer(MachineLayer):
    """A machine of two files: the meta layer describes it, the base layer holds its memory.

    When there is no memory file, or the describing file holds the memory too, both are the same
    layer.
    """

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        metadata: Optional[dict[str, Any]] = None,
    ) -> None:
        # Construct these so we can use self.config
        self._context = context
        self._config_path = config_path
        self._meta_layer = str(self.config["meta_layer"])
        self._base_layer: str = str(self.config["base_layer"])
        super().__init__(context, config_path, name, metadata)

    @property
    def describing_location(self) -> str:
        """URL of the file that describes the machine."""
        return str(self.context.layers[self._meta_layer].config["location"])

    @property
    def memory_location(self) -> Optional[str]:
        """URL of the memory file, or None when there is no other file."""
        location = str(self.context.layers[str(self._base_layer)].config["location"])
        return None if location == self.describing_location else location

    @property
    def dependencies(self) -> list[str]:
        """The layers of the memory file and of the describing file."""
        return list(dict.fromkeys([str(self._base_layer), self._meta_layer]))

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the two layers that this one needs."""
        return [
            requirements.TranslationLayerRequirement(name="base_layer", optional=False),
            requirements.TranslationLayerRequirement(name="meta_layer", optional=False),
        ]


class GuestDumpLayer(DescribedMemoryLayer):
    """The guest-physical memory of a debug.guest + debug.vmem pair.

    When there is no memory file no segment refers to the base layer: the vCPUs can be looked at,
    and every address is invalid.
    """

    format_exception = GuestDumpFormatException

    def __init__(
        self,
        context: interfaces.context.ContextInterface,
        config_path: str,
        name: str,
        metadata: Optional[dict[str, Any]] = None,
    ) -> None:
        super().__init__(context, config_path, name, metadata)
        context.symbol_space.append(
            StructuresTable(
                context,
                interfaces.configuration.path_join(config_path, "structures"),
                context.symbol_space.free_table_name("guestdump"),
                open_guest_file(self.describing_location).version,
            )
        )

    def _make_machine(self) -> Machine:
        return open_machine(self.describing_location, self.memory_location)
