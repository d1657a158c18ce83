# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Volatility's own plugins print the same with an ISF, and with objects of Volatility's own."""

import pathlib

import pytest
from volatility3 import framework
from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.plugins.linux import lsof, pslist  # type: ignore[attr-defined]

from tests import compare_plugins
from tests.conftest import Vol
from tests.helpers import real_guest, rows
from volatility_guestdump.framework import makers, templates

#: All of them take minutes (python -m tests.compare_plugins). These read tasks, their memory and
#: files, and modules.
PLUGINS = (
    "linux.pslist.PsList",
    "linux.proc.Maps",
    "linux.lsof.Lsof",
    "linux.lsmod.Lsmod",
)


def test_plugins_with_an_isf(
    vol: Vol, tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every row of each is the same."""
    guest = real_guest("6.12").guest_path
    folder = tmp_path / "linux"
    folder.mkdir()
    rows(vol("-r", "json", "-o", folder, "-f", guest, "guestdump.Isf"))
    differing = compare_plugins.compare(guest, tmp_path, PLUGINS, 2)
    shown = capsys.readouterr().out
    assert not differing, shown
    # Two errors are the same too.
    assert int(shown.split(PLUGINS[0])[1].split()[0]) > 50


def _rows(plugin: type[interfaces.plugins.PluginInterface]) -> tuple[list[object], bool]:
    """Returns the rows of a plugin, and whether its objects are made by our templates."""
    context = contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = real_guest(
        "6.12"
    ).guest_path.as_uri()
    made = plugins.construct_plugin(
        *(context, automagic.available(context), plugin, "plugins"),
        progress_callback=None,
        open_method=interfaces.plugins.FileHandlerInterface,  # type: ignore[type-abstract]
    )
    found: list[object] = []
    made.run().populate(lambda node, _: found.append(tuple(map(str, node.values))))
    task = made.context.modules["kernel"].object_from_symbol("init_task")
    return found, isinstance(task._vol, templates._Values)


@pytest.mark.parametrize("plugin", [pslist.PsList, lsof.Lsof])
def test_volatility_that_was_not_tested(
    monkeypatch: pytest.MonkeyPatch, plugin: type[interfaces.plugins.PluginInterface]
) -> None:
    """Its own templates make objects with the same rows, where ours make others than they do."""
    expected, are_ours = _rows(plugin)
    assert are_ours and len(expected) > 5
    monkeypatch.setattr(framework, "interface_version", lambda: (2, 99, 0))

    def fails(*_: object) -> object:
        raise TypeError("a constructor of Volatility has another argument")

    monkeypatch.setattr(templates, "_integer", fails)
    makers.are_ours.cache_clear()
    try:
        assert _rows(plugin) == (expected, False)
    finally:
        makers.are_ours.cache_clear()
