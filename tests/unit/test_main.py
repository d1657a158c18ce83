# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""`python -m volatility_guestdump`, with and without a Volatility that it can work with."""

import os
import pathlib
import subprocess
import sys
from importlib import util

import pytest

from tests.packages import ROOT
from volatility_guestdump.version import __version__

#: A Volatility that has no plugins, of a version.
OTHER_VOLATILITY = {
    "volatility3/__init__.py": "",
    "volatility3/framework/__init__.py": "def interface_version(): return {version}\n",
    "volatility3/framework/constants.py": "",
    "volatility3/framework/exceptions.py": "",
    "volatility3/framework/layers/__init__.py": "",
    "volatility3/framework/layers/resources.py": "",
}


def asked(*path: pathlib.Path, bare: bool = False) -> "subprocess.CompletedProcess[str]":
    """Asks the package of this tree.

    Args:
        path: folders to import from before all others.
        bare: with nothing else that is installed.
    """
    return subprocess.run(
        [sys.executable, *(["-S"] if bare else []), "-m", "volatility_guestdump"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (*path, ROOT)))},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def write(folder: pathlib.Path, texts: dict[str, str]) -> pathlib.Path:
    """Writes modules, and returns the folder to import them from."""
    for name, text in texts.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


def other_volatility(folder: pathlib.Path, version: tuple[int, int, int]) -> pathlib.Path:
    """Writes a Volatility of another version, and returns the folder to import it from."""
    return write(
        folder,
        {name: text.format(version=version) for name, text in OTHER_VOLATILITY.items()},
    )


def volatility_without_plugin(folder: pathlib.Path) -> pathlib.Path:
    """Stands for Volatility with nothing of ours in its folders."""
    real = util.find_spec("volatility3")
    assert real is not None and real.origin is not None
    code = pathlib.Path(real.origin).read_text(encoding="utf-8")
    path = os.path.dirname(real.origin)
    return write(folder, {"volatility3/__init__.py": f"{code}\n__path__.append({path!r})\n"})


def check(done: "subprocess.CompletedProcess[str]", *texts: str) -> None:
    """Checks that the answer is no, and says why, and what to do."""
    assert done.returncode == 1 and not done.stderr, done.stdout + done.stderr
    assert f"volatility_guestdump {__version__} at " in done.stdout
    for text in ("vol finds the plugins: no, ", *texts):
        assert text in done.stdout
    assert f'-p "{ROOT / "volatility_guestdump" / "plugins"}"' in done.stdout


def test_without_volatility() -> None:
    """It says for which Python Volatility is missing."""
    check(asked(bare=True), f"Volatility 3 is not installed for this Python, {sys.executable}")


def test_without_pefile(tmp_path: pathlib.Path) -> None:
    """Volatility itself starts without it."""
    missing = "raise ModuleNotFoundError(\"No module named 'pefile'\", name='pefile')\n"
    check(asked(write(tmp_path, {"pefile.py": missing})), "it needs pefile: pip install pefile")


def test_with_an_older_volatility(tmp_path: pathlib.Path) -> None:
    """Nothing of ours is left in it by half."""
    check(
        asked(other_volatility(tmp_path, (2, 11, 0)), bare=True),
        "Volatility 2.11.0 is older than 2.28.2, the oldest that this package works with",
        'pip install "volatility3>=2.28.2,<2.29"',
    )


def test_with_a_newer_volatility_that_lacks_what_is_needed(tmp_path: pathlib.Path) -> None:
    """Whatever is missing there, it is said."""
    done = asked(other_volatility(tmp_path, (3, 1, 0)), bare=True)
    check(done, "volatility3.framework", 'pip install "volatility3>=2.28.2,<2.29"')
    assert "pip install volatility3." not in done.stdout


def test_with_an_editable_install(tmp_path: pathlib.Path) -> None:
    """It is installed, and still vol has no plugin."""
    folder = write(
        volatility_without_plugin(tmp_path),
        {
            "volatility3_guestdump-1.0.0.dist-info/METADATA": (
                "Metadata-Version: 2.1\nName: volatility3-guestdump\nVersion: 1.0.0\n"
            ),
            "volatility3_guestdump-1.0.0.dist-info/direct_url.json": (
                '{"dir_info": {"editable": true}, "url": "file:///elsewhere"}'
            ),
        },
    )
    check(asked(folder), "an editable install", f'without -e (pip install "{ROOT}"), or use -p')


def test_with_nothing_in_volatility(tmp_path: pathlib.Path) -> None:
    """A checkout that is on the path, but not installed."""
    folder = volatility_without_plugin(tmp_path)
    check(asked(folder), f"{folder / 'volatility3' / 'plugins'} has no guestdump.py")


def test_with_a_newer_volatility_that_has_what_is_needed(tmp_path: pathlib.Path) -> None:
    """The plugins are there, and it is said that nobody tried them with it."""
    folder = volatility_without_plugin(tmp_path)
    with (folder / "volatility3" / "__init__.py").open("a") as file:
        file.write("from volatility3 import framework\n")
        file.write("framework.interface_version = lambda: (2, 29, 0)\n")
    write(folder, {"volatility3/plugins/guestdump.py": ""})
    done = asked(folder)
    assert done.returncode == 0 and "vol finds the plugins: yes\n" in done.stdout, done.stderr
    assert "2.29.0 is newer than what was tested\n" in done.stdout


def test_where_vol_finds_them(tmp_path: pathlib.Path) -> None:
    """The module in Volatility's own folder is what counts."""
    folder = volatility_without_plugin(tmp_path)
    write(folder, {"volatility3/plugins/guestdump.py": ""})
    done = asked(folder)
    assert done.returncode == 0 and "vol finds the plugins: yes\n" in done.stdout, done.stderr


#: What our plugins import of Volatility before they know whether it is one that will do.
PLUGIN_NEEDS = {
    "volatility3/framework/interfaces.py": "",
    "volatility3/framework/configuration/requirements.py": "",
    "volatility3/framework/renderers/__init__.py": "",
    "volatility3/framework/renderers/format_hints.py": "",
}


@pytest.mark.parametrize(
    ("version", "reason"), [((2, 11, 0), "Volatility 2.11.0 is older"), ((3, 1, 0), "")]
)
def test_volatility_goes_on_without_the_package(
    tmp_path: pathlib.Path, version: tuple[int, int, int], reason: str
) -> None:
    """Of a plugin it expects an ImportError, which says why; it logs that."""
    folder = write(other_volatility(tmp_path, version), PLUGIN_NEEDS)
    plugin = ROOT / "volatility_guestdump" / "plugins" / "guestdump.py"
    code = (
        "import runpy, sys\n"
        "try: runpy.run_path(sys.argv[1])\n"
        "except ImportError as error: print('ImportError:', error)\n"
        "print(any(name.startswith('volatility_guestdump.framework.') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code, str(plugin)],
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    said, _, ours = done.stdout.partition("\n")
    assert said.startswith(f"ImportError: volatility_guestdump: {reason}"), done.stderr
    # No class of ours is there that an older one would find.
    assert ours == "False\n" or not reason
