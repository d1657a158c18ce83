# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What registers mean in words."""

from typing import Optional

import pytest

from tests.helpers import IDLE_VCPU
from volatility_guestdump.machine import REGISTERS, VCPU
from volatility_guestdump.x86.paging import PagingMode
from volatility_guestdump.x86.registers import decode, flag_names

KERNEL = 0xFFFFFFFF81000000

OFF, LEGACY, PAE = PagingMode.OFF, PagingMode.LEGACY, PagingMode.PAE
FOUR, FIVE = PagingMode.FOUR_LEVEL, PagingMode.FIVE_LEVEL

#: Names of the bits from 0 up as the manual gives them; "-" for those that are reserved, always
#: set or no flags of their own.
BITS = {
    "rflags": "CF - PF - AF - ZF SF TF IF DF OF - - NT - RF VM AC VIF VIP ID",
    "cr0": "PE MP EM TS ET NE - - - - - - - - - - WP - AM - - - - - - - - - - NW CD PG",
    "cr4": (
        "VME PVI TSD DE PSE PAE MCE PGE PCE OSFXSR OSXMMEXCPT UMIP LA57 VMXE SMXE - FSGSBASE PCIDE "
        "OSXSAVE KL SMEP SMAP PKE CET PKS UINTR - LASS LAM_SUP - - - FRED"
    ),
}


def symbolize(address: int) -> Optional[str]:
    """Names the addresses of a kernel of one page."""
    return f"f+{address - KERNEL:#x}" if KERNEL <= address < KERNEL + 0x1000 else None


def words(
    register: str,
    value: int,
    mode: PagingMode = FOUR,
    user_half: Optional[bool] = None,
    **others: int,
) -> str:
    """Returns what is said of a register of a vCPU in protected mode."""
    registers = {**IDLE_VCPU, "cr0": 1, **others, register: value}
    return decode(VCPU(0, registers), register, mode, user_half, symbolize)


@pytest.mark.parametrize("register", BITS)
def test_every_flag(register: str) -> None:
    """Each bit has its name alone, and all of them stand in order; others have none."""
    names = BITS[register].split()
    for bit in range(64):
        name = names[bit] if bit < len(names) else "-"
        if register == "rflags" and bit in (12, 13):
            name = f"IOPL={1 << bit - 12}"
        assert words(register, 1 << bit) == name.replace("-", "")
    everything = [name for name in names if name != "-"]
    if register == "rflags":
        everything.append("IOPL=3")
    assert flag_names(register, (1 << 64) - 1) == " ".join(everything)
    assert flag_names(register, 0) == ""


def test_flags_of_a_linux_guest() -> None:
    """The values are those that a kernel prints when it panics."""
    assert words("rflags", 0x246) == "PF ZF IF"
    assert words("rflags", 0x3002) == "IOPL=3"
    assert words("cr0", 0x80050033) == "PE MP ET NE WP AM PG"
    assert words("cr4", 0x7506F0) == "PSE PAE MCE PGE OSFXSR OSXMMEXCPT FSGSBASE OSXSAVE SMEP " + (
        "SMAP PKE"
    )


@pytest.mark.parametrize(
    ("cr3", "mode", "cr4", "user_half", "expected"),
    [
        (0x12345000, FOUR, 0, None, "page map 0x12345000"),
        (0x12345000, FOUR, 0, False, "page map 0x12345000"),
        (0x12345018, FOUR, 0x20, False, "page map 0x12345000"),
        (0x12344006, FIVE, 1 << 17, False, "page map 0x12344000, PCID 0x6"),
        (0x12345000, FIVE, 1 << 17, None, "page map 0x12345000, PCID 0x0"),
        (0x12345000, FOUR, 0, True, "page map 0x12345000, user half of 0x12344000"),
        (
            0x8000000012345806,
            FOUR,
            1 << 17,
            True,
            "page map 0x12345000, PCID 0x806, user half of 0x12344000",
        ),
        (0x12345678, PAE, 0x20, None, "page map 0x12345660"),
        (0x12345678, LEGACY, 0, None, "page map 0x12345000"),
        (0x12345000, OFF, 0, None, ""),
    ],
)
def test_cr3(
    cr3: int, mode: PagingMode, cr4: int, user_half: Optional[bool], expected: str
) -> None:
    """The page map, the PCID when there are any, and whose half it is."""
    assert words("cr3", cr3, mode, user_half, cr4=cr4) == expected


