# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Which kernel a machine runs, found once for each of the machines looked at last."""

import threading
from collections.abc import Hashable
from typing import Optional, Protocol

from volatility_guestdump.kept import Kept, MadeOnce
from volatility_guestdump.linux.finding.find import find_kernel as find_linux_kernel
from volatility_guestdump.linux.finding.find import search_kernel as search_linux_kernel
from volatility_guestdump.linux.finding.search import Progress
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.machine import Machine
from volatility_guestdump.windows.find import find_kernel as find_windows_kernel
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.x86.paging import PageTables


class Kernel(Protocol):
    """What kernels of every system have."""

    @property
    def tables(self) -> PageTables:
        """Page tables that map the kernel."""

    @property
    def bits(self) -> int:
        """Bits of a pointer."""

    @property
    def page_map(self) -> int:
        """Physical address of the root page table."""

    @property
    def system(self) -> str:
        """What runs in the guest, "Linux 6.1.0-56-cloud-amd64 (x64)"."""

    @property
    def shown_banner(self) -> str:
        """What identifies the kernel, fit for the screen."""

    @property
    def physical_base(self) -> Optional[int]:
        """Guest-physical address of the image's start, or None when it is not mapped."""

    def symbolize(self, address: int) -> Optional[str]:
        """Returns "symbol+0xoffset" for an address in the kernel's image, else None."""


class _Kernels:
    """The kernels of one machine.

    Args:
        machine: that is searched.
    """

    def __init__(self, machine: Machine) -> None:
        self._machine = machine
        self._searched = False
        self._searching = threading.RLock()

    @MadeOnce
    def linux(self) -> Optional[LinuxKernel]:
        """The Linux kernel, or None when neither registers nor low memory lead to one."""
        return find_linux_kernel(self._machine)

    def search_linux(self, progress: Progress) -> Optional[LinuxKernel]:
        """Returns the Linux kernel, for which memory is searched once where it must be."""
        with self._searching:
            if self.linux is None and not self._searched:
                self._searched = True
                self.linux = search_linux_kernel(self._machine.memory, progress)
            return self.linux

    @MadeOnce
    def windows(self) -> Optional[WindowsKernel]:
        """The Windows kernel, or None; it is looked for where there is no Linux kernel."""
        return None if self.linux else find_windows_kernel(self._machine)


#: Two, for whoever compares two guests.
_kept: Kept[_Kernels] = Kept(2)


def _of(machine: Machine) -> _Kernels:
    return _kept.get(machine.identity, lambda: _Kernels(machine))


def linux_kernel(machine: Machine) -> Optional[LinuxKernel]:
    """Returns the Linux kernel that a machine runs, or None."""
    return _of(machine).linux


def search_linux(machine: Machine, progress: Progress = None) -> Optional[LinuxKernel]:
    """Returns the Linux kernel that a machine runs, or None.

    Where neither registers nor low memory lead to one, and no Windows kernel is known, all of
    memory is searched; what is found then `linux_kernel` returns from then on.

    Args:
        machine: that is searched.
        progress: called with per cent and a description while it is.
    """
    found = _of(machine)
    return found.linux or (None if found.windows else found.search_linux(progress))


def remember(machine: Machine, kernel: LinuxKernel) -> None:
    """Tells which Linux kernel a machine runs, for whoever has searched for it."""
    _of(machine).linux = kernel


def windows_kernel(machine: Machine) -> Optional[WindowsKernel]:
    """Returns the Windows kernel that a machine runs, or None."""
    return _of(machine).windows


def kernel(machine: Machine) -> Optional[Kernel]:
    """Returns the kernel that a machine runs, or None when it is not known."""
    return linux_kernel(machine) or windows_kernel(machine)


def forget(identity: Hashable = None) -> None:
    """Forgets what was found.

    Args:
        identity: of the machine that is not needed any more; None stands for all, for those who
            change what is in a machine's memory.
    """
    if identity is None:
        _kept.clear()
    else:
        _kept.drop(identity)
