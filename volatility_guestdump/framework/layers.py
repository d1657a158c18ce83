# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Layers: a memory file, and a machine's guest-physical memory in any format of dumps.table."""

import functools
from typing import Any, Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.configuration import requirements
from volatility3.framework.layers import physical, segmented

from volatility_guestdump.dumps.debug_guest import DebugGuest, open_guest_file
from volatility_guestdump.dumps.format import Format, Parts
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.dumps.table import format_named
from volatility_guestdump.exceptions import AddressError, SourceError
from volatility_guestdump.files.memory_file import Content, MemoryStream
from volatility_guestdump.framework.structures import StructuresTable
from volatility_guestdump.machine import Machine, read_padded

#: What is kept of the files that Volatility looks at, which makes each layer several times over.
SESSION = Session()


class GuestDumpFormatException(exceptions.LayerException):
    """Thrown when a file that describes the machine behind a layer is not valid."""


class MemoryFileLayer(physical.FileLayer):
    """The memory file of a guest dump, with random access to compressed files too.

    Raises:
        MemoryFileError: the file cannot be opened or decompressed.
    """

    @property
    def memory_file(self) -> Content:
        """What is in the file, for those who need no layer."""
        location, size = str(self.config["location"]), self.config.get("memory_size", None)
        expected = None if size is None else int(size)
        name = self.config.get("format", None)
        if name is None:
            return SESSION.file(location, expected)
        return format_named(str(name)).content(location, expected, SESSION)

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the file's URL, its format, and the size of the memory that the guest has."""
        return [
            *super().get_requirements(),
            requirements.IntRequirement(
                name="memory_size",
                description="Bytes of memory that the guest has, which tell whether the file is "
                "compressed",
                optional=True,
            ),
            requirements.StringRequirement(
                name="format",
                description="Format in whose form memory is in the file; none for memory as it is",
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


class GuestDumpLayer(segmented.SegmentedLayer):
    """The guest-physical memory of a machine, whatever files it comes from.

    The meta layer is of the file that describes the machine, the base layer of the one that holds
    its memory. When that is the same file, or there is no memory, both are the same layer. Without
    memory no segment refers to the base layer: the vCPUs can be looked at, and every address is
    invalid.
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
            # Makes the machine.
            super().__init__(context, config_path, name, metadata)
            if isinstance(self.format, DebugGuest):
                self._add_structures()
        except SourceError as error:
            raise GuestDumpFormatException(name, str(error)) from error

    @classmethod
    def get_requirements(cls) -> list[interfaces.configuration.RequirementInterface]:
        """Returns the two layers that this one needs, and how it reads them."""
        return [
            requirements.TranslationLayerRequirement(name="base_layer", optional=False),
            requirements.TranslationLayerRequirement(name="meta_layer", optional=False),
            requirements.StringRequirement(
                name="format", description="Format of the file that describes the machine"
            ),
            requirements.BooleanRequirement(
                name="has_memory",
                description="Whether there is a memory file",
                default=True,
                optional=True,
            ),
            requirements.StringRequirement(
                name="reading",
                description="How the file is read, where one file can be read as several machines",
                default="",
                optional=True,
            ),
        ]

    @property
    def format(self) -> Format:
        """The format of the file that describes the machine."""
        return format_named(str(self.config["format"]))

    @property
    def describing_location(self) -> str:
        """URL of the file that describes the machine."""
        return str(self.context.layers[self._meta_layer].config["location"])

    @property
    def memory_location(self) -> Optional[str]:
        """URL of the memory file, which may describe the machine too, or None."""
        if not self.config.get("has_memory", True):
            return None
        return str(self.context.layers[self._base_layer].config["location"])

    @property
    def dependencies(self) -> list[str]:
        """The layers of the memory file and of the describing file."""
        return list(dict.fromkeys([self._base_layer, self._meta_layer]))

    @functools.cached_property
    def machine(self) -> Machine:
        """The machine, made now or before, for those who need no layer.

        Raises:
            SourceError: a file that describes it is not valid.
            MemoryFileError: the memory file cannot be opened.
        """
        return self.format.machine(
            Parts(
                self.format.name,
                self.describing_location,
                self.memory_location,
                reading=str(self.config.get("reading", None) or ""),
            ),
            SESSION,
        )

    def _add_structures(self) -> None:
        """Lets volshell show the structures of this debug.guest."""
        self.context.symbol_space.append(
            StructuresTable(
                self.context,
                interfaces.configuration.path_join(self.config_path, "structures"),
                self.context.symbol_space.free_table_name("guestdump"),
                open_guest_file(self.describing_location, SESSION).layout,
            )
        )

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
