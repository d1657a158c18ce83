# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which of two registers is the stack pointer, by memory made by hand."""

import struct

import pytest

from tests.helpers import IDLE_VCPU
from volatility_guestdump.exceptions import AddressError
from volatility_guestdump.machine import VCPU
from volatility_guestdump.x86.stack_pointer import likelier

#: Where code, a stack and something else lie; all is mapped as it is below 2 MiB.
CODE, STACK, ELSEWHERE = 0x10000, 0x20000, 0x60000

#: Call instructions of each length, and a jump, which leaves no return address.
CALLS = (
    b"\xe8\0\0\0\0",
    b"\xff\xd0",
    b"\x41\xff\xd3",
    b"\xff\x50\x08",
    b"\xff\x54\x24\x08",
    b"\xff\x15\0\0\0\0",
    b"\xff\x94\x24\0\0\0\0",
)
JUMP = b"\xe9\0\0\0\0"


class Guest:
    """A guest of 64 bits."""

    def __init__(self) -> None:
        self.data = bytearray(0x100000)
        for table, entry in ((0x1000, 0x2003), (0x2000, 0x3003), (0x3000, 0x83)):
            self.words(table, entry)

    def words(self, place: int, *values: int) -> None:
        """Puts words of 8 bytes at an address."""
        self.data[place : place + 8 * len(values)] = struct.pack(f"<{len(values)}Q", *values)

    def calls(self, place: int, *instructions: bytes) -> None:
        """Puts the return addresses of some instructions at an address."""
        for number, code in enumerate(instructions):
            end = CODE + place // 16 + 16 * (number + 1)
            self.data[end - len(code) : end] = code
            self.words(place + 24 * number, end)

    def read(self, address: int, length: int) -> bytes:
        """Reads guest-physical memory."""
        if address + length > len(self.data):
            raise AddressError(address)
        return bytes(self.data[address : address + length])

    def tell(self, rsp: int, rbp: int) -> str:
        """Returns what is told of a vCPU."""
        registers = {**IDLE_VCPU, "rflags": 2, "rip": CODE, "cr0": 1 << 31 | 1, "cr4": 0x20}
        registers.update(cr3=0x1000, cs=0x10, idt_base=0x8000)
        right = [VCPU(0, {**registers, "rsp": rsp, "rbp": rbp})]
        wrong = [VCPU(0, {**registers, "rsp": rbp, "rbp": rsp})]
        found = likelier(self.read, right, wrong)
        # It is the same whichever comes first.
        assert found is likelier(self.read, wrong, right)
        return "nothing" if found is None else "right" if found is right else "wrong"


@pytest.mark.parametrize("call", CALLS)
def test_return_addresses(call: bytes) -> None:
    """One return address tells, whatever called."""
    guest = Guest()
    guest.calls(STACK, call)
    assert guest.tell(STACK, ELSEWHERE) == "right"
    assert guest.tell(ELSEWHERE, STACK) == "wrong"


def test_pointers_to_code_are_no_return_addresses() -> None:
    """Structures have pointers to functions, before which no call stands."""
    guest = Guest()
    guest.calls(STACK, CALLS[0])
    guest.calls(ELSEWHERE, *[JUMP] * 8)
    assert guest.tell(STACK, ELSEWHERE) == "right"


def test_one_stack() -> None:
    """RBP leads up the same stack, even where more return addresses lie."""
    guest = Guest()
    guest.calls(STACK + 0x300, *CALLS)
    assert guest.tell(STACK, STACK + 0x300) == "right"
    assert guest.tell(STACK + 0x300, STACK) == "wrong"


@pytest.mark.parametrize("rbp", [0, 1, STACK + 4, 1 << 40, 1 << 63])
def test_what_is_no_stack_pointer(rbp: int) -> None:
    """Small numbers, odd ones and addresses that are not mapped are none."""
    guest = Guest()
    guest.calls(STACK, CALLS[0])
    assert guest.tell(STACK, rbp) == "right"


@pytest.mark.parametrize("place", [STACK, 1 << 40])
def test_nothing_tells(place: int) -> None:
    """Where both are alike, or neither can be read."""
    guest = Guest()
    assert guest.tell(place, place + 0x20000) == "nothing"
    guest.data[0x1000:0x2000] = bytes(0x1000)
    assert guest.tell(STACK, ELSEWHERE) == "nothing"


def test_no_memory() -> None:
    """A state file may be alone."""

    def read(address: int, length: int) -> bytes:
        raise AddressError(address)

    vcpus = [VCPU(0, {**IDLE_VCPU, "rflags": 2})]
    assert likelier(read, vcpus, list(vcpus)) is None
    assert likelier(read, [], []) is None
