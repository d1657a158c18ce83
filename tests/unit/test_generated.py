# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Code that the kernel made while it ran, in memory made by hand."""

import struct

import pytest

from tests.handmade.kernel import HandmadeKernel, types
from volatility_guestdump.linux.stacks.generated import GeneratedCode

OPS, PROGRAMS = 0x1000, 0x4000
FTRACE_CALLER, FTRACE_REGS_CALLER = 0x20000, 0x21000
TRAMPOLINE, COPY = 0xC0010000, 0xC0020000
HEAD = bytes(range(16))
REGS_HEAD = bytes(range(100, 116))

LAYOUT = {
    "ftrace_ops": (40, {"next": (8, 8), "trampoline": (16, 8), "trampoline_size": (24, 8)}),
    "bpf_ksym": (48, {"start": (0, 8), "end": (8, 8), "name": (16, 0), "lnode": (32, 8)}),
}


def made() -> HandmadeKernel:
    """Returns a kernel with two trampolines and two programs."""
    kernel = HandmadeKernel(
        types(LAYOUT),
        ftrace_ops_list=OPS,
        ftrace_list_end=OPS + 0x300,
        bpf_kallsyms=PROGRAMS,
        ftrace_caller=FTRACE_CALLER,
        ftrace_regs_caller=FTRACE_REGS_CALLER,
    )
    for place, head in (
        (FTRACE_CALLER, HEAD),
        (FTRACE_REGS_CALLER, REGS_HEAD),
        (TRAMPOLINE, HEAD),
        (COPY, REGS_HEAD),
    ):
        kernel.write(place, head)
    kernel.put(OPS, OPS + 0x100)
    # One has no trampoline.
    kernel.put(OPS + 0x100, 0, OPS + 0x180, TRAMPOLINE, 0xD0)
    kernel.put(OPS + 0x180, 0, OPS + 0x200, 0, 0)
    kernel.put(OPS + 0x200, 0, OPS + 0x300, COPY, 0x158)
    kernel.put(PROGRAMS, PROGRAMS + 0x120)
    for number, name in enumerate((b"bpf_prog_one", b"bpf_prog\x1btwo")):
        symbol = PROGRAMS + 0x100 * (number + 1)
        kernel.put(symbol, 0xC0030000 + 0x100 * number, 0xC0030080 + 0x100 * number)
        kernel.write(symbol + 16, name.ljust(16, b"\0"))
        kernel.put(symbol + 32, PROGRAMS + 0x100 * (number + 2) + 32)
    kernel.put(PROGRAMS + 0x220, PROGRAMS)
    return kernel


def code(kernel: HandmadeKernel) -> GeneratedCode:
    """Returns the code that a kernel made."""
    assert kernel.types is not None
    return GeneratedCode(kernel.kernel, kernel.types)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        (TRAMPOLINE + 0xC8, "ftrace_trampoline+0xc8 [__builtin__ftrace]"),
        (TRAMPOLINE + 0xD0, "None"),
        (COPY, "ftrace_trampoline+0x0 [__builtin__ftrace]"),
        (0xC003000F, "bpf_prog_one+0xf"),
        # A name is made fit for the screen.
        (0xC0030100, "bpf_prog?two+0x0"),
        (0xC0030080, "None"),
    ],
)
def test_names(address: int, shown: str) -> None:
    """Code has the names that the kernel has for it."""
    found = code(made())
    assert str(found.locate(address)) == shown
    assert found.has(address) == (shown != "None")


def test_what_a_trampoline_is_a_copy_of() -> None:
    """Its first bytes tell; without them nothing does."""
    kernel = made()
    found = code(kernel)
    sources = [found.trampoline(place) for place in (TRAMPOLINE, COPY)]
    assert [each and each.source for each in sources] == [FTRACE_CALLER, FTRACE_REGS_CALLER]
    kernel.write(TRAMPOLINE, b"\xcc")
    changed = code(kernel).trampoline(TRAMPOLINE)
    assert changed is not None and changed.source is None


def test_damaged_lists() -> None:
    """What was found before the damage stays; circles end; absurd sizes are no code."""
    kernel = made()
    kernel.put(OPS + 0x180 + 8, OPS + 0x100)
    kernel.put(PROGRAMS + 0x120, 0xDEAD0000)
    found = code(kernel)
    assert found.has(TRAMPOLINE) and not found.has(COPY)
    assert found.has(0xC0030000) and not found.has(0xC0030100)
    kernel.write(OPS + 0x100 + 24, struct.pack("<Q", 1 << 40))
    assert not code(kernel).has(TRAMPOLINE)
