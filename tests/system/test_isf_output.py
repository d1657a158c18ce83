# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""guestdump.Isf where the file cannot be written, or is there already."""

import os
import pathlib
import resource
import subprocess

import pytest

from tests.conftest import Vol, program
from tests.helpers import real_guest, rows

GUEST = "6.12"


def _isf(vol: Vol, folder: pathlib.Path) -> "subprocess.CompletedProcess[str]":
    return vol("-r", "json", "-o", folder, "-f", real_guest(GUEST).guest_path, "guestdump.Isf")


def test_a_second_run(vol: Vol, tmp_path: pathlib.Path) -> None:
    """The file is there already: this is said, and no other is written."""
    (first,) = rows(_isf(vol, tmp_path))
    before = {path: path.stat() for path in tmp_path.iterdir()}
    assert [path.name for path in before] == [first["File output"]]
    done = _isf(vol, tmp_path)
    (second,) = rows(done)
    assert second["File output"] == f"{first['File output']} (is there already)"
    assert f"{first['File output']} is there already: nothing is written" in done.stderr
    assert {path: path.stat() for path in tmp_path.iterdir()} == before


@pytest.mark.skipif(not os.path.isdir("/sys/kernel"), reason="needs a folder that refuses files")
def test_a_folder_that_cannot_be_written(vol: Vol) -> None:
    """One line says why, as with Volatility's plugins that dump."""
    done = _isf(vol, pathlib.Path("/sys/kernel"))
    assert rows(done)[0]["File output"] == "Error outputting file"
    assert "could not be written: " in done.stderr and "Traceback" not in done.stderr


def test_a_disk_that_is_full(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Nothing is left behind: no part of the file, and none under another name."""
    rows(vol("-r", "json", "-f", real_guest(GUEST).guest_path, "guestdump.Info"))
    folder, cache = tmp_path / "output", tmp_path / "cache"
    folder.mkdir()
    cache.mkdir()
    done = subprocess.run(
        [
            *(program("vol"), "-q", "--offline", "--cache-path", cache),
            *("-r", "json", "-o", folder, "-f", real_guest(GUEST).guest_path, "guestdump.Isf"),
        ],
        capture_output=True,
        text=True,
        check=False,
        # A file that grows beyond that fails as on a full disk.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, 1 << 19)),
    )
    assert rows(done)[0]["File output"] == "Error outputting file"
    assert "could not be written: [Errno 27]" in done.stderr and "Traceback" not in done.stderr
    assert list(folder.iterdir()) == []
