# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which of VMware's files belong together, by their names."""

import pathlib

import pytest

from volatility_guestdump.files.companions import (
    is_suspend_file,
    looks_like_state_file,
    state_locations,
    state_memory_locations,
)
from volatility_guestdump.files.location import is_readable

FOLDER = "file:///vms/x.vmsn/"


@pytest.mark.parametrize(
    ("state", "memory"),
    [
        ("x.vmss", ["x.vmem", "x.vmem.gz"]),
        ("x.vmsn.gz", ["x.vmem", "x.vmem.gz"]),
        (
            "x-Snapshot3.vmsn",
            ["x-Snapshot3.vmem", "x-Snapshot3.vmem.gz", "x.vmem", "x.vmem.gz"],
        ),
        (
            "x-1a2b3c4d.vmss",
            ["x-1a2b3c4d.vmem", "x-1a2b3c4d.vmem.gz", "x.vmem", "x.vmem.gz"],
        ),
        # Part of the machine's name: too few digits, and no number of a snapshot.
        ("web-1a2b.vmss", ["web-1a2b.vmem", "web-1a2b.vmem.gz"]),
        ("x-Snapshot.vmsn", ["x-Snapshot.vmem", "x-Snapshot.vmem.gz"]),
        ("state.17", ["state.17.vmem", "state.17.vmem.gz"]),
    ],
)
def test_memory_of_a_state(state: str, memory: list[str]) -> None:
    """The same name comes first, then the machine's own."""
    assert state_memory_locations(FOLDER + state) == [FOLDER + name for name in memory]


def test_state_of_memory_by_name() -> None:
    """Suspended machines come before snapshots, plain files before compressed ones."""
    names = ["x-Snapshot1.vmss", "x-Snapshot1.vmsn", "x-Snapshot1.vmss.gz", "x-Snapshot1.vmsn.gz"]
    for memory in ("x-Snapshot1.vmem", "x-Snapshot1.vmem.gz"):
        assert state_locations(FOLDER + memory) == ([FOLDER + name for name in names], [])
    assert state_locations(FOLDER + "x.raw") == ([], [])


def test_states_of_a_machine(tmp_path: pathlib.Path) -> None:
    """Numbered states without a memory file of their own may be of the machine's own memory."""
    for name in (
        *("x.vmem", "x.vmsn", "x-Snapshot1.vmsn", "x-Snapshot1.vmem", "x-Snapshot2.vmsn"),
        *("X-SNAPSHOT3.VMSN.GZ", "x-snapshot4.vmsn", "x-Snapshot4.vmem.gz", "x-12345678.vmss"),
        *("y-Snapshot1.vmsn", "x-Snapshot5.vmsd", "x-y-Snapshot6.vmsn"),
    ):
        (tmp_path / name).touch()
    same, others = state_locations((tmp_path / "x.vmem").as_uri())
    assert same[1] == (tmp_path / "x.vmsn").as_uri()
    names = ["X-SNAPSHOT3.VMSN.GZ", "x-12345678.vmss", "x-Snapshot2.vmsn"]
    assert others == [(tmp_path / name).as_uri() for name in names]


def test_any_case(tmp_path: pathlib.Path) -> None:
    """Names in upper case are found."""
    for name in ("X.VMEM", "X.VMSS"):
        (tmp_path / name).write_bytes(b"x")
    # Where case does not matter to the system the name may stay as it is.
    assert is_readable(state_memory_locations((tmp_path / "X.VMSS").as_uri())[0])
    assert is_readable(state_locations((tmp_path / "X.VMEM").as_uri())[0][0])


def test_a_folder_that_cannot_be_listed(tmp_path: pathlib.Path) -> None:
    """Files of other places, and folders that are gone, have no numbered states."""
    for location in ((tmp_path / "gone" / "x.vmem").as_uri(), "https://host/x.vmem"):
        assert state_locations(location)[1] == []


def test_more_states_than_a_machine_has(tmp_path: pathlib.Path) -> None:
    """Of a folder with very many only some are looked at."""
    for number in range(100):
        (tmp_path / f"x-Snapshot{number}.vmsn").touch()
    assert len(state_locations((tmp_path / "x.vmem").as_uri())[1]) == 64


@pytest.mark.parametrize(
    ("name", "is_state", "is_suspend"),
    [
        ("x.vmss", True, True),
        ("x.VMSS.GZ", True, True),
        ("x.vmsn", True, False),
        ("x.vmem", False, False),
        ("vmss", False, False),
    ],
)
def test_names(name: str, is_state: bool, is_suspend: bool) -> None:
    """By their suffix, in any case."""
    assert looks_like_state_file(FOLDER + name) is is_state
    assert is_suspend_file(FOLDER + name) is is_suspend
