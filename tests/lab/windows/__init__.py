# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A stand-in for a Windows guest, as no real Windows may be shipped or downloaded.

The image of its kernel is a real one of the PE format, with a PDB; it is linked from ntoskrnl.c by
LLVM's tools. It is laid out in memory, and mapped by page tables, as Windows would do it. What the
guest never did is run.

    from tests.lab.windows import missing_tools, stand_in

    if not missing_tools():
        dump = stand_in(folder, "x64", vcpus=("kernel", "user"))
        dump.guest_path, dump.symbols, dump.addresses["KiPageFault"]
"""

from tests.lab.windows.guest import ENTRY, KERNEL, USER, StandIn, stand_in
from tests.lab.windows.image import MODES, missing_tools

__all__ = ["ENTRY", "KERNEL", "MODES", "USER", "StandIn", "missing_tools", "stand_in"]
