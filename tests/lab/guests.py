# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Making guests, and finding those that are there already."""

import json
import logging
import pathlib
import re
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from tests.lab import build, initramfs, packages, truth
from tests.lab.errors import LabError
from tests.lab.qemu import CHUNK, PROGRAM, VCPU, Machine, command_line, kernel_gs_bases
from tests.lab.recipes import GUESTS, KDUMP, KEXEC, NMI, STOP, USER, Recipe
from tests.lab.writer import pack_guest, write_vmem

FOLDER = pathlib.Path(__file__).parent / "guests"

#: Seconds for a guest to boot and to end; it takes about ten on an idle machine with two cores.
PATIENCE = 400

#: How often a guest is booted before the lab gives up. QEMU's emulation now and then runs code that
#: the kernel is just patching on another vCPU, which ends in an Oops (int3).
ATTEMPTS = 3

_PANICKED = "---[ end Kernel panic"

_log = logging.getLogger(__name__)


class _Missed(LabError):
    """A guest panicked before it was ready, or otherwise than it should; another boot may do."""


@dataclass(frozen=True)
class Guest:
    """A guest on disk.

    Attributes:
        folder: where its files are.
        expected: the contents of expected.json: what the dump should show.
    """

    folder: pathlib.Path
    expected: dict[str, Any]

    @property
    def guest_path(self) -> pathlib.Path:
        """The debug.guest file."""
        return self.folder / "debug.guest"

    @property
    def vmem_path(self) -> pathlib.Path:
        """The debug.vmem file."""
        return self.folder / "debug.vmem"

    @property
    def console(self) -> str:
        """What the guest's kernel wrote to its console."""
        return (self.folder / "console.log").read_text(encoding="utf-8", errors="replace")


def missing_tools(name: Optional[str] = None) -> list[str]:
    """Returns what this machine lacks for making guests, in words; empty if nothing.

    Args:
        name: of a guest, which may need more than others do.
    """
    programs = (PROGRAM, "apt-get", "apt-cache", "dpkg", "dpkg-deb")
    missing = [program for program in programs if shutil.which(program) is None]
    if not packages.KEYRING.exists():
        missing.append(f"{packages.KEYRING} (package debian-archive-keyring)")
    if not missing:
        try:
            packages.archives()
        except LabError as error:
            missing.append(str(error))
    return missing + (build.missing(GUESTS[name]) if name else [])


def existing(name: str) -> Optional[Guest]:
    """Returns a guest if it is on disk, made by its present recipe."""
    folder = FOLDER / name
    try:
        expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return Guest(folder, expected) if expected.get("recipe") == GUESTS[name].digest else None


def guest(name: str, force: bool = False) -> Guest:
    """Returns a guest, and makes it first if need be.

    Args:
        name: one of `GUESTS`.
        force: make it even if it is there.

    Raises:
        LabError: the guest cannot be made.
    """
    if name not in GUESTS:
        raise LabError(f"there is no guest {name!r}, only {', '.join(GUESTS)}")
    with packages.lock(FOLDER / f".{name}.lock"):
        found = existing(name)
        if found is None or force:
            missing = missing_tools(name)
            if missing:
                raise LabError(f"making guest {name} needs {', '.join(missing)}")
            _make(GUESTS[name])
            found = existing(name)
    assert found is not None
    return found


def _make(recipe: Recipe) -> None:
    for _ in range(ATTEMPTS - 1):
        try:
            return _attempt(recipe)
        except _Missed as error:
            _log.warning("%s\nBooting it again", error)
    return _attempt(recipe)


def _attempt(recipe: Recipe) -> None:
    prefix = f".{recipe.name}.new-"
    for left_over in FOLDER.glob(f"{prefix}*"):
        shutil.rmtree(left_over)
    temporary = pathlib.Path(tempfile.mkdtemp(dir=FOLDER, prefix=prefix))
    try:
        made, old = temporary / "made", temporary / "old"
        scratch = temporary / "scratch"
        made.mkdir()
        scratch.mkdir()
        _write(recipe, made, scratch)
        final = FOLDER / recipe.name
        if final.exists():
            final.rename(old)
        made.rename(final)
    finally:
        shutil.rmtree(temporary)


