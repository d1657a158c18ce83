# This file is licensed under the Volatility Software License 1.0
# which is available at https://www.volatilityfoundation.org/license/vsl-v1.0
"""python -m tests.fuzz: runs damaged inputs until the time is over.

    python -m tests.fuzz --seconds 1800
    python -m tests.fuzz --target page_tables --seed 4711      one input again

An input is a number: target and number make the same input again. What ends in another error than
the package's own, takes too long or needs too much memory is a finding; it is printed, and kept in
tests/fuzz/findings.txt.
"""

import argparse
import logging
import multiprocessing
import os
import pathlib
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Sequence
from types import FrameType
from typing import Optional

from tests.fuzz.targets import TARGETS

FINDINGS = pathlib.Path(__file__).parent / "findings.txt"

#: Seconds and bytes that one input may take.
TIME_LIMIT = 20
MEMORY_LIMIT = 2 << 30

#: More than any target's share: between the first numbers of two rounds.
STRIDE = 1000


class TookTooLongError(BaseException):
    """An input that does not end; not an Exception, lest a decoder catch it."""


def _alarm(_signal: int, _frame: Optional[FrameType]) -> None:
    raise TookTooLongError


def run(name: str, seed: int) -> Optional[str]:
    """Runs one input, and returns what was wrong with it, or None."""
    target, _ = TARGETS[name]
    signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, TIME_LIMIT)
    try:
        target(random.Random(f"{name}:{seed}"))
    except TookTooLongError:
        return f"not finished after {TIME_LIMIT} s"
    except MemoryError:
        return f"more than {MEMORY_LIMIT >> 20} MiB"
    except Exception:
        return traceback.format_exc()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return None


def run_round(seed: int, names: Sequence[str]) -> tuple[list[tuple[str, int, str]], int]:
    """Runs each target as often as its share says; returns the findings, and the peak in MiB."""
    findings = []
    for name in names:
        for number in range(TARGETS[name][1]):
            wrong = run(name, seed + number)
            if wrong is not None:
                findings.append((name, seed + number, wrong))
    return findings, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))


def fuzz(seconds: float, start: int, names: Sequence[str]) -> tuple[int, int, int]:
    """Runs inputs for a time, on all cores.

    Returns:
        How many rounds, how many findings, and the most memory that a process had, in MiB.
    """
    rounds = findings = most = 0
    deadline = time.monotonic() + seconds
    workers = os.cpu_count() or 1
    # Volatility's caches keep every context that they have seen: no process lives for long.
    with multiprocessing.Pool(workers, _limit_memory, maxtasksperchild=8) as pool:
        while time.monotonic() < deadline:
            seeds = [start + STRIDE * (rounds + number) for number in range(2 * workers)]
            for found, peak in pool.starmap(run_round, [(seed, names) for seed in seeds], 1):
                most = max(most, peak)
                for name, seed, wrong in found:
                    findings += 1
                    print(f"{name} {seed}: {wrong}", flush=True)
                    with FINDINGS.open("a", encoding="utf-8") as stream:
                        stream.write(f"{name} {seed} {wrong.splitlines()[-1]}\n")
            rounds += len(seeds)
    return rounds, findings, most


def main() -> int:
    """Runs the command line.

    Returns:
        1 when there was a finding, else 0.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--seed", type=int, help="run only this input of the target")
    parser.add_argument("--start", type=int, default=int(time.time()) * STRIDE)
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    logging.disable(logging.CRITICAL)
    if arguments.seed is not None:
        _limit_memory()
        wrong = run(names[0], arguments.seed)
        print(wrong or "nothing wrong")
        return int(wrong is not None)
    rounds, findings, most = fuzz(arguments.seconds, arguments.start, names)
    counts = {name: rounds * TARGETS[name][1] for name in names}
    shown = ", ".join(f"{count} {name}" for name, count in counts.items())
    print(f"{sum(counts.values())} inputs ({shown}), {findings} findings, at most {most} MiB")
    return min(findings, 1)


if __name__ == "__main__":
    sys.exit(main())
