# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The symbols of kernels that are installed on this machine, by Volatility's list of ISF files."""

import json
import logging
import lzma
import zlib
from typing import Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.automagic import symbol_cache
from volatility3.framework.layers import resources

from volatility_guestdump.exceptions import TypesError
from volatility_guestdump.files.location import display_name
from volatility_guestdump.framework import windows_symbols
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.types.isf import Isf
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.pe import Pdb

vollog = logging.getLogger(__name__)


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


def load_linux_isf(kernel: LinuxKernel) -> Optional[Isf]:
    """Loads the installed ISF of a Linux kernel, compressed or not; None when there is none.

    One that cannot be read is named in a warning, and counts as none.
    """
    location = linux_isf(kernel)[1]
    if location is None:
        return None
    try:
        with resources.ResourceAccessor().open(location) as file:
            return Isf(json.load(file))
    except (
        *(OSError, EOFError, ValueError, RecursionError, lzma.LZMAError, zlib.error),
        *(TypesError, exceptions.VolatilityException),
    ) as error:
        vollog.warning(f"The ISF {display_name(location)} cannot be read: {error}")
        return None


def windows_isf(pdb: Pdb) -> Optional[str]:
    """Returns the URL of the ISF of a PDB when it is on this machine, else None."""
    identifier = symbol_cache.WindowsIdentifier.generate(pdb.name, pdb.guid, pdb.age)
    try:
        location = symbol_cache.load_cache_manager().find_location(identifier, "windows")
    except ValueError:
        return None
    return None if location is None else str(location)


class InstalledSymbols:
    """The symbols of kernels that are installed on this machine; see `guest.Installed`.

    Args:
        context: that symbols are loaded into.
        config_path: of whoever wants them.
    """

    def __init__(self, context: interfaces.context.ContextInterface, config_path: str) -> None:
        self._context = context
        self._config_path = interfaces.configuration.path_join(config_path, "symbols")

    def linux_isf(self, kernel: LinuxKernel) -> Optional[str]:
        """Returns the URL of the ISF of a Linux kernel, or None."""
        return linux_isf(kernel)[1]

    def load_linux_isf(self, kernel: LinuxKernel) -> Optional[Isf]:
        """Loads that ISF; None when there is none that can be read."""
        return load_linux_isf(kernel)

    def windows_isf(self, kernel: WindowsKernel) -> Optional[str]:
        """Returns the URL of the ISF of a Windows kernel, or None."""
        pdb = kernel.image.pdb
        return None if pdb is None else windows_isf(pdb)

    def windows_symbols(self, kernel: WindowsKernel) -> Optional[windows_symbols.WindowsSymbols]:
        """Returns the symbols of a Windows kernel; None unless they are on this machine."""
        pdb = kernel.image.pdb
        if pdb is None or windows_isf(pdb) is None:
            return None
        table = windows_symbols.load(self._context, pdb, self._config_path)
        if table is None:
            return None
        return windows_symbols.WindowsSymbols(kernel, self._context, table)
