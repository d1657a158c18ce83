# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What a Linux kernel says of itself, on memory made by hand."""

import struct
from typing import Any, cast

import pytest

from tests.handmade.btf import BtfBuilder
from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.finding.image import Run
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.symbols.kallsyms import Encoding, Kallsyms
from volatility_guestdump.x86.paging import PageTables, PagingMode

START = 0xFFFFFFFF82000000
BUILD_ID = bytes(range(20))
BANNER = b"Linux version 6.1.0-test (somebody@somewhere) (gcc) #1 SMP"


def kernel(content: bytes = b"", *names: str, mapped: bool = True) -> LinuxKernel:
    """Returns a kernel with some memory, and with symbols for its start and its end.

    Args:
        content: of the memory.
        names: of the symbols.
        mapped: whether its page tables map the page before the memory too.
    """
    pages = {START: 0x1000, **({START - 0x1000: 0x0} if mapped else {})}
    memory = bytes(0x1000) + content

    class Tables:
        mode = PagingMode.FOUR_LEVEL

        def translate(self, address: int) -> tuple[int, int]:
            for start, physical in pages.items():
                if start <= address < start + max(0x1000, len(content)):
                    return physical + address - start, 0x1000
            raise AddressError(address)

        def read_physical(self, address: int, length: int) -> bytes:
            if address + length > len(memory):
                raise AddressError(address)
            return memory[address : address + length]

        def read(self, address: int, length: int) -> bytes:
            place, _ = self.translate(address)
            return memory[place : place + length]

    symbols = [(name, START + len(content) * number) for number, name in enumerate(names)]
    symbols.append(("_text", START - 0x1000))
    kallsyms = Kallsyms(
        [name for name, _ in symbols],
        "D" * len(symbols),
        {name: number for number, (name, _) in enumerate(symbols)},
        [address for _, address in symbols],
        Encoding.ABSOLUTE,
        {},
    )
    tables = cast(PageTables, cast(Any, Tables()))
    return LinuxKernel(tables, [Run(START, 0x1000, 0x1000)], BANNER, kallsyms)


@pytest.mark.parametrize("mapped", [True, False])
def test_physical_base(mapped: bool) -> None:
    """Where the page with the image's start is not mapped, it is before what is."""
    assert kernel(mapped=mapped).physical_base == 0


def note(name: bytes, kind: int, content: bytes, alignment: int = 4) -> bytes:
    """Returns an ELF note; with an alignment of 8 as linkers write .note.gnu.property."""
    data = struct.pack("<III", len(name), len(content), kind) + name
    data += content
    return data + bytes(-len(data) % alignment)


@pytest.mark.parametrize(
    "before",
    [
        b"",
        note(b"Xen\0", 6, b"linux\0"),
        note(b"GNU\0", 5, bytes(12), alignment=8) + bytes(4),
        note(b"Linux\0\0\0", 0x100, bytes(4)),
    ],
)
def test_build_id(before: bytes) -> None:
    """It is found among other notes, also behind one with an alignment of its own."""
    notes = before + note(b"GNU\0", 3, BUILD_ID) + note(b"Xen\0", 1, bytes(8))
    assert kernel(notes, "__start_notes", "__stop_notes").build_id == BUILD_ID.hex()


@pytest.mark.parametrize("notes", [b"", bytes(64), note(b"GNU\0", 1, BUILD_ID), b"\4\0\0\0" * 9])
def test_no_build_id(notes: bytes) -> None:
    """Without such a note there is none."""
    assert kernel(notes, "__start_notes", "__stop_notes").build_id is None


@pytest.mark.parametrize(
    "names",
    [
        ("__start_BTF", "__stop_BTF"),
        # Up to 5.6
        ("_binary__btf_vmlinux_bin_start", "_binary__btf_vmlinux_bin_end"),
    ],
)
def test_where_btf_is(names: tuple[str, str]) -> None:
    """Its symbols had other names before 5.7."""
    btf = BtfBuilder()
    btf.struct("task_struct", 4096)
    assert kernel(btf.build(), *names).require_types().size_of("task_struct") == 4096


@pytest.mark.parametrize("names", [(), ("__start_BTF",), ("a", "b")])
def test_no_btf(names: tuple[str, ...]) -> None:
    """A kernel that was built without it says so."""
    without = kernel(b"", *names)
    for _ in range(2):
        with pytest.raises(BtfError, match="no type information"):
            assert without.btf
    assert without.types is None and without.modules is None