def _write(recipe: Recipe, folder: pathlib.Path, scratch: pathlib.Path) -> None:
    kernel = packages.kernel(recipe.kernel, recipe.modules)
    with boot(recipe, kernel, folder, scratch) as machine:
        vcpus = _run(recipe, machine, folder)
        write(recipe, kernel, machine, vcpus, logs=folder, folder=folder)


def boot(
    recipe: Recipe, kernel: packages.Kernel, folder: pathlib.Path, scratch: pathlib.Path
) -> Machine:
    """Starts the machine of a guest.

    Args:
        recipe: of the guest.
        kernel: that it runs.
        folder: where its console.log and facts.log go.
        scratch: a folder for files that the machine needs while it runs.
    """
    archive = scratch / "initramfs"
    archive.write_bytes(_initramfs(recipe, kernel, scratch))
    _log.info("%s: booting %s", recipe.name, kernel.package)
    firmware = packages.firmware(recipe.firmware) if recipe.firmware else None
    return Machine(command_line(recipe, kernel.image, archive, folder, firmware), scratch)


def _initramfs(recipe: Recipe, kernel: packages.Kernel, scratch: pathlib.Path) -> bytes:
    busybox = packages.busybox(recipe.kernel.architecture)
    files = {path: text.encode() for path, text in recipe.files}
    for program in recipe.programs:
        files[f"bin/{program}"] = build.program(program, scratch)
    if recipe.built_modules:
        modules = build.modules(packages.headers(recipe.kernel, kernel.release), scratch)
        for name in recipe.built_modules:
            data = (modules / f"{name}.ko").read_bytes()
            if name == "odd_name" and recipe.module_name:
                data = build.rename(data, name, recipe.module_name)
            files[f"lab/{name}.ko"] = data
    if recipe.lime:
        headers = packages.headers(recipe.kernel, kernel.release)
        files["lab/lime.ko"] = build.lime(packages.lime(), headers, scratch)
    if recipe.finish:
        files["finish.sh"] = recipe.finish.encode()
    if recipe.second:
        files["second/vmlinuz"] = kernel.image.read_bytes()
        files["second/initramfs"] = initramfs.build(busybox, (), "sleep 1000000 &", STOP, {})
    return initramfs.build(busybox, kernel.modules, recipe.start, recipe.end, files)


def write(
    recipe: Recipe,
    kernel: packages.Kernel,
    machine: Machine,
    vcpus: Sequence[VCPU],
    *,
    logs: pathlib.Path,
    folder: pathlib.Path,
) -> None:
    """Writes debug.guest, debug.vmem and expected.json of a machine that is stopped.

    Args:
        recipe: of the guest.
        kernel: that it runs.
        machine: stopped.
        vcpus: its vCPUs.
        logs: the folder of its console.log and facts.log.
        folder: for the new files.
    """
    if len(vcpus) != recipe.vcpus:
        raise LabError(f"QEMU shows {len(vcpus)} vCPUs instead of {recipe.vcpus}")
    regions = machine.regions()
    size = sum(length for _, length in regions)
    if size != recipe.memory << 20:
        raise LabError(f"QEMU shows {size:#x} bytes of memory instead of {recipe.memory} MiB")
    written = write_vmem(folder / "debug.vmem", machine.memory(regions))
    if written != size:
        raise LabError(f"QEMU gave {written:#x} bytes of memory instead of {size:#x}")
    for name in recipe.dumps:
        _keep_dump(machine.dump(name), folder / name)
    if machine.vcpus() != list(vcpus):
        raise LabError(f"vCPUs of guest {recipe.name} moved while it was written")
    if "dump.elf" in recipe.dumps:
        _add_kernel_gs_bases(vcpus, folder / "dump.elf")
    registers = [vcpu.registers for vcpu in vcpus]
    (folder / "debug.guest").write_bytes(pack_guest(recipe.format_version, regions, registers))
    expected = truth.expected(
        recipe,
        kernel.package,
        regions,
        vcpus,
        facts_log=_read(logs / "facts.log"),
        console_log=_read(logs / "console.log"),
    )
    text = json.dumps(expected, indent=1) + "\n"
    (folder / "expected.json").write_text(text, encoding="utf-8")


