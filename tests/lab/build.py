# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Building the lab's own programs and kernel modules for guests."""

import pathlib
import shutil
import subprocess

from tests.lab.errors import LabError
from tests.lab.recipes import MODULE_SOURCES, PROGRAM_SOURCES, Recipe

COMPILER = "gcc"

#: Of a module's name with its final zero: MODULE_NAME_LEN for 64 bits (include/linux/module.h).
NAME_SIZE = 56


def missing(recipe: Recipe) -> list[str]:
    """Returns the programs that this machine lacks for building what a recipe wants."""
    wanted = []
    if recipe.programs or recipe.built_modules or recipe.lime:
        wanted.append(COMPILER)
    if recipe.built_modules or recipe.lime:
        wanted.append("make")
    return [name for name in wanted if shutil.which(name) is None]


def program(name: str, scratch: pathlib.Path) -> bytes:
    """Returns a program of the lab for x86-64, statically linked.

    Args:
        name: of the source in the folder of programs, without ".c".
        scratch: a folder for files on the way.

    Raises:
        LabError: it cannot be compiled.
    """
    made = scratch / name
    source = PROGRAM_SOURCES / f"{name}.c"
    _run(COMPILER, "-std=gnu11", "-Wall", "-Os", "-static", "-s", "-o", str(made), str(source))
    return made.read_bytes()


def modules(headers: pathlib.Path, scratch: pathlib.Path) -> pathlib.Path:
    """Builds the lab's kernel modules, and returns the folder that they are in.

    Args:
        headers: the folder of the kernel's headers, as unpacked from its package.
        scratch: a folder for files on the way.

    Raises:
        LabError: they cannot be built.
    """
    return _make(MODULE_SOURCES, headers, scratch / "modules")


def _make(source: pathlib.Path, headers: pathlib.Path, folder: pathlib.Path) -> pathlib.Path:
    """Builds modules in a new folder, and returns it."""
    shutil.copytree(source, folder)
    # The headers name the compiler that the kernel was built with, which need not be here; nor need
    # pahole, which would make the modules' BTF where the headers have that of the kernel.
    here = (f"M={folder.resolve()}", f"CC={COMPILER}", "CONFIG_DEBUG_INFO_BTF_MODULES=")
    _run("make", "-C", str(headers.resolve()), *here, "modules")
    return folder


def lime(source: pathlib.Path, headers: pathlib.Path, scratch: pathlib.Path) -> bytes:
    """Returns LiME as a module for a kernel.

    Args:
        source: the folder of LiME's source.
        headers: the folder of the kernel's headers, as unpacked from its package.
        scratch: a folder for files on the way.

    Raises:
        LabError: it cannot be built.
    """
    return (_make(source, headers, scratch / "lime") / "lime.ko").read_bytes()


def rename(module: bytes, old: str, new: str) -> bytes:
    """Returns a kernel module with another name in its `struct module`.

    Args:
        module: the built file.
        old: the name that it has.
        new: of NAME_SIZE - 1 bytes in UTF-8 at most.

    Raises:
        LabError: the name does not fit, or is not found just once.
    """
    before, after = (name.encode().ljust(NAME_SIZE, b"\0") for name in (old, new))
    if len(after) > NAME_SIZE or after[-1] or module.count(before) != 1:
        raise LabError(f"a module {old} cannot be named {new!r}")
    return module.replace(before, after)


def _run(*command: str) -> None:
    result = subprocess.run(
        command, check=False, stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    if result.returncode != 0:
        raise LabError(f"{' '.join(command)} failed:\n{result.stdout}{result.stderr}")
