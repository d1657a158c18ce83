# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A program of many threads, for guests whose BusyBox has no program with any.

It is made here byte by byte, so that making a guest needs no compiler.
"""

import struct

_BASE = 0x10000

_ELF_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


def program(threads: int) -> bytes:
    """Returns a program (ELF, x86-64) that starts some more threads, all of which then wait."""
    # clone(CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD, 0); the threads can
    # have one stack, for none of them writes to it.
    code = (
        b"\xbb" + struct.pack("<I", threads)  # mov ebx, threads
        + b"\xbf\x00\x0f\x01\x00"  # again: mov edi, 0x10f00
        + b"\x31\xf6"  # xor esi, esi
        + b"\xb8\x38\x00\x00\x00"  # mov eax, 56 (clone)
        + b"\x0f\x05"  # syscall
        + b"\x85\xc0"  # test eax, eax
        + b"\x74\x04"  # jz wait
        + b"\xff\xcb"  # dec ebx
        + b"\x75\xea"  # jnz again
        + b"\xb8\x22\x00\x00\x00"  # wait: mov eax, 34 (pause)
        + b"\x0f\x05"  # syscall
        + b"\xeb\xf7"  # jmp wait
    )  # fmt: skip
    start = _ELF_HEADER.size + _PROGRAM_HEADER.size
    size = start + len(code)
    identification = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = _ELF_HEADER.pack(
        *(identification, 2, 62, 1, _BASE + start, _ELF_HEADER.size, 0, 0),
        *(_ELF_HEADER.size, _PROGRAM_HEADER.size, 1, 0, 0, 0),
    )
    return header + _PROGRAM_HEADER.pack(1, 5, 0, _BASE, _BASE, size, size, 0x1000) + code


def commands(threads: int, name: str) -> str:
    """Returns the shell commands that put the program into a guest's file system."""
    octal = "".join(f"\\{byte:03o}" for byte in program(threads))
    return f"printf '{octal}' > {name}\n/bin/busybox chmod 755 {name}\n"
