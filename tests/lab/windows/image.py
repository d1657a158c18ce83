# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Makes the image of a kernel and its symbols with LLVM's tools, and lays the image out."""

import hashlib
import json
import lzma
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

from tests.lab import packages
from tests.lab.errors import LabError
from tests.lab.guests import FOLDER
from tests.lab.writer import PAGE

PDB_NAME = "ntkrnlmp.pdb"
#: As ntoskrnl.rc has it.
FILE_VERSION = "10.0.20348.2402"

#: What Volatility made of the PDB.
_ISF = "isf.json.xz"

_SOURCES = pathlib.Path(__file__).parent
_FILES = ("ntoskrnl.c", "ntoskrnl.rc", "types.h")
_DISCARDABLE = 0x0200_0000
_EXECUTABLE = 0x2000_0000
_SECONDS = 120

#: What the image exports; more than one name, so that the order of names matters.
_EXPORTS = (
    *("HalProcessorIdle", "KeBugCheckEx", "KeReadStateEvent", "NtBuildNumber,DATA"),
    *("NtCreateFile", "NtQuerySystemInformation", "PsInitialSystemProcess,DATA"),
)


@dataclass(frozen=True)
class Mode:
    """A kind of processor that Windows runs on.

    Attributes:
        target: as clang calls it.
        base: where the image is.
        prefix: what the compiler puts before the names of C.
        options: for the compiler.
    """

    target: str
    base: int
    prefix: str
    options: tuple[str, ...]


MODES: Mapping[str, Mode] = {
    "x64": Mode("x86_64-pc-windows-msvc", 0xFFFF_F800_41A0_0000, "", ("-funwind-tables",)),
    "pae": Mode("i686-pc-windows-msvc", 0x81A0_0000, "_", ()),
}


@dataclass(frozen=True)
class Section:
    """A part of the image.

    Attributes:
        name: of the section.
        start: first byte, relative to the image.
        data: its bytes, in whole pages.
        executable: whether it is code.
        discardable: whether Windows gives its memory back once it has started.
    """

    name: str
    start: int
    data: bytes
    executable: bool
    discardable: bool


@dataclass(frozen=True)
class Image:
    """A linked image with its symbols.

    Attributes:
        folder: where its files are.
        guid: of the PDB, as Volatility writes it.
        age: of the PDB.
        addresses: name of a symbol -> its virtual address, as the linker says.
    """

    folder: pathlib.Path
    guid: str
    age: int
    addresses: Mapping[str, int]

    def copy_symbols(self, folder: pathlib.Path) -> None:
        """Copies the symbols to where Volatility looks for them in a folder of symbols.

        It is not given those of the cache: where it misses symbols, it tries to write, and then
        removes, the very file that it misses.
        """
        target = folder / "windows" / PDB_NAME / f"{self.guid}-{self.age}.json.xz"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self.folder / _ISF, target)


def missing_tools() -> list[str]:
    """Returns the programs that this machine lacks for making an image; empty if none."""
    return [name for name in ("clang", "lld-link", "llvm-rc") if shutil.which(name) is None]


def image(mode: str) -> Image:
    """Returns the image of a kernel, made anew if its sources have changed.

    Args:
        mode: one of `MODES`.

    Raises:
        LabError: it cannot be made.
    """
    folder = FOLDER / f"windows-{mode}"
    digest = _digest()
    FOLDER.mkdir(exist_ok=True)
    with packages.lock(FOLDER / f".windows-{mode}.lock"):
        found = _existing(folder, digest)
        if found is None:
            missing = missing_tools()
            if missing:
                raise LabError(f"making a stand-in for Windows needs {', '.join(missing)}")
            with tempfile.TemporaryDirectory(dir=FOLDER, prefix=f".windows-{mode}-") as scratch:
                new = pathlib.Path(scratch) / "new"
                new.mkdir()
                _make(MODES[mode], new, digest)
                if folder.exists():
                    folder.rename(pathlib.Path(scratch) / "old")
                new.rename(folder)
            found = _existing(folder, digest)
    assert found is not None
    return found


