# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which ISF files are installed on this machine, by Volatility's own list of them."""

from typing import Optional

from volatility3.framework.automagic import symbol_cache

from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.windows.pe import Pdb


def linux_isf(kernel: LinuxKernel) -> tuple[bytes, Optional[str]]:
    """Looks for an installed ISF of a Linux kernel.

    Returns:
        The banner with the end that Volatility's list of ISFs has, or else as in memory; and the
        URL of the ISF, or None.
    """
    try:
        cache = symbol_cache.load_cache_manager()
    except ValueError:
        installed = {}
    else:
        installed = cache.get_identifier_dictionary(operating_system="linux")
    for banner, location in installed.items():
        if banner and banner.rstrip(b"\0\n") == kernel.banner:
            return banner, location
    return kernel.banner + b"\n\0", None


def windows_isf(pdb: Pdb) -> Optional[str]:
    """Returns the URL of the ISF of a PDB when it is on this machine, else None."""
    identifier = symbol_cache.WindowsIdentifier.generate(pdb.name, pdb.guid, pdb.age)
    try:
        location = symbol_cache.load_cache_manager().find_location(identifier, "windows")
    except ValueError:
        return None
    return None if location is None else str(location)
