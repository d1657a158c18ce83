# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The facts of the guest in a file, for programs: `volatility_guestdump.facts`."""

import dataclasses
from typing import Optional

from volatility_guestdump.dumps import open_dump
from volatility_guestdump.exceptions import SourceError
from volatility_guestdump.guest.facts import GuestFacts
from volatility_guestdump.guest.guest import Guest
from volatility_guestdump.linux.finding.search import Progress


def facts(path: str, memory: Optional[str] = None, progress: Progress = None) -> GuestFacts:
    """Returns what is known of the guest in a dump; see `volatility_guestdump.facts`."""
    with open_dump(path, memory, progress=progress) as dump:
        if dump.machine is None:
            raise SourceError(dump.advice)
        found = Guest(dump.machine, progress=progress).facts()
    return dataclasses.replace(found, warnings=tuple(dump.warnings))
