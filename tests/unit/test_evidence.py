# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a report is made of, as the files lie there."""

import hashlib
import os
import pathlib
from datetime import datetime, timezone

import pytest

from volatility_guestdump.machine import Origin
from volatility_guestdump.report.evidence import evidence, report_name

GUEST, MEMORY = b"guest" * 100, b"memory" * 1_000_000


def origin(location: str, memory: "str | None" = None) -> Origin:
    """Returns where a machine comes from."""
    return Origin("6", location, (), memory, 0)


@pytest.fixture(name="pair")
def _pair(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    guest, memory = tmp_path / "a debug.guest", tmp_path / "debug.vmem"
    guest.write_bytes(GUEST)
    memory.write_bytes(MEMORY)
    return guest, memory


@pytest.mark.parametrize("with_hash", [False, True])
def test_hashes(pair: tuple[pathlib.Path, pathlib.Path], with_hash: bool) -> None:
    """The small file's is always there, that of the memory when it is asked for, with progress."""
    told: list[tuple[float, str]] = []
    guest, memory = pair
    found = evidence(
        *(origin(guest.as_uri(), memory.as_uri()), {"Python": "3.9"}, "vol -f 'a b'", with_hash),
        lambda done, what: told.append((done, what)),
    )
    first, second = found.files
    assert (first.role, first.location, first.size) == (
        *("Description of the guest", guest.as_uri(), len(GUEST)),
    )
    assert first.sha256 == hashlib.sha256(GUEST).hexdigest() and not first.note
    assert (second.role, second.location, second.size) == ("Memory", memory.as_uri(), len(MEMORY))
    assert second.sha256 == (hashlib.sha256(MEMORY).hexdigest() if with_hash else None)
    assert second.note == ("" if with_hash else "no SHA-256 without --hash")
    percent = [done for done, what in told if "debug.vmem" in what]
    assert percent == sorted(percent) and (percent or [0])[-1] == (100 if with_hash else 0)
    assert (found.command, found.versions) == ("vol -f 'a b'", {"Python": "3.9"})
    assert abs((datetime.now(timezone.utc) - found.created).total_seconds()) < 60


def test_one_file(pair: tuple[pathlib.Path, pathlib.Path]) -> None:
    """An image that has the memory in it is one file, and hashed only when it is asked for."""
    location = pair[1].as_uri()
    (file,) = evidence(origin(location, location), {}, "", False).files
    assert (file.role, file.size, file.sha256) == ("Memory", len(MEMORY), None)


def test_a_large_description(tmp_path: pathlib.Path) -> None:
    """What is as large as memory is not read through unasked."""
    path = tmp_path / "x.vmss"
    path.touch()
    os.truncate(path, (64 << 20) + 1)
    (file,) = evidence(origin(path.as_uri()), {}, "", False).files
    assert file.sha256 is None and file.note == "no SHA-256 without --hash"


def test_files_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    """It is said why there is no hash."""
    gone = (tmp_path / "gone.guest").as_uri()
    first, second = evidence(origin(gone, "https://x/debug.vmem"), {}, "", True).files
    assert first.note.startswith("cannot be read: ") and "No such file" in first.note
    assert second.note == "not a local file: not hashed"
    assert (first.size, first.sha256, second.size, second.sha256) == (None, None, None, None)


@pytest.mark.parametrize(
    ("location", "name"),
    [
        ("file:///cases/17/debug.guest", "debug-report"),
        ("file:///cases/17/debug.guest.gz", "debug-report"),
        ("file:///cases/17/DEBUG.GUEST.GZ", "DEBUG-report"),
        ("file:///cases/17/a%20b.c.vmss", "a b.c-report"),
        ("file:///cases/17/.guest", ".guest-report"),
        ("file:///cases/17/image", "image-report"),
        ("file:///cases/17/d%C3%A9bug.elf", "d_bug-report"),
        ("https://x/y/debug.guest?z=1", "debug-report"),
    ],
)
def test_the_name_of_a_report(location: str, name: str) -> None:
    """It is that of the dump, in characters that every file system has, and no path."""
    found = report_name(origin(location))
    assert found == name and found.isascii() and "/" not in found
