"""Which kernel runs in a guest dump.

Volatility makes each layer several times over in one run, so the answers are kept for the dumps
looked at last.
"""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Callable, Optional, TypeVar

from volatility_guestdump.layers import GuestDumpLayer
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.kernel import find_kernel as find_linux_kernel
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.windows.kernel import find_kernel as find_windows_kernel

_T = TypeVar("_T")

_LIMIT = 2

_linux: "OrderedDict[Hashable, tuple[Optional[LinuxKernel]]]" = OrderedDict()
_windows: "OrderedDict[Hashable, tuple[Optional[WindowsKernel]]]" = OrderedDict()


def _kept(kept: "OrderedDict[Hashable, tuple[_T]]", key: Hashable, find: Callable[[], _T]) -> _T:
    # Tuples, for None is an answer too; and no second look at what another thread may drop.
    found = kept.get(key)
    if found is None:
        found = (find(),)
        while len(kept) >= _LIMIT:
            kept.popitem(last=False)
        kept[key] = found
    return found[0]


def linux_kernel(layer: GuestDumpLayer) -> Optional[LinuxKernel]:
    """Returns the Linux kernel in a guest dump, or None.

    Raises:
        MemoryFileError: the memory file cannot be read.
    """
    return _kept(
        _linux,
        layer.identity,
        lambda: find_linux_kernel(layer.memory.read, layer.guest.vcpus),
    )


def windows_kernel(layer: GuestDumpLayer) -> Optional[WindowsKernel]:
    """Returns the Windows kernel in a guest dump, or None.

    Raises:
        MemoryFileError: the memory file cannot be read.
    """
    if linux_kernel(layer) is not None:
        return None
    return _kept(
        _windows,
        layer.identity,
        lambda: find_windows_kernel(layer.memory.read, layer.guest.vcpus),
    )


def system(layer: GuestDumpLayer) -> Optional[str]:
    """Returns what runs in a guest, "Windows 10.0.20348 (x64)", or None when that is not known.

    Raises:
        MemoryFileError: the memory file cannot be read.
    """
    kernel = linux_kernel(layer) or windows_kernel(layer)
    return kernel.system if kernel else None


def forget() -> None:
    """Forgets what was found, for those who change what is in a dump."""
    _linux.clear()
    _windows.clear()
