# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""A virtual machine in QEMU: starting it, and asking it over QMP for its state.

QMP is JSON, a line each; what it cannot say, the human monitor can ("info registers").
"""

import json
import pathlib
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Optional

from tests.lab.errors import LabError
from tests.lab.recipes import HALTED, KERNEL, USER, Recipe
from tests.lab.writer import Region

PROGRAM = "qemu-system-x86_64"

#: Memory is fetched in pieces of this size; QEMU can hand it over in files only.
CHUNK = 64 << 20


#: MiB of a disk beyond the guest's memory: for headers.
DISK_ROOM = 8

#: Kind and name of the notes in which QEMU puts a vCPU's state, padded to a multiple of 4.
_QEMU_NOTE = b"\0\0\0\0QEMU\0\0\0\0"

#: Dumps that QEMU writes itself: name of the file -> arguments of dump-guest-memory. With paging,
#: QEMU walks the page tables of each vCPU and describes memory by virtual addresses.
DUMPS: Mapping[str, Mapping[str, Any]] = {
    "dump.elf": {"paging": False, "format": "elf"},
    "dump-paging.elf": {"paging": True},
    "dump.kdump": {"paging": False, "format": "kdump-zlib"},
}


@dataclass(frozen=True)
class VCPU:
    """What QEMU says of a vCPU.

    Attributes:
        registers: name -> value, EFER among them.
        mode: `USER`, `KERNEL` or `HALTED`.
    """

    registers: dict[str, int]
    mode: str


def command_line(
    recipe: Recipe,
    kernel: pathlib.Path,
    initramfs: pathlib.Path,
    folder: pathlib.Path,
    firmware: Optional[pathlib.Path] = None,
) -> list[str]:
    """Returns the command that runs a guest.

    The serial ports write to console.log and facts.log in the folder. Without `firmware` QEMU uses
    its own.
    """
    machine = "pc,usb=off"
    if recipe.below_4g is not None:
        machine += f",max-ram-below-4g={recipe.below_4g}M"
    append = f"console=ttyS0 ignore_loglevel printk.time=1 panic=0 {recipe.append}".strip()
    return [
        *(PROGRAM, "-no-user-config", "-nodefaults", "-display", "none", "-no-reboot"),
        *("-accel", "tcg,thread=multi", "-M", machine),
        *("-cpu", f"max,la57={'on' if recipe.five_level else 'off'}"),
        *("-smp", str(recipe.vcpus), "-m", f"{recipe.memory}M"),
        *("-kernel", str(kernel), "-initrd", str(initramfs), "-append", append),
        # Kernel messages, then facts.
        *("-chardev", f"file,id=console,path={_escape(folder / 'console.log')}"),
        *("-serial", "chardev:console"),
        *("-chardev", f"file,id=facts,path={_escape(folder / 'facts.log')}"),
        *("-serial", "chardev:facts"),
        *(("-bios", str(firmware)) if firmware else ()),
        *(argument for device in recipe.devices for argument in ("-device", device)),
        *_disks(recipe, folder),
    ]


def _disks(recipe: Recipe, folder: pathlib.Path) -> Iterator[str]:
    """Yields the arguments for a guest's empty disks; their files take what is written only."""
    if recipe.disks:
        yield from ("-device", "nvme,id=disks,serial=lab")
    for number in range(1, recipe.disks + 1):
        path = folder / f"disk-{number}"
        with path.open("wb") as stream:
            stream.truncate((recipe.memory + DISK_ROOM) << 20)
        yield from ("-drive", f"if=none,id=disk{number},format=raw,file={_escape(path)}")
        yield from ("-device", f"nvme-ns,bus=disks,drive=disk{number},nsid={number}")


def _escape(path: pathlib.Path) -> str:
    return str(path).replace(",", ",,")


