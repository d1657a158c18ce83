# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""What tests share: running `vol` as a user does, real guests, small guest dumps."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from typing import Callable

import hypothesis
import pytest

from tests import packages

# How long an example takes is the machine's business.
hypothesis.settings.register_profile("lab", deadline=None)
hypothesis.settings.load_profile("lab")

#: Runs vol with arguments, and returns what came of it.
Vol = Callable[..., "subprocess.CompletedProcess[str]"]


def program(name: str) -> str:
    """Returns a program of the environment that the tests run in."""
    found = shutil.which(name, path=str(pathlib.Path(sys.executable).parent))
    assert found is not None, f"{name} is not installed beside {sys.executable}"
    return found


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_behind() -> Iterator[None]:
    """Tests write to folders of their own: a file that they leave in the tree is an error."""
    before = set(packages.files())
    yield
    left = sorted(set(packages.files()) - before)
    assert not left, f"the tests left files behind: {', '.join(left)}"


@pytest.fixture(scope="session")
def vol(tmp_path_factory: pytest.TempPathFactory) -> Vol:
    """Runs the installed `vol` offline, in an empty folder, with a cache of its own."""
    cache = tmp_path_factory.mktemp("cache")
    empty = tmp_path_factory.mktemp("empty")

    def run(
        *arguments: object,
        name: str = "vol",
        cwd: pathlib.Path = empty,
        cache: pathlib.Path = cache,
        stdin: str = "",
        environment: Mapping[str, str] = {},
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [program(name), "-q", "--offline", "--cache-path", str(cache), *map(str, arguments)],
            cwd=cwd,
            capture_output=True,
            text=True,
            input=stdin,
            env={**os.environ, **environment},
            timeout=300,
            check=False,
        )

    return run
