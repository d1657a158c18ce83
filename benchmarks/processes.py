# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Whole processes: what a user waits for, and how much memory that takes.

The peak of a process counts what its parent had when it was started. So this one has to stay
small: whatever reads much memory runs in a process of its own.
"""

import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Callable, NamedTuple

#: Lines of Volatility's that are no rows: its name, and the columns.
_HEADING = 2

#: Volatility without the package: it is installed here, but cannot be imported.
_STOCK = """
import sys
sys.argv[0] = "vol"
sys.modules["volatility_guestdump"] = sys.modules["jsonschema"] = None
from volatility3.cli import main
main()
"""


class Run(NamedTuple):
    """What one process took, or the medians of several.

    Attributes:
        seconds: from start to end.
        megabytes: the most that was resident at one time.
        rows: that it printed.
    """

    seconds: float
    megabytes: float
    rows: int


def ours(cache: pathlib.Path, *arguments: object) -> list[str]:
    """Returns the command that runs the installed Volatility, with the package."""
    return [str(pathlib.Path(sys.executable).parent / "vol"), *_options(cache, arguments)]


def stock(cache: pathlib.Path, *arguments: object) -> list[str]:
    """Returns the command that runs the installed Volatility, without the package."""
    return [sys.executable, "-c", _STOCK, *_options(cache, arguments)]


def _options(cache: pathlib.Path, arguments: Sequence[object]) -> list[str]:
    return ["-q", "--offline", "--cache-path", str(cache), *map(str, arguments)]


def run(command: Sequence[str], folder: pathlib.Path) -> Run:
    """Runs a command in a folder.

    Raises:
        CalledProcessError: it failed.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.DEVNULL, stdout=output, stderr=errors
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            errors.seek(0)
            sys.stderr.buffer.write(output.read() + errors.read())
            raise subprocess.CalledProcessError(process.returncode, command)
        rows = sum(1 for line in output if line.strip()) - _HEADING
    # Kilobytes, but bytes on macOS
    unit = 1 if sys.platform == "darwin" else 1 << 10
    return Run(seconds, usage.ru_maxrss * unit / 1e6, rows)


def alternate(
    commands: Mapping[str, Callable[[], Sequence[str]]], count: int, folder: pathlib.Path
) -> dict[str, Run]:
    """Runs commands in turn, so that what else the machine does meets all of them alike.

    Args:
        commands: name -> what makes the command of the next run.
        count: how many times each.
        folder: to run in.

    Returns:
        Name -> medians.
    """
    runs: dict[str, list[Run]] = {name: [] for name in commands}
    for _ in range(count):
        for name, command in commands.items():
            runs[name].append(run(command(), folder))
    return {name: _median(found) for name, found in runs.items()}


def _median(runs: Sequence[Run]) -> Run:
    return Run(
        statistics.median(each.seconds for each in runs),
        statistics.median(each.megabytes for each in runs),
        runs[-1].rows,
    )
