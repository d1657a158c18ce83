# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Where the memory of a file lies that describes a machine."""

from collections.abc import Sequence
from typing import Optional

from volatility_guestdump.dumps.format import Request
from volatility_guestdump.exceptions import MemoryFileError, MissingMemoryFile
from volatility_guestdump.files.location import display_name, packed_locations, why_unreadable


def memory_candidates(request: Request, beside: Sequence[str]) -> Sequence[str]:
    """Returns the URLs to look at for a memory file: what the user named, or those beside."""
    return [request.memory] if request.memory else beside


def find_memory(
    source: str, candidates: Sequence[str], size: Optional[int], request: Request
) -> Optional[str]:
    """Returns the first of some URLs at which there is a memory file that can be read.

    Args:
        source: URL of the file that describes the machine.
        candidates: the URLs.
        size: bytes of memory that the guest has, or None when that is not known.
        request: what the user wants opened; gets the warning where there is none.
    """
    missing = []
    name = display_name(source)
    for candidate in [*candidates, *packed_locations(candidates)]:
        if candidate == source:
            request.said.warn(
                f"{name} is not its own memory; where that lies is given by: "
                f"vol --guest-memory FILE -f {name} PLUGIN"
            )
            return None
        try:
            request.session.file(candidate, size, request.progress)
            return candidate
        except MissingMemoryFile:
            missing.append(display_name(candidate))
        except MemoryFileError as error:
            request.said.warn(f"The guest's memory cannot be read, only its registers: {error}")
            return None
    request.said.warn(
        f"{' or '.join(dict.fromkeys(missing))}: no such file. Only registers can be shown. "
        f"The memory of {name} is expected beside it; if it lies elsewhere: "
        f"vol --guest-memory FILE -f {name} PLUGIN"
    )
    return None


def warn_of_registers(location: str, request: Request) -> None:
    """Warns of a file with registers that is there, and cannot be opened."""
    reason = why_unreadable(location)
    if reason is not None:
        request.said.warn(f"The guest's registers cannot be read, only its memory: {reason}")