class Machine:
    """A running virtual machine, ended when its block ends.

    Args:
        command: as from `command_line`.
        folder: for files that pass memory; must be QEMU's to write.
    """

    def __init__(self, command: Sequence[str], folder: pathlib.Path) -> None:
        self._folder = folder
        self._buffer = b""
        # A socket's path may have about a hundred characters only: not below the checkout.
        self._socket_folder = tempfile.mkdtemp(prefix="lab-")
        path = f"{self._socket_folder}/qmp"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen(1)
        self._errors = (folder / "qemu.log").open("w+b")
        # Lest a machine go on for ever when this process is killed.
        guard = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        self._process = subprocess.Popen(
            [*guard, *command, "-qmp", f"unix:{path}"],
            stdin=subprocess.DEVNULL,
            stdout=self._errors,
            stderr=self._errors,
        )
        try:
            with listener:
                listener.settimeout(0.2)
                self._connection = self._accept(listener)
            self._connection.settimeout(120)
            self._receive()
            self.execute("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _accept(self, listener: socket.socket) -> socket.socket:
        while True:
            try:
                return listener.accept()[0]
            except socket.timeout:
                self.check()

    def __enter__(self) -> "Machine":
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the machine."""
        self._process.kill()
        self._process.wait()
        self._errors.close()
        if hasattr(self, "_connection"):
            self._connection.close()
        shutil.rmtree(self._socket_folder, ignore_errors=True)

    def check(self) -> None:
        """Raises an error if QEMU has ended."""
        if self._process.poll() is not None:
            self._errors.seek(0)
            said = self._errors.read().decode(errors="replace").strip()
            raise LabError(f"{PROGRAM} ended with status {self._process.returncode}: {said}")

    def execute(self, command: str, **arguments: Any) -> Any:
        """Returns what QEMU answers to a QMP command."""
        request = {"execute": command, "arguments": arguments}
        self._connection.sendall(json.dumps(request).encode() + b"\n")
        while True:
            reply = self._receive()
            if "error" in reply:
                raise LabError(f"QEMU refuses {command}: {reply['error']['desc']}")
            # Everything else is an event.
            if "return" in reply:
                return reply["return"]

    def _receive(self) -> dict[str, Any]:
        while b"\n" not in self._buffer:
            data = self._connection.recv(1 << 16)
            if not data:
                time.sleep(0.2)
                self.check()
                raise LabError(f"{PROGRAM} closed its control connection")
            self._buffer += data
        line, self._buffer = self._buffer.split(b"\n", 1)
        reply: dict[str, Any] = json.loads(line)
        return reply

    def monitor(self, line: str) -> str:
        """Returns what the human monitor prints for a command."""
        text: str = self.execute("human-monitor-command", **{"command-line": line})
        return text.replace("\r", "")

    def vcpus(self) -> list[VCPU]:
        """Returns the state of all vCPUs; the machine should be stopped."""
        return parse_registers(self.monitor("info registers -a"))

    def regions(self) -> list[Region]:
        """Returns where guest-physical memory has RAM, ascending."""
        return parse_regions(self.monitor("info mtree"))

    def memory(self, regions: Sequence[Region]) -> Iterator[bytes]:
        """Yields the contents of regions of guest-physical memory, piece by piece."""
        piece = self._folder / "piece"
        for start, size in regions:
            for address in range(start, start + size, CHUNK):
                length = min(CHUNK, start + size - address)
                self.execute("pmemsave", val=address, size=length, filename=str(piece))
                yield piece.read_bytes()
        piece.unlink()

    def dump(self, name: str) -> pathlib.Path:
        """Lets QEMU write one of `DUMPS`, and returns its file in the machine's folder."""
        path = self._folder / name
        self.execute("dump-guest-memory", protocol=f"file:{path}", **DUMPS[name])
        return path


def parse_regions(tree: str) -> list[Region]:
    """Returns address and size of the RAM in the output of "info mtree".

    Other aliases of the same RAM exist inside the first MiB and in SMM's address space; these
    two are the ones that every CPU sees.
    """
    found = set()
    for match in re.finditer(
        r"^ *([0-9a-f]{16})-([0-9a-f]{16}) .*\balias ram-(?:below|above)-4g @", tree, re.MULTILINE
    ):
        start, last = (int(number, 16) for number in match.groups())
        found.add((start, last + 1 - start))
    return sorted(found)


def parse_registers(text: str) -> list[VCPU]:
    """Returns the vCPUs in the output of "info registers -a".

    A vCPU in 32-bit code is shown with its 32-bit registers (EAX); they get the names of the
    64-bit ones, with r8 to r15 zero.
    """
    return [_parse_vcpu(block) for block in re.split(r"^CPU#\d+$", text, flags=re.MULTILINE)[1:]]


def _parse_vcpu(block: str) -> VCPU:
    registers = {f"r{number}": 0 for number in range(8, 16)}
    general: list[tuple[str, str]] = re.findall(r"\b([RE][A-Z0-9]{1,2}) ?=([0-9a-f]+)", block)
    for name, value in general:
        registers["r" + name[1:].lower()] = int(value, 16)
    registers["eflags"] = registers.pop("rfl")
    segments: list[tuple[str, str, str]] = re.findall(
        r"^([CDEFGS]S) =([0-9a-f]{4}) ([0-9a-f]+) ", block, re.MULTILINE
    )
    for name, selector, base in segments:
        registers[name.lower()] = int(selector, 16)
        if name in ("FS", "GS"):
            registers[f"{name.lower()}_base"] = int(base, 16)
    control: list[tuple[str, str]] = re.findall(r"\b(CR[0234]|EFER)=([0-9a-f]+)", block)
    for name, value in control:
        registers[name.lower()] = int(value, 16)
    registers["idt_base"] = int(_field(r"^IDT= +([0-9a-f]+) ", block), 16)
    if _field(r"\bHLT=(\d)", block) == "1":
        mode = HALTED
    else:
        mode = USER if registers["cs"] & 3 == 3 else KERNEL
    return VCPU(registers, mode)


def _field(pattern: str, block: str) -> str:
    match = re.search(pattern, block, re.MULTILINE)
    if match is None:
        raise LabError(f"no {pattern!r} in QEMU's registers: {block!r}")
    return match.group(1)


def kernel_gs_bases(dump: pathlib.Path) -> list[int]:
    """Returns each vCPU's IA32_KERNEL_GS_BASE from an ELF file that QEMU wrote.

    QEMU's monitor does not show this register. The notes of QEMU's own (CPUState in its
    target/i386/arch_dump.c) end with it.
    """
    data = dump.open("rb").read(1 << 20)
    found = []
    position = data.find(_QEMU_NOTE)
    while position >= 0:
        # A size in front of the kind, and one of the name in front of that.
        size = int.from_bytes(data[position - 4 : position], "little")
        end = position + len(_QEMU_NOTE) + size
        found.append(int.from_bytes(data[end - 8 : end], "little"))
        position = data.find(_QEMU_NOTE, end)
    return found
