# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Mends of what fails in Volatility's own plugins on kernels that we serve, with any symbols.

Volatility makes the objects of a symbol table by the classes that the table names. Where one of its
classes does not know a form of the kernel, our table names a better one; tables that are loaded
from ISF files keep Volatility's. Each class says which plugin and kernels it is for, why Volatility
fails, and how to tell that it is no longer needed: take it out of `CLASSES`, and the test of the
same name in tests/system/test_mends.py passes all the same.
"""

import contextlib
import datetime
import functools
import weakref
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, Optional

from volatility3.framework import exceptions, interfaces, objects, renderers
from volatility3.framework.constants import linux as linux_constants
from volatility3.framework.symbols import linux
from volatility3.framework.symbols.linux import extensions
from volatility3.plugins.linux import envars, mountinfo, psaux  # type: ignore[attr-defined]

from volatility_guestdump.framework import open_files, page_cache
from volatility_guestdump.linux.kernel import LinuxKernel
from volatility_guestdump.linux.symbols.kallsyms import Encoding

#: task_struct.exit_state of a task that ended: EXIT_DEAD, EXIT_ZOMBIE, or both while it is traced
#: (include/linux/sched.h).
_EXIT_STATES = (0x10, 0x20, 0x30)

#: Bytes that the arguments and the environment of a process have at most when it starts: three
#: quarters of _STK_LIM, which is 8 MiB (bprm_stack_limits in fs/exec.c, from 4.13 on).
_MOST_ARGUMENTS = 6 << 20


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

    def get_arguments(self) -> Optional[str]:
        """Returns the arguments with blanks between them; None where they cannot be read."""
        memory: Any = self.mm
        if not memory or not memory.is_readable():
            return None
        size = memory.arg_end - memory.arg_start
        name = self.add_process_layer()
        if name is None or not 0 < size <= _MOST_ARGUMENTS:
            return None
        try:
            data = self._context.layers[name].read(memory.arg_start, size)
        except exceptions.InvalidAddressException:
            return None
        return data.removesuffix(b"\0").replace(b"\0", b" ").decode("utf-8", errors="replace")

    def reaches(self, mount: Any) -> bool:
        """Returns whether a mount lies below the task's root folder (is_path_reachable)."""
        root: Any = self.fs.root
        # Only damage makes a circle.
        seen: set[int] = set()
        place: Any = mount.get_mnt_root()
        while mount.mnt.vol.offset != root.mnt and mount.has_parent():
            if mount.vol.offset in seen:
                return False
            seen.add(mount.vol.offset)
            place, mount = mount.mnt_mountpoint, mount.mnt_parent.dereference()
        if mount.mnt.vol.offset != root.mnt:
            return False
        while place not in (root.dentry, place.d_parent) and int(place) not in seen:
            seen.add(int(place))
            place = place.d_parent
        return bool(place == root.dentry)

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


class MapleTree(extensions.maple_tree):
    """The areas of a process' memory, by address.

    Plugins: linux.proc.Maps and others that list areas; kernels from 6.1 on; memory that was read
    while the guest ran; Volatility 2.28.2.
    Cause: a node that cannot be read, or is none any more, ends the plugin.
    No longer needed when: maple_tree.get_slot_iter goes on behind such a node.
    """

    def _parse_maple_tree_node(  # type: ignore[override] # it is a generator
        self, *arguments: Any, **named: Any
    ) -> Iterator[Any]:
        # It is called again for each node below, so one that is bad costs what is below it.
        with contextlib.suppress(exceptions.InvalidAddressException, AttributeError):
            found: Any = super()._parse_maple_tree_node(*arguments, **named)
            yield from found


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
    "file": open_files.File,
    "vm_area_struct": open_files.Area,
    "taint_flag": TaintFlag,
    "page": page_cache.Page,
    "inode": page_cache.Inode,
    "task_struct": Task,
    "mm_struct": Memory,
    "maple_tree": MapleTree,
}


def install(table: Any) -> None:
    """Gives a symbol table the mended classes for the types that it has.

    Where no class can help the plugins themselves are changed, for tasks of such tables alone.
    """
    for name, object_class in CLASSES.items():
        table.optional_set_type_class(name, object_class)
    _read_long_arguments()
    _read_long_environments()
    _leave_out_unreachable_mounts()


@functools.cache
def _read_long_arguments() -> None:
    """Lets a plugin show arguments of any length.

    Plugin: linux.psaux; all kernels; Volatility 2.28.2.
    Cause: arguments of more than 4,096 bytes are shown as "-".
    No longer needed when: linux.psaux shows them.
    """
    stock = psaux.PsAux._get_command_line_args

    def arguments(plugin: psaux.PsAux, task: Any, name: str) -> Any:
        shown = stock(plugin, task, name)
        if isinstance(shown, renderers.UnreadableValue) and isinstance(task, Task):
            return task.get_arguments() or shown
        return shown

    psaux.PsAux._get_command_line_args = arguments


@functools.cache
def _read_long_environments() -> None:
    """Lets a plugin show environments of any length.

    Plugin: linux.envars; all kernels; Volatility 2.28.2.
    Cause: a process with an environment of more than 8,192 bytes is left out.
    No longer needed when: Envars passes a larger number to its get_task_env_variables.
    """
    stock = envars.Envars.get_task_env_variables

    def variables(
        context: interfaces.context.ContextInterface, task: Any, env_area_max_size: int = 8192
    ) -> Iterable[tuple[str, str]]:
        most = _MOST_ARGUMENTS if isinstance(task, Task) else 0
        found: Iterable[tuple[str, str]] = stock(context, task, max(env_area_max_size, most))
        return found

    envars.Envars.get_task_env_variables = staticmethod(variables)


@functools.cache
def _leave_out_unreachable_mounts() -> None:
    """Lets a plugin show of a process what /proc/PID/mountinfo does.

    Plugin: linux.mountinfo --pids; all kernels; Volatility 2.28.2.
    Cause: what the root folder of a process hides is shown too, and as if it were in that folder:
    the files of the host at the "/" of a container, for one.
    No longer needed when: MountInfo.get_mountinfo returns None for those.
    """
    stock = mountinfo.MountInfo._get_tasks_mountpoints

    def mounts(tasks: Iterable[Any], filtered_by_pids: bool = False) -> Iterator[tuple[Any, ...]]:
        for task, mount, namespace in stock(tasks, filtered_by_pids):
            shown = not filtered_by_pids or not isinstance(task, Task) or task.reaches(mount)
            if shown:
                yield task, mount, namespace

    mountinfo.MountInfo._get_tasks_mountpoints = staticmethod(mounts)


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
