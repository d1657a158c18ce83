"""What a Linux kernel says of itself, on memory made by hand."""

import struct
from typing import Any, Optional

import pytest

from tests.handmade.btf import BtfBuilder
from volatility_guestdump.exceptions import AddressError, BtfError
from volatility_guestdump.linux.kernel import LinuxKernel, Run

START = 0xFFFFFFFF82000000
BUILD_ID = bytes(range(20))


class Memory:
    """Memory of a kernel with some symbols."""

    def __init__(self, content: bytes, *names: str) -> None:
        self._content = content
        self._symbols = dict(zip(names, (START, START + len(content))))

    def address(self, symbol: str) -> Optional[int]:
        """Returns the address of a symbol."""
        return self._symbols.get(symbol)

    def read(self, address: int, length: int) -> bytes:
        """Reads memory."""
        return self._content[address - START : address - START + length]


def build_id(kernel: Any) -> Optional[str]:
    """Returns the build id of a kernel."""
    computed: Any = LinuxKernel.build_id
    found: Optional[str] = computed.func(kernel)
    return found


@pytest.mark.parametrize("whole", [True, False])
def test_physical_base(whole: bool) -> None:
    """Where the page with the image's start is not mapped, it is before what is."""

    class Tables:
        @staticmethod
        def translate(address: int) -> tuple[int, int]:
            if not whole:
                raise AddressError(address)
            return 0x9200000, 4096

    kernel: Any = Memory(b"")
    kernel.tables, kernel.virtual_base = Tables, START
    kernel._runs = (Run(START + 0x200000, 0x9400000, 0x1000),)
    computed: Any = LinuxKernel.physical_base
    assert computed.func(kernel) == 0x9200000


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
    kernel: Any = Memory(notes, "__start_notes", "__stop_notes")
    assert build_id(kernel) == BUILD_ID.hex()


@pytest.mark.parametrize("notes", [b"", bytes(64), note(b"GNU\0", 1, BUILD_ID), b"\4\0\0\0" * 9])
def test_no_build_id(notes: bytes) -> None:
    """Without such a note there is none."""
    kernel: Any = Memory(notes, "__start_notes", "__stop_notes")
    assert build_id(kernel) is None


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
    kernel: Any = Memory(btf.build(), *names)
    assert LinuxKernel.read_btf(kernel).size_of("task_struct") == 4096


@pytest.mark.parametrize("names", [(), ("__start_BTF",), ("a", "b")])
def test_no_btf(names: tuple[str, ...]) -> None:
    """A kernel that was built without it says so."""
    kernel: Any = Memory(b"", *names)
    with pytest.raises(BtfError, match="no type information"):
        LinuxKernel.read_btf(kernel)
