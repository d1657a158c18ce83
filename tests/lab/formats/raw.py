# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory and nothing else: each byte at its guest-physical address, or the hole squeezed out."""

import pathlib

from tests.lab.formats.memory import Memory


def write(path: pathlib.Path, memory: Memory) -> None:
    """Writes memory with zeros where it has holes."""
    with path.open("wb") as stream:
        for start, size in memory.regions:
            stream.seek(start)
            memory.copy(start, size, stream)
        stream.truncate(memory.end)


def write_squeezed(path: pathlib.Path, memory: Memory) -> None:
    """Writes memory without its holes, which is how VMware writes a .vmem."""
    with path.open("wb") as stream:
        for start, size in memory.regions:
            memory.copy(start, size, stream)
        stream.truncate(memory.size)
