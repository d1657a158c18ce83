# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Files with memory alone, in a format of their own: LiME and AVML."""

from collections.abc import Sequence
from typing import Any, Optional

from volatility_guestdump.dumps.format import (
    Format,
    OneFile,
    Parts,
    Request,
    Stage,
    one_file,
    opened,
)
from volatility_guestdump.dumps.session import Session
from volatility_guestdump.files.location import display_name
from volatility_guestdump.files.memory_file import Content, MemoryStream
from volatility_guestdump.machine import Machine
from volatility_guestdump.sources import avml, lime

_WHAT = "memory image"


class Lime(Format):
    """LiME's format "lime"."""

    name = "LiME"
    what = _WHAT
    stage = Stage.MEMORY
    magics: Sequence[bytes] = [lime.MAGIC]

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file when it is one; see `Format.find`."""
        parts = Parts(self.name, request.location, request.location)
        self.machine(parts, request.session)
        return parts

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; see `Format.machine`."""

        def read() -> OneFile:
            with opened(session, parts.location, self.magics, "not in LiME's format") as file:
                stream: Any = MemoryStream(file)
                ranges, damage = lime.parse(stream, file.size, display_name(parts.location))
            return OneFile(ranges, file, damage=damage)

        return one_file(parts, session, self.name, read)


class Avml(Format):
    """AVML's compressed format."""

    name = "AVML"
    what = _WHAT
    stage = Stage.MEMORY
    magics: Sequence[bytes] = [avml.MAGIC]

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file when it is one; see `Format.find`."""
        self._open(request.location, request.session)
        return Parts(self.name, request.location, request.location)

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; see `Format.machine`."""

        def read() -> OneFile:
            file = self._open(parts.location, session)
            return OneFile(file.ranges, file, damage=file.damage)

        return one_file(parts, session, self.name, read)

    def content(self, location: str, size: Optional[int], session: Session) -> Content:
        """Returns the memory in the file, decompressed as it is read."""
        return self._open(location, session)

    def _open(self, location: str, session: Session) -> avml.AvmlFile:
        def read() -> avml.AvmlFile:
            with opened(session, location, self.magics, "not in AVML's format") as file:
                return avml.AvmlFile(file, display_name(location))

        return session.content(avml.AvmlFile, location, read)
