# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Compares what Volatility's Linux plugins print with our symbols and with those of an ISF.

    python -m tests.compare_plugins debug.guest DIRECTORY [PLUGIN ...]

The directory is one for Volatility's -s, with an ISF for the guest's banner in it. Every plugin of
Volatility's Linux list is run both ways, each in a process of its own, and its rows are compared.
"""

import argparse
import concurrent.futures
import difflib
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from typing import NamedTuple

from tests.conftest import program

#: Options without which a plugin does not run.
_OPTIONS = {
    "linux.vmaregexscan.VmaRegExScan": ["--pattern", "root"],
    "linux.pagecache.InodePages": ["--find", "/init"],
}

#: Write files, or need a library or a file that is not at hand.
_LEFT_OUT = re.compile(r"yara|RecoverFs", re.IGNORECASE)

_TIMEOUT = 900


class Result(NamedTuple):
    """What one run printed, errors included, and how long it took in seconds."""

    output: str
    seconds: float


def linux_plugins() -> list[str]:
    """Returns the names of Volatility's Linux plugins."""
    help_text = subprocess.run(
        [program("vol"), "-h"], capture_output=True, text=True, check=True
    ).stdout
    names = re.findall(r"^ {4}(linux\.\S+)", help_text, re.MULTILINE)
    return sorted({name for name in names if not _LEFT_OUT.search(name)})


def run(guest: pathlib.Path, plugin: str, symbols: Sequence[str], folder: pathlib.Path) -> Result:
    """Runs a plugin on a guest dump in a process of its own.

    Args:
        guest: the dump.
        plugin: name of the plugin.
        symbols: options that tell where an ISF is.
        folder: for Volatility's cache and for what a plugin writes.
    """
    # Volatility validates an ISF for minutes where it finds jsonschema, which the tests need.
    (folder / "jsonschema.py").write_text("raise ImportError")
    options = ["-q", "--offline", "--cache-path", str(folder), "-o", str(folder), *symbols]
    command = [program("vol"), *options, "-f", str(guest)]
    started = time.monotonic()
    try:
        done = subprocess.run(
            [*command, plugin, *_OPTIONS.get(plugin, [])],
            capture_output=True,
            text=True,
            timeout=_TIMEOUT,
            env={**os.environ, "PYTHONPATH": str(folder)},
            check=False,
        )
        output = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        output = f"not finished after {_TIMEOUT} s"
    return Result(output, time.monotonic() - started)


def comparable(output: str) -> list[str]:
    """Leaves out what tells only where symbols came from."""
    lines = (line.rstrip() for line in output.splitlines())
    return sorted(re.sub(r"\bsymbol_table_name\d+\b", "symbol_table_name", line) for line in lines)


def compare(guest: pathlib.Path, directory: pathlib.Path, plugins: Sequence[str], jobs: int) -> int:
    """Compares plugins and prints a line for each.

    Args:
        guest: the dump.
        directory: for Volatility's -s, with an ISF for the guest's banner in it.
        plugins: their names.
        jobs: how many run at a time.

    Returns:
        The number of plugins whose rows differ.
    """
    differing = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(jobs) as pool,
    ):
        place = pathlib.Path(folder)
        given = ["-s", str(directory.resolve())]
        runs = {
            plugin: [pool.submit(run, guest, plugin, symbols, place) for symbols in ([], given)]
            for plugin in plugins
        }
        for plugin, (ours, theirs) in runs.items():
            left, right = ours.result(), theirs.result()
            lines = comparable(left.output), comparable(right.output)
            same = lines[0] == lines[1]
            print(
                f"{'same' if same else 'DIFFERENT':10}{plugin:55}{len(lines[0]):7} lines"
                f"{left.seconds:8.1f} s{right.seconds:8.1f} s",
                flush=True,
            )
            if not same:
                differing += 1
                changes = difflib.unified_diff(lines[1], lines[0], "ISF", "dump", n=0, lineterm="")
                print("\n".join("    " + line[:200] for line in list(changes)[:20]), flush=True)
    print(f"{len(plugins)} plugins, {differing} different")
    return differing


def main() -> int:
    """Compares every plugin, or those that are named; see `compare`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("guest", type=pathlib.Path)
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("plugins", nargs="*")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    return compare(
        arguments.guest,
        arguments.directory,
        arguments.plugins or linux_plugins(),
        arguments.jobs,
    )


if __name__ == "__main__":
    sys.exit(main())
