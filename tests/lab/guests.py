"""Making guests, and finding those that are there already."""

import json
import logging
import pathlib
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from tests.lab import initramfs, packages, truth
from tests.lab.errors import LabError
from tests.lab.qemu import CHUNK, PROGRAM, VCPU, Machine, command_line, kernel_gs_bases
from tests.lab.recipes import GUESTS, NMI, STOP, USER, Recipe
from tests.lab.writer import pack_guest, write_vmem

FOLDER = pathlib.Path(__file__).parent / "guests"

#: Seconds for a guest to boot and to end; it takes about ten on an idle machine with two cores.
PATIENCE = 400

#: How often a guest is booted before the lab gives up. QEMU's emulation now and then runs code that
#: the kernel is just patching on another vCPU, which ends in an Oops (int3).
ATTEMPTS = 3

_PANICKED = "---[ end Kernel panic"

_log = logging.getLogger(__name__)


class _TooEarly(LabError):
    """A guest panicked before it was ready."""


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


def missing_tools() -> list[str]:
    """Returns what this machine lacks for making guests, in words; empty if nothing."""
    programs = (PROGRAM, "apt-get", "apt-cache", "dpkg", "dpkg-deb")
    missing = [program for program in programs if shutil.which(program) is None]
    if not packages.KEYRING.exists():
        missing.append(f"{packages.KEYRING} (package debian-archive-keyring)")
    if not missing:
        try:
            packages.archives()
        except LabError as error:
            missing.append(str(error))
    return missing


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
            missing = missing_tools()
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
        except _TooEarly as error:
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
        if machine.vcpus() != vcpus:
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
        facts_log=_read(folder / "facts.log"),
        console_log=_read(folder / "console.log"),
    )
    text = json.dumps(expected, indent=1) + "\n"
    (folder / "expected.json").write_text(text, encoding="utf-8")


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
    busybox = packages.busybox(recipe.kernel.architecture)
    archive = scratch / "initramfs"
    archive.write_bytes(initramfs.build(busybox, kernel.modules, recipe.start, recipe.end))
    _log.info("%s: booting %s", recipe.name, kernel.package)
    firmware = packages.firmware(recipe.firmware) if recipe.firmware else None
    return Machine(command_line(recipe, kernel.image, archive, folder, firmware), scratch)


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
        return _stop_as_wanted(recipe, machine)
    if recipe.end == NMI:
        machine.execute("inject-nmi")
    _wait(panicked, machine, folder)
    # The other vCPUs have been told to halt; let them get there.
    time.sleep(0.5)
    machine.execute("stop")
    return machine.vcpus()


def wait_until_ready(recipe: Recipe, machine: Machine, folder: pathlib.Path) -> None:
    """Waits until a guest has told its facts.

    Args:
        recipe: of the guest.
        machine: running.
        folder: of its console.log and facts.log.
    """

    def ready() -> bool:
        if "\nlab: ready" in _read(folder / "facts.log"):
            return True
        if _PANICKED in _read(folder / "console.log"):
            raise _TooEarly(f"guest {recipe.name} panics too early: {_tail(folder)}")
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


def _stop_as_wanted(recipe: Recipe, machine: Machine) -> list[VCPU]:
    """Stops the machine again and again, until its vCPUs do what the recipe wants."""
    time.sleep(2)
    for _ in range(500):
        machine.execute("stop")
        vcpus = machine.vcpus()
        if tuple(vcpu.mode for vcpu in vcpus) == recipe.modes and (
            "pti=on" not in recipe.append
            # The few instructions between entering the kernel and changing tables do not count.
            or all(vcpu.registers["cr3"] & 0x1000 for vcpu in vcpus if vcpu.mode == USER)
        ):
            return vcpus
        machine.execute("cont")
        time.sleep(0.1)
    modes = ", ".join(vcpu.mode for vcpu in vcpus)
    raise LabError(f"guest {recipe.name} never gets to {recipe.modes}; at last: {modes}")
