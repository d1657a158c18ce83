# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The lab: real guests to test with.

A guest is a Debian kernel, booted in QEMU with BusyBox and brought into a certain state, then
written as ESXi would write it: debug.guest and debug.vmem. Beside them, expected.json has what the
guest itself and QEMU said of it; some have dumps that QEMU wrote as well. `tests.lab.formats`
writes a guest in other formats. `python -m tests.lab --list` shows the guests there are.

    from tests.lab import GUESTS, guest, missing_tools

    if not missing_tools():
        dump = guest("hole-pti")
        dump.guest_path, dump.vmem_path, dump.expected["banner"]
"""

from tests.lab.errors import LabError
from tests.lab.guests import Guest, existing, guest, missing_tools
from tests.lab.recipes import GUESTS, Recipe

__all__ = ["GUESTS", "Guest", "LabError", "Recipe", "existing", "guest", "missing_tools"]
