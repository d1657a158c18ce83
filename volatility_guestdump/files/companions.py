# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which files of VMware belong together: state files (.vmsn, .vmss) and memory files (.vmem).

    x.vmss              x.vmem              suspended machine
    x-1a2b3c4d.vmss     x-1a2b3c4d.vmem     the same, as ESXi and newer products name it
    x-Snapshot3.vmsn    x-Snapshot3.vmem    third snapshot
    x-Snapshot3.vmsn    x.vmem              snapshot that goes on with the memory it was taken of

Each may be compressed, and written in upper or lower case.
"""

import os
import re
from collections.abc import Iterator, Sequence

from volatility_guestdump.files.location import (
    GZIP_SUFFIX,
    MEMORY_SUFFIX,
    has_suffix,
    is_readable,
    local_path,
    location_of,
    of_all_names,
    without_gzip,
)

SNAPSHOT_SUFFIX = ".vmsn"
SUSPEND_SUFFIX = ".vmss"
_STATE_SUFFIXES = (SUSPEND_SUFFIX, SNAPSHOT_SUFFIX)

#: What VMware puts behind the machine's name.
_NUMBERED = re.compile(r"-(snapshot\d+|[0-9a-f]{8})$", re.IGNORECASE)

#: More than a machine has snapshots (32 for each).
_MAXIMUM_STATES = 64


def looks_like_state_file(location: str) -> bool:
    """Whether a URL has the name of a state file, which may be compressed."""
    return has_suffix(without_gzip(location), *_STATE_SUFFIXES)


def is_suspend_file(location: str) -> bool:
    """Whether a URL has the name of a suspended machine's state file."""
    return has_suffix(without_gzip(location), SUSPEND_SUFFIX)


def has_state_file(memory_location: str) -> bool:
    """Whether a memory file has a state file of the same name beside it that can be opened.

    Volatility's VmwareStacker looks for just these two names.
    """
    stem = without_gzip(memory_location)[: -len(MEMORY_SUFFIX)]
    return is_readable(stem + SUSPEND_SUFFIX) or is_readable(stem + SNAPSHOT_SUFFIX)


def state_memory_locations(state_location: str) -> list[str]:
    """Returns where the memory of a state file may lie, the likeliest first.

    Args:
        state_location: URL of the state file, which may be compressed.
    """
    return of_all_names(state_location, _memory_names)


def _memory_names(state_location: str) -> list[str]:
    stem, suffix = os.path.splitext(without_gzip(state_location))
    if suffix.lower() not in _STATE_SUFFIXES:
        stem += suffix
    stems = dict.fromkeys((stem, _NUMBERED.sub("", stem)))
    return [f"{each}{MEMORY_SUFFIX}{packed}" for each in stems for packed in ("", GZIP_SUFFIX)]


def state_locations(memory_location: str) -> tuple[list[str], list[str]]:
    """Returns where the state file of a memory file may lie.

    Args:
        memory_location: URL of the memory file, which may be compressed.

    Returns:
        URLs of the same name, and those of numbered states without a memory file of their own.
    """
    stem, suffix = os.path.splitext(without_gzip(memory_location))
    if suffix.lower() != MEMORY_SUFFIX:
        return [], []
    return of_all_names(memory_location, _state_names), list(_numbered_states(stem))


def _state_names(memory_location: str) -> list[str]:
    stem, _ = os.path.splitext(without_gzip(memory_location))
    return [f"{stem}{suffix}{packed}" for packed in ("", GZIP_SUFFIX) for suffix in _STATE_SUFFIXES]


def _numbered_states(stem: str) -> Iterator[str]:
    """Yields the snapshots and suspended states of a machine that have no memory file of their own.

    Args:
        stem: URL of the memory file without suffix.
    """
    path = local_path(stem)
    if path is None:
        return
    folder, name = os.path.split(path)
    names = _names(folder)
    present = {each.lower() for each in names}
    found = 0
    for each in sorted(names):
        state, suffix = os.path.splitext(without_gzip(each))
        own = state.lower() + MEMORY_SUFFIX
        if (
            suffix.lower() in _STATE_SUFFIXES
            and _NUMBERED.sub("", state).lower() == name.lower()
            and state.lower() != name.lower()
            and not present & {own, own + GZIP_SUFFIX}
        ):
            found += 1
            if found > _MAXIMUM_STATES:
                return
            yield location_of(os.path.join(folder, each))


def _names(folder: str) -> Sequence[str]:
    """Returns the names of the files in a folder, or none where it cannot be listed."""
    try:
        return os.listdir(folder or ".")
    except OSError:
        return []