def sections(executable: bytes) -> list[Section]:
    """Returns the headers of a PE file and its sections, as they are in memory."""
    (header,) = struct.unpack_from("<I", executable, 0x3C)
    count, optional = struct.unpack_from("<H12xH", executable, header + 6)
    (headers,) = struct.unpack_from("<I", executable, header + 24 + 60)
    found = [Section("headers", 0, _whole(executable[:headers]), False, False)]
    for index in range(count):
        at = header + 24 + optional + 40 * index
        name, used, start, size, offset, flags = struct.unpack_from("<8sIIII12xI", executable, at)
        data = executable[offset : offset + min(size, used)].ljust(used, b"\0")
        label = name.rstrip(b"\0").decode()
        kinds = [bool(flags & flag) for flag in (_EXECUTABLE, _DISCARDABLE)]
        found.append(Section(label, start, _whole(data), *kinds))
    return found


def _whole(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // PAGE) * PAGE, b"\0")


def _digest() -> str:
    total = hashlib.sha256()
    for name in ("image.py", *_FILES):
        total.update((_SOURCES / name).read_bytes())
    return total.hexdigest()


def _existing(folder: pathlib.Path, digest: str) -> Optional[Image]:
    try:
        known = json.loads((folder / "image.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    if known["digest"] != digest:
        return None
    return Image(folder, known["guid"], known["age"], known["addresses"])


def _make(mode: Mode, folder: pathlib.Path, digest: str) -> None:
    for name in _FILES:
        shutil.copy(_SOURCES / name, folder)
    # No path gets into the PDB: the same sources make the same GUID everywhere.
    common = ("-g", "-gcodeview", "-ffile-compilation-dir=.", "-O0")
    strict = ("-ffreestanding", "-fno-stack-protector", "-Wall", "-Wextra", "-Werror")
    target = (f"--target={mode.target}", *mode.options)
    _run(folder, "clang", *target, *common, *strict, "-c", "ntoskrnl.c", "-o", "ntoskrnl.obj")
    _run(folder, "llvm-rc", "/no-preprocess", "/fo", "ntoskrnl.res", "ntoskrnl.rc")
    _run(
        folder,
        *("lld-link", "/driver", "/subsystem:native,10.0", "/dynamicbase:no", "/fixed"),
        *("/debug", f"/pdb:{PDB_NAME}", f"/pdbaltpath:{PDB_NAME}", "/pdbsourcepath:/lab"),
        *("/out:ntoskrnl.exe", "/map:ntoskrnl.map", f"/base:{mode.base:#x}"),
        *("/entry:KiSystemStartup", "/section:INIT,ERD", "/timestamp:1712664896"),
        *(f"/export:{name}" for name in _EXPORTS),
        *("ntoskrnl.obj", "ntoskrnl.res"),
    )
    converter = ("-m", "volatility3.framework.symbols.windows.pdbconv", "-p", PDB_NAME)
    _run(folder, sys.executable, *converter, "-f", PDB_NAME, "-o", _ISF)
    with lzma.open(folder / _ISF) as stream:
        pdb = json.load(stream)["metadata"]["windows"]["pdb"]
    known = {
        "digest": digest,
        "guid": pdb["GUID"],
        "age": pdb["age"],
        "addresses": _addresses((folder / "ntoskrnl.map").read_text(), mode.prefix),
    }
    (folder / "image.json").write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def _addresses(linker_map: str, prefix: str) -> dict[str, int]:
    lines = re.findall(
        r"^ [0-9a-f]{4}:[0-9a-f]{8} +(\S+) +([0-9a-f]+) +\S+\.obj$", linker_map, re.M
    )
    return {name[len(prefix) :]: int(address, 16) for name, address in lines}


def _run(folder: pathlib.Path, *command: str) -> None:
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=_SECONDS, check=False
    )
    if done.returncode != 0:
        raise LabError(f"{command[0]} failed:\n{done.stdout}{done.stderr}")
