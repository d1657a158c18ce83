"""python -m tests.fuzz: runs damaged inputs until the time is over.

    python -m tests.fuzz --seconds 1800
    python -m tests.fuzz --target page_tables --seed 4711      one input again

An input is a number: target and number make the same input again. What ends in another error than
the package's own, takes too long or needs too much memory is a finding; it is printed, and kept in
tests/fuzz/findings.txt.
"""

import argparse
import collections
import pathlib
import random
import resource
import signal
import sys
import time
import traceback
from types import FrameType
from typing import Optional

from tests.fuzz.targets import TARGETS

FINDINGS = pathlib.Path(__file__).parent / "findings.txt"

#: Seconds and bytes that one input may take.
TIME_LIMIT = 20
MEMORY_LIMIT = 2 << 30


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


def fuzz(seconds: float, start: int, names: list[str]) -> tuple["collections.Counter[str]", int]:
    """Runs inputs for a time; returns how many of each target, and how many findings."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    done: collections.Counter[str] = collections.Counter()
    findings = 0
    deadline = time.monotonic() + seconds
    seed = start
    while time.monotonic() < deadline:
        for name in names:
            _, share = TARGETS[name]
            for _ in range(share):
                seed += 1
                done[name] += 1
                wrong = run(name, seed)
                if wrong is not None:
                    findings += 1
                    print(f"{name} {seed}: {wrong}", flush=True)
                    with FINDINGS.open("a", encoding="utf-8") as stream:
                        stream.write(f"{name} {seed} {wrong.splitlines()[-1]}\n")
    return done, findings


def main() -> int:
    """Runs the command line.

    Returns:
        The number of findings.
    """
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1800)
    parser.add_argument("--target", choices=list(TARGETS), action="append")
    parser.add_argument("--seed", type=int, help="run only this input of the target")
    parser.add_argument("--start", type=int, default=int(time.time()) * 1000)
    arguments = parser.parse_args()
    names = arguments.target or list(TARGETS)
    if arguments.seed is not None:
        wrong = run(names[0], arguments.seed)
        print(wrong or "nothing wrong")
        return int(wrong is not None)
    done, findings = fuzz(arguments.seconds, arguments.start, names)
    counts = ", ".join(f"{count} {name}" for name, count in done.items())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"{sum(done.values())} inputs ({counts}), {findings} findings, at most {peak} MiB")
    return findings


if __name__ == "__main__":
    sys.exit(main())
