# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Small guest dumps: what Volatility makes of the two files, whole, in parts or of another kind."""

import copy
import os
import pathlib
import pickle
import struct

import pytest
from volatility3 import schemas
from volatility3.framework import contexts, exceptions, interfaces
from volatility3.framework.automagic import windows
from volatility3.framework.layers import intel, physical, scanners

from tests.conftest import Vol
from tests.helpers import IDLE_VCPU, info, rows, write_pair
from volatility_guestdump import resources
from volatility_guestdump.files.physical import PhysicalMemory
from volatility_guestdump.framework.formats import GuestDumpStacker
from volatility_guestdump.framework.intel import GuestDumpIntelLA57
from volatility_guestdump.framework.layers import GuestDumpLayer
from volatility_guestdump.machine import REGISTERS
from volatility_guestdump.sources import debug_guest

PAGE = 4096

#: Two runs of memory, two pages each, with a hole between.
REGIONS = [(0, 2 * PAGE), (0x10000, 2 * PAGE)]
MEMORY = b"".join(bytes([number]) * PAGE for number in (1, 2, 3, 4))


def stack(path: pathlib.Path) -> interfaces.layers.DataLayerInterface:
    """Returns what our stacker puts on a file, or the file's own layer."""
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    file = physical.FileLayer(context, "file", "FileLayer")
    context.layers.add_layer(file)
    layer = GuestDumpStacker.stack(context, file.name)
    if layer is None:
        return file
    context.layers.add_layer(layer)
    return layer


def dump_layer(path: pathlib.Path) -> GuestDumpLayer:
    """Returns the layer of a guest dump."""
    layer = stack(path)
    assert isinstance(layer, GuestDumpLayer)
    return layer


@pytest.mark.parametrize("name", ["debug.guest", "case-17.guest", "a file of a guest.guest"])
def test_memory_has_its_holes(tmp_path: pathlib.Path, name: str) -> None:
    """Reads come from the right place in the file, and not at all from a hole or the end."""
    layer = dump_layer(write_pair(tmp_path, MEMORY, regions=REGIONS, name=name))
    assert (layer.minimum_address, layer.maximum_address) == (0, 0x10000 + 2 * PAGE - 1)
    assert layer.read(PAGE - 1, 2) == b"\1\2"
    assert layer.read(0x10000, 1) == b"\3"
    assert layer.read(0x11FFF, 1) == b"\4"
    for address, length in ((2 * PAGE, 1), (2 * PAGE - 1, 2), (0x12000, 1), (0xFFFF, 2)):
        assert not layer.is_valid(address, length)
        with pytest.raises(exceptions.InvalidAddressException):
            layer.read(address, length)
    assert layer.is_valid(0, 2 * PAGE) and layer.is_valid(0x10000, 2 * PAGE)
    padded = layer.read(2 * PAGE - 1, 0x10000 - 2 * PAGE + 2, pad=True)
    assert padded == b"\2" + bytes(0x10000 - 2 * PAGE) + b"\3"
    assert layer.read(0x11FFF, 3, pad=True) == b"\4\0\0"


def test_mapping_leads_to_the_memory_file(tmp_path: pathlib.Path) -> None:
    """The layer tells where in debug.vmem each piece lies, as other layers do."""
    layer = dump_layer(write_pair(tmp_path, MEMORY, regions=REGIONS))
    pieces = [
        (start, size, mapped) for start, size, mapped, _, _ in layer.mapping(0, 0x12000, True)
    ]
    assert pieces == [(0, 2 * PAGE, 0), (0x10000, 2 * PAGE, 2 * PAGE)]


def test_either_file_leads_to_the_same_layer(tmp_path: pathlib.Path) -> None:
    """-f X.vmem with X.guest beside it is like -f X.guest."""
    guest = write_pair(tmp_path, MEMORY, regions=REGIONS)
    layers = [dump_layer(path) for path in (guest, guest.with_suffix(".vmem"))]
    assert layers[0].machine.identity == layers[1].machine.identity
    assert layers[0].read(0x10000, 8) == layers[1].read(0x10000, 8)


