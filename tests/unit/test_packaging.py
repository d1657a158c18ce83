# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What is handed out: the wheel, the source distribution, and what they say of themselves."""

import email.message
import email.parser
import pathlib
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from importlib import util

import pytest

from tests import packages
from tests.helpers import write_pair
from volatility_guestdump import resources, version

PACKAGE = "volatility_guestdump"


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A copy of the tree."""
    return packages.copy_of_the_tree(tmp_path_factory.mktemp("tree"))


@pytest.fixture(scope="module")
def wheel(tree: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The wheel, built of the tree."""
    return packages.build("wheel", tmp_path_factory.mktemp("wheel"), tree)


@pytest.fixture(scope="module")
def unpacked(tree: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The source distribution, built of the tree and unpacked."""
    folder = tmp_path_factory.mktemp("unpacked")
    archive = packages.build("sdist", tmp_path_factory.mktemp("sdist"), tree)
    with tarfile.open(archive) as opened:
        opened.extractall(folder)
    (root,) = folder.iterdir()
    return root


def contents(wheel: pathlib.Path) -> dict[str, bytes]:
    """Returns the files of a wheel, but for their list with digests."""
    with zipfile.ZipFile(wheel) as opened:
        return {
            name: opened.read(name) for name in opened.namelist() if not name.endswith("/RECORD")
        }


def test_the_wheel_has_the_package_and_one_file_of_volatility(wheel: pathlib.Path) -> None:
    """All modules, the data files and the mark for type checkers; no __init__.py of Volatility."""
    found = set(contents(wheel))
    expected = {
        name
        for name in packages.sources()
        if name.startswith(f"{PACKAGE}/")
        and name.endswith((".py", "/py.typed", ".html", ".css", ".json"))
    }
    expected |= {f"{PACKAGE}/{name}" for name in packages.sources() if name.startswith("symbols/")}
    expected.add("volatility3/plugins/guestdump.py")
    assert f"{PACKAGE}/plugins/guestdump.py" in expected and len(expected) > 50
    assert {name for name in found if ".dist-info/" not in name} == expected


def test_the_plugin_in_volatility_is_ours(wheel: pathlib.Path) -> None:
    """The same module is found by vol and through -p."""
    found = contents(wheel)
    assert found["volatility3/plugins/guestdump.py"] == found[f"{PACKAGE}/plugins/guestdump.py"]


def test_the_wheel_says_what_it_is(wheel: pathlib.Path) -> None:
    """Name, version, license and what it needs."""
    (text,) = (data for name, data in contents(wheel).items() if name.endswith("/METADATA"))
    said: email.message.Message = email.parser.BytesParser().parsebytes(text)
    assert said["Name"] == "volatility3-guestdump"
    assert said["Version"] == version.__version__
    assert said["License-Expression"] == "LicenseRef-Volatility-Software-License-1.0"
    assert said["License-File"] == "LICENSE"
    assert str(said.get_payload()).lstrip().startswith(f"# {PACKAGE}")
    needed = [line for line in said.get_all("Requires-Dist", []) if "extra ==" not in line]
    oldest = ".".join(map(str, version.OLDEST_VOLATILITY))
    # No limit above: pip would take a user's Volatility back.
    assert f"volatility3>={oldest}" in needed
    assert any(line.startswith("rapidgzip") for line in needed)


def test_the_sdist_has_the_whole_project(unpacked: pathlib.Path) -> None:
    """Tests, guests and measurements run from it as from a checkout."""
    added = {"PKG-INFO", "setup.cfg"}
    assert set(packages.files(unpacked)) - added == set(packages.sources()) - added


def test_the_sdist_makes_the_same_wheel(
    unpacked: pathlib.Path, wheel: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Nothing that is installed comes from elsewhere."""
    assert contents(packages.build("wheel", tmp_path, unpacked)) == contents(wheel)


def test_tests_of_the_sdist_run(unpacked: pathlib.Path) -> None:
    """One file of tests, on the package that is unpacked beside them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/test_orc.py"],
        cwd=unpacked,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


def test_a_session_that_leaves_a_file_fails(tree: pathlib.Path, tmp_path: pathlib.Path) -> None:
    """Even where Git ignores the file."""
    folder = tmp_path / "tests"
    folder.mkdir()
    for name in ("__init__.py", "conftest.py", "packages.py"):
        shutil.copyfile(tree / "tests" / name, folder / name)
    (folder / "test_it.py").write_text(
        "import pathlib\n"
        "def test_writes(): pathlib.Path('release-6.1.json.xz').touch()\n"
        "def test_writes_nothing(): pass\n"
    )

    def run(name: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", name],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    assert run("test_writes_nothing").returncode == 0
    done = run("test_writes")
    assert done.returncode == 1 and "left files behind: release-6.1.json.xz" in done.stdout


class Environment:
    """A virtual environment with a Volatility of its own, and what it needs, but not our package.

    Args:
        folder: where it is made.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        venv.create(folder, symlinks=True)
        self.python = next(folder.glob("*/python"))
        self.folder = pathlib.Path(
            sysconfig.get_path("purelib", vars={"base": str(folder), "platbase": str(folder)})
        )
        found = util.find_spec("volatility3")
        assert found is not None and found.origin is not None
        installed = pathlib.Path(found.origin).parent
        leave_out = shutil.ignore_patterns("__pycache__", "guestdump.py")
        shutil.copytree(installed, self.folder / "volatility3", ignore=leave_out)
        for path in installed.parent.iterdir():
            if not path.name.startswith(("volatility", "__")) and path.suffix != ".pth":
                (self.folder / path.name).symlink_to(path)

    def run(self, *arguments: object) -> "subprocess.CompletedProcess[str]":
        """Runs its Python, which leaves no compiled modules behind."""
        return subprocess.run(
            [self.python, "-B", *map(str, arguments)],
            cwd=self.folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )

    def vol(self, folder: pathlib.Path, *options: object) -> str:
        """Returns what `vol` prints of the registers in a small dump, and says of it.

        Args:
            folder: where the dump and Volatility's cache are put.
            options: of vol.
        """
        guest = write_pair(folder, bytes(1 << 20))
        program = folder / "vol.py"
        program.write_text("from volatility3 import cli\n\ncli.main()\n")
        done = self.run(
            *(program, "-q", "--offline", "--cache-path", folder, *options),
            *("-f", guest, "guestdump.Registers"),
        )
        return done.stdout + done.stderr


@pytest.fixture
def environment(tmp_path: pathlib.Path) -> Environment:
    """An environment without our package."""
    return Environment(tmp_path / "environment")


#: What vol prints of the dump.
A_REGISTER = "cr0\t0x0\t"


def test_uninstalling_leaves_nothing(
    environment: Environment, wheel: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """A plain vol has the plugins while it is installed, and Volatility is as before then."""

    def pip(*arguments: object) -> None:
        done = environment.run(
            *("-m", "pip", "--disable-pip-version-check", "--no-input", *arguments)
        )
        assert done.returncode == 0, done.stderr

    before = set(environment.folder.rglob("*"))
    pip("install", "--no-index", "--no-deps", wheel)
    assert A_REGISTER in environment.vol(tmp_path)
    asked = environment.run("-m", PACKAGE)
    assert asked.returncode == 0 and "vol finds the plugins: yes" in asked.stdout, asked.stdout
    pip("uninstall", "--yes", "volatility3-guestdump")
    assert set(environment.folder.rglob("*")) == before
    assert "guestdump.Registers" in environment.vol(tmp_path).partition("invalid choice")[2]


def test_p_brings_the_package_along_and_nothing_else(
    environment: Environment, wheel: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """What is installed beside the package may be older, or made for another Python."""
    elsewhere = tmp_path / "elsewhere"
    with zipfile.ZipFile(wheel) as opened:
        opened.extractall(elsewhere)
    (elsewhere / "pefile.py").write_text("raise SystemExit('this one is not asked for')\n")
    assert A_REGISTER in environment.vol(tmp_path, "-p", elsewhere / PACKAGE / "plugins")


def test_p_works_with_a_checkout(
    environment: Environment, tree: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    """Its data files lie beside the package."""
    assert A_REGISTER in environment.vol(tmp_path, "-p", tree / PACKAGE / "plugins")


def moved_package(monkeypatch: pytest.MonkeyPatch, folder: pathlib.Path) -> None:
    """Makes `resources` believe that its package is in another folder."""
    (folder / PACKAGE).mkdir(exist_ok=True)
    monkeypatch.setattr(resources, "_PACKAGE", folder / PACKAGE)
    resources.folder.cache_clear()


def test_data_files_of_a_checkout_and_of_an_installed_package(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, tree: pathlib.Path
) -> None:
    """A folder of the same name beside an installed package is never taken for ours."""
    try:
        moved_package(monkeypatch, tree)
        assert resources.folder() == tree / "symbols"
        # In site-packages, beside what others installed there.
        (tmp_path / "symbols").mkdir()
        (tmp_path / "setup.py").touch()
        moved_package(monkeypatch, tmp_path)
        with pytest.raises(FileNotFoundError, match="install volatility_guestdump again"):
            resources.folder()
        (tmp_path / PACKAGE / "symbols").mkdir()
        resources.folder.cache_clear()
        assert resources.folder() == tmp_path / PACKAGE / "symbols"
    finally:
        resources.folder.cache_clear()
