# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Reads the memory of a guest under load while it runs, and checks what plugins show of it.

    python -m tests.live N [--method lime|kcore] [--memory MIB] [--keep FOLDER]

N acquisitions by LiME, and as many by /proc/kcore as AVML reads it, of a guest with 2 vCPUs whose
processes, files, sockets and mounts come and go. Each image goes through the plugins of
`tests.live.plugins`, and `tests.live.check` says what is wrong: a traceback, a plugin that hangs, a
process that lived all through and is not listed, a row that was true at no time. Images with a
fault are kept in FOLDER. The exit status is 1 when there is one.
"""

import argparse
import pathlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from typing import Optional

from tests.live import acquire, plugins
from tests.live.check import Checker, Fault


def check(
    method: str, count: int, memory: int, keep: Optional[pathlib.Path] = None
) -> Iterator[tuple[Checker, list[Fault]]]:
    """Yields what is wrong with each of a number of acquisitions.

    Args:
        method: how memory is read, one of `acquire.METHODS`.
        count: of acquisitions.
        memory: of the guest, in MiB.
        keep: a folder for images with a fault.
    """
    with tempfile.TemporaryDirectory(prefix="live-") as name:
        folder = pathlib.Path(name)
        for acquisition in acquire.acquisitions(method, count, memory, folder):
            try:
                shown = plugins.run(acquisition.image)
            except subprocess.TimeoutExpired as error:
                shown = {}
                faults = [Fault("all", f"they hang: {error}")]
            checker = Checker(acquisition, shown)
            if shown:
                faults = list(checker.faults())
            if faults and keep is not None:
                keep.mkdir(parents=True, exist_ok=True)
                shutil.copy(acquisition.image, keep)
            yield checker, faults


def main() -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.live",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("count", metavar="N", type=int)
    parser.add_argument("--method", choices=acquire.METHODS, action="append")
    parser.add_argument("--memory", metavar="MIB", type=int, default=1024)
    parser.add_argument("--keep", metavar="FOLDER", type=pathlib.Path)
    options = parser.parse_args()
    wrong = 0
    for method in options.method or acquire.METHODS:
        found = check(method, options.count, options.memory, options.keep)
        for number, (checker, faults) in enumerate(found, 1):
            steady = len(checker.steady)
            print(f"{method} {number}: {steady} processes, {len(faults)} faults", flush=True)
            for fault in faults:
                print(f"    {fault.plugin}: {fault.words}", flush=True)
            wrong += bool(faults)
    print(f"{wrong} acquisitions with faults")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