def test_a_snapshot_is_left_alone(tmp_path: pathlib.Path) -> None:
    """A .vmem with a .vmsn belongs to Volatility's VMware layer."""
    guest = write_pair(tmp_path, MEMORY, regions=REGIONS)
    guest.with_suffix(".vmsn").write_bytes(b"snapshot")
    assert isinstance(stack(guest.with_suffix(".vmem")), physical.FileLayer)


def test_name_without_suffix(tmp_path: pathlib.Path) -> None:
    """A guest dump is recognised whatever its name; its memory is looked for beside it."""
    guest = write_pair(tmp_path, MEMORY, regions=REGIONS)
    guest.rename(tmp_path / "case-17")
    guest.with_suffix(".vmem").rename(tmp_path / "case-17.vmem")
    assert dump_layer(tmp_path / "case-17").read(0x10000, 1) == b"\3"


@pytest.mark.parametrize("content", [b"", b"\6", b"MZ" * 5000, bytes(100000), b"\6\0\0\0" * 3000])
def test_other_files_are_left_alone(
    tmp_path: pathlib.Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """A file that is no guest dump is passed over in silence, unless it is named like one."""
    for name in ("memory.raw", "debug.guest"):
        path = tmp_path / name
        path.write_bytes(content)
        caplog.clear()
        assert isinstance(stack(path), physical.FileLayer)
        said = [each.message for each in caplog.records if each.levelname == "WARNING"]
        assert len(said) == (name == "debug.guest") and all(name in each for each in said)


def test_a_damaged_guest_file_is_said(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One byte short of a guest dump is a damaged one, with the reason; what is there is used."""
    guest = write_pair(tmp_path, MEMORY, regions=REGIONS)
    guest.write_bytes(guest.read_bytes()[:-1])
    layer = stack(guest)
    assert isinstance(layer, GuestDumpLayer)
    assert [vcpu.lacks(*REGISTERS) for vcpu in layer.machine.vcpus] == [()]
    assert "debug.guest is not as it should be: 4565 bytes" in caplog.text
    assert "incomplete" in caplog.text


@pytest.mark.skipif(not hasattr(os, "pread"), reason="the error is made in pread")
def test_one_page_that_cannot_be_read(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An error of the medium costs that page, and neither a larger read nor a scan; it is said."""
    layer = dump_layer(write_pair(tmp_path, MEMORY, regions=REGIONS))
    bad, read = range(PAGE, 2 * PAGE), os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset < bad.stop and offset + length > bad.start:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    monkeypatch.setattr(PhysicalMemory, "_populate", lambda self, start, length: False)
    with pytest.raises(exceptions.InvalidAddressException):
        layer.read(PAGE + 8, 8)
    assert layer.read(0, 2 * PAGE, pad=True) == MEMORY[:PAGE] + bytes(PAGE)
    # Over the hole too, and from the layer below.
    assert layer.read(PAGE - 1, 0x10001 - PAGE + 1, pad=True) == b"\1" + bytes(0xF000) + b"\3"
    below = layer.context.layers[str(layer.config["base_layer"])]
    assert below.read(PAGE - 1, PAGE + 2, pad=True) == b"\1" + bytes(PAGE) + b"\3"
    with pytest.raises(exceptions.InvalidAddressException):
        below.read(0, 2 * PAGE)
    found = set(layer.scan(layer.context, scanners.BytesScanner(b"\4" * 8)))
    assert 0x10000 + PAGE in found
    assert caplog.text.count("Memory cannot be read") == 1


def test_short_memory_is_read_as_far_as_it_goes(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The warning says how much is missing and from where on; the rest is there."""
    layer = dump_layer(write_pair(tmp_path, MEMORY[: 3 * PAGE], regions=REGIONS))
    assert "incomplete" in caplog.text and "0x11000" in caplog.text
    assert layer.read(0x10000, PAGE) == b"\3" * PAGE
    assert not layer.is_valid(0x11000)
    assert layer.machine.origin.missing_memory == PAGE


def test_surplus_memory_is_ignored(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What a memory file has too much cannot be read."""
    layer = dump_layer(write_pair(tmp_path, MEMORY + b"\5" * PAGE, regions=REGIONS))
    assert "surplus" in caplog.text
    assert layer.maximum_address == 0x11FFF and not layer.is_valid(0x12000)


def test_layers_survive_copies_and_pickling(tmp_path: pathlib.Path) -> None:
    """Contexts are cloned, and sent to other processes."""
    layer = dump_layer(write_pair(tmp_path, MEMORY, regions=REGIONS))
    layer.read(0, 1)
    for context in (layer.context.clone(), pickle.loads(pickle.dumps(layer.context))):
        assert context.layers[layer.name].read(0x10000, 4) == b"\3\3\3\3"
    assert copy.deepcopy(layer.machine) == layer.machine


@pytest.mark.parametrize("version", [1, 3, 4, 5, 6, 7])
def test_structures_stand_in_the_symbol_space(tmp_path: pathlib.Path, version: int) -> None:
    """Volshell can show a vCPU's record, and its objects read what the reader reads."""
    vcpu = {**IDLE_VCPU, "rip": 0x1122334455667788, "cr3": 0xABC000}
    layer = dump_layer(write_pair(tmp_path, MEMORY, version=version, vcpus=[vcpu]))
    (table,) = layer.context.symbol_space
    size = layer.context.symbol_space.get_type(f"{table}!guest_vcpu").size
    record = layer.context.object(
        f"{table}!guest_vcpu",
        layer_name="FileLayer",
        offset=(tmp_path / "debug.guest").stat().st_size - size,
    )
    assert (record.rip, record.cr3) == (0x1122334455667788, 0xABC000)
    assert layer.machine.vcpus[0].registers["rip"] == 0x1122334455667788


def test_structures_conform_to_the_schema() -> None:
    """Volatility does not check them again at each run."""
    document = resources.read_json(debug_guest.STRUCTURES)
    assert schemas.validate(document, use_cache=False)


def test_volshell_shows_the_structures(vol: Vol, tmp_path: pathlib.Path) -> None:
    """dt() of volshell knows them by name."""
    guest = write_pair(tmp_path, MEMORY, regions=REGIONS)
    done = vol("-f", guest, name="volshell", stdin='dt("guestdump1!guest_vcpu")\nexit()\n')
    assert "idt_base" in done.stdout, done.stdout + done.stderr


def test_registers_without_memory(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Registers and Info need no debug.vmem; that it is missing is said."""
    vcpus = [{**IDLE_VCPU, "rip": number, "rflags": 0x246} for number in range(3)]
    guest = write_pair(tmp_path, None, regions=REGIONS, vcpus=vcpus)
    done = vol("-r", "json", "-f", guest, "guestdump.Registers", "--vcpu", 2, 1)
    shown = rows(done)
    assert {row["vCPU"] for row in shown} == {1, 2}
    assert [row["Value"] for row in shown if row["Register"] == "rip"] == [1, 2]
    assert {row["Decoded"] for row in shown if row["Register"] == "rflags"} == {"PF ZF IF"}
    assert "debug.vmem or debug.vmem.gz: no such file" in done.stderr
    variables = info(vol("-r", "json", "-f", guest, "guestdump.Info"))
    assert variables["Memory file"].endswith("debug.vmem (missing)")
    assert variables["Paging"] == "off"
    assert variables["Kernel banner"] == "-"


def test_linux_plugins_without_memory(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Without memory a Linux plugin ends with the reason, and no traceback."""
    done = vol("-f", write_pair(tmp_path, None, regions=REGIONS), "linux.pslist")
    assert done.returncode != 0
    assert (
        "debug.vmem or debug.vmem.gz: no such file" in done.stderr
        and "Traceback" not in done.stderr
    )


def test_plugins_on_other_files(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Our plugins say that a file is no guest dump, without scanning it."""
    path = tmp_path / "memory.raw"
    path.write_bytes(bytes(PAGE))
    done = vol("-f", path, "guestdump.Info")
    assert done.returncode != 0
    assert "A guest dump" in done.stdout and "Traceback" not in done.stderr


def test_many_vcpus(vol: Vol, tmp_path: pathlib.Path) -> None:
    """All registers of 768 vCPUs are printed."""
    vcpus = [{**IDLE_VCPU, "rsp": number} for number in range(768)]
    guest = write_pair(tmp_path, MEMORY, regions=REGIONS, vcpus=vcpus)
    shown = rows(vol("-r", "json", "-f", guest, "guestdump.Registers"))
    assert [row["Value"] for row in shown if row["Register"] == "rsp"] == list(range(768))
    assert info(vol("-r", "json", "-f", guest, "guestdump.Info"))["vCPUs"] == "768"


def windows_memory() -> bytes:
    """Returns memory with a page map as Windows builds it: it refers to itself at one index.

    Volatility's WindowsIntelStacker looks for such a page between 0x1a0000 and 0x1b0000, and
    then for the page that Windows shares between kernel and user space.
    """
    memory = bytearray(4 << 20)
    root, pointers, directory, table, shared = (0x1AD000 + PAGE * number for number in range(5))

    def entry(place: int, index: int, target: int) -> None:
        struct.pack_into("<Q", memory, place + 8 * index, target | 0x63)

    entry(root, 0x1ED, root)
    for address in (0xFFFFF78000000000, 0x7FFE0000):
        entry(root, address >> 39 & 0x1FF, pointers)
        entry(pointers, address >> 30 & 0x1FF, directory)
        entry(directory, address >> 21 & 0x1FF, table)
        entry(table, address >> 12 & 0x1FF, shared)
    return bytes(memory)


def test_windows_stacker_finds_the_page_map(tmp_path: pathlib.Path) -> None:
    """To Volatility's Windows stacker a GuestDumpLayer is physical memory like any other."""
    regions = [(0, 2 << 20), (1 << 32, 2 << 20)]
    dump = dump_layer(write_pair(tmp_path, windows_memory(), regions=regions))
    layer = windows.WindowsIntelStacker.stack(dump.context, dump.name)
    assert isinstance(layer, intel.WindowsIntel32e)
    assert layer.config["page_map_offset"] == 0x1AD000
    assert layer.config["memory_layer"] == dump.name


def test_windows_plugins_get_the_dump(vol: Vol, tmp_path: pathlib.Path) -> None:
    """windows.* reaches the layer and then only lacks the kernel, which is not there."""
    guest = write_pair(tmp_path, windows_memory())
    done = vol("-vvvv", "-f", guest, "windows.info")
    assert "Stacked GuestDumpLayer using GuestDumpStacker" in done.stderr
    assert "using WindowsIntelStacker" in done.stderr
    assert "No metadata file" not in done.stderr


def test_five_level_layer_translates() -> None:
    """The layer that Volatility lacks walks one more table and covers 57 bits."""
    memory = bytearray(6 * PAGE)
    address = 0xFF11000000000000 | 3 << 39 | 4 << 30 | 5 << 21 | 6 << 12
    for level, shift in enumerate((48, 39, 30, 21, 12)):
        index = address >> shift & 0x1FF
        struct.pack_into("<Q", memory, level * PAGE + 8 * index, (level + 1) * PAGE | 0x63)
    memory[5 * PAGE : 5 * PAGE + 4] = b"LA57"
    context = contexts.Context()
    context.layers.add_layer(physical.BufferDataLayer(context, "raw", "raw", bytes(memory)))
    context.config["top.memory_layer"] = "raw"
    context.config["top.page_map_offset"] = 0
    layer = GuestDumpIntelLA57(context, "top", "top")
    assert layer.read(address & layer.address_mask, 4) == b"LA57"
    assert layer.metadata["architecture"] == "Intel64"
    with pytest.raises(exceptions.PagedInvalidAddressException):
        layer.read((address & layer.address_mask) + PAGE, 1)
