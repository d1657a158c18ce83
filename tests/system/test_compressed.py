# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Pairs as ESXi leaves them: compressed, in part or in whole; and damaged ones."""

import gzip
import lzma
import os
import pathlib
import random
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from volatility3.framework import contexts
from volatility3.framework.layers import physical

from tests.conftest import Vol
from tests.helpers import IDLE_VCPU, info, real_guest, rows, write_pair
from tests.lab import Guest
from volatility_guestdump.exceptions import MediumError, MemoryFileError
from volatility_guestdump.files.memory_file import MemoryFile
from volatility_guestdump.framework import reasons
from volatility_guestdump.framework.formats import GuestDumpStacker

PAGE = 4096
REGIONS = [(0, 2 * PAGE), (0x10000, 2 * PAGE)]
MEMORY = b"".join(bytes([number]) * PAGE for number in (1, 2, 3, 4))


@pytest.fixture(scope="module")
def compressed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Guest, pathlib.Path]]:
    """A real guest with a hole, and a folder with both of its files compressed."""
    guest = real_guest("hole-pti")
    folder = tmp_path_factory.mktemp("compressed")
    for path in (guest.guest_path, guest.vmem_path):
        with path.open("rb") as plain, gzip.open(folder / f"{path.name}.gz", "wb", 1) as packed:
            shutil.copyfileobj(plain, packed, 1 << 20)
    yield guest, folder
    shutil.rmtree(folder)


PLUGINS = ("linux.pslist", "linux.lsof", "guestdump.Info")


@pytest.fixture(scope="module")
def printed(vol: Vol, compressed: tuple[Guest, pathlib.Path]) -> list[list[dict[str, Any]]]:
    """What each of the plugins prints of the guest's own files."""
    given = compressed[0].guest_path
    return [rows(vol("-r", "json", "-f", given, plugin)) for plugin in PLUGINS]


@pytest.mark.parametrize("guest_suffix", ["", ".gz"])
@pytest.mark.parametrize("memory_suffix", ["", ".gz"])
def test_all_mixes_print_the_same(
    vol: Vol,
    printed: list[list[dict[str, Any]]],
    compressed: tuple[Guest, pathlib.Path],
    tmp_path: pathlib.Path,
    guest_suffix: str,
    memory_suffix: str,
) -> None:
    """Plain or compressed, each file for itself, makes no difference to what is printed."""
    guest, folder = compressed
    for path, suffix in ((guest.guest_path, guest_suffix), (guest.vmem_path, memory_suffix)):
        source = folder / f"{path.name}.gz" if suffix else path
        (tmp_path / f"{path.name}{suffix}").symlink_to(source)
    given = tmp_path / f"debug.guest{guest_suffix}"
    shown = [rows(vol("-r", "json", "-f", given, plugin)) for plugin in PLUGINS]
    assert all(printed)
    for part, path in (
        (printed, guest.vmem_path),
        (shown, tmp_path / f"debug.vmem{memory_suffix}"),
    ):
        (row,) = (row for row in part[-1] if row["Variable"] == "Memory file")
        assert row["Value"] == f"{path.as_uri()} (complete)"
    without_path = [
        [row for row in part if row.get("Variable") != "Memory file"] for part in (*printed, *shown)
    ]
    assert without_path[: len(PLUGINS)] == without_path[len(PLUGINS) :]


def test_compressed_memory_as_input(vol: Vol, compressed: tuple[Guest, pathlib.Path]) -> None:
    """-f debug.vmem.gz finds debug.guest.gz beside it."""
    guest, folder = compressed
    expected = vol("-f", guest.guest_path, "linux.pslist").stdout
    done = vol("-f", folder / "debug.vmem.gz", "linux.pslist")
    assert (done.stdout, done.stderr) == (expected, "")


