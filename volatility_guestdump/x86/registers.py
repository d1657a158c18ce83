# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What the values of a vCPU's registers mean."""

from collections.abc import Mapping
from typing import Callable, Optional

from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.paging import CR4_PCIDE, PTI_USER_HALF, PagingMode

#: Flags by their bits. Source: Intel Software Developer's Manual, volume 1, section 3.4.3 and
#: volume 3, section 2.5.
FLAGS: Mapping[str, Mapping[int, str]] = {
    "rflags": {
        0: "CF",
        2: "PF",
        4: "AF",
        6: "ZF",
        7: "SF",
        8: "TF",
        9: "IF",
        10: "DF",
        11: "OF",
        14: "NT",
        16: "RF",
        17: "VM",
        18: "AC",
        19: "VIF",
        20: "VIP",
        21: "ID",
    },
    "cr0": {
        0: "PE",
        1: "MP",
        2: "EM",
        3: "TS",
        4: "ET",
        5: "NE",
        16: "WP",
        18: "AM",
        29: "NW",
        30: "CD",
        31: "PG",
    },
    "cr4": {
        0: "VME",
        1: "PVI",
        2: "TSD",
        3: "DE",
        4: "PSE",
        5: "PAE",
        6: "MCE",
        7: "PGE",
        8: "PCE",
        9: "OSFXSR",
        10: "OSXMMEXCPT",
        11: "UMIP",
        12: "LA57",
        13: "VMXE",
        14: "SMXE",
        16: "FSGSBASE",
        17: "PCIDE",
        18: "OSXSAVE",
        19: "KL",
        20: "SMEP",
        21: "SMAP",
        22: "PKE",
        23: "CET",
        24: "PKS",
        25: "UINTR",
        27: "LASS",
        28: "LAM_SUP",
        32: "FRED",
    },
}

_CR0_PE = 1 << 0
_RFLAGS_VM = 1 << 17

#: Linux and Windows use the same selector for 32-bit code under a 64-bit kernel.
_COMPATIBILITY_SELECTOR = 0x23

#: Registers that never hold the address of code or data.
_NO_ADDRESSES = frozenset(("rflags", "cs", "ss", "ds", "es", "fs", "gs", "cr0", "cr3", "cr4"))

#: Names an address, "vfs_write+0xe6", or returns None.
Symbolize = Callable[[int], Optional[str]]


def flag_names(register: str, value: int) -> str:
    """Returns the names of the flags that are set, "PE MP ET NE WP AM PG"."""
    names = [name for bit, name in FLAGS[register].items() if value >> bit & 1]
    if register == "rflags" and value >> 12 & 3:
        names.append(f"IOPL={value >> 12 & 3}")
    return " ".join(names)


def decode(
    vcpu: VCPU,
    register: str,
    mode: Optional[PagingMode],
    user_half: Optional[bool],
    symbolize: Symbolize,
) -> str:
    """Returns what a register's value means, in words; empty when there is nothing to say.

    Args:
        vcpu: whose register it is.
        register: its name.
        mode: paging mode of the vCPU; None when unknown.
        user_half: whether CR3 has the user's half of isolated page tables; None when unknown.
        symbolize: names addresses in the kernel's image.
    """
    value = vcpu.get(register)
    if value is None:
        return ""
    if register in FLAGS:
        return flag_names(register, value)
    if register == "cr3":
        return _decode_cr3(value, vcpu, mode, user_half)
    if register == "cs":
        return _decode_cs(value, vcpu, mode)
    if register in _NO_ADDRESSES:
        return ""
    return symbolize(value) or ""


def _decode_cr3(cr3: int, vcpu: VCPU, mode: Optional[PagingMode], user_half: Optional[bool]) -> str:
    if mode is None or mode is PagingMode.OFF:
        return ""
    words = [f"page map {mode.root(cr3):#x}"]
    if (vcpu.get("cr4") or 0) & CR4_PCIDE:
        words.append(f"PCID {cr3 & 0xFFF:#x}")
    if user_half:
        words.append(f"user half of {mode.root(cr3) & ~PTI_USER_HALF:#x}")
    return ", ".join(words)


def _decode_cs(selector: int, vcpu: VCPU, mode: Optional[PagingMode]) -> str:
    cr0, rflags, rip = vcpu.get("cr0"), vcpu.get("rflags"), vcpu.get("rip")
    is_64bit = mode is not None and mode.is_64bit
    if cr0 is not None and not cr0 & _CR0_PE:
        return "real mode"
    # A selector has other meanings in real mode and in virtual 8086 mode: paging rules out the
    # first, and long mode both.
    if mode is None or (not is_64bit and (cr0 is None or rflags is None)):
        return ""
    if not is_64bit and (rflags or 0) & _RFLAGS_VM:
        return "ring 3, virtual 8086 mode"
    ring = selector & 3
    shown = f"ring {ring} ({'user' if ring == 3 else 'kernel'} mode)"
    if not is_64bit:
        return f"{shown}, 32-bit"
    if selector != _COMPATIBILITY_SELECTOR:
        return f"{shown}, 64-bit"
    if rip is None:
        return shown
    return f"{shown}, {'64-bit' if rip >> 32 else '32-bit compatibility mode'}"