VM = 1 << 17


@pytest.mark.parametrize(
    ("selector", "mode", "others", "expected"),
    [
        (0x10, FOUR, {"rip": KERNEL}, "ring 0 (kernel mode), 64-bit"),
        (0x33, FOUR, {"rip": 0x401000}, "ring 3 (user mode), 64-bit"),
        (0x33, FIVE, {"rip": 0x7F0012345678}, "ring 3 (user mode), 64-bit"),
        (0x23, FOUR, {"rip": 0x8048000}, "ring 3 (user mode), 32-bit compatibility mode"),
        (0x23, FIVE, {"rip": 0xFFFFFFFF}, "ring 3 (user mode), 32-bit compatibility mode"),
        (0x23, FOUR, {"rip": 1 << 32}, "ring 3 (user mode), 64-bit"),
        (0x10, FOUR, {"rflags": VM}, "ring 0 (kernel mode), 64-bit"),
        (0x60, PAE, {"rip": 0xC0100000}, "ring 0 (kernel mode), 32-bit"),
        (0x73, LEGACY, {}, "ring 3 (user mode), 32-bit"),
        (0x23, LEGACY, {}, "ring 3 (user mode), 32-bit"),
        (0x61, LEGACY, {}, "ring 1 (kernel mode), 32-bit"),
        (0x08, OFF, {}, "ring 0 (kernel mode), 32-bit"),
        (0xF000, LEGACY, {"rflags": VM}, "ring 3, virtual 8086 mode"),
        (0xF000, OFF, {"cr0": 0x10}, "real mode"),
        (0xF003, OFF, {"cr0": 0, "rflags": VM}, "real mode"),
    ],
)
def test_cs(selector: int, mode: PagingMode, others: dict[str, int], expected: str) -> None:
    """The ring and the width of the code that runs."""
    assert words("cs", selector, mode, None, **others) == expected


@pytest.mark.parametrize(
    ("missing", "selector", "mode", "expected"),
    [
        (["cr0", "rflags"], 0x10, FOUR, "ring 0 (kernel mode), 64-bit"),
        (["rip"], 0x33, FOUR, "ring 3 (user mode), 64-bit"),
        # Code of 32 bits has this selector too.
        (["rip"], 0x23, FOUR, "ring 3 (user mode)"),
        (["rflags"], 0x73, LEGACY, ""),
        (["cr0"], 0x73, LEGACY, ""),
        ([], 0x73, None, ""),
    ],
)
def test_cs_of_some_registers(
    missing: list[str], selector: int, mode: Optional[PagingMode], expected: str
) -> None:
    """What would need a register that is missing is not said."""
    kept = {name: 1 for name in REGISTERS if name not in missing}
    found = VCPU(0, {**kept, "cs": selector, **({"rflags": 2} if "rflags" in kept else {})})
    if "rip" in kept:
        found = VCPU(0, {**found.registers, "rip": KERNEL})
    assert decode(found, "cs", mode, None, symbolize) == expected


@pytest.mark.parametrize("mode", [OFF, FOUR, None])
def test_a_register_that_is_missing(mode: Optional[PagingMode]) -> None:
    """It means nothing, and the others mean what they did."""
    whole = {**dict.fromkeys(REGISTERS, 0x1000), "rip": KERNEL, "cr0": 1}
    for missing in REGISTERS:
        vcpu = VCPU(0, {name: value for name, value in whole.items() if name != missing})
        assert decode(vcpu, missing, mode, None, symbolize) == ""
        if missing != "rip":
            assert decode(vcpu, "rip", mode, None, symbolize) == "f+0x0"


def test_addresses() -> None:
    """Registers that may hold an address have its name; those that cannot have none."""
    special = {"rflags", "cr0", "cr3", "cr4", "cs"}
    never = {"ss", "ds", "es", "fs", "gs"}
    for register in set(REGISTERS) - special:
        expected = "" if register in never else "f+0x123"
        assert words(register, KERNEL + 0x123) == expected
        assert words(register, KERNEL - 1) == ""
    assert not any("f+" in words(register, KERNEL) for register in special)
