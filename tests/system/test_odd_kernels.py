# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernels that were built otherwise than most, on real guests."""

import pytest

from tests.conftest import Vol
from tests.helpers import guest_machine, guests, info, real_guest, rows
from volatility_guestdump import kernels, words
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.exceptions import KernelError
from volatility_guestdump.guest import system
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.linux.symbols.kallsyms import Kallsyms
from volatility_guestdump.machine import Machine


def _machine(name: str) -> Machine:
    return guest_machine(real_guest(name))


def with_code_alone(kernel: LinuxKernel) -> LinuxKernel:
    """Returns the kernel as it would be without CONFIG_KALLSYMS_ALL (scripts/kallsyms.c)."""
    assert kernel.kallsyms is not None
    ends = ("_etext", "_einittext")
    bounds = [
        (kernel.address(start) or 0, kernel.address(end) or 0)
        for start, end in zip(("_stext", "_sinittext"), ends)
    ]
    kept = [
        symbol
        for symbol in kernel.kallsyms
        # Of the symbols at the end only the one that marks it.
        if any(start <= symbol.address < end for start, end in bounds) or symbol.name in ends
    ]
    assert 1000 < len(kept) < len(kernel.kallsyms)
    kallsyms = Kallsyms(
        [symbol.name for symbol in kept],
        "".join(symbol.type for symbol in kept),
        {symbol.name: number for number, symbol in enumerate(kept)},
        [symbol.address for symbol in kept],
        kernel.kallsyms.encoding,
        {},
    )
    return LinuxKernel(kernel.tables, kernel.runs, kernel.banner, kallsyms)


@pytest.mark.parametrize("name", guests("5.10", "hole-pti", "6.12", "newest", "next"))
def test_symbols_of_code_alone(name: str) -> None:
    """Its traces are those that it has with all symbols, its types and KASLR's shift are known."""
    machine = _machine(name)
    whole = kernels.linux_kernel(machine)
    assert whole is not None
    part = with_code_alone(whole)
    assert part.has_code_alone and not whole.has_code_alone
    assert part.kaslr_shift == whole.kaslr_shift
    assert part.types is not None and len(part.btf) == len(whole.btf)
    for vcpu in machine.vcpus:
        frames = Stacks(part, machine.vcpus).of_vcpu(vcpu).frames
        assert frames == Stacks(whole, machine.vcpus).of_vcpu(vcpu).frames
    with pytest.raises(KernelError, match="symbol table has code alone"):
        IsfView(part)
    stacks = Stacks(part, machine.vcpus)
    shown = dict(words.kernel_rows(system.linux_facts(machine, part, stacks, None, Attempts())))
    assert shown["Symbols"] == (
        "kallsyms and BTF in the dump: the kernel's symbol table has code alone "
        "(CONFIG_KALLSYMS_ALL is not set); plugins need an ISF for this banner"
    )


def test_a_32_bit_kernel_of_code_alone(vol: Vol) -> None:
    """What is missing is said once before what Volatility says, and once as the last line."""
    guest = real_guest("i686-pae")
    done = vol("-f", guest.guest_path, "linux.pslist")
    assert done.returncode == 1
    reason = "No symbols for this guest: the kernel has no type information (BTF), and its symbol"
    assert done.stderr.splitlines()[-1].startswith(f"volatility_guestdump: {reason}")
    assert done.stderr.splitlines()[-1].endswith(guest.expected["banner"])
    shown = info(vol("-r", "json", "-f", guest.guest_path, "guestdump.Info"))
    # By the header that the boot loader passed on.
    assert shown["KASLR shift"] == guest.expected["kernel_offset"]
    assert "CONFIG_KALLSYMS_ALL is not set" in shown["Symbols"]
    # The kernel's stacks of 32 bits are not unwound: no place is given for who panicked.
    assert "+0x" not in shown["Panic task"]


def test_a_kernel_that_does_not_tell_its_shift(vol: Vol) -> None:
    """UEFI's stub passes no header on; VMCOREINFO tells it, and without that it is not known."""
    kernel = kernels.linux_kernel(_machine("uefi"))
    assert kernel is not None and kernel.kaslr_shift is not None
    part = with_code_alone(kernel)
    assert part.kaslr_shift is None
    assert part.symbol_shift == kernel.kaslr_shift
    found = rows(vol("-r", "json", "-f", real_guest("uefi").guest_path, "linux.pslist"))
    assert {row["PID"] for row in found} >= {1, 2}
