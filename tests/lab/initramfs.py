# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Initial RAM file systems: cpio archives in the "newc" format that the kernel unpacks.

Written here rather than by cpio(1), which would need root to put a device node in one.
"""

import pathlib
import stat
from collections.abc import Mapping, Sequence

HERE = pathlib.Path(__file__).parent

#: The programs of BusyBox that init.sh and the recipes use.
APPLETS = (
    *("awk", "cat", "date", "dd", "dmesg", "grep", "hostname", "httpd", "ifconfig", "insmod"),
    *("mkfifo", "mount", "nc", "od", "rm", "sh", "sha256sum", "sleep", "tail", "taskset", "tr"),
    *("uname", "wc"),
)


class Cpio:
    """A cpio archive that grows entry by entry."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._inode = 0

    def _add(self, name: str, mode: int, data: bytes = b"", major: int = 0, minor: int = 0) -> None:
        self._inode += 1
        path = name.encode() + b"\0"
        # inode, mode, uid, gid, links, mtime, size, device, device of the node, name size, sum.
        fields = (self._inode, mode, 0, 0, 1, 0, len(data), 0, 0, major, minor, len(path), 0)
        header = b"070701" + b"".join(b"%08X" % field for field in fields)
        self._parts += [header, path, bytes(-(len(header) + len(path)) % 4)]
        self._parts += [data, bytes(-len(data) % 4)]

    def folder(self, name: str) -> None:
        """Adds a folder; its parent must be there already."""
        self._add(name, stat.S_IFDIR | 0o755)

    def file(self, name: str, data: bytes, mode: int = 0o644) -> None:
        """Adds a regular file."""
        self._add(name, stat.S_IFREG | mode, data)

    def link(self, name: str, target: str) -> None:
        """Adds a symbolic link."""
        self._add(name, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, name: str, major: int, minor: int) -> None:
        """Adds a device node."""
        self._add(name, stat.S_IFCHR | 0o600, major=major, minor=minor)

    def finish(self) -> bytes:
        """Returns the whole archive."""
        self._add("TRAILER!!!", 0)
        return b"".join(self._parts)


def build(
    busybox: pathlib.Path,
    modules: Sequence[pathlib.Path],
    start: str,
    end: str,
    files: Mapping[str, bytes],
) -> bytes:
    """Returns the initramfs of a guest.

    Args:
        busybox: a statically linked BusyBox.
        modules: kernel modules to load, in this order.
        start: the shell commands of the recipe.
        end: how the guest ends, as init.sh wants to be told.
        files: path -> contents of further files, executable all; in bin, lab, second or at the top.
    """
    archive = Cpio()
    for folder in ("bin", "dev", "lab", "modules", "proc", "second", "sys"):
        archive.folder(folder)
    # The kernel opens the console before init can mount devtmpfs.
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", busybox.read_bytes(), 0o755)
    for applet in APPLETS:
        archive.link(f"bin/{applet}", "busybox")
    for number, module in enumerate(modules):
        archive.file(f"modules/{number}-{module.name}", module.read_bytes())
    archive.file("init", (HERE / "init.sh").read_bytes(), 0o755)
    archive.file("recipe.sh", f"END={end}\n{start}\n".encode())
    # Symbols whose addresses are asked for; a kernel has some of them only.
    archive.file("symbols", (HERE / "symbols.txt").read_bytes())
    for path, data in files.items():
        archive.file(path, data, 0o755)
    return archive.finish()
