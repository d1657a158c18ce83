"""Layers: the memory file of a guest dump, and its guest-physical memory."""

import functools
import logging
from collections.abc import Hashable
from typing import Any, Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical, segmented
from volatility3.framework.symbols import intermed

from volatility_guestdump.exceptions import AddressError, GuestFileError, MemoryFileError
from volatility_guestdump.guestfile import PAGE_SIZE, GuestFile, layout_path
from volatility_guestdump.memory import GuestMemory
from volatility_guestdump.vmem import (
    MemoryFile,
    MemoryStream,
    display_name,
    file_state,
    open_location,
    open_memory_file,
)

vollog = logging.getLogger(__name__)


class GuestDumpFormatException(exceptions.LayerException):
    """Thrown when the debug.guest file behind a layer is not valid."""


def open_guest_file(location: str) -> GuestFile:
    """Reads and validates a debug.guest file.

    Args:
        location: URL of the file.

    Raises:
        NotAGuestFile: nothing in the file looks like a guest dump.
        GuestFileError: the file is damaged, not supported or cannot be read.
    """
    name = display_name(location)
    try:
        with open_location(location) as stream:
            return GuestFile.parse(stream, name)
    except (OSError, EOFError) as error:
        raise GuestFileError(f"{name}: {error}") from error


class MemoryFileLayer(physical.FileLayer):
    """The memory file of a guest dump, with random access to compressed files too.

    Raises:
        MemoryFileError: the file cannot be opened or decompressed.
    """

    @property
    def memory_file(self) -> MemoryFile:
        """The file, for those who need no layer."""
        return open_memory_file(str(self.config["location"]))

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
        except MemoryFileError as error:
            _warn(self.memory_file, error)
            if not pad:
                raise exceptions.InvalidAddressException(self.name, offset, str(error)) from error
        parts = []
        end = offset + length
        while offset < end:
            size = min(PAGE_SIZE - offset % PAGE_SIZE, end - offset)
            try:
                parts.append(bytes(super().read(offset, size, pad)))
            except MemoryFileError:
                parts.append(bytes(size))
            offset += size
        return b"".join(parts)


def _warn(file: Optional[MemoryFile], error: MemoryFileError) -> None:
    """Says once that a file cannot be read: plugins pass over invalid addresses in silence."""
    if file is not None and not file.error_shown:
        file.error_shown = True
        vollog.warning(f"Memory cannot be read: {error}")


class GuestDumpLayer(segmented.SegmentedLayer):
    """The guest-physical memory of a debug.guest + debug.vmem pair.

    debug.guest is the meta layer, debug.vmem the base layer. When there is no memory file the
    base layer is debug.guest too, with no segment that refers to it: the vCPUs can be looked at,
    and every address is invalid.
    """

    provides = {"type": "physical"}

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
        try:
            self.guest = open_guest_file(self.guest_location)
        except GuestFileError as error:
            raise GuestDumpFormatException(name, str(error)) from error
        # So that volshell can show the structures: dt("guestdump1!guest_vcpu")
        context.symbol_space.append(
            intermed.IntermediateSymbolTable(
                context,
                interfaces.configuration.path_join(config_path, "structures"),
                name=context.symbol_space.free_table_name("guestdump"),
                isf_url=layout_path(self.guest.version).as_uri(),
                # The tests do; where jsonschema is installed it would take as long as all the rest.
                validate=False,
            )
        )
        super().__init__(context, config_path, name, metadata)

    @property
    def guest_location(self) -> str:
        """URL of the debug.guest file."""
        return str(self.context.layers[self._meta_layer].config["location"])

    @property
    def memory_location(self) -> Optional[str]:
        """URL of the memory file, or None when there is none."""
        location = str(self.context.layers[str(self._base_layer)].config["location"])
        return None if location == self.guest_location else location

    @property
    def identity(self) -> Hashable:
        """What tells this dump from every other, also from one that takes its place later."""
        locations = (self.guest_location, self.memory_location)
        return tuple((location, file_state(location)) for location in locations if location)

    @functools.cached_property
    def memory(self) -> GuestMemory:
        """Guest-physical memory, for those who need no layer."""
        location = self.memory_location
        file = None if location is None else open_memory_file(location)
        return GuestMemory(self.guest.ranges, file)

    def describe_system(self, metadata: dict[str, Any]) -> None:
        """Adds to the layer's metadata what is known of the system that the guest runs."""
        self._metadata = {**self._metadata, **metadata}

    @property
    def missing_memory(self) -> int:
        """Bytes of memory that the memory file lacks; negative when it has too many."""
        file = self.memory.file
        return self.guest.memory_size - (file.size if file else 0)

    @property
    def first_missing_address(self) -> Optional[int]:
        """The first guest-physical address that the memory file lacks, or None."""
        available = {run.start: run.end for run in self.memory.ranges}
        for run in self.guest.ranges:
            end = available.get(run.start, run.start)
            if end < run.end:
                return end
        return None

    def _load_segments(self) -> None:
        self._segments = [
            (run.start, run.file_offset, run.size, run.size) for run in self.memory.ranges
        ]

    @property
    def minimum_address(self) -> int:
        """The first address of memory, whether the memory file covers it or not."""
        return self.guest.ranges[0].start

    @property
    def maximum_address(self) -> int:
        """The last address of memory, whether the memory file covers it or not."""
        return self.guest.ranges[-1].end - 1

    def is_valid(self, offset: int, length: int = 1) -> bool:
        """Returns whether all of a piece of memory can be read."""
        return self.memory.covers(offset, length)

    def read(  # type: ignore[override] # Volatility's is behind an lru_cache
        self, offset: int, length: int, pad: bool = False
    ) -> bytes:
        """Reads guest-physical memory; see `DataLayerInterface.read`."""
        try:
            return self.memory.read(offset, length)
        except AddressError as error:
            if pad:
                return bytes(super().read(offset, length, pad))
            raise exceptions.InvalidAddressException(
                self.name, error.address, str(error)
            ) from error
        except MemoryFileError as error:
            _warn(self.memory.file, error)
            if pad:
                # The layer below puts zeros for no more than the pages that are lacking.
                return bytes(super().read(offset, length, pad))
            raise exceptions.InvalidAddressException(self.name, offset, str(error)) from error

    def __getstate__(self) -> dict[str, Any]:
        """Leaves the open file out; it is opened again when it is needed."""
        return {name: value for name, value in self.__dict__.items() if name != "memory"}

    @property
    def dependencies(self) -> list[str]:
        """The layers of the memory file and of debug.guest."""
        return list(dict.fromkeys([str(self._base_layer), self._meta_layer]))

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the two layers that this one needs."""
        return [
            requirements.TranslationLayerRequirement(name="base_layer", optional=False),
            requirements.TranslationLayerRequirement(name="meta_layer", optional=False),
        ]
