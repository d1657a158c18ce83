# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Runs many plugins on one image in one process, as `vol` runs one: python -m tests.live.plugins.

Volatility's start and the search for the kernel are paid once. Prints one line of JSON for each
plugin as soon as it is done.
"""

import contextlib
import io
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import traceback
from typing import NamedTuple

#: Everything that is tried on an image: a plugin and its options.
PLUGINS = (
    *(("linux.pslist",), ("linux.pslist", "--threads"), ("linux.pstree",), ("linux.psaux",)),
    *(("linux.lsof",), ("linux.proc.Maps",), ("linux.sockstat",), ("linux.lsmod",)),
    *(("linux.mountinfo",), ("linux.envars",), ("linux.kmsg",), ("guestdump.Info",)),
    *(("guestdump.Backtrace", "--tasks"), ("guestdump.Report", "--format", "json")),
)

#: Seconds for all of them.
PATIENCE = 900


class Shown(NamedTuple):
    """What came of one plugin.

    Attributes:
        plugin: with its options.
        status: as a process would have exited with.
        stdout: what it printed.
        stderr: what it complained of, with a traceback where one came up.
        seconds: that it took.
    """

    plugin: str
    status: int
    stdout: str
    stderr: str
    seconds: float


def run(image: pathlib.Path) -> dict[str, Shown]:
    """Returns what each plugin shows of an image, by the plugin with its options.

    Raises:
        TimeoutExpired: one of them hangs.
    """
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "tests.live.plugins", str(image), folder],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=True,
        )
    found = [Shown(*json.loads(line)) for line in done.stdout.splitlines()]
    return {shown.plugin: shown for shown in found}


def _main(image: str, folder: str) -> None:
    from volatility3 import cli  # noqa: PLC0415 # it takes its time

    for plugin in PLUGINS:
        out, err = io.StringIO(), io.StringIO()
        sys.argv = ["vol", "-q", "--offline", "-r", "json", "-o", folder, "-f", image, *plugin]
        started, status = time.monotonic(), 0
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                cli.main()  # type: ignore[no-untyped-call]
            except SystemExit as error:
                status = error.code if isinstance(error.code, int) else int(bool(error.code))
            except Exception:
                traceback.print_exc()
                status = 1
        seconds = time.monotonic() - started
        shown = Shown(" ".join(plugin), status, out.getvalue(), err.getvalue(), seconds)
        print(json.dumps(shown), flush=True)


if __name__ == "__main__":
    _main(*sys.argv[1:])
