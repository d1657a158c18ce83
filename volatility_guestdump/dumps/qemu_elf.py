# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""ELF cores that QEMU wrote of a machine, for libvirt and KubeVirt too."""

from collections.abc import Iterator, Sequence
from typing import Any, Optional

from volatility_guestdump.dumps import checks
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
from volatility_guestdump.exceptions import UnrecognizedSource
from volatility_guestdump.files.location import display_name
from volatility_guestdump.files.memory_file import MemoryStream
from volatility_guestdump.machine import Machine
from volatility_guestdump.sources.qemu_elf import MAGIC, QemuElf


class QemuElfCore(Format):
    """An ELF core with QEMU's notes: memory and registers in one file."""

    name = "QEMU ELF"
    what = "ELF core of QEMU"
    stage = Stage.DESCRIBED
    magics: Sequence[bytes] = [MAGIC]

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file when it is one; see `Format.find`."""
        open_core(request.location, request.session)
        return Parts(self.name, request.location, request.location)

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; see `Format.machine`."""

        def read() -> OneFile:
            core = open_core(parts.location, session)
            content = session.file(parts.location)
            return OneFile(core.ranges, content, core.vcpus, vmcoreinfo=core.vmcoreinfo)

        return one_file(parts, session, "QEMU ELF dump", read)

    def remarks(self, parts: Parts, machine: Machine, session: Session) -> Iterator[str]:
        """Yields the usual remarks."""
        yield from checks.remarks(machine, open_core(parts.location, session).oddities)


class ElfCore(Format):
    """An ELF core without notes on a machine: memory alone.

    Volatility has a layer for such files, to which they are left where it is asked next.
    """

    name = "ELF core"
    what = "ELF core of a machine"
    stage = Stage.MEMORY
    magics: Sequence[bytes] = [MAGIC]

    def find(self, request: Request) -> Optional[Parts]:
        """Returns the file when it is one; see `Format.find`."""
        if request.others_follow:
            return None
        name = display_name(request.location)
        core = self._open(request.location, request.session)
        # Segments of a process have no physical addresses: all lie at 0.
        if core.oddities:
            raise UnrecognizedSource(f"{name}: {'; '.join(core.oddities[:2])}")
        return Parts(self.name, request.location, request.location)

    def machine(self, parts: Parts, session: Session) -> Machine:
        """Returns the machine; see `Format.machine`."""

        def read() -> OneFile:
            core = self._open(parts.location, session)
            return OneFile(core.ranges, session.file(parts.location))

        return one_file(parts, session, self.name, read)

    def _open(self, location: str, session: Session) -> QemuElf:
        with opened(session, location, self.magics, "no ELF file") as file:
            stream: Any = MemoryStream(file)
            return QemuElf.parse(stream, display_name(location), needs_notes=False)


def open_core(location: str, session: Session) -> QemuElf:
    """Returns what an ELF core has, read now or before.

    Args:
        location: URL of the file.
        session: keeps it.

    Raises:
        UnrecognizedSource: the file is no ELF core of a PC that QEMU wrote.
        SourceError: the file is damaged, not supported or cannot be read.
    """

    def read() -> QemuElf:
        with opened(session, location, QemuElfCore.magics, "no ELF file") as file:
            stream: Any = MemoryStream(file)
            return QemuElf.parse(stream, display_name(location))

    return session.description(QemuElf, location, read)
