# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Volatility as a library: one context for several plugins, and several dumps in one process."""

import os
import pathlib
import pickle
from typing import Any, Optional

import pytest
import volatility3.symbols
from volatility3.framework import automagic, contexts, interfaces, plugins
from volatility3.framework.automagic import stacker
from volatility3.plugins.linux import lsof, pslist  # type: ignore[attr-defined]
from volatility3.plugins.windows import info as windows_info  # type: ignore[attr-defined]

from tests.helpers import IDLE_VCPU, guest_machine, real_guest, write_pair
from tests.lab import formats
from tests.lab.windows import missing_tools, stand_in
from volatility_guestdump import kernels
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework import layers
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.machine import PAGE_SIZE, REGISTERS
from volatility_guestdump.plugins.guestdump import Backtrace, Info, Registers

STACKERS = "automagic.LayerStacker.stackers"

Row = tuple[Any, ...]


def run(
    plugin: type[interfaces.plugins.PluginInterface],
    guest: pathlib.Path,
    context: Optional[interfaces.context.ContextInterface] = None,
    path: str = "plugins",
) -> list[Row]:
    """Runs a plugin as scripts do, and returns its rows."""
    context = context or contexts.Context()
    context.config["automagic.LayerStacker.single_location"] = guest.as_uri()
    available: Any = automagic.available(context)
    # Those of other systems would search all of memory.
    chosen: Any = automagic.choose_automagic(available, plugin)
    made = plugins.construct_plugin(
        *(context, chosen, plugin, path),
        progress_callback=None,
        open_method=interfaces.plugins.FileHandlerInterface,  # type: ignore[type-abstract]
    )
    return listed(made)


def listed(plugin: interfaces.plugins.PluginInterface) -> list[Row]:
    """Returns the rows of a plugin that can run."""
    found: list[Row] = []
    plugin.run().populate(lambda node, _: found.append(tuple(map(str, node.values))))
    return found


def test_one_context_for_any_plugins_in_any_order() -> None:
    """What one plugin needed does not stand in the way of the next."""
    guest = real_guest("hole-pti").guest_path
    order = (Info, pslist.PsList, Registers, Backtrace, lsof.Lsof)
    alone = {plugin: run(plugin, guest) for plugin in order}
    assert all(alone.values())
    for turn in (order, order[::-1]):
        context = contexts.Context()
        for number, plugin in enumerate(turn):
            assert run(plugin, guest, context, f"plugins{number}") == alone[plugin]


def test_the_list_of_stackers_stays_as_it_was() -> None:
    """It is the user's: plugins of this package do not change it."""
    guest = real_guest("hole-pti").guest_path
    context = contexts.Context()
    chosen = stacker.choose_os_stackers(pslist.PsList)
    context.config[STACKERS] = chosen
    assert run(Info, guest, context)
    assert context.config[STACKERS] == chosen
    assert run(pslist.PsList, guest, context, "later")


@pytest.mark.skipif(bool(missing_tools()), reason="the stand-in needs clang and lld")
def test_a_plugin_for_windows_behind_one_of_ours(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It finds the stackers that it needs."""
    guest = stand_in(tmp_path, "x64")
    monkeypatch.setattr("volatility3.framework.constants.CACHE_PATH", str(tmp_path))
    folders = [str(guest.symbols), *volatility3.symbols.__path__]
    monkeypatch.setattr("volatility3.symbols.__path__", folders)
    context = contexts.Context()
    assert run(Info, guest.guest_path, context)
    assert run(windows_info.Info, guest.guest_path, context, "later")


def test_two_dumps_in_one_process() -> None:
    """Each has its own kernel, one after the other and back again."""
    first, second = real_guest("hole-pti"), real_guest("6.12")
    for guest in (first, second, first):
        rows: dict[str, str] = dict(run(Info, guest.guest_path))
        assert guest.expected["kernel_release"] in rows["Operating system"]


@pytest.mark.parametrize("kind", ["debug.guest", "raw", "lime-iomem", "avml-iomem"])
def test_a_context_after_a_plugin_has_run(tmp_path: pathlib.Path, kind: str) -> None:
    """Copies and pickled ones of it list the same; a second image in it is another guest."""
    first, second = real_guest("hole-pti"), real_guest("6.12")
    if kind == "debug.guest":
        paths = [first.guest_path, second.guest_path]
    else:
        files = formats.Files(tmp_path)
        paths = [files(guest, kind) for guest in (first, second)]
    context = contexts.Context()
    rows = run(pslist.PsList, paths[0], context)
    assert {row[1] for row in rows} >= {str(each["pid"]) for each in first.expected["processes"]}
    assert run(pslist.PsList, paths[1], context, "second") == run(pslist.PsList, paths[1]) != rows
    for copied in (context.clone(), pickle.loads(pickle.dumps(context))):
        assert listed(pslist.PsList(copied, "plugins.PsList")) == rows
        for name, layer in context.layers.items():
            start = layer.minimum_address
            assert copied.layers[name].read(start, 64, pad=True) == layer.read(start, 64, pad=True)


def test_a_dump_that_takes_the_place_of_another(tmp_path: pathlib.Path) -> None:
    """What is kept of the files looked at last is not used for others of the same name."""
    for rip in (0x1000, 0x2000):
        guest = write_pair(tmp_path, bytes(8 << 12), vcpus=[{**IDLE_VCPU, "rip": rip}])
        os.utime(guest, ns=(rip, rip))
        assert (hex(rip)) in [hex(int(row[2])) for row in run(Registers, guest) if row[1] == "rip"]


def forget_all() -> None:
    """Forgets what is kept of the files looked at last."""
    layers.SESSION.close()
    kernels.forget()


@pytest.mark.skipif(not hasattr(os, "pread"), reason="the error is made in pread")
@pytest.mark.parametrize("symbol", ["_text", "panic", "init_task", "init_top_pgt", "log_buf"])
def test_a_page_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, symbol: str
) -> None:
    """It costs that page, and not the kernel; it is said once."""
    guest = real_guest("hole-pti")
    machine = guest_machine(guest)
    kernel = find_kernel(machine)
    assert kernel is not None
    physical = kernel.tables.translate(kernel.address(symbol) or 0)[0] & -PAGE_SIZE
    (place,) = (
        run.file_offset + physical - run.start
        for run in machine.memory.ranges
        if run.start <= physical < run.end
    )
    read = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset < place + PAGE_SIZE and place < offset + length:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, offset)

    forget_all()
    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr(PhysicalMemory, "_populate", lambda self, start, length: False)
    try:
        context = contexts.Context()
        shown: dict[str, str] = dict(run(Info, guest.guest_path, context))
        assert shown["Kernel banner"] == guest.expected["banner"]
        assert shown["Symbols"] == "kallsyms and BTF in the dump"
        assert len(run(Registers, guest.guest_path, context, "registers")) == 2 * len(REGISTERS)
        assert len(run(Backtrace, guest.guest_path, context, "backtrace")) > 2
        if symbol != "init_task":
            assert len(run(pslist.PsList, guest.guest_path, context, "pslist")) > 50
        # Only a list of tasks reads init_task itself; what else lies in its page is chance.
        said = caplog.text.count("Memory cannot be read")
        assert said == 1 or (said == 0 and symbol == "init_task")
    finally:
        forget_all()
