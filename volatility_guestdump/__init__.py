# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Memory images of guests for Volatility 3: no symbol file, no option, no scan.

Volatility knows the package's stackers, layers and automagic when it has imported the plugins, as
it does at its start, or when a program has imported `volatility_guestdump.framework`. Everything
else of the package works without Volatility:

    facts = volatility_guestdump.facts("debug.guest")
    facts.kernel.panic, [(vcpu.number, vcpu.state, vcpu.place) for vcpu in facts.vcpus]
"""

import os
from typing import TYPE_CHECKING, Callable, Optional, Union

from volatility_guestdump.version import __version__ as __version__

if TYPE_CHECKING:
    from volatility_guestdump.guest.facts import GuestFacts


def facts(
    path: "Union[str, os.PathLike[str]]",
    memory: "Union[str, os.PathLike[str], None]" = None,
    progress: Optional[Callable[[float, str], None]] = None,
) -> "GuestFacts":
    """Returns what is known of the guest in a dump, as typed values.

    Nothing is printed, nothing is left open, and nothing is kept: threads and processes may call
    this at once, for one dump or for several.

    Args:
        path: path or URL of a file of the dump: what describes the machine, or its memory.
        memory: path or URL of the memory file, where it does not lie beside the first under the
            same name.
        progress: called with per cent and a description while something takes long: while a
            compressed file is indexed, or all of memory is searched for a kernel.

    Raises:
        SourceError: there is no machine in it that can be read; the error says what it is instead,
            and what to do.
    """
    # Imported when it is called: every module of the package imports this one first.
    from volatility_guestdump.guest import read  # noqa: PLC0415

    return read.facts(os.fspath(path), None if memory is None else os.fspath(memory), progress)
