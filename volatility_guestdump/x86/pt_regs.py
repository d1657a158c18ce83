# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""struct pt_regs: the registers that a 64-bit Linux kernel saves when it is entered.

It is the same in all 64-bit kernels. Its end, from rip on, is what the CPU pushes by itself at an
interrupt or exception. Source: arch/x86/include/uapi/asm/ptrace.h of Linux.
"""

from collections.abc import Mapping

#: Register -> offset in bytes; all have eight bytes.
OFFSETS: Mapping[str, int] = {
    "r15": 0,
    "r14": 8,
    "r13": 16,
    "r12": 24,
    "rbp": 32,
    "rbx": 40,
    "r11": 48,
    "r10": 56,
    "r9": 64,
    "r8": 72,
    "rax": 80,
    "rcx": 88,
    "rdx": 96,
    "rsi": 104,
    "rdi": 112,
    "orig_rax": 120,
    "rip": 128,
    "cs": 136,
    "rflags": 144,
    "rsp": 152,
    "ss": 160,
}

#: Where the part begins that the CPU pushes by itself.
INTERRUPT_FRAME = OFFSETS["rip"]

SIZE = 168