def _keep_dump(dump: pathlib.Path, final: pathlib.Path) -> None:
    """Moves a dump to its place, with holes in the file where memory is zero."""
    with dump.open("rb") as stream:
        write_vmem(final, iter(lambda: stream.read(CHUNK), b""))
    dump.unlink()


def _add_kernel_gs_bases(vcpus: Sequence[VCPU], dump: pathlib.Path) -> None:
    values = kernel_gs_bases(dump)
    if len(values) != len(vcpus):
        raise LabError(f"{dump} has notes of {len(values)} vCPUs instead of {len(vcpus)}")
    for vcpu, value in zip(vcpus, values):
        vcpu.registers["kernel_gs_base"] = value


def _read(path: pathlib.Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _run(recipe: Recipe, machine: Machine, folder: pathlib.Path) -> list[VCPU]:
    """Runs a guest to its end and returns its vCPUs, stopped."""

    def panicked() -> bool:
        return _PANICKED in _read(folder / "console.log")

    wait_until_ready(recipe, machine, folder)
    if recipe.end == STOP:
        vcpus = _stop_as_wanted(recipe, machine, folder)
    elif recipe.end in (KDUMP, KEXEC):
        machine.execute("stop")
        vcpus = machine.vcpus()
    else:
        if recipe.end == NMI:
            machine.execute("inject-nmi")
        _wait(panicked, machine, folder)
        # The other vCPUs have been told to halt; let them get there.
        time.sleep(0.5)
        machine.execute("stop")
        vcpus = machine.vcpus()
    if re.search(recipe.shows, _read(folder / "console.log")) is None:
        raise _Missed(f"guest {recipe.name} does not show {recipe.shows}: {_tail(folder)}")
    return vcpus


def wait_until_ready(recipe: Recipe, machine: Machine, folder: pathlib.Path) -> None:
    """Waits until every kernel of a guest that is to boot has told its facts.

    Args:
        recipe: of the guest.
        machine: running.
        folder: of its console.log and facts.log.
    """

    def ready() -> bool:
        if _read(folder / "facts.log").count("\nlab: ready") == recipe.boots:
            return True
        if _PANICKED in _read(folder / "console.log"):
            raise _Missed(f"guest {recipe.name} panics too early: {_tail(folder)}")
        return False

    _wait(ready, machine, folder)


def _wait(condition: Callable[[], bool], machine: Machine, folder: pathlib.Path) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        machine.check()
        if time.monotonic() > deadline:
            raise LabError(f"the guest hangs: {_tail(folder)}")
        time.sleep(0.2)


def _tail(folder: pathlib.Path) -> str:
    return "\n" + "\n".join(_read(folder / "console.log").splitlines()[-30:])


def _stop_as_wanted(recipe: Recipe, machine: Machine, folder: pathlib.Path) -> list[VCPU]:
    """Stops the machine again and again, until its vCPUs do what the recipe wants."""
    bpf = truth.bpf_functions(_read(folder / "facts.log"))
    time.sleep(2)
    for _ in range(500):
        machine.execute("stop")
        vcpus = machine.vcpus()
        if _as_wanted(recipe, vcpus) and (
            not recipe.in_bpf
            or any(vcpu.registers["rip"] in function for vcpu in vcpus for function in bpf)
        ):
            return vcpus
        machine.execute("cont")
        time.sleep(0.1)
    modes = ", ".join(vcpu.mode for vcpu in vcpus)
    wanted = f"{recipe.modes}{' and BPF code' if recipe.in_bpf else ''}"
    raise LabError(f"guest {recipe.name} never gets to {wanted}; at last: {modes}")


def _as_wanted(recipe: Recipe, vcpus: Sequence[VCPU]) -> bool:
    if not recipe.modes:
        return True
    return tuple(vcpu.mode for vcpu in vcpus) == recipe.modes and (
        "pti=on" not in recipe.append
        # The few instructions between entering the kernel and changing tables do not count.
        or all(vcpu.registers["cr3"] & 0x1000 for vcpu in vcpus if vcpu.mode == USER)
    )
