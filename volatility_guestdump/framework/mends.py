# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Mends of what fails in Volatility's own plugins on kernels that we serve, with any symbols.

Volatility makes the objects of a symbol table by the classes that the table names. Where one of its
classes does not know a form of the kernel, our table names a better one; tables that are loaded
from ISF files keep Volatility's. Each class says which plugin and kernels it is for, why Volatility
fails, and how to tell that it is no longer needed: take it out of `CLASSES`, and the test of the
same name in tests/system/test_mends.py passes all the same.
"""

import datetime
import weakref
from collections.abc import Mapping
from typing import Any, ClassVar, Optional

from volatility3.framework import exceptions, interfaces, objects
from volatility3.framework.constants import linux as linux_constants
from volatility3.framework.symbols import linux
from volatility3.framework.symbols.linux import extensions

from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.symbols.kallsyms import Encoding

#: task_struct.exit_state of a task that ended: EXIT_DEAD, EXIT_ZOMBIE, or both while it is traced
#: (include/linux/sched.h).
_EXIT_STATES = (0x10, 0x20, 0x30)


class Capabilities(extensions.kernel_cap_t):
    """The capabilities of a task.

    Plugin: linux.capabilities; kernels before 6.3; Volatility 2.28.2.
    Cause: `kernel_cap_t` was a typedef of `struct kernel_cap_struct` then. Members of the type go
    by the typedef, for which Volatility has a class that knows only the form from 6.3 on
    (f122a08b197d) and raises "Unsupported kernel capabilities implementation".
    No longer needed when: kernel_cap_t.get_capabilities reads the member `cap`.
    """

    def get_capabilities(self) -> int:
        """Returns the set as an integer with a bit for each capability."""
        if self.has_member("val"):
            return int(super().get_capabilities())
        return int(extensions.kernel_cap_struct.get_capabilities(self))


class KernelSymbol(extensions.kernel_symbol):
    """An exported symbol.

    Plugin: linux.kallsyms, of modules; kernels from 4.19 on; Volatility 2.28.2.
    Cause: a name is found by an offset from the member that holds it. Volatility adds that to the
    place of the whole symbol, and gives the integer to a function that takes nothing but
    pointers: "pointer_to_string takes a Pointer".
    No longer needed when: kernel_symbol.get_name returns the name.
    """

    def _do_get_name(self) -> str:
        return self._text("name") or str(super()._do_get_name())

    def _do_get_namespace(self) -> str:
        text = self._text("namespace")
        return str(super()._do_get_namespace()) if text is None else text

    def _text(self, member: str) -> Optional[str]:
        """Reads a text that is given by its offset; None where it is given by a pointer."""
        if not self.has_member(f"{member}_offset"):
            return None
        offset: Any = self.member(f"{member}_offset")
        if not offset:
            return ""
        text = self._context.object(
            self.get_symbol_table_name() + "!string",
            layer_name=self.vol.layer_name,
            offset=self._offset_to_ptr(offset.vol.offset - self.vol.offset + offset),
            max_length=linux_constants.KSYM_NAME_LEN,
            errors="ignore",
        )
        return str(text)


class ScannedFile(extensions.struct_file):
    """An open file.

    Plugin: linux.sockscan; all kernels; Volatility 2.28.2.
    Cause: what only looks like a file in the scanned memory may lead to an inode that is not
    mapped. `container_of` returns None for it, and the plugin asks that for its `socket`.
    No longer needed when: Sockscan._walk_file_ops_needles checks what container_of returns.
    """

    def get_dentry(self) -> interfaces.objects.ObjectInterface:
        """Returns the dentry; a null pointer when what was found by a scan is no file."""
        dentry = super().get_dentry()
        # Objects that a scan makes lie in physical memory, and their pointers lead elsewhere.
        if self.vol.layer_name != self.vol.native_layer_name and dentry:
            kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
            inode = dentry.d_inode
            if inode and not linux.LinuxUtilities.container_of(
                inode, "socket_alloc", "vfs_inode", kernel
            ):
                raise exceptions.InvalidAddressException(
                    self.vol.layer_name, int(inode), "The inode of this file cannot be read"
                )
        return dentry


class TaintFlag(objects.StructType):
    """What a bit of the kernel's taint means.

    Plugins: linux.lsmod, linux.modxview and others that show the taint of modules; kernels from
    7.2 on at the latest; Volatility 2.28.2.
    Cause: the member `module` is gone, which said whether the flag is one of modules too. The
    kernel now shows every flag that is set in module.taints.
    No longer needed when: Tainting asks whether there is a member `module`.
    """

    @property
    def module(self) -> bool:
        """Whether the flag is shown for modules."""
        return bool(self.member("module")) if self.has_member("module") else True


class Page(extensions.page):
    """A page frame.

    Plugins: linux.pagecache.InodePages, linux.pagecache.RecoverFs; kernels from 6.16 on at the
    latest; Volatility 2.28.2.
    Cause: `index` is called `__folio_index`.
    No longer needed when: inode.get_contents knows the new name.
    """

    @property
    def index(self) -> int:
        """Number of the page in its file."""
        number: Any = self.member("index" if self.has_member("index") else "__folio_index")
        return int(number)


class Task(extensions.task_struct):
    """A task.

    Plugins: linux.pslist and all that list tasks; all kernels; Volatility 2.28.2.
    Cause: a task that ended has no namespaces any more (exit_task_namespaces), for which
    Volatility takes it for invalid: zombies are left out, and with --threads all threads of a
    process whose first one ended.
    No longer needed when: linux.pslist shows a zombie.

    The time of the boot is found once for each memory: Volatility reads the kernel's clock anew for
    each task, a sixth of what a long list of them takes.
    """

    _boot_times: ClassVar[
        "weakref.WeakKeyDictionary[interfaces.layers.DataLayerInterface, "
        "Optional[datetime.datetime]]"
    ] = weakref.WeakKeyDictionary()

    def get_boottime(self, root_time_namespace: bool = True) -> Optional[datetime.datetime]:
        """Returns the time of the boot; see `task_struct.get_boottime`."""
        layer = self._context.layers[self.vol.layer_name]
        if not root_time_namespace:
            found: Optional[datetime.datetime] = super().get_boottime(False)
            return found
        if layer not in self._boot_times:
            self._boot_times[layer] = super().get_boottime()
        return self._boot_times[layer]

    def is_valid(self) -> bool:
        """Returns whether this looks like a task, running or ended."""
        return bool(super().is_valid()) or self._is_valid_exited()

    def get_time_namespace(self) -> Optional[interfaces.objects.ObjectInterface]:
        """Returns the time namespace; of a task that has none any more, the kernel's first one.

        linux.boottime asks all tasks for theirs, to list those that there are.
        """
        if self.has_member("nsproxy") and not self.nsproxy:
            kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
            first: Any = kernel.object_from_symbol("init_task")
            return first.get_time_namespace() if first.nsproxy else None
        return super().get_time_namespace()

    def _is_valid_exited(self) -> bool:
        layer = self._context.layers[self.vol.layer_name]
        if not layer.is_valid(self.vol.offset, self.vol.size):
            return False
        return bool(
            self.has_member("exit_state")
            and self.exit_state in _EXIT_STATES
            and self.pid >= 0
            and self.tgid >= 0
            and not self.mm
            and self.has_member("nsproxy")
            and not self.nsproxy
            and self.signal
            and self.signal.is_readable()
            and self.real_parent
            and self.real_parent.is_readable()
        )


class Memory(extensions.mm_struct):
    """The memory of a process.

    Plugin: linux.envars; all kernels; Volatility 2.28.2.
    Cause: of tasks without memory it passes over threads of the kernel alone. One that ends, or has
    ended, has none either: there is a null pointer to it, which the plugin follows.
    No longer needed when: Envars.get_task_env_variables checks task.mm.
    """

    @property
    def env_start(self) -> int:
        """Address of the environment; 0 without memory."""
        return self._bound("env_start")

    @property
    def env_end(self) -> int:
        """Address behind the environment; 0 without memory."""
        return self._bound("env_end")

    def _bound(self, name: str) -> int:
        address: Any = self.member(name) if self.vol.offset else 0
        return int(address)


#: Name of a type -> the class of its objects.
CLASSES: Mapping[str, type[interfaces.objects.ObjectInterface]] = {
    "kernel_cap_t": Capabilities,
    "kernel_symbol": KernelSymbol,
    "file": ScannedFile,
    "taint_flag": TaintFlag,
    "page": Page,
    "task_struct": Task,
    "mm_struct": Memory,
}


def install(table: Any) -> None:
    """Gives a symbol table the mended classes for the types that it has."""
    for name, object_class in CLASSES.items():
        table.optional_set_type_class(name, object_class)


#: What Volatility takes all offsets in kallsyms for, and what there was before offsets.
_READABLE = (Encoding.ABSOLUTE_PERCPU, Encoding.ABSOLUTE)


def refuse_unreadable_kallsyms(kernel: LinuxKernel, symbol: str, table_name: str) -> None:
    """Says that Volatility cannot read the symbol table in memory, before it fails.

    Plugins: linux.kallsyms, linux.pscallstack; kernels from 6.15 on, and before those for 32 bits
    or without SMP; Volatility 2.28.2.
    Cause: it takes the addresses in kallsyms for "absolute percpu" ones. Where they are relative
    it shows false addresses; where they are relative to their own place, from 7.0 on, there is no
    `kallsyms_relative_base` and it ends in a traceback. Nothing that a table says mends that.
    No longer needed when: Kallsyms (symbols/linux/kallsyms.py) knows all of these encodings.

    Args:
        kernel: whose symbols are asked for.
        symbol: that is asked for; the plugins cannot do without `kallsyms_num_syms`.
        table_name: of the symbol table.

    Raises:
        SymbolError: it is that symbol, of such a kernel.
    """
    kallsyms = kernel.kallsyms
    if (
        symbol == "kallsyms_num_syms"
        and kallsyms is not None
        and kallsyms.encoding not in _READABLE
    ):
        raise exceptions.SymbolError(
            symbol,
            table_name,
            f"Volatility cannot read the kallsyms of Linux {kernel.release} (its addresses are "
            f"{kallsyms.encoding.value}), which linux.kallsyms and linux.pscallstack need; "
            f"guestdump.Backtrace --tasks shows the stacks of all tasks",
        )
