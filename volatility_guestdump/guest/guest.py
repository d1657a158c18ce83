# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A guest that is looked at: its machine, the kernel that it runs, and what names places in that.

What takes long is done when it is first asked for, and once. `facts` returns everything.
"""

import functools
from typing import Optional, Protocol

from volatility_guestdump import kernels
from volatility_guestdump.attempts import Attempts
from volatility_guestdump.guest import collect, system
from volatility_guestdump.guest.facts import BugChecks, GuestFacts, KernelFacts, NoLinux
from volatility_guestdump.linux.finding.search import Progress
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.stacks.stacks import Stacks
from volatility_guestdump.linux.types.isf import Isf
from volatility_guestdump.machine import Machine
from volatility_guestdump.windows.kernel import WindowsKernel
from volatility_guestdump.x86.registers import Symbolize


class WindowsSymbols(BugChecks, Protocol):
    """The symbols of a Windows kernel."""

    def symbolize(self, address: int) -> Optional[str]:
        """Returns "symbol+0xoffset" for an address in the kernel's image, else None."""


class Installed(Protocol):
    """The symbols of kernels that are installed on this machine, which `framework` knows."""

    def linux_isf(self, kernel: LinuxKernel) -> Optional[str]:
        """Returns the URL of the ISF of a Linux kernel, or None."""

    def load_linux_isf(self, kernel: LinuxKernel) -> Optional[Isf]:
        """Loads that ISF; None when there is none that can be read."""

    def windows_isf(self, kernel: WindowsKernel) -> Optional[str]:
        """Returns the URL of the ISF of a Windows kernel, or None."""

    def windows_symbols(self, kernel: WindowsKernel) -> Optional[WindowsSymbols]:
        """Returns the symbols of a Windows kernel, or None."""


class Nothing:
    """Nothing is installed: a guest is told by itself alone."""

    def linux_isf(self, kernel: LinuxKernel) -> Optional[str]:
        """Returns None."""

    def load_linux_isf(self, kernel: LinuxKernel) -> Optional[Isf]:
        """Returns None."""

    def windows_isf(self, kernel: WindowsKernel) -> Optional[str]:
        """Returns None."""

    def windows_symbols(self, kernel: WindowsKernel) -> Optional[WindowsSymbols]:
        """Returns None."""


class Guest:
    """A guest.

    Args:
        machine: its machine.
        installed: symbols of kernels that are installed on this machine.
        progress: called with per cent and a description while all of memory is searched.

    Attributes:
        machine: its machine.
    """

    def __init__(
        self, machine: Machine, installed: Optional[Installed] = None, progress: Progress = None
    ) -> None:
        self.machine = machine
        self._installed: Installed = installed or Nothing()
        self._progress = progress

    @functools.cached_property
    def linux(self) -> Optional[LinuxKernel]:
        """The Linux kernel that it runs, or None."""
        kernel = kernels.search_linux(self.machine, self._progress)
        if kernel is not None:
            kernel.offer_isf(functools.partial(self._installed.load_linux_isf, kernel))
        return kernel

    @functools.cached_property
    def windows(self) -> Optional[WindowsKernel]:
        """The Windows kernel that it runs, or None."""
        return kernels.windows_kernel(self.machine)

    @property
    def no_linux(self) -> Optional[NoLinux]:
        """Why there is no Linux kernel, or None when there is one."""
        if self.linux is not None:
            return None
        if self.machine.origin.memory_location is None:
            return NoLinux.MEMORY_MISSING
        return NoLinux.NOT_FOUND if self.windows is None else NoLinux.OTHER_SYSTEM

    @functools.cached_property
    def stacks(self) -> Optional[Stacks]:
        """What the vCPUs and tasks of a Linux guest were doing; None of another guest."""
        return None if self.linux is None else Stacks(self.linux, self.machine.vcpus)

    @functools.cached_property
    def _windows_symbols(self) -> Optional[WindowsSymbols]:
        return None if self.windows is None else self._installed.windows_symbols(self.windows)

    @functools.cached_property
    def symbolize(self) -> Symbolize:
        """What names addresses in its kernel."""
        if self.linux is not None:
            return self.linux.symbolize
        if self.windows is None:
            return no_symbol
        return (self._windows_symbols or self.windows).symbolize

    def kernel_facts(self, attempts: Attempts) -> KernelFacts:
        """Returns what is known of the kernel that it runs.

        Args:
            attempts: is told what cannot be read of a Linux kernel, and why.
        """
        linux, windows = self.linux, self.windows
        if linux is not None:
            stacks = attempts.make("Stacks", lambda: self.stacks)
            isf = attempts.make("Symbols", lambda: self._installed.linux_isf(linux))
            return system.linux_facts(self.machine, linux, stacks, isf, attempts)
        if windows is not None:
            isf = self._installed.windows_isf(windows)
            return system.windows_facts(windows, isf, self._windows_symbols)
        return system.unknown_kernel_facts(self.machine)

    def facts(self) -> GuestFacts:
        """Returns all that is known, however little that is."""
        attempts = Attempts()
        make = attempts.make
        linux = make("Kernel", lambda: self.linux)
        no_linux = None
        if linux is None:
            no_linux = make("Kernel", lambda: self.no_linux) or NoLinux.SEARCH_FAILED
        subject = collect.Subject(
            self.machine,
            linux,
            make("Stacks", lambda: self.stacks) if linux else None,
            make("System", lambda: self.kernel_facts(attempts)) or KernelFacts(),
            no_linux,
            make("Symbols", lambda: self.symbolize) or no_symbol,
        )
        return collect.collect(subject, attempts)


def no_symbol(address: int) -> Optional[str]:
    """Returns None: the symbol of every address in an unknown kernel."""
    return None
