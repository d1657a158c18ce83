# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Kernels and BusyBox out of Debian's packages, without installing any.

apt runs with a state of its own below `CACHE`, so it needs no root and leaves the machine's state
alone. Where the archives are, is taken from the machine's own sources. What comes out of the
packages is kept, the packages are not.
"""

import contextlib
import fcntl
import functools
import logging
import lzma
import os
import pathlib
import re
import shutil
import subprocess
import tarfile
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from tests.lab.errors import LabError
from tests.lab.recipes import KernelSource

CACHE = pathlib.Path(__file__).parent / "packages"

KEYRING = pathlib.Path("/usr/share/keyrings/debian-archive-keyring.gpg")

#: Indexes are fetched anew after this many seconds.
INDEX_AGE = 24 * 3600

#: Suite that BusyBox and firmware come from; any would do.
TOOLS_SUITE = "bookworm"

#: Package of Debian with firmware -> where the firmware is in it.
FIRMWARE = {"ovmf": r"\./usr/share/ovmf/OVMF\.fd"}

#: A package with fewer bytes than this has no kernel in it.
REAL_SIZE = 100_000

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Kernel:
    """A kernel, ready to boot.

    Attributes:
        image: vmlinuz.
        modules: the modules asked for, uncompressed.
        package: name and version of the package.
        release: what `uname -r` says.
    """

    image: pathlib.Path
    modules: tuple[pathlib.Path, ...]
    package: str
    release: str


@contextlib.contextmanager
def lock(path: pathlib.Path) -> Iterator[None]:
    """Holds a lock file; waits while another process does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("waiting for another process that holds %s", path)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _run(*command: str, cwd: Optional[pathlib.Path] = None) -> str:
    environment = {**os.environ, "LC_ALL": "C.UTF-8"}
    result = subprocess.run(
        command,
        check=False,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if result.returncode != 0:
        raise LabError(f"{command[0]} failed: {(result.stderr or result.stdout).strip()}")
    return result.stdout


@functools.cache
def archives() -> tuple[str, str]:
    """Returns the addresses of Debian's archive and of its security archive.

    Raises:
        LabError: the machine's apt does not use both.
    """
    # Unlike "apt-get indextargets", this needs no index to have been fetched before.
    listing = _run("apt-get", "update", "--print-uris")
    addresses: dict[str, str] = {}
    for address, release in re.findall(r"'(\S+/)dists/([^/\s]+)/main/binary-", listing):
        addresses.setdefault(release, address)
    # Other archives have a component "main" as well, but no security archive of this name.
    for release, address in addresses.items():
        if f"{release}-security" in addresses:
            return address, addresses[f"{release}-security"]
    raise LabError("the machine's apt sources name no Debian archive and security archive")


class Suite:
    """A suite of Debian for one architecture, seen through a private apt.

    Args:
        name: the suite's.
        architecture: of its packages.
        security: whether to look into the suite's security updates too.
    """

    def __init__(self, name: str, architecture: str, security: bool) -> None:
        self.name = f"{name}/{architecture}"
        self._folder = CACHE / "apt" / f"{name}-{architecture}"
        #: Held by who uses the suite: apt's state is for one at a time.
        self.lock_path = CACHE / "apt" / f"{name}-{architecture}.lock"
        main, security_archive = archives()
        options = f"[arch={architecture} signed-by={KEYRING}]"
        self._sources = f"deb {options} {main} {name} main\n"
        if security:
            self._sources += f"deb {options} {security_archive} {name}-security main\n"
        settings = {
            "Dir::State": self._folder / "state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": self._folder / "cache",
            # Some machines do without; then every question takes a second.
            "Dir::Cache::pkgcache": "pkgcache.bin",
            "Dir::Cache::srcpkgcache": "srcpkgcache.bin",
            "Dir::Etc::sourcelist": self._folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            # Preferences of the machine would hide what the suite has.
            "Dir::Etc::preferences": "/dev/null",
            "Dir::Etc::preferencesparts": "/dev/null",
            "APT::Architecture": architecture,
            "APT::Architectures": architecture,
            "Acquire::Languages": "none",
            # As root, apt would give up its rights and then fail in folders that are not public.
            "APT::Sandbox::User": "root",
        }
        self._options = [
            text for item in settings.items() for text in ("-o", "{}={}".format(*item))
        ]

    def update(self) -> None:
        """Fetches the indexes, at most once a day.

        A failure is only logged: older indexes, or those that did arrive, may do.
        """
        stamp = self._folder / "updated"
        sources = self._folder / "sources.list"
        if (
            stamp.exists()
            and time.time() - stamp.stat().st_mtime < INDEX_AGE
            and sources.read_text() == self._sources
        ):
            return
        for name in ("state/lists/partial", "cache/archives/partial"):
            (self._folder / name).mkdir(parents=True, exist_ok=True)
        sources.write_text(self._sources)
        try:
            _run("apt-get", *self._options, "-q", "update")
        except LabError as error:
            _log.warning("indexes of %s: %s", self.name, error)
        stamp.touch()

    def forget(self) -> None:
        """Makes the next `update` fetch the indexes in any case."""
        with contextlib.suppress(FileNotFoundError):
            (self._folder / "updated").unlink()

    def packages(self, prefix: str, pattern: str) -> list[dict[str, str]]:
        """Returns the fields of the newest version of each package.

        Args:
            prefix: of the package's name.
            pattern: regular expression that the whole name matches.
        """
        names = [
            name
            for name in _run("apt-cache", *self._options, "pkgnames", prefix).split()
            if re.fullmatch(pattern, name)
        ]
        found = []
        for name in names:
            # A name that others only mention has no record.
            with contextlib.suppress(LabError):
                shown = _run("apt-cache", *self._options, "--no-all-versions", "show", name)
                found.append(dict(re.findall(r"^([A-Za-z0-9-]+): (.*)$", shown, re.MULTILINE)))
        return found

    def download(self, package: dict[str, str], folder: pathlib.Path) -> pathlib.Path:
        """Downloads a package into an empty folder and returns its file."""
        wanted = f"{package['Package']}={package['Version']}"
        _run("apt-get", *self._options, "-q", "download", wanted, cwd=folder)
        return next(folder.glob("*.deb"))


def _version_order(first: str, second: str) -> int:
    for relation, result in (("lt", -1), ("gt", 1)):
        command = ("dpkg", "--compare-versions", first, relation, second)
        if subprocess.run(command, check=False).returncode == 0:
            return result
    return 0


def _newest_first(packages: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    # Of one version, the name without "-unsigned" comes first.
    by_name = sorted(packages, key=lambda package: len(package["Package"]), reverse=True)
    key = functools.cmp_to_key(_version_order)
    return sorted(by_name, key=lambda package: key(package["Version"]))[::-1]


def _extract(package: pathlib.Path, wanted: dict[str, str], folder: pathlib.Path) -> None:
    """Extracts files of a package.

    Args:
        package: the file.
        wanted: regular expression of a whole path -> name of the new file.
        folder: where the new files go.
    """
    process = subprocess.Popen(("dpkg-deb", "--fsys-tarfile", str(package)), stdout=subprocess.PIPE)
    assert process.stdout is not None
    with process, tarfile.open(fileobj=process.stdout, mode="r|") as archive:
        for member in archive:
            for pattern, name in wanted.items():
                stream = archive.extractfile(member) if member.isfile() else None
                if stream is not None and re.fullmatch(pattern, member.name):
                    data = stream.read()
                    if member.name.endswith(".xz"):
                        data = lzma.decompress(data)
                    (folder / name).write_bytes(data)
        # The archive's padding, lest dpkg-deb complain of a broken pipe.
        process.stdout.read()
    if process.returncode != 0:
        raise LabError(f"dpkg-deb cannot read {package}")


@contextlib.contextmanager
def _new_folder(final: pathlib.Path) -> Iterator[pathlib.Path]:
    """Gives a folder that gets its final name only if nothing goes wrong."""
    final.parent.mkdir(parents=True, exist_ok=True)
    folder = pathlib.Path(tempfile.mkdtemp(dir=final.parent, prefix=".new-"))
    try:
        yield folder
        folder.rename(final)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unpack(
    suite: Suite, packages: Sequence[dict[str, str]], wanted: dict[str, str], final: pathlib.Path
) -> None:
    with _new_folder(final) as folder, tempfile.TemporaryDirectory(dir=final.parent) as downloads:
        for package in packages:
            _log.info("downloading %s %s", package["Package"], package["Version"])
            file = suite.download(package, pathlib.Path(downloads))
            _extract(file, wanted, folder)
            file.unlink()
        # Modules may be missing; what was named first may not.
        if not (folder / next(iter(wanted.values()))).exists():
            raise LabError(f"{packages[0]['Package']} does not have what was expected in it")


def kernel(source: KernelSource, modules: Sequence[str]) -> Kernel:
    """Returns the newest kernel of a source, with those of the modules that it has.

    Raises:
        LabError: no such kernel can be had.
    """
    suite = Suite(source.suite, source.architecture, source.security)
    # Newer kernels have packages of their own for vmlinuz (linux-binary) and for modules.
    pattern = f"linux-(?:image|binary)-(?:unsigned-)?({source.release})(?:-unsigned)?"
    errors = []
    with lock(suite.lock_path):
        suite.update()
        for package in _newest_first(suite.packages("linux-", pattern)):
            # A package with next to nothing in it only names others.
            if int(package["Size"]) < REAL_SIZE:
                continue
            try:
                return _kernel(suite, package, pattern, modules)
            except LabError as error:
                errors.append(str(error))
        suite.forget()
    raise LabError(
        f"no package {pattern} can be had from suite {suite.name} of the machine's Debian "
        f"archive: {'; '.join(errors) or 'its indexes name none'}"
    )


def _kernel(suite: Suite, package: dict[str, str], pattern: str, modules: Sequence[str]) -> Kernel:
    name, version = package["Package"], package["Version"]
    release = re.sub(pattern, r"\1", name)
    label = re.sub(r"[^\w.+~-]", "_", f"{name}_{version}+{'+'.join(modules)}")
    folder = CACHE / "kernels" / label
    if not folder.exists():
        wanted = {r"\./boot/vmlinuz-.*|\./usr/lib/modules/[^/]*/vmlinuz": "vmlinuz"}
        for module in modules:
            wanted[rf"\.(?:/usr)?/lib/modules/.*/{module}\.ko(?:\.xz)?"] = f"{module}.ko"
        others = suite.packages("linux-modules-", re.escape(f"linux-modules-{release}"))
        _unpack(suite, [package, *others], wanted, folder)
    files = (folder / f"{module}.ko" for module in modules)
    present = tuple(file for file in files if file.exists())
    return Kernel(folder / "vmlinuz", present, f"{name} {version}", release)


def headers(source: KernelSource, release: str) -> pathlib.Path:
    """Returns the folder to build modules in for a kernel, with the tools that this takes.

    Args:
        source: of the kernel.
        release: of the kernel, as in `Kernel`.

    Raises:
        LabError: the headers cannot be had.
    """
    suite = Suite(source.suite, source.architecture, source.security)
    name = f"linux-headers-{release}"
    with lock(suite.lock_path):
        suite.update()
        packages = suite.packages(name, re.escape(name))
        if not packages:
            suite.forget()
            raise LabError(f"suite {suite.name} of the machine's Debian archive lacks {name}")
        # The tree goes on in a package for all flavours; a third one has the build's programs.
        needed = re.findall(r"linux-(?:headers|kbuild)-[^\s,]+", packages[0].get("Depends", ""))
        for other in needed:
            packages += suite.packages(other, re.escape(other))
        folder = CACHE / "headers" / f"{name}_{packages[0]['Version']}"
        if not folder.exists():
            with _new_folder(folder) as new, tempfile.TemporaryDirectory(dir=CACHE) as downloads:
                for package in packages:
                    _log.info("downloading %s %s", package["Package"], package["Version"])
                    file = suite.download(package, pathlib.Path(downloads))
                    _run("dpkg-deb", "--extract", str(file), str(new))
                    file.unlink()
                _relocate(new / "usr/src" / name / "Makefile", new, folder)
    return folder / "usr/src" / name


def _relocate(makefile: pathlib.Path, root: pathlib.Path, final: pathlib.Path) -> None:
    """Lets a Makefile that includes files below /usr include those below another folder."""
    text = makefile.read_text(encoding="utf-8")
    text = re.sub(r"(?m)^include (?=/usr/)", f"include {final.resolve()}", text)
    makefile.write_text(text, encoding="utf-8")
    for path in re.findall(r"(?m)^include (.*)", text):
        if not (root / pathlib.Path(path).relative_to(final.resolve())).exists():
            raise LabError(f"{makefile} includes {path}, which is in none of the packages")


def busybox(architecture: str) -> pathlib.Path:
    """Returns a statically linked BusyBox for an architecture.

    Raises:
        LabError: there is none to be had.
    """
    wanted = {r"\.(?:/usr)?/bin/busybox": "busybox"}
    return _tool("busybox-static", architecture, wanted, CACHE / "busybox") / "busybox"


def firmware(package: str) -> pathlib.Path:
    """Returns the firmware of one of the packages in `FIRMWARE`.

    Raises:
        LabError: it cannot be had.
    """
    wanted = {FIRMWARE[package]: "firmware.fd"}
    return _tool(package, "amd64", wanted, CACHE / "firmware" / package) / "firmware.fd"


def lime() -> pathlib.Path:
    """Returns the folder of LiME's source.

    Raises:
        LabError: it cannot be had.
    """
    folder = r"\./usr/src/lime-forensics-[^/]*/"
    names = ("main.c", "disk.c", "tcp.c", "hash.c", "deflate.c", "lime.h", "Makefile")
    wanted = {folder + re.escape(name): name for name in names}
    return _tool("lime-forensics-dkms", "amd64", wanted, CACHE / "lime")


def _tool(
    name: str, architecture: str, wanted: dict[str, str], folder: pathlib.Path
) -> pathlib.Path:
    """Returns the folder, a new one below `folder` for each version, of a package's files."""
    suite = Suite(TOOLS_SUITE, architecture, security=True)
    with lock(suite.lock_path):
        suite.update()
        packages = suite.packages(name, re.escape(name))
        if not packages:
            suite.forget()
            raise LabError(f"suite {suite.name} of the machine's Debian archive lacks {name}")
        final = folder / f"{packages[0]['Version'].replace(':', '_')}-{architecture}"
        if not final.exists():
            _unpack(suite, packages, wanted, final)
    return final
