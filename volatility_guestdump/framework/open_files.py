# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Mends of how Volatility reads files that are open or mapped.

See `mends` for what a mend is. Containers have their files on overlayfs: a file of the overlay is
one of its *layer's*, and what a process maps is that. Its `struct file` belongs to the layer, and
the kernel keeps in different places by which path the process knows it:

    4.19 to 6.6    in f_path, so that f_path is of the overlay and f_inode of the layer
                   (open_with_fake_path)
    6.7 on         in what follows the file in memory: `struct backing_file` is a file and, from
                   def3ae83da02 on, the `user_path`; f_path and f_inode are of the layer

/proc/PID/maps shows the path of the overlay always, device and inode of the layer before 6.7 and
those of the overlay from then on.
"""

import functools
from typing import Any, Optional

from volatility3.framework import exceptions, interfaces
from volatility3.framework.symbols import linux
from volatility3.framework.symbols.linux import extensions

#: file.f_mode of a backing file, FMODE_BACKING (include/linux/fs.h): one bit from 6.5 on, another
#: one from 6.14 on (a94204f4d481). What each of them means in the kernels that have the other is
#: nothing, or rare.
_BACKING = 1 << 25 | 1 << 24


class File(extensions.struct_file):
    """An open file.

    Plugin: linux.sockscan; all kernels; Volatility 2.28.2.
    Cause: what only looks like a file in the scanned memory may lead to an inode that is not
    mapped. `container_of` returns None for it, and the plugin asks that for its `socket`.
    No longer needed when: Sockscan._walk_file_ops_needles checks what container_of returns.

    Plugin: linux.lsof; memory that was read while the guest ran; Volatility 2.28.2.
    Cause: what a file leads to may belong to another one by the time it is read: a path that never
    was.
    No longer needed when: LinuxUtilities.path_for_file compares `mnt_sb` and `d_sb`.

    Plugins: linux.proc.Maps and others that show what is mapped; Volatility 2.28.2.
    Cause: of a container's files they show paths and inodes that /proc/PID/maps does not.
    No longer needed when: linux.proc.Maps shows the same.
    """

    #: Whether it was come upon as what an area of memory maps. No other file has a fake path.
    is_mapped: bool = False

    def get_vfsmnt(self) -> interfaces.objects.ObjectInterface:
        """Returns a pointer to the `vfsmount` of the file."""
        path = self._user_path()
        return super().get_vfsmnt() if path is None else path.mnt

    def get_inode(self) -> Optional[interfaces.objects.ObjectInterface]:
        """Returns the inode of the file; None where it cannot be read."""
        path = self._user_path()
        if path is not None:
            found: interfaces.objects.ObjectInterface = path.dentry.d_inode.dereference()
            return found
        return None if self._is_torn else super().get_inode()

    def get_dentry(self) -> interfaces.objects.ObjectInterface:
        """Returns a pointer to the dentry: a null pointer where that is not the file's."""
        path = self._user_path()
        if path is not None:
            shown: interfaces.objects.ObjectInterface = path.dentry
            return shown
        dentry = super().get_dentry()
        if self._is_torn:
            null = self._null_dentry()
            return dentry if null is None else null
        if self.is_mapped and self.has_fake_path:
            return self._dentry_of_inode() or dentry
        if self._was_scanned and dentry:
            kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
            inode = dentry.d_inode
            if inode and not linux.LinuxUtilities.container_of(
                inode, "socket_alloc", "vfs_inode", kernel
            ):
                raise exceptions.InvalidAddressException(
                    self.vol.layer_name, int(inode), "The inode of this file cannot be read"
                )
        return dentry

    @property
    def has_fake_path(self) -> bool:
        """Whether the path is of another file system than the inode."""
        inode: Any = self.f_inode if self.has_member("f_inode") else 0
        dentry: Any = self.f_path.dentry
        return bool(
            inode
            and inode.is_readable()
            and dentry.is_readable()
            and inode.i_sb != dentry.d_sb
            and self._user_path() is None
        )

    @functools.cached_property
    def _is_torn(self) -> bool:
        """Whether mount and dentry are of two file systems, which those of no file are."""
        path: Any = self.f_path
        return bool(
            not self._was_scanned
            and path.mnt
            and path.dentry
            and path.mnt.is_readable()
            and path.dentry.is_readable()
            and path.mnt.mnt_sb != path.dentry.d_sb
        )

    @property
    def _was_scanned(self) -> bool:
        # Objects that a scan makes lie in physical memory, and their pointers lead elsewhere.
        return bool(self.vol.layer_name != self.vol.native_layer_name)

    def _user_path(self) -> Any:
        """Returns the path by which a process knows a backing file; None for any other file."""
        if self._was_scanned or not (self.has_member("f_mode") and self.f_mode & _BACKING):
            return None
        kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
        if not kernel.has_type("backing_file"):
            return None
        whole: Any = kernel.object("backing_file", offset=self.vol.offset, absolute=True)
        path: Any = whole.user_path if whole.has_member("user_path") else None
        # The flag may mean something else. A path is known by its file system, to which both of its
        # parts lead.
        if (
            path is None
            or not (path.mnt.is_readable() and path.dentry.is_readable())
            or path.mnt.mnt_sb != path.dentry.d_sb
            or not path.dentry.d_inode.is_readable()
        ):
            return None
        return path

    def _null_dentry(self) -> Any:
        """Returns a null pointer of the type that callers expect; None if there is none."""
        kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
        if not kernel.has_symbol("empty_zero_page"):
            return None
        zeros = kernel.get_absolute_symbol_address("empty_zero_page")
        path: Any = kernel.object("path", offset=zeros, absolute=True)
        return None if path.dentry else path.dentry

    def _dentry_of_inode(self) -> Any:
        """Returns a dentry of the file's inode; None if there is none."""
        first: Any = self.f_inode.i_dentry.first
        kernel = linux.LinuxUtilities.get_module_from_volobj_type(self._context, self)
        dentry: Any = linux.LinuxUtilities.container_of(first, "dentry", "d_u", kernel)
        return dentry if dentry is not None and dentry.d_inode == self.f_inode else None


class Area(extensions.vm_area_struct):
    """An area of a process' memory.

    Plugin: linux.proc.Maps and others; kernels from 4.19 to 6.6; Volatility 2.28.2.
    Cause: the path of a mapped file of an overlay is not that of the dentry that `File` returns.
    No longer needed when: `File.get_dentry` is not.
    """

    @property
    def vm_file(self) -> Any:
        """Pointer to the mapped file."""
        pointer: Any = self.member("vm_file")
        if pointer:
            # The pointer leads to this very object from now on.
            pointer.dereference().is_mapped = True
        return pointer

    def get_name(self, context: interfaces.context.ContextInterface, task: Any) -> Optional[str]:
        """Returns the path of what is mapped, or a word for it; see `vm_area_struct.get_name`."""
        try:
            if self.vm_file and self.vm_file.has_fake_path:
                root: Any = task.fs.root
                path: Any = self.vm_file.f_path
                name: Optional[str] = linux.LinuxUtilities.do_get_path(
                    root.dentry, root.mnt, path.dentry, path.mnt
                )
                return name
        except exceptions.InvalidAddressException:
            return None
        named: Optional[str] = super().get_name(context, task)
        return named
