# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""The package as it is handed out: built of a copy of the tree, which stays as it is."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

ROOT = pathlib.Path(__file__).resolve().parents[1]

#: What is made in the tree, and not part of it: environments, caches, builds, the lab's guests.
_MADE = {
    *(".git", ".venv", "__pycache__", "build", "dist"),
    *(".mypy_cache", ".ruff_cache", ".pytest_cache", ".hypothesis"),
}
_MADE_BY_LAB = {"tests/lab/guests", "tests/lab/packages"}


def _is_made(path: pathlib.PurePath) -> bool:
    return path.name in _MADE or path.suffix == ".egg-info" or path.as_posix() in _MADE_BY_LAB


def files(root: pathlib.Path = ROOT) -> Iterator[str]:
    """Yields the files of a tree, relative to it, without what tools and the lab make there."""
    for folder, folders, names in os.walk(root):
        here = pathlib.Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not _is_made(here / name)]
        yield from ((here / name).as_posix() for name in names if not _is_made(here / name))


def sources(root: pathlib.Path = ROOT) -> list[str]:
    """Returns the files that are part of the project: those that Git knows, or would add.

    An unpacked source distribution has nothing else.
    """
    if not (root / ".git").exists():
        return sorted(files(root))
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted(name for name in listed.stdout.splitlines() if (root / name).is_file())


def build(kind: str, folder: pathlib.Path, tree: pathlib.Path) -> pathlib.Path:
    """Builds a distribution with the setuptools that are installed here, as pip does.

    Args:
        kind: "wheel" or "sdist".
        folder: where it is put.
        tree: that it is built of; builds leave files there.

    Returns:
        Its path.
    """
    code = f"import sys; from setuptools import build_meta; build_meta.build_{kind}(sys.argv[1])"
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)],
        cwd=tree,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (built,) = folder.iterdir()
    return built


def copy_of_the_tree(folder: pathlib.Path) -> pathlib.Path:
    """Copies the project's files, and returns the folder."""
    for name in sources():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, target)
    return folder
