# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a report is made of: the files as they lie there, the programs, the command, the time."""

import contextlib
import hashlib
import os
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Callable, Optional

from volatility_guestdump.files.location import display_name, local_path, without_gzip
from volatility_guestdump.machine import Origin
from volatility_guestdump.report import document

#: Called with per cent and a description.
Progress = Callable[[float, str], object]

#: A debug.guest has 4.5 kB for each vCPU. What is larger has memory in it.
_HASHED_ALWAYS = 64 << 20
_PIECE = 1 << 20


def evidence(
    origin: Origin,
    versions: Mapping[str, str],
    command: str,
    with_hash: bool,
    progress: Optional[Progress] = None,
) -> document.Evidence:
    """Returns what a report is made of.

    Args:
        origin: where the machine comes from.
        versions: program -> its version.
        command: that makes the report.
        with_hash: compute the SHA-256 of the memory file too, which takes as long as reading it.
        progress: is told of how far that is.
    """
    files = []
    if origin.location != origin.memory_location:
        files.append(_file("Description of the guest", origin.location, with_hash, progress, True))
    if origin.memory_location is not None:
        files.append(_file("Memory", origin.memory_location, with_hash, progress))
    now = datetime.now(timezone.utc).replace(microsecond=0)
    return document.Evidence(files, dict(versions), command, now)


def _file(
    role: str,
    location: str,
    with_hash: bool,
    progress: Optional[Progress],
    hashed_when_small: bool = False,
) -> document.File:
    path = local_path(location)
    if path is None:
        return document.File(role, location, None, None, "not a local file: not hashed")
    try:
        size = os.stat(path).st_size
        if not with_hash and not (hashed_when_small and size <= _HASHED_ALWAYS):
            return document.File(role, location, size, None, "no SHA-256 without --hash")
        digest = _sha256(path, size, progress if with_hash else None)
    except OSError as error:
        return document.File(role, location, None, None, f"cannot be read: {error}")
    return document.File(role, location, size, digest, "")


def _sha256(path: str, size: int, progress: Optional[Progress]) -> str:
    digest = hashlib.sha256()
    done = 0
    with open(path, "rb", buffering=0) as stream:
        while True:
            piece = stream.read(_PIECE)
            if not piece:
                return digest.hexdigest()
            digest.update(piece)
            done += len(piece)
            if progress is not None:
                progress(min(100.0, 100 * done / max(size, 1)), f"SHA-256 of {display_name(path)}")


def report_name(origin: Origin) -> str:
    """Returns the name of a report's file without its suffix, "debug-report"."""
    name, _ = os.path.splitext(without_gzip(display_name(origin.location)))
    # A URL may name anything; a file handler replaces what a path must not have.
    with contextlib.suppress(UnicodeError):
        name = name.encode("ascii", "replace").decode("ascii").replace("?", "_")
    return f"{name or 'guest'}-report"
