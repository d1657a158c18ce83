# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The symbol table alone, without Volatility's plugins: python -m benchmarks.symbols STEP FILE.

It runs in a process of its own, whose time and memory are measured from outside.
"""

import pathlib
import sys

from volatility_guestdump.dumps import open_dump
from volatility_guestdump.linux.finding.find import find_kernel
from volatility_guestdump.linux.isf.document import IsfView

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
    machine = open_dump(str(guest)).machine
    kernel = None if machine is None else find_kernel(machine)
    assert kernel is not None
    view = IsfView(kernel)
    if step == "everything":
        view.expanded()


if __name__ == "__main__":
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
