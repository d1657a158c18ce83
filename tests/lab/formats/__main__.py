# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Writes a guest that is on disk in other formats: python -m tests.lab.formats GUEST FOLDER."""

import argparse
import pathlib
import sys
import time
from typing import Optional

from tests.lab import existing
from tests.lab.formats import FORMATS, WITHOUT_HOLES, signatures, source, write
from tests.lab.recipes import GUESTS


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.lab.formats",
        description="Writes a guest in other formats.",
        epilog=f"Formats: {', '.join(FORMATS)}. Without any: all, and the beginnings of others.",
    )
    parser.add_argument("guest", metavar="GUEST", choices=sorted(GUESTS), help="made before")
    parser.add_argument("folder", metavar="FOLDER", type=pathlib.Path, help="made if need be")
    parser.add_argument("formats", metavar="FORMAT", nargs="*", help="default: all")
    options = parser.parse_args(arguments)
    unknown = [name for name in options.formats if name not in FORMATS]
    if unknown:
        parser.error(f"no format {', '.join(unknown)}")
    guest = existing(options.guest)
    if guest is None:
        parser.error(f"guest {options.guest} is not on disk: python -m tests.lab {options.guest}")

    start = source(guest)
    options.folder.mkdir(parents=True, exist_ok=True)
    names = options.formats or [
        name for name in FORMATS if len(start.memory.regions) == 1 or name not in WITHOUT_HOLES
    ]
    for name in names:
        started = time.monotonic()
        path = write(start, name, options.folder)
        seconds = time.monotonic() - started
        print(f"{name}: {path}, {path.stat().st_blocks // 2048} MiB on disk, {seconds:.1f} s")
    if not options.formats:
        signatures.write(options.folder)
        print(f"beginnings of other formats: {', '.join(signatures.FILES)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
