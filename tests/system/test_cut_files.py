# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Copies that ended early, of each format: no traceback, no search without end, and one reason."""

import pathlib
import random

import pytest
from volatility3.framework import automagic, contexts, exceptions, interfaces, plugins
from volatility3.plugins.linux import pslist  # type: ignore[attr-defined]

from tests.handmade.vmware import registers
from tests.lab import formats, writer
from volatility_guestdump.plugins.guestdump import Info

REGIONS = ((0, 3 << 20), (1 << 32, 1 << 20))

#: Format -> bytes of its file behind which there is enough to say of what it is.
ENOUGH = {"vmsn-inside": 0, "vmss": 0, "elf-qemu": 64, "lime": 32, "avml": 32, "debug.guest": 0}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> formats.Source:
    """A small machine without a kernel."""
    path = tmp_path_factory.mktemp("source") / "memory"
    path.write_bytes(random.Random(7).randbytes(1 << 20) + bytes(3 << 20))
    vcpus = [{**registers(number), "kernel_gs_base": 0} for number in range(2)]
    return formats.Source(formats.Memory(path, REGIONS), vcpus)


def _write(source: formats.Source, kind: str, folder: pathlib.Path) -> pathlib.Path:
    if kind != "debug.guest":
        return formats.write(source, kind, folder)
    path = folder / kind
    path.write_bytes(writer.pack_guest(6, REGIONS, source.vcpus))
    path.with_suffix(".vmem").symlink_to(source.memory.path)
    return path


@pytest.mark.parametrize("plugin", [Info, pslist.PsList])
@pytest.mark.parametrize("kind", ENOUGH)
def test_cut_off(
    source: formats.Source,
    tmp_path: pathlib.Path,
    caplog: pytest.LogCaptureFixture,
    kind: str,
    plugin: type[interfaces.plugins.PluginInterface],
) -> None:
    """Wherever the copy ended, a line of ours says that it did."""
    path = _write(source, kind, tmp_path)
    whole = path.read_bytes()
    chance = random.Random(3)
    size = len(whole)
    places = {0, 1, 31, 32, 33, 64, 100, 1000, size // 2}
    # The last group of a state file without memory is of no concern.
    places |= set() if kind == "vmss" else {size - 9, size - 1}
    places |= {chance.randrange(min(size, 5000)) for _ in range(5)}
    for length in sorted(place for place in places if 0 <= place < size):
        path.write_bytes(whole[:length])
        caplog.clear()
        context = contexts.Context()
        context.config["automagic.LayerStacker.single_location"] = path.as_uri()
        try:
            plugins.construct_plugin(
                *(context, automagic.available(context), plugin, "plugins", None),
                interfaces.plugins.FileHandlerInterface,  # type: ignore[type-abstract]
            ).run().populate(lambda node, _: None)
        except exceptions.UnsatisfiedException:
            pass
        else:
            # Registers without memory, memory as far as it goes: nothing that has a kernel.
            assert plugin is Info
        ours = [r for r in caplog.records if r.name.startswith("volatility_guestdump.")]
        reasons = [each for each in ours if path.name in each.getMessage()]
        assert reasons or length < ENOUGH[kind], (length, caplog.messages)
        assert not [each for each in caplog.records if each.exc_info], length
        assert "Automagic exception" not in caplog.text, length
