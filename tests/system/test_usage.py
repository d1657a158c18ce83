# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Ways of using Volatility on a real guest."""

import os
import pathlib
import pickle

import pytest
from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.plugins.linux import pslist  # type: ignore[attr-defined]

import volatility_guestdump.framework  # noqa: F401 # makes Volatility know its stackers
from tests.conftest import Vol
from tests.helpers import real_guest, rows


@pytest.fixture(scope="module")
def expected(vol: Vol) -> str:
    """What linux.pslist prints on the guest that these tests use."""
    done = vol("-f", real_guest("la57").guest_path, "linux.pslist")
    assert done.returncode == 0
    return done.stdout


def test_memory_file_as_input(vol: Vol, expected: str) -> None:
    """-f debug.vmem prints the same, without the warning of Volatility's VMware layer."""
    done = vol("-f", real_guest("la57").vmem_path, "linux.pslist")
    assert done.stdout == expected
    assert done.stderr == ""


def test_saved_configuration(vol: Vol, expected: str, tmp_path: pathlib.Path) -> None:
    """--save-config writes what -c reads again."""
    config = tmp_path / "config.json"
    vol("--save-config", config, "-f", real_guest("la57").guest_path, "linux.pslist")
    assert vol("-c", config, "linux.pslist").stdout == expected


def test_relative_paths_and_spaces(vol: Vol, expected: str, tmp_path: pathlib.Path) -> None:
    """Relative paths, spaces and URLs name the files as everywhere in Volatility."""
    guest = real_guest("la57")
    folder = tmp_path / "of case 17"
    folder.mkdir()
    (folder / "the dump.guest").symlink_to(guest.guest_path)
    (folder / "the dump.vmem").symlink_to(guest.vmem_path)
    relative = os.path.join("of case 17", "the dump.guest")
    assert vol("-f", relative, "linux.pslist", cwd=tmp_path).stdout == expected
    assert vol("-f", (folder / "the dump.guest").as_uri(), "linux.pslist").stdout == expected
    assert vol("-f", relative[:-5] + "vmem", "linux.pslist", cwd=tmp_path).stdout == expected


def test_volshell(vol: Vol) -> None:
    """Volshell -l gets kernel, layers and symbols."""
    done = vol(
        *("-l", "-f", real_guest("la57").guest_path),
        name="volshell",
        stdin='print("TASK", self.context.modules["kernel"].object_from_symbol("init_task").pid)\n',
    )
    assert "TASK 0" in done.stdout, done.stdout + done.stderr


def test_a_context_with_symbols() -> None:
    """Plugins clone it, it is pickled for scans in other processes, and it makes objects."""
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = real_guest(
        "la57"
    ).guest_path.as_uri()
    plugin = plugins.construct_plugin(
        *(context, automagic.available(context), pslist.PsList, "plugins"),
        progress_callback=None,
        open_method=interfaces.plugins.FileHandlerInterface,  # type: ignore[type-abstract]
    )
    for copied in (plugin.context.clone(), pickle.loads(pickle.dumps(plugin.context))):
        table = copied.modules["kernel"].symbol_table_name
        assert copied.symbol_space.get_type(f"{table}!task_struct").size > 1000
        assert copied.modules["kernel"].object_from_symbol("init_task").pid == 0
    # Arguments reach an object's class as with any other table.
    with pytest.raises(TypeError, match="colour"):
        copied.modules["kernel"].object("list_head", 0, colour="blue")


def test_scans_in_other_processes(vol: Vol) -> None:
    """--parallelism processes finds what one process finds."""
    guest = real_guest("la57").guest_path
    arguments = ("-r", "json", "-f", guest, "regexscan.RegExScan", "--pattern", "Linux version 6")
    one = rows(vol(*arguments))
    assert one and rows(vol("--parallelism", "processes", *arguments)) == one
