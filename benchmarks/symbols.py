"""The symbol table alone, without Volatility's plugins: python -m benchmarks.symbols STEP FILE.

It runs in a process of its own, whose time and memory are measured from outside.
"""

import pathlib
import sys

from volatility_guestdump.files.memory_file import open_memory_file
from volatility_guestdump.files.physical import GuestMemory
from volatility_guestdump.framework.layers import open_guest_file
from volatility_guestdump.linux.isf.document import IsfView
from volatility_guestdump.linux.kernel import find_kernel

#: What a run does, with what stands before it, in words.
STEPS = {
    "imports": "Python and imports only",
    "table": "kernel found, table ready",
    "everything": "every type and symbol converted",
}


def main(step: str, guest: pathlib.Path) -> None:
    """Does what the steps up to the given one do."""
    if step == "imports":
        return
    file = open_guest_file(guest.as_uri())
    memory = GuestMemory(file.ranges, open_memory_file(guest.with_suffix(".vmem").as_uri()))
    kernel = find_kernel(memory.read, file.vcpus)
    assert kernel is not None
    view = IsfView(kernel)
    if step == "everything":
        view.expanded()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