def test_volatility_asks_for_the_size_of_compressed_memory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does for a line of its log, for which it would decompress the whole file."""
    vmem = write_pair(tmp_path, MEMORY, regions=REGIONS).with_suffix(".vmem")
    path = vmem.with_suffix(".vmem.gz")
    path.write_bytes(gzip.compress(vmem.read_bytes()))
    vmem.unlink()
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    file = physical.FileLayer(context, "file", "FileLayer")
    context.layers.add_layer(file)
    assert GuestDumpStacker.stack(context, "FileLayer") is not None
    monkeypatch.delattr(gzip.GzipFile, "read")
    monkeypatch.delattr(gzip.GzipFile, "seek")
    assert file.maximum_address == len(MEMORY) - 1


def test_the_index_is_kept_checked_and_cleared(
    vol: Vol, compressed: tuple[Guest, pathlib.Path], tmp_path: pathlib.Path
) -> None:
    """One index is kept for the file; a broken one is made anew; --clear-cache takes it away."""
    _, folder = compressed
    arguments = ("-r", "json", "-f", folder / "debug.guest.gz", "guestdump.Info")
    expected = rows(vol(*arguments, cache=tmp_path))
    (index,) = tmp_path.glob("guestdump_*.cache")
    content = index.read_bytes()
    for broken in (b"", b"nonsense" * 1000, content[: len(content) // 2]):
        index.write_bytes(broken)
        assert rows(vol(*arguments, cache=tmp_path)) == expected
        assert index.read_bytes() == content
    index.unlink()
    stale = tmp_path / "guestdump_of_another_file.cache"
    stale.write_bytes(b"old")
    vol("--clear-cache", "-f", folder / "debug.guest.gz", "guestdump.Registers", cache=tmp_path)
    assert not stale.exists()


def test_a_cache_that_cannot_be_written(
    compressed: tuple[Guest, pathlib.Path], monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    """Without a place for the index the memory is read all the same."""
    guest, folder = compressed
    monkeypatch.setattr("volatility3.framework.constants.CACHE_PATH", str(tmp_path / "missing"))
    file = MemoryFile((folder / "debug.vmem.gz").as_uri())
    assert file.size == guest.vmem_path.stat().st_size
    with guest.vmem_path.open("rb") as plain:
        for offset in (0, 4095, 1 << 20, (100 << 20) + 123, file.size - 5000):
            plain.seek(offset)
            assert file.read(offset, 5000) == plain.read(5000)


def test_members_that_follow_each_other(tmp_path: pathlib.Path) -> None:
    """A gzip file of several members is all of them."""
    packed = b"".join(
        gzip.compress(MEMORY[start : start + 6000]) for start in range(0, 16384, 6000)
    )
    guest = write_pair(tmp_path, None, regions=REGIONS)
    guest.with_name("debug.vmem.gz").write_bytes(packed)
    file = MemoryFile(guest.with_name("debug.vmem.gz").as_uri())
    assert file.size == len(MEMORY) and file.read(0, len(MEMORY)) == MEMORY
    assert file.read(5990, 20) == MEMORY[5990:6010]


@pytest.mark.parametrize("damage", ["cut off", "changed", "no gzip"])
def test_damaged_compressed_memory_is_said(vol: Vol, tmp_path: pathlib.Path, damage: str) -> None:
    """The message names the file; the registers are shown all the same."""
    vcpus = [{**IDLE_VCPU, "rip": 0x1234}]
    guest = write_pair(tmp_path, None, regions=[(0, 1 << 22)], vcpus=vcpus)
    packed = bytearray(gzip.compress(os.urandom(1 << 22)))
    if damage == "cut off":
        packed = packed[: len(packed) // 2]
    elif damage == "changed":
        packed[len(packed) // 2 : len(packed) // 2 + 50] = bytes(50)
    else:
        packed = bytearray(b"\x1f\x8b\x08" + b"not gzip at all" * 100)
    guest.with_name("debug.vmem.gz").write_bytes(packed)
    done = vol("-r", "json", "-f", guest, "guestdump.Registers")
    assert [row["Value"] for row in rows(done) if row["Register"] == "rip"] == [0x1234]
    assert "debug.vmem.gz: damaged or cut off behind 0x" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("missing", [1, 8, 9, 100, 1000, 5000, 40000, 200000])
@pytest.mark.parametrize("zeros_first", [True, False])
def test_compressed_memory_without_its_end(
    tmp_path: pathlib.Path, missing: int, zeros_first: bool
) -> None:
    """Wherever it is cut off, it does not pass for a shorter file that is whole."""
    parts = [gzip.compress(random.Random(7).randbytes(1 << 20), 1), gzip.compress(bytes(8 << 20))]
    packed = b"".join(reversed(parts) if zeros_first else parts)
    path = tmp_path / "debug.vmem.gz"
    path.write_bytes(packed)
    assert MemoryFile(path.as_uri()).size == 9 << 20
    path.write_bytes(packed[:-missing])
    with pytest.raises(MemoryFileError, match=r"debug\.vmem\.gz: damaged or cut off behind 0x"):
        MemoryFile(path.as_uri())


def test_without_the_library(
    vol: Vol, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message says what to install; nothing else fails."""
    (tmp_path / "rapidgzip.py").write_text("raise ImportError('not installed')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    guest = write_pair(tmp_path, None, regions=REGIONS)
    guest.with_name("debug.vmem.gz").write_bytes(gzip.compress(MEMORY))
    done = vol("-f", guest, "guestdump.Registers")
    assert done.returncode == 0 and "pip install rapidgzip" in done.stderr
    guest.with_suffix(".vmem").write_bytes(MEMORY)
    done = vol("-f", guest, "guestdump.Registers")
    assert done.returncode == 0 and done.stderr == ""


def test_memory_with_another_name(vol: Vol, tmp_path: pathlib.Path) -> None:
    """--guest-memory names it, for every plugin."""
    guest = real_guest("hole-pti")
    (tmp_path / "of-case-17.guest").symlink_to(guest.guest_path)
    (tmp_path / "memory of case 17").symlink_to(guest.vmem_path)
    given = ("-f", tmp_path / "of-case-17.guest", "--guest-memory", tmp_path / "memory of case 17")
    expected = vol("-f", guest.guest_path, "linux.pslist").stdout
    assert expected and vol(*given, "linux.pslist").stdout == expected
    shown = info(vol("-r", "json", *given, "guestdump.Info"))
    assert shown["Memory file"].endswith("/memory%20of%20case%2017 (complete)")


def test_a_name_that_is_wrong(vol: Vol, tmp_path: pathlib.Path) -> None:
    """What --guest-memory names is not there: that is said, and registers are shown."""
    guest = write_pair(tmp_path, None, regions=[(0, 1 << 22)])
    done = vol("-r", "json", "--guest-memory", "nope.vmem", "-f", guest, "guestdump.Registers")
    assert rows(done) and "nope.vmem: no such file" in done.stderr
    done = vol("-r", "json", "--guest-memory", guest, "-f", guest, "guestdump.Registers")
    assert rows(done) and "debug.guest is not its own memory" in done.stderr


def test_other_compression(vol: Vol, tmp_path: pathlib.Path) -> None:
    """There is no random access to it, and minutes of waiting are no answer."""
    guest = write_pair(tmp_path, None, regions=[(0, 1 << 22)])
    memory = tmp_path / "memory.xz"
    memory.write_bytes(lzma.compress(bytes(1 << 22)))
    done = vol("-r", "json", "--guest-memory", memory, "-f", guest, "guestdump.Info")
    assert info(done) and "memory.xz is compressed by xz: unpack it first (unxz)" in done.stderr


def test_memory_of_another_guest(vol: Vol, tmp_path: pathlib.Path) -> None:
    """Files that do not belong together are told by the page tables."""
    ours = real_guest("hole-pti")
    # Not that of a real guest: now and then one has page tables at the very same place.
    memory = tmp_path / "other.vmem"
    with memory.open("wb") as stream:
        stream.truncate(ours.vmem_path.stat().st_size)
    arguments = ("-r", "json", "--guest-memory", memory, "-f", ours.guest_path, "guestdump.Info")
    done = vol(*arguments)
    assert info(done)["Operating system"] == "-"
    assert "has the page tables of no vCPU of debug.guest" in done.stderr


def test_memory_that_is_a_folder(vol: Vol, tmp_path: pathlib.Path) -> None:
    """What cannot be read is named, with the reason."""
    guest = write_pair(tmp_path, None, regions=REGIONS)
    guest.with_suffix(".vmem").mkdir()
    done = vol("-f", guest, "guestdump.Registers")
    assert done.returncode == 0
    assert "debug.vmem: Is a directory" in done.stderr or "debug.vmem: Permission" in done.stderr


@pytest.mark.skipif(not hasattr(os, "pread"), reason="the error is made in pread")
def test_an_error_of_the_medium(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of the file names the file and the place."""
    path = tmp_path / "debug.vmem"
    path.write_bytes(MEMORY)
    file = MemoryFile(path.as_uri())
    read = os.pread

    def failing(descriptor: int, length: int, offset: int) -> bytes:
        if offset + length > 0x2000:
            raise OSError(5, "Input/output error")
        return read(descriptor, length, offset)

    monkeypatch.setattr(os, "pread", failing)
    assert file.read(0, 0x2000) == MEMORY[:0x2000]
    with pytest.raises(MediumError, match=r"debug\.vmem: 16 bytes at 0x2ff8: .*Input/output"):
        file.read(0x2FF8, 16)


def test_a_flipped_byte_in_a_compressed_guest_file(
    tmp_path: pathlib.Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Each gives a layer, or a message with the file's name."""
    guest = write_pair(tmp_path, MEMORY)
    whole = gzip.compress(guest.read_bytes(), mtime=0)
    guest.unlink()
    path = tmp_path / "debug.guest.gz"
    refused = 0
    for place in range(len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        caplog.clear()
        # A run of a plugin begins: what was said in the one before may be said again.
        reasons._warnings.messages.clear()
        context = contexts.Context()
        context.config["file.location"] = path.as_uri()
        context.layers.add_layer(physical.FileLayer(context, "file", "FileLayer"))
        if GuestDumpStacker.stack(context, "FileLayer") is None:
            refused += 1
            assert "debug.guest.gz: " in caplog.text, place
    # All but a few bytes of the header.
    assert refused > len(whole) - 10
