# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""Makes guests: python -m tests.lab NAME [NAME ...]."""

import argparse
import concurrent.futures
import logging
import sys
import time
from typing import Optional

from tests.lab import GUESTS, LabError, existing, guest


def main(arguments: Optional[list[str]] = None) -> int:
    """Runs the command and returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description="Makes real guests.")
    parser.add_argument("names", metavar="NAME", nargs="*", help="a guest; see --list")
    parser.add_argument("--list", action="store_true", help="show the guests and exit")
    parser.add_argument("--all", action="store_true", help="make every guest but the slow ones")
    parser.add_argument("--slow", action="store_true", help="with --all: the slow ones too")
    parser.add_argument("--force", action="store_true", help="make guests that exist anew")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="make N guests at a time")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    if options.list:
        _list()
        return 0
    names = list(options.names)
    if options.all:
        names += [name for name, recipe in GUESTS.items() if options.slow or not recipe.slow]
    unknown = [name for name in names if name not in GUESTS]
    if unknown or not names:
        parser.error(f"no guest {', '.join(unknown)}" if unknown else "name a guest, or --all")

    def make(name: str) -> bool:
        started = time.monotonic()
        try:
            made = guest(name, options.force)
        except LabError as error:
            print(f"{name}: {error}", file=sys.stderr)
            return False
        seconds = time.monotonic() - started
        print(f"{name}: {made.expected['kernel_release']}, {seconds:.0f} s, {made.folder}")
        return True

    with concurrent.futures.ThreadPoolExecutor(max(options.jobs, 1)) as pool:
        return 0 if all(list(pool.map(make, dict.fromkeys(names)))) else 1


def _list() -> None:
    for name, recipe in GUESTS.items():
        state = "there" if existing(name) else "slow" if recipe.slow else ""
        print(f"{name:14} {state:6} version {recipe.format_version}  {recipe.reason}")


if __name__ == "__main__":
    sys.exit(main())
